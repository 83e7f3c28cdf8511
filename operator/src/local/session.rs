//! The loop of local mode: observe → plan → apply, again whenever something has happened.
//!
//! Nothing here decides a role: [`crate::plan::plan`] does, from what [`Session::observe`] has collected, and
//! [`Session::apply`] carries out its actions in their order and stops at the first that fails. The record is on the disk
//! before anything is done about it. Everything else that the session remembers is for the person who watches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::control::{Answer, Asked, Control, Question};
use super::files;
use super::forward::{Endpoint, Forwarder, Targets};
use super::instance::{HOST, LocalInstance, Reports};
use super::ports::Ports;
use super::record_store::{RecordStore, StoreError};
use super::screen::{LogFormat, Row, Screen, Tidings, View, table};
use super::start::read_manifest;
use super::supervisor::{self, Launch, ProcessEvent};
use super::watch::{Edit, ManifestFile, POLL_INTERVAL};
use crate::api::ReplicatedRedis;
use crate::change::{Change, Finished, Kind};
use crate::clock::Clock;
use crate::config::{self, Credentials, ServerConfig};
use crate::link::{Outcome, POLL_BUSY, POLL_QUIET};
use crate::metrics::{Metrics, MetricsServer, State};
use crate::observe::{Observed, Role};
use crate::plan::{Action, Order, Plan, plan};
use crate::record::Record;
use crate::tenure::{LEASE_MS, Tenure, instance_names};

/// How long a new connection to an endpoint waits for a target: longer than a failover that waits for leases.
const ENDPOINT_WAIT: Duration = Duration::from_secs(10);
/// How long a process may take to save its data and end.
const STOP_GRACE: Duration = Duration::from_secs(120);
/// A switchover that cannot begin within this is refused.
const SWITCHOVER_PATIENCE: Duration = Duration::from_secs(3);
/// An election that takes longer than this waits for a person or a machine: no need to hurry any more.
const HURRY: Duration = Duration::from_secs(10);
const POLL_PATIENT: Duration = Duration::from_millis(100);
/// Between two plans at least, when nothing has happened.
const WAKE_MIN: Duration = Duration::from_millis(5);
/// Pause after a failed action, before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What the command line has settled.
#[derive(Debug)]
pub struct Settings {
    pub name: String,
    /// DATA_DIR/NAME, absolute.
    pub dir: PathBuf,
    /// DATA_DIR as it was given, for the commands that are shown.
    pub data_dir: PathBuf,
    pub program: PathBuf,
    pub password: String,
    pub log_format: LogFormat,
}

/// The endpoints' sockets, taken before anything is started.
#[derive(Debug)]
pub struct Listeners {
    pub master: TcpListener,
    pub replicas: TcpListener,
    pub metrics: Option<TcpListener>,
}

/// Where the password of the datastore in `dir` is kept.
pub fn password_file(dir: &Path) -> PathBuf {
    dir.join("auth").join("password")
}

/// What comes in from the session's parts.
#[derive(Debug)]
struct Inbox {
    process_events: mpsc::Receiver<(String, ProcessEvent)>,
    outcomes: mpsc::Receiver<Outcome>,
    asked: mpsc::Receiver<Asked>,
    changed: Arc<Notify>,
}

/// A switchover that a person waits for.
#[derive(Debug)]
struct WantedSwitchover {
    to: Option<String>,
    since: Instant,
    begun: bool,
    answer: tokio::sync::oneshot::Sender<Answer>,
}

/// Everything of one running datastore.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    manifest: ReplicatedRedis,
    file: ManifestFile,
    clock: Clock,
    me: String,

    store: RecordStore,
    version: u64,
    record: Option<Record>,
    ports: Ports,
    instances: BTreeMap<String, LocalInstance>,
    stopping: BTreeMap<String, JoinHandle<()>>,
    tenure: Tenure,
    retry_at: Option<Instant>,

    change: Option<Change>,
    switchover: Option<WantedSwitchover>,
    ready: Vec<String>,
    endpoint_master: Option<String>,
    summary: String,
    rows: Vec<Row>,
    tidings: Tidings,
    last_problem: String,

    reports: Reports,
    pace: watch::Sender<Duration>,
    master_endpoint: Forwarder,
    replicas_endpoint: Forwarder,
    metrics: Metrics,
    metrics_server: Option<MetricsServer>,
    screen: Screen,
    inbox: Option<Inbox>,
    _control: Control,
}

