//! CPU-seconds per million commands and throughput.
//!
//! One of the servers runs twice with the same arguments. What these two differ by is what the machine adds: a second io-thread
//! costs throughput if it costs more than that.

use std::process::Command;

use harness::Server;

use crate::Scale;
use crate::proc::cpu_s;
use crate::table::{Goal, Table, median};

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
        let mut noise: f64 = 0.0;
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
            let rate = |at: usize| median(figures[at].iter().map(|f| f.per_s / 1000.0).collect());
            let what = format!("{}, pipeline {pipeline}", case.name);
            let goal = Goal::Ratio(if pipeline == 1 { 0.95 } else { case.goal });
            table.add(format!("CPU: {what}"), "s/M", cpu(0), Some(cpu(2)), goal);
            table.add(format!("CPU: {what}, 2 io-threads against 1"), "s/M", cpu(1), Some(cpu(0)), Goal::Ratio(1.15));
            table.add(format!("throughput: {what}"), "k/s", rate(0), Some(rate(2)), Goal::None);
            against_one.push((what, rate(1), rate(0)));
            noise = noise.max((1.0 - rate(3) / rate(0)).abs());
        }
        // In hundredths, as the bound is shown.
        let bound = ((1.0 - noise) * 100.0).floor() / 100.0;
        for (what, two, one) in against_one {
            let what = format!("throughput: {what}, 2 io-threads against 1");
            table.add(what, "k/s", two, Some(one), Goal::RatioAtLeast(bound));
        }
        let what = format!("throughput: the same server twice, pipeline {pipeline}, largest difference");
        table.add(what, "", noise, None, Goal::None);
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
