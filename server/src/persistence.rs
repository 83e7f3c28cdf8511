//! RDB files: written from a snapshot without `fork`, with the replication position in them, so that a restart is a
//! partial resync.
//!
//! A file is written beside its place, synced, renamed over the old one, and the directory is synced: at every moment
//! there is one whole file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engine::Keyspace;
use engine::keyspace::{Duplicate, Loader, SnapshotWalk, WalkStep};
use engine::rdb::{self, Crc64, Event, RdbError, Reader};
use parking_lot::{Mutex, MutexGuard};
use replication::{FenceView, History, ReaderId, ReplId};

use crate::clock;
use crate::config::Settings;
use crate::state::Server;

#[derive(Debug)]
pub struct Persistence {
    /// One snapshot at a time.
    pub walk: Mutex<()>,
    /// A snapshot is being written or sent for replicas.
    pub syncing: AtomicBool,
    pub saving: AtomicBool,
    pub last_save_s: AtomicU64,
    pub last_try_ms: AtomicU64,
    pub last_ok: AtomicBool,
    pub last_seconds: AtomicU64,
    pub saves: AtomicU64,
    /// Keys of the file that was loaded last, and those that were left out.
    pub loaded_keys: AtomicU64,
    pub loaded_expired: AtomicU64,
}

impl Default for Persistence {
    fn default() -> Self {
        Self {
            walk: Mutex::new(()),
            syncing: AtomicBool::new(false),
            saving: AtomicBool::new(false),
            last_save_s: AtomicU64::new(clock::unix_ms() / 1000),
            last_try_ms: AtomicU64::new(0),
            last_ok: AtomicBool::new(true),
            last_seconds: AtomicU64::new(0),
            saves: AtomicU64::new(0),
            loaded_keys: AtomicU64::new(0),
            loaded_expired: AtomicU64::new(0),
        }
    }
}

