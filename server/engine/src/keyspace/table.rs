//! The table of one database in one shard: an extendible hash table of small segments ordered by hash prefix.
//!
//! ```text
//! hash bits   63 ………………… 32   31 … 26   25 … 16   15 ………………… 0
//!             directory prefix            shard      tag: low 6 bits = home bucket, all 16 stored in the slot
//! ```
//!
//! A segment has 64 buckets of 8 slots (one cache line each). An entry lies in its home bucket, in the bucket behind
//! it, or in the segment's overflow list - so a visit of a *home position* looks at three places and finds everything.
//! A full segment splits in two by the next bit of the prefix, and two halves that are nearly empty become one again:
//! the cost of growing and of shrinking is bounded by one segment, there is no rehash of the whole.
//!
//! [`Cursor`] is a position in hash order (prefix, then home bucket), with the depth of the segment that it lies in. A
//! split moves no entry to an earlier position. Where segments were merged since, the visit begins again at the first
//! bucket of what they became: what was the upper one has entries in buckets that have been passed in the lower one. So
//! SCAN, the snapshot and active expiry, which all go by cursor, may see an entry twice but never miss one.

use super::entry::{EntryMut, EntryRef, Slot, ValueRef, prefetch};
use super::pieces::Pieces;
use crate::Rng;
use crate::types::Object;

const BUCKETS: usize = 64;
const SLOTS: usize = 8;
/// A segment splits when more entries than this found no place in their two buckets.
const OVERFLOW_MAX: usize = 12;
/// Two halves with so many entries at most become one segment, a quarter full: it does not split again soon.
const MERGE_MAX: u32 = 128;
/// Splits end here, so that keys of equal hash prefix (an attack, or one in 2^20 segments) grow an overflow list
/// instead of doubling the directory for ever.
const DEPTH_MAX: u32 = 24;

type Bucket = [Option<Slot>; SLOTS];

#[repr(align(64))]
struct Buckets([Bucket; BUCKETS]);

struct Segment {
    buckets: Box<Buckets>,
    overflow: Vec<Slot>,
    /// Leading prefix bits that all entries share, and the first prefix that has them.
    depth: u32,
    prefix: u32,
    len: u32,
    expiring: u32,
}

impl Segment {
    fn new(depth: u32, prefix: u32) -> Self {
        let buckets = Box::new(Buckets(std::array::from_fn(|_| [const { None }; SLOTS])));
        Self { buckets, overflow: Vec::new(), depth, prefix, len: 0, expiring: 0 }
    }
}

impl Segment {
    /// The position behind this bucket: the next one, or the next segment.
    fn next_position(&self, bucket: usize) -> Option<Cursor> {
        let more = self.len > 0 && bucket + 1 < BUCKETS;
        if more { Some(Cursor::new(self.prefix, bucket + 1, self.depth)) } else { self.behind() }
    }

    /// The first position behind this segment.
    fn behind(&self) -> Option<Cursor> {
        let next = u64::from(self.prefix) + (1 << (32 - self.depth));
        u32::try_from(next).ok().map(|prefix| Cursor::new(prefix, 0, 0))
    }

    /// The bucket of a cursor that lies in this segment.
    fn bucket(&self, cursor: Cursor) -> usize {
        if self.depth < cursor.depth() { 0 } else { cursor.bucket() }
    }

    /// Puts an entry in; it is one more.
    fn add(&mut self, slot: Slot) {
        self.len += 1;
        self.expiring += u32::from(slot.get().expires_ms().is_some());
        match free_slot(self, home(slot.tag())) {
            Some((bucket, i)) => self.buckets.0[bucket][i] = Some(slot),
            None => self.overflow.push(slot),
        }
    }

    fn into_slots(self) -> impl Iterator<Item = Slot> {
        self.buckets.0.into_iter().flatten().flatten().chain(self.overflow)
    }
}

/// Where an entry lies; valid until the table changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    segment: u32,
    /// Bucket, or BUCKETS for the overflow list.
    bucket: u16,
    slot: u16,
}

