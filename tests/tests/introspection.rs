//! What a server tells about itself: its commands, its clients, what was slow, and INFO; compared with redis-server.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Conn, Server, follow, wait_for};
use resp::Value;

const LONG: Duration = Duration::from_secs(20);

fn list(value: &Value) -> Vec<Value> {
    value.as_list().map(<[Value]>::to_vec).unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    let mut words: Vec<_> = list(value).iter().filter_map(|v| v.as_str().map(str::to_string)).collect();
    words.sort();
    words
}

/// COMMAND's answer by name, subcommands included.
fn commands(conn: &mut Conn) -> BTreeMap<String, Vec<Value>> {
    let mut all = BTreeMap::new();
    let mut left = list(&conn.cmd("COMMAND"));
    while let Some(command) = left.pop() {
        let fields = list(&command);
        left.extend(list(&fields[9]));
        all.insert(fields[0].as_str().expect("a name").to_string(), fields);
    }
    all
}

#[test]
fn commands_are_described_as_redis_describes_them() {
    let (ours, redis) = (Server::ours(&[]), Server::redis(&[]));
    let (ours, redis) = (commands(&mut ours.conn()), commands(&mut redis.conn()));
    assert!(redis.keys().filter(|name| ours.contains_key(*name)).count() > 200, "{:?}", ours.keys());
    // Redis 7.2: scores with ranks; WAIT in scripts; GETKEYS of commands with one word.
    let newer = ["zrank", "zrevrank", "wait", "command|getkeys", "command|getkeysandflags"];
    // Ours answer these while they load, too: a probe and a replica are told so.
    let more_flags = ["ping", "psync", "sync"];
    for (name, own) in ours.iter().filter(|(name, _)| !newer.contains(&name.as_str())) {
        let Some(other) = redis.get(name) else { continue };
        let flags = |fields: &[Value]| words(&fields[2]);
        let missing: Vec<_> = flags(other).into_iter().filter(|f| !flags(own).contains(f)).collect();
        assert!(missing.is_empty(), "{name} lacks {missing:?}");
        if !more_flags.contains(&name.as_str()) {
            assert_eq!(flags(own), flags(other), "flags of {name}");
        }
        for (i, what) in [(1, "arity"), (3, "first key"), (4, "last key"), (5, "step")] {
            assert_eq!(own[i], other[i], "{what} of {name}");
        }
        if name != "object" {
            assert_eq!(words(&own[6]), words(&other[6]), "categories of {name}");
        }
        assert_eq!(words(&own[7]), words(&other[7]), "tips of {name}");
    }
}

#[test]
fn keys_and_their_use_are_found_as_redis_finds_them() {
    let (ours, redis) = (Server::ours(&[]), Server::redis(&[]));
    let (mut ours, mut redis) = (ours.conn(), redis.conn());
    for line in [
        "GET a",
        "SET a 1",
        "SET a 1 GET",
        "SETEX a 1 b",
        "MSET a 1 b 2",
        "MSETNX a 1",
        "GETEX a",
        "GETDEL a",
        "APPEND a b",
        "INCR a",
        "DEL a b",
        "UNLINK a",
        "EXISTS a",
        "TOUCH a",
        "TYPE a",
        "RENAME a b",
        "RENAMENX a b",
        "COPY a b",
        "EXPIRE a 1",
        "TTL a",
        "PERSIST a",
        "MOVE a 1",
        "DUMP a",
        "RESTORE a 0 x",
        "HSET a b c",
        "HGET a b",
        "HDEL a b",
        "HSETNX a b c",
        "HINCRBY a b 1",
        "HLEN a",
        "LPUSH a b",
        "LPOP a",
        "LMPOP 2 a b LEFT",
        "LMOVE a b LEFT LEFT",
        "RPOPLPUSH a b",
        "LINSERT a BEFORE b c",
        "LLEN a",
        "LREM a 1 b",
        "LTRIM a 1 2",
        "LSET a 1 b",
        "SADD a b",
        "SREM a b",
        "SPOP a",
        "SMOVE a b c",
        "SCARD a",
        "SINTER a b",
        "SINTERCARD 2 a b",
        "SINTERSTORE a b c",
        "SUNIONSTORE a b c",
        "SDIFFSTORE a b c",
        "ZADD a 1 b",
        "ZINCRBY a 1 b",
        "ZREM a b",
        "ZCARD a",
        "ZPOPMIN a",
        "ZMPOP 2 a b MIN",
        "ZUNION 2 a b",
        "ZUNIONSTORE d 2 a b",
        "ZRANGESTORE a b 1 2",
        "ZINTERCARD 2 a b",
        "SETBIT a 1 1",
        "GETBIT a 1",
        "BITCOUNT a",
        "BITOP AND a b c",
        "BITFIELD a GET u8 0",
        "BITFIELD a SET u8 0 1",
        "BITFIELD_RO a GET u8 0",
        "SORT_RO a",
        "OBJECT ENCODING a",
        "MEMORY USAGE a",
        "WATCH a b",
    ] {
        let ask = |conn: &mut Conn| conn.cmd(&format!("COMMAND GETKEYSANDFLAGS {line}")).to_string();
        assert_eq!(ask(&mut ours), ask(&mut redis), "{line}");
    }
}

