//! Scaling, by every way that leads to `spec.replicas`: nothing is lost, and the master is not taken away under its clients.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::{Case, Needs, Scene, Store};
use harness::wait_for;

pub(super) const CASES: &[Case] =
    &[Case { name: "scale", needs: Needs::Namespace, limit: Duration::from_secs(300), run: scale }];

const LIMIT: Duration = Duration::from_secs(60);

fn scale(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", "{replicas: 1, storage: {size: 64Mi}}");
    let witness = store.witness();
    let uid = store.pod_field("shop-master-0", ".metadata.uid");

    // By an edit.
    store.apply("{replicas: 3, storage: {size: 64Mi}}");
    is_scaled(&store, 3);
    scene.step("edited to 3");

    // Below the ordinal that holds the master: the role moves before the pod goes.
    store.wait_for_members(4);
    store.bring_master_to("shop-replica-2");
    scene.kubectl_ok(&["scale", "rr/shop", "--replicas=1"]);
    is_scaled(&store, 1);
    assert_ne!(store.master(), "shop-replica-2");
    let events = store.events();
    assert!(!events.contains("FailoverStarted"), "the master was taken away: {events}");
    scene.step(&format!("scaled to 1 past the master's ordinal: {} is master", store.master()));

    // To nothing but a master, and back.
    if store.master() != "shop-master-0" {
        store.bring_master_to("shop-master-0");
    }
    scene.kubectl_ok(&["scale", "rr/shop", "--replicas=0"]);
    is_scaled(&store, 0);
    scene.kubectl_ok(&["scale", "rr/shop", "--replicas=2"]);
    is_scaled(&store, 2);
    assert_eq!(store.pod_field("shop-master-0", ".metadata.uid"), uid, "the master's pod was replaced");
    scene.step("scaled to 0 and back to 2");

    // By an autoscaler: with less than its minimum it needs no metrics to act.
    scene.apply_ok(
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: shop}, spec: {minReplicas: 3, maxReplicas: 4, \
         scaleTargetRef: {apiVersion: replicated-redis.io/v1alpha1, kind: ReplicatedRedis, name: shop}, \
         metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}}",
    );
    wait_for("the autoscaler to act", LIMIT, || store.field(".spec.replicas") == "3");
    is_scaled(&store, 3);
    scene.step("scaled to 3 by an autoscaler");

    // Asynchronous, and yet nothing that is planned loses a write.
    let summary = store.judge(vec![witness], Promise::Asynchronous);
    assert_eq!(summary.lost, 0);
}

/// Waits until the datastore, its pods and the scale subresource say so.
fn is_scaled(store: &Store<'_>, replicas: usize) {
    store.wait_ready(Duration::from_secs(90));
    wait_for(&format!("{replicas} replicas"), LIMIT, || {
        store.pods().len() == replicas + 1 && store.field(".status.replicas") == replicas.to_string()
    });
    assert_eq!(store.field(".status.replicaSummary"), format!("{replicas}/{replicas}"));
}
