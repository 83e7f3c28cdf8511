//! Several passwords at once: in files, on links of replicas, and in nothing that a person might read.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{Conn, Server, free_port, program, wait_for};

const SOON: Duration = Duration::from_secs(20);

fn knows(server: &Server, password: &str) -> bool {
    server.conn().text(&format!("AUTH {password}")) == "OK"
}

fn open(server: &Server, password: &str) -> Conn {
    let mut conn = server.conn();
    assert_eq!(conn.text(&format!("AUTH {password}")), "OK");
    conn
}

/// A server that is run from a file alone, so that it can rewrite it.
struct FromFile {
    child: Child,
    port: u16,
}

impl FromFile {
    fn start(program: &Path, file: &Path, port: u16) -> Self {
        let mut command = Command::new(program);
        let child = command.arg(file).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it can be run");
        wait_for("it to answer", SOON, || Conn::open(port).is_ok_and(|mut c| c.try_call(&["PING"]).is_ok()));
        Self { child, port }
    }

    fn conn(&self) -> Conn {
        Conn::open(self.port).expect("it takes connections")
    }

    fn knows(&self, password: &str) -> bool {
        self.conn().text(&format!("AUTH {password}")) == "OK"
    }
}

impl Drop for FromFile {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_line_of_the_file_is_read_and_rewritten() {
    for program in [PathBuf::from("redis-server"), program("replicated-redis-server")] {
        let (dir, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let file = dir.path().join("redis.conf");
        let line = "user default on >old-one >new-one ~* &* +@all";
        let place = dir.path().display();
        std::fs::write(&file, format!("port {port}\n{line}\nsave \"\"\ndir {place}\n")).expect("its folder");
        let server = FromFile::start(&program, &file, port);
        assert!(server.conn().text("PING").contains("NOAUTH"));
        assert!(server.knows("old-one") && server.knows("new-one") && !server.knows("other"));
        let mut conn = server.conn();
        conn.cmd("AUTH new-one");
        assert_eq!(conn.text("ACL SETUSER default <old-one >third"), "OK");
        assert_eq!(conn.text("CONFIG REWRITE"), "OK");
        let text = std::fs::read_to_string(&file).expect("it was written");
        let second = text.lines().nth(1).unwrap_or_default();
        assert!(second.starts_with("user default on sanitize-payload #") && second.ends_with(" ~* &* +@all"), "{text}");
        assert!(!text.contains("third") && !text.contains("new-one"), "{text}");
        drop(server);
        let server = FromFile::start(&program, &file, port);
        assert!(!server.knows("old-one") && server.knows("new-one") && server.knows("third"));
    }
}

#[test]
fn a_password_is_replaced_under_replicas_that_come_with_the_old_one_and_with_the_new() {
    let master = Server::ours(&["--save", "", "--requirepass", "old", "--masterauth", "old"]);
    let replica = Server::ours(&["--save", "", "--requirepass", "old", "--masterauth", "old"]);
    let (mut m, mut r) = (open(&master, "old"), open(&replica, "old"));
    r.cmd(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    wait_for("the link", SOON, || r.info("master_link_status") == "up");
    assert_eq!(m.text("ACL SETUSER default >new"), "OK");
    // A link that is made during the overlap works with either.
    for masterauth in ["old", "new"] {
        r.cmd(&format!("CONFIG SET masterauth {masterauth}"));
        m.cmd("CLIENT KILL TYPE replica");
        m.cmd(&format!("SET with {masterauth}"));
        wait_for("the replica to be back", SOON, || r.text("GET with") == masterauth);
    }
    // The old one goes: who is there stays.
    assert_eq!(m.text("ACL SETUSER default <old"), "OK");
    m.cmd("SET after drop");
    wait_for("the link to stand", SOON, || r.text("GET after") == "drop" && r.info("master_link_status") == "up");
    assert!(!knows(&master, "old") && knows(&master, "new"));
}

#[test]
fn no_password_is_shown() {
    let server =
        Server::ours(&["--save", "", "--loglevel", "debug", "--requirepass", "hidden-1", "--masterauth", "hidden-2"]);
    let mut conn = open(&server, "hidden-1");
    conn.cmd("CONFIG SET slowlog-log-slower-than 0");
    conn.cmd("AUTH default hidden-1");
    conn.cmd("AUTH hidden-wrong");
    conn.cmd("HELLO 2 AUTH default hidden-1 SETNAME me");
    conn.cmd("ACL SETUSER default >hidden-3 <hidden-1");
    conn.cmd("ACL SETUSER default >hidden-4 ~some");
    conn.cmd("CONFIG SET requirepass hidden-5 masterauth hidden-6");
    let slow = conn.cmd("SLOWLOG GET -1").to_string();
    assert!(slow.contains("(redacted)") && slow.contains("SETUSER"), "{slow}");
    let shown =
        [slow, conn.text("CLIENT LIST"), conn.text("INFO everything"), conn.cmd("ACL LIST").to_string(), server.log()];
    for text in shown {
        assert!(!text.contains("hidden-"), "{text}");
    }
    // Whoever may see the configuration sees what was set there, as in Redis.
    assert!(conn.cmd("CONFIG GET requirepass").to_string().contains("hidden-5"));
}
