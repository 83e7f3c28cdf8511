//! R8: what this instance wrote and its new master does not have is saved aside before a full resync drops it.
//!
//! `divergent-EPOCH.log` in `dir` holds the commands as they are in the log, RESP arrays one after another: `redis-cli --pipe`
//! takes them. It is for a person to look at; nothing here reads it again.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use replication::ReplId;

use crate::state::Server;

/// `master` is the history that replaces ours. Saves the tail behind the place up to which the master has continued our history. Where that is not known (the master has
/// continued another one meanwhile) all that the log still holds is saved.
///
/// # Errors
/// The file could not be written. Nothing may be dropped then.
pub(super) fn save(server: &Server, master: ReplId, continued: Option<(ReplId, u64)>) -> io::Result<()> {
    let (from, tail, epoch, end) = {
        let mut log = server.repl.log.lock();
        if log.history.id == master {
            // One that has followed this master and fell too far behind.
            return Ok(());
        }
        let (first, end) = (log.log.first(), log.log.end());
        let shared = continued.filter(|(id, _)| *id == log.history.id).map(|(_, offset)| offset);
        let from = shared.unwrap_or(first).max(first);
        let mut tail = Vec::new();
        if let Some(reader) = log.log.attach(from.min(end)) {
            // It was attached under this very lock: it cannot have been cut off.
            while log.log.read(reader, usize::MAX, &mut tail).is_ok_and(|n| n > 0) {}
            log.log.detach(reader);
        }
        if let Some(lost) = shared.and_then(|shared| first.checked_sub(shared)).filter(|lost| *lost > 0) {
            tracing::warn!("{lost} bytes that the master does not have are not in the backlog any more");
        }
        (from, tail, log.history.epoch, end)
    };
    if tail.is_empty() {
        return Ok(());
    }
    let path = free_name(Path::new(&server.settings().dir), epoch);
    let mut file = File::create_new(&path)?;
    file.write_all(&tail)?;
    file.sync_all()?;
    server.repl.link.divergent_bytes.fetch_add(tail.len() as u64, Ordering::Relaxed);
    tracing::warn!("Offsets {from} to {end} are not in the master's history: saved as {}", path.display());
    Ok(())
}

/// Two tails of one epoch are two files.
fn free_name(dir: &Path, epoch: u64) -> PathBuf {
    let name = |n: u32| match n {
        0 => dir.join(format!("divergent-{epoch}.log")),
        n => dir.join(format!("divergent-{epoch}-{n}.log")),
    };
    (0..).map(name).find(|path| !path.exists()).expect("a directory does not hold 2^32 files")
}
