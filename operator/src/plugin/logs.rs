//! What the servers say.

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::LogParams;

use super::cluster::Cluster;
use crate::resources::CONTAINER;

/// Of one instance, or of all of them with their names before each line.
pub(super) async fn logs(cluster: &Cluster, name: &str, instance: Option<&str>, follow: bool, tail: i64) -> Result<()> {
    let datastore = cluster.datastore(name).await?;
    let pods = match instance {
        Some(instance) => vec![cluster.pod(&datastore, instance).await?],
        None => cluster.pods(&datastore).await?,
    };
    let width = pods.iter().map(|pod| pod.name_any().len()).max().unwrap_or(0);
    let named = pods.len() > 1;
    let each = pods.iter().map(|pod| async move {
        let pod = pod.name_any();
        let prefix = if named { format!("{pod:width$} | ") } else { String::new() };
        print(cluster, &pod, &prefix, follow, tail).await.with_context(|| format!("cannot read the log of {pod}"))
    });
    try_join_all(each).await.map(drop)
}

async fn print(cluster: &Cluster, pod: &str, prefix: &str, follow: bool, tail: i64) -> Result<()> {
    let container = Some(CONTAINER.to_string());
    let params = LogParams { container, follow, tail_lines: Some(tail), ..LogParams::default() };
    let mut lines = cluster.api::<Pod>().log_stream(pod, &params).await?.lines();
    while let Some(line) = lines.try_next().await? {
        println!("{prefix}{line}");
    }
    Ok(())
}
