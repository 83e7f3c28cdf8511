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
use crate::history::{History, Psync, ReplId};
use crate::log::CutOff;

mod announce;

pub use announce::{Announced, Ask, NotServed, Replconf, Serving};

/// So often a replica that waits for its snapshot hears a sign of life.
const NEWLINE_MS: u64 = 1000;

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
    #[error("closed for overcoming of output buffer limits: {0}")]
    HardLimit(#[from] CutOff),
    #[error("closed for overcoming of output buffer limits: {0} bytes of changed keys are kept for its snapshot")]
    SnapshotLimit(u64),
    #[error("its snapshot was given up")]
    NoSnapshot,
    #[error("the snapshot that it asked for is complete")]
    RdbSent,
}

impl Close {
    /// What was sent before is to arrive.
    pub fn is_orderly(self) -> bool {
        self == Close::RdbSent
    }

    pub fn is_over_limit(self) -> bool {
        matches!(self, Close::SoftLimit { .. } | Close::HardLimit(_) | Close::SnapshotLimit(_))
    }
}

/// Which snapshot a replica wants; those who want the same may share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its body may end with a mark.
    pub eof: bool,
    /// With the keys.
    pub data: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Send(Vec<u8>),
    /// A snapshot is wanted, see [`crate::Snapshots`].
    Snapshot(Wanted),
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
    /// The limits of `client-output-buffer-limit replica`; 0: none. In the stream the log keeps the hard one.
    pub hard_bytes: u64,
    pub soft_bytes: u64,
    pub soft_ms: u64,
    /// `repl-backlog-size`: what the log keeps anyway counts for no limit.
    pub backlog_bytes: u64,
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
                vec![Output::Snapshot(Wanted { eof: feed.announced.eof && !feed.old, data: !feed.announced.no_data })]
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

    /// There will be no snapshot, or not all of it.
    pub fn on_no_snapshot(&mut self) -> Vec<Output> {
        vec![Output::Close(Close::NoSnapshot)]
    }

    /// The snapshot is open, and writers keep so much for it that the replica has not taken yet.
    pub fn on_held_up(&mut self, kept_bytes: u64, limits: &FeedLimits) -> Option<Close> {
        (limits.hard_bytes > 0 && kept_bytes > limits.hard_bytes).then_some(Close::SnapshotLimit(kept_bytes))
    }

    fn go_online(&mut self) -> Option<Output> {
        self.state = FeedState::Online;
        self.cut.map(|from| Output::Stream { from })
    }

    /// A command came from the replica, or an empty line, by which one that loads its snapshot shows that it is there.
    /// Besides that only acknowledgements mean something here.
    pub fn on_command(&mut self, args: Args<'_>, now_ms: u64) -> Vec<Output> {
        if args.is_empty() {
            self.alive_ms = now_ms;
        }
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

    /// Epoch in which it follows, and its volume, if it is managed: what its acknowledgements grant a lease for (R3).
    pub fn member(&self) -> Option<(u64, u64)> {
        self.announced.epoch.zip(self.announced.volume)
    }

    /// INFO's `offset=`.
    pub fn ack_offset(&self) -> u64 {
        self.ack_offset
    }

    /// INFO's `lag=`, in seconds.
    pub fn lag_s(&self, now_ms: u64) -> u64 {
        if self.state == FeedState::Online { now_ms.saturating_sub(self.alive_ms) / 1000 } else { 0 }
    }

    /// Asked at least each second. `behind`: bytes of the log that were not sent yet; too many are [`CutOff`].
    pub fn tick(&mut self, behind: Result<u64, CutOff>, limits: &FeedLimits, now_ms: u64) -> Vec<Output> {
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
        let over = match behind {
            Ok(behind) => self.soft_limit(behind, limits, now_ms),
            Err(cut_off) => Some(cut_off.into()),
        };
        over.map(Output::Close).into_iter().collect()
    }

    fn soft_limit(&mut self, behind: u64, limits: &FeedLimits, now_ms: u64) -> Option<Close> {
        if limits.soft_bytes == 0 || behind <= limits.soft_bytes.max(limits.backlog_bytes) {
            self.over_since_ms = None;
            return None;
        }
        let ms = now_ms.saturating_sub(*self.over_since_ms.get_or_insert(now_ms));
        (ms > limits.soft_ms).then_some(Close::SoftLimit { behind, ms })
    }
}

#[cfg(test)]
mod tests;
