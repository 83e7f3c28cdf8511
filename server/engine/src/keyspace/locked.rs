//! Which shards a caller has locked, and looking ahead under these locks.
//!
//! Two ways to lock, and why nobody waits for ever. Who *waits* for a lock either holds none, or waits in the rising order
//! of the shards ([`Keyspace::lock_some`], [`Keyspace::lock_all`]). Who adds shards to those that it holds as they come
//! ([`Keyspace::add`]: the commands of many connections under one set of locks) does not wait: it is told that a shard is
//! taken, and gives back what it has before it waits.
//!
//! A keyspace can be *united* ([`Keyspace::unite`]): then all its shards are under one lock, and whoever asks for one has them
//! all. That is what a thread wants that works alone: it locks once, not for every key. [`Keyspace::divide`] gives each shard
//! its lock again, before there are others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::MutexGuard;
use resp::Args;
use smallvec::SmallVec;

use super::table::{Ahead, Likely};
use super::{KeyHash, Keyspace, Shard, entry};
use crate::types::MemberAhead;

/// Touches for which [`Keyspace::prefetch`] needs no allocation.
const PREFETCHED: usize = 32;

/// Shards that are added one by one, at most: those of two pipelines of 16, and some. Others want their turn.
const HELD_MAX: usize = 48;
/// More, so that a search ends soon; a power of two.
const PLACES: usize = 128;

type Guard<'k> = MutexGuard<'k, Shard>;
/// See `Keyspace::all`.
type AllGuard<'k> = MutexGuard<'k, Vec<Shard>>;

/// Shards in the order in which they came.
#[derive(Debug)]
struct Held<'k> {
    guards: Vec<(usize, Guard<'k>)>,
    /// By the last bits of the shard's number, or behind that: where its guard is, plus one.
    places: [u8; PLACES],
}

impl<'k> Held<'k> {
    fn new() -> Self {
        Self { guards: Vec::with_capacity(HELD_MAX), places: [0; PLACES] }
    }

    /// Where the shard's guard is, or else the free place for it.
    #[inline]
    fn find(&self, shard: usize) -> Result<usize, usize> {
        let mut at = shard % PLACES;
        loop {
            match self.places[at] {
                0 => return Err(at),
                n if self.guards[usize::from(n) - 1].0 == shard => return Ok(usize::from(n) - 1),
                _ => at = (at + 1) % PLACES,
            }
        }
    }

    #[inline]
    fn push(&mut self, place: usize, shard: usize, guard: Guard<'k>) {
        self.guards.push((shard, guard));
        self.places[place] = self.guards.len() as u8;
    }
}

