//! Several threads execute at once: what they leave is what the log says, and no command sees half of another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use harness::{Conn, Server, assert_same, follow, wait_for};
use resp::Value;

const THREADS: &[&str] = &["--save", "", "--io-threads", "4", "--io-threads-adaptive", "no"];
/// Keys that everybody wants, and the others.
const HOT: u64 = 8;
const COLD: u64 = 3000;

/// Numbers that look random.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// A key of a type: one in two is hot.
    fn key(&mut self, kind: &str) -> String {
        let n = if self.below(2) == 0 { self.below(HOT) } else { self.below(COLD) };
        format!("{kind}:{n}")
    }

    /// A command whose effect depends on what ran before it: of one key, of several, of a whole database.
    fn command(&mut self) -> String {
        let n = self.below(1000);
        match self.below(24) {
            0 => format!("SET {} {n}", self.key("s")),
            1 => format!("APPEND {} {n},", self.key("s")),
            2 => format!("INCRBY {} {n}", self.key("n")),
            3 => format!("MSET {} {n} {} {n} {} {n}", self.key("s"), self.key("s"), self.key("s")),
            4 => format!("DEL {} {} {}", self.key("s"), self.key("l"), self.key("h")),
            5 => format!("RENAME {} {}", self.key("s"), self.key("s")),
            6 => format!("COPY {} {} REPLACE", self.key("h"), self.key("h")),
            7 => format!("LPUSH {} {n}", self.key("l")),
            8 => format!("RPUSH {} {n} {n}", self.key("l")),
            9 => format!("LMOVE {} {} LEFT RIGHT", self.key("l"), self.key("l")),
            10 => format!("LTRIM {} 0 40", self.key("l")),
            11 => format!("HSET {} f{} {n}", self.key("h"), n % 50),
            12 => format!("HINCRBY {} c{} 1", self.key("h"), n % 5),
            13 => format!("ZADD {} {n} m{}", self.key("z"), n % 60),
            14 => format!("ZPOPMIN {}", self.key("z")),
            15 => format!("SADD {} {n} {}", self.key("u"), n / 2),
            16 => format!("SPOP {} 2", self.key("u")),
            17 => format!("SUNIONSTORE {} {} {}", self.key("u"), self.key("u"), self.key("u")),
            18 => format!("SMOVE {} {} {n}", self.key("u"), self.key("u")),
            19 => format!("PEXPIRE {} {}", self.key("s"), 1 + n % 20),
            20 => format!("GET {}", self.key("s")),
            21 => format!("MGET {} {}", self.key("s"), self.key("s")),
            22 if n < 5 => "DBSIZE".into(),
            22 => format!("SCAN {n} COUNT 20"),
            _ => format!("GETEX {} PERSIST", self.key("s")),
        }
    }
}

fn encode(bytes: &mut Vec<u8>, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    resp::encode_command(bytes, &words);
}

/// Sends random commands, so many at once, now and then some of them as a transaction or in another database.
fn write(mut conn: Conn, seed: u64, commands: usize, pipeline: usize) {
    let mut noise = Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut sent = 0;
    while sent < commands {
        let mut lines: Vec<String> = (0..pipeline).map(|_| noise.command()).collect();
        match noise.below(8) {
            0 => {
                lines.insert(pipeline / 2, "MULTI".into());
                lines.push("EXEC".into());
            }
            1 => {
                lines.insert(0, "SELECT 3".into());
                lines.push("SELECT 0".into());
            }
            _ => {}
        }
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| encode(&mut bytes, line));
        conn.send_raw(&bytes).expect("the server takes commands");
        for line in &lines {
            let reply = conn.read().expect("the server answers");
            // RENAME of a key that is not there, COPY of a key to itself, and nothing else.
            let expected = ["no such key", "objects are the same"];
            let fine = !reply.is_error() || expected.iter().any(|text| reply.to_string().contains(text));
            assert!(fine, "{line}: {reply}");
        }
        sent += lines.len();
    }
}

