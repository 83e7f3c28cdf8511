//! The operator with the rights of its chart, and no more: everything that it does is done, and nothing is forbidden.

use std::fs;

use harness::cluster::helm::{Helm, chart};
use harness::cluster::{ApiServer, Operator, ProcessKubelet};
use harness::{Conn, wait_for};
use serde_json::Value;

use super::{CHART, SOON, datastore};

/// The operator as a process with the ServiceAccount and the arguments of the installed Deployment.
fn start(api: &ApiServer, release: &str) -> Operator {
    let name = format!("{release}-replicated-redis-operator");
    let json = |args: &[&str]| -> Value { serde_json::from_str(&api.kubectl_ok(args)).unwrap() };
    let deployment = json(&["-n", "system", "get", "deployment", &name, "-o", "json"]);
    let pod = &deployment["spec"]["template"]["spec"];
    let account = pod["serviceAccountName"].as_str().unwrap();
    let token = api.kubectl_ok(&["-n", "system", "create", "token", account]);
    let mut config: Value = json(&["config", "view", "--raw", "-o", "json"]);
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    let kubeconfig = api.kubeconfig().with_file_name(format!("{release}.kubeconfig"));
    fs::write(&kubeconfig, config.to_string()).unwrap();

    let args = pod["containers"][0]["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let args: Vec<&str> = args.filter(|arg| !arg.starts_with("--metrics-address=")).collect();
    let kubeconfig = kubeconfig.to_string_lossy();
    let env = [("KUBECONFIG", &*kubeconfig), ("POD_NAMESPACE", "system"), ("RUST_LOG", "info,operator=debug")];
    Operator::start_as(api, release, &args, &env)
}

/// Ends it in order: it gives the lead up.
fn end(mut operator: Operator) {
    operator.end("-TERM");
    let log = operator.log();
    let forbidden: Vec<&str> = log.lines().filter(|line| line.contains("is forbidden: User")).collect();
    assert!(forbidden.is_empty(), "the operator lacks rights:\n{}", forbidden.join("\n"));
    assert!(log.contains("leads"), "{log}");
}

/// A datastore in a namespace.
pub(super) struct Datastore<'a> {
    api: &'a ApiServer,
    kubelet: &'a ProcessKubelet,
    pub(super) namespace: &'a str,
    name: &'a str,
}

impl Datastore<'_> {
    pub(super) fn kubectl(&self, args: &[&str]) -> String {
        self.api.kubectl_ok(&[&["-n", self.namespace], args].concat())
    }

    fn apply(&self, spec: &str) {
        let (namespace, name) = (self.namespace, self.name);
        self.api.apply_ok(&format!(
            "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        ));
    }

    pub(super) fn field(&self, path: &str) -> String {
        self.kubectl(&["get", "rr", self.name, "-o", &format!("jsonpath={{{path}}}")])
    }

    pub(super) fn wait_ready(&self) {
        wait_for(&format!("{} to be ready", self.name), SOON, || {
            self.field(".status.phase") == "Ready"
                && self.field(".status.observedGeneration") == self.field(".metadata.generation")
        });
    }

    fn master(&self) -> String {
        self.field(".status.currentMaster")
    }

    /// To the master.
    pub(super) fn conn(&self, password: &str) -> Option<Conn> {
        let address = self.kubelet.address(self.namespace, &self.master())?;
        let mut conn = Conn::open_at((address, 6379).into()).ok()?;
        conn.try_call(&["AUTH", password]).ok()?;
        Some(conn)
    }

    /// What the operator has made for the datastores of this namespace.
    pub(super) fn children(&self) -> String {
        let ours = "app.kubernetes.io/managed-by=replicated-redis-operator";
        self.kubectl(&["get", "statefulsets,pods", "-l", ours, "-o", "name"])
    }

    fn call(&self, line: &str) -> String {
        let secret = format!("{}-auth", self.name);
        let password = self.kubectl(&["get", "secret", &secret, "-o", "go-template={{.data.password | base64decode}}"]);
        let attempt = || -> Option<String> {
            let words: Vec<&str> = line.split(' ').collect();
            let value = self.conn(&password)?.try_call(&words).ok()?;
            Some(value.as_str().map_or_else(|| value.to_string(), str::to_string))
        };
        attempt().unwrap_or_default()
    }

    /// What an operator does in its life.
    fn live(&self) {
        self.apply("{replicas: 1}");
        self.wait_ready();
        wait_for("a write", SOON, || self.call("SET greeting hello") == "OK");
        self.kubectl(&["scale", &format!("rr/{}", self.name), "--replicas=2"]);
        wait_for("two replicas", SOON, || self.field(".status.replicaSummary") == "2/2");
        self.wait_ready();
        // Written anew around its pods, because a claim's size cannot be changed in a StatefulSet.
        self.apply("{replicas: 2, storage: {size: 2Gi}}");
        self.wait_ready();

        let before = self.master();
        self.kubelet.signal(self.namespace, &before, "-9");
        wait_for("another master", SOON, || self.master() != before);
        wait_for("its write", SOON, || self.call("SET after failover") == "OK");
        self.wait_ready();
        assert_eq!(self.call("GET greeting"), "hello");
        let switchover = format!("replicated-redis.io/switchover={before}");
        self.kubectl(&["annotate", "rr", self.name, &switchover]);
        wait_for("the switchover", SOON, || self.master() == before);
        self.wait_ready();

        for event in ["MasterElected", "Switchover"] {
            wait_for(event, SOON, || self.kubectl(&["get", "events"]).contains(event));
        }
        self.kubectl(&["delete", "rr", self.name]);
        wait_for("the end", SOON, || self.children().is_empty());
    }
}

#[test]
fn the_rights_of_the_chart_are_enough_for_all_that_the_operator_does() {
    let api = ApiServer::start();
    let helm = Helm::new(Some(&api.kubeconfig()));
    for namespace in ["system", "one", "two", "other"] {
        api.kubectl_ok(&["create", "namespace", namespace]);
    }
    let kubelet = ProcessKubelet::start(&api);
    let store = |namespace, name| Datastore { api: &api, kubelet: &kubelet, namespace, name };

    // Everywhere.
    helm.ok(&["install", "all", &chart(CHART), "--namespace", "system"]);
    let operator = start(&api, "all");
    store("one", "cart").live();
    datastore::in_the_words_of_bitnami(&helm, &store("one", "shop-redis"));
    end(operator);
    helm.ok(&["uninstall", "all", "--namespace", "system"]);

    // In two namespaces; what is in a third is not its business.
    let of_two = ["--set", "watchNamespaces={one,two}", "--namespace", "system"];
    helm.ok(&[&["install", "all", &chart(CHART)], &of_two[..]].concat());
    let roles = api.kubectl_ok(&["get", "clusterrole,clusterrolebinding", "-o", "name"]);
    assert!(!roles.contains("replicated-redis"), "{roles}");
    let account = "system:serviceaccount:system:all-replicated-redis-operator";
    let may = |namespace: &str| {
        let answer = api.kubectl(&["auth", "can-i", "list", "secrets", "-n", namespace, "--as", account]);
        answer.status.success()
    };
    assert!(may("two") && !may("other") && !may("kube-system"));
    let operator = start(&api, "all");
    store("other", "not-mine").apply("{replicas: 0}");
    store("two", "cart").live();
    assert_eq!(store("other", "not-mine").field(".status"), "");
    end(operator);
}
