//! Runs the cases of the suite: one cluster for all of them, which ends with the run, however that ends. In the end nothing may have
//! been forbidden to the operator.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::witness::{WITNESS_COMMAND, run_on_node};
use super::{Cluster, Scene};

/// How many cases run at the same time, where they do not disturb each other.
const TOGETHER: usize = 3;

/// What a case does to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it keeps to its namespace, and can run beside others.
    Namespace,
    /// The cluster for itself: it stops the operator, say.
    Cluster,
    /// Nodes that can be killed and cut off. Left out, by name, where they are not ours.
    Nodes,
}

/// One case. Its name is that of its file, or begins with it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub needs: Needs,
    /// A case that takes longer than this hangs: the run ends.
    pub limit: Duration,
    pub run: fn(&Scene<'_>),
}

/// The whole suite as a program: `run [NAME...]` runs the cases whose names begin so, `list` names them.
pub fn main(cases: &'static [&'static [Case]]) -> ExitCode {
    let cases: Vec<Case> = cases.concat();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some((WITNESS_COMMAND, rest)) => {
            run_on_node(rest);
            ExitCode::SUCCESS
        }
        Some(("list", _)) => {
            cases.iter().for_each(|case| say(case.name));
            ExitCode::SUCCESS
        }
        Some(("run", names)) => {
            let unknown = names.iter().find(|name| !cases.iter().any(|case| case.name.starts_with(*name)));
            if let Some(unknown) = unknown {
                say(&format!("there is no case {unknown}; `list` names them"));
                return ExitCode::FAILURE;
            }
            let chosen = |case: &Case| names.is_empty() || names.iter().any(|name| case.name.starts_with(name));
            run(cases.into_iter().filter(chosen).collect())
        }
        _ => {
            // A plain `cargo test` must not rebuild the network of the machine that it runs on.
            say("the cluster suite needs root and a machine for itself: `make cluster-test` runs it");
            ExitCode::SUCCESS
        }
    }
}

/// The cluster of this run, for whoever ends the run.
static CLUSTER: OnceLock<Cluster> = OnceLock::new();

fn run(cases: Vec<Case>) -> ExitCode {
    let begun = Instant::now();
    end_on_signals();
    let cluster = match Cluster::find_or_start().and_then(|cluster| cluster.install_operator().map(|()| cluster)) {
        Ok(cluster) => CLUSTER.get_or_init(|| cluster),
        Err(error) => {
            say(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    say(&format!("{:>6.1} s  the cluster is up, and the operator in it", begun.elapsed().as_secs_f64()));
    let may_use_nodes = cluster.has_own_nodes();
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for case in cases {
        match case.needs {
            Needs::Namespace => together.push(case),
            Needs::Nodes if !may_use_nodes => {
                say(&format!(
                    "{}: left out, because it kills nodes and these are not ours (or less than three)",
                    case.name
                ));
            }
            Needs::Cluster | Needs::Nodes => alone.push(case),
        }
    }
    let results = Arc::new(Mutex::new(Vec::new()));
    run_in_turns(together, TOGETHER, cluster, &results);
    run_in_turns(alone, 1, cluster, &results);
    results.lock().push(("rights", nothing_was_forbidden(cluster)));
    cluster.end();
    let results = results.lock();
    let failed: Vec<&str> = results.iter().filter(|(_, ok)| !ok).map(|(name, _)| *name).collect();
    say(&format!(
        "{:>6.1} s  {} of {} cases passed{}",
        begun.elapsed().as_secs_f64(),
        results.len() - failed.len(),
        results.len(),
        if failed.is_empty() { String::new() } else { format!("; failed: {}", failed.join(", ")) }
    ));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whatever the cases were about: the operator has the rights that it needs.
fn nothing_was_forbidden(cluster: &Cluster) -> bool {
    let forbidden = cluster.forbidden();
    for line in &forbidden {
        say(&format!("rights: {line}"));
    }
    forbidden.is_empty()
}

type Results = Arc<Mutex<Vec<(&'static str, bool)>>>;

fn run_in_turns(cases: Vec<Case>, threads: usize, cluster: &'static Cluster, results: &Results) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ok = run_case(case, cluster);
                    results.lock().push((case.name, ok));
                }
            });
        }
    });
}

/// Runs one case within its limit; says whether it has passed.
fn run_case(case: &Case, cluster: &'static Cluster) -> bool {
    let (begun, case) = (Instant::now(), *case);
    let (done, is_done) = channel();
    std::thread::spawn(move || {
        let ok = catch_unwind(AssertUnwindSafe(|| {
            let scene = Scene::new(cluster, case.name);
            let ok = catch_unwind(AssertUnwindSafe(|| (case.run)(&scene))).is_ok();
            if !ok {
                let _ = catch_unwind(AssertUnwindSafe(|| scene.dump()));
            }
            if case.needs != Needs::Namespace {
                cluster.heal();
            }
            scene.clear();
            ok
        }));
        // Nobody listens any more when the limit was passed.
        let _ = done.send(ok.unwrap_or(false));
    });
    let ok = match is_done.recv_timeout(case.limit) {
        Ok(ok) => ok,
        Err(RecvTimeoutError::Disconnected) => false,
        Err(RecvTimeoutError::Timeout) => {
            // Its thread cannot be ended: whatever it does to the cluster would be done to the next case.
            say(&format!("{}: not done after {:?}; the run ends here", case.name, case.limit));
            cluster.end();
            std::process::exit(1);
        }
    };
    let result = if ok { "ok" } else { "FAILED" };
    say(&format!("{}: {result} after {:.1} s", case.name, begun.elapsed().as_secs_f64()));
    ok
}

/// Ctrl-C ends the cluster too.
fn end_on_signals() {
    std::thread::spawn(|| {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).expect("a handler can be set");
            let mut terminate = signal(SignalKind::terminate()).expect("a handler can be set");
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        say("interrupted: the cluster ends");
        match CLUSTER.get() {
            Some(cluster) => cluster.end(),
            None => Cluster::end_unfinished(),
        }
        std::process::exit(130);
    });
}

#[expect(clippy::print_stdout, reason = "the output of a test program")]
fn say(text: &str) {
    println!("{text}");
    let _ = std::io::stdout().flush();
}
