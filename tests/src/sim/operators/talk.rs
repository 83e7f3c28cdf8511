//! The conversation of an operator with an instance, as `operator::link` has it: one question at a time, over a connection
//! that belongs to one life of the instance.

use operator::plan::Order;
use replication::Order as Told;

use super::{Ask, InFlight, Said, Sighting};
use crate::sim::net::operator_end;
use crate::sim::world::{Event, World};

const POLL_QUIET_US: u64 = 200_000;
const POLL_BUSY_US: u64 = 30_000;
const CONNECT_PAUSE_US: u64 = 50_000;
const REPLY_TIMEOUT_US: u64 = 1_000_000;

impl World {
    /// What the operator can know of processes: those of machines that it reaches.
    pub(super) fn refresh(&mut self, operator: usize, node: usize) {
        if !self.net.reaches(operator_end(operator), node) {
            return;
        }
        let (life, running) = (self.nodes[node].life, self.nodes[node].process.is_some());
        let now_us = self.now_us;
        let view = &mut self.operators[operator].views[node];
        if view.life != life || view.running != running {
            (view.life, view.running) = (life, running);
            view.outstanding = None;
            view.next_us = now_us + 1000;
            view.in_flight = None;
        }
    }

    /// Its supervisor tells those who can hear it.
    pub fn operators_hear_of_end(&mut self, node: usize) {
        for operator in 0..self.operators.len() {
            if self.operators[operator].up && self.net.reaches(operator_end(operator), node) {
                self.wake(operator, 3000);
            }
        }
    }

    pub fn on_poll(&mut self, operator: usize, life: u64, node: usize) {
        if !self.runs(operator, life) {
            return;
        }
        let busy = self.operators[operator].busy;
        let us = if busy { POLL_BUSY_US } else { POLL_QUIET_US } * self.rng.range(50, 150) / 100;
        self.after(us, Event::Poll { operator, life, node });
        if !self.operators[operator].paused {
            self.talk(operator, node);
        }
    }

    /// Sends what is next to be sent, if anything is.
    pub(super) fn talk(&mut self, operator: usize, node: usize) {
        self.refresh(operator, node);
        let (asked_ms, now_us, life) = (self.operator_ms(operator), self.now_us, self.operators[operator].life);
        let at = &mut self.operators[operator];
        let view = &mut at.views[node];
        if view.outstanding.is_some() || !view.running || now_us < view.next_us {
            return;
        }
        // Each life is looked at before anything is said to it.
        let greeted = view.trouble_ms.is_none() && view.last.as_ref().is_some_and(|last| last.life == view.life);
        let ask = match view.pending.take_if(|_| greeted) {
            Some(order) => Ask::Order(told(&order)),
            None => Ask::Status,
        };
        at.question += 1;
        let is_order = matches!(ask, Ask::Order(_));
        view.outstanding = Some((at.question, asked_ms, is_order));
        let question = at.question;
        let node_life = view.life;
        let sticky = self.rng.chance(500);
        let said = Said { operator, life, node, node_life, question, ask, sticky, refused: None, status: None };
        let us = self.net.delay_us(operator_end(operator), node, &mut self.rng);
        self.after(us, Event::Request(Box::new(said)));
        self.after(REPLY_TIMEOUT_US, Event::ReplyTimeout { operator, life, node, question });
    }

    fn answers(&self, said: &Said) -> bool {
        self.runs(said.operator, said.life)
            && self.operators[said.operator].views[said.node].outstanding.is_some_and(|(q, ..)| q == said.question)
    }

    pub fn on_reply(&mut self, said: Said) {
        let operator = said.operator;
        if !self.answers(&said) {
            return;
        }
        if self.net.is_blocked(said.node, operator_end(operator)) || self.operators[operator].paused {
            let us = self.rng.range(20_000, 100_000);
            return self.after(us, Event::Reply(Box::new(said)));
        }
        self.refresh(operator, said.node);
        let answered_ms = self.operator_ms(operator);
        let view = &mut self.operators[operator].views[said.node];
        // An answer counts only if the life that was asked is still the present one.
        if view.outstanding.is_none() || said.node_life != view.life || !view.running {
            return;
        }
        let Some((_, asked_ms, _)) = view.outstanding.take() else { return };
        let sighting = said.status.map(|status| Sighting { life: said.node_life, asked_ms, answered_ms, status });
        match &said.ask {
            Ask::Status => {
                (view.last, view.trouble_ms) = (sighting, None);
            }
            // The answer to a promise is itself a look.
            Ask::Order(Told::Promise { .. }) if said.refused.is_none() => {
                (view.last, view.trouble_ms, view.in_flight) = (sighting, None, None);
            }
            Ask::Order(_) => {
                view.in_flight = Some(InFlight { answered_ms: Some(answered_ms) });
                view.next_us = 0;
                self.talk(operator, said.node);
            }
        }
        self.wake(operator, 100);
        if self.operators[operator].views[said.node].pending.is_some() {
            self.talk(operator, said.node);
        }
    }

    pub fn on_broken(&mut self, said: &Said) {
        if self.answers(said) {
            self.trouble(said.operator, said.node);
        }
    }

    pub fn on_reply_timeout(&mut self, operator: usize, life: u64, node: usize, question: u64) {
        let waits = self.operators[operator].views[node].outstanding.is_some_and(|(q, ..)| q == question);
        if !self.runs(operator, life) || !waits {
            return;
        }
        if self.operators[operator].paused {
            return self.after(50_000, Event::ReplyTimeout { operator, life, node, question });
        }
        self.trouble(operator, node);
    }

    fn trouble(&mut self, operator: usize, node: usize) {
        let (now_ms, now_us) = (self.operator_ms(operator), self.now_us);
        let view = &mut self.operators[operator].views[node];
        let Some((_, asked_ms, is_order)) = view.outstanding.take() else { return };
        view.trouble_ms.get_or_insert(asked_ms);
        view.next_us = now_us + CONNECT_PAUSE_US;
        if is_order {
            view.in_flight = Some(InFlight { answered_ms: Some(now_ms) });
        }
        self.wake(operator, 100);
    }
}

pub(super) fn told(order: &Order) -> Told {
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("sixteen hexadecimal digits");
    match order {
        Order::Promise { epoch } => Told::Promise { epoch: *epoch },
        Order::Promote { epoch, incarnation, write_quorum, volumes } => Told::Promote {
            epoch: *epoch,
            incarnation: hex(incarnation),
            k: *write_quorum as usize,
            members: volumes.iter().map(|volume| hex(volume)).collect(),
        },
        Order::Lease { epoch, incarnation, duration_ms, token } => {
            Told::Lease { epoch: *epoch, incarnation: hex(incarnation), duration_ms: *duration_ms, token_ms: *token }
        }
        Order::Follow { host, port, epoch } => Told::Follow { host: host.clone(), port: *port, epoch: *epoch },
        Order::FollowExternal { host, port, epoch, password } => Told::FollowExternal {
            host: host.clone(),
            port: *port,
            epoch: *epoch,
            access: replication::Access { password: password.as_ref().map(|p| p.0.clone()) },
        },
        Order::Handover { epoch, timeout_ms } => Told::Handover { epoch: *epoch, timeout_ms: *timeout_ms },
        Order::Await => Told::Await,
        Order::AcceptMaster => Told::AcceptMaster,
    }
}
