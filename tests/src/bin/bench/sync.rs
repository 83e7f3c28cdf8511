//! A full resync of 1 GiB under a write load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Conn, Server};

use crate::Scale;
use crate::proc::{fill, memory_bytes};
use crate::table::{Goal, Table, median, percentile};

const WRITES_PER_S: u32 = 5000;
const LINK_UP_WITHIN: Duration = Duration::from_secs(180);

struct Synced {
    link_up_s: f64,
    /// Of the master with its children, beyond what it had before.
    extra_memory: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let (keys, len) = (scale.of(1 << 20, 1 << 14), 1024);
    let args = ["--save", "", "--repl-backlog-size", "64mb"];
    let mut results: [Vec<Synced>; 2] = Default::default();
    for round in 0..scale.of(3, 1) {
        for turn in 0..2 {
            let at = (round + turn) % 2;
            let (master, replica) = (Server::BOTH[at](&args), Server::BOTH[at](&args));
            fill(&master, keys, len);
            results[at].push(sync(&master, &replica));
        }
    }
    let figure = |at: usize, of: fn(&Synced) -> f64| median(results[at].iter().map(of).collect());
    let mut add = |what: &str, unit, of: fn(&Synced) -> f64, goal| {
        table.add(format!("full resync of {} MiB: {what}", keys >> 10), unit, figure(0, of), Some(figure(1, of)), goal);
    };
    add("until the link is up", "s", |s| s.link_up_s, Goal::Ratio(1.0));
    add("extra memory of the master, share of what it had", "", |s| s.extra_memory, Goal::Own(0.1));
    add("median of writes meanwhile", "ms", |s| s.p50_ms, Goal::None);
    add("p99 of writes meanwhile", "ms", |s| s.p99_ms, Goal::None);
    add("p99.9 of writes meanwhile", "ms", |s| s.p999_ms, Goal::Ratio(0.5));
    add("longest write meanwhile", "ms", |s| s.max_ms, Goal::None);
}

fn sync(master: &Server, replica: &Server) -> Synced {
    let before = memory_bytes(master.pid());
    let load = Load::start(master);
    thread::sleep(Duration::from_millis(500));
    load.measure.store(true, Ordering::Release);
    let begun = Instant::now();
    let mut conn = replica.conn();
    conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    let mut peak: f64 = before;
    while conn.info("master_link_status") != "up" {
        assert!(begun.elapsed() < LINK_UP_WITHIN, "the link does not come up:\n{}", replica.log());
        peak = peak.max(memory_bytes(master.pid()));
        thread::sleep(Duration::from_millis(50));
    }
    let link_up_s = begun.elapsed().as_secs_f64();
    let mut delays_ms = load.end();
    Synced {
        link_up_s,
        extra_memory: (peak - before) / before,
        p50_ms: percentile(&mut delays_ms, 0.5),
        p99_ms: percentile(&mut delays_ms, 0.99),
        p999_ms: percentile(&mut delays_ms, 0.999),
        max_ms: percentile(&mut delays_ms, 1.0),
    }
}

/// Writes at a steady rate, whether the server keeps up or not: a delay counts from the moment when the write was due.
struct Load {
    stop: Arc<AtomicBool>,
    measure: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<f64>>,
}

impl Load {
    fn start(server: &Server) -> Load {
        let (stop, measure) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stopped, measured) = (Arc::clone(&stop), Arc::clone(&measure));
        let conn = server.conn();
        let thread = thread::spawn(move || writes(conn, &stopped, &measured));
        Load { stop, measure, thread }
    }

    /// Delays in ms.
    fn end(self) -> Vec<f64> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the writer ends")
    }
}

fn writes(mut conn: Conn, stop: &AtomicBool, measure: &AtomicBool) -> Vec<f64> {
    let mut delays_ms = Vec::new();
    let value = "v".repeat(1024);
    let pause = Duration::from_secs(1) / WRITES_PER_S;
    let mut due = Instant::now();
    let mut n: u64 = 0;
    while !stop.load(Ordering::Acquire) {
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        n += 1;
        let key = format!("key:{:012}", n.wrapping_mul(7919) % (1 << 20));
        let reply = conn.call(&["SET", &key, &value]);
        assert!(!reply.is_error(), "{reply}");
        if measure.load(Ordering::Acquire) {
            delays_ms.push(due.elapsed().as_secs_f64() * 1000.0);
        }
        due += pause;
    }
    delays_ms
}
