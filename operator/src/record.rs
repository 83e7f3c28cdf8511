//! The record of a cluster (FAILOVER, "State"): what every operator agrees on. It is written with a precondition on its
//! version before anything is done about it: two operators at once can only lose time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Never goes down. While `target` is set: the epoch that is being made.
    pub epoch: u64,
    /// The master of `epoch`; while `target` is set, of the epoch before.
    #[serde(default)]
    pub master: Option<Holder>,
    /// Members of the master's epoch, the master included.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Write quorum of the master's epoch.
    #[serde(default)]
    pub quorum: u32,
    /// The operator that leads.
    #[serde(default)]
    pub holder: String,
    /// The cluster has held data: an instance without any is never chosen again (R9).
    #[serde(default)]
    pub initialized: bool,
    /// An election is under way.
    #[serde(default)]
    pub target: Option<Target>,
    /// Why the present or the last election was begun.
    #[serde(default)]
    pub reason: String,
    /// Members and quorum before a change that is not settled yet (R11).
    #[serde(default)]
    pub previous: Option<Previous>,
}

impl Record {
    /// Members whose answers an election asks for: those of the master's epoch and, while a change is not settled, those
    /// before it (R11).
    pub fn voters(&self) -> Vec<&Member> {
        let mut voters: Vec<&Member> = self.members.iter().collect();
        let before = self.previous.iter().flat_map(|p| &p.members);
        voters.extend(before.filter(|m| !self.members.contains(m)));
        voters
    }

    /// A member of the master's epoch.
    pub fn has(&self, name: &str, volume: &str) -> bool {
        self.members.iter().any(|m| m.name == name && m.volume == volume)
    }
}

/// A process of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    pub name: String,
    pub incarnation: String,
}

/// An instance with its volume: one that lost its volume is another member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    pub name: String,
    pub volume: String,
}

/// Who is to become master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Whoever has the highest history.
    Pending {},
    /// Preferred among equals, after the old master has handed over (R10).
    Named { to: String },
    /// The present master goes on with these members and this quorum (R11).
    Members { members: Vec<Member>, quorum: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Previous {
    pub members: Vec<Member>,
    pub quorum: u32,
    /// First epoch of the new configuration: who holds its mark, or a later one, has seen the change.
    #[serde(default)]
    pub until: u64,
}

impl Previous {
    pub fn has(&self, name: &str, volume: &str) -> bool {
        self.members.iter().any(|m| m.name == name && m.volume == volume)
    }
}
