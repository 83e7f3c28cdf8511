//! Where pods run and what they are made of, beyond the server itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvVar, PodSecurityContext, SecurityContext, Toleration, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Where pods may run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// How instances keep apart from each other.
    #[serde(default)]
    pub placement: Placement,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Kubernetes's affinity, in addition to what placement asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How instances spread, in addition to what placement asks for. A constraint without a labelSelector is about the instances
    /// of this object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Name of a PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// How instances keep apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Nodes. Required: no two instances on one node, so one that finds no node of its own waits. Preferred: as far as there are
    /// nodes. None: wherever there is room.
    #[serde(default = "preferred")]
    pub nodes: Apart,
    /// Zones (topology.kubernetes.io/zone). Required: evenly over the zones, or it waits. Preferred: as far as possible. None:
    /// zones do not matter.
    #[serde(default = "preferred")]
    pub zones: Apart,
}

fn preferred() -> Apart {
    Apart::Preferred
}

impl Default for Placement {
    fn default() -> Self {
        Self { nodes: Apart::Preferred, zones: Apart::Preferred }
    }
}

/// How strictly instances keep apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Apart {
    Preferred,
    Required,
    None,
}

/// What pods are made of besides the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.env) || self.env.all(e, !(e.name in ['POD_NAME', 'POD_NAMESPACE']))")
    .message("podTemplate.env: POD_NAME and POD_NAMESPACE are set by the operator"))]
#[x_kube(validation = Rule::new("!has(self.extraContainers) || self.extraContainers.all(c, c.name != 'server')")
    .message("podTemplate.extraContainers: the container 'server' is the operator's"))]
#[x_kube(validation = Rule::new("!has(self.extraVolumes) || self.extraVolumes.all(v, !(v.name in ['data', 'config', 'credentials']))")
    .message("podTemplate.extraVolumes: the volumes data, config and credentials are the operator's"))]
pub struct PodTemplate {
    /// Labels and annotations of the pods, in addition to the operator's.
    #[serde(default)]
    pub metadata: Metadata,
    /// Seconds that a pod has to save its data and to hand its role over before it is killed.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 10, max = 86_400))]
    pub termination_grace_period_seconds: u32,
    /// Kubernetes's security context of the pod, instead of the operator's (which meets the restricted level).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub security_context: Option<PodSecurityContext>,
    /// Kubernetes's security context of the server's container, instead of the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub container_security_context: Option<SecurityContext>,
    /// Environment variables of the server's container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "named_objects")]
    pub env: Vec<EnvVar>,
    /// Containers beside the server, as Kubernetes describes containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "named_objects")]
    pub extra_containers: Vec<Container>,
    /// Volumes for them, as Kubernetes describes volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "named_objects")]
    pub extra_volumes: Vec<Volume>,
    /// Where the server's container has some of these volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub extra_volume_mounts: Vec<VolumeMount>,
}

impl Default for PodTemplate {
    fn default() -> Self {
        Self {
            metadata: Metadata::default(),
            termination_grace_period_seconds: default_grace(),
            security_context: None,
            container_security_context: None,
            env: Vec::new(),
            extra_containers: Vec::new(),
            extra_volumes: Vec::new(),
            extra_volume_mounts: Vec::new(),
        }
    }
}

fn default_grace() -> u32 {
    GRACE_S
}

/// To save a large data set and to wait for replicas, s.
pub const GRACE_S: u32 = 120;

/// Labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.labels) || self.labels.all(key, !key.startsWith('replicated-redis.io/') && !key.startsWith('app.kubernetes.io/'))")
    .message("labels: the prefixes replicated-redis.io/ and app.kubernetes.io/ are the operator's"))]
#[x_kube(validation = Rule::new("!has(self.annotations) || self.annotations.all(key, !key.startsWith('replicated-redis.io/'))")
    .message("annotations: the prefix replicated-redis.io/ is the operator's"))]
pub struct Metadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// How much memory the data may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// maxmemory as a share of resources.limits.memory, in percent; the rest is for buffers of clients and replicas, snapshots
    /// and the process itself. Without that limit, or with maxmemory in config, it has no meaning. 0: no maxmemory.
    #[serde(default = "default_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub maxmemory_percent: u32,
}

fn default_percent() -> u32 {
    75
}

impl Default for Memory {
    fn default() -> Self {
        Self { maxmemory_percent: default_percent() }
    }
}

/// The whole of Kubernetes's schema would make the CRD too large for `kubectl apply`: what stands in such an object is checked
/// when the StatefulSet is applied.
fn free_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

fn named_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "description": "Its name, which no other of them has.", "maxLength": 253}},
            "x-kubernetes-preserve-unknown-fields": true,
        },
    })
}
