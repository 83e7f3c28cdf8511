//! What the API server holds, as far as it concerns us: one watch per kind and namespace, kept in memory.
//!
//! Whatever is seen wakes the session of the datastore that it belongs to. Nothing is asked for again while all is quiet.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector::store::Writer};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::objects::is_at_least;
use crate::api::ReplicatedRedis;
use crate::resources::{CLUSTER_LABEL, MANAGED_BY_LABEL, MANAGER};

/// Namespace and name of a ReplicatedRedis.
pub(super) type Key = (String, String);

/// A kind of which every object of the watched namespaces is held.
pub(super) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Cache<K: Kind>
where
    K::DynamicType: Eq + Hash,
{
    /// By namespace; one without namespace holds all.
    stores: Vec<(Option<String>, Store<K>, Version)>,
}

/// The highest version that was seen, of whatever object.
type Version = Arc<Mutex<Option<String>>>;

impl<K: Kind> Cache<K> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store(namespace)?.0.get(&ObjectRef::new(name).within(namespace))
    }

    /// Up to which version the objects of a namespace were seen, deleted ones included.
    pub(super) fn version(&self, namespace: &str) -> Option<String> {
        self.store(namespace)?.1.lock().clone()
    }

    /// Those that belong to the datastore `key`.
    pub(super) fn of(&self, key: &Key) -> Vec<Arc<K>> {
        let is_its = |object: &K| object.namespace().as_ref() == Some(&key.0) && cluster(object) == Some(&key.1);
        self.store(&key.0).map(|(store, _)| store.state_filter(is_its)).unwrap_or_default()
    }

    fn store(&self, namespace: &str) -> Option<(&Store<K>, &Version)> {
        let holds = |scope: &Option<String>| scope.as_deref().is_none_or(|scope| scope == namespace);
        self.stores.iter().find(|(scope, ..)| holds(scope)).map(|(_, store, version)| (store, version))
    }

    async fn ready(&self) {
        for (_, store, _) in &self.stores {
            // The writer lives in a task that ends with the operator only.
            let _ = store.wait_until_ready().await;
        }
    }
}

fn cluster<K: Kind>(object: &K) -> Option<&String> {
    object.labels().get(CLUSTER_LABEL)
}

/// Wakes sessions.
#[derive(Debug, Default)]
pub(super) struct Hub(Mutex<HashMap<Key, Bell>>);

#[derive(Debug, Default)]
struct Bell {
    rings: Arc<Notify>,
    seen: u64,
}

impl Hub {
    /// What wakes the session of `key`.
    pub(super) fn bell(&self, key: &Key) -> Arc<Notify> {
        Arc::clone(&self.0.lock().entry(key.clone()).or_default().rings)
    }

    /// How many objects of `key` were seen to change.
    pub(super) fn seen(&self, key: &Key) -> u64 {
        self.0.lock().get(key).map_or(0, |bell| bell.seen)
    }

    pub(super) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    pub(super) fn ring(&self, key: &Key) {
        if let Some(bell) = self.0.lock().get_mut(key) {
            bell.seen += 1;
            bell.rings.notify_one();
        }
    }
}

/// Everything that is watched.
#[derive(Debug)]
pub(super) struct Caches {
    pub(super) datastores: Cache<ReplicatedRedis>,
    pub(super) pods: Cache<Pod>,
    pub(super) stateful_sets: Cache<StatefulSet>,
    pub(super) services: Cache<Service>,
    pub(super) config_maps: Cache<ConfigMap>,
    pub(super) secrets: Cache<Secret>,
    pub(super) budgets: Cache<PodDisruptionBudget>,
    pub(super) service_accounts: Cache<ServiceAccount>,
    pub(super) claims: Cache<PersistentVolumeClaim>,
    pub(super) hub: Arc<Hub>,
    /// Ends the watches when dropped.
    _watches: JoinSet<()>,
}

/// News that are not in the caches any more when they are read.
#[derive(Debug)]
pub(super) struct News {
    /// A ReplicatedRedis was added, changed or deleted.
    pub(super) datastores: mpsc::UnboundedReceiver<Key>,
    /// Pods as they were when they were deleted: they may tell how their container ended.
    pub(super) deleted_pods: mpsc::UnboundedReceiver<Pod>,
}