/// The slots of a bucket that may hold an entry of this tag, see [`Slot::may_have`]. Where an entry lies among eight cannot
/// be foretold: there is no branch for each.
#[inline]
fn candidates(bucket: &Bucket, tag: u16) -> impl Iterator<Item = (usize, &Slot)> {
    let each = bucket.iter().enumerate();
    let mut mask = each.fold(0u8, |mask, (i, slot)| mask | u8::from(Slot::may_have(slot.as_ref(), tag)) << i);
    std::iter::from_fn(move || {
        let i = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(i)
    })
    .filter_map(|i| Some((i, bucket[i].as_ref()?)))
}

/// An entry that is about to be looked for, step by step: what each asks for should be at hand before the next, so that
/// the waits for several of them overlap.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'t> {
    bucket: &'t Bucket,
    tag: u16,
    /// Where it lies if not in this bucket.
    next: Option<&'t Bucket>,
}

impl<'t> Ahead<'t> {
    #[inline]
    fn new(bucket: &'t Bucket, tag: u16, next: Option<&'t Bucket>) -> Self {
        prefetch(bucket);
        Self { bucket, tag, next }
    }

    /// Asks for the entry that is probably the one: the key itself is not compared.
    #[inline]
    pub(crate) fn entry(&self) -> Option<Likely<'t>> {
        let (_, slot) = candidates(self.bucket, self.tag).next()?;
        slot.prefetch();
        Some(Likely(slot))
    }

    /// Where there is none: asks for the next bucket.
    #[inline]
    pub(crate) fn elsewhere(self) -> Option<Ahead<'t>> {
        Some(Ahead::new(self.next?, self.tag, None))
    }
}

/// Probably the entry.
#[derive(Clone, Copy)]
pub(crate) struct Likely<'t>(&'t Slot);

impl<'t> Likely<'t> {
    /// Asks for the collection that it holds, if it does.
    #[inline]
    pub(crate) fn object(self) -> Option<&'t Object> {
        let ValueRef::Object(object) = self.0.get().value() else { return None };
        prefetch(object);
        Some(object)
    }
}

/// A position in hash order. 0 is the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cursor(u64);

const DEPTH_BITS: u32 = DEPTH_MAX.next_power_of_two().ilog2();

impl Cursor {
    pub const BITS: u32 = 32 + BUCKETS.ilog2() + DEPTH_BITS;

    fn new(prefix: u32, bucket: usize, depth: u32) -> Self {
        Self(((u64::from(prefix) << BUCKETS.ilog2()) | bucket as u64) << DEPTH_BITS | u64::from(depth))
    }

    pub fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    fn prefix(self) -> u32 {
        (self.0 >> (BUCKETS.ilog2() + DEPTH_BITS)) as u32
    }

    fn bucket(self) -> usize {
        (self.0 >> DEPTH_BITS) as usize % BUCKETS
    }

    /// Of the segment when the cursor was made.
    fn depth(self) -> u32 {
        self.0 as u32 & ((1 << DEPTH_BITS) - 1)
    }
}

#[inline]
fn prefix(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[inline]
pub(crate) fn tag(hash: u64) -> u16 {
    hash as u16
}

#[inline]
fn home(tag: u16) -> usize {
    tag as usize % BUCKETS
}

#[derive(Default)]
pub struct Table {
    /// 2^depth segment numbers by prefix; empty as long as the table is.
    directory: Box<[u32]>,
    segments: Pieces<Segment>,
    depth: u8,
    /// Segments of that depth; the directory halves where there are none.
    deepest: u32,
    len: usize,
    expiring: usize,
    /// Some overflow list has been longer than [`OVERFLOW_MAX`].
    crowded: bool,
}

const _: () = assert!(size_of::<Table>() == 64, "a table is no more than a cache line");

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("len", &self.len).field("segments", &self.segments.len()).finish()
    }
}

impl Table {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that have an expiry.
    pub fn expiring(&self) -> usize {
        self.expiring
    }

    /// Bytes of directory and segments, without the entries.
    pub fn overhead(&self) -> usize {
        self.directory.len() * size_of::<u32>()
            + self.segments.bytes()
            + self.segments.len() * size_of::<Buckets>()
            + self.segments.iter().map(|s| s.overflow.capacity() * size_of::<Slot>()).sum::<usize>()
    }

    fn depth(&self) -> u32 {
        u32::from(self.depth)
    }

    #[inline]
    fn segment_of(&self, prefix: u32) -> Option<usize> {
        // A shift by 32 (depth 0) is out of range for u32: go through u64.
        let at = (u64::from(prefix) << self.depth >> 32) as usize;
        self.directory.get(at).map(|&n| n as usize)
    }