impl Session {
    /// Reads what is on the disk and opens the endpoints. No process is started yet.
    pub fn start(
        settings: Settings,
        manifest: ReplicatedRedis,
        file: ManifestFile,
        listeners: Listeners,
    ) -> Result<Session> {
        let store = RecordStore::new(&settings.dir.join("record.json"));
        let (record, version) = store.read::<Record>()?.map_or((None, 0), |(record, version)| (Some(record), version));
        let ports = Ports::open(&settings.dir.join("ports.json"))?;
        let (process_events_in, process_events) = mpsc::channel(256);
        let (outcomes_in, outcomes) = mpsc::channel(256);
        let (asked_in, asked) = mpsc::channel(16);
        let control = Control::listen(&settings.dir, asked_in).context("cannot open the control socket")?;
        let changed = Arc::new(Notify::new());
        let (pace, pace_seen) = watch::channel(POLL_BUSY);
        let endpoint = |refusal: &str| Endpoint { wait: ENDPOINT_WAIT, refusal: refusal.to_string() };
        let metrics = Metrics::new("local");
        // There is no other.
        metrics.leader.set(1);
        let metrics_server = match listeners.metrics {
            Some(listener) => Some(MetricsServer::start(listener, metrics.clone())?),
            None => None,
        };
        Ok(Session {
            clock: Clock::start(),
            me: format!("local-{}", files::random_hex::<8>()),
            store,
            version,
            record,
            ports,
            instances: BTreeMap::new(),
            stopping: BTreeMap::new(),
            tenure: Tenure::default(),
            retry_at: None,
            change: None,
            switchover: None,
            ready: Vec::new(),
            endpoint_master: None,
            summary: String::new(),
            rows: Vec::new(),
            tidings: Tidings::default(),
            last_problem: String::new(),
            reports: Reports {
                process_events: process_events_in,
                outcomes: outcomes_in,
                changed: Arc::clone(&changed),
                pace: pace_seen,
            },
            pace,
            master_endpoint: Forwarder::start(listeners.master, endpoint("MASTERDOWN no master takes writes now"))?,
            replicas_endpoint: Forwarder::start(listeners.replicas, endpoint("MASTERDOWN no replica is ready now"))?,
            metrics,
            metrics_server,
            screen: Screen::stdout(settings.log_format),
            inbox: Some(Inbox { process_events, outcomes, asked, changed }),
            _control: control,
            settings,
            manifest,
            file,
        })
    }

    /// Runs until `stop` is told, then ends everything in order.
    pub async fn run(mut self, stop: impl Future<Output = &'static str>) {
        let mut inbox = self.inbox.take().expect("a session runs once");
        let mut stop = std::pin::pin!(stop);
        let mut file_poll = interval(POLL_INTERVAL);
        file_poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.greet();
        loop {
            let wake = self.turn();
            tokio::select! {
                why = &mut stop => {
                    self.event("operator", &format!("{why}: stopping in order"));
                    break;
                }
                () = inbox.changed.notified() => {}
                Some((name, event)) = inbox.process_events.recv() => self.on_process_event(&name, event),
                Some(outcome) = inbox.outcomes.recv() => self.on_outcome(&outcome),
                Some(asked) = inbox.asked.recv() => self.on_question(asked),
                _ = file_poll.tick() => self.on_file_poll(),
                () = sleep(wake) => {}
            }
            // What has come in meanwhile belongs into the same plan.
            while let Ok((name, event)) = inbox.process_events.try_recv() {
                self.on_process_event(&name, event);
            }
            while let Ok(outcome) = inbox.outcomes.try_recv() {
                self.on_outcome(&outcome);
            }
        }
        self.stop_all(inbox).await;
    }

    /// One round of observe → plan → apply. Returns how long nothing needs to be done unless something happens.
    fn turn(&mut self) -> Duration {
        let _timer = self.metrics.reconcile_duration.start_timer();
        self.stopping.retain(|_, task| !task.is_finished());
        let observed = self.observe();
        let plan = plan(&observed, self.clock.now());
        self.metrics.reconciles.inc();
        let wrote = self.apply(&plan);
        self.route(&plan, &observed);
        self.follow_change(&plan);
        self.show(&plan, &observed);
        if wrote {
            return Duration::ZERO;
        }
        Duration::from_millis(plan.wake_ms).max(WAKE_MIN)
    }

