//! Rolling updates: what [`crate::plan::rollout`] decides about pods is told and carried out here, beside the loop.
//!
//! A pod is evicted, not deleted: the API server counts it against the PodDisruptionBudget in the same step, so a drain at the
//! same moment and this cannot take two. The uid of the pod that was looked at is the precondition. Its version is not: the
//! API server charges the budget before it looks at it, and an eviction that it then refuses blocks the budget for two minutes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, EvictParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Failure, RETRY_PAUSE, Session, call};
use crate::api::{DefaultImage, Reconciliation, StorageType, UpdateState, UpdateStatus, UpdateStrategy};
use crate::fault::Act;
use crate::kubernetes::pod;
use crate::observe::Observed;
use crate::plan::Plan;
use crate::plan::rollout::{PodSeen, Step, Wishes, rollout, well};
use crate::resources::{self, Pool};

/// Annotation by which a person lets a supervised update go on to the master: `true`. It is taken off when the update is over.
pub const CONTINUE_UPDATE: &str = "replicated-redis.io/continue-update";

/// What is known of the update, besides the pods themselves.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    /// As it was told last.
    pub(super) status: UpdateStatus,
    /// Pods that need a restart, and why.
    pub(super) restart: Option<String>,
    /// The master role is to move now.
    pub(super) switch_over: bool,
    /// The revision of the object's version with this image: it is asked for at every turn.
    revision: Option<(Option<String>, String, String)>,
    /// By the uid of the pod.
    unwell_since: BTreeMap<String, u64>,
    replacing: Option<Replacing>,
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Replacing {
    pod: String,
    uid: String,
    about: ObjectReference,
    /// What is told when it has been evicted.
    why: String,
    task: Option<JoinHandle<Result<(), Failure>>>,
}

impl Rollouts {
    pub(super) fn of(status: Option<&crate::api::ReplicatedRedisStatus>) -> Rollouts {
        Rollouts { status: status.map(|s| s.update.clone()).unwrap_or_default(), ..Rollouts::default() }
    }

    /// Roles stay where they are put, and nobody is in a hurry home.
    pub(super) fn is_under_way(&self) -> bool {
        self.status.state != UpdateState::Idle
    }
}

impl Session {
    /// The image of the server. `None` until the one that this datastore keeps is in its status: another operator, with
    /// another default, would not know it otherwise.
    pub(super) fn image(&self) -> Option<String> {
        let kept = self.object.status.as_ref().and_then(|status| status.default_image.clone());
        self.object.spec.image.clone().or(kept)
    }

    /// The image for the status: what this datastore keeps while its spec names none.
    pub(super) fn default_image(&self) -> Option<String> {
        let own = || self.context.image.clone();
        let kept = self.object.status.as_ref().and_then(|status| status.default_image.clone());
        match self.object.spec.update.default_image {
            _ if self.object.spec.image.is_some() => None,
            DefaultImage::Keep => kept.or_else(|| Some(own())),
            DefaultImage::Follow => Some(own()),
        }
    }

