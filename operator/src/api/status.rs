//! What a person reads: `kubectl get rr`, `kubectl describe`, and the record that the operator keeps there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BootstrapStatus, UpdateStatus};
use crate::record::Record;

/// What the operator observed, and its record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedRedisStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people, derived from the conditions.
    #[serde(default)]
    pub phase: Phase,
    /// Read replicas that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Read replicas whose link is up.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Ready and wanted replicas, as in 2/2.
    #[serde(default)]
    pub replica_summary: String,
    /// Label selector of the replicas, for the scale subresource.
    #[serde(default)]
    pub selector: String,
    /// Instance that has the master role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_master: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_since: Option<Time>,
    /// How far the slowest replica is behind, rounded down to a power of two; 0 below 1 MiB.
    #[serde(default)]
    pub max_lag_bytes: u64,
    /// How far a rolling update is.
    #[serde(default)]
    pub update: UpdateStatus,
    /// Image of the server while spec.image names none: see spec.update.defaultImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_image: Option<String>,
    /// Every instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub instances: Vec<InstanceStatus>,
    /// How far spec.bootstrap is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapStatus>,
    /// Ready, Reconciling, Stalled, MasterAvailable, ReplicationHealthy, FailoverReady, RestartRequired, Paused, ConfigApplied,
    /// CredentialsApplied, StorageResizing, PersistenceHealthy; Monitored where spec.monitoring asks for anything, Bootstrapped
    /// where spec.bootstrap is, Fenced where instances were taken out of service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The password that is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthStatus>,
    /// The failover record: written with a precondition before anything is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// There has been no master yet.
    #[default]
    Pending,
    /// There has been no master yet: an external one is followed, see status.bootstrap.
    Following,
    Ready,
    /// There is a master, but not every replica follows it.
    Degraded,
    FailingOver,
    SwitchingOver,
    /// Pods are being replaced, or wait to be: see status.update.
    Updating,
    /// There is no master and none can be chosen.
    Unavailable,
    /// The spec cannot be used; the condition Stalled says why.
    Failed,
}

/// The password that is in force; neither it nor anything that would help to guess it is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthStatus {
    /// Changes when another password has come into force. Salted with what the Secret NAME-credentials holds.
    pub applied_secret_hash: String,
    /// Until this moment the password before it is valid too; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_valid_until: Option<Time>,
}

/// One instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Its name, which is that of its pod.
    pub name: String,
    /// master, replica, awaiting (no role yet), silent (does not answer) or absent (no running pod).
    pub role: String,
    /// The node of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// up, syncing or down: a replica's link to the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}
