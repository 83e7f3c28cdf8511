//! The replica's side of the connection to its master.
//!
//! ```text
//!  time         connected      pong         all answered     +CONTINUE [id]
//! Waiting ──► Connecting ──► Ping ──► Announce ──► Psync ──┬───────────────────────────────────────► Streaming
//!    ▲                                            ▲  │     │ +FULLRESYNC id offset                      ▲
//!    │                                     SYNC ──┘  │     └──► Head ──$──► Body ──► Loading ───────────┘
//!    │                              (-ERR: no PSYNC) │           ▲             (the fence is asked at +FULLRESYNC
//!    │                                               └─ SYNC ────┘              and again before the data goes)
//!    └───── any error, a time-out, another master: [`Link::fail`] says when to try again
//! ```
//! The bytes stay in the driver's buffer: [`Link::next`] is given what has come and says how many of them are used up
//! by which [`Event`]. The stream itself is not looked at here: the driver parses and runs its records (see
//! [`crate::Record`]), appends them verbatim to the log, and says so by [`Link::on_applied`].
//!
//! Nothing that the master sends makes this panic or grow: a line has a limit, a length is a number, the rest is passed
//! on.

use std::collections::VecDeque;

use crate::history::{History, ReplId};

mod retry;

pub use retry::LinkError;
use retry::Retry;

/// Longest line that a master may answer with.
const LINE_MAX: usize = 64 * 1024;
/// Bytes of a mark that ends a body.
const MARK: usize = 40;
/// A replica acknowledges, or shows that it is busy, so often.
const ACK_MS: u64 = 1000;

/// What the handshake says; taken anew for each connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// `masteruser`, `masterauth`.
    pub user: Option<String>,
    pub password: Option<String>,
    pub port: u16,
    pub announce_ip: Option<String>,
    /// Epoch that it was told to follow and own volume; `None`: not managed, so that any Redis may be the master.
    pub managed: Option<(u64, u64)>,
    /// A coordinated failover is under way: the new master becomes one by our PSYNC.
    pub failover: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting {
        until_ms: u64,
    },
    Connecting,
    Ping,
    /// Answers that are still to come.
    Announce(VecDeque<Step>),
    Psync,
    /// For the `$` line of the body.
    Head(Sync),
    Body(Sync, Rest),
    Loading(Sync),
    Streaming,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Auth,
    /// Old masters do not know all of these: an error is no obstacle.
    Optional,
    Managed,
}

/// A full resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync {
    /// The master's history; `None` after SYNC.
    pub id: Option<ReplId>,
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Length(u64),
    Mark([u8; MARK]),
}

/// What the bytes mean; the count beside it is used up and may be dropped from the buffer, after the event was carried
/// out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More bytes are needed.
    More,
    /// A sign of life, or an answer that changes nothing.
    Nothing,
    Send(Vec<u8>),
    /// The handshake is through: send what [`Link::psync`] makes.
    WantPsync,
    /// A partial resync. `id`: the master's present id, see [`History::renamed`]. The stream follows.
    Continue {
        id: Option<ReplId>,
    },
    /// A full resync. Ask the fence; if it refuses, [`Link::fail`] with [`LinkError::Fenced`].
    FullResync(Sync),
    /// The body begins; its length, if it is known.
    BodyBegins {
        length: Option<u64>,
    },
    /// The bytes that are used up belong to the RDB.
    Body,
    /// The RDB is whole. Ask the fence again, load it, then [`Link::on_loaded`].
    BodyEnds,
    /// The bytes are of the stream; none is used up here.
    Stream,
}

/// What INFO and ROLE say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// ROLE's word: connect, connecting, handshake, sync, connected.
    pub state: &'static str,
    pub up: bool,
    pub syncing: bool,
    /// Since the master was last heard; `None`: not connected.
    pub silent_ms: Option<u64>,
    /// Since the link is down; `None`: it is up.
    pub down_ms: Option<u64>,
    /// Of a full resync: its length, if it is known, and what has come.
    pub sync_total: Option<u64>,
    pub sync_read: u64,
}

#[derive(Debug, Clone)]
pub struct Link {
    state: State,
    identity: Identity,
    retry: Retry,
    /// When the master was last heard, or the present attempt began.
    heard_ms: u64,
    sent_ms: u64,
    down_since_ms: Option<u64>,
    sync_total: Option<u64>,
    sync_read: u64,
    /// What a managed master had when this replica announced itself.
    master_end: Option<u64>,
    /// The history that a managed master has continued, and up to where.
    master_second: Option<(ReplId, u64)>,
}

impl Link {
    /// Will connect at once.
    pub fn new(now_ms: u64) -> Self {
        Self {
            state: State::Waiting { until_ms: now_ms },
            identity: Identity::default(),
            retry: Retry::default(),
            heard_ms: now_ms,
            sent_ms: now_ms,
            down_since_ms: Some(now_ms),
            sync_total: None,
            sync_read: 0,
            master_end: None,
            master_second: None,
        }
    }

