//! The 24-bit access clock of entries: seconds, wrapping after 194 days, as Redis's LRU clock.

/// The access clock at a unix time in ms.
pub(crate) fn clock(now_ms: u64) -> u32 {
    (now_ms / 1000) as u32 & 0xFF_FFFF
}

/// Seconds since an access.
pub(crate) fn idle_seconds(now_ms: u64, access: u32) -> u64 {
    u64::from(clock(now_ms).wrapping_sub(access) & 0xFF_FFFF)
}