/// Tokens of COMMAND DOCS's arguments, in their order.
fn tokens(arguments: &Value, out: &mut Vec<String>) {
    for argument in list(arguments) {
        let fields = list(&argument);
        for pair in fields.chunks_exact(2) {
            match pair[0].as_str() {
                Some("token") => out.push(pair[1].to_string()),
                Some("arguments") => tokens(&pair[1], out),
                _ => {}
            }
        }
    }
}

#[test]
fn the_documented_words_of_commands_are_redis_s() {
    let (ours, redis) = (Server::ours(&[]), Server::redis(&[]));
    let docs = |conn: &mut Conn| {
        let all = list(&conn.cmd("COMMAND DOCS"));
        let of = |doc: &Value| {
            let (fields, mut words) = (list(doc), Vec::new());
            let arguments = fields.chunks_exact(2).find(|pair| pair[0].as_str() == Some("arguments"));
            arguments.iter().for_each(|pair| tokens(&pair[1], &mut words));
            words
        };
        all.chunks_exact(2).map(|pair| (pair[0].to_string(), of(&pair[1]))).collect::<BTreeMap<_, _>>()
    };
    let (ours, redis) = (docs(&mut ours.conn()), docs(&mut redis.conn()));
    let mut compared = 0;
    for (name, own) in &ours {
        let Some(other) = redis.get(name) else { continue };
        let mut sorted = (own.clone(), other.clone());
        sorted.0.sort();
        sorted.1.sort();
        sorted.0.dedup();
        sorted.1.dedup();
        let lacking: Vec<_> = sorted.1.iter().filter(|word| !sorted.0.contains(word)).collect();
        assert!(lacking.is_empty(), "{name} has {own:?}, Redis {other:?}");
        compared += usize::from(!other.is_empty());
    }
    assert!(compared > 40, "{compared} commands have words");
}

#[test]
fn every_container_has_a_help_that_names_its_subcommands() {
    let server = Server::ours(&[]);
    let mut conn = server.conn();
    for name in ["CLIENT", "COMMAND", "CONFIG", "LATENCY", "MEMORY", "OBJECT", "SLOWLOG"] {
        let lines = list(&conn.cmd(&format!("{name} HELP")));
        let subcommands = list(&list(&list(&conn.cmd(&format!("COMMAND INFO {name}")))[0])[9]).len();
        assert_eq!(lines.len(), 1 + 2 * subcommands, "{name}: {lines:?}");
    }
}

/// Names of INFO's fields by section, those of replicas and clients left out.
fn fields(text: &str) -> Vec<String> {
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_string();
    text.lines().filter(|l| l.contains(':')).map(name).collect()
}

