//! What to do next: a pure function of what is seen. It decides roles by the rules of FAILOVER and by nothing else, and
//! each part names its rule.
//!
//! A plan is a list of actions to be carried out in order, stopping at the first failure; then everything is looked at
//! again. So nothing is remembered between two plans but the record, and an operator may die between any two actions.

mod election;
mod external;
mod members;
pub mod rollout;
#[cfg(test)]
mod tests;

use crate::observe::{Observed, Password, Role, Status};
use crate::record::{Holder, Member, Record, Target};

/// An order to an instance: one `REPLICATED …` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    Promise {
        epoch: u64,
    },
    Promote {
        epoch: u64,
        incarnation: String,
        write_quorum: u32,
        volumes: Vec<String>,
    },
    Lease {
        epoch: u64,
        incarnation: String,
        duration_ms: u64,
        token: u64,
    },
    Follow {
        host: String,
        port: u16,
        epoch: u64,
    },
    /// Follow a master that is none of ours.
    FollowExternal {
        host: String,
        port: u16,
        epoch: u64,
        password: Option<Password>,
    },
    Handover {
        epoch: u64,
        timeout_ms: u64,
    },
    AcceptMaster,
    /// Have no role.
    Await,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Replace the record, if it is still the one that was observed.
    WriteRecord(Box<Record>),
    Send {
        instance: String,
        order: Order,
    },
    /// Run a wanted instance.
    Start {
        instance: String,
    },
    /// End one that is not wanted and no member any more.
    Stop {
        instance: String,
    },
    /// Tell the person who watches, once. `reason` is one word for machines.
    Event {
        reason: &'static str,
        subject: String,
        text: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Where the master endpoint leads; `None`: nowhere.
    pub master: Option<String>,
    /// Who is to be chosen as far as is known, while nobody listens at the old master's address or it has handed over: clients
    /// that are led there now find a master sooner. (kube-proxy takes a change once a second by default.)
    pub heir: Option<String>,
    /// Instances that the replicas endpoint leads to.
    pub ready_replicas: Vec<String>,
    /// Well, or what is waited for.
    pub summary: String,
    /// Look again after so many ms at the latest.
    pub wake_ms: u64,
}

impl Plan {
    fn send(&mut self, instance: &str, order: Order) {
        self.actions.push(Action::Send { instance: instance.into(), order });
    }

    fn event(&mut self, reason: &'static str, subject: &str, text: impl Into<String>) {
        self.actions.push(Action::Event { reason, subject: subject.into(), text: text.into() });
    }

    fn write(&mut self, record: Record) {
        self.actions.push(Action::WriteRecord(Box::new(record)));
    }
}

/// How long a planned switchover may take before the old master goes on (R10), ms.
pub const SWITCHOVER_MS: u64 = 5000;

/// Decides what to do now.
pub fn plan(o: &Observed, now_ms: u64) -> Plan {
    let mut plan = Plan { wake_ms: o.lease_ms / 4, ..Plan::default() };
    for name in &o.wanted {
        if !o.instances.get(name).is_some_and(|i| i.running) {
            plan.actions.push(Action::Start { instance: name.clone() });
        }
    }
    let Some(record) = &o.record else {
        first_record(o, &mut plan);
        return plan;
    };
    if record.holder != o.me {
        // R3: every later write of a former operator fails; from here on its last grants are counted.
        plan.write(Record { holder: o.me.clone(), ..record.clone() });
        plan.summary = "taking over from another operator".into();
        return plan;
    }
    if record.target.is_none() {
        fence_others(o, record, &mut plan);
    }
    match (external::followed(o, record), &record.target) {
        (Some(source), Some(_)) => external::elect(o, record, source, now_ms, &mut plan),
        (Some(source), None) => external::reign(o, record, source, now_ms, &mut plan),
        (None, Some(_)) => election::step(o, record, now_ms, &mut plan),
        (None, None) => reign(o, record, now_ms, &mut plan),
    }
    remove_unwanted(o, record, &mut plan);
    plan
}

