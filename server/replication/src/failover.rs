//! Redis's FAILOVER command: the roles of a master and one of its replicas are swapped without losing a write.
//!
//! ```text
//!            FAILOVER                 the target holds all / FORCE and time-out
//!     None ───────────► WaitForSync ─────────────────────────────────────► InProgress
//!      ▲                     │ ABORT, time-out                                │
//!      │◄────────────────────┘                                                │
//!      │◄── the target answered PSYNC … FAILOVER; refused, or ABORT: master again
//!      └──────────────────────────────────────────────────────────────────────┘
//! ```
//! In both states writes are paused. Semantics and texts are those of Redis 7.0. For unmanaged instances only: the
//! operator's switchover is R10.

use std::fmt;

/// An address as a replica announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT ms]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    pub to: Option<Address>,
    pub force: bool,
    pub abort: bool,
    pub timeout_ms: Option<u64>,
}

/// An attached replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub address: Address,
    pub online: bool,
    pub ack_offset: u64,
}

/// Why a FAILOVER is not begun; `Display` is the wire text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FailoverError {
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR FAILOVER timeout must be greater than 0")]
    Timeout,
    #[error("ERR No failover in progress.")]
    NothingToAbort,
    #[error("ERR FAILOVER already in progress.")]
    InProgress,
    #[error("ERR FAILOVER is not valid when server is a replica.")]
    IsReplica,
    #[error("ERR FAILOVER requires connected replicas.")]
    NoReplicas,
    #[error("ERR FAILOVER with force option requires both a timeout and target HOST and IP.")]
    ForceNeedsMore,
    #[error("ERR FAILOVER target HOST and PORT is not a replica.")]
    NotAReplica,
    #[error("ERR FAILOVER target replica is not online.")]
    NotOnline,
}

/// What the driver does, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Hold writes of clients back, without limit of time.
    PauseWrites,
    ResumeWrites,
    /// Ask the replicas for acknowledgements at once (`REPLCONF GETACK *`).
    AskAcks,
    /// Become a replica of this one, by `PSYNC … FAILOVER`.
    Follow(Address),
    /// Go on as master, with the history as it was.
    BecomeMaster,
    /// For the log.
    Note(String),
}

impl Request {
    /// Reads the arguments behind `FAILOVER`.
    pub fn parse<'a>(args: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, FailoverError> {
        let mut args = args.into_iter();
        let (mut request, mut words) = (Self::default(), 0);
        while let Some(word) = args.next() {
            words += 1;
            match &word.to_ascii_lowercase()[..] {
                b"timeout" if request.timeout_ms.is_none() => {
                    let ms = number(args.next().ok_or(FailoverError::Syntax)?)?;
                    let ms = u64::try_from(ms).ok().filter(|&ms| ms > 0);
                    request.timeout_ms = Some(ms.ok_or(FailoverError::Timeout)?);
                }
                // ABORT stands alone.
                b"abort" if words == 1 && args.next().is_none() => request.abort = true,
                b"to" if request.to.is_none() => {
                    let (Some(host), Some(port)) = (args.next(), args.next()) else {
                        return Err(FailoverError::Syntax);
                    };
                    let host = String::from_utf8_lossy(host).into_owned();
                    // No replica has a port that is none.
                    let port = u16::try_from(number(port)?).map_err(|_| FailoverError::NotAReplica)?;
                    request.to = Some(Address { host, port });
                }
                b"force" if !request.force => request.force = true,
                _ => return Err(FailoverError::Syntax),
            }
        }
        Ok(request)
    }
}

