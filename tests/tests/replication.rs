//! Redis's wire protocol against the real redis-server, in both directions.

use std::net::Ipv4Addr;
use std::time::Duration;

use harness::prometheus::http_get;
use harness::{Conn, Server, assert_same, follow, free_port, wait_for};

const QUIET: &[&str] = &["--save", ""];

/// Data of every type and encoding.
fn fill(conn: &mut Conn) {
    for line in [
        "SET s plain",
        "SET n 12345",
        "SET e x EX 10000",
        "RPUSH small a b 3",
        "SADD ints 1 2 3 70000 -5",
        "SADD words a b c",
        "HSET h f v g 2",
        "ZADD z 1.5 a 2 b -inf c",
        "PEXPIRE z 99999999",
    ] {
        assert!(!conn.cmd(line).is_error(), "{line}");
    }
    for i in 0..600 {
        conn.cmd(&format!("RPUSH big {}", "x".repeat(i % 50)));
        conn.cmd(&format!("SADD bigset member:{i}"));
        conn.cmd(&format!("HSET bighash field:{i} {i}"));
        conn.cmd(&format!("ZADD bigz {} member:{i}", f64::from(i as u32) / 7.0));
    }
    conn.cmd("SELECT 3");
    conn.cmd("SET other-db 1");
    conn.cmd("SELECT 0");
}

/// A write load whose effect depends on time, chance and order.
fn load(conn: &mut Conn, rounds: u32) {
    for i in 0..rounds {
        for line in [
            format!("SET k{} {i}", i % 50),
            format!("INCR counter{}", i % 3),
            format!("SETEX t{} 1000 v", i % 20),
            "INCRBYFLOAT f 0.1".into(),
            format!("LPUSH l{} {i}", i % 5),
            format!("SADD pool {i}"),
            "SPOP pool".into(),
            format!("ZADD zz {} m{}", i % 7, i % 40),
            "ZPOPMIN zz".into(),
            format!("HINCRBYFLOAT hh f{} 1.5", i % 4),
            format!("EXPIRE k{} 500", i % 50),
            format!("GETEX k{} PERSIST", i % 50),
            format!("DEL k{}", (i + 7) % 50),
            format!("COPY k{} c{} REPLACE", i % 50, i % 9),
        ] {
            assert!(!conn.cmd(&line).is_error(), "{line}");
        }
        conn.cmd("MULTI");
        conn.cmd("INCR in-multi");
        conn.cmd(&format!("SELECT {}", i % 2));
        conn.cmd("APPEND log x");
        conn.cmd("SELECT 0");
        conn.cmd("EXEC");
    }
}

fn sync_count(server: &Server) -> (u64, u64) {
    let mut conn = server.conn();
    (conn.info("sync_full").parse().expect("a number"), conn.info("sync_partial_ok").parse().expect("a number"))
}

fn both_ways(master: &Server, replica: &Server) {
    fill(&mut master.conn());
    follow(replica, master);
    assert_same(master, replica);
    load(&mut master.conn(), 100);
    assert_same(master, replica);
    assert!(replica.conn().text("SET x 1").contains("READONLY"));
    // Roles are exchanged: the former master goes on from where it was.
    let before = sync_count(replica);
    assert_eq!(replica.conn().text("REPLICAOF NO ONE"), "OK");
    load(&mut replica.conn(), 20);
    follow(master, replica);
    assert_same(replica, master);
    assert_eq!(sync_count(replica), (before.0, before.1 + 1), "one partial resync, no full one");
}

#[test]
fn redis_is_our_master_then_our_replica() {
    both_ways(&Server::redis(QUIET), &Server::ours(QUIET));
}

#[test]
fn redis_is_our_replica_then_our_master() {
    both_ways(&Server::ours(QUIET), &Server::redis(QUIET));
}

#[test]
fn two_of_ours_disk_based_and_diskless() {
    both_ways(&Server::ours(&["--save", "", "--repl-diskless-sync", "no"]), &Server::ours(QUIET));
    both_ways(&Server::ours(&["--save", "", "--io-threads", "1"]), &Server::ours(&["--save", "", "--io-threads", "1"]));
}

#[test]
fn a_mixed_chain_of_three_has_one_history() {
    for (a, b, c) in [
        (Server::redis(QUIET), Server::ours(QUIET), Server::redis(QUIET)),
        (Server::ours(QUIET), Server::redis(QUIET), Server::ours(QUIET)),
        (Server::ours(QUIET), Server::ours(QUIET), Server::ours(QUIET)),
    ] {
        fill(&mut a.conn());
        follow(&b, &a);
        follow(&c, &b);
        load(&mut a.conn(), 50);
        assert_same(&a, &b);
        assert_same(&a, &c);
        // The middle is gone: its replica continues with the head, without a full resync.
        let before = sync_count(&a);
        follow(&c, &a);
        load(&mut a.conn(), 5);
        assert_same(&a, &c);
        assert_eq!(sync_count(&a).0, before.0, "no full resync");
    }
}

