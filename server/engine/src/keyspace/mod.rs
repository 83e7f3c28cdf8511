//! The keyspace: shards by key hash, each with its own lock, each with one table per database.
//!
//! A caller locks the shards of the keys that it is going to touch ([`Keyspace::lock`]), looks at them through a
//! [`KeysView`], and unlocks by dropping the guard. Shards are locked in rising order, so two callers cannot wait for
//! each other.

pub mod entry;
mod snapshot;
pub(crate) mod table;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use resp::Args;
use smallvec::SmallVec;

pub use entry::{EntryRef, Value, ValueRef};
pub use snapshot::{EncodeFn, SnapshotWalk, WalkStep};
pub use table::{Cursor, Place, Table};
pub use view::{Absent, ExpiredKeys, Expiry, KeysView};

use crate::Rng;
use entry::Slot;

/// Bits of the hash that choose the shard; see `table`'s head.
const SHARD_SHIFT: u32 = 16;
/// At most 2^10 shards.
pub const SHARDS_MAX: usize = 1 << 10;

/// Commands of a batch for which [`Keyspace::prefetch`] needs no allocation.
const PREFETCHED: usize = 32;

/// Flags of the connections that WATCH a key.
type Watchers = SmallVec<[Arc<AtomicBool>; 2]>;

/// Counters of one shard, for INFO.
#[derive(Debug, Default, Clone, Copy)]
pub struct ShardStats {
    pub hits: u64,
    pub misses: u64,
    pub expired: u64,
}

/// What one lock protects.
#[derive(Debug, Default)]
pub struct Shard {
    pub(crate) dbs: Vec<Table>,
    watched: hashbrown::HashMap<(u16, Box<[u8]>), Watchers, std::hash::BuildHasherDefault<siphasher::sip::SipHasher13>>,
    pub(crate) snapshot: snapshot::ShardSnapshot,
    pub(crate) stats: ShardStats,
}

impl Shard {
    /// Tells those who WATCH this key that it changed.
    #[inline]
    fn touch(&mut self, db: usize, key: &[u8]) {
        if !self.watched.is_empty() {
            self.touch_watched(db, key);
        }
    }

    fn touch_watched(&mut self, db: usize, key: &[u8]) {
        if let Some(watchers) = self.watched.get(&(db as u16, Box::from(key))) {
            watchers.iter().for_each(|flag| flag.store(true, Ordering::Release));
        }
    }

    /// Databases that hold keys are as many as were used; missing ones are empty.
    pub fn table(&self, db: usize) -> Option<&Table> {
        self.dbs.get(db)
    }
}

/// All data of a server.
pub struct Keyspace {
    shards: Box<[Mutex<Shard>]>,
    databases: usize,
    seed: [u64; 2],
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyspace").field("shards", &self.shards.len()).field("databases", &self.databases).finish()
    }
}

impl Keyspace {
    /// `shards`: a power of two up to [`SHARDS_MAX`]. `seed` keys the hash, so that nobody outside can make keys collide.
    pub fn new(shards: usize, databases: usize, seed: [u64; 2]) -> Self {
        assert!(shards.is_power_of_two() && shards <= SHARDS_MAX, "the number of shards is a power of two");
        let shards = (0..shards)
            .map(|_| Mutex::new(Shard { dbs: (0..databases).map(|_| Table::default()).collect(), ..Shard::default() }))
            .collect();
        Self { shards, databases, seed }
    }

    /// An empty one of the same shape: to load into, and to [`Keyspace::swap`] with.
    pub fn empty_like(&self) -> Self {
        Self::new(self.shards.len(), self.databases, self.seed)
    }