#[derive(Debug, Default)]
enum Guards<'k> {
    #[default]
    None,
    One(usize, Guard<'k>),
    /// In rising order.
    Many(Vec<(usize, Guard<'k>)>),
    /// Whoever locks all shards waits for the others who do so at one place, not at each shard.
    All {
        guards: Vec<Guard<'k>>,
        _turn: AllGuard<'k>,
    },
    /// The shards of a united keyspace.
    United(AllGuard<'k>),
    Held(Box<Held<'k>>),
    /// From the first one on without a gap; the next ones follow as they are asked for.
    Rising(&'k Keyspace, usize, Vec<Guard<'k>>),
}

const ONLY_NAMED_KEYS: &str = "a command touches only keys that its key positions name";

#[inline]
fn index_of(guards: &[(usize, Guard<'_>)], shard: usize) -> usize {
    guards.binary_search_by_key(&shard, |g| g.0).expect(ONLY_NAMED_KEYS)
}

/// Locked shards; none by default.
#[derive(Debug, Default)]
pub struct Locked<'k> {
    guards: Guards<'k>,
}

/// What came of [`Keyspace::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The shard is locked, now or already.
    Yes,
    /// Another thread has it.
    Taken,
    /// No more can be added.
    Full,
}

impl<'k> Locked<'k> {
    /// Asks to be told when a key changes, is removed or expires; its shard is among the locked.
    pub fn watch(&mut self, keyspace: &Keyspace, db: usize, key: &[u8], flag: &Arc<AtomicBool>) {
        let watched = &mut self.shard_mut(keyspace.shard_of(keyspace.hash(key))).watched;
        watched.get_or_insert_default().entry((db as u16, key.into())).or_default().push(Arc::clone(flag));
    }

    /// Number of locks that were added one by one.
    pub fn added(&self) -> usize {
        match &self.guards {
            Guards::Held(held) => held.guards.len(),
            Guards::One(..) | Guards::United(_) => 1,
            Guards::None | Guards::Many(_) | Guards::All { .. } | Guards::Rising(..) => 0,
        }
    }

    /// Can shards be added to it? Not if they were locked together.
    pub fn grows(&self) -> bool {
        !matches!(self.guards, Guards::Many(_) | Guards::All { .. } | Guards::Rising(..))
    }

    /// Are they all shards, under one lock?
    #[inline]
    pub fn is_united(&self) -> bool {
        matches!(self.guards, Guards::United(_))
    }

    /// Gives all locks back.
    pub fn clear(&mut self) {
        match &mut self.guards {
            Guards::Held(held) => {
                held.guards.clear();
                held.places = [0; PLACES];
            }
            Guards::None => {}
            Guards::One(..) | Guards::Many(_) | Guards::All { .. } | Guards::United(_) | Guards::Rising(..) => {
                self.guards = Guards::None;
            }
        }
    }

    /// Gives one lock back, to who has waited longest for it.
    pub(super) fn unlock_fair(self) {
        match self.guards {
            Guards::One(_, guard) => MutexGuard::unlock_fair(guard),
            Guards::United(all) => MutexGuard::unlock_fair(all),
            Guards::None | Guards::Many(_) | Guards::All { .. } | Guards::Held(_) | Guards::Rising(..) => {}
        }
    }

    /// The shard, if it is locked.
    #[inline]
    fn get(&self, shard: usize) -> Option<&Shard> {
        match &self.guards {
            Guards::United(all) => all.get(shard),
            Guards::One(number, guard) if *number == shard => Some(guard),
            Guards::Held(held) => held.find(shard).ok().map(|at| &*held.guards[at].1),
            Guards::Rising(_, first, guards) => guards.get(shard.wrapping_sub(*first)).map(|guard| &**guard),
            Guards::All { guards, .. } => guards.get(shard).map(|guard| &**guard),
            Guards::None | Guards::One(..) | Guards::Many(_) => None,
        }
    }
}

impl Keyspace {
    /// Is one lock enough for all shards? Who has locked any of them, or none, can rely on it as long as that is so.
    #[inline]
    pub fn is_united(&self) -> bool {
        self.united.load(Ordering::Relaxed)
    }

    /// From now on one lock is for all shards.
    pub fn unite(&self) {
        let mut all = self.all.lock();
        if all.is_empty() {
            let mut guards: Vec<Guard<'_>> = self.shards.iter().map(|shard| shard.lock()).collect();
            all.extend(guards.iter_mut().map(|guard| std::mem::take(&mut **guard)));
            self.united.store(true, Ordering::Relaxed);
        }
    }

    /// From now on each shard has its own lock, if there are several.
    pub fn divide(&self) {
        if self.shards.len() == 1 {
            return;
        }
        let mut all = self.all.lock();
        if !all.is_empty() {
            let mut guards: Vec<Guard<'_>> = self.shards.iter().map(|shard| shard.lock()).collect();
            guards.iter_mut().zip(all.drain(..)).for_each(|(guard, shard)| **guard = shard);
            self.united.store(false, Ordering::Relaxed);
        }
    }

    /// Waits for this shard, or for all of a united keyspace.
    #[inline]
    fn lock_first(&self, shard: usize) -> Result<Guard<'_>, AllGuard<'_>> {
        loop {
            if self.is_united() {
                let all = self.all.lock();
                if !all.is_empty() {
                    return Err(all);
                }
            }
            let guard = self.shards[shard].lock();
            if !self.is_united() {
                return Ok(guard);
            }
        }
    }

    /// Locks one shard.
    #[inline]
    pub fn lock_one(&self, shard: usize) -> Locked<'_> {
        let guards = match self.lock_first(shard) {
            Ok(guard) => Guards::One(shard, guard),
            Err(all) => Guards::United(all),
        };
        Locked { guards }
    }

    pub fn lock_all(&self) -> Locked<'_> {
        let all = self.all.lock();
        if !all.is_empty() {
            return Locked { guards: Guards::United(all) };
        }
        Locked { guards: Guards::All { guards: self.shards.iter().map(|shard| shard.lock()).collect(), _turn: all } }
    }

    /// Locks these shards; the numbers are sorted here and may repeat.
    pub fn lock_some(&self, shards: &mut SmallVec<[usize; 8]>) -> Locked<'_> {
        shards.sort_unstable();
        shards.dedup();
        let Some((first, others)) = shards.split_first() else { return Locked::default() };
        let guards = match self.lock_first(*first) {
            Err(all) => Guards::United(all),
            Ok(guard) if others.is_empty() => Guards::One(*first, guard),
            Ok(guard) => {
                let others = others.iter().map(|&shard| (shard, self.shards[shard].lock()));
                Guards::Many(std::iter::once((*first, guard)).chain(others).collect())
            }
        };
        Locked { guards }
    }

    /// Locks this shard and, as they are asked for, those behind it: for who goes through the shards and may stop soon.
    pub fn lock_from(&self, shard: usize) -> Locked<'_> {
        let shard = shard.min(self.shards.len() - 1);
        let guards = match self.lock_first(shard) {
            Ok(guard) => Guards::Rising(self, shard, vec![guard]),
            Err(all) => Guards::United(all),
        };
        Locked { guards }
    }

    /// Adds a shard to those that are locked, if it need not be waited for.
    #[inline]
    pub fn add<'k>(&'k self, locked: &mut Locked<'k>, shard: usize) -> Added {
        match &mut locked.guards {
            Guards::United(_) => return Added::Yes,
            Guards::One(number, _) if *number == shard => return Added::Yes,
            guards if guards.are_none() && self.is_united() => {
                let Some(all) = self.all.try_lock() else { return Added::Taken };
                if !all.is_empty() {
                    *guards = Guards::United(all);
                    return Added::Yes;
                }
            }
            _ => {}
        }
        let Guards::Held(held) = Held::over(&mut locked.guards) else { return Added::Full };
        let Err(place) = held.find(shard) else { return Added::Yes };
        if held.guards.len() == HELD_MAX {
            return Added::Full;
        }
        let Some(guard) = self.shards[shard].try_lock() else { return Added::Taken };
        if self.is_united() {
            return Added::Taken;
        }
        held.push(place, shard, guard);
        Added::Yes
    }

    /// Locks the first shard of such a set, which is empty, and waits for it.
    pub fn add_first<'k>(&'k self, locked: &mut Locked<'k>, shard: usize) {
        assert!(locked.added() == 0, "who holds shards does not wait for another");
        match self.lock_first(shard) {
            Err(all) => locked.guards = Guards::United(all),
            Ok(guard) => {
                if let Guards::Held(held) = Held::over(&mut locked.guards) {
                    let place = held.find(shard).unwrap_or_else(|place| place);
                    held.push(place, shard, guard);
                }
            }
        }
    }

    /// Brings closer what commands are going to touch, one step of each chain of pointers for all of them at a time, so
    /// that the waits overlap: shards, buckets, entries, collections, what is in them. Adds their shards to `locked`, as far
    /// as they need not be waited for.
    #[inline]
    pub fn prefetch<'k>(&'k self, locked: &mut Locked<'k>, touches: &[Touch<'_>]) {
        let shard_of = |touch: &Touch<'_>| self.shard_of(touch.hash);
        if self.is_united() {
            self.add(locked, 0);
        } else {
            touches.iter().for_each(|touch| entry::prefetch_mut(&raw const self.shards[shard_of(touch)]));
            touches.iter().for_each(|touch| _ = self.add(locked, shard_of(touch)));
        }
        // Commands about the same key often follow each other: its entry is looked for once. What is collected is drained,
        // not moved: it is large.
        let mut buckets = SmallVec::<[_; PREFETCHED]>::new();
        for run in touches.chunk_by(|one, next| (one.hash, one.db) == (next.hash, next.db)) {
            let Some(touch) = run.first() else { continue };
            let Some(shard) = locked.get(shard_of(touch)) else { continue };
            if let Some(ahead) = shard.dbs[touch.db].ahead(touch.hash) {
                buckets.push((ahead, run));
            }
        }
        let mut entries = SmallVec::<[_; PREFETCHED]>::new();
        look_for_entries(&mut buckets, |entry, run| entries.push((entry, run)));
        let mut objects = SmallVec::<[_; PREFETCHED]>::new();
        objects.extend(entries.drain(..).filter_map(|(entry, run)| Some((entry.object()?, run))));
        let mut members = SmallVec::<[_; PREFETCHED]>::new();
        for (object, run) in objects.drain(..) {
            members.extend(run.iter().filter_map(|touch| object.look_ahead(touch.args)));
        }
        members.drain(..).for_each(MemberAhead::prefetch);
    }

    /// Asks for shards that are about to be locked.
    #[inline]
    pub fn prefetch_shards(&self, shards: &[usize]) {
        shards.iter().for_each(|shard| entry::prefetch_mut(&raw const self.shards[*shard]));
    }

    /// Brings the entries of a command's keys closer, whose shards are locked.
    pub fn prefetch_keys(&self, locked: &Locked<'_>, db: usize, keys: &[KeyHash<'_>]) {
        let table = |key: &KeyHash<'_>| &locked.shard(self.shard_of(key.hash)).dbs[db];
        let mut buckets = SmallVec::<[_; PREFETCHED]>::new();
        buckets.extend(keys.iter().filter_map(|key| Some((table(key).ahead(key.hash)?, ()))));
        look_for_entries(&mut buckets, |_, ()| {});
    }
}

