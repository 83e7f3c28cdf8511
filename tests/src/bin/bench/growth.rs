//! The longest wait for an insert while a table grows to twice its size.

use std::ops::Range;
use std::time::Instant;

use harness::Conn;

use crate::Scale;
use crate::proc::{both, pipeline};
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
    let mut delays_ms: [Vec<f64>; 2] = Default::default();
    for turn in 0..TURNS {
        let keys = half + turn * half / TURNS..half + (turn + 1) * half / TURNS;
        for at in [turn % 2, (turn + 1) % 2] {
            insert(&mut conns[at], keys.clone(), &mut delays_ms[at]);
        }
    }
    let what = format!("growth from {}M to {}M keys", half as f64 / 1e6, half as f64 / 5e5);
    let [ours, theirs] = delays_ms.each_mut().map(|d| percentile(d, 1.0));
    table.add(format!("{what}: longest wait for {BATCH} inserts"), "ms", ours, Some(theirs), Goal::Own(5.0));
    let [ours, theirs] = delays_ms.each_mut().map(|d| percentile(d, 0.9999));
    table.add(format!("{what}: p99.99 of that"), "ms", ours, Some(theirs), Goal::None);
}

fn set(bytes: &mut Vec<u8>, n: usize) {
    resp::encode_command(bytes, &["SET", &format!("key:{n:012}"), "x"]);
}

/// Inserts `keys` in batches and notes how long each batch waited.
fn insert(conn: &mut Conn, keys: Range<usize>, delays_ms: &mut Vec<f64>) {
    for from in keys.step_by(BATCH) {
        let mut bytes = Vec::new();
        (from..from + BATCH).for_each(|n| set(&mut bytes, n));
        let begun = Instant::now();
        conn.send_raw(&bytes).expect("the server takes commands");
        (0..BATCH).for_each(|_| drop(conn.read().expect("the server answers")));
        delays_ms.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
}
