//! Whose history a data set is.
//!
//! A replication id names a history, an offset a place in it. A promoted replica begins a history of its own but keeps
//! the old id as its second, valid up to the offset of the promotion: others that followed the same master can go on
//! by partial resync (PSYNC2 of the Redis documentation). Epoch marks (FAILOVER R7) order the reigns of managed masters.

use std::fmt;

/// Forty hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplId([u8; 40]);

impl ReplId {
    /// Means "none", as in Redis.
    pub const ZERO: Self = Self([b'0'; 40]);

    pub fn from_random(bytes: [u8; 20]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        Self(std::array::from_fn(|i| DIGITS[usize::from(bytes[i / 2] >> (4 * (1 - i % 2)) & 0xF)]))
    }

    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits: [u8; 40] = text.try_into().ok()?;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(digits))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Debug for ReplId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ReplId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The history of one data set. Its offset is the log's end.
///
/// Under one id there is one sequence of bytes. So whoever begins to write - promoted, or started as a master from a
/// file - takes a new id first ([`History::shift`]); who only follows keeps the id of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    pub id: ReplId,
    /// The history before the last promotion, valid up to `second_offset`.
    pub second: ReplId,
    pub second_offset: Option<u64>,
    /// Epoch of the last mark that the data really holds; 0: none.
    pub epoch: u64,
    /// Nobody has written under the id, nor was it received: no other can know it.
    pub fresh: bool,
}

/// The answer to PSYNC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Psync {
    /// Go on from this offset.
    Continue {
        from: u64,
    },
    Full(&'static str),
}

impl History {
    pub fn new(id: ReplId) -> Self {
        Self { id, second: ReplId::ZERO, second_offset: None, epoch: 0, fresh: false }
    }

    /// Of an instance that has just started and is no master.
    pub fn fresh(id: ReplId) -> Self {
        Self { fresh: true, ..Self::new(id) }
    }

    /// Decides on `PSYNC id next`, where `next` is the first byte that the replica lacks, counted from 1 as on the wire.
    /// `has(offset)`: the log can be read from there.
    pub fn psync(&self, id: &[u8], next: i64, end: u64, has: impl Fn(u64) -> bool) -> Psync {
        let Some(from) = next.checked_sub(1).and_then(|n| u64::try_from(n).ok()) else {
            return Psync::Full("the replica asks for a full resync");
        };
        let first = ReplId::parse(id) == Some(self.id);
        let second = ReplId::parse(id) == Some(self.second)
            && self.second != ReplId::ZERO
            && self.second_offset.is_some_and(|valid| from <= valid);
        if !first && !second {
            return Psync::Full("the replica has another history");
        }
        if from > end {
            return Psync::Full("the replica is ahead of this history");
        }
        if !has(from) {
            return Psync::Full("the backlog does not reach back so far");
        }
        Psync::Continue { from }
    }

    /// Begins a new history at `end`; the old one stays valid up to there (R7; Redis: REPLICAOF NO ONE).
    pub fn shift(&mut self, id: ReplId, end: u64) {
        (self.second, self.second_offset) = (self.id, Some(end));
        self.id = id;
        self.fresh = false;
    }

    /// `+CONTINUE <id>`: the master goes on with this history under another id (it was promoted). `end` is where this
    /// instance continues. Its own replicas are to be disconnected then, so that they learn of the id too.
    pub fn renamed(&mut self, id: ReplId, end: u64) {
        if id != self.id {
            self.shift(id, end);
        }
    }

    /// A full resync: nothing is left of what was before.
    pub fn replaced(&mut self, id: ReplId, epoch: u64) {
        *self = Self { epoch, ..Self::new(id) };
    }