fn number(text: &[u8]) -> Result<i64, FailoverError> {
    resp::number::parse_i64(text).ok_or(FailoverError::NotInteger)
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum State {
    #[default]
    None,
    WaitForSync {
        to: Option<Address>,
        force: bool,
        end_ms: Option<u64>,
    },
    InProgress {
        to: Address,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failover(State);

impl Failover {
    /// INFO's `master_failover_state`.
    pub fn state(&self) -> &'static str {
        match self.0 {
            State::None => "no-failover",
            State::WaitForSync { .. } => "waiting-for-sync",
            State::InProgress { .. } => "failover-in-progress",
        }
    }

    /// While this holds no replica is served (`-NOMASTERLINK Can't SYNC while failing over`).
    pub fn is_active(&self) -> bool {
        self.0 != State::None
    }

    /// The link's PSYNC carries the word FAILOVER.
    pub fn is_in_progress(&self) -> bool {
        matches!(self.0, State::InProgress { .. })
    }

    /// The command; the reply is OK.
    pub fn begin(
        &mut self,
        request: Request,
        is_replica: bool,
        replicas: &[Candidate],
        now_ms: u64,
    ) -> Result<Vec<Effect>, FailoverError> {
        if request.abort {
            return if self.is_active() {
                Ok(self.abort("Failover manually aborted"))
            } else {
                Err(FailoverError::NothingToAbort)
            };
        }
        self.check(&request, is_replica, replicas)?;
        let note = match &request.to {
            Some(to) => format!("FAILOVER requested to {to}."),
            None => "FAILOVER requested.".into(),
        };
        let end_ms = request.timeout_ms.map(|ms| now_ms.saturating_add(ms));
        self.0 = State::WaitForSync { to: request.to, force: request.force, end_ms };
        Ok(vec![Effect::Note(note), Effect::PauseWrites, Effect::AskAcks])
    }

    fn check(&self, request: &Request, is_replica: bool, replicas: &[Candidate]) -> Result<(), FailoverError> {
        if self.is_active() {
            return Err(FailoverError::InProgress);
        }
        if is_replica {
            return Err(FailoverError::IsReplica);
        }
        if replicas.is_empty() {
            return Err(FailoverError::NoReplicas);
        }
        if request.force && (request.to.is_none() || request.timeout_ms.is_none()) {
            return Err(FailoverError::ForceNeedsMore);
        }
        let Some(to) = &request.to else { return Ok(()) };
        let target = replicas.iter().find(|r| r.address == *to).ok_or(FailoverError::NotAReplica)?;
        if target.online { Ok(()) } else { Err(FailoverError::NotOnline) }
    }

    /// Asked often while a failover waits: after each acknowledgement, and by time. `end`: of the log.
    pub fn poll(&mut self, end: u64, replicas: &[Candidate], now_ms: u64) -> Vec<Effect> {
        let State::WaitForSync { to, force, end_ms } = &self.0 else { return Vec::new() };
        let late = end_ms.is_some_and(|end_ms| now_ms >= end_ms);
        let synced = replicas
            .iter()
            .find(|r| to.as_ref().is_none_or(|to| r.address == *to) && r.online && r.ack_offset == end)
            .map(|r| r.address.clone());
        let (to, note) = match (synced, to, late) {
            // Redis looks at the time first: what comes after the deadline is late.
            (_, Some(to), true) if *force => (to.clone(), format!("Failover to {to} time out exceeded, failing over.")),
            (_, _, true) => return self.abort("Replica never caught up before timeout"),
            (Some(to), ..) => {
                let note = format!("Failover target {to} is synced, failing over.");
                (to, note)
            }
            (None, ..) => return vec![Effect::AskAcks],
        };
        self.0 = State::InProgress { to: to.clone() };
        vec![Effect::Note(note), Effect::Follow(to)]
    }

    /// When [`Failover::poll`] is to be asked at the latest.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.0 {
            State::WaitForSync { end_ms, .. } => end_ms,
            State::None | State::InProgress { .. } => None,
        }
    }

    /// The target's answer to `PSYNC … FAILOVER`.
    pub fn on_psync_answer(&mut self, accepted: bool) -> Vec<Effect> {
        match (&self.0, accepted) {
            (State::InProgress { .. }, true) => {
                self.0 = State::None;
                vec![Effect::ResumeWrites]
            }
            (State::InProgress { .. }, false) => self.abort("Failover target rejected psync request"),
            (State::None | State::WaitForSync { .. }, _) => Vec::new(),
        }
    }

    /// Gives up. Nothing was written meanwhile, so that this instance can go on as the master it was.
    pub fn abort(&mut self, reason: &str) -> Vec<Effect> {
        let note = |to: Option<&Address>| match to {
            Some(to) => Effect::Note(format!("Aborting failover to {to}: {reason}")),
            None => Effect::Note(format!("Aborting failover: {reason}")),
        };
        match std::mem::take(&mut self.0) {
            State::None => Vec::new(),
            State::WaitForSync { to, .. } => vec![note(to.as_ref()), Effect::ResumeWrites],
            State::InProgress { to } => vec![note(Some(&to)), Effect::BecomeMaster, Effect::ResumeWrites],
        }
    }
}

