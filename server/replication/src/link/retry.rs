//! Why an attempt to follow failed, and when the next one is made.

/// `Display` is for the log and for `master_link` reports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("{0}")]
    Io(String),
    #[error("no sign of life from MASTER for too long")]
    Timeout,
    /// It will be able to serve us soon: loading, without its own master.
    #[error("MASTER is not able to serve us now: {0}")]
    Later(String),
    /// R1: it is master of another epoch (0: of none). The data here is kept.
    #[error("it is not master of the epoch to follow, but of {0}")]
    NotMaster(u64),
    #[error("Unable to AUTH to MASTER: {0}")]
    Auth(String),
    #[error("MASTER answered {0}")]
    Refused(String),
    #[error("MASTER sent what is not the replication protocol: {0}")]
    Protocol(String),
    /// The history fence refused its data.
    #[error("full resync refused: {0}")]
    Fenced(&'static str),
    #[error("the RDB from MASTER was refused: {0}")]
    Rdb(String),
    /// Not an error: another master is to be followed, at once.
    #[error("another master is to be followed")]
    Changed,
}

/// Pauses double from the first to the last as long as attempts fail.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    first_ms: u64,
    last_ms: u64,
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        LinkError::Io(error.to_string())
    }
}

impl LinkError {
    fn pauses(&self) -> Pauses {
        let (first_ms, last_ms) = match self {
            LinkError::Changed => (0, 0),
            // A failover may be under way: its master is about to be there.
            LinkError::Io(_) | LinkError::Timeout | LinkError::Later(_) | LinkError::NotMaster(_) => (50, 1000),
            // A person has to change something.
            LinkError::Auth(_) | LinkError::Refused(_) | LinkError::Protocol(_) => (1000, 10_000),
            // Each attempt costs both sides a full transfer.
            LinkError::Fenced(_) | LinkError::Rdb(_) => (1000, 30_000),
        };
        Pauses { first_ms, last_ms }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    pub(super) fn on_success(&mut self) {
        self.failures = 0;
    }

    /// The pause is up to half as long again, by `jitter` of 65536 parts.
    pub(super) fn pause_ms(&mut self, error: &LinkError, jitter: u16) -> u64 {
        let pauses = error.pauses();
        let pause_ms = (pauses.first_ms << self.failures.min(16)).min(pauses.last_ms);
        self.failures += u32::from(*error != LinkError::Changed);
        pause_ms + pause_ms * u64::from(jitter) / (2 << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_a_success_forgets_them() {
        let mut retry = Retry::default();
        let pauses: Vec<_> = (0..7).map(|_| retry.pause_ms(&LinkError::Timeout, 0)).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        retry.on_success();
        assert_eq!(retry.pause_ms(&LinkError::Timeout, 0), 50);
        let _ = (0..1000).map(|_| retry.pause_ms(&LinkError::Rdb(String::new()), 0)).last();
        assert_eq!(retry.pause_ms(&LinkError::Rdb(String::new()), 0), 30_000);
        assert_eq!(retry.pause_ms(&LinkError::Changed, 65_535), 0, "a new master is tried at once");
    }

    #[test]
    fn jitter_spreads_them_over_half_a_pause() {
        let pause = |jitter| Retry::default().pause_ms(&LinkError::Auth(String::new()), jitter);
        assert_eq!((pause(0), pause(32_768), pause(65_535)), (1000, 1250, 1499));
    }
}
