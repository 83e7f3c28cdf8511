//! The master's side of one replica's connection.
//!
//! ```text
//!  REPLCONF …                +CONTINUE
//! Announced ──PSYNC/SYNC──┬───────────────────────────────────────────────────────────────► Online
//!                         │ full                begun, body        all sent (by length)        ▲
//!                         └──────► WaitSnapshot ──────────► Sending ───────────────────────────┤
//!                                                              │ all sent (by mark)            │ its first ACK
//!                                                              └───────────► WaitAck ──────────┘
//! ```
//! After a body that ends with a mark nothing may follow until the replica acknowledges: it knows the mark only by
//! standing at the end of what has come.
//!
//! A [`Feed`] decides; the driver writes what [`Output`] says, in order, and tells it what happened.

use resp::Args;

use crate::acks::Ack;
use crate::durable::parse_hex16;
use crate::history::{History, Psync, ReplId};
use crate::role::Role;

/// Redis's bound on an announced address.
const ADDRESS_MAX: usize = 255;
/// So often a replica that waits for its snapshot hears a sign of life.
const NEWLINE_MS: u64 = 1000;

/// What a replica said of itself before it asked to be served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announced {
    pub port: u16,
    pub ip: Option<String>,
    /// It takes a body that ends with a mark.
    pub eof: bool,
    /// It understands `+CONTINUE <id>`.
    pub psync2: bool,
    pub version: Option<String>,
    /// It wants the snapshot and nothing else: `redis-cli --rdb`.
    pub rdb_only: bool,
    /// Epoch that it was told to follow; `None`: it is not managed.
    pub epoch: Option<u64>,
    pub volume: Option<u64>,
}

/// How a REPLCONF is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replconf {
    /// The line behind `+`. To a managed replica it is `OK <end of the log>`: that much it lacks, at most (R5).
    Simple(String),
    /// The line behind `-`.
    Error(String),
    /// ACK and GETACK are not answered.
    Nothing,
}

const NOT_INTEGER: &str = "ERR value is not an integer or out of range";

impl Announced {
    /// A REPLCONF on a connection that is not a feed yet. `args`: behind the name; `end`: of the log.
    pub fn replconf(&mut self, args: Args<'_>, end: u64) -> Replconf {
        if !args.len().is_multiple_of(2) {
            return Replconf::Error("ERR syntax error".into());
        }
        for option in (0..args.len()).step_by(2) {
            match self.option(args.at(option), args.at(option + 1)) {
                Ok(true) => {}
                Ok(false) => return Replconf::Nothing,
                Err(text) => return Replconf::Error(text),
            }
        }
        Replconf::Simple(if self.epoch.is_some() { format!("OK {end}") } else { "OK".into() })
    }

    /// `Ok(false)`: no answer.
    fn option(&mut self, name: &[u8], value: &[u8]) -> Result<bool, String> {
        let integer = || resp::number::parse_i64(value).ok_or_else(|| NOT_INTEGER.to_string());
        let text = || String::from_utf8_lossy(value).into_owned();
        match &name.to_ascii_lowercase()[..] {
            // Redis takes any integer here; a port that is none is as good as an unknown one.
            b"listening-port" => self.port = u16::try_from(integer()?).unwrap_or_default(),
            b"ip-address" if value.len() > ADDRESS_MAX => {
                let n = value.len();
                return Err(format!("ERR REPLCONF ip-address provided by replica instance is too long: {n} bytes"));
            }
            b"ip-address" => self.ip = Some(text()),
            b"capa" => match &value.to_ascii_lowercase()[..] {
                b"eof" => self.eof = true,
                b"psync2" => self.psync2 = true,
                // What it can do and we do not know is not used.
                _ => {}
            },
            b"version" => self.version = Some(text()),
            b"rdb-only" => match integer()? {
                n @ (0 | 1) => self.rdb_only = n == 1,
                _ => return Err("ERR value is out of range, value must between 0 and 1".into()),
            },
            b"rr-epoch" => self.epoch = Some(resp::number::parse_u64(value).ok_or(NOT_INTEGER)?),
            b"rr-volume" => self.volume = Some(parse_hex16(value).ok_or("ERR a volume is sixteen hexadecimal digits")?),
            b"ack" | b"getack" => return Ok(false),
            _ => return Err(format!("ERR Unrecognized REPLCONF option: {}", String::from_utf8_lossy(name))),
        }
        Ok(true)
    }
}

