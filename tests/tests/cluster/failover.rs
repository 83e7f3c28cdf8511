//! The master's pod or process goes, in each of the ways in which one goes: there is a master of a later epoch soon, and no
//! quorum write is lost.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Needs, Scene, Store, Witness, until};

pub(super) const CASES: &[Case] = &[
    Case { name: "failover", needs: Needs::Namespace, limit: Duration::from_secs(480), run: failover },
    Case {
        name: "failover_without_operator",
        needs: Needs::Cluster,
        limit: Duration::from_secs(180),
        run: without_operator,
    },
    // The last of the suite, when nothing else runs: it measures.
    Case { name: "failover_times", needs: Needs::Cluster, limit: Duration::from_secs(480), run: times },
];

/// How often each change is measured.
const ROUNDS: usize = 7;

const SPEC: &str = "{replicas: 2, durability: {writeQuorum: 1}, storage: {size: 64Mi}}";
const LIMIT: Duration = Duration::from_secs(60);

fn failover(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", SPEC);
    let witness = store.witness();

    fail_over(scene, &store, &witness, "the end of the container (SIGKILL)", |master| store.signal(master, "-KILL"));

    fail_over(scene, &store, &witness, "the deletion of the pod without grace", |master| {
        store.kubectl_ok(&["delete", "pod", master, "--grace-period=0", "--force", "--wait=false"]);
    });

    let mut stopped = String::new();
    fail_over(scene, &store, &witness, "the stop of the process (SIGSTOP)", |master| {
        stopped = master.to_string();
        store.signal(master, "-STOP");
        // It goes on once another has taken writes: it must not take any.
        store.wait_for_other_master(master, LIMIT);
        witness.accepted_after(now_us(), LIMIT);
        store.signal(master, "-CONT");
    });
    until("the one that was stopped to follow", LIMIT, || (store.role_label(&stopped) == "replica").then_some(()));

    // A pod that is deleted in order hands its role over: it does not count as a failure.
    fail_over(scene, &store, &witness, "the deletion of the pod", |master| {
        store.kubectl_ok(&["delete", "pod", master, "--wait=false"]);
    });
    store.judge(vec![witness], Promise::Quorum);
}

/// Does `harm` to the master, and waits until all is well again. Prints how long no write was taken.
fn fail_over(scene: &Scene<'_>, store: &Store<'_>, witness: &Witness, what: &str, harm: impl FnOnce(&str)) {
    let (master, epoch, begun) = (store.master(), store.epoch(), now_us());
    harm(&master);
    let next = store.wait_for_reign_after(epoch, LIMIT);
    witness.accepted_after(now_us(), LIMIT);
    let pause = longest_pause_since(witness, begun);
    scene.step(&format!("{what}: {next} is master, no write was taken for {} ms", pause / 1000));
    store.wait_ready(Duration::from_secs(90));
}

/// The longest time, in µs, in which no write was accepted since then.
fn longest_pause_since(witness: &Witness, since_us: u64) -> u64 {
    let operations: Vec<_> = witness.operations().into_iter().filter(|o| o.ended_us + 1_000_000 > since_us).collect();
    harness::cluster::history::longest_pause(&operations).map_or(0, |(_, length)| length)
}

/// The operator and the master end in the same moment: the next operator finds out.
fn without_operator(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", SPEC);
    let witness = store.witness();
    let (operator, _) = scene.cluster.operator_pod();
    let (master, epoch, begun) = (store.master(), store.epoch(), now_us());
    scene.cluster.kill_operator(&operator);
    store.signal(&master, "-KILL");
    let next = store.wait_for_reign_after(epoch, LIMIT);
    witness.accepted_after(now_us(), LIMIT);
    let pause = longest_pause_since(&witness, begun);
    scene.step(&format!("operator and master killed: {next} is master, no write was taken for {} ms", pause / 1000));
    scene.cluster.wait_for_operator();
    store.wait_ready(Duration::from_secs(90));
    store.judge(vec![witness], Promise::Quorum);
}

/// How long clients of the master Service cannot write: the figures of the README.
fn times(scene: &Scene<'_>) {
    let store = scene.ready_store("shop", SPEC);
    let witness = store.witness();
    let measure = |what: &str, change: &dyn Fn(&str)| {
        let mut pauses: Vec<u64> = (0..ROUNDS)
            .map(|_| {
                let (master, epoch, begun) = (store.master(), store.epoch(), now_us());
                change(&master);
                store.wait_for_reign_after(epoch, LIMIT);
                witness.accepted_after(now_us(), LIMIT);
                store.wait_ready(LIMIT);
                // Not in the wake of the last change.
                std::thread::sleep(Duration::from_secs(2));
                longest_pause_since(&witness, begun) / 1000
            })
            .collect();
        pauses.sort_unstable();
        scene.step(&format!("{what}: no write was taken for {} ms at the median of {pauses:?}", pauses[ROUNDS / 2]));
    };
    measure("the master's process is killed", &|master| store.signal(master, "-KILL"));
    measure("a switchover is asked for", &|_| {
        scene.kubectl_ok(&["annotate", "rr", "shop", "replicated-redis.io/switchover=any"]);
    });
    store.judge(vec![witness], Promise::Quorum);
}
