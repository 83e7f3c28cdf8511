//! Many datastores in front of one operator: its work until they are ready and while they are, and its memory.
//!
//! A real API server; pods are processes of this machine, one replica each.

use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::cluster::fleet::{self, Work};
use harness::cluster::{ApiServer, Operator, ProcessKubelet};
use harness::wait_for;

use crate::Scale;
use crate::table::{Goal, Table};

const LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let count = scale.of(50, 5);
    let watched = Duration::from_secs(scale.of(60, 5));
    let each = count as f64;
    let api = ApiServer::start();
    api.install_crd();
    let _kubelet = ProcessKubelet::start(&api);
    let operator = Operator::start(&api, "operator");
    wait_for("the operator to lead", LIMIT, || operator.sum("replicatedredis_leader", "") == 1.0);
    sleep(Duration::from_secs(2));
    let empty = Work::of(&operator);
    let begun = Instant::now();
    fleet::make(&api, count, 1, LIMIT);
    let ready_s = begun.elapsed().as_secs_f64();
    // What follows being ready: members join, the status settles.
    sleep(Duration::from_secs(scale.of(20, 5)));
    let settled = Work::of(&operator);
    let making = settled.since(empty);
    sleep(watched);
    let well = Work::of(&operator);
    let quiet = well.since(settled);
    let minutes = watched.as_secs_f64() / 60.0;
    let mut row =
        |what: &str, unit, value: f64, goal| table.add(format!("objects: {count}, {what}"), unit, value, None, goal);
    row("from apply until all are ready", "s", ready_s, Goal::None);
    row("writes to the API server for each until then", "calls", making.writes / each, Goal::None);
    row("writes for each while all is well", "calls/min", quiet.writes / each / minutes, Goal::Own(0.0));
    row("reads for each while all is well", "calls/min", quiet.reads / each / minutes, Goal::Own(0.5));
    row("plans for each while all is well", "plans/s", quiet.plans / each / watched.as_secs_f64(), Goal::None);
    row(
        "CPU of the operator while all is well, for each",
        "ms/s",
        quiet.cpu_s / each / watched.as_secs_f64() * 1e3,
        Goal::None,
    );
    row("memory of the operator without any", "MiB", empty.resident / f64::from(1 << 20), Goal::None);
    row("memory of the operator for each", "KiB", (well.resident - empty.resident) / each / 1024.0, Goal::None);
}
