//! One process of an instance: the machines of `replication`, driven as `server/src/repl` drives them.
//!
//! It does nothing by itself: the world tells it what happens, and carries out what it leaves in [`Process::out`].

use std::collections::BTreeMap;

use operator::observe::{Role as SeenRole, Status};
use replication::feed::{Announced, Body, FeedLimits, Output, Replconf, Serving};
use replication::fence::{FenceView, Offered, Own, Verdict, judge};
use replication::link::{Event, Identity, Link, LinkError, Sync};
use replication::orders::{Answer, Effect, Order};
use replication::role::{Durable, Refusal, Role, RoleState};
use replication::{Acks, Ask, Feed, Gate, History, Log, Need, ReaderId, Record, ReplId};
use resp::{Args, Request, RequestLimits, RequestParser};

use super::data::{Data, Snapshot};
use super::rng::Rng;
use super::{LEASE_MS, Weakening};

/// What survives a process.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// `None`: a new volume.
    pub durable: Option<Durable>,
    pub snapshot: Option<Snapshot>,
}

/// What the world does for a process, in this order.
#[derive(Debug)]
pub enum Out {
    Connect { port: u16, attempt: u64 },
    Send { conn: u64, bytes: Vec<u8> },
    Close { conn: u64 },
    Note(Note),
}

/// What the judges hear.
#[derive(Debug)]
pub enum Note {
    Promoted {
        epoch: u64,
    },
    /// The client has its reply.
    Acknowledged {
        write: u64,
        epoch: u64,
        k: usize,
    },
    /// A full resync put another data set in the place of this one.
    Replaced {
        before: Data,
        allowed: bool,
    },
    /// Something from its master was applied.
    Applied,
}

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub backlog: u64,
    pub timeout_ms: u64,
    pub weakening: Option<Weakening>,
}

/// The master's end of a connection.
#[derive(Debug, Default)]
struct FeedEnd {
    announced: Announced,
    feed: Option<Feed>,
    reader: Option<ReaderId>,
    parser: RequestParser,
    input: Vec<u8>,
}

#[derive(Debug)]
pub struct Process {
    pub role: Role,
    pub log: Log,
    pub history: History,
    pub data: Data,
    pub link: Link,
    pub loading: bool,
    /// The connection to its master.
    pub conn: Option<u64>,
    pub out: Vec<Out>,
    settings: Settings,
    rng: Rng,
    port: u16,
    master_port: u16,
    attempt: u64,
    connecting: bool,
    input: Vec<u8>,
    parser: RequestParser,
    rdb: Vec<u8>,
    refused: &'static str,
    feeds: BTreeMap<u64, FeedEnd>,
    gate: Gate<u64>,
    asked_ms: u64,
}

impl Process {
    /// R1: begins to load; [`Process::loaded`] ends it.
    pub fn start(disk: &mut Disk, port: u16, settings: Settings, mut rng: Rng, now_ms: u64) -> Self {
        let durable = disk.durable.clone().unwrap_or_else(|| Durable { volume: rng.word(), ..Durable::default() });
        let role = Role::new(durable, rng.word(), LEASE_MS, now_ms);
        disk.durable = Some(role.durable.clone());
        Self {
            role,
            log: Log::new(0, settings.backlog, 1 << 20),
            history: History::new(ReplId::from_random(rng.id())),
            data: Data::default(),
            link: Link::new(now_ms),
            loading: true,
            conn: None,
            out: Vec::new(),
            settings,
            rng,
            port,
            master_port: 0,
            attempt: 0,
            connecting: false,
            input: Vec::new(),
            parser: RequestParser::default(),
            rdb: Vec::new(),
            refused: "",
            feeds: BTreeMap::new(),
            gate: Gate::default(),
            asked_ms: 0,
        }
    }

    pub fn loaded(&mut self, disk: &Disk) {
        self.loading = false;
        if let Some(snapshot) = &disk.snapshot {
            self.take(snapshot.clone());
        }
    }

