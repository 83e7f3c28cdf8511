//! Snapshots for full syncs: one thread walks the keyspace once for all replicas that wait. Who shares a walk, and when it
//! begins, `replication::Snapshots` says.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use engine::keyspace::WalkStep;
use parking_lot::Mutex;
use replication::feed::{Body, Wanted};
use replication::snapshots::{Next, SnapshotSettings, Target};
use replication::{ReaderId, ReplId, Snapshots};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::feed::{Attached, limits};
use crate::clock;
use crate::persistence::{self, Snapshot, SnapshotError};
use crate::state::{Server, random};

/// Bytes handed to the replicas at once.
const PIECE: usize = 128 * 1024;
/// Between two attempts to hand a piece to a replica that has enough of them.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Between two looks at who else has come.
const WAIT_PAUSE: Duration = Duration::from_millis(20);

/// What a waiting feed gets.
#[derive(Debug, Clone)]
pub enum Piece {
    /// The cut is made; the reader stands there.
    Begin {
        reader: ReaderId,
        offset: u64,
        id: ReplId,
    },
    Body(Body),
    Bytes(Bytes),
    End,
}

#[derive(Debug)]
struct Waiter {
    feed: Arc<Attached>,
    sender: mpsc::Sender<Piece>,
}

#[derive(Debug, Default)]
struct Pending {
    snapshots: Snapshots<Waiter>,
    running: bool,
}

/// The replicas that wait for a snapshot.
#[derive(Debug, Default)]
pub struct Syncs(Mutex<Pending>);

impl Syncs {
    pub fn request(&self, server: &Arc<Server>, feed: &Arc<Attached>, sender: mpsc::Sender<Piece>, wanted: Wanted) {
        let mut pending = self.0.lock();
        pending.snapshots.ask(Waiter { feed: Arc::clone(feed), sender }, wanted, clock::monotonic_ms());
        if !std::mem::replace(&mut pending.running, true) {
            let server = Arc::clone(server);
            let spawned = std::thread::Builder::new().name("full-sync".into()).spawn(move || run(&server));
            if let Err(error) = spawned {
                tracing::error!("Can't start the full sync thread: {error}");
                *pending = Pending::default();
            }
        }
    }
}

/// As long as anybody waits.
fn run(server: &Arc<Server>) {
    persistence::yield_to_clients();
    loop {
        let settings = server.settings();
        let delay_ms = if settings.managed { 0 } else { settings.repl_diskless_sync_delay as u64 * 1000 };
        let settings = SnapshotSettings {
            diskless: settings.repl_diskless_sync,
            delay_ms,
            enough: usize::try_from(settings.repl_diskless_sync_max_replicas).unwrap_or(0),
        };
        // A running BGSAVE is waited for: there is one snapshot at a time. Who comes meanwhile shares the next one.
        let walk = server.persistence.walk.lock();
        let next = {
            let mut pending = server.repl.sync.0.lock();
            pending.snapshots.forget(|waiter| waiter.sender.is_closed());
            let next = pending.snapshots.next(&settings, clock::monotonic_ms());
            pending.running = !matches!(next, Next::Idle);
            next
        };
        let done = match next {
            Next::Idle => return,
            Next::Wait { until_ms } => {
                drop(walk);
                let left = until_ms.saturating_sub(clock::monotonic_ms());
                std::thread::sleep(WAIT_PAUSE.min(Duration::from_millis(left)));
                continue;
            }
            Next::Begin { data: false, replicas, .. } => without_keys(server, replicas),
            Next::Begin { target, replicas, .. } => {
                server.persistence.syncing.store(true, Ordering::Release);
                let done = match target {
                    Target::Sockets => stream(server, replicas),
                    Target::Disk => by_file(server, replicas),
                };
                server.persistence.syncing.store(false, Ordering::Release);
                done
            }
        };
        if let Err(error) = done {
            tracing::warn!("Full sync: {error}");
        }
    }
}

/// Sends a piece to all who are still there.
fn send(waiters: &mut Vec<Waiter>, piece: &Piece) {
    waiters.retain(|w| w.sender.blocking_send(piece.clone()).is_ok());
}