/// R9: the first record is made when all wanted instances have answered.
fn first_record(o: &Observed, plan: &mut Plan) {
    let mut members = Vec::new();
    let (mut data, mut promised) = (false, 0);
    for name in &o.wanted {
        match o.answering(name) {
            Some(status) if !status.loading => {
                members.push(Member { name: name.clone(), volume: status.volume.clone() });
                // What an external master gave bears no mark of ours: it is followed on.
                data |= status.has_data && (o.external.is_none() || status.history_epoch > 0);
                promised = promised.max(status.promised);
            }
            _ => {
                plan.summary = format!("waiting for {name} to answer for the first time");
                return;
            }
        }
    }
    plan.write(Record {
        epoch: promised + 1,
        members,
        quorum: o.quorum,
        holder: o.me.clone(),
        // Data without a record: the record was lost, the data counts.
        initialized: data,
        target: Some(Target::Pending {}),
        reason: "first start".into(),
        ..Record::default()
    });
    plan.summary = "choosing the first master".into();
}

/// Begins an election: the intent goes into the record before anything else (R5.1).
fn begin(plan: &mut Plan, record: &Record, target: Target, reason: &str, promised: u64) {
    let kind = match target {
        Target::Pending {} => "FailoverStarted",
        Target::Named { .. } => "SwitchoverStarted",
        Target::Members { .. } => "MembersChanging",
    };
    plan.event(kind, record.master.as_ref().map_or("", |m| &m.name), format!("election begun: {reason}"));
    plan.write(Record {
        epoch: record.epoch.max(promised) + 1,
        target: Some(target),
        reason: reason.into(),
        ..record.clone()
    });
    plan.summary = reason.into();
    plan.wake_ms = 0;
}

/// The highest epoch that anybody has promised, as far as is known.
fn highest_promise(o: &Observed) -> u64 {
    o.instances.values().filter_map(|i| i.status.as_ref()).map(|s| s.promised).max().unwrap_or(0)
}

/// No election is under way: the record's master reigns, or is to.
fn reign(o: &Observed, record: &Record, now_ms: u64, plan: &mut Plan) {
    let Some(master) = &record.master else {
        return begin(plan, record, Target::Pending {}, "there is no master", 0);
    };
    let highest = highest_promise(o);
    if !record.initialized {
        return begin(plan, record, Target::Pending {}, "there is no external master to follow any more", highest);
    }
    if o.ended.contains(&master.incarnation) {
        // R6: a process that has restarted is never granted the epoch of its former self.
        return if o.automatic || record.members.len() == 1 {
            begin(plan, record, Target::Pending {}, &format!("{} ended", master.name), highest)
        } else {
            plan.summary = format!("{} ended; failover is Manual: ask for a switchover", master.name);
            if o.switchover.is_some() {
                begin(plan, record, Target::Pending {}, "a person asked for it", highest);
            }
        };
    }
    // Another process in its place is not the one that the record names (R6).
    let Some(status) = o.answering(&master.name).filter(|_| o.replaced_since_ms.is_none()) else {
        return silent_master(o, record, master, now_ms, highest, plan);
    };
    if status.promised > record.epoch {
        return begin(plan, record, Target::Pending {}, "the master has promised a higher epoch", status.promised);
    }
    if o.fenced.contains(&master.name) && status.role != Role::Master {
        return fence(&master.name, status, plan);
    }
    if status.role == Role::Awaiting && status.history_epoch >= record.epoch {
        // R7: its mark is there, so it has reigned, and was taken out of service. An epoch is of one reign.
        return begin(plan, record, Target::Pending {}, &format!("{} is back in service", master.name), highest);
    }
    if status.role != Role::Master || status.role_epoch != record.epoch {
        // R5.5, R7: the record names it; now it is told.
        let volumes = record.members.iter().map(|m| m.volume.clone()).collect();
        let (epoch, incarnation) = (record.epoch, master.incarnation.clone());
        if status.promised < epoch {
            plan.send(&master.name, Order::Promise { epoch });
        } else {
            plan.send(&master.name, Order::Promote { epoch, incarnation, write_quorum: record.quorum, volumes });
        }
        plan.summary = format!("promoting {}", master.name);
        plan.wake_ms = 0;
        return;
    }
    if o.fenced.contains(&master.name) {
        return fenced_master(o, record, master, status, highest, plan);
    }
    plan.master = Some(master.name.clone());
    lease(o, record, master, status, plan);
    followers(o, record, master, plan);
    if plan.summary.is_empty() {
        plan.summary = "well".into();
    }
    if let Some(settled) = members::settled(o, record, master) {
        return plan.write(settled);
    }
    change_of_plan(o, record, master, status, highest, plan);
}

