//! `spec.config`: asked about before it goes into the ConfigMap, then brought to every instance that runs.
//!
//! A directive that no server would start with never reaches the file that the next start reads. What can change live is
//! changed by each instance itself; what cannot makes its pod one that has to be restarted (see [`super::rollout`]). An instance
//! is told once in its life, and again when the spec changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::events::EventType;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{RETRY_PAUSE, Session};
use crate::client::{ClientError, address};
use crate::directives::{Mode, Told, ask};
use crate::observe::Observed;
use crate::resources;
use crate::status::Said;

/// The part of a datastore's problems that is told here: see [`super::Problems`].
const THEME: &str = "directives";

/// What the instances say of the directives that are wanted.
#[derive(Debug, Default)]
pub(super) struct Directives {
    /// Of the directives that all of this is about.
    hash: u64,
    answers: BTreeMap<String, Answer>,
    asking: BTreeMap<String, Asking>,
    retry_at: Option<Instant>,
    /// The ConfigMap says so: whoever starts now has them.
    in_force: bool,
    /// What has changed live and was not told yet.
    changed: BTreeSet<String>,
    told_refusal: u64,
}

#[derive(Debug)]
struct Answer {
    incarnation: String,
    mode: Mode,
    told: Vec<Told>,
    /// The server does not know the question.
    is_old: bool,
}

#[derive(Debug)]
struct Asking {
    incarnation: String,
    mode: Mode,
    task: JoinHandle<Result<Vec<Told>, ClientError>>,
}

/// Its directives may not be wanted any more.
impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Directives {
    fn of(&self, name: &str, incarnation: &str) -> Option<&Answer> {
        self.answers.get(name).filter(|answer| answer.incarnation == incarnation)
    }

    /// A directive that a server would not start with, and which one says so.
    fn refusal(&self) -> Option<String> {
        self.answers.iter().find_map(|(instance, answer)| {
            let refused = answer.told.iter().filter_map(|told| match told {
                Told::Refused { name, reason } => Some(format!("{name}: {reason}")),
                Told::Set(_) | Told::Restart { .. } => None,
            });
            let refused: Vec<String> = refused.collect();
            (!refused.is_empty()).then(|| format!("{instance} refuses {}", refused.join("; ")))
        })
    }

    /// Why that process has to be restarted, if directives want it.
    pub(super) fn restart(&self, name: &str, incarnation: &str) -> Option<String> {
        let told = self.of(name, incarnation)?.told.iter();
        let restart = told.filter_map(|told| match told {
            Told::Restart { name, now, wanted } => Some(format!("{name} {now} becomes {wanted}")),
            Told::Set(_) | Told::Refused { .. } => None,
        });
        let restart: Vec<String> = restart.collect();
        (!restart.is_empty()).then(|| restart.join(", "))
    }

    /// Pods that start now have what is wanted.
    pub(super) fn are_in_force(&self) -> bool {
        self.in_force
    }

    /// Whether every instance that answers has said what it makes of them.
    pub(super) fn are_known(&self, observed: &Observed) -> bool {
        answering(observed).all(|(name, incarnation, _)| self.of(name, incarnation).is_some())
    }

    /// Whether every instance that answers has changed what it could.
    fn are_applied(&self, observed: &Observed) -> bool {
        let applied = |(name, incarnation, _): (&str, &str, String)| {
            self.of(name, incarnation).is_some_and(|answer| answer.mode == Mode::Apply)
        };
        self.in_force && answering(observed).all(applied)
    }

    /// The ConfigMap is not yet what it is to be.
    pub(super) fn are_on_their_way(&self) -> bool {
        !self.in_force && self.refusal().is_none()
    }

    /// The condition ConfigApplied.
    pub(super) fn said(&self, observed: &Observed) -> Said {
        const KIND: &str = "ConfigApplied";
        if let Some(refusal) = self.refusal() {
            let text = format!("{refusal}; everything goes on with the directives as they were");
            return Said::new(KIND, false, "Refused", &text);
        }
        let restarts = answering(observed)
            .filter_map(|(name, incarnation, _)| Some(format!("{name}: {}", self.restart(name, incarnation)?)));
        let restarts: Vec<String> = restarts.collect();
        if !restarts.is_empty() {
            return Said::new(KIND, false, "RestartRequired", &restarts.join("; "));
        }
        if self.answers.values().any(|answer| answer.is_old) {
            let text = "the server is too old to be asked: directives take effect when it restarts";
            return Said::new(KIND, false, "ServerTooOld", text);
        }
        match self.are_applied(observed) {
            true => Said::new(KIND, true, "InForce", "every instance runs with the directives of spec.config"),
            false => Said::new(KIND, false, "Applying", "not every instance has been told yet"),
        }
    }
}

