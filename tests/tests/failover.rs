//! FAILOVER swaps the roles of a master and a replica, and SHUTDOWN waits for replicas: neither loses a write.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Conn, Server, follow, wait_for};
use resp::Value;

const LONG: Duration = Duration::from_secs(20);

/// Counts up on whichever of the two is master, until told to stop; returns how many times it was answered.
fn count_up(ports: [u16; 2], stop: &AtomicBool) -> i64 {
    let mut conns = ports.map(|port| Conn::open(port).expect("both are up"));
    let (mut at, mut done) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match conns[at].cmd("INCR counter").as_i64() {
            Some(_) => done += 1,
            None => at = 1 - at,
        }
    }
    done
}

fn is_master(server: &Server) -> bool {
    server.conn().info("role") == "master"
}

/// From `a` to `b` under a write load: by a partial resync, without losing a write.
fn swaps(a: &Server, b: &Server) {
    let stop = AtomicBool::new(false);
    let (full, sent) = (b.conn().info("sync_full"), a.conn().text("GET counter"));
    let before: i64 = sent.parse().unwrap_or(0);
    let counted = std::thread::scope(|scope| {
        let writer = scope.spawn(|| count_up([a.port, b.port], &stop));
        wait_for("writes", LONG, || a.conn().text("GET counter") != sent);
        assert_eq!(a.conn().text("FAILOVER"), "OK");
        wait_for("the roles to be swapped", LONG, || is_master(b) && !is_master(a));
        wait_for("the link", LONG, || a.conn().info("master_link_status") == "up");
        assert_eq!(a.conn().info("master_failover_state"), "no-failover");
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer")
    });
    assert!(counted > 0);
    let want = (before + counted).to_string();
    wait_for("every write on both", LONG, || {
        a.conn().text("GET counter") == want && b.conn().text("GET counter") == want
    });
    assert_eq!(b.conn().info("sync_full"), full, "the old master continued, it did not start over");
}

#[test]
fn roles_are_swapped_under_writes_and_none_is_lost() {
    let (a, b) = (Server::ours(&[]), Server::ours(&[]));
    follow(&b, &a);
    swaps(&a, &b);
    swaps(&b, &a);
}

#[test]
fn roles_are_swapped_with_redis_in_both_directions() {
    let (ours, redis) = (Server::ours(&[]), Server::redis(&[]));
    follow(&redis, &ours);
    swaps(&ours, &redis);
    swaps(&redis, &ours);
    wait_for("the replica", LONG, || ours.conn().info("slave0").contains("state=online"));
    assert_eq!(redis.conn().text("REPLICAOF NO ONE"), "OK");
}

#[test]
fn a_failover_that_cannot_be_begun_is_refused_in_redis_s_words() {
    let (master, replica) = (Server::ours(&[]), Server::ours(&[]));
    let say = |server: &Server, line: &str| server.conn().text(line);
    assert_eq!(say(&master, "FAILOVER"), "(error) ERR FAILOVER requires connected replicas.");
    assert_eq!(say(&master, "FAILOVER ABORT"), "(error) ERR No failover in progress.");
    follow(&replica, &master);
    assert_eq!(say(&replica, "FAILOVER"), "(error) ERR FAILOVER is not valid when server is a replica.");
    assert_eq!(say(&master, "FAILOVER TO 127.0.0.1 1"), "(error) ERR FAILOVER target HOST and PORT is not a replica.");
    assert_eq!(say(&master, "FAILOVER TIMEOUT 0"), "(error) ERR FAILOVER timeout must be greater than 0");
    let id = master.conn().info("master_replid");
    let refused = say(&master, &format!("PSYNC {id} 1 FAILOVER"));
    assert_eq!(refused, "(error) ERR PSYNC FAILOVER can't be sent to a master.");
    let refused = say(&replica, &format!("PSYNC {} 1 FAILOVER", "0".repeat(40)));
    assert_eq!(refused, "(error) ERR PSYNC FAILOVER replid must match my replid.");
}

