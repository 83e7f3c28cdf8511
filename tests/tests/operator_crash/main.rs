//! The operator dies before and after every act of a first start, a failover, a scaling, a rollout and whatever else it does
//! (see `operator::fault`), and the next one goes on: every run ends with the datastore as its spec says, and the history of a
//! client that writes throughout is judged.
//!
//! At first each scenario is run while nobody dies, to see which points it passes; then once for each of them, or more often
//! where an act is done several times. A tenant is a namespace with a datastore and an operator of its own, and runs one scenario
//! after the other; there are several of them at a time.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod scenario;
mod tenant;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use harness::Server;
use harness::cluster::{ApiServer, ProcessKubelet};
use operator::fault::{Act, TRACE};
use parking_lot::Mutex;

use self::scenario::Scenario;
use self::tenant::Tenant;

const TENANTS: usize = 6;
/// A run in which nobody has died, because this time that point was not passed, is repeated so often.
const ATTEMPTS: u32 = 3;

/// What is to be done by some tenant.
#[derive(Debug, Clone)]
struct Job {
    scenario: Scenario,
    /// Where the operator dies; `None`: nowhere.
    point: Option<(String, usize)>,
    attempt: u32,
}

#[derive(Debug, Default)]
struct Board {
    waiting: VecDeque<Job>,
    under_way: usize,
    passed: BTreeSet<String>,
    /// Runs in which the operator has died there.
    died: BTreeMap<(String, Scenario), usize>,
    failed: bool,
}

/// What a tenant is told to do.
enum Next {
    Job(Job),
    Wait,
    Over,
}

impl Board {
    /// The next job, if it can one that fits to what is there.
    fn next(&mut self, fits: impl Fn(Scenario) -> bool) -> Next {
        let at = self.waiting.iter().position(|job| fits(job.scenario)).unwrap_or(0);
        match self.waiting.remove(at) {
            _ if self.failed => Next::Over,
            Some(job) => {
                self.under_way += 1;
                Next::Job(job)
            }
            None if self.under_way > 0 => Next::Wait,
            None => Next::Over,
        }
    }

    fn on_traced(&mut self, scenario: Scenario, passed: &[String]) {
        self.under_way -= 1;
        self.passed.extend(passed.iter().cloned());
        let mut times: BTreeMap<&String, usize> = BTreeMap::new();
        for point in passed {
            *times.entry(point).or_default() += 1;
        }
        for act in Act::ALL.iter().filter(|act| scenario.is_about(**act)) {
            for point in act.points() {
                let passes = times.get(&point).copied().unwrap_or(0).min(scenario::passes(*act));
                let job = |nth| Job { scenario, point: Some((point.clone(), nth)), attempt: 1 };
                self.waiting.extend((1..=passes).map(job));
            }
        }
    }

    fn on_run(&mut self, job: Job, has_died: bool) {
        self.under_way -= 1;
        let (point, _) = job.point.clone().expect("it was to die somewhere");
        if has_died {
            *self.died.entry((point, job.scenario)).or_default() += 1;
        } else if job.attempt < ATTEMPTS {
            self.waiting.push_back(Job { attempt: job.attempt + 1, ..job });
        }
    }
}

/// Ends the others when one tenant fails.
struct Fails<'a>(&'a Mutex<Board>);

impl Drop for Fails<'_> {
    fn drop(&mut self) {
        self.0.lock().failed |= std::thread::panicking();
    }
}

#[test]
fn an_operator_that_dies_at_any_act_is_replaced_by_one_that_finishes() {
    let begun = Instant::now();
    let api = ApiServer::start();
    api.install_crd();
    tenant::volumes(&api, TENANTS);
    let kubelet = ProcessKubelet::start(&api);
    let source = Server::redis(&["--save", ""]);
    assert_eq!(source.conn().text("SET from source"), "OK");
    let trace = |scenario| Job { scenario, point: None, attempt: 1 };
    let board = Mutex::new(Board { waiting: Scenario::ALL.iter().copied().map(trace).collect(), ..Board::default() });
    std::thread::scope(|scope| {
        for n in 0..TENANTS {
            let (api, kubelet, board, source) = (&api, &kubelet, &board, source.port);
            scope.spawn(move || {
                let _fails = Fails(board);
                work(Tenant::start(api, kubelet, &format!("tenant-{n}"), source), board);
            });
        }
    });
    let board = board.into_inner();
    let runs: usize = board.died.values().sum();
    println!("the operator died {runs} times at {} pairs of point and scenario", board.died.len());
    println!("all of it took {:?}", begun.elapsed());
    // A point at which nobody dies would be one of which nothing is shown.
    let everywhere: BTreeSet<String> = Act::ALL.iter().flat_map(|act| act.points()).collect();
    let missed: Vec<&String> = everywhere.difference(&board.passed).collect();
    assert!(missed.is_empty(), "no scenario passes {missed:?}");
    let died: BTreeSet<String> = board.died.keys().map(|(point, _)| point.clone()).collect();
    let lived: Vec<&String> = everywhere.difference(&died).collect();
    assert!(lived.is_empty(), "no operator has died at {lived:?}");
}

fn work(mut tenant: Tenant<'_>, board: &Mutex<Board>) {
    loop {
        let next = board.lock().next(|scenario| tenant.is_prepared(scenario));
        match next {
            Next::Over => break,
            Next::Wait => std::thread::sleep(Duration::from_millis(100)),
            Next::Job(job) => match &job.point {
                None => {
                    tenant.run(job.scenario, TRACE);
                    board.lock().on_traced(job.scenario, &tenant.passed());
                }
                Some((point, nth)) => {
                    let has_died = tenant.run(job.scenario, &format!("{point}:{nth}"));
                    board.lock().on_run(job, has_died);
                }
            },
        }
    }
    println!("{}", tenant.judge());
}
