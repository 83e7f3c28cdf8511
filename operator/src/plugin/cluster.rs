//! The API server, the pods of a datastore, and a conversation with the server in one.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams, Portforwarder, ValidationDirective};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Place;
use crate::api::ReplicatedRedis;
use crate::client::Client;
use crate::resources::{self, CLUSTER_LABEL, POOL_LABEL, PORT};
use crate::tenure::instance_names;

/// For a connection to a pod, which may go over two machines, and for each answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A namespace of a cluster.
pub(super) struct Cluster {
    client: kube::Client,
    pub(super) namespace: String,
    direct: bool,
}

/// A conversation with the server in a pod.
pub(super) struct Talk {
    pub(super) client: Client<Box<dyn Stream>>,
    _forward: Option<Portforwarder>,
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Stream for S {}

impl Cluster {
    pub(super) async fn open(place: Place) -> Result<Cluster> {
        let options = KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
        let read = match &place.kubeconfig {
            Some(path) => Some(Kubeconfig::read_from(path).with_context(|| format!("cannot use {}", path.display()))?),
            None => Kubeconfig::read().ok(),
        };
        let config = match read {
            Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await?,
            None if place.context.is_some() => bail!("there is no kubeconfig with a context of that name"),
            None => Config::infer().await.context("there is neither a kubeconfig nor a cluster around this process")?,
        };
        let namespace = place.namespace.unwrap_or_else(|| config.default_namespace.clone());
        Ok(Cluster { client: kube::Client::try_from(config)?, namespace, direct: place.direct })
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The datastore. The error of one that is not there names those that are.
    pub(super) async fn datastore(&self, name: &str) -> Result<ReplicatedRedis> {
        let api: Api<ReplicatedRedis> = self.api();
        if let Some(found) = api.get_opt(name).await.context("cannot read ReplicatedRedis objects")? {
            return Ok(found);
        }
        let others = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        let names: Vec<String> = others.iter().map(ResourceExt::name_any).collect();
        let there = if names.is_empty() { "none is".into() } else { format!("there are: {}", names.join(", ")) };
        Err(anyhow!("no ReplicatedRedis {name} in namespace {}; {there}", self.namespace))
    }

    /// A merge patch of the datastore.
    pub(super) async fn patch(&self, name: &str, patch: serde_json::Value) -> Result<ReplicatedRedis> {
        let api: Api<ReplicatedRedis> = self.api();
        // A field that this cluster's CRD does not know is an error, not a wish that nobody hears.
        let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::default() };
        let patched = api.patch(name, &strict, &Patch::Merge(patch)).await;
        patched.with_context(|| format!("cannot change ReplicatedRedis {name}"))
    }

    /// Everything of a kind that belongs to the datastore.
    pub(super) async fn of<K>(&self, name: &str) -> Result<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let mine = ListParams::default().labels(&format!("{CLUSTER_LABEL}={name}"));
        let kind = K::kind(&K::DynamicType::default()).to_string();
        let list = self.api::<K>().list(&mine).await.with_context(|| format!("cannot list objects of kind {kind}"))?;
        Ok(list.items)
    }

    /// The pods of the instances, the preferred master first.
    pub(super) async fn pods(&self, datastore: &ReplicatedRedis) -> Result<Vec<Pod>> {
        let name = datastore.name_any();
        let mut pods: Vec<Pod> = self.of(&name).await?;
        pods.retain(|pod| pod.labels().contains_key(POOL_LABEL));
        let order = instance_names(&name, datastore.spec.replicas);
        pods.sort_by_key(|pod| order.iter().position(|n| *n == pod.name_any()).unwrap_or(usize::MAX));
        Ok(pods)
    }

    /// The pod of one instance. The error of one that is not there names those that are.
    pub(super) async fn pod(&self, datastore: &ReplicatedRedis, instance: &str) -> Result<Pod> {
        let pods = self.pods(datastore).await?;
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        let found = pods.into_iter().find(|pod| pod.name_any() == instance);
        found.ok_or_else(|| anyhow!("no instance {instance}; there are: {}", names.join(", ")))
    }

    /// The password of the servers.
    pub(super) async fn password(&self, datastore: &ReplicatedRedis) -> Result<String> {
        let source = resources::password_source(datastore);
        let secret = self.api::<Secret>().get(&source.name).await;
        let secret = secret.with_context(|| format!("cannot read the password in the Secret {}", source.name))?;
        resources::password_in(&secret, &source.key).map_err(|why| anyhow!(why))
    }

    /// Connects to the server in a pod.
    pub(super) async fn talk(&self, pod: &Pod, password: &str) -> Result<Talk> {
        let name = pod.name_any();
        let talk = timeout(PATIENCE, self.connect(pod, password)).await;
        talk.map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))
            .flatten()
            .with_context(|| format!("cannot reach the server in the pod {name}"))
    }

    async fn connect(&self, pod: &Pod, password: &str) -> Result<Talk> {
        let (stream, forward): (Box<dyn Stream>, _) = if self.direct {
            let ip =
                pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).ok_or_else(|| anyhow!("it has no address"))?;
            (Box::new(TcpStream::connect((ip, PORT)).await?), None)
        } else {
            let mut forward = self.api::<Pod>().portforward(&pod.name_any(), &[PORT]).await?;
            let stream = forward.take_stream(PORT).ok_or_else(|| anyhow!("the port is not forwarded"))?;
            (Box::new(stream), Some(forward))
        };
        let client = Client::over(stream, Some(password), PATIENCE).await?;
        Ok(Talk { client, _forward: forward })
    }
}
