//! Sorted sets that are not small: members in a [`Slab`], an [`Index`] of them by hash and a [`Tree`] of them in order.
//! About 70 bytes a member of up to 22 bytes.

use std::ops::Range;

use super::super::members::hash;
use super::index::Index;
use super::slab::Slab;
use super::tree::{Key, Tree};
use crate::Rng;

/// See the head of this file. A member is in all three parts or in none.
#[derive(Debug, Clone, Default)]
pub struct Full {
    members: Slab,
    index: Index,
    order: Tree,
}

impl Full {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.index.find(hash, |id| self.members.name(id) == name)
    }

    /// Asks for the member that probably has this hash. Calls for several members overlap their waits.
    #[inline]
    pub(in crate::types) fn prefetch(&self, hash: u64) {
        if let Some(id) = self.index.find(hash, |_| true) {
            self.members.prefetch(id);
        }
    }

    pub(super) fn score(&self, name: &[u8]) -> Option<f64> {
        self.find(hash(name), name).map(|id| self.members.score(id))
    }

    /// `decide` gets the member's score, if it is there, and says which it is to have; `None`: no change.
    pub(super) fn update(&mut self, name: &[u8], decide: impl FnOnce(Option<f64>) -> Option<f64>) {
        let hash = hash(name);
        match self.find(hash, name) {
            Some(id) => {
                let old = self.members.score(id);
                if let Some(score) = decide(Some(old)).filter(|score| score.to_bits() != old.to_bits()) {
                    self.rescore(id, name, score);
                }
            }
            None => {
                if let Some(score) = decide(None) {
                    self.add(hash, name, score);
                }
            }
        }
    }

    /// Adds a member that is not there.
    fn add(&mut self, hash: u64, name: &[u8], score: f64) {
        let Self { members, index, order } = self;
        let id = members.insert(name, score);
        index.insert(hash, id);
        order.insert(Key { score, name, members }, id);
    }

    fn rescore(&mut self, id: u32, name: &[u8], score: f64) {
        let Self { members, order, .. } = self;
        let old = Key { score: members.score(id), name, members };
        order.rescore(old, score, id);
        members.set_score(id, score);
    }

    /// Removes a member; returns its score.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<f64> {
        let hash = hash(name);
        let id = self.find(hash, name)?;
        let Self { members, index, order } = self;
        let score = members.score(id);
        order.remove(Key { score, name, members });
        index.remove(hash, id);
        members.remove(id);
        self.give_back(1);
        Some(score)
    }

    pub(super) fn remove_ranks(&mut self, ranks: Range<usize>) {
        let n = ranks.len();
        let Self { members, index, order } = self;
        order.remove_ranks(ranks, |id| {
            index.remove(hash(members.name(id)), id);
            members.remove(id);
        });
        self.give_back(n);
    }

    /// After `removed` removals: two members move for each, so that memory follows the number of members down.
    fn give_back(&mut self, removed: usize) {
        for _ in 0..2 * removed {
            let Self { members, index, order } = self;
            let Some((from, to)) = members.surplus() else { return };
            let (name, score) = members.get(from).expect("the highest number is in use");
            order.renumber(Key { score, name, members }, from, to);
            index.renumber(hash(name), from, to);
            members.relocate(from, to);
        }
    }

    pub(super) fn rank(&self, name: &[u8]) -> Option<usize> {
        let score = self.score(name)?;
        Some(self.order.rank(Key { score, name, members: &self.members }))
    }

    pub(super) fn count_scores(&self, before: impl Fn(f64) -> bool) -> usize {
        self.order.partition_point(|score, _| before(score))
    }

    pub(super) fn count_members(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        self.order.partition_point(|_, id| before(self.members.name(id)))
    }

    pub(super) fn for_each(&self, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
        self.order.for_each(ranks, |score, id| f(self.members.name(id), score));
    }

    pub(super) fn for_each_rev(&self, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
        self.order.for_each_rev(ranks, |score, id| f(self.members.name(id), score));
    }

    /// Visits `count` numbers below `cursor` (0: from the top) downwards; returns the next cursor, 0 at the end.
    /// Members move only to lower numbers, so one that is there throughout is seen.
    pub(super) fn scan(&self, cursor: u64, count: usize, mut f: impl FnMut(&[u8], f64)) -> u64 {
        let end = self.members.end();
        let top = usize::try_from(cursor).ok().filter(|&c| c > 0 && c < end).unwrap_or(end);
        let bottom = top.saturating_sub(count.max(1));
        (bottom..top).rev().filter_map(|id| self.members.get(id as u32)).for_each(|(name, score)| f(name, score));
        bottom as u64
    }

    /// A member chosen at random; there is one.
    pub(super) fn random(&self, rng: &mut Rng) -> (&[u8], f64) {
        // At least half of the numbers are in use once there are many.
        loop {
            if let Some(found) = self.members.get(rng.below(self.members.end()) as u32) {
                return found;
            }
        }
    }
}

#[cfg(test)]
impl Full {
    pub(super) fn check(&self) {
        self.order.check();
        let mut seen = 0;
        self.for_each(0..usize::MAX, |name, score| {
            assert_eq!(self.score(name), Some(score));
            seen += 1;
        });
        assert_eq!(seen, self.len());
        seen = 0;
        let mut cursor = self.scan(0, 7, |_, _| seen += 1);
        while cursor != 0 {
            cursor = self.scan(cursor, 7, |_, _| seen += 1);
        }
        assert_eq!(seen, self.len());
    }

    pub(super) fn fill(&self) -> f64 {
        self.order.fill()
    }

    pub(super) fn numbers(&self) -> usize {
        self.members.end()
    }
}
