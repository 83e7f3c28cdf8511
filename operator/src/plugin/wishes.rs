//! What a person wants done. Each is an annotation or a field; the operator does it and says so in status and events.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Preconditions};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use crate::api::{BootstrapPhase, BootstrapStatus, ReplicatedRedis, ReplicatedRedisStatus};
use crate::kubernetes::{FENCED, PROMOTE, SWITCHOVER, fenced_instances};
use crate::resources::RESTARTED_AT;
use crate::tenure::instance_names;

/// Between two looks at what came of it.
const PACE: Duration = Duration::from_millis(250);

/// A switchover, or the end of following an external master; waits for the result.
pub(super) async fn promote(
    cluster: &Cluster,
    name: &str,
    to: Option<String>,
    now: bool,
    limit: Duration,
) -> Result<()> {
    let datastore = cluster.datastore(name).await?;
    let Some(status) = datastore.status.clone() else { bail!("no operator has looked at {name} yet") };
    if let Some(bootstrap) = status.bootstrap.as_ref().filter(|b| b.phase != BootstrapPhase::Completed) {
        if to.is_some() {
            bail!("{name} follows an external master: the instance that follows it becomes master; name none");
        }
        return end_following(cluster, name, bootstrap, now, limit).await;
    }
    if now {
        bail!("--now is about an external master, and {name} follows none");
    }
    if let Some(to) = &to {
        let names = instance_names(name, datastore.spec.replicas);
        if !names.contains(to) {
            bail!("no instance {to}; there are: {}", names.join(", "));
        }
        if status.current_master.as_ref() == Some(to) {
            println!("{to} is the master already");
            return Ok(());
        }
    } else if datastore.spec.replicas == 0 {
        bail!("{name} has no replicas that could become master");
    }
    let before = refusals(cluster, name).await?;
    let wish = to.as_deref().unwrap_or("any");
    cluster.patch(name, json!({"metadata": {"annotations": {SWITCHOVER: wish}}})).await?;
    let begun = Instant::now();
    while begun.elapsed() < limit {
        sleep(PACE).await;
        let seen = cluster.datastore(name).await?;
        if let Some(done) = seen.status.as_ref().filter(|s| has_moved(&seen, s, &status, to.as_deref())) {
            let master = done.current_master.as_deref().unwrap_or_default();
            let epoch = done.record.as_ref().map_or(0, |r| r.epoch);
            println!("{master} is master since epoch {epoch}");
            return Ok(());
        }
        for (key, (version, note)) in refusals(cluster, name).await? {
            if before.get(&key).is_none_or(|(known, _)| *known != version) {
                bail!("refused: {note}");
            }
        }
    }
    bail!("nothing came of it within {} s; kubectl describe rr {name} may say why", limit.as_secs())
}

/// Another master takes writes, the wanted one if one was named.
fn has_moved(
    datastore: &ReplicatedRedis,
    now: &ReplicatedRedisStatus,
    before: &ReplicatedRedisStatus,
    to: Option<&str>,
) -> bool {
    let heard = !datastore.annotations().contains_key(SWITCHOVER);
    let settled = now.record.as_ref().is_some_and(|r| r.target.is_none());
    let moved = match to {
        Some(to) => now.current_master.as_deref() == Some(to),
        None => now.current_master != before.current_master,
    };
    heard && settled && moved && takes_writes(now)
}

fn takes_writes(status: &ReplicatedRedisStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "MasterAvailable" && c.status == "True")
}

/// Refusals that were told so far, with their versions: one that is repeated has another.
async fn refusals(cluster: &Cluster, name: &str) -> Result<BTreeMap<String, (String, String)>> {
    let fields = format!("involvedObject.name={name},involvedObject.kind=ReplicatedRedis,reason=SwitchoverRefused");
    let list =
        cluster.api::<Event>().list(&ListParams::default().fields(&fields)).await.context("cannot list events")?;
    let told = |event: Event| {
        let version = event.resource_version().unwrap_or_default();
        (event.name_any(), (version, event.message.unwrap_or_default()))
    };
    Ok(list.items.into_iter().map(told).collect())
}

async fn end_following(
    cluster: &Cluster,
    name: &str,
    bootstrap: &BootstrapStatus,
    now: bool,
    limit: Duration,
) -> Result<()> {
    let wish = if now { "now" } else { "true" };
    cluster.patch(name, json!({"metadata": {"annotations": {PROMOTE: wish}}})).await?;
    let lag = bootstrap.lag_bytes.map_or("unknown".into(), |lag| format!("{lag} bytes"));
    println!("{} is to be followed no longer; at last it was {lag} ahead", bootstrap.source);
    let begun = Instant::now();
    let mut told = String::new();
    while begun.elapsed() < limit {
        sleep(PACE).await;
        let Some(status) = cluster.datastore(name).await?.status else { continue };
        let Some(said) = status.bootstrap.as_ref() else { bail!("{name} does not follow an external master any more") };
        if said.phase == BootstrapPhase::Completed && takes_writes(&status) {
            println!("{} takes writes", status.current_master.as_deref().unwrap_or_default());
            return Ok(());
        }
        if told != said.message {
            told.clone_from(&said.message);
            println!("{told}");
        }
    }
    bail!(
        "still {told} after {} s; the wish stays until it is done: kubectl annotate rr {name} {PROMOTE}- takes it back",
        limit.as_secs()
    )
}

