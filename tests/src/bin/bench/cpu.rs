//! CPU-seconds per million commands and throughput.
//!
//! A second io-thread costs throughput if it costs more than the machine adds. What that is, two things tell: how the turns
//! of a server scatter, and what two servers with the same arguments differ by, which one of them runs twice for.

use std::process::Command;

use harness::Server;

use crate::Scale;
use crate::proc::cpu_s;
use crate::table::{Goal, Table, median, uncertainty};

const KEYS: u32 = 1_000_000;
/// How the servers take turns; what the machine does besides meets all of them.
struct Turns {
    pipeline: u32,
    rounds: usize,
    /// Of each turn.
    commands: u32,
}

/// Many short turns: what the machine does besides passes in seconds. At pipeline 1 much of the time goes to falling asleep and
/// being woken, and how client and server fall into step is another matter in each turn: these are still more.
const TURNS: [Turns; 2] =
    [Turns { pipeline: 16, rounds: 45, commands: 200_000 }, Turns { pipeline: 1, rounds: 81, commands: 25_000 }];

struct Case {
    name: &'static str,
    command: &'static [&'static str],
    /// At pipeline 16, with one io-thread.
    goal: f64,
    /// Commands are so large that fewer are enough.
    heavy: bool,
}

const fn case(name: &'static str, goal: f64, command: &'static [&'static str]) -> Case {
    Case { name, command, goal, heavy: false }
}

const KEY: &str = "key:__rand_int__";
const CASES: &[Case] = &[
    case("GET", 0.6, &["GET", KEY]),
    case("SET", 0.6, &["SET", KEY, "xxx"]),
    case("INCR", 0.6, &["INCR", "counter:__rand_int__"]),
    case("LPUSH", 0.8, &["LPUSH", "list", "xxx"]),
    case("HSET", 0.8, &["HSET", "hash", "field:__rand_int__", "xxx"]),
    case("ZADD", 0.8, &["ZADD", "zset", "__rand_int__", "member:__rand_int__"]),
    Case {
        heavy: true,
        ..case(
            "MSET of 10",
            0.8,
            &[
                "MSET", KEY, "xxx", KEY, "xxx", KEY, "xxx", KEY, "xxx", KEY, "xxx", KEY, "xxx", KEY, "xxx", KEY, "xxx",
                KEY, "xxx", KEY, "xxx",
            ],
        )
    },
];

struct Figure {
    cpu_s_per_million: f64,
    per_s: f64,
}

/// Thousand commands a second.
struct Rates {
    /// Of one io-thread, and of the other server that has one.
    one: f64,
    again: f64,
    two: f64,
    /// Standard error of `two / one`.
    uncertainty: f64,
}

impl Rates {
    /// What one and two may differ by: three standard errors, or what the same differed by.
    fn noise(&self) -> f64 {
        (3.0 * self.uncertainty).max((1.0 - self.again / self.one).abs())
    }

    /// Of all commands together: geometric means.
    fn together(all: &[(String, Rates)]) -> Rates {
        let count = all.len() as f64;
        let mean = |of: fn(&Rates) -> f64| (all.iter().map(|(_, rates)| of(rates).ln()).sum::<f64>() / count).exp();
        let squares: f64 = all.iter().map(|(_, rates)| rates.uncertainty.powi(2)).sum();
        Rates {
            one: mean(|r| r.one),
            again: mean(|r| r.again),
            two: mean(|r| r.two),
            uncertainty: squares.sqrt() / count,
        }
    }

    fn add_to(&self, table: &mut Table, what: &str) {
        // In hundredths, as it is shown.
        let bound = ((1.0 - self.noise()) * 100.0).floor() / 100.0;
        let what = format!("throughput: {what}, 2 io-threads against 1");
        table.add(what, "k/s", self.two, Some(self.one), Goal::RatioAtLeast(bound));
    }
}

pub(crate) fn run(scale: Scale, table: &mut Table) {
    let quiet = ["--save", ""];
    let servers = [
        Server::ours(&[&quiet[..], &["--io-threads", "1"]].concat()),
        Server::ours(&[&quiet[..], &["--io-threads", "2"]].concat()),
        Server::redis(&quiet),
        Server::ours(&[&quiet[..], &["--io-threads", "1"]].concat()),
    ];
    for server in &servers {
        load(server, 16, scale.of(4_000_000, 100_000), &["SET", KEY, "xxx"]);
    }
    for Turns { pipeline, rounds, commands } in TURNS {
        let mut against_one = Vec::new();
        for case in CASES {
            let count = scale.of(commands, commands / 10);
            let count = if case.heavy { count / 5 } else { count };
            let mut figures: [Vec<Figure>; 4] = Default::default();
            for round in 0..scale.of(rounds, 1) {
                for turn in 0..figures.len() {
                    let at = (round + turn) % figures.len();
                    let server = &servers[at];
                    let before = cpu_s(server.pid());
                    let per_s = load(server, pipeline, count, case.command);
                    let cpu_s_per_million = (cpu_s(server.pid()) - before) * 1e6 / f64::from(count);
                    figures[at].push(Figure { cpu_s_per_million, per_s });
                }
            }
            let cpu = |at: usize| median(figures[at].iter().map(|f| f.cpu_s_per_million).collect());
            let mut rates =
                [0, 1, 2, 3].map(|at: usize| figures[at].iter().map(|f| f.per_s / 1000.0).collect::<Vec<_>>());
            let uncertainty = uncertainty(&mut rates[0]).hypot(uncertainty(&mut rates[1]));
            let rates = rates.map(median);
            let what = format!("{}, pipeline {pipeline}", case.name);
            let goal = Goal::Ratio(if pipeline == 1 { 0.95 } else { case.goal });
            table.add(format!("CPU: {what}"), "s/M", cpu(0), Some(cpu(2)), goal);
            table.add(format!("CPU: {what}, 2 io-threads against 1"), "s/M", cpu(1), Some(cpu(0)), Goal::Ratio(1.15));
            table.add(format!("throughput: {what}"), "k/s", rates[0], Some(rates[2]), Goal::None);
            against_one.push((what, Rates { one: rates[0], again: rates[3], two: rates[1], uncertainty }));
        }
        against_one.iter().for_each(|(what, rates)| rates.add_to(table, what));
        Rates::together(&against_one).add_to(table, &format!("all of these, pipeline {pipeline}"));
    }
}

/// Runs redis-benchmark; commands per second. It would go on for ever if its server were gone.
fn load(server: &Server, pipeline: u32, count: u32, command: &[&str]) -> f64 {
    let numbers =
        [("-P", pipeline), ("-n", count), ("-r", KEYS), ("-c", 50)].map(|(flag, n)| [flag.into(), n.to_string()]);
    let output = Command::new("timeout")
        .args(["120", "redis-benchmark", "-q", "-p", &server.port.to_string()])
        .args(numbers.as_flattened())
        .args(command)
        .output()
        .expect("redis-benchmark can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.split(['\r', '\n']).rev().find(|line| line.contains("requests per second"));
    let rate = last.and_then(|line| line.split("requests per second").next()?.split_whitespace().last()?.parse().ok());
    rate.unwrap_or_else(|| panic!("redis-benchmark {command:?}: {text}"))
}
