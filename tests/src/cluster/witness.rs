//! Clients that write and read through a datastore's Services while something is done to it, and remember what they saw.
//!
//! They are ordinary clients: a connection that is kept, a patience of a second, and a new connection after any error. Those of
//! a node (see [`Witness::on_node`]) run there, in its network: what a partition does to a client depends on its side.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use resp::Value;

use super::history::{Client, Kind, Operation, Outcome, Reign};
use crate::Conn;

/// How long a client waits for an answer. Longer than that it does not know.
const PATIENCE: Duration = Duration::from_millis(1000);
/// What an operation says that had no answer within it.
pub const OUT_OF_PATIENCE: &str = "no-answer";
/// How long it waits for a connection: a dead node does not answer at all.
const CONNECT_PATIENCE: Duration = Duration::from_millis(300);
/// Between two operations, and before another connection is tried.
const PACE: Duration = Duration::from_millis(5);
const RECONNECT_PACE: Duration = Duration::from_millis(20);
/// A client of another process gets its password here.
const PASSWORD_VARIABLE: &str = "WITNESS_PASSWORD";
/// First argument of the suite's program when it is to be a client on a node.
pub const WITNESS_COMMAND: &str = "witness";

/// µs of the machine's clock.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Where the clients speak to.
#[derive(Debug, Clone)]
pub struct Target {
    /// What takes writes.
    pub master: SocketAddr,
    /// What may answer reads; `None`: nobody asks.
    pub replicas: Option<SocketAddr>,
    pub password: String,
}

/// Running clients.
#[derive(Debug)]
pub struct Witness {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Operation>>>,
    threads: Vec<JoinHandle<()>>,
    /// Between two operations.
    pace: Duration,
    /// A client on a node: it ends when its standard input does.
    remote: Option<Child>,
    /// Those that write.
    pub writers: Vec<Client>,
}

impl Witness {
    /// Two writers, a reader of the master and one of the replicas, on this machine.
    pub fn start(target: &Target) -> Witness {
        let mut witness = Witness::silent();
        for client in [1, 2] {
            witness.writers.push(client);
            witness.run(target.master, &target.password, move |session, n| session.write(client, n));
        }
        let read = |session: &mut Session, n: u64| session.read(if n.is_multiple_of(2) { 1 } else { 2 });
        witness.run(target.master, &target.password, read);
        if let Some(replicas) = target.replicas {
            witness.run(replicas, &target.password, read);
        }
        witness
    }

