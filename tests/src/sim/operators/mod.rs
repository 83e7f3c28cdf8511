//! Operators: `operator::plan` driven as `operator/src/local` drives it, and a lead among two of them (R3).

use std::collections::{BTreeMap, VecDeque};

use operator::api::{Failback, ReplicatedRedisSpec};
use operator::observe::{Instance, Observed, Status};
use operator::plan::{Action, Order, plan};
use operator::record::Record;
use operator::tenure::Tenure;
use replication::Order as Told;

use crate::sim::Weakening;

mod talk;

use crate::sim::net::{INSTANCES_MAX, operator_end};
use crate::sim::world::{Clock, Event, World, note};
use talk::told;

/// How long a lead lasts that is not renewed, on the store's clock.
const LEAD_MS: u64 = 3000;

/// What goes to an instance: a question for its status, or an order.
#[derive(Debug, Clone)]
pub enum Ask {
    Status,
    Order(Told),
}

/// A question, and later its answer.
#[derive(Debug)]
pub struct Said {
    pub operator: usize,
    pub life: u64,
    pub node: usize,
    pub node_life: u64,
    pub question: u64,
    pub ask: Ask,
    /// It survives a partition.
    pub sticky: bool,
    pub refused: Option<String>,
    pub status: Option<Status>,
}

#[derive(Debug, Clone)]
struct Sighting {
    life: u64,
    asked_ms: u64,
    answered_ms: u64,
    status: Status,
}

/// An order that was given and is not done with.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    answered_ms: Option<u64>,
}

/// What an operator knows of an instance.
#[derive(Debug, Clone, Default)]
struct View {
    life: u64,
    running: bool,
    last: Option<Sighting>,
    trouble_ms: Option<u64>,
    outstanding: Option<(u64, u64, bool)>,
    pending: Option<Order>,
    in_flight: Option<InFlight>,
    next_us: u64,
    incarnations: Vec<(u64, String)>,
}

#[derive(Debug)]
pub struct Operator {
    pub index: usize,
    pub clock: Clock,
    pub up: bool,
    pub paused: bool,
    /// It cannot reach the store.
    pub cut_off: bool,
    pub life: u64,
    me: String,
    lead_until_ms: u64,
    pub record: Option<Record>,
    version: u64,
    pub tenure: Tenure,
    views: Vec<View>,
    pub switchover: Option<(Option<String>, u64)>,
    todo: VecDeque<Action>,
    in_the_act: bool,
    retry_us: u64,
    turn_us: Option<u64>,
    question: u64,
    busy: bool,
    pub summary: String,
}

impl Operator {
    pub fn new(index: usize, clock: Clock) -> Self {
        Self {
            index,
            clock,
            up: false,
            paused: false,
            cut_off: false,
            life: 0,
            me: String::new(),
            lead_until_ms: 0,
            record: None,
            version: 0,
            tenure: Tenure::default(),
            views: vec![View::default(); INSTANCES_MAX],
            switchover: None,
            todo: VecDeque::new(),
            in_the_act: false,
            retry_us: 0,
            turn_us: None,
            question: 0,
            busy: true,
            summary: String::new(),
        }
    }

    /// The last answer of the present life.
    fn look(&self, node: usize) -> Option<&Sighting> {
        let view = &self.views[node];
        view.last.as_ref().filter(|last| view.running && last.life == view.life)
    }
}

impl World {
    pub fn start_operator(&mut self, operator: usize) {
        if self.operators[operator].up {
            return;
        }
        let before = &self.operators[operator];
        let (life, clock, question, cut_off) = (before.life + 1, before.clock, before.question, before.cut_off);
        self.operators[operator] = Operator {
            up: true,
            life,
            me: format!("operator-{operator}-{life}"),
            // A number is never used twice, so an answer to a former life is nobody's.
            question,
            cut_off,
            ..Operator::new(operator, clock)
        };
        note!(self, "operator {operator} starts, life {life}");
        self.after(1000, Event::Lead { operator, life });
        for node in 0..INSTANCES_MAX {
            self.after(500, Event::Poll { operator, life, node });
        }
        self.wake(operator, 2000);
    }

    pub fn stop_operator(&mut self, operator: usize) {
        if self.operators[operator].up {
            note!(self, "operator {operator} ends");
            self.operators[operator].up = false;
            self.operators[operator].paused = false;
            self.operators[operator].todo.clear();
        }
    }

