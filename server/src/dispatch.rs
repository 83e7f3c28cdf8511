//! One command from its arguments to its reply.
//!
//! lookup → arity → authentication → MULTI's queue → gates (from the command's flags) → lock the shards of its keys →
//! run → append its effect to the log **while the shards are locked** → unlock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::command::{Flags, KeyPositions};
use engine::keyspace::{ExpiredKeys, KeysView, Locked};
use engine::{CommandError, Ctx, Effects, Rng};
use resp::{Args, Encoder, OwnedArgs, encode_command};
use smallvec::SmallVec;

use crate::clients::Client;
use crate::clock;
use crate::commands::ServerCtx;
use crate::config::Settings;
use crate::registry::{Entry, Handler, Registry};
use crate::state::{Server, SlowEntry, random_u64};

/// What the connection does after a command.
#[derive(Debug)]
pub enum Next {
    Continue,
    /// Send what is there, then close.
    Close,
    /// WAIT: the reply is the number of replicas that hold `offset`, at the latest after `timeout_ms` (0: no limit).
    Wait {
        replicas: usize,
        offset: u64,
        timeout_ms: u64,
    },
    /// The connection becomes a replica's feed.
    Psync {
        id: Vec<u8>,
        next: i64,
        sync: bool,
    },
    /// Neither this call nor the next is answered.
    SkipReply,
    /// The command must wait until a pause is over and then be run again.
    Paused,
}

/// Who gives the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client,
    /// The replication stream: no gates, no expiry, nothing appended (the stream's own bytes are).
    Master,
}

/// What a replica said of itself by REPLCONF.
#[derive(Debug, Clone, Default)]
pub struct ReplicaInfo {
    pub port: u16,
    pub ip: Option<String>,
    pub eof: bool,
    pub psync2: bool,
    /// Epoch that it was told to follow, and its volume, if it is managed.
    pub managed: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Multi {
    queue: Vec<OwnedArgs>,
    failed: bool,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    pub client: Arc<Client>,
    pub origin: Origin,
    pub db: usize,
    pub authenticated: bool,
    pub out: Encoder,
    pub effects: Effects,
    pub rng: Rng,
    multi: Option<Multi>,
    watched: Vec<(usize, Vec<u8>)>,
    watch_hit: Arc<AtomicBool>,
    pub replica: ReplicaInfo,
    /// CLIENT REPLY: whether replies are sent, and whether the next one is dropped.
    pub reply_off: bool,
    pub reply_skip: bool,
    /// Log offset behind this connection's last write.
    pub write_offset: u64,
    scratch: Vec<u8>,
}

impl Session {
    pub fn new(client: Arc<Client>, origin: Origin, authenticated: bool) -> Self {
        Self {
            client,
            origin,
            db: 0,
            authenticated,
            out: Encoder::default(),
            effects: Effects::default(),
            rng: Rng::new(random_u64()),
            multi: None,
            watched: Vec::new(),
            watch_hit: Arc::default(),
            replica: ReplicaInfo::default(),
            reply_off: false,
            reply_skip: false,
            write_offset: 0,
            scratch: Vec::new(),
        }
    }

    pub fn in_multi(&self) -> bool {
        self.multi.is_some()
    }

    /// Back to what it was when it connected.
    pub fn reset(&mut self, server: &Server) {
        self.multi = None;
        self.unwatch(server);
        self.db = 0;
        self.out.set_protocol(resp::Protocol::Resp2);
        self.reply_off = false;
        self.reply_skip = false;
        self.authenticated = server.settings().requirepass.is_empty();
    }

