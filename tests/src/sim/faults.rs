//! What goes wrong. Each seed has its own mixture, so that some runs are about partitions and others about crashes.

use replication::Order;

use super::net::{INSTANCES_MAX, operator_end};
use super::process::{Disk, Process};
use super::rng::Rng;
use super::world::{Event, World, note};

/// One that lasts for a time.
#[derive(Debug, Clone)]
pub enum Fault {
    Blocked(Vec<(usize, usize)>),
    Slow(usize, usize),
    NoStore(usize),
    Fenced(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Partition,
    OneWay,
    Isolate,
    LeaveAlone,
    Slow,
    Cut,
    Kill,
    KillMaster,
    KillAll,
    Restart,
    LoseVolume,
    Pause,
    PauseMaster,
    OperatorEnds,
    OperatorPauses,
    OperatorLosesStore,
    Switchover,
    Scale,
    Quorum,
    Fence,
    Save,
}

const KINDS: [Kind; 21] = [
    Kind::Partition,
    Kind::OneWay,
    Kind::Isolate,
    Kind::LeaveAlone,
    Kind::Slow,
    Kind::Cut,
    Kind::Kill,
    Kind::KillMaster,
    Kind::KillAll,
    Kind::Restart,
    Kind::LoseVolume,
    Kind::Pause,
    Kind::PauseMaster,
    Kind::OperatorEnds,
    Kind::OperatorPauses,
    Kind::OperatorLosesStore,
    Kind::Switchover,
    Kind::Scale,
    Kind::Quorum,
    Kind::Fence,
    Kind::Save,
];

#[derive(Debug)]
pub struct Faults {
    weights: Vec<(Kind, u64)>,
    mean_us: u64,
    /// Operators may end or stand still between two actions.
    pub operators_fail: bool,
    pub over: bool,
    pub lost_volumes: usize,
}

impl Faults {
    pub fn new(rng: &mut Rng) -> Self {
        let weight = |rng: &mut Rng, kind: Kind| match kind {
            Kind::KillAll | Kind::LoseVolume => rng.below(2),
            Kind::Save => 4,
            _ => rng.below(3) * rng.below(4),
        };
        Self {
            weights: KINDS.iter().map(|&kind| (kind, weight(rng, kind))).collect(),
            mean_us: rng.range(150_000, 2_500_000),
            operators_fail: rng.chance(500),
            over: false,
            lost_volumes: 0,
        }
    }

    fn pick(&self, rng: &mut Rng) -> Kind {
        let total = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.below(total);
        for (kind, weight) in &self.weights {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        Kind::Save
    }
}

impl World {
    pub fn on_next_fault(&mut self) {
        if self.faults.over {
            return;
        }
        let us = self.rng.range(1000, 2 * self.faults.mean_us);
        self.after(us, Event::NextFault);
        let kind = self.faults.pick(&mut self.rng);
        if self.config.without.contains(&format!("{kind:?}").as_str()) {
            return;
        }
        self.inject(kind);
    }

