//! The revision of a pod: what of the spec it was started with. A pod of another revision than the present one has to be
//! replaced.
//!
//! It is made from the spec alone, and what has its default value counts as absent: so another version of the operator, with
//! another pod template or with new fields, comes to the same revision and restarts nothing. What it changes in the template
//! reaches a pod when that is replaced for a reason of its own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::{PodTemplate, ReplicatedRedis, Scheduling, StorageType};

/// Annotation of a pod and of the template that it is made from: see [`revision`].
pub const REVISION: &str = "replicated-redis.io/revision";
/// Annotation of the object, by which a person asks for a rolling restart: any new value, usually the time.
pub const RESTARTED_AT: &str = "replicated-redis.io/restarted-at";

/// The revision of pods of this spec. `image` is that of the server.
pub fn revision(owner: &ReplicatedRedis, image: &str) -> String {
    let spec = &owner.spec;
    let storage = match spec.storage.kind {
        StorageType::PersistentVolumeClaim => Value::Null,
        StorageType::EmptyDir => json!({"emptyDir": spec.storage.size}),
    };
    let parts = BTreeMap::from([
        ("image", json!(image)),
        ("imagePullPolicy", to_json(&spec.image_pull_policy)),
        ("imagePullSecrets", to_json(&spec.image_pull_secrets)),
        ("resources", to_json(&spec.resources)),
        ("scheduling", given(to_json(&spec.scheduling), &to_json(&Scheduling::default())).unwrap_or_default()),
        ("podTemplate", given(to_json(&spec.pod_template), &to_json(&PodTemplate::default())).unwrap_or_default()),
        ("storage", storage),
        ("restartedAt", to_json(&owner.annotations().get(RESTARTED_AT))),
    ]);
    let mut text = String::new();
    for (name, value) in parts {
        if let Some(value) = given(value, &Value::Null) {
            text.push_str(name);
            canonical(&value, &mut text);
        }
    }
    format!("{:016x}", fnv1a(text.as_bytes()))
}

/// The revision that a pod was made with.
pub fn revision_of(pod: &Pod) -> Option<&str> {
    pod.annotations().get(REVISION).map(String::as_str)
}

fn to_json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("a field of the spec is JSON")
}

/// What of a value is not its default and not empty.
fn given(value: Value, default: &Value) -> Option<Value> {
    if value == *default {
        return None;
    }
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| {
                let value = given(value, default.get(&key).unwrap_or(&Value::Null))?;
                Some((key, value))
            });
            let kept: serde_json::Map<String, Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(list) if list.is_empty() => None,
        value => Some(value),
    }
}

/// The same text for the same value, whatever the order of its keys.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            out.push('{');
            for (key, value) in sorted {
                out.push_str(&format!("{key:?}:"));
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for value in list {
                canonical(value, out);
                out.push(',');
            }
            out.push(']');
        }
        value => out.push_str(&value.to_string()),
    }
}

/// FNV-1a, 64 bits: the same in every version of the operator, which std's hasher does not promise.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ResourceRequirements;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;
    use crate::resources::tests::datastore;

    fn of(change: impl FnOnce(&mut crate::api::ReplicatedRedisSpec)) -> String {
        revision(&datastore(change), "server:1")
    }

    /// If this fails, an upgrade to this operator would restart every database pod there is.
    #[test]
    fn the_revision_of_a_spec_is_the_same_in_every_version_of_the_operator() {
        assert_eq!(of(|_| {}), "1ee8212b101a1d64");
        let busy = of(|spec| {
            let limit = [("memory".to_string(), Quantity("1Gi".into()))].into();
            spec.resources = Some(ResourceRequirements { limits: Some(limit), ..ResourceRequirements::default() });
            spec.scheduling.node_selector.insert("disk".into(), "fast".into());
            spec.storage.kind = StorageType::EmptyDir;
        });
        assert_eq!(busy, "611d7e25ef9b762d");
    }

    #[test]
    fn what_needs_a_restart_changes_it_and_nothing_else_does() {
        let before = of(|_| {});
        for same in [
            of(|spec| spec.replicas = 5),
            of(|spec| spec.durability.write_quorum = 1),
            of(|spec| spec.storage.size = "9Gi".into()),
            of(|spec| drop(spec.config.insert("hz".into(), "20".into()))),
            of(|spec| spec.resources = Some(ResourceRequirements::default())),
        ] {
            assert_eq!(same, before);
        }
        let mut restarted = datastore(|_| {});
        restarted.annotations_mut().insert(RESTARTED_AT.into(), "2026-11-21".into());
        for other in [
            of(|spec| spec.scheduling.priority_class_name = Some("high".into())),
            of(|spec| drop(spec.scheduling.node_selector.insert("disk".into(), "fast".into()))),
            of(|spec| spec.storage.kind = StorageType::EmptyDir),
            revision(&datastore(|_| {}), "server:2"),
            revision(&restarted, "server:1"),
        ] {
            assert_ne!(other, before);
        }
    }

    #[test]
    fn a_field_at_its_default_counts_as_absent_and_order_does_not_matter() {
        let given = |value: Value, default: Value| given(value, &default);
        assert_eq!(given(json!({"new": false, "a": {}}), json!({"new": false})), None);
        assert_eq!(given(json!({"new": true}), json!({"new": false})), Some(json!({"new": true})));
        let text = |value: Value| {
            let mut out = String::new();
            canonical(&value, &mut out);
            out
        };
        assert_eq!(text(json!({"b": [1, "x"], "a": null})), text(json!({"a": null, "b": [1, "x"]})));
        assert_ne!(text(json!({"a": "1"})), text(json!({"a": 1})));
    }
}