    pub fn resume_operator(&mut self, operator: usize) {
        if std::mem::take(&mut self.operators[operator].paused) {
            note!(self, "operator {operator} goes on");
            let life = self.operators[operator].life;
            self.after(1, Event::Turn { operator, life });
            self.operators[operator].turn_us = Some(self.now_us + 1);
        }
    }

    fn runs(&self, operator: usize, life: u64) -> bool {
        let at = &self.operators[operator];
        at.up && at.life == life
    }

    fn operator_ms(&self, operator: usize) -> u64 {
        self.operators[operator].clock.at(self.now_us)
    }

    // ---- the lead ----

    pub fn on_lead(&mut self, operator: usize, life: u64) {
        if !self.runs(operator, life) {
            return;
        }
        let us = self.rng.range(200_000, 600_000);
        self.after(us, Event::Lead { operator, life });
        if self.operators[operator].paused || self.operators[operator].cut_off {
            return;
        }
        let now_ms = self.now_us / 1000;
        let free = match self.store.lead {
            Some((who, in_life, until_ms)) => (who, in_life) == (operator, life) || now_ms >= until_ms,
            None => true,
        };
        if free {
            let own_ms = self.operator_ms(operator);
            self.store.lead = Some((operator, life, now_ms + LEAD_MS));
            // Counted from the request, with room for the drift of two clocks.
            let led = self.leads(operator);
            self.operators[operator].lead_until_ms = own_ms + LEAD_MS * 9 / 10;
            if !led {
                note!(self, "operator {operator} leads");
                self.read_record(operator);
                self.wake(operator, 1000);
            }
        }
    }

    fn leads(&self, operator: usize) -> bool {
        self.holds_the_lead(operator)
            || self.is_weak(Weakening::ActsWithoutTheLead)
            || self.is_weak(Weakening::RecordWithoutPrecondition)
            || self.is_weak(Weakening::LeadForLeasesOnly)
    }

    fn holds_the_lead(&self, operator: usize) -> bool {
        self.operator_ms(operator) < self.operators[operator].lead_until_ms
    }

    /// R3: it grants only while it leads.
    fn may_grant(&self, operator: usize) -> bool {
        self.holds_the_lead(operator) || self.is_weak(Weakening::ActsWithoutTheLead)
    }

    /// R3: the moment of the take-over counts as the last grant of whoever led before, so one who takes over leads.
    fn may_take_over(&self, operator: usize) -> bool {
        self.holds_the_lead(operator) || !self.is_weak(Weakening::LeadForLeasesOnly)
    }

    // ---- observe, plan, apply ----

    pub fn wake(&mut self, operator: usize, us: u64) {
        let at_us = self.now_us + us;
        let at = &mut self.operators[operator];
        if at.turn_us.is_none_or(|turn_us| turn_us > at_us) {
            at.turn_us = Some(at_us);
            let life = at.life;
            self.at(at_us, Event::Turn { operator, life });
        }
    }

    pub fn on_turn(&mut self, operator: usize, life: u64) {
        if !self.runs(operator, life)
            || self.operators[operator].paused
            || self.operators[operator].turn_us.is_none_or(|turn_us| turn_us > self.now_us)
        {
            return;
        }
        self.operators[operator].turn_us = None;
        // It stood still between the look at its lead and the act.
        let in_the_act = std::mem::take(&mut self.operators[operator].in_the_act);
        if !in_the_act && !self.leads(operator) {
            self.operators[operator].todo.clear();
            return self.wake(operator, 200_000);
        }
        if self.now_us < self.operators[operator].retry_us {
            return self.wake(operator, self.operators[operator].retry_us - self.now_us);
        }
        let mut wake_ms = 5;
        if self.operators[operator].todo.is_empty() {
            let observed = self.observe(operator);
            let now_ms = self.operator_ms(operator);
            let plan = plan(&observed, now_ms);
            wake_ms = plan.wake_ms.max(5);
            let at = &mut self.operators[operator];
            if at.summary != plan.summary {
                at.summary.clone_from(&plan.summary);
                note!(self, "operator {operator}: {}", plan.summary);
            }
            let at = &mut self.operators[operator];
            let reigns = observed.record.as_ref().is_some_and(|record| record.target.is_none());
            at.busy = !reigns || plan.master.is_none();
            self.forget_what_is_done(operator, &observed, reigns);
            self.grant_in_spite(operator, &observed);
            let takes_over = observed.record.as_ref().is_some_and(|record| record.holder != observed.me);
            if takes_over && !self.may_take_over(operator) {
                return self.wake(operator, 200_000);
            }
            self.operators[operator].todo = plan.actions.into();
        }
        if self.apply(operator) {
            self.wake(operator, wake_ms * 1000);
        }
    }