    fn take(&mut self, snapshot: Snapshot) {
        self.log.reset(snapshot.offset);
        self.history.replaced(snapshot.id, snapshot.epoch);
        self.data = snapshot.data;
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { data: self.data.clone(), id: self.history.id, offset: self.log.end(), epoch: self.history.epoch }
    }

    pub fn is_weak(&self, weakening: Weakening) -> bool {
        self.settings.weakening == Some(weakening)
    }

    fn store(&self, durable: &Durable, disk: &mut Disk) {
        let mut durable = durable.clone();
        if self.is_weak(Weakening::PromisesAreForgotten) {
            durable.promised = disk.durable.as_ref().map_or(0, |d| d.promised);
        }
        disk.durable = Some(durable);
    }

    // ---- the operator ----

    pub fn order(&mut self, order: &Order, disk: &mut Disk, now_ms: u64) -> Result<(), Refusal> {
        let busy = match (self.loading, self.link.is_syncing()) {
            (true, _) => Some("loading"),
            (_, true) => Some("syncing"),
            _ => None,
        };
        let obeyed = self.role.obey(order, busy, now_ms)?;
        if let Some(durable) = &obeyed.persist {
            self.store(durable, disk);
        }
        self.role = obeyed.role;
        for effect in obeyed.effects {
            self.effect(effect, now_ms);
        }
        if let Order::AcceptMaster = order {
            self.link.retry_now(now_ms);
        }
        debug_assert!(matches!(obeyed.answer, Answer::Ok | Answer::Status | Answer::Offset | Answer::Left(_)));
        self.tick(now_ms);
        Ok(())
    }

    fn effect(&mut self, effect: Effect, now_ms: u64) {
        match effect {
            // Writes are whole here.
            Effect::SettleWrites => {}
            Effect::DropLink => self.fail(&LinkError::Changed, now_ms),
            Effect::DropReplicas => self.drop_replicas(),
            Effect::BeginReign { epoch } => {
                let id = ReplId::from_random(self.rng.id());
                self.history.shift(id, self.log.end());
                self.log.append(&replication::records::epoch_mark(epoch, id));
                self.history.marked(epoch);
                self.out.push(Out::Note(Note::Promoted { epoch }));
            }
            Effect::Follow { port, .. } => {
                self.fail(&LinkError::Changed, now_ms);
                self.master_port = port;
                self.link = Link::new(now_ms);
            }
            Effect::CloseClients => drop(self.gate.give_up()),
        }
    }

    pub fn status(&self, now_ms: u64) -> Status {
        let is_master = matches!(self.role.state, RoleState::Master(_));
        let (master_host, master_port) = match &self.role.state {
            RoleState::Replica { host, port, .. } => (host.clone(), *port),
            RoleState::Awaiting | RoleState::Master(_) => (String::new(), 0),
        };
        Status {
            incarnation: format!("{:016x}", self.role.incarnation),
            started_unix_ms: 0,
            volume: format!("{:016x}", self.role.durable.volume),
            promised: self.role.durable.promised,
            role: match self.role.state {
                RoleState::Awaiting => SeenRole::Awaiting,
                RoleState::Master(_) => SeenRole::Master,
                RoleState::Replica { .. } => SeenRole::Replica,
            },
            role_epoch: self.role.role_epoch(),
            history_epoch: self.history.epoch,
            offset: self.log.end(),
            complete: self.role.complete,
            has_data: !self.data.is_empty() || self.history.epoch > 0,
            loading: self.loading,
            syncing: self.link.is_syncing(),
            writable: is_master && self.role.may_write(now_ms),
            lease_left_ms: match self.role.lease_until() {
                u64::MAX => self.role.lease_ms(),
                until => until.saturating_sub(now_ms),
            },
            grant_left_ms: self.role.grant_left(now_ms),
            master_port,
            master_host,
            link_up: !is_master && self.link.is_streaming(),
            caught_up: self.role.caught_up,
            sync_refused: self.refused.into(),
            paused: self.role.paused(now_ms),
            token: now_ms,
        }
    }

