//! Carries out a plan: writes of the record, orders to instances, events; and follows the change that it makes.

use std::time::Duration;

use kube::Api;
use kube::api::PostParams;
use kube::runtime::events::EventType;
use tokio::time::Instant;

use super::{Failure, RETRY_PAUSE, Session, call};
use crate::api::ReplicatedRedis;
use crate::change::{Change, Kind};
use crate::fault::Act;
use crate::link::{Outcome, POLL_BUSY, POLL_QUIET};
use crate::observe::Observed;
use crate::plan::{Action, Order, Plan};
use crate::record::Record;

/// An election that takes longer than this waits for a person or a machine: no need to hurry any more.
const HURRY: Duration = Duration::from_secs(15);
const POLL_PATIENT: Duration = Duration::from_millis(200);

impl Session {
    /// Carries out the plan; says whether the record was written, so that another plan follows at once.
    pub(super) async fn apply(&mut self, plan: &Plan) -> bool {
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
                let is_warning = ["FailoverStarted", "ExternalFollowerLost", "PromotionWithdrawn"].contains(reason);
                let kind = if is_warning { EventType::Warning } else { EventType::Normal };
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
        let params = PostParams::default();
        match Act::WriteRecord.around(call(api.replace_status(&self.key.1, &params, &object))).await {
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
        let kind = match record.initialized {
            true => Kind::of(record.target.as_ref(), self.had_master, has_ended),
            false => Kind::First,
        };
        let silent_for = self.master_silent_since.map(|since| self.clock.now().saturating_sub(since));
        let since = Instant::now() - Duration::from_millis(silent_for.unwrap_or(0));
        // A change that did not come to its end goes on from where writes stopped.
        let since = self.change.as_ref().map_or(since, |change| change.since().min(since));
        self.switchover_begun |= self.switchover.take().is_some();
        self.change = Some(Change::begin(kind, old.map(|m| m.name.clone()), since));
    }

    /// Notices that a change is over, tells how long it took, and sets the pace of the questions.
    pub(super) async fn follow_change(&mut self, plan: &Plan, observed: &Observed) {
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

    pub(super) async fn on_outcome(&mut self, outcome: &Outcome) {
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
}
