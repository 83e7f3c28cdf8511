//! Claims: one that is lost with all that was on it is made up for by the other instances; all of them grow under their pods,
//! or it is said why they cannot.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Needs, Scene, Store};
use harness::wait_for;

use crate::rolling_update::UNHURRIED;

pub(super) const CASES: &[Case] = &[
    Case { name: "storage_lost_claim", needs: Needs::Namespace, limit: Duration::from_secs(480), run: lost_claim },
    Case { name: "storage_growth", needs: Needs::Namespace, limit: Duration::from_secs(480), run: growth },
];

const LIMIT: Duration = Duration::from_secs(90);

fn lost_claim(scene: &Scene<'_>) {
    let store = scene.ready_store("disk", "{replicas: 2, durability: {writeQuorum: 1}, storage: {size: 64Mi}}");
    store.wait_for_members(3);
    let witness = store.witness();
    let volume = |name: &str| store.field(&format!(".status.record.members[?(@.name=='{name}')].volume"));
    let replica = if store.master() == "disk-replica-1" { "disk-replica-0" } else { "disk-replica-1" };
    for (instance, what) in [(replica.to_string(), "replica"), (store.master(), "master")] {
        let old = volume(&instance);
        let claim = format!("data-{instance}");
        let uid = store.kubectl_ok(&["get", "pvc", &claim, "-o", "jsonpath={.metadata.uid}"]);
        store.kubectl_ok(&["delete", "pvc", &claim, "--wait=false"]);
        store.kubectl_ok(&["delete", "pod", &instance, "--grace-period=0", "--force", "--wait=false"]);
        if what == "master" {
            store.wait_for_other_master(&instance, LIMIT);
        }
        wait_for("its new volume to be a member", LIMIT, || {
            let new = volume(&instance);
            !new.is_empty() && new != old
        });
        assert_ne!(store.kubectl_ok(&["get", "pvc", &claim, "-o", "jsonpath={.metadata.uid}"]), uid);
        store.wait_for_members(3);
        store.wait_ready(LIMIT);
        witness.accepted_after(now_us(), LIMIT);
        // It has everything again.
        let own = || store.call_pod(&instance, "LLEN log:1").parse::<u64>().unwrap_or(0);
        let all: u64 = store.call("master", "LLEN log:1").parse().expect("a length");
        wait_for("all data to be there", LIMIT, || own() >= all);
        scene.step(&format!("{instance} ({what}) has lost its claim and is back, {} is master", store.master()));
    }
    store.judge(vec![witness], Promise::Quorum);
}

fn growth(scene: &Scene<'_>) {
    let classes = scene.cluster.kubectl_ok(&[
        "get",
        "storageclasses",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.allowVolumeExpansion} \
         {.metadata.annotations.storageclass\\.kubernetes\\.io/is-default-class}{\"\\n\"}{end}",
    ]);
    let classes: Vec<Vec<&str>> = classes.lines().map(|line| line.split(' ').collect()).collect();
    // Of a cluster that is not ours only the one that everybody uses.
    let ours = |name: &str| name.starts_with("directory");
    let chosen: Vec<_> = classes.iter().filter(|class| ours(class[0]) || class[2] == "true").collect();
    assert!(!chosen.is_empty(), "there is no default class: {classes:?}");
    for class in chosen {
        grow(scene, class[0], class[1] == "true");
    }
}

fn grow(scene: &Scene<'_>, class: &str, may_grow: bool) {
    let spec = |size: &str| {
        format!(
            "{{replicas: 1, durability: {{writeQuorum: 1}}, {UNHURRIED}, storage: {{size: {size}, storageClassName: {class}}}}}"
        )
    };
    let store = scene.ready_store(&format!("on-{class}"), &spec("1Gi"));
    store.wait_for_members(2);
    wait_for("the claims to be seen", LIMIT, || store.condition("StorageResizing", "reason") == "AsWanted");
    let witness = store.witness();
    let (before, master) = (store.lives(), store.master());
    store.apply(&spec("2Gi"));
    if may_grow {
        wait_for("every claim to have grown", LIMIT, || claims(&store, ".status.capacity.storage") == ["2Gi", "2Gi"]);
        wait_for("it to be told", LIMIT, || {
            store.condition("StorageResizing", "reason") == "AsWanted" && store.events().contains("VolumeExpanded")
        });
        scene.step(&format!("{class}: both claims have grown"));
    } else {
        wait_for("the refusal", LIMIT, || store.condition("StorageResizing", "reason") == "ExpansionRefused");
        let message = store.condition("StorageResizing", "message");
        assert!(message.contains("claims cannot grow to 2Gi") && message.contains("storageclass"), "{message}");
        scene.step(&format!("{class}: {message}"));
    }
    store.wait_ready(LIMIT);
    witness.accepted_after(now_us(), LIMIT);
    assert_eq!((store.lives(), store.master()), (before, master), "no pod was started anew");
    let summary = store.judge(vec![witness], Promise::Quorum);
    assert_eq!(summary.reigns, 1);
}

fn claims(store: &Store<'_>, path: &str) -> Vec<String> {
    let selector = format!("replicated-redis.io/cluster={}", store.name);
    let line = format!("jsonpath={{range .items[*]}}{{{path}}}{{\"\\n\"}}{{end}}");
    store.kubectl_ok(&["get", "pvc", "-l", &selector, "-o", &line]).lines().map(String::from).collect()
}
