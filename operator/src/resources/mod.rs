//! The Kubernetes objects of one `ReplicatedRedis` NAME, as pure functions of its spec: one file per kind.
//!
//! | object | name | what for |
//! |---|---|---|
//! | StatefulSet | NAME-master, NAME-replica | the pods; roles move freely between them |
//! | Service | NAME-master | the pod with the master role |
//! | Service | NAME-replicas | the ready pods with the replica role |
//! | Service | NAME-headless | one DNS name per pod, ready or not |
//! | Secret | NAME-auth | the generated password, unless the spec names another Secret |
//! | Secret | NAME-credentials | the password as the server reads it |
//! | ConfigMap | NAME-config | redis.conf |
//! | PodDisruptionBudget | NAME | one pod at a time |
//! | ServiceAccount | NAME | an identity without rights |
//! | NetworkPolicy | NAME | who may connect; if asked for |
//! | PodMonitor, PrometheusRule | NAME | scraping and alerts; if asked for |
//!
//! Objects are complete, for server-side apply: what is not in them belongs to others. Selectors hold neither a version nor
//! anything else that could change.

mod budget;
mod config;
mod memory;
mod monitors;
mod network_policy;
mod revision;
mod scheduling;
mod secrets;
mod services;
mod statefulset;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

pub use budget::disruption_budget;
pub use config::{config_map, directives};
pub use memory::bytes;
pub use monitors::{monitor_kinds, monitors};
pub use network_policy::network_policy;
pub use revision::{RESTARTED_AT, REVISION, fnv1a, revision, revision_of};
pub use secrets::{credentials, credentials_name, generated_password, kept_passwords, password_in};
pub use services::{headless, leads_to, master, replicas};
pub use statefulset::{CONTAINER, replica_pods, service_account, stateful_set};

use crate::api::{PASSWORD_KEY, ReplicatedRedis, SecretKeyRef};

/// Port of the server in its pod.
pub const PORT: u16 = 6379;
/// Port of /metrics, /livez and /readyz in its pod.
pub const METRICS_PORT: u16 = 9121;

/// The ReplicatedRedis that an object belongs to.
pub const CLUSTER_LABEL: &str = "replicated-redis.io/cluster";
/// The StatefulSet of a pod: `master` or `replica`. Not its role.
pub const POOL_LABEL: &str = "replicated-redis.io/pool";
/// The role of a pod: `master` or `replica`; absent while it has none.
pub const ROLE_LABEL: &str = "replicated-redis.io/role";
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Field manager of server-side apply, and value of [`MANAGED_BY_LABEL`].
pub const MANAGER: &str = "replicated-redis-operator";

/// One of the two StatefulSets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    Master,
    Replica,
}

impl Pool {
    pub fn as_str(self) -> &'static str {
        match self {
            Pool::Master => "master",
            Pool::Replica => "replica",
        }
    }
}

/// Labels of everything that belongs to the datastore `name`.
pub fn labels(name: &str) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "replicated-redis"),
        ("app.kubernetes.io/instance", name),
        ("app.kubernetes.io/component", "server"),
        (MANAGED_BY_LABEL, MANAGER),
        (CLUSTER_LABEL, name),
    ];
    labels.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn pool_labels(name: &str, pool: Pool) -> BTreeMap<String, String> {
    let mut labels = labels(name);
    labels.insert(POOL_LABEL.into(), pool.as_str().into());
    labels
}

fn one_label(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_string(), value.to_string())])
}

/// Selects every pod of the datastore.
fn selector(name: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(one_label(CLUSTER_LABEL, name)), ..LabelSelector::default() }
}

/// Selector of the replicas as text, for the scale subresource.
pub fn replica_selector(name: &str) -> String {
    format!("{CLUSTER_LABEL}={name},{ROLE_LABEL}=replica")
}

/// Metadata of a child: its name, the labels, and the owner, so that it goes with it.
fn child(owner: &ReplicatedRedis, name: String) -> ObjectMeta {
    let inherited = &owner.spec.inherited_metadata;
    ObjectMeta {
        name: Some(name),
        namespace: owner.namespace(),
        labels: Some(with(&inherited.labels, labels(&owner.name_any()))),
        annotations: Some(inherited.annotations.clone()).filter(|annotations| !annotations.is_empty()),
        owner_references: owner_reference(owner).map(|reference| vec![reference]),
        ..ObjectMeta::default()
    }
}

/// What others want and, above it, what is ours.
fn with(theirs: &BTreeMap<String, String>, ours: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all = theirs.clone();
    all.extend(ours);
    all
}

fn owner_reference(owner: &ReplicatedRedis) -> Option<OwnerReference> {
    owner.controller_owner_ref(&())
}

/// The Secret and key that hold the password.
pub fn password_source(owner: &ReplicatedRedis) -> SecretKeyRef {
    let generated = || SecretKeyRef { name: format!("{}-auth", owner.name_any()), key: PASSWORD_KEY.into() };
    owner.spec.auth.password_secret_ref.clone().unwrap_or_else(generated)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::api::ReplicatedRedisSpec;

    /// The datastore `x` in the namespace `ns`.
    pub(crate) fn datastore(change: impl FnOnce(&mut ReplicatedRedisSpec)) -> ReplicatedRedis {
        let mut owner: ReplicatedRedis = crate::api::parse_manifest(
            "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {name: x}\nspec: {}",
            "test",
        )
        .unwrap();
        owner.metadata.namespace = Some("ns".into());
        owner.metadata.uid = Some("11-22".into());
        change(&mut owner.spec);
        owner
    }

    #[test]
    fn children_go_with_their_owner_and_carry_no_version() {
        let meta = child(&datastore(|_| {}), "x-config".into());
        let owner = &meta.owner_references.unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("ReplicatedRedis", "x", Some(true)));
        let labels = meta.labels.unwrap();
        assert_eq!(labels[CLUSTER_LABEL], "x");
        assert!(!labels.keys().any(|key| key.contains("version") || key.contains("chart")), "{labels:?}");
    }

    #[test]
    fn the_password_is_in_the_named_secret_or_in_ours() {
        assert_eq!(password_source(&datastore(|_| {})).name, "x-auth");
        let given = SecretKeyRef { name: "mine".into(), key: "pw".into() };
        let owner = datastore(|spec| spec.auth.password_secret_ref = Some(given.clone()));
        assert_eq!(password_source(&owner), given);
    }
}