    fn inject(&mut self, kind: Kind) {
        let node = self.rng.below(self.spec.instances as u64) as usize;
        let master = self.reigning().unwrap_or(node);
        let operator = self.rng.below(self.operators.len() as u64) as usize;
        match kind {
            Kind::Partition => self.partition(),
            Kind::OneWay => self.one_way(),
            Kind::Isolate => {
                let ends = self.ends();
                let others = ends.iter().copied().filter(|&end| end != master);
                let pairs = others.flat_map(|end| [(end, master), (master, end)]).collect();
                self.block(pairs);
            }
            Kind::LeaveAlone => self.leave_alone(master),
            Kind::Slow => {
                let (from, to, us) = (self.any_end(), self.any_end(), self.rng.range(5_000, 1_200_000));
                self.net.slow(from, to, us);
                note!(self, "{from} -> {to} is slow, up to {} ms", us / 1000);
                let lasts_us = self.rng.range(500_000, 6_000_000);
                self.after(lasts_us, Event::End(Fault::Slow(from, to)));
            }
            Kind::Cut => {
                let conns: Vec<u64> = self.net.conns.keys().copied().collect();
                if let Some(&conn) = self.rng.pick(&conns) {
                    self.cut(conn);
                }
            }
            Kind::Kill => self.kill_for_a_time(node),
            Kind::KillMaster => self.kill_for_a_time(master),
            Kind::KillAll => (0..INSTANCES_MAX).for_each(|node| self.kill_for_a_time(node)),
            Kind::Restart => {
                self.stop(node);
                let us = self.rng.range(20_000, 2_000_000);
                self.after(us, Event::Start { node });
            }
            Kind::LoseVolume => {
                self.kill_for_a_time(node);
                note!(self, "{node} loses its volume");
                self.nodes[node].disk = Disk::default();
                self.faults.lost_volumes += 1;
            }
            Kind::Pause => self.pause(node),
            Kind::PauseMaster => self.pause(master),
            Kind::OperatorEnds => {
                self.stop_operator(operator);
                let us = self.rng.range(50_000, 8_000_000);
                self.after(us, Event::StartOperator { operator });
            }
            Kind::OperatorPauses => {
                note!(self, "operator {operator} is paused");
                self.operators[operator].paused = self.operators[operator].up;
                let us = self.rng.range(50_000, 6_000_000);
                self.after(us, Event::ResumeOperator { operator });
            }
            Kind::OperatorLosesStore => {
                self.operators[operator].cut_off = true;
                let us = self.rng.range(100_000, 6_000_000);
                self.after(us, Event::End(Fault::NoStore(operator)));
            }
            Kind::Switchover => {
                let to = self.rng.chance(500).then(|| self.nodes[node].name.clone());
                note!(self, "a person asks for a switchover to {to:?}");
                let now_us = self.now_us;
                for operator in &mut self.operators {
                    operator.switchover = Some((to.clone(), operator.clock.at(now_us)));
                }
            }
            Kind::Scale => {
                let up = self.rng.chance(500);
                let instances = if up { self.spec.instances + 1 } else { self.spec.instances - 1 };
                self.spec.instances = instances.clamp(1, INSTANCES_MAX);
                self.spec.quorum = self.spec.quorum.min(self.spec.instances as u32 - 1);
                note!(self, "wanted: {:?}", self.spec);
            }
            Kind::Quorum => {
                self.spec.quorum = self.rng.below(3.min(self.spec.instances as u64)) as u32;
                note!(self, "wanted: {:?}", self.spec);
            }
            Kind::Fence => {
                self.fence(node, true);
                let us = self.rng.range(200_000, 8_000_000);
                self.after(us, Event::End(Fault::Fenced(node)));
            }
            Kind::Save => {
                let at = &mut self.nodes[node];
                if let Some(process) = at.process.as_ref().filter(|process| !process.loading && !at.paused) {
                    at.disk.snapshot = Some(process.snapshot());
                }
            }
        }
    }

    /// The master of the highest epoch, if one reigns.
    fn reigning(&self) -> Option<usize> {
        let epoch = |node: usize| self.nodes[node].process.as_ref()?.role.reign().map(|reign| reign.epoch);
        (0..INSTANCES_MAX).filter(|&node| epoch(node).is_some()).max_by_key(|&node| epoch(node))
    }

    fn ends(&self) -> Vec<usize> {
        (0..self.spec.instances).chain((0..self.operators.len()).map(operator_end)).collect()
    }

    fn any_end(&mut self) -> usize {
        let ends = self.ends();
        *self.rng.pick(&ends).expect("there is an instance")
    }

    fn partition(&mut self) {
        let ends = self.ends();
        let side: Vec<bool> = ends.iter().map(|_| self.rng.chance(500)).collect();
        let mut pairs = Vec::new();
        for (a, in_a) in ends.iter().zip(&side) {
            pairs.extend(ends.iter().zip(&side).filter(|(_, in_b)| in_a != *in_b).map(|(b, _)| (*a, *b)));
        }
        self.block(pairs);
    }

    fn one_way(&mut self) {
        let n = self.rng.range(1, 3);
        let pairs = (0..n).map(|_| (self.any_end(), self.any_end())).collect();
        self.block(pairs);
    }

    fn block(&mut self, pairs: Vec<(usize, usize)>) {
        note!(self, "blocked: {pairs:?}");
        for &(from, to) in &pairs {
            self.net.block(from, to);
        }
        let us = self.rng.range(100_000, 9_000_000);
        self.after(us, Event::End(Fault::Blocked(pairs)));
    }

