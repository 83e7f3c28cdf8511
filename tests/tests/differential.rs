//! Random commands against redis-server and ours: equal replies, equal data, equal hits and misses.
//!
//! The seed is printed on a failure; `DIFF_SEED=n` runs one seed alone. Left out: commands that answer by chance, and what
//! 7.0 and 7.2 answer differently. Replies without an order of their own are compared as sorted lists.

use engine::Rng;
use harness::{Conn, Server};
use resp::Value;

const SEEDS: u64 = 12;
const COMMANDS: usize = 2500;

struct Maker(Rng);

impl Maker {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.0.below(from.len())]
    }

    fn key(&mut self) -> String {
        // Few keys, so that types meet: some commands are to fail.
        let kind = self.pick(&["s", "s", "h", "h", "l", "l", "e", "e", "z", "z", "x"]);
        format!("{kind}{}", self.0.below(4))
    }

    fn value(&mut self) -> Vec<u8> {
        match self.0.below(9) {
            0 => "x".repeat(self.0.below(100)).into(),
            1 => format!("{}", self.0.below(1000)).into(),
            2 => format!("-{}", self.0.below(100_000)).into(),
            3 => format!("{}.{}", self.0.below(100), self.0.below(100)).into(),
            4 => "9223372036854775807".into(),
            5 => (0..self.0.below(12)).map(|_| self.pick_byte()).collect(),
            _ => format!("v{}", self.0.below(40)).into(),
        }
    }

    fn pick_byte(&mut self) -> u8 {
        *b"\0\r\n\xff\x80 \"$*a".get(self.0.below(10)).expect("ten of them")
    }

    fn score(&mut self) -> Vec<u8> {
        match self.0.below(8) {
            0 => self.pick(&["-inf", "+inf", "inf", "nan", "1e3", "x"]).into(),
            1 => format!("{}.5", self.0.below(100)).into(),
            _ => self.number().into(),
        }
    }

    fn number(&mut self) -> String {
        let n = self.0.below(12) as i64 - 4;
        n.to_string()
    }

    fn member(&mut self) -> String {
        format!("m{}", self.0.below(30))
    }

    /// A line with `K` key, `L` key of a sorted set of equal scores, `V` value, `N` small number, `P` one that is positive,
    /// `B` bit, `M` member, `S` score.
    fn command(&mut self) -> Vec<Vec<u8>> {
        let line = self.pick(&[
            "SET K V",
            "SET K V NX",
            "SET K V XX GET",
            "SET K V EXAT 4000010000",
            "SET K V KEEPTTL",
            "GET K",
            "GETDEL K",
            "GETEX K PERSIST",
            "APPEND K V",
            "STRLEN K",
            "INCR K",
            "INCRBY K N",
            "DECRBY K N",
            "INCRBYFLOAT K 1.5",
            "SETRANGE K 3 V",
            "GETRANGE K N N",
            "MSET K V K V",
            "MSETNX K V K V",
            "MGET K K K",
            "SETNX K V",
            "GETSET K V",
            "LCS K K",
            "LCS K K IDX MINMATCHLEN 2 WITHMATCHLEN",
            "SUBSTR K N N",
            "SET K V GET PXAT 4000010000123",
            "GETEX K PXAT 4000010000456",
            "EXPIRETIME K",
            "PEXPIRETIME K",
            "TOUCH K K",
            "SETBIT K P B",
            "GETBIT K P",
            "BITCOUNT K",
            "BITCOUNT K N N BIT",
            "BITCOUNT K N N",
            "BITPOS K B",
            "BITPOS K B N",
            "BITPOS K B N N BIT",
            "BITOP AND K K K",
            "BITOP XOR K K K",
            "BITOP NOT K K",
            "BITFIELD K SET i8 P N INCRBY u4 P N GET u16 P",
            "BITFIELD K OVERFLOW SAT INCRBY i5 P 9 OVERFLOW FAIL INCRBY u3 #1 3",
            "BITFIELD_RO K GET i12 P",
            "SORT K ALPHA",
            "SORT K DESC LIMIT 0 3",
            "SORT K BY e* GET # GET s*",
            "SORT K ALPHA STORE K",
            "SORT K BY h*->m1 STORE K",
            "SORT_RO K ALPHA DESC",
            "DEL K",
            "UNLINK K K",
            "EXISTS K K",
            "TYPE K",
            "RENAME K K",
            "RENAMENX K K",
            "COPY K K",
            "COPY K K REPLACE",
            "EXPIREAT K 4000010000",
            "EXPIREAT K 4000020000 GT",
            "EXPIREAT K 4000005000 LT",
            "EXPIREAT K 4000009000 NX",
            "PERSIST K",
            "EXPIRE K -1",
            "DBSIZE",
            "HSET K M V",
            "HSET K M V M V M V",
            "HGET K M",
            "HDEL K M M",
            "HGETALL K",
            "HINCRBY K M N",
            "HINCRBYFLOAT K M 0.5",
            "HKEYS K",
            "HVALS K",
            "HLEN K",
            "HEXISTS K M",
            "HSTRLEN K M",
            "HSETNX K M V",
            "HMGET K M M M",
            "LPUSH K V V",
            "RPUSH K V V V",
            "LPUSHX K V",
            "LPOP K",
            "RPOP K 2",
            "LLEN K",
            "LINDEX K N",
            "LSET K N V",
            "LINSERT K BEFORE V V",
            "LRANGE K N N",
            "LREM K N V",
            "LTRIM K N N",
            "LPOS K V",
            "LPOS K V COUNT 0 RANK -1",
            "RPOPLPUSH K K",
            "LMOVE K K LEFT RIGHT",
            "LMPOP 2 K K LEFT COUNT 2",
            "SADD K M M M",
            "SADD K 1 2 3",
            "SREM K M M",
            "SMOVE K K M",
            "SISMEMBER K M",
            "SMISMEMBER K M M",
            "SCARD K",
            "SMEMBERS K",
            "SINTER K K",
            "SUNION K K",
            "SDIFF K K",
            "SINTERSTORE K K K",
            "SUNIONSTORE K K K",
            "SDIFFSTORE K K K",
            "SINTERCARD 2 K K LIMIT 3",
            "SADD K V V",
            "SREM K V V",
            "ZADD K S M",
            "ZADD K S M S M S M",
            "ZADD K GT CH S M",
            "ZADD K XX INCR S M",
            "ZINCRBY K S M",
            "ZREM K M M",
            "ZSCORE K M",
            "ZCARD K",
            "ZCOUNT K -inf (5",
            "ZRANK K M",
            "ZREVRANK K M",
            "ZRANGE K N N WITHSCORES",
            "ZRANGE K 5 -inf BYSCORE REV LIMIT 0 3",
            "ZRANGEBYLEX L - [m3",
            "ZREMRANGEBYRANK K 0 0",
            "ZREMRANGEBYSCORE K 90 100",
            "ZPOPMIN K",
            "ZPOPMAX K 2",
            "ZMSCORE K M M",
            "ZUNIONSTORE K 2 K K WEIGHTS 2 3",
            "ZINTERSTORE K 2 K K AGGREGATE MAX",
            "ZDIFF 2 K K WITHSCORES",
            "ZUNION 2 K K WITHSCORES",
            "ZRANGESTORE K K 0 3",
            "ZLEXCOUNT L - (m2",
            "ZADD K NX S M",
            "ZADD K LT CH S M S M",
            "ZADD K P V P V",
            "ZREVRANGE K N N WITHSCORES",
            "ZREVRANGEBYSCORE K +inf S WITHSCORES LIMIT 1 2",
            "ZRANGEBYSCORE K (S S",
            "ZADD L 0 M 0 M 0 V",
            "ZREVRANGEBYLEX L + (m2 LIMIT 0 4",
            "ZREMRANGEBYLEX L [m1 (m12",
            "ZRANGE L [m1 + BYLEX LIMIT 1 3",
            "ZINTER 2 K K WEIGHTS 1 -1 WITHSCORES",
            "ZINTERCARD 2 K K LIMIT 2",
            "ZDIFFSTORE K 2 K K",
            "ZUNIONSTORE K 2 K K AGGREGATE MIN",
            "ZRANK K V",
            "ZSCORE K V",
            "ZMPOP 2 K K MIN",
            "NOSUCH K",
            "GET",
            "SELECT 0",
            "MOVE K 1",
            "MULTI",
            "EXEC",
            "EXEC",
            "DISCARD",
        ]);
        line.split(' ')
            .map(|word| match word {
                "K" => self.key().into(),
                "L" => format!("lex{}", self.0.below(2)).into(),
                "V" => self.value(),
                "N" => self.number().into(),
                "P" => self.0.below(200).to_string().into(),
                "B" => self.0.below(2).to_string().into(),
                "M" => self.member().into(),
                "S" => self.score(),
                "(S" => [b"(", &self.score()[..]].concat(),
                other => other.into(),
            })
            .collect()
    }
}

