//! Rules made weaker, to show that the judges see what follows. Nothing in the machines knows of this: the world changes
//! what passes between them.

use operator::observe::{Observed, Status};
use operator::plan::Order;
use replication::Order as Told;

use super::world::World;
use super::{LEASE_MS, Weakening};

impl World {
    /// What the plan is made from.
    pub fn tamper(&mut self, operator: usize, o: &mut Observed) {
        let Some(weakening) = self.config.weakening else { return };
        let now_ms = self.operators[operator].clock.at(self.now_us);
        let mut each = |f: &mut dyn FnMut(&mut Status)| {
            o.instances.values_mut().filter_map(|instance| instance.status.as_mut()).for_each(f);
        };
        match weakening {
            Weakening::EveryoneIsComplete => each(&mut |status| status.complete = true),
            Weakening::OneCompleteFewer => {
                let mut given = false;
                each(&mut |status| given |= !given && !std::mem::replace(&mut status.complete, true));
            }
            Weakening::EmptyMayBeChosen => each(&mut |status| status.has_data = true),
            Weakening::ChoiceByOffset => each(&mut |status| status.history_epoch = 1),
            Weakening::AnyoneIsChosen => each(&mut |status| (status.history_epoch, status.offset) = (1, 1)),
            Weakening::NoWait => {
                (o.holder_since_ms, o.last_grant_ms) = (Some(0), Some(0));
                each(&mut |status| status.grant_left_ms = 0);
            }
            Weakening::AnyIncarnation => {
                let Some(master) = o.record.as_ref().and_then(|record| record.master.clone()) else { return };
                o.ended.remove(&master.incarnation);
                if let Some(status) = o.instances.get_mut(&master.name).and_then(|i| i.status.as_mut()) {
                    status.incarnation = master.incarnation;
                }
            }
            Weakening::OnePromiseFewer => {
                let Some(record) = o.record.as_ref().filter(|record| record.target.is_some()) else { return };
                let old = record.master.as_ref().map(|master| master.name.as_str());
                let silent = |name: &str| {
                    Some(name) != old && o.instances.get(name).is_some_and(|i| i.silent_since_ms.is_some())
                };
                let Some(member) = record.members.iter().find(|m| silent(&m.name)).cloned() else { return };
                let epoch = record.epoch;
                if let Some(instance) = o.instances.get_mut(&member.name) {
                    instance.silent_since_ms = None;
                    instance.status_ms = now_ms;
                    let before = instance.status.take().unwrap_or_default();
                    instance.status = Some(Status {
                        promised: epoch,
                        role_epoch: 0,
                        history_epoch: 0,
                        offset: 0,
                        has_data: false,
                        complete: false,
                        grant_left_ms: 0,
                        volume: member.volume,
                        ..before
                    });
                }
            }
            Weakening::GrantsFromTheQuestion => {
                o.instances.values_mut().for_each(|instance| instance.answered_ms = instance.status_ms);
            }
            Weakening::OldAnswersCount => {
                // They are counted, and somebody else is chosen.
                let Some(epoch) = o.record.as_ref().map(|record| record.epoch) else { return };
                for instance in o.instances.values_mut().filter(|instance| instance.silent_since_ms.is_some()) {
                    let Some(status) = instance.status.as_mut().filter(|s| s.promised == epoch) else { continue };
                    status.has_data = false;
                    (instance.status_ms, instance.silent_since_ms) = (now_ms, None);
                }
            }
            Weakening::FencedAreServed => {
                for name in std::mem::take(&mut o.fenced) {
                    o.instances.entry(name).and_modify(|instance| instance.leaving = false);
                }
            }
            Weakening::GrantWhileTarget
            | Weakening::RecordWithoutPrecondition
            | Weakening::LeadForLeasesOnly
            | Weakening::ClocksDrift
            | Weakening::ActsWithoutTheLead
            | Weakening::PromisesAreForgotten
            | Weakening::NoHistoryFence
            | Weakening::ServesAnyEpoch => {}
        }
    }

    /// Grants a lease that the plan would not, and does not remember it: the plan would wait for its end.
    pub fn grant_in_spite(&mut self, operator: usize, o: &Observed) {
        let Some(record) = o.record.as_ref().filter(|record| record.target.is_some()) else { return };
        let Some(master) = record.master.as_ref().filter(|_| self.is_weak(Weakening::GrantWhileTarget)) else { return };
        let Some(status) = o.instances.get(&master.name).and_then(|i| i.status.as_ref()) else { return };
        let (epoch, incarnation, token) = (status.role_epoch, master.incarnation.clone(), status.token);
        let order = Order::Lease { epoch, incarnation, duration_ms: LEASE_MS, token };
        self.whisper(operator, &master.name, &order);
    }

    /// What reaches an instance.
    pub fn tampered_order(&self, node: usize, order: Told) -> Told {
        let own = self.nodes[node].process.as_ref().map(|process| process.role.incarnation);
        match (order, own) {
            (Told::Promote { epoch, k, members, .. }, Some(incarnation)) if self.is_weak(Weakening::AnyIncarnation) => {
                Told::Promote { epoch, incarnation, k, members }
            }
            (Told::Lease { epoch, duration_ms, token_ms, .. }, Some(incarnation))
                if self.is_weak(Weakening::AnyIncarnation) =>
            {
                Told::Lease { epoch, incarnation, duration_ms, token_ms }
            }
            (order, _) => order,
        }
    }
}
