//! Which pod is replaced next, if one is: a pure function, beside [`super::plan`], which alone decides roles.
//!
//! ```text
//!  replicas, one at a time ──► (Supervised: a person) ──► planned switchover (R10) ──► the old master, now a replica
//! ```
//! A pod that runs is replaced only while every other instance is well: it answers, follows, has caught up, is a member, and
//! its kubelet calls it ready. So there are never two pods down by this hand, and at each moment a failover has where to go.
//! A pod that cannot run takes nothing away when it is replaced; that is how a corrected spec gets out of a bad one.

#[cfg(test)]
mod tests;

use super::{Action, Plan};
use crate::api::{UpdateState, UpdateStatus};
use crate::observe::{Observed, Role};
use crate::record::Record;

/// A pod, as far as its replacement matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSeen {
    pub name: String,
    /// Why it has to be replaced, if it has: a few words for people.
    pub outdated: Option<String>,
    /// It is about to end.
    pub leaving: bool,
    /// Its kubelet says so.
    pub ready: bool,
    /// Why it cannot run, as its kubelet says.
    pub trouble: Option<String>,
    /// For how long it has not been well, ms.
    pub unwell_ms: u64,
}

/// What a person wants of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    pub target_revision: String,
    /// Why no pod may be replaced now, if so: reason and sentence.
    pub held: Option<(&'static str, &'static str)>,
    /// A person decides about the master.
    pub supervised: bool,
    /// And has decided: go on.
    pub approved: bool,
    pub sync_timeout_ms: u64,
    /// A pod's data ends with it.
    pub ephemeral: bool,
}

/// What to do to a pod, at most one thing at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Replace { pod: String },
    SwitchOver,
}

/// What is told, and the next step if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    pub status: UpdateStatus,
    pub step: Option<Step>,
}

/// The next step towards pods none of which is outdated. `before` is what was told last.
pub fn rollout(o: &Observed, plan: &Plan, pods: &[PodSeen], wishes: &Wishes, before: &UpdateStatus) -> Rollout {
    let rollout = Seen { o, plan, pods, wishes, before }.next();
    let updated_pods = pods.iter().filter(|pod| pod.outdated.is_none()).count();
    Rollout {
        status: UpdateStatus {
            updated_pods: i32::try_from(updated_pods).unwrap_or(i32::MAX),
            target_revision: wishes.target_revision.clone(),
            ..rollout.status
        },
        ..rollout
    }
}

/// Whether an instance is as well as it can be: nothing would be lost by another one's absence. `Err` says what is missing.
pub fn well(o: &Observed, plan: &Plan, pod: Option<&PodSeen>, name: &str) -> Result<(), String> {
    let Some(pod) = pod else { return Err(format!("{name} has no pod")) };
    let Some(record) = &o.record else { return Err("there is no master yet".into()) };
    if pod.leaving {
        return Err(format!("{name} is about to end"));
    }
    let Some(status) = o.answering(name) else { return Err(format!("{name} does not answer")) };
    let is_master = plan.master.as_deref() == Some(name) && record.master.as_ref().is_some_and(|m| m.name == name);
    if is_master && !status.writable {
        return Err(format!("{name} takes no writes yet"));
    }
    let follows = status.role == Role::Replica && status.role_epoch == record.epoch && status.link_up;
    let is_whole = status.caught_up && !status.syncing && !status.loading;
    if !(is_master || follows && is_whole) {
        return Err(format!("{name} is catching up"));
    }
    if !record.has(name, &status.volume) {
        return Err(format!("{name} is no member yet"));
    }
    if !pod.ready {
        return Err(format!("{name} is not ready"));
    }
    Ok(())
}

struct Seen<'a> {
    o: &'a Observed,
    plan: &'a Plan,
    pods: &'a [PodSeen],
    wishes: &'a Wishes,
    before: &'a UpdateStatus,
}

