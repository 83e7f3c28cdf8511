//! The suite on a real cluster: real pods, real nodes, and clients whose history is judged. One file per feature.
//!
//! `make cluster-test` runs all of it, with ONLY="failover scale" the cases whose names begin so.

mod config;
mod drain;
mod external_master;
mod failover;
mod fence;
mod full_disk;
mod helm_chart;
mod monitoring;
mod node_loss;
mod operator_crash;
mod plugin;
mod rolling_update;
mod scale;
mod secret_rotation;
mod storage;
mod tour;
mod two_tenants;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::cluster::main(&[
        two_tenants::CASES,
        scale::CASES,
        tour::CASES,
        failover::CASES,
        rolling_update::CASES,
        secret_rotation::CASES,
        storage::CASES,
        full_disk::CASES,
        config::CASES,
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
