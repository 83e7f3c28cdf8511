//! A real Kubernetes API for tests: etcd, kube-apiserver and kube-controller-manager as processes of this machine, and
//! [`ProcessKubelet`], which runs the pods as processes.
//!
//! And a real cluster of nodes ([`Cluster`]) for the suite in `tests/tests/cluster`: a [`Scene`] is what one of its cases has,
//! a [`Witness`] writes and reads meanwhile, and [`history`] judges what it saw.
//!
//! The programs are built by `tests/cluster/build.sh`, once for its sources.

pub mod fleet;
pub mod helm;
pub mod history;
mod kubelet;
mod lives;
mod nodes;
mod operator;
pub mod pods;
mod runner;
mod scene;
mod store;
pub mod witness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use kubelet::{Addresses, ProcessKubelet};
pub use lives::Life;
pub use nodes::{Cluster, OPERATOR, SYSTEM};
pub use operator::Operator;
pub use runner::{Case, Needs, main};
pub use scene::Scene;
pub use store::Store;
pub use witness::Witness;

use crate::{free_port, pause_after_look, wait_for};

const UP_WITHIN: Duration = Duration::from_secs(90);
const TOKEN: &str = "the-admin-of-a-test";

/// etcd, kube-apiserver and kube-controller-manager; they end with this value.
#[derive(Debug)]
pub struct ApiServer {
    bin: PathBuf,
    dir: TempDir,
    children: Vec<Child>,
}

impl ApiServer {
    /// Starts them and waits until the API is ready and its default namespace can be used.
    pub fn start() -> ApiServer {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let mut server = ApiServer { bin: build("control-plane"), dir, children: Vec::new() };
        let etcd = server.start_etcd();
        server.start_apiserver(&etcd);
        wait_for("the API server", UP_WITHIN, || server.kubectl(&["get", "--raw", "/readyz"]).status.success());
        server.start_controllers();
        wait_for("the default service account", UP_WITHIN, || {
            server.kubectl(&["get", "serviceaccount", "default"]).status.success()
        });
        server
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Runs kubectl.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        Command::new(self.bin.join("kubectl"))
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("kubectl can be run")
    }

