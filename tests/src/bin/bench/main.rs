//! `make bench`: our server beside Debian's redis-server, interleaved in one run, as one table of ratios with the goals.
//!
//! `ONLY=cpu,memory,sync,restart,growth,failover,objects` chooses themes; `QUICK=1` makes everything small, to see that it works.
//! CPU-seconds are the figure to trust on a small machine; what a clock measures there is noisy.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod cpu;
mod failover;
mod growth;
mod memory;
mod objects;
mod proc;
mod restart;
mod sync;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use table::Table;

/// How large everything is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    quick: bool,
}

impl Scale {
    /// The number for a real run or for a quick one.
    fn of<T>(self, real: T, quick: T) -> T {
        if self.quick { quick } else { real }
    }
}

type Theme = (&'static str, fn(Scale, &mut Table));

const THEMES: &[Theme] = &[
    ("cpu", cpu::run),
    ("memory", memory::run),
    ("sync", sync::run),
    ("restart", restart::run),
    ("growth", growth::run),
    ("failover", failover::run),
    ("objects", objects::run),
];

fn main() -> ExitCode {
    let scale = Scale { quick: std::env::var_os("QUICK").is_some_and(|value| value != "0") };
    let only = std::env::var("ONLY").unwrap_or_default();
    let chosen: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = chosen.iter().find(|name| !THEMES.iter().any(|(theme, _)| theme == *name)) {
        let themes: Vec<&str> = THEMES.iter().map(|(name, _)| *name).collect();
        eprintln!("ONLY={unknown}: there is no such theme; there are {}", themes.join(", "));
        return ExitCode::from(2);
    }
    let mut table = Table::default();
    let mut broken = Vec::new();
    for (name, run) in THEMES {
        if chosen.is_empty() || chosen.contains(name) {
            eprintln!("bench: {name}");
            // A theme that breaks ends its processes as it unwinds, and takes no other theme's rows with it.
            if catch_unwind(AssertUnwindSafe(|| run(scale, &mut table))).is_err() {
                broken.push(*name);
            }
        }
    }
    println!("{}", proc::machine());
    println!("{table}");
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("Broken off, see above: {}", broken.join(", "));
    ExitCode::FAILURE
}
