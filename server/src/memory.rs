//! `maxmemory`: whether there is room for a command that may need more memory.
//!
//! What the allocator has given out is read rarely, because reading it costs as much as some commands: when writers have
//! brought in a good part of what was free then, or after a while. When memory is full it is read for every command that
//! asks, so that the first one after a deletion gets through.

use std::sync::atomic::{AtomicU64, Ordering};

/// A reading is good for this long, ms.
const READING_MS: u64 = 100;
/// Of what was free at the last reading, writers may bring in one part of so many before it is read again.
const PARTS: u64 = 8;

/// The last reading.
#[derive(Debug, Default)]
pub struct Memory {
    /// Bytes that were free below the limit; 0 when there were none.
    free: AtomicU64,
    /// The limit for which that was found.
    limit: AtomicU64,
    /// Monotonic ms.
    read_at: AtomicU64,
    /// Bytes of arguments since then.
    brought: AtomicU64,
}

impl Memory {
    /// Whether a command with so many bytes of arguments finds less than `limit` bytes in use; `used` reads how many are.
    #[inline]
    pub fn has_room(&self, limit: u64, bytes: u64, now_ms: u64, used: impl FnOnce() -> u64) -> bool {
        let free = self.free.load(Ordering::Relaxed);
        let brought = self.brought.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let recent = now_ms.saturating_sub(self.read_at.load(Ordering::Relaxed)) < READING_MS;
        if recent && self.limit.load(Ordering::Relaxed) == limit && brought < free / PARTS {
            return true;
        }
        self.read(limit, now_ms, used())
    }

    #[cold]
    fn read(&self, limit: u64, now_ms: u64, used: u64) -> bool {
        self.free.store(limit.saturating_sub(used), Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.read_at.store(now_ms, Ordering::Relaxed);
        self.brought.store(0, Ordering::Relaxed);
        used <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_allocator_is_asked_rarely_while_there_is_room_and_always_when_there_is_none() {
        let (memory, used, asked) = (Memory::default(), Cell::new(100), Cell::new(0));
        let has_room = |limit, bytes, now| {
            memory.has_room(limit, bytes, now, || {
                asked.set(asked.get() + 1);
                used.get()
            })
        };
        assert!(has_room(1_000, 10, 5));
        assert!((0..11).all(|_| has_room(1_000, 10, 5)));
        assert_eq!(asked.get(), 1, "an eighth of the 900 free bytes has not come in");
        assert!(has_room(1_000, 10, 5));
        assert_eq!(asked.get(), 2);
        assert!(has_room(1_000, 1, 5 + READING_MS));
        assert_eq!(asked.get(), 3, "that was long ago");
        assert!(!has_room(50, 1, 5 + READING_MS), "another limit");
        used.set(2_000);
        assert!(!has_room(1_000, 0, 200) && !has_room(1_000, 0, 200));
        used.set(999);
        assert!(has_room(1_000, 0, 200), "a deletion helps at once");
    }
}