    /// True when it is time to connect; the driver then opens a connection and says [`Link::on_connected`] or
    /// [`Link::fail`].
    pub fn poll_connect(&mut self, now_ms: u64) -> bool {
        let due = matches!(self.state, State::Waiting { until_ms } if now_ms >= until_ms);
        if due {
            self.state = State::Connecting;
            self.heard_ms = now_ms;
        }
        due
    }

    /// Tries again now: an operator's order, `ACCEPTMASTER`, another address.
    pub fn retry_now(&mut self, now_ms: u64) {
        if let State::Waiting { until_ms } = &mut self.state {
            *until_ms = now_ms;
        }
    }

    /// The bytes to send first.
    pub fn on_connected(&mut self, identity: Identity, now_ms: u64) -> Vec<u8> {
        self.identity = identity;
        self.state = State::Ping;
        self.heard_ms = now_ms;
        (self.master_end, self.master_second) = (None, None);
        command(&["PING"])
    }

    /// Looks at the bytes that have come and are not used up yet. Called again and again until it says `More` or
    /// `Stream`.
    pub fn next(&mut self, bytes: &[u8], now_ms: u64) -> Result<(usize, Event), LinkError> {
        if let State::Streaming = self.state {
            return Ok((0, Event::Stream));
        }
        if let State::Body(sync, rest) = self.state {
            return Ok(self.body(sync, rest, bytes, now_ms));
        }
        let Some(end) = bytes.iter().take(LINE_MAX).position(|&b| b == b'\n') else {
            let what = || LinkError::Protocol("a line without an end".into());
            return if bytes.len() < LINE_MAX { Ok((0, Event::More)) } else { Err(what()) };
        };
        self.heard_ms = now_ms;
        let line = bytes[..end].trim_ascii_end();
        // An empty line is a sign of life of a master that is busy.
        let event = if line.is_empty() { Event::Nothing } else { self.line(line)? };
        Ok((end + 1, event))
    }

    fn line(&mut self, line: &[u8]) -> Result<Event, LinkError> {
        match &mut self.state {
            State::Ping => self.on_pong(line),
            State::Announce(steps) => {
                let step = steps.pop_front();
                let last = steps.is_empty();
                self.on_announced(step, line)?;
                Ok(if last { Event::WantPsync } else { Event::Nothing })
            }
            State::Psync => self.on_psync_answer(line),
            State::Head(sync) => {
                let sync = *sync;
                self.on_head(sync, line)
            }
            State::Waiting { .. } | State::Connecting | State::Loading(_) => Err(unexpected(line)),
            State::Body(..) | State::Streaming => Ok(Event::Nothing),
        }
    }

    fn on_pong(&mut self, line: &[u8]) -> Result<Event, LinkError> {
        let fine = [&b"+"[..], b"-NOAUTH", b"-NOPERM", b"-ERR operation not permitted"];
        if !fine.iter().any(|start| line.starts_with(start)) {
            return Err(refused(line));
        }
        let (bytes, steps) = self.announce();
        self.state = State::Announce(steps);
        Ok(Event::Send(bytes))
    }

    /// Everything that need not wait for an answer, at once.
    fn announce(&self) -> (Vec<u8>, VecDeque<Step>) {
        let identity = &self.identity;
        let (mut bytes, mut steps) = (Vec::new(), VecDeque::new());
        let mut say = |step, argv: &[&str]| {
            resp::encode_command(&mut bytes, argv);
            steps.push_back(step);
        };
        if let Some(password) = &identity.password {
            match &identity.user {
                Some(user) => say(Step::Auth, &["AUTH", user, password]),
                None => say(Step::Auth, &["AUTH", password]),
            }
        }
        say(Step::Optional, &["REPLCONF", "listening-port", &identity.port.to_string()]);
        if let Some(ip) = &identity.announce_ip {
            say(Step::Optional, &["REPLCONF", "ip-address", ip]);
        }
        say(Step::Optional, &["REPLCONF", "capa", "eof", "capa", "psync2"]);
        if let Some((epoch, volume)) = identity.managed {
            let (epoch, volume) = (epoch.to_string(), format!("{volume:016x}"));
            say(Step::Managed, &["REPLCONF", "rr-epoch", &epoch, "rr-volume", &volume]);
        }
        (bytes, steps)
    }

