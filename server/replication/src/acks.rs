//! Who has acknowledged what.

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

    /// The same among these members: what counts for a write quorum (R4).
    pub fn members_holding(self, offset: u64, members: &[u64]) -> usize {
        self.0.iter().filter(|ack| ack.offset >= offset && ack.volume.is_some_and(|v| members.contains(&v))).count()
    }

    /// Replicas heard from within `max_lag_ms`: what `min-replicas-to-write` counts.
    pub fn good(self, now_ms: u64, max_lag_ms: u64) -> usize {
        self.0.iter().filter(|ack| now_ms.saturating_sub(ack.at_ms) <= max_lag_ms).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_count_that_hold_the_write_and_are_asked_for() {
        let ack = |offset, at_ms, volume| Ack { offset, at_ms, volume };
        let all = [ack(10, 0, Some(1)), ack(20, 900, Some(2)), ack(30, 1000, None)];
        let acks = Acks(&all);
        assert_eq!((acks.holding(10), acks.holding(20), acks.holding(31)), (3, 2, 0));
        assert_eq!(acks.members_holding(10, &[1, 2]), 2);
        assert_eq!(acks.members_holding(20, &[1, 9]), 0);
        assert_eq!(acks.good(1000, 100), 2);
    }
}
