//! The gate: "hold this until offset X is acknowledged by Y".
//!
//! WAIT, quorum writes and everything else that waits for copies ask here. The gate holds tickets, which mean
//! something to the driver only; it is asked again whenever a replica acknowledges, one is lost, or time passes.
//!
//! A ticket of a quorum is never released by time: the reply to a write that too few members hold is not sent (R4). It
//! ends with the reign, by [`Gate::give_up`].

use std::collections::BTreeMap;

use crate::acks::Acks;

/// Who has to hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// WAIT: so many replicas, or what there are at the deadline.
    Replicas { count: usize, deadline_ms: Option<u64> },
    /// R4: so many members of the master's epoch.
    Quorum { k: usize },
}

/// A ticket that need not be held any longer, with the number of replicas that hold its offset: WAIT's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released<T> {
    pub ticket: T,
    pub holding: usize,
}

#[derive(Debug)]
struct Held<T> {
    ticket: T,
    need: Need,
}

#[derive(Debug)]
pub struct Gate<T> {
    /// By offset, then by arrival: replies of one connection stay in order.
    held: BTreeMap<(u64, u64), Held<T>>,
    next: u64,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), next: 0 }
    }
}

impl<T> Gate<T> {
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Holds a ticket; the caller asks [`Gate::release`] next, for it may be satisfied already.
    pub fn hold(&mut self, ticket: T, offset: u64, need: Need) {
        self.held.insert((offset, self.next), Held { ticket, need });
        self.next += 1;
    }

    /// What need not be held any longer, in the order of the offsets. `members`: the volumes of the master's epoch.
    /// `may_reply`: the lease still runs (R3: it is looked at again before a master replies).
    pub fn release(&mut self, acks: Acks<'_>, members: &[u64], may_reply: bool, now_ms: u64) -> Vec<Released<T>> {
        let done = |offset: u64, need: Need| match need {
            Need::Replicas { count, deadline_ms } => {
                acks.holding(offset) >= count || deadline_ms.is_some_and(|deadline| now_ms >= deadline)
            }
            Need::Quorum { k } => may_reply && acks.members_holding(offset, members) >= k,
        };
        let ready: Vec<_> =
            self.held.iter().filter(|((offset, _), held)| done(*offset, held.need)).map(|(key, _)| *key).collect();
        let released = ready.into_iter().filter_map(|key| {
            let held = self.held.remove(&key)?;
            Some(Released { ticket: held.ticket, holding: acks.holding(key.0) })
        });
        released.collect()
    }

    /// When the gate wants to be asked again though nothing has happened.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let deadline = |held: &Held<T>| match held.need {
            Need::Replicas { deadline_ms, .. } => deadline_ms,
            Need::Quorum { .. } => None,
        };
        self.held.values().filter_map(deadline).min()
    }

    /// Forgets tickets, of connections that have ended.
    pub fn forget(&mut self, mut gone: impl FnMut(&T) -> bool) {
        self.held.retain(|_, held| !gone(&held.ticket));
    }

    /// The reign is over: nobody can say any more whether these writes will survive. Their connections are closed
    /// without a reply, as the promise of R4 asks; WAIT's clients get an error, as in Redis.
    pub fn give_up(&mut self) -> Vec<T> {
        std::mem::take(&mut self.held).into_values().map(|held| held.ticket).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acks::Ack;

    const MEMBERS: [u64; 3] = [1, 2, 3];

    fn acks(offsets: &[(u64, u64)]) -> Vec<Ack> {
        offsets.iter().map(|&(volume, offset)| Ack { offset, at_ms: 0, volume: Some(volume) }).collect()
    }

    fn released(gate: &mut Gate<&'static str>, offsets: &[(u64, u64)], now_ms: u64) -> Vec<(&'static str, usize)> {
        let acks = acks(offsets);
        let released = gate.release(Acks(&acks), &MEMBERS, true, now_ms);
        released.into_iter().map(|r| (r.ticket, r.holding)).collect()
    }

    #[test]
    fn wait_ends_with_enough_replicas_or_at_its_deadline_with_what_there_are() {
        let mut gate = Gate::default();
        gate.hold("early", 10, Need::Replicas { count: 2, deadline_ms: Some(500) });
        gate.hold("late", 20, Need::Replicas { count: 2, deadline_ms: Some(900) });
        gate.hold("for ever", 30, Need::Replicas { count: 9, deadline_ms: None });
        assert_eq!(gate.next_deadline_ms(), Some(500));
        assert_eq!(released(&mut gate, &[(2, 10), (3, 9)], 0), []);
        assert_eq!(released(&mut gate, &[(2, 20), (3, 10)], 1), [("early", 2)]);
        assert_eq!(released(&mut gate, &[(2, 20), (3, 10)], 899), []);
        assert_eq!(released(&mut gate, &[(2, 20), (3, 10)], 900), [("late", 1)]);
        assert_eq!((gate.len(), gate.next_deadline_ms()), (1, None));
    }

    #[test]
    fn wait_for_none_does_not_wait() {
        let mut gate = Gate::default();
        gate.hold("none", 10, Need::Replicas { count: 0, deadline_ms: None });
        assert_eq!(released(&mut gate, &[], 0), [("none", 0)]);
    }

    #[test]
    fn r4_a_quorum_is_of_members_and_time_does_not_replace_it() {
        let mut gate = Gate::default();
        gate.hold("write", 10, Need::Quorum { k: 2 });
        assert_eq!(released(&mut gate, &[(2, 10), (9, 99), (2, 50)], u64::MAX), []);
        assert_eq!(released(&mut gate, &[(2, 10), (3, 10)], 0), [("write", 2)]);
    }

    #[test]
    fn r3_without_a_lease_a_quorum_write_is_not_answered() {
        let mut gate = Gate::default();
        gate.hold("write", 10, Need::Quorum { k: 1 });
        gate.hold("wait", 10, Need::Replicas { count: 1, deadline_ms: None });
        let acks = acks(&[(2, 10)]);
        let first = gate.release(Acks(&acks), &MEMBERS, false, 0);
        assert_eq!(first, [Released { ticket: "wait", holding: 1 }]);
        assert_eq!(released(&mut gate, &[(2, 10)], 0), [("write", 1)]);
    }

    #[test]
    fn what_is_released_keeps_the_order_of_the_writes() {
        let mut gate = Gate::default();
        for (ticket, offset) in [("c", 30), ("a", 10), ("b1", 20), ("b2", 20)] {
            gate.hold(ticket, offset, Need::Quorum { k: 1 });
        }
        gate.forget(|ticket| *ticket == "b1");
        let got = released(&mut gate, &[(1, 25)], 0);
        assert_eq!(got.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), ["a", "b2"]);
        assert_eq!(gate.give_up(), ["c"]);
        assert!(gate.is_empty());
    }
}