/// Sorted where the order says nothing.
fn canonical(command: &[u8], value: Value) -> String {
    let unordered = ["SMEMBERS", "SINTER", "SUNION", "SDIFF", "HGETALL", "HKEYS", "HVALS", "EXEC"];
    match value {
        Value::Array(items) if unordered.iter().any(|name| name.as_bytes() == command) => {
            let mut items: Vec<String> = items
                .into_iter()
                .map(|item| match item {
                    Value::Array(inner) => {
                        let mut inner: Vec<String> = inner.iter().map(ToString::to_string).collect();
                        inner.sort();
                        format!("{inner:?}")
                    }
                    other => other.to_string(),
                })
                .collect();
            items.sort();
            format!("{items:?}")
        }
        other => other.to_string(),
    }
}

/// What INFO has counted.
fn counters(conn: &mut Conn) -> [String; 3] {
    let info = conn.text("INFO stats");
    ["keyspace_hits:", "keyspace_misses:", "total_commands_processed:"].map(|field| {
        let line = info.lines().find_map(|line| line.strip_prefix(field));
        format!("{field}{}", line.expect("INFO has it"))
    })
}

fn run(seed: u64, theirs: &Server, ours: &Server) {
    let mut maker = Maker(Rng::new(seed));
    let (mut a, mut b) = (theirs.conn(), ours.conn());
    for conn in [&mut a, &mut b] {
        conn.cmd("FLUSHALL");
        conn.cmd("CONFIG RESETSTAT");
    }
    // The command, and those of the transaction before it.
    let mut shown = String::new();
    let mut watchers = [theirs.conn(), ours.conn()];
    for n in 0..COMMANDS {
        let command = maker.command();
        let (x, y) = (canonical(&command[0], a.call(&command)), canonical(&command[0], b.call(&command)));
        let words: Vec<_> = command.iter().map(|word| word.escape_ascii().to_string()).collect();
        let earlier = if x == "QUEUED" || command[0] == b"EXEC" { &shown } else { "" };
        shown = format!("{earlier} {};", words.join(" "));
        assert_eq!(y, x, "seed {seed}, command {n}: {shown} (left ours, right redis-server)");
        if seed != 0 {
            continue;
        }
        // Where a command of several keys fails, it may have looked at more of them, or fewer.
        if x.contains("(error)") {
            watchers.iter_mut().for_each(|conn| _ = conn.cmd("CONFIG RESETSTAT"));
        } else {
            let [theirs, ours] = watchers.each_mut().map(counters);
            assert_eq!(ours, theirs, "command {n}: {shown} (left ours, right redis-server)");
        }
    }
    for conn in [&mut a, &mut b] {
        conn.cmd("DISCARD");
    }
    assert_eq!(b.text("DEBUG DIGEST"), a.text("DEBUG DIGEST"), "seed {seed}: the data differ");
    exchange(&mut a, &mut b);
}

