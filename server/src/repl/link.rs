//! The replica's side: follows a master, on a thread of its own.
//!
//! ```text
//! connect ─► PING ─► AUTH ─► REPLCONF ─► PSYNC ─┬─ +CONTINUE ──────────────► streaming
//!    ▲                                          └─ +FULLRESYNC ─► receive ─► fence ─► load ─► streaming
//!    └───────────── any error, a time-out, another master: again after a pause ◄──┘
//! ```
//! The machine of that picture is `replication::Link`; here are its socket, its files and its clock.
//! The stream is run as it comes and appended verbatim to our own log, so offsets agree down a chain of replicas.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::rdb::RdbError;
use replication::fence::{self, Offered, Own, Verdict};
use replication::{Event, FenceView, History, Identity, Link as Machine, LinkError, Record, ReplId, Role, Sync};
use resp::{Args, OwnedArgs, Request, RequestLimits, RequestParser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Phase, Target, divergent, failover};
use crate::clients::Kind;
use crate::clock;
use crate::config::DisklessLoad;
use crate::dispatch::{Origin, Session, execute_alone};
use crate::persistence::{self, Loaded};
use crate::state::Server;
use crate::timers::timeout;

/// Between two looks at the clock while nothing comes; oftener where the time-out is short.
const TICK: Duration = Duration::from_secs(1);

/// Follows whatever master is set, for ever.
pub async fn run(server: Arc<Server>) {
    let mut machine = Machine::new(clock::monotonic_ms());
    loop {
        let (target, generation) = server.repl.target();
        let Some(target) = target.filter(|t| t.epoch.is_none() || server.repl.role.lock().may_follow()) else {
            server.repl.target_changed.notified().await;
            continue;
        };
        server.awake().await;
        machine.retry_now(clock::monotonic_ms());
        machine.poll_connect(clock::monotonic_ms());
        let mut link = Link { server: &server, target, generation, machine, buf: Vec::new(), stream: None };
        let end = link.follow().await;
        let info = &server.repl.link;
        info.syncing.store(false, Ordering::Release);
        let phase = info.phase();
        info.enter(Phase::Connect);
        if info.up.swap(false, Ordering::AcqRel) {
            info.down_since_ms.store(clock::unix_ms(), Ordering::Relaxed);
        }
        let error = end.err().unwrap_or(LinkError::Changed);
        // In Redis's words, for those who watch logs.
        let said = match (&error, phase) {
            (LinkError::Timeout, Phase::Connect | Phase::Connecting | Phase::Handshake) => {
                "Timeout connecting to the MASTER...".into()
            }
            (LinkError::Timeout, Phase::Sync) => "Timeout receiving bulk data from MASTER...".into(),
            (LinkError::Timeout, Phase::Connected) => "MASTER timeout: no data nor PING received...".into(),
            _ => error.to_string(),
        };
        if error != LinkError::Changed {
            tracing::warn!("Link with MASTER {}:{}: {said}", link.target.host, link.target.port);
        }
        machine = link.machine;
        let jitter = u16::from_le_bytes(crate::state::random());
        let pause_ms = machine.fail(&error, jitter, clock::monotonic_ms());
        if pause_ms > 0 {
            let _ = timeout(Duration::from_millis(pause_ms), server.repl.target_changed.notified()).await;
        }
    }
}

/// One connection: moves bytes between the master and the machine, and carries out what the machine says.
pub(super) struct Link<'s> {
    pub(super) server: &'s Arc<Server>,
    target: Target,
    generation: u64,
    machine: Machine,
    /// Received and not yet looked at.
    pub(super) buf: Vec<u8>,
    pub(super) stream: Option<TcpStream>,
}