    pub fn unwatch(&mut self, server: &Server) {
        for (db, key) in self.watched.drain(..) {
            server.keyspace.unwatch(db, &key, &self.watch_hit);
        }
        self.watch_hit = Arc::default();
    }
}

/// To a client whose write came too late: the role was given away meanwhile.
const NOT_WRITABLE: &str = "READONLY You can't write against a read only replica.";

/// Runs one command. `raw`: its bytes as a multibulk request, if that is how it came; `hash`: of its first argument.
pub fn execute(
    server: &Server,
    settings: &Settings,
    session: &mut Session,
    args: Args<'_>,
    raw: Option<&[u8]>,
    hash: Option<u64>,
) -> Next {
    let start = session.out.len();
    let next = execute_inner(server, settings, session, args, raw, hash);
    if matches!(next, Next::SkipReply) {
        session.out.truncate(start);
        session.reply_skip = true;
        return Next::Continue;
    }
    if session.reply_off || std::mem::take(&mut session.reply_skip) {
        session.out.truncate(start);
    }
    next
}

fn execute_inner(
    server: &Server,
    settings: &Settings,
    session: &mut Session,
    args: Args<'_>,
    raw: Option<&[u8]>,
    hash: Option<u64>,
) -> Next {
    let Some(entry) = Registry::get().find(args.at(0)) else {
        return reject(server, session, None, unknown(args));
    };
    let spec = entry.spec;
    if !spec.arity_ok(args.len()) {
        let error = CommandError::Arity(spec.name.into());
        if spec.name == "exec" {
            session.multi = None;
            session.client.in_multi.store(false, Ordering::Relaxed);
            session.unwatch(server);
            let text = error.to_string();
            let text = format!("EXECABORT Transaction discarded because of: {}", text.trim_start_matches("ERR "));
            return reject(server, session, Some(entry), CommandError::text(text));
        }
        return reject(server, session, Some(entry), error);
    }
    if session.origin == Origin::Client {
        if !session.authenticated && !spec.flags.contains(Flags::NO_AUTH) {
            return reject(server, session, Some(entry), CommandError::Static("NOAUTH Authentication required."));
        }
        if let Err(error) = gate(server, settings, session, entry, args) {
            return match error {
                Gate::Error(error) => reject(server, session, Some(entry), error),
                Gate::Paused => Next::Paused,
            };
        }
    }
    if let Some(multi) = &mut session.multi
        && !["exec", "discard", "multi", "watch", "quit", "reset"].contains(&spec.name)
    {
        if spec.flags.contains(Flags::NO_MULTI) {
            multi.failed = true;
            let error = CommandError::Static("ERR Command not allowed inside a transaction");
            return reject(server, session, Some(entry), error);
        }
        multi.queue.push(args.to_owned());
        session.out.simple("QUEUED");
        return Next::Continue;
    }
    let begun = clock::instant();
    let next = match entry.handler {
        Handler::Engine(_) => {
            run_engine(server, settings, session, entry, args, raw, hash);
            Next::Continue
        }
        Handler::Server(run) => match spec.name {
            "multi" | "exec" | "discard" | "watch" | "unwatch" => {
                transaction(server, settings, session, spec.name, args)
            }
            _ => run_server(server, settings, session, entry, run, args),
        },
    };
    finish(server, settings, session, entry, args, begun);
    next
}

fn finish(
    server: &Server,
    settings: &Settings,
    session: &Session,
    entry: &Entry,
    args: Args<'_>,
    begun: std::time::Instant,
) {
    let nanos = begun.elapsed().as_nanos() as u64;
    entry.stats.add(nanos);
    let slower = settings.slowlog_log_slower_than;
    if slower >= 0 && nanos / 1000 >= slower as u64 && !entry.spec.flags.contains(Flags::SKIP_SLOWLOG) {
        note_slow(server, settings, session, args, nanos / 1000);
    }
}

#[cold]
fn note_slow(server: &Server, settings: &Settings, session: &Session, args: Args<'_>, micros: u64) {
    let mut log = server.slowlog.lock();
    let entry = SlowEntry {
        id: log.next_id,
        at_s: clock::unix_ms() / 1000,
        micros,
        args: args.iter().take(32).map(|a| a[..a.len().min(128)].to_vec()).collect(),
        addr: session.client.addr.clone(),
        name: session.client.text.lock().name.clone(),
    };
    log.next_id += 1;
    log.entries.push_front(entry);
    log.entries.truncate(settings.slowlog_max_len as usize);
}

#[cold]
fn unknown(args: Args<'_>) -> CommandError {
    let cut = |arg: &[u8]| String::from_utf8_lossy(&arg[..arg.len().min(128)]).into_owned();
    let rest: String = args.iter().skip(1).take(20).map(|a| format!("'{}' ", cut(a))).collect();
    CommandError::text(format!("ERR unknown command '{}', with args beginning with: {rest}", cut(args.at(0))))
}

#[cold]
fn reject(server: &Server, session: &mut Session, entry: Option<&Entry>, error: CommandError) -> Next {
    if let Some(entry) = entry {
        entry.stats.rejected.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(multi) = &mut session.multi {
        multi.failed = true;
    }
    let text = error.to_string();
    server.stats.count_error(&text);
    if session.origin == Origin::Client {
        session.out.error(&text);
    }
    // R3: a client that writes to a master without a lease, or to one that was demoted, looks for the master again.
    Next::Continue
}

enum Gate {
    Error(CommandError),
    Paused,
}

/// May this command run now? Everything is decided from its flags.
#[inline]
fn gate(server: &Server, settings: &Settings, session: &Session, entry: &Entry, args: Args<'_>) -> Result<(), Gate> {
    let flags = entry.spec.flags;
    let repl = &server.repl;
    let write = flags.contains(Flags::WRITE) || (entry.spec.name == "exec" && queued_writes(session));
    // R10: writes wait while the role is being handed over.
    if write && repl.managed && repl.handing_over(clock::monotonic_ms()) {
        return Err(Gate::Paused);
    }
    if !repl.quiet.load(Ordering::Acquire) || server.loading.load(Ordering::Acquire) {
        gate_slow(server, settings, entry, write).map_err(Gate::Error)?;
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
        let exempt =
            flags.contains(Flags::ADMIN) || ["client", "replconf", "auth", "hello", "ping"].contains(&entry.spec.name);
        let may_replicate = write || flags.contains(Flags::MAY_REPLICATE);
        if ((all && !exempt) || (writes && may_replicate)) && !args.is_empty() {
            return Err(Gate::Paused);
        }
    }
    Ok(())
}

fn is_write(args: Args<'_>) -> bool {
    Registry::get().find(args.at(0)).is_some_and(|e| e.spec.flags.contains(Flags::WRITE))
}

fn queued_writes(session: &Session) -> bool {
    session.multi.as_ref().is_some_and(|multi| multi.queue.iter().any(|args| is_write(args.as_args())))
}

/// Loading, awaiting, replica, no lease: the states in which not everything may run.
#[cold]
fn gate_slow(server: &Server, settings: &Settings, entry: &Entry, write: bool) -> Result<(), CommandError> {
    let flags = entry.spec.flags;
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
    } else if write && !repl.may_write(clock::monotonic_ms()) {
        return Err(CommandError::Static("READONLY no lease: this master may not take writes"));
    }
    Ok(())
}

/// Locks the shards of a command's keys.
fn lock<'k>(
    server: &'k Server,
    flags: Flags,
    positions: KeyPositions,
    args: Args<'_>,
    hash: Option<u64>,
) -> Locked<'k> {
    let keyspace = &server.keyspace;
    if flags.contains(Flags::ALL_SHARDS) {
        return keyspace.lock_all();
    }
    if keyspace.shard_count() == 1 {
        return keyspace.lock_one(0);
    }
    if let Some(at) = positions.single() {
        let hash = hash.filter(|_| at == 1).unwrap_or_else(|| keyspace.hash(args.at(at)));
        return keyspace.lock_one(keyspace.shard_of(hash));
    }
    let mut shards: SmallVec<[usize; 8]> =
        positions.iter().filter_map(|i| args.get(i)).map(|key| keyspace.shard_of(keyspace.hash(key))).collect();
    if shards.is_empty() {
        shards.push(0);
    }
    keyspace.lock_some(&mut shards)
}

