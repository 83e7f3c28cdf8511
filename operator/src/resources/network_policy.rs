//! Who may connect to the instances. What they connect to is not restricted.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{METRICS_PORT, PORT, child, one_label, selector};
use crate::api::{NetworkPolicyMode, ReplicatedRedis};

/// The label that Kubernetes gives every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// NAME, where the spec asks for one. `operator_namespace` is where the operator's pods run.
pub fn network_policy(owner: &ReplicatedRedis, operator_namespace: &str) -> Option<NetworkPolicy> {
    let wanted = &owner.spec.network_policy;
    if wanted.mode == NetworkPolicyMode::Disabled {
        return None;
    }
    let name = owner.name_any();
    // Replicas follow the master, and clients of one instance may be sent to another.
    let instances = NetworkPolicyPeer { pod_selector: Some(selector(&name)), ..NetworkPolicyPeer::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(one_label(NAMESPACE_LABEL, operator_namespace)),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let clients = [instances, operator].into_iter().chain(wanted.client_selectors.clone());
    // A rule without peers lets everybody in.
    let readers = Some(wanted.metrics_selectors.clone()).filter(|peers| !peers.is_empty());
    Some(NetworkPolicy {
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(&name)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![rule(PORT, Some(clients.collect())), rule(METRICS_PORT, readers)]),
            ..NetworkPolicySpec::default()
        }),
        metadata: child(owner, name),
    })
}

fn rule(port: u16, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from,
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(i32::from(port))),
            protocol: Some("TCP".into()),
            ..NetworkPolicyPort::default()
        }]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::tests::datastore;

    fn built(spec: serde_json::Value) -> serde_json::Value {
        let owner = datastore(|own| own.network_policy = serde_json::from_value(spec).unwrap());
        serde_json::to_value(network_policy(&owner, "system").unwrap().spec.unwrap()).unwrap()
    }

    #[test]
    fn none_is_made_unless_it_is_asked_for() {
        assert_eq!(network_policy(&datastore(|_| {}), "system"), None);
    }

    #[test]
    fn instances_the_operator_and_clients_come_in_and_nobody_else() {
        let client = json!({"podSelector": {"matchLabels": {"app": "shop"}}});
        let spec = built(json!({"mode": "Managed", "clientSelectors": [client]}));
        let own = json!({"matchLabels": {"replicated-redis.io/cluster": "x"}});
        assert_eq!((&spec["podSelector"], &spec["policyTypes"]), (&own, &json!(["Ingress"])));
        assert_eq!(spec["egress"], json!(null));
        assert_eq!(
            spec["ingress"][0],
            json!({
                "ports": [{"port": 6379, "protocol": "TCP"}],
                "from": [
                    {"podSelector": own},
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "system"}}},
                    client,
                ],
            })
        );
    }

    #[test]
    fn metrics_are_for_everybody_or_for_those_who_are_named() {
        let port = json!([{"port": 9121, "protocol": "TCP"}]);
        assert_eq!(built(json!({"mode": "Managed"}))["ingress"][1], json!({"ports": port}));
        let reader = json!({"namespaceSelector": {"matchLabels": {"team": "watch"}}});
        let spec = built(json!({"mode": "Managed", "metricsSelectors": [reader]}));
        assert_eq!(spec["ingress"][1], json!({"ports": port, "from": [reader]}));
        assert_eq!(spec["ingress"].as_array().unwrap().len(), 2);
    }
}
