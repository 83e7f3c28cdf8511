//! Reads a manifest strictly.

use super::{ReplicatedRedis, ReplicatedRedisSpec};

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
