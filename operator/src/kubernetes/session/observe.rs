//! What is seen of the instances: the conversations with their servers, and what proves an end.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use super::Session;
use crate::kubernetes::pod::{PodInstance, Witness, place};
use crate::observe::{Instance, Observed};
use crate::record::Record;
use crate::resources::POOL_LABEL;

impl Session {
    /// One conversation with each pod that has an address.
    pub(super) fn sync_pods(&mut self) {
        if self.passwords.is_none() {
            return;
        }
        let pods = self.our_pods();
        self.pods.retain(|name, instance| {
            pods.iter().any(|pod| pod.name_any() == *name && place(pod).is_some_and(|place| instance.is_with(&place)))
        });
        for pod in &pods {
            let name = pod.name_any();
            if let Some(place) = place(pod)
                && !self.pods.contains_key(&name)
            {
                let instance = PodInstance::start(&name, place, self.credentials.subscribe(), &self.reports);
                self.pods.insert(name, instance);
            }
        }
    }

    pub(super) fn our_pods(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.context.caches.pods.of(&self.key);
        pods.retain(|pod| pod.labels().contains_key(POOL_LABEL));
        pods
    }

    pub(super) fn observe(&mut self) -> Observed {
        let now = self.clock.now();
        let clock = self.clock;
        let mut instances: BTreeMap<String, Instance> =
            self.pods.iter_mut().map(|(name, pod)| (name.clone(), pod.observe(&clock))).collect();
        for pod in self.our_pods().iter().filter(|pod| pod.meta().deletion_timestamp.is_some()) {
            if let Some(instance) = instances.get_mut(&pod.name_any()) {
                instance.leaving = true;
            }
        }
        for name in &self.fenced {
            if let Some(instance) = instances.get_mut(name) {
                instance.leaving = true;
            }
        }
        self.note_ends(&instances);
        // One that has no pod is silent from then on.
        let mut names = self.wanted();
        names.extend(self.record().iter().flat_map(|r| r.voters()).map(|m| m.name.clone()));
        self.absent_since.retain(|name, _| !instances.contains_key(name));
        for name in names {
            instances.entry(name.clone()).or_insert_with(|| {
                let since = *self.absent_since.entry(name).or_insert(now);
                Instance { silent_since_ms: Some(since), ..Instance::default() }
            });
        }
        let silent = |r: &Record| instances.get(&r.master.as_ref()?.name)?.silent_since_ms;
        self.master_silent_since = self.record().and_then(silent);
        let asked_for = self.switchover.as_ref().map(|(to, _)| to.clone());
        let switchover = asked_for.or_else(|| self.rollouts.switch_over.then_some(None));
        let record = self.record().cloned();
        let is_paused = self.paused().is_some();
        let (me, spec, wanted) = (&self.context.identity, &self.object.spec, self.wanted());
        let mut observed = self.tenure.observed(me, spec, wanted, record, instances, switchover);
        // Home again when every pod has been replaced: it would only have to leave once more.
        observed.failback &= !self.rollouts.is_under_way() && !is_paused;
        if let Some(record) = observed.record.as_ref().filter(|_| is_paused) {
            observed.quorum = record.quorum;
        }
        observed.external = self.observe_external();
        observed.fenced = self.fenced.clone();
        observed
    }

    /// R5, *known to have ended*: another process answers that holds the very volume of the master, or the kubelet of its pod
    /// reports the end of its container. That a pod is gone proves nothing.
    fn note_ends(&mut self, instances: &BTreeMap<String, Instance>) {
        let Some(record) = self.record() else { return };
        let Some(master) = record.master.clone() else { return };
        let volume = record.voters().iter().find(|m| m.name == master.name).map(|m| m.volume.clone());
        let seen = instances.get(&master.name).and_then(|i| i.status.as_ref());
        let has_volume = seen.filter(|status| Some(&status.volume) == volume.as_ref());
        if let (Some(status), Some(pod)) = (has_volume, self.pods.get(&master.name)) {
            if status.incarnation == master.incarnation {
                self.witness = Some(Witness {
                    uid: pod.uid().to_string(),
                    incarnation: master.incarnation.clone(),
                    started_unix_ms: status.started_unix_ms,
                });
            } else if let Some(instance) = instances.get(&master.name) {
                self.tenure.on_successor(&master, instance);
            }
        }
        let witness = self.witness.clone().filter(|witness| witness.incarnation == master.incarnation);
        let now_there = self.context.caches.pods.get(&self.key.0, &master.name);
        let ended = |pod: &Pod| witness.as_ref().is_some_and(|witness| witness.has_ended(pod));
        let mut has_ended = now_there.is_some_and(|pod| ended(&pod));
        while let Ok(pod) = self.ended_pods.try_recv() {
            has_ended |= ended(&pod);
        }
        if has_ended {
            self.tenure.ended.insert(master.incarnation.clone());
        }
        if let Some(instance) = instances.get(&master.name) {
            self.tenure.on_answer(&master, instance, self.clock.now());
        }
    }
}
