//! One instance's process: started, reaped the moment it ends, started again.
//!
//! ```text
//!          start             exit            backoff over
//! Resting ───────► Running ──────► Resting ──────────────► Running …
//!                     │ stop          │ stop
//!                     └───────────────┴──► Stopped
//! ```
//!
//! Each start is a new *life* with a number. Because a new process is started only after the former one has been reaped,
//! an ended life is *known to have ended* (rule R5): nothing of it can take a write any more.
//!
//! Processes run in their own process group, so that Ctrl-C in a terminal reaches the operator alone, which then stops
//! them in order. They outlive an operator that is killed, as pods do; the next operator finds them by their command
//! line and takes them over (by a pidfd, so that no reuse of process ids can fool it). The kernel's parent-death signal
//! is not used: it would turn a crash of the operator into an outage of the data.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::link::Lives;

/// Pause before the first restart; doubles with each life that was short.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A life of at least this is a good one: the next restart comes at once.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// At a start a log longer than this is put aside as `server.log.1`.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Of a log's last paragraph.
const LAST_WORDS_LINES_MAX: usize = 3;

/// What to run for an instance, and where.
#[derive(Debug, Clone)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Holds `server.log`; also the process's working directory.
    pub dir: PathBuf,
}

/// The process as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Number of the present life, or of the last one; 0 before the first.
    pub life: u64,
    pub state: ProcessState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessState {
    Running {
        pid: u32,
    },
    /// There is no process: the last life has ended and was reaped, or none has begun. Another one follows.
    Resting,
    /// Ended on request; none follows.
    Stopped,
}

impl Process {
    pub fn pid(&self) -> Option<u32> {
        match self.state {
            ProcessState::Running { pid } => Some(pid),
            ProcessState::Resting | ProcessState::Stopped => None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }
}

impl Lives for Process {
    fn running(&self) -> Option<u64> {
        self.is_running().then_some(self.life)
    }
}

/// What happened, for the person who watches. The state itself is read from [`Supervisor::process`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    Started { pid: u32 },
    TakenOver { pid: u32 },
    Ended { how: String, last_words: String, restart_in: Duration },
    NotStarted { why: String, retry_in: Duration },
    Stopped { how: String },
}

/// The owner of one instance's process. Dropping it leaves the process running; [`Supervisor::stop`] ends it.
#[derive(Debug)]
pub struct Supervisor {
    process: watch::Receiver<Process>,
    stop: Option<oneshot::Sender<Duration>>,
    task: JoinHandle<()>,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Supervisor {
    /// Starts the instance, or takes over its process if one runs already. `events` are sent with the instance's name.
    pub fn start(name: &str, launch: Launch, events: mpsc::Sender<(String, ProcessEvent)>) -> Supervisor {
        // Looked for at once: from here on "does not run" is a fact.
        let taken_over = adopt(&launch);
        let state = match &taken_over {
            Some(running) => ProcessState::Running { pid: running.pid() },
            None => ProcessState::Resting,
        };
        let (process, seen) = watch::channel(Process { life: u64::from(taken_over.is_some()), state });
        let (stop, stopped) = oneshot::channel();
        let run = Run { name: name.to_string(), launch, process, events };
        Supervisor { process: seen, stop: Some(stop), task: tokio::spawn(run.lives(taken_over, stopped)) }
    }

    /// The present state; its changes can be awaited.
    pub fn process(&self) -> watch::Receiver<Process> {
        self.process.clone()
    }

    /// Asks the process to end in order (SIGTERM: it saves), and kills it after `grace`. Returns when it was reaped.
    pub async fn stop(mut self, grace: Duration) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(grace);
        }
        let _ = (&mut self.task).await;
    }
}

/// Whether a process of a former operator still runs for the instance in `dir`.
pub fn is_running(launch: &Launch) -> bool {
    adopt(launch).is_some()
}

struct Run {
    name: String,
    launch: Launch,
    process: watch::Sender<Process>,
    events: mpsc::Sender<(String, ProcessEvent)>,
}

/// Why a process is not running any more.
enum End {
    Exited(String),
    Asked { grace: Duration },
}

