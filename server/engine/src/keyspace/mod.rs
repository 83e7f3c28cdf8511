//! The keyspace: shards by key hash, each with its own lock, each with one table per database.
//!
//! A caller locks the shards of the keys that it is going to touch ([`Keyspace::lock`]), looks at them through a
//! [`KeysView`], and unlocks by dropping the guard. Shards are locked in rising order, so two callers cannot wait for
//! each other.

mod databases;
pub mod entry;
mod loader;
mod locked;
mod pieces;
mod snapshot;
pub(crate) mod table;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

pub use databases::Databases;
pub use entry::{EntryRef, Value, ValueRef};
pub use loader::{Duplicate, Loader};
pub use locked::{Added, Locked, Shards, Touch};
pub use snapshot::{EncodeFn, SnapshotWalk, WalkStep};
pub use table::{Cursor, Place, Table};
pub use view::{Absent, ExpiredKeys, Expiry, KeyHash, KeysView};

use crate::Rng;
use entry::Slot;

/// Bits of the hash that choose the shard; see `table`'s head.
const SHARD_SHIFT: u32 = 16;
/// At most 2^10 shards.
pub const SHARDS_MAX: usize = 1 << 10;

/// Flags of the connections that WATCH a key.
type Watchers = SmallVec<[Arc<AtomicBool>; 2]>;

/// Counters for INFO.
#[derive(Debug, Default, Clone, Copy)]
pub struct KeyStats {
    pub hits: u64,
    pub misses: u64,
    pub expired: u64,
}

/// Sums over all shards, for INFO: of shards that the caller has locked, or of each under its lock.
#[derive(Debug)]
pub struct Figures<'a> {
    pub keyspace: &'a Keyspace,
    pub locked: Option<&'a mut (dyn Shards + 'a)>,
}

