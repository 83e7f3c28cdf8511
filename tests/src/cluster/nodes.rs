//! The real cluster: brought up by `tests/cluster/up.sh` for the whole run, or found; and what can be done to its nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;

use super::{build, succeeded, text, until};
use crate::wait_for;

/// Nodes of a cluster that the suite makes itself.
const NODES: u32 = 3;
/// Where the operator runs.
pub const SYSTEM: &str = "replicated-redis-system";
/// Its Deployment and its Lease.
pub const OPERATOR: &str = "replicated-redis-operator";
/// How this machine reaches Services: by way of a node.
const SERVICES: &str = "10.96.0.0/16";

/// A cluster with our images in it, and the operator.
#[derive(Debug)]
pub struct Cluster {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// Where the images are.
    pub registry: String,
    /// Made by `up.sh`, so that its nodes can be killed and cut off; the folder of its state.
    state: Option<PathBuf>,
    /// Made by this run, and ended with it.
    own: bool,
    faults: Mutex<Faults>,
}

/// What has been done to nodes and not undone.
#[derive(Debug, Default)]
struct Faults {
    dead: Vec<u32>,
    cut_off: Vec<u32>,
}

impl Cluster {
    /// The cluster that `KUBECONFIG` names, or that of `make cluster` if it is up, or a new one of three nodes.
    pub fn find_or_start() -> Result<Cluster> {
        let state = state_dir();
        let theirs = variable("KUBECONFIG").map(PathBuf::from);
        let ours = state.join("kubeconfig");
        let kubeconfig = theirs.clone().unwrap_or_else(|| ours.clone());
        let mut own = false;
        if kubeconfig == ours {
            clear_leftover(&state)?;
            if !state.join("pid").exists() {
                own = true;
                start(&state)?;
            }
        }
        let cluster = Cluster {
            kubectl: build("control-plane").join("kubectl"),
            registry: variable("IMAGE_REGISTRY").unwrap_or_else(|| "localhost".into()),
            state: (kubeconfig == ours).then_some(state),
            kubeconfig,
            own,
            faults: Mutex::default(),
        };
        let answer = cluster.kubectl(&["get", "nodes", "-o", "name"]);
        ensure!(
            answer.status.success(),
            "the cluster of {} does not answer: {}",
            cluster.kubeconfig.display(),
            text(&answer.stderr).trim()
        );
        Ok(cluster)
    }

    /// Ends what this run has begun. Also when it is called twice.
    pub fn end(&self) {
        if self.own {
            let _ = script("down.sh").status();
        }
    }

    /// Ends the cluster that this process was about to make, if it was.
    pub(super) fn end_unfinished() {
        let owner = fs::read_to_string(state_dir().join(OWNER)).unwrap_or_default();
        if owner == std::process::id().to_string() {
            let _ = script("down.sh").status();
        }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Whether nodes can be killed and cut off: it is a cluster of this machine, and has several.
    pub fn has_own_nodes(&self) -> bool {
        self.state.is_some() && self.nodes().len() >= 3
    }

    pub fn nodes(&self) -> Vec<String> {
        let names = self.kubectl_ok(&["get", "nodes", "-o", "name"]);
        names.lines().map(|line| line.trim_start_matches("node/").to_string()).collect()
    }

    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// kubectl, to be run with arguments of the caller.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// Runs kubectl.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_command().args(args).output().expect("kubectl can be run")
    }

