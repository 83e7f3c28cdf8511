//! What is told: the status, events, figures, the log.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource, ResourceExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Session, call};
use crate::api::{Phase, ReplicatedRedis, ReplicatedRedisStatus};
use crate::fault::Act;
use crate::kubernetes::objects::is_at_least;
use crate::metrics::State;
use crate::observe::Observed;
use crate::plan::Plan;
use crate::status::{Facts, PERSISTENCE, has_candidate, lag_bytes, persistence, status};

/// Between two writes of a status in which nothing but words has changed.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// While the progress of an external master's data is told.
const PROGRESS_PAUSE: Duration = Duration::from_secs(5);

/// The write of the status that is under way, and the last one.
#[derive(Debug, Default)]
pub(super) struct Report {
    write: Option<JoinHandle<Option<ReplicatedRedis>>>,
    written_at: Option<Instant>,
    /// As they are now, whether or not they could be written.
    phase: Phase,
    conditions: Vec<(String, bool)>,
    /// Whether it was last told that every save succeeds.
    saves_succeed: Option<bool>,
}

impl Session {
    /// Writes the status beside the loop, if it has changed. A write of the record waits for it: both have the same version as
    /// their precondition.
    pub(super) fn write_status(&mut self, plan: &Plan, observed: &Observed) {
        if self.report.write.is_some() || !self.context.leadership.holds() {
            return;
        }
        let Some(status) = self.wanted_status(plan, observed) else { return };
        let mut object = self.object.clone();
        object.status = Some(status);
        let (api, bell) = (self.api::<ReplicatedRedis>(), Arc::clone(&self.reports.changed));
        self.report.write = Some(tokio::spawn(async move {
            // Refused when anything has changed meanwhile: then it is made again from what is there.
            let (name, params) = (object.name_any(), PostParams::default());
            let written = Act::WriteStatus.around(call(api.replace_status(&name, &params, &object))).await;
            bell.notify_one();
            written.ok()
        }));
    }

    pub(super) async fn on_status_written(&mut self, wait: bool) {
        if !self.report.write.as_ref().is_some_and(|write| wait || write.is_finished()) {
            return;
        }
        let Some(write) = self.report.write.take() else { return };
        let Ok(Some(object)) = write.await else { return };
        let own = self.object.resource_version().unwrap_or_default();
        if is_at_least(object.resource_version(), &own) {
            self.object = object;
        }
    }

    /// Tells once that saves fail, and once that they do not any more. What an operator before this one has told is in the status.
    pub(super) async fn tell_of_saves(&mut self, observed: &Observed) {
        let said = persistence(observed);
        // An instance that does not answer, as none does to an operator that has just begun, has not saved anything.
        let is_known = !said.holds || observed.wanted.iter().all(|name| observed.answering(name).is_some());
        if !is_known || !self.context.leadership.holds() {
            return;
        }
        let told = self.object.status.iter().flat_map(|status| &status.conditions).find(|c| c.type_ == PERSISTENCE);
        let told = self.report.saves_succeed.unwrap_or(told.is_none_or(|condition| condition.status == "True"));
        if told != said.holds {
            let kind = if said.holds { EventType::Normal } else { EventType::Warning };
            self.event(kind, &said.reason, &said.message).await;
        }
        self.report.saves_succeed = Some(said.holds);
    }

