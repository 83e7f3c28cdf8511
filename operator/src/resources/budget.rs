//! One PodDisruptionBudget over all pods: a drain takes one at a time, and can always take one.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{child, selector};
use crate::api::ReplicatedRedis;

pub fn disruption_budget(owner: &ReplicatedRedis) -> PodDisruptionBudget {
    let name = owner.name_any();
    PodDisruptionBudget {
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(&name)),
            // A pod that is not ready holds nothing up: it may be the one that has to move to become ready.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        metadata: child(owner, name),
        ..PodDisruptionBudget::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::CLUSTER_LABEL;
    use crate::resources::tests::datastore;

    #[test]
    fn it_covers_both_pools() {
        let spec = disruption_budget(&datastore(|_| {})).spec.unwrap();
        assert_eq!(
            spec.selector.unwrap().match_labels.unwrap().into_iter().collect::<Vec<_>>(),
            [(CLUSTER_LABEL.to_string(), "x".to_string())]
        );
        assert_eq!(spec.max_unavailable, Some(IntOrString::Int(1)));
    }
}
