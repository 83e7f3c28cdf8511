//! A new datastore whose data comes from a master that we do not run (`bootstrap.externalMaster`).
//!
//! Until it has had a master of its own (`initialized`, R9), one instance follows the external master under an epoch as
//! every other: the record names it where it would name a master. The others follow that instance. Nobody is promoted and
//! nobody is granted a lease, so nobody takes writes; what these epochs hold was acknowledged by the external master alone,
//! and is there again for whoever follows it next. That is why an election among them needs neither fence nor quorum (R5.2),
//! and why members may come and go without one (R11).
//!
//! `Target::Named` is the end of it: the instance that follows is to be the first master (R9: with data). If it is lost
//! before it is chosen, the promotion is withdrawn and another one follows. `Target::Pending` chooses who follows.

use std::cmp::Reverse;

use super::{Order, Plan, SWITCHOVER_MS, election, followers, highest_promise};
use crate::observe::{External, Observed, Promotion, Role, Status};
use crate::record::{Holder, Member, Record, Target};

/// The external master, while it is followed.
pub(super) fn followed<'o>(o: &'o Observed, record: &Record) -> Option<&'o External> {
    o.external.as_ref().filter(|_| !record.initialized)
}

/// No election is under way: the record's instance follows the external master, the others follow it (R8).
pub(super) fn reign(o: &Observed, record: &Record, source: &External, now_ms: u64, plan: &mut Plan) {
    let Some(first) = &record.master else {
        return begin(o, plan, record, Target::Pending {}, "nobody follows the external master");
    };
    let seen = o.instances.get(&first.name);
    let another = o.wanted.iter().any(|name| *name != first.name && may_follow(o, name));
    let Some(status) = o.answering(&first.name) else {
        // Nobody writes, so nothing can be torn apart: silence is enough.
        let silent_ms = now_ms.saturating_sub(seen.and_then(|i| i.silent_since_ms).unwrap_or(now_ms));
        plan.summary = format!("{} does not answer", first.name);
        if o.ended.contains(&first.incarnation) && another {
            begin(o, plan, record, Target::Pending {}, &format!("{} ended", first.name));
        } else if silent_ms < o.down_after_ms {
            plan.wake_ms = plan.wake_ms.min(o.down_after_ms - silent_ms);
        } else if another {
            begin(o, plan, record, Target::Pending {}, &format!("{} does not answer", first.name));
        }
        return;
    };
    // R6: another process of it goes on under another epoch, if at all.
    if status.incarnation != first.incarnation || o.ended.contains(&first.incarnation) {
        return begin(o, plan, record, Target::Pending {}, &format!("{} ended", first.name));
    }
    if status.promised > record.epoch {
        return begin(o, plan, record, Target::Pending {}, &format!("{} has promised a higher epoch", first.name));
    }
    if another && (!o.wanted.contains(&first.name) || seen.is_some_and(|i| i.leaving)) {
        return begin(o, plan, record, Target::Pending {}, &format!("{} is about to end", first.name));
    }
    if o.fenced.contains(&first.name) {
        return super::fence(&first.name, status, plan);
    }
    plan.master = Some(first.name.clone());
    let is_told = status.role == Role::Replica
        && status.role_epoch == record.epoch
        && (status.master_host == source.host && status.master_port == source.port);
    // Repeated while there is no link: the password may be another now.
    let has_link = is_told && status.link_up;
    if !has_link && source.ready && !status.loading && !status.syncing {
        let order = Order::FollowExternal {
            host: source.host.clone(),
            port: source.port,
            epoch: record.epoch,
            password: source.password.clone(),
        };
        plan.send(&first.name, order);
    }
    followers(o, record, first, plan);
    let members = members(o, record);
    if members != record.members {
        return plan.write(Record { members, ..record.clone() });
    }
    promotion(o, record, source, first, status, is_told, plan);
}

/// Is it time for a master of its own?
fn promotion(
    o: &Observed,
    record: &Record,
    source: &External,
    first: &Holder,
    status: &Status,
    is_told: bool,
    plan: &mut Plan,
) {
    let at = format!("{}:{}", source.host, source.port);
    let holds_all =
        is_told && status.link_up && status.caught_up && source.offset.is_none_or(|end| status.offset >= end);
    let others = o.wanted.iter().filter(|name| **name != first.name);
    let behind = others
        .filter(|name| !plan.ready_replicas.contains(name))
        .chain(plan.ready_replicas.iter().filter(|name| !o.answering(name).is_some_and(|s| s.caught_up)));
    let behind: Vec<&str> = behind.map(String::as_str).collect();
    let (promotes, waits_for) = match source.promotion {
        Promotion::Later => (false, None),
        Promotion::WhenSynced if !behind.is_empty() => (false, Some(format!("{} to catch up", behind.join(", ")))),
        Promotion::WhenSynced | Promotion::Asked => {
            (holds_all, Some(format!("{} to hold everything that {at} has", first.name)))
        }
        Promotion::Now => (status.has_data || status.caught_up, Some(format!("{} to hold data", first.name))),
    };
    if promotes {
        let to = first.name.clone();
        return begin(o, plan, record, Target::Named { to }, &format!("{at} is not followed any more"));
    }
    plan.summary = match waits_for {
        Some(what) => format!("waiting for {what} before it becomes master"),
        None if !status.sync_refused.is_empty() => {
            format!("{} refuses the full resync from {at}: {}", first.name, status.sync_refused)
        }
        None if is_told && status.link_up => format!("{} follows {at}", first.name),
        None if status.syncing => format!("{} receives the data of {at}", first.name),
        None => format!("{} has no link to {at}", first.name),
    };
}

