//! How claims grow, as a person is told of it.

use kube::runtime::events::EventType;
use tokio::time::{Duration, Instant};

use super::Session;
use crate::kubernetes::claims::{Asked, claims};
use crate::storage::Growth;

/// A class may be allowed to grow later: nothing tells of it, so refused claims are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What is known besides the claims themselves.
#[derive(Debug, Default)]
pub(super) struct Storage {
    refused: Option<String>,
    refused_at: Option<Instant>,
    growth: Growth,
    /// What `growth` was made from: generation, objects seen, whether claims were refused.
    made_from: Option<(Option<i64>, u64, Option<String>)>,
}

impl Storage {
    pub(super) fn may_ask_again(&self) -> bool {
        self.refused_at.is_some_and(|at| at.elapsed() > ASK_AGAIN)
    }
}

impl Session {
    pub(super) fn growth(&self) -> Growth {
        self.storage.growth.clone()
    }

    /// Claims were asked to grow.
    pub(super) async fn on_asked(&mut self, asked: Asked) {
        let is_news = asked.refused.is_some() && asked.refused != self.storage.refused;
        self.storage.refused_at = asked.refused.is_some().then(Instant::now);
        self.storage.refused = asked.refused;
        let size = self.object.spec.storage.size.clone();
        if !asked.asked.is_empty() {
            let note = format!("{} grow to {size}", asked.asked.join(", "));
            self.event(EventType::Normal, "VolumeExpanding", &note).await;
        }
        if let Some(why) = self.storage.refused.as_ref().filter(|_| is_news) {
            let note = format!("claims cannot grow to {size}: {why}");
            self.event(EventType::Warning, "VolumeExpansionRefused", &note).await;
        }
    }

    /// Looks at the claims when something has changed, and notices that they have grown.
    pub(super) async fn follow_growth(&mut self) {
        let seen = self.context.caches.hub.seen(&self.key);
        let from = Some((self.object.metadata.generation, seen, self.storage.refused.clone()));
        if self.storage.made_from == from {
            return;
        }
        self.storage.made_from = from;
        let all = claims(&self.context.caches, &self.key);
        let growth = Growth::of(&self.object, &self.wanted(), &all, self.storage.refused.clone());
        let before = std::mem::replace(&mut self.storage.growth, growth.clone());
        if !before.growing.is_empty()
            && growth.growing.is_empty()
            && let Some(size) = growth.size
        {
            self.event(EventType::Normal, "VolumeExpanded", &format!("every claim has {size}")).await;
        }
    }
}
