//! The master's node is cut off from all others, with clients on both sides that go on writing (rules R3 and R5): the one
//! inside takes no write after its fence time, the others have a master of a later epoch, and after the cable is back the old
//! one follows it.

use std::time::Duration;

use harness::cluster::history::{Kind, Outcome, Promise};
use harness::cluster::witness::{Target, now_us};
use harness::cluster::{Case, Needs, Scene, Store, Witness};
use harness::wait_for;

use crate::node_loss::APART;

pub(super) const CASES: &[Case] =
    &[Case { name: "fence", needs: Needs::Nodes, limit: Duration::from_secs(300), run: fence }];

const LIMIT: Duration = Duration::from_secs(60);
/// What a master holds at most when it is cut off: the lease, `managed-lease-ms`.
const LEASE_US: u64 = 2_000_000;

fn fence(scene: &Scene<'_>) {
    for (promise, quorum) in [(Promise::Asynchronous, 0), (Promise::Quorum, 1)] {
        scene.step(&format!("with a write quorum of {quorum}"));
        let spec = format!("{{replicas: 2, durability: {{writeQuorum: {quorum}}}, {APART}}}");
        let store = scene.ready_store("shop", &spec);
        cut_off(scene, &store, promise);
        scene.kubectl_ok(&["delete", "rr", "shop", "--cascade=foreground", "--timeout=60s", "--wait=false"]);
        scene.kubectl_ok(&["delete", "pods", "--all", "--grace-period=1"]);
        scene.kubectl_ok(&["delete", "rr,pvc", "--all", "--timeout=60s"]);
    }
}

fn cut_off(scene: &Scene<'_>, store: &Store<'_>, promise: Promise) {
    let (_, operators_node) = scene.cluster.operator_pod();
    let (master, node) = store.master_away_from(&operators_node);
    let outside = store.witness();
    // Service addresses lead to whoever is master; this client stays with the one on its node.
    let own = Target { master: store.pod_address(&master), ..store.target() };
    let inside = Witness::on_node(scene.cluster.in_network_of(&node), 3, &own);
    inside.accepted_after(0, LIMIT);

    let cut = now_us();
    scene.cluster.cut_off(&node);
    let is_cut = now_us();
    let taken = outside.accepted_after(is_cut + 500_000, LIMIT);
    scene.step(&format!("{} ms after the cut another master took a write", (taken - cut) / 1000));
    // Both go on for a while.
    outside.accepted_after(taken + 2_000_000, LIMIT);
    let tried = inside.operations();
    let accepted = tried.iter().filter(|o| (o.kind, o.outcome) == (Kind::Write, Outcome::Ok));
    let last = accepted.map(|o| o.begun_us).max().expect("it took writes before");
    assert!(last < is_cut + LEASE_US, "{} took a write {} ms after it was cut off", master, (last - is_cut) / 1000);
    assert!(last < taken, "two masters took writes at the same time");
    let later = tried.iter().filter(|o| o.begun_us > is_cut + LEASE_US).count();
    assert!(later > 0, "the client inside has not gone on: {}", inside.last_words());
    let since = i128::from(last) - i128::from(cut);
    scene.step(&format!(
        "the last write inside began {} ms after the cut; {later} were tried after the fence",
        since / 1000
    ));

    scene.cluster.reconnect(&node);
    scene.cluster.wait_for_nodes();
    store.wait_ready(Duration::from_secs(120));
    wait_for("the old master to follow", LIMIT, || store.role_label(&master) == "replica");
    store.judge(vec![outside, inside], promise);
}
