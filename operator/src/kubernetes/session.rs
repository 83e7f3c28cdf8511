//! The loop of one datastore on Kubernetes: observe → plan → apply, again whenever something has happened.
//!
//! Nothing here decides a role: [`crate::plan::plan`] does. The record lives in the object's status and is written with its
//! resourceVersion as precondition; while that write is under way nothing else is done. Orders to instances (leases among
//! them) go over connections of our own and do not wait for the API server; objects, labels and the status are brought up to
//! date beside the loop, so that a slow API server cannot take a master its lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Context;
use super::caches::Key;
use super::objects::{Applier, ApplyError, Pending, is_at_least};
use super::pod::{PodInstance, Reports, Witness, place};
use crate::api::{ReplicatedRedis, ReplicatedRedisStatus};
use crate::change::{Change, Kind};
use crate::clock::Clock;
use crate::link::{Outcome, POLL_BUSY, POLL_QUIET};
use crate::metrics::State;
use crate::observe::{Instance, Observed, Role};
use crate::plan::{Action, Order, Plan, plan};
use crate::record::{Record, Target};
use crate::resources::{self, POOL_LABEL, ROLE_LABEL};
use crate::status::{Facts, status};
use crate::tenure::{Tenure, instance_names};

/// Annotation by which a person asks for a switchover: the name of an instance, or `any`. It is taken off when it was heard.
pub const SWITCHOVER: &str = "replicated-redis.io/switchover";
/// Annotation by which a person gives up data that no instance holds (R9): `true`. It is taken off when it was heard.
pub const ALLOW_DATA_LOSS: &str = "replicated-redis.io/allow-data-loss";

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two plans at least, when nothing has happened.
const WAKE_MIN: Duration = Duration::from_millis(5);
/// Pause after a failed call, before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// An election that takes longer than this waits for a person or a machine: no need to hurry any more.
const HURRY: Duration = Duration::from_secs(15);
const POLL_PATIENT: Duration = Duration::from_millis(200);
/// Between two writes of a status in which nothing but words has changed.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// A switchover that cannot begin within this is refused.
const SWITCHOVER_PATIENCE: Duration = Duration::from_secs(10);

/// One datastore.
#[derive(Debug)]
pub(super) struct Session {
    context: Arc<Context>,
    key: Key,
    object: ReplicatedRedis,
    clock: Clock,
    tenure: Tenure,
    password: Option<String>,
    password_watch: Option<PasswordWatch>,

    pods: BTreeMap<String, PodInstance>,
    absent_since: BTreeMap<String, u64>,
    witness: Option<Witness>,
    ended_pods: mpsc::UnboundedReceiver<Pod>,