impl Run {
    async fn lives(self, mut taken_over: Option<Running>, mut stop: oneshot::Receiver<Duration>) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let started = match taken_over.take() {
                Some(running) => Ok((running, true)),
                None => self.spawn().map(|running| (running, false)),
            };
            let pause = match started {
                Ok((mut running, was_taken_over)) => {
                    let pid = running.pid();
                    // One that was taken over has its number already: it is the same life.
                    let new = u64::from(!was_taken_over);
                    self.process
                        .send_modify(|p| *p = Process { life: p.life + new, state: ProcessState::Running { pid } });
                    self.tell(if was_taken_over {
                        ProcessEvent::TakenOver { pid }
                    } else {
                        ProcessEvent::Started { pid }
                    })
                    .await;
                    let how = match self.until_end(&mut running, &mut stop).await {
                        End::Exited(how) => how,
                        End::Asked { grace } => {
                            let how = end_in_order(&mut running, grace).await;
                            return self.stopped(how).await;
                        }
                    };
                    self.process.send_modify(|p| p.state = ProcessState::Resting);
                    let restart_in = backoff.after(began.elapsed());
                    let last_words = last_words(&self.launch.dir.join("server.log"));
                    self.tell(ProcessEvent::Ended { how, last_words, restart_in }).await;
                    restart_in
                }
                Err(error) => {
                    let retry_in = backoff.after(Duration::ZERO);
                    let why = format!("cannot start {}: {error}", self.launch.program.display());
                    self.tell(ProcessEvent::NotStarted { why, retry_in }).await;
                    retry_in
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = &mut stop => return self.stopped("was not running".to_string()).await,
            }
        }
    }

    async fn until_end(&self, running: &mut Running, stop: &mut oneshot::Receiver<Duration>) -> End {
        tokio::select! {
            how = running.ended() => End::Exited(how),
            // The sender goes away without a word only when the task is about to be aborted.
            grace = stop => match grace {
                Ok(grace) => End::Asked { grace },
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn stopped(&self, how: String) {
        self.process.send_modify(|p| p.state = ProcessState::Stopped);
        self.tell(ProcessEvent::Stopped { how }).await;
    }

    async fn tell(&self, event: ProcessEvent) {
        // Nobody listens during the operator's own end.
        let _ = self.events.send((self.name.clone(), event)).await;
    }

    fn spawn(&self) -> io::Result<Running> {
        let log = open_log(&self.launch.dir.join("server.log"))?;
        let child = Command::new(&self.launch.program)
            .args(&self.launch.args)
            .current_dir(&self.launch.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pid = child.id().expect("a child that was not awaited has an id");
        Ok(Running::Child { child, pid })
    }
}

/// A process that we have started, or one that a former operator had.
#[derive(Debug)]
enum Running {
    Child { child: tokio::process::Child, pid: u32 },
    TakenOver { pidfd: Arc<OwnedFd>, pid: u32, end: watch::Receiver<bool> },
}

impl Running {
    fn pid(&self) -> u32 {
        match self {
            Running::Child { pid, .. } | Running::TakenOver { pid, .. } => *pid,
        }
    }

    /// Waits for the end and reaps it. Cancel-safe.
    async fn ended(&mut self) -> String {
        match self {
            Running::Child { child, .. } => match child.wait().await {
                Ok(status) => describe(status),
                Err(error) => format!("cannot be awaited: {error}"),
            },
            Running::TakenOver { end, .. } => {
                // An error is the end of the waiting thread, which ends only with the process.
                let _ = end.wait_for(|ended| *ended).await;
                "ended (its exit code went to the operator that had started it)".to_string()
            }
        }
    }

    fn signal(&self, signal: Signal) {
        // An error says that it has ended already, which is what the caller waits for next.
        let _ = match self {
            // Not reaped yet, so the id still is this process's.
            Running::Child { pid, .. } => pid_of(*pid).map(|pid| rustix::process::kill_process(pid, signal)),
            Running::TakenOver { pidfd, .. } => Some(pidfd_send_signal(pidfd, signal)),
        };
    }
}

async fn end_in_order(running: &mut Running, grace: Duration) -> String {
    running.signal(Signal::TERM);
    if let Ok(how) = timeout(grace, running.ended()).await {
        return how;
    }
    running.signal(Signal::KILL);
    format!("{} after {} s without an end", running.ended().await, grace.as_secs())
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The process of a former operator that runs with exactly this program name and these arguments.
fn adopt(launch: &Launch) -> Option<Running> {
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find_map(|pid| take_over(pid, launch))
}

fn take_over(pid: u32, launch: &Launch) -> Option<Running> {
    // Most processes of a machine are told apart without opening them.
    if !is_instance(pid, launch) {
        return None;
    }
    let pidfd = Arc::new(pidfd_open(pid_of(pid)?, PidfdFlags::empty()).ok()?);
    // Looked at again behind the descriptor: so the id cannot have changed its owner in between.
    if !is_instance(pid, launch) {
        return None;
    }
    let (ended, end) = watch::channel(false);
    let waited = Arc::clone(&pidfd);
    // A thread, because tokio registers foreign descriptors only through `unsafe`. It ends with the process.
    std::thread::Builder::new()
        .name(format!("await-{pid}"))
        .spawn(move || {
            while poll(&mut [PollFd::new(&*waited, PollFlags::IN)], None).is_err() {}
            let _ = ended.send(true);
        })
        .ok()?;
    Some(Running::TakenOver { pidfd, pid, end })
}

fn is_instance(pid: u32, launch: &Launch) -> bool {
    let Ok(command_line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    // Each argument ends with a zero byte; a zombie has none.
    let Some(command_line) = command_line.strip_suffix(&[0]) else { return false };
    let mut args = command_line.split(|byte| *byte == 0);
    let program = args.next().map(|arg0| Path::new(OsStr::from_bytes(arg0)));
    program.and_then(Path::file_name) == launch.program.file_name()
        && args.eq(launch.args.iter().map(|arg| arg.as_encoded_bytes()))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "exited in order".to_string(),
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(9)) => "was killed (signal 9)".to_string(),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_string(),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The last paragraph of the log: usually why a server has ended (a bad directive takes three lines).
fn last_words(path: &Path) -> String {
    let tail = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = tail().unwrap_or_default();
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim).collect();
    let paragraph = lines.iter().rposition(|line| line.is_empty()).map_or(0, |at| at + 1);
    let last = &lines[paragraph.max(lines.len().saturating_sub(LAST_WORDS_LINES_MAX))..];
    last.join(" ")
}

/// The pause before the next life.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: BACKOFF_MIN }
    }
}

impl Backoff {
    fn after(&mut self, lived: Duration) -> Duration {
        if lived >= GOOD_LIFE {
            self.next = BACKOFF_MIN;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(BACKOFF_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn script(dir: &Path, body: &str) -> Launch {
        let path = dir.join("script.sh");
        std::fs::write(&path, body).unwrap();
        Launch { program: "/bin/sh".into(), args: vec![path.into()], dir: dir.to_path_buf() }
    }

    async fn next(events: &mut mpsc::Receiver<(String, ProcessEvent)>) -> ProcessEvent {
        timeout(SOON, events.recv()).await.expect("an event in time").expect("the supervisor lives").1
    }

    fn kill(pid: u32) {
        rustix::process::kill_process(pid_of(pid).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_killed_process_is_reaped_and_starts_another_life() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, mut events) = mpsc::channel(16);
        let supervisor = Supervisor::start("x-master-0", script(dir.path(), "echo up; exec sleep 1000"), tx);
        let ProcessEvent::Started { pid } = next(&mut events).await else { panic!("not started") };
        assert_eq!(*supervisor.process().borrow(), Process { life: 1, state: ProcessState::Running { pid } });
        kill(pid);
        let ProcessEvent::Ended { how, restart_in, .. } = next(&mut events).await else { panic!("not ended") };
        assert_eq!((how.as_str(), restart_in), ("was killed (signal 9)", BACKOFF_MIN));
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "reaped before it is told");
        let ProcessEvent::Started { pid: second } = next(&mut events).await else { panic!("not restarted") };
        assert_eq!(supervisor.process().borrow().life, 2);
        assert_ne!(second, pid);

        supervisor.stop(SOON).await;
        assert!(matches!(next(&mut events).await, ProcessEvent::Stopped { .. }));
        assert!(!Path::new(&format!("/proc/{second}")).exists());
    }

    #[tokio::test]
    async fn the_last_words_of_a_process_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, mut events) = mpsc::channel(16);
        let launch =
            script(dir.path(), "echo first; echo; echo 'at line 3' >&2; echo 'Bad directive' >&2; echo; exit 3");
        let supervisor = Supervisor::start("x", launch, tx);
        assert!(matches!(next(&mut events).await, ProcessEvent::Started { .. }));
        let ProcessEvent::Ended { how, last_words, .. } = next(&mut events).await else { panic!("not ended") };
        assert_eq!((how.as_str(), last_words.as_str()), ("exited with code 3", "at line 3 Bad directive"));
        supervisor.stop(SOON).await;
    }

    #[tokio::test]
    async fn a_missing_program_is_named_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, mut events) = mpsc::channel(16);
        let launch = Launch { program: "/nowhere/server".into(), args: vec![], dir: dir.path().to_path_buf() };
        let supervisor = Supervisor::start("x", launch, tx);
        for _ in 0..2 {
            let ProcessEvent::NotStarted { why, .. } = next(&mut events).await else { panic!("started") };
            assert!(why.starts_with("cannot start /nowhere/server: "), "{why}");
        }
        supervisor.stop(SOON).await;
    }

    #[tokio::test]
    async fn stopping_lets_the_process_finish_and_kills_only_after_the_grace() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, mut events) = mpsc::channel(16);
        let polite = "trap 'echo saved > saved; exit 0' TERM; echo ready > ready; while :; do sleep 0.01; done";
        let supervisor = Supervisor::start("x", script(dir.path(), polite), tx.clone());
        assert!(matches!(next(&mut events).await, ProcessEvent::Started { .. }));
        wait_for(&dir.path().join("ready")).await;
        supervisor.stop(SOON).await;
        assert_eq!(next(&mut events).await, ProcessEvent::Stopped { how: "exited in order".to_string() });
        assert!(dir.path().join("saved").exists());

        std::fs::remove_file(dir.path().join("ready")).unwrap();
        let deaf = "trap '' TERM; echo ready > ready; while :; do sleep 0.01; done";
        let supervisor = Supervisor::start("x", script(dir.path(), deaf), tx);
        assert!(matches!(next(&mut events).await, ProcessEvent::Started { .. }));
        wait_for(&dir.path().join("ready")).await;
        supervisor.stop(Duration::from_millis(50)).await;
        let ProcessEvent::Stopped { how } = next(&mut events).await else { panic!("not stopped") };
        assert!(how.starts_with("was killed (signal 9) after"), "{how}");
    }

    async fn wait_for(path: &Path) {
        timeout(SOON, async {
            while !path.exists() {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .expect("the file appears");
    }

    #[tokio::test]
    async fn the_process_of_a_former_operator_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let own_argument = format!("1000.{}", std::process::id());
        let launch = Launch {
            program: "/bin/sleep".into(),
            args: vec![own_argument.clone().into()],
            dir: dir.path().to_path_buf(),
        };
        assert!(!is_running(&launch));
        let (tx, mut events) = mpsc::channel(16);
        // Started by another: its operator was killed, and this test reaps it in init's place.
        let mut former = Command::new("/bin/sleep").arg(own_argument).kill_on_drop(true).spawn().unwrap();
        let pid = former.id().unwrap();
        // The kernel lets the parent go on a moment before the command line of the new program can be read.
        timeout(SOON, async {
            while !is_running(&launch) {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("it is found");
        assert!(!is_running(&Launch { args: vec!["1000".into()], ..launch.clone() }));

        let supervisor = Supervisor::start("x", launch.clone(), tx);
        assert_eq!(next(&mut events).await, ProcessEvent::TakenOver { pid });
        assert_eq!(supervisor.process().borrow().life, 1, "what it says before and after this is of one life");
        former.kill().await.unwrap();
        assert!(matches!(next(&mut events).await, ProcessEvent::Ended { .. }));
        assert!(matches!(next(&mut events).await, ProcessEvent::Started { .. }));
        supervisor.stop(SOON).await;
        assert!(!is_running(&launch));
    }

    #[test]
    fn the_pause_grows_and_a_good_life_resets_it() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after(GOOD_LIFE).as_millis(), 100);
    }
}