    /// Runs kubectl, which must succeed; what it printed.
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        succeeded(self.kubectl(args), &format!("kubectl {args:?}"))
    }

    /// Runs kubectl, which must fail; what it complained of.
    pub fn kubectl_refused(&self, args: &[&str]) -> String {
        refused(self.kubectl(args), &format!("kubectl {args:?}"))
    }

    /// Applies YAML.
    pub fn apply(&self, yaml: &str) -> Output {
        // A file for each call: tests of a file share the server.
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).expect("the test's directory can be written");
        fs::write(file.path(), yaml).expect("the test's directory can be written");
        self.kubectl(&["apply", "--validate=strict", "-f", &file.path().to_string_lossy()])
    }

    pub fn apply_ok(&self, yaml: &str) {
        succeeded(self.apply(yaml), "kubectl apply");
    }

    /// Applies YAML that must be refused; the complaint.
    pub fn apply_refused(&self, yaml: &str) -> String {
        refused(self.apply(yaml), yaml)
    }

    /// Evicts a pod, as a drain does; its budget must allow it.
    pub fn evict(&self, namespace: &str, pod: &str) {
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).expect("the test's directory can be written");
        let eviction = format!(r#"{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{pod}"}}}}"#);
        fs::write(file.path(), eviction).expect("the test's directory can be written");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        self.kubectl_ok(&["create", "--raw", &path, "-f", &file.path().to_string_lossy()]);
    }

    /// Installs the CRD of this checkout.
    pub fn install_crd(&self) {
        let crd = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crd.yaml");
        self.kubectl_ok(&["apply", "--server-side", "-f", crd]);
        self.kubectl_ok(&["wait", "--for=condition=Established", "crd/replicatedredises.replicated-redis.io"]);
        // Established is not yet published: explain reads the schema.
        wait_for("the schema", UP_WITHIN, || self.kubectl(&["explain", "rr.spec"]).status.success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&mut self, program: &str, args: &[String]) {
        let log = fs::File::create(self.path(&format!("{program}.log"))).expect("the test's directory can be written");
        let child = Command::new(self.bin.join(program))
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        self.children.push(child);
    }

    /// Returns the address for clients.
    fn start_etcd(&mut self) -> String {
        let (clients, peers) = (free_url(), free_url());
        let args = [
            format!("--data-dir={}", self.path("etcd").display()),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
        ];
        self.spawn("etcd", &args);
        clients
    }

    fn start_apiserver(&mut self, etcd: &str) {
        let key = self.path("service-accounts.key");
        let made = Command::new("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(&key)
            .stderr(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "openssl must be installed");
        let tokens = self.path("tokens.csv");
        fs::write(&tokens, format!("{TOKEN},admin,admin,system:masters\n"))
            .expect("the test's directory can be written");
        let port = free_port();
        let key = key.display();
        let args = [
            format!("--etcd-servers={etcd}"),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            // It makes itself a certificate here.
            format!("--cert-dir={}", self.path("certificates").display()),
            format!("--token-auth-file={}", tokens.display()),
            "--authorization-mode=RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--endpoint-reconciler-type=none".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
        ];
        self.spawn("kube-apiserver", &args);
        let kubeconfig = format!(
            r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "test",
"clusters": [{{"name": "test", "cluster": {{"server": "https://127.0.0.1:{port}", "insecure-skip-tls-verify": true}}}}],
"users": [{{"name": "admin", "user": {{"token": "{TOKEN}"}}}}],
"contexts": [{{"name": "test", "context": {{"cluster": "test", "user": "admin"}}}}]}}"#
        );
        fs::write(self.kubeconfig(), kubeconfig).expect("the test's directory can be written");
    }

    fn start_controllers(&mut self) {
        let args = [
            format!("--kubeconfig={}", self.kubeconfig().display()),
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            // Its own limit of 20 calls a second is for a cluster that lives longer.
            "--kube-api-qps=500".into(),
            "--kube-api-burst=500".into(),
            format!("--service-account-private-key-file={}", self.path("service-accounts.key").display()),
            // The nodes of these tests are names only, and their addresses are not fit for endpoint slices.
            "--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller,-node-ipam-controller,\
             -endpointslice-controller,-endpoints-controller,-endpointslice-mirroring-controller"
                .into(),
        ];
        self.spawn("kube-controller-manager", &args);
    }
}

impl Drop for ApiServer {
    #[expect(clippy::print_stdout, reason = "the output of a test that failed")]
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for program in ["etcd", "kube-apiserver", "kube-controller-manager"] {
                let log = fs::read_to_string(self.path(&format!("{program}.log"))).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                println!("the end of {program}'s log, last line first:\n{}", last.join("\n"));
            }
        }
    }
}

/// The folder with what `tests/cluster/build.sh WHAT` builds; for the control plane etcd, kube-apiserver,
/// kube-controller-manager and kubectl.
pub fn build(what: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/build.sh");
    let output =
        Command::new(&script).arg(what).stderr(Stdio::inherit()).output().expect("the build script can be run");
    assert!(output.status.success(), "{} failed", script.display());
    text(&output.stdout).trim().into()
}

fn free_url() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

/// What a program printed that must have succeeded.
fn succeeded(output: Output, what: &str) -> String {
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// What a program complained of that must have failed.
fn refused(output: Output, what: &str) -> String {
    assert!(!output.status.success(), "{what} should be refused: {}", text(&output.stdout));
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `f` gives a value.
pub fn until<T>(what: &str, limit: Duration, mut f: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        let looked = Instant::now();
        if let Some(value) = f() {
            return value;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} for: {what}");
        pause_after_look(looked.elapsed());
    }
}
