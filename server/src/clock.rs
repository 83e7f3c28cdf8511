//! The only reader of time.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<Instant> = OnceLock::new();

/// A clock that only goes forward and also counts suspension (CLOCK_BOOTTIME), from an arbitrary beginning: for leases,
/// time-outs and durations.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The same in milliseconds.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// Unix time in ms.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Unix time in microseconds.
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// What has to be added to a reading of the monotonic clock in ms, which has just been taken, for unix time. Each thread asks
/// the other clock once in a millisecond at most.
#[inline]
pub fn unix_minus_monotonic_ms(now_ms: u64) -> u64 {
    thread_local! {
        /// The last answer, and for which reading.
        static KNOWN: Cell<(u64, u64)> = const { Cell::new((u64::MAX, 0)) };
    }
    let (at, known) = KNOWN.get();
    if at == now_ms {
        return known;
    }
    let difference = unix_ms().wrapping_sub(now_ms);
    KNOWN.set((now_ms, difference));
    difference
}

/// Since the process started.
pub fn uptime() -> std::time::Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// When the process started, by the machine's clock at that moment.
pub fn started_unix_ms() -> u64 {
    static STARTED: OnceLock<u64> = OnceLock::new();
    *STARTED.get_or_init(|| unix_ms().saturating_sub(u64::try_from(uptime().as_millis()).unwrap_or(0)))
}

/// For measuring durations.
pub fn instant() -> Instant {
    Instant::now()
}
