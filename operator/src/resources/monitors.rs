//! Objects of the Prometheus operator: a PodMonitor, and a PrometheusRule with the alerts about one datastore.
//!
//! The alerts are those of the chart, with their selectors narrowed to this datastore.

use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use super::{CLUSTER_LABEL, child, selector};
use crate::api::ReplicatedRedis;

/// The alerts, as in the chart and in manifests/alerts.yaml.
const ALERTS: &str = include_str!("../../../charts/replicated-redis-operator/files/alerts.yaml");
/// The group of alerts that are about a datastore.
const GROUP: &str = "replicated-redis-datastore";

/// The kinds that are made here.
pub fn monitor_kinds() -> [ApiResource; 2] {
    ["PodMonitor", "PrometheusRule"].map(resource)
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind))
}

/// Those that the spec asks for, all named NAME.
pub fn monitors(owner: &ReplicatedRedis) -> Vec<(ApiResource, DynamicObject)> {
    let wanted = &owner.spec.monitoring;
    let mut objects = Vec::new();
    if wanted.pod_monitor.enabled {
        let mut endpoint = json!({"port": "http-metrics", "path": "/metrics"});
        if let Some(interval) = &wanted.pod_monitor.interval {
            endpoint["interval"] = json!(interval);
        }
        let spec = json!({
            "selector": selector(&owner.name_any()),
            // The role is no label of the target: its series would begin anew at every failover.
            "podTargetLabels": [CLUSTER_LABEL],
            "podMetricsEndpoints": [endpoint],
        });
        objects.push(object(owner, "PodMonitor", &wanted.pod_monitor.labels, spec));
    }
    if wanted.prometheus_rule.enabled {
        objects.push(object(
            owner,
            "PrometheusRule",
            &wanted.prometheus_rule.labels,
            json!({"groups": [alerts(owner)]}),
        ));
    }
    objects
}

fn object(
    owner: &ReplicatedRedis,
    kind: &str,
    labels: &std::collections::BTreeMap<String, String>,
    spec: Value,
) -> (ApiResource, DynamicObject) {
    let resource = resource(kind);
    let mut metadata = child(owner, owner.name_any());
    // Ours come last: others' may not take our own from it.
    let own = metadata.labels.take().unwrap_or_default();
    metadata.labels = Some(labels.clone().into_iter().chain(own).collect());
    let mut object = DynamicObject::new(&owner.name_any(), &resource).data(json!({"spec": spec}));
    object.metadata = metadata;
    (resource, object)
}

/// The group of alerts, about this datastore only.
fn alerts(owner: &ReplicatedRedis) -> Value {
    let (namespace, name) = (owner.namespace().unwrap_or_default(), owner.name_any());
    let file: Value = serde_saphyr::from_str(ALERTS).expect("the alerts are YAML, see the test");
    let groups = file["groups"].as_array().cloned().unwrap_or_default();
    let mut group = groups.into_iter().find(|group| group["name"] == GROUP).unwrap_or_default();
    group["name"] = json!(format!("{GROUP}-{name}"));
    for rule in group["rules"].as_array_mut().into_iter().flatten() {
        let expression = rule["expr"].as_str().unwrap_or_default();
        rule["expr"] = json!(narrowed(expression, &namespace, &name));
    }
    group
}

/// Adds matchers to every selector of an expression: the datastore's own labels to the operator's series, those of the target
/// to the servers'.
fn narrowed(expression: &str, namespace: &str, name: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut out = String::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |n| start + n);
        let (before, word) = (&rest[..start], &rest[start..end]);
        out.push_str(before);
        out.push_str(word);
        rest = &rest[end..];
        let label = match word {
            "replicated_redis_io_cluster" => continue,
            _ if word.starts_with("replicatedredis_") => "name",
            _ if word.starts_with("redis_") || word.starts_with("replicated_redis_") => "replicated_redis_io_cluster",
            _ => continue,
        };
        let matchers = format!("namespace=\"{namespace}\",{label}=\"{name}\"");
        match rest.strip_prefix('{') {
            Some(others) => {
                out.push_str(&format!("{{{matchers},"));
                rest = others;
            }
            None => out.push_str(&format!("{{{matchers}}}")),
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::datastore;

    #[test]
    fn nothing_is_made_unless_it_is_asked_for() {
        assert_eq!(monitors(&datastore(|_| {})).len(), 0);
    }

    #[test]
    fn a_pod_monitor_selects_the_instances_and_has_the_labels_that_were_asked_for() {
        let made = monitors(&datastore(|spec| {
            spec.monitoring.pod_monitor.enabled = true;
            spec.monitoring.pod_monitor.interval = Some("15s".into());
            spec.monitoring.pod_monitor.labels = [("release".to_string(), "prometheus".to_string())].into();
        }));
        let (resource, monitor) = &made[0];
        assert_eq!(
            (made.len(), resource.plural.as_str(), resource.api_version.as_str()),
            (1, "podmonitors", "monitoring.coreos.com/v1")
        );
        assert_eq!(monitor.metadata.labels.as_ref().unwrap()["release"], "prometheus");
        assert_eq!(monitor.metadata.owner_references.as_ref().unwrap().len(), 1);
        let spec = &monitor.data["spec"];
        assert_eq!(spec["selector"], json!({"matchLabels": {CLUSTER_LABEL: "x"}}));
        assert_eq!(
            spec["podMetricsEndpoints"],
            json!([{"port": "http-metrics", "path": "/metrics", "interval": "15s"}])
        );
    }

    #[test]
    fn the_alerts_are_about_this_datastore_only() {
        let made = monitors(&datastore(|spec| spec.monitoring.prometheus_rule.enabled = true));
        assert_eq!(made[0].0.plural, "prometheusrules");
        let group = &made[0].1.data["spec"]["groups"][0];
        assert_eq!(group["name"], "replicated-redis-datastore-x");
        let rules = group["rules"].as_array().unwrap();
        assert!(rules.len() > 15, "{}", rules.len());
        for rule in rules {
            let expression = rule["expr"].as_str().unwrap();
            let selectors = expression.matches("namespace=\"ns\"").count();
            let metrics = expression
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .filter(|w| {
                    w.starts_with("redis_") || w.starts_with("replicatedredis_") || w.starts_with("replicated_redis_")
                })
                .filter(|w| *w != "replicated_redis_io_cluster")
                .count();
            assert_eq!(selectors, metrics, "{expression}");
        }
    }

    #[test]
    fn selectors_are_narrowed_by_the_labels_that_their_series_have() {
        for (expression, wanted) in [
            ("replicatedredis_has_master == 0", "replicatedredis_has_master{namespace=\"ns\",name=\"x\"} == 0"),
            (
                "count by (namespace, replicated_redis_io_cluster) (replicated_redis_writable == 1) > 1",
                "count by (namespace, replicated_redis_io_cluster) \
                 (replicated_redis_writable{namespace=\"ns\",replicated_redis_io_cluster=\"x\"} == 1) > 1",
            ),
            (
                "rate(redis_errors_total{err=\"ERR\"}[5m])",
                "rate(redis_errors_total{namespace=\"ns\",replicated_redis_io_cluster=\"x\",err=\"ERR\"}[5m])",
            ),
        ] {
            assert_eq!(narrowed(expression, "ns", "x"), wanted);
        }
    }
}
