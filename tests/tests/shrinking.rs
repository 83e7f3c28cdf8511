//! Collections and databases that lose most of what they held give its memory back.

use harness::{Conn, Server};

fn used(conn: &mut Conn) -> i64 {
    conn.info("used_memory").parse().expect("a number")
}

/// Adds and removes `n` of something, a thousand a command, and returns what `used_memory` was before, between, and behind, where one in
/// a hundred is left.
fn figures(conn: &mut Conn, n: usize, add: &[&str], remove: &[&str], with_value: bool) -> [i64; 3] {
    let all: Vec<String> = (0..n).map(|i| format!("name-of-this:{i}")).collect();
    let before = used(conn);
    for names in all.chunks(1_000) {
        let mut command = add.to_vec();
        for name in names {
            match with_value {
                // ZADD has the score in front.
                true if add[0] == "ZADD" => command.extend(["1", name]),
                true => command.extend([name, "1"]),
                false => command.push(name),
            }
        }
        assert!(!conn.call(&command).is_error());
    }
    let full = used(conn);
    let going: Vec<&str> =
        all.iter().enumerate().filter(|(i, _)| i % 100 != 0).map(|(_, name)| name.as_str()).collect();
    for names in going.chunks(1_000) {
        let command = [remove, names].concat();
        assert!(!conn.call(&command).is_error());
    }
    [before, full, used(conn)]
}

#[test]
fn what_is_left_takes_the_memory_of_what_is_left() {
    const N: usize = 100_000;
    for threads in ["1", "2"] {
        for (key, add, remove, with_value) in [
            ("h", &["HSET", "h"][..], &["HDEL", "h"][..], true),
            ("s", &["SADD", "s"], &["SREM", "s"], false),
            ("z", &["ZADD", "z"], &["ZREM", "z"], true),
            ("", &["MSET"], &["DEL"], true),
        ] {
            let server = Server::ours(&[
                "--save",
                "",
                "--io-threads",
                threads,
                "--databases",
                "1",
                "--repl-backlog-size",
                "16384",
            ]);
            let mut conn = server.conn();
            // The first keys make the tables; what a full one takes is the measure.
            conn.cmd("DEBUG POPULATE 5000 first");
            conn.cmd("FLUSHALL");
            let [before, full, left] = figures(&mut conn, N, add, remove, with_value);
            let (taken, kept) = (full - before, left - before);
            // A database in many shards keeps a segment in each.
            let tables = if key.is_empty() && threads == "2" { 1024 * 4096 } else { 0 };
            assert!(kept - tables < taken / 10, "{key:?}, {threads} threads: {kept} bytes of {taken}");
            if !key.is_empty() {
                let usage: i64 = conn.text(&format!("MEMORY USAGE {key}")).parse().expect("a number");
                assert!(usage < taken / 10, "{key}: {usage} bytes of {taken}");
                assert_eq!(conn.text("DBSIZE"), "1");
            }
        }
    }
}

#[test]
fn a_scan_during_removals_returns_what_stays() {
    let server = Server::ours(&["--save", "", "--io-threads", "2"]);
    let (mut conn, mut other) = (server.conn(), server.conn());
    for i in 0..20_000 {
        conn.cmd(&format!("HSET h going:{i} 1"));
        if i % 100 == 0 {
            conn.cmd(&format!("HSET h stays:{i} 1"));
        }
    }
    let (mut seen, mut cursor, mut going) = (std::collections::BTreeSet::new(), "0".to_string(), 0..20_000);
    loop {
        let text = conn.text(&format!("HSCAN h {cursor} COUNT 10"));
        let quoted: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
        cursor = quoted[0].to_string();
        seen.extend(quoted[1..].iter().filter(|name| name.starts_with("stays")).map(|name| name.to_string()));
        let names: Vec<String> = going.by_ref().take(30).map(|i| format!("going:{i}")).collect();
        if !names.is_empty() {
            other.cmd(&format!("HDEL h {}", names.join(" ")));
        }
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 200);
}