/// What the replica asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Of old replicas, which acknowledge nothing.
    Sync,
    /// `next`: the first byte that it lacks, counted from 1. `failover`: see [`crate::failover::accept`].
    Psync { id: Vec<u8>, next: i64, failover: bool },
}

impl Ask {
    /// `args` with the name. `Err` is the wire text.
    pub fn parse(args: Args<'_>) -> Result<Self, &'static str> {
        if args.get(0).is_some_and(|name| name.eq_ignore_ascii_case(b"sync")) {
            return Ok(Ask::Sync);
        }
        let (Some(id), Some(next)) = (args.get(1), args.get(2)) else {
            return Err("ERR wrong number of arguments for 'psync' command");
        };
        let next = resp::number::parse_i64(next).ok_or(NOT_INTEGER)?;
        let failover = args.get(3).is_some_and(|word| word.eq_ignore_ascii_case(b"failover"));
        Ok(Ask::Psync { id: id.to_vec(), next, failover })
    }
}

/// In which role replicas are served.
#[derive(Debug, Clone, Copy)]
pub enum Serving<'r> {
    Master,
    Replica { link_up: bool },
    Managed { role: &'r Role, link_up: bool },
}

/// Why a replica is not served now; it keeps its data and asks again. `Display` is the wire text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    #[error("LOADING Redis is loading the dataset in memory")]
    Loading,
    #[error("NOMASTERLINK Can't SYNC while failing over")]
    FailingOver,
    #[error("NOMASTERLINK Can't SYNC while not connected with my master")]
    NoMasterLink,
    #[error("NOTMASTER {0}")]
    NotMaster(u64),
}

impl Serving<'_> {
    /// R1: a managed replica is served by the master of exactly the epoch that it was told to follow, and by nobody
    /// else. One that is not managed is served as Redis does it.
    pub fn check(self, announced: &Announced) -> Result<(), NotServed> {
        match (self, announced.epoch) {
            (Serving::Managed { role, link_up }, None) if role.may_follow() => Serving::link(link_up),
            (Serving::Managed { role, .. }, wanted) => {
                role.may_serve(wanted).map_err(|_| NotServed::NotMaster(role.reign().map_or(0, |reign| reign.epoch)))
            }
            (_, Some(_)) => Err(NotServed::NotMaster(0)),
            (Serving::Master, None) => Ok(()),
            (Serving::Replica { link_up }, None) => Serving::link(link_up),
        }
    }

    fn link(up: bool) -> Result<(), NotServed> {
        if up { Ok(()) } else { Err(NotServed::NoMasterLink) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// For the snapshot to begin, and for its body.
    WaitSnapshot,
    Sending,
    /// For the acknowledgement that ends a body with a mark.
    WaitAck,
    Online,
}

impl FeedState {
    /// INFO's `state=`.
    pub fn name(self) -> &'static str {
        match self {
            FeedState::WaitSnapshot => "wait_bgsave",
            FeedState::Sending | FeedState::WaitAck => "send_bulk",
            FeedState::Online => "online",
        }
    }
}

/// How the end of a snapshot's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    /// Random, as a replication id is.
    Mark(ReplId),
}