    /// A master that goes on: first the operators lose it, then the replicas do. The longest that two can be taken for the
    /// master.
    fn leave_alone(&mut self, master: usize) {
        let operators: Vec<usize> = (0..self.operators.len()).map(operator_end).collect();
        let others: Vec<usize> = (0..self.spec.instances).filter(|&node| node != master).collect();
        self.block(operators.iter().flat_map(|&end| [(end, master), (master, end)]).collect());
        for (&from, &to) in operators.iter().flat_map(|from| others.iter().map(move |to| (from, to))) {
            if self.rng.chance(300) {
                self.net.slow(from, to, 900_000);
                self.after(8_000_000, Event::End(Fault::Slow(from, to)));
            }
        }
        let us = self.rng.range(1_500_000, 4_000_000);
        self.after(us, Event::Desert { node: master });
    }

    /// The other instances lose it.
    pub fn desert(&mut self, node: usize) {
        if self.faults.over {
            return;
        }
        let others = (0..self.spec.instances).filter(|&other| other != node);
        self.block(others.flat_map(|other| [(other, node), (node, other)]).collect());
        let conns = self.net.conns.iter().filter(|(_, conn)| conn.ends.iter().any(|end| end.node == node));
        for conn in conns.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(conn);
        }
    }

    fn kill_for_a_time(&mut self, node: usize) {
        self.kill(node);
        let us = if self.rng.chance(500) { self.rng.below(100_000) } else { self.rng.range(100_000, 5_000_000) };
        self.after(us, Event::Start { node });
    }

    fn pause(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            note!(self, "{node} is paused");
            self.nodes[node].paused = true;
            let us = self.rng.range(50_000, 5_000_000);
            self.after(us, Event::Resume { node });
        }
    }

    pub fn end_fault(&mut self, fault: Fault) {
        match fault {
            _ if self.faults.over => {}
            Fault::Blocked(pairs) => {
                note!(self, "no longer blocked: {pairs:?}");
                pairs.iter().for_each(|&(from, to)| self.net.unblock(from, to));
            }
            Fault::Slow(from, to) => self.net.slow(from, to, 0),
            Fault::NoStore(operator) => self.operators[operator].cut_off = false,
            Fault::Fenced(node) => self.fence(node, false),
        }
    }

    /// A person takes an instance out of service, or gives it back.
    pub fn fence(&mut self, node: usize, fenced: bool) {
        note!(self, "{node} is {}fenced", if fenced { "" } else { "not " });
        self.fenced[node] = fenced;
        for operator in 0..self.operators.len() {
            self.wake(operator, 1000);
        }
    }

    /// Everything works from now on; what is broken is begun again.
    pub fn heal(&mut self) {
        note!(self, "no more faults");
        self.faults.over = true;
        self.faults.operators_fail = false;
        self.net.heal();
        self.fenced = [false; INSTANCES_MAX];
        for node in 0..INSTANCES_MAX {
            self.resume(node);
            self.start(node);
        }
        for operator in 0..self.operators.len() {
            self.operators[operator].cut_off = false;
            self.operators[operator].switchover = None;
            self.resume_operator(operator);
            self.start_operator(operator);
        }
    }

    /// Asks a person, where the rules stop on purpose. `Err`: they do not here, with what the operators say.
    pub fn person_may_give_data_up(&mut self) -> Result<(), String> {
        let summaries: Vec<_> = self.operators.iter().map(|operator| operator.summary.clone()).collect();
        let says = |text: &str| summaries.iter().any(|summary| summary.contains(text));
        let nothing_left = says("NoMemberHasData");
        let member_gone =
            says("too few complete") || says("leases that replicas gave") || says("every member to answer");
        let justified = nothing_left || member_gone && self.faults.lost_volumes > 0;
        if !justified {
            return Err(summaries.join("; "));
        }
        note!(self, "a person gives data up");
        self.judges.given_up = true;
        for operator in &mut self.operators {
            operator.tenure.allow_data_loss = true;
        }
        Ok(())
    }

    /// After data was given up those who hold some are told to follow a master that has none.
    pub fn person_accepts_masters(&mut self) {
        let refuses = |process: &Process| !process.refused().is_empty() && !process.role.accept_once;
        for node in 0..INSTANCES_MAX {
            if self.judges.given_up && self.nodes[node].process.as_ref().is_some_and(refuses) {
                let _ = self.with(node, |process, disk, now_ms| process.order(&Order::AcceptMaster, disk, now_ms));
            }
        }
    }
}