    // ---- clients ----

    /// Takes a write, or says that it may not.
    pub fn write(&mut self, write: u64, now_ms: u64) -> bool {
        let Some(reign) = self.role.reign().filter(|_| self.role.may_write(now_ms)) else { return false };
        let (epoch, k) = (reign.epoch, reign.k);
        let mut record = Vec::new();
        resp::encode_command(&mut record, &["SET", "k", &write.to_string()]);
        self.log.append(&record);
        let end = self.log.end();
        self.data.push(write, end);
        if k == 0 {
            self.out.push(Out::Note(Note::Acknowledged { write, epoch, k }));
        } else {
            self.gate.hold(write, end, Need::Quorum { k });
        }
        self.pump();
        true
    }

    /// R4: replies that need not be held any longer go out.
    fn release(&mut self, now_ms: u64) {
        let Some(reign) = self.role.reign().filter(|_| !self.gate.is_empty()) else { return };
        let acks: Vec<_> = self.feeds.values().filter_map(|end| end.feed.as_ref()?.ack()).collect();
        let (epoch, k, members) = (reign.epoch, reign.k, &reign.members);
        let may_reply = now_ms < self.role.lease_until();
        for released in self.gate.release(Acks(&acks), members, may_reply, now_ms) {
            self.out.push(Out::Note(Note::Acknowledged { write: released.ticket, epoch, k }));
        }
    }

    // ---- time ----

    pub fn tick(&mut self, now_ms: u64) {
        if self.loading {
            return;
        }
        if self.role.may_follow() && self.link.poll_connect(now_ms) {
            self.attempt += 1;
            self.connecting = true;
            self.out.push(Out::Connect { port: self.master_port, attempt: self.attempt });
        }
        match self.link.tick(self.log.end(), self.settings.timeout_ms, now_ms) {
            Ok(Some(bytes)) => self.acknowledge(&bytes, now_ms),
            Ok(None) => {}
            Err(error) => self.fail(&error, now_ms),
        }
        self.request_leases(now_ms);
        let limits = FeedLimits { timeout_ms: self.settings.timeout_ms, soft_bytes: 0, soft_ms: 0 };
        for conn in self.feeds.keys().copied().collect::<Vec<_>>() {
            let Some(end) = self.feeds.get_mut(&conn) else { continue };
            let behind = end.reader.and_then(|reader| self.log.behind(reader)).unwrap_or(0);
            let outputs = end.feed.as_mut().map(|feed| feed.tick(behind, &limits, now_ms)).unwrap_or_default();
            self.carry_out(conn, outputs, now_ms);
        }
        self.release(now_ms);
    }

    /// R3: an acknowledgement of what is appended here is a lease counted from now.
    fn request_leases(&mut self, now_ms: u64) {
        if self.role.reign().is_none() || self.feeds.is_empty() || now_ms < self.asked_ms + LEASE_MS / 4 {
            return;
        }
        self.asked_ms = now_ms;
        self.log.append(replication::records::PING);
        self.role.on_lease_asked(self.log.end(), now_ms);
        self.pump();
    }

    // ---- its master ----

    pub fn on_connected(&mut self, attempt: u64, conn: Result<u64, LinkError>, now_ms: u64) {
        if !self.connecting || attempt != self.attempt {
            if let Ok(conn) = conn {
                self.out.push(Out::Close { conn });
            }
            return;
        }
        self.connecting = false;
        match conn {
            Ok(conn) => {
                self.conn = Some(conn);
                let identity = Identity {
                    port: self.port,
                    managed: Some((self.role.role_epoch(), self.role.durable.volume)),
                    ..Identity::default()
                };
                let bytes = self.link.on_connected(identity, now_ms);
                self.say(bytes);
            }
            Err(error) => self.fail(&error, now_ms),
        }
    }

    fn say(&mut self, bytes: Vec<u8>) {
        if let Some(conn) = self.conn {
            self.out.push(Out::Send { conn, bytes });
        }
    }

