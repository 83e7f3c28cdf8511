//! One instance as the session holds it: its pod, the conversation with the server in it, and what proves its end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::{Notify, mpsc, watch};

use crate::client::address;
use crate::clock::Clock;
use crate::link::{Credentials, InFlight, Link, Lives, Outcome, Peer, Seen};
use crate::observe::Instance;
use crate::plan::Order;
use crate::resources::PORT;

/// What an instance's conversation reports to.
#[derive(Debug, Clone)]
pub(super) struct Reports {
    pub(super) outcomes: mpsc::Sender<Outcome>,
    pub(super) changed: Arc<Notify>,
    pub(super) pace: watch::Receiver<Duration>,
}

/// A pod's server is one life to its link: that another process answers is seen by its incarnation.
#[derive(Debug)]
struct OneLife;

impl Lives for OneLife {
    fn running(&self) -> Option<u64> {
        Some(1)
    }
}

/// A pod with an address, and the conversation with its server.
#[derive(Debug)]
pub(super) struct PodInstance {
    uid: String,
    ip: String,
    link: Link,
    in_flight: InFlight,
    _life: watch::Sender<OneLife>,
}

impl PodInstance {
    pub(super) fn start(
        name: &str,
        place: (String, String),
        credentials: watch::Receiver<Credentials>,
        reports: &Reports,
    ) -> PodInstance {
        let (uid, ip) = place;
        let (life, life_seen) = watch::channel(OneLife);
        let peer = Peer { instance: name.to_string(), address: address(&ip, PORT), credentials };
        let (outcomes, changed) = (reports.outcomes.clone(), Arc::clone(&reports.changed));
        let link = Link::start(peer, life_seen, reports.pace.clone(), outcomes, changed);
        PodInstance { uid, ip, link, in_flight: InFlight::default(), _life: life }
    }

    /// Whether this is the conversation with that pod.
    pub(super) fn is_with(&self, place: &(String, String)) -> bool {
        (&self.uid, &self.ip) == (&place.0, &place.1)
    }

    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether it was told the credentials of this number, or does not answer: whoever comes back is told first of all.
    pub(super) fn knows(&self, number: u64) -> bool {
        let seen = self.link.seen();
        seen.told == Some(number) || seen.trouble.is_some()
    }

    /// It answers, and takes none of the passwords that are known.
    pub(super) fn shuts_out(&self) -> bool {
        self.link.seen().trouble.is_some_and(|trouble| trouble.why.starts_with("WRONGPASS"))
    }

    pub(super) fn order(&mut self, order: Order) -> bool {
        self.in_flight.send(&self.link, order)
    }

    pub(super) fn on_outcome(&mut self, outcome: &Outcome) {
        self.in_flight.on_outcome(outcome);
    }

    pub(super) fn observe(&mut self, clock: &Clock) -> Instance {
        let seen: Seen = self.link.seen();
        self.in_flight.on_seen(&seen, true);
        let has_answered = seen.last.is_some();
        Instance {
            running: true,
            leaving: false,
            host: self.ip.clone(),
            port: PORT,
            status_ms: seen.last.as_ref().map_or(0, |sighting| clock.at(sighting.asked)),
            answered_ms: seen.last.as_ref().map_or(0, |sighting| clock.at(sighting.answered)),
            refuses: seen.trouble.as_ref().is_some_and(|trouble| trouble.refused),
            silent_since_ms: seen.trouble.filter(|_| has_answered).map(|trouble| clock.at(trouble.since)),
            status: seen.last.map(|sighting| sighting.status),
        }
    }
}

/// Uid and address of a pod in which a server may answer.
pub(super) fn place(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    Some((pod.uid()?, status.pod_ip.clone().filter(|ip| !ip.is_empty())?))
}

/// Whether its kubelet calls it ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Why a pod cannot run, as its kubelet and the scheduler tell it; `None` while it runs or is being made.
pub(super) fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let mut unplaced = conditions.filter(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"));
    if let Some(condition) = unplaced.next() {
        return Some(format!("no node takes it: {}", condition.message.as_deref().unwrap_or_default()));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else { continue };
        let message = waiting.message.as_deref().unwrap_or_default();
        return Some(match waiting.reason.as_deref().unwrap_or_default() {
            "" | "ContainerCreating" | "PodInitializing" => continue,
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                format!("the image {} cannot be pulled: {message}", container.image)
            }
            "CrashLoopBackOff" => {
                let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
                let code = ended.map(|end| format!(" with code {}", end.exit_code)).unwrap_or_default();
                let words = ended.and_then(|end| end.message.as_deref()).unwrap_or_default();
                let last = words.lines().rev().map(str::trim).find(|line| !line.is_empty());
                format!("its server ends again and again{code}: {}", last.unwrap_or("see its log"))
            }
            reason => format!("{reason}: {message}"),
        });
    }
    None
}

