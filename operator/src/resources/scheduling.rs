//! How instances keep apart: presets, and what the spec adds to them.

use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodAntiAffinity, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use kube::ResourceExt;

use super::selector;
use crate::api::{Apart, ReplicatedRedis};

const NODE: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The affinity of the spec, and that instances keep off each other's nodes. Preferred is the default: a cluster of one node is
/// a cluster too.
pub(super) fn affinity(owner: &ReplicatedRedis) -> Option<Affinity> {
    let scheduling = &owner.spec.scheduling;
    let mut affinity = scheduling.affinity.clone().unwrap_or_default();
    let term = PodAffinityTerm {
        topology_key: NODE.into(),
        label_selector: Some(selector(&owner.name_any())),
        ..PodAffinityTerm::default()
    };
    let apart: &mut PodAntiAffinity = affinity.pod_anti_affinity.get_or_insert_default();
    match scheduling.placement.nodes {
        Apart::Preferred => {
            let preferred = apart.preferred_during_scheduling_ignored_during_execution.get_or_insert_default();
            preferred.push(WeightedPodAffinityTerm { weight: 100, pod_affinity_term: term });
        }
        Apart::Required => {
            apart.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term);
        }
        Apart::None => {}
    }
    affinity.pod_anti_affinity = affinity.pod_anti_affinity.filter(|apart| *apart != PodAntiAffinity::default());
    Some(affinity).filter(|affinity| *affinity != Affinity::default())
}

/// The spread of the spec, and the one over zones.
pub(super) fn spread(owner: &ReplicatedRedis) -> Option<Vec<TopologySpreadConstraint>> {
    let (name, scheduling) = (owner.name_any(), &owner.spec.scheduling);
    let with_selector = |constraint: &TopologySpreadConstraint| TopologySpreadConstraint {
        label_selector: constraint.label_selector.clone().or_else(|| Some(selector(&name))),
        ..constraint.clone()
    };
    let mut constraints: Vec<_> = scheduling.topology_spread_constraints.iter().map(with_selector).collect();
    let otherwise = match scheduling.placement.zones {
        Apart::Preferred => Some("ScheduleAnyway"),
        Apart::Required => Some("DoNotSchedule"),
        Apart::None => None,
    };
    // One of the spec's about zones prevails: Kubernetes takes one for each key and way only.
    let is_given = constraints.iter().any(|constraint| constraint.topology_key == ZONE);
    constraints.extend(otherwise.filter(|_| !is_given).map(|otherwise| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: ZONE.into(),
        when_unsatisfiable: otherwise.into(),
        label_selector: Some(selector(&name)),
        ..TopologySpreadConstraint::default()
    }));
    Some(constraints).filter(|constraints| !constraints.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Placement;
    use crate::resources::CLUSTER_LABEL;
    use crate::resources::tests::datastore;

    fn placed(nodes: Apart, zones: Apart) -> ReplicatedRedis {
        datastore(|spec| spec.scheduling.placement = Placement { nodes, zones })
    }

    #[test]
    fn instances_keep_apart_as_strictly_as_is_wanted() {
        let apart = |owner: &ReplicatedRedis| affinity(owner).and_then(|affinity| affinity.pod_anti_affinity);
        let default = apart(&datastore(|_| {})).unwrap();
        let term = &default.preferred_during_scheduling_ignored_during_execution.unwrap()[0].pod_affinity_term;
        assert_eq!(term.topology_key, NODE);
        assert_eq!(term.label_selector.clone().unwrap().match_labels.unwrap()[CLUSTER_LABEL], "x");
        let required = apart(&placed(Apart::Required, Apart::None)).unwrap();
        assert!(required.preferred_during_scheduling_ignored_during_execution.is_none());
        assert_eq!(required.required_during_scheduling_ignored_during_execution.unwrap().len(), 1);
        assert_eq!(affinity(&placed(Apart::None, Apart::None)), None);
        let when = |zones| spread(&placed(Apart::None, zones)).map(|list| list[0].when_unsatisfiable.clone());
        assert_eq!(when(Apart::Preferred).as_deref(), Some("ScheduleAnyway"));
        assert_eq!(when(Apart::Required).as_deref(), Some("DoNotSchedule"));
        assert_eq!(when(Apart::None), None);
    }

    #[test]
    fn what_the_spec_says_is_there_too() {
        let owner = datastore(|spec| {
            spec.scheduling.affinity = Some(
                serde_json::from_value(serde_json::json!({"podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution":
                        [{"weight": 1, "podAffinityTerm": {"topologyKey": "rack"}}]
                }}))
                .unwrap(),
            );
            spec.scheduling.topology_spread_constraints.push(TopologySpreadConstraint {
                max_skew: 2,
                topology_key: ZONE.into(),
                when_unsatisfiable: "DoNotSchedule".into(),
                ..TopologySpreadConstraint::default()
            });
        });
        let apart = affinity(&owner).unwrap().pod_anti_affinity.unwrap();
        let terms = apart.preferred_during_scheduling_ignored_during_execution.unwrap();
        let keys: Vec<&str> = terms.iter().map(|term| term.pod_affinity_term.topology_key.as_str()).collect();
        assert_eq!(keys, ["rack", NODE]);
        let spread = spread(&owner).unwrap();
        assert_eq!((spread.len(), spread[0].max_skew), (1, 2), "the spec's own about zones prevails");
        assert_eq!(spread[0].label_selector.clone().unwrap().match_labels.unwrap()[CLUSTER_LABEL], "x");
    }
}
