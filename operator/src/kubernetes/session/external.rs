//! The external master that a new datastore follows (`bootstrap.externalMaster`): its password, how far it is, and when a
//! person wants it given up.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::events::EventType;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Session;
use super::password::PasswordWatch;
use crate::api::{BootstrapPhase, ExternalMaster, Promote};
use crate::client::{Client, address};
use crate::observe::{External, Observed, Password, Promotion};
use crate::plan::Plan;
use crate::resources;
use crate::status::bootstrap;

/// Annotation by which a person ends the following of an external master: `true` waits until all that it has is here, `now`
/// does not. It is taken off when there is a master, and may be taken off before.
pub const PROMOTE: &str = "replicated-redis.io/promote";

/// The part of a datastore's problems that is told here: see [`super::Problems`].
const THEME: &str = "external";
/// Between two questions to the external master.
const PACE: Duration = Duration::from_millis(500);
/// For an answer of it; it may be far away.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is kept of it between two looks.
#[derive(Debug, Default)]
pub(super) struct Source {
    secret: Option<PasswordWatch>,
    probe: Option<Probe>,
    phase: Option<BootstrapPhase>,
}

/// Asks an external master how far its history goes.
#[derive(Debug)]
struct Probe {
    place: (String, u16, Option<Password>),
    offset: watch::Receiver<Option<u64>>,
    task: JoinHandle<()>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probe {
    fn start(place: (String, u16, Option<Password>), bell: Arc<Notify>) -> Probe {
        let (publish, offset) = watch::channel(None);
        let (host, port, password) = place.clone();
        let task = tokio::spawn(async move {
            loop {
                let asked = async {
                    let password = password.as_ref().map(|p| p.0.as_str());
                    let mut client = Client::connect(&address(&host, port), password, PATIENCE).await.ok()?;
                    loop {
                        let info = client.call(&["INFO", "replication"]).await.ok()?;
                        let changed = publish.send_if_modified(|known| {
                            let end = info.as_str().and_then(end_in);
                            std::mem::replace(known, end) != end
                        });
                        if changed {
                            bell.notify_one();
                        }
                        sleep(PACE).await;
                    }
                };
                let _: Option<()> = asked.await;
                publish.send_replace(None);
                sleep(PACE).await;
            }
        });
        Probe { place, offset, task }
    }
}

/// `master_repl_offset` of an INFO.
fn end_in(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).and_then(|n| n.trim().parse().ok())
}

impl Session {
    fn external_master(&self) -> Option<&ExternalMaster> {
        self.object.spec.bootstrap.as_ref().map(|bootstrap| &bootstrap.external_master)
    }

    /// What is known of the external master; `None` where the datastore began empty.
    pub(super) fn observe_external(&mut self) -> Option<External> {
        let Some(spec) = self.external_master().cloned() else {
            self.source = Source::default();
            self.problems.clear(THEME);
            return None;
        };
        let external = External { host: spec.host.clone(), port: spec.port, ..External::default() };
        if self.record().is_some_and(|r| r.initialized) {
            (self.source.secret, self.source.probe) = (None, None);
            self.problems.clear(THEME);
            return Some(external);
        }
        let (password, ready) = self.external_password(&spec);
        if ready {
            let place = (spec.host.clone(), spec.port, password.clone());
            if self.source.probe.as_ref().is_none_or(|probe| probe.place != place) {
                self.source.probe = Some(Probe::start(place, Arc::clone(&self.reports.changed)));
            }
        }
        let offset = self.source.probe.as_ref().filter(|_| ready).and_then(|probe| *probe.offset.borrow());
        let promotion = match self.object.annotations().get(PROMOTE).map(String::as_str) {
            Some("now") => Promotion::Now,
            Some(_) => Promotion::Asked,
            None if spec.promote == Promote::WhenSynced => Promotion::WhenSynced,
            None => Promotion::Later,
        };
        Some(External { password, ready, offset, promotion, ..external })
    }

    /// The password, and whether it is known that this is it.
    fn external_password(&mut self, spec: &ExternalMaster) -> (Option<Password>, bool) {
        let Some(named) = &spec.password_secret_ref else {
            self.source.secret = None;
            self.problems.clear(THEME);
            return (None, true);
        };
        if self.source.secret.as_ref().is_none_or(|watch| !watch.is_of(&named.name)) {
            self.source.secret = Some(self.watch_password(&named.name));
        }
        let field = "spec.bootstrap.externalMaster.passwordSecretRef";
        let read = match self.source.secret.as_ref().and_then(PasswordWatch::seen) {
            Some(secret) => resources::password_in(&secret, &named.key),
            None => Err(format!("the Secret {}, which {field} names, is not there", named.name)),
        };
        match read {
            Ok(password) => {
                self.problems.clear(THEME);
                (Some(Password(password)), true)
            }
            Err(why) => {
                self.problems.set(THEME, "PasswordMissing", why);
                (None, false)
            }
        }
    }

    /// The annotation goes when it is of no use any more.
    pub(super) async fn hear_promotion(&mut self) {
        let is_over = self.record().is_some_and(|r| r.initialized);
        if !self.object.annotations().contains_key(PROMOTE) || !(is_over || self.external_master().is_none()) {
            return;
        }
        if self.source.phase.is_none_or(|phase| phase == BootstrapPhase::Completed) {
            let note = "no external master is followed; for a switchover say replicated-redis.io/switchover";
            self.event(EventType::Warning, "PromotionRefused", note).await;
        }
        self.take_off(&[PROMOTE]).await;
    }

    /// Tells, once, how far the data is.
    pub(super) async fn tell_external(&mut self, observed: &Observed, plan: &Plan) {
        let Some(said) = bootstrap(None, observed, plan) else { return };
        let before = self.source.phase.replace(said.phase);
        if before == Some(said.phase) || before.is_none() {
            return;
        }
        let instance = said.instance.as_deref().unwrap_or_default();
        let (kind, reason, note) = match said.phase {
            BootstrapPhase::Connecting => {
                (EventType::Warning, "ExternalMasterUnreachable", format!("{instance} has no link to {}", said.source))
            }
            BootstrapPhase::Syncing => {
                (EventType::Normal, "ExternalMasterSyncing", format!("{instance} receives the data of {}", said.source))
            }
            BootstrapPhase::Following => (
                EventType::Normal,
                "ExternalMasterFollowed",
                format!("{instance} has the data of {} and goes on with it", said.source),
            ),
            BootstrapPhase::Promoting => {
                (EventType::Normal, "ExternalMasterGivenUp", format!("{} is not followed any more", said.source))
            }
            BootstrapPhase::Completed => (EventType::Normal, "BootstrapCompleted", said.message),
        };
        self.event(kind, reason, &note).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_its_history_is_read_from_info() {
        let info = "# Replication\r\nrole:master\r\nmaster_repl_offset:1234\r\nsecond_repl_offset:-1\r\n";
        assert_eq!(end_in(info), Some(1234));
        assert_eq!(end_in("# Replication\r\n"), None);
    }
}