#[test]
fn cut_links_are_mended_by_partial_resync_under_load() {
    for (master, replica) in [(Server::ours(QUIET), Server::redis(QUIET)), (Server::redis(QUIET), Server::ours(QUIET))]
    {
        fill(&mut master.conn());
        follow(&replica, &master);
        let before = sync_count(&master);
        for _ in 0..5 {
            load(&mut master.conn(), 10);
            assert!(!master.conn().cmd("CLIENT KILL TYPE replica").is_error());
            load(&mut master.conn(), 10);
            let mut conn = replica.conn();
            wait_for("the link to come back", Duration::from_secs(20), || conn.info("master_link_status") == "up");
        }
        assert_same(&master, &replica);
        assert_eq!(sync_count(&master).0, before.0, "no full resync");
    }
}

#[test]
fn a_full_sync_goes_on_under_writes_and_is_exact() {
    let (master, replica) = (Server::ours(QUIET), Server::redis(QUIET));
    master.conn().cmd("DEBUG POPULATE 200000 key 100");
    let port = master.port;
    let writer = std::thread::spawn(move || {
        let mut conn = Conn::open(port).unwrap();
        for i in 0..20_000 {
            conn.cmd(&format!("SET key:{} new{i}", i * 37 % 200_000));
            if i % 10 == 0 {
                conn.cmd(&format!("DEL key:{}", i * 91 % 200_000));
            }
        }
    });
    follow(&replica, &master);
    writer.join().unwrap();
    assert_same(&master, &replica);
}

#[test]
fn expired_keys_are_hidden_on_the_replica_until_the_master_deletes_them() {
    let (master, replica) = (Server::ours(QUIET), Server::ours(QUIET));
    follow(&replica, &master);
    let (mut m, mut r) = (master.conn(), replica.conn());
    m.cmd("DEBUG SET-ACTIVE-EXPIRE 0");
    m.cmd("PSETEX k 50 v");
    assert_eq!(m.text("WAIT 1 5000"), "1");
    wait_for("the key to expire", Duration::from_secs(5), || r.text("GET k") == "(nil)");
    assert_eq!(r.text("DBSIZE"), "1", "it is hidden, not deleted");
    assert_eq!(m.text("GET k"), "(nil)");
    wait_for("the deletion to arrive", Duration::from_secs(5), || r.text("DBSIZE") == "0");
    // And by itself, when active expiry is on.
    m.cmd("DEBUG SET-ACTIVE-EXPIRE 1");
    m.cmd("PSETEX k2 20 v");
    wait_for("active expiry to be propagated", Duration::from_secs(10), || {
        m.text("DBSIZE") == "0" && r.text("DBSIZE") == "0"
    });
}

#[test]
fn a_restarted_replica_and_a_restarted_master_resync_partially() {
    let (mut master, mut replica) = (Server::ours(&[]), Server::ours(&[]));
    fill(&mut master.conn());
    follow(&replica, &master);
    replica.conn().cmd("CONFIG REWRITE");
    let before = sync_count(&master);
    load(&mut master.conn(), 5);
    // The replica dies without warning; its file of the full sync is where it goes on.
    replica.kill();
    load(&mut master.conn(), 5);
    replica.run();
    follow(&replica, &master);
    assert_same(&master, &replica);
    // The master restarts in order: its replica has just what it has.
    replica.conn().cmd("REPLICAOF NO ONE");
    let _ = before;
    follow(&master, &replica);
    master.shutdown("SAVE");
    load(&mut replica.conn(), 3);
    let before = sync_count(&replica);
    master.run();
    follow(&master, &replica);
    assert_same(&replica, &master);
    assert_eq!(sync_count(&replica).0, before.0, "a restart is a partial resync");
}

#[test]
fn wait_and_min_replicas_count_who_really_acknowledged() {
    let (master, mut replica) = (Server::ours(QUIET), Server::ours(QUIET));
    let mut m = master.conn();
    assert_eq!(m.text("WAIT 1 10"), "0");
    m.cmd("CONFIG SET min-replicas-to-write 1 min-replicas-max-lag 0");
    assert_eq!(m.text("SET a 0"), "OK", "without a lag none is needed");
    m.cmd("CONFIG SET min-replicas-to-write 0 min-replicas-max-lag 10");
    follow(&replica, &master);
    m.cmd("SET a 1");
    assert_eq!(m.text("WAIT 1 5000"), "1");
    m.cmd("CONFIG SET min-replicas-to-write 1");
    wait_for("a good replica", Duration::from_secs(5), || m.text("SET a 2") == "OK");
    replica.kill();
    // Until the master has seen the end of the connection, a write may still pass.
    let mut last = "2";
    wait_for("writes to stop", Duration::from_secs(5), || {
        let reply = m.text("SET a 3");
        if reply == "OK" {
            last = "3";
        }
        reply.contains("NOREPLICAS")
    });
    assert!(m.text("SET a 4").contains("NOREPLICAS"));
    assert_eq!(m.text("GET a"), last, "a refused write changes nothing");
}

