//! A table of members, each with bytes of its own: what large hashes and sets are made of. The keyspace's table with
//! its thin entries serves here too: growth is bounded by a segment, and a scan never misses what was there throughout.

use std::hash::BuildHasherDefault;

use hashbrown::HashSet;
use siphasher::sip::SipHasher13;

use crate::Rng;
use crate::keyspace::entry::{EntryRef, Slot, ValueRef};
use crate::keyspace::table::{self, Ahead, Cursor, Table};

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
    let mut hasher = SipHasher13::new_with_keys(a, b);
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

    /// Bytes of the table without the members.
    pub fn table_bytes(&self) -> usize {
        self.table.overhead()
    }

    #[inline]
    pub(super) fn ahead(&self, member: &[u8]) -> Option<Ahead<'_>> {
        self.table.ahead(hash(member))
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

    /// A member, each with the same chance.
    pub fn random(&self, rng: &mut Rng) -> Option<(&[u8], &[u8])> {
        self.table.random(rng).map(parts)
    }

    /// Calls `f` for `n` different members chosen at random, at most all.
    pub fn random_distinct(&self, n: usize, rng: &mut Rng, mut f: impl FnMut(&[u8], &[u8])) {
        // Few of many are drawn until enough are different; many of few are chosen in one pass over all.
        const MANY: usize = 3;
        if n.saturating_mul(MANY) > self.len() {
            let mut sample = Sample::new(n, self.len());
            self.iter().filter(|_| sample.takes(rng)).for_each(|(member, value)| f(member, value));
            return;
        }
        let mut drawn: HashSet<*const u8, BuildHasherDefault<SipHasher13>> = HashSet::default();
        while drawn.len() < n {
            let Some((member, value)) = self.random(rng) else { return };
            // Members do not move as long as the table is borrowed: the address stands for the member.
            if drawn.insert(member.as_ptr()) {
                f(member, value);
            }
        }
    }
}

/// Chooses some of a sequence in one pass over it, every subset of that size with the same chance.
#[derive(Debug)]
pub(super) struct Sample {
    wanted: usize,
    left: usize,
}

impl Sample {
    /// `wanted` of `len`; all if that is more.
    pub(super) fn new(wanted: usize, len: usize) -> Self {
        Self { wanted: wanted.min(len), left: len }
    }

    /// Called once for each of the sequence: whether it is chosen.
    pub(super) fn takes(&mut self, rng: &mut Rng) -> bool {
        let taken = self.wanted > 0 && (self.wanted == self.left || rng.below(self.left) < self.wanted);
        self.wanted -= usize::from(taken);
        self.left -= 1;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn of(n: u32) -> Members {
        let mut members = Members::default();
        (0..n).for_each(|i| {
            members.insert(&i.to_be_bytes(), b"");
        });
        members
    }

    proptest! {
        #[test]
        fn members_are_a_map(ops in prop::collection::vec((0u8..4, 0u16..600, "[a-z]{0,300}"), 1..400)) {
            let (mut members, mut model) = (Members::default(), BTreeMap::<Vec<u8>, Vec<u8>>::new());
            for (op, name, value) in ops {
                let (name, value) = (name.to_string().into_bytes(), value.into_bytes());
                match op {
                    0 => prop_assert_eq!(members.remove(&name), model.remove(&name).is_some()),
                    1 => prop_assert_eq!(members.get(&name), model.get(&name).map(|v| &v[..])),
                    _ => prop_assert_eq!(members.insert(&name, &value), model.insert(name, value).is_none()),
                }
                prop_assert_eq!(members.len(), model.len());
            }
            let all: BTreeMap<_, _> = members.clone().iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(all, model);
        }

        #[test]
        fn a_sample_has_the_wanted_size_and_no_member_twice(n in 0usize..130, len in 0u32..120, seed in any::<u64>()) {
            let (members, mut rng) = (of(len), Rng::new(seed));
            let mut got = Vec::new();
            members.random_distinct(n, &mut rng, |member, _| got.push(member.to_vec()));
            prop_assert_eq!(got.len(), n.min(len as usize));
            prop_assert!(got.iter().all(|m| members.contains(m)));
            prop_assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), got.len());
        }
    }

    #[test]
    fn a_scan_returns_every_member_that_is_there_throughout() {
        let mut members = of(2_000);
        let (mut seen, mut cursor, mut new) = (BTreeSet::new(), 0, 2_000u32);
        loop {
            cursor = members.scan(cursor, 10, &mut |member, _| {
                seen.insert(member.to_vec());
            });
            if cursor == 0 {
                break;
            }
            // The table grows, and those that are not meant to stay go.
            for _ in 0..20 {
                members.insert(&new.to_be_bytes(), b"");
                new += 1;
            }
            members.remove(&(new - 7).to_be_bytes());
        }
        assert!((0..2_000u32).all(|i| seen.contains(&i.to_be_bytes()[..])));
        assert!(new > 4_000, "the table grew while it was scanned");
    }

    #[test]
    fn every_member_can_be_drawn_and_every_one_can_be_left_out() {
        let (members, mut rng) = (of(50), Rng::new(7));
        let (mut drawn, mut sampled) = (BTreeMap::<Vec<u8>, u32>::new(), BTreeMap::<Vec<u8>, u32>::new());
        for _ in 0..2_000 {
            *drawn.entry(members.random(&mut rng).expect("it is not empty").0.to_vec()).or_default() += 1;
            members.random_distinct(25, &mut rng, |m, _| *sampled.entry(m.to_vec()).or_default() += 1);
        }
        assert_eq!((drawn.len(), sampled.len()), (50, 50));
        // Half of 2,000 each, give or take five standard deviations of 22.
        assert!(sampled.values().all(|n| (890..1110).contains(n)), "{sampled:?}");
    }
}