    // ---- observe ----

    fn wanted(&self) -> Vec<String> {
        instance_names(&self.settings.name, self.manifest.spec.replicas)
    }

    fn observe(&mut self) -> Observed {
        let mut instances = BTreeMap::new();
        for (name, instance) in &mut self.instances {
            instances.insert(name.clone(), instance.observe(&self.clock, &mut self.tenure.ended));
        }
        // R5: where there is no process there is no incarnation of the record either, and another one that answers has
        // taken its place.
        if let Some(master) = self.record.as_ref().and_then(|r| r.master.as_ref())
            && let Some(instance) = self.instances.get(&master.name)
        {
            if !instance.has_process() {
                self.tenure.ended.insert(master.incarnation.clone());
            } else if let Some(seen) = instances.get(&master.name) {
                self.tenure.on_successor(master, seen);
            }
        }
        let switchover = self.switchover.as_ref().filter(|wanted| !wanted.begun).map(|wanted| wanted.to.clone());
        let (spec, record) = (&self.manifest.spec, self.record.clone());
        self.tenure.observed(&self.me, spec, self.wanted(), record, instances, switchover)
    }

    // ---- apply ----

    /// Carries out the plan; says whether the record was written, so that another plan follows at once.
    fn apply(&mut self, plan: &Plan) -> bool {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        self.retry_at = None;
        let mut wrote = false;
        for action in &plan.actions {
            let done = match action {
                Action::WriteRecord(record) => {
                    wrote = true;
                    self.write_record(record)
                }
                Action::Send { instance, order } => {
                    self.send(instance, order);
                    Ok(())
                }
                Action::Start { instance } => self.start_instance(instance),
                Action::Stop { instance } => {
                    self.stop_instance(instance);
                    Ok(())
                }
                Action::Event { .. } => Ok(()),
            };
            if let Err(error) = done {
                self.metrics.reconcile_errors.inc();
                self.problem(&format!("{error:#}"));
                self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                return false;
            }
        }
        // Told after they have become true: an event stands beside the write of the record that makes it so.
        for action in &plan.actions {
            if let Action::Event { subject, text, .. } = action {
                self.event(subject, text);
            }
        }
        wrote
    }

    /// Writes to the disk on this thread: nothing may happen until the record is there (R5.1, R5.5).
    fn write_record(&mut self, record: &Record) -> Result<()> {
        match self.store.write(self.version, record) {
            Ok(version) => self.version = version,
            Err(StoreError::Conflict { expected, found }) => {
                let (record, version) =
                    self.store.read::<Record>()?.map_or((None, 0), |(record, version)| (Some(record), version));
                self.tenure.on_read(self.record.as_ref(), record.as_ref(), self.clock.now());
                self.record = record;
                self.version = version;
                return Err(StoreError::Conflict { expected, found }.into());
            }
            Err(error) => return Err(error.into()),
        }
        let now = self.clock.now();
        if self.tenure.on_written(self.record.as_ref(), record, now) {
            self.begin_change(record);
        }
        self.record = Some(record.clone());
        Ok(())
    }

    fn send(&mut self, name: &str, order: &Order) {
        let Some(instance) = self.instances.get_mut(name) else { return };
        if instance.order(order.clone())
            && let Order::Lease { token, .. } = order
        {
            self.tenure.on_lease_sent(*token, self.clock.now());
        }
    }

    fn start_instance(&mut self, name: &str) -> Result<()> {
        if self.instances.contains_key(name) || self.stopping.contains_key(name) {
            return Ok(());
        }
        let dir = self.settings.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let launch = self.launch(name);
        let kept = self.ports.get(name).filter(|_| supervisor::is_running(&launch));
        let ports = match kept {
            Some(ports) => ports,
            None => self.ports.claim(name)?,
        };
        self.write_config(name)?;
        let instance = LocalInstance::start(name, launch, ports, &self.settings.password, &self.reports);
        self.instances.insert(name.to_string(), instance);
        Ok(())
    }

    fn launch(&self, name: &str) -> Launch {
        let dir = self.settings.dir.join(name);
        Launch { program: self.settings.program.clone(), args: vec![dir.join("redis.conf").into()], dir }
    }

