//! What a master sends to its replicas: the same from ours and from redis-server, but for the place of SELECT.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{Server, wait_for};

/// A replica by SYNC.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(server: &Server) -> Stream {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        socket.write_all(b"SYNC\r\n").unwrap();
        let mut stream = Stream(BufReader::new(socket));
        let bytes = loop {
            // Signs of life may come before it.
            match stream.line().strip_prefix('$') {
                Some(length) => break length.parse().unwrap(),
                None => continue,
            }
        };
        let mut rdb = vec![0; bytes];
        stream.0.read_exact(&mut rdb).unwrap();
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn command(&mut self) -> String {
        let count: usize = self.line().strip_prefix('*').unwrap().parse().unwrap();
        let words: Vec<String> = (0..count)
            .map(|_| {
                let bytes: usize = self.line().strip_prefix('$').unwrap().parse().unwrap();
                let mut word = vec![0; bytes + 2];
                self.0.read_exact(&mut word).unwrap();
                String::from_utf8_lossy(&word[..bytes]).into_owned()
            })
            .collect();
        words.join(" ")
    }

    /// What was sent up to `SET end 1`, without signs of life.
    fn until_the_end(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.command()).filter(|command| command != "SET end 1"))
            .map(|command| command.to_ascii_lowercase())
            .filter(|command| command != "ping")
            .collect()
    }
}

/// The stream that follows from these commands, one a line.
fn stream_of(server: &Server, commands: &str) -> Vec<String> {
    let mut conn = server.conn();
    conn.cmd("FLUSHALL");
    let mut stream = Stream::open(server);
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let reply = conn.text(line);
        assert!(!reply.starts_with("(error)"), "{line}: {reply}");
    }
    conn.cmd("SELECT 0");
    conn.cmd("SET end 1");
    stream.until_the_end()
}

fn servers() -> [Server; 2] {
    let quiet = ["--save", "", "--repl-diskless-sync", "no", "--repl-ping-replica-period", "1000"];
    [Server::redis(&quiet), Server::ours(&quiet)]
}

#[test]
fn effects_are_propagated_as_redis_does_it() {
    let commands = "
        SADD s 1 2 3
        SPOP s 3
        SADD s 1
        SPOP s
        GETDEL nosuch
        SET a 1
        GETDEL a
        SET f 1.5
        INCRBYFLOAT f 2
        HSET h f 1
        HINCRBYFLOAT h f 0.5
        EXPIRE nosuch 10
        SET e 1
        PEXPIREAT e 1
        SET e 1 EXAT 99999999999
        GETEX e PERSIST
        SETEX e 100 v
        PERSIST e
        RPUSH l b a
        SORT l ALPHA STORE d
        LMPOP 1 l LEFT COUNT 1
        ZADD z 1 m 2 n
        ZPOPMIN z
        ZMPOP 1 z MAX
        COPY d d2
        MOVE d 3";
    let [redis, ours] = servers();
    let unstable = |stream: Vec<String>| -> Vec<String> {
        let without_times = |command: String| match command.split_once(" pxat 1") {
            Some((head, _)) => format!("{head} pxat …"),
            None => command,
        };
        stream.into_iter().map(without_times).collect()
    };
    assert_eq!(unstable(stream_of(&ours, commands)), unstable(stream_of(&redis, commands)));
}

/// Redis 7.2, which we follow; 7.0 knows only DEL here.
#[test]
fn a_deletion_as_a_side_effect_is_an_unlink_if_the_settings_say_so() {
    let [_, ours] = servers();
    let commands = "CONFIG SET lazyfree-lazy-server-del yes\n SADD s 1 2 3\n SPOP s 3";
    assert_eq!(stream_of(&ours, commands)[1..], ["sadd s 1 2 3", "unlink s"]);
}

#[test]
fn a_transaction_is_one_in_the_stream_whatever_runs_between_its_writes() {
    let commands = "
        MULTI
        SET a 1
        SELECT 1
        SET b 2
        PING
        CLIENT SETNAME x
        INFO
        INFO keyspace
        SELECT 0
        SET c 3
        DEBUG OBJECT c
        DEBUG SLEEP 0
        MEMORY USAGE c
        MEMORY STATS
        SET c 4
        DEBUG DIGEST
        DEBUG DIGEST-VALUE c
        DEBUG POPULATE 1 filled
        CONFIG GET dir
        COMMAND COUNT
        SLOWLOG LEN
        LATENCY LATEST
        ROLE
        TIME
        LASTSAVE
        WAIT 0 0
        SET d 5
        EXEC
        MULTI
        GET a
        EXEC
        MULTI
        SET a 2
        EXEC";
    let [redis, ours] = servers();
    let (sent, by_redis) = (stream_of(&ours, commands), stream_of(&redis, commands));
    // Redis 7.2 selects inside the transaction, 7.0 in front of it.
    assert_eq!(sent[..3], ["multi", "select 0", "set a 1"]);
    let without_select = |stream: Vec<String>| -> Vec<String> {
        stream.into_iter().filter(|command| !command.starts_with("select")).collect()
    };
    assert_eq!(without_select(sent), without_select(by_redis));
}

/// They are run while EXEC holds the locks: what they tell is the data as the transaction sees it.
#[test]
fn commands_about_the_server_see_what_the_transaction_did() {
    for server in servers() {
        let (mut conn, mut other) = (server.conn(), server.conn());
        for line in [
            "MULTI",
            "SET a 1",
            "INFO keyspace",
            "SET b 1 EX 1000",
            "INFO keyspace",
            "MEMORY USAGE b",
            "DEBUG DIGEST",
            "DEL a b",
            "DEBUG DIGEST",
            "BGSAVE",
        ] {
            conn.cmd(line);
        }
        let reply = conn.text("EXEC");
        assert!(reply.contains("db0:keys=1,expires=0") && reply.contains("db0:keys=2,expires=1"), "{reply}");
        assert!(reply.contains(&"0".repeat(40)) && reply.contains("Background saving scheduled"), "{reply}");
        assert!(!reply.contains("(error)"), "{reply}");
        assert_eq!(other.text("SET c 1"), "OK", "the locks are given back");
        wait_for("the save", Duration::from_secs(20), || {
            conn.info("rdb_bgsave_in_progress") == "0" && conn.info("rdb_saves") != "0"
        });
    }
}

#[test]
fn expired_keys_that_are_met_by_chance_are_no_transaction() {
    let commands = "
        DEBUG SET-ACTIVE-EXPIRE 0
        SET a 1 PX 1
        SET b 1 PX 1
        DEBUG SLEEP 0.01
        SCAN 0
        DEBUG SET-ACTIVE-EXPIRE 1";
    for server in servers() {
        let mut sent: Vec<String> = stream_of(&server, commands).into_iter().skip(3).collect();
        sent.sort();
        assert_eq!(sent, ["del a", "del b"]);
    }
}

#[test]
fn what_is_left_of_the_time_of_keys_is_told_on_average() {
    let [_, ours] = servers();
    let mut conn = ours.conn();
    for i in 0..1_000 {
        conn.cmd(&format!("SET steady:{i} v"));
    }
    conn.cmd("SET a v");
    assert!(conn.info("db0").ends_with("expires=0,avg_ttl=0"));
    conn.cmd("SET a v PX 100000");
    conn.cmd("SET b v PX 300000");
    let line = conn.info("db0");
    let ttl: u64 = line.rsplit('=').next().unwrap().parse().unwrap();
    assert!(line.starts_with("keys=1002,expires=2,") && (150_000..=200_000).contains(&ttl), "{line}");
}