/// What the target decides about `PSYNC <id> <offset> FAILOVER`: `Ok` means "become master now, then serve the PSYNC".
/// `Err` is the wire text.
pub fn accept(own_id: &[u8], asked_id: &[u8], is_replica: bool) -> Result<(), &'static str> {
    if !is_replica {
        Err("ERR PSYNC FAILOVER can't be sent to a master.")
    } else if !own_id.eq_ignore_ascii_case(asked_id) {
        Err("ERR PSYNC FAILOVER replid must match my replid.")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, FailoverError> {
        Request::parse(line.split_whitespace().map(str::as_bytes))
    }

    fn address(port: u16) -> Address {
        Address { host: "h".into(), port }
    }

    fn replica(port: u16, online: bool, ack_offset: u64) -> Candidate {
        Candidate { address: address(port), online, ack_offset }
    }

    /// Compared with Redis 7.0.15, which gave these answers.
    #[test]
    fn arguments_are_read_as_redis_reads_them() {
        let to = |port| Some(Address { host: "127.0.0.1".into(), port });
        assert_eq!(parse(""), Ok(Request::default()));
        assert_eq!(
            parse("to 127.0.0.1 7 FORCE timeout 10"),
            Ok(Request { to: to(7), force: true, abort: false, timeout_ms: Some(10) })
        );
        assert_eq!(parse("ABORT"), Ok(Request { abort: true, ..Request::default() }));
        for (line, want) in [
            ("TIMEOUT 0", FailoverError::Timeout),
            ("TIMEOUT -5", FailoverError::Timeout),
            ("TIMEOUT a", FailoverError::NotInteger),
            ("TIMEOUT", FailoverError::Syntax),
            ("FOO", FailoverError::Syntax),
            ("TO 127.0.0.1", FailoverError::Syntax),
            ("TO 127.0.0.1 x", FailoverError::NotInteger),
            ("TO 127.0.0.1 99999", FailoverError::NotAReplica),
            ("TO a 1 TO b 2", FailoverError::Syntax),
            ("TIMEOUT 10 TIMEOUT 10", FailoverError::Syntax),
            ("ABORT TIMEOUT 10", FailoverError::Syntax),
            ("ABORT ABORT", FailoverError::Syntax),
            ("TIMEOUT 10 ABORT", FailoverError::Syntax),
            ("FORCE FORCE", FailoverError::Syntax),
        ] {
            assert_eq!(parse(line), Err(want), "{line}");
        }
    }

    #[test]
    fn a_failover_is_refused_with_redis_s_reasons() {
        let check = |line: &str, is_replica, replicas: &[Candidate], want| {
            let mut failover = Failover::default();
            assert_eq!(failover.begin(parse(line).unwrap(), is_replica, replicas, 0), Err(want), "{line}");
            assert!(!failover.is_active());
        };
        let online = [replica(1, true, 0)];
        check("ABORT", false, &online, FailoverError::NothingToAbort);
        check("", true, &online, FailoverError::IsReplica);
        check("", false, &[], FailoverError::NoReplicas);
        check("FORCE", false, &online, FailoverError::ForceNeedsMore);
        check("TO h 1 FORCE", false, &online, FailoverError::ForceNeedsMore);
        check("TO h 2", false, &online, FailoverError::NotAReplica);
        check("TO h 1", false, &[replica(1, false, 0)], FailoverError::NotOnline);
    }

    fn begun(line: &str, replicas: &[Candidate]) -> Failover {
        let mut failover = Failover::default();
        let effects = failover.begin(parse(line).unwrap(), false, replicas, 1000).unwrap();
        assert_eq!(effects[1..], [Effect::PauseWrites, Effect::AskAcks]);
        assert_eq!(failover.state(), "waiting-for-sync");
        assert_eq!(failover.begin(Request::default(), false, replicas, 1000), Err(FailoverError::InProgress));
        failover
    }

    #[test]
    fn roles_are_swapped_when_a_replica_holds_everything() {
        let mut failover = begun("", &[replica(1, true, 5), replica(2, true, 4)]);
        assert_eq!(failover.poll(10, &[replica(1, true, 9), replica(2, true, 8)], 1001), [Effect::AskAcks]);
        assert_eq!(failover.poll(10, &[replica(1, false, 10)], 1001), [Effect::AskAcks], "it is still syncing");
        let effects = failover.poll(10, &[replica(1, true, 9), replica(2, true, 10)], 1002);
        assert_eq!(effects[1..], [Effect::Follow(address(2))]);
        assert!(failover.is_in_progress());
        assert_eq!(failover.poll(10, &[], 1003), []);
        assert_eq!(failover.on_psync_answer(true), [Effect::ResumeWrites]);
        assert_eq!(failover.state(), "no-failover");
    }

    #[test]
    fn only_the_named_target_will_do() {
        let mut failover = begun("TO h 1", &[replica(1, true, 0)]);
        assert_eq!(failover.poll(10, &[replica(1, true, 9), replica(2, true, 10)], 1001), [Effect::AskAcks]);
        assert_eq!(failover.poll(10, &[replica(1, true, 10)], 1001)[1..], [Effect::Follow(address(1))]);
    }

    #[test]
    fn without_force_a_time_out_ends_it_and_writes_go_on() {
        let mut failover = begun("TIMEOUT 500", &[replica(1, true, 0)]);
        assert_eq!(failover.deadline_ms(), Some(1500));
        assert_eq!(failover.poll(10, &[replica(1, true, 9)], 1499), [Effect::AskAcks]);
        assert_eq!(failover.poll(10, &[replica(1, true, 10)], 1500)[1..], [Effect::ResumeWrites]);
        assert!(!failover.is_active());
    }

    #[test]
    fn with_force_a_time_out_swaps_the_roles_all_the_same() {
        let mut failover = begun("TO h 1 FORCE TIMEOUT 500", &[replica(1, true, 0)]);
        assert_eq!(failover.poll(10, &[replica(1, true, 9)], 1500)[1..], [Effect::Follow(address(1))]);
    }

    #[test]
    fn a_refusal_or_an_abort_makes_it_the_master_that_it_was() {
        let again = [Effect::BecomeMaster, Effect::ResumeWrites];
        for refused in [true, false] {
            let mut failover = begun("", &[replica(1, true, 10)]);
            failover.poll(10, &[replica(1, true, 10)], 1001);
            let effects = if refused {
                failover.on_psync_answer(false)
            } else {
                failover.begin(parse("ABORT").unwrap(), true, &[], 1002).unwrap()
            };
            assert_eq!(effects[1..], again);
            assert!(!failover.is_active());
            assert_eq!(failover.on_psync_answer(true), [], "an answer that comes too late changes nothing");
        }
        let mut failover = begun("", &[replica(1, true, 0)]);
        let effects = failover.begin(parse("ABORT").unwrap(), false, &[], 1002).unwrap();
        assert_eq!(effects[1..], [Effect::ResumeWrites]);
    }

    #[test]
    fn the_target_becomes_master_for_its_own_history_only() {
        assert_eq!(accept(b"ab", b"AB", true), Ok(()));
        assert!(accept(b"ab", b"cd", true).unwrap_err().contains("must match"));
        assert!(accept(b"ab", b"ab", false).unwrap_err().contains("to a master"));
    }
}
