//! Point-in-time snapshots without `fork`.
//!
//! The cut: with every shard locked, [`ShardSnapshot::begin`] flips the shard's *parity*. Every entry carries a parity
//! bit; one that differs from its shard's is as it was at the cut and has not been visited. New entries get the present
//! parity. A walker visits home position after home position, encodes each entry that is still old and flips its bit; a
//! writer about to change, move or remove an old entry encodes it first into the shard's side buffer
//! ([`ShardSnapshot::capture`]) and flips its bit. So every entry of the cut is encoded exactly once, as it was.
//!
//! A snapshot that is given up must still be walked to its end, to flip the bits that are left (the walker does so
//! without encoding), before the next may begin.

use super::entry::{EntryMut, EntryRef};
use super::{Cursor, Keyspace, Shards};

/// Encodes one entry: `(database, entry, out)`. The RDB writer's function.
pub type EncodeFn = fn(usize, EntryRef<'_>, &mut Vec<u8>);

/// Records that writers saved for the snapshot, to be sent before the walker's own next chunk or after it: order does
/// not matter, each key is in the snapshot once.
#[derive(Debug, Default)]
pub(crate) struct CapturedRecords {
    /// `(database, record bytes)` runs are stored per database change: see [`ShardSnapshot::capture`].
    pub runs: Vec<(usize, Vec<u8>)>,
    pub keys: usize,
}

impl CapturedRecords {
    fn bytes(&self) -> usize {
        self.runs.iter().map(|(_, run)| run.len()).sum()
    }
}

/// A shard's part in a snapshot.
#[derive(Debug, Default)]
pub(crate) struct ShardSnapshot {
    parity: bool,
    /// Set between the cut and the end of the walk over this shard, unless the snapshot was given up.
    encode: Option<EncodeFn>,
    /// An entry with the other parity may exist.
    walking: bool,
    captured: CapturedRecords,
}

impl ShardSnapshot {
    #[inline]
    pub(crate) fn parity(&self) -> bool {
        self.parity
    }

    pub(super) fn set_parity(&mut self, parity: bool) {
        self.parity = parity;
    }

    fn begin(&mut self, encode: EncodeFn) {
        assert!(!self.walking, "a snapshot begins when the one before has been walked to its end");
        self.parity = !self.parity;
        self.encode = Some(encode);
        self.walking = true;
        self.captured = CapturedRecords::default();
    }

    /// Stops encoding. The walk still has to be finished.
    pub(super) fn abort(&mut self) {
        self.encode = None;
        self.captured = CapturedRecords::default();
    }

    /// To be called before an entry changes or goes.
    #[inline]
    pub(crate) fn before_change(&mut self, db: usize, mut entry: EntryMut<'_>) {
        if self.walking && entry.as_ref().parity() != self.parity {
            self.capture(db, entry.as_ref());
            entry.set_parity(self.parity);
        }
    }

    fn capture(&mut self, db: usize, entry: EntryRef<'_>) {
        let Some(encode) = self.encode else { return };
        let runs = &mut self.captured.runs;
        if runs.last().is_none_or(|(last, _)| *last != db) {
            runs.push((db, Vec::new()));
        }
        let (_, run) = runs.last_mut().expect("a run was pushed");
        encode(db, entry, run);
        self.captured.keys += 1;
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
    pub fn begin(locked: &mut super::Locked<'_>, encode: EncodeFn) -> Self {
        locked.all_mut().into_iter().for_each(|shard| shard.snapshot.begin(encode));
        Self { encode, shard: 0, db: 0, cursor: Cursor::default(), aborted: false }
    }

    /// Gives the snapshot up: writers save nothing more; go on calling [`SnapshotWalk::step`] until it is done.
    pub fn abort(&mut self, keyspace: &Keyspace) {
        self.aborted = true;
        for shard in 0..keyspace.shard_count() {
            keyspace.shard(shard).lock().snapshot.abort();
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
        let (at, db) = (self.shard, self.db);
        let mut captured = Vec::new();
        {
            let mut shard = keyspace.shard(self.shard).lock();
            self.aborted |= shard.snapshot.encode.is_none();
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
            captured.push(std::mem::take(&mut shard.snapshot.captured));
            if self.db == keyspace.databases() {
                shard.snapshot.walking = false;
                shard.snapshot.encode = None;
                self.db = 0;
                self.shard += 1;
            }
            parking_lot::MutexGuard::unlock_fair(shard);
        }
        // Of the shards that come later, too: what they save would grow until the walk is there.
        for later in at + 1..keyspace.shard_count() {
            let mut shard = keyspace.shard(later).lock();
            if shard.snapshot.captured.keys > 0 {
                captured.push(std::mem::take(&mut shard.snapshot.captured));
            }
        }
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
        self.shards.iter().map(|s| s.lock().snapshot.captured.bytes()).sum()
    }
}