    /// Why nothing is changed, if so.
    pub(super) fn paused(&self) -> Option<&'static str> {
        (self.object.spec.reconciliation == Reconciliation::Paused)
            .then_some("spec.reconciliation is Paused: objects, pods and settings stay as they are; roles are served")
    }

    /// Takes the next step of a rolling update, if there is one to take.
    pub(super) async fn roll_out(&mut self, plan: &Plan, observed: &Observed) {
        let Some(image) = self.image() else { return };
        if !self.context.leadership.holds() {
            return;
        }
        self.on_replaced().await;
        if self.paused().is_none() && !self.directives.are_known(observed) {
            return;
        }
        let revision = self.revision(&image);
        let pods = self.our_pods();
        let seen = self.look_at(&pods, plan, observed, &revision, &image);
        let outdated = seen.iter().filter_map(|pod| Some(format!("{} ({})", pod.name, pod.outdated.as_ref()?)));
        let outdated: Vec<String> = outdated.collect();
        self.rollouts.restart = (!outdated.is_empty()).then(|| outdated.join(", "));
        let wishes = self.update_wishes(&revision);
        let decided = rollout(observed, plan, &seen, &wishes, &self.rollouts.status);
        let before = std::mem::replace(&mut self.rollouts.status, decided.status);
        if let Some((kind, reason)) = news(&before, &self.rollouts.status) {
            let note = match reason {
                "RolloutStarted" => format!("to be restarted: {}", outdated.join(", ")),
                "RolloutCompleted" => format!("every pod runs as the spec says (revision {revision})"),
                _ => self.rollouts.status.message.clone(),
            };
            self.event(kind, reason, &note).await;
        }
        self.rollouts.switch_over = decided.step == Some(Step::SwitchOver);
        match decided.step {
            Some(Step::SwitchOver) => self.reports.changed.notify_one(),
            Some(Step::Replace { pod }) => {
                if let Some(pod) = pods.iter().find(|seen| seen.name_any() == pod) {
                    self.replace(pod, &revision).await;
                }
            }
            None => {}
        }
    }

    fn revision(&mut self, image: &str) -> String {
        let version = self.object.resource_version();
        match &self.rollouts.revision {
            Some((of, with, revision)) if *of == version && with == image => revision.clone(),
            _ => {
                let revision = resources::revision(&self.object, image);
                self.rollouts.revision = Some((version, image.to_string(), revision.clone()));
                revision
            }
        }
    }

    fn update_wishes(&self, revision: &str) -> Wishes {
        let spec = &self.object.spec;
        let held = match spec.reconciliation {
            Reconciliation::Enabled => None,
            Reconciliation::Paused => self.paused().map(|sentence| ("Paused", sentence)),
            Reconciliation::NoRestarts => Some(("NoRestarts", "spec.reconciliation is NoRestarts")),
        };
        Wishes {
            target_revision: revision.to_string(),
            held,
            supervised: spec.update.strategy == UpdateStrategy::Supervised,
            approved: self.object.annotations().get(CONTINUE_UPDATE).is_some_and(|value| value == "true"),
            sync_timeout_ms: u64::from(spec.update.sync_timeout_seconds) * 1000,
            ephemeral: spec.storage.kind == StorageType::EmptyDir,
        }
    }

    fn look_at(
        &mut self,
        pods: &[Arc<Pod>],
        plan: &Plan,
        observed: &Observed,
        revision: &str,
        image: &str,
    ) -> Vec<PodSeen> {
        let now = self.clock.now();
        let uids: Vec<String> = pods.iter().filter_map(|pod| pod.uid()).collect();
        self.rollouts.unwell_since.retain(|uid, _| uids.contains(uid));
        let mut seen = Vec::new();
        for pod in pods {
            let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
            let replaced = self.rollouts.replacing.as_ref().is_some_and(|replacing| replacing.uid == uid);
            let incarnation = observed.answering(&name).map(|status| status.incarnation.as_str());
            let is_of_it = resources::revision_of(pod) == Some(revision);
            let mut one = PodSeen {
                outdated: match is_of_it {
                    true => incarnation.and_then(|incarnation| self.directives.restart(&name, incarnation)),
                    false => Some(pod::difference(pod, image)),
                },
                leaving: pod.meta().deletion_timestamp.is_some() || replaced,
                ready: pod::is_ready(pod),
                trouble: pod::trouble(pod),
                unwell_ms: 0,
                name,
            };
            if well(observed, plan, Some(&one), &one.name).is_ok() {
                self.rollouts.unwell_since.remove(&uid);
            } else {
                one.unwell_ms = now.saturating_sub(*self.rollouts.unwell_since.entry(uid).or_insert(now));
            }
            seen.push(one);
        }
        seen
    }

    /// The pod's StatefulSet makes the next one, of the revision that it holds.
    async fn replace(&mut self, pod: &Pod, revision: &str) {
        let may_retry = self.rollouts.retry_at.is_none_or(|at| Instant::now() >= at);
        let is_true = self.directives.are_in_force() && self.has_template(pod, revision);
        if !may_retry || self.rollouts.replacing.is_some() || !is_true {
            return;
        }
        let (name, uid) = (pod.name_any(), pod.uid());
        let (api, bell) = (self.api::<Pod>(), Arc::clone(&self.reports.changed));
        let the_very_one = Preconditions { uid: uid.clone(), resource_version: None };
        let options = DeleteParams { preconditions: Some(the_very_one), ..DeleteParams::default() };
        let params = EvictParams { delete_options: Some(options), ..EvictParams::default() };
        let task = tokio::spawn({
            let name = name.clone();
            async move {
                let evicted = Act::Evict.around(call(api.evict(&name, &params))).await.map(drop);
                bell.notify_one();
                evicted
            }
        });
        let about = pod.object_ref(&());
        let uid = uid.unwrap_or_default();
        let why = self.rollouts.status.message.clone();
        self.rollouts.replacing = Some(Replacing { pod: name, uid, about, why, task: Some(task) });
    }

    /// Whether the StatefulSet of `pod` would make one of that revision now.
    fn has_template(&self, pod: &Pod, revision: &str) -> bool {
        let pool = match pod.labels().get(resources::POOL_LABEL).map(String::as_str) {
            Some("master") => Pool::Master,
            _ => Pool::Replica,
        };
        let name = format!("{}-{}", self.key.1, pool.as_str());
        let Some(set) = self.context.caches.stateful_sets.get(&self.key.0, &name) else { return false };
        let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref());
        let seen_by_its_controller =
            set.status.as_ref().and_then(|status| status.observed_generation) >= set.meta().generation;
        seen_by_its_controller
            && template.and_then(|map| map.get(resources::REVISION)).map(String::as_str) == Some(revision)
    }

    async fn on_replaced(&mut self) {
        let Some(replacing) = self.rollouts.replacing.as_mut() else { return };
        if replacing.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        match replacing.task.take() {
            Some(task) => {
                let (name, about, why) = (replacing.pod.clone(), replacing.about.clone(), replacing.why.clone());
                match task.await {
                    Ok(Ok(())) => {
                        self.event_with(EventType::Normal, "PodReplaced", &why, Some(about)).await;
                    }
                    Ok(Err(error)) => {
                        // The budget, a drain, or a pod that has just changed: looked at again.
                        self.rollouts.replacing = None;
                        self.rollouts.retry_at = Some(Instant::now() + RETRY_PAUSE);
                        self.problem(&format!("cannot evict {name}: {error}")).await;
                    }
                    Err(_) => self.rollouts.replacing = None,
                }
            }
            // Until it is seen to go: the caches may be behind.
            None => {
                let uid = replacing.uid.clone();
                let stays =
                    |pod: &Arc<Pod>| pod.uid().as_ref() == Some(&uid) && pod.meta().deletion_timestamp.is_none();
                if !self.our_pods().iter().any(stays) {
                    self.rollouts.replacing = None;
                }
            }
        }
    }

    /// Whether a person's approval has done its work.
    pub(super) fn approval_is_over(&self) -> bool {
        self.object.annotations().contains_key(CONTINUE_UPDATE) && !self.rollouts.is_under_way()
    }
}