#[test]
fn writes_wait_for_a_target_that_does_not_answer_and_go_on_after_the_time_out_or_an_abort() {
    let (master, replica) = (Server::ours(&[]), Server::ours(&[]));
    follow(&replica, &master);
    replica.signal("STOP");
    let mut conn = master.conn();
    conn.cmd("SET a 1");
    assert_eq!(conn.text("FAILOVER TIMEOUT 700"), "OK");
    assert_eq!(conn.info("master_failover_state"), "waiting-for-sync");
    assert_eq!(conn.text("FAILOVER"), "(error) ERR FAILOVER already in progress.");
    assert_eq!(conn.text("REPLICAOF 127.0.0.1 1"), "(error) ERR REPLICAOF not allowed while failing over.");
    let begun = Instant::now();
    assert_eq!(conn.text("SET a 2"), "OK");
    assert!(begun.elapsed() > Duration::from_millis(300), "the write waited: {:?}", begun.elapsed());
    assert_eq!(conn.info("master_failover_state"), "no-failover");
    let target = format!("FAILOVER TO 127.0.0.1 {}", replica.port);
    assert_eq!(conn.text(&target), "OK");
    let writer = std::thread::spawn({
        let mut conn = master.conn();
        move || conn.text("SET a 3")
    });
    assert_eq!(conn.text("FAILOVER ABORT"), "OK");
    assert_eq!(writer.join().expect("the writer"), "OK");
    // By force the target is asked all the same; it does not answer, so the master remains the master.
    assert_eq!(conn.text(&format!("{target} FORCE TIMEOUT 100")), "OK");
    wait_for("the time to be over", LONG, || conn.info("master_failover_state") == "failover-in-progress");
    assert_eq!(conn.text("FAILOVER ABORT"), "OK");
    assert!(is_master(&master) && conn.text("SET a 4") == "OK");
    replica.signal("CONT");
    wait_for("the replica to come back", LONG, || replica.conn().text("GET a") == "4");
    assert_eq!(master.conn().info("sync_full"), "1");
}

#[test]
fn sigterm_waits_for_replicas_to_catch_up() {
    let (mut master, replica) = (Server::ours(&["--shutdown-timeout", "30"]), Server::ours(&[]));
    follow(&replica, &master);
    replica.signal("STOP");
    master.conn().cmd("SET a 1");
    master.signal("TERM");
    wait_for("the master to wait", LONG, || {
        master.log().contains("0 of 1 replicas are in sync when shutting down, waiting")
    });
    assert!(!master.has_ended());
    replica.signal("CONT");
    wait_for("the master to end", LONG, || master.has_ended());
    assert!(master.log().contains("1 of 1 replicas are in sync when shutting down."), "{}", master.log());
    assert_eq!(replica.conn().text("GET a"), "1");
}

#[test]
fn shutdown_waits_no_longer_than_its_time_out_and_not_at_all_if_told_so() {
    for (how, timeout, least, most) in [("NOSAVE", "1", 900, 8000), ("NOSAVE NOW", "30", 0, 8000)] {
        let (mut master, replica) = (Server::ours(&["--shutdown-timeout", timeout]), Server::ours(&[]));
        follow(&replica, &master);
        replica.signal("STOP");
        master.conn().cmd("SET a 1");
        let begun = Instant::now();
        assert!(master.conn().try_call(&[&["SHUTDOWN"], &how.split(' ').collect::<Vec<_>>()[..]].concat()).is_err());
        wait_for("the master to end", LONG, || master.has_ended());
        let took = begun.elapsed().as_millis();
        assert!((least..most).contains(&took), "{how}: {took} ms");
        replica.signal("CONT");
    }
}

