//! What clients have seen, and what must be true of it whatever happened meanwhile.
//!
//! Every writer appends growing numbers to a list of its own (`RPUSH log:CLIENT n`, each number sent once), so the list at
//! the end shows each write that is missing, double, invented or out of order, also those that a later write would hide in a
//! plain key. Each operation is asked between two `REPLICATED STATUS` of the same connection, so the epoch that it was
//! carried out in lies between the two answers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

/// A writer, and the list that it appends to.
pub type Client = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Appends `value`.
    Write,
    /// Saw `value` at the end of the list; 0: the list was empty.
    Read,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Ok,
    /// Answered with an error: it was not carried out.
    Refused,
    /// Not answered: it may have been carried out, or may still be.
    Unknown,
}

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reign {
    pub incarnation: String,
    /// The epoch that the instance was told, before and after the operation.
    pub from: u64,
    pub to: u64,
    /// It was master before and after.
    pub is_master: bool,
}

/// One operation of one client. Times are µs of the machine's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub client: Client,
    pub kind: Kind,
    pub value: u64,
    pub begun_us: u64,
    pub ended_us: u64,
    pub outcome: Outcome,
    pub reign: Option<Reign>,
    /// The error, in one word.
    pub note: String,
}

impl Operation {
    fn accepted(&self) -> bool {
        (self.kind, self.outcome) == (Kind::Write, Outcome::Ok)
    }
}

/// `CLIENT KIND VALUE BEGUN ENDED OUTCOME INCARNATION FROM TO ROLE NOTE`, for a client in another process.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Write { "write" } else { "read" };
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Unknown => "unknown",
        };
        write!(f, "{} {kind} {} {} {} {outcome} ", self.client, self.value, self.begun_us, self.ended_us)?;
        match &self.reign {
            Some(r) => {
                let role = if r.is_master { "master" } else { "other" };
                write!(f, "{} {} {} {role} {}", r.incarnation, r.from, r.to, self.note)
            }
            None => write!(f, "- 0 0 - {}", self.note),
        }
    }
}

impl FromStr for Operation {
    type Err = Error;

    fn from_str(line: &str) -> Result<Operation> {
        let words: Vec<&str> = line.split(' ').collect();
        let [client, kind, value, begun, ended, outcome, incarnation, from, to, role, note] = words[..] else {
            bail!("{} words instead of 11 in: {line}", words.len());
        };
        let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text} in: {line}"));
        let reign = Reign {
            incarnation: incarnation.to_string(),
            from: number(from)?,
            to: number(to)?,
            is_master: role == "master",
        };
        Ok(Operation {
            client: client.parse().with_context(|| format!("{client} in: {line}"))?,
            kind: if kind == "write" { Kind::Write } else { Kind::Read },
            value: number(value)?,
            begun_us: number(begun)?,
            ended_us: number(ended)?,
            outcome: match outcome {
                "ok" => Outcome::Ok,
                "refused" => Outcome::Refused,
                "unknown" => Outcome::Unknown,
                _ => bail!("an outcome {outcome} in: {line}"),
            },
            reign: (role != "-").then_some(reign),
            note: note.to_string(),
        })
    }
}

/// What a client may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// An answered write is never lost, and a later master shows it.
    Quorum,
    /// A failover may lose the tail.
    Asynchronous,
}

/// What is left to say of a history in which nothing is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub accepted: usize,
    pub refused: usize,
    pub unknown: usize,
    pub reads: usize,
    /// Accepted, and not there in the end: what an asynchronous failover costs.
    pub lost: usize,
    pub reigns: usize,
    /// The longest time in which no write was accepted.
    pub longest_pause_ms: u64,
    /// Why writes were not accepted, and how often.
    pub notes: BTreeMap<String, usize>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { accepted, refused, unknown, reads, lost, reigns, longest_pause_ms, notes } = self;
        write!(
            f,
            "{accepted} writes accepted in {reigns} reigns, {refused} refused, {unknown} unknown, {lost} lost; "
        )?;
        write!(f, "{reads} reads; longest pause of writes {longest_pause_ms} ms")?;
        if !notes.is_empty() {
            let notes: Vec<String> = notes.iter().map(|(note, times)| format!("{note} {times}")).collect();
            write!(f, "; not accepted: {}", notes.join(", "))?;
        }
        Ok(())
    }
}

