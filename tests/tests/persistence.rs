//! RDB files: ours for redis-server, its for ours; damage, a full disk, a crash in the middle.

use std::process::Command;
use std::time::Duration;

use harness::{Server, program, wait_for};

fn fill(server: &Server) -> String {
    let mut conn = server.conn();
    for i in 0..300 {
        conn.cmd(&format!("SET k{i} {}", "ab".repeat(i)));
        conn.cmd(&format!("RPUSH l {i}"));
        conn.cmd(&format!("SADD ints {i}"));
        conn.cmd(&format!("SADD set m{}", i % 20));
        conn.cmd(&format!("HSET h f{i} {i}"));
        conn.cmd(&format!("HSET small f{} {i}", i % 5));
        conn.cmd(&format!("ZADD z {} m{i}", f64::from(i as u32) / 3.0));
        conn.cmd(&format!("ZADD zsmall {i} m{}", i % 5));
    }
    conn.cmd("EXPIRE k5 10000");
    conn.cmd("SELECT 7");
    conn.cmd("SET seven 7");
    conn.cmd("SELECT 0");
    conn.text("DEBUG DIGEST")
}

#[test]
fn a_restart_brings_everything_back() {
    let mut server = Server::ours(&[]);
    let digest = fill(&server);
    server.shutdown("SAVE");
    server.run();
    assert_eq!(server.conn().text("DEBUG DIGEST"), digest);
    assert_eq!(server.conn().text("DEBUG RELOAD"), "OK");
    assert_eq!(server.conn().text("DEBUG DIGEST"), digest);
}

