//! The harness: servers of both kinds as processes, a plain client, transcripts, a real Kubernetes API.

pub mod cluster;
pub mod local;
mod ports;
pub mod prometheus;
pub mod sim;
pub mod transcript;

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use resp::{Value, decode_reply, encode_command};

pub use ports::free_port;

/// Waits for a condition, and says what it waited for when it does not come.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    loop {
        let looked = Instant::now();
        if condition() {
            return;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} for: {what}");
        pause_after_look(looked.elapsed());
    }
}

/// A look that costs much is not repeated at once: kubectl in a loop would take the CPU from what it waits for.
pub(crate) fn pause_after_look(took: Duration) {
    std::thread::sleep((took * 2).clamp(Duration::from_millis(10), Duration::from_millis(500)));
}

/// A program of the workspace: beside the running test's own, or where `RR_BIN_DIR` says.
pub fn program(name: &str) -> PathBuf {
    let dir = match std::env::var_os("RR_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe().expect("a running program has a path");
            own.parent().and_then(Path::parent).expect("test programs lie in target/PROFILE/deps").into()
        }
    };
    let path = dir.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace` first", path.display());
    path
}

/// A client connection. Every call waits for its reply.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Conn {
    /// To 127.0.0.1.
    pub fn open(port: u16) -> std::io::Result<Self> {
        Self::open_at((Ipv4Addr::LOCALHOST, port).into())
    }

    pub fn open_at(address: SocketAddr) -> std::io::Result<Self> {
        Self::open_within(address, Duration::from_secs(5), Duration::from_secs(60))
    }

    /// With limits for the connection and for each reply.
    pub fn open_within(address: SocketAddr, connect: Duration, reply: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, connect)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(reply))?;
        stream.set_write_timeout(Some(reply))?;
        Ok(Self { stream, buf: Vec::new() })
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one reply; an error also when the connection ends.
    pub fn read(&mut self) -> std::io::Result<Value> {
        loop {
            let decoded = decode_reply(&self.buf).map_err(std::io::Error::other)?;
            if let Some((value, len)) = decoded {
                self.buf.drain(..len);
                return Ok(value);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => self.buf.extend_from_slice(&chunk[..n]),
            }
        }
    }

    pub fn try_call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> std::io::Result<Value> {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, args);
        self.send_raw(&bytes)?;
        self.read()
    }

    /// A call that must be answered.
    pub fn call<A: AsRef<[u8]> + Debug>(&mut self, args: &[A]) -> Value {
        self.try_call(args).unwrap_or_else(|e| panic!("{args:?}: {e}"))
    }

    /// The same, from words.
    pub fn cmd(&mut self, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        self.call(&words)
    }

    /// A text reply.
    pub fn text(&mut self, line: &str) -> String {
        let value = self.cmd(line);
        value.as_str().map_or_else(|| value.to_string(), str::to_string)
    }

    /// A field of INFO.
    pub fn info(&mut self, field: &str) -> String {
        let text = self.text("INFO everything");
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_string()
    }
}

/// Tests look inside.
fn debuggable<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--enable-debug-command", "yes"], args].concat()
}

/// A server process with a directory of its own; ends with this value.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    program: PathBuf,
    args: Vec<String>,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

impl Server {
    /// Starts one of ours, or redis-server: a test that is run with each is known to ask for what Redis does.
    pub const BOTH: [fn(&[&str]) -> Self; 2] = [Self::ours, Self::redis];

    /// One of ours.
    pub fn ours(args: &[&str]) -> Self {
        Self::start(program("replicated-redis-server"), &debuggable(args))
    }

    /// Debian's redis-server.
    pub fn redis(args: &[&str]) -> Self {
        Self::start("redis-server".into(), &debuggable(args))
    }

    fn start(program: PathBuf, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let args = args.iter().map(|a| a.to_string()).collect();
        let mut server = Self { child: None, program, args, port: free_port(), dir };
        server.run();
        server
    }

    /// Starts the process (again) in the same directory and on the same port.
    pub fn run(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.expect("the log can be written");
        let mut command = Command::new(&self.program);
        command.args(["--port", &self.port.to_string(), "--dir", &self.dir.path().to_string_lossy()]);
        command.args(["--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]).args(&self.args);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display())));
        wait_for(&format!("{} to answer", self.program.display()), Duration::from_secs(20), || {
            Conn::open(self.port).is_ok_and(|mut c| {
                c.try_call(&["PING"]).is_ok_and(|v| !v.is_error() || v.to_string().contains("NOAUTH"))
            })
        });
    }

    pub fn conn(&self) -> Conn {
        Conn::open(self.port).expect("the server takes connections")
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Sends a signal by its name: TERM, STOP, CONT.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -s {name} {pid}");
        if name == "STOP" {
            // It takes effect a little later, thread by thread.
            wait_for("every thread to stop", Duration::from_secs(10), || all_stopped(&pid));
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SHUTDOWN, waits for the end.
    pub fn shutdown(&mut self, how: &str) {
        let _ = self.conn().try_call(&["SHUTDOWN", how]);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn all_stopped(pid: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
    tasks.map(stat).all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

/// Makes `replica` follow `master` and waits for the link.
pub fn follow(replica: &Server, master: &Server) {
    let mut conn = replica.conn();
    assert_eq!(conn.text(&format!("REPLICAOF 127.0.0.1 {}", master.port)), "OK");
    let begun = Instant::now();
    while conn.info("master_link_status") != "up" {
        if begun.elapsed() > Duration::from_secs(30) {
            panic!("the link does not come up\nmaster:\n{}\nreplica:\n{}", master.log(), replica.log());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until both hold the same offset, then compares their data.
pub fn assert_same(a: &Server, b: &Server) {
    let (mut a, mut b) = (a.conn(), b.conn());
    let mut digests = (String::new(), String::new());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if a.info("master_repl_offset") == b.info("master_repl_offset") {
            digests = (a.text("DEBUG DIGEST"), b.text("DEBUG DIGEST"));
            if digests.0 == digests.1 {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("data differ: {digests:?}, offsets {} and {}", a.info("master_repl_offset"), b.info("master_repl_offset"));
}
