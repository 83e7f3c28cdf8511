//! NAME-master and NAME-replica, which differ in their number of pods only.
//!
//! Updates are `OnDelete`: which pod is replaced when is the operator's decision, because it depends on roles.

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretVolumeSource,
    SecurityContext, ServiceAccount, SleepAction, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::revision::{REVISION, revision};
use super::secrets::{self, credentials_name};
use super::services::headless_name;
use super::{
    CLUSTER_LABEL, METRICS_PORT, POOL_LABEL, PORT, Pool, child, config, labels, pool_labels, scheduling, with,
};
use crate::api::{ImagePullPolicy, Keep, ReplicatedRedis, StorageType};
use crate::record::Record;

/// The container with the server.
pub const CONTAINER: &str = "server";
/// Where the data is, in the container.
pub(super) const DATA_DIR: &str = "/data";
/// Where NAME-credentials is, in the container.
pub(super) const CREDENTIALS_DIR: &str = "/etc/replicated-redis/credentials";
const CONFIG_DIR: &str = "/etc/replicated-redis/config";
/// User and group of the server; the image has the same.
const USER: i64 = 10001;
/// Between the decision to end a pod and SIGTERM, s: the operator moves the master role away in this time.
const PRE_STOP_S: i64 = 3;

/// One of the two StatefulSets, with `pods` pods. `image` is used where the spec names none.
pub fn stateful_set(owner: &ReplicatedRedis, pool: Pool, pods: i32, image: &str) -> StatefulSet {
    let name = owner.name_any();
    let match_labels = [(CLUSTER_LABEL, name.as_str()), (POOL_LABEL, pool.as_str())];
    let storage = &owner.spec.storage;
    let claims = match storage.kind {
        StorageType::EmptyDir => None,
        StorageType::PersistentVolumeClaim => Some(vec![claim(owner)]),
    };
    let keep = |keep: Keep| Some(if keep == Keep::Delete { "Delete" } else { "Retain" }.to_string());
    StatefulSet {
        metadata: child(owner, format!("{name}-{}", pool.as_str())),
        spec: Some(StatefulSetSpec {
            replicas: Some(pods),
            service_name: Some(headless_name(&name)),
            // The instances need each other to begin, and none of them takes writes before it is told.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                ..StatefulSetUpdateStrategy::default()
            }),
            selector: LabelSelector {
                match_labels: Some(match_labels.map(|(k, v)| (k.to_string(), v.to_string())).into()),
                ..LabelSelector::default()
            },
            persistent_volume_claim_retention_policy: claims.is_some().then(|| {
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    // The operator's own matter: see `crate::storage::to_own`.
                    when_deleted: keep(Keep::Retain),
                    when_scaled: keep(storage.retention.when_scaled),
                }
            }),
            volume_claim_templates: claims,
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(owner, pool, image)),
                spec: Some(pod(owner, image)),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// How many pods NAME-replica has: those that are wanted, and those above that are members still (rule R11: an instance is
/// taken away only after an election has left it out).
pub fn replica_pods(name: &str, wanted: i32, record: Option<&Record>) -> i32 {
    let prefix = format!("{name}-replica-");
    let ordinal = |instance: &str| instance.strip_prefix(&prefix)?.parse::<i32>().ok();
    let members = record.iter().flat_map(|r| r.voters()).map(|m| m.name.as_str());
    let master = record.iter().filter_map(|r| r.master.as_ref()).map(|m| m.name.as_str());
    let highest = members.chain(master).filter_map(ordinal).max();
    highest.map_or(wanted, |ordinal| wanted.max(ordinal + 1))
}

