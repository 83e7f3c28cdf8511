//! `spec.config` under clients that write: changed live where the server can, by a rolling restart where it cannot, and refused
//! by name where no server would start with it.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Life, Needs, Scene, Store};
use harness::wait_for;

use crate::rolling_update::UNHURRIED;

pub(super) const CASES: &[Case] =
    &[Case { name: "config", needs: Needs::Namespace, limit: Duration::from_secs(480), run: config }];

const LIMIT: Duration = Duration::from_secs(90);

fn spec(directives: &str) -> String {
    format!(
        "{{replicas: 2, durability: {{writeQuorum: 1}}, storage: {{size: 64Mi}}, {UNHURRIED}, config: {{databases: \"20\"{directives}}}}}"
    )
}

fn everywhere(store: &Store<'_>, name: &str, value: &str) -> bool {
    let has = |life: &Life| {
        let conn = life.ip.and_then(|ip| store.conn((ip, 6379).into()));
        let answer = conn.and_then(|mut conn| conn.try_call(&["CONFIG", "GET", name]).ok());
        answer.is_some_and(|answer| answer.to_string().contains(&format!("\"{value}\"")))
    };
    store.lives().values().all(has)
}

fn config(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", &spec(""));
    store.wait_for_members(3);
    assert!(everywhere(&store, "databases", "20"));
    let witness = store.witness();
    let (before, master) = (store.lives(), store.master());

    store.apply(&spec(", hz: \"20\", save: \"900 1\""));
    wait_for("the live change", LIMIT, || everywhere(&store, "hz", "20") && everywhere(&store, "save", "900 1"));
    wait_for("it to be told", LIMIT, || store.events().contains("ConfigApplied: changed without a restart: hz, save"));
    store.wait_ready(LIMIT);
    assert_eq!(store.condition("ConfigApplied", "status"), "True");
    scene.step("hz and save changed live");

    // What no server would start with is named, and the rest of that edit waits with it.
    store.apply(&spec(", hz: \"30\", maxclients: many"));
    wait_for("the refusal", LIMIT, || store.condition("ConfigApplied", "reason") == "Refused");
    let message = store.condition("ConfigApplied", "message");
    assert!(message.contains("maxclients: "), "{message}");
    wait_for("it to be told", LIMIT, || store.events().contains("ConfigRefused"));
    assert_eq!(store.condition("Stalled", "reason"), "ConfigRefused");
    assert!(everywhere(&store, "hz", "20"));
    let operators = scene.apply_refused(
        "{apiVersion: replicated-redis.io/v1alpha1, kind: ReplicatedRedis, metadata: {name: shop}, spec: {config: {port: \"1\"}}}",
    );
    assert!(operators.contains("set by the operator"), "{operators}");
    scene.step(&message);

    // Back to its default, live too.
    store.apply(&spec(""));
    wait_for("the default", LIMIT, || everywhere(&store, "hz", "10"));
    store.wait_ready(LIMIT);
    assert_eq!((store.lives(), store.master()), (before.clone(), master.clone()), "nothing was restarted");
    witness.accepted_after(now_us(), LIMIT);

    // What needs another start rolls.
    store.apply(&spec("").replace("\"20\"", "\"32\""));
    wait_for("every pod to have started anew", LIMIT * 2, || {
        let now = store.lives();
        let is_new = |(pod, life): (&String, &Life)| now.get(pod).is_some_and(|now| now.runs && now.uid != life.uid);
        before.iter().all(is_new) && everywhere(&store, "databases", "32")
    });
    store.wait_ready(LIMIT);
    wait_for("it to be in force", LIMIT, || store.condition("ConfigApplied", "status") == "True");
    assert_ne!(store.master(), master, "the role has moved before its pod was replaced");
    let events = store.events();
    assert!(events.contains("databases 20 becomes 32") && !events.contains("FailoverStarted"), "{events}");
    scene.step("databases changed by a rolling restart");
    store.judge(vec![witness], Promise::Quorum);
}