fn expired_keys(server: &Server, origin: Origin) -> ExpiredKeys {
    match origin {
        Origin::Master => ExpiredKeys::Keep,
        Origin::Client if server.repl.is_replica() => ExpiredKeys::Hide,
        // A master that may not write adds nothing to its history, deletions included.
        Origin::Client if server.repl.managed && !server.repl.leads(clock::monotonic_ms()) => ExpiredKeys::Hide,
        Origin::Client => ExpiredKeys::Delete,
    }
}

fn run_engine(
    server: &Server,
    settings: &Settings,
    session: &mut Session,
    entry: &Entry,
    args: Args<'_>,
    raw: Option<&[u8]>,
    hash: Option<u64>,
) {
    let positions = entry.spec.key_positions(args);
    let mut locked = lock(server, entry.spec.flags, positions, args, hash);
    let write = session.origin == Origin::Client && entry.spec.flags.contains(Flags::WRITE);
    if write && !server.repl.still_writable(settings.replica_read_only) {
        drop(locked);
        reject(server, session, Some(entry), CommandError::Static(NOT_WRITABLE));
        return;
    }
    let mut records = Records::default();
    let now_ms = clock::unix_ms();
    run_locked(server, settings, session, entry, args, raw, hash, &mut locked, now_ms, &mut records);
    records.append(server, session);
    drop(locked);
}

/// What a command or a transaction leaves for the log: commands as RESP, with their database.
#[derive(Default)]
struct Records<'a> {
    /// A single verbatim command is appended straight from the query buffer.
    raw: Option<(usize, &'a [u8])>,
    runs: Vec<(usize, Vec<u8>)>,
    commands: usize,
    changes: u64,
}

