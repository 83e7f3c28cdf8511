//! What an operator remembers of its own reign between two plans, besides the record: moments of its own clock.
//!
//! Every provider keeps one [`Tenure`] per datastore. It is lost with the operator, and that is safe: the next one writes
//! itself into the record first and counts that moment as its last grant (R3).

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{Failback, FailoverMode, ReplicatedRedisSpec};
use crate::observe::{Instance, Observed};
use crate::record::{Holder, Record};

/// Lease of a master (FAILOVER, D), ms: how long a master that is cut off goes on, and a failover then waits.
pub const LEASE_MS: u64 = 2000;

#[derive(Debug, Clone, Default)]
pub struct Tenure {
    /// Since when this operator is the record's holder.
    pub holder_since_ms: Option<u64>,
    pub last_grant_ms: Option<u64>,
    pub last_token: u64,
    pub election_since_ms: Option<u64>,
    /// When this operator learned of the record's master.
    master_known_ms: u64,
    /// Incarnations that are known to have ended (R5).
    pub ended: BTreeSet<String>,
    /// Since when another process answers in the place of the record's master.
    replaced_since_ms: Option<u64>,
    /// A person gives up what no reachable instance holds (R9). Until the next master takes writes.
    pub allow_data_loss: bool,
}

impl Tenure {
    /// The record is this one from now on, by a write of this operator. Says whether an election has begun with it.
    pub fn on_written(&mut self, before: Option<&Record>, record: &Record, now_ms: u64) -> bool {
        if before.is_none_or(|r| r.holder != record.holder) {
            self.holder_since_ms = Some(now_ms);
        }
        if before.and_then(|r| r.master.as_ref()) != record.master.as_ref() {
            // Tokens are the master's own clock: another master's begin anew.
            self.last_token = 0;
            self.master_known_ms = now_ms;
            self.replaced_since_ms = None;
        }
        let begins = record.target.is_some() && before.and_then(|r| r.target.as_ref()) != record.target.as_ref();
        if begins {
            self.election_since_ms = Some(now_ms);
        } else if record.target.is_none() {
            self.election_since_ms = None;
        }
        begins
    }

    /// The record was read: another operator has written it, or this one did and has not heard so.
    pub fn on_read(&mut self, before: Option<&Record>, record: Option<&Record>, now_ms: u64) {
        if let Some(record) = record.filter(|record| before != Some(*record)) {
            self.on_written(before, record, now_ms);
        }
    }

    /// R5, *known to have ended*: another process answers in the place of the record's master. An answer from before the
    /// record named that master shows nothing: it may be of the process before.
    pub fn on_successor(&mut self, master: &Holder, instance: &Instance) {
        if self.is_successor(master, instance) {
            self.ended.insert(master.incarnation.clone());
        }
    }

    /// What answers in the place of the record's master. Where that is another process and does not prove the end of the
    /// master (its volume is another one, so both may live), the master has fallen silent.
    pub fn on_answer(&mut self, master: &Holder, instance: &Instance, now_ms: u64) {
        let another = self.is_successor(master, instance) && !self.ended.contains(&master.incarnation);
        self.replaced_since_ms = another.then(|| self.replaced_since_ms.unwrap_or(now_ms));
    }

    fn is_successor(&self, master: &Holder, instance: &Instance) -> bool {
        let another = instance.status.as_ref().is_some_and(|status| status.incarnation != master.incarnation);
        another && instance.status_ms >= self.master_known_ms
    }

    /// A lease was sent, in answer to the request `token`.
    pub fn on_lease_sent(&mut self, token: u64, now_ms: u64) {
        self.last_token = token;
        self.last_grant_ms = Some(now_ms);
    }

