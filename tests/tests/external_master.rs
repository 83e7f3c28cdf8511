//! `bootstrap.externalMaster`: the data of a real redis-server that clients write to moves into a new datastore.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::cluster::pods::{Datastore, NS, SOON};
use harness::cluster::{ApiServer, Operator, ProcessKubelet, until};
use harness::{Conn, Server, wait_for};

/// A client of the source that writes until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(mut conn: Conn) -> Load {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            for n in 1.. {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                assert_eq!(conn.text(&format!("SET load:{} {n}", n % 5000)), "OK");
                conn.cmd(&format!("HSET load:hash {} {n}", n % 300));
                conn.cmd(&format!("ZADD load:zset {n} {}", n % 300));
                conn.cmd("INCR load:count");
                count.store(n, Ordering::Release);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Load { stop, written, thread: Some(thread) }
    }

    /// How many were acknowledged.
    fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
        self.written.load(Ordering::Acquire)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn source(password: Option<&str>) -> (Server, Conn) {
    let given: Vec<&str> = password.iter().flat_map(|password| ["--requirepass", password]).collect();
    let server = Server::redis(&[&["--save", ""], &given[..]].concat());
    let conn = client(&server, password);
    (server, conn)
}

fn client(server: &Server, password: Option<&str>) -> Conn {
    let mut conn = server.conn();
    if let Some(password) = password {
        assert_eq!(conn.text(&format!("AUTH {password}")), "OK");
    }
    conn
}

fn bootstrap(store: &Datastore<'_>, field: &str) -> String {
    store.field(&format!(".status.bootstrap.{field}"))
}

fn wait_phase(store: &Datastore<'_>, phase: &str) {
    wait_for(&format!("{} to be {phase}", store.name), SOON, || bootstrap(store, "phase") == phase);
}