#[test]
fn info_has_redis_s_fields() {
    let (ours, redis) = (Server::ours(&[]), Server::redis(&[]));
    // What has no meaning here: no fork, no AOF, no event loop of its own, no allocator of Redis's, no cluster, no scripts.
    let absent = [
        "redis_git",
        "redis_build_id",
        "monotonic_clock",
        "gcc_version",
        "atomicvar_api",
        "lru_clock",
        "process_supervised",
        "mem_not_counted",
        "mem_cluster",
        "mem_aof",
        "lazyfree",
        "active_defrag",
        "aof_",
        "module_",
        "rdb_last_cow_size",
        "current_",
        "used_memory_lua",
        "used_memory_vm",
        "used_memory_scripts",
        "used_memory_functions",
        "number_of_",
        "allocator_",
        "rss_overhead",
        "tracking_total",
        "unexpected_error_replies",
        "dump_payload",
        "io_threaded",
        "migrate_cached",
        "total_active_defrag",
        "slave_expires",
        "pubsub",
        "evicted_clients",
        "expire_cycle",
        "expired_stale",
        "expired_time_cap",
        "total_eviction",
        "clients_in_timeout",
        "client_recent",
        "total_reads_processed",
        "total_writes_processed",
        "reply_buffer",
        "used_cpu_sys_main",
        "used_cpu_user_main",
        "latest_fork",
    ];
    let own = fields(&ours.conn().text("INFO everything"));
    for name in fields(&redis.conn().text("INFO everything")) {
        let left_out = absent.iter().any(|prefix| name.starts_with(prefix));
        assert!(left_out || own.contains(&name) || name.starts_with("cmdstat"), "INFO lacks {name}");
    }
    // The section that replication tools read is complete, in both roles.
    let (a, b) = (Server::ours(&[]), Server::redis(&[]));
    follow(&b, &a);
    let ours_as_master = fields(&a.conn().text("INFO replication"));
    let redis_as_replica = fields(&b.conn().text("INFO replication"));
    let (c, d) = (Server::redis(&[]), Server::ours(&[]));
    follow(&d, &c);
    assert_eq!(ours_as_master, fields(&c.conn().text("INFO replication")));
    assert_eq!(fields(&d.conn().text("INFO replication")), redis_as_replica);
}

#[test]
fn sections_of_info_are_chosen_by_name() {
    let server = Server::ours(&[]);
    let mut conn = server.conn();
    let titles = |text: String| text.lines().filter(|l| l.starts_with('#')).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(titles(conn.text("INFO replication")), ["# Replication"]);
    assert_eq!(titles(conn.text("INFO CPU keyspace")), ["# CPU", "# Keyspace"]);
    assert!(!titles(conn.text("INFO")).contains(&"# Commandstats".to_string()));
    assert!(titles(conn.text("INFO default commandstats")).contains(&"# Commandstats".to_string()));
    let all = titles(conn.text("INFO all"));
    assert!(all.contains(&"# Commandstats".to_string()) && all.contains(&"# Latencystats".to_string()), "{all:?}");
    assert_eq!(conn.text("INFO nosuch"), "");
}

#[test]
fn calls_failures_rejections_and_durations_are_counted_by_command() {
    let server = Server::ours(&[]);
    let mut conn = server.conn();
    conn.cmd("CONFIG RESETSTAT");
    for line in ["SET a x", "SET a x", "INCR a", "GET", "CLIENT ID", "CLIENT SETNAME x", "NOSUCH"] {
        conn.cmd(line);
    }
    let stat = |conn: &mut Conn, name: &str| conn.info(&format!("cmdstat_{name}"));
    assert!(stat(&mut conn, "set").starts_with("calls=2,usec="));
    assert!(stat(&mut conn, "set").ends_with(",rejected_calls=0,failed_calls=0"));
    assert!(stat(&mut conn, "incr").starts_with("calls=1,") && stat(&mut conn, "incr").ends_with("failed_calls=1"));
    assert_eq!(stat(&mut conn, "get"), "calls=0,usec=0,usec_per_call=0.00,rejected_calls=1,failed_calls=0");
    assert!(stat(&mut conn, "client|id").starts_with("calls=1,"));
    assert_eq!(conn.info("errorstat_ERR"), "count=3");
    let percentiles = conn.info("latency_percentiles_usec_set");
    assert!(percentiles.starts_with("p50=") && percentiles.contains(",p99=") && percentiles.contains(",p99.9="));
    let histogram = conn.cmd("LATENCY HISTOGRAM set client");
    let names: Vec<_> = list(&histogram).chunks_exact(2).map(|pair| pair[0].to_string()).collect();
    assert_eq!(names.len(), 3, "set, client|id and client|setname: {names:?}");
    conn.cmd("CONFIG SET latency-tracking no");
    assert_eq!(conn.info("latency_percentiles_usec_set"), "");
}

