//! `repl-diskless-load`: a full resync goes straight into memory, and the data set that was there is kept until it is whole.

use std::time::Duration;

use harness::{Conn, Server, assert_same, follow, wait_for};

const LONG: Duration = Duration::from_secs(30);

fn fill(conn: &mut Conn) {
    conn.cmd("DEBUG POPULATE 2000 key 50");
    conn.cmd("HSET h a 1 b 2");
    conn.cmd("ZADD z 1 x 2 y");
    conn.cmd("SELECT 3");
    conn.cmd("RPUSH l 1 2 3");
    conn.cmd("SET e 1 EX 1000");
    conn.cmd("SELECT 0");
}

#[test]
fn a_full_resync_into_memory_is_exact_and_writes_no_file() {
    for (mode, diskless, redis) in
        [("swapdb", "yes", false), ("swapdb", "no", true), ("on-empty-db", "yes", true), ("on-empty-db", "no", false)]
    {
        let sync = ["--repl-diskless-sync", diskless, "--save", ""];
        let master = if redis { Server::redis(&sync) } else { Server::ours(&sync) };
        fill(&mut master.conn());
        let replica = Server::ours(&["--repl-diskless-load", mode, "--save", ""]);
        follow(&replica, &master);
        master.conn().cmd("SET behind 1");
        assert_same(&master, &replica);
        assert!(!replica.dir.path().join("dump.rdb").exists(), "{mode}: nothing was written");
    }
}

/// A redis-server that sends its snapshot slowly, and has as many keys as it has to have for the fence.
fn slow_master() -> Server {
    let master = Server::redis(&["--save", "", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
    let mut conn = master.conn();
    conn.cmd("DEBUG POPULATE 20000 new 100");
    conn.cmd("CONFIG SET rdb-key-save-delay 100");
    master
}

fn replica_with_old_data() -> Server {
    let replica = Server::ours(&["--repl-diskless-load", "swapdb", "--save", ""]);
    let mut conn = replica.conn();
    conn.cmd("DEBUG POPULATE 1000 old 10");
    conn.cmd("SET old yes");
    replica
}

#[test]
fn the_old_data_is_served_until_the_new_is_whole() {
    let (master, replica) = (slow_master(), replica_with_old_data());
    let mut conn = replica.conn();
    conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    wait_for("the load to begin", LONG, || conn.info("async_loading") == "1");
    assert_eq!((conn.text("GET old"), conn.info("loading")), ("yes".into(), "0".into()));
    wait_for("the link", LONG, || conn.info("master_link_status") == "up");
    assert_eq!(
        (conn.text("GET old"), conn.text("DBSIZE"), conn.info("async_loading")),
        ("(nil)".into(), "20000".into(), "0".into())
    );
}

#[test]
fn a_master_that_goes_away_in_the_middle_costs_nothing() {
    let (mut master, replica) = (slow_master(), replica_with_old_data());
    let mut conn = replica.conn();
    conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    wait_for("the load to begin", LONG, || conn.info("async_loading") == "1");
    master.kill();
    wait_for("the load to end", LONG, || conn.info("async_loading") == "0");
    assert_eq!((conn.text("GET old"), conn.text("DBSIZE")), ("yes".into(), "1001".into()));
}

#[test]
fn an_empty_master_is_refused_here_too() {
    let (master, replica) = (Server::redis(&["--save", ""]), replica_with_old_data());
    let mut conn = replica.conn();
    conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    wait_for("the refusal", LONG, || !conn.info("master_sync_refused").is_empty());
    assert_eq!((conn.text("GET old"), conn.text("DBSIZE")), ("yes".into(), "1001".into()));
}
