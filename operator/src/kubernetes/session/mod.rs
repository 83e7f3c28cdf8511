//! The loop of one datastore on Kubernetes: observe → plan → apply, again whenever something has happened.
//!
//! Nothing here decides a role: [`crate::plan::plan`] does. The record lives in the object's status and is written with its
//! resourceVersion as precondition; while that write is under way nothing else is done. Orders to instances (leases among
//! them) go over connections of our own and do not wait for the API server; objects, labels and the status are brought up to
//! date beside the loop, so that a slow API server cannot take a master its lease.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the loop, and the object as it was read |
//! | `directives.rs` | `spec.config`, asked about and brought to those who run |
//! | `observe.rs` | conversations with pods, what proves an end |
//! | `rollout.rs` | rolling updates, the image, Paused |
//! | `password.rs` | the Secret with the password, and how a new one replaces the old one |
//! | `wishes.rs` | annotations by which a person asks for something |
//! | `external.rs` | the external master that a new datastore follows |
//! | `fence.rs` | instances that a person has taken out of service |
//! | `apply.rs` | the record, orders, events of a plan; how long a change takes |
//! | `upkeep.rs` | role labels and objects, beside the loop |
//! | `storage.rs` | how claims grow |
//! | `report.rs` | status, events, figures |

mod apply;
mod directives;
mod external;
mod fence;
mod observe;
mod password;
mod report;
mod rollout;
mod storage;
mod upkeep;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Resource, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use self::directives::Directives;
use self::external::Source;
use self::password::PasswordWatch;
use self::report::Report;
use self::rollout::Rollouts;
use self::storage::Storage;
use self::upkeep::Upkeep;
use super::Context;
use super::caches::Key;
use super::objects::is_at_least;
use super::pod::{PodInstance, Reports, Witness};
use crate::api::ReplicatedRedis;
use crate::change::Change;
use crate::clock::Clock;
use crate::link::{Credentials, POLL_BUSY};
use crate::passwords::Passwords;
use crate::plan::plan;
use crate::record::Record;
use crate::resources::Pool;
use crate::tenure::{Tenure, instance_names};

pub use self::external::PROMOTE;
pub use self::fence::{FENCED, fenced_instances};
pub use self::rollout::CONTINUE_UPDATE;
pub use self::wishes::{ALLOW_DATA_LOSS, SWITCHOVER};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two plans at least, when nothing has happened.
const WAKE_MIN: Duration = Duration::from_millis(5);
/// Pause after a failed call, before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// One datastore.
#[derive(Debug)]
pub(super) struct Session {
    context: Arc<Context>,
    key: Key,
    object: ReplicatedRedis,
    clock: Clock,
    tenure: Tenure,
    passwords: Option<Passwords>,
    /// The same, for the conversations.
    credentials: watch::Sender<Credentials>,
    password_watch: Option<PasswordWatch>,
    source: Source,
    fenced: BTreeSet<String>,

    pods: BTreeMap<String, PodInstance>,
    absent_since: BTreeMap<String, u64>,
    witness: Option<Witness>,
    ended_pods: mpsc::UnboundedReceiver<Pod>,

    change: Option<Change>,
    /// This operator has seen a master that took writes.
    had_master: bool,
    switchover: Option<(Option<String>, Instant)>,
    /// The one that was asked for is in the record.
    switchover_begun: bool,
    retry_at: Option<Instant>,
    /// A write of the record failed, and the object was not read since.
    unsure: bool,
    last_problem: String,
    problems: Problems,

    rollouts: Rollouts,
    directives: Directives,
    upkeep: Upkeep,
    report: Report,
    storage: Storage,
    began: Instant,
    master_silent_since: Option<u64>,

    reports: Reports,
    pace: watch::Sender<Duration>,
}

/// Why the spec cannot be carried out: by theme, a machine-readable reason and a sentence. Each theme tells of its own only.
#[derive(Debug, Default)]
struct Problems(Vec<(&'static str, &'static str, String)>);

impl Problems {
    fn set(&mut self, theme: &'static str, reason: &'static str, message: String) {
        self.clear(theme);
        self.0.push((theme, reason, message));
    }

    fn clear(&mut self, theme: &'static str) {
        self.0.retain(|(own, ..)| *own != theme);
    }

    fn of(&self, theme: &str) -> Option<String> {
        self.0.iter().find(|(own, ..)| *own == theme).map(|(.., message)| message.clone())
    }

    /// The one that a person is told of: the latest.
    fn latest(&self) -> Option<(&'static str, String)> {
        self.0.last().map(|(_, reason, message)| (*reason, message.clone()))
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
            passwords: None,
            credentials: watch::channel(Credentials::default()).0,
            password_watch: None,
            source: Source::default(),
            fenced: BTreeSet::new(),
            pods: BTreeMap::new(),
            absent_since: BTreeMap::new(),
            witness: None,
            ended_pods,
            change: None,
            had_master: false,
            switchover: None,
            switchover_begun: false,
            retry_at: None,
            unsure: false,
            last_problem: String::new(),
            problems: Problems::default(),
            rollouts: Rollouts::of(object.status.as_ref()),
            directives: Directives::default(),
            upkeep: Upkeep::default(),
            report: Report::default(),
            storage: Storage::default(),
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
        let _timer = self.context.metrics.reconcile_duration.start_timer();
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
        self.hear_promotion().await;
        self.hear_fence().await;
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
        self.configure(&observed).await;
        self.roll_out(&plan, &observed).await;
        self.tell_external(&observed, &plan).await;
        self.follow_growth().await;
        self.keep_up(&plan, &observed);
        self.tell_of_saves(&observed).await;
        self.write_status(&plan, &observed);
        self.measure(&plan, &observed);
        Some(Duration::from_millis(plan.wake_ms).max(WAKE_MIN))
    }

    fn record(&self) -> Option<&Record> {
        self.object.status.as_ref().and_then(|s| s.record.as_ref())
    }

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

    fn wanted(&self) -> Vec<String> {
        instance_names(&self.key.1, self.replicas())
    }

    /// Replicas that are wanted now: while all is paused those that there are.
    fn replicas(&self) -> i32 {
        let name = format!("{}-{}", self.key.1, Pool::Replica.as_str());
        let set = self.paused().and_then(|_| self.context.caches.stateful_sets.get(&self.key.0, &name));
        let there_are = set.and_then(|set| set.spec.as_ref()?.replicas);
        there_are.unwrap_or(self.object.spec.replicas)
    }

    fn may_call(&self) -> bool {
        self.retry_at.is_none_or(|at| Instant::now() >= at)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.context.client.clone(), &self.key.0)
    }
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
