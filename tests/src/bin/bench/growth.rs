//! The longest wait for an insert while a table grows to twice its size, and the most that the server has worked for one.
//!
//! A client's wait is also one for a CPU, on a machine that has few, and fresh memory has to come from somewhere, on a virtual
//! machine from its host: now and then a few inserts take long for reasons that are not the table's. Beside it, the same with
//! keys that are there already, when nothing grows; and what a page of fresh memory takes, which who grows asks for.

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
    let mut pages = Pages::default();
    let [ours, theirs] = grow(half, &mut pages);
    let what = format!("growth from {}M to {}M keys", half as f64 / 1e6, half as f64 / 5e5);
    let mut add = |what: String, figure: fn(&Run) -> f64, goal: Goal| {
        table.add(what, "ms", figure(&ours), Some(figure(&theirs)), goal);
    };
    add(format!("{what}: most CPU time for {BATCH} inserts"), |run| worked(&run.inserts, 1.0), Goal::Own(5.0));
    add(format!("{what}: longest wait for {BATCH} inserts"), |run| waited(&run.inserts, 1.0), Goal::Own(5.0));
    add(format!("{what}: p99.99 of that"), |run| waited(&run.inserts, 0.9999), Goal::None);
    add("the same without growth: most CPU time".into(), |run| worked(&run.updates, 1.0), Goal::None);
    add("the same without growth: longest wait".into(), |run| waited(&run.updates, 1.0), Goal::None);
    add("the same without growth: p99.99 of that".into(), |run| waited(&run.updates, 0.9999), Goal::None);
    table.add("a page of fresh memory: longest wait", "ms", pages.longest_ms, None, Goal::None);
}

/// What a server has done while its table grew, and then while it did not.
#[derive(Default)]
struct Run {
    inserts: Vec<Batch>,
    updates: Vec<Batch>,
}

/// Memory that is touched for the first time, page by page, while the servers do it too.
#[derive(Default)]
struct Pages {
    held: Vec<Vec<u8>>,
    longest_ms: f64,
}

impl Pages {
    fn touch(&mut self, bytes: usize) {
        const PAGE: usize = 4096;
        // Zeroed memory of this size comes from the system, which gives each page when it is written to.
        let mut fresh = vec![0; bytes];
        for at in (0..bytes).step_by(PAGE) {
            let begun = Instant::now();
            fresh[at] = 1;
            self.longest_ms = self.longest_ms.max(begun.elapsed().as_secs_f64() * 1000.0);
        }
        self.held.push(fresh);
    }
}

/// Both servers, ours first, from `half` keys to twice as many.
fn grow(half: usize, pages: &mut Pages) -> [Run; 2] {
    let servers = both(&["--save", ""]);
    for server in &servers {
        pipeline(&mut server.conn(), half, 1000, set);
    }
    let mut conns = servers.each_ref().map(|server| server.conn());
    let mut runs: [Run; 2] = Default::default();
    for turn in 0..2 * TURNS {
        if turn < TURNS {
            // About what a server takes for its keys.
            pages.touch(half / TURNS * 70);
        }
        let keys = half + turn % TURNS * half / TURNS..half + (turn % TURNS + 1) * half / TURNS;
        for at in [turn % 2, (turn + 1) % 2] {
            let batches = if turn < TURNS { &mut runs[at].inserts } else { &mut runs[at].updates };
            send(&servers[at], &mut conns[at], keys.clone(), batches);
        }
    }
    runs
}

fn waited(batches: &[Batch], share: f64) -> f64 {
    percentile(&mut batches.iter().map(|batch| batch.waited_ms).collect::<Vec<_>>(), share)
}

fn worked(batches: &[Batch], share: f64) -> f64 {
    percentile(&mut batches.iter().map(|batch| batch.worked_ms).collect::<Vec<_>>(), share)
}

/// What some commands have cost.
struct Batch {
    waited_ms: f64,
    /// By all threads of the server.
    worked_ms: f64,
}

fn set(bytes: &mut Vec<u8>, n: usize) {
    resp::encode_command(bytes, &["SET", &format!("key:{n:012}"), "x"]);
}

/// Sets `keys` in batches and notes what each has cost.
fn send(server: &Server, conn: &mut Conn, keys: Range<usize>, batches: &mut Vec<Batch>) {
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