impl Link<'_> {
    /// How long the master may be silent. A managed one speaks four times in a lease: one that is silent for a whole lease
    /// has lost it, and the operator asks its replicas whether they still hear it.
    fn limit(&self) -> Duration {
        let settings = self.server.settings();
        let limit = Duration::from_secs(settings.repl_timeout as u64);
        // Without any mark it is no master of ours: one that is followed from outside speaks as often as it likes, and so
        // does who follows it.
        let is_ours = self.target.external.is_none() && self.server.repl.log.lock().history.epoch > 0;
        let streams = self.target.epoch.is_some() && is_ours && self.server.repl.link_up();
        if streams { limit.min(Duration::from_millis(settings.managed_lease_ms as u64)) } else { limit }
    }

    /// R4: whether what is done on this link belongs to the epoch in force. Another role may come between any two steps.
    fn is_in_force(&self, role: &Role) -> bool {
        role.may_follow() && self.target.epoch.is_none_or(|epoch| epoch == role.role_epoch())
    }

    pub(super) fn check_changed(&self) -> Result<(), LinkError> {
        if self.server.repl.generation() == self.generation { Ok(()) } else { Err(LinkError::Changed) }
    }

    fn stream(&mut self) -> Result<&mut TcpStream, LinkError> {
        self.stream.as_mut().ok_or_else(|| io::Error::from(ErrorKind::NotConnected).into())
    }

    /// Reads more, or fails on the end of the stream, or when another master is set.
    async fn fill(&mut self) -> Result<(), LinkError> {
        self.server.awake().await;
        self.check_changed()?;
        let server = Arc::clone(self.server);
        let n = loop {
            let Some(stream) = self.stream.as_mut() else {
                return Err(io::Error::from(ErrorKind::NotConnected).into());
            };
            tokio::select! {
                n = stream.read_buf(&mut self.buf) => break n?,
                () = server.repl.target_changed.notified() => self.check_changed()?,
            }
        };
        self.check_changed()?;
        if n == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        let now_ms = clock::monotonic_ms();
        self.machine.on_read(now_ms);
        self.server.repl.link.heard_ms.store(now_ms, Ordering::Relaxed);
        self.server.stats.replica_input_bytes.fetch_add(n as u64, Ordering::Relaxed);
        self.server.stats.input_bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads more; meanwhile, each second, looks after the time-out and shows the master that we are there.
    async fn fill_in_time(&mut self) -> Result<(), LinkError> {
        loop {
            let limit = self.limit();
            if let Ok(filled) = timeout(TICK.min(limit / 4), self.fill()).await {
                return filled;
            }
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            // In the stream the acknowledgement is the role's to give: see `apply_with`.
            let streaming = self.machine.is_streaming();
            match self.machine.tick(0, limit_ms, clock::monotonic_ms())? {
                Some(bytes) if !streaming => self.write(&bytes).await?,
                _ if streaming => return Ok(()),
                _ => {}
            }
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let limit = self.limit();
        timeout(limit, self.stream()?.write_all(bytes)).await.map_err(|_| LinkError::Timeout)??;
        Ok(())
    }

    /// What the master says next, and how many bytes of the buffer that is: they are dropped by [`Link::used`].
    pub(super) async fn event(&mut self) -> Result<(usize, Event), LinkError> {
        loop {
            match self.machine.next(&self.buf, clock::monotonic_ms())? {
                (_, Event::More) => self.fill_in_time().await?,
                (used, Event::Nothing) => self.used(used),
                said => return Ok(said),
            }
        }
    }

    pub(super) fn used(&mut self, bytes: usize) {
        self.buf.drain(..bytes);
    }

    async fn follow(&mut self) -> Result<(), LinkError> {
        let wait = if self.server.repl.managed { Duration::from_secs(2) } else { self.limit() };
        let address = (self.target.host.clone(), self.target.port);
        self.server.repl.link.enter(Phase::Connecting);
        let stream = timeout(wait, TcpStream::connect(address)).await.map_err(|_| LinkError::Timeout)??;
        stream.set_nodelay(true)?;
        self.stream = Some(stream);
        self.server.repl.link.enter(Phase::Handshake);
        let stream_db = self.handshake().await?;
        // A master that is none of ours does not say how far it is. What it had when it sent its data set is here; after a
        // partial resync the operator compares its end with ours before it is given up.
        let attached = self.target.external.is_some().then(|| self.server.repl.log.lock().log.end());
        if let Some(end) = self.machine.master_end().or(attached) {
            let mut role = self.server.repl.role.lock();
            if self.is_in_force(&role) {
                role.on_attached(end);
            }
        }
        // What was received has been loaded meanwhile.
        self.server.repl.link.heard_ms.store(clock::monotonic_ms(), Ordering::Relaxed);
        self.server.repl.link.up.store(true, Ordering::Release);
        tracing::info!("MASTER <-> REPLICA sync: streaming from {}:{}", self.target.host, self.target.port);
        self.apply(stream_db).await
    }

    fn identity(&self) -> Identity {
        let settings = self.server.settings();
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let port = if settings.replica_announce_port == 0 { settings.port } else { settings.replica_announce_port };
        let (user, password) = match &self.target.external {
            Some(access) => (None, access.password.clone()),
            None => (given(&settings.masteruser), given(&settings.masterauth)),
        };
        let own_epoch = self.target.epoch.filter(|_| self.target.external.is_none());
        Identity {
            user,
            password,
            port: u16::try_from(port).unwrap_or(0),
            announce_ip: given(&settings.replica_announce_ip),
            managed: own_epoch.map(|epoch| (epoch, self.server.repl.role.lock().durable.volume)),
            // The new master is told to take the role by the request to follow it.
            failover: self.server.repl.failover.lock().is_in_progress(),
        }
    }

    /// Up to the stream; returns the database that the stream begins in.
    async fn handshake(&mut self) -> Result<usize, LinkError> {
        let identity = self.identity();
        let failover = identity.failover;
        let hello = self.machine.on_connected(identity, clock::monotonic_ms());
        self.write(&hello).await?;
        let mut asked = false;
        loop {
            let said = self.event().await;
            if asked && failover && !matches!(said, Err(LinkError::Io(_) | LinkError::Timeout | LinkError::Changed)) {
                asked = false;
                failover::on_answer(self.server, said.is_ok());
            }
            let (used, event) = said?;
            self.used(used);
            match event {
                Event::Send(bytes) => {
                    self.write(&bytes).await?;
                    if let Some(sync) = self.machine.sync() {
                        // SYNC: there is no answer before the body.
                        return self.full_resync(sync).await;
                    }
                }
                Event::WantPsync => {
                    let bytes = {
                        let log = self.server.repl.log.lock();
                        self.machine.psync(&log.history, log.log.end())
                    };
                    self.write(&bytes).await?;
                    asked = true;
                }
                Event::Continue { id } => return Ok(self.continued(id)),
                Event::FullResync(sync) => return self.full_resync(sync).await,
                Event::More | Event::Nothing => {}
                Event::BodyBegins { .. } | Event::Body | Event::BodyEnds | Event::Stream => {
                    return Err(LinkError::Protocol("data before an answer".into()));
                }
            }
        }
    }

    fn continued(&self, id: Option<ReplId>) -> usize {
        tracing::info!("Successful partial resynchronization with master.");
        let mut log = self.server.repl.log.lock();
        let (db, end) = (log.db.unwrap_or(0), log.log.end());
        if let Some(id) = id.filter(|id| log.history.id != *id) {
            log.history.renamed(id, end);
            drop(log);
            self.server.repl.disconnect_feeds();
        }
        db
    }

    async fn full_resync(&mut self, sync: Sync) -> Result<usize, LinkError> {
        // After SYNC nothing is known of the master's history: ours begins here.
        let id = sync.id.unwrap_or_else(|| ReplId::from_random(crate::state::random()));
        tracing::info!("Full resync from master: {id}:{}", sync.offset);
        let info = &self.server.repl.link;
        info.syncing.store(true, Ordering::Release);
        info.sync_read.store(0, Ordering::Relaxed);
        let load = self.server.settings().repl_diskless_load;
        let empty = self.server.keyspace.is_empty();
        // A managed instance answers with its disk for what it holds: it receives a file.
        let aside = load == DisklessLoad::SwapDb || load == DisklessLoad::OnEmptyDb && empty;
        let db = if !self.server.repl.managed && aside {
            self.load_aside(id, sync).await?
        } else {
            let dir = PathBuf::from(&self.server.settings().dir);
            let temp = TempFile(dir.join(format!("temp-{}.{}.rdb", clock::unix_ms() / 1000, std::process::id())));
            self.receive_file(&temp.0).await?;
            self.check_changed()?;
            self.install(&temp, id, sync)?
        };
        // The first acknowledgement is given where all are: see `apply_with`.
        self.machine.on_loaded(sync.offset, clock::monotonic_ms());
        Ok(db)
    }

    /// Judges what was received and makes it the data set.
    fn install(&mut self, temp: &TempFile, id: ReplId, sync: Sync) -> Result<usize, LinkError> {
        let server = self.server;
        let info = &server.repl.link;
        let has_keys = !server.keyspace.is_empty();
        let mut last = clock::monotonic_ms();
        let stream = self.stream.as_ref();
        // The master hears from us while we are busy.
        let mut alive = move |_| {
            let now = clock::monotonic_ms();
            if now - last > 1000 {
                last = now;
                let _ = stream.map(|s| s.try_write(b"\n"));
            }
        };
        if has_keys {
            // The data here is given up only for a file that is whole, and that passes the fence.
            let offered = persistence::read_file(server, &temp.0, false, &mut alive).map_err(rdb)?;
            self.judge(sync, &offered)?;
        }
        {
            // A promise answers with what is here, and waits for this lock: the data stays from then on (R2). One that comes
            // later finds this instance loading.
            let _apply = server.repl.apply.lock();
            self.check_changed()?;
            server.loading.store(true, Ordering::Release);
        }
        *info.refused.lock() = "";
        server.repl.role.lock().accept_once = false;
        // From here on the file on the disk is the new data set, whatever happens to this process.
        let saved =
            if server.repl.managed { divergent::save(server, id, self.machine.master_second()) } else { Ok(()) };
        let path = saved.and_then(|()| persistence::adopt_file(server, &temp.0)).inspect_err(|_| {
            server.loading.store(false, Ordering::Release);
        })?;
        server.repl.disconnect_feeds();
        flush(server);
        tracing::info!("MASTER <-> REPLICA sync: Loading DB in memory");
        let loaded = persistence::read_file(server, &path, true, &mut alive);
        let result = loaded.map(|loaded| {
            let mut log = server.repl.log.lock();
            log.log.reset(sync.offset);
            log.history.replaced(id, loaded.epoch);
            log.db = None;
            tracing::info!("MASTER <-> REPLICA sync: Finished with success, {} keys", loaded.keys);
            loaded.stream_db.unwrap_or(0)
        });
        if result.is_err() {
            flush(server);
            server.repl.role.lock().on_data_lost();
            // Nothing is held any more: the next PSYNC asks for everything.
            let mut log = server.repl.log.lock();
            log.log.reset(0);
            log.history = History::fresh(ReplId::from_random(crate::state::random()));
        }
        server.loading.store(false, Ordering::Release);
        info.syncing.store(false, Ordering::Release);
        server.dirty.store(0, Ordering::Release);
        result.map_err(rdb)
    }

    /// The history fence: may what is here be given up for what the master offers?
    pub(super) fn judge(&self, sync: Sync, offered: &Loaded) -> Result<(), LinkError> {
        let repl = &self.server.repl;
        let keys = self.server.keyspace.len() as u64;
        let mut role = repl.role.lock();
        let verdict = {
            let log = repl.log.lock();
            let own = Own {
                data: FenceView { keys, epoch: log.history.epoch },
                history: &log.history,
                offset: log.log.end(),
                allowed_once: role.accept_once,
            };
            fence::judge(&own, &Offered { id: sync.id, offset: sync.offset, data: Some(offered.fence()) })
        };
        let refused = match verdict {
            Verdict::Accept | Verdict::AskAgain => "",
            Verdict::Refuse(reason) => reason,
        };
        *repl.link.refused.lock() = refused;
        if !refused.is_empty() {
            repl.link.refusals.fetch_add(1, Ordering::Relaxed);
            return Err(LinkError::Fenced(refused));
        }
        role.accept_once = false;
        Ok(())
    }

    /// Runs the stream.
    async fn apply(&mut self, stream_db: usize) -> Result<(), LinkError> {
        let server = Arc::clone(self.server);
        let client = server.clients.add(format!("{}:{}", self.target.host, self.target.port), String::new(), -1);
        client.set_kind(Kind::Master);
        let mut session = Session::new(client, Origin::Master, true);
        session.db = stream_db;
        let result = self.apply_with(&mut session).await;
        server.clients.remove(session.client.id);
        result
    }

    async fn apply_with(&mut self, session: &mut Session) -> Result<(), LinkError> {
        let server = Arc::clone(self.server);
        let mut parser = RequestParser::default();
        let limits = RequestLimits { args_max: i32::MAX as usize, bulk_len_max: 4 << 30 };
        // Bytes that were run but, inside a transaction, not yet appended.
        let mut held = 0;
        let mut acked_ms = 0;
        loop {
            let (mut start, mut ack) = (0, self.server.repl.managed);
            self.check_changed()?;
            // CLIENT PAUSE holds back the master's writes as it does those of clients. (A managed replica's acknowledgements
            // are its master's lease: they go on.)
            if server.repl.managed || !server.paused().0 {
                let settings = server.settings();
                let _apply = server.repl.apply.lock();
                // A promise may have come while we waited: nothing of the old epoch is applied after it (R2).
                self.check_changed()?;
                let bad = |e: resp::ProtocolError| LinkError::Protocol(e.to_string());
                while let Some(request) = parser.parse(&self.buf[held + start..], &limits).map_err(bad)? {
                    let bytes = &self.buf[held + start..];
                    let len = match request {
                        Request::Multibulk { len } => {
                            let args = parser.args(bytes);
                            if !args.is_empty() {
                                ack |= self.run(&server, &settings, session, args);
                            }
                            len
                        }
                        Request::Inline { len, args } => {
                            if !args.as_args().is_empty() {
                                ack |= self.run(&server, &settings, session, args.as_args());
                            }
                            len
                        }
                    };
                    start += len;
                }
                held += start;
                if !session.in_multi() && held > 0 {
                    let mut log = server.repl.log.lock();
                    log.append_plain(&self.buf[..held]);
                    log.db = Some(session.db);
                    drop(log);
                    self.buf.drain(..held);
                    held = 0;
                }
                session.out.buffer_mut().clear();
            }
            server.repl.wake_feeds();
            let offset = server.repl.log.lock().log.end();
            server.repl.link.read_offset.store(offset + self.buf.len() as u64, Ordering::Relaxed);
            let now = clock::monotonic_ms();
            if ack || now.saturating_sub(acked_ms) >= 1000 {
                acked_ms = now;
                self.acknowledge(offset, now).await?;
            }
            // Comes back each second, whatever comes.
            let client = Arc::clone(&session.client);
            tokio::select! {
                read = self.fill_in_time() => read?,
                () = client.wake.notified() => {}
                () = server.pause.changed.notified() => {}
            }
            // CLIENT KILL of the link: it is made again, as after any other cut.
            if client.killed.load(Ordering::Acquire) {
                return Err(io::Error::from(ErrorKind::ConnectionAborted).into());
            }
        }
    }

    /// Runs one record of the stream; `true` if the master wants an acknowledgement.
    fn run(&self, server: &Server, settings: &crate::config::Settings, session: &mut Session, args: Args<'_>) -> bool {
        let record = Record::of(args);
        match record {
            Record::Command => {
                execute_alone(server, settings, session, args);
                // The file here, too, is not to bring the old data back. Not in this thread: it holds the lock of the stream.
                let flushed = args.at(0).eq_ignore_ascii_case(b"flushall") && !session.in_multi();
                if flushed && !settings.save.0.is_empty() {
                    persistence::save_in_background(&server.arc());
                }
            }
            // R7: the epoch of what this instance really holds.
            Record::EpochMark { epoch, .. } => server.repl.log.lock().history.marked(epoch),
            Record::Ping | Record::GetAck | Record::Unknown => {}
        }
        record.wants_ack(server.repl.managed)
    }

    async fn acknowledge(&mut self, offset: u64, now: u64) -> Result<(), LinkError> {
        if self.target.epoch.is_some() {
            let mut role = self.server.repl.role.lock();
            if !self.is_in_force(&role) {
                return Err(LinkError::Changed);
            }
            role.granted(now);
            if role.on_applied(offset) {
                // That this volume is a member now is known after a crash too.
                super::managed::store_role(self.server, &role);
            }
        }
        // Due is what the caller says: it has looked at the clock.
        let ack = self.machine.on_applied(offset, true, now);
        self.write(&ack.unwrap_or_default()).await
    }
}

pub(super) fn rdb(error: RdbError) -> LinkError {
    LinkError::Rdb(error.to_string())
}

/// Removes all keys.
fn flush(server: &Server) {
    server.local_expiry.forget_all();
    let settings = server.settings();
    let mut session = Session::new(server.clients.add(String::new(), String::new(), -1), Origin::Master, true);
    let args = OwnedArgs::from_iter([&b"FLUSHALL"[..]]);
    execute_alone(server, &settings, &mut session, args.as_args());
    server.clients.remove(session.client.id);
}

/// A file that is removed unless it was renamed away.
struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
