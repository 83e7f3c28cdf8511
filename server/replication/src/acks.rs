//! Who has acknowledged what: the counts behind WAIT, min-replicas-to-write and the write quorum.

/// One attached replica as its master sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Offset up to which it holds everything.
    pub offset: u64,
    /// When it last said so.
    pub at_ms: u64,
    /// Its volume, if it is a member of a managed cluster.
    pub volume: Option<u64>,
}

/// The online replicas at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Acks<'a>(pub &'a [Ack]);

impl Acks<'_> {
    /// Replicas that hold everything up to `offset`: WAIT's answer.
    pub fn holding(self, offset: u64) -> usize {
        self.0.iter().filter(|ack| ack.offset >= offset).count()
    }

    /// The members among them, for the write quorum (R4). Each volume counts once: for a moment a replica that has
    /// reconnected may be here twice.
    pub fn members_holding(self, offset: u64, members: &[u64]) -> usize {
        let held = |member: &u64| self.0.iter().any(|ack| ack.volume == Some(*member) && ack.offset >= offset);
        members.iter().filter(|member| held(member)).count()
    }

    /// Offset up to which `k` members hold everything (R4): all replies to writes before it may go out. `u64::MAX` for
    /// `k` = 0, where no reply is held; `None` if there are fewer than `k`.
    pub fn quorum_offset(self, k: usize, members: &[u64]) -> Option<u64> {
        if k == 0 {
            return Some(u64::MAX);
        }
        let best = |member: &u64| self.0.iter().filter(|ack| ack.volume == Some(*member)).map(|ack| ack.offset).max();
        let mut held: Vec<u64> = members.iter().filter_map(best).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(k - 1).copied()
    }

    /// Replicas heard from within `max_lag_ms`: what `min-replicas-to-write` counts.
    pub fn good(self, now_ms: u64, max_lag_ms: u64) -> usize {
        self.0.iter().filter(|ack| now_ms.saturating_sub(ack.at_ms) <= max_lag_ms).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(offset: u64, at_ms: u64, volume: Option<u64>) -> Ack {
        Ack { offset, at_ms, volume }
    }

    #[test]
    fn only_those_count_that_hold_the_write_and_are_asked_for() {
        let all = [ack(10, 0, Some(1)), ack(20, 900, Some(2)), ack(30, 1000, None)];
        let acks = Acks(&all);
        assert_eq!((acks.holding(10), acks.holding(20), acks.holding(31)), (3, 2, 0));
        assert_eq!(acks.members_holding(10, &[1, 2]), 2);
        assert_eq!(acks.members_holding(20, &[1, 9]), 0);
        assert_eq!(acks.good(1000, 100), 2);
    }

    #[test]
    fn r4_a_member_counts_once_and_strangers_not_at_all() {
        let all =
            [ack(50, 0, Some(1)), ack(40, 0, Some(1)), ack(20, 0, Some(2)), ack(90, 0, None), ack(90, 0, Some(9))];
        let acks = Acks(&all);
        assert_eq!(acks.members_holding(40, &[1, 2, 3]), 1, "one volume on two connections is one member");
        let at = |k| acks.quorum_offset(k, &[1, 2, 3]);
        assert_eq!((at(0), at(1), at(2), at(3)), (Some(u64::MAX), Some(50), Some(20), None));
    }

    #[test]
    fn r4_the_quorum_offset_is_the_last_that_enough_members_hold() {
        // The two ways to ask must not disagree.
        let all = [ack(7, 0, Some(1)), ack(3, 0, Some(2)), ack(9, 0, Some(3)), ack(5, 0, Some(4))];
        let (acks, members) = (Acks(&all), [1, 2, 3, 4]);
        for k in 1..=4 {
            let offset = acks.quorum_offset(k, &members).expect("there are four");
            assert!(acks.members_holding(offset, &members) >= k);
            assert!(acks.members_holding(offset + 1, &members) < k);
        }
    }
}
