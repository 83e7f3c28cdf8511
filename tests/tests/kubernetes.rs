//! The Kubernetes provider against a real API server and real servers: `ProcessKubelet` runs the pods as processes.

use std::time::{Duration, Instant};

use harness::cluster::pods::{Datastore, NS, SOON};
use harness::cluster::{ApiServer, Operator, ProcessKubelet, until};
use harness::{Conn, wait_for};

/// Kinds and versions of everything that belongs to a datastore, itself included.
fn versions(api: &ApiServer) -> String {
    let kinds = "rr,statefulsets,services,configmaps,secrets,poddisruptionbudgets,serviceaccounts,pods";
    let line = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    api.kubectl_ok(&["get", kinds, "-o", line])
}

#[test]
fn one_manifest_becomes_a_datastore_that_scales_fails_over_and_is_left_in_peace() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "cart" };
    store.apply("{replicas: 2}");
    store.wait_ready();

    // What was made.
    assert_eq!(store.master(), "cart-master-0");
    assert_eq!(store.pods(), ["cart-master-0", "cart-replica-0", "cart-replica-1"]);
    for object in [
        "statefulset/cart-master",
        "statefulset/cart-replica",
        "service/cart-master",
        "service/cart-replicas",
        "service/cart-headless",
        "secret/cart-auth",
        "secret/cart-credentials",
        "configmap/cart-config",
        "poddisruptionbudget/cart",
        "serviceaccount/cart",
    ] {
        let owner = api.kubectl_ok(&["get", object, "-o", "jsonpath={.metadata.ownerReferences[0].kind}"]);
        assert_eq!(owner, "ReplicatedRedis", "{object}");
    }
    wait_for("the endpoints of the Services", SOON, || {
        store.endpoints("cart-master") == ["cart-master-0"]
            && store.endpoints("cart-replicas") == ["cart-replica-0", "cart-replica-1"]
    });
    assert_eq!(store.call("cart-master-0", "SET greeting hello"), "OK");
    wait_for("the replica to have it", SOON, || store.call("cart-replica-0", "GET greeting") == "hello");
    assert!(store.call("cart-replica-0", "SET greeting x").contains("READONLY"));
    assert_eq!(store.condition("FailoverReady", "status"), "True");
    let events = api.kubectl_ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {end}"]);
    assert!(events.contains("MasterElected"), "{events}");

    // In peace: nothing is written while all is well, and traffic is no reason.
    std::thread::sleep(Duration::from_secs(2));
    let before = versions(&api);
    for n in 0..200 {
        store.call("cart-master-0", &format!("SET key:{n} value"));
    }
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(versions(&api), before);

    // What others have added stays; what is ours is put back.
    api.kubectl_ok(&["annotate", "service", "cart-master", "example.com/theirs=yes"]);
    api.kubectl_ok(&["delete", "service", "cart-replicas"]);
    api.kubectl_ok(&[
        "patch",
        "service",
        "cart-master",
        "-p",
        r#"{"spec": {"selector": {"replicated-redis.io/role": "x"}}}"#,
    ]);
    wait_for("what is ours to be put back", SOON, || {
        let path = "jsonpath={.spec.selector.statefulset\\.kubernetes\\.io/pod-name} {.metadata.annotations.example\\.com/theirs}";
        api.kubectl_ok(&["get", "service", "cart-master", "-o", path]) == "cart-master-0 yes"
            && api.kubectl(&["get", "service", "cart-replicas"]).status.success()
    });

    // Scaled, without touching the others.
    let uid = |pod: &str| {
        api.kubectl_ok(&[
            "get",
            "pod",
            pod,
            "-o",
            "jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount}",
        ])
    };
    let master = uid("cart-master-0");
    for replicas in ["4", "1", "0", "2"] {
        api.kubectl_ok(&["scale", "rr/cart", &format!("--replicas={replicas}")]);
        let wanted = 1 + replicas.parse::<usize>().unwrap();
        wait_for(&format!("{replicas} replicas"), SOON, || store.pods().len() == wanted);
        store.wait_ready();
        assert_eq!(store.field(".status.replicaSummary"), format!("{replicas}/{replicas}"));
        wait_for("the scale subresource to say so", SOON, || store.field(".status.replicas") == replicas);
    }
    assert_eq!(uid("cart-master-0"), master);
    wait_for("the replica to have it", SOON, || store.call("cart-replica-1", "GET greeting") == "hello");
    wait_for("two members besides the master", SOON, || {
        store.field(".status.record.members[*].name").split(' ').count() == 3
    });

    // kill -9 of the master: a replica is promoted, the old master returns as a replica.
    let begun = Instant::now();
    kubelet.signal(NS, "cart-master-0", "-9");
    let next = until("another master", SOON, || Some(store.master()).filter(|name| name != "cart-master-0"));
    wait_for("a write to be taken", SOON, || store.conn(&next).is_some_and(|mut c| c.text("SET after kill") == "OK"));
    println!("a write was taken {} ms after the kill of the master", begun.elapsed().as_millis());
    store.wait_ready();
    wait_for("the Service to follow", SOON, || store.endpoints("cart-master") == [next.clone()]);
    assert_eq!(store.call(&next, "GET greeting"), "hello");
    wait_for("the old master to follow", SOON, || store.call("cart-master-0", "GET after") == "kill");

    // A person wants the role back home.
    api.kubectl_ok(&["annotate", "rr", "cart", "replicated-redis.io/switchover=cart-master-0"]);
    wait_for("the switchover", SOON, || store.master() == "cart-master-0");
    store.wait_ready();
    assert_eq!(store.field(".metadata.annotations.replicated-redis\\.io/switchover"), "");
    wait_for("the Service to follow", SOON, || store.endpoints("cart-master") == ["cart-master-0"]);

    // A master whose pod is deleted hands over first; one whose replica is deleted goes on.
    let epoch = |store: &Datastore<'_>| store.field(".status.record.epoch").parse::<u64>().unwrap();
    let before = epoch(&store);
    api.kubectl_ok(&["delete", "pod", "cart-replica-1", "--wait=false"]);
    wait_for("the replica's new pod", SOON, || store.condition("ReplicationHealthy", "status") == "True");
    store.wait_ready();
    assert_eq!((store.master().as_str(), epoch(&store)), ("cart-master-0", before));
    api.kubectl_ok(&["delete", "pod", "cart-master-0", "--wait=false"]);
    let next = until("another master", SOON, || Some(store.master()).filter(|name| name != "cart-master-0"));
    store.wait_ready();
    assert_eq!(store.call(&next, "GET greeting"), "hello");

    // The end takes everything along but the claims, which are kept.
    api.kubectl_ok(&["delete", "rr", "cart"]);
    wait_for("the children to go", SOON, || {
        api.kubectl_ok(&["get", "statefulsets,services", "-l", "replicated-redis.io/cluster=cart", "-o", "name"])
            .is_empty()
            && store.pods().is_empty()
    });
    let claims = api.kubectl_ok(&["get", "pvc", "-o", "name"]);
    assert!(claims.contains("data-cart-master-0"), "{claims}");
}

