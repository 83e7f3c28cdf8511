//! The Secret with the password: followed as it changes, made where the spec names none.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Failure, Session, call};
use crate::fault::{Point, point};
use crate::resources;

/// The part of a datastore's problems that is told here: see [`super::Problems`].
const THEME: &str = "password";

/// The Secret with the password.
#[derive(Debug)]
pub(super) struct PasswordWatch {
    secret: String,
    seen: watch::Receiver<Option<Secret>>,
    task: JoinHandle<()>,
}

impl Drop for PasswordWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Follows the Secret with the password, and makes one where the spec names none.
    pub(super) async fn read_password(&mut self) {
        let source = resources::password_source(&self.object);
        if self.password_watch.as_ref().is_none_or(|watch| watch.secret != source.name) {
            self.password_watch = Some(self.watch_password(&source.name));
        }
        let Some(watch) = self.password_watch.as_mut() else { return };
        let seen = watch.seen.borrow_and_update().clone();
        let read = seen.as_ref().map(|secret| resources::password_in(secret, &source.key));
        match read {
            Some(Ok(password)) => {
                self.password = Some(password);
                self.problems.clear(THEME);
            }
            Some(Err(why)) => self.problems.set(THEME, "PasswordMissing", why),
            None if self.object.spec.auth.password_secret_ref.is_some() => {
                let why = format!("the Secret {}, which spec.auth.passwordSecretRef names, is not there", source.name);
                self.problems.set(THEME, "PasswordMissing", why);
            }
            // Nobody can have seen it: the next look at the Secret shows whose password has won.
            None if self.password.is_none() && self.may_call() && self.paused().is_none() => {
                let secret = resources::generated_password(&self.object, &random_password());
                let api: Api<Secret> = self.api();
                point(Point::CreatePassword);
                match call(api.create(&PostParams::default(), &secret)).await {
                    Ok(_) => point(Point::PasswordCreated),
                    Err(Failure::Api(kube::Error::Api(status))) if status.is_already_exists() => {}
                    Err(error) => self.problem(&format!("cannot create the Secret {}: {error}", source.name)).await,
                }
            }
            None => {}
        }
    }

    fn watch_password(&self, name: &str) -> PasswordWatch {
        use futures::StreamExt;
        let (publish, seen) = watch::channel(None);
        let (api, bell) = (self.api::<Secret>(), Arc::clone(&self.reports.changed));
        let secret = name.to_string();
        let task = tokio::spawn(async move {
            let mut states = std::pin::pin!(watcher::watch_object(api, &secret).default_backoff());
            while let Some(state) = states.next().await {
                match state {
                    Ok(state) => {
                        publish.send_replace(state);
                        bell.notify_one();
                    }
                    Err(error) => tracing::warn!("watching the Secret {secret}: {error}"),
                }
            }
        });
        PasswordWatch { secret: name.to_string(), seen, task }
    }
}

/// 160 bits from the kernel's random source.
fn random_password() -> String {
    crate::local::files::random_hex::<20>()
}
