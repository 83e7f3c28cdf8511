//! The `ReplicatedRedis` resource: what a person writes. The CRD in `manifests/crd.yaml` and in the chart is
//! generated from these types by `make manifests`.
//!
//! [`manifest`] reads one strictly, with sentences; the API server does the same by the CRD's schema and rules.

#![expect(unreachable_pub, reason = "KubeSchema repeats the types in a place of its own")]

mod auth;
mod bootstrap;
mod manifest;
mod observability;
mod placement;
mod status;
#[cfg(test)]
mod tests;
mod update;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use auth::Rotation;
pub use bootstrap::{Bootstrap, BootstrapPhase, BootstrapStatus, ExternalMaster, Promote};
pub use manifest::{ManifestError, parse_manifest};
pub use observability::{
    Monitoring, NetworkPolicyMode, NetworkPolicyTemplate, PodMonitorTemplate, PrometheusRuleTemplate,
};
pub use placement::{Apart, GRACE_S, Memory, Metadata, Placement, PodTemplate, Scheduling};
pub use status::{AuthStatus, InstanceStatus, Phase, ReplicatedRedisStatus};
pub use update::{DefaultImage, Reconciliation, Update, UpdateState, UpdateStatus, UpdateStrategy};

/// A replicated Redis-compatible datastore: one master and its replicas.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "replicated-redis.io",
    version = "v1alpha1",
    kind = "ReplicatedRedis",
    plural = "replicatedredises",
    shortname = "rr",
    category = "databases",
    namespaced,
    status = "ReplicatedRedisStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 50")
        .message("metadata.name may have at most 50 characters, because names of pods and Services are made from it"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.record) || !oldSelf.status.record.initialized || (has(self.spec.bootstrap) == has(oldSelf.spec.bootstrap) && (!has(self.spec.bootstrap) || self.spec.bootstrap == oldSelf.spec.bootstrap))")
        .message("spec.bootstrap cannot be changed once the datastore has had a master: it says where the first data came from"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Master", type_ = "string", json_path = ".status.currentMaster"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.replicaSummary"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.maxLagBytes", priority = 1),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.masterSince", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.durability) || !has(self.durability.writeQuorum) || self.durability.writeQuorum <= self.replicas")
    .message("durability.writeQuorum is more than the replicas that there are; no write could ever be answered"))]
pub struct ReplicatedRedisSpec {
    /// Read replicas; the master is not counted. 0 is a master alone.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 63))]
    pub replicas: i32,
    /// When and how the master role moves.
    #[serde(default)]
    pub failover: Failover,
    /// When a write counts as done.
    #[serde(default)]
    pub durability: Durability,
    /// Directives for redis.conf. Those that the operator sets itself (port, dir, requirepass, replicaof, …) are refused.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 200))]
    #[x_kube(validation = Rule::new("self.all(name, !(name in ['aclfile', 'bind', 'daemonize', 'dir', 'include', 'logfile', 'managed', 'masterauth', 'masteruser', 'metrics-port', 'pidfile', 'port', 'protected-mode', 'replica-announce-ip', 'replica-announce-port', 'replicaof', 'requirepass', 'slaveof', 'tls-port', 'unixsocket']))")
        .message("a directive is set by the operator and cannot be given here: it decides addresses, credentials, places and roles"))]
    pub config: BTreeMap<String, String>,
    /// Where the password comes from.
    #[serde(default)]
    pub auth: Auth,
    /// How changes that need a restart reach the pods. Local mode has none.
    #[serde(default)]
    pub update: Update,
    /// How far the operator carries this object out: Enabled, NoRestarts or Paused.
    #[serde(default)]
    pub reconciliation: Reconciliation,
    /// Image of the server; without it the one that the operator was installed with when this object was made (see
    /// update.defaultImage). Local mode has no images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the image is pulled. Kubernetes's default: IfNotPresent, or Always for the tag latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets with the credentials of the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Where the data is kept. Local mode keeps it in its data folder.
    #[serde(default)]
    pub storage: Storage,
    /// CPU and memory of the server's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where pods may run.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// How much memory the data may take.
    #[serde(default)]
    pub memory: Memory,
    /// What pods are made of besides the server.
    #[serde(default)]
    pub pod_template: PodTemplate,
    /// Labels and annotations of every object that belongs to this one, pods included; not of its claims.
    #[serde(default)]
    pub inherited_metadata: Metadata,
    /// The Services that clients use.
    #[serde(default)]
    pub services: Services,
    /// What is made for Prometheus. Every instance has its metrics on the port http-metrics in any case.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// Who may connect to the instances.
    #[serde(default)]
    pub network_policy: NetworkPolicyTemplate,
    /// Where the data of a new datastore comes from; without it, it begins empty. It cannot be changed once there has been a
    /// master. Not in local mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
}