    /// Everything that a plan is made from.
    pub fn observed(
        &self,
        me: &str,
        spec: &ReplicatedRedisSpec,
        wanted: Vec<String>,
        record: Option<Record>,
        instances: BTreeMap<String, Instance>,
        switchover: Option<Option<String>>,
    ) -> Observed {
        Observed {
            wanted,
            quorum: spec.durability.write_quorum,
            automatic: spec.failover.mode == FailoverMode::Automatic,
            failback: spec.failover.failback == Failback::Auto,
            down_after_ms: u64::from(spec.failover.down_after_seconds) * 1000,
            lease_ms: LEASE_MS,
            me: me.to_string(),
            holder_since_ms: self.holder_since_ms,
            last_grant_ms: self.last_grant_ms,
            last_token: self.last_token,
            record,
            instances,
            ended: self.ended.clone(),
            replaced_since_ms: self.replaced_since_ms,
            switchover,
            election_since_ms: self.election_since_ms,
            allow_data_loss: self.allow_data_loss,
            external: None,
            fenced: BTreeSet::new(),
        }
    }
}

/// `NAME-master-0`, then the replicas: the instances of a datastore, the preferred master first.
pub fn instance_names(name: &str, replicas: i32) -> Vec<String> {
    let mut names = vec![format!("{name}-master-0")];
    names.extend((0..replicas).map(|i| format!("{name}-replica-{i}")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Status;

    fn record(incarnation: &str) -> Record {
        let master = Some(Holder { name: "m".into(), incarnation: incarnation.into() });
        Record { epoch: 3, master, holder: "op".into(), ..Record::default() }
    }

    /// Another operator led for a moment and elected a process that had just started: what its former self had said was
    /// taken for a proof that it had ended.
    #[test]
    fn an_answer_from_before_the_record_named_its_master_shows_nothing() {
        let mut tenure = Tenure::default();
        let status = Some(Status { incarnation: "i1".into(), ..Status::default() });
        let mut instance = Instance { running: true, status_ms: 90, status, ..Instance::default() };
        tenure.on_read(Some(&record("i1")), Some(&record("i2")), 100);
        let master = record("i2").master.unwrap();
        tenure.on_successor(&master, &instance);
        assert!(tenure.ended.is_empty());
        instance.status_ms = 100;
        tenure.on_successor(&master, &instance);
        assert!(tenure.ended.contains("i2"));
    }

    #[test]
    fn a_master_in_whose_place_another_volume_answers_has_fallen_silent_until_another_is_elected() {
        let mut tenure = Tenure::default();
        tenure.on_read(None, Some(&record("i1")), 100);
        let master = record("i1").master.unwrap();
        let instance = |incarnation: &str, status_ms| Instance {
            running: true,
            status_ms,
            status: Some(Status { incarnation: incarnation.into(), ..Status::default() }),
            ..Instance::default()
        };
        tenure.on_answer(&master, &instance("i2", 90), 110);
        assert_eq!(tenure.replaced_since_ms, None, "it may be an answer of the process before");
        tenure.on_answer(&master, &instance("i2", 120), 130);
        tenure.on_answer(&master, &instance("i2", 150), 160);
        assert_eq!(tenure.replaced_since_ms, Some(130));
        assert!(tenure.ended.is_empty());
        tenure.on_read(Some(&record("i1")), Some(&record("i3")), 170);
        assert_eq!(tenure.replaced_since_ms, None);
        tenure.on_answer(&master, &instance("i1", 180), 190);
        assert_eq!(tenure.replaced_since_ms, None);
    }

    #[test]
    fn a_write_that_was_not_heard_of_counts_from_when_it_is_read() {
        let mut tenure = Tenure { last_token: 7, ..Tenure::default() };
        let before = Record { holder: "other".into(), ..record("i1") };
        tenure.on_read(Some(&before), Some(&record("i1")), 100);
        assert_eq!((tenure.holder_since_ms, tenure.last_token), (Some(100), 7));
        tenure.on_read(Some(&record("i1")), Some(&record("i1")), 200);
        assert_eq!(tenure.holder_since_ms, Some(100));
    }
}