    fn fail(&mut self, error: &LinkError, now_ms: u64) {
        if let Some(conn) = self.conn.take() {
            self.out.push(Out::Close { conn });
        }
        self.connecting = false;
        self.input.clear();
        self.parser = RequestParser::default();
        self.rdb.clear();
        let jitter = (self.rng.word() & 0xFFFF) as u16;
        self.link.fail(error, jitter, now_ms);
    }

    /// R2, R4: an acknowledgement is sent only if the role lets it.
    fn acknowledge(&mut self, bytes: &[u8], now_ms: u64) {
        if self.role.acknowledge(now_ms) {
            self.say(bytes.to_vec());
        } else {
            self.fail(&LinkError::Changed, now_ms);
        }
    }

    /// Bytes have come on a connection.
    pub fn hears(&mut self, conn: u64, bytes: &[u8], disk: &mut Disk, now_ms: u64) {
        if self.conn == Some(conn) {
            self.input.extend_from_slice(bytes);
            if let Err(error) = self.on_input(disk, now_ms) {
                self.fail(&error, now_ms);
            }
        } else if self.feeds.contains_key(&conn) {
            self.on_replica_input(conn, bytes, now_ms);
        }
    }

    /// The other end, or the network, has closed it.
    pub fn on_closed(&mut self, conn: u64, now_ms: u64) {
        if self.conn == Some(conn) {
            self.fail(&LinkError::Io("closed".into()), now_ms);
        } else {
            self.forget_feed(conn);
        }
    }

    fn on_input(&mut self, disk: &mut Disk, now_ms: u64) -> Result<(), LinkError> {
        loop {
            let (used, event) = self.link.next(&self.input, now_ms)?;
            match event {
                Event::More => return Ok(()),
                Event::Stream => {
                    self.run_stream(disk, now_ms)?;
                    return Ok(());
                }
                Event::Body => self.rdb.extend_from_slice(&self.input[..used]),
                Event::Nothing => {}
                Event::Send(bytes) => self.say(bytes),
                Event::WantPsync => {
                    let end = self.log.end();
                    let bytes = self.link.psync(&self.history, end, end > 0);
                    self.say(bytes);
                }
                Event::Continue { id } => {
                    let end = self.log.end();
                    id.into_iter().for_each(|id| self.history.renamed(id, end));
                    self.attached(disk);
                }
                Event::FullResync(sync) => self.fence(sync, None)?,
                Event::BodyBegins { .. } => self.rdb.clear(),
                Event::BodyEnds => self.install(disk, now_ms)?,
            }
            self.input.drain(..used);
        }
    }

    fn attached(&mut self, disk: &mut Disk) {
        if let Some(end) = self.link.master_end() {
            self.role.on_attached(end);
        }
        self.applied(disk);
    }

    fn applied(&mut self, disk: &mut Disk) {
        if self.role.on_applied(self.log.end()) {
            let durable = self.role.durable.clone();
            self.store(&durable, disk);
        }
        self.out.push(Out::Note(Note::Applied));
    }

    fn fence(&mut self, sync: Sync, data: Option<FenceView>) -> Result<(), LinkError> {
        let own = Own {
            data: FenceView { keys: self.data.keys(), epoch: self.history.epoch },
            history: &self.history,
            offset: self.log.end(),
            allowed_once: self.role.accept_once || self.is_weak(Weakening::NoHistoryFence),
        };
        match judge(&own, &Offered { id: sync.id, offset: sync.offset, data }) {
            Verdict::Accept | Verdict::AskAgain => Ok(()),
            Verdict::Refuse(reason) => {
                self.refused = reason;
                Err(LinkError::Fenced(reason))
            }
        }
    }