    /// Looks ahead to the entry of this hash: asks for the bucket in which it probably lies.
    #[inline]
    pub(crate) fn ahead(&self, hash: u64) -> Option<Ahead<'_>> {
        let buckets = &self.segments[self.segment_of(prefix(hash))?].buckets.0;
        let tag = tag(hash);
        Some(Ahead::new(&buckets[home(tag)], tag, Some(&buckets[(home(tag) + 1) % BUCKETS])))
    }

    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        self.find_entry(hash, key).map(|(place, _)| place)
    }

    /// Where the entry of this key is, and itself.
    #[inline]
    pub fn find_entry(&self, hash: u64, key: &[u8]) -> Option<(Place, EntryRef<'_>)> {
        let number = self.segment_of(prefix(hash))?;
        let segment = &self.segments[number];
        let tag = tag(hash);
        for bucket in [home(tag), (home(tag) + 1) % BUCKETS] {
            for (i, slot) in candidates(&segment.buckets.0[bucket], tag) {
                if slot.get().has_key(key) {
                    return Some((Place { segment: number as u32, bucket: bucket as u16, slot: i as u16 }, slot.get()));
                }
            }
        }
        let i = segment.overflow.iter().position(|slot| slot.tag() == tag && slot.get().has_key(key))?;
        let place = Place { segment: number as u32, bucket: BUCKETS as u16, slot: i as u16 };
        Some((place, segment.overflow[i].get()))
    }

    #[inline]
    fn slot(&self, place: Place) -> &Slot {
        let segment = &self.segments[place.segment as usize];
        if place.bucket as usize == BUCKETS {
            &segment.overflow[place.slot as usize]
        } else {
            segment.buckets.0[place.bucket as usize][place.slot as usize].as_ref().expect("a place holds an entry")
        }
    }

    #[inline]
    fn slot_mut(&mut self, place: Place) -> &mut Slot {
        let segment = &mut self.segments[place.segment as usize];
        if place.bucket as usize == BUCKETS {
            &mut segment.overflow[place.slot as usize]
        } else {
            segment.buckets.0[place.bucket as usize][place.slot as usize].as_mut().expect("a place holds an entry")
        }
    }

    #[inline]
    pub fn at(&self, place: Place) -> EntryRef<'_> {
        self.slot(place).get()
    }

    /// The entry, to be changed; its expiry is changed by [`Table::set_expires_ms`], which counts.
    #[inline]
    pub fn at_mut(&mut self, place: Place) -> EntryMut<'_> {
        self.slot_mut(place).get_mut()
    }

    fn count_expiring(&mut self, segment: u32, before: bool, after: bool) {
        let delta = i32::from(after) - i32::from(before);
        self.expiring = self.expiring.wrapping_add_signed(delta as isize);
        let count = &mut self.segments[segment as usize].expiring;
        *count = count.wrapping_add_signed(delta);
    }

    pub fn set_expires_ms(&mut self, place: Place, expires_ms: Option<u64>) {
        let before = self.at(place).expires_ms().is_some();
        self.at_mut(place).set_expires_ms(expires_ms);
        self.count_expiring(place.segment, before, expires_ms.is_some());
    }

    /// Puts a new entry in the place of an old one of the same key; returns the old.
    pub fn replace(&mut self, place: Place, slot: Slot) -> Slot {
        let before = self.at(place).expires_ms().is_some();
        let after = slot.get().expires_ms().is_some();
        let old = std::mem::replace(self.slot_mut(place), slot);
        self.count_expiring(place.segment, before, after);
        old
    }

    /// Adds an entry whose key is not in the table; `hash` is its key's and the slot was made with [`tag`] of it.
    /// `rehash` gives any key's hash, for splits.
    pub fn insert(&mut self, hash: u64, slot: Slot, rehash: impl Fn(&[u8]) -> u64) -> Place {
        if self.directory.is_empty() {
            self.segments.push(Segment::new(0, 0));
            self.directory = Box::new([0]);
        }
        let expires = slot.get().expires_ms().is_some();
        let place = loop {
            let number = self.segment_of(prefix(hash)).expect("the directory covers every prefix");
            let segment = &mut self.segments[number];
            if let Some((bucket, i)) = free_slot(segment, home(slot.tag())) {
                segment.buckets.0[bucket][i] = Some(slot);
                break Place { segment: number as u32, bucket: bucket as u16, slot: i as u16 };
            }
            if segment.overflow.len() < OVERFLOW_MAX || segment.depth >= DEPTH_MAX {
                segment.overflow.push(slot);
                let i = segment.overflow.len() - 1;
                self.crowded |= i >= OVERFLOW_MAX;
                break Place { segment: number as u32, bucket: BUCKETS as u16, slot: i as u16 };
            }
            self.split(number, &rehash);
        };
        self.len += 1;
        self.segments[place.segment as usize].len += 1;
        self.count_expiring(place.segment, false, expires);
        place
    }

    pub fn remove(&mut self, place: Place) -> Slot {
        let segment = &mut self.segments[place.segment as usize];
        let slot = if place.bucket as usize == BUCKETS {
            segment.overflow.swap_remove(place.slot as usize)
        } else {
            segment.buckets.0[place.bucket as usize][place.slot as usize].take().expect("a place holds an entry")
        };
        segment.len -= 1;
        self.len -= 1;
        let few = segment.len <= MERGE_MAX && segment.depth > 0;
        self.count_expiring(place.segment, slot.get().expires_ms().is_some(), false);
        if few {
            self.merge(place.segment as usize);
        }
        slot
    }

    fn split(&mut self, number: usize, rehash: &impl Fn(&[u8]) -> u64) {
        let Segment { depth, prefix: first, .. } = self.segments[number];
        let (depth, middle) = (depth + 1, first | 1 << (31 - depth));
        if depth > self.depth() {
            let mut doubled = Vec::with_capacity(2 * self.directory.len());
            doubled.extend(self.directory.iter().flat_map(|&n| [n, n]));
            self.directory = doubled.into_boxed_slice();
            self.depth += 1;
            self.deepest = 0;
        }
        if depth == self.depth() {
            self.deepest += 2;
        }
        let old = std::mem::replace(&mut self.segments[number], Segment::new(depth, first));
        let sibling = self.segments.len();
        self.segments.push(Segment::new(depth, middle));
        // Each key lies somewhere else in memory: the waits for them overlap.
        old.buckets.0.iter().flatten().flatten().for_each(Slot::prefetch);
        for slot in old.into_slots() {
            let upper = prefix(rehash(slot.get().key())) >= middle;
            let segment = &mut self.segments[if upper { sibling } else { number }];
            segment.add(slot);
            self.crowded |= segment.overflow.len() > OVERFLOW_MAX;
        }
        self.point_to(sibling);
    }

    /// Has the directory say where this segment is.
    fn point_to(&mut self, number: usize) {
        let Segment { depth, prefix, .. } = self.segments[number];
        let first = (u64::from(prefix) << self.depth >> 32) as usize;
        let count = 1 << (self.depth() - depth);
        self.directory[first..first + count].fill(number as u32);
    }

    /// Joins this segment with its other half, and what comes of it with its own, as long as there is so little in them.
    #[cold]
    fn merge(&mut self, mut number: usize) {
        while let Some(half) = self.other_half(number) {
            number = self.join(number, half);
        }
    }

    /// The segment that this one was one with, if they may be one again.
    fn other_half(&self, number: usize) -> Option<usize> {
        let segment = &self.segments[number];
        let bit = 1u32.checked_shl(32 - segment.depth)?;
        let number = self.segment_of(segment.prefix ^ bit)?;
        let other = &self.segments[number];
        (other.depth == segment.depth && other.len + segment.len <= MERGE_MAX).then_some(number)
    }

    /// Makes one segment of two halves; returns its number.
    fn join(&mut self, a: usize, b: usize) -> usize {
        let (low, high) = if self.segments[a].prefix < self.segments[b].prefix { (a, b) } else { (b, a) };
        let last = self.segments.len() - 1;
        let gone = self.segments.swap_remove(high);
        let low = if low == last { high } else { low };
        if high != last {
            self.point_to(high);
        }
        if gone.depth == self.depth() {
            self.deepest -= 2;
        }
        let segment = &mut self.segments[low];
        segment.depth -= 1;
        gone.into_slots().for_each(|slot| segment.add(slot));
        self.crowded |= segment.overflow.len() > OVERFLOW_MAX;
        self.point_to(low);
        while self.deepest == 0 && self.depth > 0 {
            self.directory = self.directory.iter().step_by(2).copied().collect();
            self.depth -= 1;
            self.deepest = self.segments.iter().filter(|segment| segment.depth == self.depth()).count() as u32;
        }
        low
    }

    /// Visits every entry whose home is at `cursor`; returns the next position, `None` at the end. `skip_steady`:
    /// passes over segments without expiring entries at once, and over a table that has none.
    pub fn visit(
        &mut self,
        cursor: Cursor,
        skip_steady: bool,
        mut f: impl FnMut(Place, EntryMut<'_>),
    ) -> Option<Cursor> {
        if skip_steady && self.expiring == 0 {
            return None;
        }
        let number = self.segment_of(cursor.prefix())?;
        let segment = &mut self.segments[number];
        let bucket = segment.bucket(cursor);
        let idle = segment.len == 0 || (skip_steady && segment.expiring == 0);
        if !idle {
            for at in [bucket, (bucket + 1) % BUCKETS] {
                for (i, slot) in segment.buckets.0[at].iter_mut().enumerate() {
                    if let Some(slot) = slot.as_mut().filter(|s| home(s.tag()) == bucket) {
                        let place = Place { segment: number as u32, bucket: at as u16, slot: i as u16 };
                        f(place, slot.get_mut());
                    }
                }
            }
            for (i, slot) in segment.overflow.iter_mut().enumerate().filter(|(_, s)| home(s.tag()) == bucket) {
                f(Place { segment: number as u32, bucket: BUCKETS as u16, slot: i as u16 }, slot.get_mut());
            }
        }
        if idle { segment.behind() } else { segment.next_position(bucket) }
    }

    /// As [`Table::visit`], to look only.
    pub fn peek_at<'t>(&'t self, cursor: Cursor, mut f: impl FnMut(EntryRef<'t>)) -> Option<Cursor> {
        let segment = &self.segments[self.segment_of(cursor.prefix())?];
        let bucket = segment.bucket(cursor);
        if segment.len > 0 {
            let near =
                [bucket, (bucket + 1) % BUCKETS].into_iter().flat_map(|at| segment.buckets.0[at].iter().flatten());
            near.chain(&segment.overflow).filter(|s| home(s.tag()) == bucket).for_each(|s| f(s.get()));
        }
        segment.next_position(bucket)
    }

    /// An entry, each with the same chance.
    pub fn random(&self, rng: &mut Rng) -> Option<EntryRef<'_>> {
        /// Enough for a table that is a tenth full.
        const DRAWS: usize = 32;
        const PLACES: usize = BUCKETS * SLOTS + OVERFLOW_MAX;
        if self.is_empty() {
            return None;
        }
        for _ in 0..if self.crowded { 0 } else { DRAWS } {
            let segment = &self.segments[rng.below(self.segments.len())];
            let place = rng.below(PLACES);
            let slot = match place.checked_sub(BUCKETS * SLOTS) {
                None => segment.buckets.0[place / SLOTS][place % SLOTS].as_ref(),
                Some(i) => segment.overflow.get(i),
            };
            if let Some(slot) = slot {
                return Some(slot.get());
            }
        }
        // Few places are taken: the entry of a random number is looked for.
        let mut number = rng.below(self.len);
        let segment = self.segments.iter().find(|segment| {
            let here = number < segment.len as usize;
            number -= if here { 0 } else { segment.len as usize };
            here
        })?;
        segment.buckets.0.iter().flatten().flatten().chain(&segment.overflow).nth(number).map(Slot::get)
    }

    /// Every entry, in no order that callers may rely on.
    pub fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.segments
            .iter()
            .flat_map(|s| s.buckets.0.iter().flatten().flatten().chain(s.overflow.iter()))
            .map(Slot::get)
    }
}

