//! The operator dies at chosen actions of a failover, a switchover and a scaling, while clients go on. (Every action of each is
//! tried with pods as processes: `tests/tests/operator_crash`.)

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::{Case, Needs, Scene, Store};
use harness::wait_for;
use operator::fault::{Act, VARIABLE};

pub(super) const CASES: &[Case] =
    &[Case { name: "operator_crash", needs: Needs::Nodes, limit: Duration::from_secs(300), run: operator_crash }];

const LIMIT: Duration = Duration::from_secs(90);
const VOLUME: &str = "orders-to-die";

fn operator_crash(scene: &Scene<'_>) {
    let cluster = scene.cluster;
    // A volume outlives the operator's container, so that the order is given once.
    cluster.patch_operator(&format!(
        r#"{{"spec": {{"template": {{"spec": {{"volumes": [{{"name": "{VOLUME}", "emptyDir": {{}}}}],
            "containers": [{{"name": "operator", "env": [{{"name": "{VARIABLE}", "value": "/orders/here"}}],
            "volumeMounts": [{{"name": "{VOLUME}", "mountPath": "/orders"}}]}}]}}}}}}}}"#
    ));
    let store = scene.ready_store("shop", "{replicas: 2, durability: {writeQuorum: 1}, storage: {size: 64Mi}}");
    let witness = store.witness();
    dies(scene, &store, Act::WriteRecord, "a failover", || store.signal(&store.master(), "-KILL"));
    dies(scene, &store, Act::Handover, "a switchover", || {
        scene.kubectl_ok(&["annotate", "rr", "shop", "replicated-redis.io/switchover=any"]);
    });
    dies(scene, &store, Act::Apply, "a scaling", || {
        scene.kubectl_ok(&["scale", "rr/shop", "--replicas=3"]);
    });
    store.wait_for_members(4);
    store.judge(vec![witness], Promise::Quorum);
}

/// Tells the operator to die when it has done that, gives it the reason to come there, and waits until its successor has finished.
fn dies(scene: &Scene<'_>, store: &Store<'_>, act: Act, what: &str, cause: impl FnOnce()) {
    let cluster = scene.cluster;
    let [_, point] = act.points();
    let (pod, node) = cluster.operator_pod();
    let restarts = || cluster.operator_field(&pod, ".status.containerStatuses[0].restartCount");
    let (before, epoch) = (restarts(), store.epoch());
    let order = cluster.empty_dir(&node, &cluster.operator_field(&pod, ".metadata.uid"), VOLUME).join("here");
    std::fs::write(&order, format!("{point}:1")).expect("the operator's volume is on this machine");
    cause();
    wait_for(&format!("the operator to die {point}"), LIMIT, || restarts() != before);
    cluster.wait_for_operator();
    wait_for("its successor to finish", LIMIT, || store.epoch() > epoch);
    store.wait_ready(LIMIT);
    scene.step(&format!("the operator died {point} in {what}, and another has finished it"));
}
