//! The Secret with the password: followed as it changes, made where the spec names none. How a new password replaces the old
//! one is decided in [`crate::passwords`].

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::events::EventType;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Failure, RETRY_PAUSE, Session, call};
use crate::fault::Act;
use crate::kubernetes::pod::PodInstance;
use crate::local::files::random_hex;
use crate::passwords::{Passwords, Step};
use crate::resources;
use crate::status::{CredentialsFacts, moment};

/// The part of a datastore's problems that is told here: see [`super::Problems`].
const THEME: &str = "password";
const MISSING: &str = "PasswordMissing";

/// The Secret with the password.
#[derive(Debug)]
pub(super) struct PasswordWatch {
    secret: String,
    /// `None` until it was looked at once.
    seen: watch::Receiver<Option<Option<Secret>>>,
    task: JoinHandle<()>,
}

impl Drop for PasswordWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PasswordWatch {
    pub(super) fn is_of(&self, secret: &str) -> bool {
        self.secret == secret
    }

    pub(super) fn seen(&self) -> Option<Secret> {
        self.seen.borrow().clone().flatten()
    }
}

impl Session {
    /// Follows the Secret with the password, and makes one where the spec names none.
    pub(super) async fn read_password(&mut self) {
        let source = resources::password_source(&self.object);
        if self.password_watch.as_ref().is_none_or(|watch| watch.secret != source.name) {
            self.password_watch = Some(self.watch_password(&source.name));
        }
        if self.passwords.is_none() {
            self.use_passwords(self.kept_passwords());
        }
        let seen = self.password_watch.as_mut().and_then(|watch| watch.seen.borrow_and_update().clone());
        let wanted = match seen {
            // It was not looked at yet.
            None => None,
            Some(Some(secret)) => match resources::password_in(&secret, &source.key) {
                Ok(password) => {
                    self.problems.clear(THEME);
                    Some(password)
                }
                Err(why) => {
                    self.problems.set(THEME, MISSING, why);
                    None
                }
            },
            Some(None) if self.object.spec.auth.password_secret_ref.is_some() => {
                let why = format!("the Secret {}, which spec.auth.passwordSecretRef names, is not there", source.name);
                self.problems.set(THEME, MISSING, why);
                None
            }
            Some(None) => {
                self.make_password(&source.name).await;
                None
            }
        };
        match (&self.passwords, wanted) {
            (None, Some(wanted)) => self.use_passwords(Some(Passwords::first(&wanted, random_hex::<16>()))),
            (Some(passwords), wanted) => {
                let wanted = wanted.or_else(|| passwords.next.clone()).unwrap_or_else(|| passwords.used.clone());
                self.step_passwords(&wanted, &source.name).await;
            }
            (None, None) => {}
        }
    }

    /// NAME-auth, generated; or, when it was deleted, with the password that is in force.
    async fn make_password(&mut self, name: &str) {
        if !self.may_call() || !self.context.leadership.holds() || self.paused().is_some() {
            return;
        }
        // Nobody can have seen a new one: the next look at the Secret shows whose password has won.
        let password = self.passwords.as_ref().map_or_else(random_hex::<20>, |passwords| passwords.used.clone());
        let secret = resources::generated_password(&self.object, &password);
        let api: Api<Secret> = self.api();
        match Act::CreatePassword.around(call(api.create(&PostParams::default(), &secret))).await {
            Ok(_) => {}
            Err(Failure::Api(kube::Error::Api(status))) if status.is_already_exists() => {}
            Err(error) => {
                self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                self.problem(&format!("cannot create the Secret {name}: {error}")).await;
            }
        }
    }

    /// What an operator before this one has kept of this very datastore.
    fn kept_passwords(&self) -> Option<Passwords> {
        let secret = self.context.caches.secrets.get(&self.key.0, &resources::credentials_name(&self.key.1))?;
        let uid = self.object.uid();
        let is_its = secret.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref());
        resources::kept_passwords(&secret).filter(|_| is_its)
    }

    /// Instances are told at once, and the Secret is written beside the loop: everything that was begun is begun again by an
    /// operator that knows of an earlier state only, and nobody is refused by that.
    fn use_passwords(&mut self, passwords: Option<Passwords>) {
        self.passwords = passwords;
        if self.passwords.is_some() {
            self.credentials.send_modify(|credentials| {
                credentials.number += 1;
                credentials.passwords.clone_from(&self.passwords);
                credentials.is_told = true;
            });
        }
    }

    async fn step_passwords(&mut self, wanted: &str, secret: &str) {
        let Some(passwords) = self.passwords.as_ref().filter(|_| self.context.leadership.holds()) else { return };
        let number = self.credentials.borrow().number;
        let all_accept = self.pods.values().all(|pod| pod.knows(number));
        let overlap_s = i64::from(self.object.spec.auth.rotation.overlap_seconds);
        let Some((after, step)) = passwords.step(wanted, all_accept, overlap_s, Timestamp::now().as_second()) else {
            return;
        };
        self.use_passwords(Some(after));
        match step {
            Step::Rotated { until_s } => {
                let note = format!(
                    "the password of the Secret {secret} is in force; the one before it is valid until {}",
                    moment(until_s)
                );
                self.event(EventType::Normal, "PasswordRotated", &note).await;
            }
            Step::Retired => {
                let note = "the time of the earlier password is over: it is not valid any more";
                self.event(EventType::Normal, "PasswordRetired", note).await;
            }
            Step::Wanted | Step::Forgotten => {}
        }
    }

    /// What the status says about the passwords.
    pub(super) fn credentials_facts(&self) -> CredentialsFacts {
        let number = self.credentials.borrow().number;
        let names = |is: &dyn Fn(&PodInstance) -> bool| {
            self.pods.iter().filter(|(_, pod)| is(pod)).map(|(name, _)| name.clone()).collect::<Vec<String>>()
        };
        CredentialsFacts {
            secret: resources::password_source(&self.object).name,
            missing: self.problems.of(THEME),
            fingerprint: self.passwords.as_ref().map(Passwords::fingerprint),
            is_rotating: self.passwords.as_ref().is_some_and(|passwords| passwords.next.is_some()),
            previous_until_s: self.passwords.as_ref().and_then(Passwords::previous_until_s),
            not_told: names(&|pod| !pod.knows(number)),
            shut_out: names(&PodInstance::shuts_out),
        }
    }

    pub(super) fn watch_password(&self, name: &str) -> PasswordWatch {
        use futures::StreamExt;
        let (publish, seen) = watch::channel(None);
        let (api, bell) = (self.api::<Secret>(), Arc::clone(&self.reports.changed));
        let secret = name.to_string();
        let task = tokio::spawn(async move {
            let mut states = std::pin::pin!(watcher::watch_object(api, &secret).default_backoff());
            while let Some(state) = states.next().await {
                match state {
                    Ok(state) => {
                        publish.send_replace(Some(state));
                        bell.notify_one();
                    }
                    Err(error) => tracing::warn!("watching the Secret {secret}: {error}"),
                }
            }
        });
        PasswordWatch { secret: name.to_string(), seen, task }
    }
}
