//! The simulator: instances and operators in one world, where one seed decides everything that happens.
//!
//! The real machines run here: `replication::{Role, History, Log, Feed, Link, Gate, …}` make an instance
//! ([`process`]), `operator::plan` makes an operator ([`operators`]). The world ([`world`]) has the clock and the order
//! of events, carries bytes and questions ([`net`]), keeps disks and the record, and lets things go wrong ([`faults`]).
//! After every step judges look at all of it ([`judges`]). A rule made weaker must make a judge speak ([`weaken`]).
//!
//! Not seen in 2000 seeds, or not often enough to ask for it in each test: a lease granted while `target` is set (once in
//! 2000 seeds), the rest of a grant that is counted from the question (6 in 2000), clocks that differ by three times of what there is room for (twice in 3000), a replica served in another
//! epoch (R1, not once: an acknowledgement of another epoch does not count either).
//!
//! What a crash leaves: the state file, stored before each answer, and the last snapshot, whole. Memory is gone, so
//! every write since that snapshot is.

pub mod data;
pub mod faults;
pub mod judges;
pub mod net;
pub mod operators;
pub mod process;
pub mod rng;
pub mod weaken;
pub mod world;

use world::World;

/// `managed-lease-ms`.
pub const LEASE_MS: u64 = 2000;
/// So long after the last fault all is well.
const HEAL_US: u64 = 40_000_000;
/// An instance is out of service within this, once all is well.
const FENCE_US: u64 = 10_000_000;

/// A rule that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakening {
    /// R3: the operator grants a lease while `target` is set.
    GrantWhileTarget,
    /// R6: PROMOTE and LEASE name no incarnation, and a restart is not noticed.
    AnyIncarnation,
    /// R5.2, R5.3: leases are not waited for.
    NoWait,
    /// R5.3: what is left of a grant is counted from the question.
    GrantsFromTheQuestion,
    /// R5.2: one promise fewer than N − ⌊N/2⌋.
    OnePromiseFewer,
    /// R5.2: one complete answer fewer than N − K + 1.
    OneCompleteFewer,
    /// R5.2: everyone counts as complete.
    EveryoneIsComplete,
    /// R5.4: answers of those who are silent now count.
    OldAnswersCount,
    /// R5.4: the offset decides, whatever the epoch of the history.
    ChoiceByOffset,
    /// R5.4: histories are not compared.
    AnyoneIsChosen,
    /// R5.1: the record is written whatever is there. Two operators act at a time: otherwise the lead would hide it.
    RecordWithoutPrecondition,
    /// None: the rules ask for the lead where a lease is granted and where the record is taken over, and nowhere else.
    LeadForLeasesOnly,
    /// R3: clocks differ by more than the leases have room for.
    ClocksDrift,
    /// R3: an operator goes on without the lead.
    ActsWithoutTheLead,
    /// R9: an instance without data may be chosen.
    EmptyMayBeChosen,
    /// R2: promises are not stored.
    PromisesAreForgotten,
    /// R8: a full resync may replace anything.
    NoHistoryFence,
    /// R1: any managed replica is served.
    ServesAnyEpoch,
    /// R1: who is taken out of service keeps its role.
    FencedAreServed,
}

impl Weakening {
    pub const ALL: [Self; 19] = [
        Self::GrantWhileTarget,
        Self::AnyIncarnation,
        Self::NoWait,
        Self::GrantsFromTheQuestion,
        Self::OnePromiseFewer,
        Self::OneCompleteFewer,
        Self::EveryoneIsComplete,
        Self::OldAnswersCount,
        Self::ChoiceByOffset,
        Self::AnyoneIsChosen,
        Self::RecordWithoutPrecondition,
        Self::LeadForLeasesOnly,
        Self::ClocksDrift,
        Self::ActsWithoutTheLead,
        Self::EmptyMayBeChosen,
        Self::PromisesAreForgotten,
        Self::NoHistoryFence,
        Self::ServesAnyEpoch,
        Self::FencedAreServed,
    ];
}

