//! Local mode: from the kill of the master to the next accepted write, and what a planned switchover costs a client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::local::{LIMIT, Local, NAME, kill};

use crate::Scale;
use crate::table::{Goal, Table, median, percentile};

const REPLICAS: i32 = 2;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let times = scale.of(20, 3);
    let local = Local::start(REPLICAS, "");
    let mut failovers: Vec<f64> = (0..times).map(|_| failover(&local)).collect();
    table.add("failover: kill -9 to the first write, median", "ms", median(failovers.clone()), None, Goal::Own(1500.0));
    table.add("failover: the same, worst", "ms", percentile(&mut failovers, 1.0), None, Goal::None);
    let mut pauses: Vec<f64> = (0..times).map(|_| switchover(&local)).collect();
    table.add(
        "switchover: longest gap between a client's writes, median",
        "ms",
        median(pauses.clone()),
        None,
        Goal::Own(200.0),
    );
    table.add("switchover: the same, worst", "ms", percentile(&mut pauses, 1.0), None, Goal::Own(200.0));
}

fn failover(local: &Local) -> f64 {
    local.wait_well(REPLICAS);
    let ((name, master), epoch) = (local.master(), local.epoch());
    let begun = Instant::now();
    kill("-9", master.pid);
    loop {
        let taken = local.try_conn(local.master_port).and_then(|mut conn| conn.try_call(&["SET", "k", "v"]));
        if taken.is_ok_and(|reply| !reply.is_error()) {
            let taken_ms = begun.elapsed().as_secs_f64() * 1000.0;
            local.wait_well(REPLICAS);
            // Else the write was taken by a master that had not been killed.
            assert!(local.epoch() > epoch && local.master().0 != name, "{name} is still master:\n{}", local.output());
            return taken_ms;
        }
        assert!(begun.elapsed() < LIMIT, "no write is taken:\n{}", local.output());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The longest time between two writes of a client that goes on writing through the master endpoint, ms.
fn switchover(local: &Local) -> f64 {
    local.wait_well(REPLICAS);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| longest_gap_ms(local, &done));
        let output = local.order(&["switchover", NAME]);
        done.store(true, Ordering::Release);
        assert!(output.status.success(), "the switchover: {output:?}\n{}", local.output());
        writer.join().expect("the writer ends")
    })
}

/// Ends with the first write after `done`. The demoted master closes its connections: the client comes again.
fn longest_gap_ms(local: &Local, done: &AtomicBool) -> f64 {
    let mut conn = local.client();
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    loop {
        if conn.try_call(&["SET", "k", "v"]).is_ok_and(|reply| !reply.is_error()) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if done.load(Ordering::Acquire) {
                return longest.as_secs_f64() * 1000.0;
            }
            continue;
        }
        assert!(last.elapsed() < LIMIT, "no write is taken:\n{}", local.output());
        match local.try_conn(local.master_port) {
            Ok(again) => conn = again,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
