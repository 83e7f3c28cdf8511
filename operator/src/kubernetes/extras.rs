//! Objects that a datastore has only when its spec asks for them: a NetworkPolicy, and those of the Prometheus operator.
//!
//! Most clusters lack the kinds of the Prometheus operator, and an operator may lack the rights for what nobody uses. So a
//! kind is watched where it could be listed once; where it could not, from the moment that an object of it could be made.
//! Until then nothing is asked.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::caches::{Hub, Key, note_version};
use super::objects::{self, ApplyError, Live, Pending};
use crate::api::ReplicatedRedis;
use crate::fault::Act;
use crate::resources::{self, CLUSTER_LABEL, MANAGED_BY_LABEL, MANAGER};

/// Why monitoring is not as the spec asks: a machine-readable reason and a sentence.
pub(super) type Unmonitored = (&'static str, String);

/// What has come of the objects of the Prometheus operator; `None` where the spec asks for none.
pub(super) type Monitored = Option<Result<String, Unmonitored>>;

fn kinds() -> [ApiResource; 3] {
    let [pod_monitor, rule] = resources::monitor_kinds();
    [ApiResource::erase::<NetworkPolicy>(&()), pod_monitor, rule]
}

/// What there is of these kinds.
pub(super) struct Extras {
    client: Client,
    hub: Arc<Hub>,
    watched: Vec<Watched>,
}

/// One kind, in one namespace or everywhere.
#[derive(Debug)]
struct Watched {
    kind: ApiResource,
    scope: Option<String>,
    seen: watch::Sender<Seen>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.lock().take().inspect(JoinHandle::abort);
    }
}

/// What a watch has seen.
#[derive(Debug, Clone, Default)]
enum Seen {
    /// It was not answered yet.
    #[default]
    Nothing,
    /// There is no such kind, or it may not be watched.
    Unwatched,
    Objects(Objects),
}

#[derive(Debug, Clone, Default)]
struct Objects {
    by_key: HashMap<Key, Arc<DynamicObject>>,
    /// The highest version that was seen, of whatever object.
    version: Option<String>,
}

impl Extras {
    /// Begins to watch, in `namespaces` or, if that is empty, everywhere; returns when each kind was seen once, or cannot be.
    pub(super) async fn start(client: &Client, namespaces: &[String], hub: &Arc<Hub>) -> Extras {
        let scopes = match namespaces {
            [] => vec![None],
            namespaces => namespaces.iter().cloned().map(Some).collect(),
        };
        let watched = kinds().into_iter().flat_map(|kind| {
            let of = move |scope: &Option<String>| (kind.clone(), scope.clone());
            scopes.iter().map(of).collect::<Vec<_>>()
        });
        let watched = watched.map(|(kind, scope)| Watched {
            kind,
            scope,
            seen: watch::Sender::default(),
            task: Mutex::default(),
        });
        let extras = Extras { client: client.clone(), hub: Arc::clone(hub), watched: watched.collect() };
        for watched in &extras.watched {
            extras.watch(watched);
        }
        for watched in &extras.watched {
            let mut seen = watched.seen.subscribe();
            // The sender lives in `watched`.
            let _ = seen.wait_for(|seen| !matches!(seen, Seen::Nothing)).await;
        }
        extras
    }

    fn of(&self, kind: &ApiResource, namespace: &str) -> Option<&Watched> {
        let holds = |scope: &Option<String>| scope.as_deref().is_none_or(|scope| scope == namespace);
        self.watched.iter().find(|watched| watched.kind == *kind && holds(&watched.scope))
    }

    /// Watches, unless that is done already.
    fn watch(&self, watched: &Watched) {
        let mut task = watched.task.lock();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let api: Api<DynamicObject> = match &watched.scope {
            None => Api::all_with(self.client.clone(), &watched.kind),
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &watched.kind),
        };
        *task =
            Some(tokio::spawn(follow(api, watched.kind.plural.clone(), watched.seen.clone(), Arc::clone(&self.hub))));
    }
}

async fn follow(api: Api<DynamicObject>, plural: String, seen: watch::Sender<Seen>, hub: Arc<Hub>) {
    let ours = Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGER}"));
    let mut events = pin!(watcher(api, ours).default_backoff());
    let mut listed = Objects::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed = Objects::default(),
            Ok(Event::InitApply(object)) => {
                ring(&hub, &object);
                listed.put(object);
            }
            Ok(Event::InitDone) => {
                let listed = Seen::Objects(std::mem::take(&mut listed));
                seen.send_replace(listed).ring_all(&hub);
            }
            Ok(Event::Apply(object)) => {
                let rings = object.clone();
                seen.send_modify(|seen| seen.objects(|objects| objects.put(object)));
                ring(&hub, &rings);
            }
            Ok(Event::Delete(object)) => {
                seen.send_modify(|seen| seen.objects(|objects| objects.remove(&object)));
                ring(&hub, &object);
            }
            Err(error) if cannot_be_watched(&error) => {
                tracing::debug!("{plural} are not watched: {error}");
                seen.send_replace(Seen::Unwatched).ring_all(&hub);
                return;
            }
            Err(error) => tracing::warn!("watching {plural}: {error}"),
        }
    }
}

/// The cluster has no such kind, or this operator may not look at it.
fn cannot_be_watched(error: &Error) -> bool {
    match error {
        Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status)) => {
            status.code == 404 || status.code == 403
        }
        _ => false,
    }
}