fn default_replicas() -> i32 {
    2
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// Automatic: a lost master is replaced. Manual: a person says when, by a switchover.
    #[serde(default)]
    pub mode: FailoverMode,
    /// Seconds of silence after which a master counts as lost. One whose end is known is replaced at once.
    #[serde(default = "default_down_after")]
    #[schemars(range(min = 1, max = 3600))]
    pub down_after_seconds: u32,
    /// Auto: when NAME-master-0 is back and has caught up, it becomes master again by a planned switchover.
    #[serde(default)]
    pub failback: Failback,
}

fn default_down_after() -> u32 {
    2
}

impl Default for Failover {
    fn default() -> Self {
        Self { mode: FailoverMode::default(), down_after_seconds: default_down_after(), failback: Failback::default() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailoverMode {
    #[default]
    Automatic,
    Manual,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Failback {
    Auto,
    #[default]
    Manual,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Durability {
    /// Replicas that must hold a write before its reply goes out. 0: replies are not held (Redis's own behaviour).
    #[serde(default)]
    #[schemars(range(min = 0, max = 63))]
    pub write_quorum: u32,
}

/// Where the password comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// The Secret that holds the password. Without it the operator makes NAME-auth with a random one under the key password.
    /// Local mode keeps its password in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyRef>,
    /// How a changed password replaces the one before it. Local mode does not change its password.
    #[serde(default)]
    pub rotation: Rotation,
}

/// One key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Key in its data.
    #[serde(default = "default_password_key")]
    pub key: String,
}

fn default_password_key() -> String {
    PASSWORD_KEY.into()
}

/// Key of the password in a Secret.
pub const PASSWORD_KEY: &str = "password";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Where the data is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == oldSelf.type").message("storage.type cannot be changed: make another ReplicatedRedis that follows this one"))]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message("storage.storageClassName cannot be changed"))]
#[x_kube(validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0").message("storage.size may only grow"))]
pub struct Storage {
    /// PersistentVolumeClaim: one claim per instance. EmptyDir: the data lives as long as the pod.
    #[serde(default, rename = "type")]
    pub kind: StorageType,
    /// Size of each claim; with EmptyDir its limit.
    #[serde(default = "default_size")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$"), length(max = 32))]
    pub size: String,
    /// Class of the claims; without it the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// What becomes of claims that are not used any more.
    #[serde(default)]
    pub retention: Retention,
}

fn default_size() -> String {
    "1Gi".into()
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            kind: StorageType::default(),
            size: default_size(),
            storage_class_name: None,
            retention: Retention::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageType {
    #[default]
    PersistentVolumeClaim,
    EmptyDir,
}

/// What becomes of claims that are not used any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// When the ReplicatedRedis is deleted.
    #[serde(default)]
    pub when_deleted: Keep,
    /// When replicas are scaled down.
    #[serde(default = "default_when_scaled")]
    pub when_scaled: Keep,
}

fn default_when_scaled() -> Keep {
    Keep::Retain
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Keep {
    #[default]
    Retain,
    Delete,
}

/// The Services that clients use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    /// NAME-master, which follows the master role.
    #[serde(default)]
    pub master: ServiceTemplate,
    /// NAME-replicas, which spreads over the ready replicas.
    #[serde(default)]
    pub replicas: ServiceTemplate,
}

/// What a Service is given besides its selector and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTemplate {
    /// Kubernetes's type of the Service.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// The CRD, as YAML.
pub fn crd_yaml() -> Result<String, String> {
    use kube::CustomResourceExt;
    let crd = serde_json::to_value(ReplicatedRedis::crd()).map_err(|e| e.to_string())?;
    let body = serde_saphyr::to_string(&crd).map_err(|e| e.to_string())?;
    Ok(format!("# Generated by `replicated-redis-operator crd`. Do not edit.\n{body}"))
}
