//! Rolling updates, directives and drains on a real API server, with a client that writes throughout.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::cluster::pods::{Datastore, NS, SOON};
use harness::cluster::{ApiServer, Operator, ProcessKubelet, until};
use harness::{Conn, wait_for};

/// Ends the writer, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// While `f` runs, a client writes to whichever pod takes it. Afterwards every write that was acknowledged is there.
fn writing(store: &Datastore<'_>, prefix: &str, f: impl FnOnce()) {
    let (over, password, pods) = (AtomicBool::new(false), store.password(), store.pods());
    let write = || {
        let (mut acknowledged, mut conn, mut next) = (Vec::new(), None::<Conn>, 0);
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        for n in 0u64.. {
            if over.load(Ordering::Acquire) {
                break;
            }
            if conn.is_none() {
                next = (next + 1) % pods.len();
                let address = store.kubelet.address(NS, &pods[next]);
                conn = address.and_then(|address| Conn::open_at((address, 6379).into()).ok());
                conn = conn.and_then(|mut conn| conn.try_call(&["AUTH", &password]).ok().map(|_| conn));
            }
            let key = format!("{prefix}:{n}");
            let reply = conn.as_mut().and_then(|conn| conn.try_call(&["SET", &key, "x"]).ok());
            if reply.as_ref().and_then(|reply| reply.as_str()) == Some("OK") {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                acknowledged.push(key);
                std::thread::sleep(Duration::from_millis(2));
            } else {
                conn = None;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        (acknowledged, longest)
    };
    let (acknowledged, longest) = std::thread::scope(|scope| {
        let writer = scope.spawn(write);
        let ends = Ends(&over);
        f();
        drop(ends);
        writer.join().unwrap()
    });
    println!("{prefix}: {} writes, at most {} ms between two", acknowledged.len(), longest.as_millis());
    assert!(acknowledged.len() > 50, "only {} writes", acknowledged.len());
    let mut conn = store.conn(&store.master()).expect("the master answers");
    for key in &acknowledged {
        assert_eq!(conn.text(&format!("GET {key}")), "x", "{key} was acknowledged and is lost");
    }
}

/// Name, uid and image of each pod, and whether its container runs and is not about to end.
fn seen(store: &Datastore<'_>) -> Vec<(String, String, String, bool)> {
    let selector = format!("replicated-redis.io/cluster={}", store.name);
    let line = "{range .items[*]}{.metadata.name} {.metadata.uid} {.spec.containers[0].image} \
                {.status.containerStatuses[0].started}{.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let text = store.api.kubectl_ok(&["get", "pods", "-l", &selector, "-o", &format!("jsonpath={line}")]);
    let pod = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0].into(), words[1].into(), words[2].into(), words.get(3) == Some(&"true"))
    };
    text.lines().map(pod).collect()
}

fn uids(store: &Datastore<'_>) -> Vec<String> {
    seen(store).into_iter().map(|(_, uid, ..)| uid).collect()
}

/// Waits until every pod has that image and the update is over; at no time more than one pod is away.
fn wait_updated(store: &Datastore<'_>, image: &str) {
    let wanted = store.pods().len().max(3);
    wait_for(&format!("every pod to run {image}"), SOON * 2, || {
        let pods = seen(store);
        let away = wanted - pods.iter().filter(|(.., runs)| *runs).count();
        assert!(away <= 1, "{away} pods are away at once: {pods:?}");
        pods.len() == wanted && pods.iter().all(|(_, _, has, _)| has == image)
    });
    store.wait_ready();
}

fn events(store: &Datastore<'_>, reason: &str) -> Vec<String> {
    let line = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    let text = store.api.kubectl_ok(&["get", "events", "-o", line]);
    let prefix = format!("{reason}: ");
    text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(String::from).collect()
}

