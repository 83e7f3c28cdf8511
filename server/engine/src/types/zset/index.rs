//! The hash index of a large sorted set: member numbers by the hash of their names.
//!
//! Linear hashing over segments: each is a small table of its own, and one segment is split whenever the mean load asks
//! for it, so the longest pause of an insertion is the split of one segment, however large the set is. 32 bits of the
//! hash stand beside each number: a split that had to look at every member again would miss the cache for each, which
//! was 40 % of an insertion into a set of a million.

use hashbrown::HashTable;

/// Mean load of a segment at which one more is made. 448 is what a table of 512 buckets takes.
const LOAD_MAX: usize = 400;
/// Mean load at which two segments become one again.
const LOAD_MIN: usize = 100;
/// Low bits of the short hash that choose the bucket in a segment; the others choose the segment.
const BUCKET_BITS: u32 = 10;

/// See the head of this file.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// Never empty.
    segments: Vec<HashTable<Entry>>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    short: u32,
    id: u32,
}

impl Default for Index {
    fn default() -> Self {
        Self { segments: vec![HashTable::new()], len: 0 }
    }
}

fn short(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The hash for a segment's table: its bucket depends on the low bits, its tag on all of them.
fn spread(short: u32) -> u64 {
    u64::from(short).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The segment of a hash among `n`: the first ones of a round are split already and use one more bit.
fn segment(short: u32, n: usize) -> usize {
    let mask = n.next_power_of_two() - 1;
    let at = (short >> BUCKET_BITS) as usize & mask;
    if at < n { at } else { at & (mask >> 1) }
}

/// The segment whose last split made segment number `new`.
fn source(new: usize) -> usize {
    new & (((new + 1).next_power_of_two() - 1) >> 1)
}

fn add(table: &mut HashTable<Entry>, entry: Entry) {
    table.insert_unique(spread(entry.short), entry, |entry| spread(entry.short));
}

impl Index {
    /// The number under this hash that `is` the one.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let short = short(hash);
        let table = &self.segments[segment(short, self.segments.len())];
        table.find(spread(short), |entry| entry.short == short && is(entry.id)).map(|entry| entry.id)
    }

    /// Adds a number that is not there.
    pub(super) fn insert(&mut self, hash: u64, id: u32) {
        if self.len >= self.segments.len() * LOAD_MAX {
            self.grow();
        }
        self.len += 1;
        let (short, n) = (short(hash), self.segments.len());
        add(&mut self.segments[segment(short, n)], Entry { short, id });
    }

    pub(super) fn remove(&mut self, hash: u64, id: u32) {
        let (short, n) = (short(hash), self.segments.len());
        if let Ok(entry) = self.segments[segment(short, n)].find_entry(spread(short), |entry| entry.id == id) {
            entry.remove();
            self.len -= 1;
        }
        if n > 1 && self.len < n * LOAD_MIN {
            self.shrink();
        }
    }

    /// Says that a number is another now.
    pub(super) fn renumber(&mut self, hash: u64, old: u32, new: u32) {
        let (short, n) = (short(hash), self.segments.len());
        if let Some(entry) = self.segments[segment(short, n)].find_mut(spread(short), |entry| entry.id == old) {
            entry.id = new;
        }
    }

    /// Splits the segment whose turn it is.
    fn grow(&mut self) {
        let new = self.segments.len();
        let whole = std::mem::take(&mut self.segments[source(new)]);
        let room = whole.len() / 2 + 32;
        let (mut low, mut high) = (HashTable::with_capacity(room), HashTable::with_capacity(room));
        for entry in whole {
            add(if segment(entry.short, new + 1) == new { &mut high } else { &mut low }, entry);
        }
        self.segments[source(new)] = low;
        self.segments.push(high);
    }

    /// Undoes the last split.
    fn shrink(&mut self) {
        let Some(last) = self.segments.pop() else { return };
        let low = source(self.segments.len());
        let low = &mut self.segments[low];
        last.into_iter().for_each(|entry| add(low, entry));
        low.shrink_to_fit(|entry| spread(entry.short));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_while_segments_split_and_merge() {
        let hash = |i: u32| u64::from(i).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(29);
        let mut index = Index::default();
        for i in 0..50_000 {
            index.insert(hash(i), i);
        }
        assert!(index.segments.len() > 100, "it has been split");
        assert!(index.segments.iter().all(|table| table.len() < 1200), "evenly");
        for i in 0..50_000 {
            assert_eq!(index.find(hash(i), |id| id == i), Some(i));
        }
        for i in 0..50_000 {
            if i % 100 == 0 {
                index.renumber(hash(i), i, i + 1);
            } else {
                index.remove(hash(i), i);
            }
        }
        assert!(index.segments.len() < 10, "it has been merged");
        for i in 0..50_000 {
            assert_eq!(index.find(hash(i), |id| id == i + 1), (i % 100 == 0).then_some(i + 1));
        }
    }
}