#[test]
fn the_data_of_a_redis_moves_in_while_it_is_written_to() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let (server, mut old) = source(Some("s3cret"));
    assert_eq!(old.text("DEBUG POPULATE 20000 seed 100"), "OK");
    let mut load = Load::start(client(&server, Some("s3cret")));

    let store = Datastore { api: &api, kubelet: &kubelet, name: "moved" };
    let external = format!("{{host: 127.0.0.1, port: {}, passwordSecretRef: {{name: old}}}}", server.port);
    let spec = format!(
        "{{replicas: 2, config: {{enable-debug-command: \"yes\"}}, bootstrap: {{externalMaster: {external}}}}}"
    );
    store.apply(&spec);
    wait_for("the missing Secret to be said", SOON, || store.condition("Stalled", "reason") == "PasswordMissing");
    assert!(
        store.condition("Stalled", "message").contains("externalMaster"),
        "{}",
        store.condition("Stalled", "message")
    );
    // The wrong one at first.
    api.kubectl_ok(&["create", "secret", "generic", "old", "--from-literal=password=wrong"]);
    wait_for("the source to refuse it", SOON, || {
        wait_for("an instance to follow", SOON, || !bootstrap(&store, "instance").is_empty());
        old.text("ACL LOG").contains("reason")
    });
    assert_eq!(bootstrap(&store, "phase"), "Connecting");
    let patch = r#"{"stringData": {"password": "s3cret"}}"#;
    api.kubectl_ok(&["patch", "secret", "old", "-p", patch]);

    // Clients read, and cannot write.
    wait_phase(&store, "Following");
    assert_eq!((bootstrap(&store, "link").as_str(), store.field(".status.phase").as_str()), ("up", "Following"));
    assert_eq!(store.condition("Bootstrapped", "reason"), "Following");
    wait_for("every instance to follow", SOON, || store.field(".status.readyReplicas") == "2");
    let first = bootstrap(&store, "instance");
    assert_eq!(first, "moved-master-0");
    for pod in ["moved-master-0", "moved-replica-0", "moved-replica-1"] {
        assert!(!store.call(pod, "GET seed:7").is_empty());
        assert!(store.call(pod, "SET seed:7 x").contains("READONLY"), "{pod}");
    }
    wait_for("the Services to lead somewhere", SOON, || {
        store.endpoints("moved-master") == [first.clone()] && store.endpoints("moved-replicas").len() == 2
    });
    let count = |pod: &str| store.call(pod, "GET load:count").parse::<u64>().unwrap_or(0);
    let before = count("moved-replica-1");
    wait_for("what is written there to come", SOON, || count("moved-replica-1") > before + 20);
    wait_for("its progress to be told", SOON, || {
        bootstrap(&store, "offset").parse::<u64>().unwrap_or(0) > 0 && !bootstrap(&store, "lagBytes").is_empty()
    });

    // A cut link goes on where it was.
    let full = old.info("sync_full");
    let partial: u64 = old.info("sync_partial_ok").parse().unwrap();
    old.cmd("CLIENT KILL TYPE replica");
    wait_for("the link to come back", SOON, || old.info("sync_partial_ok").parse::<u64>().unwrap() > partial);
    assert_eq!(old.info("sync_full"), full, "it has the rest only");

    // The one that follows is lost: another goes on where that was.
    kubelet.signal(NS, &first, "-9");
    let begun = Instant::now();
    let next = until("another to follow", SOON, || {
        let next = bootstrap(&store, "instance");
        (next != first && bootstrap(&store, "phase") == "Following").then_some(next)
    });
    println!("{next} followed {} ms after the loss of {first}", begun.elapsed().as_millis());
    assert_eq!(old.info("sync_full"), full, "it has the rest only");
    wait_for("every instance to follow", SOON, || store.field(".status.readyReplicas") == "2");
    assert_eq!(old.info("connected_slaves"), "1");

    // The source is paused, and given up.
    let written = load.end();
    assert_eq!(old.text("CLIENT PAUSE 600000 WRITE"), "OK");
    let digest = old.text("DEBUG DIGEST");
    let begun = Instant::now();
    api.kubectl_ok(&["annotate", "rr", "moved", "replicated-redis.io/promote=true"]);
    wait_for("a master of its own", SOON, || store.conn(&next).is_some_and(|mut c| c.text("ROLE").contains("master")));
    println!("a master of its own {} ms after it was asked for", begun.elapsed().as_millis());
    store.wait_ready();
    assert_eq!(store.master(), next);
    wait_phase(&store, "Completed");
    assert_eq!(store.condition("Bootstrapped", "status"), "True");
    assert_eq!(store.field(".metadata.annotations.replicated-redis\\.io/promote"), "");
    assert_eq!(count(&next), written, "no acknowledged write is missing");
    for pod in ["moved-master-0", "moved-replica-0", "moved-replica-1"] {
        wait_for("the same data", SOON, || store.call(pod, "DEBUG DIGEST") == digest);
    }
    assert_eq!(store.call(&next, "SET after promotion"), "OK");
    wait_for("the source to be left", SOON, || old.info("connected_slaves") == "0");

    // From here on it is a datastore like every other.
    let moved = spec.replace("127.0.0.1", "127.0.0.2");
    let manifest = "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {name: moved}";
    let refused = api.apply_refused(&format!("{manifest}\nspec: {moved}\n"));
    assert!(refused.contains("spec.bootstrap cannot be changed"), "{refused}");
    kubelet.signal(NS, &next, "-9");
    let third = until("another master", SOON, || Some(store.master()).filter(|name| *name != next));
    wait_for("a write to be taken", SOON, || {
        store.conn(&third).is_some_and(|mut c| c.text("SET after failover") == "OK")
    });
    store.wait_ready();
    assert_eq!(count(&third), written);
    let events = api.kubectl_ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {end}"]);
    for reason in ["FollowsExternalMaster", "ExternalMasterFollowed", "ExternalFollowerLost", "PromotionStarted"] {
        assert!(events.contains(reason), "{reason} is missing in {events}");
    }
}

#[test]
fn one_that_is_to_be_promoted_when_synced_waits_for_its_source_and_then_for_nobody() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let (mut server, mut old) = source(None);
    let port = server.port;
    for n in 0..500 {
        assert_eq!(old.text(&format!("SET key:{n} {n}")), "OK");
    }
    assert_eq!(old.text("SAVE"), "OK");
    server.kill();
    let store = Datastore { api: &api, kubelet: &kubelet, name: "synced" };
    let external = format!("{{host: localhost, port: {port}, promote: WhenSynced}}");
    store.apply(&format!("{{replicas: 1, durability: {{writeQuorum: 1}}, bootstrap: {{externalMaster: {external}}}}}"));
    wait_for("one to look for it", SOON, || !bootstrap(&store, "instance").is_empty());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((bootstrap(&store, "phase").as_str(), store.master().as_str()), ("Connecting", "synced-master-0"));
    assert_eq!(store.condition("MasterAvailable", "reason"), "FollowsExternalMaster");

    server.run();
    let mut old = server.conn();
    store.wait_ready();
    assert_eq!(bootstrap(&store, "phase"), "Completed");
    assert_eq!(store.call("synced-master-0", "SET after promotion"), "OK");
    for pod in ["synced-master-0", "synced-replica-0"] {
        assert_eq!(store.call(pod, "GET key:499"), "499");
    }
    assert_eq!(old.info("connected_slaves"), "0");
}