/// A replica that asks for everything and takes nothing would have the master keep every key that changes meanwhile.
#[test]
fn a_replica_that_takes_nothing_is_given_up_before_it_fills_the_memory() {
    let limit = ["--client-output-buffer-limit", "replica 4mb 0 0", "--repl-backlog-size", "1mb"];
    let master = Server::ours(&[QUIET, &limit, &["--repl-diskless-sync", "yes"]].concat());
    let mut m = master.conn();
    let value = "v".repeat(1000);
    let fill = |m: &mut harness::Conn| {
        for n in 0..60_000 {
            m.call(&["SET", &format!("key:{n}"), &value]);
        }
    };
    fill(&mut m);
    let mut stuck = master.conn();
    stuck.send_raw(b"REPLCONF capa eof capa psync2\r\nPSYNC ? -1\r\n").unwrap();
    wait_for("the full resync to begin", Duration::from_secs(10), || master.log().contains("target: replicas sockets"));
    fill(&mut m);
    // What is kept for its snapshot, or of the log: whichever passes the limit first.
    wait_for("the replica to be given up", Duration::from_secs(20), || {
        master.log().contains("closed for overcoming of output buffer limits")
    });
    wait_for("its connection to end", Duration::from_secs(20), || m.info("connected_slaves") == "0");
    // Another one is served.
    let replica = Server::ours(QUIET);
    follow(&replica, &master);
    assert_same(&master, &replica);
}

#[test]
fn a_replica_is_ready_as_long_as_it_hears_its_master() {
    let port = free_port();
    let metrics_port = port.to_string();
    let args =
        ["--save", "", "--metrics-port", &metrics_port, "--repl-ping-replica-period", "1", "--repl-timeout", "16"];
    let (replica, master) = (Server::ours(&args), Server::redis(&["--save", "", "--repl-ping-replica-period", "1"]));
    let ready = || http_get((Ipv4Addr::LOCALHOST, port).into(), "/readyz").expect("it answers");
    assert_eq!(ready(), (200, "ok\n".into()), "a master");
    replica.conn().cmd(&format!("REPLICAOF 127.0.0.1 {}", free_port()));
    assert_eq!(ready(), (503, "not ready: the link to the master is down\n".into()));
    follow(&replica, &master);
    assert_eq!(ready(), (200, "ok\n".into()));
    master.signal("STOP");
    wait_for("the silence to be told", Duration::from_secs(20), || ready().0 == 503);
    assert!(ready().1.starts_with("not ready: nothing was heard of the master for "), "{:?}", ready());
    assert_eq!(replica.conn().info("master_link_status"), "up", "it may come back");
    master.signal("CONT");
    wait_for("the master to be heard", Duration::from_secs(20), || ready().0 == 200);
    assert_eq!(http_get((Ipv4Addr::LOCALHOST, port).into(), "/livez").expect("it answers"), (200, "ok\n".into()));
}

#[test]
fn wrong_masterauth_and_a_replica_of_itself_are_said_clearly() {
    let master = Server::ours(&["--save", "", "--requirepass", "right"]);
    let replica = Server::ours(&["--save", "", "--masterauth", "wrong"]);
    let mut conn = replica.conn();
    conn.cmd("SET mine 1");
    conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    wait_for("the refusal in the log", Duration::from_secs(10), || replica.log().contains("Unable to AUTH to MASTER"));
    assert_eq!(conn.text("GET mine"), "1");
    conn.cmd("CONFIG SET masterauth right");
    let text = conn.text(&format!("REPLICAOF 127.0.0.1 {}", replica.port));
    assert!(text.contains("cannot be a replica of itself"), "{text}");
}

#[test]
fn an_empty_master_never_wipes_its_replica() {
    let (mut master, replica) = (Server::ours(QUIET), Server::ours(QUIET));
    fill(&mut master.conn());
    follow(&replica, &master);
    let keys = replica.conn().text("DBSIZE");
    master.kill();
    master.run();
    let mut conn = replica.conn();
    wait_for("the refusal", Duration::from_secs(20), || conn.info("master_sync_refused") == "empty-master");
    assert_eq!(conn.text("DBSIZE"), keys);
    assert_eq!(conn.text("GET s"), "plain");
}

