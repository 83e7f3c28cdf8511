//! `kubectl rr` on a real API server. There is no kubelet to forward ports, so it connects to the pods' addresses itself;
//! by port-forward it is tested on real nodes, in `tests/tests/cluster/plugin.rs`.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, Output, Stdio};

use harness::cluster::pods::{Datastore, SOON};
use harness::cluster::{ApiServer, Operator, ProcessKubelet};
use harness::{program, wait_for};

fn run(api: &ApiServer, args: &[&str]) -> Output {
    let kubeconfig = api.kubeconfig();
    let mut command = Command::new(program("kubectl-rr"));
    command.args(["--direct", "--kubeconfig", &kubeconfig.to_string_lossy()]).args(args).stdin(Stdio::null());
    command.output().unwrap()
}

fn ok(api: &ApiServer, args: &[&str]) -> String {
    let output = run(api, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn refused(api: &ApiServer, args: &[&str]) -> String {
    let output = run(api, args);
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_person_looks_after_a_datastore_with_kubectl_rr() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "cart" };
    assert!(refused(&api, &["status", "cart"]).contains("no ReplicatedRedis cart in namespace default; none is"));
    store.apply("{replicas: 2}");
    store.wait_ready();
    assert!(refused(&api, &["status", "card"]).contains("there are: cart"));

    let seen = ok(&api, &["status", "cart"]);
    assert!(seen.starts_with("cart: Ready, epoch "), "{seen}");
    let line = |seen: &str, name: &str| {
        let line = seen.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default().split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    assert!(line(&seen, "cart-master-0").contains(&"master".to_string()), "{seen}");
    let replica = line(&seen, "cart-replica-1");
    assert!(replica.contains(&"replica".to_string()) && replica.contains(&"up".to_string()), "{seen}");

    assert_eq!(ok(&api, &["cli", "cart", "--", "SET", "greeting", "hello"]), "OK\n");
    wait_for("the replica to have it", SOON, || {
        ok(&api, &["cli", "cart", "-i", "cart-replica-0", "--", "GET", "greeting"]) == "hello\n"
    });
    assert!(refused(&api, &["cli", "cart", "-i", "cart-replica-0", "--", "SET", "a", "b"]).contains("READONLY"));
    assert!(refused(&api, &["cli", "cart", "-i", "cart-replica-7", "--", "PING"]).contains("there are: cart-master-0"));

    // The role moves, and its result is told.
    let said = ok(&api, &["promote", "cart", "cart-replica-1"]);
    assert!(said.contains("cart-replica-1 is master since epoch"), "{said}");
    assert_eq!(store.master(), "cart-replica-1");
    assert!(ok(&api, &["promote", "cart", "cart-replica-1"]).contains("is the master already"));
    assert!(refused(&api, &["promote", "cart", "cart-replica-7"]).contains("there are: cart-master-0"));
    assert!(refused(&api, &["promote", "cart", "--now"]).contains("follows none"));
    store.wait_ready();

    // Out of service, and back.
    let restarts = "{.metadata.uid} {.status.containerStatuses[0].restartCount}";
    let pod = |name: &str| api.kubectl_ok(&["get", "pod", name, "-o", &format!("jsonpath={restarts}")]);
    let before = pod("cart-replica-0");
    ok(&api, &["fence", "cart", "cart-replica-0"]);
    assert!(store.call("cart-replica-0", "GET greeting").contains("LOADING"), "it serves nothing");
    assert_eq!(store.condition("Fenced", "status"), "True");
    assert!(store.condition("Fenced", "message").contains("cart-replica-0"));
    wait_for("the Service to leave it out", SOON, || store.endpoints("cart-replicas") == ["cart-master-0"]);
    ok(&api, &["unfence", "cart", "cart-replica-0"]);
    store.wait_ready();
    assert_eq!((store.condition("Fenced", "status").as_str(), pod("cart-replica-0")), ("", before));
    assert_eq!(store.call("cart-replica-0", "GET greeting"), "hello");
    // A fenced master hands its role over.
    ok(&api, &["fence", "cart", "cart-replica-1"]);
    wait_for("another master", SOON, || {
        let master = store.master();
        master != "cart-replica-1" && store.call(&master, "SET after fence") == "OK"
    });
    assert!(store.call("cart-replica-1", "GET greeting").contains("LOADING"));
    // Nobody serves, and nobody is promoted; then all is as before.
    ok(&api, &["fence", "cart", "--all"]);
    for name in ["cart-master-0", "cart-replica-0", "cart-replica-1"] {
        assert!(store.call(name, "GET greeting").contains("LOADING"), "{name}");
    }
    ok(&api, &["unfence", "cart", "--all"]);
    store.wait_ready();
    assert_eq!(store.call(&store.master(), "GET after"), "fence");
    assert!(refused(&api, &["fence", "cart", "cart-replica-9"]).contains("there are: cart-master-0"));

    // One pod ends, with its role handed over.
    let master = store.master();
    ok(&api, &["restart", "cart", &master]);
    wait_for("another master", SOON, || store.master() != master);
    store.wait_ready();
    ok(&api, &["restart", "cart"]);
    assert!(store.field(".metadata.annotations.replicated-redis\\.io/restarted-at").contains('T'));

    // Everything but what is secret. (Logs need a kubelet.)
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("report");
    let said = ok(&api, &["report", "cart", "--output", &folder.to_string_lossy()]);
    assert!(said.contains("not in it: log of cart-master-0"), "{said}");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert!(read("objects/statefulset-cart-master.yaml").contains("kind: StatefulSet"));
    assert!(read("objects/secret-cart-auth.yaml").contains("(redacted)"));
    assert!(read("events.txt").contains("MasterElected"));
    assert!(read("instances/cart-master-0/info.txt").contains("role:"));
    assert!(read("status.txt").starts_with("cart: "));
    let everything = Command::new("cat").arg("--").args(files(&folder)).output().unwrap().stdout;
    let everything = String::from_utf8_lossy(&everything);
    let password = store.password();
    let encoded = api.kubectl_ok(&["get", "secret", "cart-auth", "-o", "jsonpath={.data.password}"]);
    assert!(password.len() > 10 && !everything.contains(&password) && !everything.contains(&encoded));
    assert!(!everything.contains("greeting"), "a key of the data");
    assert!(refused(&api, &["report", "cart", "--output", &folder.to_string_lossy()]).contains("is there already"));
}

fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
