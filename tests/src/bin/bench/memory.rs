//! Bytes per key and per member.

use harness::Server;

use crate::Scale;
use crate::proc::{both, memory_bytes, pipeline};
use crate::table::{Goal, Table};

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let count = scale.of(1_000_000, 50_000);
    let string = |bytes: &mut Vec<u8>, n: usize| {
        resp::encode_command(bytes, &["SET", &format!("key:{n:012}"), &format!("{n:032}")]);
    };
    let member = |bytes: &mut Vec<u8>, n: usize| {
        let score = (n * 7919 % 1_000_003).to_string();
        resp::encode_command(bytes, &["ZADD", "z", &score, &format!("mem:{n:012}")]);
    };
    let servers = both(&["--save", ""]);
    let strings = servers.each_ref().map(|server| growth(server, count, string));
    let members = servers.each_ref().map(|server| growth(server, count, member));
    for (what, goal, [ours, theirs]) in
        [("string key of 16 B with 32 B", 0.65, strings), ("member of a sorted set", 0.8, members)]
    {
        table.add(format!("memory: {what}, used_memory"), "B", ours.0, Some(theirs.0), Goal::Ratio(goal));
        table.add(format!("memory: {what}, resident"), "B", ours.1, Some(theirs.1), Goal::None);
    }
}

/// What each of `count` commands adds to used_memory and to resident memory, bytes.
fn growth(server: &Server, count: usize, each: impl FnMut(&mut Vec<u8>, usize)) -> (f64, f64) {
    let mut conn = server.conn();
    let mut used = || conn.info("used_memory").parse::<f64>().expect("a number");
    let before = (used(), memory_bytes(server.pid()));
    pipeline(&mut server.conn(), count, 1000, each);
    let per = |before: f64, after: f64| (after - before) / count as f64;
    (per(before.0, used()), per(before.1, memory_bytes(server.pid())))
}
