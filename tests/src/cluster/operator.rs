//! The operator as a process of this machine, in front of an [`ApiServer`].

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::ApiServer;
use crate::prometheus::http_get;
use crate::{free_port, program};

/// Ends when dropped.
#[derive(Debug)]
pub struct OperatorProcess {
    child: Child,
    log: PathBuf,
    /// Of /metrics.
    pub metrics: SocketAddr,
}

impl OperatorProcess {
    pub fn start(api: &ApiServer, name: &str) -> OperatorProcess {
        let log = api.kubeconfig().with_file_name(format!("{name}.log"));
        let file = fs::File::create(&log).expect("the test's directory can be written");
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = Command::new(program("replicated-redis-operator"))
            .args(["run", "--lease-namespace", "default", "--server-image", "server:test"])
            .args(["--metrics-address", &metrics.to_string()])
            .env("KUBECONFIG", api.kubeconfig())
            .env("HOSTNAME", name)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a descriptor"))
            .stderr(file)
            .spawn()
            .expect("the operator can be started");
        OperatorProcess { child, log, metrics }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What /metrics says; empty while it does not answer.
    pub fn exposition(&self) -> String {
        http_get(self.metrics, "/metrics").map(|(_, body)| body).unwrap_or_default()
    }

    /// The sum of a metric's series whose labels contain `labels`.
    pub fn sum(&self, metric: &str, labels: &str) -> f64 {
        let text = self.exposition();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            let (own, value) = rest.rsplit_once(' ')?;
            let is_it = own.is_empty() || own.starts_with('{');
            (is_it && own.contains(labels)).then(|| value.parse::<f64>().ok()).flatten()
        });
        values.sum()
    }
}

impl Drop for OperatorProcess {
    #[expect(clippy::print_stdout, reason = "the output of a test that failed")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("operator:\n{}", self.log());
        }
    }
}
