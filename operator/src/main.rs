//! `replicated-redis-operator`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Runs ReplicatedRedis: one master, its replicas, and the failover between them.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinition of ReplicatedRedis as YAML.
    Crd,
    /// Run in a Kubernetes cluster: every ReplicatedRedis as pods.
    Run(operator::kubernetes::RunArgs),
    /// Ask a running operator whether it is well.
    Healthz(operator::healthz::HealthzArgs),
    /// As `kubectl rr`: looks after the datastores of a cluster.
    Kubectl(operator::plugin::Cli),
    /// Run a ReplicatedRedis as processes of this machine, or ask one that runs.
    Local(operator::local::LocalArgs),
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]
fn main() -> ExitCode {
    // One program under two names, as in an image.
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.file_name().is_some_and(|name| name == "kubectl-rr") {
        return operator::plugin::main();
    }
    let done = match Cli::parse().command {
        Command::Crd => operator::api::crd_yaml().map(|yaml| print!("{yaml}")),
        Command::Run(args) => operator::kubernetes::execute(args).map_err(|error| format!("{error:#}")),
        Command::Healthz(args) => {
            operator::healthz::execute(&args).map(|answer| println!("{answer}")).map_err(|error| format!("{error:#}"))
        }
        Command::Kubectl(cli) => operator::plugin::execute(cli).map_err(|error| format!("error: {error:#}")),
        Command::Local(args) => operator::local::execute(args).map_err(|error| format!("{error:#}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
