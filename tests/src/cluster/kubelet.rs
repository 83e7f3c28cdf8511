//! A kubelet without containers: every pod that carries our label becomes a `replicated-redis-server` process on a loopback
//! address of its own, with the files that its volumes would hold. It reports to the API server what a kubelet would: address,
//! readiness by the pod's own probe, the ends of containers, and the end of a pod that is deleted.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Node, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use operator::resources::METRICS_PORT;
use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ApiServer;
use crate::program;

const LABEL: &str = "app.kubernetes.io/managed-by=replicated-redis-operator";
const ROUND: Duration = Duration::from_millis(50);
const NODE: &str = "node-1";
/// Images with this end are nowhere.
const MISSING: &str = ":missing";
/// Where a pod finds its volumes.
const MOUNTS: &str = "/etc/replicated-redis";
const DATA: &str = "/data";

/// Runs until dropped; then its processes end too.
#[derive(Debug)]
pub struct ProcessKubelet {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Pid and address of each pod's process, by namespace and name.
    running: Mutex<HashMap<(String, String), (u32, Ipv4Addr)>>,
}

/// Where pods are.
#[derive(Debug, Clone)]
pub struct Addresses(Arc<Shared>);

impl Addresses {
    pub fn of(&self, namespace: &str, name: &str) -> Option<Ipv4Addr> {
        Some(self.0.running.lock().get(&(namespace.to_string(), name.to_string()))?.1)
    }
}

/// Loopback addresses are the machine's: no two kubelets of one process may give the same.
static ADDRESSES: AtomicU32 = AtomicU32::new(2);

/// The next address, from a range that depends on this process: other runs of tests on this machine have others.
fn next_address() -> Ipv4Addr {
    let range = u32::from(Ipv4Addr::new(127, 64, 0, 0)) + (std::process::id() % 0x2000) * 0x200;
    Ipv4Addr::from(range + ADDRESSES.fetch_add(1, Ordering::Relaxed))
}

impl ProcessKubelet {
    pub fn start(server: &ApiServer) -> ProcessKubelet {
        let shared = Arc::new(Shared::default());
        let (kubeconfig, seen) = (server.kubeconfig(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(&kubeconfig, &seen));
        });
        ProcessKubelet { shared, thread: Some(thread) }
    }

    /// The address of a pod whose process runs.
    pub fn address(&self, namespace: &str, name: &str) -> Option<Ipv4Addr> {
        self.addresses().of(namespace, name)
    }

    /// The same for clients that outlive this borrow.
    pub fn addresses(&self) -> Addresses {
        Addresses(Arc::clone(&self.shared))
    }

    /// Sends a signal to a pod's process: `-9`, `-STOP` …
    pub fn signal(&self, namespace: &str, name: &str, signal: &str) {
        let key = (namespace.to_string(), name.to_string());
        let (pid, _) = *self.shared.running.lock().get(&key).unwrap_or_else(|| panic!("{name} does not run"));
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {signal} {name}");
    }
}

impl Drop for ProcessKubelet {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(kubeconfig: &Path, shared: &Shared) {
    let config = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig of the test");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    let client = Client::try_from(config).expect("a client");
    let dir = tempfile::tempdir().expect("a directory for the pods");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(node).expect("a node");
    // Another kubelet of the test may have made it.
    let _ = nodes.create(&PostParams::default(), &node).await;
    let mut kubelet = Kubelet { client, dir, pods: HashMap::new(), shared };
    while !shared.stop.load(Ordering::Acquire) {
        kubelet.round().await;
        tokio::time::sleep(ROUND).await;
    }
}

struct Kubelet<'s> {
    client: Client,
    dir: TempDir,
    /// By uid.
    pods: HashMap<String, Running>,
    shared: &'s Shared,
}