#[test]
fn an_update_takes_one_pod_at_a_time_and_loses_no_write() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let mut operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "roll" };
    let spec = |image: &str, more: &str| {
        store.apply(&format!("{{replicas: 2, durability: {{writeQuorum: 1}}, image: \"{image}\"{more}}}"));
    };
    spec("server:1", "");
    store.wait_ready();
    let first = store.field(".status.update.targetRevision");

    // Another image.
    writing(&store, "image", || {
        spec("server:2", "");
        wait_updated(&store, "server:2");
    });
    assert_ne!(store.master(), "roll-master-0", "the role has moved before its pod was replaced");
    assert_ne!(store.field(".status.update.targetRevision"), first);
    assert_eq!(store.field(".status.update.updatedPods"), "3");
    for (reason, times) in [("RolloutStarted", 1), ("PodReplaced", 3), ("RolloutCompleted", 1), ("FailoverStarted", 0)]
    {
        assert_eq!(events(&store, reason).len(), times, "{reason}: {:?}", events(&store, reason));
    }

    // One that cannot be pulled: one replica is gone, and nothing else is touched.
    let before = uids(&store);
    spec("server:missing", "");
    wait_for("the update to halt", SOON, || store.condition("Stalled", "status") == "True");
    assert_eq!(store.condition("Stalled", "reason"), "PodCannotRun");
    let message = store.condition("Stalled", "message");
    assert!(message.contains("does not come back: the image server:missing cannot be pulled"), "{message}");
    assert_eq!(store.field(".status.phase"), "Updating");
    std::thread::sleep(Duration::from_secs(2));
    let after = uids(&store);
    assert_eq!(before.iter().filter(|uid| after.contains(uid)).count(), 2);
    assert_eq!(store.call(&store.master(), "SET halted no"), "OK");
    assert_eq!(events(&store, "RolloutHalted").len(), 1);

    // The spec is corrected, and another operator has taken over meanwhile.
    operator.end("-9");
    let _next = Operator::start(&api, "operator-b");
    spec("server:3", "");
    wait_updated(&store, "server:3");
    assert_eq!(store.condition("Stalled", "status"), "False");

    // Supervised: a restart stops before the master.
    spec("server:3", ", update: {strategy: Supervised}");
    api.kubectl_ok(&["annotate", "rr", "roll", "replicated-redis.io/restarted-at=now"]);
    wait_for("a person to be waited for", SOON, || store.field(".status.update.state") == "Paused");
    assert_eq!(store.field(".status.update.reason"), "WaitsForAPerson");
    assert_eq!(
        (store.field(".status.update.pod"), store.field(".status.update.updatedPods")),
        (store.master(), "2".into())
    );
    assert_eq!(store.condition("RestartRequired", "status"), "True");
    let master = store.master();
    api.kubectl_ok(&["annotate", "rr", "roll", "replicated-redis.io/continue-update=true"]);
    wait_for("the update to be over", SOON, || store.field(".status.update.state") == "Idle");
    store.wait_ready();
    assert_ne!(store.master(), master);
    wait_for("the approval to be taken off", SOON, || {
        store.field(".metadata.annotations.replicated-redis\\.io/continue-update").is_empty()
    });

    // No restarts: the change waits. Paused: nothing changes at all, and roles are served.
    let before = uids(&store);
    spec("server:4", ", reconciliation: NoRestarts");
    wait_for("the restart to be asked for", SOON, || store.condition("RestartRequired", "reason") == "NoRestarts");
    spec("server:4", ", reconciliation: Paused, config: {timeout: \"99\"}");
    wait_for("the pause to be told", SOON, || store.condition("Paused", "status") == "True");
    api.kubectl_ok(&["delete", "service", "roll-replicas"]);
    let old = store.master();
    kubelet.signal(NS, &old, "-9");
    wait_for("another master", SOON, || store.master() != old);
    wait_for("a write to be taken", SOON, || {
        store.conn(&store.master()).is_some_and(|mut conn| conn.text("SET paused yes") == "OK")
    });
    assert_eq!(uids(&store), before);
    assert!(!api.kubectl(&["get", "service", "roll-replicas"]).status.success(), "nothing is put back while paused");
    spec("server:4", "");
    wait_updated(&store, "server:4");
    assert!(api.kubectl(&["get", "service", "roll-replicas"]).status.success());
}

