//! Sorted sets: a listpack of members and scores while small, then members in a slab, a hash index of their numbers,
//! and an ordered sequence of (score, number).

use std::cmp::Ordering;
use std::ops::Range;

use hashbrown::HashTable;

use super::Kind;
use super::listpack::Listpack;
use super::members::hash;
use crate::{Limits, Rng};

#[derive(Debug, Clone)]
pub enum ZSet {
    /// Members and scores alternate, in order.
    Packed(Listpack),
    Full(Box<Full>),
}

/// Members that are not few. About 75 bytes a member of 16.
#[derive(Debug, Clone, Default)]
pub struct Full {
    /// By number; a free number has an empty member and is in `free`.
    slab: Vec<Option<Member>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    order: Order,
}

#[derive(Debug, Clone)]
struct Member {
    score: f64,
    name: Box<[u8]>,
}

/// All numbers in order of (score, member): chunks of up to [`CHUNK`] entries, with the first entry and the length of
/// each chunk beside each other, so that both a search and a rank read little memory. Scores stand in the chunks;
/// members are looked at only where scores are equal.
#[derive(Debug, Clone, Default)]
struct Order {
    chunks: Vec<Chunk>,
    firsts: Vec<(f64, u32)>,
    counts: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    scores: Vec<f64>,
    ids: Vec<u32>,
}

const CHUNK: usize = 256;

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
        self.len() == 0
    }

    fn encoding(&self) -> &'static str {
        match self {
            ZSet::Packed(_) => "listpack",
            ZSet::Full(_) => "skiplist",
        }
    }

    crate::kind_of_object!(ZSet);
}

/// A score as Redis stores it in a listpack: an integer where it is one, else `%.17g`.
pub fn score_text(score: f64) -> Vec<u8> {
    let mut text = Vec::with_capacity(24);
    resp::number::format_f64(score, &mut text);
    text
}

fn packed_score(item: super::listpack::Item<'_>) -> f64 {
    match item {
        super::listpack::Item::Int(n) => n as f64,
        super::listpack::Item::Str(text) => crate::parse::float_or_none(text).unwrap_or(0.0),
    }
}

fn compare(a: (f64, &[u8]), b: (f64, &[u8])) -> Ordering {
    a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(b.1))
}