struct Running {
    namespace: String,
    name: String,
    child: Child,
    address: Ipv4Addr,
    command: Vec<String>,
    data: PathBuf,
    ready: bool,
    restarts: i32,
    /// When the container before this one ended.
    ended: Option<Timestamp>,
    /// When it was told to end, as soon as its preStop hook is over.
    ending: Option<Instant>,
    told_to_end: bool,
    /// How long that hook sleeps.
    pre_stop: Duration,
    /// What was last reported.
    reported: Option<serde_json::Value>,
}

impl Kubelet<'_> {
    async fn round(&mut self) {
        let api: Api<Pod> = Api::all(self.client.clone());
        let Ok(list) = api.list(&ListParams::default().labels(LABEL)).await else { return };
        for pod in &list.items {
            let Some(uid) = pod.uid() else { continue };
            if !self.pods.contains_key(&uid) {
                self.begin(pod, &uid).await;
            }
            self.care_for(pod, &uid).await;
        }
        let seen: Vec<String> = list.items.iter().filter_map(ResourceExt::uid).collect();
        // Deleted by force: the process is ended, as a kubelet would in the end.
        self.pods.retain(|uid, pod| {
            let stays = seen.contains(uid);
            if !stays {
                pod.end();
            }
            stays
        });
        *self.shared.running.lock() = self
            .pods
            .values()
            .map(|pod| ((pod.namespace.clone(), pod.name.clone()), (pod.child.id(), pod.address)))
            .collect();
    }

    /// Binds the pod, writes its files and starts its process. What is not there yet is waited for.
    async fn begin(&mut self, pod: &Pod, uid: &str) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first()).cloned().unwrap_or_default();
        if container.image.as_ref().is_some_and(|image| image.ends_with(MISSING)) {
            return self.report_missing_image(&namespace, &name, container.image.as_deref().unwrap_or_default()).await;
        }
        let Some(files) = self.volumes(pod, &namespace, uid).await else { return };
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
            let bound: kube::Result<serde_json::Value> =
                api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
            if bound.is_err() {
                return;
            }
        }
        let address = next_address();
        let expand = |arg: &String| {
            let arg = arg.replace("$(POD_NAME)", &name).replace("$(POD_NAMESPACE)", &namespace);
            arg.replace(MOUNTS, &files.mounts.to_string_lossy())
        };
        let mut command: Vec<String> = container.args.iter().flatten().map(expand).collect();
        command.extend(["--bind".to_string(), address.to_string()]);
        let running = Running {
            child: spawn(&command, &files.data),
            data: files.data,
            namespace,
            name,
            address,
            command,
            ready: false,
            restarts: 0,
            ended: None,
            ending: None,
            told_to_end: false,
            pre_stop: pre_stop(&container),
            reported: None,
        };
        self.pods.insert(uid.to_string(), running);
    }

    /// A pod whose image is nowhere stays as it is.
    async fn report_missing_image(&self, namespace: &str, name: &str, image: &str) {
        let waiting = json!({"reason": "ImagePullBackOff", "message": "no such image"});
        let container = json!({
            "name": "server", "image": image, "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting},
        });
        let status = json!({"status": {"phase": "Pending", "containerStatuses": [container]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        // The pod may be gone again.
        let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
    }

    /// The volumes as directories: ConfigMaps and Secrets as files, a claim as a directory that outlives the pod.
    async fn volumes(&self, pod: &Pod, namespace: &str, uid: &str) -> Option<Files> {
        let root = self.dir.path().join(namespace).join(uid);
        let mounts = root.join("etc");
        let volumes = pod.spec.as_ref()?.volumes.as_deref().unwrap_or_default();
        let claim = volumes.iter().find_map(|v| v.persistent_volume_claim.as_ref());
        let data = match claim {
            Some(claim) => {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
                let claim = api.get(&claim.claim_name).await.ok()?;
                // One that is on its way out is given to nobody; another of the same name is another volume.
                if claim.metadata.deletion_timestamp.is_some() {
                    return None;
                }
                self.dir.path().join(namespace).join("claims").join(claim.uid()?)
            }
            None => root.join("data"),
        };
        fs::create_dir_all(&data).expect("the test's directory can be written");
        for volume in volumes {
            let mut files: Vec<(String, Vec<u8>)> = Vec::new();
            if let Some(source) = &volume.config_map {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                let map = api.get(&source.name).await.ok()?;
                files.extend(map.data.unwrap_or_default().into_iter().map(|(name, text)| (name, text.into_bytes())));
            } else if let Some(source) = &volume.secret {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                let secret = api.get(source.secret_name.as_ref()?).await.ok()?;
                files.extend(secret.data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.0)));
            }
            let place = mounts.join(&volume.name);
            fs::create_dir_all(&place).expect("the test's directory can be written");
            for (name, bytes) in files {
                let text = String::from_utf8_lossy(&bytes).replace(MOUNTS, &mounts.to_string_lossy());
                let text = text.replace(DATA, &data.to_string_lossy());
                fs::write(place.join(name), text).expect("the test's directory can be written");
            }
        }
        Some(Files { mounts, data })
    }

    async fn care_for(&mut self, pod: &Pod, uid: &str) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let Some(running) = self.pods.get_mut(uid) else { return };
        let exited = running.child.try_wait().expect("a child can be asked").is_some();
        if pod.metadata.deletion_timestamp.is_some() {
            let since = *running.ending.get_or_insert_with(Instant::now);
            if !running.told_to_end && since.elapsed() >= running.pre_stop {
                running.told_to_end = true;
                let _ = Command::new("kill").arg(running.child.id().to_string()).status();
            }
            if exited {
                running.ended = Some(Timestamp::now());
                running.report(&api, false).await;
                let now = DeleteParams::default().grace_period(0);
                let _ = api.delete(&running.name, &now).await;
            }
            return;
        }
        if exited {
            running.ended = Some(Timestamp::now());
            running.restarts += 1;
            running.ready = false;
            running.child = spawn(&running.command, &running.data);
        }
        running.ready = answers_readyz(running.address).await;
        running.report(&api, true).await;
    }
}

