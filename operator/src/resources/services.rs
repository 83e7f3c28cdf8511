//! The three Services.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{CLUSTER_LABEL, METRICS_PORT, PORT, ROLE_LABEL, child, one_label};
use crate::api::{ReplicatedRedis, ServiceTemplate, ServiceType};

/// Set by the StatefulSet controller on every pod.
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";

/// NAME-master: the pod of `instance`, whichever has the master role; `None`: no pod yet.
///
/// It is selected by its name and not by its role label, and also while it is not ready: so the role moves by *one* write of
/// the Service. With labels an endpoint goes first and another comes later, and kube-proxy, which by default applies
/// changes once a second, would keep clients waiting for that second. Who is master is not a question of readiness.
pub fn master(owner: &ReplicatedRedis, instance: Option<&str>) -> Service {
    let mut service = by_role(owner, "master", "master", &owner.spec.services.master);
    if let Some(spec) = service.spec.as_mut() {
        spec.publish_not_ready_addresses = Some(true);
        if let Some(instance) = instance {
            let name = owner.name_any();
            let labels = [(CLUSTER_LABEL, name.as_str()), (POD_NAME_LABEL, instance)];
            spec.selector = Some(labels.map(|(k, v)| (k.to_string(), v.to_string())).into());
        }
    }
    service
}

/// The instance that a NAME-master in the cluster leads to.
pub fn leads_to(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.selector.as_ref()?.get(POD_NAME_LABEL).map(String::as_str)
}

/// NAME-replicas: the ready pods that carry the replica role.
pub fn replicas(owner: &ReplicatedRedis) -> Service {
    by_role(owner, "replicas", "replica", &owner.spec.services.replicas)
}

/// NAME-headless: a DNS name for every pod from its first moment on, because instances must find each other before they
/// are ready.
pub fn headless(owner: &ReplicatedRedis) -> Service {
    let name = owner.name_any();
    Service {
        metadata: child(owner, headless_name(&name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(one_label(CLUSTER_LABEL, &name)),
            ports: Some(vec![port("tcp-redis", PORT), port("http-metrics", METRICS_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

pub(super) fn headless_name(name: &str) -> String {
    format!("{name}-headless")
}

fn by_role(owner: &ReplicatedRedis, suffix: &str, role: &str, template: &ServiceTemplate) -> Service {
    let name = owner.name_any();
    let mut metadata = child(owner, format!("{name}-{suffix}"));
    if !template.annotations.is_empty() {
        metadata.annotations.get_or_insert_default().extend(template.annotations.clone());
    }
    let selector: BTreeMap<String, String> =
        [(CLUSTER_LABEL, name.as_str()), (ROLE_LABEL, role)].map(|(k, v)| (k.to_string(), v.to_string())).into();
    let kind = match template.kind {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.into()),
            selector: Some(selector),
            ports: Some(vec![port("tcp-redis", PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: i32::from(port),
        target_port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::datastore;

    #[test]
    fn the_master_service_leads_to_one_pod_and_before_the_first_master_to_none() {
        let owner = datastore(|_| {});
        let service = master(&owner, Some("x-replica-1"));
        assert_eq!(service.metadata.name.as_deref(), Some("x-master"));
        assert_eq!(leads_to(&service), Some("x-replica-1"));
        let first = master(&owner, None);
        assert_eq!(leads_to(&first), None);
        assert_eq!(first.spec.unwrap().selector.unwrap()[ROLE_LABEL], "master");
    }

    #[test]
    fn the_headless_service_names_pods_that_are_not_ready() {
        let spec = headless(&datastore(|_| {})).spec.unwrap();
        assert_eq!((spec.cluster_ip.as_deref(), spec.publish_not_ready_addresses), (Some("None"), Some(true)));
    }

    #[test]
    fn type_and_annotations_come_from_the_spec() {
        let service = replicas(&datastore(|spec| {
            spec.services.replicas.kind = ServiceType::LoadBalancer;
            spec.services.replicas.annotations.insert("a".into(), "b".into());
        }));
        assert_eq!(service.metadata.annotations.unwrap()["a"], "b");
        assert_eq!(service.spec.unwrap().type_.as_deref(), Some("LoadBalancer"));
    }
}
