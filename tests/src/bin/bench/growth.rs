//! The longest wait for an insert while a table grows to twice its size, and the most that the server has worked for one.
//!
//! A client's wait is also one for a CPU, on a machine that has few: what the server's threads did meanwhile tells which.

use std::ops::Range;
use std::time::Instant;

use harness::{Conn, Server};

use crate::Scale;
use crate::proc::{both, cpu_s, pipeline};
use crate::table::{Goal, Table, percentile};

/// Inserts that are sent and awaited together: a stall delays them all.
const BATCH: usize = 50;
/// The servers take turns this often: what else the machine does in a minute meets both.
const TURNS: usize = 20;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let half = scale.of(10_000_000, 200_000);
    let servers = both(&["--save", ""]);
    for server in &servers {
        pipeline(&mut server.conn(), half, 1000, set);
    }
    let mut conns = servers.each_ref().map(|server| server.conn());
    let mut batches: [Vec<Batch>; 2] = Default::default();
    for turn in 0..TURNS {
        let keys = half + turn * half / TURNS..half + (turn + 1) * half / TURNS;
        for at in [turn % 2, (turn + 1) % 2] {
            insert(&servers[at], &mut conns[at], keys.clone(), &mut batches[at]);
        }
    }
    let what = format!("growth from {}M to {}M keys", half as f64 / 1e6, half as f64 / 5e5);
    let mut add = |what: String, figure: fn(&Batch) -> f64, p: f64, goal: Goal| {
        let [ours, theirs] = batches.each_ref().map(|b| percentile(&mut b.iter().map(figure).collect::<Vec<_>>(), p));
        table.add(what, "ms", ours, Some(theirs), goal);
    };
    add(format!("{what}: longest wait for {BATCH} inserts"), |batch| batch.waited_ms, 1.0, Goal::Own(5.0));
    add(format!("{what}: p99.99 of that"), |batch| batch.waited_ms, 0.9999, Goal::None);
    add(format!("{what}: most CPU time for {BATCH} inserts"), |batch| batch.worked_ms, 1.0, Goal::Own(5.0));
}

/// What some inserts have cost.
struct Batch {
    waited_ms: f64,
    /// By all threads of the server.
    worked_ms: f64,
}

fn set(bytes: &mut Vec<u8>, n: usize) {
    resp::encode_command(bytes, &["SET", &format!("key:{n:012}"), "x"]);
}

/// Inserts `keys` in batches and notes what each has cost.
fn insert(server: &Server, conn: &mut Conn, keys: Range<usize>, batches: &mut Vec<Batch>) {
    let mut worked_s = cpu_s(server.pid());
    for from in keys.step_by(BATCH) {
        let mut bytes = Vec::new();
        (from..from + BATCH).for_each(|n| set(&mut bytes, n));
        let begun = Instant::now();
        conn.send_raw(&bytes).expect("the server takes commands");
        (0..BATCH).for_each(|_| drop(conn.read().expect("the server answers")));
        let waited_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let before_s = std::mem::replace(&mut worked_s, cpu_s(server.pid()));
        batches.push(Batch { waited_ms, worked_ms: (worked_s - before_s) * 1000.0 });
    }
}