#[test]
fn files_go_both_ways_between_ours_and_redis() {
    let packed = ["--save", ""];
    let mut ours = Server::ours(&packed);
    let digest = fill(&ours);
    assert_eq!(ours.conn().text("SAVE"), "OK");
    let file = ours.dir.path().join("dump.rdb");
    let checked = Command::new("redis-check-rdb").arg(&file).output().expect("redis-check-rdb runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let mut redis = Server::redis(&packed);
    redis.kill();
    std::fs::copy(&file, redis.dir.path().join("dump.rdb")).unwrap();
    redis.run();
    assert_eq!(redis.conn().text("DEBUG DIGEST"), digest);
    // Back, in the encodings that redis writes.
    assert_eq!(redis.conn().text("SAVE"), "OK");
    ours.kill();
    std::fs::copy(redis.dir.path().join("dump.rdb"), &file).unwrap();
    ours.run();
    assert_eq!(ours.conn().text("DEBUG DIGEST"), digest);
}

#[test]
fn background_saves_by_command_and_by_rule() {
    let server = Server::ours(&["--save", "1", "5"]);
    let mut conn = server.conn();
    for i in 0..10 {
        conn.cmd(&format!("SET k{i} v"));
    }
    let file = server.dir.path().join("dump.rdb");
    wait_for("the save rule to write a file", Duration::from_secs(15), || file.exists());
    conn.cmd("SET more 1");
    // The save of the rule may still be ending.
    wait_for("BGSAVE to begin", Duration::from_secs(15), || conn.text("BGSAVE") == "Background saving started");
    wait_for("BGSAVE to end", Duration::from_secs(15), || conn.info("rdb_changes_since_last_save") == "0");
}

#[test]
fn a_damaged_file_is_refused_at_start_and_left_as_it_is() {
    let mut server = Server::ours(&["--save", ""]);
    fill(&server);
    server.conn().cmd("SAVE");
    server.kill();
    let file = server.dir.path().join("dump.rdb");
    let good = std::fs::read(&file).unwrap();
    for (what, bad) in [
        ("cut", good[..good.len() / 2].to_vec()),
        ("changed", good.iter().enumerate().map(|(i, b)| if i == good.len() / 2 { b ^ 0x55 } else { *b }).collect()),
        ("other", b"hello world, this is no RDB".to_vec()),
    ] {
        std::fs::write(&file, &bad).unwrap();
        let out = Command::new(program("replicated-redis-server"))
            .args(["--port", &harness::free_port().to_string(), "--dir", &server.dir.path().to_string_lossy()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("dump.rdb") && said.contains("left as it is"), "{what}: {said}");
        assert_eq!(std::fs::read(&file).unwrap(), bad, "{what}");
    }
}

#[test]
fn a_save_that_fails_says_so_and_loses_nothing() {
    let server = Server::ours(&["--save", "", "--enable-protected-configs", "yes"]);
    let digest = fill(&server);
    let mut conn = server.conn();
    assert_eq!(conn.text("SAVE"), "OK");
    let file = server.dir.path().join("dump.rdb");
    let good = std::fs::read(&file).unwrap();
    // A name that cannot be written: it is a folder's.
    std::fs::create_dir(server.dir.path().join("taken.rdb")).unwrap();
    assert_eq!(conn.text("CONFIG SET dbfilename taken.rdb"), "OK");
    let text = conn.text("SAVE");
    assert!(text.contains("taken.rdb"), "{text}");
    assert_eq!(conn.info("rdb_last_bgsave_status"), "err");
    assert_eq!(conn.text("DEBUG DIGEST"), digest);
    assert_eq!(std::fs::read(&file).unwrap(), good);
    conn.cmd("CONFIG SET dbfilename dump.rdb");
    assert_eq!(conn.text("SAVE"), "OK");
    assert_eq!(conn.info("rdb_last_bgsave_status"), "ok");
}

#[test]
fn a_crash_during_a_save_leaves_the_old_file() {
    let mut server = Server::ours(&["--save", ""]);
    let digest = fill(&server);
    server.conn().cmd("SAVE");
    server.conn().cmd("DEBUG POPULATE 300000 big 100");
    server.conn().cmd("BGSAVE");
    server.kill();
    server.run();
    let mut conn = server.conn();
    // Either the old file, whole, or the new one, whole.
    let now = conn.text("DBSIZE");
    assert!(now == "307" && conn.text("DEBUG DIGEST") == digest || now == "300307", "{now} keys");
}

/// The old file must not bring back what was flushed. Both servers do the same.
#[test]
fn a_flushall_with_save_points_saves_the_empty_data_set() {
    for mut server in [Server::ours(&["--save", "3600 1"]), Server::redis(&["--save", "3600 1"])] {
        let mut conn = server.conn();
        let file = server.dir.path().join("dump.rdb");
        let lines = ["SET a 1", "SAVE", "SET b 2", "FLUSHALL"];
        lines.iter().for_each(|line| assert_eq!(conn.text(line), "OK"));
        assert_eq!(conn.info("rdb_changes_since_last_save"), "0");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(conn.text("SET a 1"), "OK");
        assert_eq!(conn.text("FLUSHDB"), "OK");
        assert!(!file.exists(), "FLUSHDB saves nothing");
        ["MULTI", "FLUSHALL", "EXEC"].iter().for_each(|line| drop(conn.cmd(line)));
        assert!(file.exists(), "a FLUSHALL in a transaction does");
        conn.cmd("SET c 3");
        server.kill();
        server.run();
        assert_eq!(server.conn().text("DBSIZE"), "0");
        let mut conn = server.conn();
        assert_eq!(conn.call(&["CONFIG", "SET", "save", ""]).as_str(), Some("OK"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(conn.text("FLUSHALL"), "OK");
        assert!(!file.exists(), "without save points nothing is saved");
    }
}

/// A snapshot that a FLUSHALL ends is no failure, after which writes would be refused.
#[test]
fn a_flushall_during_a_save_refuses_no_writes() {
    let server = Server::ours(&["--save", "3600 1", "--rdb-key-save-delay", "2000"]);
    let mut conn = server.conn();
    (0..200).for_each(|i| drop(conn.cmd(&format!("SET k{i} {i}"))));
    conn.cmd("BGSAVE");
    wait_for("the save to begin", Duration::from_secs(10), || conn.info("rdb_bgsave_in_progress") == "1");
    assert_eq!(conn.text("FLUSHALL"), "OK");
    wait_for("the save to end", Duration::from_secs(20), || conn.info("rdb_bgsave_in_progress") == "0");
    assert_eq!((conn.info("rdb_last_bgsave_status"), conn.text("SET a 1")), ("ok".into(), "OK".into()));
    assert_eq!(conn.info("rdb_changes_since_last_save"), "1");
}