impl ZSet {
    pub fn len(&self) -> usize {
        match self {
            ZSet::Packed(list) => list.len() / 2,
            ZSet::Full(full) => full.index.len(),
        }
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            ZSet::Packed(list) => list.find(member, 2).and_then(|p| list.next(p)).map(|p| packed_score(list.get(p))),
            ZSet::Full(full) => full.find(member).map(|id| full.member(id).score),
        }
    }

    /// Adds a member or changes its score (not NaN); `true` if it is new.
    pub fn insert(&mut self, member: &[u8], score: f64, limits: &Limits) -> bool {
        let new = self.remove(member).is_none();
        if let ZSet::Packed(list) = self {
            if list.len() / 2 < limits.zset_max_listpack_entries && member.len() <= limits.zset_max_listpack_value {
                let text = score_text(score);
                let mut at = list.first();
                while let Some(pos) = at {
                    let value = list.next(pos).expect("members and scores come in pairs");
                    let name = list.get(pos).bytes();
                    if compare((packed_score(list.get(value)), &name), (score, member)) == Ordering::Greater {
                        drop(name);
                        list.insert(pos, &text);
                        list.insert(pos, member);
                        return new;
                    }
                    drop(name);
                    at = list.next(value);
                }
                list.push_back(member);
                list.push_back(&text);
                return new;
            }
            self.unpack();
        }
        if let ZSet::Full(full) = self {
            full.insert(member, score);
        }
        new
    }

    fn unpack(&mut self) {
        if let ZSet::Packed(list) = self {
            let mut full = Full::default();
            list.pairs().for_each(|(member, score)| full.insert(&member.bytes(), packed_score(score)));
            *self = ZSet::Full(Box::new(full));
        }
    }

    /// Removes a member; returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match self {
            ZSet::Packed(list) => {
                let pos = list.find(member, 2)?;
                let score = packed_score(list.get(list.next(pos)?));
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
            ZSet::Packed(list) => list.pairs().position(|(name, _)| name.is(member)),
            ZSet::Full(full) => {
                let id = full.find(member)?;
                Some(full.lower_bound(|score, name| {
                    compare((score, name), (full.member(id).score, member)) == Ordering::Less
                }))
            }
        }
    }

    /// Number of leading members for which `before(score, member)` holds; it must hold for a prefix of the order.
    pub fn partition_point(&self, before: impl Fn(f64, &[u8]) -> bool) -> usize {
        match self {
            ZSet::Packed(list) => {
                list.pairs().take_while(|(name, score)| before(packed_score(*score), &name.bytes())).count()
            }
            ZSet::Full(full) => full.lower_bound(before),
        }
    }

    /// Calls `f` for the members of a range of ranks, in order.
    pub fn for_each(&self, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
        match self {
            ZSet::Packed(list) => list
                .pairs()
                .skip(ranks.start)
                .take(ranks.len())
                .for_each(|(name, score)| f(&name.bytes(), packed_score(score))),
            ZSet::Full(full) => full.for_each(ranks, f),
        }
    }

    /// The same from the highest rank of the range to the lowest.
    pub fn for_each_rev(&self, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
        match self {
            ZSet::Packed(_) => {
                let mut all = Vec::with_capacity(ranks.len());
                self.for_each(ranks, |name, score| all.push((Box::<[u8]>::from(name), score)));
                all.iter().rev().for_each(|(name, score)| f(name, *score));
            }
            ZSet::Full(full) => {
                for rank in ranks.rev() {
                    full.for_each(rank..rank + 1, &mut f);
                }
            }
        }
    }

    /// One ZSCAN call: by slab number, which a member keeps as long as it is there. A packed set is returned whole.
    pub fn scan(&self, cursor: u64, count: usize, mut f: impl FnMut(&[u8], f64)) -> u64 {
        match self {
            ZSet::Packed(_) => {
                self.for_each(0..self.len(), f);
                0
            }
            ZSet::Full(full) => {
                let start = usize::try_from(cursor).unwrap_or(usize::MAX).min(full.slab.len());
                let end = start.saturating_add(count).min(full.slab.len());
                full.slab[start..end].iter().flatten().for_each(|m| f(&m.name, m.score));
                if end == full.slab.len() { 0 } else { end as u64 }
            }
        }
    }

    /// A member chosen at random.
    pub fn random<R>(&self, rng: &mut Rng, f: impl FnOnce(&[u8], f64) -> R) -> Option<R> {
        let rank = rng.below(self.len());
        let (mut f, mut result) = (Some(f), None);
        self.for_each(rank..rank + 1, |name, score| result = f.take().map(|f| f(name, score)));
        result
    }
}

impl Full {
    fn member(&self, id: u32) -> &Member {
        self.slab[id as usize].as_ref().expect("numbers in index and order are taken")
    }

    fn find(&self, member: &[u8]) -> Option<u32> {
        self.index.find(hash(member), |&id| *self.member(id).name == *member).copied()
    }

    fn insert(&mut self, name: &[u8], score: f64) {
        let member = Some(Member { score, name: name.into() });
        let id = match self.free.pop() {
            Some(id) => {
                self.slab[id as usize] = member;
                id
            }
            None => {
                self.slab.push(member);
                self.slab.len() as u32 - 1
            }
        };
        let slab = &self.slab;
        self.index.insert_unique(hash(name), id, |&id| {
            hash(&slab[id as usize].as_ref().expect("numbers in the index are taken").name)
        });
        let (chunk, at) = self.place(score, name);
        self.order.insert(chunk, at, score, id);
    }