#[test]
fn what_is_slow_is_noted() {
    let server = Server::ours(&["--slowlog-log-slower-than", "20000", "--latency-monitor-threshold", "20"]);
    let mut conn = server.conn();
    conn.cmd("CLIENT SETNAME me");
    conn.cmd("DEBUG SLEEP 0.03");
    let entry = list(&list(&conn.cmd("SLOWLOG GET 1"))[0]);
    assert!(entry[2].as_i64().is_some_and(|us| us >= 30_000), "{entry:?}");
    assert_eq!(words(&entry[3]), ["0.03", "DEBUG", "SLEEP"]);
    assert_eq!(entry[5].as_str(), Some("me"));
    let latest = list(&list(&conn.cmd("LATENCY LATEST"))[0]);
    assert!(latest[0].as_str() == Some("command") && latest[2].as_i64().is_some_and(|ms| (30..1000).contains(&ms)));
    assert_eq!(list(&conn.cmd("LATENCY HISTORY command")).len(), 1);
    assert!(conn.text("LATENCY GRAPH command").starts_with("command - high "));
    assert!(conn.text("LATENCY DOCTOR").contains("- command: 1 samples"));
    assert_eq!(conn.text("LATENCY RESET command"), "1");
    assert!(list(&conn.cmd("LATENCY LATEST")).is_empty());
    // Long calls are cut, and what was left out is said.
    conn.cmd("CONFIG SET slowlog-log-slower-than 0");
    conn.cmd("SLOWLOG RESET");
    let many: Vec<String> = std::iter::once("SADD".into()).chain((0..40).map(|n| n.to_string())).collect();
    conn.call(&many);
    conn.call(&["SADD", "s", &"x".repeat(130)]);
    let log = list(&conn.cmd("SLOWLOG GET 2"));
    let args = |i: usize| list(&list(&log[i])[3]);
    assert_eq!(args(0)[2].as_str(), Some(format!("{}... (2 more bytes)", "x".repeat(128)).as_str()));
    assert_eq!((args(1).len(), args(1)[31].as_str()), (32, Some("... (10 more arguments)")));
}