    fn on_announced(&mut self, step: Option<Step>, line: &[u8]) -> Result<(), LinkError> {
        let fine = line.starts_with(b"+");
        match step {
            Some(Step::Auth) if !fine => Err(LinkError::Auth(text(line))),
            // R1: who knows no epochs is not master of ours.
            Some(Step::Managed) if line.starts_with(b"-ERR") => Err(LinkError::NotMaster(0)),
            Some(Step::Managed) if !fine => Err(refused(line)),
            Some(Step::Managed) => {
                let mut known = line.split(|&b| b == b' ').skip(1);
                self.master_end = known.next().and_then(resp::number::parse_u64);
                let second = known.next().and_then(ReplId::parse);
                self.master_second = second.zip(known.next().and_then(resp::number::parse_u64));
                Ok(())
            }
            Some(Step::Auth | Step::Optional) | None => Ok(()),
        }
    }

    /// Asks for what comes after `end`, the end of the own log.
    pub fn psync(&mut self, history: &History, end: u64) -> Vec<u8> {
        self.state = State::Psync;
        match history.request(end) {
            // The one that is to take over knows our present history.
            _ if self.identity.failover => command(&["PSYNC", history.id.as_str(), &(end + 1).to_string(), "FAILOVER"]),
            Some((id, next)) => command(&["PSYNC", id.as_str(), &next.to_string()]),
            None => command(&["PSYNC", "?", "-1"]),
        }
    }

    fn on_psync_answer(&mut self, line: &[u8]) -> Result<Event, LinkError> {
        let mut words = line.split(|&b| b == b' ').filter(|word| !word.is_empty());
        match words.next() {
            Some(b"+CONTINUE") => {
                self.streaming();
                Ok(Event::Continue { id: words.next().and_then(ReplId::parse) })
            }
            Some(b"+FULLRESYNC") => {
                let id = words.next().and_then(ReplId::parse);
                let offset = words.next().and_then(resp::number::parse_u64);
                let (Some(id), Some(offset)) = (id, offset) else { return Err(unexpected(line)) };
                Ok(self.full(Sync { id: Some(id), offset }))
            }
            // Redis: a master that does not know PSYNC, or is in error; the second is found out by SYNC's answer. After a
            // FAILOVER it has refused that, and SYNC would make us what we must not become.
            Some(b"-ERR") if self.identity.managed.is_none() && !self.identity.failover => {
                self.state = State::Head(Sync { id: None, offset: 0 });
                Ok(Event::Send(command(&["SYNC"])))
            }
            Some(word) if word.starts_with(b"-") => Err(refused(line)),
            _ => Err(unexpected(line)),
        }
    }

    fn full(&mut self, sync: Sync) -> Event {
        self.state = State::Head(sync);
        self.sync_total = None;
        self.sync_read = 0;
        Event::FullResync(sync)
    }

    fn on_head(&mut self, sync: Sync, line: &[u8]) -> Result<Event, LinkError> {
        if line.starts_with(b"-") {
            return Err(refused(line));
        }
        let size = line.strip_prefix(b"$").ok_or_else(|| unexpected(line))?;
        let rest = match size.strip_prefix(b"EOF:") {
            Some(mark) => Rest::Mark(mark.try_into().map_err(|_| unexpected(line))?),
            None => Rest::Length(resp::number::parse_u64(size).ok_or_else(|| unexpected(line))?),
        };
        self.sync_total = match rest {
            Rest::Length(length) => Some(length),
            Rest::Mark(_) => None,
        };
        self.sync_read = 0;
        self.state = State::Body(sync, rest);
        Ok(Event::BodyBegins { length: self.sync_total })
    }

    fn body(&mut self, sync: Sync, rest: Rest, bytes: &[u8], now_ms: u64) -> (usize, Event) {
        let used = match rest {
            Rest::Length(0) => {
                self.state = State::Loading(sync);
                return (0, Event::BodyEnds);
            }
            Rest::Length(left) => bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
            Rest::Mark(mark) if bytes == mark => {
                self.state = State::Loading(sync);
                return (MARK, Event::BodyEnds);
            }
            // The mark stands at the end of what has come, whole or in part: so much stays until it is certain.
            Rest::Mark(mark) if bytes.ends_with(&mark) => bytes.len() - MARK,
            Rest::Mark(_) => bytes.len().saturating_sub(MARK - 1),
        };
        if used == 0 {
            return (0, Event::More);
        }
        if let Rest::Length(left) = rest {
            self.state = State::Body(sync, Rest::Length(left - used as u64));
        }
        self.heard_ms = now_ms;
        self.sync_read += used as u64;
        (used, Event::Body)
    }

    /// The RDB is the data set now. Returns the acknowledgement that is due, if one is: `applied` is the log's end.
    pub fn on_loaded(&mut self, applied: u64, now_ms: u64) -> Vec<u8> {
        let acknowledges = matches!(self.state, State::Loading(Sync { id: Some(_), .. }));
        self.streaming();
        self.heard_ms = now_ms;
        if acknowledges { self.ack(applied, now_ms) } else { Vec::new() }
    }

