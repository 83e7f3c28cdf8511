//! MULTI and EXEC, and WATCH.

use std::sync::atomic::Ordering;

use engine::command::{Flags, Group};
use engine::keyspace::ExpiredKeys;
use engine::{CommandError, KeysView};
use resp::{Args, OwnedArgs};
use smallvec::SmallVec;

use super::{
    Batch, NOT_WRITABLE, Next, Origin, Session, expired_keys, finish, is_flush, push_lazily_deleted, reject,
    run_locked, run_server,
};
use crate::commands;
use crate::persistence;
use crate::registry::{Entry, Handler, Registry};

/// Commands that wait for EXEC.
#[derive(Debug, Default)]
pub(super) struct Multi {
    pub queue: Vec<OwnedArgs>,
    pub failed: bool,
}

/// A key that is WATCHed.
#[derive(Debug)]
pub(super) struct Watched {
    pub db: usize,
    pub key: Vec<u8>,
    /// It was there when WATCH saw it, its time had not passed.
    pub living: bool,
}

/// MULTI, EXEC, DISCARD, WATCH, UNWATCH; the caller holds no locks.
pub(super) fn transaction(batch: &mut Batch<'_>, session: &mut Session, name: &str, args: Args<'_>) -> Next {
    let server = batch.server;
    let result = match name {
        "multi" => match session.multi {
            Some(_) => Err("ERR MULTI calls can not be nested"),
            None => {
                session.multi = Some(Multi::default());
                session.client.queued.store(0, Ordering::Relaxed);
                session.out.ok();
                Ok(())
            }
        },
        "discard" => match session.multi.take() {
            Some(_) => {
                session.client.queued.store(-1, Ordering::Relaxed);
                session.unwatch(server);
                session.out.ok();
                Ok(())
            }
            None => Err("ERR DISCARD without MULTI"),
        },
        "watch" if session.multi.is_some() => Err("ERR WATCH inside MULTI is not allowed"),
        "watch" => {
            for key in args.skip(1).iter() {
                watch(batch, session, key);
            }
            session.out.ok();
            Ok(())
        }
        "unwatch" => {
            session.unwatch(server);
            session.out.ok();
            Ok(())
        }
        _ => match session.multi.take() {
            Some(multi) => {
                let next = exec(batch, session, multi);
                if session.multi.is_none() {
                    session.client.queued.store(-1, Ordering::Relaxed);
                }
                return next;
            }
            None => Err("ERR EXEC without MULTI"),
        },
    };
    if let Err(text) = result {
        if let Some(multi) = &mut session.multi {
            multi.failed |= name != "multi" && name != "watch";
        }
        session.out.error(text);
        Registry::get().find(args.at(0)).into_iter().for_each(|e| _ = e.stats.failed.fetch_add(1, Ordering::Relaxed));
        server.stats.count_error(text);
    }
    Next::Continue
}

/// A view of what the batch holds.
fn view<'b>(batch: &'b mut Batch<'_>, db: usize, expired: ExpiredKeys) -> KeysView<'b> {
    let (keyspace, limits, now_ms) = (&batch.server.keyspace, &batch.settings.limits, batch.unix_ms());
    KeysView::new(keyspace, &mut batch.held, limits, db, expired, now_ms)
}

/// A key that has expired already is none: its removal later on is no change.
fn watch(batch: &mut Batch<'_>, session: &mut Session, key: &[u8]) {
    let db = session.db;
    if session.watched.iter().any(|watched| watched.db == db && watched.key == key) {
        return;
    }
    let (keyspace, expired) = (&batch.server.keyspace, expired_keys(batch, session.origin));
    batch.hold_instead(|| keyspace.lock_one(keyspace.shard_of(keyspace.hash(key))));
    let mut keys = view(batch, db, expired);
    let living = keys.peek(key).is_some();
    let deleted = keys.take_lazily_deleted();
    push_lazily_deleted(batch, deleted);
    batch.note(0, session);
    batch.append();
    batch.held.watch(keyspace, db, key, &session.watch_hit);
    batch.release();
    session.watched.push(Watched { db, key: key.to_vec(), living });
}

/// A server command that may see any key.
fn looks_at_keys(entry: &Entry) -> bool {
    matches!(entry.handler, Handler::Server(_)) && entry.spec.group != Group::Connection
}

