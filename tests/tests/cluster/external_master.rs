//! A redis-server that we do not run, as a pod that clients write to: its data moves into a datastore, and nothing is lost
//! after its writers were stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::cluster::{Case, Needs, Scene, Store, until};
use harness::{Conn, wait_for};

use crate::plugin::rr_ok;

pub(super) const CASES: &[Case] =
    &[Case { name: "external_master", needs: Needs::Namespace, limit: Duration::from_secs(480), run: external_master }];

const LIMIT: Duration = Duration::from_secs(60);

fn source(image: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: old}}
stringData: {{redis-password: s3cret}}
---
apiVersion: v1
kind: Pod
metadata: {{name: old-redis, labels: {{app: old-redis}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: redis
    image: {image}
    args: ["--save", "", "--requirepass", "s3cret", "--repl-diskless-sync-delay", "0", "--dir", "/tmp"]
    readinessProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: old-redis}}
spec: {{selector: {{app: old-redis}}, ports: [{{port: 6379}}]}}
"#
    )
}

fn old(store: &Store<'_>) -> Conn {
    let mut conn = until("the source to answer", LIMIT, || Conn::open_at(store.pod_address("old-redis")).ok());
    assert_eq!(conn.text("AUTH s3cret"), "OK");
    conn
}

/// Writes until it is told to stop; how many were acknowledged.
fn write(mut conn: Conn, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut written = 0;
        while !stop.load(Ordering::Acquire) {
            written += 1;
            assert_eq!(conn.text("INCR count"), written.to_string());
            assert_eq!(conn.text(&format!("SET load:{} {written}", written % 2000)), "OK");
            std::thread::sleep(Duration::from_millis(2));
        }
        written
    })
}

fn external_master(scene: &Scene<'_>) {
    scene.apply_ok(&source(&scene.cluster.image("redis-server")));
    scene.kubectl_ok(&["wait", "--for=condition=Ready", "pod/old-redis", "--timeout=60s"]);
    let store = scene.store("cart");
    let mut conn = old(&store);
    for n in 0..200 {
        conn.cmd(&format!("RPUSH list:{} a b c {n}", n % 20));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = write(old(&store), Arc::clone(&stop));

    let host = format!("old-redis.{}.svc", scene.namespace);
    let external = format!("{{host: {host}, passwordSecretRef: {{name: old, key: redis-password}}}}");
    store.apply(&format!("{{replicas: 1, storage: {{size: 64Mi}}, bootstrap: {{externalMaster: {external}}}}}"));
    let phase = || store.field(".status.bootstrap.phase");
    wait_for("it to be followed", LIMIT, || phase() == "Following" && store.field(".status.readyReplicas") == "1");
    let first = store.field(".status.bootstrap.instance");
    scene.step(&format!("{first} follows {host}"));
    assert_eq!(store.endpoints("master"), [first.as_str()], "clients may read");
    assert!(store.call_pod(&first, "SET a b").contains("READONLY"));

    // The one that follows ends: it goes on, here or in the other.
    let epoch = store.epoch();
    store.signal(&first, "-KILL");
    wait_for("it to be followed again", LIMIT, || store.epoch() > epoch && phase() == "Following");
    scene.step(&format!("{} goes on after the loss of {first}", store.field(".status.bootstrap.instance")));
    let seen: u64 = conn.text("GET count").parse().expect("a count");
    let next = store.field(".status.bootstrap.instance");
    wait_for("what was written since", LIMIT, || {
        store.call_pod(&next, "GET count").parse::<u64>().is_ok_and(|count| count >= seen)
    });

    // The writers stop, and it becomes a datastore of its own.
    stop.store(true, Ordering::Release);
    let written = writer.join().expect("the writer was not refused");
    let said = rr_ok(scene, &["promote", "cart"]);
    assert!(said.contains("takes writes"), "{said}");
    store.wait_ready(LIMIT);
    scene.step("a master of its own");
    assert_eq!(phase(), "Completed");
    let master = store.master();
    assert_eq!(store.call_pod(&master, "GET count"), written.to_string(), "no acknowledged write is missing");
    assert_eq!(store.call_pod(&master, "DBSIZE"), conn.text("DBSIZE"));
    assert_eq!(store.call_pod(&master, "LLEN list:7"), "40");
    assert_eq!(store.call("master", "SET after promotion"), "OK");
    wait_for("the source to be left", LIMIT, || conn.info("connected_slaves") == "0");
}
