//! Brings the API server's objects to what [`crate::resources`] builds, by server-side apply, and only where they differ.
//!
//! An object is left alone when it carries the mark of exactly this desired state and still holds all of it; what others have
//! added to it (labels, annotations, sidecars) is theirs.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::caches::{Cache, Caches, Kind};
use super::recreate;
use crate::api::ReplicatedRedis;
use crate::fault::Act;
use crate::passwords::Passwords;
use crate::resources::{self, MANAGER, Pool};

/// Annotation with the hash of the state that was applied.
const APPLIED: &str = "replicated-redis.io/applied";

/// Why an object could not be brought to what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// The spec cannot be carried out until a person changes it.
    #[error("{message}")]
    Spec { reason: &'static str, message: String },
    #[error("{kind} {name}: {error}")]
    Api { kind: String, name: String, error: Box<kube::Error> },
}

/// What was applied and not yet seen in a cache: kind and name, hash, and the version that came back.
pub(super) type Pending = HashMap<(String, String), (String, String)>;

/// Applies what differs. `pending` is kept between calls.
pub(super) struct Applier<'a> {
    pub(super) client: &'a Client,
    pub(super) caches: &'a Caches,
    pub(super) pending: &'a mut Pending,
}

impl Applier<'_> {
    /// NAME-master, ahead of everything else: clients wait for it.
    pub(super) async fn master_service(
        &mut self,
        owner: &ReplicatedRedis,
        instance: Option<&str>,
    ) -> Result<(), ApplyError> {
        self.one(&self.caches.services, resources::master(owner, instance)).await
    }

    /// All other objects of `owner` but the generated password. `pods` is the number of NAME-replica's.
    pub(super) async fn everything(
        &mut self,
        owner: &ReplicatedRedis,
        pods: i32,
        image: &str,
        config_too: bool,
        passwords: &Passwords,
    ) -> Result<(), ApplyError> {
        let caches = self.caches;
        let config = resources::config_map(owner)
            .map_err(|error| ApplyError::Spec { reason: "InvalidConfig", message: error.to_string() })?;
        self.one(&caches.service_accounts, resources::service_account(owner)).await?;
        self.one(&caches.secrets, resources::credentials(owner, passwords)).await?;
        if config_too {
            self.one(&caches.config_maps, config).await?;
        }
        for service in [resources::headless(owner), resources::replicas(owner)] {
            self.one(&caches.services, service).await?;
        }
        self.one(&caches.budgets, resources::disruption_budget(owner)).await?;
        self.stateful_set(resources::stateful_set(owner, Pool::Master, 1, image)).await?;
        self.stateful_set(resources::stateful_set(owner, Pool::Replica, pods, image)).await
    }

    /// A field that cannot be changed is changed by making the StatefulSet anew around its pods: see [`super::recreate`].
    async fn stateful_set(&mut self, desired: StatefulSet) -> Result<(), ApplyError> {
        match self.one(&self.caches.stateful_sets, desired.clone()).await {
            Err(ApplyError::Api { error, .. }) if is_immutable(&error) => {}
            done => return done,
        }
        Box::pin(self.make_anew(&desired)).await?;
        self.one(&self.caches.stateful_sets, desired).await
    }

    async fn make_anew(&self, desired: &StatefulSet) -> Result<(), ApplyError> {
        let api: Api<StatefulSet> = self.api(desired);
        let name = desired.name_any();
        let Some(live) = api.get_opt(&name).await.map_err(|error| failed(desired, error))? else { return Ok(()) };
        if let Some(field) = recreate::refusal(&live, desired) {
            let message = format!("StatefulSet {name}: {field} cannot be changed without losing pods or data");
            return Err(ApplyError::Spec { reason: "ImmutableField", message });
        }
        tracing::info!("{name}: a field that cannot be changed has changed; it is made anew, its pods stay");
        recreate::orphan(&api, &live).await.map_err(|error| failed(desired, error))
    }

    async fn one<K: Kind + Serialize>(&mut self, cache: &Cache<K>, desired: K) -> Result<(), ApplyError> {
        let mut wanted = to_json(&desired);
        let hash = mark(&mut wanted);
        let (namespace, name) = (desired.namespace().unwrap_or_default(), desired.name_any());
        let key = (K::kind(&()).to_string(), name.clone());
        // Before the object: what is seen of it is then at least as new.
        let version = cache.version(&namespace);
        let object = cache.get(&namespace, &name).map(|live| to_json(&*live));
        if is_as_wanted(self.pending, &key, &Live { object, version }, &hash, &wanted) {
            return Ok(());
        }
        let applied = self.apply(&desired, &wanted).await?;
        self.pending.insert(key, (hash, applied.resource_version().unwrap_or_default()));
        Ok(())
    }

    async fn apply<K: Kind>(&self, desired: &K, wanted: &Value) -> Result<K, ApplyError> {
        let params = PatchParams::apply(MANAGER).force();
        tracing::debug!("applying {} {}", K::kind(&()), desired.name_any());
        let (api, name) = (self.api::<K>(desired), desired.name_any());
        let patched = Act::Apply.around(api.patch(&name, &params, &Patch::Apply(wanted))).await;
        patched.map_err(|error| failed(desired, error))
    }

    fn api<K>(&self, object: &K) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }
}

