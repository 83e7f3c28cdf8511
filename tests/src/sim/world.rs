//! Everything in one place, and the order in which it happens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use operator::record::Record;
use replication::link::LinkError;

use super::faults::{Fault, Faults};
use super::judges::Judges;
use super::net::{End, INSTANCES_MAX, Net, Part, operator_end};
use super::operators::{Ask, Operator, Said};
use super::process::{Disk, Out, Process, Settings};
use super::rng::Rng;
use super::{Config, Failure, Weakening};

const TICK_US: u64 = 40_000;
const CONNECT_TIMEOUT_US: u64 = 2_000_000;

/// A clock of its own: another beginning and, within bounds, another pace than the world's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub origin_ms: u64,
    pub drift_ppm: i64,
}

impl Clock {
    pub fn at(self, us: u64) -> u64 {
        let us = i64::try_from(us).expect("a run is shorter than an age");
        let own_us = us + us * self.drift_ppm / 1_000_000;
        self.origin_ms + u64::try_from(own_us / 1000).expect("no clock runs backwards")
    }
}

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub port: u16,
    pub clock: Clock,
    pub disk: Disk,
    /// Counts its processes.
    pub life: u64,
    pub process: Option<Process>,
    /// SIGSTOP.
    pub paused: bool,
    /// It is to run: its supervisor starts it again when it ends.
    pub supervised: bool,
}

/// What a person has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub instances: usize,
    pub quorum: u32,
    pub failback: bool,
}

/// The record with the precondition of its version.
#[derive(Debug, Default)]
pub struct Store {
    pub record: Option<Record>,
    pub version: u64,
    /// Who leads, in which life, until when on the store's clock.
    pub lead: Option<(usize, u64, u64)>,
}

#[derive(Debug)]
pub enum Event {
    Tick { node: usize, life: u64 },
    Loaded { node: usize, life: u64 },
    Deliver { conn: u64, side: usize },
    Connected { node: usize, life: u64, attempt: u64, port: u16, late: bool },
    Start { node: usize },
    Resume { node: usize },
    Request(Box<Said>),
    Reply(Box<Said>),
    Broken(Box<Said>),
    ReplyTimeout { operator: usize, life: u64, node: usize, question: u64 },
    Poll { operator: usize, life: u64, node: usize },
    Turn { operator: usize, life: u64 },
    Lead { operator: usize, life: u64 },
    StartOperator { operator: usize },
    ResumeOperator { operator: usize },
    Write,
    NextFault,
    Desert { node: usize },
    End(Fault),
}

#[derive(Debug)]
struct Timed {
    at_us: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.seq) == (other.at_us, other.seq)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.seq).cmp(&(other.at_us, other.seq))
    }
}

#[derive(Debug)]
pub struct World {
    pub now_us: u64,
    pub rng: Rng,
    pub config: Config,
    pub nodes: Vec<Node>,
    pub operators: Vec<Operator>,
    pub net: Net,
    pub store: Store,
    pub spec: Spec,
    /// Instances that a person has taken out of service.
    pub fenced: [bool; INSTANCES_MAX],
    pub faults: Faults,
    pub judges: Judges,
    pub settings: Settings,
    pub writes: u64,
    pub writing: bool,
    /// Lines, if the run is watched.
    pub trace: Option<Vec<String>>,
    queue: BinaryHeap<Reverse<Timed>>,
    seq: u64,
    pub steps: u64,
}

/// Adds a line to the trace, which is made only when somebody reads it.
macro_rules! note {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($arg)*);
            $world.note(line);
        }
    };
}
pub(super) use note;