    /// An epoch mark was applied (R7): this data holds everything that came before that reign.
    pub fn marked(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// INFO's `second_repl_offset`: the first byte that is not of the second history, counted from 1; -1: none.
    pub fn second_repl_offset(&self) -> i64 {
        self.second_offset
            .map_or(-1, |offset| i64::try_from(offset).map_or(i64::MAX, |offset| offset.saturating_add(1)))
    }

    /// The arguments of the PSYNC by which this instance asks a master to go on from `end`. As long as nothing was added
    /// to a history that was just begun, this is still the place in the one before, which more masters know. `None`: there
    /// is nothing that any master could know, so everything is asked for.
    pub fn request(&self, end: u64) -> Option<(ReplId, u64)> {
        let untouched = self.second != ReplId::ZERO && self.second_offset == Some(end);
        (!self.fresh).then_some((if untouched { self.second } else { self.id }, end + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Log;
    use proptest::prelude::*;

    fn id(n: u8) -> ReplId {
        ReplId::from_random([n; 20])
    }

    #[test]
    fn psync_is_decided_as_redis_decides_it() {
        let mut history = History::new(id(1));
        history.shift(id(2), 100);
        let check = |asked: ReplId, next, want: Result<u64, ()>| {
            let got = history.psync(asked.as_str().as_bytes(), next, 150, |offset| offset >= 50);
            let got = match got {
                Psync::Continue { from } => Ok(from),
                Psync::Full(_) => Err(()),
            };
            assert_eq!(got, want, "{asked} {next}");
        };
        check(id(2), 151, Ok(150));
        check(id(2), 152, Err(()));
        check(id(2), 51, Ok(50));
        check(id(2), 50, Err(()));
        check(id(1), 101, Ok(100));
        check(id(1), 102, Err(()));
        check(id(3), 101, Err(()));
        check(ReplId::ZERO, 60, Err(()));
        assert!(matches!(history.psync(b"?", -1, 150, |_| true), Psync::Full(_)));
    }

    #[test]
    fn ids_read_back_and_what_is_not_one_is_refused() {
        assert_eq!(ReplId::parse(id(0xA5).as_str().as_bytes()), Some(id(0xA5)));
        for bad in ["", "?", "0123", &"g".repeat(40), &"a".repeat(41)] {
            assert_eq!(ReplId::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_rename_keeps_the_old_id_and_the_same_name_changes_nothing() {
        let mut history = History::new(id(1));
        history.renamed(id(1), 10);
        assert_eq!((history.second_offset, history.second_repl_offset()), (None, -1));
        history.renamed(id(2), 10);
        assert_eq!((history.id, history.second, history.second_repl_offset()), (id(2), id(1), 11));
        assert_eq!((history.request(10), history.request(11)), (Some((id(1), 11)), Some((id(2), 12))));
        let mut history = History::fresh(id(1));
        assert_eq!(history.request(0), None, "nobody knows this id");
        history.replaced(id(2), 0);
        assert_eq!(
            history.request(0),
            Some((id(2), 1)),
            "its master does, also of a history in which nothing has happened"
        );
        history.marked(4);
        history.marked(3);
        assert_eq!(history.epoch, 4, "an older mark that is read again takes nothing back");
        history.replaced(id(3), 0);
        assert_eq!(history, History::new(id(3)));
    }

    /// Instances that follow, write and are promoted in any order, without anything that keeps two from being master.
    #[derive(Debug, Clone)]
    enum Step {
        Write { at: usize, byte: u8, n: usize },
        Promote { at: usize },
        Sync { replica: usize, master: usize, up_to: usize },
        Forget { at: usize, backlog: u64 },
        Save { at: usize },
        Restart { at: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = 0usize..4;
        prop_oneof![
            4 => (at.clone(), any::<u8>(), 1usize..20).prop_map(|(at, byte, n)| Step::Write { at, byte, n }),
            1 => at.clone().prop_map(|at| Step::Promote { at }),
            4 => (at.clone(), at.clone(), 0usize..60)
                .prop_map(|(replica, master, up_to)| Step::Sync { replica, master, up_to }),
            1 => (at.clone(), 0u64..100).prop_map(|(at, backlog)| Step::Forget { at, backlog }),
            1 => at.clone().prop_map(|at| Step::Save { at }),
            1 => at.prop_map(|at| Step::Restart { at }),
        ]
    }

    struct Node {
        history: History,
        log: Log,
        /// Everything from offset 0 on: what the data set is made of.
        data: Vec<u8>,
        /// It may write: it is not a replica.
        master: bool,
        /// The id and the data of its last RDB.
        saved: (ReplId, Vec<u8>),
    }

    impl Node {
        fn promote(&mut self, id: ReplId) {
            self.history.shift(id, self.log.end());
            self.master = true;
        }

        /// What was not saved is lost; a master goes on in a history of its own, or it would tell another story under
        /// the old name.
        fn restart(&mut self, id: ReplId) {
            let (saved_id, data) = self.saved.clone();
            self.history.replaced(saved_id, 0);
            self.log.reset(data.len() as u64);
            self.data = data;
            if self.master {
                self.promote(id);
            }
        }
    }

    fn sync(nodes: &mut [Node], replica: usize, master: usize, up_to: usize) -> Result<(), TestCaseError> {
        let request = nodes[replica].history.request(nodes[replica].log.end());
        let (asked, next) = request.expect("these histories are not fresh");
        let (history, data) = (nodes[master].history, nodes[master].data.clone());
        let source = &nodes[master].log;
        let answer = history.psync(asked.as_str().as_bytes(), next as i64, source.end(), |o| source.contains(o));
        let node = &mut nodes[replica];
        node.master = false;
        match answer {
            Psync::Continue { from } => {
                prop_assert_eq!(from, node.log.end());
                prop_assert!(data.starts_with(&node.data), "a partial resync joined two histories");
                node.history.renamed(history.id, from);
                let more = &data[node.data.len()..];
                let more = &more[..up_to.min(more.len())];
                node.log.append(more);
                node.data.extend_from_slice(more);
            }
            Psync::Full(_) => {
                node.history.replaced(history.id, history.epoch);
                node.log.reset(data.len() as u64);
                node.data = data;
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Whatever is promoted, written on two sides and synced: a partial resync only ever continues a true prefix.
        #[test]
        fn psync_never_joins_two_histories(steps in prop::collection::vec(step(), 1..120)) {
            let mut next_id = 10u8;
            let mut nodes: Vec<Node> = (1..=4).map(|n| Node {
                history: History::new(id(n)),
                log: Log::new(0, 100, 100),
                data: Vec::new(),
                master: true,
                saved: (id(n), Vec::new()),
            }).collect();
            for step in steps {
                next_id += 1;
                match step {
                    Step::Write { at, byte, n } if nodes[at].master => {
                        let bytes = vec![byte; n];
                        nodes[at].log.append(&bytes);
                        nodes[at].data.extend(bytes);
                    }
                    Step::Promote { at } if !nodes[at].master => nodes[at].promote(id(next_id)),
                    Step::Save { at } => nodes[at].saved = (nodes[at].history.id, nodes[at].data.clone()),
                    Step::Restart { at } => nodes[at].restart(id(next_id)),
                    Step::Sync { replica, master, up_to } if replica != master => {
                        sync(&mut nodes, replica, master, up_to)?;
                    }
                    Step::Forget { at, backlog } => nodes[at].log.resize(backlog, backlog),
                    Step::Write { .. } | Step::Promote { .. } | Step::Sync { .. } => {}
                }
            }
        }
    }
}