impl Persistence {
    /// True if the last background save failed and writes are to stop then.
    pub fn refuses_writes(&self, settings: &Settings) -> bool {
        !self.last_ok.load(Ordering::Relaxed) && settings.stop_writes_on_bgsave_error && !settings.save.0.is_empty()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the snapshot was given up")]
    Aborted,
}

/// A snapshot that is being written: the data at one offset of the log.
#[derive(Debug)]
pub struct Snapshot {
    server: Arc<Server>,
    walk: SnapshotWalk,
    pub offset: u64,
    pub history: History,
    stream_db: Option<usize>,
    sizes: Vec<(usize, usize, usize)>,
    crc: Option<Crc64>,
    db: Option<usize>,
    scratch: Vec<u8>,
    /// `rdb-key-save-delay`.
    key_delay: Duration,
    started: bool,
    /// Changes that the snapshot contains.
    dirty: u64,
    /// The walk has come to its end.
    done: bool,
}

/// A walk that was begun is finished in any case: entries that it has not passed would count as old for ever.
impl Drop for Snapshot {
    fn drop(&mut self) {
        if !self.done {
            self.abort();
            while self.walk.step(&self.server.keyspace, &mut self.scratch, STEP, |_, _, _| {}) == WalkStep::More {}
        }
    }
}

/// Of a hidden setting in microseconds, by which tests make things last.
fn delay(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Bytes encoded under one lock, about.
const STEP: usize = 16 * 1024;

impl Snapshot {
    /// Makes the cut and attaches so many readers to the log at its offset. The caller holds `persistence.walk`.
    pub fn begin(server: &Arc<Server>, readers: usize, compress: bool) -> (Self, Vec<Option<ReaderId>>) {
        let encode = if compress { rdb::encode_entry_compressed } else { rdb::encode_entry };
        let sizes = (server.keyspace.figures().sizes().into_iter().enumerate())
            .filter(|(_, (keys, _))| *keys > 0)
            .map(|(db, (keys, expiring))| (db, keys, expiring))
            .collect();
        // The walk holds a part of the data at a time, and clients have the others.
        server.unite_or_divide();
        let _apply = server.repl.apply.lock();
        let mut locked = server.keyspace.lock_all();
        let mut log = server.repl.log.lock();
        let end = log.log.end();
        let readers = (0..readers).map(|_| log.log.attach(end)).collect();
        let (history, stream_db) = (log.history, log.db);
        // The next record names its database: a replica that starts here knows none.
        if !server.repl.is_replica() {
            log.db = None;
        }
        drop(log);
        let snapshot = Self {
            server: Arc::clone(server),
            walk: SnapshotWalk::begin(&server.keyspace, &mut locked, encode),
            offset: end,
            history,
            stream_db,
            sizes,
            crc: server.settings().rdbchecksum.then(Crc64::default),
            db: None,
            scratch: Vec::new(),
            key_delay: delay(server.settings().rdb_key_save_delay),
            started: false,
            dirty: server.dirty.load(Ordering::Acquire),
            done: false,
        };
        drop(locked);
        (snapshot, readers)
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        rdb::header(out);
        rdb::aux(out, "redis-ver", crate::REDIS_VERSION);
        rdb::aux(out, "redis-bits", "64");
        rdb::aux(out, "ctime", &(clock::unix_ms() / 1000).to_string());
        if let Some(db) = self.stream_db {
            rdb::aux(out, "repl-stream-db", &db.to_string());
        }
        rdb::aux(out, "repl-id", self.history.id.as_str());
        rdb::aux(out, "repl-offset", &self.offset.to_string());
        rdb::aux(out, "rr-history-epoch", &self.history.epoch.to_string());
        rdb::aux(out, "aof-base", "0");
        for (db, keys, expiring) in &self.sizes {
            rdb::select_db(out, *db);
            rdb::resize_db(out, *keys, *expiring);
            self.db = Some(*db);
        }
    }

    /// Appends the next records to `out`.
    pub fn step(&mut self, out: &mut Vec<u8>) -> WalkStep {
        let from = out.len();
        if !std::mem::replace(&mut self.started, true) {
            self.header(out);
        }
        let (db, mut keys) = (&mut self.db, 0);
        let budget = if self.key_delay.is_zero() { STEP } else { 1 };
        let step = self.walk.step(&self.server.keyspace, &mut self.scratch, budget, |of, bytes, _| {
            if !bytes.is_empty() {
                keys += 1;
                if *db != Some(of) {
                    rdb::select_db(out, of);
                    *db = Some(of);
                }
                out.extend_from_slice(bytes);
            }
        });
        if let Some(crc) = &mut self.crc {
            crc.update(&out[from..]);
        }
        self.done |= step == WalkStep::Done;
        if keys > 0 && !self.key_delay.is_zero() {
            std::thread::sleep(self.key_delay * keys);
        }
        step
    }

    /// Appends the end mark and the checksum.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        rdb::end(out, self.crc.as_mut());
    }

    /// A file without keys; the walk is given up.
    pub fn without_keys(mut self, out: &mut Vec<u8>) {
        self.sizes.clear();
        self.header(out);
        if let Some(crc) = &mut self.crc {
            crc.update(out);
        }
        self.finish(out);
    }

    pub fn abort(&mut self) {
        self.walk.abort(&self.server.keyspace);
    }

    pub fn aborted(&self) -> bool {
        self.walk.aborted()
    }

    /// Writes everything to a file.
    pub fn write_to(mut self, file: &mut File, path: &Path) -> Result<u64, SnapshotError> {
        let mut out = Vec::with_capacity(1 << 20);
        let mut failed = None;
        loop {
            let step = self.step(&mut out);
            if step == WalkStep::Done && !self.aborted() {
                self.finish(&mut out);
            }
            if out.len() >= 1 << 18 || step == WalkStep::Done {
                if failed.is_none()
                    && let Err(source) = file.write_all(&out)
                {
                    failed = Some(source);
                    self.abort();
                }
                out.clear();
            }
            if step == WalkStep::Done {
                break;
            }
        }
        match failed {
            Some(source) => Err(SnapshotError::Io { path: path.into(), source }),
            None if self.aborted() => Err(SnapshotError::Aborted),
            None => Ok(self.dirty),
        }
    }
}

/// Writes a file durably: beside its place, then renamed over it.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temp = path.with_extension(format!("temp-{}", std::process::id()));
    let mut file = File::create(&temp)?;
    let done = write(&mut file).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&temp, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    done.and_then(|()| sync_dir(path))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn rdb_path(settings: &Settings) -> PathBuf {
    Path::new(&settings.dir).join(&settings.dbfilename)
}

/// SAVE: returns when the file is on the disk. A snapshot that a FLUSHALL ended is taken again.
pub fn save(server: &Arc<Server>) -> Result<(), SnapshotError> {
    loop {
        match save_once(server, server.persistence.walk.lock()) {
            Err(SnapshotError::Aborted) => {}
            done => return done,
        }
    }
}

/// A FLUSHALL with `save` rules saves the empty data set, as in Redis: the old file is not to bring the old data back.
pub fn save_after_flush(server: &Arc<Server>) {
    /// A walk that is under way was ended by the flush, and soon gives way; unless what it found is still being sent.
    const PATIENCE: Duration = Duration::from_millis(200);
    if server.settings().save.0.is_empty() {
        return;
    }
    match server.persistence.walk.try_lock_for(PATIENCE) {
        // What went wrong was logged and is in INFO.
        Some(walk) => drop(save_once(server, walk)),
        None => _ = save_in_background(server),
    }
}

fn save_once(server: &Arc<Server>, walk: MutexGuard<'_, ()>) -> Result<(), SnapshotError> {
    let settings = server.settings();
    let path = rdb_path(&settings);
    let begun = clock::instant();
    let state = &server.persistence;
    state.last_try_ms.store(clock::monotonic_ms(), Ordering::Relaxed);
    let result = {
        let _walk = walk;
        let (snapshot, _) = Snapshot::begin(server, 0, settings.rdbcompression);
        let mut written = Err(SnapshotError::Aborted);
        let file = replace_file(&path, |file| {
            written = snapshot.write_to(file, &path);
            written.as_ref().map(|_| ()).map_err(|e| io::Error::other(e.to_string()))
        });
        match (written, file) {
            (Ok(dirty), Ok(())) => Ok(dirty),
            (Ok(_), Err(source)) => Err(SnapshotError::Io { path: path.clone(), source }),
            (Err(SnapshotError::Aborted), Err(source)) if source.kind() != io::ErrorKind::Other => {
                Err(SnapshotError::Io { path: path.clone(), source })
            }
            (Err(error), _) => Err(error),
        }
    };
    if !matches!(result, Err(SnapshotError::Aborted)) {
        state.last_ok.store(result.is_ok(), Ordering::Relaxed);
    }
    state.last_seconds.store(begun.elapsed().as_secs(), Ordering::Relaxed);
    match result {
        Ok(dirty) => {
            server.dirty.fetch_sub(dirty.min(server.dirty.load(Ordering::Acquire)), Ordering::AcqRel);
            state.last_save_s.store(clock::unix_ms() / 1000, Ordering::Relaxed);
            state.saves.fetch_add(1, Ordering::Relaxed);
            tracing::info!("DB saved on disk");
            Ok(())
        }
        Err(SnapshotError::Aborted) => Err(SnapshotError::Aborted),
        Err(error) => {
            tracing::warn!("Error saving DB on disk: {error}");
            Err(error)
        }
    }
}

/// BGSAVE: `false` if one is under way.
pub fn save_in_background(server: &Arc<Server>) -> bool {
    if server.persistence.saving.swap(true, Ordering::AcqRel) {
        return false;
    }
    tracing::info!("Background saving started");
    let shared = Arc::clone(server);
    let spawned = std::thread::Builder::new().name("bgsave".into()).spawn(move || {
        yield_to_clients();
        // What went wrong was logged and is in INFO.
        let _ = save(&shared);
        shared.persistence.saving.store(false, Ordering::Release);
    });
    if spawned.is_err() {
        server.persistence.saving.store(false, Ordering::Release);
    }
    spawned.is_ok()
}

/// Saves when a `save` rule says so; called ten times a second.
pub fn save_if_due(server: &Arc<Server>) {
    const RETRY_MS: u64 = 5000;
    let state = &server.persistence;
    let dirty = server.dirty.load(Ordering::Acquire);
    if dirty == 0 || state.saving.load(Ordering::Acquire) {
        return;
    }
    let since = (clock::unix_ms() / 1000).saturating_sub(state.last_save_s.load(Ordering::Relaxed));
    let retry = clock::monotonic_ms().saturating_sub(state.last_try_ms.load(Ordering::Relaxed)) > RETRY_MS;
    let due = server.settings().save.0.iter().any(|r| dirty >= r.changes && since >= r.seconds);
    if due && (state.last_ok.load(Ordering::Relaxed) || retry) {
        save_in_background(server);
    }
}

/// What a loaded file says of its history.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub keys: u64,
    pub expired: u64,
    pub id: Option<ReplId>,
    pub offset: Option<u64>,
    pub epoch: u64,
    pub stream_db: Option<usize>,
}

