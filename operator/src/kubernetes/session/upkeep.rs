//! Beside the loop: role labels and objects are brought up to date in a task of their own, so that a slow API server cannot
//! take a master its lease.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Failure, RETRY_PAUSE, Session, call};
use crate::api::ReplicatedRedis;
use crate::fault::Act;
use crate::kubernetes::Context;
use crate::kubernetes::claims::{self, Asked};
use crate::kubernetes::extras::{self, Monitored};
use crate::kubernetes::objects::{Applier, ApplyError, Pending};
use crate::observe::{Observed, Role};
use crate::passwords::Passwords;
use crate::plan::Plan;
use crate::record::Target;
use crate::resources::{self, ROLE_LABEL};

/// The part of a datastore's problems that is told here: see [`super::Problems`].
const THEME: &str = "objects";

/// Between two attempts to make what the cluster has no kind for.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// The work beside the loop, and what it has come to.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    task: Option<JoinHandle<Upkept>>,
    retry_at: Option<Instant>,
    applied: Pending,
    extras: Pending,
    /// What has come of `spec.monitoring`, and when it was tried.
    pub(super) monitored: Monitored,
    tried_at: Option<Instant>,
    kept: Option<Inputs>,
}

/// What the objects are made from, and the version of what is there: while all of it is the same, nothing needs to be done.
#[derive(Debug, PartialEq)]
struct Inputs {
    generation: Option<i64>,
    pods: i32,
    restarted_at: Option<String>,
    image: Option<String>,
    config: bool,
    passwords: Option<Passwords>,
    leads_to: Option<String>,
    seen: u64,
}

/// What the work beside the loop has come to.
#[derive(Debug)]
struct Upkept {
    applied: Pending,
    extras: Pending,
    monitored: Monitored,
    outcome: Result<(), ApplyError>,
    /// The objects were tried: `outcome` says whether the spec can be carried out.
    tried: bool,
    asked: Asked,
}

impl Session {
    /// Starts the work on objects, labels and status, unless it is under way.
    pub(super) fn keep_up(&mut self, plan: &Plan, observed: &Observed) {
        if self.upkeep.task.is_some() || !self.context.leadership.holds() {
            return;
        }
        let may_retry = self.upkeep.retry_at.is_none_or(|at| Instant::now() >= at);
        let inputs = Inputs {
            generation: self.object.metadata.generation,
            pods: resources::replica_pods(&self.key.1, self.object.spec.replicas, self.record()),
            restarted_at: self.object.annotations().get(resources::RESTARTED_AT).cloned(),
            image: self.image(),
            config: self.may_write_config(observed),
            passwords: self.passwords.clone().filter(|_| self.paused().is_none()),
            leads_to: self.master_service_leads_to(plan, observed),
            seen: self.context.caches.hub.seen(&self.key),
        };
        let labels = self.wanted_labels(plan, observed);
        // Kinds that were not installed may be by now.
        let again = matches!(self.upkeep.monitored, Some(Err(_)))
            && self.upkeep.tried_at.is_none_or(|at| at.elapsed() > TRY_AGAIN);
        let again = again || self.storage.may_ask_again();
        let nothing_new = self.upkeep.kept.as_ref() == Some(&inputs) && !again;
        if labels.is_empty() && (nothing_new || !may_retry) {
            return;
        }
        let work = Work {
            context: Arc::clone(&self.context),
            object: self.object.clone(),
            pods: inputs.pods,
            image: inputs.image.clone(),
            config: inputs.config,
            passwords: inputs.passwords.clone(),
            leads_to: inputs.leads_to.clone(),
            applied: std::mem::take(&mut self.upkeep.applied),
            extras: std::mem::take(&mut self.upkeep.extras),
            labels,
        };
        let bell = Arc::clone(&self.reports.changed);
        self.upkeep.kept = Some(inputs);
        self.upkeep.tried_at = Some(Instant::now());
        self.upkeep.task = Some(tokio::spawn(work.run(bell)));
    }

    pub(super) async fn on_upkept(&mut self) {
        if !self.upkeep.task.as_ref().is_some_and(JoinHandle::is_finished) {
            return;
        }
        let Some(done) = self.upkeep.task.take() else { return };
        let Ok(done) = done.await else { return };
        self.upkeep.applied = done.applied;
        self.upkeep.extras = done.extras;
        if done.tried {
            self.on_asked(done.asked).await;
        }
        // What did not get so far says nothing of it.
        if done.tried && (done.monitored.is_some() || !self.object.spec.monitoring.is_on()) {
            self.tell_of_monitoring(done.monitored).await;
        }
        match done.outcome {
            Ok(()) => {
                self.upkeep.retry_at = None;
                if done.tried {
                    self.problems.clear(THEME);
                }
            }
            Err(ApplyError::Spec { reason, message }) => self.problems.set(THEME, reason, message),
            Err(error @ ApplyError::Api { .. }) => {
                self.upkeep.retry_at = Some(Instant::now() + RETRY_PAUSE);
                self.upkeep.kept = None;
                if let ApplyError::Api { error: api, .. } = &error
                    && matches!(&**api, kube::Error::Api(status) if status.is_invalid())
                {
                    self.problems.set(THEME, "ObjectRefused", error.to_string());
                }
                self.problem(&error.to_string()).await;
            }
        }
    }