    pub fn databases(&self) -> usize {
        self.databases
    }

    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        use std::hash::Hasher;
        let mut hasher = siphasher::sip::SipHasher13::new_with_keys(self.seed[0], self.seed[1]);
        hasher.write(key);
        hasher.finish()
    }

    #[inline]
    pub fn shard_of(&self, hash: u64) -> usize {
        (hash >> SHARD_SHIFT) as usize & (self.shards.len() - 1)
    }

    /// Locks one shard.
    #[inline]
    pub fn lock_one(&self, shard: usize) -> Locked<'_> {
        Locked { guards: Guards::One(shard, self.shards[shard].lock()) }
    }

    pub fn lock_all(&self) -> Locked<'_> {
        if self.shards.len() == 1 {
            return self.lock_one(0);
        }
        Locked { guards: Guards::Many(self.shards.iter().enumerate().map(|(i, s)| (i, s.lock())).collect()) }
    }

    /// Locks these shards; the numbers are sorted here and may repeat.
    pub fn lock_some(&self, shards: &mut SmallVec<[usize; 8]>) -> Locked<'_> {
        shards.sort_unstable();
        shards.dedup();
        match shards[..] {
            [one] => self.lock_one(one),
            _ => Locked { guards: Guards::Many(shards.iter().map(|&i| (i, self.shards[i].lock())).collect()) },
        }
    }

    /// The shard's lock itself: for walkers that take it often and briefly.
    pub fn shard(&self, number: usize) -> &Mutex<Shard> {
        &self.shards[number]
    }

    /// Brings closer what a batch of commands is going to touch, one step of each chain of pointers for all commands
    /// at a time, so that the waits overlap: buckets, entries, collections, what is in them. `args` gives a command's arguments.
    /// Takes a lock only if it is free.
    #[inline]
    pub fn prefetch<'m>(&self, db: usize, hashes: &[u64], args: impl Fn(usize) -> Args<'m>) {
        let all = || (0..hashes.len()).map(|i| (i, ()));
        let mut objects = SmallVec::<[(usize, ()); PREFETCHED]>::new();
        self.each_table(db, hashes, all(), |table, i, ()| table.prefetch_bucket(hashes[i]));
        self.each_table(db, hashes, all(), |table, i, ()| table.prefetch_entry(hashes[i]));
        self.each_table(db, hashes, all(), |table, i, ()| {
            if table.prefetch_object(hashes[i]) {
                objects.push((i, ()));
            }
        });
        if objects.is_empty() {
            return;
        }
        let mut members = SmallVec::<[(usize, u64); PREFETCHED]>::new();
        self.each_table(db, hashes, objects.into_iter(), |table, i, ()| {
            let object = table.likely_object(hashes[i]);
            members.extend(object.and_then(|object| object.prefetch(args(i))).map(|hash| (i, hash)));
        });
        self.each_table(db, hashes, members.into_iter(), |table, i, hash| {
            if let Some(object) = table.likely_object(hashes[i]) {
                object.prefetch_member(hash);
            }
        });
    }

    /// Calls `f` with the table of each of these numbers' hashes, passing over shards that are locked.
    #[inline]
    fn each_table<T>(
        &self,
        db: usize,
        hashes: &[u64],
        numbers: impl Iterator<Item = (usize, T)>,
        mut f: impl FnMut(&Table, usize, T),
    ) {
        if let [shard] = &self.shards[..] {
            if let Some(shard) = shard.try_lock() {
                numbers.for_each(|(i, it)| f(&shard.dbs[db], i, it));
            }
            return;
        }
        for (i, it) in numbers {
            if let Some(shard) = self.shards[self.shard_of(hashes[i])].try_lock() {
                f(&shard.dbs[db], i, it);
            }
        }
    }

    /// Keys and keys with an expiry in a database.
    pub fn sizes(&self, db: usize) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(len, expiring), shard| {
            let shard = shard.lock();
            (len + shard.dbs[db].len(), expiring + shard.dbs[db].expiring())
        })
    }

    /// What the keys with an expiry have left on average, ms, of a sample that begins at a random place; 0 without such keys.
    pub fn average_ttl_ms(&self, db: usize, now_ms: u64, rng: &mut Rng) -> u64 {
        const KEYS: u64 = 64;
        const POSITIONS: usize = 4096;
        let (mut sum, mut seen, mut visited) = (0, 0, 0);
        let first = rng.below(self.shards.len());
        let mut position = Cursor::from_bits(rng.next_u64());
        // Once around: the first shard from that place on, the others, and the first one's beginning.
        for i in 0..=self.shards.len() {
            let table = &mut self.shards[(first + i) % self.shards.len()].lock().dbs[db];
            while seen < KEYS && visited < POSITIONS {
                visited += 1;
                let next = table.visit(position, true, |_, entry| {
                    if let Some(at) = entry.as_ref().expires_ms() {
                        sum += at.saturating_sub(now_ms);
                        seen += 1;
                    }
                });
                position = next.unwrap_or_default();
                if next.is_none() {
                    break;
                }
            }
        }
        sum.checked_div(seen).unwrap_or(0)
    }

    /// Keys in all databases.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().dbs.iter().map(Table::len).sum::<usize>()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sums of the shards' counters.
    pub fn stats(&self) -> ShardStats {
        self.shards.iter().fold(ShardStats::default(), |sum, shard| {
            let s = shard.lock().stats;
            ShardStats { hits: sum.hits + s.hits, misses: sum.misses + s.misses, expired: sum.expired + s.expired }
        })
    }

    pub fn reset_stats(&self) {
        self.shards.iter().for_each(|s| s.lock().stats = ShardStats::default());
    }

    /// Puts an entry that is being loaded; `false` when the key is there already.
    pub fn load(&self, db: usize, key: &[u8], value: Value, expires_ms: Option<u64>, access: u32) -> bool {
        let hash = self.hash(key);
        let mut shard = self.shards[self.shard_of(hash)].lock();
        let parity = shard.snapshot.parity();
        let table = &mut shard.dbs[db];
        if table.find(hash, key).is_some() {
            return false;
        }
        let mut slot = Slot::new(table::tag(hash), key, value, expires_ms);
        slot.get_mut().set_parity(parity);
        slot.get_mut().set_access(access);
        table.insert(hash, slot, |key| self.hash(key));
        true
    }

    /// No longer asks what [`Locked::watch`] asked.
    pub fn unwatch(&self, db: usize, key: &[u8], flag: &Arc<AtomicBool>) {
        let mut shard = self.shards[self.shard_of(self.hash(key))].lock();
        if let hashbrown::hash_map::Entry::Occupied(mut watchers) = shard.watched.entry((db as u16, key.into())) {
            watchers.get_mut().retain(|w| !Arc::ptr_eq(w, flag));
            if watchers.get().is_empty() {
                watchers.remove();
            }
        }
    }

    /// Replaces all data by another keyspace's, with the same seed and number of shards, and returns what was here.
    /// WATCHers of keys that were or are there are told.
    pub fn swap(&self, other: &Keyspace) {
        assert!(self.seed == other.seed && self.shards.len() == other.shards.len(), "keyspaces of one shape");
        let mut mine = self.lock_all();
        let mut theirs = other.lock_all();
        for shard in 0..self.shards.len() {
            let (mine, theirs) = (mine.shard_mut(shard), theirs.shard_mut(shard));
            mine.snapshot.abort();
            std::mem::swap(&mut mine.dbs, &mut theirs.dbs);
            let parity = mine.snapshot.parity();
            if parity != theirs.snapshot.parity() {
                mine.snapshot.set_parity(!parity);
                theirs.snapshot.set_parity(parity);
            }
            mine.watched.values().flatten().for_each(|flag| flag.store(true, Ordering::Release));
        }
    }
}