impl Caches {
    /// Begins to watch, in `namespaces` or, if that is empty, everywhere; returns when everything was seen once.
    pub(super) async fn start(client: &Client, namespaces: &[String]) -> (Caches, News) {
        let hub = Arc::new(Hub::default());
        let mut watches = JoinSet::new();
        let (datastores_in, datastores) = mpsc::unbounded_channel();
        let (deleted_in, deleted_pods) = mpsc::unbounded_channel();
        let ours = Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGER}"));
        let mut place = Place { client, namespaces, hub: &hub, watches: &mut watches };
        let caches = (
            place.watch(Config::default(), move |_, object: &ReplicatedRedis| {
                let _ = datastores_in.send((object.namespace().unwrap_or_default(), object.name_any()));
            }),
            place.watch(ours.clone(), move |deleted, pod: &Pod| {
                if deleted {
                    let _ = deleted_in.send(pod.clone());
                }
            }),
            place.watch(ours.clone(), |_, _: &StatefulSet| {}),
            place.watch(ours.clone(), |_, _: &Service| {}),
            place.watch(ours.clone(), |_, _: &ConfigMap| {}),
            place.watch(ours.clone(), |_, _: &Secret| {}),
            place.watch(ours.clone(), |_, _: &PodDisruptionBudget| {}),
            place.watch(ours.clone(), |_, _: &ServiceAccount| {}),
            place.watch(ours, |_, _: &PersistentVolumeClaim| {}),
        );
        let (datastores_cache, pods, stateful_sets, services, config_maps, secrets, budgets, service_accounts, claims) =
            caches;
        let caches = Caches {
            datastores: datastores_cache,
            pods,
            stateful_sets,
            services,
            config_maps,
            secrets,
            budgets,
            service_accounts,
            claims,
            hub,
            _watches: watches,
        };
        caches.ready().await;
        (caches, News { datastores, deleted_pods })
    }

    async fn ready(&self) {
        self.datastores.ready().await;
        self.pods.ready().await;
        self.stateful_sets.ready().await;
        self.services.ready().await;
        self.config_maps.ready().await;
        self.secrets.ready().await;
        self.budgets.ready().await;
        self.service_accounts.ready().await;
        self.claims.ready().await;
    }
}

struct Place<'a> {
    client: &'a Client,
    namespaces: &'a [String],
    hub: &'a Arc<Hub>,
    watches: &'a mut JoinSet<()>,
}

impl Place<'_> {
    /// `tell` is called with every object that is seen, and whether it was deleted.
    fn watch<K: Kind>(&mut self, config: Config, tell: impl Fn(bool, &K) + Clone + Send + 'static) -> Cache<K> {
        let scopes = match self.namespaces {
            [] => vec![None],
            namespaces => namespaces.iter().cloned().map(Some).collect(),
        };
        let mut stores = Vec::new();
        for scope in scopes {
            let api: Api<K> = match &scope {
                None => Api::all(self.client.clone()),
                Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            };
            let (store, writer) = reflector::store();
            let version = Version::default();
            let seen = Arc::clone(&version);
            self.watches.spawn(follow(api, config.clone(), writer, seen, Arc::clone(self.hub), tell.clone()));
            stores.push((scope, store, version));
        }
        Cache { stores }
    }
}

async fn follow<K: Kind>(
    api: Api<K>,
    config: Config,
    writer: Writer<K>,
    version: Version,
    hub: Arc<Hub>,
    tell: impl Fn(bool, &K) + Send + 'static,
) {
    let mut events = std::pin::pin!(watcher(api, config).default_backoff().reflect(writer));
    let mut listed = None;
    while let Some(event) = events.next().await {
        match event {
            // A list is in the store when it is whole.
            Ok(Event::InitApply(object)) => {
                note_version(&mut listed, &object);
                tell(false, &object);
                ring(&hub, &object);
            }
            Ok(Event::Apply(object)) => {
                note_version(&mut version.lock(), &object);
                tell(false, &object);
                ring(&hub, &object);
            }
            Ok(Event::Delete(object)) => {
                note_version(&mut version.lock(), &object);
                tell(true, &object);
                ring(&hub, &object);
            }
            Ok(Event::Init) => {}
            Ok(Event::InitDone) => {
                let mut version = version.lock();
                *version = listed.take().or(version.take());
            }
            Err(error) => tracing::warn!("watching {}: {error}", K::plural(&())),
        }
    }
}

/// Keeps the higher version.
pub(super) fn note_version(highest: &mut Option<String>, object: &impl ResourceExt) {
    let version = object.resource_version();
    if version.as_ref().is_some_and(|version| !is_at_least(highest.clone(), version)) {
        *highest = version;
    }
}

/// A child by its label, a ReplicatedRedis by its name.
fn ring<K: Kind>(hub: &Hub, object: &K) {
    let namespace = object.namespace().unwrap_or_default();
    let name = cluster(object).cloned().unwrap_or_else(|| object.name_any());
    hub.ring(&(namespace, name));
}
