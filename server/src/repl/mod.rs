//! Replication, both ways, and the role of this instance.
//!
//! [`Replication`] is the shared state. `feed` serves one attached replica, `sync` makes the snapshots for full syncs,
//! `link` follows a master, `receive` takes its RDB, `managed` obeys the operator. What may be decided without a socket is decided in the
//! `replication` crate.

mod divergent;
mod failover;
mod feed;
mod link;
mod managed;
mod receive;
mod sync;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use replication::replicaof::{self, Change, Replicaof};
use replication::{Access, Ack, Acks, Failover, History, Log, ReplId, Role, RoleState, records};
use tokio::sync::Notify;

use crate::clock;
use crate::config::Settings;
use crate::state::random;

pub use failover::begin as begin_failover;
pub(crate) use failover::run as run_failovers;
pub use feed::{Attached, may_serve, run as run_feed};
pub use link::run as run_link;
pub use managed::{command as managed_command, load_durable, store_at_shutdown};
pub use replication::FeedState;

/// The log with what belongs to it: one lock for both, so that an offset always has its history.
#[derive(Debug)]
pub struct LogState {
    pub log: Log,
    pub history: History,
    /// Database of the last record: a SELECT precedes a record of another.
    pub db: Option<usize>,
}

impl LogState {
    /// Appends a command of a database.
    #[inline]
    pub fn append(&mut self, db: usize, bytes: &[u8]) {
        if self.db == Some(db) {
            return self.log.append(bytes);
        }
        // Redis selects inside the transaction.
        let begin = if bytes.starts_with(records::MULTI) { records::MULTI.len() } else { 0 };
        self.log.append(&bytes[..begin]);
        self.select(db);
        self.log.append(&bytes[begin..]);
    }

    #[cold]
    fn select(&mut self, db: usize) {
        let mut select = Vec::new();
        resp::encode_command(&mut select, &["SELECT", &db.to_string()]);
        self.log.append(&select);
        self.db = Some(db);
    }

    /// Appends what belongs to no database, or bytes of our master.
    pub fn append_plain(&mut self, bytes: &[u8]) {
        self.log.append(bytes);
    }
}

/// The master that this instance follows or is to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
    /// Epoch of a managed instance.
    pub epoch: Option<u64>,
    /// Of a managed instance: the master is none of ours, and lets it in like this.
    pub external: Option<Access>,
}

impl Target {
    /// Of an instance that is not managed.
    pub fn unmanaged(host: String, port: u16) -> Self {
        Self { host, port, epoch: None, external: None }
    }
}

/// How far the link to the master is, in ROLE's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connect,
    Connecting,
    Handshake,
    Sync,
    Connected,
}

impl LinkInfo {
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            _ if self.up.load(Ordering::Acquire) => Phase::Connected,
            _ if self.syncing.load(Ordering::Acquire) => Phase::Sync,
            1 => Phase::Connecting,
            2 => Phase::Handshake,
            _ => Phase::Connect,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }
}

impl LinkInfo {
    /// Since the master was heard.
    pub fn silent_s(&self) -> u64 {
        clock::monotonic_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)) / 1000
    }
}

/// What INFO says of the link to the master.
#[derive(Debug, Default)]
pub struct LinkInfo {
    pub up: AtomicBool,
    pub syncing: AtomicBool,
    /// A [`Phase`] up to the handshake.
    phase: AtomicU8,
    /// When the master was heard, monotonic.
    pub heard_ms: AtomicU64,
    pub down_since_ms: AtomicU64,
    pub sync_read: AtomicU64,
    pub sync_total: AtomicU64,
    /// A full resync is being loaded beside the data set.
    pub loading_aside: AtomicBool,
    /// Why a full sync was refused, see `replication::FenceView`.
    pub refused: Mutex<&'static str>,
    /// How often that has happened.
    pub refusals: AtomicU64,
    /// Bytes that were saved aside because a new master did not have them (R8).
    pub divergent_bytes: AtomicU64,
    /// Offset up to which the stream was read.
    pub read_offset: AtomicU64,
}

/// Why writes of clients are held back, whatever role this instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Shutdown = 1,
    Failover = 2,
}