impl Figures<'_> {
    fn for_each(&mut self, mut f: impl FnMut(&mut Shard)) {
        match &mut self.locked {
            Some(locked) => locked.all_mut().into_iter().for_each(f),
            None => (0..self.keyspace.shards.len()).for_each(|n| f(self.keyspace.lock_one(n).shard_mut(n))),
        }
    }

    /// Keys and keys with an expiry in each database.
    pub fn sizes(&mut self) -> Vec<(usize, usize)> {
        let mut sizes = vec![(0, 0); self.keyspace.databases];
        self.for_each(|shard| {
            for (sum, table) in sizes.iter_mut().zip(shard.dbs.iter()) {
                *sum = (sum.0 + table.len(), sum.1 + table.expiring());
            }
        });
        sizes
    }

    pub fn stats(&mut self) -> KeyStats {
        let mut sum = KeyStats { expired: self.keyspace.expired.load(Ordering::Relaxed), ..KeyStats::default() };
        self.for_each(|Shard { stats, .. }| {
            sum = KeyStats { hits: sum.hits + stats.hits, misses: sum.misses + stats.misses, ..sum };
        });
        sum
    }

    /// What the keys with an expiry have left on average, ms, of a sample that begins at a random place; 0 without such keys.
    pub fn average_ttl_ms(&mut self, db: usize, now_ms: u64, rng: &mut Rng) -> u64 {
        const KEYS: u64 = 64;
        const POSITIONS: usize = 4096;
        let shards = self.keyspace.shards.len();
        let (mut sum, mut seen, mut visited) = (0, 0, 0);
        let first = rng.below(shards);
        let mut position = Cursor::from_bits(rng.next_u64());
        // Once around: the first shard from that place on, the others, and the first one's beginning.
        for i in 0..=shards {
            let number = (first + i) % shards;
            let mut own;
            let shard = match &mut self.locked {
                Some(locked) => locked.shard_mut(number),
                None => {
                    own = self.keyspace.lock_one(number);
                    own.shard_mut(number)
                }
            };
            while seen < KEYS && visited < POSITIONS {
                visited += 1;
                let next = shard.dbs[db].visit(position, true, |_, entry| {
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
}

/// Those of one shard.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ShardStats {
    pub hits: u64,
    pub misses: u64,
}

type Watched =
    hashbrown::HashMap<(u16, Box<[u8]>), Watchers, std::hash::BuildHasherDefault<siphasher::sip::SipHasher13>>;

/// What one lock protects. Together with the lock it is two cache lines, with all that leads to a key of database 0: that is
/// what a thread waits for when another one used the shard last.
#[derive(Debug, Default)]
pub struct Shard {
    pub(crate) dbs: Databases,
    /// As long as there are any.
    watched: Option<Box<Watched>>,
    pub(crate) snapshot: snapshot::ShardSnapshot,
    pub(crate) stats: ShardStats,
}

impl Shard {
    /// Tells those who WATCH this key that it changed.
    #[inline]
    fn touch(&mut self, db: usize, key: &[u8]) {
        if self.watched.is_some() {
            self.touch_watched(db, key);
        }
    }

    fn touch_watched(&mut self, db: usize, key: &[u8]) {
        if let Some(watchers) = self.watched.as_ref().and_then(|w| w.get(&(db as u16, Box::from(key)))) {
            watchers.iter().for_each(|flag| flag.store(true, Ordering::Release));
        }
    }

    /// Watched keys with their databases.
    fn watched(&self) -> impl Iterator<Item = (usize, &[u8], &Watchers)> {
        self.watched.iter().flat_map(|watched| watched.iter()).map(|((db, key), w)| (usize::from(*db), &**key, w))
    }

    /// Databases that hold keys are as many as were used; missing ones are empty.
    pub fn table(&self, db: usize) -> Option<&Table> {
        self.dbs.get(db)
    }
}

/// Two threads that work on neighbours do not wait for each other's cache lines.
#[derive(Debug)]
#[repr(align(64))]
struct Apart(Mutex<Shard>);

const _: () = assert!(size_of::<Apart>() == 128, "a shard is two cache lines");

impl std::ops::Deref for Apart {
    type Target = Mutex<Shard>;

    #[inline]
    fn deref(&self) -> &Mutex<Shard> {
        &self.0
    }
}

/// All data of a server.
pub struct Keyspace {
    shards: Box<[Apart]>,
    /// Held by who locks all shards. While the keyspace is united they are in here, and empty ones in their places.
    all: Mutex<Vec<Shard>>,
    /// Changes while everything is locked.
    united: AtomicBool,
    saved: Arc<snapshot::Saved>,
    /// Keys whose time had passed.
    expired: AtomicU64,
    databases: usize,
    seed: [u64; 2],
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyspace").field("shards", &self.shards.len()).field("databases", &self.databases).finish()
    }
}

impl Keyspace {
    /// `shards`: a power of two up to [`SHARDS_MAX`]; a single one is always united. `seed` keys the hash, so that nobody
    /// outside can make keys collide.
    pub fn new(shards: usize, databases: usize, seed: [u64; 2]) -> Self {
        assert!(shards.is_power_of_two() && shards <= SHARDS_MAX, "the number of shards is a power of two");
        let saved = Arc::new(snapshot::Saved::new(shards));
        let shard = || Shard { dbs: Databases::new(databases), ..Shard::default() };
        let shards = (0..shards).map(|_| Apart(Mutex::new(shard()))).collect();
        let (all, united, expired) = (Mutex::default(), AtomicBool::new(false), AtomicU64::new(0));
        let keyspace = Self { shards, all, united, saved, expired, databases, seed };
        if keyspace.shards.len() == 1 {
            keyspace.unite();
        }
        keyspace
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

    /// The shard at which [`KeysView::scan`] goes on.
    pub fn scan_begins(&self, cursor: u64) -> usize {
        usize::try_from(cursor >> Cursor::BITS).unwrap_or(usize::MAX).min(self.shards.len() - 1)
    }

    /// Sums over all shards; no lock is held.
    pub fn figures(&self) -> Figures<'_> {
        Figures { keyspace: self, locked: None }
    }

    /// Keys in all databases.
    pub fn len(&self) -> usize {
        self.figures().sizes().into_iter().map(|(keys, _)| keys).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn reset_stats(&self) {
        self.expired.store(0, Ordering::Relaxed);
        self.figures().for_each(|shard| shard.stats = ShardStats::default());
    }

    /// No longer asks what [`Locked::watch`] asked.
    pub fn unwatch(&self, db: usize, key: &[u8], flag: &Arc<AtomicBool>) {
        let number = self.shard_of(self.hash(key));
        let mut locked = self.lock_one(number);
        let shard = locked.shard_mut(number);
        let Some(watched) = &mut shard.watched else { return };
        if let hashbrown::hash_map::Entry::Occupied(mut watchers) = watched.entry((db as u16, key.into())) {
            watchers.get_mut().retain(|w| !Arc::ptr_eq(w, flag));
            if watchers.get().is_empty() {
                watchers.remove();
            }
        }
        if watched.is_empty() {
            shard.watched = None;
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
            mine.watched().flat_map(|(.., flags)| flags).for_each(|flag| flag.store(true, Ordering::Release));
        }
    }
}
