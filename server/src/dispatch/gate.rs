//! States in which not every command may run, decided from the command's flags.

use std::sync::atomic::Ordering;

use engine::CommandError;
use engine::command::Flags;
use resp::Args;

use super::{Batch, Session};
use crate::registry::{Entry, Registry};

pub(super) enum Gate {
    Error(CommandError),
    Paused,
}

/// May this command run now? Everything is decided from its flags.
#[inline]
pub(super) fn gate(batch: &Batch<'_>, session: &Session, entry: &Entry, args: Args<'_>) -> Result<(), Gate> {
    let (server, settings, flags) = (batch.server, batch.settings, entry.spec.flags);
    let repl = &server.repl;
    let write = flags.contains(Flags::WRITE) || (entry.spec.name == "exec" && queued_writes(session));
    let quiet = repl.quiet.load(Ordering::Acquire);
    // R10: writes wait while the role is being handed over.
    if write && !quiet && repl.writes_wait(batch.now_ms()) {
        return Err(Gate::Paused);
    }
    if !quiet || server.loading.load(Ordering::Acquire) {
        gate_slow(batch, entry, write).map_err(Gate::Error)?;
    }
    if write && settings.min_replicas_to_write > 0 && !repl.is_replica() {
        let good = repl.good_replicas(settings.min_replicas_max_lag as u64 * 1000);
        if good < settings.min_replicas_to_write as usize {
            return Err(Gate::Error(CommandError::Static("NOREPLICAS Not enough good replicas to write.")));
        }
    }
    if write && server.persistence.refuses_writes(settings) && !repl.is_replica() {
        return Err(Gate::Error(CommandError::Static(
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.",
        )));
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

pub(super) fn is_write(args: Args<'_>) -> bool {
    Registry::get().resolve(args).is_some_and(|e| e.spec.flags.contains(Flags::WRITE))
}

fn queued_writes(session: &Session) -> bool {
    session.multi.as_ref().is_some_and(|multi| multi.queue.iter().any(|args| is_write(args.as_args())))
}

/// Loading, awaiting, replica, no lease: the states in which not everything may run.
#[cold]
fn gate_slow(batch: &Batch<'_>, entry: &Entry, write: bool) -> Result<(), CommandError> {
    let (server, settings, flags) = (batch.server, batch.settings, entry.spec.flags);
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