#[test]
fn directives_change_live_where_they_can_and_an_operator_upgrade_restarts_nothing() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let mut operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "conf" };
    let config = |directives: &str| {
        store.apply(&format!("{{replicas: 2, durability: {{writeQuorum: 1}}, config: {{{directives}}}}}"));
    };
    config("databases: \"20\"");
    store.wait_ready();
    let everywhere = |name: &str, value: &str| {
        let is = |pod: &String| {
            store
                .conn(pod)
                .is_some_and(|mut conn| conn.text(&format!("CONFIG GET {name}")).contains(&format!("\"{value}\"")))
        };
        store.pods().iter().all(is)
    };
    assert!(everywhere("databases", "20"));

    // Another version of the operator, with another default image.
    let before = uids(&store);
    let image = store.field(".status.defaultImage");
    assert_eq!(image, "server:test");
    operator.end("-TERM");
    let _next = Operator::start_with_image(&api, "operator-b", "server:next");
    wait_for("the next operator", SOON, || store.field(".status.record.holder").starts_with("operator-b"));
    store.wait_ready();

    // Live, on every instance, without a restart.
    config("databases: \"20\", hz: \"20\", save: \"900 1\"");
    wait_for("the live change", SOON, || everywhere("hz", "20") && everywhere("save", "900 1"));
    wait_for("the condition", SOON, || store.condition("ConfigApplied", "status") == "True");
    assert_eq!(uids(&store), before);
    assert_eq!(events(&store, "ConfigApplied"), ["changed without a restart: hz, save"]);
    config("databases: \"20\"");
    wait_for("the default", SOON, || everywhere("hz", "10"));
    assert_eq!(uids(&store), before);
    assert_eq!(store.field(".status.defaultImage"), "server:test");

    // What no server would start with never reaches the file, nor anybody.
    config("databases: \"20\", hz: \"30\", maxclients: \"many\"");
    wait_for("the refusal", SOON, || store.condition("ConfigApplied", "reason") == "Refused");
    let message = store.condition("ConfigApplied", "message");
    assert!(message.contains("maxclients: ") && message.contains("refuses"), "{message}");
    let file = api.kubectl_ok(&["get", "configmap", "conf-config", "-o", "jsonpath={.data}"]);
    assert!(!file.contains("many") && !file.contains("hz"), "{file}");
    assert!(everywhere("hz", "10"));
    let operators = api.apply_refused(
        "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {name: conf}\nspec: {config: {port: \"1\"}}",
    );
    assert!(operators.contains("set by the operator"), "{operators}");

    // What needs another start goes through a rolling update.
    writing(&store, "databases", || {
        config("databases: \"32\"");
        wait_for("the restarts", SOON * 2, || uids(&store).iter().all(|uid| !before.contains(uid)));
        store.wait_ready();
    });
    assert!(everywhere("databases", "32"));
    wait_for("the condition", SOON, || store.condition("ConfigApplied", "status") == "True");
    assert!(
        events(&store, "RolloutStarted")[0].contains("databases 20 becomes 32"),
        "{:?}",
        events(&store, "RolloutStarted")
    );
    for (_, _, has, _) in seen(&store) {
        assert_eq!(has, "server:test", "the image that it was made with is kept");
    }
}

#[test]
fn an_evicted_master_hands_over_first_and_a_master_alone_is_restarted() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "drain" };
    store.apply("{replicas: 2, durability: {writeQuorum: 1}}");
    store.wait_ready();
    writing(&store, "evicted", || {
        api.evict(NS, "drain-master-0");
        wait_for("another master", SOON, || store.master() != "drain-master-0");
        wait_for("the old one's new pod", SOON, || store.conn("drain-master-0").is_some());
        store.wait_ready();
    });
    assert_eq!(events(&store, "SwitchoverCompleted").len(), 1);
    assert_eq!(events(&store, "FailoverStarted").len(), 0);

    let alone = Datastore { api: &api, kubelet: &kubelet, name: "alone" };
    alone.apply("{replicas: 0}");
    alone.wait_ready();
    assert_eq!(alone.call("alone-master-0", "SET kept yes"), "OK");
    let before = uids(&alone);
    api.kubectl_ok(&["annotate", "rr", "alone", "replicated-redis.io/restarted-at=now"]);
    wait_for("the restart", SOON, || seen(&alone).iter().any(|(_, uid, _, ready)| *ready && !before.contains(uid)));
    alone.wait_ready();
    assert_eq!(alone.call("alone-master-0", "GET kept"), "yes");
    let told =
        until("the event", SOON, || events(&alone, "PodReplaced").into_iter().find(|e| e.contains("alone-master-0")));
    assert!(told.contains("so writes stop meanwhile"), "{told}");
}
