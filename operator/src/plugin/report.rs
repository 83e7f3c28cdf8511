//! A folder with everything that helps to find a fault: objects, events, logs, what the servers say of themselves. It holds
//! no password, no value of a Secret, and nothing of the data: neither keys nor commands of clients.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, LogParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cluster::Cluster;
use super::{redact, status};
use crate::api::ReplicatedRedis;
use crate::resources::CONTAINER;

/// Lines of each log.
const LINES: i64 = 5000;

struct Report<'c> {
    cluster: &'c Cluster,
    name: &'c str,
    dir: PathBuf,
    /// Known passwords: hidden wherever they stand.
    secrets: Vec<String>,
    /// What could not be had.
    missing: Vec<String>,
}

pub(super) async fn report(cluster: &Cluster, name: &str, output: Option<PathBuf>) -> Result<()> {
    let datastore = cluster.datastore(name).await?;
    let dir = output.unwrap_or_else(|| PathBuf::from(format!("{name}-report")));
    if dir.exists() {
        bail!("{} is there already; remove it or name another with --output", dir.display());
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let password = cluster.password(&datastore).await;
    let secrets = password.iter().cloned().collect();
    let mut report = Report { cluster, name, dir, secrets, missing: Vec::new() };
    if let Err(error) = &password {
        report.missing.push(format!("what the servers say: {error:#}"));
    }
    report.object(&datastore, "ReplicatedRedis")?;
    report.objects::<StatefulSet>().await?;
    report.objects::<Pod>().await?;
    report.objects::<Service>().await?;
    report.objects::<EndpointSlice>().await?;
    report.objects::<ConfigMap>().await?;
    report.objects::<Secret>().await?;
    report.objects::<PersistentVolumeClaim>().await?;
    report.objects::<PodDisruptionBudget>().await?;
    report.objects::<ServiceAccount>().await?;
    report.events(&datastore).await?;
    report.instances(&datastore, password.ok().as_deref()).await?;
    let seen = status::text(cluster, &datastore).await?;
    report.write("status.txt", &seen)?;
    if !report.missing.is_empty() {
        report.write("missing.txt", &(report.missing.join("\n") + "\n"))?;
    }
    println!("{}: read it before you hand it on", report.dir.display());
    report.missing.iter().for_each(|what| println!("not in it: {what}"));
    Ok(())
}

impl Report<'_> {
    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join(file);
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        fs::write(&path, redact::text(text, &self.secrets)).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What cannot be had is named, and the rest goes on.
    fn or_missing<T>(&mut self, what: &str, got: Result<T>) -> Option<T> {
        got.map_err(|error| self.missing.push(format!("{what}: {error:#}"))).ok()
    }

    fn object<K>(&self, object: &K, kind: &str) -> Result<()>
    where
        K: Resource + Serialize,
    {
        let mut value = serde_json::to_value(object)?;
        // Lists do not repeat it for their items.
        value["kind"] = kind.into();
        redact::object(&mut value, &self.secrets);
        let text = serde_saphyr::to_string(&value)?;
        self.write(&format!("objects/{}-{}.yaml", kind.to_lowercase(), object.name_any()), &text)
    }

    async fn objects<K>(&mut self) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let kind = K::kind(&K::DynamicType::default()).to_string();
        let listed = self.cluster.of::<K>(self.name).await;
        for object in self.or_missing(&kind, listed).unwrap_or_default() {
            self.object(&object, &kind)?;
        }
        Ok(())
    }

    /// Those about the datastore and everything whose name begins with its name.
    async fn events(&mut self, datastore: &ReplicatedRedis) -> Result<()> {
        let listed = self.cluster.api::<Event>().list(&ListParams::default()).await.map_err(Into::into);
        let mut events = self.or_missing("Event", listed).map(|list| list.items).unwrap_or_default();
        let begin = format!("{}-", self.name);
        events.retain(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            about == self.name || about.starts_with(&begin)
        });
        let time = |event: &Event| {
            let last = event.last_timestamp.as_ref().map(|t| t.0);
            last.or(event.event_time.as_ref().map(|t| t.0)).or(event.metadata.creation_timestamp.as_ref().map(|t| t.0))
        };
        events.sort_by_key(time);
        let line = |event: &Event| {
            let about = &event.involved_object;
            format!(
                "{} {} {}/{} {}: {}\n",
                time(event).map(|t| t.to_string()).unwrap_or_default(),
                event.type_.as_deref().unwrap_or_default(),
                about.kind.as_deref().unwrap_or_default(),
                about.name.as_deref().unwrap_or_default(),
                event.reason.as_deref().unwrap_or_default(),
                event.message.as_deref().unwrap_or_default(),
            )
        };
        let text: String = events.iter().map(line).collect();
        self.write(
            "events.txt",
            &format!("{} as of {}\n{text}", self.name, datastore.resource_version().unwrap_or_default()),
        )
    }

    /// Logs, also of the container before, and figures.
    async fn instances(&mut self, datastore: &ReplicatedRedis, password: Option<&str>) -> Result<()> {
        for pod in self.cluster.pods(datastore).await? {
            let name = pod.name_any();
            for (file, previous) in [("log", false), ("previous-log", true)] {
                let has_one = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
                if previous && !has_one.into_iter().any(|c| c.restart_count > 0) {
                    continue;
                }
                let container = Some(CONTAINER.to_string());
                let params = LogParams { container, previous, tail_lines: Some(LINES), ..LogParams::default() };
                let read = self.cluster.api::<Pod>().logs(&name, &params).await.map_err(Into::into);
                if let Some(text) = self.or_missing(&format!("{file} of {name}"), read) {
                    self.write(&format!("instances/{name}/{file}.txt"), &text)?;
                }
            }
            let Some(password) = password else { continue };
            let told = self.figures(&pod, password).await;
            for (file, text) in self.or_missing(&name, told).unwrap_or_default() {
                self.write(&format!("instances/{name}/{file}.txt"), &text)?;
            }
        }
        Ok(())
    }

    async fn figures(&self, pod: &Pod, password: &str) -> Result<Vec<(&'static str, String)>> {
        let mut talk = self.cluster.talk(pod, password).await?;
        let fields = talk.client.status().await?;
        let status = fields.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let mut told = vec![("replicated-status", status)];
        for (file, command) in [("info", &["INFO", "everything"]), ("latency", &["LATENCY", "LATEST"])] {
            let reply = talk.client.call(command).await?;
            told.push((file, reply.as_str().map_or_else(|| format!("{reply}\n"), str::to_string)));
        }
        Ok(told)
    }
}