    /// R8: the former data counts until the new one is whole and on the disk.
    fn install(&mut self, disk: &mut Disk, now_ms: u64) -> Result<(), LinkError> {
        let sync = self.link.sync().expect("a body belongs to a full resync");
        let id = sync.id.expect("a managed replica asks by PSYNC");
        let snapshot = Snapshot::decode(&self.rdb, id, sync.offset);
        self.rdb.clear();
        self.fence(sync, Some(FenceView { keys: snapshot.data.keys(), epoch: snapshot.epoch }))?;
        let before = self.data.clone();
        disk.snapshot = Some(snapshot.clone());
        self.take(snapshot);
        self.refused = "";
        let allowed = std::mem::take(&mut self.role.accept_once);
        self.out.push(Out::Note(Note::Replaced { before, allowed }));
        self.attached(disk);
        let bytes = self.link.on_loaded(sync.offset, now_ms);
        self.acknowledge(&bytes, now_ms);
        Ok(())
    }

    /// Runs whole records, appends them verbatim, acknowledges.
    fn run_stream(&mut self, disk: &mut Disk, now_ms: u64) -> Result<(), LinkError> {
        self.link.on_read(now_ms);
        let mut start = 0;
        let bad = |error: resp::ProtocolError| LinkError::Protocol(error.to_string());
        while let Some(request) = self.parser.parse(&self.input[start..], &RequestLimits::default()).map_err(bad)? {
            let Request::Multibulk { len } = request else {
                return Err(LinkError::Protocol("an inline command in the stream".into()));
            };
            let record = &self.input[start..start + len];
            let args = self.parser.args(record);
            self.log.append(record);
            match Record::of(args) {
                Record::Command => {
                    let write = args.get(2).and_then(resp::number::parse_u64).expect("writes are numbered");
                    self.data.push(write, self.log.end());
                }
                Record::EpochMark { epoch, .. } => self.history.marked(epoch),
                Record::Ping | Record::GetAck | Record::Unknown => {}
            }
            start += len;
        }
        self.input.drain(..start);
        if start > 0 {
            self.applied(disk);
            // As the server does: a managed replica acknowledges each part of the stream at once.
            if let Some(bytes) = self.link.on_applied(self.log.end(), true, now_ms) {
                self.acknowledge(&bytes, now_ms);
            }
        }
        Ok(())
    }

    // ---- its replicas ----

    pub fn accept(&mut self, conn: u64) {
        self.feeds.insert(conn, FeedEnd::default());
    }

    pub fn replicas(&self) -> usize {
        self.feeds.len()
    }

    fn forget_feed(&mut self, conn: u64) {
        if let Some(reader) = self.feeds.remove(&conn).and_then(|end| end.reader) {
            self.log.detach(reader);
        }
    }

    fn drop_replicas(&mut self) {
        for conn in self.feeds.keys().copied().collect::<Vec<_>>() {
            self.forget_feed(conn);
            self.out.push(Out::Close { conn });
        }
    }

    fn on_replica_input(&mut self, conn: u64, bytes: &[u8], now_ms: u64) {
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        end.input.extend_from_slice(bytes);
        let (mut input, mut parser) = (std::mem::take(&mut end.input), std::mem::take(&mut end.parser));
        let mut start = 0;
        while let Ok(Some(request)) = parser.parse(&input[start..], &RequestLimits::default()) {
            match request {
                Request::Multibulk { len } => {
                    let args = parser.args(&input[start..]);
                    self.on_replica_command(conn, args, now_ms);
                    start += len;
                }
                Request::Inline { len, .. } => start += len,
            }
        }
        input.drain(..start);
        if let Some(end) = self.feeds.get_mut(&conn) {
            (end.input, end.parser) = (input, parser);
        }
    }

