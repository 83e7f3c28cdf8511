//! The charts by the real helm: an operator with no more rights than its chart gives, everywhere or in one namespace, makes
//! datastores, fails over and is itself upgraded, while clients write.

use std::time::Duration;

use harness::cluster::helm::{Helm, chart};
use harness::cluster::history::Promise;
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Needs, OPERATOR, SYSTEM, Scene, Store};

pub(super) const CASES: &[Case] =
    &[Case { name: "helm_chart", needs: Needs::Cluster, limit: Duration::from_secs(420), run: helm_chart }];

const CHART: &str = "replicated-redis-operator";
const LIMIT: Duration = Duration::from_secs(90);

/// The operator of the other cases is asleep while this lives: two that watch the same would be in each other's way.
struct Alone<'s>(&'s Scene<'s>);

impl<'s> Alone<'s> {
    fn new(scene: &'s Scene<'s>) -> Alone<'s> {
        scene.cluster.kubectl_ok(&["-n", SYSTEM, "scale", "deployment", OPERATOR, "--replicas=0"]);
        let pods = ["-n", SYSTEM, "wait", "pods", "-l", "app.kubernetes.io/component=operator", "--for=delete"];
        scene.cluster.kubectl_ok(&[&pods[..], &["--timeout=60s"]].concat());
        Alone(scene)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment", OPERATOR, "--replicas=2"]);
    }
}

fn helm_chart(scene: &Scene<'_>) {
    let alone = Alone::new(scene);
    let helm = Helm::new(Some(scene.cluster.kubeconfig()));
    let operators = format!("{}-operators", scene.namespace);
    scene.make_namespace(&operators);
    scene.cluster.kubectl_ok(&["label", "namespace", &operators, "pod-security.kubernetes.io/enforce=restricted"]);
    let registry = format!("global.imageRegistry={}", scene.cluster.registry);
    let release = |command: &str, values: &[&str]| {
        let chart = chart(CHART);
        let head = [command, "rro", &chart, "--namespace", &operators, "--wait", "--timeout", "90s"];
        // The kind is there already, by the manifest.
        let values = [&["crds.install=false", &registry], values].concat();
        helm.ok(&[&head[..], &values.iter().flat_map(|value| ["--set", value]).collect::<Vec<_>>()].concat())
    };

    // Everywhere.
    release("install", &["commonLabels.step=first"]);
    helm.ok(&["test", "rro", "--namespace", &operators, "--timeout", "60s"]);
    let nodes = scene.cluster.kubectl_ok(&operator_pods(&operators, "jsonpath={.items[*].spec.nodeName}"));
    let nodes: Vec<&str> = nodes.split(' ').collect();
    assert_eq!(nodes.len(), 2);
    if scene.cluster.nodes().len() > 1 {
        assert_ne!(nodes[0], nodes[1], "operators prefer different nodes");
    }
    scene.step("installed: two operators, and helm test has passed");
    let store = scene.ready_store("cart", "{replicas: 2, durability: {writeQuorum: 1}, storage: {size: 64Mi}}");
    let witness = store.witness();
    fail_over(scene, &store);

    // An upgrade of the operator restarts no database pod and moves no role.
    let pods = || store.kubectl_ok(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let (before, master) = (pods(), store.master());
    release("upgrade", &["commonLabels.step=second"]);
    let begun = now_us();
    store.kubectl_ok(&["scale", "rr/cart", "--replicas=1"]);
    store.wait_ready(LIMIT);
    witness.accepted_after(begun, LIMIT);
    assert_eq!(store.master(), master);
    assert!(before.split(' ').filter(|pod| pods().contains(pod)).count() >= 2, "pods were restarted");
    scene.step("upgraded: the datastore has not noticed, and the new operators scale it");
    store.judge(vec![witness], Promise::Quorum);
    nothing_was_forbidden(scene, &operators);

    // In one namespace, without any ClusterRole.
    helm.ok(&["uninstall", "rro", "--namespace", &operators, "--wait"]);
    release("install", &[&format!("watchNamespaces={{{}}}", scene.namespace)]);
    let roles = scene.cluster.kubectl_ok(&["get", "clusterroles", "-o", "name"]);
    assert!(!roles.contains("rro-replicated-redis-operator"), "{roles}");
    fail_over(scene, &store);
    let events = store.events();
    assert!(events.contains("FailoverCompleted"), "{events}");
    nothing_was_forbidden(scene, &operators);
    scene.step("installed for one namespace: Roles are enough");
    helm.ok(&["uninstall", "rro", "--namespace", &operators, "--wait"]);
    drop(alone);
    scene.cluster.wait_for_operator();
}

fn operator_pods<'a>(namespace: &'a str, output: &'a str) -> [&'a str; 9] {
    ["-n", namespace, "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", output, "--ignore-not-found"]
}

fn fail_over(scene: &Scene<'_>, store: &Store<'_>) {
    let (master, epoch) = (store.master(), store.epoch());
    store.signal(&master, "-KILL");
    let next = store.wait_for_reign_after(epoch, LIMIT);
    store.wait_ready(LIMIT);
    scene.step(&format!("{master} was killed, {next} is master"));
}

fn nothing_was_forbidden(scene: &Scene<'_>, namespace: &str) {
    let logs = ["-n", namespace, "logs", "-l", "app.kubernetes.io/component=operator", "--tail=-1"];
    let log = scene.cluster.kubectl_ok(&logs);
    let forbidden: Vec<&str> = log.lines().filter(|line| line.contains("is forbidden: User")).collect();
    assert!(forbidden.is_empty(), "the operator lacks rights:\n{}", forbidden.join("\n"));
    assert!(log.contains("leads"), "{log}");
}
