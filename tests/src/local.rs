//! A running local mode: the operator and its servers as a person runs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::{Conn, free_port, program, wait_for};

/// Nothing of local mode takes longer than this.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The name of the datastore.
pub const NAME: &str = "shop";

/// One `replicated-redis-operator local`, with a folder and ports of its own.
#[derive(Debug)]
pub struct Local {
    pub operator: Option<Child>,
    pub root: tempfile::TempDir,
    pub master_port: u16,
    pub replicas_port: u16,
    pub metrics_port: u16,
}

/// A line of `local status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub role: String,
    pub link: String,
    pub offset: u64,
    pub lag: u64,
    pub port: u16,
    pub pid: u32,
}

pub fn manifest(replicas: i32, more: &str) -> String {
    format!(
        "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata:\n  name: {NAME}\nspec:\n  replicas: {replicas}\n{more}"
    )
}

pub fn kill(signal: &str, pid: u32) {
    let done = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
    assert!(done.is_ok(), "kill can be run");
    if signal == "-STOP" {
        // A thread that runs goes on until it is interrupted.
        wait_for("the process to stop", LIMIT, || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            tasks.map(stat).all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        });
    }
}

impl Local {
    /// Starts it and waits until all is well.
    pub fn start(replicas: i32, more: &str) -> Local {
        let mut local = Local::prepare();
        local.write_manifest(&manifest(replicas, more));
        local.run();
        local.wait_well(replicas);
        local
    }

    pub fn prepare() -> Local {
        let root = tempfile::tempdir().expect("a folder for the test");
        let (master_port, replicas_port, metrics_port) = (free_port(), free_port(), free_port());
        Local { operator: None, root, master_port, replicas_port, metrics_port }
    }

    pub fn manifest_path(&self) -> PathBuf {
        self.root.path().join("manifest.yaml")
    }

    pub fn write_manifest(&self, text: &str) {
        fs::write(self.manifest_path(), text).expect("the manifest can be written");
    }

    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn dir(&self) -> PathBuf {
        self.data_dir().join(NAME)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(program("replicated-redis-operator"));
        command.arg("local").arg("-f").arg(self.manifest_path()).arg("--data-dir").arg(self.data_dir());
        for (flag, port) in [
            ("--master-port", self.master_port),
            ("--replicas-port", self.replicas_port),
            ("--metrics-port", self.metrics_port),
        ] {
            command.args([flag, &port.to_string()]);
        }
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&mut self) {
        let out = fs::File::options().create(true).append(true).open(self.root.path().join("out"));
        let out = out.expect("the output can be written");
        let mut command = self.command();
        command.stdout(out.try_clone().expect("a descriptor")).stderr(out);
        self.operator = Some(command.spawn().expect("the operator starts"));
    }

    /// All that the operator has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.root.path().join("out")).unwrap_or_default()
    }

    pub fn order(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("replicated-redis-operator"));
        command.arg("local").args(args).arg("--data-dir").arg(self.data_dir());
        command.output().expect("the order can be given")
    }

    /// The head line and the instances of `local status`; nothing while the operator does not answer.
    pub fn try_status(&self) -> Option<(String, BTreeMap<String, Row>)> {
        let output = self.order(&["status", NAME]);
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        let mut lines = text.lines();
        let head = lines.next()?.to_string();
        let rows = lines.skip(1).map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |i: usize| words[i].parse().unwrap_or(0);
            let row = Row {
                role: words[1].to_string(),
                link: words[2].to_string(),
                offset: number(3),
                lag: number(4),
                port: u16::try_from(number(5)).expect("a port"),
                pid: u32::try_from(number(6)).expect("a process id"),
            };
            (words[0].to_string(), row)
        });
        Some((head, rows.collect()))
    }

    pub fn status(&self) -> BTreeMap<String, Row> {
        self.try_status().unwrap_or_else(|| panic!("the operator answers; its output:\n{}", self.output())).1
    }

    /// Waits until one master and exactly `replicas` replicas stand, all linked and without lag.
    pub fn wait_well(&self, replicas: i32) -> BTreeMap<String, Row> {
        let begun = Instant::now();
        let sentence = format!("well, {replicas} of {replicas} replicas ready");
        loop {
            let status = self.try_status();
            if let Some((head, rows)) = &status {
                let linked = rows.values().filter(|r| r.role == "replica" && r.link == "up" && r.lag == 0).count();
                let masters = rows.values().filter(|r| r.role == "master").count();
                let whole = masters == 1 && i32::try_from(linked) == Ok(replicas) && rows.len() == linked + 1;
                if whole && head.contains(&sentence) {
                    return rows.clone();
                }
            }
            assert!(begun.elapsed() < LIMIT, "waited for '{sentence}', got {status:#?}; output:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn epoch(&self) -> u64 {
        let (head, _) = self.try_status().expect("the operator answers");
        let epoch = head.split("(epoch ").nth(1).and_then(|rest| rest.trim_end_matches(')').parse().ok());
        epoch.unwrap_or_else(|| panic!("no epoch in {head}"))
    }

    pub fn master(&self) -> (String, Row) {
        let rows = self.status();
        let master = rows.iter().find(|(_, row)| row.role == "master");
        let (name, row) = master.unwrap_or_else(|| panic!("no master in {rows:#?}"));
        (name.clone(), row.clone())
    }

    pub fn password(&self) -> String {
        fs::read_to_string(self.dir().join("auth/password")).expect("the password can be read")
    }

    pub fn try_conn(&self, port: u16) -> std::io::Result<Conn> {
        let mut conn = Conn::open(port)?;
        let answer = conn.try_call(&["AUTH", &self.password()])?;
        if answer.is_error() { Err(std::io::Error::other(answer.to_string())) } else { Ok(conn) }
    }

    pub fn conn(&self, port: u16) -> Conn {
        self.try_conn(port).unwrap_or_else(|error| panic!("port {port}: {error}; output:\n{}", self.output()))
    }

    /// Through the master endpoint.
    pub fn client(&self) -> Conn {
        self.conn(self.master_port)
    }

    /// Kills an instance's process without a word; waits until the operator has seen its end.
    pub fn kill_instance(&self, name: &str) {
        let pid = self.status()[name].pid;
        kill("-9", pid);
        wait_for("the end to be noticed", LIMIT, || self.status().get(name).is_none_or(|row| row.pid != pid));
    }

    /// Ends the operator as Ctrl-C does, and waits for it.
    pub fn interrupt(&mut self) {
        let mut operator = self.operator.take().expect("the operator runs");
        kill("-INT", operator.id());
        let status = operator.wait().expect("the operator ends");
        assert!(status.success(), "ended with {status}; output:\n{}", self.output());
    }

    /// Kills the operator without a word; the servers go on.
    pub fn kill_operator(&mut self) {
        let mut operator = self.operator.take().expect("the operator runs");
        operator.kill().expect("the operator can be killed");
        operator.wait().expect("the operator ends");
    }

    /// Processes whose command line names this test's folder.
    pub fn processes(&self) -> Vec<u32> {
        let root = self.root.path().to_string_lossy().into_owned();
        let pids = fs::read_dir("/proc").expect("/proc can be read").flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(&root))
            })
            .collect()
    }

    pub fn count(&self, field: &str, port: u16) -> u64 {
        let text = self.conn(port).info(field);
        text.parse().unwrap_or_else(|_| panic!("INFO {field} is '{text}'"))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(mut operator) = self.operator.take() {
            let _ = operator.kill();
            let _ = operator.wait();
        }
        for pid in self.processes() {
            kill("-9", pid);
        }
    }
}