/// Many connections do this many commands each; `meanwhile` goes on until they have.
fn replicas_have_what_was_done(commands: usize, meanwhile: impl Fn(&Server, &AtomicBool)) {
    let (master, redis, ours) = (Server::ours(THREADS), Server::redis(&["--save", ""]), Server::ours(THREADS));
    follow(&redis, &master);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers = [(1, 1), (2, 1), (3, 7), (4, 16), (5, 16), (6, 64), (7, 150)].map(|(seed, pipeline)| {
            let conn = master.conn();
            let commands = if pipeline == 1 { commands / 4 } else { commands };
            scope.spawn(move || write(conn, seed, commands, pipeline))
        });
        let other = scope.spawn(|| {
            // A snapshot is taken meanwhile.
            wait_for("some data", Duration::from_secs(20), || master.conn().text("DBSIZE") != "0");
            follow(&ours, &master);
        });
        let all = scope.spawn(|| {
            let failed = writers.into_iter().chain([other]).filter_map(|thread| thread.join().err()).count();
            done.store(true, Ordering::Release);
            failed
        });
        meanwhile(&master, &done);
        assert_eq!(all.join().expect("it counts"), 0, "a writer failed");
    });
    assert_eq!(master.conn().text("SET last 1"), "OK");
    assert_same(&master, &redis);
    assert_same(&master, &ours);
    assert_eq!(redis.conn().info("master_repl_offset"), master.conn().info("master_repl_offset"));
    // And so has the file: written, loaded, compared.
    let before = master.conn().text("DEBUG DIGEST");
    assert_eq!(master.conn().text("DEBUG RELOAD"), "OK");
    assert_eq!(master.conn().text("DEBUG DIGEST"), before);
}

#[test]
fn replicas_have_what_many_threads_did_to_the_master() {
    replicas_have_what_was_done(30_000, |_, _| {});
}

/// A thread that serves alone has one lock for everything, several have one for each shard.
#[test]
fn replicas_have_what_now_one_thread_and_now_many_did_to_the_master() {
    replicas_have_what_was_done(15_000, |master, done| {
        let mut conn = master.conn();
        for adaptive in ["yes", "no"].iter().cycle() {
            if done.load(Ordering::Acquire) {
                break;
            }
            assert_eq!(conn.text(&format!("CONFIG SET io-threads-adaptive {adaptive}")), "OK");
            thread::sleep(Duration::from_millis(120));
        }
    });
}

const ACCOUNTS: u64 = 12;
const EACH: i64 = 1000;

fn account(n: u64) -> String {
    format!("account:{n}")
}

/// Moves money between accounts, in transactions of several keys, sometimes after a look at them.
fn transfer(mut conn: Conn, seed: u64, times: u32) {
    let mut noise = Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..times {
        let (from, to, sum) = (account(noise.below(ACCOUNTS)), account(noise.below(ACCOUNTS)), noise.below(9));
        let mut bytes = Vec::new();
        if noise.below(3) == 0 {
            // Read, compute, write: right only if nobody came between.
            let balance =
                |conn: &mut Conn, key: &str| conn.text(&format!("GET {key}")).parse::<i64>().expect("a number");
            assert_eq!(conn.text(&format!("WATCH {from} {to}")), "OK");
            let (a, b) = (balance(&mut conn, &from), balance(&mut conn, &to));
            let (a, b) = if from == to { (a, b) } else { (a - sum as i64, b + sum as i64) };
            let lines = ["MULTI".into(), format!("MSET {from} {a} {to} {b}"), "EXEC".to_string()];
            lines.iter().for_each(|line| encode(&mut bytes, line));
            conn.send_raw(&bytes).expect("the server takes commands");
            (0..lines.len()).for_each(|_| assert!(!conn.read().expect("the server answers").is_error()));
        } else {
            let lines =
                ["MULTI".into(), format!("DECRBY {from} {sum}"), format!("INCRBY {to} {sum}"), "EXEC".to_string()];
            lines.iter().for_each(|line| encode(&mut bytes, line));
            conn.send_raw(&bytes).expect("the server takes commands");
            (0..lines.len()).for_each(|_| assert!(!conn.read().expect("the server answers").is_error()));
        }
    }
}

fn total(conn: &mut Conn) -> i64 {
    let keys: Vec<String> = (0..ACCOUNTS).map(account).collect();
    let Value::Array(values) = conn.cmd(&format!("MGET {}", keys.join(" "))) else { panic!("MGET answers an array") };
    values.iter().map(|v| v.as_str().and_then(|v| v.parse::<i64>().ok()).expect("a number")).sum()
}