/// What is told of a change, once.
fn news(before: &UpdateStatus, after: &UpdateStatus) -> Option<(EventType, &'static str)> {
    let same_reason = (&before.reason, &before.pod) == (&after.reason, &after.pod);
    let same_target = before.target_revision == after.target_revision;
    match (before.state, after.state) {
        (UpdateState::Idle, UpdateState::Idle) => None,
        (UpdateState::Idle, UpdateState::Updating) => Some((EventType::Normal, "RolloutStarted")),
        (UpdateState::Updating, UpdateState::Updating) if same_target => None,
        (UpdateState::Updating, UpdateState::Updating) => Some((EventType::Normal, "RolloutStarted")),
        (UpdateState::Paused | UpdateState::Halted, UpdateState::Updating) => {
            Some((EventType::Normal, "RolloutResumed"))
        }
        (UpdateState::Paused, UpdateState::Paused) | (UpdateState::Halted, UpdateState::Halted) if same_reason => None,
        (_, UpdateState::Paused) => Some((EventType::Normal, "RolloutPaused")),
        (_, UpdateState::Halted) => Some((EventType::Warning, "RolloutHalted")),
        (_, UpdateState::Idle) => Some((EventType::Normal, "RolloutCompleted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let status = |state, reason: &str, target: &str| UpdateStatus {
            state,
            reason: reason.into(),
            target_revision: target.into(),
            ..UpdateStatus::default()
        };
        let path = [
            (status(UpdateState::Idle, "", "1"), None),
            (status(UpdateState::Updating, "ReplacingPod", "2"), Some("RolloutStarted")),
            (status(UpdateState::Updating, "WaitsForPod", "2"), None),
            (status(UpdateState::Halted, "PodCannotRun", "2"), Some("RolloutHalted")),
            (status(UpdateState::Halted, "PodCannotRun", "2"), None),
            (status(UpdateState::Updating, "ReplacingPod", "3"), Some("RolloutResumed")),
            (status(UpdateState::Paused, "WaitsForAPerson", "3"), Some("RolloutPaused")),
            (status(UpdateState::Updating, "SwitchingOver", "3"), Some("RolloutResumed")),
            (status(UpdateState::Idle, "", "3"), Some("RolloutCompleted")),
            (status(UpdateState::Paused, "NoRestarts", "4"), Some("RolloutPaused")),
        ];
        let mut before = UpdateStatus::default();
        for (after, told) in path {
            assert_eq!(news(&before, &after).map(|(_, reason)| reason), told, "{before:?} to {after:?}");
            before = after;
        }
    }
}
