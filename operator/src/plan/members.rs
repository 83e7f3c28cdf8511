//! R11: members and write quorum, one change at a time.
//!
//! A change is begun only when it can be settled: when K replicas of the new configuration are there to hold its mark.
//! Otherwise nothing could be acknowledged after it. Who comes back with another volume is let in at any time: what it
//! held is lost already, and it has caught up since.

use crate::observe::{Observed, Status};
use crate::record::{Holder, Member, Record};

/// What the present master is to go on with.
pub(super) struct Change {
    pub(super) members: Vec<Member>,
    pub(super) quorum: u32,
    pub(super) reason: String,
}

/// The next step towards what is wanted. While the last one is not settled: only who has lost its volume is replaced, for
/// nobody else can hold the mark in its place.
pub(super) fn next(o: &Observed, record: &Record, master: &Holder) -> Option<Change> {
    let others = |name: &&String| **name != master.name;
    let returned = record.members.iter().map(|m| &m.name).filter(others).find_map(|name| newcomer(o, record, name));
    if record.previous.is_some() {
        return returned;
    }
    // First who goes, then who comes, then the quorum.
    let goes = record.members.iter().find(|m| m.name != master.name && !o.wanted.contains(&m.name));
    let can_be_settled = |change: &Change| can_be_settled(o, record, master, change);
    let goes = goes.map(|gone| without(record, gone)).filter(can_be_settled);
    let comes = || o.wanted.iter().filter(others).filter_map(|name| newcomer(o, record, name)).find(can_be_settled);
    goes.or(returned).or_else(comes).or_else(|| quorum(o, record).filter(can_be_settled))
}

/// Without `gone`; first with a lower quorum, where not enough replicas would be left for this one.
fn without(record: &Record, gone: &Member) -> Change {
    let members: Vec<Member> = record.members.iter().filter(|m| *m != gone).cloned().collect();
    match record.quorum as usize >= members.len() {
        true => of_quorum(record, record.quorum - 1),
        false => Change { members, quorum: record.quorum, reason: format!("{} is no member any more", gone.name) },
    }
}

/// One who has caught up and is no member. A volume that was lost comes back as another member.
fn newcomer(o: &Observed, record: &Record, name: &str) -> Option<Change> {
    let status = o.answering(name).filter(|s| is_ready(s, record) && !record.has(name, &s.volume))?;
    let mut members: Vec<Member> = record.members.iter().filter(|m| m.name != name).cloned().collect();
    members.push(Member { name: name.into(), volume: status.volume.clone() });
    Some(Change { members, quorum: record.quorum, reason: format!("{name} has become a member") })
}

fn quorum(o: &Observed, record: &Record) -> Option<Change> {
    match o.quorum.cmp(&record.quorum) {
        std::cmp::Ordering::Less => Some(of_quorum(record, record.quorum - 1)),
        std::cmp::Ordering::Greater if (o.quorum as usize) < record.members.len() => {
            Some(of_quorum(record, record.quorum + 1))
        }
        std::cmp::Ordering::Greater | std::cmp::Ordering::Equal => None,
    }
}

fn of_quorum(record: &Record, quorum: u32) -> Change {
    Change { members: record.members.clone(), quorum, reason: format!("the write quorum becomes {quorum}") }
}

fn is_ready(status: &Status, record: &Record) -> bool {
    status.caught_up && status.link_up && status.role_epoch == record.epoch
}

fn can_be_settled(o: &Observed, record: &Record, master: &Holder, change: &Change) -> bool {
    let ready = |m: &&Member| {
        m.name != master.name && o.answering(&m.name).is_some_and(|s| s.volume == m.volume && is_ready(s, record))
    };
    change.members.iter().filter(ready).count() >= change.quorum as usize
}

/// R11: a change of members or quorum is settled when K replicas hold the mark of the epoch that it began with.
pub(super) fn settled(o: &Observed, record: &Record, master: &Holder) -> Option<Record> {
    record.previous.as_ref()?;
    let holds_the_mark = |m: &&Member| {
        o.answering(&m.name).is_some_and(|s| {
            s.volume == m.volume && s.role_epoch == record.epoch && s.history_epoch == record.epoch && s.link_up
        })
    };
    let holders = record.members.iter().filter(|m| m.name != master.name).filter(holds_the_mark).count();
    (holders >= record.quorum as usize).then(|| Record { previous: None, ..record.clone() })
}
