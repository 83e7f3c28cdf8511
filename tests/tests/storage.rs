//! Claims: they grow while their pods run, and one that is lost is made up for by the others. On a real API server; what a
//! volume's driver would do is done by the test.

use std::time::Duration;

use harness::cluster::pods::{Datastore, SOON};
use harness::cluster::{ApiServer, Operator, ProcessKubelet};
use harness::wait_for;

/// A class, and volumes for it that a claim of 1Gi is bound to.
fn class(api: &ApiServer, name: &str, may_grow: bool, volumes: usize) {
    let mut yaml = format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {name}}}\n\
         provisioner: kubernetes.io/no-provisioner\nallowVolumeExpansion: {may_grow}\n"
    );
    for n in 0..volumes {
        yaml += &format!(
            "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}-{n}}}\n\
             spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], storageClassName: {name}, hostPath: {{path: /nowhere}}}}\n"
        );
    }
    api.apply_ok(&yaml);
}

fn claim(api: &ApiServer, instance: &str, path: &str) -> String {
    api.kubectl_ok(&["get", "pvc", &format!("data-{instance}"), "-o", &format!("jsonpath={{{path}}}")])
}

/// What would change if a pod or its container were started anew.
fn lives(store: &Datastore<'_>) -> Vec<String> {
    let path = "jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount}";
    store.pods().iter().map(|pod| store.api.kubectl_ok(&["get", "pod", pod, "-o", path])).collect()
}

#[test]
fn claims_grow_under_running_pods_and_a_class_that_cannot_grow_is_named() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    class(&api, "grows", true, 2);
    class(&api, "fixed", false, 1);
    let store = Datastore { api: &api, kubelet: &kubelet, name: "big" };
    let spec = |size: &str| format!("{{replicas: 1, storage: {{size: {size}, storageClassName: grows}}}}");
    store.apply(&spec("1Gi"));
    store.wait_ready();
    let instances = ["big-master-0", "big-replica-0"];
    wait_for("the claims to be bound", SOON, || {
        instances.iter().all(|instance| claim(&api, instance, ".status.phase") == "Bound")
    });
    wait_for("the condition", SOON, || store.condition("StorageResizing", "reason") == "AsWanted");
    let before = lives(&store);
    assert_eq!(store.call("big-master-0", "SET kept yes"), "OK");

    store.apply(&spec("2Gi"));
    for instance in instances {
        wait_for("a larger request", SOON, || claim(&api, instance, ".spec.resources.requests.storage") == "2Gi");
    }
    let template = "jsonpath={.spec.volumeClaimTemplates[0].spec.resources.requests.storage}";
    for pool in ["master", "replica"] {
        let set = format!("big-{pool}");
        wait_for("the StatefulSet to be made anew", SOON, || {
            let got = api.kubectl(&["get", "statefulset", &set, "-o", template]);
            got.status.success() && String::from_utf8_lossy(&got.stdout) == "2Gi"
        });
    }
    wait_for("the growth to be told", SOON, || store.condition("StorageResizing", "status") == "True");
    assert!(store.condition("StorageResizing", "message").contains("data-big-master-0"));
    for instance in instances {
        let name = format!("data-{instance}");
        let grown = r#"{"status": {"capacity": {"storage": "2Gi"}}}"#;
        api.kubectl_ok(&["patch", "pvc", &name, "--subresource=status", "--type=merge", "-p", grown]);
    }
    wait_for("its end to be told", SOON, || store.condition("StorageResizing", "reason") == "AsWanted");
    store.wait_ready();
    assert_eq!(lives(&store), before, "no pod was started anew");
    assert_eq!(store.call("big-master-0", "GET kept"), "yes");
    wait_for("the events", SOON, || {
        let events = api.kubectl_ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {end}"]);
        events.contains("VolumeExpanding") && events.contains("VolumeExpanded")
    });
    let smaller = api.apply_refused(&format!(
        "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {{name: big}}\nspec: {}\n",
        spec("1Gi")
    ));
    assert!(smaller.contains("storage.size may only grow"), "{smaller}");

    let other = Datastore { api: &api, kubelet: &kubelet, name: "small" };
    let spec = |size: &str| format!("{{replicas: 0, storage: {{size: {size}, storageClassName: fixed}}}}");
    other.apply(&spec("1Gi"));
    other.wait_ready();
    wait_for("the claim to be bound", SOON, || claim(&api, "small-master-0", ".status.phase") == "Bound");
    let before = lives(&other);
    other.apply(&spec("2Gi"));
    wait_for("the refusal", SOON, || other.condition("StorageResizing", "reason") == "ExpansionRefused");
    let message = other.condition("StorageResizing", "message");
    assert!(message.contains("storageclass"), "{message}");
    other.wait_ready();
    assert_eq!(lives(&other), before);
}

