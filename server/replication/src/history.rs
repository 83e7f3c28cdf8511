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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    pub id: ReplId,
    /// The history before the last promotion, valid up to `second_offset`.
    pub second: ReplId,
    pub second_offset: Option<u64>,
    /// Epoch of the last mark that the data really holds; 0: none.
    pub epoch: u64,
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
        Self { id, second: ReplId::ZERO, second_offset: None, epoch: 0 }
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

    /// Begins a new history at `end`; the old one stays valid up to there (R7).
    pub fn shift(&mut self, id: ReplId, end: u64) {
        (self.second, self.second_offset) = (self.id, Some(end));
        self.id = id;
    }

    /// The master of this history was promoted: `+CONTINUE <id>`.
    pub fn renamed(&mut self, id: ReplId, end: u64) {
        if id != self.id {
            self.shift(id, end);
        }
    }
}

/// What the history fence compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceView {
    pub keys: u64,
    pub epoch: u64,
}

impl FenceView {
    /// Decides whether this instance's data may be replaced by a full resync from a master of unknown history
    /// (DESIGN section 4, FAILOVER R8). `Err`: the reason to refuse, for `master_sync_refused`.
    ///
    /// Histories come first: a master whose data holds a later epoch mark than ours, and that is not empty, is accepted.
    /// Otherwise an empty master never replaces data, nor does one with less than a tenth of our keys when we have more
    /// than a thousand.
    pub fn judge(self, offered: FenceView) -> Result<(), &'static str> {
        if self.keys == 0 {
            return Ok(());
        }
        if offered.keys == 0 {
            return Err("empty-master");
        }
        if offered.epoch > self.epoch {
            return Ok(());
        }
        if offered.epoch < self.epoch {
            return Err("older-history");
        }
        if self.keys > 1000 && offered.keys < self.keys / 10 {
            return Err("much-smaller-master");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_fence_never_lets_nothing_replace_data() {
        let view = |keys, epoch| FenceView { keys, epoch };
        assert_eq!(view(0, 5).judge(view(0, 0)), Ok(()));
        assert_eq!(view(1, 0).judge(view(0, 9)), Err("empty-master"));
        assert_eq!(view(10, 3).judge(view(1, 4)), Ok(()));
        assert_eq!(view(10, 3).judge(view(10, 2)), Err("older-history"));
        assert_eq!(view(5000, 0).judge(view(100, 0)), Err("much-smaller-master"));
        assert_eq!(view(5000, 0).judge(view(4000, 0)), Ok(()));
    }
}
