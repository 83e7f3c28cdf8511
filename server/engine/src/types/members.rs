//! A table of members, each with bytes of its own: what large hashes and sets are made of. The keyspace's table with
//! its thin entries serves here too: growth is bounded by a segment, and a scan never misses what was there throughout.

use crate::Rng;
use crate::keyspace::entry::{EntryRef, Slot, ValueRef};
use crate::keyspace::table::{self, Cursor, Table};

/// Members of one collection.
#[derive(Debug, Default)]
pub struct Members {
    table: Table,
}

/// The seed of all collections' hashes: set once, before the first collection is made, from the server's randomness.
static SEED: std::sync::OnceLock<[u64; 2]> = std::sync::OnceLock::new();

/// Sets the seed; later calls have no effect. Without it the seed is fixed, as tests want it.
pub fn seed(seed: [u64; 2]) {
    SEED.get_or_init(|| seed);
}

#[inline]
pub(crate) fn hash(member: &[u8]) -> u64 {
    use std::hash::Hasher;
    let [a, b] = *SEED.get().unwrap_or(&[0, 0]);
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(a, b);
    hasher.write(member);
    hasher.finish()
}

fn parts(entry: EntryRef<'_>) -> (&[u8], &[u8]) {
    match entry.value() {
        ValueRef::Str(value) => (entry.key(), value),
        ValueRef::Object(_) => unreachable!("members have plain values"),
    }
}

impl Clone for Members {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        self.iter().for_each(|(member, value)| {
            copy.insert(member, value);
        });
        copy
    }
}

impl Members {
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn get(&self, member: &[u8]) -> Option<&[u8]> {
        self.table.find(hash(member), member).map(|place| parts(self.table.at(place)).1)
    }

    pub fn contains(&self, member: &[u8]) -> bool {
        self.table.find(hash(member), member).is_some()
    }

    /// Adds a member or gives it a new value; `true` if it is new.
    pub fn insert(&mut self, member: &[u8], value: &[u8]) -> bool {
        let h = hash(member);
        match self.table.find(h, member) {
            Some(place) => {
                self.table.at_mut(place).set_str(value);
                false
            }
            None => {
                self.table.insert(h, Slot::new_str(table::tag(h), member, value, None), hash);
                true
            }
        }
    }

    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self.table.find(hash(member), member) {
            Some(place) => {
                drop(self.table.remove(place));
                true
            }
            None => false,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.table.iter().map(parts)
    }

    /// Visits positions from `cursor` until `count` members were seen; returns the next cursor, 0 at the end. A member
    /// that is there throughout is seen at least once however the table grows.
    pub fn scan(&self, cursor: u64, count: usize, f: &mut impl FnMut(&[u8], &[u8])) -> u64 {
        let mut position = Some(Cursor::from_bits(cursor));
        let mut seen = 0;
        while let Some(at) = position {
            position = self.table.peek_at(at, |entry| {
                seen += 1;
                let (member, value) = parts(entry);
                f(member, value);
            });
            if seen >= count {
                break;
            }
        }
        position.map_or(0, Cursor::bits)
    }

    pub fn random(&self, rng: &mut Rng) -> Option<(&[u8], &[u8])> {
        if self.is_empty() {
            return None;
        }
        let mut position = Some(Cursor::from_bits(rng.next_u64()));
        loop {
            let at = position.unwrap_or_default();
            let mut here = Vec::new();
            let next = self.table.peek_at(at, |entry| here.push(entry));
            if !here.is_empty() {
                return Some(parts(here[rng.below(here.len())]));
            }
            position = next;
        }
    }
}
