//! Redis's intset: sorted integers in one buffer, all of the least width that holds them, which is also its RDB form.
//!
//! ```text
//! width u32 le (2, 4 or 8 bytes) | count u32 le | count integers le, rising
//! ```

use std::cmp::Ordering;

const HEADER: usize = 8;

/// A set of integers. The width rises with the first integer that needs it and never falls, as in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intset {
    buf: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntsetError {
    #[error("an intset shorter than its header")]
    Short,
    #[error("an intset of integers of {0} bytes")]
    Width(u32),
    #[error("an intset whose count does not agree with its length")]
    Count,
    #[error("an intset whose integers do not rise")]
    Order,
}

impl Default for Intset {
    fn default() -> Self {
        Self { buf: vec![2, 0, 0, 0, 0, 0, 0, 0] }
    }
}

/// Bytes that `n` needs.
fn width_of(n: i64) -> usize {
    if i16::try_from(n).is_ok() {
        2
    } else if i32::try_from(n).is_ok() {
        4
    } else {
        8
    }
}

fn read(bytes: &[u8]) -> i64 {
    match *bytes {
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("integers have two, four or eight bytes"),
    }
}

impl Intset {
    /// Takes bytes from outside after checking all of them.
    pub fn from_bytes(buf: Vec<u8>) -> Result<Self, IntsetError> {
        let (Some(width), Some(count)) = (buf.first_chunk::<4>(), buf.get(4..HEADER)) else {
            return Err(IntsetError::Short);
        };
        let width = u32::from_le_bytes(*width);
        if !matches!(width, 2 | 4 | 8) {
            return Err(IntsetError::Width(width));
        }
        let count = read(&[count[0], count[1], count[2], count[3], 0, 0, 0, 0]) as usize;
        if !(buf.len() - HEADER).is_multiple_of(width as usize) || (buf.len() - HEADER) / width as usize != count {
            return Err(IntsetError::Count);
        }
        let it = Self { buf };
        if it.iter().is_sorted_by(|a, b| a < b) { Ok(it) } else { Err(IntsetError::Order) }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.buf
    }

    #[inline]
    fn width(&self) -> usize {
        usize::from(self.buf[0])
    }

    #[inline]
    pub fn len(&self) -> usize {
        (self.buf.len() - HEADER) / self.width()
    }

    pub fn is_empty(&self) -> bool {
        self.buf.len() == HEADER
    }

    /// The integer at a place in the order.
    pub fn get(&self, i: usize) -> Option<i64> {
        let width = self.width();
        self.buf[HEADER..].chunks_exact(width).nth(i).map(read)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = i64> + ExactSizeIterator {
        self.buf[HEADER..].chunks_exact(self.width()).map(read)
    }

    /// The place of `n`: where it is, or where it belongs.
    fn search(&self, n: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).expect("between 0 and the length").cmp(&n) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    pub fn contains(&self, n: i64) -> bool {
        self.search(n).is_ok()
    }

    /// Adds an integer; `true` if it is new.
    pub fn insert(&mut self, n: i64) -> bool {
        if width_of(n) > self.width() {
            self.widen(width_of(n));
        }
        // Many sets are filled in order: look at the end first.
        let place = match self.iter().next_back() {
            Some(last) if last >= n => self.search(n),
            _ => Err(self.len()),
        };
        let Err(i) = place else { return false };
        let width = self.width();
        let (at, len) = (HEADER + i * width, self.buf.len());
        self.buf.reserve_exact(width);
        self.buf.extend_from_slice(&n.to_le_bytes()[..width]);
        self.buf.copy_within(at..len, at + width);
        self.buf[at..at + width].copy_from_slice(&n.to_le_bytes()[..width]);
        self.write_count();
        true
    }

    fn widen(&mut self, width: usize) {
        let mut buf = Vec::with_capacity(HEADER + (self.len() + 1) * width);
        buf.extend_from_slice(&[width as u8, 0, 0, 0]);
        buf.extend_from_slice(&self.buf[4..HEADER]);
        self.iter().for_each(|n| buf.extend_from_slice(&n.to_le_bytes()[..width]));
        self.buf = buf;
    }

    /// Removes an integer; `true` if it was there.
    pub fn remove(&mut self, n: i64) -> bool {
        let Ok(i) = self.search(n) else { return false };
        let width = self.width();
        let at = HEADER + i * width;
        self.buf.drain(at..at + width);
        self.write_count();
        true
    }

    fn write_count(&mut self) {
        let count = self.len() as u32;
        self.buf[4..HEADER].copy_from_slice(&count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn integer() -> impl Strategy<Value = i64> {
        prop_oneof![8 => -30i64..30, 2 => -70_000i64..70_000, 1 => any::<i32>().prop_map(i64::from), 1 => any::<i64>()]
    }

    proptest! {
        #[test]
        fn an_intset_is_a_sorted_set(ops in prop::collection::vec((0u8..4, integer()), 1..120)) {
            let (mut set, mut model, mut width) = (Intset::default(), BTreeSet::new(), 2);
            for (op, n) in ops {
                if op == 0 {
                    prop_assert_eq!(set.remove(n), model.remove(&n));
                } else {
                    prop_assert_eq!(set.insert(n), model.insert(n));
                    width = width.max(width_of(n));
                }
                prop_assert_eq!(set.contains(n), model.contains(&n));
                prop_assert_eq!(set.as_bytes().len(), HEADER + model.len() * width);
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.get(model.len()), None);
            prop_assert_eq!(Intset::from_bytes(set.as_bytes().to_vec()), Ok(set));
        }

        #[test]
        fn bytes_from_outside_are_refused_or_sound(mut bytes in prop::collection::vec(any::<u8>(), 0..60), width in 0u32..10) {
            if bytes.len() >= HEADER {
                bytes[..4].copy_from_slice(&width.to_le_bytes());
                let count = (bytes.len() - HEADER) / width.max(1) as usize;
                bytes[4..HEADER].copy_from_slice(&(count as u32).to_le_bytes());
            }
            if let Ok(mut set) = Intset::from_bytes(bytes) {
                let all: BTreeSet<i64> = set.iter().collect();
                prop_assert_eq!(all.len(), set.len());
                prop_assert!(all.iter().all(|&n| set.contains(n)));
                set.insert(0);
                prop_assert!(set.contains(0));
            }
        }
    }

    #[test]
    fn the_layout_is_redis_s() {
        let mut set = Intset::default();
        for n in [3, -1, 300] {
            set.insert(n);
        }
        assert_eq!(set.as_bytes(), [2, 0, 0, 0, 3, 0, 0, 0, 0xFF, 0xFF, 3, 0, 0x2C, 1]);
        set.insert(70_000);
        set.remove(-1);
        set.remove(3);
        assert_eq!(set.as_bytes(), [4, 0, 0, 0, 2, 0, 0, 0, 0x2C, 1, 0, 0, 0x70, 0x11, 1, 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bytes, want) in [
            (&[2, 0, 0][..], IntsetError::Short),
            (&[3, 0, 0, 0, 0, 0, 0, 0], IntsetError::Width(3)),
            (&[2, 1, 0, 0, 0, 0, 0, 0], IntsetError::Width(258)),
            (&[2, 0, 0, 0, 2, 0, 0, 0, 1, 0], IntsetError::Count),
            (&[2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 2], IntsetError::Count),
            (&[2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0], IntsetError::Order),
            (&[2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0xFF, 0xFF], IntsetError::Order),
        ] {
            assert_eq!(Intset::from_bytes(bytes.to_vec()), Err(want), "{bytes:?}");
        }
    }
}