    fn remove(&mut self, name: &[u8]) -> Option<f64> {
        let id = self.find(name)?;
        let score = self.member(id).score;
        let (chunk, at) = self.place(score, name);
        self.order.remove(chunk, at..at + 1);
        self.forget(id);
        Some(score)
    }

    /// Frees a number that is no longer in the order.
    fn forget(&mut self, id: u32) {
        let Some(member) = self.slab[id as usize].take() else { return };
        if let Ok(entry) = self.index.find_entry(hash(&member.name), |&other| other == id) {
            entry.remove();
        }
        self.free.push(id);
    }

    /// Where (score, name) is or would be: chunk and index in it.
    fn place(&self, score: f64, name: &[u8]) -> (usize, usize) {
        let before = |s: f64, id: u32| s < score || (s == score && *self.member(id).name < *name);
        let chunk =
            self.order.firsts.partition_point(|&(s, id)| s < score || (s == score && *self.member(id).name <= *name));
        let chunk = chunk.saturating_sub(1);
        let at = match self.order.chunks.get(chunk) {
            Some(c) => {
                let (mut low, mut high) = (0, c.ids.len());
                while low < high {
                    let middle = (low + high) / 2;
                    if before(c.scores[middle], c.ids[middle]) { low = middle + 1 } else { high = middle }
                }
                low
            }
            None => 0,
        };
        (chunk, at)
    }

    fn lower_bound(&self, before: impl Fn(f64, &[u8]) -> bool) -> usize {
        let before = |score: f64, id: u32| before(score, &self.member(id).name);
        let chunk = self.order.firsts.partition_point(|&(score, id)| before(score, id)).saturating_sub(1);
        let ahead: usize = self.order.counts[..chunk.min(self.order.counts.len())].iter().map(|&n| n as usize).sum();
        let within = self.order.chunks.get(chunk).map_or(0, |c| {
            let (mut low, mut high) = (0, c.ids.len());
            while low < high {
                let middle = (low + high) / 2;
                if before(c.scores[middle], c.ids[middle]) { low = middle + 1 } else { high = middle }
            }
            low
        });
        ahead + within
    }

    fn for_each(&self, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
        let (mut skip, mut left) = (ranks.start, ranks.len());
        for (chunk, &count) in self.order.chunks.iter().zip(&self.order.counts) {
            if left == 0 {
                return;
            }
            if skip >= count as usize {
                skip -= count as usize;
                continue;
            }
            for (&score, &id) in chunk.scores[skip..].iter().zip(&chunk.ids[skip..]).take(left) {
                f(&self.member(id).name, score);
                left -= 1;
            }
            skip = 0;
        }
    }

    fn remove_ranks(&mut self, ranks: Range<usize>) {
        let mut left = ranks.len();
        while left > 0 {
            let (mut chunk, mut at) = (0, ranks.start);
            while chunk < self.order.counts.len() && at >= self.order.counts[chunk] as usize {
                at -= self.order.counts[chunk] as usize;
                chunk += 1;
            }
            if chunk == self.order.counts.len() {
                return;
            }
            let end = (at + left).min(self.order.counts[chunk] as usize);
            let ids = self.order.chunks[chunk].ids[at..end].to_vec();
            self.order.remove(chunk, at..end);
            left -= ids.len();
            ids.into_iter().for_each(|id| self.forget(id));
        }
    }
}

