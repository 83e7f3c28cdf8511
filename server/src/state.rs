//! What all threads of the server share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use engine::Keyspace;
use engine::keyspace::SHARDS_MAX;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::acl::{User, Users};
use crate::clients::Clients;
use crate::clock;
use crate::config::Settings;
use crate::local_expiry::LocalExpiry;
use crate::memory::Memory;
use crate::net::{Listening, Spread};
use crate::persistence::Persistence;
use crate::rates::Rates;
use crate::repl::{Hold, Replication};
use crate::shutdown::Shutdown;
use crate::{descriptors, latency, logging, timers};

const SHARDS_PER_WORKER: usize = 64;

/// Counters for INFO.
#[derive(Debug, Default)]
pub struct Stats {
    pub connections: AtomicU64,
    pub rejected_connections: AtomicU64,
    pub commands: AtomicU64,
    pub input_bytes: AtomicU64,
    pub output_bytes: AtomicU64,
    /// From our master, and to our replicas.
    pub replica_input_bytes: AtomicU64,
    pub replica_output_bytes: AtomicU64,
    pub errors: AtomicU64,
    pub sync_full: AtomicU64,
    pub sync_partial_ok: AtomicU64,
    pub sync_partial_err: AtomicU64,
    pub output_limit_disconnections: AtomicU64,
    /// Clients that wait for something: a pause, replicas.
    pub blocked: AtomicU64,
    /// Errors by code.
    pub error_codes: Mutex<std::collections::BTreeMap<String, u64>>,
}

impl Stats {
    pub fn count_error(&self, text: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let code = text.split(' ').next().unwrap_or_default();
        *self.error_codes.lock().entry(code.into()).or_default() += 1;
    }
}

/// One slow command.
#[derive(Debug, Clone)]
pub struct SlowEntry {
    pub id: u64,
    pub at_s: u64,
    pub micros: u64,
    pub args: Vec<Vec<u8>>,
    pub addr: String,
    pub name: String,
}

#[derive(Debug, Default)]
pub struct SlowLog {
    pub entries: std::collections::VecDeque<SlowEntry>,
    pub next_id: u64,
}

/// CLIENT PAUSE: until when writes are held back, and everything; unix ms, 0 for not at all. No pause shortens another.
#[derive(Debug, Default)]
pub struct Pause {
    pub until_ms: AtomicU64,
    pub all_until_ms: AtomicU64,
    pub changed: Notify,
}

#[derive(Debug)]
pub struct Server {
    settings: RwLock<Arc<Settings>>,
    /// Grows with each change of the settings.
    settings_version: AtomicU64,
    pub config_file: Option<PathBuf>,
    listening: Listening,
    pub keyspace: Keyspace,
    pub clients: Clients,
    pub users: Users,
    pub stats: Stats,
    pub slowlog: Mutex<SlowLog>,
    pub latency: latency::Events,
    pub rates: Rates,
    pub memory: Memory,
    /// Bytes in use before there was any data.
    pub startup_memory: usize,
    pub repl: Replication,
    pub persistence: Persistence,
    pub pause: Pause,
    /// The data set is being read from disk or from a master.
    pub loading: AtomicBool,
    pub active_expire: AtomicBool,
    pub local_expiry: LocalExpiry,
    /// DEBUG PAUSE-CRON and DEBUG SET-SKIP-CHECKSUM-VALIDATION.
    pub cron_paused: AtomicBool,
    pub verify_dumps: AtomicBool,
    /// DEBUG SLEEP: monotonic ms.
    pub asleep_until_ms: AtomicU64,
    pub run_id: String,
    pub workers: usize,
    pub spread: Spread,
    /// Changes since the last save.
    pub dirty: AtomicU64,
    pub expire_cycles: AtomicU64,
    pub shutdown: Shutdown,
    this: OnceLock<Weak<Server>>,
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}

/// A random number that is not 0.
pub fn random_u64() -> u64 {
    u64::from_le_bytes(random()).max(1)
}

/// What keys the hashes: random, or the same wherever `hash-seed` is. Then a SCAN that has begun at one instance goes on at
/// another one with as many shards.
fn hash_seed(words: &str) -> [u64; 2] {
    if words.is_empty() {
        return [random_u64(), random_u64()];
    }
    let digest = Sha256::digest(words);
    [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| digest[at + i])))
}