/// A person has taken it out of service: it has no role (R1), and is given none.
fn fence(name: &str, status: &Status, plan: &mut Plan) {
    if status.role != Role::Awaiting {
        plan.send(name, Order::Await);
    }
    plan.summary = format!("{name} is fenced");
}

/// The same for all but the master, whose role moves first.
fn fence_others(o: &Observed, record: &Record, plan: &mut Plan) {
    let master = record.master.as_ref().map(|m| &m.name);
    for name in o.fenced.iter().filter(|name| Some(*name) != master) {
        if let Some(status) = o.answering(name) {
            fence(name, status, plan);
        }
    }
}

/// R10: the role of a fenced master moves, if somebody can take it now. Otherwise nobody takes writes.
fn fenced_master(o: &Observed, record: &Record, master: &Holder, status: &Status, highest: u64, plan: &mut Plan) {
    let before = plan.actions.len();
    switchover(o, record, master, None, highest, plan);
    if plan.actions.len() == before {
        fence(&master.name, status, plan);
        plan.summary = format!("{} is fenced, and no replica can take over", master.name);
    }
}

/// R3: the operator grants to the record's master, in answer to a request that it has not answered yet.
fn lease(o: &Observed, record: &Record, master: &Holder, status: &Status, plan: &mut Plan) {
    if status.token > o.last_token && status.lease_left_ms < o.lease_ms * 3 / 4 {
        let (epoch, incarnation) = (record.epoch, master.incarnation.clone());
        plan.send(&master.name, Order::Lease { epoch, incarnation, duration_ms: o.lease_ms, token: status.token });
    }
}

/// R8: everybody else follows.
fn followers(o: &Observed, record: &Record, master: &Holder, plan: &mut Plan) {
    let Some(at) = o.instances.get(&master.name) else { return };
    for (name, instance) in &o.instances {
        if *name == master.name {
            continue;
        }
        let Some(status) = o.answering(name) else {
            if o.wanted.contains(name) && plan.summary.is_empty() {
                plan.summary = format!("{name} does not answer");
            }
            continue;
        };
        if o.fenced.contains(name) {
            continue;
        }
        let told = status.role == Role::Replica
            && status.role_epoch == record.epoch
            && (status.master_host == at.host && status.master_port == at.port);
        if !told && status.promised <= record.epoch && !status.loading {
            let (host, port, epoch) = (at.host.clone(), at.port, record.epoch);
            plan.send(name, Order::Follow { host, port, epoch });
        }
        if told && status.link_up {
            plan.ready_replicas.push(name.clone());
        } else if !status.sync_refused.is_empty() {
            plan.summary = format!("{name} refuses the full resync: {}", status.sync_refused);
        } else if plan.summary.is_empty() && instance.running {
            plan.summary = format!("{name} is catching up");
        }
    }
}

/// A master whose end is not known: a time of silence, and its replicas as witnesses.
fn silent_master(o: &Observed, record: &Record, master: &Holder, now_ms: u64, highest: u64, plan: &mut Plan) {
    plan.summary = format!("{} does not answer", master.name);
    plan.master = o.replaced_since_ms.is_none().then(|| master.name.clone());
    let silent_since_ms = o.instances.get(&master.name).and_then(|i| i.silent_since_ms);
    let since = o.replaced_since_ms.or(silent_since_ms).unwrap_or(now_ms);
    let silent_ms = now_ms.saturating_sub(since);
    let others: Vec<&Status> =
        record.members.iter().filter(|m| m.name != master.name).filter_map(|m| o.answering(&m.name)).collect();
    let down = others.iter().filter(|s| !s.link_up).count();
    // Where nobody listens, the election does not wait for the news of the end: promises are collected meanwhile, and without
    // that news the choice waits for the leases (R5.3).
    let refuses = o.instances.get(&master.name).is_some_and(|i| i.refuses) && down > 0;
    // R9: a member alone that has another volume has lost its data. Nobody else can be chosen, but a person must be asked.
    let has_lost_all = o.replaced_since_ms.is_some() && record.voters().len() == 1;
    if silent_ms < o.down_after_ms && !refuses {
        plan.wake_ms = plan.wake_ms.min(o.down_after_ms - silent_ms);
    } else if has_lost_all {
        begin(plan, record, Target::Pending {}, &format!("{} answers with another volume", master.name), highest);
    } else if o.automatic && !others.is_empty() && down * 2 > others.len() {
        begin(
            plan,
            record,
            Target::Pending {},
            &format!("{} does not answer, and its replicas have lost it", master.name),
            highest,
        );
    } else if !others.is_empty() && down * 2 <= others.len() {
        plan.summary = format!("{} does not answer here, but its replicas hear it", master.name);
    }
}