/// Asks for the entries that are probably in these buckets, or else in the ones behind them.
#[inline]
fn look_for_entries<'t, T: Copy>(
    buckets: &mut SmallVec<[(Ahead<'t>, T); PREFETCHED]>,
    mut found: impl FnMut(Likely<'t>, T),
) {
    let mut others = SmallVec::<[_; PREFETCHED]>::new();
    for (ahead, of) in buckets.drain(..) {
        match ahead.entry() {
            Some(entry) => found(entry, of),
            None => others.extend(ahead.elsewhere().map(|ahead| (ahead, of))),
        }
    }
    for (ahead, of) in others.drain(..) {
        if let Some(entry) = ahead.entry() {
            found(entry, of);
        }
    }
}

impl Guards<'_> {
    /// Is nothing locked?
    fn are_none(&self) -> bool {
        match self {
            Guards::None => true,
            Guards::Held(held) => held.guards.is_empty(),
            Guards::One(..) | Guards::Many(_) | Guards::All { .. } | Guards::United(_) | Guards::Rising(..) => false,
        }
    }
}

impl<'k> Held<'k> {
    /// Makes room for shards one by one, where none are locked.
    fn over<'g>(guards: &'g mut Guards<'k>) -> &'g mut Guards<'k> {
        if matches!(guards, Guards::None) {
            *guards = Guards::Held(Box::new(Held::new()));
        }
        guards
    }
}

