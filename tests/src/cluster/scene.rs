//! What one case of the suite has: a namespace of its own in the cluster, and a voice.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::nodes::SYSTEM;
use super::{Cluster, Store, refused, succeeded, text};

/// The stage of one case. Everything goes when the case is over.
#[derive(Debug)]
pub struct Scene<'c> {
    pub cluster: &'c Cluster,
    /// The case's own namespace; what is run with [`Scene::kubectl`] is about it.
    pub namespace: String,
    case: String,
    begun: Instant,
    namespaces: Mutex<Vec<String>>,
}

impl<'c> Scene<'c> {
    pub(super) fn new(cluster: &'c Cluster, case: &str) -> Scene<'c> {
        // The names of a run that was killed may still be on their way out.
        let namespace = format!("rr-{}-{}", case.replace('_', "-"), std::process::id());
        let scene = Scene {
            cluster,
            namespace: namespace.clone(),
            case: case.to_string(),
            begun: Instant::now(),
            namespaces: Mutex::default(),
        };
        scene.make_namespace(&namespace);
        scene
    }

    /// Another namespace.
    pub fn make_namespace(&self, name: &str) {
        self.cluster.kubectl_ok(&["create", "namespace", name]);
        self.namespaces.lock().push(name.to_string());
        // It takes pods once it has its service account.
        let there = || self.cluster.kubectl(&["-n", name, "get", "serviceaccount", "default"]).status.success();
        crate::wait_for("the service account of the namespace", Duration::from_secs(30), there);
    }

    /// Tells the person who watches.
    #[expect(clippy::print_stdout, reason = "a test that is watched")]
    pub fn step(&self, what: &str) {
        println!("{:>6.1} s  {}: {what}", self.begun.elapsed().as_secs_f64(), self.case);
    }

    /// Runs kubectl in the case's namespace.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.cluster.kubectl(&[&["-n", &self.namespace], args].concat())
    }

    /// Runs a line of shell in a folder, as a person would whose kubectl is about the case's namespace.
    pub fn shell(&self, dir: &Path, line: &str) -> Output {
        let config = tempfile::NamedTempFile::new().expect("a file can be made");
        fs::copy(self.cluster.kubeconfig(), config.path()).expect("the kubeconfig can be copied");
        let kubectl = self.cluster.kubectl_program().display();
        let script = format!(
            "kubectl() {{ {kubectl} \"$@\"; }}\nkubectl config set-context --current --namespace={} >/dev/null\n{line}",
            self.namespace
        );
        let mut command = Command::new("bash");
        command.args(["-euc", &script]).current_dir(dir).env("KUBECONFIG", config.path()).stdin(Stdio::null());
        command.output().expect("bash can be run")
    }

    /// Runs kubectl, which must succeed; what it printed.
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        succeeded(self.kubectl(args), &format!("kubectl {args:?}"))
    }

    /// Runs kubectl, which must fail; what it complained of.
    pub fn kubectl_refused(&self, args: &[&str]) -> String {
        refused(self.kubectl(args), &format!("kubectl {args:?}"))
    }

    /// Applies YAML in the case's namespace.
    pub fn apply(&self, yaml: &str) -> Output {
        self.apply_to(&self.namespace, yaml)
    }

    fn apply_to(&self, namespace: &str, yaml: &str) -> Output {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        fs::write(file.path(), yaml).expect("the file can be written");
        let path = file.path().to_string_lossy();
        self.cluster.kubectl(&["-n", namespace, "apply", "--validate=strict", "-f", &path])
    }

    pub fn apply_ok(&self, yaml: &str) {
        self.apply_in(&self.namespace, yaml);
    }

    /// Applies YAML in another namespace, which must succeed.
    pub fn apply_in(&self, namespace: &str, yaml: &str) {
        succeeded(self.apply_to(namespace, yaml), "kubectl apply");
    }

    /// Applies YAML that must be refused; the complaint.
    pub fn apply_refused(&self, yaml: &str) -> String {
        refused(self.apply(yaml), yaml)
    }

    /// A datastore of the case's namespace. It is made with [`Store::apply`].
    pub fn store<'s>(&'s self, name: &str) -> Store<'s> {
        Store::new(self, &self.namespace, name)
    }

    /// A datastore that is ready: `spec` in one line of YAML, as in `{replicas: 2}`.
    pub fn ready_store<'s>(&'s self, name: &str, spec: &str) -> Store<'s> {
        let store = self.store(name);
        store.apply(spec);
        store.wait_ready(Duration::from_secs(90));
        self.step(&format!("{name} is ready"));
        store
    }

    /// What a person would look at when a case has failed.
    #[expect(clippy::print_stdout, reason = "a test that has failed")]
    pub(super) fn dump(&self) {
        let show = |title: &str, args: &[&str], lines: usize| {
            let output = self.cluster.kubectl(args);
            let all = text(&[output.stdout, output.stderr].concat());
            let shown: Vec<&str> = all.lines().collect();
            println!("---- {title}\n{}", shown[shown.len().saturating_sub(lines)..].join("\n"));
        };
        show("pods", &["get", "pods", "--all-namespaces", "-o", "wide"], 60);
        show("nodes", &["get", "nodes"], 10);
        for namespace in self.namespaces.lock().iter() {
            let of = |args: &[&'static str]| -> Vec<&str> { [&["-n", namespace.as_str()], args].concat() };
            show("describe rr", &of(&["describe", "rr"]), 150);
            show("events", &of(&["get", "events", "--sort-by=.lastTimestamp"]), 60);
            let pods = self.cluster.kubectl(&of(&["get", "pods", "-o", "name"]));
            for pod in text(&pods.stdout).lines() {
                show(&format!("log of {pod}"), &["-n", namespace, "logs", pod, "--all-containers", "--tail=25"], 25);
            }
        }
        let log = self.cluster.kubectl(&[
            "-n",
            SYSTEM,
            "logs",
            "-l",
            "app.kubernetes.io/component=operator",
            "--prefix",
            "--tail=2000",
        ]);
        let log = text(&log.stdout);
        let ours: Vec<&str> =
            log.lines().filter(|line| line.contains(&self.namespace) || !line.contains("/")).collect();
        println!("---- the operator\n{}", ours[ours.len().saturating_sub(80)..].join("\n"));
    }

    /// Takes everything away; nobody waits for it.
    pub(super) fn clear(&self) {
        for namespace in self.namespaces.lock().iter() {
            // Without their grace, pods would be in the way of the next case for two minutes.
            self.cluster.kubectl(&["-n", namespace, "delete", "rr", "--all", "--wait=false"]);
            self.cluster.kubectl(&["-n", namespace, "delete", "pods", "--all", "--grace-period=1", "--wait=false"]);
            self.cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]);
        }
    }
}