    change: Option<Change>,
    /// This operator has seen a master that took writes.
    had_master: bool,
    switchover: Option<(Option<String>, Instant)>,
    retry_at: Option<Instant>,
    /// A write of the record failed, and the object was not read since.
    unsure: bool,
    last_problem: String,
    stalled: Option<(&'static str, String)>,

    upkeep: Option<JoinHandle<Upkept>>,
    status_write: Option<JoinHandle<Option<ReplicatedRedis>>>,
    upkeep_retry_at: Option<Instant>,
    applied: Pending,
    kept: Option<Inputs>,
    status_at: Option<Instant>,
    began: Instant,
    master_silent_since: Option<u64>,

    reports: Reports,
    pace: watch::Sender<Duration>,
}

/// What the objects are made from, and the version of what is there: while all of it is the same, nothing needs to be done.
#[derive(Debug, PartialEq)]
struct Inputs {
    generation: Option<i64>,
    pods: i32,
    password: Option<String>,
    seen: u64,
}

/// What the work beside the loop has come to.
#[derive(Debug)]
struct Upkept {
    applied: Pending,
    outcome: Result<(), ApplyError>,
    /// The objects were tried: `outcome` says whether the spec can be carried out.
    tried: bool,
}

/// The Secret with the password.
#[derive(Debug)]
struct PasswordWatch {
    secret: String,
    seen: watch::Receiver<Option<Secret>>,
    task: JoinHandle<()>,
}

impl Drop for PasswordWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Runs until the object is gone. What it says of its pods' ends comes by `ended_pods`.
    pub(super) async fn run(context: Arc<Context>, key: Key, ended_pods: mpsc::UnboundedReceiver<Pod>) {
        let Some(object) = context.caches.datastores.get(&key.0, &key.1) else { return };
        let changed = context.caches.hub.bell(&key);
        let (outcomes_in, mut outcomes) = mpsc::channel(64);
        let (pace, pace_seen) = watch::channel(POLL_BUSY);
        let mut session = Session {
            object: (*object).clone(),
            clock: Clock::start(),
            tenure: Tenure::default(),
            password: None,
            password_watch: None,
            pods: BTreeMap::new(),
            absent_since: BTreeMap::new(),
            witness: None,
            ended_pods,
            change: None,
            had_master: false,
            switchover: None,
            retry_at: None,
            unsure: false,
            last_problem: String::new(),
            stalled: None,
            upkeep: None,
            status_write: None,
            upkeep_retry_at: None,
            applied: Pending::new(),
            kept: None,
            status_at: None,
            began: Instant::now(),
            master_silent_since: None,
            reports: Reports { outcomes: outcomes_in, changed: Arc::clone(&changed), pace: pace_seen },
            pace,
            context,
            key,
        };
        loop {
            let Some(wake) = session.turn().await else { break };
            tokio::select! {
                () = changed.notified() => {}
                Some(outcome) = outcomes.recv() => session.on_outcome(&outcome).await,
                () = sleep(wake) => {}
            }
            while let Ok(outcome) = outcomes.try_recv() {
                session.on_outcome(&outcome).await;
            }
        }
        session.context.metrics.forget(&session.key.0, &session.key.1);
        tracing::info!("{}/{}: gone", session.key.0, session.key.1);
    }

    /// One round. Returns how long nothing needs to be done unless something happens; `None` when the object is gone.
    async fn turn(&mut self) -> Option<Duration> {
        self.refresh()?;
        if self.unsure {
            match call(self.api().get(&self.key.1)).await {
                Ok(object) => {
                    self.take(object);
                    self.unsure = false;
                }
                Err(error) => {
                    self.problem(&format!("cannot read the record: {error}")).await;
                    return Some(RETRY_PAUSE);
                }
            }
        }
        self.on_upkept().await;
        self.on_status_written(false).await;
        self.read_password().await;
        self.hear_wishes().await;
        self.sync_pods();
        let observed = self.observe();
        let plan = plan(&observed, self.clock.now());
        self.context.metrics.reconciles.inc();
        let wrote = self.apply(&plan).await;
        if wrote {
            // What was observed is out of date with the record.
            return Some(Duration::ZERO);
        }
        self.follow_change(&plan, &observed).await;
        self.keep_up(&plan, &observed);
        self.write_status(&plan, &observed);
        self.measure(&plan, &observed);
        Some(Duration::from_millis(plan.wake_ms).max(WAKE_MIN))
    }

    fn record(&self) -> Option<&Record> {
        self.object.status.as_ref().and_then(|s| s.record.as_ref())
    }

    // ---- observe ----

    /// Takes over a newer object from the cache; `None` when there is none any more.
    fn refresh(&mut self) -> Option<()> {
        let seen = self.context.caches.datastores.get(&self.key.0, &self.key.1)?;
        if seen.meta().deletion_timestamp.is_some() || seen.uid() != self.object.uid() {
            return None;
        }
        // What this session wrote itself may be ahead of the watch.
        let own = self.object.resource_version().unwrap_or_default();
        if is_at_least(seen.resource_version(), &own) {
            self.take((*seen).clone());
        }
        Some(())
    }

    /// The object as it was read, perhaps with another's record.
    fn take(&mut self, object: ReplicatedRedis) {
        let read = object.status.as_ref().and_then(|s| s.record.as_ref());
        let before = self.object.status.as_ref().and_then(|s| s.record.as_ref());
        self.tenure.on_read(before, read, self.clock.now());
        self.object = object;
    }

