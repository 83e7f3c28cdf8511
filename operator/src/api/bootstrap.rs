//! `spec.bootstrap`: where a new datastore's data comes from, and how far that is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// Where the data of a new datastore comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// A master that this operator does not run. One instance follows it by Redis's own replication, the others follow that
    /// instance; clients can read and not write. A promotion ends it: from then on this is a datastore like every other.
    pub external_master: ExternalMaster,
}

/// A Redis that this operator does not run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalMaster {
    /// Its name or address, as pods reach it.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Its port.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The Secret that holds its password. Without it none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyRef>,
    /// Manual: it is followed until a person says otherwise (kubectl rr promote). WhenSynced: until every instance holds what
    /// it has.
    #[serde(default)]
    pub promote: Promote,
}

fn default_port() -> u16 {
    6379
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Promote {
    #[default]
    Manual,
    WhenSynced,
}

/// How far the data is that comes from elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapStatus {
    /// How far it is.
    pub phase: BootstrapPhase,
    /// The external master, as host:port.
    #[serde(default)]
    pub source: String,
    /// The instance that follows it, or did until it became master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// up, syncing or down: the link of that instance to the external master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// End of what that instance holds of the external master's history.
    #[serde(default)]
    pub offset: u64,
    /// How far that is behind; absent while the external master does not answer the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// What is waited for.
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BootstrapPhase {
    /// There is no link to the external master.
    #[default]
    Connecting,
    /// The whole data set is on its way.
    Syncing,
    /// What happens there happens here.
    Following,
    /// The external master is given up; a first master is elected.
    Promoting,
    /// The datastore has had a master of its own.
    Completed,
}
