//! How changes that need a restart reach the pods: what a person writes, and what is told of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far the operator carries out this object. Local mode knows Enabled only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reconciliation {
    /// Everything.
    #[default]
    Enabled,
    /// Nothing is made, changed or deleted, and no pod is replaced: the spec waits. Roles go on as they were: leases, failover,
    /// role labels.
    Paused,
    /// Everything but what would restart a pod: that waits.
    NoRestarts,
}

/// How changes that need a restart (image, resources, scheduling, some directives) reach the pods: one replica after the
/// other, each caught up before the next, then the master after a switchover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Unsupervised: to the end. Supervised: stops before the master, until a person moves the master role or sets the
    /// annotation replicated-redis.io/continue-update: "true".
    #[serde(default)]
    pub strategy: UpdateStrategy,
    /// Seconds that a replaced instance has to catch up. After that, or when it cannot start, the update halts until it has or
    /// the spec is corrected.
    #[serde(default = "default_sync_timeout")]
    #[schemars(range(min = 10, max = 604_800))]
    pub sync_timeout_seconds: u32,
    /// Without spec.image: Keep stays with the image that was the operator's default when this object was made; Follow takes the
    /// new one when another operator is installed, by a rolling update.
    #[serde(default)]
    pub default_image: DefaultImage,
}

fn default_sync_timeout() -> u32 {
    600
}

impl Default for Update {
    fn default() -> Self {
        Self {
            strategy: UpdateStrategy::default(),
            sync_timeout_seconds: default_sync_timeout(),
            default_image: DefaultImage::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateStrategy {
    #[default]
    Unsupervised,
    Supervised,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DefaultImage {
    #[default]
    Keep,
    Follow,
}

/// How far a rolling update is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStatus {
    /// Whether one is under way.
    #[serde(default)]
    pub state: UpdateState,
    /// Revision that all pods are to have: it depends on the spec only, never on the operator's version.
    #[serde(default)]
    pub target_revision: String,
    /// Pods that need no restart.
    #[serde(default)]
    pub updated_pods: i32,
    /// The pod that is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// One word for machines: why it waits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it does or waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateState {
    /// No pod needs a restart.
    #[default]
    Idle,
    Updating,
    /// Waits for a person: before the master, or because of spec.reconciliation.
    Paused,
    /// A replaced pod does not come back; nothing else is touched.
    Halted,
}