/// Name, incarnation and address.
fn answering(observed: &Observed) -> impl Iterator<Item = (&str, &str, String)> {
    observed.instances.iter().filter_map(|(name, instance)| {
        let status = observed.answering(name).filter(|status| !status.loading)?;
        Some((name.as_str(), status.incarnation.as_str(), address(&instance.host, instance.port)))
    })
}

impl Session {
    /// Asks who has not been asked, and says whether the ConfigMap may be written.
    pub(super) async fn configure(&mut self, observed: &Observed) {
        self.on_answers().await;
        let used = self.passwords.as_ref().map(|passwords| passwords.used.clone());
        let Some(password) = used.filter(|_| self.paused().is_none()) else { return };
        // What no file can hold is told by the upkeep.
        let Ok(directives) = resources::directives(&self.object) else { return };
        let text: Vec<String> = directives.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let hash = resources::fnv1a(text.concat().as_bytes());
        if hash != self.directives.hash {
            self.directives = Directives { hash, told_refusal: self.directives.told_refusal, ..Directives::default() };
            self.problems.clear(THEME);
        }
        self.directives.in_force = self.file_is_true();
        let mode = if self.directives.in_force { Mode::Apply } else { Mode::Check };
        let may_retry = self.directives.retry_at.is_none_or(|at| Instant::now() >= at);
        for (name, incarnation, address) in answering(observed).filter(|_| may_retry) {
            let answer = self.directives.of(name, incarnation);
            let is_done = answer.is_some_and(|answer| answer.mode == mode || mode == Mode::Check);
            if is_done || self.directives.asking.contains_key(name) {
                continue;
            }
            let (directives, password, bell) =
                (directives.clone(), password.clone(), Arc::clone(&self.reports.changed));
            let task = tokio::spawn(async move {
                let answer = ask(&address, &password, mode, &directives).await;
                bell.notify_one();
                answer
            });
            let asking = Asking { incarnation: incarnation.to_string(), mode, task };
            self.directives.asking.insert(name.to_string(), asking);
        }
        self.tell_of_directives(observed).await;
    }

    async fn on_answers(&mut self) {
        let done = |asking: &Asking| asking.task.is_finished();
        let finished: Vec<String> =
            self.directives.asking.iter().filter(|(_, asking)| done(asking)).map(|(name, _)| name.clone()).collect();
        for name in finished {
            let Some(mut asking) = self.directives.asking.remove(&name) else { continue };
            let (incarnation, mode) = (asking.incarnation.clone(), asking.mode);
            let Ok(answer) = (&mut asking.task).await else { continue };
            let (told, is_old) = match answer {
                Ok(told) => (told, false),
                Err(ClientError::Refused { code, message }) if code == "ERR" && message.contains("subcommand") => {
                    (Vec::new(), true)
                }
                Err(error) => {
                    self.directives.retry_at = Some(Instant::now() + RETRY_PAUSE);
                    self.problem(&format!("cannot tell {name} the directives of spec.config: {error}")).await;
                    continue;
                }
            };
            if mode == Mode::Apply {
                self.directives.changed.extend(told.iter().filter_map(|told| match told {
                    Told::Set(name) => Some(name.clone()),
                    Told::Restart { .. } | Told::Refused { .. } => None,
                }));
            }
            self.directives.answers.insert(name, Answer { incarnation, mode, told, is_old });
        }
    }

    async fn tell_of_directives(&mut self, observed: &Observed) {
        if let Some(refusal) = self.directives.refusal() {
            if self.directives.told_refusal != self.directives.hash {
                self.directives.told_refusal = self.directives.hash;
                self.event(EventType::Warning, "ConfigRefused", &refusal).await;
            }
            self.problems.set(THEME, "ConfigRefused", format!("spec.config: {refusal}"));
            return;
        }
        self.problems.clear(THEME);
        if !self.directives.changed.is_empty() && self.directives.are_applied(observed) {
            let changed = std::mem::take(&mut self.directives.changed);
            let names: Vec<String> = changed.into_iter().collect();
            let note = format!("changed without a restart: {}", names.join(", "));
            self.event(EventType::Normal, "ConfigApplied", &note).await;
        }
    }

    /// The ConfigMap holds what is wanted.
    fn file_is_true(&self) -> bool {
        let name = format!("{}-config", self.object.name_any());
        let live = self.context.caches.config_maps.get(&self.key.0, &name);
        let wanted = resources::config_map(&self.object).ok();
        live.is_some_and(|live| wanted.is_some_and(|wanted| live.data == wanted.data))
    }

    /// The ConfigMap may be written: there is none yet, it was asked about, or there is nobody to ask.
    pub(super) fn may_write_config(&self, observed: &Observed) -> bool {
        let name = format!("{}-config", self.object.name_any());
        if self.directives.in_force || self.context.caches.config_maps.get(&self.key.0, &name).is_none() {
            return true;
        }
        self.directives.refusal().is_none() && self.directives.are_known(observed)
    }
}