/// Judges a history. `lists` are the lists of all clients in the end. The complaints name what is wrong.
pub fn judge(
    operations: &[Operation],
    lists: &BTreeMap<Client, Vec<u64>>,
    promise: Promise,
) -> Result<Summary, Vec<String>> {
    let mut complaints = Vec::new();
    let lost = judge_lists(operations, lists, promise, &mut complaints);
    judge_reigns(operations, &mut complaints);
    judge_reads(operations, promise, &mut complaints);
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let count = |outcome| operations.iter().filter(|o| o.kind == Kind::Write && o.outcome == outcome).count();
    let mut notes = BTreeMap::new();
    for operation in operations.iter().filter(|o| o.kind == Kind::Write && o.outcome != Outcome::Ok) {
        *notes.entry(operation.note.clone()).or_default() += 1;
    }
    let reigns: HashSet<u64> =
        operations.iter().filter(|o| o.accepted()).filter_map(|o| Some(o.reign.as_ref()?.from)).collect();
    Ok(Summary {
        accepted: count(Outcome::Ok),
        refused: count(Outcome::Refused),
        unknown: count(Outcome::Unknown),
        reads: operations.iter().filter(|o| (o.kind, o.outcome) == (Kind::Read, Outcome::Ok)).count(),
        lost,
        reigns: reigns.len(),
        longest_pause_ms: longest_pause(operations).map_or(0, |(_, us)| us / 1000),
        notes,
    })
}

/// Begin and length (µs) of the longest time in which no write was accepted.
pub fn longest_pause(operations: &[Operation]) -> Option<(u64, u64)> {
    let mut ends: Vec<u64> = operations.iter().filter(|o| o.accepted()).map(|o| o.ended_us).collect();
    ends.sort_unstable();
    ends.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).max_by_key(|(_, length)| *length)
}

/// Every accepted write is in its list, in order; nothing else is there but what is unknown. Returns how many are missing.
fn judge_lists(
    operations: &[Operation],
    lists: &BTreeMap<Client, Vec<u64>>,
    promise: Promise,
    complaints: &mut Vec<String>,
) -> usize {
    let writes: HashMap<(Client, u64), Outcome> =
        operations.iter().filter(|o| o.kind == Kind::Write).map(|o| ((o.client, o.value), o.outcome)).collect();
    for (client, list) in lists {
        let mut seen = HashSet::new();
        let mut last_accepted = 0;
        for value in list {
            if !seen.insert(value) {
                complaints.push(format!("write {value} of client {client} is there twice"));
            }
            match writes.get(&(*client, *value)) {
                Some(Outcome::Ok) if *value < last_accepted => {
                    complaints.push(format!("write {value} of client {client} stands behind {last_accepted}"));
                }
                Some(Outcome::Ok) => last_accepted = *value,
                Some(Outcome::Unknown) => {}
                Some(Outcome::Refused) => complaints.push(format!("refused write {value} of client {client} is there")),
                None => complaints.push(format!("{value}, which client {client} never wrote, is there")),
            }
        }
    }
    let there: HashSet<(Client, u64)> =
        lists.iter().flat_map(|(client, list)| list.iter().map(|value| (*client, *value))).collect();
    let lost: Vec<&Operation> =
        operations.iter().filter(|o| o.accepted() && !there.contains(&(o.client, o.value))).collect();
    if promise == Promise::Quorum {
        complaints.extend(lost.iter().map(|o| format!("an accepted quorum write is lost: {o}")));
    }
    lost.len()
}

/// One writer: a write that was accepted in an epoch began before any write of a higher epoch had ended, and an epoch is of
/// one incarnation.
fn judge_reigns(operations: &[Operation], complaints: &mut Vec<String>) {
    let mut accepted: Vec<(&Operation, &Reign)> =
        operations.iter().filter(|o| o.accepted()).filter_map(|o| Some((o, o.reign.as_ref()?))).collect();
    let mut masters: HashMap<u64, (&str, &Operation)> = HashMap::new();
    for (operation, reign) in &accepted {
        if reign.from != reign.to {
            continue;
        }
        let (incarnation, first) = *masters.entry(reign.from).or_insert((&reign.incarnation, operation));
        if incarnation != reign.incarnation {
            complaints.push(format!("epoch {} has two masters:\n  {first}\n  {operation}", reign.from));
        }
    }
    let mut ended = accepted.clone();
    ended.sort_by_key(|(o, _)| o.ended_us);
    accepted.sort_by_key(|(o, _)| o.begun_us);
    let mut ended = ended.into_iter().peekable();
    let mut highest: Option<(&Operation, u64)> = None;
    for (operation, reign) in accepted {
        while let Some((before, earlier)) = ended.next_if(|(before, _)| before.ended_us < operation.begun_us) {
            if highest.is_none_or(|(_, epoch)| earlier.from > epoch) {
                highest = Some((before, earlier.from));
            }
        }
        if let Some((before, epoch)) = highest
            && epoch > reign.to
        {
            complaints.push(format!("two masters took writes:\n  {before}\n  {operation}"));
        }
    }
}