/// Why a feed ends; `Display` is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Close {
    #[error("time-out (streaming sync)")]
    StreamTimeout,
    #[error("time-out (full sync)")]
    SyncTimeout,
    #[error("closed for overcoming of output buffer limits: {behind} bytes for {ms} ms")]
    SoftLimit { behind: u64, ms: u64 },
    #[error("the snapshot that it asked for is complete")]
    RdbSent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Send(Vec<u8>),
    /// A snapshot is wanted; it may be shared with others. `eof`: its body may end with a mark.
    Snapshot {
        eof: bool,
    },
    /// From now on the log is copied to the connection, from this offset. After a snapshot: where it was cut.
    Stream {
        from: u64,
    },
    Close(Close),
}

/// Settings that may change while a feed lives.
#[derive(Debug, Clone, Copy)]
pub struct FeedLimits {
    /// `repl-timeout`.
    pub timeout_ms: u64,
    /// The soft limit of `client-output-buffer-limit replica`; 0: none. The hard one is the log's.
    pub soft_bytes: u64,
    pub soft_ms: u64,
}

/// One attached replica.
#[derive(Debug, Clone)]
pub struct Feed {
    pub announced: Announced,
    /// Why it needs a full resync, for the log; `None`: a partial one.
    pub full: Option<&'static str>,
    state: FeedState,
    /// Came by SYNC: no `+FULLRESYNC`, no acknowledgements, no time-out.
    old: bool,
    /// Offset of the snapshot, once it has begun.
    cut: Option<u64>,
    body: Option<Body>,
    ack_offset: u64,
    /// When it was last heard of, or anything could be sent to it.
    alive_ms: u64,
    newline_ms: u64,
    /// Since when it is behind by more than the soft limit.
    over_since_ms: Option<u64>,
}

impl Feed {
    /// Serves what `ask` asks for. The caller holds the log from this decision to the attaching of the reader. `has`:
    /// the log can be read from this offset; `end`: its end.
    pub fn open(
        announced: Announced,
        ask: &Ask,
        history: &History,
        end: u64,
        has: impl Fn(u64) -> bool,
        now_ms: u64,
    ) -> (Self, Vec<Output>) {
        let decision = match ask {
            Ask::Sync => Psync::Full("SYNC"),
            Ask::Psync { id, next, .. } => history.psync(id, *next, end, has),
        };
        let mut feed = Self {
            full: None,
            state: FeedState::Online,
            old: *ask == Ask::Sync,
            cut: None,
            body: None,
            ack_offset: 0,
            alive_ms: now_ms,
            newline_ms: now_ms,
            over_since_ms: None,
            announced,
        };
        let outputs = match decision {
            Psync::Continue { from } => {
                feed.ack_offset = from;
                let id = if feed.announced.psync2 { format!(" {}", history.id) } else { String::new() };
                vec![Output::Send(format!("+CONTINUE{id}\r\n").into_bytes()), Output::Stream { from }]
            }
            Psync::Full(reason) => {
                feed.full = Some(reason);
                feed.state = FeedState::WaitSnapshot;
                vec![Output::Snapshot { eof: feed.announced.eof && !feed.old }]
            }
        };
        (feed, outputs)
    }

    pub fn state(&self) -> FeedState {
        self.state
    }

    /// The snapshot was cut at this offset of this history.
    pub fn on_snapshot_begun(&mut self, id: ReplId, offset: u64) -> Vec<Output> {
        self.cut = Some(offset);
        if self.old { vec![] } else { vec![Output::Send(format!("+FULLRESYNC {id} {offset}\r\n").into_bytes())] }
    }

    /// Its body follows. A mark is for those only who asked for a snapshot with `eof`.
    pub fn on_body(&mut self, body: Body, now_ms: u64) -> Vec<Output> {
        self.state = FeedState::Sending;
        self.body = Some(body);
        self.alive_ms = now_ms;
        let head = match body {
            Body::Length(n) => format!("${n}\r\n"),
            Body::Mark(mark) => format!("$EOF:{mark}\r\n"),
        };
        vec![Output::Send(head.into_bytes())]
    }

    /// Some bytes could be written to the replica.
    pub fn on_progress(&mut self, now_ms: u64) {
        self.alive_ms = now_ms;
    }