#[test]
fn clients_are_listed_killed_and_held_back() {
    let server = Server::ours(&[]);
    let (mut a, mut b) = (server.conn(), server.conn());
    a.cmd("CLIENT SETNAME first");
    b.cmd("CLIENT SETINFO LIB-NAME lib");
    b.cmd("MULTI");
    b.cmd("GET x");
    let list_of = |conn: &mut Conn, line: &str| conn.text(line).lines().map(str::to_string).collect::<Vec<_>>();
    let mut lines = list_of(&mut a, "CLIENT LIST");
    assert_eq!(lines.len(), 2);
    // Numbers are given in the order in which the workers take the connections.
    lines.sort_by_key(|line| !line.contains(" name=first "));
    assert!(lines[0].contains(" name=first ") && lines[0].contains(" cmd=client|list "), "{}", lines[0]);
    assert!(
        lines[1].contains(" flags=x ") && lines[1].contains(" multi=1 ") && lines[1].contains(" cmd=get "),
        "{}",
        lines[1]
    );
    assert!(lines[1].contains(" lib-name=lib "));
    let id = b.cmd("DISCARD").to_string() + &b.text("CLIENT ID");
    let id = id.trim_start_matches("OK");
    assert_eq!(list_of(&mut a, &format!("CLIENT LIST ID {id}")).len(), 1);
    assert_eq!(list_of(&mut a, "CLIENT LIST TYPE normal").len(), 2);
    assert_eq!(a.text(&format!("CLIENT KILL ID {id} TYPE normal USER default SKIPME yes")), "1");
    assert!(b.try_call(&["PING"]).is_err(), "it was killed");
    assert_eq!(a.text("CLIENT KILL TYPE normal"), "0", "the caller is skipped");

    // Writes wait for the end of a pause, reads do not; a shorter pause takes nothing from a longer one.
    let mut b = server.conn();
    assert_eq!(a.text("CLIENT PAUSE 60000 WRITE"), "OK");
    assert_eq!(a.text("CLIENT PAUSE 1 WRITE"), "OK");
    // What pauses everything ends by itself; the pause of writes goes on.
    assert_eq!(a.text("CLIENT PAUSE 50 ALL"), "OK");
    assert_eq!(b.text("GET x"), "(nil)\n".trim());
    let port = server.port;
    let writer = std::thread::spawn(move || Conn::open(port).expect("a connection").text("SET x 1"));
    wait_for("the writer to wait", LONG, || a.info("blocked_clients") == "1");
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(a.text("GET x"), "(nil)");
    assert_eq!(a.text("CLIENT UNPAUSE"), "OK");
    assert_eq!(writer.join().expect("the writer"), "OK");
    assert_eq!(a.info("blocked_clients"), "0");

    // A client that waits for replicas can be told to go on.
    let waits = std::thread::spawn(move || Conn::open(port).expect("a connection").text("WAIT 1 0"));
    let mut id = String::new();
    wait_for("WAIT", LONG, || {
        let lines = list_of(&mut a, "CLIENT LIST");
        let waiting = lines.iter().find(|l| l.contains(" cmd=wait ") && l.contains(" flags=b "));
        id = waiting.and_then(|l| l.split(' ').next()).unwrap_or_default().trim_start_matches("id=").into();
        !id.is_empty()
    });
    assert_eq!(a.text(&format!("CLIENT UNBLOCK {id} ERROR")), "1");
    assert!(waits.join().expect("the client").contains("UNBLOCKED client unblocked via CLIENT UNBLOCK"));
}

#[test]
fn replies_can_be_turned_off_and_skipped() {
    let server = Server::ours(&[]);
    let mut conn = server.conn();
    conn.send_raw(
        b"CLIENT REPLY SKIP\r\nPING\r\nECHO one\r\nCLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\nECHO two\r\n",
    )
    .expect("it is sent");
    let got: Vec<String> = (0..3).map(|_| conn.read().expect("a reply").to_string()).collect();
    assert_eq!(got, ["\"one\"", "OK", "\"two\""]);
    conn.send_raw(b"CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING\r\n").expect("it is sent");
    let got: Vec<String> = (0..2).map(|_| conn.read().expect("a reply").to_string()).collect();
    assert_eq!(got, ["OK", "PONG"], "ON ends what SKIP began");
}

#[test]
fn access_times_stay_for_those_who_ask_for_it() {
    let server = Server::ours(&[]);
    let mut conn = server.conn();
    conn.cmd("SET a 1");
    // Whole seconds are counted: one more may begin between any two commands.
    let mut idle_s = || conn.text("OBJECT IDLETIME a").parse::<u64>().expect("a number");
    wait_for("the key to have been idle", LONG, || idle_s() >= 2);
    conn.cmd("CLIENT NO-TOUCH ON");
    conn.cmd("GET a");
    let idle_s = conn.text("OBJECT IDLETIME a").parse::<u64>().expect("a number");
    assert!(idle_s >= 2, "reading left it alone: {idle_s}");
    conn.cmd("TOUCH a");
    let idle_s = conn.text("OBJECT IDLETIME a").parse::<u64>().expect("a number");
    assert!(idle_s <= 1, "{idle_s}");
}

