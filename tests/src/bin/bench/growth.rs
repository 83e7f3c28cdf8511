//! The longest wait for an insert while a table grows to twice its size.

use std::time::Instant;

use harness::Server;

use crate::Scale;
use crate::proc::{both, pipeline};
use crate::table::{Goal, Table, percentile};

/// Inserts that are sent and awaited together: a stall delays them all.
const BATCH: usize = 50;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let half = scale.of(10_000_000, 200_000);
    let servers = both(&["--save", ""]);
    let mut delays = servers.each_ref().map(|server| insert(server, half));
    let what = format!("growth from {}M to {}M keys", half as f64 / 1e6, half as f64 / 5e5);
    let [ours, theirs] = delays.each_mut().map(|d| percentile(d, 1.0));
    table.add(format!("{what}: longest wait for {BATCH} inserts"), "ms", ours, Some(theirs), Goal::Own(5.0));
    let [ours, theirs] = delays.each_mut().map(|d| percentile(d, 0.9999));
    table.add(format!("{what}: p99.99 of that"), "ms", ours, Some(theirs), Goal::None);
}

/// Delays of the batches of the second half, ms.
fn insert(server: &Server, half: usize) -> Vec<f64> {
    let set = |bytes: &mut Vec<u8>, n: usize| resp::encode_command(bytes, &["SET", &format!("key:{n:012}"), "x"]);
    pipeline(&mut server.conn(), half, 1000, set);
    let mut conn = server.conn();
    let batches = (half..2 * half).step_by(BATCH);
    batches
        .map(|from| {
            let mut bytes = Vec::new();
            (from..from + BATCH).for_each(|n| set(&mut bytes, n));
            let begun = Instant::now();
            conn.send_raw(&bytes).expect("the server takes commands");
            (0..BATCH).for_each(|_| drop(conn.read().expect("the server answers")));
            begun.elapsed().as_secs_f64() * 1000.0
        })
        .collect()
}
