//! One command from its arguments to its reply.
//!
//! lookup → arity → authentication → MULTI's queue → gates (from the command's flags) → lock the shards of its keys →
//! run → append its effect to the log **while the shards are locked** → unlock. What the commands of one pipeline share of
//! this is in [`Batch`].

mod batch;
mod gate;
mod redact;
mod transaction;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::command::{Flags, KeyPositions, Keys};
use engine::keyspace::{ExpiredKeys, KeyHash, KeysView, Locked, Shards};
use engine::{CommandError, Ctx, Effects, Rng};
use replication::{Announced, Ask};
use resp::{Args, Encoder, encode_command};
use smallvec::SmallVec;

use gate::{Gate, gate};
use transaction::{Multi, Watched, transaction};

pub use batch::Batch;

use crate::clients::Client;
use crate::clock;
use crate::commands::{self, ServerCtx, unknown_subcommand};
use crate::config::{PropagationErrors, Settings};
use crate::persistence;
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
    Psync(Ask),
    /// SHUTDOWN: no reply comes unless the server cannot end; the number of times that it could not before.
    Shutdown {
        failures: u64,
    },
    /// More replies wait than the client may have.
    OverLimit,
    /// Neither this call nor the next is answered.
    SkipReply,
    /// The command must wait until a pause is over and then be run again.
    Paused,
    /// Another thread works on its keys, or writes have come to wait since it was let in: others go first, then it is
    /// run again.
    PutOff,
}

/// Who gives the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client,
    /// The replication stream: no gates, no expiry, nothing appended (the stream's own bytes are).
    Master,
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
    watched: Vec<Watched>,
    watch_hit: Arc<AtomicBool>,
    /// What a replica said of itself by REPLCONF.
    pub replica: Announced,
    /// CLIENT REPLY: whether replies are sent, and whether the next one is dropped.
    pub reply_off: bool,
    pub reply_skip: bool,
    /// Number of the last command in the registry.
    pub last: u32,
    /// Log offset behind this connection's last write.
    pub write_offset: u64,
    /// It has effects in the present batch that `write_offset` does not know of yet, see [`Batch::settle`].
    unlogged: bool,
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
            replica: Announced::default(),
            reply_off: false,
            reply_skip: false,
            last: u32::MAX,
            write_offset: 0,
            unlogged: false,
            scratch: Vec::new(),
        }
    }

    pub fn in_multi(&self) -> bool {
        self.multi.is_some()
    }

    /// Back to what it was when it connected.
    pub fn reset(&mut self, server: &Server) {
        self.multi = None;
        self.client.queued.store(-1, Ordering::Relaxed);
        self.unwatch(server);
        self.db = 0;
        self.out.set_protocol(resp::Protocol::Resp2);
        self.reply_off = false;
        self.reply_skip = false;
        self.client.no_evict.store(false, Ordering::Relaxed);
        self.client.no_touch.store(false, Ordering::Relaxed);
        self.authenticated = server.users.is_open();
    }

    pub fn unwatch(&mut self, server: &Server) {
        for Watched { db, key, .. } in self.watched.drain(..) {
            server.keyspace.unwatch(db, &key, &self.watch_hit);
        }
        self.watch_hit = Arc::default();
    }
}

/// To a client whose write came too late: the role was given away meanwhile.
const NOT_WRITABLE: &str = "READONLY You can't write against a read only replica.";

/// Runs one command that came by itself.
pub fn execute_alone(server: &Server, settings: &Settings, session: &mut Session, args: Args<'_>) -> Next {
    let mut batch = Batch::new(server, settings);
    let next = execute(&mut batch, session, args, None, None);
    batch.end();
    batch.settle(session);
    next
}