#[derive(Debug)]
pub struct Replication {
    pub log: Mutex<LogState>,
    pub managed: bool,
    pub role: Mutex<Role>,
    /// Held while an order is obeyed.
    orders: Mutex<()>,
    /// An unmanaged master: no gate of roles needs to be looked at.
    pub quiet: AtomicBool,
    mode: AtomicU8,
    /// Monotonic ms up to which a managed master may write.
    lease_until: AtomicU64,
    paused_until: AtomicU64,
    /// A bit for each [`Hold`].
    holds: AtomicU8,
    pub failover: Mutex<Failover>,
    failover_begun: Notify,
    /// End of the log behind the last request of a failover for acknowledgements.
    acks_asked: AtomicU64,
    /// Write quorum of the present reign.
    quorum: AtomicUsize,
    feeds: Mutex<BTreeMap<u64, Arc<Attached>>>,
    feed_count: AtomicUsize,
    /// The backlog was given up for want of replicas.
    pub backlog_released: AtomicBool,
    /// Told whenever a replica acknowledged something, or roles or leases changed.
    pub acked: Notify,
    target: Mutex<Option<Target>>,
    generation: AtomicU64,
    pub target_changed: Notify,
    pub link: LinkInfo,
    pub sync: sync::Syncs,
    /// Held while a part of a master's stream is run and appended, and while a snapshot is cut: on a replica that is
    /// what ties data and offset together.
    pub apply: Mutex<()>,
}

const MASTER: u8 = 0;
const REPLICA: u8 = 1;
const AWAITING: u8 = 2;