#[test]
fn claims_go_with_their_datastore_only_if_that_is_wanted() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    class(&api, "any", true, 2);
    let spec = |retention: &str| {
        format!(
            "{{replicas: 0, storage: {{size: 1Gi, storageClassName: any, retention: {{whenDeleted: {retention}}}}}}}"
        )
    };
    let (kept, gone) = ("kept-master-0", "gone-master-0");
    for (name, retention) in [("kept", "Retain"), ("gone", "Delete")] {
        let store = Datastore { api: &api, kubelet: &kubelet, name };
        store.apply(&spec(retention));
        store.wait_ready();
        // The StatefulSet's controller leaves claims alone: the scheduler is to have them for itself.
        let policy = "jsonpath={.spec.persistentVolumeClaimRetentionPolicy.whenDeleted}";
        assert_eq!(api.kubectl_ok(&["get", "statefulset", &format!("{name}-master"), "-o", policy]), "Retain");
    }
    let owner = |instance: &str| claim(&api, instance, ".metadata.ownerReferences[*].kind");
    wait_for("the claim to have its owner", SOON, || owner(gone) == "ReplicatedRedis");
    assert_eq!(owner(kept), "");
    api.kubectl_ok(&["delete", "rr", "kept", "gone"]);
    wait_for("the claim to go", SOON, || !api.kubectl(&["get", "pvc", &format!("data-{gone}")]).status.success());
    assert_eq!(claim(&api, kept, ".status.phase"), "Bound");
}

/// Nobody else holds the data: an empty master is made when a person says so, and not before.
#[test]
fn without_replicas_a_lost_claim_waits_for_a_person() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "only" };
    store.apply("{replicas: 0}");
    store.wait_ready();
    assert_eq!(store.call("only-master-0", "SET a 1"), "OK");
    api.kubectl_ok(&["delete", "pvc", "data-only-master-0", "--wait=false"]);
    api.kubectl_ok(&["delete", "pod", "only-master-0", "--grace-period=0", "--force", "--wait=false"]);
    wait_for("the loss to be told", SOON, || store.condition("MasterAvailable", "reason") == "NoMemberHasData");
    let message = store.condition("MasterAvailable", "message");
    assert!(message.contains("another volume") && message.contains("allow-data-loss"), "{message}");
    std::thread::sleep(Duration::from_secs(2));
    assert!(store.call("only-master-0", "SET a 2").starts_with("(error) LOADING"));
    api.kubectl_ok(&["annotate", "rr", "only", "replicated-redis.io/allow-data-loss=true"]);
    store.wait_ready();
    assert_eq!(store.call("only-master-0", "DBSIZE"), "0");
    assert_eq!(store.call("only-master-0", "SET a 2"), "OK");
    assert_eq!(store.field(".metadata.annotations.replicated-redis\\.io/allow-data-loss"), "");
}