#[test]
fn nobody_sees_half_of_a_transaction() {
    let (master, replica) = (Server::ours(THREADS), Server::ours(THREADS));
    for n in 0..ACCOUNTS {
        master.conn().cmd(&format!("SET {} {EACH}", account(n)));
    }
    follow(&replica, &master);
    wait_for("the accounts to be there", Duration::from_secs(20), || {
        replica.conn().text("DBSIZE") == ACCOUNTS.to_string()
    });
    let done = AtomicBool::new(false);
    let look = |server: &Server| {
        let mut conn = server.conn();
        while !done.load(Ordering::Acquire) {
            assert_eq!(total(&mut conn), EACH * ACCOUNTS as i64);
        }
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (1..=6)
            .map(|seed| {
                let conn = master.conn();
                scope.spawn(move || transfer(conn, seed, 2000))
            })
            .collect();
        let lookers = [scope.spawn(|| look(&master)), scope.spawn(|| look(&replica))];
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        done.store(true, Ordering::Release);
        assert_eq!(failed, 0, "a writer failed");
        lookers.into_iter().for_each(|looker| looker.join().expect("the sum stays"));
    });
    assert_eq!(total(&mut master.conn()), EACH * ACCOUNTS as i64);
    assert_same(&master, &replica);
}

/// Counts on its own key: pipelines, transactions that watch it, and requests that come in two pieces.
fn count(mut conn: Conn, number: u64, done: &AtomicBool) {
    let key = format!("own:{number}");
    let mut noise = Noise(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut counted = 0;
    while !done.load(Ordering::Acquire) {
        let increments = 1 + noise.below(20);
        let transaction = noise.below(4) == 0;
        let mut bytes = Vec::new();
        let mut lines = vec![format!("INCR {key}"); increments as usize];
        if transaction {
            assert_eq!(conn.text(&format!("WATCH {key}")), "OK");
            lines.insert(0, "MULTI".into());
            lines.push("EXEC".into());
        }
        lines.iter().for_each(|line| encode(&mut bytes, line));
        let (first, rest) = bytes.split_at(noise.below(bytes.len() as u64) as usize);
        conn.send_raw(first).expect("the server takes commands");
        thread::sleep(Duration::from_millis(noise.below(3)));
        conn.send_raw(rest).expect("the server takes commands");
        let mut replies: Vec<Value> = lines.iter().map(|_| conn.read().expect("the server answers")).collect();
        if transaction {
            let Some(Value::Array(values)) = replies.pop() else { panic!("EXEC answers an array: {replies:?}") };
            replies = values;
        }
        for reply in replies {
            counted += 1;
            assert_eq!(reply, Value::Int(counted), "{key}");
        }
    }
    assert_eq!(conn.text(&format!("GET {key}")), counted.to_string());
}

#[test]
fn connections_move_between_threads_and_go_on_where_they_were() {
    let master = Server::ours(THREADS);
    let done = AtomicBool::new(false);
    let (mut silent, mut control) = (master.conn(), master.conn());
    let id = silent.text("CLIENT ID");
    thread::scope(|scope| {
        let writers: Vec<_> = (1..=8)
            .map(|number| {
                let (conn, done) = (master.conn(), &done);
                scope.spawn(move || count(conn, number, done))
            })
            .collect();
        for _ in 0..6 {
            for (adaptive, several) in [("yes", "0"), ("no", "1")] {
                assert_eq!(control.text(&format!("CONFIG SET io-threads-adaptive {adaptive}")), "OK");
                wait_for("another number of threads", Duration::from_secs(20), || {
                    control.info("io_threads_active") == several
                });
                // This one moves behind its answer.
                assert_eq!(silent.text("PING"), "PONG");
            }
        }
        done.store(true, Ordering::Release);
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        assert_eq!(failed, 0, "a writer failed");
    });
    assert_eq!(control.text(&format!("CLIENT KILL ID {id}")), "1", "it is known by its number");
    assert!(silent.read().is_err(), "it ends where it is now");
    wait_for("the connections to end", Duration::from_secs(20), || control.info("connected_clients") == "1");
}