impl Replication {
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let role = load_durable(settings)?;
        let id = ReplId::from_random(random());
        let history =
            if settings.managed || settings.replicaof.0.is_some() { History::fresh(id) } else { History::new(id) };
        let log = Log::new(0, settings.repl_backlog_size.0, settings.replica_output_limit());
        let repl = Self {
            log: Mutex::new(LogState { log, history, db: None }),
            managed: settings.managed,
            role: Mutex::new(role),
            orders: Mutex::new(()),
            quiet: AtomicBool::new(false),
            mode: AtomicU8::new(if settings.managed { AWAITING } else { MASTER }),
            lease_until: AtomicU64::new(if settings.managed { 0 } else { u64::MAX }),
            paused_until: AtomicU64::new(0),
            holds: AtomicU8::new(0),
            failover: Mutex::default(),
            failover_begun: Notify::new(),
            acks_asked: AtomicU64::new(0),
            quorum: AtomicUsize::new(0),
            feeds: Mutex::default(),
            feed_count: AtomicUsize::new(0),
            backlog_released: AtomicBool::new(false),
            acked: Notify::new(),
            target: Mutex::new(None),
            generation: AtomicU64::new(0),
            target_changed: Notify::new(),
            link: LinkInfo::default(),
            sync: sync::Syncs::default(),
            apply: Mutex::new(()),
        };
        repl.update_quiet();
        Ok(repl)
    }

    fn update_quiet(&self) {
        let mode = self.mode.load(Ordering::Acquire);
        self.quiet.store(!self.managed && mode == MASTER && !self.writes_held(), Ordering::Release);
        crate::logging::set_role(match mode {
            MASTER => b'M',
            REPLICA => b'S',
            _ => b'X',
        });
    }

    fn set_mode(&self, mode: u8) {
        self.mode.store(mode, Ordering::Release);
        self.update_quiet();
        self.acked.notify_waiters();
    }

    pub fn is_replica(&self) -> bool {
        self.mode.load(Ordering::Acquire) == REPLICA
    }

    pub fn is_awaiting(&self) -> bool {
        self.mode.load(Ordering::Acquire) == AWAITING
    }

    pub fn link_up(&self) -> bool {
        self.link.up.load(Ordering::Acquire)
    }

    /// R3: a managed master writes only while its lease runs.
    #[inline]
    pub fn may_write(&self, now_ms: u64) -> bool {
        now_ms < self.lease_until.load(Ordering::Acquire)
            && now_ms >= self.paused_until.load(Ordering::Acquire)
            && !self.writes_held()
    }

    /// As [`Replication::may_write`], whether or not writes are paused.
    pub fn leads(&self, now_ms: u64) -> bool {
        now_ms < self.lease_until.load(Ordering::Acquire)
    }

    /// Are writes held back, for whatever reason? Nothing is added to this history then.
    pub fn writes_held(&self) -> bool {
        self.holds.load(Ordering::Acquire) != 0
    }

    /// See [`Server::hold_writes`](crate::Server::hold_writes).
    pub(crate) fn hold(&self, why: Hold) {
        self.holds.fetch_or(why as u8, Ordering::AcqRel);
        self.update_quiet();
    }

    pub(crate) fn release(&self, why: Hold) {
        self.holds.fetch_and(!(why as u8), Ordering::AcqRel);
        self.update_quiet();
    }

    /// Asked with the shards of a write locked: may it still change them? A promise or another role that came between
    /// the gate and the locks says no (R2, R3).
    #[inline]
    pub fn still_writable(&self, read_only: bool, now_ms: u64) -> bool {
        if self.managed {
            self.mode.load(Ordering::Acquire) == MASTER && self.may_write(now_ms)
        } else {
            !(self.writes_held() || read_only && self.is_replica())
        }
    }

    /// True while writes wait: they are held back, or a handover pauses the writes of this managed master.
    pub fn writes_wait(&self, now_ms: u64) -> bool {
        let handing_over = || {
            self.managed
                && now_ms < self.paused_until.load(Ordering::Acquire)
                && self.mode.load(Ordering::Acquire) == MASTER
        };
        self.writes_held() || handing_over()
    }

    /// Takes over what `role` forbids into the flags that every command looks at. The pause comes first, so that no
    /// write meets a master without lease where it is to wait.
    fn forbid(&self, role: &Role) {
        self.paused_until.fetch_max(role.writes_wait_until(), Ordering::AcqRel);
        self.lease_until.fetch_min(role.lease_until(), Ordering::AcqRel);
        if let RoleState::Replica { .. } = role.state {
            self.set_mode(REPLICA);
        }
    }

    /// Takes over all that `role` says.
    fn allow(&self, role: &Role) {
        let (quorum, mode) = match &role.state {
            RoleState::Awaiting => (0, AWAITING),
            RoleState::Master(reign) => (reign.k, MASTER),
            RoleState::Replica { .. } => (0, REPLICA),
        };
        self.quorum.store(quorum, Ordering::Release);
        self.publish_lease(role);
        self.paused_until.store(role.writes_wait_until(), Ordering::Release);
        self.set_mode(mode);
    }

    fn publish_lease(&self, role: &Role) {
        self.lease_until.store(role.lease_until(), Ordering::Release);
        self.acked.notify_waiters();
    }

    pub fn quorum(&self) -> usize {
        self.quorum.load(Ordering::Acquire)
    }

    /// The master to follow, if any, and the number of times it has changed.
    pub fn target(&self) -> (Option<Target>, u64) {
        let target = self.target.lock();
        (target.clone(), self.generation.load(Ordering::Acquire))
    }

    fn set_target(&self, target: Option<Target>) {
        *self.target.lock() = target;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.link.up.store(false, Ordering::Release);
        self.link.down_since_ms.store(clock::unix_ms(), Ordering::Relaxed);
        self.target_changed.notify_waiters();
        self.target_changed.notify_one();
    }

    /// Gives up the link to the present master without forgetting whom to follow.
    fn drop_link(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.link.up.store(false, Ordering::Release);
        self.target_changed.notify_waiters();
        self.target_changed.notify_one();
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Follows this master. What replicas this instance has stay: whether they have to go is known when the resync is.
    pub fn follow(&self, target: Target) {
        tracing::info!("Connecting to MASTER {}:{}", target.host, target.port);
        self.set_mode(REPLICA);
        self.set_target(Some(target));
    }

    /// REPLICAOF; the reply.
    pub fn replicaof(&self, order: Replicaof) -> &'static str {
        let present = self.target().0.filter(|_| self.is_replica());
        let present = present.map(|Target { host, port, .. }| replicaof::Target { host, port });
        let done = replicaof::replicaof(present.as_ref(), order);
        for change in done.changes {
            match change {
                Change::DropLink => self.drop_link(),
                Change::BeginHistory => {
                    // What is being applied is in the log before the history changes its name.
                    let _apply = self.apply.lock();
                    let mut log = self.log.lock();
                    let end = log.log.end();
                    log.history.shift(ReplId::from_random(random()), end);
                    log.db = None;
                }
                Change::DropReplicas => self.disconnect_feeds(),
                Change::BecomeReplica => self.set_mode(REPLICA),
                Change::BecomeMaster => {
                    self.set_target(None);
                    self.set_mode(MASTER);
                    tracing::info!("MASTER MODE enabled");
                }
                Change::Follow(replicaof::Target { host, port }) => self.follow(Target::unmanaged(host, port)),
            }
        }
        done.reply
    }

    /// A failover came to nothing: this instance is the master that it was, with its history as it was.
    fn remain_master(&self) {
        self.set_target(None);
        self.log.lock().db = None;
        self.set_mode(MASTER);
        tracing::info!("MASTER MODE enabled (failover aborted)");
    }

    // Attached replicas.

    fn add_feed(&self, feed: Arc<Attached>) {
        let mut feeds = self.feeds.lock();
        feeds.insert(feed.id, feed);
        self.feed_count.store(feeds.len(), Ordering::Release);
    }

    fn remove_feed(&self, id: u64) {
        let mut feeds = self.feeds.lock();
        feeds.remove(&id);
        self.feed_count.store(feeds.len(), Ordering::Release);
        drop(feeds);
        self.acked.notify_waiters();
    }

    /// `repl-backlog-ttl`: nobody came back for it.
    pub fn release_backlog(&self, settings: &Settings) {
        if !self.backlog_released.swap(true, Ordering::AcqRel) {
            self.log.lock().log.resize(0, settings.replica_output_limit());
            tracing::info!(
                "Replication backlog freed after {} seconds without connected replicas.",
                settings.repl_backlog_ttl
            );
        }
    }

    /// A replica has come: there is a backlog again.
    fn keep_backlog(&self, settings: &Settings) {
        if self.backlog_released.swap(false, Ordering::AcqRel) {
            self.log.lock().log.resize(settings.repl_backlog_size.0, settings.replica_output_limit());
        }
    }

    /// Other sizes for the log.
    pub fn resize_log(&self, settings: &Settings) {
        let size = if self.backlog_released.load(Ordering::Acquire) { 0 } else { settings.repl_backlog_size.0 };
        self.log.lock().log.resize(size, settings.replica_output_limit());
    }

    pub fn feeds(&self) -> Vec<Arc<Attached>> {
        self.feeds.lock().values().cloned().collect()
    }

    pub fn feed_count(&self) -> usize {
        self.feed_count.load(Ordering::Acquire)
    }

    /// Lets the feeds know that there is more in the log: after a batch that wrote.
    #[inline]
    pub fn wake_feeds(&self) {
        if self.feed_count.load(Ordering::Acquire) > 0 {
            self.feeds.lock().values().for_each(|feed| feed.wake.notify_one());
        }
    }

    pub fn disconnect_feeds(&self) {
        self.feeds.lock().values().for_each(|feed| feed.close());
    }

    fn acks(&self) -> Vec<Ack> {
        self.feeds.lock().values().filter_map(|feed| feed.ack()).collect()
    }

    /// Replicas that hold everything up to `offset`.
    pub fn holding(&self, offset: u64) -> usize {
        Acks(&self.acks()).holding(offset)
    }

    /// Members that do, for the write quorum (R4).
    pub fn members_holding(&self, offset: u64) -> usize {
        let members = match &self.role.lock().state {
            RoleState::Master(reign) => reign.members.clone(),
            RoleState::Awaiting | RoleState::Replica { .. } => return 0,
        };
        Acks(&self.acks()).members_holding(offset, &members)
    }

    pub fn good_replicas(&self, max_lag_ms: u64) -> usize {
        Acks(&self.acks()).good(clock::monotonic_ms(), max_lag_ms)
    }

    /// Appends a PING, the master's sign of life.
    pub fn append_ping(&self) {
        self.log.lock().append_plain(records::PING);
        self.wake_feeds();
    }

    /// Asks the replicas for their acknowledgements at once: WAIT.
    pub fn append_getack(&self) {
        self.log.lock().append_plain(records::GETACK);
        self.wake_feeds();
    }

    /// A managed master's request for leases, a quarter of a lease apart: an acknowledgement of what is appended here
    /// is a lease counted from now.
    pub fn request_leases(&self, now_ms: u64) {
        if self.mode.load(Ordering::Acquire) != MASTER || self.feed_count() == 0 {
            return;
        }
        // R2: from a promise on nothing is added to this history. Held over the append, so that none comes between.
        let mut role = self.role.lock();
        if role.reign().is_none() {
            return;
        }
        let end = {
            let mut log = self.log.lock();
            log.append_plain(records::PING);
            log.log.end()
        };
        role.on_lease_asked(end, now_ms);
        drop(role);
        self.wake_feeds();
    }
}