    /// Follows the Secret with the password, and makes one where the spec names none.
    async fn read_password(&mut self) {
        let source = resources::password_source(&self.object);
        if self.password_watch.as_ref().is_none_or(|watch| watch.secret != source.name) {
            self.password_watch = Some(self.watch_password(&source.name));
        }
        let Some(watch) = self.password_watch.as_mut() else { return };
        let seen = watch.seen.borrow_and_update().clone();
        let read = seen.as_ref().map(|secret| resources::password_in(secret, &source.key));
        match read {
            Some(Ok(password)) => {
                self.password = Some(password);
                if self.stalled.as_ref().is_some_and(|(reason, _)| *reason == "PasswordMissing") {
                    self.stalled = None;
                }
            }
            Some(Err(why)) => self.stalled = Some(("PasswordMissing", why)),
            None if self.object.spec.auth.password_secret_ref.is_some() => {
                let why = format!("the Secret {}, which spec.auth.passwordSecretRef names, is not there", source.name);
                self.stalled = Some(("PasswordMissing", why));
            }
            // Nobody can have seen it: the next look at the Secret shows whose password has won.
            None if self.password.is_none() && self.may_call() => {
                let secret = resources::generated_password(&self.object, &random_password());
                let api: Api<Secret> = self.api();
                match call(api.create(&PostParams::default(), &secret)).await {
                    Ok(_) => {}
                    Err(Failure::Api(kube::Error::Api(status))) if status.is_already_exists() => {}
                    Err(error) => self.problem(&format!("cannot create the Secret {}: {error}", source.name)).await,
                }
            }
            None => {}
        }
    }

    fn watch_password(&self, name: &str) -> PasswordWatch {
        use futures::StreamExt;
        let (publish, seen) = watch::channel(None);
        let (api, bell) = (self.api::<Secret>(), Arc::clone(&self.reports.changed));
        let secret = name.to_string();
        let task = tokio::spawn(async move {
            let mut states = std::pin::pin!(watcher::watch_object(api, &secret).default_backoff());
            while let Some(state) = states.next().await {
                match state {
                    Ok(state) => {
                        publish.send_replace(state);
                        bell.notify_one();
                    }
                    Err(error) => tracing::warn!("watching the Secret {secret}: {error}"),
                }
            }
        });
        PasswordWatch { secret: name.to_string(), seen, task }
    }

    /// Wishes of a person come as annotations, and are taken off when they were heard.
    async fn hear_wishes(&mut self) {
        let annotations = self.object.annotations();
        let switchover = annotations.get(SWITCHOVER).cloned();
        let allow = annotations.get(ALLOW_DATA_LOSS).is_some_and(|value| value == "true");
        if let Some(to) = &switchover {
            let to = Some(to.clone()).filter(|to| to != "any");
            let known = to.as_ref().is_none_or(|name| self.wanted().contains(name));
            if known {
                self.switchover.get_or_insert((to, Instant::now()));
            } else if let Some(name) = to {
                let note = format!("there is no instance {name}; there are {}", self.wanted().join(", "));
                self.event(EventType::Warning, "SwitchoverRefused", &note).await;
            }
        }
        if allow && self.record().is_some_and(|r| r.target.is_some()) {
            self.tenure.allow_data_loss = true;
            let note = "a person allows the loss of data: a master without data may be chosen";
            self.event(EventType::Warning, "DataLossAllowed", note).await;
        }
        if switchover.is_some() || (allow && self.tenure.allow_data_loss) {
            let heard = serde_json::json!({"metadata": {"annotations": {SWITCHOVER: null, ALLOW_DATA_LOSS: null}}});
            let api: Api<ReplicatedRedis> = self.api();
            match call(api.patch(&self.key.1, &PatchParams::default(), &Patch::Merge(heard))).await {
                Ok(object) => self.object = object,
                Err(error) => self.problem(&format!("cannot take off an annotation: {error}")).await,
            }
        }
        if self.switchover.as_ref().is_some_and(|(_, since)| since.elapsed() > SWITCHOVER_PATIENCE) {
            self.switchover = None;
            self.event(EventType::Warning, "SwitchoverRefused", "no switchover now: no replica can take over").await;
        }
    }