    /// The status that is to be written, if one is.
    fn wanted_status(&mut self, plan: &Plan, observed: &Observed) -> Option<ReplicatedRedisStatus> {
        let mut pods = self.our_pods();
        pods.sort_by_key(|pod| self.wanted().iter().position(|name| *name == pod.name_any()).unwrap_or(usize::MAX));
        let node = |pod: &Arc<Pod>| (pod.name_any(), pod.spec.as_ref().and_then(|spec| spec.node_name.clone()));
        let facts = Facts {
            name: self.key.1.clone(),
            generation: self.object.metadata.generation,
            replicas: self.replicas(),
            nodes: pods.iter().map(node).collect(),
            leads_to: self.led_to(),
            stalled: self.problems.latest(),
            monitored: self.upkeep.monitored.clone(),
            update: self.rollouts.status.clone(),
            restart: self.rollouts.restart.clone(),
            default_image: self.default_image(),
            paused: self.paused(),
            applying: self.paused().is_none() && self.directives.are_on_their_way(),
            said: vec![self.directives.said(observed)],
            credentials: self.credentials_facts(),
            growth: self.growth(),
        };
        let before = self.object.status.clone().unwrap_or_default();
        let wanted = status(&before, &facts, observed, plan, Timestamp::now());
        self.report.phase = wanted.phase;
        self.report.conditions = wanted.conditions.iter().map(|c| (c.type_.clone(), c.status == "True")).collect();
        if wanted == before {
            return None;
        }
        let shows = |s: &ReplicatedRedisStatus| {
            (s.phase, s.current_master.clone(), s.observed_generation, s.update.state, s.default_image.clone())
        };
        let urgent = shows(&before) != shows(&wanted);
        let phase = |status: &ReplicatedRedisStatus| status.bootstrap.as_ref().map(|b| b.phase);
        let urgent = urgent || phase(&before) != phase(&wanted);
        let pause = if wanted.phase == Phase::Following { PROGRESS_PAUSE } else { STATUS_PAUSE };
        if !urgent && self.report.written_at.is_some_and(|at| at.elapsed() < pause) {
            return None;
        }
        self.report.written_at = Some(Instant::now());
        Some(wanted)
    }

    pub(super) fn measure(&self, plan: &Plan, observed: &Observed) {
        let writable = plan.master.as_ref().and_then(|name| observed.answering(name)).is_some_and(|s| s.writable);
        let epoch = observed.record.as_ref().map_or(0, |r| r.epoch);
        let state = State {
            has_master: writable,
            replicas_desired: self.replicas(),
            replicas_ready: plan.ready_replicas.len(),
            max_replica_lag_bytes: lag_bytes(observed, plan),
            epoch,
            failover_ready: has_candidate(observed, plan),
            phase: Some(self.report.phase),
            conditions: self.report.conditions.clone(),
        };
        self.context.metrics.set(&self.key.0, &self.key.1, &state);
    }

    pub(super) async fn event(&self, kind: EventType, reason: &str, note: &str) {
        self.event_with(kind, reason, note, None).await;
    }

    /// Events of one reason are counted as one for minutes, unless they are about different pods.
    pub(super) async fn event_with(&self, kind: EventType, reason: &str, note: &str, pod: Option<ObjectReference>) {
        tracing::info!("{}/{}: {reason}: {note}", self.key.0, self.key.1);
        let event = Event {
            type_: kind,
            reason: reason.to_string(),
            note: Some(note.to_string()),
            action: reason.to_string(),
            secondary: pod,
        };
        // One that is kept would count later events of the same reason as repetitions of the first, with the first one's note.
        let recorder = Recorder::new(self.context.client.clone(), self.context.reporter.clone());
        publish(recorder, &self.object.object_ref(&()), event);
    }

    /// A failure that may come back at every turn: told when it changes.
    pub(super) async fn problem(&mut self, text: &str) {
        self.context.metrics.reconcile_errors.inc();
        if self.last_problem != text {
            self.last_problem = text.to_string();
            tracing::warn!("{}/{}: {text}", self.key.0, self.key.1);
        }
    }
}

/// Events are for people: nothing waits for them.
fn publish(recorder: Recorder, about: &ObjectReference, event: Event) {
    let about = about.clone();
    tokio::spawn(async move {
        if let Err(error) = Act::PublishEvent.around(call(recorder.publish(&event, &about))).await {
            tracing::warn!("cannot publish an event: {error}");
        }
    });
}