impl Order {
    fn insert(&mut self, number: usize, at: usize, score: f64, id: u32) {
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::default());
            self.firsts.push((score, id));
            self.counts.push(0);
        }
        let chunk = &mut self.chunks[number];
        chunk.scores.insert(at, score);
        chunk.ids.insert(at, id);
        self.counts[number] += 1;
        self.firsts[number] = (chunk.scores[0], chunk.ids[0]);
        if chunk.ids.len() >= CHUNK {
            // At the end of everything (members that come in order) the full chunk stays full.
            let keep = if number + 1 == self.chunks.len() && at + 1 == CHUNK { CHUNK - 16 } else { CHUNK / 2 };
            let chunk = &mut self.chunks[number];
            let tail = Chunk { scores: chunk.scores.split_off(keep), ids: chunk.ids.split_off(keep) };
            self.counts[number] = keep as u32;
            self.firsts.insert(number + 1, (tail.scores[0], tail.ids[0]));
            self.counts.insert(number + 1, tail.ids.len() as u32);
            self.chunks.insert(number + 1, tail);
        }
    }

    fn remove(&mut self, number: usize, range: Range<usize>) {
        let chunk = &mut self.chunks[number];
        chunk.scores.drain(range.clone());
        chunk.ids.drain(range);
        self.counts[number] = chunk.ids.len() as u32;
        if chunk.ids.is_empty() {
            self.chunks.remove(number);
            self.firsts.remove(number);
            self.counts.remove(number);
        } else {
            self.firsts[number] = (chunk.scores[0], chunk.ids[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn check(ops: Vec<(u8, u16, i8)>, limits: &Limits) -> Result<(), TestCaseError> {
        let (mut zset, mut model) = (ZSet::new(limits), BTreeMap::<Vec<u8>, f64>::new());
        for (op, name, score) in ops {
            let (name, score) = (format!("m{name}").into_bytes(), f64::from(score) / 4.0);
            let sorted = |model: &BTreeMap<Vec<u8>, f64>| {
                let mut all: Vec<_> = model.iter().map(|(n, s)| (n.clone(), *s)).collect();
                all.sort_by(|a, b| compare((a.1, &a.0), (b.1, &b.0)));
                all
            };
            match op {
                0..=5 => prop_assert_eq!(zset.insert(&name, score, limits), model.insert(name, score).is_none()),
                6 => prop_assert_eq!(zset.remove(&name), model.remove(&name)),
                7 => {
                    let all = sorted(&model);
                    prop_assert_eq!(zset.rank(&name), all.iter().position(|(n, _)| *n == name));
                    let below = all.iter().filter(|(_, s)| *s < score).count();
                    prop_assert_eq!(zset.partition_point(|s, _| s < score), below);
                }
                _ => {
                    let all = sorted(&model);
                    let start = usize::from(name[1]) % (all.len() + 1);
                    let end = (start + 3).min(all.len());
                    zset.remove_ranks(start..end);
                    all[start..end].iter().for_each(|(n, _)| {
                        model.remove(n);
                    });
                }
            }
            let (mut got, mut back) = (Vec::new(), Vec::new());
            zset.for_each(0..zset.len(), |n, s| got.push((n.to_vec(), s)));
            zset.for_each_rev(0..zset.len(), |n, s| back.push((n.to_vec(), s)));
            back.reverse();
            prop_assert_eq!(&got, &sorted(&model));
            prop_assert_eq!(got, back);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_sorted_set_is_a_map_in_order(ops in prop::collection::vec((0u8..10, 0u16..400, any::<i8>()), 1..120)) {
            check(ops.clone(), &Limits::default())?;
            check(ops, &Limits { zset_max_listpack_entries: 0, ..Limits::default() })?;
        }
    }

    #[test]
    fn many_members_in_and_out_of_order_keep_their_ranks() {
        let limits = Limits::default();
        let mut zset = ZSet::new(&limits);
        let n = 20_000u32;
        for i in 0..n {
            let i = i.wrapping_mul(7919) % n;
            zset.insert(format!("{i:06}").as_bytes(), f64::from(i / 3), &limits);
        }
        for i in (0..n).step_by(997) {
            assert_eq!(zset.rank(format!("{i:06}").as_bytes()), Some(i as usize));
        }
        zset.remove_ranks(10..n as usize - 10);
        assert_eq!(zset.len(), 20);
        assert_eq!(zset.rank(format!("{:06}", n - 1).as_bytes()), Some(19));
    }
}