impl Loaded {
    pub fn fence(&self) -> FenceView {
        FenceView { keys: self.keys, epoch: self.epoch }
    }
}

/// Reads a file. `into`: loads the keys; otherwise it is only checked and counted. `progress` is called now and then.
pub fn read_file(server: &Server, path: &Path, into: bool, progress: &mut dyn FnMut(u64)) -> Result<Loaded, RdbError> {
    let file = File::open(path).map_err(|source| RdbError::Io { offset: 0, source })?;
    read_stream(server, file, into.then_some(&server.keyspace), progress)
}

/// The same from any stream, into any keyspace.
pub fn read_stream(
    server: &Server,
    input: impl Read,
    into: Option<&Keyspace>,
    progress: &mut dyn FnMut(u64),
) -> Result<Loaded, RdbError> {
    let settings = server.settings();
    let mut reader = Reader::new(input, settings.rdbchecksum, &settings.limits)?;
    let now = clock::unix_ms();
    let clock = (now / 1000) as u32 & 0xFF_FFFF;
    let (mut loaded, mut db, mut count) = (Loaded::default(), 0usize, 0u64);
    let key_delay = delay(settings.key_load_delay);
    let mut loader = into.map(Loader::new);
    let twice = |offset, Duplicate(key): &Duplicate| {
        let key = Some(String::from_utf8_lossy(key).into_owned());
        RdbError::Corrupt { offset, key, what: "a key that is there twice" }
    };
    loop {
        count += 1;
        if !key_delay.is_zero() {
            std::thread::sleep(key_delay);
        }
        if count % 4096 == 0 || !key_delay.is_zero() {
            progress(reader.offset());
        }
        match reader.read()? {
            Event::Aux(name, value) => {
                let number = || resp::number::parse_u64(&value);
                match &name[..] {
                    b"repl-id" => loaded.id = ReplId::parse(&value),
                    b"repl-offset" => loaded.offset = number(),
                    b"rr-history-epoch" => loaded.epoch = number().unwrap_or(0),
                    b"repl-stream-db" => loaded.stream_db = number().map(|n| n as usize),
                    _ => {}
                }
            }
            Event::SelectDb(n) => {
                db = usize::try_from(n).unwrap_or(usize::MAX);
                if db >= server.keyspace.databases() {
                    let what = "a database number beyond `databases`";
                    return Err(RdbError::Corrupt { offset: reader.offset(), key: None, what });
                }
            }
            Event::Resize(..) => {}
            Event::Function => {
                tracing::warn!("A function library in the RDB file was left out: functions are not supported yet")
            }
            Event::Entry { key, value, expires_ms, idle_seconds } => {
                // A master forgets what has expired. A replica keeps it until it is told; and so does a master that goes on
                // with the file's history, because replicas that continue there must be told: active expiry does it.
                let keeps = server.repl.is_replica() || server.repl.managed;
                if expires_ms.is_some_and(|at| at <= now) && !keeps {
                    loaded.expired += 1;
                    if loaded.offset.is_none() {
                        continue;
                    }
                }
                loaded.keys += 1;
                let access = clock.wrapping_sub(idle_seconds.unwrap_or(0) as u32) & 0xFF_FFFF;
                if let Some(loader) = &mut loader {
                    let added = loader.add(db, &key, value, expires_ms, access);
                    added.map_err(|duplicate| twice(reader.offset(), &duplicate))?;
                }
            }
            Event::End => {
                if let Some(loader) = loader {
                    loader.finish().map_err(|duplicate| twice(reader.offset(), &duplicate))?;
                    server.persistence.loaded_keys.store(loaded.keys, Ordering::Relaxed);
                    server.persistence.loaded_expired.store(loaded.expired, Ordering::Relaxed);
                }
                return Ok(loaded);
            }
        }
    }
}

