//! The master's node loses its power, and comes back.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Needs, Scene};
use harness::wait_for;

pub(super) const CASES: &[Case] =
    &[Case { name: "node_loss", needs: Needs::Nodes, limit: Duration::from_secs(300), run: node_loss }];

/// One instance per node, so that a node is lost and not the quorum.
pub(super) const APART: &str = "scheduling: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
     [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {replicated-redis.io/cluster: shop}}}]}}}";
const LIMIT: Duration = Duration::from_secs(60);

fn node_loss(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", &format!("{{replicas: 2, durability: {{writeQuorum: 1}}, {APART}}}"));
    // What the loss of the operator costs is another question.
    let (_, operators_node) = scene.cluster.operator_pod();
    let (master, node) = store.master_away_from(&operators_node);
    let witness = store.witness();

    let (epoch, begun) = (store.epoch(), now_us());
    scene.cluster.kill_node(&node);
    // What begins now cannot be answered there any more.
    let taken = witness.accepted_after(now_us(), LIMIT);
    let next = store.wait_for_reign_after(epoch, LIMIT);
    assert_ne!(next, master, "a dead node's instance is master");
    scene.step(&format!("{} ms after the loss of {node} a write was taken by {next}", (taken - begun) / 1000));

    scene.cluster.start_node(&node);
    scene.cluster.wait_for_nodes();
    store.wait_ready(Duration::from_secs(120));
    wait_for("the old master to follow", LIMIT, || store.role_label(&master) == "replica");
    scene.step(&format!("{node} is back, {master} is a replica"));
    store.judge(vec![witness], Promise::Quorum);
}
