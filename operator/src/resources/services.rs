//! The three Services.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{CLUSTER_LABEL, METRICS_PORT, PORT, ROLE_LABEL, child, one_label};
use crate::api::{ReplicatedRedis, ServiceTemplate, ServiceType};

/// NAME-master: the pod that carries the master role, whichever it is.
pub fn master(owner: &ReplicatedRedis) -> Service {
    by_role(owner, "master", "master", &owner.spec.services.master)
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
    metadata.annotations = Some(template.annotations.clone()).filter(|a| !a.is_empty());
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
    fn the_master_service_follows_the_role_not_the_pool() {
        let service = master(&datastore(|_| {}));
        assert_eq!(service.metadata.name.as_deref(), Some("x-master"));
        let selector = service.spec.unwrap().selector.unwrap();
        assert_eq!((selector.len(), selector[ROLE_LABEL].as_str()), (2, "master"));
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