/// A free slot for an entry of this home: there, behind it, or by moving on one entry that lies behind its place.
fn free_slot(segment: &mut Segment, home_bucket: usize) -> Option<(usize, usize)> {
    let next = (home_bucket + 1) % BUCKETS;
    for bucket in [home_bucket, next] {
        if let Some(i) = segment.buckets.0[bucket].iter().position(Option::is_none) {
            return Some((bucket, i));
        }
    }
    // Both are full: an entry of the second bucket that is at home there may move one on.
    let after = (next + 1) % BUCKETS;
    let free = segment.buckets.0[after].iter().position(Option::is_none)?;
    let i = segment.buckets.0[next].iter().position(|s| s.as_ref().is_some_and(|s| home(s.tag()) == next))?;
    segment.buckets.0[after][free] = segment.buckets.0[next][i].take();
    Some((next, i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn hash(key: &[u8]) -> u64 {
        use std::hash::Hasher;
        let mut hasher = siphasher::sip::SipHasher13::new_with_keys(1, 2);
        hasher.write(key);
        hasher.finish()
    }

    fn put(table: &mut Table, key: &[u8], value: &[u8]) {
        let h = hash(key);
        match table.find(h, key) {
            Some(place) => table.at_mut(place).set_str(value),
            None => {
                table.insert(h, Slot::new_str(tag(h), key, value, None), hash);
            }
        }
    }

    #[test]
    fn a_table_behaves_like_a_map_while_it_grows_and_shrinks() {
        let (mut table, mut model) = (Table::default(), BTreeMap::new());
        for i in 0..60_000u32 {
            let key = format!("key:{}", i.wrapping_mul(2654435761) % 40_000).into_bytes();
            if i % 3 == 0 {
                let gone = table.find(hash(&key), &key).map(|p| table.remove(p));
                assert_eq!(gone.is_some(), model.remove(&key).is_some());
            } else {
                put(&mut table, &key, &i.to_be_bytes());
                model.insert(key, i);
            }
        }
        assert_eq!(table.len(), model.len());
        for (key, value) in &model {
            let place = table.find(hash(key), key).expect("the key is there");
            assert!(matches!(table.at(place).value(), ValueRef::Str(v) if v == value.to_be_bytes()));
        }
        assert_eq!(table.iter().count(), model.len());
    }

    #[test]
    fn a_scan_sees_every_entry_that_is_there_throughout_while_the_table_splits() {
        let mut table = Table::default();
        let steady: Vec<_> = (0..5_000).map(|i| format!("steady:{i}").into_bytes()).collect();
        steady.iter().for_each(|key| put(&mut table, key, b"v"));
        let (mut seen, mut cursor, mut n) = (BTreeSet::new(), Some(Cursor::default()), 0);
        while let Some(at) = cursor {
            cursor = table.visit(at, false, |_, entry| {
                seen.insert(entry.as_ref().key().to_vec());
            });
            for _ in 0..20 {
                n += 1;
                put(&mut table, format!("new:{n}").as_bytes(), b"v");
            }
        }
        assert!(steady.iter().all(|key| seen.contains(key)));
    }

    fn remove(table: &mut Table, key: &[u8]) {
        let place = table.find(hash(key), key).expect("the key is there");
        drop(table.remove(place));
    }

    #[test]
    fn a_table_that_loses_its_entries_gives_its_segments_back() {
        let key = |i: u32| format!("key:{i}").into_bytes();
        let mut table = Table::default();
        (0..200_000).for_each(|i| put(&mut table, &key(i), b"v"));
        for i in (0..200_000).step_by(1_000) {
            let place = table.find(hash(&key(i)), &key(i)).expect("it is there");
            table.set_expires_ms(place, Some(1));
        }
        let full = table.overhead();
        (0..200_000).filter(|i| i % 100 != 0).for_each(|i| remove(&mut table, &key(i)));
        assert_eq!((table.len(), table.expiring()), (2_000, 200));
        assert_eq!(table.segments.iter().map(|s| s.expiring).sum::<u32>(), 200);
        assert!(table.overhead() < full / 20, "{} of {full} bytes", table.overhead());
        assert!((0..200_000).step_by(100).all(|i| table.find(hash(&key(i)), &key(i)).is_some()));
        (0..200_000).filter(|i| i % 100 == 0 && *i > 0).for_each(|i| remove(&mut table, &key(i)));
        assert_eq!((table.segments.len(), table.directory.len(), table.depth), (1, 1, 0));
        assert!(table.find(hash(&key(0)), &key(0)).is_some());
        // And it grows again.
        (0..50_000).for_each(|i| put(&mut table, &key(i), b"w"));
        assert!((0..50_000).all(|i| table.find(hash(&key(i)), &key(i)).is_some()));
        assert_eq!((table.len(), table.iter().count()), (50_000, 50_000));
    }

    #[test]
    fn a_scan_sees_every_entry_that_is_there_throughout_while_segments_merge_and_split() {
        for step in [6, 7, 50] {
            let mut table = Table::default();
            let steady: Vec<_> = (0..400).map(|i| format!("steady:{i}").into_bytes()).collect();
            let going: Vec<_> = (0..60_000).map(|i| format!("going:{i}").into_bytes()).collect();
            steady.iter().chain(&going).for_each(|key| put(&mut table, key, b"v"));
            let segments = table.segments.len();
            let (mut seen, mut cursor, mut visits) = (BTreeSet::new(), Some(Cursor::default()), 0usize);
            let (mut left, mut back) = (going.iter(), 0);
            while let Some(at) = cursor {
                cursor = table.visit(at, false, |_, entry| {
                    seen.insert(entry.as_ref().key().to_vec());
                });
                visits += 1;
                left.by_ref().take(step).for_each(|key| remove(&mut table, key));
                if visits % 3 == 0 && step == 7 {
                    back += 1;
                    put(&mut table, format!("back:{back}").as_bytes(), b"v");
                }
            }
            assert!(steady.iter().all(|key| seen.contains(key)), "{step}");
            assert!(table.segments.len() < segments, "{step}: they merged meanwhile");
            assert!(visits < 4 * 64 * segments, "{step}: it came to its end");
        }
    }

    #[test]
    fn expiring_entries_are_counted_through_splits_and_skipped_when_there_are_none() {
        let mut table = Table::default();
        for i in 0..10_000 {
            let key = format!("k{i}").into_bytes();
            put(&mut table, &key, b"v");
            if i % 10 == 0 {
                let place = table.find(hash(&key), &key).unwrap();
                table.set_expires_ms(place, Some(1));
            }
        }
        assert_eq!(table.expiring(), 1000);
        let mut place = None;
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            cursor = table.visit(at, true, |p, e| {
                if e.as_ref().expires_ms().is_some() {
                    place = Some(p);
                }
            });
        }
        table.set_expires_ms(place.unwrap(), None);
        assert_eq!(table.expiring(), 999);
        let steady = &mut Table::default();
        put(steady, b"k", b"v");
        assert_eq!(steady.visit(Cursor::default(), true, |_, _| panic!("it does not expire")), None);
    }

    #[test]
    fn every_entry_is_drawn_with_the_same_chance_in_a_full_a_sparse_and_a_crowded_table() {
        let full = |n: u32| {
            let mut table = Table::default();
            (0..n).for_each(|i| put(&mut table, &i.to_be_bytes(), b""));
            table
        };
        let mut sparse = full(3_000);
        for i in 20..3_000u32 {
            let place = sparse.find(hash(&i.to_be_bytes()), &i.to_be_bytes()).unwrap();
            drop(sparse.remove(place));
        }
        let mut crowded = full(30);
        for i in 30..100u32 {
            crowded.insert(42, Slot::new_str(tag(42), &i.to_be_bytes(), b"", None), |_| 42);
        }
        for table in [full(20), full(100), full(700), sparse, crowded] {
            let (draws, mut drawn, mut rng) = (400 * table.len(), BTreeMap::<Vec<u8>, i64>::new(), Rng::new(3));
            for _ in 0..draws {
                *drawn.entry(table.random(&mut rng).unwrap().key().to_vec()).or_default() += 1;
            }
            assert_eq!(drawn.len(), table.len());
            // 400 of each are expected; the square of a deviation is 400 on average, twice that never for so many.
            let squares: i64 = drawn.values().map(|n| (n - 400).pow(2)).sum();
            assert!(squares / (table.len() as i64) < 1_000, "{} entries: {squares}", table.len());
        }
        assert!(Table::default().random(&mut Rng::new(3)).is_none());
    }

    #[test]
    fn equal_hashes_end_in_the_overflow_list_not_in_an_endless_split() {
        let mut table = Table::default();
        for i in 0..2_000u32 {
            table.insert(42, Slot::new_str(tag(42), &i.to_be_bytes(), b"", None), |_| 42);
        }
        assert_eq!(table.len(), 2_000);
        assert!(table.find(42, &1_999u32.to_be_bytes()).is_some());
    }
}