#[test]
fn a_shutdown_can_be_aborted_and_then_everything_goes_on() {
    let (mut master, replica) = (Server::ours(&["--shutdown-timeout", "30"]), Server::ours(&[]));
    assert_eq!(master.conn().text("SHUTDOWN ABORT"), "(error) ERR No shutdown in progress.");
    assert_eq!(master.conn().text("SHUTDOWN SAVE NOSAVE"), "(error) ERR syntax error");
    assert_eq!(master.conn().text("SHUTDOWN ABORT NOW"), "(error) ERR syntax error");
    follow(&replica, &master);
    replica.signal("STOP");
    master.conn().cmd("SET a 1");
    let asked = std::thread::spawn({
        let mut conn = master.conn();
        move || conn.text("SHUTDOWN")
    });
    wait_for("the master to wait", LONG, || master.log().contains("when shutting down, waiting"));
    assert_eq!(master.conn().text("SHUTDOWN ABORT"), "OK");
    assert_eq!(asked.join().expect("the client"), "(error) ERR Errors trying to SHUTDOWN. Check logs.");
    assert_eq!(master.conn().text("SET a 2"), "OK");
    replica.signal("CONT");
    wait_for("the write to arrive", LONG, || replica.conn().text("GET a") == "2");
    assert!(!master.has_ended());
}

#[test]
fn a_server_that_cannot_save_does_not_end_unless_it_must() {
    let mut server = Server::ours(&["--enable-protected-configs", "yes", "--save", "900 1"]);
    std::fs::create_dir(server.dir.path().join("taken.rdb")).expect("a folder");
    server.conn().cmd("SET a 1");
    assert_eq!(server.conn().text("CONFIG SET dbfilename taken.rdb"), "OK");
    assert_eq!(server.conn().text("SHUTDOWN"), "(error) ERR Errors trying to SHUTDOWN. Check logs.");
    server.signal("TERM");
    wait_for("the refusal", LONG, || server.log().matches("can't exit").count() == 2);
    assert_eq!(server.conn().text("GET a"), "1");
    assert!(server.conn().try_call(&["SHUTDOWN", "FORCE"]).is_err());
    wait_for("the end", LONG, || server.has_ended());
}

/// The replica has its tables from a snapshot, and they grow before the scans go on: they are of another shape.
#[test]
fn a_scan_goes_on_at_the_next_master_when_both_have_the_same_hash_seed() {
    const COUNT: usize = 5000;
    let args = ["--save", "", "--hash-seed", "orchard"];
    let (mut master, replica) = (Server::ours(&args), Server::ours(&args));
    let mut conn = master.conn();
    conn.cmd(&format!("DEBUG POPULATE {COUNT} key"));
    for n in 0..COUNT {
        conn.cmd(&format!("HSET hash key:{n} {n}"));
    }
    follow(&replica, &master);
    let mut scans = ["SCAN", "HSCAN hash"].map(|command| Scan { command, cursor: "0".into(), seen: BTreeSet::new() });
    for scan in &mut scans {
        while scan.seen.len() < COUNT / 2 {
            scan.step(&mut conn);
        }
    }
    master.kill();
    let mut conn = replica.conn();
    conn.cmd("REPLICAOF NO ONE");
    conn.cmd(&format!("DEBUG POPULATE {} more", 10 * COUNT));
    for n in 0..COUNT {
        conn.cmd(&format!("HSET hash more:{n} {n}"));
    }
    for mut scan in scans {
        let before = scan.seen.len();
        while scan.cursor != "0" {
            scan.step(&mut conn);
        }
        assert!(before < COUNT, "{}: half of it", scan.command);
        let missed: Vec<String> =
            (0..COUNT).map(|n| format!("key:{n}")).filter(|key| !scan.seen.contains(key)).collect();
        assert!(missed.is_empty(), "{}: {missed:?}", scan.command);
    }
}

struct Scan {
    command: &'static str,
    cursor: String,
    seen: BTreeSet<String>,
}

impl Scan {
    fn step(&mut self, conn: &mut Conn) {
        let reply = conn.cmd(&format!("{} {} COUNT 100", self.command, self.cursor));
        let Some([cursor, found]) = reply.as_list() else { panic!("{}: {reply}", self.command) };
        self.cursor = cursor.as_str().expect("a cursor").into();
        let found = found.as_list().expect("what it has found").iter().filter_map(Value::as_str);
        self.seen.extend(found.filter(|found| found.starts_with("key:")).map(String::from));
    }
}