impl Records<'_> {
    /// Appends to the log; the shards are still locked.
    fn append(self, server: &Server, session: &mut Session) {
        if self.changes == 0 && self.commands == 0 {
            return;
        }
        server.dirty.fetch_add(self.changes, Ordering::Relaxed);
        if self.commands == 0 || session.origin == Origin::Master || server.repl.is_replica() {
            return;
        }
        let mut log = server.repl.log.lock();
        if let Some((db, raw)) = self.raw {
            log.append(db, raw);
        } else if self.commands == 1 {
            self.runs.iter().for_each(|(db, bytes)| log.append(*db, bytes));
        } else {
            log.append(self.runs[0].0, b"*1\r\n$5\r\nMULTI\r\n");
            self.runs.iter().for_each(|(db, bytes)| log.append(*db, bytes));
            log.append_plain(b"*1\r\n$4\r\nEXEC\r\n");
        }
        session.write_offset = log.log.end();
    }

    /// Turns a verbatim command into a run, so that others can follow.
    fn settle(&mut self) {
        if let Some((db, raw)) = self.raw.take() {
            self.runs.push((db, raw.to_vec()));
        }
    }
}

/// Runs a command of the engine under locks that are held already.
#[expect(clippy::too_many_arguments, reason = "the one place where everything meets")]
fn run_locked<'a>(
    server: &Server,
    settings: &Settings,
    session: &mut Session,
    entry: &Entry,
    args: Args<'a>,
    raw: Option<&'a [u8]>,
    hash: Option<u64>,
    locked: &mut Locked<'_>,
    now_ms: u64,
    records: &mut Records<'a>,
) {
    let Handler::Engine(run) = entry.handler else { return };
    let start = session.out.len();
    let mut keys = KeysView::new(
        &server.keyspace,
        locked,
        &settings.limits,
        session.db,
        expired_keys(server, session.origin),
        now_ms,
    );
    if let (Some(hash), Some(key)) = (hash, args.get(1)) {
        keys.hint_hash(key, hash);
    }
    session.effects.begin();
    let mut ctx = Ctx {
        args,
        keys,
        out: &mut session.out,
        effects: &mut session.effects,
        rng: &mut session.rng,
        limits: &settings.limits,
        now_ms,
    };
    let result = run(&mut ctx);
    let mut keys = ctx.keys;
    let changes = keys.changes();
    let expired = keys.has_lazily_deleted();
    if expired {
        records.settle();
        let verb: &[u8] = if settings.lazyfree_lazy_expire { b"UNLINK" } else { b"DEL" };
        keys.drain_lazily_deleted(|db, key| {
            let mut bytes = Vec::new();
            encode_command(&mut bytes, &[verb, key]);
            records.runs.push((db, bytes));
            records.commands += 1;
        });
    }
    drop(keys);
    if let Err(error) = result {
        fail(server, session, entry, &error, start);
    }
    if changes > 0 {
        records.changes += changes;
        let (bytes, count) = session.effects.records();
        if session.effects.verbatim() {
            match raw {
                Some(raw) if records.commands == 0 => records.raw = Some((session.db, raw)),
                _ => {
                    records.settle();
                    session.scratch.clear();
                    let argv: Vec<&[u8]> = args.iter().collect();
                    encode_command(&mut session.scratch, &argv);
                    records.runs.push((session.db, session.scratch.clone()));
                }
            }
            records.commands += 1;
        } else if count > 0 {
            records.settle();
            records.runs.push((session.db, bytes.to_vec()));
            records.commands += count;
        }
    }
}

#[cold]
fn fail(server: &Server, session: &mut Session, entry: &Entry, error: &CommandError, start: usize) {
    session.out.truncate(start);
    let text = error.to_string();
    session.out.error(&text);
    entry.stats.failed.fetch_add(1, Ordering::Relaxed);
    server.stats.count_error(&text);
    if session.origin == Origin::Master {
        tracing::warn!("== CRITICAL == the master's command {} failed here: {text}", entry.spec.name);
    }
}

fn run_server(
    server: &Server,
    settings: &Settings,
    session: &mut Session,
    entry: &Entry,
    run: crate::commands::Run,
    args: Args<'_>,
) -> Next {
    let start = session.out.len();
    let mut ctx = ServerCtx { server, settings, session, args };
    match run(&mut ctx) {
        Ok(next) => next,
        Err(error) => {
            fail(server, session, entry, &error, start);
            Next::Continue
        }
    }
}

