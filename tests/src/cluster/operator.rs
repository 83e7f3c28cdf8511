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
pub struct Operator {
    child: Child,
    log: PathBuf,
    /// Of /metrics.
    pub metrics: SocketAddr,
}

impl Operator {
    pub fn start(api: &ApiServer, name: &str) -> Operator {
        Self::start_with_image(api, name, "server:test")
    }

    /// One whose default for the server is `image`.
    pub fn start_with_image(api: &ApiServer, name: &str, image: &str) -> Operator {
        let args = ["run", "--lease-namespace", "default", "--server-image", image];
        Self::start_as(api, name, &args, &[("KUBECONFIG", &api.kubeconfig().to_string_lossy())])
    }

    /// One with these arguments, but for the address of /metrics, and this environment.
    pub fn start_as(api: &ApiServer, name: &str, args: &[&str], env: &[(&str, &str)]) -> Operator {
        let log = api.kubeconfig().with_file_name(format!("{name}.log"));
        let file = fs::File::create(&log).expect("the test's directory can be written");
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = Command::new(program("replicated-redis-operator"))
            .args(args)
            .args(["--metrics-address", &metrics.to_string()])
            .env("HOSTNAME", name)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a descriptor"))
            .stderr(file)
            .spawn()
            .expect("the operator can be started");
        Operator { child, log, metrics }
    }

    /// Ends it by this signal, as in `-TERM`.
    pub fn end(&mut self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
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

impl Drop for Operator {
    #[expect(clippy::print_stdout, reason = "the output of a test that failed")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("operator:\n{}", self.log());
        }
    }
}