/// NAME: an identity without rights, so that pods have no other one.
pub fn service_account(owner: &ReplicatedRedis) -> ServiceAccount {
    ServiceAccount {
        metadata: child(owner, owner.name_any()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn claim(owner: &ReplicatedRedis) -> PersistentVolumeClaim {
    let storage = &owner.spec.storage;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some("data".into()),
            labels: Some(labels(&owner.name_any())),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_string(), Quantity(storage.size.clone()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn pod_metadata(owner: &ReplicatedRedis, pool: Pool, image: &str) -> ObjectMeta {
    let (inherited, own) = (&owner.spec.inherited_metadata, &owner.spec.pod_template.metadata);
    let labels = with(&inherited.labels, with(&own.labels, pool_labels(&owner.name_any(), pool)));
    let mut annotations = with(&inherited.annotations, own.annotations.clone());
    annotations.insert(REVISION.into(), revision(owner, image));
    ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }
}

fn pod(owner: &ReplicatedRedis, image: &str) -> PodSpec {
    let name = owner.name_any();
    let (wanted, template) = (&owner.spec.scheduling, &owner.spec.pod_template);
    PodSpec {
        service_account_name: Some(name.clone()),
        automount_service_account_token: Some(false),
        // Not the environment variables of every Service of the namespace.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(i64::from(template.termination_grace_period_seconds)),
        security_context: Some(template.security_context.clone().unwrap_or_else(|| PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        })),
        image_pull_secrets: Some(owner.spec.image_pull_secrets.clone()).filter(|secrets| !secrets.is_empty()),
        containers: [vec![container(owner, image)], template.extra_containers.clone()].concat(),
        volumes: Some(volumes(owner)),
        node_selector: Some(wanted.node_selector.clone()).filter(|labels| !labels.is_empty()),
        tolerations: Some(wanted.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
        affinity: scheduling::affinity(owner),
        topology_spread_constraints: scheduling::spread(owner),
        priority_class_name: wanted.priority_class_name.clone(),
        ..PodSpec::default()
    }
}

fn container(owner: &ReplicatedRedis, image: &str) -> Container {
    let name = owner.name_any();
    let policy = owner.spec.image_pull_policy.map(|policy| match policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    });
    let field = |variable: &str, path: &str| EnvVar {
        name: variable.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let template = &owner.spec.pod_template;
    let own = vec![field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")];
    let mounts = vec![
        mount("data", DATA_DIR, false),
        mount("config", CONFIG_DIR, true),
        mount("credentials", CREDENTIALS_DIR, true),
    ];
    let announced = format!("$(POD_NAME).{}.$(POD_NAMESPACE).svc", headless_name(&name));
    Container {
        name: CONTAINER.into(),
        image: Some(owner.spec.image.clone().unwrap_or_else(|| image.to_string())),
        image_pull_policy: policy.map(String::from),
        args: Some(vec![format!("{CONFIG_DIR}/{}", config::FILE), "--replica-announce-ip".into(), announced]),
        env: Some([own, template.env.clone()].concat()),
        ports: Some(vec![container_port("tcp-redis", PORT), container_port("http-metrics", METRICS_PORT)]),
        resources: owner.spec.resources.clone(),
        volume_mounts: Some([mounts, template.extra_volume_mounts.clone()].concat()),
        // Loading is alive: a day for the largest data set, asked each second so that a small one is up at once.
        startup_probe: Some(probe("/livez", 1, 86_400)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 1, 2)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP_S }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        security_context: Some(template.container_security_context.clone().unwrap_or_else(|| SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        })),
        ..Container::default()
    }
}

fn container_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(port),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn probe(path: &str, period_s: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(i32::from(METRICS_PORT)),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_s),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn volumes(owner: &ReplicatedRedis) -> Vec<Volume> {
    let name = owner.name_any();
    let config = Volume {
        name: "config".into(),
        config_map: Some(ConfigMapVolumeSource { name: format!("{name}-config"), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let credentials = Volume {
        name: "credentials".into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(credentials_name(&name)),
            // Not what the operator keeps there for itself.
            items: Some(vec![KeyToPath {
                key: secrets::FILE.into(),
                path: secrets::FILE.into(),
                ..KeyToPath::default()
            }]),
            // The group of the pod's volumes is the server's own.
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![config, credentials];
    volumes.extend(owner.spec.pod_template.extra_volumes.clone());
    if owner.spec.storage.kind == StorageType::EmptyDir {
        let source = EmptyDirVolumeSource {
            size_limit: Some(Quantity(owner.spec.storage.size.clone())),
            ..EmptyDirVolumeSource::default()
        };
        volumes.push(Volume { name: "data".into(), empty_dir: Some(source), ..Volume::default() });
    }
    volumes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Holder, Member};
    use crate::resources::tests::datastore;

    fn template(owner: &ReplicatedRedis) -> PodSpec {
        stateful_set(owner, Pool::Master, 1, "server:1").spec.unwrap().template.spec.unwrap()
    }

    #[test]
    fn selectors_are_of_the_pool_and_pods_carry_no_role() {
        let set = stateful_set(&datastore(|_| {}), Pool::Replica, 3, "server:1").spec.unwrap();
        let selector = set.selector.match_labels.unwrap();
        let pods = set.template.metadata.unwrap().labels.unwrap();
        assert_eq!(selector.len(), 2);
        assert!(selector.iter().all(|(key, value)| pods.get(key) == Some(value)));
        assert!(!pods.contains_key(super::super::ROLE_LABEL), "the role is the operator's, pod by pod");
        assert_eq!((set.replicas, set.service_name.as_deref()), (Some(3), Some("x-headless")));
    }

    #[test]
    fn a_pod_meets_the_restricted_security_level() {
        let pod = template(&datastore(|_| {}));
        let context = pod.security_context.unwrap();
        assert_eq!((context.run_as_non_root, context.run_as_user), (Some(true), Some(10001)));
        assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let container = pod.containers[0].security_context.clone().unwrap();
        assert_eq!(container.allow_privilege_escalation, Some(false));
        assert_eq!(container.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        assert_eq!(container.read_only_root_filesystem, Some(true));
    }

    #[test]
    fn storage_is_a_claim_or_an_empty_dir() {
        let set = stateful_set(&datastore(|_| {}), Pool::Master, 1, "i").spec.unwrap();
        let claim = &set.volume_claim_templates.unwrap()[0];
        let requests = claim.spec.clone().unwrap().resources.unwrap().requests.unwrap();
        assert_eq!(requests["storage"].0, "1Gi");
        let owner = datastore(|spec| spec.storage.kind = StorageType::EmptyDir);
        let set = stateful_set(&owner, Pool::Master, 1, "i").spec.unwrap();
        assert!(set.volume_claim_templates.is_none() && set.persistent_volume_claim_retention_policy.is_none());
        assert!(template(&owner).volumes.unwrap().iter().any(|v| v.empty_dir.is_some()));
    }

    #[test]
    fn the_image_of_the_spec_wins() {
        assert_eq!(template(&datastore(|_| {})).containers[0].image.as_deref(), Some("server:1"));
        let owner = datastore(|spec| spec.image = Some("mine:2".into()));
        assert_eq!(template(&owner).containers[0].image.as_deref(), Some("mine:2"));
    }

    #[test]
    fn a_person_adds_to_the_pods_and_takes_nothing_away() {
        let owner = datastore(|spec| {
            let named = |name: &str| Container { name: name.into(), ..Container::default() };
            let template = &mut spec.pod_template;
            template.metadata.labels.extend([("team".into(), "a".into()), (POOL_LABEL.into(), "theirs".into())]);
            template.metadata.annotations.insert("note".into(), "pods".into());
            template.termination_grace_period_seconds = 30;
            template.env = vec![EnvVar { name: "TZ".into(), value: Some("UTC".into()), ..EnvVar::default() }];
            template.extra_containers = vec![named("sidecar")];
            template.extra_volumes = vec![Volume { name: "scratch".into(), ..Volume::default() }];
            template.extra_volume_mounts = vec![mount("scratch", "/scratch", false)];
            spec.inherited_metadata.labels.insert("cost-centre".into(), "7".into());
            spec.inherited_metadata.annotations.insert("note".into(), "all".into());
        });
        let set = stateful_set(&owner, Pool::Master, 1, "i");
        assert_eq!(set.metadata.labels.unwrap()["cost-centre"], "7");
        assert_eq!(set.metadata.annotations.unwrap()["note"], "all");
        let pods = set.spec.unwrap().template;
        let (meta, pod) = (pods.metadata.unwrap(), pods.spec.unwrap());
        let labels = meta.labels.unwrap();
        assert_eq!((labels["team"].as_str(), labels["cost-centre"].as_str()), ("a", "7"));
        assert_eq!(labels[POOL_LABEL], "master", "what is ours stays ours");
        assert_eq!(meta.annotations.unwrap()["note"], "pods");
        assert_eq!(pod.termination_grace_period_seconds, Some(30));
        let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["server", "sidecar"]);
        assert_eq!(pod.containers[0].env.as_ref().unwrap().last().unwrap().name, "TZ");
        assert_eq!(pod.containers[0].volume_mounts.as_ref().unwrap().last().unwrap().mount_path, "/scratch");
        assert!(pod.volumes.unwrap().iter().any(|volume| volume.name == "scratch"));
    }

    #[test]
    fn a_member_keeps_its_pod_until_an_election_has_left_it_out() {
        let member = |name: &str| Member { name: name.into(), volume: "v".into() };
        let mut record = Record {
            master: Some(Holder { name: "x-replica-3".into(), incarnation: "i".into() }),
            members: vec![member("x-master-0"), member("x-replica-0"), member("x-replica-3")],
            ..Record::default()
        };
        assert_eq!(replica_pods("x", 1, Some(&record)), 4);
        record.members.pop();
        assert_eq!(replica_pods("x", 1, Some(&record)), 4, "the master's own");
        record.master = Some(Holder { name: "x-master-0".into(), incarnation: "i".into() });
        assert_eq!(replica_pods("x", 1, Some(&record)), 1);
        assert_eq!(replica_pods("x", 0, Some(&record)), 1);
        assert_eq!(replica_pods("x", 5, None), 5);
    }
}
