//! Loading 1 GiB at a start.

use std::time::Instant;

use crate::Scale;
use crate::proc::{both, cpu_s, fill};
use crate::table::{Goal, Table, median};

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let keys = scale.of(1 << 20, 1 << 14);
    let mut servers = both(&["--save", ""]);
    for server in &mut servers {
        fill(server, keys, 1024);
        server.shutdown("SAVE");
    }
    let mut seconds: [Vec<f64>; 2] = Default::default();
    let mut cpu: [Vec<f64>; 2] = Default::default();
    for round in 0..scale.of(5, 1) {
        for turn in 0..2 {
            let at = (round + turn) % 2;
            let begun = Instant::now();
            servers[at].run();
            seconds[at].push(begun.elapsed().as_secs_f64());
            cpu[at].push(cpu_s(servers[at].pid()));
            servers[at].shutdown("NOSAVE");
        }
    }
    let what = format!("restart with {} MiB", keys >> 10);
    let [ours, theirs] = seconds.map(median);
    table.add(format!("{what}: until it answers"), "s", ours, Some(theirs), Goal::Ratio(1.0));
    let [ours, theirs] = cpu.map(median);
    table.add(format!("{what}: CPU"), "s", ours, Some(theirs), Goal::None);
}