    /// What a person has asked for is done, or can wait no longer.
    fn forget_what_is_done(&mut self, operator: usize, observed: &Observed, reigns: bool) {
        let now_ms = self.operator_ms(operator);
        let at = &mut self.operators[operator];
        if at.switchover.as_ref().is_some_and(|(_, since)| !reigns || now_ms > since + 3000) {
            at.switchover = None;
        }
        let master = observed.record.as_ref().and_then(|record| record.master.as_ref());
        let writable = master.and_then(|m| observed.answering(&m.name)).is_some_and(|s| s.writable);
        if reigns && writable {
            at.tenure.allow_data_loss = false;
        }
    }

    fn observe(&mut self, operator: usize) -> Observed {
        for node in 0..INSTANCES_MAX {
            self.refresh(operator, node);
        }
        let spec = self.spec;
        let mut instances = BTreeMap::new();
        for node in 0..INSTANCES_MAX {
            if !self.nodes[node].supervised {
                continue;
            }
            let (name, port) = (self.nodes[node].name.clone(), self.nodes[node].port);
            let instance = self.operators[operator].instance(node, port);
            instances.insert(name, instance);
        }
        let at = &mut self.operators[operator];
        if let Some(master) = at.record.as_ref().and_then(|r| r.master.as_ref())
            && let Some(node) = self.nodes.iter().position(|node| node.name == master.name)
        {
            // What was seen of a machine that is not reached now may be of another process than the record's.
            if self.net.reaches(operator_end(operator), node) && !at.views[node].running {
                at.tenure.ended.insert(master.incarnation.clone());
            } else if let Some(instance) = instances.get(&master.name) {
                at.tenure.on_successor(master, instance);
            }
        }
        let mut wanted = ReplicatedRedisSpec::default();
        wanted.durability.write_quorum = spec.quorum;
        wanted.failover.failback = if spec.failback { Failback::Auto } else { Failback::Manual };
        let names = self.nodes[..spec.instances].iter().map(|node| node.name.clone()).collect();
        let switchover = at.switchover.as_ref().map(|(to, _)| to.clone());
        let mut observed = at.tenure.observed(&at.me, &wanted, names, at.record.clone(), instances, switchover);
        for (node, _) in self.fenced.iter().enumerate().filter(|(_, fenced)| **fenced) {
            let name = &self.nodes[node].name;
            if let Some(instance) = observed.instances.get_mut(name).filter(|_| observed.wanted.contains(name)) {
                instance.leaving = true;
                observed.fenced.insert(name.clone());
            }
        }
        self.tamper(operator, &mut observed);
        observed
    }

    /// Carries out what is left of the plan. `false`: it was broken off, and goes on at another time or not at all.
    fn apply(&mut self, operator: usize) -> bool {
        while let Some(action) = self.operators[operator].todo.pop_front() {
            if self.faults.operators_fail && self.rng.chance(10) {
                if self.rng.chance(500) {
                    self.stop_operator(operator);
                    let us = self.rng.range(100_000, 3_000_000);
                    self.after(us, Event::StartOperator { operator });
                } else {
                    note!(self, "operator {operator} stands still before {action:?}");
                    self.operators[operator].todo.push_front(action);
                    self.operators[operator].in_the_act = true;
                    self.operators[operator].paused = true;
                    let us = self.rng.range(1_000, 6_000_000);
                    self.after(us, Event::ResumeOperator { operator });
                }
                return false;
            }
            match action {
                Action::WriteRecord(record) => {
                    if !self.write_record(operator, &record) {
                        self.operators[operator].todo.clear();
                        self.operators[operator].retry_us = self.now_us + 500_000;
                        return true;
                    }
                }
                Action::Send { instance, order } => self.give(operator, &instance, order),
                Action::Start { instance } => self.supervise(&instance, true),
                Action::Stop { instance } => self.supervise(&instance, false),
                Action::Event { .. } => {}
            }
        }
        true
    }