#[derive(Debug, Clone)]
pub struct Config {
    pub instances: Option<usize>,
    pub quorum: Option<u32>,
    pub weakening: Option<Weakening>,
    /// How long faults go on.
    pub faults_us: u64,
    /// Clocks run faster or slower by up to this.
    pub drift_ppm: i64,
    /// Kinds of faults that do not happen.
    pub without: Vec<&'static str>,
    /// Keep a trace.
    pub watched: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instances: None,
            quorum: None,
            weakening: None,
            faults_us: 30_000_000,
            // By half of what the leases have room for, so that two clocks differ by all of it.
            drift_ppm: 10_000,
            without: vec![],
            watched: false,
        }
    }
}

impl Config {
    fn quiet_us(&self, operator: usize) -> u64 {
        1000 * (1 + operator as u64)
    }
}

/// What a judge said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub at_ms: u64,
    pub what: String,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub result: Result<(), Failure>,
    pub steps: u64,
    pub writes: u64,
    /// Quorum writes that were acknowledged.
    pub acknowledged: usize,
    pub reigns: usize,
    /// A person had to give data up.
    pub given_up: bool,
    pub healed_ms: u64,
    pub trace: Vec<String>,
}

/// One run.
pub fn run(seed: u64, config: Config) -> Outcome {
    let mut world = World::new(seed, config);
    let result = drive(&mut world);
    Outcome {
        result,
        steps: world.steps,
        writes: world.writes,
        acknowledged: world.judges.acknowledged_in_all,
        reigns: world.judges.reigns_in_all,
        given_up: world.judges.given_up,
        healed_ms: world.now_us.saturating_sub(world.config.faults_us) / 1000,
        trace: world.trace.unwrap_or_default(),
    }
}

/// Faults, then none: clients go on for a moment, then everything must become equal.
fn drive(world: &mut World) -> Result<(), Failure> {
    let faults_us = world.config.faults_us;
    world.run_until(faults_us)?;
    world.heal();
    world.run_until(faults_us + 3_000_000)?;
    world.writing = false;
    let Err(missing) = becomes_well(world)? else { return is_fenced(world) };
    let why = world.person_may_give_data_up();
    let failed = |world: &World, what: String| Failure { at_ms: world.now_us / 1000, what };
    if let Err(summary) = why {
        return Err(failed(world, format!("it does not become well: {missing}; {summary}")));
    }
    match becomes_well(world)? {
        Ok(()) => Ok(()),
        Err(missing) => Err(failed(world, format!("it does not become well though data was given up: {missing}"))),
    }
}

/// In some of the runs an instance is taken out of service in the end, and given back.
fn is_fenced(world: &mut World) -> Result<(), Failure> {
    if !world.rng.chance(125) {
        return Ok(());
    }
    let node = usize::try_from(world.rng.below(world.spec.instances as u64)).expect("an index");
    world.fence(node, true);
    let end_us = world.now_us + FENCE_US;
    loop {
        world.run_until(world.now_us + 200_000)?;
        match world.is_out_of_service(node) {
            Ok(()) => break,
            Err(what) if world.now_us >= end_us => return Err(Failure { at_ms: world.now_us / 1000, what }),
            Err(_) => {}
        }
    }
    world.fence(node, false);
    becomes_well(world)?.map_err(|missing| Failure {
        at_ms: world.now_us / 1000,
        what: format!("it does not become well after a fence: {missing}"),
    })
}

fn becomes_well(world: &mut World) -> Result<Result<(), String>, Failure> {
    let end_us = world.now_us + HEAL_US;
    loop {
        let next_us = world.now_us + 200_000;
        world.run_until(next_us)?;
        world.person_accepts_masters();
        let well = world.well();
        if well.is_ok() || world.now_us >= end_us {
            return Ok(well);
        }
    }
}

/// Runs a seed, and again with its trace when a judge speaks: the message has all that is needed to see why.
pub fn check(seed: u64, config: Config) -> Outcome {
    let outcome = run(seed, config.clone());
    if let Err(failure) = &outcome.result {
        let trace = run(seed, Config { watched: true, ..config }).trace;
        let tail = &trace[trace.len().saturating_sub(120)..];
        panic!(
            "the last of what happened:\n{}\n\nseed {seed}, {} ms: {}\nSEED={seed} cargo test -p \
             replicated-redis-tests --test simulation shows all of it",
            tail.join("\n"),
            failure.at_ms,
            failure.what
        );
    }
    outcome
}