    /// The whole body was sent.
    pub fn on_body_sent(&mut self, now_ms: u64) -> Vec<Output> {
        self.alive_ms = now_ms;
        let mut outputs = Vec::new();
        if let Some(Body::Mark(mark)) = self.body {
            self.state = FeedState::WaitAck;
            outputs.push(Output::Send(mark.as_str().as_bytes().to_vec()));
        }
        if self.announced.rdb_only {
            outputs.push(Output::Close(Close::RdbSent));
        } else if self.state == FeedState::Sending {
            outputs.extend(self.go_online());
        }
        outputs
    }

    fn go_online(&mut self) -> Option<Output> {
        self.state = FeedState::Online;
        self.cut.map(|from| Output::Stream { from })
    }

    /// A command came from the replica. Only acknowledgements mean something here.
    pub fn on_command(&mut self, args: Args<'_>, now_ms: u64) -> Vec<Output> {
        let word = |at, text: &[u8]| args.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(text));
        match args.get(2).and_then(resp::number::parse_u64) {
            Some(offset) if word(0, b"replconf") && word(1, b"ack") => self.on_ack(offset, now_ms),
            _ => vec![],
        }
    }

    /// It holds everything up to `offset`. That a replica takes nothing back is part of what it acknowledges, so an
    /// older one is a late one.
    pub fn on_ack(&mut self, offset: u64, now_ms: u64) -> Vec<Output> {
        self.alive_ms = now_ms;
        self.ack_offset = self.ack_offset.max(offset);
        match self.state {
            FeedState::WaitAck => self.go_online().into_iter().collect(),
            FeedState::WaitSnapshot | FeedState::Sending | FeedState::Online => vec![],
        }
    }

    /// What counts for WAIT, quorum and min-replicas: of those online only.
    pub fn ack(&self) -> Option<Ack> {
        let ack = Ack { offset: self.ack_offset, at_ms: self.alive_ms, volume: self.announced.volume };
        (self.state == FeedState::Online).then_some(ack)
    }

    /// INFO's `offset=`.
    pub fn ack_offset(&self) -> u64 {
        self.ack_offset
    }

    /// INFO's `lag=`, in seconds.
    pub fn lag_s(&self, now_ms: u64) -> u64 {
        if self.state == FeedState::Online { now_ms.saturating_sub(self.alive_ms) / 1000 } else { 0 }
    }

    /// Asked at least each second. `behind`: bytes of the log that were not sent yet.
    pub fn tick(&mut self, behind: u64, limits: &FeedLimits, now_ms: u64) -> Vec<Output> {
        let silent = now_ms.saturating_sub(self.alive_ms) > limits.timeout_ms;
        match self.state {
            // It waits for us, not we for it.
            FeedState::WaitSnapshot if now_ms.saturating_sub(self.newline_ms) >= NEWLINE_MS => {
                self.newline_ms = now_ms;
                return vec![Output::Send(b"\n".to_vec())];
            }
            FeedState::WaitSnapshot => return vec![],
            FeedState::Sending | FeedState::WaitAck if silent => return vec![Output::Close(Close::SyncTimeout)],
            FeedState::Online if silent && !self.old => return vec![Output::Close(Close::StreamTimeout)],
            FeedState::Sending | FeedState::WaitAck | FeedState::Online => {}
        }
        self.soft_limit(behind, limits, now_ms).map(Output::Close).into_iter().collect()
    }

    fn soft_limit(&mut self, behind: u64, limits: &FeedLimits, now_ms: u64) -> Option<Close> {
        if limits.soft_bytes == 0 || behind <= limits.soft_bytes {
            self.over_since_ms = None;
            return None;
        }
        let ms = now_ms.saturating_sub(*self.over_since_ms.get_or_insert(now_ms));
        (ms > limits.soft_ms).then_some(Close::SoftLimit { behind, ms })
    }
}

#[cfg(test)]
mod tests;