/// In a few words, why a pod of another revision has to be replaced.
pub(super) fn difference(pod: &Pod, image: &str) -> String {
    let server = pod.spec.iter().flat_map(|spec| &spec.containers).find(|container| container.name == "server");
    match server.and_then(|container| container.image.as_deref()) {
        Some(has) if has != image => format!("image {has} becomes {image}"),
        _ => "its resources, its scheduling, or a restart that was asked for".into(),
    }
}

/// An incarnation that was seen in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) uid: String,
    pub(super) incarnation: String,
    pub(super) started_unix_ms: u64,
}

impl Witness {
    /// Whether `pod` reports the end of this very process (R5): its kubelet says that a container has ended after the process
    /// had started. Both moments are of the same machine's clock. The kubelet gives whole seconds, rounded down: a process
    /// that lived within one second is not recognised, and a later process of the same pod never taken for this one.
    pub(super) fn has_ended(&self, pod: &Pod) -> bool {
        if pod.uid().as_ref() != Some(&self.uid) {
            return false;
        }
        let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        let states = containers.flat_map(|c| [c.state.as_ref(), c.last_state.as_ref()]).flatten();
        let mut ends = states.filter_map(|state| state.terminated.as_ref()?.finished_at.as_ref());
        ends.any(|end| u64::try_from(end.0.as_second()).unwrap_or(0) * 1000 > self.started_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &str) -> Pod {
        let text = format!(r#"{{"metadata": {{"name": "x-master-0", "uid": "u1"}}, "status": {status}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn witness(started_unix_ms: u64) -> Witness {
        Witness { uid: "u1".into(), incarnation: "i".into(), started_unix_ms }
    }

    #[test]
    fn a_pod_has_a_place_once_it_has_an_address_and_until_it_has_ended() {
        assert_eq!(place(&pod(r#"{"phase": "Pending"}"#)), None);
        let running = r#"{"phase": "Running", "podIP": "10.0.0.7"}"#;
        assert_eq!(place(&pod(running)), Some(("u1".into(), "10.0.0.7".into())));
        assert_eq!(place(&pod(r#"{"phase": "Failed", "podIP": "10.0.0.7"}"#)), None);
    }

    #[test]
    fn a_pod_that_cannot_run_says_why() {
        let container = |state: &str| {
            pod(&format!(
                r#"{{"phase": "Pending", "containerStatuses": [{{"name": "server", "image": "server:2", "imageID": "",
                "ready": false, "restartCount": 1, {state}}}]}}"#
            ))
        };
        let waiting = |reason: &str| {
            container(&format!(r#""state": {{"waiting": {{"reason": "{reason}", "message": "not found"}}}}"#))
        };
        assert_eq!(trouble(&waiting("ContainerCreating")), None);
        let pulled = "the image server:2 cannot be pulled: not found";
        assert_eq!(trouble(&waiting("ImagePullBackOff")).as_deref(), Some(pulled));
        assert_eq!(
            trouble(&waiting("CreateContainerConfigError")).as_deref(),
            Some("CreateContainerConfigError: not found")
        );
        let crashing = container(
            r#""state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "first\nBad directive\n"}}"#,
        );
        assert_eq!(trouble(&crashing).as_deref(), Some("its server ends again and again with code 1: Bad directive"));
        let unplaced = pod(
            r#"{"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available"}]}"#,
        );
        assert_eq!(trouble(&unplaced).as_deref(), Some("no node takes it: 0/3 nodes are available"));
        assert_eq!(trouble(&container(r#""state": {"running": {}}"#)), None);
    }

    #[test]
    fn only_a_kubelets_report_about_this_process_proves_its_end() {
        // 2026-01-01T00:00:10Z
        const END_S: u64 = 1_767_225_610;
        let report = |field: &str| {
            pod(&format!(
                r#"{{"containerStatuses": [{{"name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                "{field}": {{"terminated": {{"exitCode": 137, "finishedAt": "2026-01-01T00:00:10Z"}}}}}}]}}"#
            ))
        };
        for field in ["state", "lastState"] {
            assert!(witness(END_S * 1000 - 1).has_ended(&report(field)));
            assert!(!witness(END_S * 1000).has_ended(&report(field)), "it may have started after the end");
        }
        assert!(!witness(1).has_ended(&pod(r#"{"phase": "Failed", "reason": "NodeLost"}"#)), "nobody has seen its end");
        let other = Witness { uid: "u2".into(), ..witness(1) };
        assert!(!other.has_ended(&report("state")));
    }
}