/// A command that is about to touch the key of this hash, probably.
#[derive(Debug, Clone, Copy)]
pub struct Touch<'m> {
    pub db: usize,
    pub hash: u64,
    pub args: Args<'m>,
}

/// Locked shards, whatever the lifetime of their guards: what a [`super::KeysView`] works on.
pub trait Shards: std::fmt::Debug {
    fn shard_mut(&mut self, shard: usize) -> &mut Shard;
    fn shard(&self, shard: usize) -> &Shard;
    fn all_mut(&mut self) -> SmallVec<[&mut Shard; 1]>;
}

impl Shards for Locked<'_> {
    /// The shard must be among the locked ones: a command that touches a key which its [`crate::Spec`] does not name
    /// is a bug, and stops the server rather than racing.
    #[inline]
    fn shard_mut(&mut self, shard: usize) -> &mut Shard {
        match &mut self.guards {
            Guards::United(all) => &mut all[shard],
            Guards::One(number, guard) => {
                assert!(*number == shard, "{ONLY_NAMED_KEYS}");
                guard
            }
            Guards::Held(held) => {
                let at = held.find(shard).expect(ONLY_NAMED_KEYS);
                &mut held.guards[at].1
            }
            Guards::Many(guards) => {
                let at = index_of(guards, shard);
                &mut guards[at].1
            }
            Guards::All { guards, .. } => &mut guards[shard],
            Guards::Rising(keyspace, first, guards) => {
                let at = shard.checked_sub(*first).expect(ONLY_NAMED_KEYS);
                while guards.len() <= at {
                    guards.push(keyspace.shards[*first + guards.len()].lock());
                }
                &mut guards[at]
            }
            Guards::None => panic!("{ONLY_NAMED_KEYS}"),
        }
    }

    fn shard(&self, shard: usize) -> &Shard {
        match &self.guards {
            Guards::Many(guards) => &guards[index_of(guards, shard)].1,
            Guards::None
            | Guards::One(..)
            | Guards::Held(_)
            | Guards::All { .. }
            | Guards::United(_)
            | Guards::Rising(..) => self.get(shard).expect(ONLY_NAMED_KEYS),
        }
    }

    fn all_mut(&mut self) -> SmallVec<[&mut Shard; 1]> {
        match &mut self.guards {
            Guards::None => SmallVec::new(),
            Guards::United(all) => all.iter_mut().collect(),
            Guards::One(_, guard) => smallvec::smallvec![&mut **guard],
            Guards::Held(held) => held.guards.iter_mut().map(|(_, guard)| &mut **guard).collect(),
            Guards::All { guards, .. } | Guards::Rising(_, _, guards) => {
                guards.iter_mut().map(|guard| &mut **guard).collect()
            }
            Guards::Many(guards) => guards.iter_mut().map(|(_, guard)| &mut **guard).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_until_there_are_enough_and_found_again() {
        let keyspace = Keyspace::new(1024, 1, [1, 2]);
        let mut locked = Locked::default();
        // Numbers that share their last bits are searched for one behind the other.
        let numbers: Vec<usize> = (0..HELD_MAX).map(|i| i % 4 * PLACES + i / 4).collect();
        for shard in &numbers {
            assert_eq!(keyspace.add(&mut locked, *shard), Added::Yes);
            assert_eq!(keyspace.add(&mut locked, *shard), Added::Yes);
            assert!(keyspace.shards[*shard].is_locked());
        }
        assert_eq!((locked.added(), keyspace.add(&mut locked, 1023)), (HELD_MAX, Added::Full));
        for shard in &numbers {
            let found: *const Shard = locked.shard_mut(*shard);
            assert!(std::ptr::eq(found, locked.shard(*shard)));
        }
        locked.clear();
        assert!(numbers.iter().all(|shard| !keyspace.shards[*shard].is_locked()));
        let other = keyspace.lock_one(5);
        assert_eq!((keyspace.add(&mut locked, 5), locked.added()), (Added::Taken, 0));
        drop(other);
        keyspace.add_first(&mut locked, 5);
        assert_eq!((keyspace.add(&mut locked, 5), locked.added()), (Added::Yes, 1));
    }

    #[test]
    fn shards_are_locked_as_one_goes_through_them() {
        let keyspace = Keyspace::new(8, 1, [1, 2]);
        let mut locked = keyspace.lock_from(3);
        let numbers = |keyspace: &Keyspace| (0..8).filter(|n| keyspace.shards[*n].is_locked()).collect::<Vec<_>>();
        assert_eq!(numbers(&keyspace), [3]);
        let _: &Shard = locked.shard_mut(5);
        assert_eq!(locked.all_mut().len(), 3);
        assert_eq!((numbers(&keyspace), locked.grows()), (vec![3, 4, 5], false));
        drop(locked);
        assert_eq!(numbers(&keyspace), [0; 0]);
    }

    #[test]
    fn nothing_is_added_to_shards_that_were_locked_together() {
        let keyspace = Keyspace::new(4, 1, [1, 2]);
        let mut locked = keyspace.lock_some(&mut smallvec::smallvec![3, 0, 3]);
        assert_eq!((locked.grows(), keyspace.add(&mut locked, 1)), (false, Added::Full));
        let single = Keyspace::new(1, 1, [1, 2]);
        let mut locked = Locked::default();
        assert_eq!(single.add(&mut locked, 0), Added::Yes);
        assert_eq!((single.add(&mut Locked::default(), 0), locked.added()), (Added::Taken, 1));
    }

    #[test]
    fn a_united_keyspace_has_one_lock() {
        let keyspace = Keyspace::new(8, 1, [1, 2]);
        (0..8).for_each(|n| keyspace.lock_one(n).shard_mut(n).stats.hits = n as u64);
        keyspace.unite();
        keyspace.unite();
        for lock in [Keyspace::lock_one, Keyspace::lock_from] {
            let mut locked = lock(&keyspace, 3);
            assert!(locked.is_united() && locked.grows());
            assert_eq!(
                locked.all_mut().iter().map(|shard| shard.stats.hits).collect::<Vec<_>>(),
                [0, 1, 2, 3, 4, 5, 6, 7]
            );
            assert_eq!((keyspace.add(&mut locked, 5), locked.added()), (Added::Yes, 1));
            assert_eq!(keyspace.add(&mut Locked::default(), 0), Added::Taken);
        }
        let mut locked = Locked::default();
        keyspace.add_first(&mut locked, 6);
        assert_eq!((locked.is_united(), locked.shard(1).stats.hits), (true, 1));
        locked.clear();
        assert!(keyspace.lock_some(&mut smallvec::smallvec![2, 1]).is_united());
        keyspace.divide();
        keyspace.divide();
        assert!((0..8).all(|n| keyspace.lock_one(n).shard(n).stats.hits == n as u64));
        assert_eq!(keyspace.add(&mut locked, 2), Added::Yes);
        assert_eq!((locked.is_united(), keyspace.add(&mut Locked::default(), 3)), (false, Added::Yes));
    }

    #[test]
    fn a_single_shard_is_always_united() {
        let keyspace = Keyspace::new(1, 1, [1, 2]);
        keyspace.divide();
        assert!(keyspace.is_united() && keyspace.lock_one(0).is_united());
    }

    /// Each counts under what it has locked; nothing is counted in a place that is not the shard's any longer.
    #[test]
    fn who_locks_meanwhile_has_the_shards_that_are_valid() {
        const SHARDS: usize = 4;
        const COUNT: usize = 20_000;
        let keyspace = Keyspace::new(SHARDS, 2, [1, 2]);
        let count = |locked: &mut Locked<'_>, shard: usize| locked.shard_mut(shard).stats.hits += 1;
        let ways: [&(dyn Fn(usize) + Sync); 5] = [
            &|n| count(&mut keyspace.lock_one(n), n),
            &|n| count(&mut keyspace.lock_some(&mut smallvec::smallvec![n, (n + 1) % SHARDS]), n),
            &|n| count(&mut keyspace.lock_from(n / 2), n),
            &|n| count(&mut keyspace.lock_all(), n),
            &|n| {
                let mut locked = Locked::default();
                while keyspace.add(&mut locked, n) != Added::Yes {
                    std::thread::yield_now();
                }
                count(&mut locked, n);
                locked.clear();
                keyspace.add_first(&mut locked, n);
                assert_eq!(locked.shard(n).dbs.iter().count(), 2, "not what is in its place meanwhile");
            },
        ];
        let left = std::sync::atomic::AtomicUsize::new(ways.len());
        std::thread::scope(|scope| {
            for way in ways {
                let left = &left;
                scope.spawn(move || {
                    (0..COUNT).for_each(|i| way(i % SHARDS));
                    left.fetch_sub(1, Ordering::Release);
                });
            }
            while left.load(Ordering::Acquire) > 0 {
                keyspace.unite();
                std::thread::yield_now();
                keyspace.divide();
                std::thread::yield_now();
            }
        });
        assert_eq!(keyspace.figures().stats().hits, (ways.len() * COUNT) as u64);
    }
}