    fn on_replica_command(&mut self, conn: u64, args: Args<'_>, now_ms: u64) {
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        if let Some(feed) = &mut end.feed {
            let outputs = feed.on_command(args, now_ms);
            let ack = feed.ack();
            self.carry_out(conn, outputs, now_ms);
            if let Some((volume, ack)) = ack.and_then(|ack| Some((ack.volume?, ack))) {
                self.role.on_ack(volume, ack.offset);
                self.release(now_ms);
            }
            return;
        }
        let bytes = match &args.at(0).to_ascii_lowercase()[..] {
            b"ping" => b"+PONG\r\n".to_vec(),
            b"replconf" => match end.announced.replconf(args.skip(1), self.log.end()) {
                Replconf::Simple(line) => format!("+{line}\r\n").into_bytes(),
                Replconf::Error(line) => format!("-{line}\r\n").into_bytes(),
                Replconf::Nothing => return,
            },
            _ => return self.serve(conn, args, now_ms),
        };
        self.out.push(Out::Send { conn, bytes });
    }

    fn serve(&mut self, conn: u64, args: Args<'_>, now_ms: u64) {
        let ask = Ask::parse(args).expect("the link asks properly");
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        let serving = Serving::Managed { role: &self.role, link_up: false };
        let check = match (self.loading, self.settings.weakening) {
            (true, _) => Err(replication::NotServed::Loading),
            (false, Some(Weakening::ServesAnyEpoch)) => Ok(()),
            (false, _) => serving.check(&end.announced),
        };
        if let Err(why) = check {
            self.out.push(Out::Send { conn, bytes: format!("-{why}\r\n").into_bytes() });
            return;
        }
        let log = &self.log;
        let (feed, outputs) =
            Feed::open(end.announced.clone(), &ask, &self.history, log.end(), |o| log.contains(o), now_ms);
        end.feed = Some(feed);
        self.carry_out(conn, outputs, now_ms);
        self.pump();
    }

    fn carry_out(&mut self, conn: u64, outputs: Vec<Output>, now_ms: u64) {
        for output in outputs {
            match output {
                Output::Send(bytes) => self.out.push(Out::Send { conn, bytes }),
                Output::Snapshot { eof } => self.send_snapshot(conn, eof, now_ms),
                Output::Stream { from } => {
                    // After a snapshot the reader has been there since the cut.
                    if let Some(end) = self.feeds.get_mut(&conn)
                        && end.reader.is_none()
                    {
                        end.reader = self.log.attach(from);
                        assert!(end.reader.is_some(), "the log does not reach back to {from}");
                    }
                    self.pump();
                }
                Output::Close(_) => {
                    self.forget_feed(conn);
                    self.out.push(Out::Close { conn });
                }
            }
        }
    }

    fn send_snapshot(&mut self, conn: u64, eof: bool, now_ms: u64) {
        let body = self.snapshot().encode();
        let kind = match eof && self.rng.chance(500) {
            true => Body::Mark(ReplId::from_random(self.rng.id())),
            false => Body::Length(body.len() as u64),
        };
        let (cut, id) = (self.log.end(), self.history.id);
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        end.reader = self.log.attach(cut);
        let Some(feed) = &mut end.feed else { return };
        let mut outputs = feed.on_snapshot_begun(id, cut);
        outputs.extend(feed.on_body(kind, now_ms));
        // In a few parts, so that the connection can be lost between them.
        outputs.extend(body.chunks(body.len() / 3 + 1).map(|part| Output::Send(part.to_vec())));
        outputs.extend(feed.on_body_sent(now_ms));
        self.carry_out(conn, outputs, now_ms);
    }

    pub fn refused(&self) -> &'static str {
        self.refused
    }

    /// Gives each replica what it lacks of the log.
    fn pump(&mut self) {
        let mut cut_off = Vec::new();
        for (&conn, end) in &mut self.feeds {
            let online = end.feed.as_ref().is_some_and(|feed| feed.state() == replication::FeedState::Online);
            let Some(reader) = end.reader.filter(|_| online) else { continue };
            let mut bytes = Vec::new();
            match self.log.read(reader, usize::MAX, &mut bytes) {
                Ok(0) => {}
                Ok(_) => self.out.push(Out::Send { conn, bytes }),
                Err(_) => cut_off.push(conn),
            }
        }
        for conn in cut_off {
            self.forget_feed(conn);
            self.out.push(Out::Close { conn });
        }
    }
}