    fn streaming(&mut self) {
        self.state = State::Streaming;
        self.down_since_ms = None;
        self.retry.on_success();
    }

    /// Bytes came in the stream.
    pub fn on_read(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// Records up to `applied` are run and appended. `wants_ack`: one of them asked for an acknowledgement, see
    /// [`crate::Record::wants_ack`]. A managed replica asks its role first ([`crate::Role::acknowledge`]).
    pub fn on_applied(&mut self, applied: u64, wants_ack: bool, now_ms: u64) -> Option<Vec<u8>> {
        let due = wants_ack || now_ms.saturating_sub(self.sent_ms) >= ACK_MS;
        (due && self.state == State::Streaming).then(|| self.ack(applied, now_ms))
    }

    fn ack(&mut self, applied: u64, now_ms: u64) -> Vec<u8> {
        self.sent_ms = now_ms;
        command(&["REPLCONF", "ACK", &applied.to_string()])
    }

    /// Asked at least each second: what to send, or that the master has been silent for too long.
    pub fn tick(&mut self, applied: u64, timeout_ms: u64, now_ms: u64) -> Result<Option<Vec<u8>>, LinkError> {
        let connected = !matches!(self.state, State::Waiting { .. });
        // While it loads it does not listen.
        if connected && !matches!(self.state, State::Loading(_)) && now_ms.saturating_sub(self.heard_ms) > timeout_ms {
            return Err(LinkError::Timeout);
        }
        let due = now_ms.saturating_sub(self.sent_ms) >= ACK_MS;
        Ok(match self.state {
            State::Streaming if due => Some(self.ack(applied, now_ms)),
            // The master's time-out is to know that this replica is busy, not gone.
            State::Loading(_) | State::Body(..) if due => {
                self.sent_ms = now_ms;
                Some(b"\n".to_vec())
            }
            _ => None,
        })
    }

    /// The attempt is over. `jitter`: random, so that replicas that lost their master together do not come back
    /// together. Returns the pause until the next attempt.
    pub fn fail(&mut self, error: &LinkError, jitter: u16, now_ms: u64) -> u64 {
        let pause_ms = self.retry.pause_ms(error, jitter);
        self.state = State::Waiting { until_ms: now_ms + pause_ms };
        self.down_since_ms.get_or_insert(now_ms);
        pause_ms
    }

    /// What the master had when this replica announced itself, if it said so: see [`crate::Role::on_attached`].
    pub fn master_end(&self) -> Option<u64> {
        self.master_end
    }

    /// The history that a managed master has continued, and up to where: what we have of it behind that place it lacks (R8).
    pub fn master_second(&self) -> Option<(ReplId, u64)> {
        self.master_second
    }

    /// The full resync that is under way.
    pub fn sync(&self) -> Option<Sync> {
        match self.state {
            State::Head(sync) | State::Body(sync, _) | State::Loading(sync) => Some(sync),
            _ => None,
        }
    }

    pub fn is_streaming(&self) -> bool {
        self.state == State::Streaming
    }

    /// A full resync is under way: the data here may be about to go.
    pub fn is_syncing(&self) -> bool {
        self.sync().is_some()
    }

    pub fn info(&self, now_ms: u64) -> LinkInfo {
        let (state, connected) = match self.state {
            State::Waiting { .. } => ("connect", false),
            State::Connecting => ("connecting", false),
            State::Ping | State::Announce(_) | State::Psync => ("handshake", true),
            State::Head(_) | State::Body(..) | State::Loading(_) => ("sync", true),
            State::Streaming => ("connected", true),
        };
        LinkInfo {
            state,
            up: self.is_streaming(),
            syncing: self.is_syncing(),
            silent_ms: connected.then(|| now_ms.saturating_sub(self.heard_ms)),
            down_ms: self.down_since_ms.map(|since| now_ms.saturating_sub(since)),
            sync_total: self.sync_total,
            sync_read: self.sync_read,
        }
    }
}

fn command(argv: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    resp::encode_command(&mut bytes, argv);
    bytes
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}

fn unexpected(line: &[u8]) -> LinkError {
    LinkError::Protocol(text(line))
}

/// An error line: is it worth while to ask again soon?
fn refused(line: &[u8]) -> LinkError {
    let mut words = line.split(|&b| b == b' ');
    match words.next() {
        Some(b"-NOTMASTER") => LinkError::NotMaster(words.next().and_then(resp::number::parse_u64).unwrap_or_default()),
        Some(b"-NOAUTH" | b"-WRONGPASS" | b"-NOPERM") => LinkError::Auth(text(line)),
        Some(b"-LOADING" | b"-NOMASTERLINK" | b"-MASTERDOWN" | b"-BUSY") => LinkError::Later(text(line)),
        _ => LinkError::Refused(text(line)),
    }
}

#[cfg(test)]
mod tests;
