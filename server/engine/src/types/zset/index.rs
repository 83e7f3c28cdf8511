//! The hash index of a large sorted set: member numbers by the hash of their names.
//!
//! Linear hashing over segments: each is a small table of its own, and one segment is split whenever the mean load asks
//! for it, so the longest pause of an insertion is the split of one segment, however large the set is.

use hashbrown::HashTable;

/// Mean load of a segment at which one more is made. 448 is what a table of 512 buckets takes.
const LOAD_MAX: usize = 400;
/// Mean load at which two segments become one again.
const LOAD_MIN: usize = 100;

/// See the head of this file.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// Never empty.
    segments: Vec<HashTable<u32>>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { segments: vec![HashTable::new()], len: 0 }
    }
}

/// The segment of a hash among `n`: the first ones of a round are split already and use one more bit. hashbrown takes
/// its bits from both ends of the hash, these are from the middle.
fn segment(hash: u64, n: usize) -> usize {
    let mask = n.next_power_of_two() - 1;
    let at = (hash >> 24) as u32 as usize & mask;
    if at < n { at } else { at & (mask >> 1) }
}

impl Index {
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.segments[segment(hash, self.segments.len())].find(hash, |&id| is(id)).copied()
    }

    /// Adds a number that is not there; `hash_of` knows the hash of every number that is.
    pub(super) fn insert(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        if self.len >= self.segments.len() * LOAD_MAX {
            self.grow(&hash_of);
        }
        self.len += 1;
        let at = segment(hash, self.segments.len());
        self.segments[at].insert_unique(hash, id, |&id| hash_of(id));
    }

    pub(super) fn remove(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        let at = segment(hash, self.segments.len());
        if let Ok(entry) = self.segments[at].find_entry(hash, |&other| other == id) {
            entry.remove();
            self.len -= 1;
        }
        if self.len < self.segments.len() * LOAD_MIN {
            self.shrink(&hash_of);
        }
    }

    /// Says that a number is another now.
    pub(super) fn renumber(&mut self, hash: u64, old: u32, new: u32) {
        let at = segment(hash, self.segments.len());
        if let Some(id) = self.segments[at].find_mut(hash, |&id| id == old) {
            *id = new;
        }
    }

    /// Splits the segment whose turn it is.
    fn grow(&mut self, hash_of: &impl Fn(u32) -> u64) {
        let (new, n) = (self.segments.len(), self.segments.len() + 1);
        let source = new & ((n.next_power_of_two() - 1) >> 1);
        self.segments.push(HashTable::new());
        let ids: Vec<u32> = std::mem::take(&mut self.segments[source]).into_iter().collect();
        for id in ids {
            let hash = hash_of(id);
            self.segments[segment(hash, n)].insert_unique(hash, id, |&id| hash_of(id));
        }
    }

    /// Undoes the last split.
    fn shrink(&mut self, hash_of: &impl Fn(u32) -> u64) {
        if self.segments.len() == 1 {
            return;
        }
        let last = self.segments.pop().expect("more than one");
        let n = self.segments.len();
        for id in last {
            let hash = hash_of(id);
            self.segments[segment(hash, n)].insert_unique(hash, id, |&id| hash_of(id));
        }
    }
}
