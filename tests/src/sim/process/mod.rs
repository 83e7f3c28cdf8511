//! One process of an instance: the machines of `replication`, driven as `server/src/repl` drives them.
//!
//! It does nothing by itself: the world tells it what happens, and carries out what it leaves in [`Process::out`].

use std::collections::BTreeMap;

use operator::observe::{Role as SeenRole, Status};
use replication::feed::{Announced, FeedLimits};
use replication::link::{Link, LinkError};
use replication::orders::{Answer, Effect, Order};
use replication::role::{Durable, Refusal, Role, RoleState};
use replication::{Acks, Feed, Gate, History, Log, Need, ReaderId, ReplId};
use resp::RequestParser;

use crate::sim::data::{Data, Snapshot};
use crate::sim::rng::Rng;
use crate::sim::{LEASE_MS, Weakening};

mod feeds;
mod follows;

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
            history: History::fresh(ReplId::from_random(rng.id())),
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
        // A full resync that is under way is given up by the promise.
        let busy = self.loading.then_some("loading");
        let obeyed = self.role.obey(order, busy, now_ms)?;
        if let Some(durable) = &obeyed.persist {
            self.store(durable, disk);
        }
        self.role = obeyed.role;
        for effect in obeyed.effects {
            self.effect(effect, now_ms);
        }
        debug_assert!(matches!(obeyed.answer, Answer::Ok | Answer::Status | Answer::Offset | Answer::Left(_)));
        self.tick(now_ms);
        Ok(())
    }

    fn effect(&mut self, effect: Effect, now_ms: u64) {
        match effect {
            // Writes are whole here.
            Effect::SettleWrites => {}
            Effect::DropLink | Effect::Await => self.fail(&LinkError::Changed, now_ms),
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
            Effect::RetryLink => self.link.retry_now(now_ms),
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
            paused: now_ms < self.role.writes_wait_until(),
            token: now_ms,
            last_save_ok: true,
            save_stops_writes: false,
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
        let limits = FeedLimits {
            timeout_ms: self.settings.timeout_ms,
            hard_bytes: 0,
            soft_bytes: 0,
            soft_ms: 0,
            backlog_bytes: 0,
        };
        for conn in self.feeds.keys().copied().collect::<Vec<_>>() {
            let Some(end) = self.feeds.get_mut(&conn) else { continue };
            let behind = end.reader.and_then(|reader| self.log.behind(reader)).unwrap_or(0);
            let outputs = end.feed.as_mut().map(|feed| feed.tick(Ok(behind), &limits, now_ms)).unwrap_or_default();
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
}
