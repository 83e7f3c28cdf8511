//! What a person asks for, as annotations of the object. Each is taken off when it was heard.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::{Session, call};
use crate::api::ReplicatedRedis;

/// Annotation by which a person asks for a switchover: the name of an instance, or `any`. It is taken off when it was heard.
pub const SWITCHOVER: &str = "replicated-redis.io/switchover";
/// Annotation by which a person gives up data that no instance holds (R9): `true`. It is taken off when it was heard.
pub const ALLOW_DATA_LOSS: &str = "replicated-redis.io/allow-data-loss";

/// A switchover that cannot begin within this is refused.
const SWITCHOVER_PATIENCE: Duration = Duration::from_secs(10);

impl Session {
    /// Wishes of a person come as annotations, and are taken off when they were heard.
    pub(super) async fn hear_wishes(&mut self) {
        let annotations = self.object.annotations();
        let switchover = annotations.get(SWITCHOVER).cloned();
        let allow = annotations.get(ALLOW_DATA_LOSS).is_some_and(|value| value == "true");
        if let Some(to) = &switchover {
            let to = Some(to.clone()).filter(|to| to != "any");
            let known = to.as_ref().is_none_or(|name| self.wanted().contains(name));
            if known {
                self.switchover.get_or_insert((to, Instant::now()));
            } else if let Some(name) = to {
                let note = format!("there is no instance {name}; there are {}", self.wanted().join(", "));
                self.event(EventType::Warning, "SwitchoverRefused", &note).await;
            }
        }
        if allow && self.record().is_some_and(|r| r.target.is_some()) {
            self.tenure.allow_data_loss = true;
            let note = "a person allows the loss of data: a master without data may be chosen";
            self.event(EventType::Warning, "DataLossAllowed", note).await;
        }
        if switchover.is_some() || (allow && self.tenure.allow_data_loss) {
            let heard = serde_json::json!({"metadata": {"annotations": {SWITCHOVER: null, ALLOW_DATA_LOSS: null}}});
            let api: Api<ReplicatedRedis> = self.api();
            match call(api.patch(&self.key.1, &PatchParams::default(), &Patch::Merge(heard))).await {
                Ok(object) => self.object = object,
                Err(error) => self.problem(&format!("cannot take off an annotation: {error}")).await,
            }
        }
        if self.switchover.as_ref().is_some_and(|(_, since)| since.elapsed() > SWITCHOVER_PATIENCE) {
            self.switchover = None;
            self.event(EventType::Warning, "SwitchoverRefused", "no switchover now: no replica can take over").await;
        }
    }
}
