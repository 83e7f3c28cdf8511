//! Sorted sets: a listpack of members and scores while small, then [`full::Full`]: a table of members with a counted
//! tree over them. Every rank, score or member range is found in logarithmic time.

pub(super) mod full;
mod index;
mod packed;
mod slab;
mod tree;

use std::ops::Range;

use super::Kind;
use super::listpack::Listpack;
use crate::{Limits, Rng};
use full::Full;

#[derive(Debug, Clone)]
pub enum ZSet {
    /// Members and scores alternate, in order.
    Packed(Listpack),
    Full(Box<Full>),
}

impl Kind for ZSet {
    const TYPE: &'static str = "zset";

    fn new(limits: &Limits) -> Self {
        if limits.zset_max_listpack_entries == 0 {
            ZSet::Full(Box::default())
        } else {
            ZSet::Packed(Listpack::default())
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            ZSet::Packed(list) => list.is_empty(),
            ZSet::Full(full) => full.len() == 0,
        }
    }

    fn encoding(&self) -> &'static str {
        match self {
            ZSet::Packed(_) => "listpack",
            ZSet::Full(_) => "skiplist",
        }
    }

    crate::kind_of_object!(ZSet);
}

#[expect(clippy::len_without_is_empty, reason = "`Kind` has it")]
impl ZSet {
    pub fn len(&self) -> usize {
        match self {
            ZSet::Packed(list) => list.len() / 2,
            ZSet::Full(full) => full.len(),
        }
    }

    /// An empty set that is not packed, whatever the limits: for a result that is put together member by member.
    pub fn unpacked() -> Self {
        ZSet::Full(Box::default())
    }

    /// The same set packed, if the limits allow it.
    pub fn pack(self, limits: &Limits) -> Self {
        let ZSet::Full(full) = &self else { return self };
        if full.len() > limits.zset_max_listpack_entries {
            return self;
        }
        let (mut list, mut fits) = (Listpack::default(), true);
        full.for_each(0..full.len(), |member, score| {
            fits &= member.len() <= limits.zset_max_listpack_value && list.has_room(member.len() + 32);
            if fits {
                packed::push_back(&mut list, member, score);
            }
        });
        if fits { ZSet::Packed(list) } else { self }
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            ZSet::Packed(list) => packed::find(list, member).map(|(_, score)| score),
            ZSet::Full(full) => full.score(member),
        }
    }

    /// Adds a member or changes its score (not NaN); `true` if it is new.
    pub fn insert(&mut self, member: &[u8], score: f64, limits: &Limits) -> bool {
        let mut new = false;
        self.update(member, limits, |old| {
            new = old.is_none();
            Some(score)
        });
        new
    }

    /// `decide` gets the member's score, if it is there, and says which it is to have (not NaN); `None`: no change.
    pub fn update(&mut self, member: &[u8], limits: &Limits, decide: impl FnOnce(Option<f64>) -> Option<f64>) {
        match self {
            ZSet::Packed(list) => {
                let found = packed::find(list, member);
                let old = found.map(|(_, score)| score);
                let Some(score) = decide(old).filter(|&score| old != Some(score)) else { return };
                if let Some((pos, _)) = found {
                    list.remove(pos, 2);
                } else if list.len() / 2 >= limits.zset_max_listpack_entries
                    || member.len() > limits.zset_max_listpack_value
                    || !list.has_room(member.len() + 32)
                {
                    self.unpack().update(member, |_| Some(score));
                    return;
                }
                packed::insert(list, member, score);
            }
            ZSet::Full(full) => full.update(member, decide),
        }
    }

    fn unpack(&mut self) -> &mut Full {
        if let ZSet::Packed(list) = self {
            let mut full = Box::<Full>::default();
            packed::for_each(list, 0..list.len() / 2, |member, score| full.update(member, |_| Some(score)));
            *self = ZSet::Full(full);
        }
        match self {
            ZSet::Full(full) => full,
            ZSet::Packed(_) => unreachable!("it was unpacked above"),
        }
    }

    /// Removes a member; returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match self {
            ZSet::Packed(list) => {
                let (pos, score) = packed::find(list, member)?;
                list.remove(pos, 2);
                Some(score)
            }
            ZSet::Full(full) => full.remove(member),
        }
    }

    /// Removes the members of a range of ranks.
    pub fn remove_ranks(&mut self, ranks: Range<usize>) {
        match self {
            ZSet::Packed(list) => {
                if let Some(pos) = list.nth(ranks.start * 2) {
                    list.remove(pos, ranks.len() * 2);
                }
            }
            ZSet::Full(full) => full.remove_ranks(ranks),
        }
    }

    /// Position of the member in order.
    pub fn rank(&self, member: &[u8]) -> Option<usize> {
        match self {
            ZSet::Packed(list) => packed::rank(list, member),
            ZSet::Full(full) => full.rank(member),
        }
    }

    /// Number of leading members whose score is `before`: it must hold for all lower scores too.
    pub fn count_scores(&self, before: impl Fn(f64) -> bool) -> usize {
        match self {
            ZSet::Packed(list) => packed::count_scores(list, before),
            ZSet::Full(full) => full.count_scores(before),
        }
    }

    /// The same by member, for a set whose members all have the same score: else the answer means nothing.
    pub fn count_members(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        match self {
            ZSet::Packed(list) => packed::count_members(list, before),
            ZSet::Full(full) => full.count_members(before),
        }
    }

    /// Calls `f` for the members of a range of ranks, in order.
    pub fn for_each(&self, ranks: Range<usize>, f: impl FnMut(&[u8], f64)) {
        match self {
            ZSet::Packed(list) => packed::for_each(list, ranks, f),
            ZSet::Full(full) => full.for_each(ranks, f),
        }
    }

    /// The same from the highest rank of the range to the lowest.
    pub fn for_each_rev(&self, ranks: Range<usize>, f: impl FnMut(&[u8], f64)) {
        match self {
            ZSet::Packed(list) => packed::for_each_rev(list, ranks, f),
            ZSet::Full(full) => full.for_each_rev(ranks, f),
        }
    }

    /// One ZSCAN call: a member that is there from the first call to the last is seen at least once. A packed set is
    /// returned whole.
    pub fn scan(&self, cursor: u64, count: usize, f: impl FnMut(&[u8], f64)) -> u64 {
        match self {
            ZSet::Packed(_) => {
                self.for_each(0..self.len(), f);
                0
            }
            ZSet::Full(full) => full.scan(cursor, count, f),
        }
    }

    /// A member chosen at random; `None` if there is none.
    pub fn random<R>(&self, rng: &mut Rng, f: impl FnOnce(&[u8], f64) -> R) -> Option<R> {
        match self {
            ZSet::Packed(list) if list.is_empty() => None,
            ZSet::Packed(list) => {
                let rank = rng.below(list.len() / 2);
                let (mut f, mut result) = (Some(f), None);
                packed::for_each(list, rank..rank + 1, |name, score| result = f.take().map(|f| f(name, score)));
                result
            }
            ZSet::Full(full) if full.len() == 0 => None,
            ZSet::Full(full) => {
                let (name, score) = full.random(rng);
                Some(f(name, score))
            }
        }
    }
}

#[cfg(test)]
mod tests;