/// What is wanted otherwise while all is well: members, quorum, a switchover, a failback.
fn change_of_plan(o: &Observed, record: &Record, master: &Holder, status: &Status, highest: u64, plan: &mut Plan) {
    if let Some(to) = &o.switchover {
        return switchover(o, record, master, to.as_deref(), highest, plan);
    }
    if !status.writable {
        return;
    }
    // The master's own instance is not wanted any more, or is about to end: the role moves first (R11), if somebody can take it.
    if !o.wanted.contains(&master.name) || o.instances.get(&master.name).is_some_and(|i| i.leaving) {
        let before = plan.actions.len();
        switchover(o, record, master, None, highest, plan);
        if plan.actions.len() > before {
            return;
        }
    }
    if let Some(members::Change { members, quorum, reason }) = members::next(o, record, master) {
        return begin(plan, record, Target::Members { members, quorum }, &reason, highest);
    }
    if record.previous.is_some() {
        if plan.summary == "well" {
            plan.summary = "waiting for the last change of members to be held by the replicas".into();
        }
        return;
    }
    let home = o.wanted.first();
    if let Some(home) = home.filter(|home| o.failback && **home != master.name) {
        let ready = |s: &Status| s.link_up && s.caught_up && s.offset + (1 << 16) > status.offset;
        if o.answering(home).is_some_and(|s| ready(s) && record.has(home, &s.volume)) {
            begin(plan, record, Target::Named { to: home.clone() }, &format!("failback to {home}"), highest);
        }
    }
}

/// R10: to the named instance, or to the most advanced replica.
fn switchover(o: &Observed, record: &Record, master: &Holder, to: Option<&str>, highest: u64, plan: &mut Plan) {
    let fit = |name: &str| {
        let ready = |s: &Status| s.link_up && s.caught_up && s.role_epoch == record.epoch;
        if o.instances.get(name).is_some_and(|i| i.leaving) {
            return false;
        }
        // One that has lost its volume is no member: it would be waited for in vain.
        o.wanted.iter().any(|w| w == name) && o.answering(name).is_some_and(|s| ready(s) && record.has(name, &s.volume))
    };
    let target = match to {
        Some(name) if name == master.name => return,
        Some(name) => Some(name.to_string()).filter(|n| fit(n)),
        None => o
            .wanted
            .iter()
            .filter(|name| **name != master.name && fit(name))
            .max_by_key(|name| o.answering(name).map_or(0, |s| s.offset))
            .cloned(),
    };
    match target {
        Some(name) => {
            let reason = format!("planned switchover to {name}");
            begin(plan, record, Target::Named { to: name }, &reason, highest);
        }
        None => {
            plan.summary = match to {
                Some(name) => format!("{name} cannot take over now: it is no member that has caught up"),
                None => "no replica can take over now".into(),
            }
        }
    }
}

/// Instances that are neither wanted nor members end.
fn remove_unwanted(o: &Observed, record: &Record, plan: &mut Plan) {
    for (name, instance) in &o.instances {
        let member = record.voters().iter().any(|m| m.name == *name);
        let master = record.master.as_ref().is_some_and(|m| m.name == *name);
        if instance.running && !o.wanted.contains(name) && !member && !master && record.target.is_none() {
            plan.actions.push(Action::Stop { instance: name.clone() });
        }
    }
}