/// Runs one command. `raw`: its bytes as a multibulk request, if that is how it came; `hash`: of its first argument.
pub fn execute(
    batch: &mut Batch<'_>,
    session: &mut Session,
    args: Args<'_>,
    raw: Option<&[u8]>,
    hash: Option<u64>,
) -> Next {
    let start = session.out.len();
    let next = execute_inner(batch, session, args, raw, hash);
    if matches!(next, Next::SkipReply) {
        session.out.truncate(start);
        session.reply_skip = true;
        return Next::Continue;
    }
    if matches!(next, Next::Paused | Next::PutOff) {
        return next;
    }
    if session.reply_off || std::mem::take(&mut session.reply_skip) {
        session.out.truncate(start);
    }
    next
}

fn execute_inner(
    batch: &mut Batch<'_>,
    session: &mut Session,
    args: Args<'_>,
    raw: Option<&[u8]>,
    hash: Option<u64>,
) -> Next {
    let server = batch.server;
    let Some(entry) = Registry::get().find(args.at(0)) else {
        if is_http(args.at(0)) {
            warn_of_http(&session.client.addr);
            return Next::Close;
        }
        return reject(server, session, None, unknown(args));
    };
    let entry = match (entry.subcommands.is_empty(), args.get(1)) {
        (true, _) | (_, None) => entry,
        (false, Some(word)) => match entry.subcommand(word) {
            Some(subcommand) => subcommand,
            None => return reject(server, session, None, unknown_subcommand(args)),
        },
    };
    let spec = entry.spec;
    session.last = entry.number;
    if !spec.arity_ok(args.len()) {
        let error = CommandError::Arity(entry.name.clone());
        if spec.name == "exec" {
            return reject_exec(batch, session, entry, &error);
        }
        return reject(server, session, Some(entry), error);
    }
    if session.origin == Origin::Client {
        if !session.authenticated && !spec.flags.contains(Flags::NO_AUTH) {
            return reject(server, session, Some(entry), CommandError::Static("NOAUTH Authentication required."));
        }
        if let Err(error) = gate(batch, session, entry, args) {
            return match error {
                Gate::Error(error) if spec.name == "exec" && session.multi.is_some() => {
                    reject_exec(batch, session, entry, &error)
                }
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
        session.client.queued.store(multi.queue.len() as i64, Ordering::Relaxed);
        session.out.simple("QUEUED");
        return Next::Continue;
    }
    let next = match entry.handler {
        _ if spec.name == "help" => {
            commands::help(&mut session.out, args.at(0));
            Next::Continue
        }
        Handler::Engine(_) => {
            if !run_engine(batch, session, entry, args, raw, hash) {
                return Next::PutOff;
            }
            Next::Continue
        }
        Handler::Server(run) => {
            // It may look at the keyspace, at the counters and at its place in the log by itself.
            batch.release();
            batch.settle(session);
            batch.settle_counts();
            match spec.name {
                "multi" | "exec" | "discard" | "watch" | "unwatch" => transaction(batch, session, spec.name, args),
                _ => run_server(server, batch.settings, session, entry, run, args, None),
            }
        }
    };
    finish(batch, session, entry, args);
    next
}

#[inline]
fn finish(batch: &mut Batch<'_>, session: &Session, entry: &'static Entry, args: Args<'_>) {
    let micros = batch.count(entry) / 1000;
    let slower = batch.settings.slowlog_log_slower_than;
    if slower >= 0 && micros >= slower as u64 && !entry.spec.flags.contains(Flags::SKIP_SLOWLOG) {
        note_slow(batch.server, batch.settings, session, args, micros);
    }
    let threshold = batch.settings.latency_monitor_threshold as u64;
    if threshold > 0 && micros >= threshold * 1000 {
        let event = if entry.spec.flags.contains(Flags::FAST) { "fast-command" } else { "command" };
        batch.server.latency.note(event, clock::unix_ms() / 1000, micros / 1000);
    }
}

#[cold]
fn note_slow(server: &Server, settings: &Settings, session: &Session, args: Args<'_>, micros: u64) {
    let mut log = server.slowlog.lock();
    let entry = SlowEntry {
        id: log.next_id,
        at_s: clock::unix_ms() / 1000,
        micros,
        args: shortened(args),
        addr: session.client.addr.clone(),
        name: session.client.text.lock().name.clone(),
    };
    log.next_id += 1;
    log.entries.push_front(entry);
    log.entries.truncate(settings.slowlog_max_len as usize);
}

/// At most 32 arguments of at most 128 bytes, without passwords; what was left out is said.
fn shortened(args: Args<'_>) -> Vec<Vec<u8>> {
    const ARGS: usize = 32;
    const BYTES: usize = 128;
    let shown = if args.len() > ARGS { ARGS - 1 } else { args.len() };
    let mut out: Vec<Vec<u8>> = Vec::with_capacity(shown + 1);
    for (i, arg) in args.iter().take(shown).enumerate() {
        let arg = if redact::is_secret(args, i) { redact::SHOWN } else { arg };
        let mut short = arg[..arg.len().min(BYTES)].to_vec();
        if arg.len() > BYTES {
            short.extend_from_slice(format!("... ({} more bytes)", arg.len() - BYTES).as_bytes());
        }
        out.push(short);
    }
    if shown < args.len() {
        out.push(format!("... ({} more arguments)", args.len() - shown).into_bytes());
    }
    out
}

/// A browser speaks: what follows would be run, with whatever a web page has put there.
#[cold]
fn is_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:")
}

/// Once a minute at most: whoever does it may do it often.
#[cold]
fn warn_of_http(addr: &str) {
    const PERIOD_S: u64 = 60;
    static NEXT_S: AtomicU64 = AtomicU64::new(0);
    let now_s = clock::monotonic_ms() / 1000;
    let due = |next_s| (now_s >= next_s).then_some(now_s + PERIOD_S);
    if NEXT_S.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
        tracing::warn!(
            "Possible SECURITY ATTACK detected. It looks like somebody is sending POST or Host: commands to Redis. This is likely due to an attacker attempting to use Cross Protocol Scripting to compromise your Redis instance. Connection from {addr} aborted."
        );
    }
}

