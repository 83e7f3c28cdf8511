//! The suite on a real cluster: real pods, real nodes, and clients whose history is judged. One file per feature.
//!
//! `make test` runs all of it; `make cluster-test ONLY="failover scale"` runs the cases whose names begin so.

mod failover;
mod helm_chart;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::cluster::main(&[failover::CASES, helm_chart::CASES])
}