    fn node_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    fn supervise(&mut self, name: &str, run: bool) {
        let Some(node) = self.node_of(name) else { return };
        if run && !self.nodes[node].supervised {
            self.nodes[node].supervised = true;
            self.start(node);
        } else if !run && self.nodes[node].supervised {
            self.stop(node);
            self.nodes[node].supervised = self.nodes[node].process.is_some();
        }
    }

    pub fn give(&mut self, operator: usize, name: &str, order: Order) {
        let Some(node) = self.node_of(name) else { return };
        if matches!(order, Order::Lease { .. }) && !self.may_grant(operator) {
            return;
        }
        let now_ms = self.operator_ms(operator);
        let at = &mut self.operators[operator];
        let view = &mut at.views[node];
        if view.in_flight.is_some() || view.pending.is_some() {
            return;
        }
        if let Order::Lease { token, .. } = &order {
            at.tenure.on_lease_sent(*token, now_ms);
        }
        view.in_flight = Some(InFlight { answered_ms: None });
        view.pending = Some(order);
        self.talk(operator, node);
    }

    /// An order beside the conversation, and nobody hears the answer.
    pub fn whisper(&mut self, operator: usize, name: &str, order: &Order) {
        let Some(node) = self.node_of(name) else { return };
        let (life, node_life) = (self.operators[operator].life, self.operators[operator].views[node].life);
        let ask = Ask::Order(told(order));
        let said =
            Said { operator, life, node, node_life, question: 0, ask, sticky: false, refused: None, status: None };
        let us = self.net.delay_us(operator_end(operator), node, &mut self.rng);
        self.after(us, Event::Request(Box::new(said)));
    }

    fn read_record(&mut self, operator: usize) {
        let now_ms = self.operator_ms(operator);
        let at = &mut self.operators[operator];
        at.tenure.on_read(at.record.as_ref(), self.store.record.as_ref(), now_ms);
        at.record.clone_from(&self.store.record);
        at.version = self.store.version;
    }

    fn write_record(&mut self, operator: usize, record: &Record) -> bool {
        if self.operators[operator].cut_off {
            return false;
        }
        let fits = self.operators[operator].version == self.store.version;
        if !fits && !self.is_weak(Weakening::RecordWithoutPrecondition) {
            note!(self, "operator {operator} may not write the record: another has");
            self.read_record(operator);
            return false;
        }
        self.store.version += 1;
        note!(self, "operator {operator} writes {record:?}");
        self.store.record = Some(record.clone());
        self.judge_record(record);
        if self.faults.operators_fail && self.rng.chance(30) {
            note!(self, "operator {operator} does not hear that it is written");
            self.read_record(operator);
            return false;
        }
        let now_ms = self.operator_ms(operator);
        let version = self.store.version;
        let at = &mut self.operators[operator];
        at.version = version;
        at.tenure.on_written(at.record.as_ref(), record, now_ms);
        at.record = Some(record.clone());
        true
    }
}

impl Operator {
    /// What is seen of an instance, and which incarnations are known to have ended: those of former lives (R5).
    fn instance(&mut self, node: usize, port: u16) -> Instance {
        let last = self.look(node).cloned();
        let view = &mut self.views[node];
        if let Some(last) = &last {
            let known = (last.life, last.status.incarnation.clone());
            if !view.incarnations.contains(&known) {
                view.incarnations.push(known);
            }
        }
        let (life, running) = (view.life, view.running);
        for (_, incarnation) in view.incarnations.iter().filter(|(of, _)| !running || *of != life) {
            self.tenure.ended.insert(incarnation.clone());
        }
        view.incarnations.retain(|(of, _)| running && *of == life);
        let seen_since = |answered_ms: u64| {
            view.trouble_ms.is_some() || last.as_ref().is_some_and(|last| last.asked_ms >= answered_ms)
        };
        if !running || view.in_flight.is_some_and(|order| order.answered_ms.is_some_and(seen_since)) {
            view.in_flight = None;
        }
        Instance {
            leaving: false,
            running: running || life == 0,
            host: "h".into(),
            port,
            status_ms: last.as_ref().map_or(0, |last| last.asked_ms),
            answered_ms: last.as_ref().map_or(0, |last| last.answered_ms),
            silent_since_ms: view.trouble_ms.filter(|_| running && last.is_some()),
            // That nobody listens is believed in vain now and then: no rule may rest on it.
            refuses: view.trouble_ms.is_some_and(|since| since % 3 == 0),
            status: last.map(|last| last.status),
        }
    }
}
