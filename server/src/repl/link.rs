//! The replica's side: follows a master, on a thread of its own.
//!
//! ```text
//! connect ─► PING ─► AUTH ─► REPLCONF ─► PSYNC ─┬─ +CONTINUE ──────────────► streaming
//!    ▲                                          └─ +FULLRESYNC ─► receive ─► fence ─► load ─► streaming
//!    └───────────── any error, a time-out, another master: again after a pause ◄──┘
//! ```
//! The stream is run as it comes and appended verbatim to our own log, so offsets agree down a chain of replicas.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replication::{FenceView, History, ReplId, Role};
use resp::{Args, OwnedArgs, Request, RequestLimits, RequestParser, encode_command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Phase, Target, divergent, failover};
use crate::clients::Kind;
use crate::clock;
use crate::config::DisklessLoad;
use crate::dispatch::{Origin, Session, execute_alone};
use crate::persistence::{self, Loaded};
use crate::state::Server;

#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no sign of life from MASTER for too long")]
    Timeout,
    #[error("MASTER answered {0}")]
    Refused(String),
    #[error("Unable to AUTH to MASTER: {0}")]
    Auth(String),
    #[error("MASTER sent what is not the replication protocol: {0}")]
    Protocol(String),
    #[error("full resync refused: {0}")]
    Fenced(&'static str),
    #[error("the RDB from MASTER was refused: {0}")]
    Rdb(#[from] engine::rdb::RdbError),
    #[error("another master is to be followed")]
    Changed,
}

/// Follows whatever master is set, for ever.
pub async fn run(server: Arc<Server>) {
    loop {
        let (target, generation) = server.repl.target();
        let Some(target) = target.filter(|t| t.epoch.is_none() || server.repl.role.lock().may_follow()) else {
            server.repl.target_changed.notified().await;
            continue;
        };
        let mut link = Link {
            server: &server,
            target,
            generation,
            buf: Vec::new(),
            stream: None,
            master_end: None,
            master_second: None,
        };
        let end = link.follow().await;
        let info = &server.repl.link;
        info.syncing.store(false, Ordering::Release);
        info.enter(Phase::Connect);
        if info.up.swap(false, Ordering::AcqRel) {
            info.down_since_ms.store(clock::unix_ms(), Ordering::Relaxed);
        }
        match end {
            Err(LinkError::Changed) | Ok(()) => {}
            Err(error) => {
                tracing::warn!("Link with MASTER {}:{}: {error}", link.target.host, link.target.port);
                // Managed instances look again soon: their master may just be getting its role.
                let pause = if server.repl.managed { 100 } else { 1000 };
                let changed = server.repl.target_changed.notified();
                let _ = timeout(Duration::from_millis(pause), changed).await;
            }
        }
    }
}

pub(super) struct Link<'s> {
    pub(super) server: &'s Arc<Server>,
    target: Target,
    generation: u64,
    /// Received and not yet looked at.
    pub(super) buf: Vec<u8>,
    pub(super) stream: Option<TcpStream>,
    /// What a managed master had when this replica announced itself.
    master_end: Option<u64>,
    /// The history that a managed master has continued, and up to where.
    master_second: Option<(ReplId, u64)>,
}

