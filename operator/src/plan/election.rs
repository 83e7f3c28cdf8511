//! R5 and R10: from the intent in the record to a new master in it.

use std::collections::BTreeSet;

use super::{Order, Plan, SWITCHOVER_MS, highest_promise};
use crate::observe::{Observed, Role, Status};
use crate::record::{Holder, Member, Previous, Record, Target};

/// An answer older than this does not show that an instance is alive at the moment of the choice, ms.
pub(super) const FRESH_MS: u64 = 1500;

/// An instance that has promised the epoch that is being made.
struct Promised<'o> {
    name: &'o str,
    status: &'o Status,
    answered_ms: u64,
}

/// One step of the election that the record's `target` announces.
pub(super) fn step(o: &Observed, record: &Record, now_ms: u64, plan: &mut Plan) {
    let Some(target) = &record.target else { return };
    let epoch = record.epoch;
    plan.wake_ms = 50;
    plan.summary = format!("electing a master of epoch {epoch}: {}", record.reason);
    // Somebody has promised more: a former operator was ahead of this record.
    let highest = highest_promise(o);
    if highest > epoch {
        return plan.write(Record { epoch: highest + 1, ..record.clone() });
    }
    let old = record.master.as_ref();
    let old_status = old.and_then(|m| o.answering(&m.name).filter(|s| s.incarnation == m.incarnation));
    // One who found the intent in the record when it took over counts from then.
    let since_ms = o.election_since_ms.or(o.holder_since_ms);
    let timed_out = since_ms.is_some_and(|since| now_ms.saturating_sub(since) > SWITCHOVER_MS);
    match target {
        Target::Named { to: name } if !timed_out => {
            // Whoever comes now waits, or is refused, at the old master.
            let pauses = |s: &Status| s.paused || s.promised >= epoch;
            plan.heir = old_status.is_some_and(pauses).then(|| name.clone());
            if !hand_over(o, old, old_status, name, epoch, plan) {
                return;
            }
        }
        // R10: on a time-out the old master goes on in the new epoch, if it wins it. R11: the present master goes on.
        Target::Named { .. } | Target::Members { .. } => {
            if let (Some(old), Some(status)) = (old, old_status) {
                if status.promised < epoch {
                    return plan.send(&old.name, Order::Promise { epoch });
                }
                if status.role_epoch < epoch && status.promised == epoch && !status.loading {
                    return conclude(o, record, &old.name, status, plan);
                }
            }
        }
        Target::Pending {} => {}
    }
    // R5.2: promises from every member that answers; while a change is not settled, from both configurations (R11).
    let voters = record.voters();
    let asked: BTreeSet<&str> = voters.iter().map(|m| m.name.as_str()).collect();
    for name in asked {
        if o.answering(name).is_some_and(|s| s.promised < epoch) {
            plan.send(name, Order::Promise { epoch });
        }
    }
    let promised: Vec<Promised<'_>> = voters
        .iter()
        .filter_map(|member| {
            let status = o.answering(&member.name)?;
            let instance = o.instances.get(&member.name)?;
            // R5.4: what is alive at this moment, of the volume that is the member.
            let fresh = now_ms.saturating_sub(instance.status_ms) <= FRESH_MS;
            // A person who gives the data up may also go on with volumes that are new.
            let is_member = status.volume == member.volume || o.allow_data_loss;
            let counts = status.promised == epoch && status.role_epoch < epoch && is_member && fresh;
            counts.then_some(Promised { name: &member.name, status, answered_ms: instance.answered_ms })
        })
        .collect();
    let waited_for = voters
        .iter()
        .find(|m| o.answering(&m.name).is_some_and(|s| s.volume == m.volume && (s.promised < epoch || s.loading)));
    if let Some(member) = waited_for {
        plan.summary = format!("waiting for the promise of {}", member.name);
        return;
    }
    // R5.4: one that has just started may hold more than those who were quicker to answer, as after a restart of all. It
    // is waited for as long as a silent master would be.
    let begun_ms = since_ms.unwrap_or(0);
    let starting = |m: &&&Member| o.instances.get(&m.name).is_some_and(|i| i.running && i.status.is_none());
    if let Some(member) = voters.iter().find(starting).filter(|_| now_ms < begun_ms + o.down_after_ms) {
        plan.summary = format!("waiting for {}, which has started, to answer", member.name);
        return;
    }
    let refuses = |m: &Holder| o.instances.get(&m.name).is_some_and(|i| i.refuses);
    if old.is_some_and(refuses) {
        plan.heir = choose(o, record, &promised, target).ok().map(|best| best.name.to_string());
    }
    if let Err(reason) = fenced(o, record, &promised, now_ms) {
        plan.summary = reason;
        return;
    }
    if let Err(reason) = history_is_safe(record, &promised) {
        plan.summary = reason;
        return;
    }
    match choose(o, record, &promised, target) {
        Ok(chosen) => conclude(o, record, chosen.name, chosen.status, plan),
        Err(reason) => plan.summary = reason,
    }
}