/// Every instance, one after the other: the operator does it.
pub(super) async fn restart(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.datastore(name).await?;
    let now = Timestamp::now().to_string();
    cluster.patch(name, json!({"metadata": {"annotations": {RESTARTED_AT: now}}})).await?;
    println!("{name} restarts, replicas first; kubectl rr status {name} --watch shows it");
    Ok(())
}

/// One instance. Its pod ends, and a master hands its role over first as with every pod that is about to end.
pub(super) async fn restart_one(cluster: &Cluster, name: &str, instance: &str) -> Result<()> {
    let datastore = cluster.datastore(name).await?;
    let pod = cluster.pod(&datastore, instance).await?;
    let this = Preconditions { uid: pod.uid(), ..Preconditions::default() };
    let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    cluster.api::<Pod>().delete(instance, &params).await.with_context(|| format!("cannot end the pod {instance}"))?;
    println!("{instance} restarts");
    Ok(())
}

/// Takes instances out of service, or back; `None`: all of them. Waits until it is so.
pub(super) async fn fence(cluster: &Cluster, name: &str, instance: Option<&str>, fence: bool) -> Result<()> {
    let datastore = cluster.datastore(name).await?;
    let names = instance_names(name, datastore.spec.replicas);
    if let Some(instance) = instance.filter(|instance| !names.iter().any(|n| n == instance)) {
        bail!("no instance {instance}; there are: {}", names.join(", "));
    }
    let present = fenced_instances(&datastore).unwrap_or_default();
    let wanted = fence_list(&present, &names, instance, fence);
    let value = if wanted.is_empty() { json!(null) } else { json!(serde_json::to_string(&wanted)?) };
    cluster.patch(name, json!({"metadata": {"annotations": {FENCED: value}}})).await?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        sleep(PACE).await;
        let Some(status) = cluster.datastore(name).await?.status else { continue };
        let serves = |instance: &String| {
            let role = status.instances.iter().find(|i| i.name == *instance).map(|i| i.role.as_str());
            matches!(role, Some("master" | "replica"))
        };
        let is_so = |n: &String| instance.is_some_and(|i| i != n) || serves(n) != fence;
        if names.iter().all(is_so) {
            let which = instance.unwrap_or("every instance");
            println!("{which} {}", if fence { "serves nothing any more" } else { "is in service again" });
            return Ok(());
        }
    }
    bail!("it is not so after 30 s; kubectl describe rr {name} may say why")
}

/// The list after the change. `*` stands for all.
fn fence_list(present: &[String], names: &[String], instance: Option<&str>, fence: bool) -> Vec<String> {
    let is_fenced = |name: &String| present.iter().any(|p| p == "*" || p == name);
    match (instance, fence) {
        (None, true) => vec!["*".into()],
        (None, false) => Vec::new(),
        (Some(instance), fence) => {
            names.iter().filter(|name| if *name == instance { fence } else { is_fenced(name) }).cloned().collect()
        }
    }
}

/// Objects and pods are left alone from now on, or not any more.
pub(super) async fn pause(cluster: &Cluster, name: &str, pause: bool) -> Result<()> {
    cluster.datastore(name).await?;
    let value = if pause { "Paused" } else { "Enabled" };
    cluster.patch(name, json!({"spec": {"reconciliation": value}})).await?;
    println!("{name}: spec.reconciliation is {value}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::record::{Record, Target};

    fn status(master: &str, writes: bool) -> ReplicatedRedisStatus {
        let condition = Condition {
            type_: "MasterAvailable".into(),
            status: if writes { "True" } else { "False" }.into(),
            reason: "TakesWrites".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        let record = Some(Record::default());
        let current_master = Some(master.into());
        ReplicatedRedisStatus {
            current_master,
            record,
            conditions: vec![condition],
            ..ReplicatedRedisStatus::default()
        }
    }

    #[test]
    fn one_more_or_one_less_is_fenced() {
        let list = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
        let names = list(&["m", "a", "b"]);
        let after = |present: &[&str], instance, fence| fence_list(&list(present), &names, instance, fence);
        assert_eq!(after(&[], Some("a"), true), ["a"]);
        assert_eq!(after(&["a"], Some("b"), true), ["a", "b"]);
        assert_eq!(after(&["a", "b"], Some("a"), false), ["b"]);
        assert_eq!(after(&["a"], None, true), ["*"]);
        assert_eq!(after(&["*"], Some("a"), false), ["m", "b"]);
        assert!(after(&["*"], None, false).is_empty());
    }

    #[test]
    fn a_switchover_is_over_when_the_wanted_one_takes_writes() {
        let datastore = ReplicatedRedis::new("x", Default::default());
        let before = status("a", true);
        let is_over = |now: &ReplicatedRedisStatus, to| has_moved(&datastore, now, &before, to);
        assert!(!is_over(&status("a", true), None));
        assert!(is_over(&status("b", true), None));
        assert!(is_over(&status("b", true), Some("b")));
        assert!(!is_over(&status("c", true), Some("b")));
        assert!(!is_over(&status("b", false), Some("b")), "it takes no writes yet");
        let mut electing = status("b", true);
        electing.record.as_mut().unwrap().target = Some(Target::Pending {});
        assert!(!is_over(&electing, None));
        let mut asked = datastore.clone();
        asked.annotations_mut().insert(SWITCHOVER.into(), "b".into());
        assert!(!has_moved(&asked, &status("b", true), &before, None), "nobody has heard it yet");
    }
}
