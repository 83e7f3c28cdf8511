//! The operator's clock.

use tokio::time::Instant;

/// Milliseconds, monotonic. It begins far from zero, so that "never" and "at the start" differ.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

const ORIGIN_MS: u64 = 1 << 32;

impl Clock {
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    pub fn at(&self, moment: Instant) -> u64 {
        ORIGIN_MS + u64::try_from(moment.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX / 2)
    }

    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }
}
