//! The lives of a datastore's pods: what changes when one is replaced or its container starts again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Store;

/// One life of a pod's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub uid: String,
    pub restarts: String,
    /// It does, and is not about to end.
    pub runs: bool,
    pub ip: Option<IpAddr>,
}

impl Store<'_> {
    /// Of every pod that there is, by its name; seen at one moment.
    pub fn lives(&self) -> BTreeMap<String, Life> {
        let selector = format!("replicated-redis.io/cluster={}", self.name);
        let line = "{range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].restartCount} \
                    {.status.containerStatuses[0].started}{.metadata.deletionTimestamp} {.status.podIP}{\"\\n\"}{end}";
        let text = self.kubectl_ok(&["get", "pods", "-l", &selector, "-o", &format!("jsonpath={line}")]);
        let life = |line: &str| {
            let mut words = line.split(' ').map(String::from);
            let mut word = || words.next().unwrap_or_default();
            (word(), Life { uid: word(), restarts: word(), runs: word() == "true", ip: word().parse().ok() })
        };
        text.lines().map(life).collect()
    }
}
