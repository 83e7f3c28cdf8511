//! `kubectl rr` from outside the cluster: through the API server, by port-forward.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use harness::cluster::{Case, Needs, Scene};
use harness::{program, wait_for};

pub(super) const CASES: &[Case] =
    &[Case { name: "plugin", needs: Needs::Namespace, limit: Duration::from_secs(480), run: plugin }];

const LIMIT: Duration = Duration::from_secs(60);

fn rr(scene: &Scene<'_>, args: &[&str]) -> Output {
    let mut command = Command::new(program("kubectl-rr"));
    command.env("KUBECONFIG", scene.cluster.kubeconfig()).args(["-n", &scene.namespace]).args(args);
    command.stdin(Stdio::null()).output().expect("kubectl-rr is built")
}

/// Runs the plugin in the case's namespace, which must succeed; what it printed.
pub(super) fn rr_ok(scene: &Scene<'_>, args: &[&str]) -> String {
    let output = rr(scene, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "kubectl rr {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn plugin(scene: &Scene<'_>) {
    let store = scene.ready_store("cart", "{replicas: 1, storage: {size: 64Mi}}");
    let seen = rr_ok(scene, &["status", "cart"]);
    assert!(seen.starts_with("cart: Ready"), "{seen}");
    assert!(
        seen.lines().any(|l| l.starts_with("cart-replica-0") && l.contains("replica") && l.contains("up")),
        "{seen}"
    );
    assert_eq!(rr_ok(scene, &["cli", "cart", "--", "SET", "greeting", "hello"]), "OK\n");
    wait_for("the replica to have it", LIMIT, || {
        rr_ok(scene, &["cli", "cart", "-i", "cart-replica-0", "--", "GET", "greeting"]) == "hello\n"
    });
    let logs = rr_ok(scene, &["logs", "cart"]);
    assert!(logs.contains("cart-master-0  | ") && logs.contains("cart-replica-0 | "), "{logs}");
    assert!(logs.contains("Promoted to master"), "{logs}");

    let said = rr_ok(scene, &["promote", "cart"]);
    assert!(said.contains("cart-replica-0 is master since epoch"), "{said}");
    store.wait_ready(LIMIT);
    scene.step("the role has moved");

    rr_ok(scene, &["fence", "cart", "cart-master-0"]);
    assert!(store.call_pod("cart-master-0", "GET greeting").contains("LOADING"));
    wait_for("the Service to leave it out", LIMIT, || store.endpoints("replicas").is_empty());
    rr_ok(scene, &["unfence", "cart", "cart-master-0"]);
    store.wait_ready(LIMIT);
    wait_for("the Service to lead to it", LIMIT, || store.endpoints("replicas") == ["cart-master-0"]);
    scene.step("fenced, and back");

    // While all is paused, what is taken away stays away.
    rr_ok(scene, &["pause", "cart"]);
    wait_for("the pause to be told", LIMIT, || store.condition("Paused", "status") == "True");
    scene.kubectl_ok(&["delete", "service", "cart-replicas"]);
    scene.kubectl_ok(&["scale", "rr/cart", "--replicas=2"]);
    wait_for("the change to be seen", LIMIT, || {
        store.field(".metadata.generation") == store.field(".status.observedGeneration")
    });
    assert_eq!(rr_ok(scene, &["cli", "cart", "--", "SET", "paused", "yes"]), "OK\n");
    assert_eq!(store.pods().len(), 2);
    assert!(!scene.kubectl(&["get", "service", "cart-replicas"]).status.success(), "put back while paused");
    rr_ok(scene, &["resume", "cart"]);
    wait_for("the third pod", LIMIT, || store.pods().len() == 3);
    store.wait_ready(LIMIT);
    assert_eq!(store.condition("Paused", "status"), "False");
    scene.kubectl_ok(&["get", "service", "cart-replicas"]);
    scene.step("paused, and resumed");

    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("report");
    let said = rr_ok(scene, &["report", "cart", "--output", &folder.to_string_lossy()]);
    assert!(!said.contains("not in it"), "{said}");
    let log = std::fs::read_to_string(folder.join("instances/cart-replica-0/log.txt")).expect("its log");
    assert!(log.contains("Ready to accept connections"), "{log}");
    let info = std::fs::read_to_string(folder.join("instances/cart-replica-0/info.txt")).expect("its figures");
    assert!(info.contains("role:master"), "{info}");
}
