//! The `ReplicatedRedis` resource: what a person writes. The CRD in `manifests/crd.yaml` is generated from these types.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// A replicated Redis-compatible datastore: one master and its replicas.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::duplicated_attributes, reason = "the columns of the printer repeat names on purpose")]
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
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Master", type_ = "string", json_path = ".status.currentMaster"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
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
    pub config: BTreeMap<String, String>,
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

/// What the operator observed, and its record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedRedisStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Ready, Degraded or FailingOver: derived from the conditions, for people.
    #[serde(default)]
    pub phase: String,
    /// Read replicas that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Read replicas whose link is up.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the replicas, for the scale subresource.
    #[serde(default)]
    pub selector: String,
    /// Instance that has the master role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_master: Option<String>,
    /// The failover record: written with a precondition before anything is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

/// Why a manifest cannot be used. `Display` is one sentence that names the file and the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ManifestError {
    pub origin: String,
    pub problem: String,
}

/// Largest number of replicas.
const REPLICAS_MAX: i32 = 63;

/// Reads a manifest strictly: an unknown field, a wrong type or a value out of range is an error.
pub fn parse_manifest(yaml: &str, origin: &str) -> Result<ReplicatedRedis, ManifestError> {
    let fail = |problem: String| ManifestError { origin: origin.into(), problem };
    let given: serde_json::Value =
        serde_saphyr::from_str(yaml).map_err(|e| fail(format!("not a YAML document: {}", one_line(&e.to_string()))))?;
    let text = |path: &str| given.pointer(path).and_then(|v| v.as_str()).unwrap_or_default().to_string();
    if text("/apiVersion") != "replicated-redis.io/v1alpha1" || text("/kind") != "ReplicatedRedis" {
        return Err(fail(format!(
            "apiVersion {:?} and kind {:?} are not those of a ReplicatedRedis; write apiVersion: replicated-redis.io/v1alpha1 and kind: ReplicatedRedis",
            text("/apiVersion"),
            text("/kind")
        )));
    }
    // Each field of the spec is tried by itself, so that the message can name it.
    if let Some(spec) = given.get("spec").and_then(|s| s.as_object()) {
        for (field, value) in spec {
            let alone = serde_json::json!({ field: value });
            if let Err(e) = serde_json::from_value::<ReplicatedRedisSpec>(alone) {
                return Err(fail(format!("spec.{field}: {}", one_line(&e.to_string()))));
            }
        }
    }
    let parsed: ReplicatedRedis = serde_json::from_value(given.clone()).map_err(|e| fail(one_line(&e.to_string())))?;
    let known = serde_json::to_value(&parsed.spec).map_err(|e| fail(e.to_string()))?;
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    let unknown = given
        .get("spec")
        .and_then(|spec| unknown_field(spec, &known, "spec"))
        .or_else(|| given.as_object()?.keys().find(|name| !top.contains(&name.as_str())).cloned());
    if let Some(field) = unknown {
        return Err(fail(format!("unknown field {field}; remove it or correct its name")));
    }
    let name = parsed.metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err(fail("metadata.name is missing; give the datastore a name".into()));
    }
    let valid = name.len() <= 50
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !valid {
        return Err(fail(format!(
            "metadata.name {name:?} is no name for Kubernetes objects; use up to 50 lower-case letters, digits and '-'"
        )));
    }
    if !(0..=REPLICAS_MAX).contains(&parsed.spec.replicas) {
        return Err(fail(format!(
            "spec.replicas is {}; it must be between 0 and {REPLICAS_MAX}",
            parsed.spec.replicas
        )));
    }
    if parsed.spec.durability.write_quorum > parsed.spec.replicas.unsigned_abs() {
        return Err(fail(format!(
            "spec.durability.writeQuorum is {}, more than the {} replicas that there are; no write could ever be answered",
            parsed.spec.durability.write_quorum, parsed.spec.replicas
        )));
    }
    if parsed.spec.failover.down_after_seconds == 0 {
        return Err(fail("spec.failover.downAfterSeconds is 0; it must be at least 1".into()));
    }
    Ok(parsed)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).take(2).collect::<Vec<_>>().join(" ")
}

/// The path of a field that was given but is not known: it did not come back.
fn unknown_field(given: &serde_json::Value, known: &serde_json::Value, path: &str) -> Option<String> {
    given.as_object()?.iter().find_map(|(name, value)| {
        let path = format!("{path}.{name}");
        match known.get(name) {
            None => Some(path),
            Some(known) => unknown_field(value, known, &path),
        }
    })
}

/// The CRD, as YAML.
pub fn crd_yaml() -> Result<String, String> {
    use kube::CustomResourceExt;
    let crd = serde_json::to_value(ReplicatedRedis::crd()).map_err(|e| e.to_string())?;
    let body = serde_saphyr::to_string(&crd).map_err(|e| e.to_string())?;
    Ok(format!("# Generated by `replicated-redis-operator crd`. Do not edit.\n{body}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(spec: &str) -> String {
        format!("apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata:\n  name: x\nspec:\n{spec}")
    }

    fn problem(spec: &str) -> String {
        parse_manifest(&manifest(spec), "m.yaml").unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_has_defaults() {
        let parsed = parse_manifest(&manifest("  config: {hz: \"20\"}\n"), "m.yaml").unwrap();
        assert_eq!((parsed.spec.replicas, parsed.spec.failover.down_after_seconds), (2, 2));
        assert_eq!(parsed.spec.config["hz"], "20");
    }

    #[test]
    fn what_is_wrong_is_said_in_a_sentence_that_names_it() {
        assert!(problem("  replica: 3\n").contains("unknown field spec.replica;"));
        assert!(problem("  failover: {mood: x}\n").contains("unknown field spec.failover.mood"));
        assert!(problem("  replicas: -1\n").contains("spec.replicas is -1; it must be between 0 and 63"));
        assert!(problem("  replicas: many\n").contains("spec.replicas: invalid type"));
        assert!(problem("  durability: {writeQuorum: 3}\n").contains("more than the 2 replicas"));
        assert!(parse_manifest("a: [", "m.yaml").unwrap_err().to_string().starts_with("m.yaml: not a YAML document"));
        assert!(parse_manifest("kind: Pod", "m.yaml").unwrap_err().to_string().contains("kind \"Pod\""));
    }

    #[test]
    fn the_committed_crd_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crd.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let why =
            "manifests/crd.yaml is stale: run `cargo run -p replicated-redis-operator -- crd > manifests/crd.yaml`";
        assert!(committed == crd_yaml().unwrap(), "{why}");
    }

    #[test]
    fn the_quickstart_is_a_good_manifest() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/quickstart.yaml");
        let parsed = parse_manifest(&std::fs::read_to_string(path).unwrap(), path).unwrap();
        assert_eq!(parsed.spec.replicas, 2);
    }
}
