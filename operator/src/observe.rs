//! What is seen of a cluster at one moment: plain values, whoever collected them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::record::Record;

/// A `REPLICATED STATUS` reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub incarnation: String,
    /// When its process started, Unix ms of its own machine.
    pub started_unix_ms: u64,
    pub volume: String,
    pub promised: u64,
    pub role: Role,
    pub role_epoch: u64,
    pub history_epoch: u64,
    pub offset: u64,
    pub complete: bool,
    pub has_data: bool,
    pub loading: bool,
    pub syncing: bool,
    pub writable: bool,
    pub lease_left_ms: u64,
    pub grant_left_ms: u64,
    pub master_port: u16,
    pub master_host: String,
    pub link_up: bool,
    pub caught_up: bool,
    pub sync_refused: String,
    pub paused: bool,
    pub token: u64,
    /// False while its last attempt to save the data has failed.
    pub last_save_ok: bool,
    /// As master it takes no writes because of that (`stop-writes-on-bgsave-error`).
    pub save_stops_writes: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Awaiting,
    Master,
    Replica,
}

impl Status {
    /// Reads the reply's fields. `Err` names the field that is missing or is not what it should be.
    pub fn from_fields<'f>(get: impl Fn(&str) -> Option<&'f str>) -> Result<Self, String> {
        let text = |name: &str| get(name).ok_or_else(|| format!("REPLICATED STATUS lacks {name}"));
        let number =
            |name: &str| text(name)?.parse::<u64>().map_err(|_| format!("REPLICATED STATUS: {name} is no number"));
        let flag = |name: &str| Ok::<_, String>(text(name)? == "1");
        Ok(Self {
            incarnation: text("incarnation")?.into(),
            started_unix_ms: number("started_unix_ms")?,
            volume: text("volume")?.into(),
            promised: number("promised")?,
            role: match text("role")? {
                "master" => Role::Master,
                "replica" => Role::Replica,
                _ => Role::Awaiting,
            },
            role_epoch: number("role_epoch")?,
            history_epoch: number("history_epoch")?,
            offset: number("offset")?,
            complete: flag("complete")?,
            has_data: flag("has_data")?,
            loading: flag("loading")?,
            syncing: flag("syncing")?,
            writable: flag("writable")?,
            lease_left_ms: number("lease_left_ms")?,
            grant_left_ms: number("grant_left_ms")?,
            master_port: u16::try_from(number("master_port")?).unwrap_or(0),
            master_host: text("master_host")?.into(),
            link_up: text("link")? == "up",
            caught_up: flag("caught_up")?,
            sync_refused: text("sync_refused")?.into(),
            paused: flag("paused")?,
            token: number("token")?,
            // Servers before it said nothing of it.
            last_save_ok: get("last_save_ok") != Some("0"),
            save_stops_writes: get("save_stops_writes") == Some("1"),
        })
    }
}

/// One instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// A process (or a container) is running now.
    pub running: bool,
    /// It has been told to end, and will: no role is given to it any more.
    pub leaving: bool,
    pub host: String,
    pub port: u16,
    /// The last answer of the process that is running now.
    pub status: Option<Status>,
    /// When the question was sent that `status` answers, ms of the operator's clock.
    pub status_ms: u64,
    /// When that answer came: what it says of the time that is left is counted from here, for it was true no later.
    pub answered_ms: u64,
    /// Since when it does not answer, if it does not.
    pub silent_since_ms: Option<u64>,
    /// It is silent because its node says that nobody listens there. That proves no end, but it is no lost packet either.
    pub refuses: bool,
}

/// Everything that a plan is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Wanted instances, the preferred master first.
    pub wanted: Vec<String>,
    pub quorum: u32,
    pub automatic: bool,
    pub failback: bool,
    pub down_after_ms: u64,
    pub lease_ms: u64,
    /// This operator's own name, and when it wrote it into the record.
    pub me: String,
    pub holder_since_ms: Option<u64>,
    /// When this operator last granted a lease to anybody.
    pub last_grant_ms: Option<u64>,
    /// Token of the request that the last lease answered.
    pub last_token: u64,
    pub record: Option<Record>,
    pub instances: BTreeMap<String, Instance>,
    /// Incarnations that are known to have ended (R5).
    pub ended: BTreeSet<String>,
    /// Since when another process answers in the place of the record's master, whose end is not known.
    pub replaced_since_ms: Option<u64>,
    /// A person asked for a switchover, to this instance or to the best one.
    pub switchover: Option<Option<String>>,
    /// When the present election began, as this operator knows it.
    pub election_since_ms: Option<u64>,
    pub allow_data_loss: bool,
    /// A master that is none of ours, which is followed until there has been one of its own.
    pub external: Option<External>,
    /// Instances that a person has taken out of service: they are given no role, and give theirs up.
    pub fenced: BTreeSet<String>,
}

/// `bootstrap.externalMaster`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct External {
    pub host: String,
    pub port: u16,
    pub password: Option<Password>,
    /// The password has been read, or none is needed.
    pub ready: bool,
    /// The end of its history when it was last asked, if it answers this operator.
    pub offset: Option<u64>,
    pub promotion: Promotion,
}

/// When a datastore that follows an external master gets one of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Promotion {
    /// When a person says so.
    #[default]
    Later,
    /// As soon as every instance holds what the external master has.
    WhenSynced,
    /// A person said so: as soon as the one that follows holds what the external master has.
    Asked,
    /// A person said so, whether or not the external master is there.
    Now,
}

/// Not for logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a password)")
    }
}

impl Observed {
    /// There has been no master yet: an external one is followed.
    pub fn external_is_followed(&self) -> bool {
        self.external.is_some() && self.record.as_ref().is_none_or(|r| !r.initialized)
    }

    /// The status of an instance if it is running and answers.
    pub fn answering(&self, name: &str) -> Option<&Status> {
        let instance = self.instances.get(name)?;
        instance.status.as_ref().filter(|_| instance.running && instance.silent_since_ms.is_none())
    }
}
