//! What is there, as the servers tell it now.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::cluster::{Cluster, Talk};
use crate::api::{BootstrapPhase, ReplicatedRedis};
use crate::observe::{Role, Status};

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// One instance: its pod and what its server says, or why it says nothing.
struct Row {
    name: String,
    node: String,
    said: Result<Status, String>,
}

pub(super) async fn status(cluster: &Cluster, name: &str, watch: bool) -> Result<()> {
    let mut talks = BTreeMap::new();
    loop {
        let datastore = cluster.datastore(name).await?;
        let rows = look(cluster, &datastore, &mut talks).await?;
        let text = format!("{}\n{}", head(&datastore, Timestamp::now()), table(&rows));
        let clear = if watch && std::io::stdout().is_terminal() { CLEAR } else { "" };
        println!("{clear}{text}");
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The same as text, once.
pub(super) async fn text(cluster: &Cluster, datastore: &ReplicatedRedis) -> Result<String> {
    let rows = look(cluster, datastore, &mut BTreeMap::new()).await?;
    Ok(format!("{}\n{}\n", head(datastore, Timestamp::now()), table(&rows)))
}

/// Asks every server; conversations are kept for the next time.
async fn look(cluster: &Cluster, datastore: &ReplicatedRedis, talks: &mut BTreeMap<String, Talk>) -> Result<Vec<Row>> {
    let pods = cluster.pods(datastore).await?;
    // Who may not read it sees the rest.
    let password = cluster.password(datastore).await.map_err(|error| format!("{error:#}"));
    let asked = pods.into_iter().map(|pod| {
        let talk = talks.remove(&pod.uid().unwrap_or_default());
        ask(cluster, pod, talk, password.clone())
    });
    let mut rows = Vec::new();
    for (uid, row, talk) in join_all(asked).await {
        talks.extend(talk.map(|talk| (uid, talk)));
        rows.push(row);
    }
    Ok(rows)
}

async fn ask(
    cluster: &Cluster,
    pod: Pod,
    talk: Option<Talk>,
    password: Result<String, String>,
) -> (String, Row, Option<Talk>) {
    let said = async {
        let mut talk = match talk {
            Some(talk) => talk,
            None => cluster.talk(&pod, &password?).await.map_err(|error| format!("{error:#}"))?,
        };
        let fields = talk.client.status().await.map_err(|error| error.to_string())?;
        Ok::<_, String>((Status::from_fields(|name| fields.get(name))?, talk))
    };
    let (said, talk) = match said.await {
        Ok((status, talk)) => (Ok(status), Some(talk)),
        Err(why) => (Err(why), None),
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    (pod.uid().unwrap_or_default(), Row { name: pod.name_any(), node, said }, talk)
}

/// What the object says.
fn head(datastore: &ReplicatedRedis, now: Timestamp) -> String {
    let Some(status) = &datastore.status else {
        return format!("{}: no operator has looked at it yet\n", datastore.name_any());
    };
    let epoch = status.record.as_ref().map_or(0, |r| r.epoch);
    let since = status.master_since.as_ref().map_or(String::new(), |since| {
        format!(", master since {}", age(now.as_second().saturating_sub(since.0.as_second())))
    });
    let mut lines = vec![format!(
        "{}: {:?}, epoch {epoch}, master {}{since}, replicas {}",
        datastore.name_any(),
        status.phase,
        status.current_master.as_deref().unwrap_or("none"),
        status.replica_summary
    )];
    if let Some(bootstrap) = status.bootstrap.as_ref().filter(|b| b.phase != BootstrapPhase::Completed) {
        let lag = bootstrap.lag_bytes.map_or("unknown".into(), |lag| format!("{lag} bytes"));
        lines.push(format!(
            "external master {}: {:?}, link {}, offset {}, lag {lag}: {}",
            bootstrap.source,
            bootstrap.phase,
            bootstrap.link.as_deref().unwrap_or("none"),
            bootstrap.offset,
            bootstrap.message
        ));
    }
    let good = |kind: &str| !matches!(kind, "Stalled" | "Reconciling" | "Fenced" | "Paused" | "StorageResizing");
    for condition in &status.conditions {
        if (condition.status == "True") != good(&condition.type_) && condition.type_ != "Reconciling" {
            lines.push(format!(
                "{}={} ({}): {}",
                condition.type_, condition.status, condition.reason, condition.message
            ));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A duration in its two largest units.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn table(rows: &[Row]) -> String {
    let end = rows.iter().filter_map(|row| row.said.as_ref().ok()).filter(|s| s.role == Role::Master).map(|s| s.offset);
    // Without a master: behind the most advanced.
    let end = end.max().or_else(|| rows.iter().filter_map(|row| row.said.as_ref().ok()).map(|s| s.offset).max());
    let mut cells = vec![["INSTANCE", "NODE", "ROLE", "LINK", "EPOCH", "OFFSET", "LAG", ""].map(String::from)];
    cells.extend(rows.iter().map(|row| cells_of(row, end.unwrap_or(0))));
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let line = |row: &[String; 8]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cells_of(row: &Row, end: u64) -> [String; 8] {
    let (name, node) = (row.name.clone(), row.node.clone());
    let none = || "-".to_string();
    let said = match &row.said {
        Ok(said) => said,
        Err(why) => return [name, node, "silent".into(), none(), none(), none(), none(), why.clone()],
    };
    let (role, link) = match said.role {
        Role::Master => ("master", "-"),
        Role::Awaiting => ("awaiting", "-"),
        Role::Replica if said.syncing => ("replica", "syncing"),
        Role::Replica if said.link_up => ("replica", "up"),
        Role::Replica => ("replica", "down"),
    };
    let note = match said.role {
        _ if said.loading => "loads its data".into(),
        _ if !said.sync_refused.is_empty() => format!("refuses the full resync: {}", said.sync_refused),
        Role::Master if said.paused => "writes are paused".into(),
        Role::Master if !said.writable => "takes no writes: no lease".into(),
        Role::Master if said.save_stops_writes => "takes no writes: its last save failed".into(),
        _ if !said.last_save_ok => "its last save failed".into(),
        Role::Replica => format!("of {}:{}", said.master_host, said.master_port),
        Role::Master | Role::Awaiting => String::new(),
    };
    let lag = if said.role == Role::Replica { end.saturating_sub(said.offset).to_string() } else { none() };
    [name, node, role.into(), link.into(), said.role_epoch.to_string(), said.offset.to_string(), lag, note]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_a_table_with_their_lag() {
        let row = |name: &str, said| Row { name: name.into(), node: "n1".into(), said };
        let well = Status { role_epoch: 3, last_save_ok: true, ..Status::default() };
        let master = Status { role: Role::Master, offset: 1000, writable: true, ..well.clone() };
        let replica = Status {
            role: Role::Replica,
            offset: 990,
            link_up: true,
            master_host: "10.0.0.1".into(),
            master_port: 6379,
            ..well
        };
        let rows = [
            row("x-master-0", Ok(master)),
            row("x-replica-0", Ok(replica)),
            row("x-replica-1", Err("no route".into())),
        ];
        let want = "\
INSTANCE     NODE  ROLE     LINK  EPOCH  OFFSET  LAG
x-master-0   n1    master   -     3      1000    -
x-replica-0  n1    replica  up    3      990     10   of 10.0.0.1:6379
x-replica-1  n1    silent   -     -      -       -    no route";
        assert_eq!(table(&rows), want);
    }

    #[test]
    fn an_age_has_two_units() {
        assert_eq!([5, 65, 3660, 90_000].map(age), ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}
