//! A changed pod template rolls through the pods while clients write: replicas one at a time, a switchover, the old master. One
//! that cannot run halts it. A changed operator restarts nothing.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Needs, Scene, Store};
use harness::wait_for;

pub(super) const CASES: &[Case] = &[
    Case { name: "rolling_update", needs: Needs::Namespace, limit: Duration::from_secs(300), run: rolling_update },
    Case {
        name: "rolling_update_of_the_operator",
        needs: Needs::Cluster,
        limit: Duration::from_secs(480),
        run: of_the_operator,
    },
];

/// A master that a busy machine keeps from its work for a while is no lost one.
pub(super) const UNHURRIED: &str = "failover: {downAfterSeconds: 30}";
const LIMIT: Duration = Duration::from_secs(90);

fn spec(more: &str) -> String {
    format!("{{replicas: 2, durability: {{writeQuorum: 1}}, storage: {{size: 64Mi}}, {UNHURRIED}{more}}}")
}

fn rolling_update(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", &spec(""));
    store.wait_for_members(3);
    let witness = store.witness();

    // The same program under another name, which every registry knows; and more of the template besides.
    let image = store.pod_field("shop-replica-0", ".status.containerStatuses[0].imageID");
    let master = store.master();
    let changed = spec(&format!(
        ", image: \"{image}\", resources: {{requests: {{cpu: 5m, memory: 16Mi}}}}, \
         podTemplate: {{env: [{{name: STEP, value: one}}]}}"
    ));
    let order = update(&store, &changed);
    assert_eq!(order.last(), Some(&master), "the master's pod comes last: {order:?}");
    assert_ne!(store.master(), master, "its role had moved before");
    for pod in store.pods() {
        assert_eq!(store.pod_field(&pod, ".spec.containers[0].image"), image);
        assert_eq!(store.pod_field(&pod, ".spec.containers[0].env[?(@.name=='STEP')].value"), "one");
    }
    let events = store.events();
    assert!(events.contains("RolloutCompleted") && !events.contains("FailoverStarted"), "{events}");
    scene.step(&format!("another image, resources and variable: {}", order.join(", ")));

    // One that is nowhere: the replica that does not come back halts it.
    let (before, master) = (store.lives(), store.master());
    let missing = format!("{}-that-is-nowhere", scene.cluster.image("replicated-redis-server"));
    store.apply(&spec(&format!(", image: \"{missing}\"")));
    wait_for("the update to halt", LIMIT, || store.condition("Stalled", "status") == "True");
    assert_eq!(store.condition("Stalled", "reason"), "PodCannotRun");
    let message = store.condition("Stalled", "message");
    assert!(message.contains(&missing) && message.contains("does not come back"), "{message}");
    assert_eq!(store.field(".status.update.state"), "Halted");
    witness.accepted_after(now_us(), LIMIT);
    scene.step(&format!("halted: {message}"));
    let halted = store.field(".status.update.pod");
    assert_ne!(halted, master);

    // The spec as it was: only that replica is replaced once more.
    store.apply(&changed);
    store.wait_ready(LIMIT);
    wait_for("the update to be over", LIMIT, || store.field(".status.update.state") == "Idle");
    let after = store.lives();
    let replaced: Vec<&String> = before.keys().filter(|pod| before.get(*pod) != after.get(*pod)).collect();
    assert_eq!((replaced, store.master()), (vec![&halted], master), "nothing else was touched");
    assert_eq!(store.condition("Stalled", "status"), "False");
    scene.step("healed by the spec");
    store.judge(vec![witness], Promise::Quorum);
}

/// Applies a spec that replaces every pod, and waits until it has: at no time more than one is away. The pods in the order
/// in which they were replaced.
fn update(store: &Store<'_>, spec: &str) -> Vec<String> {
    let before = store.lives();
    let mut order: Vec<String> = Vec::new();
    store.apply(spec);
    wait_for("every pod to be replaced", LIMIT * 2, || {
        let now = store.lives();
        let away = before.keys().filter(|pod| !now.get(*pod).is_some_and(|life| life.runs)).count();
        assert!(away <= 1, "{away} pods are away at once: {now:?}");
        let is_new = |pod: &&String| now.get(*pod).is_some_and(|life| life.uid != before[*pod].uid);
        let new: Vec<&String> = before.keys().filter(is_new).filter(|pod| !order.contains(pod)).collect();
        order.extend(new.into_iter().cloned());
        order.len() == before.len()
    });
    store.wait_ready(LIMIT);
    assert_eq!(store.field(".status.update.state"), "Idle");
    order
}

fn of_the_operator(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", &spec(""));
    store.wait_for_members(3);
    let witness = store.witness();
    let (pods, master, epoch) = (store.lives(), store.master(), store.epoch());

    let (old, _) = scene.cluster.operator_pod();
    scene.cluster.patch_operator(&format!(
        r#"{{"spec": {{"template": {{"metadata": {{"annotations": {{"replaced-by": "{}"}}}}}}}}}}"#,
        scene.namespace
    ));
    let (new, _) = scene.cluster.operator_pod();
    assert_ne!(new, old);
    wait_for("the new operator to have taken over", LIMIT, || store.field(".status.record.holder").starts_with(&new));
    // It works, and changes the pods only that it is asked to change.
    store.kubectl_ok(&["scale", "rr/shop", "--replicas=3"]);
    store.wait_for_members(4);
    store.wait_ready(LIMIT);
    witness.accepted_after(now_us(), LIMIT);
    let mut now = store.lives();
    assert!(now.remove("shop-replica-2").is_some());
    assert_eq!((now, store.master(), store.epoch() > epoch), (pods, master, true));
    scene.step(&format!("{new} has taken over from {old}; no pod was restarted"));
    store.judge(vec![witness], Promise::Quorum);
}