    fn write_config(&self, name: &str) -> Result<()> {
        let dir = self.settings.dir.join(name);
        let ports = self.ports.get(name).with_context(|| format!("{name} has no port"))?;
        let text = config::render(&ServerConfig {
            bind: HOST,
            port: ports.port,
            metrics_port: if self.metrics_server.is_some() { ports.metrics_port } else { 0 },
            dir: &dir,
            credentials: Credentials::Inline(&self.settings.password),
            derived: &[("managed-lease-ms".to_string(), LEASE_MS.to_string())],
            extra: &self.manifest.spec.config,
        })?;
        let path = dir.join("redis.conf");
        // It holds the password.
        files::replace_with_mode(&path, text.as_bytes(), 0o600)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn stop_instance(&mut self, name: &str) {
        if let Some(instance) = self.instances.remove(name) {
            self.stopping.insert(name.to_string(), tokio::spawn(instance.stop(STOP_GRACE)));
        }
    }

    // ---- what follows from a plan outside of it ----

    /// Points the endpoints.
    fn route(&mut self, plan: &Plan, observed: &Observed) {
        let status = |name: &str| observed.instances.get(name).and_then(|i| i.status.as_ref());
        // Not before it takes writes; but once it leads there, a pause in its lease does not close its connections.
        let master = plan.master.clone().filter(|name| {
            self.endpoint_master.as_ref() == Some(name) || status(name).is_some_and(|status| status.writable)
        });
        let address = |name: &String| self.instances.get(name).map(LocalInstance::address);
        let reigning = master.as_ref().and_then(address);
        // While the role changes hands nobody new is let in, and those who are there stay until there is another master.
        let former = self.endpoint_master.as_ref().filter(|_| reigning.is_none()).and_then(address);
        self.master_endpoint
            .set_targets(Targets { accepting: reigning.into_iter().collect(), draining: former.into_iter().collect() });
        if master.is_some() {
            self.endpoint_master = master;
        }

        // Without a master the replicas go on to be read.
        if plan.master.is_some() {
            self.ready.clone_from(&plan.ready_replicas);
        }
        let serves = |name: &&String| status(name).is_some_and(|s| s.role == Role::Replica && !s.loading && !s.syncing);
        let accepting = self.ready.iter().filter(serves).filter_map(address).collect();
        let draining = self.instances.keys().filter(serves).filter_map(address).collect();
        self.replicas_endpoint.set_targets(Targets { accepting, draining });

        let busy = observed.record.as_ref().is_none_or(|r| r.target.is_some()) || reigning.is_none();
        let since = self.change.as_ref().map(Change::since);
        let pace = match since {
            _ if !busy => POLL_QUIET,
            Some(since) if since.elapsed() > HURRY => POLL_PATIENT,
            _ => POLL_BUSY,
        };
        self.pace.send_if_modified(|now| std::mem::replace(now, pace) != pace);
    }

    /// A change of the master begins with this record.
    fn begin_change(&mut self, record: &Record) {
        let old = self.record.as_ref().and_then(|r| r.master.as_ref());
        let ended_at = old.and_then(|m| self.instances.get(&m.name)).and_then(|i| i.ended_at);
        let has_ended = old.is_some_and(|m| self.tenure.ended.contains(&m.incarnation));
        let kind = Kind::of(record.target.as_ref(), self.endpoint_master.is_some(), has_ended);
        let since = match kind {
            Kind::Failover { .. } => ended_at.unwrap_or_else(Instant::now),
            Kind::First | Kind::Switchover { .. } | Kind::Members => Instant::now(),
        };
        // A change that did not come to its end goes on from where writes stopped.
        let since = self.change.as_ref().map_or(since, |change| change.since().min(since));
        if let Some(wanted) = self.switchover.as_mut() {
            wanted.begun = true;
        }
        self.change = Some(Change::begin(kind, old.map(|m| m.name.clone()), since));
    }

    /// Notices that a change is over, and tells how long it took.
    fn follow_change(&mut self, plan: &Plan) {
        let writable = self.endpoint_master.clone().filter(|name| {
            plan.master.as_ref() == Some(name)
                && self.record.as_ref().is_some_and(|record| {
                    let status = self.instances.get(name).and_then(LocalInstance::status);
                    record.target.is_none() && status.is_some_and(|s| s.writable && s.role_epoch == record.epoch)
                })
        });
        if let Some(master) = writable
            && let Some(change) = self.change.take()
        {
            self.tenure.allow_data_loss = false;
            let finished = change.finish(&master, Instant::now());
            self.on_change_finished(&finished);
        }
        if self.switchover.as_ref().is_some_and(|w| !w.begun && w.since.elapsed() > SWITCHOVER_PATIENCE) {
            self.answer_switchover(Answer::bad(format!("no switchover now: {}", plan.summary)));
        }
    }

    fn on_change_finished(&mut self, finished: &Finished) {
        match &finished.kind {
            Kind::Failover { reason } => self.metrics.failover("", &self.settings.name, reason, finished.took),
            Kind::Switchover { .. } => self.metrics.switchover("", &self.settings.name, finished.paused),
            Kind::First | Kind::Members => {}
        }
        let epoch = self.record.as_ref().map_or(0, |r| r.epoch);
        self.event(&finished.master, &finished.to_string());
        if self.switchover.as_ref().is_some_and(|wanted| wanted.begun) {
            let answer = match (&finished.kind, self.switchover.as_ref().and_then(|w| w.to.as_ref())) {
                (Kind::Switchover { to }, wanted) if *to == finished.master || wanted == Some(&finished.master) => {
                    Answer::good(format!(
                        "{} is master of epoch {epoch}; writes were paused for {} ms",
                        finished.master,
                        finished.paused.as_millis()
                    ))
                }
                _ => Answer::bad(format!(
                    "the switchover did not come about: {} is master of epoch {epoch}",
                    finished.master
                )),
            };
            self.answer_switchover(answer);
        }
    }

    fn answer_switchover(&mut self, answer: Answer) {
        if let Some(wanted) = self.switchover.take() {
            // The person may have gone.
            let _ = wanted.answer.send(answer);
        }
    }

    // ---- what comes in ----

    fn on_process_event(&mut self, name: &str, event: ProcessEvent) {
        let text = match &event {
            ProcessEvent::Started { pid } => format!("started (process {pid})"),
            ProcessEvent::TakenOver { pid } => format!("taken over as it runs (process {pid})"),
            ProcessEvent::Ended { how, last_words, restart_in } => {
                let words =
                    if how.starts_with("exited with code") { format!(" ({last_words})") } else { String::new() };
                format!("{how}{words}; starts again in {} ms", restart_in.as_millis())
            }
            ProcessEvent::NotStarted { why, retry_in } => format!("{why}; tried again in {} ms", retry_in.as_millis()),
            ProcessEvent::Stopped { how } => format!("stopped: {how}"),
        };
        self.event(name, &text);
        if let ProcessEvent::Ended { .. } = event {
            if let Some(instance) = self.instances.get_mut(name) {
                instance.ended_at = Some(Instant::now());
            }
            self.leave_a_taken_port(name);
        }
    }

    /// A program that has taken an instance's port while it was down would keep it from starting for ever: then the
    /// instance is started anew, on another port.
    fn leave_a_taken_port(&mut self, name: &str) {
        let Some(ports) = self.ports.get(name) else { return };
        if ports.are_free() {
            return;
        }
        if let Some(mut instance) = self.instances.remove(name) {
            instance.observe(&self.clock, &mut self.tenure.ended);
            self.event(name, &format!("port {} or {} was taken by another program", ports.port, ports.metrics_port));
        }
    }

    fn on_outcome(&mut self, outcome: &Outcome) {
        if let Some(instance) = self.instances.get_mut(&outcome.instance) {
            instance.on_outcome(outcome);
        }
        match (&outcome.order, &outcome.result) {
            (Order::Handover { .. }, Ok(())) => {
                if let Some(change) = self.change.as_mut() {
                    change.on_paused(outcome.sent);
                }
            }
            (_, Ok(())) => {}
            (order, Err(error)) => {
                self.metrics.reconcile_errors.inc();
                // A refusal is worth a line; that a process went away is told by its supervisor.
                if error.keeps_connection() {
                    self.problem(&format!("{} refuses {order:?}: {error}", outcome.instance));
                }
            }
        }
    }

    fn on_question(&mut self, asked: Asked) {
        let has_master = self.endpoint_master.is_some() && self.change.is_none();
        let answer = match asked.question {
            Question::Status => Answer::good(table(&self.view()).join("\n")),
            Question::AllowDataLoss if has_master => {
                Answer::bad(format!("'{}' has a master; there is no loss to allow", self.settings.name))
            }
            Question::AllowDataLoss => {
                self.tenure.allow_data_loss = true;
                self.event("operator", "a person allows the loss of data: a master without data may be chosen");
                Answer::good("allowed: the next election may choose a master without data")
            }
            Question::Switchover { to } => {
                let current = self.record.as_ref().and_then(|r| r.master.as_ref()).map(|m| m.name.clone());
                let unknown = to.as_ref().filter(|name| !self.wanted().contains(name));
                if let Some(name) = unknown {
                    Answer::bad(format!("there is no instance '{name}'; there are {}", self.wanted().join(", ")))
                } else if to.is_some() && to == current {
                    Answer::good(format!("{} is the master already", to.unwrap_or_default()))
                } else if self.switchover.is_some() {
                    Answer::bad("another switchover is under way")
                } else {
                    self.switchover =
                        Some(WantedSwitchover { to, since: Instant::now(), begun: false, answer: asked.answer });
                    return;
                }
            }
        };
        // The person may have gone.
        let _ = asked.answer.send(answer);
    }

    fn on_file_poll(&mut self) {
        let content = match self.file.poll() {
            None => return,
            Some(Edit::Unreadable(why)) => {
                return self.event("manifest", &format!("{why}; what was read before stays in force"));
            }
            Some(Edit::Changed(content)) => content,
        };
        let path = self.file.path().to_path_buf();
        let edited = match read_manifest(&content, &path) {
            Ok(edited) => edited,
            Err(error) => {
                return self.event("manifest", &format!("{error:#}; what was read before stays in force"));
            }
        };
        if edited.metadata.name.as_ref() != Some(&self.settings.name) {
            let text = format!(
                "{}: metadata.name cannot change from '{}' while it runs; what was read before stays in force",
                path.display(),
                self.settings.name
            );
            return self.event("manifest", &text);
        }
        let before = std::mem::replace(&mut self.manifest, edited);
        let (spec, after) = (&before.spec, &self.manifest.spec);
        let mut changes = Vec::new();
        if spec.replicas != after.replicas {
            changes.push(format!("replicas {} -> {}", spec.replicas, after.replicas));
        }
        if spec.durability != after.durability {
            changes.push(format!("writeQuorum {}", after.durability.write_quorum));
        }
        if spec.failover != after.failover {
            changes.push("failover".to_string());
        }
        if spec.config != after.config {
            changes.push("config (takes effect when an instance starts next)".to_string());
            self.rewrite_configs();
        }
        if !changes.is_empty() {
            self.event("manifest", &format!("read again: {}", changes.join(", ")));
        }
    }

    fn rewrite_configs(&mut self) {
        for name in self.instances.keys().cloned().collect::<Vec<_>>() {
            if let Err(error) = self.write_config(&name) {
                self.problem(&format!("{error:#}"));
            }
        }
    }

    // ---- for the person who watches ----

    fn greet(&mut self) {
        let dir = self.settings.dir.clone();
        let name = self.settings.name.clone();
        let password_file = password_file(&dir);
        let place = match self.settings.data_dir.to_str() {
            Some("replicated-redis-data") => String::new(),
            _ => format!(" --data-dir '{}'", self.settings.data_dir.display()),
        };
        let (master, replicas) = (self.master_endpoint.address(), self.replicas_endpoint.address());
        let mut lines = vec![
            format!("{name}: 1 master, {} replicas; data in {}", self.manifest.spec.replicas, dir.display()),
            format!("  master endpoint    {master}  (reads and writes; follows the master role)"),
            format!("  replicas endpoint  {replicas}  (reads; spread over the replicas that are ready)"),
        ];
        if let Some(server) = &self.metrics_server {
            lines.push(format!("  metrics            http://{}/metrics", server.address()));
        }
        lines.push(format!("  password           in {}", password_file.display()));
        let auth = format!("REDISCLI_AUTH=\"$(cat '{}')\"", password_file.display());
        lines.push(format!("  connect            {auth} redis-cli -p {}", master.port()));
        lines.push(format!("  switchover         replicated-redis-operator local switchover {name}{place}"));
        lines.push("  Ctrl-C stops everything in order; the next start resumes from disk.".to_string());
        for line in lines {
            self.screen.line(&line);
        }
    }

    fn event(&mut self, subject: &str, text: &str) {
        let subject = if subject.is_empty() { &self.settings.name } else { subject };
        self.screen.event(&time_of_day(self.settings.log_format), subject, text);
    }

    /// A failure that may come back at every turn: told when it changes.
    fn problem(&mut self, text: &str) {
        if self.last_problem != text {
            self.last_problem = text.to_string();
            self.event("operator", text);
        }
    }

    fn view(&self) -> View {
        View {
            name: self.settings.name.clone(),
            epoch: self.record.as_ref().map_or(0, |r| r.epoch),
            summary: self.summary.clone(),
            instances: self.rows.clone(),
        }
    }

    fn show(&mut self, plan: &Plan, observed: &Observed) {
        let status = |name: &String| observed.instances.get(name).and_then(|i| i.status.as_ref());
        let master_offset = plan.master.as_ref().and_then(status).map(|s| s.offset);
        // In the order of their names' numbers, as in the manifest; those that are leaving come last.
        let mut names = observed.wanted.clone();
        names.extend(self.instances.keys().filter(|name| !observed.wanted.contains(name)).cloned());
        let row = |name: &String| self.instances.get(name).map(|instance| instance.row(name, master_offset));
        let rows: Vec<Row> = names.iter().filter_map(row).collect();
        for (name, text) in self.tidings.settled(&rows, Instant::now().into_std()) {
            self.event(&name, &text);
        }
        let ready = plan.ready_replicas.len();
        self.summary = match plan.summary.as_str() {
            "well" => format!("well, {ready} of {} replicas ready", self.manifest.spec.replicas),
            other => other.to_string(),
        };
        let lag = rows.iter().filter_map(|row| row.lag).max().unwrap_or(0);
        self.rows = rows;
        let view = self.view();
        self.screen.status(&time_of_day(self.settings.log_format), &view, Instant::now().into_std());

        let writable = plan.master.as_ref().and_then(status).is_some_and(|s| s.writable);
        let state = State {
            has_master: writable,
            replicas_desired: self.manifest.spec.replicas,
            replicas_ready: ready,
            max_replica_lag_bytes: lag,
            epoch: view.epoch,
            failover_ready: crate::status::has_candidate(observed, plan),
            ..State::default()
        };
        self.metrics.set("", &self.settings.name, &state);
    }

    // ---- the end ----

    /// The master first: it waits until its replicas have everything, so that all stop at the same offset.
    async fn stop_all(mut self, mut inbox: Inbox) {
        self.answer_switchover(Answer::bad("the operator is stopping"));
        let is_master = |i: &LocalInstance| i.status().is_some_and(|status| status.role == Role::Master);
        let masters: Vec<String> =
            self.instances.iter().filter(|(_, i)| is_master(i)).map(|(name, _)| name.clone()).collect();
        for name in masters {
            self.stop_instance(&name);
        }
        self.stopped(&mut inbox).await;
        for name in self.instances.keys().cloned().collect::<Vec<_>>() {
            self.stop_instance(&name);
        }
        self.stopped(&mut inbox).await;
        self.screen.finish();
        let text = format!("stopped; the data is in {}", self.settings.dir.display());
        self.event("operator", &text);
    }

    async fn stopped(&mut self, inbox: &mut Inbox) {
        let mut stopping = std::mem::take(&mut self.stopping);
        while !stopping.is_empty() {
            tokio::select! {
                Some((name, event)) = inbox.process_events.recv() => self.on_process_event(&name, event),
                Some(_) = inbox.outcomes.recv() => {}
                () = sleep(WAKE_MIN) => {}
            }
            stopping.retain(|_, task| !task.is_finished());
        }
        while let Ok((name, event)) = inbox.process_events.try_recv() {
            self.on_process_event(&name, event);
        }
    }
}

fn time_of_day(format: LogFormat) -> String {
    let now = jiff::Timestamp::now();
    match format {
        LogFormat::Text => now.strftime("%H:%M:%S%.3f").to_string(),
        LogFormat::Json => now.to_string(),
    }
}