    /// Runs kubectl, which must succeed; what it printed.
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        succeeded(self.kubectl(args), &format!("kubectl {args:?}"))
    }

    /// The image of one of our programs.
    pub fn image(&self, program: &str) -> String {
        format!("{}/{program}:{}", self.registry, env!("CARGO_PKG_VERSION"))
    }

    /// Installs the CRD and the operators of this checkout.
    pub fn install_operator(&self) -> Result<()> {
        let mut path = self.kubectl.parent().context("kubectl has a folder")?.as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut install = script("install.sh");
        install.env("KUBECONFIG", &self.kubeconfig).env("IMAGE_REGISTRY", &self.registry).env("PATH", path);
        let output = install.output().context("running install.sh")?;
        ensure!(output.status.success(), "install.sh: {}", text(&output.stderr));
        Ok(())
    }

    /// Waits until every pod of the operator is ready.
    pub fn wait_for_operator(&self) {
        self.kubectl_ok(&["-n", SYSTEM, "rollout", "status", &format!("deployment/{OPERATOR}"), "--timeout=90s"]);
    }

    /// The pod of the operator that leads, and its node.
    pub fn operator_pod(&self) -> (String, String) {
        let holder = ["-n", SYSTEM, "get", "lease", OPERATOR, "-o", "jsonpath={.spec.holderIdentity}"];
        // POD-RANDOM; empty while one has given the lead up and another has not seen it.
        let pod = until("an operator to lead", Duration::from_secs(30), || {
            let holder = self.kubectl_ok(&holder);
            holder.rsplit_once('-').map(|(pod, _)| pod.to_string())
        });
        let node = self.kubectl_ok(&["-n", SYSTEM, "get", "pod", &pod, "-o", "jsonpath={.spec.nodeName}"]);
        (pod, node)
    }

    /// A field of the operator's pod.
    pub fn operator_field(&self, pod: &str, path: &str) -> String {
        self.kubectl_ok(&["-n", SYSTEM, "get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Changes the operators' Deployment, and waits until only its new pods are there.
    pub fn patch_operator(&self, patch: &str) {
        self.kubectl_ok(&["-n", SYSTEM, "patch", "deployment", OPERATOR, "--patch", patch]);
        self.wait_for_operator();
        let count = ["-n", SYSTEM, "get", "deployment", OPERATOR, "-o", "jsonpath={.spec.replicas}"];
        let wanted = self.kubectl_ok(&count).parse().unwrap_or(1);
        let pods = ["-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "name"];
        wait_for("the old operators to be gone", Duration::from_secs(60), || {
            self.kubectl_ok(&pods).lines().count() == wanted
        });
    }

    /// Ends the operator's process without a word; its kubelet starts it again.
    pub fn kill_operator(&self, pod: &str) {
        crate::local::kill("-KILL", self.process_of(&self.operator_field(pod, ".metadata.uid")));
    }

    /// What the operators were forbidden to do: lines of their logs, and of their former containers'.
    pub fn forbidden(&self) -> Vec<String> {
        let pods = ["-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "name"];
        let pods = self.kubectl_ok(&pods);
        let logs = pods.lines().flat_map(|pod| {
            [false, true].map(|previous| {
                let previous = format!("--previous={previous}");
                text(&self.kubectl(&["-n", SYSTEM, "logs", pod, &previous]).stdout)
            })
        });
        let lines = logs.flat_map(|log| log.lines().map(str::to_string).collect::<Vec<_>>());
        lines.filter(|line| line.contains("is forbidden: User")).collect()
    }

    // ---- nodes ----

    fn state(&self) -> &Path {
        self.state.as_deref().expect("only a case that needs nodes does something to them")
    }

    /// Cuts a node's power: its processes and devices are gone, its disk stays.
    pub fn kill_node(&self, node: &str) {
        let n = number(node);
        run(script("node.sh").args(["kill", &n.to_string()]));
        self.faults.lock().dead.push(n);
        self.route_services();
    }

    /// Starts it again.
    pub fn start_node(&self, node: &str) {
        let n = number(node);
        run(script("node.sh").args(["up", &n.to_string()]));
        self.faults.lock().dead.retain(|dead| *dead != n);
        self.route_services();
    }

    /// Takes a node's cable out: it goes on, alone.
    pub fn cut_off(&self, node: &str) {
        self.cable(node, "down");
        self.faults.lock().cut_off.push(number(node));
        self.route_services();
    }

    /// Puts it back.
    pub fn reconnect(&self, node: &str) {
        self.cable(node, "up");
        self.faults.lock().cut_off.retain(|cut| *cut != number(node));
        self.route_services();
    }

    fn cable(&self, node: &str, what: &str) {
        run(Command::new("ip").args(["link", "set", &format!("rrveth{}", number(node)), what]));
    }

    /// This machine goes to Services by a node that lives, as a client on that node would.
    fn route_services(&self) {
        let down: Vec<u32> = {
            let faults = self.faults.lock();
            faults.dead.iter().chain(&faults.cut_off).copied().collect()
        };
        let by = (1..=NODES).find(|n| !down.contains(n)).expect("not all nodes are down");
        run(Command::new("ip").args(["route", "replace", SERVICES, "via", &format!("10.10.0.1{by}")]));
    }

    /// A command in the network of a node (and nothing else of it): the caller adds program and arguments.
    pub fn in_network_of(&self, node: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.first_process_of(node).to_string(), "--"]);
        command
    }

    /// The process of ours (server or operator) in a pod, by the pod's uid.
    pub fn process_of(&self, uid: &str) -> u32 {
        let group = format!("pod{uid}");
        let processes = fs::read_dir("/proc").expect("/proc can be read").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        let read = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        // The kernel cuts the name short.
        let is_ours = |pid: &u32| read(*pid, "comm").starts_with("replicated-redi");
        let mut found = pids.filter(|pid| read(*pid, "cgroup").contains(&group)).filter(is_ours);
        found.next().unwrap_or_else(|| panic!("no process of ours runs in pod {uid}"))
    }

    /// Where an emptyDir of a pod is, on this machine.
    pub fn empty_dir(&self, node: &str, uid: &str, volume: &str) -> PathBuf {
        self.state().join(node).join(format!("var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/{volume}"))
    }

    /// Mounts a file system of so many MiB on a node: its path there, and as it is seen from this machine. It goes with the
    /// node.
    pub fn mount_small(&self, node: &str, name: &str, size_mib: usize) -> (PathBuf, PathBuf) {
        let path = self.state().join("volumes").join(name);
        fs::create_dir_all(&path).expect("the folder of the cluster's state");
        let mount = format!("mount -t tmpfs -o size={size_mib}m,mode=0777 {name} {}", path.display());
        run(script("node.sh").args(["exec", &number(node).to_string(), "sh", "-c", &mount]));
        let inside = path.strip_prefix("/").expect("an absolute path");
        let seen = PathBuf::from(format!("/proc/{}/root", self.first_process_of(node))).join(inside);
        (path, seen)
    }

    /// Process 1 of a node.
    fn first_process_of(&self, node: &str) -> u32 {
        let outer = fs::read_to_string(self.state().join(format!("pid/{node}"))).expect("the node is up");
        let outer = outer.trim();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).expect("the node is up");
        children.trim().parse().expect("it has one child")
    }

    /// Undoes every fault, and makes all nodes fit for pods.
    pub fn heal(&self) {
        let (dead, cut_off) = {
            let faults = self.faults.lock();
            (faults.dead.clone(), faults.cut_off.clone())
        };
        cut_off.iter().for_each(|n| self.reconnect(&format!("node{n}")));
        dead.iter().for_each(|n| self.start_node(&format!("node{n}")));
        self.nodes().iter().for_each(|node| {
            self.kubectl_ok(&["uncordon", node]);
        });
        if !dead.is_empty() || !cut_off.is_empty() {
            self.wait_for_nodes();
        }
    }

    /// Waits until every node is ready.
    pub fn wait_for_nodes(&self) {
        wait_for("the nodes to be ready", Duration::from_secs(90), || {
            self.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=5s"]).status.success()
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where `up.sh` keeps its state: the same as in env.sh.
fn state_dir() -> PathBuf {
    if let Some(dir) = variable("RR_CLUSTER_DIR") {
        return dir.into();
    }
    let home = || PathBuf::from(variable("HOME").unwrap_or_default()).join(".cache");
    variable("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("replicated-redis/cluster")
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The pid of the suite that made the cluster: one that was killed leaves it behind.
const OWNER: &str = "suite.pid";

/// Ends a cluster that a killed suite has left behind. One of a person stays.
fn clear_leftover(state: &Path) -> Result<()> {
    let Ok(owner) = fs::read_to_string(state.join(OWNER)) else { return Ok(()) };
    let command_line = fs::read_to_string(format!("/proc/{}/cmdline", owner.trim())).unwrap_or_default();
    if command_line.contains("cluster") {
        bail!("another run of this suite (process {}) uses the cluster of this machine", owner.trim());
    }
    run(&mut script("down.sh"));
    Ok(())
}

fn start(state: &Path) -> Result<()> {
    let whoami = Command::new("id").arg("-u").output().context("running id")?;
    ensure!(
        text(&whoami.stdout).trim() == "0",
        "a cluster of this machine needs root (namespaces, a bridge, control groups): `make cluster-test` runs this suite with sudo"
    );
    for tool in ["containerd", "runc", "nft", "iptables", "ip", "busybox", "redis-cli"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().context("running sh")?;
        ensure!(found.status.success(), "{tool} is not installed: `make cluster-packages` installs it");
    }
    // The images are made of the programs beside this one.
    let own = std::env::current_exe().context("the suite's own path")?;
    let profile = own.parent().and_then(Path::parent).and_then(Path::file_name).context("target/PROFILE/deps")?;
    fs::create_dir_all(state).context("the folder of the cluster's state")?;
    fs::write(state.join(OWNER), std::process::id().to_string()).context("the folder of the cluster's state")?;
    let up = script("up.sh").arg(NODES.to_string()).env("PROFILE", profile).status().context("running up.sh")?;
    if !up.success() {
        let _ = script("down.sh").status();
        bail!("tests/cluster/up.sh failed: the cluster did not come up");
    }
    Ok(())
}

fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name));
    command.stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    succeeded(output, &format!("{command:?}"));
}

fn number(node: &str) -> u32 {
    node.strip_prefix("node").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{node} is no node of up.sh"))
}
