//! Parameters that act on the process: where it listens, how it starts, who may look inside, what it forgets.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use harness::{Conn, Server, follow, free_port, program, wait_for};

#[test]
fn the_server_moves_to_another_port_and_keeps_its_connections() {
    let server = Server::ours(&[]);
    let (mut conn, to) = (server.conn(), free_port());
    assert_eq!(conn.text(&format!("CONFIG SET port {to}")), "OK");
    assert_eq!(Conn::open(to).expect("it listens there").text("PING"), "PONG");
    assert!(Conn::open(server.port).is_err(), "the old port is closed");
    assert_eq!(conn.text("PING"), "PONG");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let refused = conn.text(&format!("CONFIG SET port {port}"));
    assert!(refused.contains("Unable to listen on this port"), "{refused}");
    assert!(conn.text("CONFIG GET port").contains(&to.to_string()), "unchanged");
    assert_eq!(Conn::open(to).expect("it still listens there").text("PING"), "PONG");
    assert_eq!(conn.call(&["CONFIG", "SET", "bind", "127.0.0.2 -::1"]).to_string(), "OK");
    assert!(std::net::TcpStream::connect(("127.0.0.2", to)).is_ok() && Conn::open(to).is_err());
}

#[test]
fn the_unix_socket_takes_commands_and_has_its_permissions() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("redis.sock");
    let text = path.to_string_lossy().into_owned();
    let server = Server::ours(&["--unixsocket", &text, "--unixsocketperm", "700"]);
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"PING\r\nCLIENT INFO\r\n").expect("it reads");
    let mut got = String::new();
    let mut chunk = [0; 4096];
    wait_for("two replies", Duration::from_secs(10), || {
        let n = stream.read(&mut chunk).expect("it answers");
        got.push_str(&String::from_utf8_lossy(&chunk[..n]));
        got.ends_with("\r\n") && got.contains("lib-ver=")
    });
    assert!(
        got.starts_with("+PONG\r\n") && got.contains(&format!("addr={text}:0 ")) && got.contains("flags=U"),
        "{got}"
    );
    drop(server);
}

#[test]
fn a_daemon_writes_its_pidfile_and_removes_it_when_it_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let pidfile = dir.path().join("pid");
    let port = free_port();
    let mut command = Command::new(program("replicated-redis-server"));
    command.args(["--port", &port.to_string(), "--daemonize", "yes", "--dir", &dir.path().to_string_lossy()]);
    command.args(["--bind", "127.0.0.1", "--pidfile", &pidfile.to_string_lossy()]);
    command.args(["--logfile", &dir.path().join("log").to_string_lossy(), "--save", ""]);
    let ended = command.status().expect("the program runs");
    assert!(ended.success(), "the process that was started ends, the daemon goes on");
    wait_for("the daemon", Duration::from_secs(20), || Conn::open(port).is_ok());
    let mut conn = Conn::open(port).expect("the daemon");
    let pid = std::fs::read_to_string(&pidfile).expect("the pidfile");
    assert_eq!(conn.info("process_id"), pid.trim());
    let _ = conn.try_call(&["SHUTDOWN", "NOSAVE"]);
    wait_for("the pidfile to go", Duration::from_secs(20), || !pidfile.exists());
}

#[test]
fn files_without_a_folder_are_in_dir() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let mut command = Command::new(program("replicated-redis-server"));
    command.args(["--port", &port.to_string(), "--daemonize", "yes", "--dir", &dir.path().to_string_lossy()]);
    command.args(["--bind", "127.0.0.1", "--pidfile", "own.pid", "--logfile", "own.log", "--unixsocket", "own.sock"]);
    assert!(command.status().expect("the program runs").success());
    wait_for("the daemon", Duration::from_secs(20), || Conn::open(port).is_ok());
    for name in ["own.pid", "own.log", "own.sock"] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
    let _ = Conn::open(port).expect("the daemon").try_call(&["SHUTDOWN", "NOSAVE"]);
    for name in ["own.pid", "own.sock"] {
        wait_for("its files to go", Duration::from_secs(20), || !dir.path().join(name).exists());
    }
}

#[test]
fn debug_is_for_those_whom_the_configuration_names() {
    let ask = |how: &str| {
        let server = Server::ours(&["--enable-debug-command", how]);
        server.conn().text("DEBUG DIGEST")
    };
    assert!(ask("no").contains("DEBUG command not allowed"));
    assert_eq!(ask("local"), "0".repeat(40), "a loopback connection is a local one");
}

#[test]
fn protected_parameters_are_changed_only_if_the_configuration_says_so() {
    let server = Server::ours(&[]);
    let refused = server.conn().text("CONFIG SET dir /tmp");
    assert_eq!(
        refused,
        "(error) ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected config"
    );
    let server = Server::ours(&["--enable-protected-configs", "local"]);
    assert_eq!(server.conn().text("CONFIG SET dbfilename other.rdb"), "OK");
    assert_eq!(server.conn().text("SAVE"), "OK");
    assert!(server.dir.path().join("other.rdb").exists());
}