    fn wanted(&self) -> Vec<String> {
        instance_names(&self.key.1, self.object.spec.replicas)
    }

    /// One conversation with each pod that has an address.
    fn sync_pods(&mut self) {
        let Some(password) = self.password.clone() else { return };
        let pods = self.our_pods();
        self.pods.retain(|name, instance| {
            pods.iter().any(|pod| pod.name_any() == *name && place(pod).is_some_and(|place| instance.is_with(&place)))
        });
        for pod in &pods {
            let name = pod.name_any();
            if let Some(place) = place(pod)
                && !self.pods.contains_key(&name)
            {
                let instance = PodInstance::start(&name, place, &password, &self.reports);
                self.pods.insert(name, instance);
            }
        }
    }

    fn our_pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.context.caches.pods.of(&self.key);
        pods.retain(|pod| pod.labels().contains_key(POOL_LABEL));
        pods
    }

    fn observe(&mut self) -> Observed {
        let now = self.clock.now();
        let clock = self.clock;
        let mut instances: BTreeMap<String, Instance> =
            self.pods.iter_mut().map(|(name, pod)| (name.clone(), pod.observe(&clock))).collect();
        for pod in self.our_pods().iter().filter(|pod| pod.meta().deletion_timestamp.is_some()) {
            if let Some(instance) = instances.get_mut(&pod.name_any()) {
                instance.leaving = true;
            }
        }
        self.note_ends(&instances);
        // One that has no pod is silent from then on.
        let mut names = self.wanted();
        names.extend(self.record().iter().flat_map(|r| r.voters()).map(|m| m.name.clone()));
        self.absent_since.retain(|name, _| !instances.contains_key(name));
        for name in names {
            instances.entry(name.clone()).or_insert_with(|| {
                let since = *self.absent_since.entry(name).or_insert(now);
                Instance { silent_since_ms: Some(since), ..Instance::default() }
            });
        }
        let silent = |r: &Record| instances.get(&r.master.as_ref()?.name)?.silent_since_ms;
        self.master_silent_since = self.record().and_then(silent);
        let switchover = self.switchover.as_ref().map(|(to, _)| to.clone());
        let record = self.record().cloned();
        self.tenure.observed(&self.context.identity, &self.object.spec, self.wanted(), record, instances, switchover)
    }

    /// R5, *known to have ended*: another process answers that holds the very volume of the master, or the kubelet of its pod
    /// reports the end of its container. That a pod is gone proves nothing.
    fn note_ends(&mut self, instances: &BTreeMap<String, Instance>) {
        let Some(record) = self.record() else { return };
        let Some(master) = record.master.clone() else { return };
        let volume = record.voters().iter().find(|m| m.name == master.name).map(|m| m.volume.clone());
        let seen = instances.get(&master.name).and_then(|i| i.status.as_ref());
        let has_volume = seen.filter(|status| Some(&status.volume) == volume.as_ref());
        if let (Some(status), Some(pod)) = (has_volume, self.pods.get(&master.name)) {
            if status.incarnation == master.incarnation {
                self.witness = Some(Witness {
                    uid: pod.uid().to_string(),
                    incarnation: master.incarnation.clone(),
                    started_unix_ms: status.started_unix_ms,
                });
            } else if let Some(instance) = instances.get(&master.name) {
                self.tenure.on_successor(&master, instance);
            }
        }
        let witness = self.witness.clone().filter(|witness| witness.incarnation == master.incarnation);
        let now_there = self.context.caches.pods.get(&self.key.0, &master.name);
        let ended = |pod: &Pod| witness.as_ref().is_some_and(|witness| witness.has_ended(pod));
        let mut has_ended = now_there.is_some_and(|pod| ended(&pod));
        while let Ok(pod) = self.ended_pods.try_recv() {
            has_ended |= ended(&pod);
        }
        if has_ended {
            self.tenure.ended.insert(master.incarnation);
        }
    }

    // ---- apply ----

    fn may_call(&self) -> bool {
        self.retry_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Carries out the plan; says whether the record was written, so that another plan follows at once.
    async fn apply(&mut self, plan: &Plan) -> bool {
        let mut wrote = false;
        for action in &plan.actions {
            match action {
                Action::WriteRecord(_) if !self.may_call() || !self.context.leadership.holds() => return false,
                Action::WriteRecord(record) => {
                    if let Err(error) = self.write_record(record).await {
                        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                        self.problem(&format!("cannot write the record: {error}")).await;
                        return false;
                    }
                    wrote = true;
                }
                Action::Send { instance, order } => self.send(instance, order),
                // The StatefulSets start and stop pods: see `keep_up`.
                Action::Start { .. } | Action::Stop { .. } | Action::Event { .. } => {}
            }
        }
        // Told after they have become true: an event stands beside the write of the record that makes it so.
        for action in &plan.actions {
            if let Action::Event { reason, subject, text } = action {
                let note = if subject.is_empty() { text.clone() } else { format!("{subject}: {text}") };
                let kind = if *reason == "FailoverStarted" { EventType::Warning } else { EventType::Normal };
                self.event(kind, reason, &note).await;
            }
        }
        wrote
    }

    /// Nothing else may happen until the record is there (R5.1, R5.5). After any failure it is read again, because whether it
    /// was written is not known.
    async fn write_record(&mut self, record: &Record) -> Result<(), Failure> {
        self.on_status_written(true).await;
        let mut object = self.object.clone();
        object.status.get_or_insert_default().record = Some(record.clone());
        let api: Api<ReplicatedRedis> = self.api();
        match call(api.replace_status(&self.key.1, &PostParams::default(), &object)).await {
            Ok(written) => {
                let before = self.record().cloned();
                self.object = written;
                if self.tenure.on_written(before.as_ref(), record, self.clock.now()) {
                    self.begin_change(before.as_ref(), record);
                }
                Ok(())
            }
            Err(error) => {
                self.unsure = true;
                Err(error)
            }
        }
    }

    fn send(&mut self, name: &str, order: &Order) {
        let is_lease = matches!(order, Order::Lease { .. });
        // R3: it grants only while it leads.
        if is_lease && !self.context.leadership.holds() {
            return;
        }
        let Some(pod) = self.pods.get_mut(name) else { return };
        if pod.order(order.clone())
            && let Order::Lease { token, .. } = order
        {
            self.tenure.on_lease_sent(*token, self.clock.now());
        }
    }

    fn begin_change(&mut self, before: Option<&Record>, record: &Record) {
        let old = before.and_then(|r| r.master.as_ref());
        let has_ended = old.is_some_and(|m| self.tenure.ended.contains(&m.incarnation));
        let kind = Kind::of(record.target.as_ref(), self.had_master, has_ended);
        let silent_for = self.master_silent_since.map(|since| self.clock.now().saturating_sub(since));
        let since = Instant::now() - Duration::from_millis(silent_for.unwrap_or(0));
        // A change that did not come to its end goes on from where writes stopped.
        let since = self.change.as_ref().map_or(since, |change| change.since().min(since));
        self.switchover = None;
        self.change = Some(Change::begin(kind, old.map(|m| m.name.clone()), since));
    }

    /// Notices that a change is over, tells how long it took, and sets the pace of the questions.
    async fn follow_change(&mut self, plan: &Plan, observed: &Observed) {
        let master = plan.master.as_ref().filter(|name| {
            let epoch = observed.record.as_ref().filter(|r| r.target.is_none()).map(|r| r.epoch);
            observed.answering(name).is_some_and(|s| s.writable && Some(s.role_epoch) == epoch)
        });
        if let Some(master) = master {
            self.had_master = true;
            if let Some(change) = self.change.take() {
                self.tenure.allow_data_loss = false;
                let finished = change.finish(master, Instant::now());
                let (namespace, name) = &self.key;
                let reason = match &finished.kind {
                    Kind::First => "MasterAvailable",
                    Kind::Failover { reason } => {
                        self.context.metrics.failover(namespace, name, reason, finished.took);
                        "FailoverCompleted"
                    }
                    Kind::Switchover { .. } => {
                        self.context.metrics.switchover(namespace, name, finished.paused);
                        "SwitchoverCompleted"
                    }
                    Kind::Members => "MembersChanged",
                };
                self.event(EventType::Normal, reason, &format!("{}: {finished}", finished.master)).await;
            }
        }
        let since = self.change.as_ref().map_or(self.began, Change::since);
        let pace = match master {
            Some(_) => POLL_QUIET,
            None if since.elapsed() > HURRY => POLL_PATIENT,
            None => POLL_BUSY,
        };
        self.pace.send_if_modified(|now| std::mem::replace(now, pace) != pace);
    }

    async fn on_outcome(&mut self, outcome: &Outcome) {
        if let Some(pod) = self.pods.get_mut(&outcome.instance) {
            pod.on_outcome(outcome);
        }
        match (&outcome.order, &outcome.result) {
            (Order::Handover { .. }, Ok(())) => {
                if let Some(change) = self.change.as_mut() {
                    change.on_paused(outcome.sent);
                }
            }
            (order, Err(error)) if error.keeps_connection() => {
                self.problem(&format!("{} refuses {order:?}: {error}", outcome.instance)).await;
            }
            (_, Ok(()) | Err(_)) => {}
        }
    }

    // ---- beside the loop ----

    /// Starts the work on objects, labels and status, unless it is under way.
    fn keep_up(&mut self, plan: &Plan, observed: &Observed) {
        if self.upkeep.is_some() || !self.context.leadership.holds() {
            return;
        }
        let may_retry = self.upkeep_retry_at.is_none_or(|at| Instant::now() >= at);
        let inputs = Inputs {
            generation: self.object.metadata.generation,
            pods: resources::replica_pods(&self.key.1, self.object.spec.replicas, self.record()),
            password: self.password.clone(),
            seen: self.context.caches.hub.seen(&self.key),
        };
        let labels = self.wanted_labels(plan, observed);
        let nothing_new = self.kept.as_ref() == Some(&inputs);
        if labels.is_empty() && (nothing_new || !may_retry) {
            return;
        }
        let work = Work {
            context: Arc::clone(&self.context),
            object: self.object.clone(),
            pods: inputs.pods,
            password: self.password.clone(),
            applied: std::mem::take(&mut self.applied),
            labels,
        };
        let bell = Arc::clone(&self.reports.changed);
        self.kept = Some(inputs);
        self.upkeep = Some(tokio::spawn(work.run(bell)));
    }

    async fn on_upkept(&mut self) {
        if !self.upkeep.as_ref().is_some_and(JoinHandle::is_finished) {
            return;
        }
        let Some(done) = self.upkeep.take() else { return };
        let Ok(done) = done.await else { return };
        self.applied = done.applied;
        match done.outcome {
            Ok(()) => {
                self.upkeep_retry_at = None;
                if done.tried && self.stalled.as_ref().is_some_and(|(reason, _)| *reason != "PasswordMissing") {
                    self.stalled = None;
                }
            }
            Err(ApplyError::Spec { reason, message }) => self.stalled = Some((reason, message)),
            Err(error @ ApplyError::Api { .. }) => {
                self.upkeep_retry_at = Some(Instant::now() + RETRY_PAUSE);
                self.kept = None;
                if let ApplyError::Api { error: api, .. } = &error
                    && matches!(&**api, kube::Error::Api(status) if status.is_invalid())
                {
                    self.stalled = Some(("ObjectRefused", error.to_string()));
                }
                self.problem(&error.to_string()).await;
            }
        }
    }

    /// Pods whose role label is not what it should be, those that lose it first: there is one master label at most.
    fn wanted_labels(&self, plan: &Plan, observed: &Observed) -> Vec<(Arc<Pod>, Option<&'static str>)> {
        let label = |name: &str| match observed.answering(name).map(|s| s.role) {
            _ if plan.master.as_deref() == Some(name) => {
                let promoted = observed.instances.get(name).and_then(|i| i.status.as_ref());
                // A master that is silent for a moment keeps it.
                promoted.is_none_or(|s| s.role == Role::Master).then_some("master")
            }
            Some(Role::Replica) => Some("replica"),
            Some(Role::Master | Role::Awaiting) | None => None,
        };
        let electing = observed.record.as_ref().is_some_and(|r| r.target.is_some());
        let mut wrong: Vec<(Arc<Pod>, Option<&'static str>)> = self
            .our_pods()
            .into_iter()
            .filter_map(|pod| {
                let (wanted, has) = (label(&pod.name_any()), pod.labels().get(ROLE_LABEL).map(String::as_str));
                // A replica that does not answer goes on to be one: readiness decides whether it is used.
                let stays = wanted.is_none() && has == Some("replica") && observed.answering(&pod.name_any()).is_none();
                // The members change under a master that goes on within a moment.
                let goes_on = electing && is_members_change(observed) && has == Some("master") && wanted.is_none();
                (wanted != has && !stays && !goes_on).then_some((pod, wanted))
            })
            .collect();
        wrong.sort_by_key(|(_, wanted)| *wanted == Some("master"));
        wrong
    }

    /// Writes the status beside the loop, if it has changed. A write of the record waits for it: both have the same version as
    /// their precondition.
    fn write_status(&mut self, plan: &Plan, observed: &Observed) {
        if self.status_write.is_some() || !self.context.leadership.holds() {
            return;
        }
        let Some(status) = self.wanted_status(plan, observed) else { return };
        let mut object = self.object.clone();
        object.status = Some(status);
        let (api, bell) = (self.api::<ReplicatedRedis>(), Arc::clone(&self.reports.changed));
        self.status_write = Some(tokio::spawn(async move {
            // Refused when anything has changed meanwhile: then it is made again from what is there.
            let written = call(api.replace_status(&object.name_any(), &PostParams::default(), &object)).await.ok();
            bell.notify_one();
            written
        }));
    }

    async fn on_status_written(&mut self, wait: bool) {
        if !self.status_write.as_ref().is_some_and(|write| wait || write.is_finished()) {
            return;
        }
        let Some(write) = self.status_write.take() else { return };
        let Ok(Some(object)) = write.await else { return };
        let own = self.object.resource_version().unwrap_or_default();
        if is_at_least(object.resource_version(), &own) {
            self.object = object;
        }
    }

    /// The status that is to be written, if one is.
    fn wanted_status(&mut self, plan: &Plan, observed: &Observed) -> Option<ReplicatedRedisStatus> {
        let mut pods = self.our_pods();
        pods.sort_by_key(|pod| self.wanted().iter().position(|name| *name == pod.name_any()).unwrap_or(usize::MAX));
        let node = |pod: &Arc<Pod>| (pod.name_any(), pod.spec.as_ref().and_then(|spec| spec.node_name.clone()));
        let facts = Facts {
            name: self.key.1.clone(),
            generation: self.object.metadata.generation,
            replicas: self.object.spec.replicas,
            nodes: pods.iter().map(node).collect(),
            stalled: self.stalled.clone(),
        };
        let before = self.object.status.clone().unwrap_or_default();
        let wanted = status(&before, &facts, observed, plan, Timestamp::now());
        if wanted == before {
            return None;
        }
        let urgent = (before.phase, &before.current_master, before.observed_generation)
            != (wanted.phase, &wanted.current_master, wanted.observed_generation);
        if !urgent && self.status_at.is_some_and(|at| at.elapsed() < STATUS_PAUSE) {
            return None;
        }
        self.status_at = Some(Instant::now());
        Some(wanted)
    }

    fn measure(&self, plan: &Plan, observed: &Observed) {
        let lag = self.object.status.as_ref().map_or(0, |s| s.max_lag_bytes);
        let writable = plan.master.as_ref().and_then(|name| observed.answering(name)).is_some_and(|s| s.writable);
        let epoch = observed.record.as_ref().map_or(0, |r| r.epoch);
        let state = State {
            has_master: writable,
            replicas_desired: self.object.spec.replicas,
            replicas_ready: plan.ready_replicas.len(),
            max_replica_lag_bytes: lag,
            epoch,
        };
        self.context.metrics.set(&self.key.0, &self.key.1, state);
    }

    // ---- for the person who watches ----

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.context.client.clone(), &self.key.0)
    }

    async fn event(&self, kind: EventType, reason: &str, note: &str) {
        tracing::info!("{}/{}: {reason}: {note}", self.key.0, self.key.1);
        publish(&self.context.recorder, &self.object.object_ref(&()), kind, reason, note);
    }

    /// A failure that may come back at every turn: told when it changes.
    async fn problem(&mut self, text: &str) {
        self.context.metrics.reconcile_errors.inc();
        if self.last_problem != text {
            self.last_problem = text.to_string();
            tracing::warn!("{}/{}: {text}", self.key.0, self.key.1);
        }
    }
}