fn transaction(server: &Server, settings: &Settings, session: &mut Session, name: &str, args: Args<'_>) -> Next {
    let result = match name {
        "multi" => match session.multi {
            Some(_) => Err("ERR MULTI calls can not be nested"),
            None => {
                session.multi = Some(Multi::default());
                session.client.in_multi.store(true, Ordering::Relaxed);
                session.out.ok();
                Ok(())
            }
        },
        "discard" => match session.multi.take() {
            Some(_) => {
                session.client.in_multi.store(false, Ordering::Relaxed);
                session.unwatch(server);
                session.out.ok();
                Ok(())
            }
            None => Err("ERR DISCARD without MULTI"),
        },
        "watch" if session.multi.is_some() => Err("ERR WATCH inside MULTI is not allowed"),
        "watch" => {
            for key in args.skip(1).iter() {
                let entry = (session.db, key.to_vec());
                if !session.watched.contains(&entry) {
                    server.keyspace.watch(session.db, key, &session.watch_hit);
                    session.watched.push(entry);
                }
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
                session.client.in_multi.store(false, Ordering::Relaxed);
                return exec(server, settings, session, multi);
            }
            None => Err("ERR EXEC without MULTI"),
        },
    };
    if let Err(text) = result {
        if let Some(multi) = &mut session.multi {
            multi.failed |= name != "multi" && name != "watch";
        }
        session.out.error(text);
        server.stats.count_error(text);
    }
    Next::Continue
}

/// Runs a queue under the union of its locks; its effects are one transaction in the log.
fn exec(server: &Server, settings: &Settings, session: &mut Session, multi: Multi) -> Next {
    if multi.failed {
        session.unwatch(server);
        let text = "EXECABORT Transaction discarded because of previous errors.";
        session.out.error(text);
        server.stats.count_error(text);
        return Next::Continue;
    }
    let registry = Registry::get();
    let mut flags = Flags::empty();
    let mut shards: SmallVec<[usize; 8]> = SmallVec::new();
    for args in &multi.queue {
        let args = args.as_args();
        let Some(entry) = registry.find(args.at(0)) else { continue };
        flags |= entry.spec.flags & Flags::ALL_SHARDS;
        // COPY and MOVE touch one key in two databases: the shard is the same.
        let keys = entry.spec.key_positions(args).iter().filter_map(|i| args.get(i));
        shards.extend(keys.map(|key| server.keyspace.shard_of(server.keyspace.hash(key))));
    }
    // WATCHed keys belong to the transaction: nothing may change between the check and the run.
    shards.extend(session.watched.iter().map(|(_, key)| server.keyspace.shard_of(server.keyspace.hash(key))));
    if shards.is_empty() {
        shards.push(0);
    }
    let mut locked = Some(if flags.contains(Flags::ALL_SHARDS) {
        server.keyspace.lock_all()
    } else {
        server.keyspace.lock_some(&mut shards)
    });
    if session.watch_hit.load(Ordering::Acquire) {
        drop(locked);
        session.unwatch(server);
        session.out.null_array();
        return Next::Continue;
    }
    let writes = session.origin == Origin::Client && multi.queue.iter().any(|args| is_write(args.as_args()));
    if writes && !server.repl.still_writable(settings.replica_read_only) {
        drop(locked);
        session.unwatch(server);
        return reject(server, session, None, CommandError::Static(NOT_WRITABLE));
    }
    let now_ms = clock::unix_ms();
    let mut records = Records::default();
    session.out.array(multi.queue.len());
    let mut next = Next::Continue;
    for args in &multi.queue {
        let args = args.as_args();
        let Some(entry) = registry.find(args.at(0)) else { continue };
        let begun = clock::instant();
        match (entry.handler, locked.take()) {
            (Handler::Engine(_), Some(mut held)) => {
                run_locked(server, settings, session, entry, args, None, None, &mut held, now_ms, &mut records);
                locked = Some(held);
            }
            (Handler::Server(run), held) => {
                // It may look at the keyspace by itself: what was done so far is logged, the locks are given back.
                std::mem::take(&mut records).append(server, session);
                drop(held);
                match run_server(server, settings, session, entry, run, args) {
                    Next::Continue | Next::Paused | Next::SkipReply => {}
                    // Inside a transaction WAIT does not block: it answers at once.
                    Next::Wait { offset, .. } => {
                        session.out.len_int(server.repl.holding(offset));
                    }
                    other => next = other,
                }
                locked = Some(if flags.contains(Flags::ALL_SHARDS) {
                    server.keyspace.lock_all()
                } else {
                    server.keyspace.lock_some(&mut shards)
                });
            }
            (Handler::Engine(_), None) => {}
        }
        finish(server, settings, session, entry, args, begun);
    }
    records.append(server, session);
    drop(locked);
    session.unwatch(server);
    next
}