/// R10: the old master pauses its writes; `true` when the target holds all of them, or when there is no old master.
fn hand_over(
    o: &Observed,
    old: Option<&Holder>,
    old_status: Option<&Status>,
    target: &str,
    epoch: u64,
    plan: &mut Plan,
) -> bool {
    let (Some(old), Some(status)) = (old, old_status) else { return true };
    if status.promised >= epoch {
        return true;
    }
    plan.wake_ms = 5;
    if status.role != Role::Master {
        return true;
    }
    if !status.paused {
        plan.send(&old.name, Order::Handover { epoch: status.role_epoch, timeout_ms: SWITCHOVER_MS });
        return false;
    }
    plan.summary = format!("waiting for {target} to hold everything up to offset {}", status.offset);
    o.answering(target).is_some_and(|s| s.offset >= status.offset)
}

/// FAILOVER's D: after so long on this clock, a lease has run out on every other. Clocks may differ in pace by 2 %; what a
/// replica says is left of its grant has the same room.
fn outlasting(lease_ms: u64) -> u64 {
    lease_ms + lease_ms / 50
}

/// R5.2 *Fence* and R5.3: the old master takes no writes any more.
fn fenced(o: &Observed, record: &Record, promised: &[Promised<'_>], now_ms: u64) -> Result<(), String> {
    let Some(old) = &record.master else { return Ok(()) };
    let own = promised.iter().any(|p| p.name == old.name && p.status.incarnation == old.incarnation);
    if own || o.ended.contains(&old.incarnation) {
        return Ok(());
    }
    let replicas = record.members.iter().filter(|m| m.name != old.name).count();
    if replicas == 0 && o.replaced_since_ms.is_some() {
        // R3: without replicas it needs no lease, so none can run out. Its end is not known either: its pod and its claim were
        // taken away by force. Only a person knows of it.
        return match o.allow_data_loss {
            true => Ok(()),
            false => Err(format!(
                "NoMemberHasData: {} answers with another volume, without the data; bring the volume back, or, when its \
                 former process has ended, say allow-data-loss",
                old.name
            )),
        };
    }
    // Only members of the master's own epoch could grant it leases.
    let granted = |p: &&Promised<'_>| p.name != old.name && record.has(p.name, &p.status.volume);
    let lapsed = promised.iter().filter(granted).filter(|p| p.answered_ms + p.status.grant_left_ms <= now_ms).count();
    let needed = replicas - replicas / 2;
    if lapsed < needed.max(1) {
        return Err(format!(
            "waiting for the leases that replicas gave {} to run out ({lapsed} of {needed})",
            old.name
        ));
    }
    let operator = o.last_grant_ms.max(o.holder_since_ms).unwrap_or(now_ms);
    if operator + outlasting(o.lease_ms) > now_ms {
        return Err(format!("waiting for the operator's lease of {} to run out", old.name));
    }
    Ok(())
}

/// R5.2 *History*: the answers contain every acknowledged quorum write.
fn history_is_safe(record: &Record, promised: &[Promised<'_>]) -> Result<(), String> {
    let complete = |members: &[Member], quorum: u32| {
        if quorum == 0 {
            return true;
        }
        let is_member = |p: &&Promised<'_>| members.iter().any(|m| m.name == p.name && m.volume == p.status.volume);
        let n = promised.iter().filter(is_member).filter(|p| p.status.complete).count();
        let own = record.master.as_ref().is_some_and(|m| {
            promised.iter().any(|p| p.name == m.name && p.status.incarnation == m.incarnation && p.status.complete)
        });
        let all = members.iter().all(|m| promised.iter().any(|p| p.name == m.name));
        // N − K + 1 of the N + 1 members.
        n + quorum as usize >= members.len() || own || all
    };
    let previous = record.previous.as_ref().is_none_or(|p| complete(&p.members, p.quorum));
    if complete(&record.members, record.quorum) && previous {
        Ok(())
    } else {
        Err("too few complete members have answered to be sure of every acknowledged write".into())
    }
}

/// R5.4 and R9: the highest history among all answers; if that one may not be chosen, nobody is.
fn choose<'p, 'o>(
    o: &Observed,
    record: &Record,
    promised: &'p [Promised<'o>],
    target: &Target,
) -> Result<&'p Promised<'o>, String> {
    if !record.initialized {
        if promised.len() < record.members.len() {
            return Err("waiting for every member to answer before the first master is chosen".into());
        }
        // Data that an external master gave, where one was followed before: then the most of it.
        let held =
            |p: &Promised<'o>| if p.status.has_data { (p.status.history_epoch, p.status.offset) } else { (0, 0) };
        let place = |p: &Promised<'o>| o.wanted.iter().position(|w| w == p.name);
        let candidates = promised.iter().filter(|p| place(p).is_some() && !p.status.loading && !p.status.syncing);
        let preferred = candidates.max_by_key(|p| (p.status.has_data, held(p), std::cmp::Reverse(place(p))));
        return preferred.ok_or_else(|| "no member may be chosen".into());
    }
    let wanted = match target {
        Target::Named { to: name } => Some(name.as_str()),
        Target::Pending {} | Target::Members { .. } => None,
    };
    let rank = |p: &Promised<'o>| {
        let place = o.wanted.iter().position(|w| w == p.name).unwrap_or(usize::MAX);
        // Also one that has come back complete, after an orderly end: so roles survive a restart of all.
        let is_old = record
            .master
            .as_ref()
            .is_some_and(|m| m.name == p.name && (m.incarnation == p.status.incarnation || p.status.complete));
        let stays = !o.instances.get(p.name).is_some_and(|i| i.leaving);
        (p.status.history_epoch, p.status.offset, Some(p.name) == wanted, stays, is_old, std::cmp::Reverse(place))
    };
    let best = promised
        .iter()
        .filter(|p| o.allow_data_loss || (p.status.has_data && counts_in_a_change(record, p)))
        .max_by_key(|p| rank(p));
    let Some(best) = best else {
        return Err("NoMemberHasData: no reachable member holds data; bring one back, or say allow-data-loss".into());
    };
    if !o.allow_data_loss && joins_too_early(record, promised, best) && somebody_is_missing(o, record, promised) {
        return Err(format!(
            "{} has the highest history and is becoming a member: waiting for others who hold as much",
            best.name
        ));
    }
    if best.status.loading || best.status.syncing {
        return Err(format!("waiting for {}, which has the highest history, to be whole", best.name));
    }
    Ok(best)
}