impl Server {
    pub fn new(settings: Settings, config_file: Option<PathBuf>, listening: Listening) -> Result<Self, String> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if settings.io_threads == 0 { cpus } else { settings.io_threads as usize };
        // Enough for workers that have some dozens locked each; and few, so that what leads to the entries (shards, tables,
        // directories) stays in a CPU's own cache. Empty ones take memory, too.
        let memory_max = (SHARDS_MAX * 16 / settings.databases.max(1) as usize).clamp(SHARDS_PER_WORKER, SHARDS_MAX);
        let many = (SHARDS_PER_WORKER * workers).min(memory_max);
        let shards = if workers == 1 { 1 } else { 1 << many.ilog2() };
        let seed = hash_seed(&settings.hash_seed);
        engine::types::members::seed(seed);
        let run_id = replication::ReplId::from_random(random()).to_string();
        let keyspace = Keyspace::new(shards, settings.databases as usize, seed);
        let user = settings.default_user.clone().unwrap_or_else(|| User::with_password(&settings.requirepass));
        Ok(Self {
            repl: Replication::new(&settings)?,
            spread: Spread::new(workers, settings.io_threads_adaptive),
            persistence: Persistence::default(),
            settings: RwLock::new(Arc::new(settings)),
            settings_version: AtomicU64::new(0),
            config_file,
            listening,
            keyspace,
            clients: Clients::default(),
            users: Users::new(user),
            stats: Stats::default(),
            slowlog: Mutex::default(),
            latency: latency::Events::default(),
            rates: Rates::default(),
            memory: Memory::default(),
            startup_memory: crate::info::memory_used().0,
            pause: Pause::default(),
            loading: AtomicBool::new(false),
            active_expire: AtomicBool::new(true),
            local_expiry: LocalExpiry::default(),
            cron_paused: AtomicBool::new(false),
            verify_dumps: AtomicBool::new(true),
            asleep_until_ms: AtomicU64::new(0),
            run_id,
            workers,
            dirty: AtomicU64::new(0),
            expire_cycles: AtomicU64::new(0),
            shutdown: Shutdown::default(),
            this: OnceLock::new(),
        })
    }

    /// Makes it shared: threads that the server starts hold on to it.
    pub fn share(self) -> Arc<Self> {
        let server = Arc::new(self);
        server.this.get_or_init(|| Arc::downgrade(&server));
        server
    }

    /// The shared server, for a thread that is being started.
    pub fn arc(&self) -> Arc<Self> {
        self.this.get().and_then(Weak::upgrade).expect("a server that runs is shared")
    }

    /// One lock for all data while one thread works on it. The link to a master is another one, and so is a snapshot.
    pub(crate) fn unite_or_divide(&self) {
        let alone = self.spread.serving() == 1 && !self.repl.is_replica() && !self.persistence.walk.is_locked();
        if alone == self.keyspace.is_united() {
            return;
        }
        if alone { self.keyspace.unite() } else { self.keyspace.divide() }
    }

    /// The present settings; a new `Arc` after every CONFIG SET.
    #[inline]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    /// To be asked for before [`Server::settings`]: as long as it stays the same they do.
    #[inline]
    pub fn settings_version(&self) -> u64 {
        self.settings_version.load(Ordering::Acquire)
    }

    /// CONFIG SET: replaces the settings. What cannot be obeyed leaves everything as it was; the error names the
    /// parameter and says why.
    pub fn change_settings(&self, mut settings: Settings) -> Result<(), (&'static str, String)> {
        settings.derive();
        settings.limits.verify_dump_checksum = self.verify_dumps.load(Ordering::Acquire);
        // Held over the whole change: two of them at once would each keep half of the other.
        let mut current = self.settings.write();
        let moved = |of: fn(&Settings) -> String| of(&current) != of(&settings);
        let (port, bind) = (moved(|s| s.port.to_string()), moved(|s| s.bind.0.join(" ")));
        if settings.maxclients > current.maxclients
            && let Err(room) = descriptors::allow(settings.maxclients as u64)
        {
            let reason =
                format!("The operating system is not able to handle the specified number of clients, try with {room}");
            return Err(("maxclients", reason));
        }
        if port || bind {
            self.listening.change(&current, &settings).map_err(|reason| {
                tracing::warn!("{reason}");
                match bind {
                    true => ("bind", "Failed to bind to specified addresses.".into()),
                    false => ("port", "Unable to listen on this port. Check server logs.".into()),
                }
            })?;
        }
        if current.requirepass != settings.requirepass {
            self.users.require(&settings.requirepass);
        }
        logging::set_level(settings.loglevel);
        self.repl.resize_log(&settings);
        let login_changed = moved(|s| s.masteruser.clone()) || moved(|s| s.masterauth.clone());
        *current = Arc::new(settings);
        self.settings_version.fetch_add(1, Ordering::AcqRel);
        // The master may have refused the former one, and the link waits before it tries again.
        if login_changed {
            self.repl.target_changed.notify_one();
        }
        Ok(())
    }

    /// DEBUG SLEEP makes the connections to masters and replicas hang too, as if the process did.
    pub async fn awake(&self) {
        while let left @ 1.. = self.asleep_until_ms.load(Ordering::Relaxed).saturating_sub(clock::monotonic_ms()) {
            timers::sleep(std::time::Duration::from_millis(left)).await;
        }
    }

    /// Until when writes or everything is paused: (writes, all), unix ms, 0 if not.
    pub fn paused(&self) -> (bool, bool) {
        let until = self.pause.until_ms.load(Ordering::Acquire);
        if until == 0 || clock::unix_ms() >= until {
            return (false, false);
        }
        (true, clock::unix_ms() < self.pause.all_until_ms.load(Ordering::Acquire))
    }

    /// Holds back writes of clients. On return the log's end is final: those that held their shards are in it.
    pub fn hold_writes(&self, why: Hold) {
        self.repl.hold(why);
        drop(self.keyspace.lock_all());
    }

    /// Takes that back.
    pub fn release_writes(&self, why: Hold) {
        self.repl.release(why);
        self.pause.changed.notify_waiters();
    }
}
