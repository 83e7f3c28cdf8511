//! Parameters of a replica, and what travels over the link because of them: for ours and for redis-server, which keeps the
//! tests honest.

use std::time::Duration;

use harness::{Conn, Server, follow, wait_for};

const SOON: Duration = Duration::from_secs(20);

fn link_up(conn: &mut Conn) {
    wait_for("the link", SOON, || conn.info("master_link_status") == "up");
}

#[test]
fn a_replica_without_its_master_serves_what_it_has_unless_it_may_not() {
    for start in Server::BOTH {
        let (mut master, replica) = (start(&["--save", ""]), start(&["--save", ""]));
        master.conn().cmd("SET a 1");
        follow(&replica, &master);
        let mut conn = replica.conn();
        wait_for("the write", SOON, || conn.text("GET a") == "1");
        master.kill();
        wait_for("the end to be noticed", SOON, || conn.info("master_link_status") == "down");
        assert_eq!(conn.text("GET a"), "1");
        conn.cmd("CONFIG SET replica-serve-stale-data no");
        let refused = "(error) MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
        assert_eq!(conn.text("GET a"), refused);
        assert_eq!(conn.text("DBSIZE"), refused);
        // What tells how it is, and what ends it, is answered.
        assert_eq!((conn.text("PING"), conn.info("role")), (refused.into(), "slave".into()));
        assert_eq!((conn.text("REPLICAOF NO ONE"), conn.text("GET a")), ("OK".into(), "1".into()));
    }
}

#[test]
fn a_replica_is_known_by_the_address_that_it_announces() {
    for start in Server::BOTH {
        for replica in Server::BOTH {
            let master = start(&["--save", ""]);
            let replica =
                replica(&["--save", "", "--replica-announce-ip", "10.1.2.3", "--replica-announce-port", "4567"]);
            follow(&replica, &master);
            let mut conn = master.conn();
            wait_for("the replica", SOON, || conn.info("slave0").contains("state=online"));
            let told = conn.info("slave0");
            assert!(told.starts_with("ip=10.1.2.3,port=4567,"), "{told}");
            let role = conn.text("ROLE");
            assert!(role.contains("10.1.2.3") && role.contains("4567"), "{role}");
        }
    }
}

/// The master is redis-server: ours has no users beside `default` yet.
#[test]
fn a_replica_logs_in_as_the_user_that_it_is_told() {
    for start in Server::BOTH {
        let master = Server::redis(&["--save", ""]);
        let mut admin = master.conn();
        admin.cmd("SET a 1");
        assert_eq!(admin.text("ACL SETUSER link on >secret +psync +replconf +ping"), "OK");
        assert_eq!(admin.text("ACL SETUSER default >closed"), "OK");
        let replica = start(&["--save", "", "--masteruser", "link", "--masterauth", "wrong"]);
        let mut conn = replica.conn();
        conn.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
        wait_for("the refusal", SOON, || replica.log().contains("Unable to AUTH to MASTER: -WRONGPASS"));
        conn.cmd("CONFIG SET masterauth secret");
        link_up(&mut conn);
        assert_eq!(conn.text("GET a"), "1");
        assert!(admin.text("CLIENT LIST TYPE replica").contains("user=link"));
    }
}

#[test]
fn whom_to_follow_is_said_on_the_command_line_under_either_name() {
    for start in Server::BOTH {
        let master = start(&["--save", ""]);
        master.conn().cmd("SET a 1");
        for name in ["--replicaof", "--slaveof"] {
            let port = master.port.to_string();
            let replica =
                start(&["--save", "", name, "127.0.0.1", &port, "--slave-read-only", "no", "--slave-priority", "7"]);
            let mut conn = replica.conn();
            link_up(&mut conn);
            assert_eq!((conn.text("GET a"), conn.text("SET own 1")), ("1".into(), "OK".into()));
            assert_eq!(conn.info("slave_priority"), "7");
            assert_eq!(
                conn.text("CONFIG GET replica-read-only"),
                conn.text("CONFIG GET slave-read-only").replace("slave-", "replica-")
            );
        }
    }
}
