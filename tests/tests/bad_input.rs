//! What nobody should send, and what nobody should write into a configuration.

use std::io::ErrorKind;
use std::process::Command;

use engine::Rng;
use harness::{Server, free_port, program};
use resp::Value;

#[test]
fn what_is_not_the_protocol_ends_the_connection_with_redis_s_words() {
    let server = Server::ours(&["--save", ""]);
    for (bytes, want) in [
        (&b"*1\r\n:1\r\n"[..], "ERR Protocol error: expected '$', got ':'"),
        (b"*x\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$99999999999\r\n", "ERR Protocol error: invalid bulk length"),
        (b"*3000000000\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"set \"a\r\n", "ERR Protocol error: unbalanced quotes in request"),
    ] {
        let mut conn = server.conn();
        conn.send_raw(bytes).unwrap();
        assert_eq!(conn.read().unwrap(), Value::Error(want.into()));
        assert!(conn.read().is_err(), "the connection is closed");
    }
    let mut conn = server.conn();
    conn.send_raw(&[b'x'; 70_000]).unwrap();
    assert_eq!(conn.read().unwrap(), Value::Error("ERR Protocol error: too big inline request".into()));
    assert_eq!(server.conn().text("PING"), "PONG");
}

#[test]
fn a_web_page_cannot_make_a_browser_write() {
    for server in [Server::ours(&["--save", ""]), Server::redis(&["--save", ""])] {
        for request in [
            &b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET stolen 1\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET stolen 1\r\n",
            b"*2\r\n$4\r\npost\r\n$1\r\n/\r\nSET stolen 1\r\n",
        ] {
            let mut conn = server.conn();
            conn.send_raw(request).unwrap();
            let end = (0..5).find_map(|_| conn.read().err()).map(|error| error.kind());
            assert!(
                matches!(end, Some(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)),
                "{:?}: the connection is closed",
                String::from_utf8_lossy(request)
            );
        }
        assert_eq!(server.conn().text("EXISTS stolen"), "0");
        assert!(server.log().contains("Possible SECURITY ATTACK detected"), "{}", server.log());
    }
}

#[test]
fn a_cursor_that_no_scan_gave_comes_to_an_end() {
    let server = Server::ours(&["--save", ""]);
    let mut conn = server.conn();
    conn.cmd("SET a 1");
    for first in ["18446744073709551615", "9223372036854775808", "1099511627775"] {
        let (mut cursor, mut calls) = (first.to_string(), 0);
        while cursor != "0" {
            calls += 1;
            assert!(calls < 100, "SCAN {first} does not end");
            let Value::Array(reply) = conn.cmd(&format!("SCAN {cursor}")) else { panic!("SCAN {cursor}") };
            cursor = reply[0].as_str().expect("a cursor").to_string();
        }
    }
}

#[test]
fn an_unauthenticated_client_cannot_make_the_server_reserve_memory() {
    let server = Server::ours(&["--save", "", "--requirepass", "secret"]);
    for (bytes, want) in [
        (&b"*11\r\n"[..], "ERR Protocol error: unauthenticated multibulk length"),
        (b"*2\r\n$3\r\nGET\r\n$20000\r\n", "ERR Protocol error: unauthenticated bulk length"),
    ] {
        let mut conn = server.conn();
        conn.send_raw(bytes).unwrap();
        assert_eq!(conn.read().unwrap(), Value::Error(want.into()));
    }
    let mut conn = server.conn();
    assert!(conn.text("GET a").contains("NOAUTH"));
    assert!(conn.text("AUTH wrong").contains("WRONGPASS"));
    assert_eq!(conn.text("AUTH secret"), "OK");
    assert_eq!(conn.text("GET a"), "(nil)");
}