/// R11: acknowledgements of one who is becoming a member count from the change on, so what it holds from before the change
/// says nothing.
fn counts_in_a_change(record: &Record, p: &Promised<'_>) -> bool {
    let Some(previous) = &record.previous else { return true };
    previous.has(p.name, &p.status.volume) || p.status.history_epoch >= previous.until
}

/// R11: the chosen is a member of both configurations, unless the change is settled: K replicas hold its mark. (One that is
/// leaving is highest only where nobody has seen the change, so nothing was acknowledged under it: `conclude` takes the change
/// back.)
fn joins_too_early(record: &Record, promised: &[Promised<'_>], best: &Promised<'_>) -> bool {
    let Some(previous) = &record.previous else { return false };
    let old = record.master.as_ref().map(|m| m.name.as_str());
    let holds = |p: &&Promised<'_>| {
        Some(p.name) != old && record.has(p.name, &p.status.volume) && p.status.history_epoch >= previous.until
    };
    !previous.has(best.name, &best.status.volume) && promised.iter().filter(holds).count() < record.quorum as usize
}

/// A member of either configuration has not answered yet, and may hold as much. One that has another volume now does not.
fn somebody_is_missing(o: &Observed, record: &Record, promised: &[Promised<'_>]) -> bool {
    let lost = |m: &Member| o.answering(&m.name).is_some_and(|s| s.volume != m.volume);
    record.voters().iter().any(|m| !lost(m) && !promised.iter().any(|p| p.name == m.name))
}

/// R5.5: the choice goes into the record; it is told afterwards.
fn conclude(o: &Observed, record: &Record, name: &str, status: &Status, plan: &mut Plan) {
    // R11: a change that would leave the chosen out is given up, or taken back.
    let taken_back =
        record.previous.as_ref().filter(|p| !record.has(name, &status.volume) && p.has(name, &status.volume));
    let (mut members, quorum) = match (&record.target, taken_back) {
        (_, Some(previous)) => (previous.members.clone(), previous.quorum),
        (Some(Target::Members { members, quorum }), None) if members.iter().any(|m| m.name == name) => {
            (members.clone(), *quorum)
        }
        _ => (record.members.clone(), record.quorum),
    };
    // Where a person has given the data up, members go on with the volumes that they have now.
    for member in members.iter_mut().filter(|_| o.allow_data_loss) {
        if let Some(answer) = o.answering(&member.name).filter(|s| s.promised == record.epoch) {
            member.volume.clone_from(&answer.volume);
        }
    }
    let changed = members != record.members || quorum != record.quorum;
    let previous = match &record.previous {
        _ if o.allow_data_loss || quorum == 0 || taken_back.is_some() => None,
        Some(unsettled) => Some(unsettled.clone()),
        None => {
            changed.then(|| Previous { members: record.members.clone(), quorum: record.quorum, until: record.epoch })
        }
    };
    plan.event("MasterElected", name, format!("master of epoch {}", record.epoch));
    plan.write(Record {
        master: Some(Holder { name: name.into(), incarnation: status.incarnation.clone() }),
        members,
        quorum,
        previous,
        target: None,
        initialized: true,
        ..record.clone()
    });
    plan.summary = format!("{name} becomes master of epoch {}", record.epoch);
    plan.wake_ms = 0;
}