#[test]
fn a_backlog_for_which_nobody_comes_back_is_given_up_and_comes_back_with_a_replica() {
    let master = Server::ours(&["--repl-backlog-ttl", "1"]);
    let mut replica = Server::ours(&[]);
    master.conn().cmd("SET a 1");
    follow(&replica, &master);
    let mut conn = master.conn();
    assert_eq!(conn.info("repl_backlog_active"), "1");
    replica.kill();
    wait_for("the backlog to go", Duration::from_secs(20), || conn.info("repl_backlog_active") == "0");
    assert_eq!(conn.info("repl_backlog_histlen"), "0");
    conn.cmd("SET b 2");
    let again = Server::ours(&[]);
    follow(&again, &master);
    assert_eq!((conn.info("repl_backlog_active").as_str(), again.conn().text("GET b").as_str()), ("1", "2"));
}

/// This machine's address beyond the loopback interface, if it has one.
fn outer_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn without_a_password_only_this_machine_is_let_in() {
    let Some(ip) = outer_address() else { return println!("this machine has the loopback interface only") };
    for start in Server::BOTH {
        let server = start(&["--bind", "0.0.0.0"]);
        let from_outside = || -> String {
            let mut conn = Conn::open_at((ip, server.port).into()).expect("it accepts before it refuses");
            conn.try_call(&["PING"]).map_or_else(|error| error.to_string(), |reply| reply.to_string())
        };
        let refused = from_outside();
        assert!(refused.starts_with("(error) DENIED Redis is running in protected mode"), "{refused}");
        server.conn().cmd("CONFIG SET protected-mode no");
        assert_eq!(from_outside(), "PONG");
        let mut inside = server.conn();
        inside.cmd("CONFIG SET protected-mode yes");
        inside.cmd("CONFIG SET requirepass secret");
        assert!(from_outside().contains("NOAUTH"), "with a password, the password decides");
    }
}

#[test]
fn an_rdb_file_is_written_as_the_parameters_say_and_read_whatever_they_say() {
    let text = "compressible ".repeat(500);
    for (compression, checksum) in [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no")] {
        let mut server = Server::ours(&["--rdbcompression", compression, "--rdbchecksum", checksum]);
        server.conn().call(&["SET", "key", &text]);
        server.shutdown("SAVE");
        let file = std::fs::read(server.dir.path().join("dump.rdb")).expect("it has saved");
        let plain = file.windows(text.len()).any(|part| part == text.as_bytes());
        assert_eq!(plain, compression == "no", "{} bytes", file.len());
        assert_eq!(file.ends_with(&[0; 8]), checksum == "no");
        server.run();
        assert_eq!(server.conn().text("GET key"), text);
        let redis = Server::redis(&["--save", ""]);
        std::fs::copy(server.dir.path().join("dump.rdb"), redis.dir.path().join("dump.rdb")).expect("a copy");
        assert_eq!(redis.conn().text("DEBUG RELOAD NOSAVE"), "OK", "redis-server reads it");
        assert_eq!(redis.conn().text("GET key"), text);
    }
}

/// Seconds until this machine asks whether the peer of this end of a connection still lives, by the kernel's table.
fn keepalive_s(local: u16, peer: u16) -> Option<u64> {
    const KEEPALIVE: &str = "02";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let row = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row[1].ends_with(&format!(":{local:04X}")) && row[2].ends_with(&format!(":{peer:04X}")))?;
    let (timer, jiffies) = row[5].split_once(':')?;
    // USER_HZ is 100 on every Linux.
    (timer == KEEPALIVE).then(|| u64::from_str_radix(jiffies, 16).expect("a number") / 100)
}

#[test]
fn silent_connections_are_asked_whether_they_live_as_often_as_the_parameter_says() {
    for (seconds, expected) in [("300", Some(250..=300)), ("77", Some(60..=77)), ("0", None)] {
        let server = Server::ours(&["--tcp-keepalive", seconds]);
        let mut conn = server.conn();
        let info = conn.text("CLIENT INFO");
        let peer = info.split_once("addr=127.0.0.1:").and_then(|(_, rest)| rest.split_once(' ')).expect("an address").0;
        let peer: u16 = peer.parse().expect("a port");
        // The timer of the reply's transmission comes first.
        let settled = || {
            keepalive_s(server.port, peer)
                .map_or(expected.is_none(), |s| expected.as_ref().is_some_and(|e| e.contains(&s)))
        };
        wait_for(&format!("the timer of tcp-keepalive {seconds}"), Duration::from_secs(20), settled);
    }
}
