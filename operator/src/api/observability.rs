//! `spec.monitoring` and `spec.networkPolicy`: what is made beside the datastore so that it is watched and fenced off.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Objects of the Prometheus operator. Where its CRDs are not installed, the condition Monitored says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// A PodMonitor NAME, by which Prometheus scrapes every instance.
    #[serde(default)]
    pub pod_monitor: PodMonitorTemplate,
    /// A PrometheusRule NAME with the alerts about this datastore.
    #[serde(default)]
    pub prometheus_rule: PrometheusRuleTemplate,
}

impl Monitoring {
    /// Anything at all is asked for.
    pub fn is_on(&self) -> bool {
        self.pod_monitor.enabled || self.prometheus_rule.enabled
    }
}

/// How instances are scraped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorTemplate {
    /// Whether the PodMonitor is made.
    #[serde(default)]
    pub enabled: bool,
    /// Time between two scrapes, as in 30s; without it Prometheus's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"), length(max = 32))]
    pub interval: Option<String>,
    /// Labels of the PodMonitor, by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Which alerts are made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusRuleTemplate {
    /// Whether the PrometheusRule is made. Leave it off where the chart's PrometheusRule covers all datastores.
    #[serde(default)]
    pub enabled: bool,
    /// Labels of the PrometheusRule, by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Who may connect to the instances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicyTemplate {
    /// Managed: a NetworkPolicy NAME lets the instances, the operator's namespace and the clients named here in, and nobody
    /// else. It takes a network plugin that enforces policies.
    #[serde(default)]
    pub mode: NetworkPolicyMode,
    /// Clients that may connect to the server's port, as peers of a NetworkPolicy. None: only instances and the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_selectors: Vec<NetworkPolicyPeer>,
    /// Who may read the metrics port, as peers of a NetworkPolicy. None: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics_selectors: Vec<NetworkPolicyPeer>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkPolicyMode {
    Managed,
    #[default]
    Disabled,
}