impl World {
    pub fn new(seed: u64, config: Config) -> Self {
        let mut rng = Rng::new(seed);
        let instances = config.instances.unwrap_or_else(|| rng.range(1, 4) as usize);
        let quorum = config.quorum.unwrap_or_else(|| rng.below(3) as u32).min(instances as u32 - 1);
        let drift = if config.weakening == Some(Weakening::ClocksDrift) { 60_000 } else { config.drift_ppm };
        let clock = |rng: &mut Rng| Clock {
            origin_ms: rng.below(1 << 32),
            drift_ppm: rng.below(2 * drift as u64 + 1) as i64 - drift,
        };
        let nodes = (0..INSTANCES_MAX)
            .map(|n| Node {
                name: if n == 0 { "s-master-0".into() } else { format!("s-replica-{}", n - 1) },
                port: 7000 + n as u16,
                clock: clock(&mut rng),
                disk: Disk::default(),
                life: 0,
                process: None,
                paused: false,
                supervised: false,
            })
            .collect();
        let two = rng.chance(600);
        let operators: Vec<_> = (0..if two { 2 } else { 1 }).map(|n| Operator::new(n, clock(&mut rng))).collect();
        let settings = Settings {
            backlog: if rng.chance(500) { rng.range(300, 5000) } else { 1 << 20 },
            timeout_ms: rng.range(1500, 5000),
            weakening: config.weakening,
        };
        let mut world = Self {
            now_us: 0,
            faults: Faults::new(&mut rng),
            rng,
            nodes,
            operators,
            net: Net::default(),
            store: Store::default(),
            spec: Spec { instances, quorum, failback: false },
            fenced: [false; INSTANCES_MAX],
            judges: Judges::default(),
            settings,
            writes: 0,
            writing: true,
            trace: config.watched.then(Vec::new),
            queue: BinaryHeap::new(),
            seq: 0,
            steps: 0,
            config,
        };
        for operator in 0..world.operators.len() {
            world.after(world.config.quiet_us(operator), Event::StartOperator { operator });
        }
        world.after(10_000, Event::Write);
        world.after(1_000_000, Event::NextFault);
        world
    }