#[test]
fn a_master_that_sends_garbage_or_stops_in_the_middle_costs_no_data() {
    use std::io::{BufRead, BufReader, Write};
    let replica = Server::ours(QUIET);
    fill(&mut replica.conn());
    let keys = replica.conn().text("DBSIZE");
    let truncated = b"$100000\r\nREDIS0010\xfa".to_vec();
    let nonsense = [&b"$40\r\n"[..], &[b'x'; 40]].concat();
    let corrupt = [&b"$30\r\nREDIS0010"[..], &[0xFE, 0, 0, 1, b'k', 1, b'v', 0xFF], &[1; 13]].concat();
    for body in [truncated, nonsense, corrupt, b"garbage\r\n".to_vec(), b"$-5\r\n".to_vec()] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut write = stream.try_clone().unwrap();
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                match line.to_ascii_uppercase().as_str() {
                    "PING" => write.write_all(b"+PONG\r\n").unwrap(),
                    "REPLCONF" => write.write_all(b"+OK\r\n").unwrap(),
                    "PSYNC" => {
                        write.write_all(format!("+FULLRESYNC {} 7\r\n", "a".repeat(40)).as_bytes()).unwrap();
                        write.write_all(&body).unwrap();
                        return;
                    }
                    _ => {}
                }
            }
        });
        replica.conn().cmd(&format!("REPLICAOF 127.0.0.1 {port}"));
        serve.join().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(replica.conn().text("DBSIZE"), keys);
    }
    replica.conn().cmd("REPLICAOF NO ONE");
    assert_eq!(replica.conn().text("SET still-alive 1"), "OK");
}

#[test]
fn what_expires_while_the_master_is_down_is_deleted_on_a_replica_that_continues() {
    let (mut master, replica) = (Server::ours(&["--save", "900 1"]), Server::ours(&["--save", ""]));
    follow(&replica, &master);
    let mut conn = master.conn();
    conn.cmd("SET keep 1");
    conn.cmd("SET gone 1 PX 600");
    master.shutdown("SAVE");
    wait_for("the time to pass", Duration::from_secs(20), || replica.conn().text("GET gone") == "(nil)");
    assert_eq!(replica.conn().text("DBSIZE"), "2", "it is only hidden: the master is to say so");
    master.run();
    wait_for("the deletion", Duration::from_secs(20), || replica.conn().text("DBSIZE") == "1");
    assert_eq!(master.conn().info("sync_partial_ok"), "1");
    assert_eq!(master.conn().info("rdb_last_load_keys_expired"), "1");
    assert_same(&master, &replica);
}

#[test]
fn a_link_that_is_killed_on_the_replica_is_made_again_by_a_partial_resync() {
    let (master, replica) = (Server::ours(&[]), Server::ours(&[]));
    master.conn().cmd("SET before 1");
    follow(&replica, &master);
    assert_eq!(replica.conn().text("CLIENT KILL TYPE master"), "1");
    master.conn().cmd("SET a 1");
    wait_for("the write", Duration::from_secs(20), || replica.conn().text("GET a") == "1");
    assert_eq!((master.conn().info("sync_partial_ok"), master.conn().info("sync_full")), ("1".into(), "1".into()));
}

/// The first sign of life came at once where the machine had been up for longer than their period.
#[test]
fn a_master_says_that_it_lives_when_it_is_time_to() {
    let quiet = &["--save", "", "--repl-ping-replica-period", "1000"];
    let (master, replica) = (Server::ours(quiet), Server::ours(quiet));
    follow(&replica, &master);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(
        (master.conn().info("master_repl_offset"), replica.conn().info("master_repl_offset")),
        ("0".into(), "0".into())
    );
    master.conn().cmd("CONFIG SET repl-ping-replica-period 1");
    wait_for("a sign of life", Duration::from_secs(20), || replica.conn().info("master_repl_offset") == "14");
}

#[test]
fn a_snapshot_for_a_replica_is_a_save_in_progress() {
    for diskless in ["yes", "no"] {
        let master = Server::ours(&["--save", "", "--repl-diskless-sync-delay", "0", "--repl-diskless-sync", diskless]);
        let replica = Server::ours(QUIET);
        let mut conn = master.conn();
        conn.cmd("DEBUG POPULATE 100");
        conn.cmd("CONFIG SET rdb-key-save-delay 50000");
        assert_eq!(conn.info("rdb_bgsave_in_progress"), "0");
        replica.conn().cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
        wait_for("the snapshot", Duration::from_secs(20), || conn.info("rdb_bgsave_in_progress") == "1");
        conn.cmd("CONFIG SET rdb-key-save-delay 0");
        wait_for("its end", Duration::from_secs(60), || conn.info("rdb_bgsave_in_progress") == "0");
        wait_for("the link", Duration::from_secs(20), || replica.conn().info("master_link_status") == "up");
    }
}
