//! Point-in-time snapshots without `fork`.
//!
//! The cut: with every shard locked, [`ShardSnapshot::begin`] flips the shard's *parity*. Every entry carries a parity
//! bit; one that differs from its shard's is as it was at the cut and has not been visited. New entries get the present
//! parity. A walker visits home position after home position, encodes each entry that is still old and flips its bit; a
//! writer about to change, move or remove an old entry encodes it first into the shard's side buffer
//! ([`Open::capture`]) and flips its bit. So every entry of the cut is encoded exactly once, as it was.
//!
//! A snapshot that is given up must still be walked to its end, to flip the bits that are left (the walker does so
//! without encoding), before the next may begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::entry::{EntryMut, EntryRef};
use super::{Cursor, Keyspace, Shards};

/// Encodes one entry: `(database, entry, out)`. The RDB writer's function.
pub type EncodeFn = fn(usize, EntryRef<'_>, &mut Vec<u8>);

/// Records that writers saved for the snapshot, to be sent before the walker's own next chunk or after it: order does
/// not matter, each key is in the snapshot once.
#[derive(Debug, Default)]
pub(crate) struct CapturedRecords {
    /// `(database, record bytes)` runs are stored per database change: see [`Open::capture`].
    pub runs: Vec<(usize, Vec<u8>)>,
    pub keys: usize,
}

impl CapturedRecords {
    fn bytes(&self) -> usize {
        self.runs.iter().map(|(_, run)| run.len()).sum()
    }
}

/// Which shards hold something that writers saved, and how much it is in all: the walker need not look at every shard.
#[derive(Debug)]
pub(super) struct Saved {
    /// A bit for each shard, set under its lock.
    shards: Box<[AtomicU64]>,
    bytes: AtomicUsize,
}

impl Saved {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: (0..shards.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), bytes: AtomicUsize::new(0) }
    }

    fn mark(&self, shard: usize) {
        self.shards[shard / 64].fetch_or(1 << (shard % 64), Ordering::Relaxed);
    }

    /// Takes the marks: calls `f` for each shard that had one.
    fn take(&self, mut f: impl FnMut(usize)) {
        for (i, word) in self.shards.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut left = word.swap(0, Ordering::Relaxed);
            while left != 0 {
                f(i * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}

/// A shard's part in a snapshot.
#[derive(Debug, Default)]
pub(crate) struct ShardSnapshot {
    parity: bool,
    /// An entry with the other parity may exist.
    walking: bool,
    /// Set between the cut and the end of the walk over this shard, unless the snapshot was given up.
    open: Option<Box<Open>>,
}

/// What writers save for a snapshot.
#[derive(Debug)]
struct Open {
    encode: EncodeFn,
    captured: CapturedRecords,
    /// Where the walker looks for what is captured, and this shard's number there.
    saved: Arc<Saved>,
    shard: usize,
}

impl Open {
    fn capture(&mut self, db: usize, entry: EntryRef<'_>) {
        let runs = &mut self.captured.runs;
        if runs.last().is_none_or(|(last, _)| *last != db) {
            runs.push((db, Vec::new()));
        }
        let (_, run) = runs.last_mut().expect("a run was pushed");
        let before = run.len();
        (self.encode)(db, entry, run);
        self.saved.bytes.fetch_add(run.len() - before, Ordering::Relaxed);
        if self.captured.keys == 0 {
            self.saved.mark(self.shard);
        }
        self.captured.keys += 1;
    }

    fn take(&mut self) -> CapturedRecords {
        let captured = std::mem::take(&mut self.captured);
        self.saved.bytes.fetch_sub(captured.bytes(), Ordering::Relaxed);
        captured
    }
}

impl ShardSnapshot {
    #[inline]
    pub(crate) fn parity(&self) -> bool {
        self.parity
    }

    pub(super) fn set_parity(&mut self, parity: bool) {
        self.parity = parity;
    }

    fn begin(&mut self, encode: EncodeFn, saved: &Arc<Saved>, shard: usize) {
        assert!(!self.walking, "a snapshot begins when the one before has been walked to its end");
        self.parity = !self.parity;
        self.walking = true;
        let (captured, saved) = (CapturedRecords::default(), Arc::clone(saved));
        self.open = Some(Box::new(Open { encode, captured, saved, shard }));
    }

    /// Stops encoding. The walk still has to be finished.
    pub(super) fn abort(&mut self) {
        self.take_captured();
        self.open = None;
    }

    fn take_captured(&mut self) -> CapturedRecords {
        self.open.as_mut().map(|open| open.take()).unwrap_or_default()
    }

    /// The walk has passed the whole shard.
    fn end(&mut self) {
        self.abort();
        self.walking = false;
    }

    /// To be called before an entry changes or goes.
    #[inline]
    pub(crate) fn before_change(&mut self, db: usize, entry: &mut EntryMut<'_>) {
        if self.walking && entry.as_ref().parity() != self.parity {
            if let Some(open) = &mut self.open {
                open.capture(db, entry.as_ref());
            }
            entry.set_parity(self.parity);
        }
    }
}

/// What one step of the walk did.
#[derive(Debug, PartialEq, Eq)]
pub enum WalkStep {
    More,
    Done,
}

/// Walks the whole keyspace once, a few positions per lock.
#[derive(Debug)]
pub struct SnapshotWalk {
    encode: EncodeFn,
    shard: usize,
    db: usize,
    cursor: Cursor,
    aborted: bool,
}

impl SnapshotWalk {
    /// Makes the cut under `locked`, which must hold every shard: what is read by this walk is the data as it is now.
    pub fn begin(keyspace: &Keyspace, locked: &mut super::Locked<'_>, encode: EncodeFn) -> Self {
        let shards = locked.all_mut();
        assert!(shards.len() == keyspace.shard_count(), "the cut is made with every shard locked");
        for (number, shard) in shards.into_iter().enumerate() {
            shard.snapshot.begin(encode, &keyspace.saved, number);
        }
        Self { encode, shard: 0, db: 0, cursor: Cursor::default(), aborted: false }
    }

    /// Gives the snapshot up: writers save nothing more; go on calling [`SnapshotWalk::step`] until it is done.
    pub fn abort(&mut self, keyspace: &Keyspace) {
        self.aborted = true;
        for shard in 0..keyspace.shard_count() {
            keyspace.lock_one(shard).shard_mut(shard).snapshot.abort();
        }
    }

    /// True when the snapshot was given up, by the walker or because the data was replaced (FLUSHALL, full resync).
    pub fn aborted(&self) -> bool {
        self.aborted
    }

    /// Visits positions under one lock until about `budget` bytes have been encoded or 64 positions passed, and takes
    /// along what writers saved. `out(db, bytes, keys)` gets whole records.
    pub fn step(
        &mut self,
        keyspace: &Keyspace,
        scratch: &mut Vec<u8>,
        budget: usize,
        mut out: impl FnMut(usize, &[u8], usize),
    ) -> WalkStep {
        if self.shard == keyspace.shard_count() {
            return WalkStep::Done;
        }
        scratch.clear();
        let mut keys = 0;
        let db = self.db;
        let mut captured = Vec::new();
        {
            let mut locked = keyspace.lock_one(self.shard);
            let shard = locked.shard_mut(self.shard);
            self.aborted |= shard.snapshot.open.is_none();
            let parity = shard.snapshot.parity;
            let mut positions = 0;
            loop {
                let (encode, aborted) = (self.encode, self.aborted);
                let next = shard.dbs[self.db].visit(self.cursor, false, |_, mut entry| {
                    if entry.as_ref().parity() != parity {
                        if !aborted {
                            encode(db, entry.as_ref(), scratch);
                            keys += 1;
                        }
                        entry.set_parity(parity);
                    }
                });
                positions += 1;
                match next {
                    Some(cursor) => self.cursor = cursor,
                    None => {
                        self.cursor = Cursor::default();
                        self.db += 1;
                        break;
                    }
                }
                if scratch.len() >= budget || positions >= 64 {
                    break;
                }
            }
            captured.push(shard.snapshot.take_captured());
            if self.db == keyspace.databases() {
                shard.snapshot.end();
                self.db = 0;
                self.shard += 1;
            }
            locked.unlock_fair();
        }
        // Of the shards that come later, too: what they save would grow until the walk is there.
        keyspace.saved.take(|later| captured.push(keyspace.lock_one(later).shard_mut(later).snapshot.take_captured()));
        if !self.aborted {
            if keys > 0 {
                out(db, scratch, keys);
            }
            for captured in &captured {
                captured.runs.iter().for_each(|(db, run)| out(*db, run, 0));
                // Keys of captured runs are counted once, with the last run.
                if captured.keys > 0 {
                    out(db, &[], captured.keys);
                }
            }
        }
        if self.shard == keyspace.shard_count() { WalkStep::Done } else { WalkStep::More }
    }
}

impl Keyspace {
    /// Bytes that writers have saved for the running snapshot and the walker has not yet taken.
    pub fn snapshot_side_bytes(&self) -> usize {
        self.saved.bytes.load(Ordering::Relaxed)
    }
}