impl Seen<'_> {
    fn next(&self) -> Rollout {
        let outdated: Vec<&PodSeen> = self.wanted_pods().filter(|pod| pod.outdated.is_some() && !pod.leaving).collect();
        let unwell: Vec<(&str, String)> =
            self.o.wanted.iter().filter_map(|name| Some((name.as_str(), self.well(name).err()?))).collect();
        if outdated.is_empty() && (self.before.state == UpdateState::Idle || unwell.is_empty()) {
            return Rollout::default();
        }
        if let Some((reason, sentence)) = self.wishes.held.filter(|_| !outdated.is_empty()) {
            let message = format!("{sentence}; to be restarted: {}", listed(&outdated));
            return told(UpdateState::Paused, None, reason, message);
        }
        // It takes nothing away, and the new one may be able to run.
        let cannot_run = |pod: &PodSeen| pod.trouble.is_some() && self.o.answering(&pod.name).is_none();
        if let Some(pod) = outdated.iter().find(|pod| cannot_run(pod) && self.may_end(pod)) {
            return replace(pod, "it cannot run as it is");
        }
        if let Some(halted) = self.halted(&unwell) {
            return halted;
        }
        match &unwell[..] {
            [] => self.next_of_the_well(&outdated),
            // All others are well.
            [(name, why)] => match outdated.iter().find(|pod| pod.name == *name && self.has_had_its_time(pod)) {
                Some(pod) => replace(pod, "it has not become well in time"),
                None => told(UpdateState::Updating, Some(name), "WaitsForPod", format!("waiting: {why}")),
            },
            [(name, why), ..] => told(UpdateState::Updating, Some(name), "WaitsForPod", format!("waiting: {why}")),
        }
    }

    /// Nobody is unwell: a replica, or at last the master.
    fn next_of_the_well(&self, outdated: &[&PodSeen]) -> Rollout {
        if let Some(why) = self.roles_are_moving() {
            return told(UpdateState::Updating, None, "WaitsForRoles", why);
        }
        let is_master = |pod: &&&PodSeen| self.plan.master.as_ref() == Some(&pod.name);
        // The highest ordinal first, as a StatefulSet would.
        if let Some(replica) = outdated.iter().rfind(|pod| !is_master(pod)) {
            return replace(replica, "all others are well");
        }
        let Some(master) = outdated.iter().find(is_master) else { return Rollout::default() };
        if self.wishes.supervised && !self.wishes.approved {
            let how = "set the annotation replicated-redis.io/continue-update: \"true\"";
            let message = match self.o.wanted.len() {
                1 => format!("{} has no replica: writes stop while it restarts; {how}", master.name),
                _ => format!("only the master, {}, is left: move the master role, or {how}", master.name),
            };
            return told(UpdateState::Paused, Some(&master.name), "WaitsForAPerson", message);
        }
        if self.o.wanted.len() == 1 {
            return replace(master, "it has no replica that could take over, so writes stop meanwhile");
        }
        let message = format!("the master role leaves {}, the last one to be replaced", master.name);
        Rollout {
            step: Some(Step::SwitchOver),
            ..told(UpdateState::Updating, Some(&master.name), "SwitchingOver", message)
        }
    }

    /// A replaced pod does not come back: nothing else is touched. It stays so until that pod is well or outdated itself.
    fn halted(&self, unwell: &[(&str, String)]) -> Option<Rollout> {
        let current = |name: &str| self.pod(name).filter(|pod| pod.outdated.is_none());
        let (pod, reason, message) = unwell.iter().find_map(|(name, why)| {
            let pod = current(name)?;
            if let Some(trouble) = &pod.trouble {
                return Some((pod, "PodCannotRun", format!("{name} does not come back: {trouble}")));
            }
            let seconds = self.wishes.sync_timeout_ms / 1000;
            let overdue = || format!("{name} has not caught up within {seconds} s: {why}");
            self.is_overdue(pod).then(|| (pod, "SyncTimeout", overdue()))
        })?;
        let same = self.before.state == UpdateState::Halted && self.before.pod.as_ref() == Some(&pod.name);
        // What a kubelet says changes from one attempt to the next: told once.
        Some(match same && self.before.target_revision == self.wishes.target_revision {
            true => Rollout { status: self.before.clone(), step: None },
            false => told(UpdateState::Halted, Some(&pod.name), reason, message),
        })
    }

    /// Roles or members are changing, or are about to.
    fn roles_are_moving(&self) -> Option<String> {
        let record = self.o.record.as_ref()?;
        let is_settled = |record: &Record| record.target.is_none() && record.previous.is_none();
        let writes = self.plan.actions.iter().any(|action| matches!(action, Action::WriteRecord(_)));
        (!is_settled(record) || writes || self.o.switchover.is_some()).then(|| "waiting for roles to settle".into())
    }

    /// Whether its end loses no data that might be the only one.
    fn may_end(&self, pod: &PodSeen) -> bool {
        let has_master = self.plan.master.as_ref().and_then(|name| self.o.answering(name)).is_some_and(|s| s.writable);
        let is_master = self.plan.master.as_ref() == Some(&pod.name);
        let empty = self.o.record.as_ref().is_none_or(|record| !record.initialized);
        empty || !self.wishes.ephemeral || (has_master && !is_master)
    }

    /// A replica, or a master alone, that has not become well for long: what it does is of no use.
    fn has_had_its_time(&self, pod: &PodSeen) -> bool {
        let is_master = self.plan.master.as_ref() == Some(&pod.name);
        self.is_overdue(pod) && self.may_end(pod) && (!is_master || self.o.wanted.len() == 1)
    }

    fn is_overdue(&self, pod: &PodSeen) -> bool {
        pod.unwell_ms > self.wishes.sync_timeout_ms
    }

    fn well(&self, name: &str) -> Result<(), String> {
        well(self.o, self.plan, self.pod(name), name)
    }

    fn pod(&self, name: &str) -> Option<&PodSeen> {
        self.pods.iter().find(|pod| pod.name == name)
    }

    fn wanted_pods(&self) -> impl Iterator<Item = &PodSeen> {
        self.o.wanted.iter().filter_map(|name| self.pod(name))
    }
}

fn told(state: UpdateState, pod: Option<&str>, reason: &str, message: String) -> Rollout {
    let status =
        UpdateStatus { state, pod: pod.map(String::from), reason: reason.into(), message, ..UpdateStatus::default() };
    Rollout { status, step: None }
}

fn replace(pod: &PodSeen, because: &str) -> Rollout {
    let why = pod.outdated.as_deref().unwrap_or_default();
    let message = format!("replacing {} ({why}): {because}", pod.name);
    Rollout {
        step: Some(Step::Replace { pod: pod.name.clone() }),
        ..told(UpdateState::Updating, Some(&pod.name), "ReplacingPod", message)
    }
}

fn listed(pods: &[&PodSeen]) -> String {
    let one = |pod: &&PodSeen| format!("{} ({})", pod.name, pod.outdated.as_deref().unwrap_or_default());
    pods.iter().map(one).collect::<Vec<_>>().join(", ")
}