fn is_members_change(observed: &Observed) -> bool {
    observed.record.as_ref().is_some_and(|r| matches!(r.target, Some(Target::Members { .. })))
}

/// Events are for people: nothing waits for them.
fn publish(recorder: &Recorder, about: &ObjectReference, kind: EventType, reason: &str, note: &str) {
    let event = Event {
        type_: kind,
        reason: reason.to_string(),
        note: Some(note.to_string()),
        action: reason.to_string(),
        secondary: None,
    };
    let (recorder, about) = (recorder.clone(), about.clone());
    tokio::spawn(async move {
        if let Err(error) = call(recorder.publish(&event, &about)).await {
            tracing::warn!("cannot publish an event: {error}");
        }
    });
}

/// 160 bits from the kernel's random source.
fn random_password() -> String {
    crate::local::files::random_hex::<20>()
}

/// Why a call of the API server came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer from the API server within {} s", CALL_TIMEOUT.as_secs())]
    TimedOut,
    #[error("{0}")]
    Api(#[from] kube::Error),
}

async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(CALL_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::TimedOut),
    }
}

/// What is done beside the loop, in this order: labels, objects.
#[derive(Debug)]
struct Work {
    context: Arc<Context>,
    object: ReplicatedRedis,
    pods: i32,
    password: Option<String>,
    applied: Pending,
    labels: Vec<(Arc<Pod>, Option<&'static str>)>,
}

impl Work {
    async fn run(mut self, bell: Arc<Notify>) -> Upkept {
        for (pod, role) in std::mem::take(&mut self.labels) {
            if let Err(error) = self.label(&pod, role).await {
                tracing::debug!("the role label of {}: {error}", pod.name_any());
                // In their order: the next one may be the new master's.
                break;
            }
        }
        let mut outcome = Ok(());
        let tried = self.password.is_some();
        if let Some(password) = self.password.clone() {
            let context = Arc::clone(&self.context);
            let mut applier = Applier { client: &context.client, caches: &context.caches, pending: &mut self.applied };
            outcome = applier.everything(&self.object, self.pods, &context.image, &password).await;
        }
        bell.notify_one();
        Upkept { applied: self.applied, outcome, tried }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.context.client.clone(), &self.object.namespace().unwrap_or_default())
    }

    /// With a precondition: the pod is the very one that was looked at, unchanged.
    async fn label(&self, pod: &Pod, role: Option<&str>) -> Result<(), Failure> {
        let patch = serde_json::json!({
            "metadata": {
                "uid": pod.uid(),
                "resourceVersion": pod.resource_version(),
                "labels": {ROLE_LABEL: role},
            }
        });
        call(self.api::<Pod>().patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }
}