/// A master shows every quorum write that was answered before the question, in its own epoch or an earlier one; nobody shows
/// what was never written. (A master that has lost its lease and does not know it yet may show less: it serves reads.)
fn judge_reads(operations: &[Operation], promise: Promise, complaints: &mut Vec<String>) {
    let written: HashSet<(Client, u64)> = operations
        .iter()
        .filter(|o| o.kind == Kind::Write && o.outcome != Outcome::Refused)
        .map(|o| (o.client, o.value))
        .collect();
    let reads = || operations.iter().filter(|o| (o.kind, o.outcome) == (Kind::Read, Outcome::Ok));
    for read in reads().filter(|o| o.value != 0 && !written.contains(&(o.client, o.value))) {
        complaints.push(format!("a read shows what was not written: {read}"));
    }
    if promise == Promise::Asynchronous {
        return;
    }
    // A client's own writes follow each other, so they are sorted by value as well as by time.
    let mut accepted: HashMap<Client, Vec<(&Operation, &Reign)>> = HashMap::new();
    for operation in operations.iter().filter(|o| o.accepted()) {
        if let Some(reign) = &operation.reign {
            accepted.entry(operation.client).or_default().push((operation, reign));
        }
    }
    let unknown: HashSet<(Client, u64)> =
        operations.iter().filter(|o| o.outcome == Outcome::Unknown).map(|o| (o.client, o.value)).collect();
    // A write that a client has given up may be carried out later, behind one that was accepted meanwhile.
    for read in reads().filter(|o| !unknown.contains(&(o.client, o.value))) {
        let Some(reign) = read.reign.as_ref().filter(|reign| reign.is_master) else { continue };
        let writes = accepted.get(&read.client).map_or(&[][..], Vec::as_slice);
        let before = writes.partition_point(|(write, _)| write.ended_us < read.begun_us);
        let must_show = writes[..before].iter().rev().find(|(_, of)| of.to <= reign.from);
        if let Some((write, _)) = must_show
            && read.value < write.value
        {
            complaints.push(format!("a master shows less than was answered before:\n  {write}\n  {read}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(kind: Kind, value: u64, (begun_us, ended_us): (u64, u64), master: (&str, u64)) -> Operation {
        let reign = Reign { incarnation: master.0.into(), from: master.1, to: master.1, is_master: true };
        let (outcome, note) = (Outcome::Ok, String::new());
        Operation { client: 1, kind, value, begun_us, ended_us, outcome, reign: Some(reign), note }
    }

    fn write(value: u64, times: (u64, u64), master: (&str, u64)) -> Operation {
        operation(Kind::Write, value, times, master)
    }

    fn read(value: u64, times: (u64, u64), master: (&str, u64)) -> Operation {
        operation(Kind::Read, value, times, master)
    }

    /// The first complaint about a history of client 1 whose list is `list` in the end.
    fn complaint(operations: &[Operation], list: &[u64], promise: Promise) -> String {
        let lists = BTreeMap::from([(1, list.to_vec())]);
        judge(operations, &lists, promise).map_or_else(|complaints| complaints[0].clone(), |_| String::new())
    }

    fn with(operation: Operation, outcome: Outcome) -> Operation {
        Operation { outcome, ..operation }
    }

    const A: (&str, u64) = ("a", 1);
    const B: (&str, u64) = ("b", 2);

    #[test]
    fn a_failover_without_loss_is_well() {
        let history = [
            write(1, (10, 20), A),
            read(1, (21, 25), A),
            with(write(2, (30, 40), A), Outcome::Unknown),
            with(write(3, (50, 60), A), Outcome::Refused),
            write(4, (70, 200), B),
            read(4, (210, 220), B),
        ];
        let lists = BTreeMap::from([(1, vec![1, 2, 4])]);
        let summary = judge(&history, &lists, Promise::Quorum).unwrap();
        assert_eq!((summary.accepted, summary.refused, summary.unknown, summary.reigns), (2, 1, 1, 2));
        assert_eq!(longest_pause(&history), Some((20, 180)));
    }

    #[test]
    fn an_accepted_write_may_be_lost_by_an_asynchronous_failover_only() {
        let history = [write(1, (10, 20), A), write(2, (30, 40), B)];
        assert!(complaint(&history, &[2], Promise::Quorum).contains("lost"));
        assert_eq!(complaint(&history, &[2], Promise::Asynchronous), "");
    }

    #[test]
    fn two_masters_are_seen() {
        // b has answered before a begins.
        let history = [write(1, (10, 20), B), write(2, (30, 40), A)];
        assert!(complaint(&history, &[1, 2], Promise::Asynchronous).contains("two masters took writes"));
        // At overlapping times either may have been first.
        let history = [write(1, (10, 31), B), write(2, (30, 40), A)];
        assert_eq!(complaint(&history, &[1, 2], Promise::Asynchronous), "");
        let history = [write(1, (10, 20), A), write(2, (30, 40), ("b", 1))];
        assert!(complaint(&history, &[1, 2], Promise::Asynchronous).contains("epoch 1 has two masters"));
    }

    #[test]
    fn an_epoch_that_changes_during_a_write_accuses_nobody() {
        let mut uncertain = write(2, (30, 40), A);
        uncertain.reign.as_mut().unwrap().to = 3;
        assert_eq!(complaint(&[write(1, (10, 20), B), uncertain], &[1, 2], Promise::Quorum), "");
    }

    #[test]
    fn a_read_that_goes_backwards_is_seen() {
        let history = [write(1, (10, 20), A), write(2, (30, 40), A), read(1, (50, 60), B)];
        assert!(complaint(&history, &[1, 2], Promise::Quorum).contains("shows less"));
        // Asked before the write was answered, or of a master of an earlier epoch, it says nothing.
        let history = [write(1, (10, 20), A), write(2, (30, 40), A), read(1, (35, 60), B)];
        assert_eq!(complaint(&history, &[1, 2], Promise::Quorum), "");
        let history = [write(1, (10, 20), A), write(2, (30, 40), B), read(1, (50, 60), A)];
        assert_eq!(complaint(&history, &[1, 2], Promise::Quorum), "");
    }

    #[test]
    fn a_write_that_was_given_up_may_come_late() {
        // A master whose writes are paused: 1 waits on a connection that its client has left, 2 on the next one.
        let history = [with(write(1, (10, 20), A), Outcome::Unknown), write(2, (30, 40), A), read(1, (50, 60), A)];
        assert_eq!(complaint(&history, &[2, 1], Promise::Quorum), "");
    }

    #[test]
    fn what_was_not_written_or_refused_must_not_be_there() {
        let history = [write(1, (10, 20), A)];
        assert!(complaint(&history, &[1, 7], Promise::Quorum).contains("never wrote"));
        assert!(complaint(&history, &[1, 1], Promise::Quorum).contains("twice"));
        let shown = [write(1, (10, 20), A), read(9, (30, 40), A)];
        assert!(complaint(&shown, &[1], Promise::Quorum).contains("not written"));
        let refused = [with(write(1, (10, 20), A), Outcome::Refused)];
        assert!(complaint(&refused, &[1], Promise::Quorum).contains("refused"));
        let swapped = [write(1, (10, 20), A), write(2, (30, 40), A)];
        assert!(complaint(&swapped, &[2, 1], Promise::Quorum).contains("stands behind"));
    }

    #[test]
    fn an_operation_is_the_same_after_a_line_of_text() {
        let known = write(1, (10, 20), A);
        let unknown = Operation { reign: None, note: "timed-out".into(), ..with(known.clone(), Outcome::Unknown) };
        for operation in [known, unknown] {
            assert_eq!(operation.to_string().parse::<Operation>().unwrap(), operation);
        }
        assert!("1 write 2".parse::<Operation>().is_err());
    }
}