impl Link<'_> {
    /// How long the master may be silent. A managed one speaks four times in a lease: one that is silent for a whole lease
    /// has lost it, and the operator asks its replicas whether they still hear it.
    fn limit(&self) -> Duration {
        let settings = self.server.settings();
        let limit = Duration::from_secs(settings.repl_timeout as u64);
        let streams = self.target.epoch.is_some() && self.server.repl.link_up();
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

    /// Reads more, or fails on a time-out, on the end of the stream, or when another master is set.
    pub(super) async fn fill(&mut self) -> Result<usize, LinkError> {
        self.check_changed()?;
        let server = Arc::clone(self.server);
        let begun = clock::instant();
        let n = loop {
            // The time-out may be changed while we wait.
            let Some(left) = self.limit().checked_sub(begun.elapsed()) else { return Err(LinkError::Timeout) };
            let tick = left.min(Duration::from_secs(1));
            let Some(stream) = self.stream.as_mut() else {
                return Err(io::Error::from(ErrorKind::NotConnected).into());
            };
            tokio::select! {
                n = timeout(tick, stream.read_buf(&mut self.buf)) => if let Ok(n) = n {
                    break n?;
                },
                () = server.repl.target_changed.notified() => self.check_changed()?,
            }
        };
        self.check_changed()?;
        if n == 0 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        self.server.repl.link.last_io_ms.store(clock::unix_ms(), Ordering::Relaxed);
        self.server.stats.replica_input_bytes.fetch_add(n as u64, Ordering::Relaxed);
        self.server.stats.input_bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    /// One line without its end; empty lines are signs of life.
    pub(super) async fn line(&mut self) -> Result<String, LinkError> {
        loop {
            if let Some(end) = self.buf.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buf.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_string();
                if !line.is_empty() {
                    return Ok(line);
                }
            } else if self.buf.len() > 64 * 1024 {
                return Err(LinkError::Protocol("a line without an end".into()));
            } else {
                self.fill().await?;
            }
        }
    }

    async fn send(&mut self, argv: &[&str]) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, argv);
        let limit = self.limit();
        timeout(limit, self.stream()?.write_all(&bytes)).await.map_err(|_| LinkError::Timeout)??;
        Ok(())
    }

    async fn ask(&mut self, argv: &[&str]) -> Result<String, LinkError> {
        self.send(argv).await?;
        self.line().await
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
        if let Some(end) = self.master_end {
            let mut role = self.server.repl.role.lock();
            if self.is_in_force(&role) {
                role.on_attached(end);
            }
        }
        self.server.repl.link.up.store(true, Ordering::Release);
        tracing::info!("MASTER <-> REPLICA sync: streaming from {}:{}", self.target.host, self.target.port);
        self.apply(stream_db).await
    }

    /// Up to the stream; returns the database that the stream begins in.
    async fn handshake(&mut self) -> Result<usize, LinkError> {
        let settings = self.server.settings();
        let pong = self.ask(&["PING"]).await?;
        if !pong.starts_with('+')
            && !pong.starts_with("-NOAUTH")
            && !pong.starts_with("-NOPERM")
            && !pong.starts_with("-LOADING")
        {
            return Err(LinkError::Refused(pong));
        }
        if !settings.masterauth.is_empty() {
            let mut argv = vec!["AUTH"];
            if !settings.masteruser.is_empty() {
                argv.push(&settings.masteruser);
            }
            argv.push(&settings.masterauth);
            let answer = self.ask(&argv).await?;
            if !answer.starts_with('+') {
                return Err(LinkError::Auth(answer));
            }
        }
        let port = match settings.replica_announce_port {
            0 => settings.port,
            port => port,
        };
        // Errors here are not fatal: old masters do not know the options.
        self.ask(&["REPLCONF", "listening-port", &port.to_string()]).await?;
        if !settings.replica_announce_ip.is_empty() {
            self.ask(&["REPLCONF", "ip-address", &settings.replica_announce_ip]).await?;
        }
        self.ask(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
        if let Some(epoch) = self.target.epoch {
            let volume = format!("{:016x}", self.server.repl.role.lock().durable.volume);
            let answer = self.ask(&["REPLCONF", "rr-epoch", &epoch.to_string(), "rr-volume", &volume]).await?;
            // R1: who knows no epochs is not master of ours. R5: this much there is to catch up with.
            let Some(known) = answer.strip_prefix("+OK") else { return Err(LinkError::Refused(answer)) };
            let mut known = known.split_whitespace();
            self.master_end = known.next().and_then(|end| end.parse().ok());
            let second = known.next().and_then(|id| ReplId::parse(id.as_bytes()));
            self.master_second = second.zip(known.next().and_then(|offset| offset.parse().ok()));
        }
        // The new master is told to take the role by the request to follow it.
        let failing_over = self.server.repl.failover.lock().is_in_progress();
        let (id, next) = {
            let log = self.server.repl.log.lock();
            let (history, end) = (log.history, log.log.end());
            // As long as nothing was added to a history that was just begun, this is still the place in the old one.
            let untouched = history.second != ReplId::ZERO && history.second_offset == Some(end);
            (if untouched && !failing_over { history.second } else { history.id }, end + 1)
        };
        let answer = if failing_over {
            let answer = self.ask(&["PSYNC", id.as_str(), &next.to_string(), "FAILOVER"]).await?;
            failover::on_answer(self.server, answer.starts_with("+CONTINUE") || answer.starts_with("+FULLRESYNC"));
            answer
        } else if next == 1 && self.server.keyspace.is_empty() {
            self.ask(&["PSYNC", "?", "-1"]).await?
        } else {
            self.ask(&["PSYNC", id.as_str(), &next.to_string()]).await?
        };
        let mut words = answer.split_whitespace();
        match words.next() {
            Some("+CONTINUE") => {
                tracing::info!("Successful partial resynchronization with master.");
                if let Some(id) = words.next().and_then(|id| ReplId::parse(id.as_bytes())) {
                    let renamed = {
                        let mut log = self.server.repl.log.lock();
                        let end = log.log.end();
                        let renamed = log.history.id != id;
                        log.history.renamed(id, end);
                        renamed
                    };
                    if renamed {
                        self.server.repl.disconnect_feeds();
                    }
                }
                Ok(self.server.repl.log.lock().db.unwrap_or(0))
            }
            Some("+FULLRESYNC") => {
                let id = words.next().and_then(|id| ReplId::parse(id.as_bytes()));
                let offset = words.next().and_then(|n| n.parse().ok());
                let (Some(id), Some(offset)) = (id, offset) else { return Err(LinkError::Protocol(answer)) };
                self.full_resync(id, offset).await
            }
            _ => Err(LinkError::Refused(answer)),
        }
    }

    async fn full_resync(&mut self, id: ReplId, offset: u64) -> Result<usize, LinkError> {
        tracing::info!("Full resync from master: {id}:{offset}");
        let info = &self.server.repl.link;
        info.syncing.store(true, Ordering::Release);
        info.sync_read.store(0, Ordering::Relaxed);
        let load = self.server.settings().repl_diskless_load;
        let empty = self.server.keyspace.is_empty();
        // A managed instance answers with its disk for what it holds: it receives a file.
        if !self.server.repl.managed && (load == DisklessLoad::SwapDb || load == DisklessLoad::OnEmptyDb && empty) {
            return self.load_aside(id, offset).await;
        }
        let dir = PathBuf::from(&self.server.settings().dir);
        let temp = TempFile(dir.join(format!("temp-{}.{}.rdb", clock::unix_ms() / 1000, std::process::id())));
        self.receive_file(&temp.0).await?;
        self.check_changed()?;
        self.install(&temp, id, offset)
    }

    /// Judges what was received and makes it the data set.
    fn install(&mut self, temp: &TempFile, id: ReplId, offset: u64) -> Result<usize, LinkError> {
        let server = self.server;
        let info = &server.repl.link;
        let own = FenceView { keys: server.keyspace.len() as u64, epoch: server.repl.log.lock().history.epoch };
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
        if own.keys > 0 {
            // The data here is given up only for a file that is whole, and that passes the fence.
            let offered = persistence::read_file(server, &temp.0, false, &mut alive)?;
            self.judge(own, &offered)?;
        }
        {
            // A promise answers with what is here, and waits for this lock: the data stays from then on (R2). One that comes
            // later finds this instance loading.
            let _apply = server.repl.apply.lock();
            self.check_changed()?;
            server.loading.store(true, Ordering::Release);
        }
        *info.refused.lock() = "";
        // From here on the file on the disk is the new data set, whatever happens to this process.
        let saved = if server.repl.managed { divergent::save(server, id, self.master_second) } else { Ok(()) };
        let path = saved.and_then(|()| persistence::adopt_file(server, &temp.0)).inspect_err(|_| {
            server.loading.store(false, Ordering::Release);
        })?;
        server.repl.disconnect_feeds();
        flush(server);
        tracing::info!("MASTER <-> REPLICA sync: Loading DB in memory");
        let loaded = persistence::read_file(server, &path, true, &mut alive);
        let result = loaded.map(|loaded| {
            let mut log = server.repl.log.lock();
            log.log.reset(offset);
            log.history = History { epoch: loaded.epoch, ..History::new(id) };
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
            log.history = History::new(ReplId::from_random(crate::state::random()));
        }
        server.loading.store(false, Ordering::Release);
        info.syncing.store(false, Ordering::Release);
        server.dirty.store(0, Ordering::Release);
        Ok(result?)
    }

    /// The history fence: may this be given up for what the master offers?
    pub(super) fn judge(&self, own: FenceView, offered: &Loaded) -> Result<(), LinkError> {
        let info = &self.server.repl.link;
        let verdict = if own.keys > 0 { own.judge(offered.fence()) } else { Ok(()) };
        if let Err(reason) = verdict
            && !info.accept_once.swap(false, Ordering::AcqRel)
        {
            *info.refused.lock() = reason;
            return Err(LinkError::Fenced(reason));
        }
        *info.refused.lock() = "";
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
            {
                self.check_changed()?;
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
            server.repl.link.read_offset.store(offset, Ordering::Relaxed);
            let now = clock::monotonic_ms();
            if ack || now.saturating_sub(acked_ms) >= 1000 {
                acked_ms = now;
                self.acknowledge(offset, now).await?;
            }
            // Acknowledge each second, whatever comes.
            match timeout(Duration::from_millis(1000), self.fill()).await {
                Ok(read) => drop(read?),
                Err(_) => {
                    let silent = clock::unix_ms().saturating_sub(server.repl.link.last_io_ms.load(Ordering::Relaxed));
                    if silent >= self.limit().as_millis() as u64 {
                        return Err(LinkError::Timeout);
                    }
                }
            }
        }
    }

    /// Runs one command of the stream; `true` if the master wants an acknowledgement.
    fn run(&self, server: &Server, settings: &crate::config::Settings, session: &mut Session, args: Args<'_>) -> bool {
        if args.at(0).eq_ignore_ascii_case(b"REPLCONF") && args.len() >= 3 {
            if args.at(1).eq_ignore_ascii_case(b"GETACK") {
                return true;
            }
            if args.at(1).eq_ignore_ascii_case(b"RR-EPOCH") {
                // R7: the epoch of what this instance really holds.
                if let Some(epoch) = resp::number::parse_u64(args.at(2)) {
                    server.repl.log.lock().history.epoch = epoch;
                }
            }
            return false;
        }
        if args.at(0).eq_ignore_ascii_case(b"PING") {
            return false;
        }
        execute_alone(server, settings, session, args);
        false
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
        self.send(&["REPLCONF", "ACK", &offset.to_string()]).await
    }
}

/// Removes all keys.
fn flush(server: &Server) {
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
