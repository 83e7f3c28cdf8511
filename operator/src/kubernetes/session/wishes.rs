//! What a person asks for, as annotations of the object. Each is taken off when it was heard.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::rollout::CONTINUE_UPDATE;
use super::{Session, call};
use crate::api::ReplicatedRedis;
use crate::fault::Act;
use crate::record::Target;

/// Annotation by which a person asks for a switchover: the name of an instance, or `any`. It is taken off when it was heard.
pub const SWITCHOVER: &str = "replicated-redis.io/switchover";
/// Annotation by which a person gives up data that no instance holds (R9): `true`. It is taken off when it was heard.
pub const ALLOW_DATA_LOSS: &str = "replicated-redis.io/allow-data-loss";

/// A switchover that cannot begin within this is refused.
const SWITCHOVER_PATIENCE: Duration = Duration::from_secs(10);

impl Session {
    /// Wishes of a person come as annotations. One is taken off when the record shows that it is under way, or when it cannot
    /// be: an operator that dies before that leaves it to the next.
    pub(super) async fn hear_wishes(&mut self) {
        let mut heard = Vec::new();
        match self.object.annotations().get(SWITCHOVER).cloned() {
            Some(to) if self.hear_switchover(&to).await => heard.push(SWITCHOVER),
            Some(_) => {}
            // Withdrawn by the person, or taken off.
            None => (self.switchover, self.switchover_begun) = (None, false),
        }
        let allow = self.object.annotations().get(ALLOW_DATA_LOSS).is_some_and(|value| value == "true");
        if allow && self.record().is_some_and(|r| r.target.is_some()) {
            self.tenure.allow_data_loss = true;
            let note = "a person allows the loss of data: a master without data may be chosen";
            self.event(EventType::Warning, "DataLossAllowed", note).await;
        }
        if allow && self.tenure.allow_data_loss {
            heard.push(ALLOW_DATA_LOSS);
        }
        if self.approval_is_over() {
            heard.push(CONTINUE_UPDATE);
        }
        if !heard.is_empty() && self.take_off(&heard).await {
            self.switchover_begun = false;
        }
    }

    /// Whether the wish is done with.
    async fn hear_switchover(&mut self, to: &str) -> bool {
        let target = self.record().and_then(|r| r.target.as_ref());
        if self.switchover_begun || (self.switchover.is_none() && matches!(target, Some(Target::Named { .. }))) {
            return true;
        }
        let name = Some(to).filter(|to| *to != "any");
        if let Some(name) = name.filter(|name| !self.wanted().iter().any(|wanted| wanted == name)) {
            let note = format!("there is no instance {name}; there are {}", self.wanted().join(", "));
            self.event(EventType::Warning, "SwitchoverRefused", &note).await;
            return true;
        }
        let master = self.record().filter(|r| r.target.is_none()).and_then(|r| r.master.as_ref());
        if name.is_some() && master.map(|m| m.name.as_str()) == name {
            return true;
        }
        let (_, since) = self.switchover.get_or_insert((name.map(str::to_string), Instant::now()));
        if since.elapsed() <= SWITCHOVER_PATIENCE {
            return false;
        }
        self.switchover = None;
        self.event(EventType::Warning, "SwitchoverRefused", "no switchover now: no replica can take over").await;
        true
    }

    /// Takes annotations off that were heard; whether that was done.
    pub(super) async fn take_off(&mut self, annotations: &[&str]) -> bool {
        let nothing: serde_json::Map<String, serde_json::Value> =
            annotations.iter().map(|name| (name.to_string(), serde_json::Value::Null)).collect();
        let patch = Patch::Merge(serde_json::json!({"metadata": {"annotations": nothing}}));
        let api: Api<ReplicatedRedis> = self.api();
        let params = PatchParams::default();
        match Act::TakeOffWish.around(call(api.patch(&self.key.1, &params, &patch))).await {
            Ok(object) => {
                self.object = object;
                true
            }
            Err(error) => {
                self.problem(&format!("cannot take off an annotation: {error}")).await;
                false
            }
        }
    }
}
