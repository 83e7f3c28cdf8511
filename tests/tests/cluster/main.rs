//! The suite on a real cluster: real pods, real nodes, and clients whose history is judged. One file per feature.
//!
//! `make cluster-test` runs all of it, with ONLY="failover scale" the cases whose names begin so.

mod drain;
mod external_master;
mod failover;
mod fence;
mod helm_chart;
mod monitoring;
mod node_loss;
mod operator_crash;
mod plugin;
mod scale;
mod tour;
mod two_tenants;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::cluster::main(&[
        two_tenants::CASES,
        scale::CASES,
        tour::CASES,
        failover::CASES,
        external_master::CASES,
        plugin::CASES,
        monitoring::CASES,
        drain::CASES,
        fence::CASES,
        node_loss::CASES,
        operator_crash::CASES,
        helm_chart::CASES,
    ])
}