#[cold]
fn unknown(args: Args<'_>) -> CommandError {
    let cut = |arg: &[u8]| String::from_utf8_lossy(&arg[..arg.len().min(128)]).into_owned();
    let rest: String = args.iter().skip(1).take(20).map(|a| format!("'{}' ", cut(a))).collect();
    CommandError::text(format!("ERR unknown command '{}', with args beginning with: {rest}", cut(args.at(0))))
}

/// EXEC may not run: the transaction is over.
#[cold]
fn reject_exec(batch: &mut Batch<'_>, session: &mut Session, entry: &Entry, error: &CommandError) -> Next {
    session.multi = None;
    session.client.queued.store(-1, Ordering::Relaxed);
    batch.release();
    session.unwatch(batch.server);
    let text = error.to_string();
    let text = format!("EXECABORT Transaction discarded because of: {}", text.trim_start_matches("ERR "));
    reject(batch.server, session, Some(entry), CommandError::text(text))
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

/// Which shards a command needs.
enum Needs {
    One(usize),
    Some(SmallVec<[usize; 8]>),
    All,
    /// This one, and those behind it as they come.
    From(usize),
}

/// The keys of a command. Most have one: it is not put anywhere.
#[expect(clippy::large_enum_variant, reason = "it lies on the stack for one command, and is not moved")]
enum Keyed<'k> {
    One([KeyHash<'k>; 1]),
    Several(SmallVec<[KeyHash<'k>; 10]>),
}

impl<'k> Keyed<'k> {
    /// `hash`: of the first argument, if that is known.
    #[inline]
    fn of(server: &Server, positions: KeyPositions, args: Args<'k>, hash: Option<u64>) -> Self {
        let hash_of = |at: usize, key: &[u8]| match hash {
            Some(hash) if at == 1 => hash,
            _ => server.keyspace.hash(key),
        };
        if let Some(at) = positions.single()
            && let Some(key) = args.get(at)
        {
            return Self::One([KeyHash { key, hash: hash_of(at, key) }]);
        }
        let keys = positions.iter().filter_map(|at| args.get(at).map(|key| KeyHash { key, hash: hash_of(at, key) }));
        Self::Several(keys.collect())
    }

    #[inline]
    fn as_slice(&self) -> &[KeyHash<'k>] {
        match self {
            Self::One(one) => one,
            Self::Several(keys) => keys,
        }
    }
}

#[inline]
fn needs(server: &Server, flags: Flags, keys: &[KeyHash<'_>], args: Args<'_>) -> Needs {
    let keyspace = &server.keyspace;
    if flags.contains(Flags::ALL_SHARDS) {
        return match scan_cursor(args) {
            Some(cursor) => Needs::From(keyspace.scan_begins(cursor)),
            None => Needs::All,
        };
    }
    match keys {
        [] => Needs::One(0),
        [one] => Needs::One(keyspace.shard_of(one.hash)),
        several => Needs::Some(several.iter().map(|key| keyspace.shard_of(key.hash)).collect()),
    }
}

/// Where SCAN goes on: it looks at one shard, or a few.
fn scan_cursor(args: Args<'_>) -> Option<u64> {
    args.at(0).eq_ignore_ascii_case(b"scan").then(|| resp::number::parse_u64(args.get(1)?))?
}

/// What a command of the engine does with expired keys. A client that may write on a replica writes what is nobody
/// else's: so are its expiries.
#[inline]
fn expired_keys_for(batch: &Batch<'_>, origin: Origin, entry: &Entry) -> ExpiredKeys {
    match expired_keys(batch, origin) {
        ExpiredKeys::Hide
            if entry.spec.flags.contains(Flags::WRITE)
                && !batch.settings.replica_read_only
                && batch.server.repl.is_replica() =>
        {
            ExpiredKeys::Local
        }
        other => other,
    }
}

#[inline]
fn expired_keys(batch: &Batch<'_>, origin: Origin) -> ExpiredKeys {
    let repl = &batch.server.repl;
    match origin {
        Origin::Master => ExpiredKeys::Keep,
        Origin::Client if repl.is_replica() => ExpiredKeys::Hide,
        Origin::Client if repl.writes_held() || batch.server.paused().0 => ExpiredKeys::Hide,
        // A master that may not write adds nothing to its history, deletions included.
        Origin::Client if repl.managed && !repl.leads(batch.now_ms()) => ExpiredKeys::Hide,
        Origin::Client => ExpiredKeys::Delete,
    }
}

/// `false`: the command is to be put off.
#[inline]
fn lock(batch: &mut Batch<'_>, needs: Needs) -> bool {
    let keyspace = &batch.server.keyspace;
    match needs {
        Needs::One(shard) => return batch.hold(&[shard]),
        Needs::Some(shards) => return batch.hold(&shards),
        Needs::All => batch.hold_instead(|| keyspace.lock_all()),
        Needs::From(shard) => batch.hold_instead(|| keyspace.lock_from(shard)),
    }
    true
}

/// `false`: nothing was done, the command is to be put off.
fn run_engine(
    batch: &mut Batch<'_>,
    session: &mut Session,
    entry: &'static Entry,
    args: Args<'_>,
    raw: Option<&[u8]>,
    hash: Option<u64>,
) -> bool {
    let server = batch.server;
    let keys = Keyed::of(server, entry.spec.key_positions(args), args, hash);
    let keys = keys.as_slice();
    if !batch.holds_united() && !lock(batch, needs(server, entry.spec.flags, keys, args)) {
        return false;
    }
    if keys.len() > 1 {
        server.keyspace.prefetch_keys(&batch.held, session.db, keys);
    }
    let write = session.origin == Origin::Client && entry.spec.flags.contains(Flags::WRITE);
    if write && !server.repl.still_writable(batch.settings.replica_read_only, batch.now_ms()) {
        if server.repl.writes_wait(batch.now_ms()) {
            batch.release_own();
            return false;
        }
        reject(server, session, Some(entry), CommandError::Static(NOT_WRITABLE));
    } else {
        let changes = run_locked(batch, session, entry, args, raw, keys);
        batch.note(changes, session);
    }
    batch.release_own();
    if is_flush(entry) {
        server.local_expiry.forget_all();
        if write {
            batch.release();
            persistence::save_after_flush(&server.arc());
        }
    }
    true
}

/// FLUSHALL, behind which the data set is saved.
#[inline]
fn is_flush(entry: &Entry) -> bool {
    entry.spec.flags.contains(Flags::ALL_SHARDS) && entry.spec.name == "flushall"
}

/// Runs a command of the engine under the locks that the batch holds, and returns the number of changes. Its effects wait.
fn run_locked(
    batch: &mut Batch<'_>,
    session: &mut Session,
    entry: &Entry,
    args: Args<'_>,
    raw: Option<&[u8]>,
    hashes: &[KeyHash<'_>],
) -> u64 {
    let Handler::Engine(run) = entry.handler else { return 0 };
    let start = session.out.len();
    let (server, limits, now_ms) = (batch.server, &batch.settings.limits, batch.unix_ms());
    let expired = expired_keys_for(batch, session.origin, entry);
    let mut keys = KeysView::new(&server.keyspace, &mut batch.held, limits, session.db, expired, now_ms);
    keys.hint_hashes(hashes);
    if !entry.spec.flags.contains(Flags::WRITE) {
        keys.count_lookups();
    }
    if session.client.no_touch.load(Ordering::Relaxed) && entry.spec.name != "touch" {
        keys.leave_access_times();
    }
    session.effects.begin();
    let db = session.db;
    let mut ctx =
        Ctx { args, keys, out: &mut session.out, effects: &mut session.effects, rng: &mut session.rng, limits, now_ms };
    let result = run(&mut ctx);
    if expired == ExpiredKeys::Local {
        server.local_expiry.remember(&mut ctx.keys);
    }
    let (changes, deleted) = (ctx.keys.changes(), ctx.keys.take_lazily_deleted());
    drop(ctx);
    if !deleted.is_empty() {
        push_lazily_deleted(batch, deleted);
        if matches!(entry.spec.keys, Keys::None) {
            batch.separate();
        }
    }
    if let Err(error) = result {
        fail(server, session, entry, &error, start);
    }
    // What our master sent is in the log as it came.
    if changes == 0 || session.origin == Origin::Master {
        return changes;
    }
    if !session.effects.verbatim() {
        let (bytes, count) = session.effects.records();
        if count > 0 {
            batch.push(db, bytes, count);
        }
    } else if let Some(raw) = raw {
        batch.push_verbatim(raw, session);
    } else {
        session.scratch.clear();
        let argv: SmallVec<[&[u8]; 8]> = args.iter().collect();
        encode_command(&mut session.scratch, &argv);
        batch.push(db, &session.scratch, 1);
    }
    changes
}

#[cold]
fn push_lazily_deleted(batch: &mut Batch<'_>, deleted: Vec<(usize, Box<[u8]>)>) {
    let (verb, mut bytes) = (batch.settings.limits.expire_del(), Vec::new());
    for (db, key) in deleted {
        bytes.clear();
        encode_command(&mut bytes, &[verb, &key]);
        batch.push(db, &bytes, 1);
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
        if server.settings().propagation_error_behavior != PropagationErrors::Ignore {
            tracing::error!("propagation-error-behavior asks to end here: the data is no longer the master's");
            std::process::abort();
        }
    }
}

/// `held`: the shards that the caller has locked, all of them or none.
fn run_server(
    server: &Server,
    settings: &Settings,
    session: &mut Session,
    entry: &Entry,
    run: crate::commands::Run,
    args: Args<'_>,
    held: Option<&mut Locked<'_>>,
) -> Next {
    let start = session.out.len();
    session.client.last.store(entry.number, Ordering::Relaxed);
    let held = held.map(|held| held as &mut dyn Shards);
    let mut ctx = ServerCtx { server, settings, session, args, held };
    match run(&mut ctx) {
        Ok(next) => next,
        Err(error) => {
            fail(server, session, entry, &error, start);
            Next::Continue
        }
    }
}