/// Whether the time of a WATCHed key has passed since; their shards are held.
fn has_expired(batch: &mut Batch<'_>, session: &Session) -> bool {
    let now_ms = batch.unix_ms();
    session.watched.iter().filter(|watched| watched.living).any(|watched| {
        let mut keys = view(batch, watched.db, ExpiredKeys::Keep);
        keys.peek(&watched.key).and_then(|entry| entry.expires_ms()).is_some_and(|at| at <= now_ms)
    })
}

/// Runs a queue under the union of its locks; its effects are one transaction in the log.
fn exec(batch: &mut Batch<'_>, session: &mut Session, multi: Multi) -> Next {
    let server = batch.server;
    if multi.failed {
        session.unwatch(server);
        let text = "EXECABORT Transaction discarded because of previous errors.";
        session.out.error(text);
        Registry::get().find(b"exec").into_iter().for_each(|e| _ = e.stats.failed.fetch_add(1, Ordering::Relaxed));
        server.stats.count_error(text);
        return Next::Continue;
    }
    let registry = Registry::get();
    let (mut flags, mut flushes) = (Flags::empty(), false);
    let mut shards: SmallVec<[usize; 8]> = SmallVec::new();
    for args in &multi.queue {
        let args = args.as_args();
        let Some(entry) = registry.resolve(args) else { continue };
        flags |= entry.spec.flags & (Flags::ALL_SHARDS | Flags::WRITE);
        if looks_at_keys(entry) {
            flags |= Flags::ALL_SHARDS;
        }
        flushes |= is_flush(entry);
        // COPY and MOVE touch one key in two databases: the shard is the same.
        let keys = entry.spec.key_positions(args).iter().filter_map(|i| args.get(i));
        shards.extend(keys.map(|key| server.keyspace.shard_of(server.keyspace.hash(key))));
    }
    // WATCHed keys belong to the transaction: nothing may change between the check and the run.
    shards.extend(session.watched.iter().map(|watched| server.keyspace.shard_of(server.keyspace.hash(&watched.key))));
    if shards.is_empty() {
        shards.push(0);
    }
    let mut lock = || {
        if flags.contains(Flags::ALL_SHARDS) {
            server.keyspace.lock_all()
        } else {
            server.keyspace.lock_some(&mut shards)
        }
    };
    batch.hold_instead(&mut lock);
    if session.watch_hit.load(Ordering::Acquire) || has_expired(batch, session) {
        batch.release();
        session.unwatch(server);
        session.out.null_array();
        return Next::Continue;
    }
    let writes = session.origin == Origin::Client && flags.contains(Flags::WRITE);
    if writes && !server.repl.still_writable(batch.settings.replica_read_only, batch.now_ms()) {
        batch.release();
        if server.repl.writes_wait(batch.now_ms()) {
            session.multi = Some(multi);
            return Next::PutOff;
        }
        session.unwatch(server);
        return reject(server, session, None, CommandError::Static(NOT_WRITABLE));
    }
    session.out.array(multi.queue.len());
    batch.set_exec(true);
    let mut next = Next::Continue;
    let mut changes = 0;
    for args in &multi.queue {
        let args = args.as_args();
        let Some(entry) = registry.resolve(args) else { continue };
        match entry.handler {
            _ if entry.spec.name == "help" => commands::help(&mut session.out, args.at(0)),
            Handler::Engine(_) => changes += run_locked(batch, session, entry, args, None, &[]),
            Handler::Server(run) => {
                // Nothing comes between the commands around it, unless it needs the locks itself: then what was done so far
                // is logged, and the locks are given back.
                let stays_locked = commands::runs_under_locks(entry, args);
                if !stays_locked {
                    batch.note(std::mem::take(&mut changes), session);
                    batch.release();
                    batch.settle(session);
                }
                let shown = (stays_locked && looks_at_keys(entry)).then_some(&mut batch.held);
                match run_server(server, batch.settings, session, entry, run, args, shown) {
                    Next::Continue | Next::Paused | Next::SkipReply => {}
                    // Inside a transaction WAIT does not block: it answers at once.
                    Next::Wait { offset, .. } => {
                        session.out.len_int(server.repl.holding(offset));
                    }
                    other => next = other,
                }
                if !stays_locked {
                    batch.hold_instead(&mut lock);
                }
            }
        }
        finish(batch, session, entry, args);
    }
    batch.set_exec(false);
    batch.note(changes, session);
    batch.release();
    session.unwatch(server);
    if writes && flushes {
        persistence::save_after_flush(&server.arc());
    }
    next
}