/// What one dumps, the other restores.
fn exchange(a: &mut Conn, b: &mut Conn) {
    let Value::Array(keys) = a.cmd("KEYS *") else { panic!("KEYS") };
    assert!(keys.len() > 5, "something is left to exchange");
    for key in keys {
        let key = key.as_bytes().expect("a key").to_vec();
        for swap in [false, true] {
            let (from, to) = if swap { (&mut *b, &mut *a) } else { (&mut *a, &mut *b) };
            let Value::Bulk(payload) = from.call(&[b"DUMP", &key[..]]) else { panic!("DUMP") };
            assert_eq!(to.call(&[b"RESTORE", &b"copy"[..], b"0", &payload, b"REPLACE"]).to_string(), "OK");
            // The copy has no expiry, which is part of the digest.
            from.call(&[b"PERSIST", &key[..]]);
            let want = from.call(&[&b"DEBUG"[..], b"DIGEST-VALUE", &key]);
            assert_eq!(
                to.call(&[&b"DEBUG"[..], b"DIGEST-VALUE", b"copy"]),
                want,
                "{:?}",
                String::from_utf8_lossy(&key)
            );
        }
    }
}

fn against(threads: &str) {
    let theirs = Server::redis(&["--save", ""]);
    let ours = Server::ours(&["--save", "", "--io-threads", threads]);
    match std::env::var("DIFF_SEED") {
        Ok(seed) => run(seed.parse().expect("DIFF_SEED is a number"), &theirs, &ours),
        Err(_) => (0..SEEDS).for_each(|seed| run(seed, &theirs, &ours)),
    }
}

#[test]
fn one_worker_answers_as_redis_does() {
    against("1");
}

#[test]
fn two_workers_answer_as_redis_does() {
    against("2");
}
