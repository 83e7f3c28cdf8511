//! Snapshots for full syncs: one thread walks the keyspace once for all replicas that wait.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::keyspace::WalkStep;
use parking_lot::Mutex;
use replication::{ReaderId, ReplId};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::feed::Feed;
use crate::persistence::{self, Snapshot, SnapshotError};
use crate::state::Server;

/// Bytes handed to the replicas at once.
const PIECE: usize = 128 * 1024;
/// Between two attempts to hand a piece to a replica that has enough of them.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// What a waiting feed gets.
#[derive(Debug, Clone)]
pub enum Piece {
    Begin { reader: ReaderId, offset: u64, id: ReplId, size: Option<u64> },
    Bytes(Bytes),
    End,
}

#[derive(Debug)]
struct Waiter {
    feed: Arc<Feed>,
    sender: mpsc::Sender<Piece>,
    /// It can take a stream that ends with a mark.
    eof: bool,
}

#[derive(Debug, Default)]
struct Pending {
    waiters: Vec<Waiter>,
    running: bool,
}

/// The replicas that wait for a snapshot.
#[derive(Debug, Default)]
pub struct Syncs(Mutex<Pending>);

impl Syncs {
    /// Asks for a snapshot. Those that ask within `repl-diskless-sync-delay` share one.
    pub fn request(&self, server: &Arc<Server>, feed: &Arc<Feed>, sender: mpsc::Sender<Piece>, eof: bool) {
        let mut pending = self.0.lock();
        pending.waiters.push(Waiter { feed: Arc::clone(feed), sender, eof });
        if !std::mem::replace(&mut pending.running, true) {
            let server = Arc::clone(server);
            let spawned = std::thread::Builder::new().name("full-sync".into()).spawn(move || run(&server));
            if let Err(error) = spawned {
                tracing::error!("Can't start the full sync thread: {error}");
                pending.waiters.clear();
                pending.running = false;
            }
        }
    }
}

fn run(server: &Arc<Server>) {
    persistence::yield_to_clients();
    loop {
        let settings = server.settings();
        if settings.repl_diskless_sync {
            let delay = if settings.managed { 0 } else { settings.repl_diskless_sync_delay as u64 };
            wait_for_more(server, Duration::from_secs(delay));
        }
        // A running BGSAVE is waited for: there is one snapshot at a time.
        let _walk = server.persistence.walk.lock();
        let waiters = {
            let mut pending = server.repl.sync.0.lock();
            let waiters: Vec<_> = pending.waiters.drain(..).filter(|w| !w.sender.is_closed()).collect();
            if waiters.is_empty() {
                pending.running = false;
                return;
            }
            waiters
        };
        let diskless = settings.repl_diskless_sync && waiters.iter().all(|w| w.eof);
        let done = if diskless { stream(server, waiters) } else { by_file(server, waiters) };
        if let Err(error) = done {
            tracing::warn!("Full sync: {error}");
        }
    }
}

/// `repl-diskless-sync-delay`: replicas that come meanwhile get the same snapshot; `repl-diskless-sync-max-replicas` of
/// them are enough.
fn wait_for_more(server: &Server, delay: Duration) {
    let begun = crate::clock::instant();
    while let Some(left) = delay.checked_sub(begun.elapsed()) {
        let enough = usize::try_from(server.settings().repl_diskless_sync_max_replicas).unwrap_or(0);
        if enough > 0 && server.repl.sync.0.lock().waiters.len() >= enough {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Sends a piece to all who are still there.
fn send(waiters: &mut Vec<Waiter>, piece: &Piece) {
    waiters.retain(|w| w.sender.blocking_send(piece.clone()).is_ok());
}

/// The same while the snapshot is open. What writers change meanwhile is kept for it, so a replica that takes nothing is
/// given up when that is more than `client-output-buffer-limit replica` allows: memory is not filled for it.
fn send_in_time(server: &Server, waiters: &mut Vec<Waiter>, piece: &Piece) {
    let limit = server.settings().client_output_buffer_limit.replica.hard;
    waiters.retain(|w| {
        let mut piece = piece.clone();
        loop {
            match w.sender.try_send(piece) {
                Ok(()) => return true,
                Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(unsent)) => piece = unsent,
            }
            let kept = server.keyspace.snapshot_side_bytes() as u64;
            if limit > 0 && kept > limit {
                tracing::warn!(
                    "Full sync: a replica is too slow, {kept} bytes of changed keys are kept for it: its connection is closed"
                );
                w.feed.close();
                return false;
            }
            std::thread::sleep(FULL_PAUSE);
        }
    });
}

fn begin((offset, id): (u64, ReplId), readers: &[Option<ReaderId>], waiters: &mut Vec<Waiter>, size: Option<u64>) {
    let mut readers = readers.iter();
    waiters.retain(|w| match readers.next() {
        Some(Some(reader)) => {
            let piece = Piece::Begin { reader: *reader, offset, id, size };
            w.sender.blocking_send(piece).is_ok()
        }
        _ => false,
    });
}

/// Encodes while sending; the slowest replica sets the pace.
fn stream(server: &Arc<Server>, mut waiters: Vec<Waiter>) -> Result<(), SnapshotError> {
    let (mut snapshot, readers) = Snapshot::begin(server, waiters.len(), false);
    tracing::info!("Starting snapshot for SYNC with target: replicas sockets");
    begin((snapshot.offset, snapshot.history.id), &readers, &mut waiters, None);
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
    let (snapshot, readers) = Snapshot::begin(server, waiters.len(), server.settings().rdbcompression);
    let path = std::path::Path::new(&server.settings().dir).join(format!("temp-sync-{}.rdb", std::process::id()));
    let io = |source| SnapshotError::Io { path: path.clone(), source };
    let mut file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(io)?;
    // The name is not needed any more; the bytes go when the file is closed.
    let _ = std::fs::remove_file(&path);
    let head = (snapshot.offset, snapshot.history.id);
    snapshot.write_to(&mut file, &path)?;
    let size = file.stream_position().map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    begin(head, &readers, &mut waiters, Some(size));
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
