//! Which of several operators leads: a `coordination.k8s.io` Lease.
//!
//! The one that leads counts its time from the moment it *sent* the renewal, on its own clock; the others take over when they
//! have seen the same renewal for a whole duration on theirs. So the times of two leaders do not overlap unless a clock runs
//! wrong, and leases of masters are granted within that time only (R3). The record's precondition does not depend on it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::Act;

/// How long a renewal counts, s. An operator that died is replaced after this time.
const DURATION_S: i32 = 8;
/// What of it the leader itself counts on: clocks may differ in pace by 2 %.
const LEAD: Duration = Duration::from_millis(DURATION_S as u64 * 980);
/// Between two renewals, and between two looks at another's.
const RENEW_EVERY: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Until when this operator leads.
#[derive(Debug, Clone)]
pub(super) struct Leadership(watch::Receiver<Instant>);

impl Leadership {
    pub(super) fn holds(&self) -> bool {
        Instant::now() < *self.0.borrow()
    }
}

/// One that would lead.
#[derive(Debug)]
pub(super) struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    lease: Option<Lease>,
    /// The other's renewal, and since when it is the same one.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    pub(super) fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Candidate {
        let api = Api::namespaced(client, namespace);
        Candidate { api, name: name.to_string(), identity: identity.to_string(), lease: None, seen: None }
    }

    /// Waits until this one leads. The second value keeps it so, for as long as it is polled; it ends when the lead is lost.
    pub(super) async fn lead(mut self) -> (Leadership, Leading) {
        loop {
            let sent = Instant::now();
            match self.attempt().await {
                Ok(true) => {
                    let (until, leadership) = watch::channel(sent + LEAD);
                    return (Leadership(leadership), Leading { candidate: self, until });
                }
                Ok(false) => {}
                Err(error) => tracing::warn!("leader election: {error:#}"),
            }
            sleep(RENEW_EVERY).await;
        }
    }

    /// Takes the lease if nobody has it, or renews it. Whether this one has it now.
    async fn attempt(&mut self) -> Result<bool> {
        let params = PostParams::default();
        let call = async {
            if self.lease.is_none() {
                self.lease = self.api.get_opt(&self.name).await.context("cannot read the Lease")?;
            }
            let Some(lease) = &self.lease else {
                let created = Act::WriteLead.around(self.api.create(&params, &self.renewed(None))).await;
                return self.took(created);
            };
            if !self.is_free(&lease.clone()) {
                // Read again at the next attempt.
                self.lease = None;
                return Ok(false);
            }
            let renewed = self.renewed(self.lease.as_ref());
            let replaced = Act::WriteLead.around(self.api.replace(&self.name, &params, &renewed)).await;
            self.took(replaced)
        };
        match timeout(CALL_TIMEOUT, call).await {
            Ok(done) => done,
            Err(_) => {
                // Whether it was written is not known.
                self.lease = None;
                bail!("no answer within {} s", CALL_TIMEOUT.as_secs())
            }
        }
    }

    fn took(&mut self, answer: kube::Result<Lease>) -> Result<bool> {
        self.lease = None;
        match answer {
            Ok(lease) => {
                self.lease = Some(lease);
                self.seen = None;
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error).context("cannot write the Lease"),
        }
    }

    /// Ours, given up, or not renewed for its whole duration while we looked.
    fn is_free(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let renewal = lease.resource_version().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == renewal => *since,
            seen => {
                if seen.is_none() {
                    tracing::info!("{holder} leads; this operator waits");
                }
                let now = Instant::now();
                self.seen = Some((renewal, now));
                now
            }
        };
        let duration = u64::try_from(spec.lease_duration_seconds.unwrap_or(DURATION_S)).unwrap_or(0);
        since.elapsed() > Duration::from_secs(duration)
    }

    fn renewed(&self, before: Option<&Lease>) -> Lease {
        let mut lease = before.cloned().unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        let spec = lease.spec.take().unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let is_mine = spec.holder_identity.as_ref() == Some(&self.identity);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION_S),
            acquire_time: if is_mine { spec.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!is_mine)),
            ..LeaseSpec::default()
        });
        lease
    }
}

/// One that leads.
#[derive(Debug)]
pub(super) struct Leading {
    candidate: Candidate,
    until: watch::Sender<Instant>,
}

impl Leading {
    /// Renews until that fails for a whole duration, or another has taken the lead.
    pub(super) async fn keep(&mut self) {
        loop {
            sleep(RENEW_EVERY).await;
            let sent = Instant::now();
            match self.candidate.attempt().await {
                Ok(true) => {
                    self.until.send_replace(sent + LEAD);
                }
                Ok(false) if self.lost() => return,
                Ok(false) => {}
                Err(error) => tracing::warn!("renewing the lead: {error:#}"),
            }
            if Instant::now() >= *self.until.borrow() {
                return;
            }
        }
    }

    /// Another's renewal was seen: the lead is gone at once.
    fn lost(&self) -> bool {
        let lost = self.candidate.seen.is_some();
        if lost {
            self.until.send_replace(Instant::now());
        }
        lost
    }

    /// Gives the lead up, so that another need not wait. Nothing may be granted any more when this is called.
    pub(super) async fn give_up(mut self) {
        self.until.send_replace(Instant::now());
        let Some(mut lease) = self.candidate.lease.take() else { return };
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
        }
        let params = PostParams::default();
        let replace = self.candidate.api.replace(&self.candidate.name, &params, &lease);
        // If it fails, the others wait for the time to run out.
        let _ = timeout(CALL_TIMEOUT, Act::GiveUpLead.around(replace)).await;
    }
}
