//! What clients write to a replica with `replica-read-only no`, how they pause one, and what becomes of them when a master
//! becomes a replica: the same from ours and from redis-server.

use std::time::Duration;

use harness::{Server, follow, wait_for};

const QUIET: &[&str] = &["--save", ""];

/// Master and replica of the same kind, both kinds.
fn pairs() -> [(&'static str, Server, Server); 3] {
    let one = &["--save", "", "--io-threads", "1"];
    [
        ("redis-server", Server::redis(QUIET), Server::redis(QUIET)),
        ("one worker", Server::ours(one), Server::ours(one)),
        ("two workers", Server::ours(QUIET), Server::ours(QUIET)),
    ]
}

#[test]
fn keys_that_were_written_to_a_replica_expire_there() {
    for (kind, master, replica) in pairs() {
        follow(&replica, &master);
        let (mut m, mut r) = (master.conn(), replica.conn());
        r.cmd("CONFIG SET replica-read-only no");
        let end = r.info("master_repl_offset");
        for line in [
            "SET a 1 PX 100",
            "SETEX b 1 1",
            "SET c 1",
            "PEXPIRE c 100",
            "SADD d x y",
            "PEXPIRE d 100",
            "RENAME d e",
            "RPUSH f x",
            "PEXPIRE f 100",
            "COPY f g",
            "SET h 1 PX 100",
            "SET h 2 KEEPTTL",
            "SET stays 1 PX 100",
            "PERSIST stays",
            "SET later 1 PX 100",
            "PEXPIRE later 1000000",
        ] {
            assert!(!r.cmd(line).is_error(), "{kind}: {line}");
        }
        // They are counted when they get an expiry, whatever becomes of it.
        assert!(r.info("slave_expires_tracked_keys").parse::<u64>().is_ok_and(|n| n > 0), "{kind}");
        wait_for("the keys to be deleted", Duration::from_secs(20), || r.text("DBSIZE") == "2");
        assert_eq!((r.text("GET stays"), r.text("GET later")), ("1".into(), "1".into()), "{kind}");
        wait_for("one to be left", Duration::from_secs(20), || r.info("slave_expires_tracked_keys") == "1");
        // The master's own keys are the master's to delete.
        m.cmd("DEBUG SET-ACTIVE-EXPIRE 0");
        m.cmd("PSETEX theirs 50 v");
        assert_eq!(m.text("WAIT 1 5000"), "1", "{kind}");
        wait_for("its time to pass", Duration::from_secs(5), || r.text("GET theirs") == "(nil)");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(r.text("DBSIZE"), "3", "{kind}: it is hidden, not deleted");
        assert_eq!(m.text("DBSIZE"), "1", "{kind}");
        // None of it is in the history that the replica passes on, but for the master's key and its signs of life.
        let sent = |offset: &str| offset.parse::<u64>().expect("a number");
        assert!(sent(&r.info("master_repl_offset")) <= sent(&m.info("master_repl_offset")), "{kind}");
        assert!(sent(&end) <= sent(&r.info("master_repl_offset")), "{kind}");
        r.cmd("FLUSHALL");
        assert_eq!(r.info("slave_expires_tracked_keys"), "0", "{kind}");
    }
}

/// Once a write found the hidden key absent and made a second one of the same name beside it.
#[test]
fn a_write_to_a_key_of_the_replica_whose_time_has_passed_replaces_it() {
    for (kind, master, replica) in pairs() {
        follow(&replica, &master);
        let mut r = replica.conn();
        r.cmd("CONFIG SET replica-read-only no");
        r.cmd("DEBUG SET-ACTIVE-EXPIRE 0");
        for key in ["s", "n", "l", "untouched"] {
            r.cmd(&format!("SET {key} 5 PX 1"));
        }
        wait_for("their time to pass", Duration::from_secs(5), || r.text("EXISTS s n l untouched") == "0");
        assert_eq!(r.text("DBSIZE"), "4", "{kind}: they are hidden, not deleted");
        assert_eq!(r.text("SET s new"), "OK", "{kind}");
        assert_eq!(r.text("INCR n"), "1", "{kind}");
        assert_eq!(r.text("RPUSH l x"), "1", "{kind}");
        assert_eq!((r.text("DBSIZE"), r.text("GET s"), r.text("TTL n")), ("4".into(), "new".into(), "-1".into()));
        // Redis counts the one that it hides, too.
        r.cmd("DEL s n l untouched");
        assert_eq!(r.text("DBSIZE"), "0", "{kind}");
    }
}

#[test]
fn who_waits_for_replicas_is_told_that_the_master_is_a_replica_now() {
    for (kind, first, second) in pairs() {
        let mut waiting = first.conn();
        waiting.cmd("SET a 1");
        let waiter = std::thread::spawn(move || {
            let reply = waiting.text("WAIT 1 60000");
            (reply, waiting.try_call(&["PING"]).is_err())
        });
        let mut conn = first.conn();
        wait_for("the client to wait", Duration::from_secs(5), || conn.info("blocked_clients") == "1");
        conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", second.port));
        let (reply, closed) = waiter.join().expect("it ends");
        assert_eq!(
            reply,
            "(error) UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            "{kind}"
        );
        assert!(closed, "{kind}: it has to look for the master");
    }
}

#[test]
fn a_paused_replica_reads_the_stream_and_applies_it_afterwards() {
    for (kind, master, replica) in pairs() {
        follow(&replica, &master);
        let (mut m, mut r) = (master.conn(), replica.conn());
        m.cmd("SET a 1");
        wait_for("the write", Duration::from_secs(5), || r.text("GET a") == "1");
        let applied = r.info("slave_repl_offset");
        assert_eq!(r.text("CLIENT PAUSE 100000 WRITE"), "OK");
        m.cmd("SET a 2");
        let end = m.info("master_repl_offset");
        wait_for("the stream", Duration::from_secs(5), || {
            let read: u64 = r.info("slave_read_repl_offset").parse().expect("a number");
            read >= end.parse().expect("a number")
        });
        assert_eq!((r.text("GET a"), r.info("slave_repl_offset")), ("1".into(), applied), "{kind}");
        assert_eq!(r.text("CLIENT UNPAUSE"), "OK");
        wait_for("the write that waited", Duration::from_secs(5), || r.text("GET a") == "2");
        assert_eq!(m.text("WAIT 1 5000"), "1", "{kind}");
    }
}
