//! What a person reads, made from what was observed and planned. Pure.
//!
//! Everything in it changes with a transition only, never with the traffic, so that a datastore that is well is not written
//! about (the lag is given in powers of two).

mod bootstrap;

pub use bootstrap::bootstrap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::api::{
    AuthStatus, BootstrapPhase, BootstrapStatus, InstanceStatus, Phase, ReplicatedRedisStatus, UpdateState,
    UpdateStatus,
};
use crate::observe::{Instance, Observed, Role};
use crate::plan::Plan;
use crate::record::Target;
use crate::resources::replica_selector;
use crate::storage::Growth;

/// The condition of [`persistence`].
pub const PERSISTENCE: &str = "PersistenceHealthy";
const SAVE_FAILED: &str = "SaveFailed";
/// Below this a lag is 0.
const LAG_SHOWN_BYTES: u64 = 1 << 20;

/// What is known besides the observation.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub name: String,
    pub generation: Option<i64>,
    /// Wanted replicas, as in the spec.
    pub replicas: i32,
    /// Instances and their nodes, as far as there are pods.
    pub nodes: Vec<(String, Option<String>)>,
    /// The instance that the master Service leads to.
    pub leads_to: Option<String>,
    /// Why the spec cannot be carried out: a machine-readable reason and a sentence.
    pub stalled: Option<(&'static str, String)>,
    /// What has come of `spec.monitoring`, where it asks for anything: a sentence, or a reason and a sentence.
    pub monitored: Option<Result<String, (&'static str, String)>>,
    pub update: UpdateStatus,
    /// Pods that need a restart, and why.
    pub restart: Option<String>,
    /// Image of the server while the spec names none.
    pub default_image: Option<String>,
    /// Why nothing is changed, if so.
    pub paused: Option<&'static str>,
    /// The objects are not yet what the spec says.
    pub applying: bool,
    /// Conditions of other themes.
    pub said: Vec<Said>,
    pub credentials: CredentialsFacts,
    pub growth: Growth,
}

/// What is known of the passwords, without any of them.
#[derive(Debug, Clone, Default)]
pub struct CredentialsFacts {
    /// Name of the Secret that says which password is wanted.
    pub secret: String,
    /// Why it cannot be used.
    pub missing: Option<String>,
    pub fingerprint: Option<String>,
    /// Instances are being told of a new password.
    pub is_rotating: bool,
    /// Until when an earlier password is valid, Unix s.
    pub previous_until_s: Option<i64>,
    /// Instances that answer and do not know all passwords yet.
    pub not_told: Vec<String>,
    /// Instances that take none of the passwords that are known.
    pub shut_out: Vec<String>,
}

/// A moment for people, by its Unix second.
pub fn moment(unix_s: i64) -> Timestamp {
    Timestamp::from_second(unix_s).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The status that follows `before`. Its record is that of `before`: this is about what people read.
pub fn status(
    before: &ReplicatedRedisStatus,
    facts: &Facts,
    observed: &Observed,
    plan: &Plan,
    now: Timestamp,
) -> ReplicatedRedisStatus {
    let record = observed.record.as_ref();
    let master = plan.master.as_ref().and_then(|name| observed.answering(name));
    let writable = master.is_some_and(|s| s.writable && !s.save_stops_writes);
    let ready_replicas = plan.ready_replicas.iter().filter(|name| observed.wanted.contains(name)).count();
    let ready_replicas = i32::try_from(ready_replicas).unwrap_or(i32::MAX);
    let current_master = record.and_then(|r| r.master.as_ref()).map(|m| m.name.clone());
    let master_since = match &current_master {
        Some(_) if before.current_master == current_master => before.master_since.clone(),
        Some(_) => Some(Time(now)),
        None => None,
    };
    let bootstrap = bootstrap(before.bootstrap.as_ref(), observed, plan);
    let mut conditions = conditions(facts, observed, plan, writable, ready_replicas);
    conditions.extend(bootstrap.as_ref().map(bootstrapped));
    conditions.extend(fenced(observed));
    ReplicatedRedisStatus {
        observed_generation: facts.generation,
        phase: phase(facts, observed, plan, writable, ready_replicas),
        replicas: i32::try_from(facts.nodes.len().saturating_sub(1)).unwrap_or(i32::MAX),
        ready_replicas,
        replica_summary: format!("{ready_replicas}/{}", facts.replicas),
        selector: replica_selector(&facts.name),
        current_master,
        master_since,
        max_lag_bytes: lag(observed, plan),
        update: facts.update.clone(),
        default_image: facts.default_image.clone(),
        instances: facts.nodes.iter().map(|(name, node)| instance(name, node.as_ref(), observed)).collect(),
        conditions: conditions.into_iter().map(|c| dated(c, before, facts.generation, now)).collect(),
        auth: facts.credentials.fingerprint.clone().map(|applied_secret_hash| AuthStatus {
            applied_secret_hash,
            previous_valid_until: facts.credentials.previous_until_s.map(|until| Time(moment(until))),
        }),
        bootstrap,
        record: before.record.clone(),
    }
}

fn phase(facts: &Facts, observed: &Observed, plan: &Plan, writable: bool, ready_replicas: i32) -> Phase {
    let record = observed.record.as_ref();
    match record.and_then(|r| r.target.as_ref()) {
        _ if facts.stalled.is_some() => Phase::Failed,
        _ if observed.external_is_followed() && record.is_some_and(|r| r.master.is_some()) => Phase::Following,
        _ if record.is_none_or(|r| !r.initialized) => Phase::Pending,
        Some(_) if plan.summary.starts_with("NoMemberHasData") => Phase::Unavailable,
        Some(Target::Pending {}) => Phase::FailingOver,
        Some(Target::Named { .. }) => Phase::SwitchingOver,
        // The master goes on: it is away for a moment only.
        Some(Target::Members { .. }) => Phase::Degraded,
        None if writable && (facts.applying || facts.update.state != UpdateState::Idle) => Phase::Updating,
        None if writable && ready_replicas >= facts.replicas && facts.leads_to == plan.master => Phase::Ready,
        None if writable => Phase::Degraded,
        None => Phase::Unavailable,
    }
}

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub kind: &'static str,
    pub holds: bool,
    pub reason: String,
    pub message: String,
}

impl Said {
    pub fn new(kind: &'static str, holds: bool, reason: &str, message: &str) -> Said {
        Said { kind, holds, reason: reason.into(), message: message.into() }
    }
}

fn conditions(facts: &Facts, o: &Observed, plan: &Plan, writable: bool, ready_replicas: i32) -> Vec<Said> {
    let say = |kind, holds, reason: &str, message: &str| Said::new(kind, holds, reason, message);
    let electing = o.record.as_ref().is_some_and(|r| r.target.is_some());
    let master = match &plan.master {
        Some(name) if writable => say("MasterAvailable", true, "TakesWrites", &format!("{name} takes writes")),
        _ if plan.summary.starts_with("NoMemberHasData") => {
            say("MasterAvailable", false, "NoMemberHasData", &plan.summary)
        }
        Some(name) if o.answering(name).is_some_and(|s| s.writable && s.save_stops_writes) => {
            let sentence = format!(
                "{name} refuses writes until a save succeeds (stop-writes-on-bgsave-error): is its volume full?"
            );
            say("MasterAvailable", false, SAVE_FAILED, &sentence)
        }
        Some(_) if o.external_is_followed() => say("MasterAvailable", false, "FollowsExternalMaster", &plan.summary),
        _ if o.record.is_none() => say("MasterAvailable", false, "Starting", &plan.summary),
        _ if electing => say("MasterAvailable", false, "Electing", &plan.summary),
        _ => say("MasterAvailable", false, "NoMaster", &plan.summary),
    };
    let all = ready_replicas >= facts.replicas;
    let missing: Vec<&str> = o
        .wanted
        .iter()
        .filter(|name| !plan.ready_replicas.contains(name) && plan.master.as_ref() != Some(name))
        .map(String::as_str)
        .collect();
    let replication = if all {
        say(
            "ReplicationHealthy",
            true,
            "AllReplicasFollow",
            &format!("{ready_replicas} of {} replicas follow", facts.replicas),
        )
    } else {
        let sentence =
            format!("{ready_replicas} of {} replicas follow; not yet: {}", facts.replicas, missing.join(", "));
        say("ReplicationHealthy", false, "ReplicasMissing", &sentence)
    };
    let failover = match has_candidate(o, plan) {
        _ if !o.automatic => say("FailoverReady", false, "Manual", "spec.failover.mode is Manual: a person decides"),
        true => say("FailoverReady", true, "CandidateFollows", "a replica that has caught up could be promoted"),
        false if facts.replicas == 0 => say("FailoverReady", false, "NoReplicas", "spec.replicas is 0"),
        false => say("FailoverReady", false, "NoCandidate", "no replica that is a member has caught up"),
    };
    let reachable = facts.leads_to == plan.master;
    let ready = facts.stalled.is_none() && writable && all && reachable;
    let ready_reason = match () {
        () if facts.stalled.is_some() => "Stalled",
        () if !writable => &master.reason,
        () if !all => &replication.reason,
        () if !reachable => "ServiceBehind",
        () => "Well",
    };
    let halted = facts.update.state == UpdateState::Halted;
    let stalled = match &facts.stalled {
        Some((reason, message)) => say("Stalled", true, reason, message),
        None if halted => say("Stalled", true, &facts.update.reason, &facts.update.message),
        None => say("Stalled", false, "AsWanted", "the spec is carried out"),
    };
    let text = match &facts.stalled {
        Some((_, message)) => message.as_str(),
        None if !writable => &master.message,
        None if !all => &replication.message,
        None if !reachable => "the master Service does not lead to the master yet",
        None => &plan.summary,
    };
    let reconciling = match facts.update.state {
        UpdateState::Idle if ready && facts.applying => {
            say("Reconciling", true, "Applying", "the objects are being brought to what the spec says")
        }
        UpdateState::Updating | UpdateState::Paused if ready => {
            say("Reconciling", true, &facts.update.reason, &facts.update.message)
        }
        _ => say("Reconciling", !ready && facts.stalled.is_none() && !halted, ready_reason, text),
    };
    let restart = match &facts.restart {
        Some(pods) => say("RestartRequired", true, &facts.update.reason, pods),
        None => say("RestartRequired", false, "UpToDate", "every pod runs as the spec says"),
    };
    let paused = match facts.paused {
        Some(message) => say("Paused", true, "Paused", message),
        None => say("Paused", false, "Enabled", "the spec is carried out"),
    };
    let mut all = vec![say("Ready", ready, ready_reason, text), reconciling, stalled, master, replication, failover];
    all.extend([restart, paused, credentials(&facts.credentials), storage(&facts.growth), persistence(o)]);
    all.extend(facts.monitored.as_ref().map(|monitored| match monitored {
        Ok(made) => say("Monitored", true, "AsWanted", made),
        Err((reason, message)) => say("Monitored", false, reason, message),
    }));
    all.extend(facts.said.iter().cloned());
    all
}

/// A replica that is a member and has caught up.
pub fn has_candidate(o: &Observed, plan: &Plan) -> bool {
    let is_member = |name: &str| o.record.as_ref().is_some_and(|r| r.members.iter().any(|m| m.name == name));
    let caught_up = |name: &str| o.answering(name).is_some_and(|s| s.caught_up && !s.syncing);
    plan.ready_replicas.iter().any(|name| is_member(name) && caught_up(name))
}

fn storage(growth: &Growth) -> Said {
    let (holds, reason, message) = growth.said();
    Said { kind: "StorageResizing", holds, reason: reason.to_string(), message }
}

/// Whether every instance that answers could save its data when it last tried. One that could not has a full disk, most often.
pub fn persistence(o: &Observed) -> Said {
    let failed = |name: &&String| o.answering(name).is_some_and(|status| !status.last_save_ok);
    let names: Vec<&str> = o.instances.keys().filter(failed).map(String::as_str).collect();
    if names.is_empty() {
        return Said::new(PERSISTENCE, true, "SavesSucceed", "no instance has failed to save its data");
    }
    let names = names.join(", ");
    let sentence = format!("{names}: the last save failed, is the volume full? A master stops taking writes then");
    Said::new(PERSISTENCE, false, SAVE_FAILED, &sentence)
}

fn credentials(facts: &CredentialsFacts) -> Said {
    let secret = &facts.secret;
    let (holds, reason, message) = match facts {
        CredentialsFacts { missing: Some(why), .. } => (false, "PasswordMissing", why.clone()),
        CredentialsFacts { fingerprint: None, .. } => {
            (false, "Starting", format!("the Secret {secret} was not read yet"))
        }
        _ if !facts.shut_out.is_empty() => {
            let names = facts.shut_out.join(", ");
            (false, "PasswordRefused", format!("{names}: none of the passwords that are known is taken there"))
        }
        _ if facts.is_rotating || !facts.not_told.is_empty() => {
            let names = facts.not_told.join(", ");
            (false, "Rotating", format!("the password of the Secret {secret} is being told; not yet to: {names}"))
        }
        CredentialsFacts { previous_until_s: Some(until), .. } => {
            let until = moment(*until);
            let sentence = format!("the password of the Secret {secret} is in force; the one before it until {until}");
            (true, "Overlap", sentence)
        }
        _ => (true, "Applied", format!("the password of the Secret {secret} is in force")),
    };
    Said { kind: "CredentialsApplied", holds, reason: reason.to_string(), message }
}

/// Whether the data of an external master is here and the datastore has a master of its own.
fn bootstrapped(said: &BootstrapStatus) -> Said {
    let reason = match said.phase {
        BootstrapPhase::Connecting => "Connecting",
        BootstrapPhase::Syncing => "Syncing",
        BootstrapPhase::Following => "Following",
        BootstrapPhase::Promoting => "Promoting",
        BootstrapPhase::Completed => "Completed",
    };
    let holds = said.phase == BootstrapPhase::Completed;
    Said { kind: "Bootstrapped", holds, reason: reason.into(), message: said.message.clone() }
}

/// Which instances a person has taken out of service, if any.
fn fenced(o: &Observed) -> Option<Said> {
    let names: Vec<&str> = o.fenced.iter().map(String::as_str).collect();
    let message = format!("out of service by replicated-redis.io/fenced-instances: {}", names.join(", "));
    (!names.is_empty()).then_some(Said { kind: "Fenced", holds: true, reason: "Asked".into(), message })
}

/// The time of a condition is that of its last change between true and false.
fn dated(said: Said, before: &ReplicatedRedisStatus, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = if said.holds { "True" } else { "False" };
    let since = before.conditions.iter().find(|c| c.type_ == said.kind && c.status == status);
    Condition {
        type_: said.kind.into(),
        status: status.into(),
        reason: said.reason,
        message: said.message,
        observed_generation: generation,
        last_transition_time: since.map_or(Time(now), |c| c.last_transition_time.clone()),
    }
}

/// How far the slowest replica is behind.
pub fn lag_bytes(o: &Observed, plan: &Plan) -> u64 {
    let Some(end) = plan.master.as_ref().and_then(|name| o.answering(name)).map(|s| s.offset) else { return 0 };
    let behind = |name: &String| o.answering(name).map(|s| end.saturating_sub(s.offset));
    plan.ready_replicas.iter().filter_map(behind).max().unwrap_or(0)
}

fn lag(o: &Observed, plan: &Plan) -> u64 {
    let lag = lag_bytes(o, plan);
    if lag < LAG_SHOWN_BYTES { 0 } else { 1 << lag.ilog2() }
}

fn instance(name: &str, node: Option<&String>, o: &Observed) -> InstanceStatus {
    let seen: Option<&Instance> = o.instances.get(name);
    let status = o.answering(name);
    let role = match status.map(|s| s.role) {
        Some(Role::Master) => "master",
        Some(Role::Replica) => "replica",
        Some(Role::Awaiting) => "awaiting",
        None if seen.is_some_and(|i| i.running) => "silent",
        None => "absent",
    };
    let link = status.filter(|s| s.role == Role::Replica).map(|s| match s {
        s if s.syncing => "syncing",
        s if s.link_up => "up",
        _ => "down",
    });
    InstanceStatus { name: name.into(), role: role.into(), node: node.cloned(), link: link.map(String::from) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Status;
    use crate::record::{Holder, Member, Record};

    const NAMES: [&str; 2] = ["x-master-0", "x-replica-0"];

    fn facts() -> Facts {
        let nodes = NAMES.iter().map(|name| (name.to_string(), None)).collect();
        Facts {
            name: "x".into(),
            generation: Some(3),
            replicas: 1,
            nodes,
            leads_to: Some("x-master-0".into()),
            ..Facts::default()
        }
    }

    fn well() -> (Observed, Plan) {
        let member = |name: &&str| Member { name: name.to_string(), volume: "v".into() };
        let record = Record {
            epoch: 1,
            initialized: true,
            master: Some(Holder { name: NAMES[0].into(), incarnation: "i".into() }),
            members: NAMES.iter().map(member).collect(),
            ..Record::default()
        };
        let instance = |role, offset| Instance {
            running: true,
            status: Some(Status {
                role,
                offset,
                writable: true,
                link_up: true,
                caught_up: true,
                last_save_ok: true,
                ..Status::default()
            }),
            ..Instance::default()
        };
        let observed = Observed {
            wanted: NAMES.map(String::from).to_vec(),
            automatic: true,
            record: Some(record),
            instances: [
                (NAMES[0].to_string(), instance(Role::Master, 5_000_000)),
                (NAMES[1].to_string(), instance(Role::Replica, 100)),
            ]
            .into(),
            ..Observed::default()
        };
        let plan = Plan {
            master: Some(NAMES[0].into()),
            ready_replicas: vec![NAMES[1].into()],
            summary: "well".into(),
            ..Plan::default()
        };
        (observed, plan)
    }

    fn condition<'s>(status: &'s ReplicatedRedisStatus, kind: &str) -> &'s Condition {
        status.conditions.iter().find(|c| c.type_ == kind).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn one_that_is_well_is_ready_and_is_not_written_about_again() {
        let (observed, plan) = well();
        let first = status(&ReplicatedRedisStatus::default(), &facts(), &observed, &plan, at(100));
        assert_eq!((first.phase, first.replica_summary.as_str()), (Phase::Ready, "1/1"));
        assert_eq!(first.max_lag_bytes, 1 << 22);
        for (kind, holds) in
            [("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False"), ("FailoverReady", "True")]
        {
            assert_eq!(condition(&first, kind).status, holds, "{kind}");
        }
        let mut later = observed;
        later.instances.get_mut(NAMES[0]).unwrap().status.as_mut().unwrap().offset += 1000;
        assert_eq!(status(&first, &facts(), &later, &plan, at(200)), first);
    }

    #[test]
    fn it_is_not_ready_before_clients_are_led_to_the_master() {
        let (observed, plan) = well();
        let facts = Facts { leads_to: Some(NAMES[1].into()), ..facts() };
        let said = status(&ReplicatedRedisStatus::default(), &facts, &observed, &plan, at(1));
        let ready = condition(&said, "Ready");
        assert_eq!(
            (said.phase, ready.status.as_str(), ready.reason.as_str()),
            (Phase::Degraded, "False", "ServiceBehind")
        );
    }

    #[test]
    fn a_lost_master_is_said_with_its_reason_and_the_moment() {
        let (mut observed, mut plan) = well();
        let first = status(&ReplicatedRedisStatus::default(), &facts(), &observed, &plan, at(100));
        observed.record.as_mut().unwrap().target = Some(Target::Pending {});
        (plan.master, plan.ready_replicas) = (None, Vec::new());
        plan.summary = "electing".into();
        let lost = status(&first, &facts(), &observed, &plan, at(200));
        assert_eq!(lost.phase, Phase::FailingOver);
        let ready = condition(&lost, "Ready");
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str(), ready.message.as_str()),
            ("False", "Electing", "electing")
        );
        assert_eq!(ready.last_transition_time.0, at(200));
        assert_eq!(condition(&lost, "Stalled").last_transition_time.0, at(100));
        assert_eq!(
            condition(&lost, "ReplicationHealthy").message,
            "0 of 1 replicas follow; not yet: x-master-0, x-replica-0"
        );
    }

    #[test]
    fn an_update_is_reconciled_until_it_is_done_and_stalled_while_it_is_halted() {
        let (observed, plan) = well();
        let of = |state, message: &str| {
            let update = UpdateStatus {
                state,
                reason: "SyncTimeout".into(),
                message: message.into(),
                ..UpdateStatus::default()
            };
            let facts = Facts { update, restart: Some("x-master-0 (another image)".into()), ..facts() };
            status(&ReplicatedRedisStatus::default(), &facts, &observed, &plan, at(1))
        };
        let updating = of(UpdateState::Updating, "replacing x-replica-0");
        assert_eq!(updating.phase, Phase::Updating);
        for (kind, holds) in
            [("Ready", "True"), ("Reconciling", "True"), ("Stalled", "False"), ("RestartRequired", "True")]
        {
            assert_eq!(condition(&updating, kind).status, holds, "{kind}");
        }
        let halted = of(UpdateState::Halted, "x-replica-0 does not come back");
        assert_eq!(condition(&halted, "Stalled").message, "x-replica-0 does not come back");
        assert_eq!(condition(&halted, "Reconciling").status, "False");
        assert_eq!(halted.phase, Phase::Updating);
    }

    #[test]
    fn a_save_that_failed_is_told_with_the_instance() {
        let (mut observed, plan) = well();
        let healthy = |observed: &Observed| {
            let said = status(&ReplicatedRedisStatus::default(), &facts(), observed, &plan, at(1));
            let condition = condition(&said, "PersistenceHealthy");
            (condition.status.clone(), condition.reason.clone(), condition.message.contains(NAMES[1]))
        };
        assert_eq!(healthy(&observed), ("True".into(), "SavesSucceed".into(), false));
        observed.instances.get_mut(NAMES[1]).unwrap().status.as_mut().unwrap().last_save_ok = false;
        assert_eq!(healthy(&observed), ("False".into(), "SaveFailed".into(), true));
    }

    #[test]
    fn a_master_that_refuses_writes_because_it_cannot_save_is_not_available() {
        let (mut observed, plan) = well();
        let master = observed.instances.get_mut(NAMES[0]).unwrap().status.as_mut().unwrap();
        (master.last_save_ok, master.save_stops_writes) = (false, true);
        let said = status(&ReplicatedRedisStatus::default(), &facts(), &observed, &plan, at(1));
        for kind in ["MasterAvailable", "Ready"] {
            let condition = condition(&said, kind);
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "SaveFailed"), "{kind}");
            assert!(condition.message.starts_with("x-master-0 refuses writes"), "{}", condition.message);
        }
        assert_eq!(said.phase, Phase::Unavailable);
    }

    #[test]
    fn what_cannot_be_carried_out_is_stalled_not_reconciling() {
        let (observed, plan) = well();
        let facts = Facts { stalled: Some(("InvalidConfig", "spec.config: 'port' …".into())), ..facts() };
        let said = status(&ReplicatedRedisStatus::default(), &facts, &observed, &plan, at(1));
        assert_eq!(said.phase, Phase::Failed);
        assert_eq!(
            (condition(&said, "Stalled").status.as_str(), condition(&said, "Reconciling").status.as_str()),
            ("True", "False")
        );
        assert_eq!(condition(&said, "Ready").message, "spec.config: 'port' …");
    }
}