    pub fn note(&mut self, line: String) {
        let now_us = self.now_us;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7}.{:03} {line}", now_us / 1000, now_us % 1000));
        }
    }

    pub fn is_weak(&self, weakening: Weakening) -> bool {
        self.config.weakening == Some(weakening)
    }

    pub fn at(&mut self, at_us: u64, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse(Timed { at_us: at_us.max(self.now_us), seq: self.seq, event }));
    }

    pub fn after(&mut self, us: u64, event: Event) {
        self.at(self.now_us + us, event);
    }

    /// Runs up to a moment, and judges after every step.
    pub fn run_until(&mut self, until_us: u64) -> Result<(), Failure> {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at_us <= until_us) {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now_us = next.at_us;
            self.steps += 1;
            self.step(next.event);
            self.judge();
            if let Some(what) = self.judges.verdict.take() {
                return Err(Failure { at_ms: self.now_us / 1000, what });
            }
        }
        self.now_us = until_us;
        Ok(())
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } => self.on_tick(node, life),
            Event::Loaded { node, life } => self.on_loaded(node, life),
            Event::Deliver { conn, side } => self.on_deliver(conn, side),
            Event::Connected { node, life, attempt, port, late } => self.on_connected(node, life, attempt, port, late),
            Event::Start { node } => self.start(node),
            Event::Resume { node } => self.resume(node),
            Event::Request(said) => self.on_request(said),
            Event::Reply(said) => self.on_reply(*said),
            Event::Broken(said) => self.on_broken(&said),
            Event::ReplyTimeout { operator, life, node, question } => {
                self.on_reply_timeout(operator, life, node, question);
            }
            Event::Poll { operator, life, node } => self.on_poll(operator, life, node),
            Event::Turn { operator, life } => self.on_turn(operator, life),
            Event::Lead { operator, life } => self.on_lead(operator, life),
            Event::StartOperator { operator } => self.start_operator(operator),
            Event::ResumeOperator { operator } => self.resume_operator(operator),
            Event::Write => self.on_write(),
            Event::NextFault => self.on_next_fault(),
            Event::Desert { node } => self.desert(node),
            Event::End(fault) => self.end_fault(fault),
        }
    }

    // ---- instances ----

    pub fn node_ms(&self, node: usize) -> u64 {
        self.nodes[node].clock.at(self.now_us)
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.nodes[node].process.is_some()
    }

    /// Starts the process of an instance, unless there is one.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() || !self.nodes[node].supervised {
            return;
        }
        let (now_ms, settings, rng) = (self.node_ms(node), self.settings, Rng::new(self.rng.word()));
        let at = &mut self.nodes[node];
        at.life += 1;
        at.paused = false;
        let process = Process::start(&mut at.disk, at.port, settings, rng, now_ms);
        let life = at.life;
        note!(
            self,
            "{node} starts, life {life}, incarnation {:016x}, {:?}",
            process.role.incarnation,
            process.role.durable
        );
        self.nodes[node].process = Some(process);
        let load_us = if self.rng.chance(100) { self.rng.below(3_000_000) } else { self.rng.below(100_000) };
        self.after(load_us, Event::Loaded { node, life });
        let first_us = self.rng.below(TICK_US);
        self.after(first_us, Event::Tick { node, life });
    }

    fn on_loaded(&mut self, node: usize, life: u64) {
        if !self.lives(node, life) {
            return;
        }
        let at = &mut self.nodes[node];
        let Some(process) = &mut at.process else { return };
        process.loaded(&at.disk);
        let (offset, epoch, last) = (process.log.end(), process.history.epoch, process.data.last());
        note!(self, "{node} has loaded offset {offset} of epoch {epoch}, last {last:?}");
    }

    fn on_tick(&mut self, node: usize, life: u64) {
        if !self.lives(node, life) {
            return;
        }
        self.after(TICK_US, Event::Tick { node, life });
        self.with(node, |process, _, now_ms| process.tick(now_ms));
    }

    /// Lets a process do something, unless it is stopped, and carries out what comes of it.
    pub fn with<R>(&mut self, node: usize, f: impl FnOnce(&mut Process, &mut Disk, u64) -> R) -> Option<R> {
        let now_ms = self.node_ms(node);
        let at = &mut self.nodes[node];
        let process = at.process.as_mut().filter(|_| !at.paused)?;
        let result = f(process, &mut at.disk, now_ms);
        let out = std::mem::take(&mut process.out);
        for out in out {
            self.carry_out(node, out);
        }
        Some(result)
    }

    fn carry_out(&mut self, node: usize, out: Out) {
        match out {
            Out::Connect { port, attempt } => {
                let to = usize::from(port).saturating_sub(7000).min(INSTANCES_MAX - 1);
                let life = self.nodes[node].life;
                let late = !self.net.reaches(node, to);
                let us = if late { CONNECT_TIMEOUT_US } else { 2 * self.net.delay_us(node, to, &mut self.rng) };
                self.after(us, Event::Connected { node, life, attempt, port, late });
            }
            Out::Send { conn, bytes } => self.send(conn, node, Part::Bytes(bytes)),
            Out::Close { conn } => self.send(conn, node, Part::Fin),
            Out::Note(said) => self.judge_note(node, said),
        }
    }

    fn send(&mut self, conn: u64, node: usize, part: Part) {
        if let Some((side, at_us)) = self.net.send(conn, node, part, self.now_us, &mut self.rng) {
            self.at(at_us, Event::Deliver { conn, side });
        }
    }

    fn on_connected(&mut self, node: usize, life: u64, attempt: u64, port: u16, late: bool) {
        if !self.lives(node, life) {
            return;
        }
        let to = usize::from(port) - 7000;
        let result = if late || to == node {
            Err(LinkError::Timeout)
        } else if self.nodes[to].process.is_none() {
            Err(LinkError::Io("refused".into()))
        } else {
            let conn = self.net.open(End { node, life }, End { node: to, life: self.nodes[to].life });
            // The kernel accepts also for a process that is stopped.
            if let Some(process) = &mut self.nodes[to].process {
                process.accept(conn);
            }
            Ok(conn)
        };
        self.with(node, |process, _, now_ms| process.on_connected(attempt, result, now_ms));
    }

    fn on_deliver(&mut self, id: u64, side: usize) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        let (from, to) = (conn.ends[side].node, conn.ends[1 - side]);
        if self.net.is_blocked(from, to.node) || self.nodes[to.node].paused {
            // It is sent again and again.
            let us = self.rng.range(20_000, 120_000);
            return self.after(us, Event::Deliver { conn: id, side });
        }
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        match conn.on_the_way[side].pop_front() {
            // Who has closed does not read any more.
            Some(Part::Bytes(_)) if conn.closed[1 - side] => {}
            Some(Part::Bytes(bytes)) if self.lives(to.node, to.life) => {
                self.with(to.node, |process, disk, now_ms| process.hears(id, &bytes, disk, now_ms));
            }
            Some(Part::Fin) => self.forget(id, to),
            Some(Part::Bytes(_)) | None => {}
        }
    }

    fn forget(&mut self, conn: u64, hears: End) {
        self.net.conns.remove(&conn);
        if self.lives(hears.node, hears.life) {
            self.with(hears.node, |process, _, now_ms| process.on_closed(conn, now_ms));
        }
    }

    /// The network drops a connection: both ends see it.
    pub fn cut(&mut self, conn: u64) {
        let Some(ends) = self.net.conns.get(&conn).map(|conn| conn.ends) else { return };
        for end in ends {
            self.forget(conn, end);
        }
    }

    /// Its connections are closed by its kernel.
    fn process_gone(&mut self, node: usize) {
        self.nodes[node].process = None;
        self.nodes[node].paused = false;
        let conns: Vec<u64> = self
            .net
            .conns
            .iter()
            .filter(|(_, c)| c.ends.iter().any(|end| end.node == node))
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            self.send(conn, node, Part::Fin);
        }
        self.operators_hear_of_end(node);
    }

    pub fn kill(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            note!(self, "{node} is killed");
            self.process_gone(node);
        }
    }

    /// An orderly shutdown: everything is saved.
    pub fn stop(&mut self, node: usize) {
        let at = &mut self.nodes[node];
        if let Some(process) = at.process.as_ref().filter(|process| !process.loading && !at.paused) {
            at.disk.snapshot = Some(process.snapshot());
            at.disk.durable = Some(process.role.at_shutdown(true));
            note!(self, "{node} is stopped in order");
            self.process_gone(node);
        }
    }

    pub fn resume(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].paused) {
            note!(self, "{node} goes on");
            self.with(node, |process, _, now_ms| process.tick(now_ms));
        }
    }

    // ---- clients ----

    /// Clients write to whoever accepts it.
    fn on_write(&mut self) {
        let pause_us = self.rng.range(5_000, 80_000);
        self.after(pause_us, Event::Write);
        if !self.writing {
            return;
        }
        let write = self.writes + 1;
        let first = self.rng.below(INSTANCES_MAX as u64) as usize;
        for n in 0..INSTANCES_MAX {
            let node = (first + n) % INSTANCES_MAX;
            if self.with(node, |process, _, now_ms| process.write(write, now_ms)) == Some(true) {
                self.writes = write;
                return;
            }
        }
    }

    // ---- what operators ask of instances ----

    fn on_request(&mut self, said: Box<Said>) {
        let (from, node) = (operator_end(said.operator), said.node);
        if self.net.is_blocked(from, node) {
            // Lost with its connection, or sent again until it arrives.
            if said.sticky {
                let us = self.rng.range(20_000, 200_000);
                self.after(us, Event::Request(said));
            }
            return;
        }
        if !self.lives(node, said.node_life) {
            if !self.net.is_blocked(node, from) {
                self.after(500, Event::Broken(said));
            }
            return;
        }
        if self.nodes[node].paused {
            return self.after(20_000, Event::Request(said));
        }
        let mut said = said;
        if let Ask::Order(order) = &said.ask {
            let order = self.tampered_order(node, order.clone());
            said.refused = self
                .with(node, |process, disk, now_ms| process.order(&order, disk, now_ms))
                .and_then(Result::err)
                .map(|refusal| refusal.to_string());
            if !matches!(order, replication::Order::Lease { .. }) || said.refused.is_some() {
                let refused = said.refused.clone().unwrap_or_default();
                note!(self, "{node} is told by {}: {order:?} {refused}", said.operator);
            }
        }
        let now_ms = self.node_ms(node);
        said.status = self.nodes[node].process.as_ref().map(|process| process.status(now_ms));
        if let (Ask::Order(replication::Order::Promise { .. }), Some(status)) = (&said.ask, &said.status) {
            let (epoch, offset, complete) = (status.history_epoch, status.offset, status.complete);
            note!(
                self,
                "{node} answers: history {epoch}:{offset}, complete {complete}, grant {}",
                status.grant_left_ms
            );
        }
        let us = self.net.delay_us(node, from, &mut self.rng);
        self.after(us, Event::Reply(said));
    }
}