    /// Where NAME-master leads: to the one that the record names, from then on, so that clients find the way while it is being
    /// promoted; during an election to the heir, or where it led before. A former master refuses writes by itself, and serves
    /// those that only read. Before the first one, who follows an external master serves these.
    fn master_service_leads_to(&self, plan: &Plan, observed: &Observed) -> Option<String> {
        let named = if observed.external_is_followed() {
            let follows = |name: &&String| observed.answering(name).is_some_and(|s| s.role == Role::Replica);
            plan.master.as_ref().filter(follows)
        } else {
            let settled = observed.record.as_ref().filter(|record| record.target.is_none());
            settled.and_then(|record| Some(&record.master.as_ref()?.name))
        };
        named.or(plan.heir.as_ref()).cloned().or_else(|| self.led_to())
    }

    /// Where it leads as far as this operator has seen.
    pub(super) fn led_to(&self) -> Option<String> {
        let service = self.context.caches.services.get(&self.key.0, &format!("{}-master", self.key.1))?;
        resources::leads_to(&service).map(str::to_string)
    }

    async fn tell_of_monitoring(&mut self, monitored: Monitored) {
        if let Some(Err((reason, message))) = &monitored
            && self.upkeep.monitored != monitored
        {
            self.event(EventType::Warning, reason, &format!("spec.monitoring: {message}")).await;
        }
        self.upkeep.monitored = monitored;
    }

    /// Pods whose role label is not what it should be, those that lose it first: there is one master label at most.
    fn wanted_labels(&self, plan: &Plan, observed: &Observed) -> Vec<(Arc<Pod>, Option<&'static str>)> {
        let label = |name: &str| match observed.answering(name).map(|s| s.role) {
            _ if plan.master.as_deref() == Some(name) => {
                let promoted = observed.instances.get(name).and_then(|i| i.status.as_ref());
                // A master that is silent for a moment keeps it.
                // Before the first one, who follows an external master is what clients read from.
                promoted.is_none_or(|s| s.role == Role::Master || observed.external_is_followed()).then_some("master")
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
}

fn is_members_change(observed: &Observed) -> bool {
    observed.record.as_ref().is_some_and(|r| matches!(r.target, Some(Target::Members { .. })))
}

/// What is done beside the loop, in this order: the master Service, labels, objects.
#[derive(Debug)]
struct Work {
    context: Arc<Context>,
    object: ReplicatedRedis,
    pods: i32,
    image: Option<String>,
    /// Whether the ConfigMap is written too.
    config: bool,
    /// `None` while there is none, or while nothing is to be changed.
    passwords: Option<Passwords>,
    leads_to: Option<String>,
    applied: Pending,
    extras: Pending,
    labels: Vec<(Arc<Pod>, Option<&'static str>)>,
}

impl Work {
    async fn run(mut self, bell: Arc<Notify>) -> Upkept {
        let context = Arc::clone(&self.context);
        let mut applied = std::mem::take(&mut self.applied);
        let mut applier = Applier { client: &context.client, caches: &context.caches, pending: &mut applied };
        let mut outcome = applier.master_service(&self.object, self.leads_to.as_deref()).await;
        for (pod, role) in std::mem::take(&mut self.labels) {
            if let Err(error) = self.label(&pod, role).await {
                tracing::debug!("the role label of {}: {error}", pod.name_any());
                // In their order: the next one may be the new master's.
                break;
            }
        }
        let tried = self.passwords.is_some() && self.image.is_some();
        let mut monitored = None;
        if let (Some(passwords), Some(image), true) = (&self.passwords, &self.image, outcome.is_ok()) {
            outcome = applier.everything(&self.object, self.pods, image, self.config, passwords).await;
            let fenced;
            (fenced, monitored) =
                extras::apply(&context.extras, &self.object, &context.namespace, &mut self.extras).await;
            outcome = outcome.and(fenced);
        }
        let asked = match tried {
            true => claims::keep(&context.client, &context.caches, &self.object).await,
            false => Asked::default(),
        };
        bell.notify_one();
        Upkept { applied, extras: self.extras, monitored, outcome, tried, asked }
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
        let (api, name, params) = (self.api::<Pod>(), pod.name_any(), PatchParams::default());
        Act::Label.around(call(api.patch(&name, &params, &Patch::Merge(patch)))).await.map(drop)
    }
}