/// One step of the election that the record's `target` announces.
pub(super) fn elect(o: &Observed, record: &Record, source: &External, now_ms: u64, plan: &mut Plan) {
    let epoch = record.epoch;
    plan.wake_ms = 50;
    plan.summary = format!("electing in epoch {epoch}: {}", record.reason);
    let highest = highest_promise(o);
    if highest > epoch {
        return plan.write(Record { epoch: highest + 1, ..record.clone() });
    }
    // R2: whoever answers leaves the epoch before.
    let to_promise: Vec<&String> =
        o.instances.keys().filter(|name| o.answering(name).is_some_and(|s| s.promised < epoch)).collect();
    if let Some(first) = to_promise.first() {
        plan.summary = format!("waiting for the promise of {first}");
        return to_promise.iter().for_each(|name| plan.send(name, Order::Promise { epoch }));
    }
    let since_ms = o.election_since_ms.or(o.holder_since_ms).unwrap_or(0);
    let candidates = o.wanted.iter().filter_map(|name| {
        let status = o.answering(name).filter(|s| s.promised == epoch && s.role_epoch < epoch && !s.syncing)?;
        let fresh = now_ms.saturating_sub(o.instances.get(name)?.status_ms) <= election::FRESH_MS;
        (fresh && may_follow(o, name)).then_some((name, status))
    });
    let old = record.master.as_ref();
    if let Some(Target::Named { to }) = &record.target {
        let is_the_one = |s: &Status| old.is_some_and(|old| old.name == *to && old.incarnation == s.incarnation);
        let mut candidates = candidates;
        match candidates.find(|(name, s)| *name == to && is_the_one(s) && (s.has_data || s.caught_up)) {
            Some((name, status)) => conclude(o, record, source, name, status, true, plan),
            None if now_ms.saturating_sub(since_ms) > SWITCHOVER_MS
                || o.answering(to).is_some_and(|s| !is_the_one(s)) =>
            {
                plan.event(
                    "PromotionWithdrawn",
                    to,
                    "it was lost before it became master; the external master is followed on",
                );
                plan.write(Record { target: Some(Target::Pending {}), ..record.clone() });
            }
            None => plan.summary = format!("waiting for {to}, which is to be the first master"),
        }
        return;
    }
    // One that has just started may hold more: it is waited for as long as a silent one would be.
    let starting = |name: &&String| o.instances.get(*name).is_some_and(|i| i.running && i.status.is_none());
    if let Some(name) = o.wanted.iter().find(starting).filter(|_| now_ms < since_ms + o.down_after_ms) {
        plan.summary = format!("waiting for {name}, which has started, to answer");
        return;
    }
    // Whoever holds most has least to be sent. A wrong guess costs a full resync, and no data.
    let best = candidates.max_by_key(|(name, s)| {
        let place = o.wanted.iter().position(|w| w == *name);
        let is_old = old.is_some_and(|old| old.name == **name);
        (s.has_data, s.history_epoch, s.offset, is_old, Reverse(place))
    });
    match best {
        Some((name, status)) => conclude(o, record, source, name, status, false, plan),
        None => plan.summary = "no instance is there that could follow the external master".into(),
    }
}

/// R5.5: the choice goes into the record; it is told afterwards. `is_master`: it is the first master (R9).
fn conclude(
    o: &Observed,
    record: &Record,
    source: &External,
    name: &str,
    status: &Status,
    is_master: bool,
    plan: &mut Plan,
) {
    let at = format!("{}:{}", source.host, source.port);
    if is_master {
        plan.event("MasterElected", name, format!("master of epoch {}; {at} is not followed any more", record.epoch));
    } else {
        plan.event("FollowsExternalMaster", name, format!("follows {at} in epoch {}", record.epoch));
    }
    let members = members(o, record);
    plan.write(Record {
        master: Some(Holder { name: name.into(), incarnation: status.incarnation.clone() }),
        quorum: o.quorum.min(u32::try_from(members.len().saturating_sub(1)).unwrap_or(u32::MAX)),
        members,
        previous: None,
        target: None,
        initialized: is_master,
        ..record.clone()
    });
    plan.wake_ms = 0;
}

fn begin(o: &Observed, plan: &mut Plan, record: &Record, target: Target, reason: &str) {
    let is_end = matches!(target, Target::Named { .. });
    let kind = if is_end { "PromotionStarted" } else { "ExternalFollowerLost" };
    plan.event(kind, record.master.as_ref().map_or("", |m| &m.name), format!("election begun: {reason}"));
    // An external master that is managed elsewhere has marks of its own in its history: ours are to be higher.
    let marks = o.instances.values().filter_map(|i| i.status.as_ref()).map(|s| s.history_epoch).max().unwrap_or(0);
    let epoch = record.epoch.max(highest_promise(o)).max(marks) + 1;
    plan.write(Record { epoch, target: Some(target), reason: reason.into(), ..record.clone() });
    plan.summary = reason.into();
    plan.wake_ms = 0;
}

fn may_follow(o: &Observed, name: &str) -> bool {
    let stays = !o.instances.get(name).is_some_and(|i| i.leaving);
    stays && o.answering(name).is_some_and(|s| !s.loading)
}

/// Wanted instances with the volumes that they have now, or had when they were last seen.
fn members(o: &Observed, record: &Record) -> Vec<Member> {
    let known = |name: &String| record.members.iter().find(|m| m.name == *name).cloned();
    let present = |name: &String| o.answering(name).map(|s| Member { name: name.clone(), volume: s.volume.clone() });
    o.wanted.iter().filter_map(|name| present(name).or_else(|| known(name))).collect()
}
