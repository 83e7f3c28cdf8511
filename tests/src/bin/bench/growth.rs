//! The longest wait for an insert while a table grows to twice its size.
//!
//! On a machine with few CPUs a client's wait is also one for a CPU, and on a virtual one for its host: for a CPU that it
//! gave to others, for a page of memory. So the same is done several times. What a table does happens at the same insert each
//! time, since the keys and what keys their hashes are the same; what the machine does happens elsewhere. Of each insert
//! the shortest wait counts. Beside it, the longest of all waits, and the same with keys that are there already, when
//! nothing grows.

use std::ops::Range;
use std::time::Instant;

use harness::{Conn, Server};

use crate::Scale;
use crate::proc::pipeline;
use crate::table::{Goal, Table, percentile};

/// Inserts that are sent and awaited together: a stall delays them all.
const BATCH: usize = 50;
const ROUNDS: usize = 3;

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let half = scale.of(10_000_000, 200_000);
    let kinds: [fn() -> Server; 2] = [
        || Server::ours(&["--save", "", "--io-threads", "1", "--hash-seed", "growth"]),
        || Server::redis(&["--save", ""]),
    ];
    let mut waits: [Vec<Waits>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (kind, waits) in kinds.iter().zip(&mut waits) {
            waits.push(grow(&kind(), half));
        }
    }
    let what = format!("growth from {}M to {}M keys", half as f64 / 1e6, half as f64 / 5e5);
    let mut add = |what: String, figure: fn(&[Waits]) -> f64, goal: Goal| {
        table.add(what, "ms", figure(&waits[0]), Some(figure(&waits[1])), goal);
    };
    let again = format!("{what}: longest wait for {BATCH} inserts that comes again in each of {ROUNDS} rounds");
    add(again, |rounds| longest_ms(each_shortest_ms(rounds)), Goal::Own(5.0));
    add(format!("{what}: longest in any round"), |rounds| longest_ms(all_ms(rounds, Waits::inserts)), Goal::None);
    add(format!("{what}: p99.99 of all"), |rounds| p9999_ms(all_ms(rounds, Waits::inserts)), Goal::None);
    add(
        "the same without growth: longest in any round".into(),
        |rounds| longest_ms(all_ms(rounds, Waits::updates)),
        Goal::None,
    );
    add("the same without growth: p99.99 of all".into(), |rounds| p9999_ms(all_ms(rounds, Waits::updates)), Goal::None);
}

/// For each batch, in order.
struct Waits {
    inserts_ms: Vec<f64>,
    updates_ms: Vec<f64>,
}

impl Waits {
    fn inserts(&self) -> &[f64] {
        &self.inserts_ms
    }

    fn updates(&self) -> &[f64] {
        &self.updates_ms
    }
}

/// From `half` keys to twice as many, and all of those once more.
fn grow(server: &Server, half: usize) -> Waits {
    let mut conn = server.conn();
    pipeline(&mut conn, half, 1000, set);
    let [inserts_ms, updates_ms] = [half..2 * half, half..2 * half].map(|keys| waits_ms(&mut conn, keys));
    Waits { inserts_ms, updates_ms }
}

/// Sets `keys` in batches: how long each was waited for.
fn waits_ms(conn: &mut Conn, keys: Range<usize>) -> Vec<f64> {
    let mut bytes = Vec::new();
    let mut wait_ms = |from: usize| {
        bytes.clear();
        (from..from + BATCH).for_each(|n| set(&mut bytes, n));
        let begun = Instant::now();
        conn.send_raw(&bytes).expect("the server takes commands");
        (0..BATCH).for_each(|_| drop(conn.read().expect("the server answers")));
        begun.elapsed().as_secs_f64() * 1000.0
    };
    keys.step_by(BATCH).map(&mut wait_ms).collect()
}

fn set(bytes: &mut Vec<u8>, n: usize) {
    resp::encode_command(bytes, &["SET", &format!("key:{n:012}"), "x"]);
}

/// Of each batch the shortest wait in any round.
fn each_shortest_ms(rounds: &[Waits]) -> Vec<f64> {
    let shortest = |at: usize| rounds.iter().map(|waits| waits.inserts_ms[at]).fold(f64::INFINITY, f64::min);
    (0..rounds[0].inserts_ms.len()).map(shortest).collect()
}

fn all_ms(rounds: &[Waits], kind: fn(&Waits) -> &[f64]) -> Vec<f64> {
    rounds.iter().flat_map(kind).copied().collect()
}

fn longest_ms(waits_ms: Vec<f64>) -> f64 {
    waits_ms.into_iter().fold(0.0, f64::max)
}

fn p9999_ms(mut waits_ms: Vec<f64>) -> f64 {
    percentile(&mut waits_ms, 0.9999)
}