#[test]
fn random_bytes_and_random_payloads_do_no_harm() {
    let server = Server::ours(&["--save", ""]);
    let mut conn = server.conn();
    for i in 0..200 {
        conn.cmd(&format!("ZADD z {i} m{i}"));
        conn.cmd(&format!("RPUSH l {i}"));
        conn.cmd(&format!("HSET h f{} {i}", i % 50));
    }
    let mut rng = Rng::new(3);
    for key in ["z", "l", "h"] {
        let Value::Bulk(good) = conn.cmd(&format!("DUMP {key}")) else { panic!("DUMP") };
        for _ in 0..300 {
            let mut bad = good.clone();
            for _ in 0..=rng.below(3) {
                let at = rng.below(bad.len() - 10);
                bad[at] = rng.next_u64() as u8;
            }
            // With a checksum of 0, which says that there is none, the value itself is looked at.
            let end = bad.len();
            bad[end - 8..].fill(0);
            let reply = conn.call(&[b"RESTORE", &b"copy"[..], b"0", &bad, b"REPLACE"]).to_string();
            assert!(reply == "OK" || reply.contains("Bad data format"), "{reply}");
        }
    }
    for _ in 0..100 {
        let mut garbage = server.conn();
        let bytes: Vec<u8> = (0..rng.below(500)).map(|_| rng.next_u64() as u8).collect();
        let _ = garbage.send_raw(&bytes);
    }
    assert_eq!(conn.text("ZCARD z"), "200");
}

/// Starts a server that is expected to end at once: whether it ended well, and what it said.
fn start(args: &[&str]) -> (bool, String) {
    let server = program("replicated-redis-server");
    let out = Command::new("timeout").args(["-s", "KILL", "20"]).arg(server).args(args).output().expect("it runs");
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_configuration_that_cannot_be_obeyed_is_fatal_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("redis.conf");
    for (text, want) in [
        ("port 7000\nnonsense 1\n", vec!["FATAL CONFIG FILE ERROR", "at line 2", ">>> 'nonsense 1'", "Bad directive"]),
        ("port x\n", vec!["at line 1", "couldn't be parsed into an integer"]),
        ("appendonly yes\n", vec![">>> 'appendonly yes'", "not supported by this server yet"]),
        ("maxmemory-policy x\n", vec![">>> 'maxmemory-policy x'", "not supported by this server yet"]),
        ("save 1\n", vec!["Invalid save parameters"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let (ok, said) = start(&[&file.to_string_lossy()]);
        assert!(!ok && want.iter().all(|w| said.contains(w)), "{text}: {said}");
    }
    let (ok, said) = start(&["--nosuch", "1"]);
    assert!(!ok && said.contains(">>> 'nosuch \"1\"'"), "{said}");
    let (ok, said) = start(&["/nosuch/file.conf"]);
    assert!(!ok && said.contains("can't open config file '/nosuch/file.conf'"), "{said}");
    let (ok, said) = start(&["--dir", "/nosuch-dir", "--port", "0"]);
    assert!(!ok && said.contains(">>> 'dir \"/nosuch-dir\"'\nNo such file or directory"), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    let port = free_port();
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (ok, said) =
        start(&["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", &dir.path().to_string_lossy()]);
    assert!(!ok && said.contains(&format!("Failed listening on port {port}")), "{said}");
}

/// Once such a reply was made to its end, whatever the client might be given: it took all memory.
#[test]
fn a_client_that_asks_for_more_than_it_may_have_costs_no_more_than_that() {
    let server = Server::ours(&["--save", ""]);
    let mut conn = server.conn();
    let limited = conn.call(&["CONFIG", "SET", "client-output-buffer-limit", "normal 1000000 0 0"]);
    assert_eq!(limited.to_string(), "OK");
    for line in ["HSET h f v g w", "SADD s a b", "ZADD z 1 a 2 b"] {
        assert!(!conn.cmd(line).is_error(), "{line}");
    }
    for line in [
        "HRANDFIELD h -999999999",
        "HRANDFIELD h -999999999 WITHVALUES",
        "SRANDMEMBER s -999999999",
        "ZRANDMEMBER z -999999999",
        "ZRANDMEMBER z -999999999 WITHSCORES",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        assert!(server.conn().try_call(&args).is_err(), "{line}: the connection is closed");
    }
    let peak: u64 = conn.info("used_memory_peak").parse().unwrap();
    assert!(peak < 100_000_000, "{peak} bytes");
}
