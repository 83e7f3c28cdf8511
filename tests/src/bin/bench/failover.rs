//! Local mode: from the kill of the master to the next accepted write, and the pause of a planned switchover.

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
    table.add("switchover: pause of writes, median", "ms", median(pauses.clone()), None, Goal::Own(200.0));
    table.add("switchover: the same, worst", "ms", percentile(&mut pauses, 1.0), None, Goal::None);
}

fn failover(local: &Local) -> f64 {
    local.wait_well(REPLICAS);
    let (_, master) = local.master();
    let begun = Instant::now();
    kill("-9", master.pid);
    loop {
        let taken = local.try_conn(local.master_port).and_then(|mut conn| conn.try_call(&["SET", "k", "v"]));
        if taken.is_ok_and(|reply| !reply.is_error()) {
            return begun.elapsed().as_secs_f64() * 1000.0;
        }
        assert!(begun.elapsed() < LIMIT, "no write is taken:\n{}", local.output());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// As the operator says it.
fn switchover(local: &Local) -> f64 {
    local.wait_well(REPLICAS);
    let output = local.order(&["switchover", NAME]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pause = text.split("paused for ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    pause.unwrap_or_else(|| panic!("the switchover: {text}\n{}", local.output()))
}