fn ring(hub: &Hub, object: &DynamicObject) {
    if let Some(cluster) = object.labels().get(CLUSTER_LABEL) {
        hub.ring(&(object.namespace().unwrap_or_default(), cluster.clone()));
    }
}

impl Seen {
    fn ring_all(&self, hub: &Hub) {
        if let Seen::Objects(objects) = self {
            objects.by_key.values().for_each(|object| ring(hub, object));
        }
    }

    fn objects(&mut self, change: impl FnOnce(&mut Objects)) {
        if let Seen::Objects(objects) = self {
            change(objects);
        }
    }
}

impl Objects {
    fn put(&mut self, object: DynamicObject) {
        note_version(&mut self.version, &object);
        self.by_key.insert(key(&object), Arc::new(object));
    }

    fn remove(&mut self, object: &DynamicObject) {
        note_version(&mut self.version, object);
        self.by_key.remove(&key(object));
    }
}

fn key(object: &DynamicObject) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Brings them to what the spec asks for. The first error is about the NetworkPolicy; what is wrong with monitoring is told as
/// a condition and holds nothing else up.
pub(super) async fn apply(
    extras: &Extras,
    owner: &ReplicatedRedis,
    operator_namespace: &str,
    pending: &mut Pending,
) -> (Result<(), ApplyError>, Monitored) {
    let mut worker = Worker { extras, owner, pending };
    let [policy_kind, monitor_kinds @ ..] = kinds();
    let policy = resources::network_policy(owner, operator_namespace);
    let policy = policy.map(|policy| serde_json::to_value(policy).expect("an object of the API is JSON"));
    let policy = worker.one(&policy_kind, policy).await.map_err(|error| ApplyError::Api {
        kind: policy_kind.kind.clone(),
        name: owner.name_any(),
        error: Box::new(error),
    });
    let mut monitors = resources::monitors(owner);
    let mut made = Vec::new();
    let mut problem: Option<Unmonitored> = None;
    for kind in monitor_kinds {
        let at = monitors.iter().position(|(own, _)| *own == kind);
        let wanted = at.map(|at| monitors.swap_remove(at).1);
        let is_wanted = wanted.is_some();
        let wanted = wanted.map(|object| serde_json::to_value(object).expect("an object of the API is JSON"));
        match worker.one(&kind, wanted).await {
            Ok(()) if is_wanted => made.push(kind.kind),
            Ok(()) => {}
            Err(error) => problem = problem.or(Some(explained(&kind, &error))),
        }
    }
    let monitored = owner.spec.monitoring.is_on().then(|| match problem {
        None => Ok(format!("{} {} made", made.join(" and "), if made.len() == 1 { "is" } else { "are" })),
        Some(problem) => Err(problem),
    });
    (policy, monitored)
}

fn explained(kind: &ApiResource, error: &kube::Error) -> Unmonitored {
    match error {
        kube::Error::Api(status) if status.code == 404 => (
            "NotInstalled",
            format!("{} is no kind of this cluster: the CRDs of the Prometheus operator are not installed", kind.kind),
        ),
        kube::Error::Api(status) if status.code == 403 => {
            ("Forbidden", format!("this operator has no rights for {}: {}", kind.plural, status.message))
        }
        error => ("Failed", format!("{}: {error}", kind.kind)),
    }
}

struct Worker<'a> {
    extras: &'a Extras,
    owner: &'a ReplicatedRedis,
    pending: &'a mut Pending,
}

impl Worker<'_> {
    async fn one(&mut self, kind: &ApiResource, wanted: Option<Value>) -> kube::Result<()> {
        let (namespace, name) = (self.owner.namespace().unwrap_or_default(), self.owner.name_any());
        // One that is in none of the namespaces has no session.
        let Some(watched) = self.extras.of(kind, &namespace) else { return Ok(()) };
        let seen = watched.seen.borrow().clone();
        let api: Api<DynamicObject> = Api::namespaced_with(self.extras.client.clone(), &namespace, kind);
        let pending_key = (kind.kind.clone(), name.clone());
        let live = match &seen {
            Seen::Objects(objects) => objects.by_key.get(&(namespace, name.clone())),
            Seen::Nothing | Seen::Unwatched => None,
        };
        let Some(mut wanted) = wanted else {
            // What was made a moment ago may not have been seen.
            if live.is_some() || self.pending.contains_key(&pending_key) {
                match Act::DeleteExtra.around(api.delete(&name, &DeleteParams::default())).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    deleted => deleted.map(drop)?,
                }
                self.pending.remove(&pending_key);
            }
            return Ok(());
        };
        let hash = objects::mark(&mut wanted);
        let object = live.map(|live| serde_json::to_value(&**live).expect("an object of the API is JSON"));
        let version = match &seen {
            Seen::Objects(objects) => objects.version.clone(),
            Seen::Nothing | Seen::Unwatched => None,
        };
        if objects::is_as_wanted(self.pending, &pending_key, &Live { object, version }, &hash, &wanted) {
            return Ok(());
        }
        let params = PatchParams::apply(MANAGER).force();
        let applied = Act::ApplyExtra.around(api.patch(&name, &params, &Patch::Apply(&wanted))).await?;
        self.pending.insert(pending_key, (hash, applied.resource_version().unwrap_or_default()));
        self.extras.watch(watched);
        Ok(())
    }
}