#[test]
fn what_a_scan_finds_expired_is_deleted_and_told_to_replicas() {
    let (master, replica) = (Server::ours(&[]), Server::ours(&[]));
    follow(&replica, &master);
    let (mut conn, mut other) = (master.conn(), replica.conn());
    conn.cmd("DEBUG SET-ACTIVE-EXPIRE 0");
    for key in ["a", "b", "c"] {
        conn.call(&["SET", key, "1", "PX", "1"]);
    }
    conn.cmd("SET keep 1");
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!((conn.text("DBSIZE"), conn.text("RANDOMKEY")), ("4".into(), "keep".into()));
    assert!(conn.text("SCAN 0 COUNT 100").contains("keep"));
    assert_eq!(conn.text("DBSIZE"), "1");
    wait_for("the deletions to arrive", LONG, || other.text("DBSIZE") == "1");
}

#[test]
fn role_tells_how_far_a_replica_is_and_a_silent_master_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let (replica, master) = (Server::ours(&[]), Server::redis(&[]));
    let mut conn = replica.conn();
    let state = |conn: &mut Conn| list(&conn.cmd("ROLE"))[3].as_str().unwrap_or_default().to_string();
    conn.cmd(&format!("REPLICAOF 127.0.0.1 {port}"));
    wait_for("the handshake", LONG, || state(&mut conn) == "handshake");
    // The time-out that counts is the present one, not that of the beginning.
    conn.cmd("CONFIG SET repl-timeout 1");
    wait_for("the master to be given up", LONG, || replica.log().contains("Timeout connecting to the MASTER"));
    drop(silent);
    wait_for("a refused connection", LONG, || state(&mut conn) == "connect");
    conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    wait_for("the link", LONG, || state(&mut conn) == "connected");
}

#[test]
fn who_asks_for_nothing_for_too_long_is_let_go_also_if_that_was_decided_later() {
    for server in [Server::ours(&["--save", ""]), Server::redis(&["--save", ""])] {
        let (mut idle, mut waiting, mut other) = (server.conn(), server.conn(), server.conn());
        idle.cmd("PING");
        waiting.send_raw(b"WAIT 1 5000\r\n").expect("it is sent");
        other.cmd("CONFIG SET timeout 3");
        wait_for("the idle connection to go", LONG, || !other.text("CLIENT LIST").contains("cmd=ping"));
        assert!(idle.try_call(&["PING"]).is_err());
        assert_eq!(waiting.read().expect("it was not idle"), Value::Int(0));
    }
}

#[test]
fn who_has_no_role_is_no_master() {
    let server = Server::ours(&["--managed", "yes"]);
    let mut conn = server.conn();
    assert_eq!(conn.info("role"), "awaiting");
    assert_eq!(list(&conn.cmd("ROLE"))[0].as_str(), Some("slave"));
    let hello = list(&conn.cmd("HELLO 2"));
    let role = hello.iter().position(|word| word.as_str() == Some("role")).expect("a role");
    assert_eq!(hello[role + 1].as_str(), Some("replica"));
}

#[test]
fn a_client_that_does_not_read_its_replies_is_let_go() {
    let server = Server::ours(&["--client-output-buffer-limit", "normal 1mb 0 0"]);
    let mut conn = server.conn();
    conn.call(&["SET", "big", &"x".repeat(600_000)]);
    assert!(!conn.cmd("GET big").is_error(), "one is below the limit");
    conn.send_raw(b"GET big\r\nGET big\r\n").expect("it is sent");
    assert!(conn.read().is_err() || conn.read().is_err(), "two together are above it");
    let mut other = server.conn();
    assert_eq!(other.info("client_output_buffer_limit_disconnections"), "1");
    assert!(server.log().contains("closed for overcoming of output buffer limits."));
}