/// The same while the snapshot is open: what writers change meanwhile is kept for it, so it does not wait for ever for a
/// replica that takes nothing.
fn send_in_time(server: &Server, waiters: &mut Vec<Waiter>, piece: &Piece) {
    let limits = limits(&server.settings());
    waiters.retain(|w| {
        let mut piece = piece.clone();
        loop {
            match w.sender.try_send(piece) {
                Ok(()) => return true,
                Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(unsent)) => piece = unsent,
            }
            if w.feed.is_given_up(server.keyspace.snapshot_side_bytes() as u64, &limits) {
                return false;
            }
            std::thread::sleep(FULL_PAUSE);
        }
    });
}

/// Cuts the snapshot, and says so to each with its place in the log.
fn begin(server: &Arc<Server>, waiters: &mut Vec<Waiter>, compress: bool) -> Snapshot {
    let (snapshot, readers) = Snapshot::begin(server, waiters.len(), compress);
    let (offset, id) = (snapshot.offset, snapshot.history.id);
    let mut readers = readers.into_iter();
    waiters.retain(|w| {
        let Some(reader) = readers.next().flatten() else { return false };
        let told = w.sender.blocking_send(Piece::Begin { reader, offset, id }).is_ok();
        if !told {
            server.repl.log.lock().log.detach(reader);
        }
        told
    });
    snapshot
}

/// Encodes while sending; the slowest replica sets the pace.
fn stream(server: &Arc<Server>, mut waiters: Vec<Waiter>) -> Result<(), SnapshotError> {
    tracing::info!("Starting snapshot for SYNC with target: replicas sockets");
    let mut snapshot = begin(server, &mut waiters, false);
    send(&mut waiters, &Piece::Body(Body::Mark(ReplId::from_random(random()))));
    let mut piece = Vec::with_capacity(PIECE * 2);
    loop {
        let step = snapshot.step(&mut piece);
        if piece.len() >= PIECE || step == WalkStep::Done {
            if step == WalkStep::Done && !snapshot.aborted() {
                snapshot.finish(&mut piece);
            }
            send_in_time(server, &mut waiters, &Piece::Bytes(Bytes::copy_from_slice(&piece)));
            piece.clear();
            if waiters.is_empty() {
                snapshot.abort();
            }
        }
        if step == WalkStep::Done {
            break;
        }
    }
    if snapshot.aborted() {
        // The feeds see their channel closed.
        return Err(SnapshotError::Aborted);
    }
    send(&mut waiters, &Piece::End);
    Ok(())
}

/// Writes a file first, then sends it with its length.
fn by_file(server: &Arc<Server>, mut waiters: Vec<Waiter>) -> Result<(), SnapshotError> {
    tracing::info!("Starting snapshot for SYNC with target: disk");
    let path = std::path::Path::new(&server.settings().dir).join(format!("temp-sync-{}.rdb", std::process::id()));
    let io = |source| SnapshotError::Io { path: path.clone(), source };
    let mut file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(io)?;
    // The name is not needed any more; the bytes go when the file is closed.
    let _ = std::fs::remove_file(&path);
    begin(server, &mut waiters, server.settings().rdbcompression).write_to(&mut file, &path)?;
    let size = file.stream_position().map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    send(&mut waiters, &Piece::Body(Body::Length(size)));
    let mut piece = vec![0; PIECE];
    loop {
        let n = file.read(&mut piece).map_err(io)?;
        if n == 0 {
            break;
        }
        send(&mut waiters, &Piece::Bytes(Bytes::copy_from_slice(&piece[..n])));
    }
    send(&mut waiters, &Piece::End);
    Ok(())
}

/// A snapshot of everything but the keys: a header and an end.
fn without_keys(server: &Arc<Server>, mut waiters: Vec<Waiter>) -> Result<(), SnapshotError> {
    let mut bytes = Vec::new();
    begin(server, &mut waiters, false).without_keys(&mut bytes);
    send(&mut waiters, &Piece::Body(Body::Length(bytes.len() as u64)));
    send(&mut waiters, &Piece::Bytes(Bytes::from(bytes)));
    send(&mut waiters, &Piece::End);
    Ok(())
}