/// Loads the data at start. `Ok(None)`: there is no file.
pub fn load_at_start(server: &Server) -> Result<Option<Loaded>, String> {
    let path = rdb_path(&server.settings());
    if !path.exists() {
        return Ok(None);
    }
    server.loading.store(true, Ordering::Release);
    let begun = clock::instant();
    let loaded = read_file(server, &path, true, &mut |_| {}).map_err(|error| {
        format!(
            "Fatal error loading the DB, check server logs. {}: {error}. The file is left as it is.",
            path.display()
        )
    })?;
    server.loading.store(false, Ordering::Release);
    tracing::info!("Done loading RDB, keys loaded: {}, keys expired: {}.", loaded.keys, loaded.expired);
    tracing::info!("DB loaded from disk: {:.3} seconds", begun.elapsed().as_secs_f64());
    let mut log = server.repl.log.lock();
    if let (Some(id), Some(offset)) = (loaded.id, loaded.offset) {
        log.log.reset(offset);
        let follows = server.repl.managed || server.settings().replicaof.0.is_some();
        if follows {
            log.history = History { epoch: loaded.epoch, ..History::new(id) };
        } else {
            // A master goes on with a history of its own; replicas that have just this much may continue.
            let own = log.history.id;
            log.history = History { epoch: loaded.epoch, ..History::new(id) };
            log.history.shift(own, offset);
        }
    }
    Ok(Some(loaded))
}

/// Where a received full sync becomes the data set's file.
pub fn adopt_file(server: &Server, temp: &Path) -> io::Result<PathBuf> {
    let path = rdb_path(&server.settings());
    File::open(temp)?.sync_all()?;
    std::fs::rename(temp, &path)?;
    sync_dir(&path)?;
    Ok(path)
}

/// Lets the threads that serve clients go first, where there are fewer CPUs than work: for a thread that walks the whole data
/// set, and on Linux for that thread alone.
pub(crate) fn yield_to_clients() {
    const NICE: i32 = 10;
    // Without it a snapshot is as good, and clients wait longer.
    let _ = rustix::process::nice(NICE);
}
