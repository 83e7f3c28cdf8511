//! A real Prometheus (Debian's) for tests: it scrapes, evaluates rules, and answers queries.
//!
//! Debian builds it without the discovery of Kubernetes's pods. So [`with_pods`] puts the pods in the place of the discovery,
//! with the labels that it would give them; what is kept and how it is named is decided by the configuration as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{free_port, wait_for};

const UP_WITHIN: Duration = Duration::from_secs(60);

/// The labels of a series and its value.
pub type Sample = (BTreeMap<String, String>, f64);

/// Ends when dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one with this configuration, in which `RULES` stands for the path of a file with these rules.
    pub fn start(config: &str, rules: &str) -> Prometheus {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let (config_file, rule_file) = (dir.path().join("prometheus.yml"), dir.path().join("rules.yml"));
        fs::write(&rule_file, rules).expect("the test's directory can be written");
        fs::write(&config_file, config.replace("RULES", &rule_file.to_string_lossy()))
            .expect("the test's directory can be written");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = fs::File::create(dir.path().join("log")).expect("the test's directory can be written");
        let mut child = Command::new(programs().join("prometheus"))
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus can be started");
        wait_for("Prometheus", UP_WITHIN, || {
            if child.try_wait().expect("a child can be asked").is_some() {
                panic!("Prometheus has ended: {}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
            }
            http_get(address, "/-/ready").is_ok_and(|(code, _)| code == 200)
        });
        Prometheus { child, address, _dir: dir }
    }

    /// Evaluates an expression now. An error is Prometheus's own text.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let path = format!("/api/v1/query?query={}", escaped(expression));
        let (_, body) = http_get(self.address, &path).map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let sample = |value: &Value| {
            let labels = value["metric"].as_object()?.iter();
            let labels = labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string())).collect();
            Some((labels, value["value"][1].as_str()?.parse().ok()?))
        };
        Ok(answer["data"]["result"].as_array().into_iter().flatten().filter_map(sample).collect())
    }

    /// Names of the alerts that fire.
    pub fn firing(&self) -> BTreeSet<String> {
        // Whether the disk of this machine is nearly full is not what a test asks.
        let ours = "ALERTS{alertstate=\"firing\", alertname!=\"ReplicatedRedisDiskNearlyFull\"}";
        let alerts = self.query(&format!("group by (alertname) ({ours})")).expect("a valid expression");
        alerts.into_iter().filter_map(|(mut labels, _)| labels.remove("alertname")).collect()
    }

    /// Names of the metrics that it has.
    pub fn names(&self) -> BTreeSet<String> {
        let names = self.query("group by (__name__) ({__name__=~\".+\"})").expect("a valid expression");
        names.into_iter().filter_map(|(mut labels, _)| labels.remove("__name__")).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration in which these pods (as `kubectl get pods -o json` prints them) stand in the place of their discovery.
pub fn with_pods(config: &str, pods: &str) -> String {
    let pods: Value = serde_json::from_str(pods).expect("kubectl prints JSON");
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut targets = Vec::new();
    for pod in all(&pods["items"]) {
        let mut labels = serde_json::Map::new();
        for (name, value) in [
            ("namespace", &pod["metadata"]["namespace"]),
            ("pod_name", &pod["metadata"]["name"]),
            ("pod_phase", &pod["status"]["phase"]),
        ] {
            labels.insert(format!("__meta_kubernetes_{name}"), value.clone());
        }
        for (name, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
            let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            labels.insert(format!("__meta_kubernetes_pod_label_{name}"), value.clone());
        }
        let ports =
            all(&pod["spec"]["containers"]).iter().flat_map(|container| all(&container["ports"])).collect::<Vec<_>>();
        for port in ports {
            labels.insert("__meta_kubernetes_pod_container_port_name".into(), port["name"].clone());
            let address = format!("{}:{}", pod["status"]["podIP"].as_str().unwrap_or_default(), port["containerPort"]);
            targets.push(json!({"targets": [address], "labels": labels}));
        }
    }
    let discovery = "    kubernetes_sd_configs:\n      - role: pod\n";
    assert!(config.contains(discovery), "the configuration discovers pods: {config}");
    config.replace(discovery, &format!("    static_configs: {}\n", Value::Array(targets)))
}

/// Runs promtool with this input.
pub fn promtool(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(programs().join("promtool"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end before it has read everything.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("promtool ends")
}

/// GET: the status code and the body.
pub fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // Of version 1.0, so that the body comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string());
    code.zip(body).ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {answer}")))
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// The folder with prometheus and promtool.
fn programs() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring/install.sh");
    let output = Command::new(&script).stderr(Stdio::inherit()).output().expect("the script can be run");
    assert!(output.status.success(), "{} failed", script.display());
    String::from_utf8_lossy(&output.stdout).trim().into()
}