/// How long a container goes on before it is told to end.
fn pre_stop(container: &Container) -> Duration {
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let seconds = hook.and_then(|hook| hook.sleep.as_ref()).map_or(0, |sleep| sleep.seconds);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

struct Files {
    mounts: PathBuf,
    data: PathBuf,
}

impl Running {
    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Tells the API server, if there is news.
    async fn report(&mut self, api: &Api<Pod>, runs: bool) {
        let terminated = self.ended.map(|at| json!({"terminated": {"exitCode": 0, "finishedAt": at.to_string()}}));
        let (state, last) = match runs {
            true => (json!({"running": {}}), terminated),
            false => (terminated.unwrap_or_default(), None),
        };
        let ready = if self.ready && runs { "True" } else { "False" };
        let status = json!({
            "phase": if runs { "Running" } else { "Succeeded" },
            "podIP": self.address, "podIPs": [{"ip": self.address}],
            "conditions": [{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready}],
            "containerStatuses": [{
                "name": "server", "image": "server", "imageID": "server", "ready": self.ready && runs, "started": runs,
                "restartCount": self.restarts, "state": state, "lastState": last.unwrap_or_else(|| json!({})),
            }],
        });
        if self.reported.as_ref() == Some(&status) {
            return;
        }
        let patch = Patch::Merge(json!({"status": status}));
        if api.patch_status(&self.name, &PatchParams::default(), &patch).await.is_ok() {
            self.reported = Some(status);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(command: &[String], dir: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("server.log")).expect("a log");
    Command::new(program("replicated-redis-server"))
        .args(command)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("the server can be started")
}

async fn answers_readyz(address: Ipv4Addr) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect((address, METRICS_PORT)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<bool, std::io::Error>(answer.starts_with("HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}