#[test]
fn two_operators_agree_on_who_leads_and_the_datastore_outlives_both() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let mut first = Operator::start(&api, "operator-a");
    wait_for("the first to lead", SOON, || first.log().contains("leads"));
    let mut second = Operator::start(&api, "operator-b");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "pair" };
    store.apply("{replicas: 2, storage: {type: EmptyDir}}");
    store.wait_ready();
    assert!(second.log().contains("this operator waits"), "{}", second.log());
    let holder = |store: &Datastore<'_>| store.field(".status.record.holder");
    assert!(holder(&store).starts_with("operator-a"));

    // No operator acts, and writes go on by the leases of the replicas.
    first.end("-9");
    let mut conn = store.conn("pair-master-0").unwrap();
    let begun = Instant::now();
    let mut n = 0;
    while !holder(&store).starts_with("operator-b") {
        n += 1;
        assert_eq!(conn.text(&format!("SET n {n}")), "OK", "after {} ms", begun.elapsed().as_millis());
        assert!(begun.elapsed() < SOON);
    }
    assert_eq!(store.master(), "pair-master-0");

    // An operator that is told to stop gives the lead up at once.
    let mut third = Operator::start(&api, "operator-c");
    wait_for("the third to wait", SOON, || third.log().contains("this operator waits"));
    second.end("-TERM");
    let begun = Instant::now();
    wait_for("the third to lead", Duration::from_secs(6), || holder(&store).starts_with("operator-c"));
    println!("the lead was taken over after {} ms", begun.elapsed().as_millis());

    // Without any operator and with a dead master nothing is lost: the next operator finds out.
    third.end("-9");
    assert_eq!(conn.text("SET last write"), "OK");
    wait_for("the replicas to have it", SOON, || store.call("pair-replica-0", "GET last") == "write");
    kubelet.signal(NS, "pair-master-0", "-9");
    let _fourth = Operator::start(&api, "operator-d");
    wait_for("a new epoch", SOON, || holder(&store).starts_with("operator-d") && !store.master().is_empty());
    store.wait_ready();
    assert_eq!(store.call(&store.master(), "GET last"), "write");
}

#[test]
fn what_cannot_be_done_is_said_in_the_conditions() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "said" };
    store.apply("{replicas: 1, auth: {passwordSecretRef: {name: mine, key: pw}}}");
    wait_for("the missing Secret to be said", SOON, || store.condition("Stalled", "status") == "True");
    assert_eq!(store.condition("Stalled", "reason"), "PasswordMissing");
    assert!(store.condition("Ready", "message").contains("the Secret mine"), "{}", store.condition("Ready", "message"));
    api.kubectl_ok(&["create", "secret", "generic", "mine", "--from-literal=pw=from-a-person"]);
    store.wait_ready();
    let address = kubelet.address(NS, "said-master-0").unwrap();
    let mut conn = Conn::open_at((address, 6379).into()).unwrap();
    assert_eq!(conn.text("AUTH from-a-person"), "OK");
    assert_eq!(conn.text("SET a 1"), "OK");

    // A directive with a value that no file can hold.
    store.apply("{replicas: 1, auth: {passwordSecretRef: {name: mine, key: pw}}, config: {save: \"900 1\\nport 1\"}}");
    wait_for("the bad directive to be said", SOON, || store.condition("Stalled", "reason") == "InvalidConfig");
    assert!(store.condition("Stalled", "message").contains("'save'"));
    assert_eq!(conn.text("GET a"), "1");

    // A switchover to nobody.
    api.kubectl_ok(&["annotate", "rr", "said", "replicated-redis.io/switchover=said-replica-7"]);
    wait_for("the refusal", SOON, || {
        let events =
            api.kubectl_ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}"]);
        events.contains("SwitchoverRefused: there is no instance said-replica-7")
    });
}