    /// One writer, in the network of a node: `command` runs this program there. It speaks to `target.master`.
    pub fn on_node(mut command: Command, client: Client, target: &Target) -> Witness {
        let own = std::env::current_exe().expect("a running program has a path");
        command.arg(own).args([WITNESS_COMMAND, &client.to_string(), &target.master.to_string()]);
        command.env(PASSWORD_VARIABLE, &target.password).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a client can be started on the node");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut witness = Witness::silent();
        let seen = Arc::clone(&witness.seen);
        witness.writers.push(client);
        witness.remote = Some(child);
        witness.threads.push(spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.lock().push(line.parse().expect("a line of Operation's Display"));
            }
        }));
        witness
    }

    fn silent() -> Witness {
        let (stop, seen) = (Arc::default(), Arc::default());
        Witness { stop, seen, threads: Vec::new(), pace: PACE, remote: None, writers: Vec::new() }
    }

    /// One writer and one reader that look for the master themselves: `way` gives the next address to try, and the password.
    pub fn wandering(
        pace: Duration,
        way: impl Fn(u64) -> Option<(SocketAddr, String)> + Send + Clone + 'static,
    ) -> Witness {
        let mut witness = Witness::silent();
        witness.pace = pace;
        witness.writers.push(1);
        witness.run_on(Session::wandering(way.clone()), |session, n| session.write(1, n));
        witness.run_on(Session::wandering(way), |session, _| session.read(1));
        witness
    }

    fn run(
        &mut self,
        address: SocketAddr,
        password: &str,
        ask: impl FnMut(&mut Session, u64) -> Operation + Send + 'static,
    ) {
        self.run_on(Session::new(address, password), ask);
    }

    fn run_on(&mut self, mut session: Session, mut ask: impl FnMut(&mut Session, u64) -> Operation + Send + 'static) {
        let pace = self.pace;
        let (stop, seen) = (Arc::clone(&self.stop), Arc::clone(&self.seen));
        self.threads.push(spawn(move || {
            for n in 1.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let operation = ask(&mut session, n);
                sleep(pause_after(&operation, pace));
                seen.lock().push(operation);
            }
        }));
    }

    /// What has been seen so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.seen.lock().clone()
    }

    /// Waits for a write that begins after `since_us` and is accepted; when it was answered, in µs.
    pub fn accepted_after(&self, since_us: u64, limit: Duration) -> u64 {
        let begun = Instant::now();
        loop {
            let first =
                self.seen.lock().iter().filter(|o| is_accepted(o) && o.begun_us > since_us).map(|o| o.ended_us).min();
            if let Some(ended) = first {
                return ended;
            }
            assert!(begun.elapsed() < limit, "no write was accepted for {limit:?}; {}", self.last_words());
            sleep(Duration::from_millis(10));
        }
    }

    /// The last operation of each client, for a person.
    pub fn last_words(&self) -> String {
        let mut last: BTreeMap<(Client, bool), Operation> = BTreeMap::new();
        for operation in self.seen.lock().iter() {
            last.insert((operation.client, operation.kind == Kind::Write), operation.clone());
        }
        last.values().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// Ends the clients; everything that they have seen.
    pub fn finish(mut self) -> Vec<Operation> {
        self.end();
        std::mem::take(&mut *self.seen.lock())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(child) = self.remote.as_mut() {
            drop(child.stdin.take());
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(mut child) = self.remote.take() {
            let _ = child.wait();
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_accepted(operation: &Operation) -> bool {
    (operation.kind, operation.outcome) == (Kind::Write, Outcome::Ok)
}

fn pause_after(operation: &Operation, pace: Duration) -> Duration {
    if operation.outcome == Outcome::Ok { pace } else { RECONNECT_PACE }
}

/// Runs as a program of its own: `witness CLIENT ADDRESS`, until standard input ends. Prints each operation as a line.
pub fn run_on_node(arguments: &[String]) {
    let [client, address] = arguments else { panic!("{WITNESS_COMMAND} CLIENT ADDRESS") };
    let client: Client = client.parse().expect("a number of a client");
    let password = std::env::var(PASSWORD_VARIABLE).unwrap_or_default();
    let mut session = Session::new(address.parse().expect("an address"), &password);
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        flag.store(true, Ordering::Release);
    });
    let mut out = std::io::stdout();
    let mut n = 0;
    while !ended.load(Ordering::Acquire) {
        n += 1;
        let operation = session.write(client, n);
        if writeln!(out, "{operation}").and_then(|()| out.flush()).is_err() {
            return;
        }
        sleep(pause_after(&operation, PACE));
    }
}

/// A client with a connection, or on its way to one.
struct Session {
    /// Where to connect to at the nth attempt, and with which password; `None`: nobody is there.
    way: Box<dyn Fn(u64) -> Option<(SocketAddr, String)> + Send>,
    attempts: u64,
    conn: Option<Conn>,
}

impl Session {
    fn new(address: SocketAddr, password: &str) -> Session {
        let password = password.to_string();
        Session::wandering(move |_| Some((address, password.clone())))
    }

    fn wandering(way: impl Fn(u64) -> Option<(SocketAddr, String)> + Send + 'static) -> Session {
        Session { way: Box::new(way), attempts: 0, conn: None }
    }

    fn write(&mut self, client: Client, value: u64) -> Operation {
        let command = ["RPUSH".to_string(), list_key(client), value.to_string()];
        self.ask(client, Kind::Write, value, &command)
    }

    fn read(&mut self, client: Client) -> Operation {
        self.ask(client, Kind::Read, 0, &["LINDEX".to_string(), list_key(client), "-1".to_string()])
    }

    fn ask(&mut self, client: Client, kind: Kind, value: u64, command: &[String]) -> Operation {
        let mut operation = Operation {
            client,
            kind,
            value,
            begun_us: now_us(),
            ended_us: 0,
            outcome: Outcome::Refused,
            reign: None,
            note: "not-connected".into(),
        };
        let mut sent = false;
        if let Err(error) = self.exchange(command, &mut operation, &mut sent) {
            self.conn = None;
            // What was answered stays answered.
            if !matches!(operation.outcome, Outcome::Ok) {
                operation.note = match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if sent => OUT_OF_PATIENCE.into(),
                    kind => format!("{kind:?}"),
                };
                operation.outcome = if sent { Outcome::Unknown } else { Outcome::Refused };
            }
        }
        operation.ended_us = now_us();
        operation
    }

    /// Asks between two questions for the status, all in one go.
    fn exchange(&mut self, command: &[String], operation: &mut Operation, sent: &mut bool) -> std::io::Result<()> {
        let conn = match self.conn.take() {
            Some(conn) => self.conn.insert(conn),
            None => {
                self.attempts += 1;
                let nobody = || std::io::Error::from(std::io::ErrorKind::NotFound);
                let (address, password) = (self.way)(self.attempts).ok_or_else(nobody)?;
                let mut conn = Conn::open_within(address, CONNECT_PATIENCE, PATIENCE)?;
                if !password.is_empty() {
                    let answer = conn.try_call(&["AUTH", &password])?;
                    if answer.is_error() {
                        return Err(std::io::Error::other(answer.to_string()));
                    }
                }
                self.conn.insert(conn)
            }
        };
        let mut bytes = Vec::new();
        let status = ["REPLICATED", "STATUS"];
        resp::encode_command(&mut bytes, &status);
        resp::encode_command(&mut bytes, command);
        resp::encode_command(&mut bytes, &status);
        // A connection takes time; the operation itself begins here.
        operation.begun_us = now_us();
        *sent = true;
        conn.send_raw(&bytes)?;
        let before = conn.read()?;
        let answer = conn.read()?;
        if answer.is_error() {
            operation.outcome = Outcome::Refused;
            operation.note = error_code(&answer);
            // Another connection may lead to another instance.
            self.conn = None;
            return Ok(());
        }
        operation.outcome = Outcome::Ok;
        operation.note = String::new();
        if operation.kind == Kind::Read {
            operation.value = answer.as_i64().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        }
        operation.reign = reign(&before, None);
        operation.reign = reign(&before, Some(&conn.read()?));
        Ok(())
    }
}

/// The list of a client.
pub fn list_key(client: Client) -> String {
    format!("log:{client}")
}

/// What two answers to STATUS say; without the second one the epoch after the operation is not known.
fn reign(before: &Value, after: Option<&Value>) -> Option<Reign> {
    let epoch = |status: &Value| field(status, "role_epoch")?.parse().ok();
    let is_master = |status: &Value| field(status, "role").is_some_and(|role| role == "master");
    Some(Reign {
        incarnation: field(before, "incarnation")?,
        from: epoch(before)?,
        to: match after {
            Some(after) => epoch(after)?,
            None => u64::MAX,
        },
        is_master: is_master(before) && after.is_some_and(is_master),
    })
}

/// A field of an answer to STATUS.
pub(super) fn field(status: &Value, name: &str) -> Option<String> {
    let mut items = status.as_list()?.chunks_exact(2);
    items.find_map(|pair| (pair[0].as_str()? == name).then(|| pair[1].as_str().map(str::to_string))?)
}

/// The first word of an error.
fn error_code(answer: &Value) -> String {
    match answer {
        Value::Error(text) => text.split(' ').next().unwrap_or_default().to_string(),
        _ => String::new(),
    }
}