#[test]
fn an_instance_that_has_lost_its_claim_is_made_anew_from_the_others() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "lost" };
    store.apply("{replicas: 2}");
    store.wait_ready();
    let members = || store.field(".status.record.members[*].name").split(' ').count();
    wait_for("three members", SOON, || members() == 3);
    for n in 0..50 {
        assert_eq!(store.call("lost-master-0", &format!("SET key:{n} value")), "OK");
    }
    let volume = |name: &str| store.field(&format!(".status.record.members[?(@.name=='{name}')].volume"));

    // A replica's first, then the master's own, each with its pod and without a word of warning.
    for instance in ["lost-replica-0", "lost-master-0"] {
        let (old, uid) = (volume(instance), claim(&api, instance, ".metadata.uid"));
        let was_master = store.master() == instance;
        api.kubectl_ok(&["delete", "pvc", &format!("data-{instance}"), "--wait=false"]);
        api.kubectl_ok(&["delete", "pod", instance, "--grace-period=0", "--force", "--wait=false"]);
        wait_for("another claim", SOON, || {
            let name = format!("data-{instance}");
            let got = api.kubectl(&["get", "pvc", &name, "-o", "jsonpath={.metadata.uid}"]);
            got.status.success() && String::from_utf8_lossy(&got.stdout) != uid
        });
        if was_master {
            wait_for("another master", SOON, || !store.master().is_empty() && store.master() != instance);
        }
        wait_for("its new volume to be a member", Duration::from_secs(90), || {
            let new = volume(instance);
            !new.is_empty() && new != old && members() == 3
        });
        store.wait_ready();
        // Never was an empty one in charge: nothing is missing, here or there.
        for pod in store.pods() {
            wait_for("all keys", SOON, || store.conn(&pod).is_some_and(|mut conn| conn.text("DBSIZE") == "50"));
        }
    }
    assert_ne!(store.master(), "lost-master-0");
}

#[test]
fn a_save_that_fails_is_told_and_so_is_its_end() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let mut first = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "full" };
    store.apply("{replicas: 1, config: {save: \"1 1\"}}");
    store.wait_ready();
    let dir = |pod: &str| {
        let mut conn = store.conn(pod).expect("it answers");
        let answer = conn.call(&["CONFIG", "GET", "dir"]);
        let dir = answer.as_list().and_then(|items| items.get(1)?.as_str()).expect("it has a directory");
        std::path::PathBuf::from(dir)
    };
    let events = |reason: &str| {
        let selector = format!("reason={reason}");
        api.kubectl_ok(&["get", "events", "--field-selector", &selector, "-o", "name"]).lines().count()
    };
    let condition = |kind: &str| (store.condition(kind, "status"), store.condition(kind, "reason"));
    // A folder in the place of the file stands for a full disk: it cannot be replaced.
    let spoil = |pod: &str| {
        let file = dir(pod).join("dump.rdb");
        // A save that is under way may come between.
        wait_for("the folder to be there", SOON, || {
            let _ = std::fs::remove_file(&file);
            std::fs::create_dir_all(file.join("taken")).is_ok()
        });
        file
    };

    let file = spoil("full-replica-0");
    assert_eq!(store.call("full-master-0", "SET a b"), "OK");
    wait_for("it to be told", SOON, || condition("PersistenceHealthy") == ("False".into(), "SaveFailed".into()));
    assert!(store.condition("PersistenceHealthy", "message").starts_with("full-replica-0: "));
    wait_for("the event", SOON, || events("SaveFailed") == 1);
    // Writes go on, and another operator does not tell it again.
    assert_eq!(condition("Ready").0, "True");
    assert_eq!(store.call("full-master-0", "SET a c"), "OK");
    first.end("-TERM");
    let _second = Operator::start(&api, "operator-b");
    wait_for("the other to lead", SOON, || store.field(".status.record.holder").starts_with("operator-b"));
    std::fs::remove_dir_all(&file).expect("it can be removed");
    wait_for("its end", SOON, || condition("PersistenceHealthy") == ("True".into(), "SavesSucceed".into()));
    wait_for("the event", SOON, || events("SavesSucceed") == 1);
    assert_eq!(events("SaveFailed"), 1);

    // A master that cannot save takes no writes, which is said, and takes them again as soon as a save succeeds.
    let file = spoil("full-master-0");
    store.call("full-master-0", "SET a d");
    wait_for("it to be told", SOON, || condition("Ready") == ("False".into(), "SaveFailed".into()));
    assert_eq!(condition("MasterAvailable"), ("False".into(), "SaveFailed".into()));
    assert!(store.call("full-master-0", "SET a e").contains("MISCONF"));
    assert_eq!(store.call("full-master-0", "GET a"), "d");
    std::fs::remove_dir_all(&file).expect("it can be removed");
    store.wait_ready();
    assert_eq!(store.call("full-master-0", "SET a e"), "OK");
    assert_eq!(store.master(), "full-master-0");
}
