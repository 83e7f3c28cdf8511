//! `kubectl drain` of the master's node: the role moves before the pod is evicted.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::{Case, Needs, Scene};
use harness::wait_for;

use crate::node_loss::APART;

pub(super) const CASES: &[Case] =
    &[Case { name: "drain", needs: Needs::Nodes, limit: Duration::from_secs(480), run: drain }];

const LIMIT: Duration = Duration::from_secs(60);

fn drain(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", &format!("{{replicas: 2, durability: {{writeQuorum: 1}}, {APART}}}"));
    let (_, operators_node) = scene.cluster.operator_pod();
    let (master, node) = store.master_away_from(&operators_node);
    let witness = store.witness();

    scene.kubectl_ok(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"]);
    let next = store.wait_for_other_master(&master, LIMIT);
    wait_for("the switchover to be told", LIMIT, || store.events().contains(&format!("SwitchoverCompleted: {next}:")));
    let events = store.events();
    assert!(!events.contains("FailoverStarted"), "the master was evicted before its role had moved: {events}");
    scene.step(&format!("{node} is drained, {next} is master"));

    // Its volume is on that node: the pod waits for it, and the datastore says what is missing.
    wait_for("the missing replica to be said", LIMIT, || store.condition("ReplicationHealthy", "status") == "False");
    assert!(store.condition("ReplicationHealthy", "message").contains(&master));
    scene.kubectl_ok(&["uncordon", &node]);
    store.wait_ready(Duration::from_secs(90));
    let summary = store.judge(vec![witness], Promise::Quorum);
    scene.step(&format!("{node} is back; no write was taken for {} ms", summary.longest_pause_ms));
}
