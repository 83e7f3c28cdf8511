//! States in which not every command may run, decided from the command's flags.

use std::sync::atomic::Ordering;

use engine::CommandError;
use engine::command::Flags;
use resp::Args;

use super::{Batch, Session};
use crate::info;
use crate::registry::{Entry, Registry};

pub(super) enum Gate {
    Error(CommandError),
    Paused,
}

/// May this command run now? Everything is decided from its flags.
#[inline]
pub(super) fn gate(batch: &Batch<'_>, session: &Session, entry: &Entry, args: Args<'_>) -> Result<(), Gate> {
    let (server, settings, flags) = (batch.server, batch.settings, flags_of(session, entry));
    let repl = &server.repl;
    let write = flags.contains(Flags::WRITE);
    let quiet = repl.quiet.load(Ordering::Acquire);
    // R10: writes wait while the role is being handed over.
    if write && !quiet && repl.writes_wait(batch.now_ms()) {
        return Err(Gate::Paused);
    }
    if !quiet || server.loading.load(Ordering::Acquire) {
        // An election may have begun since.
        let waits = || write && repl.writes_wait(batch.now_ms());
        gate_slow(batch, flags).map_err(|error| if waits() { Gate::Paused } else { Gate::Error(error) })?;
    }
    if let (true, Some((count, lag_ms))) = (write, settings.min_replicas())
        && !repl.is_replica()
        && repl.good_replicas(lag_ms) < count
    {
        return Err(Gate::Error(CommandError::Static("NOREPLICAS Not enough good replicas to write.")));
    }
    if write && server.persistence.refuses_writes(settings) && !repl.is_replica() {
        return Err(Gate::Error(CommandError::Static(
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.",
        )));
    }
    if settings.maxmemory.0 > 0 && !repl.is_replica() && needs_memory(session, entry, flags) && !has_memory(batch, args)
    {
        return Err(Gate::Error(CommandError::Static("OOM command not allowed when used memory > 'maxmemory'.")));
    }
    if server.pause.until_ms.load(Ordering::Relaxed) != 0 {
        let (writes, all) = server.paused();
        let exempt = flags.contains(Flags::ADMIN)
            || ["replconf", "auth", "hello", "ping"].contains(&entry.spec.name)
            || entry.name.starts_with("client|");
        let may_replicate = write || flags.contains(Flags::MAY_REPLICATE);
        if ((all && !exempt) || (writes && may_replicate)) && !args.is_empty() {
            return Err(Gate::Paused);
        }
    }
    Ok(())
}

/// Also what only waits for EXEC needs memory.
fn needs_memory(session: &Session, entry: &Entry, flags: Flags) -> bool {
    let ends = ["exec", "discard", "multi", "watch", "quit", "reset"].contains(&entry.spec.name);
    flags.contains(Flags::DENYOOM) || (session.multi.is_some() && !ends)
}

fn has_memory(batch: &Batch<'_>, args: Args<'_>) -> bool {
    let server = batch.server;
    let bytes = args.iter().map(<[u8]>::len).sum::<usize>() as u64;
    server.memory.has_room(batch.settings.maxmemory.0, bytes, batch.now_ms(), || info::memory_counted(server))
}

/// EXEC is what its queue is: what one of it does, it does; it may run where all of it may.
#[inline]
fn flags_of(session: &Session, entry: &Entry) -> Flags {
    match &session.multi {
        Some(multi) if entry.spec.name == "exec" => {
            let queued = multi.queue.iter().filter_map(|args| Registry::get().resolve(args.as_args()));
            queued.fold(entry.spec.flags, |all, one| {
                let does = Flags::WRITE | Flags::DENYOOM | Flags::MAY_REPLICATE;
                let may = Flags::STALE | Flags::LOADING | Flags::AWAITING;
                (all & (one.spec.flags | !may)) | (one.spec.flags & does)
            })
        }
        _ => entry.spec.flags,
    }
}

/// Loading, awaiting, replica, no lease: the states in which not everything may run.
#[cold]
fn gate_slow(batch: &Batch<'_>, flags: Flags) -> Result<(), CommandError> {
    let (server, settings, write) = (batch.server, batch.settings, flags.contains(Flags::WRITE));
    let repl = &server.repl;
    if server.loading.load(Ordering::Acquire) && !flags.contains(Flags::LOADING) {
        return Err(CommandError::Static("LOADING Redis is loading the dataset in memory"));
    }
    if repl.is_awaiting() && !flags.contains(Flags::AWAITING) {
        return Err(CommandError::Static("LOADING awaiting role"));
    }
    if repl.is_replica() {
        if write && settings.replica_read_only {
            return Err(CommandError::Static("READONLY You can't write against a read only replica."));
        }
        if !repl.link_up() && !settings.replica_serve_stale_data && !flags.contains(Flags::STALE) {
            return Err(CommandError::Static(
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ));
        }
    } else if write && !repl.may_write(batch.now_ms()) {
        return Err(CommandError::Static("READONLY no lease: this master may not take writes"));
    }
    Ok(())
}
