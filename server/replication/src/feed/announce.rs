//! What a replica says before it is served, and whether it is: REPLCONF, PSYNC, SYNC.

use resp::Args;

use crate::durable::parse_hex16;
use crate::history::History;
use crate::role::Role;

/// Redis's bound on an announced address.
const ADDRESS_MAX: usize = 255;
pub(super) const NOT_INTEGER: &str = "ERR value is not an integer or out of range";

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
    /// It wants no keys in it: `redis-cli --functions-rdb`.
    pub no_data: bool,
    /// Epoch that it was told to follow; `None`: it is not managed.
    pub epoch: Option<u64>,
    pub volume: Option<u64>,
}

/// How a REPLCONF is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replconf {
    /// The line behind `+`. To a managed replica that announces itself it is `OK <end> <second id> <its end>`: that much
    /// it lacks, at most (R5), and up to there the master has continued what was before (R8).
    Simple(String),
    /// The line behind `-`.
    Error(String),
    /// ACK and GETACK are not answered.
    Nothing,
}

impl Announced {
    /// A REPLCONF on a connection that is not a feed yet. `args`: behind the name; `end`: of the log.
    pub fn replconf(&mut self, args: Args<'_>, history: &History, end: u64) -> Replconf {
        if !args.len().is_multiple_of(2) {
            return Replconf::Error("ERR syntax error".into());
        }
        let managed = (0..args.len()).step_by(2).any(|option| args.at(option).eq_ignore_ascii_case(b"rr-epoch"));
        for option in (0..args.len()).step_by(2) {
            match self.option(args.at(option), args.at(option + 1)) {
                Ok(true) => {}
                Ok(false) => return Replconf::Nothing,
                Err(text) => return Replconf::Error(text),
            }
        }
        let shared = history.second_offset.unwrap_or(0);
        Replconf::Simple(if managed { format!("OK {end} {} {shared}", history.second) } else { "OK".into() })
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
            b"rdb-filter-only" => match &value.to_ascii_lowercase()[..] {
                b"" => self.no_data = false,
                b"functions" => self.no_data = true,
                _ => return Err(format!("ERR Unsupported rdb-filter-only option: {}", text())),
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

    /// A partial resync is asked for: if it becomes a full one, it was refused.
    pub fn is_partial(&self) -> bool {
        matches!(self, Ask::Psync { id, .. } if !id.starts_with(b"?"))
    }
}

/// In which role replicas are served.
#[derive(Debug, Clone, Copy)]
pub enum Serving<'r> {
    Loading,
    /// A FAILOVER is under way: the log ends where it is.
    FailingOver,
    Master,
    Replica {
        link_up: bool,
    },
    Managed {
        role: &'r Role,
        link_up: bool,
    },
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
            (Serving::Loading, _) => Err(NotServed::Loading),
            (Serving::FailingOver, _) => Err(NotServed::FailingOver),
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