fn failed<K: Kind>(object: &K, error: kube::Error) -> ApplyError {
    ApplyError::Api { kind: K::kind(&()).to_string(), name: object.name_any(), error: Box::new(error) }
}

fn is_immutable(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_invalid() && status.message.contains("updates to statefulset spec"))
}

/// What is seen of an object.
pub(super) struct Live {
    pub(super) object: Option<Value>,
    /// Up to which version its kind was seen, deleted objects included.
    pub(super) version: Option<String>,
}

/// Writes the hash of an object into it, and returns it.
pub(super) fn mark(desired: &mut Value) -> String {
    let hash = hash(desired);
    desired["metadata"]["annotations"][APPLIED] = Value::from(hash.clone());
    hash
}

/// Whether nothing is to be done about an object: it is as `desired` says, which is marked with `hash`, or was made so and
/// has not been seen yet.
pub(super) fn is_as_wanted(
    pending: &mut Pending,
    key: &(String, String),
    live: &Live,
    hash: &str,
    desired: &Value,
) -> bool {
    if let Some((applied, version)) = pending.get(key) {
        if *applied == hash && !is_at_least(live.version.clone(), version) {
            return true;
        }
        pending.remove(key);
    }
    live.object.as_ref().is_some_and(|live| holds(live, desired))
}

/// Whether an object is at `version` or later.
pub(super) fn is_at_least(resource_version: Option<String>, version: &str) -> bool {
    let number = |text: &str| text.parse::<u128>().ok();
    match resource_version {
        Some(own) => match (number(&own), number(version)) {
            (Some(own), Some(version)) => own >= version,
            _ => own == version,
        },
        None => false,
    }
}

fn to_json<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("an object of the API is JSON")
}

fn hash(object: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    // Maps are sorted.
    object.to_string().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Whether everything of `desired` is in `live`. In a list of objects others may have their own (a sidecar, a port); a list of
/// plain values is ours as a whole. What we have taken out of a list is seen by the hash.
fn holds(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => desired.iter().all(|(key, value)| match live.get(key) {
            Some(live) => holds(live, value),
            // The API server leaves out what is empty.
            None => is_empty(value),
        }),
        (Value::Array(live), Value::Array(desired)) if desired.iter().all(Value::is_object) => {
            desired.iter().all(|desired| live.iter().any(|live| holds(live, desired)))
        }
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| holds(live, desired))
        }
        (live, desired) => live == desired,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_is_theirs_and_what_is_ours_must_stand() {
        let desired = json!({"spec": {"replicas": 2, "ports": [{"port": 6379}]}, "metadata": {"labels": {"a": "b"}}});
        let mut live = json!({
            "metadata": {"labels": {"a": "b", "theirs": "x"}, "resourceVersion": "7"},
            "spec": {"replicas": 2, "ports": [{"port": 6379, "protocol": "TCP"}]},
        });
        assert!(holds(&live, &desired));
        live["spec"]["replicas"] = json!(3);
        assert!(!holds(&live, &desired));
        assert!(!holds(&json!({}), &desired));
        assert!(holds(&json!({}), &json!({"spec": {"securityContext": {}}})), "left out because it is empty");
    }

    #[test]
    fn a_list_of_values_is_ours_and_one_of_objects_may_hold_others() {
        assert!(!holds(&json!([1, 2]), &json!([1])));
        let sidecar = json!([{"name": "theirs"}, {"name": "server", "image": "a", "imagePullPolicy": "Always"}]);
        assert!(holds(&sidecar, &json!([{"name": "server", "image": "a"}])));
        assert!(!holds(&sidecar, &json!([{"name": "server", "image": "b"}])));
    }

    /// It was deleted before it was seen: what is pending hid that for ever.
    #[test]
    fn what_was_made_and_has_not_been_seen_is_let_be_and_what_is_gone_is_made_again() {
        let mut wanted = json!({"metadata": {"name": "a"}});
        let hash = mark(&mut wanted);
        let key = ("Service".to_string(), "a".to_string());
        let mut pending = Pending::from([(key.clone(), (hash.clone(), "7".to_string()))]);
        let mut as_wanted = |object: Option<&Value>, version: &str| {
            let live = Live { object: object.cloned(), version: Some(version.into()) };
            is_as_wanted(&mut pending, &key, &live, &hash, &wanted)
        };
        assert!(as_wanted(None, "6"));
        assert!(as_wanted(Some(&wanted), "7"));
        assert!(!as_wanted(None, "8"), "it was seen to go");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_at_least(Some("100".into()), "99"));
        assert!(!is_at_least(Some("99".into()), "100"));
        assert!(is_at_least(Some("a".into()), "a") && !is_at_least(None, "1"));
    }
}
