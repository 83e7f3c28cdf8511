//! One datastore of the real cluster, as a person and a client see it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::history::{Client, Promise, Summary, judge};
use super::witness::{Target, list_key};
use super::{Scene, Witness, until, witness};
use crate::{Conn, wait_for};

const PORT: u16 = 6379;
/// Nothing that is only looked at takes longer than this.
const SOON: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Store<'s> {
    scene: &'s Scene<'s>,
    pub namespace: String,
    pub name: String,
}

impl<'s> Store<'s> {
    pub fn new(scene: &'s Scene<'s>, namespace: &str, name: &str) -> Store<'s> {
        Store { scene, namespace: namespace.to_string(), name: name.to_string() }
    }

    // ---- as a person ----

    /// Makes or changes it: `spec` in one line of YAML, as in `{replicas: 2}`.
    pub fn apply(&self, spec: &str) {
        let (name, namespace) = (&self.name, &self.namespace);
        let head = "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis";
        let yaml = format!("{head}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n");
        self.scene.apply_in(namespace, &yaml);
    }

    /// Runs kubectl in its namespace, which must succeed; what it printed.
    pub fn kubectl_ok(&self, args: &[&str]) -> String {
        self.scene.cluster.kubectl_ok(&[&["-n", &self.namespace], args].concat())
    }

    /// A field of the object by its JSON path, as in `.status.phase`.
    pub fn field(&self, path: &str) -> String {
        self.kubectl_ok(&["get", "rr", &self.name, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// The whole object.
    pub fn json(&self) -> serde_json::Value {
        let text = self.kubectl_ok(&["get", "rr", &self.name, "-o", "json"]);
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    pub fn condition(&self, kind: &str, field: &str) -> String {
        self.field(&format!(".status.conditions[?(@.type=='{kind}')].{field}"))
    }

    /// The instance that has the master role.
    pub fn master(&self) -> String {
        self.field(".status.currentMaster")
    }

    pub fn epoch(&self) -> u64 {
        self.field(".status.record.epoch").parse().expect("an epoch")
    }

    /// Waits until it is Ready, with the generation that is there now, and its servers say so themselves: right after an
    /// election the status is still the one from before.
    pub fn wait_ready(&self, limit: Duration) {
        wait_for(&format!("{} to be ready", self.name), limit, || {
            let object = self.json();
            let (generation, status) = (&object["metadata"]["generation"], &object["status"]);
            let record = &status["record"];
            *generation == status["observedGeneration"]
                && status["phase"] == "Ready"
                && record["target"].is_null()
                && status["currentMaster"] == record["master"]["name"]
                && record["epoch"].as_u64().is_some_and(|epoch| self.is_whole(epoch))
        });
    }

    /// Every pod that stays has a role of that epoch: one is a master that takes writes, the others have their link to it.
    fn is_whole(&self, epoch: u64) -> bool {
        let selector = format!("replicated-redis.io/cluster={}", self.name);
        let pods: serde_json::Value =
            serde_json::from_str(&self.kubectl_ok(&["get", "pods", "-l", &selector, "-o", "json"])).expect("JSON");
        let pods = pods["items"].as_array().expect("a list").iter();
        let mut masters = 0;
        let password = self.password();
        let all = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).all(|pod| {
            let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            let status = ip.and_then(|ip| {
                let mut conn = authenticated((ip, PORT).into(), &password)?;
                conn.try_call(&["REPLICATED", "STATUS"]).ok()
            });
            let field =
                |name: &str| status.as_ref().and_then(|status| witness::field(status, name)).unwrap_or_default();
            let is_master = field("role") == "master";
            masters += usize::from(is_master);
            let serves = if is_master { field("writable") == "1" } else { field("link") == "up" };
            field("role_epoch") == epoch.to_string() && serves
        });
        all && masters == 1
    }

    /// Waits until another instance than `old` is master; its name.
    pub fn wait_for_other_master(&self, old: &str, limit: Duration) -> String {
        let other = || Some(self.master()).filter(|name| name != old && !name.is_empty());
        until(&format!("another master than {old}"), limit, other)
    }

    /// Waits until a later epoch than that has a master; its name. After a master's process has ended, that may be the same
    /// instance: it comes back with its data, and whoever holds the most wins (R6).
    pub fn wait_for_reign_after(&self, epoch: u64, limit: Duration) -> String {
        until(&format!("a master of a later epoch than {epoch}"), limit, || {
            let record = &self.json()["status"]["record"];
            let is_made = record["target"].is_null() && record["epoch"].as_u64().is_some_and(|now| now > epoch);
            let name = record["master"]["name"].as_str().filter(|_| is_made);
            name.map(str::to_string)
        })
    }

    /// Asks for a switchover to an instance (or `any`), and waits until it is master.
    pub fn switch_over(&self, to: &str) -> String {
        let old = self.master();
        self.kubectl_ok(&["annotate", "rr", &self.name, &format!("replicated-redis.io/switchover={to}")]);
        self.wait_for_other_master(&old, SOON)
    }

    /// Asks for switchovers until that instance is master. One that does not hold the most at that moment, because the machine
    /// is busy, leaves the role to one that does (R5.4).
    pub fn bring_master_to(&self, instance: &str) {
        for _ in 0..5 {
            if self.master() == instance {
                return;
            }
            self.switch_over(instance);
            self.wait_ready(SOON);
        }
        assert_eq!(self.master(), instance, "asked for five times");
    }

    /// Brings the master role to an instance that does not live on `node`, if it is there; the master, and its node.
    pub fn master_away_from(&self, node: &str) -> (String, String) {
        let is_elsewhere = |pod: &String| self.node_of(pod) != node;
        let mut master = self.master();
        if !is_elsewhere(&master) {
            let to = self.pods().into_iter().find(is_elsewhere).expect("instances are on several nodes");
            master = self.switch_over(&to);
            self.wait_ready(SOON);
        }
        let node = self.node_of(&master);
        (master, node)
    }

    /// Waits until the record has so many members, and no change is under way.
    pub fn wait_for_members(&self, number: usize) {
        wait_for(&format!("{number} members"), SOON, || {
            let record = &self.json()["status"]["record"];
            record["target"].is_null()
                && record["previous"].is_null()
                && record["members"].as_array().is_some_and(|members| members.len() == number)
        });
    }

    /// Reason and text of every event about it.
    pub fn events(&self) -> String {
        let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        let about = format!("involvedObject.name={}", self.name);
        self.kubectl_ok(&["get", "events", "--field-selector", &about, "-o", path])
    }

    pub fn pods(&self) -> Vec<String> {
        let selector = format!("replicated-redis.io/cluster={}", self.name);
        let names = self.kubectl_ok(&["get", "pods", "-l", &selector, "-o", "name"]);
        names.lines().map(|line| line.trim_start_matches("pod/").to_string()).collect()
    }

    pub fn pod_field(&self, pod: &str, path: &str) -> String {
        self.kubectl_ok(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
    }

    pub fn node_of(&self, pod: &str) -> String {
        self.pod_field(pod, ".spec.nodeName")
    }

    pub fn role_label(&self, pod: &str) -> String {
        self.pod_field(pod, ".metadata.labels.replicated-redis\\.io/role")
    }

    /// Pods in the EndpointSlices of a Service (`master`, `replicas`) that are ready.
    pub fn endpoints(&self, service: &str) -> Vec<String> {
        let label = format!("kubernetes.io/service-name={}-{service}", self.name);
        let slices: serde_json::Value =
            serde_json::from_str(&self.kubectl_ok(&["get", "endpointslices", "-l", &label, "-o", "json"]))
                .expect("JSON");
        // A slice without endpoints has null in their place.
        let endpoints =
            slices["items"].as_array().into_iter().flatten().filter_map(|slice| slice["endpoints"].as_array());
        let ready = endpoints.flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let mut names: Vec<String> =
            ready.map(|endpoint| endpoint["targetRef"]["name"].as_str().unwrap_or_default().to_string()).collect();
        names.sort();
        names
    }

    /// Sends a signal to the server's process of a pod, as the kernel of its node would: `-KILL`, `-STOP`, `-CONT`.
    pub fn signal(&self, pod: &str, signal: &str) {
        let pid = self.scene.cluster.process_of(&self.pod_field(pod, ".metadata.uid"));
        crate::local::kill(signal, pid);
    }

    // ---- as a client ----

    pub fn password(&self) -> String {
        let secret = format!("{}-auth", self.name);
        self.kubectl_ok(&["get", "secret", &secret, "-o", "go-template={{.data.password | base64decode}}"])
    }

    /// Address of a Service: `master` or `replicas`.
    pub fn service(&self, which: &str) -> SocketAddr {
        let service = format!("{}-{which}", self.name);
        let ip = self.kubectl_ok(&["get", "service", &service, "-o", "jsonpath={.spec.clusterIP}"]);
        (ip.parse::<IpAddr>().expect("a Service has an address"), PORT).into()
    }

    pub fn pod_address(&self, pod: &str) -> SocketAddr {
        let ip = self.pod_field(pod, ".status.podIP");
        (ip.parse::<IpAddr>().unwrap_or_else(|e| panic!("{pod} has the address '{ip}': {e}")), PORT).into()
    }

    /// An authenticated connection, if there is one to be had within a second.
    pub fn conn(&self, address: SocketAddr) -> Option<Conn> {
        authenticated(address, &self.password())
    }

    /// Asks through a Service until it answers without an error.
    pub fn call(&self, service: &str, line: &str) -> String {
        let address = self.service(service);
        let words: Vec<&str> = line.split(' ').collect();
        until(&format!("{line} through {}-{service}", self.name), SOON, || {
            let answer = self.conn(address)?.try_call(&words).ok().filter(|answer| !answer.is_error())?;
            Some(answer.as_str().map_or_else(|| answer.to_string(), str::to_string))
        })
    }

    /// Asks one instance, which must answer.
    pub fn call_pod(&self, pod: &str, line: &str) -> String {
        self.conn(self.pod_address(pod)).unwrap_or_else(|| panic!("{pod} does not answer")).text(line)
    }

    pub fn target(&self) -> Target {
        Target { master: self.service("master"), replicas: Some(self.service("replicas")), password: self.password() }
    }

    /// Clients that write and read through the Services from now on; the first write has been accepted.
    pub fn witness(&self) -> Witness {
        let witness = Witness::start(&self.target());
        witness.accepted_after(0, SOON);
        witness
    }

    /// Ends the clients, reads what is there in the end through the master Service, and judges the history.
    pub fn judge(&self, witnesses: Vec<Witness>, promise: Promise) -> Summary {
        let clients: Vec<Client> = witnesses.iter().flat_map(|w| w.writers.clone()).collect();
        let operations: Vec<_> = witnesses.into_iter().flat_map(Witness::finish).collect();
        let lists: BTreeMap<Client, Vec<u64>> = clients.iter().map(|client| (*client, self.list(*client))).collect();
        match judge(&operations, &lists, promise) {
            Ok(summary) => {
                self.scene.step(&format!("the history is well: {summary}"));
                summary
            }
            Err(complaints) => panic!(
                "the history is wrong in {} points; the first are:\n{}",
                complaints.len(),
                complaints[..complaints.len().min(5)].join("\n")
            ),
        }
    }

    /// What a writer has appended, as the master has it.
    fn list(&self, client: Client) -> Vec<u64> {
        let address = self.service("master");
        until("the clients' lists", SOON, || {
            let answer = self.conn(address)?.try_call(&["LRANGE", &list_key(client), "0", "-1"]).ok()?;
            answer.as_list()?.iter().map(|item| u64::try_from(item.as_i64()?).ok()).collect()
        })
    }
}

fn authenticated(address: SocketAddr, password: &str) -> Option<Conn> {
    let mut conn = Conn::open_within(address, Duration::from_secs(1), Duration::from_secs(5)).ok()?;
    let answer = conn.try_call(&["AUTH", password]).ok()?;
    (!answer.is_error()).then_some(conn)
}