#[derive(Debug)]
enum Guards<'k> {
    One(usize, MutexGuard<'k, Shard>),
    Many(Vec<(usize, MutexGuard<'k, Shard>)>),
}

const ONLY_NAMED_KEYS: &str = "a command touches only keys that its key positions name";

/// Where a shard's guard is: at its own number if all shards are locked.
#[inline]
fn index_of(guards: &[(usize, MutexGuard<'_, Shard>)], shard: usize) -> usize {
    if guards.get(shard).is_some_and(|g| g.0 == shard) {
        return shard;
    }
    guards.binary_search_by_key(&shard, |g| g.0).expect(ONLY_NAMED_KEYS)
}

/// Locked shards.
#[derive(Debug)]
pub struct Locked<'k> {
    guards: Guards<'k>,
}

impl Locked<'_> {
    /// The shard, if it is one that is locked.
    #[inline]
    pub fn single(&self) -> Option<usize> {
        match &self.guards {
            Guards::One(shard, _) => Some(*shard),
            Guards::Many(_) => None,
        }
    }

    /// Asks to be told when a key changes, is removed or expires; its shard is among the locked.
    pub fn watch(&mut self, keyspace: &Keyspace, db: usize, key: &[u8], flag: &Arc<AtomicBool>) {
        let shard = self.shard_mut(keyspace.shard_of(keyspace.hash(key)));
        shard.watched.entry((db as u16, key.into())).or_default().push(Arc::clone(flag));
    }
}

/// Locked shards, whatever the lifetime of their guards: what a [`KeysView`] works on.
pub(crate) trait Shards: std::fmt::Debug {
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
            Guards::One(number, guard) => {
                assert!(*number == shard, "{ONLY_NAMED_KEYS}");
                guard
            }
            Guards::Many(guards) => {
                let at = index_of(guards, shard);
                &mut guards[at].1
            }
        }
    }

    fn shard(&self, shard: usize) -> &Shard {
        match &self.guards {
            Guards::One(number, guard) => {
                assert!(*number == shard, "{ONLY_NAMED_KEYS}");
                guard
            }
            Guards::Many(guards) => &guards[index_of(guards, shard)].1,
        }
    }

    fn all_mut(&mut self) -> SmallVec<[&mut Shard; 1]> {
        match &mut self.guards {
            Guards::One(_, guard) => smallvec::smallvec![&mut **guard],
            Guards::Many(guards) => guards.iter_mut().map(|(_, guard)| &mut **guard).collect(),
        }
    }
}
