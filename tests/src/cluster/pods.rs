//! Datastores as a person sees them, on an [`ApiServer`] whose pods are processes.

use std::time::Duration;

use super::{ApiServer, ProcessKubelet, until};
use crate::Conn;

/// Whatever is waited for comes within this.
pub const SOON: Duration = Duration::from_secs(60);
/// The namespace of all of it.
pub const NS: &str = "default";

/// One datastore as a person sees it.
#[derive(Debug)]
pub struct Datastore<'a> {
    pub api: &'a ApiServer,
    pub kubelet: &'a ProcessKubelet,
    pub name: &'a str,
}

impl Datastore<'_> {
    pub fn apply(&self, spec: &str) {
        let (name, head) = (self.name, "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis");
        self.api.apply_ok(&format!("{head}\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
    }

    pub fn field(&self, path: &str) -> String {
        self.api.kubectl_ok(&["get", "rr", self.name, "-o", &format!("jsonpath={{{path}}}")])
    }

    pub fn master(&self) -> String {
        self.field(".status.currentMaster")
    }

    pub fn condition(&self, kind: &str, field: &str) -> String {
        self.field(&format!(".status.conditions[?(@.type=='{kind}')].{field}"))
    }

    /// Ready for the generation that is there now.
    pub fn wait_ready(&self) {
        until(&format!("{} to be ready", self.name), SOON, || {
            let now = self
                .field("{.metadata.generation} {.status.observedGeneration} {.status.phase}".trim_matches(['{', '}']));
            let words: Vec<&str> = now.split(' ').collect();
            let current = matches!(words[..], [wanted, seen, "Ready"] if wanted == seen);
            current.then_some(())
        });
    }

    pub fn password(&self) -> String {
        let secret = format!("{}-auth", self.name);
        let given = "go-template={{.data.password | base64decode}}";
        self.api.kubectl_ok(&["get", "secret", &secret, "-o", given])
    }

    pub fn conn(&self, pod: &str) -> Option<Conn> {
        let address = self.kubelet.address(NS, pod)?;
        let mut conn = Conn::open_at((address, 6379).into()).ok()?;
        conn.try_call(&["AUTH", &self.password()]).ok()?;
        Some(conn)
    }

    pub fn call(&self, pod: &str, line: &str) -> String {
        self.conn(pod).unwrap_or_else(|| panic!("{pod} does not answer")).text(line)
    }

    /// The ready pods that a Service selects. (Its EndpointSlices stay empty here: they take no loopback addresses.)
    pub fn endpoints(&self, service: &str) -> Vec<String> {
        let json = |args: &[&str]| -> serde_json::Value {
            serde_json::from_str(&self.api.kubectl_ok(&[args, &["-o", "json"]].concat())).expect("kubectl prints JSON")
        };
        let service = json(&["get", "service", service]);
        let selector = service["spec"]["selector"].as_object().expect("it has a selector");
        let labels: Vec<String> =
            selector.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        let pods = json(&["get", "pods", "-l", &labels.join(",")]);
        let is_ready = |pod: &&serde_json::Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        let ready = pods["items"].as_array().expect("a list").iter().filter(is_ready);
        ready.map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_string()).collect()
    }

    pub fn pods(&self) -> Vec<String> {
        let selector = format!("replicated-redis.io/cluster={}", self.name);
        let names = self.api.kubectl_ok(&["get", "pods", "-l", &selector, "-o", "name"]);
        names.lines().map(|line| line.trim_start_matches("pod/").to_string()).collect()
    }
}
