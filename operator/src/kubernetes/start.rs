//! The command line of the operator in a cluster: leads, watches, and runs one session per datastore.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::client::ClientBuilder;
use kube::runtime::events::Reporter;
use kube::{Client, Config, ResourceExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Context;
use super::caches::{Caches, Key, News};
use super::calls::CountCalls;
use super::extras::Extras;
use super::leader::Candidate;
use super::session::Session;
use crate::local::files::random_hex;
use crate::metrics::{Metrics, MetricsServer};
use crate::resources::{CLUSTER_LABEL, MANAGER};

/// `replicated-redis-operator run …`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A namespace to watch; can be given several times. Without it all namespaces are watched.
    #[arg(long = "watch-namespace", value_name = "NAMESPACE", env = "WATCH_NAMESPACE", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// The server's image, for those ReplicatedRedis that name none.
    #[arg(long, value_name = "IMAGE", env = "SERVER_IMAGE", default_value = concat!("replicated-redis-server:", env!("CARGO_PKG_VERSION")))]
    server_image: String,
    /// Namespace of the Lease by which operators agree on who leads. Default: the operator's own.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of that Lease.
    #[arg(long, value_name = "NAME", default_value = MANAGER)]
    lease_name: String,
    /// Address of /metrics and /healthz; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    metrics_address: SocketAddr,
}

/// Runs until SIGTERM. An error is one sentence for the person who started it.
pub fn execute(args: RunArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: RunArgs) -> Result<()> {
    let mut config =
        Config::infer().await.context("no Kubernetes configuration: neither in a pod nor by KUBECONFIG")?;
    // What is refused is looked at again by its own loop. Tried again in here, a full budget would be a silent API server.
    config.default_retry = false;
    let namespace = args.lease_namespace.unwrap_or_else(|| config.default_namespace.clone());
    let metrics = Metrics::new("kubernetes");
    let builder = ClientBuilder::try_from(config).context("the Kubernetes configuration cannot be used")?;
    let client: Client = builder.with_layer(&CountCalls(metrics.clone())).build();
    let listener = TcpListener::bind(args.metrics_address)
        .await
        .with_context(|| format!("cannot listen on {} (--metrics-address)", args.metrics_address))?;
    let _metrics_server = MetricsServer::start(listener, metrics.clone())?;
    // Unique for each process: a restarted one is another operator to the record.
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| MANAGER.to_string());
    let identity = format!("{host}-{}", random_hex::<4>());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let candidate = Candidate::new(client.clone(), &namespace, &args.lease_name, &identity);
    let (leadership, mut leading) = tokio::select! {
        led = candidate.lead() => led,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    tracing::info!("{identity} leads");
    metrics.leader.set(1);
    let serving = async {
        let (caches, news) = Caches::start(&client, &args.watch_namespaces).await;
        tracing::info!(
            "watching {}",
            if args.watch_namespaces.is_empty() {
                "all namespaces".to_string()
            } else {
                args.watch_namespaces.join(", ")
            }
        );
        let reporter = Reporter { controller: MANAGER.to_string(), instance: Some(identity.clone()) };
        let extras = Extras::start(&client, &args.watch_namespaces, &caches.hub).await;
        let context = Context {
            reporter,
            client: client.clone(),
            caches,
            leadership,
            identity: identity.clone(),
            image: args.server_image.clone(),
            namespace: namespace.clone(),
            extras,
            metrics,
        };
        Sessions::default().serve(Arc::new(context), news).await;
    };
    // Sessions end with `serving`: nothing is granted after it is dropped.
    tokio::select! {
        () = serving => bail!("the watches have ended"),
        () = leading.keep() => bail!("the lead is lost: another operator has it, or the API server does not answer"),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping; the lead is given up");
    leading.give_up().await;
    Ok(())
}

/// The running sessions. They end when this is dropped.
#[derive(Debug, Default)]
struct Sessions(HashMap<Key, Running>);

#[derive(Debug)]
struct Running {
    task: JoinHandle<()>,
    ended_pods: mpsc::UnboundedSender<Pod>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sessions {
    async fn serve(mut self, context: Arc<Context>, mut news: News) {
        loop {
            tokio::select! {
                key = news.datastores.recv() => {
                    let Some(key) = key else { return };
                    self.ensure(&context, key);
                }
                pod = news.deleted_pods.recv() => {
                    let Some(pod) = pod else { return };
                    self.tell(pod);
                }
            }
        }
    }

    /// A session for each datastore that there is. One that was deleted and made again is another one.
    fn ensure(&mut self, context: &Arc<Context>, key: Key) {
        self.0.retain(|_, running| !running.task.is_finished());
        let Some(object) = context.caches.datastores.get(&key.0, &key.1) else {
            context.caches.hub.forget(&key);
            return;
        };
        if object.metadata.deletion_timestamp.is_some() || self.0.contains_key(&key) {
            return;
        }
        let (ended_pods, ended_seen) = mpsc::unbounded_channel();
        let task = tokio::spawn(Session::run(Arc::clone(context), key.clone(), ended_seen));
        self.0.insert(key, Running { task, ended_pods });
    }

    fn tell(&self, pod: Pod) {
        let Some(cluster) = pod.labels().get(CLUSTER_LABEL) else { return };
        let key = (pod.namespace().unwrap_or_default(), cluster.clone());
        if let Some(running) = self.0.get(&key) {
            // A session that has just ended needs no news.
            let _ = running.ended_pods.send(pod);
        }
    }
}
