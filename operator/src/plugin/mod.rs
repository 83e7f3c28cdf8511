//! `kubectl rr …`: what a person asks of the datastores of a cluster.
//!
//! Everything goes through the API server, so it works from wherever kubectl does: objects are read and annotated there, and
//! the servers in the pods are reached by port-forward. It decides nothing and sends no orders to servers: a wish is an
//! annotation or a field of the `ReplicatedRedis`, and the operator does what it means.
//!
//! | file | what |
//! |---|---|
//! | `cluster.rs` | the API server, the pods, a conversation with the server in one |
//! | `status.rs` | what is there, live |
//! | `wishes.rs` | promote, restart, fence, unfence, pause, resume |
//! | `cli.rs` | commands of Redis to an instance |
//! | `logs.rs` | what the servers say |
//! | `report.rs`, `redact.rs` | everything that helps to find a fault, without secrets |

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod cli;
mod cluster;
mod logs;
mod redact;
mod report;
mod status;
mod wishes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use self::cluster::Cluster;

/// Looks after ReplicatedRedis datastores.
#[derive(Debug, Parser)]
#[command(name = "kubectl-rr", bin_name = "kubectl rr", version)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Where the datastore is; as kubectl says it.
#[derive(Debug, Args)]
struct Place {
    /// Namespace of the datastore; without it that of the context.
    #[arg(long, short, global = true)]
    namespace: Option<String>,
    /// Context of the kubeconfig; without it the current one.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The kubeconfig; without it $KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// Connect to the pods' own addresses instead of by port-forward. For use inside the cluster.
    #[arg(long, global = true)]
    direct: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Master, instances, links and lag, as the servers tell it now.
    Status {
        name: String,
        /// Goes on, once a second.
        #[arg(long, short)]
        watch: bool,
    },
    /// Makes a replica the master by a planned switchover; or ends the following of an external master.
    Promote {
        name: String,
        /// The next master; without it the most advanced replica.
        instance: Option<String>,
        /// Ends the following of an external master also when not everything that it has is here.
        #[arg(long)]
        now: bool,
        /// Seconds to wait for the result.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Restarts all instances, one after the other, the master last; or one of them.
    Restart { name: String, instance: Option<String> },
    /// Takes instances out of service: they serve nothing, their pods stay. The master role moves first, if it can.
    Fence {
        name: String,
        #[command(flatten)]
        which: Which,
    },
    /// Puts fenced instances back into service.
    Unfence {
        name: String,
        #[command(flatten)]
        which: Which,
    },
    /// The operator leaves objects, pods and settings alone; failover goes on.
    Pause { name: String },
    /// Ends a pause.
    Resume { name: String },
    /// What the servers say.
    Logs {
        name: String,
        /// One instance; without it all of them.
        instance: Option<String>,
        /// Goes on.
        #[arg(long, short)]
        follow: bool,
        /// Lines of each instance, from the end.
        #[arg(long, default_value_t = 100)]
        tail: i64,
    },
    /// Sends a command to an instance, or each line of the standard input.
    Cli {
        name: String,
        /// The instance; without it the master.
        #[arg(long, short)]
        instance: Option<String>,
        /// The command and its arguments, after --.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Writes a folder with objects, events, logs and figures: without passwords, values of Secrets or data.
    Report {
        name: String,
        /// The folder; without it NAME-report in the present one.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

/// One instance or all of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    instance: Option<String>,
    /// Every instance.
    #[arg(long)]
    all: bool,
}

/// Runs the plugin with the arguments of this process.
pub fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the plugin.
///
/// # Errors
/// A sentence for the person who called it.
pub fn execute(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(run(cli));
    // A thread that waits for a line of the standard input is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

async fn run(cli: Cli) -> Result<()> {
    let cluster = Cluster::open(cli.place).await?;
    match cli.command {
        Command::Status { name, watch } => status::status(&cluster, &name, watch).await,
        Command::Promote { name, instance, now, timeout } => {
            wishes::promote(&cluster, &name, instance, now, Duration::from_secs(timeout)).await
        }
        Command::Restart { name, instance: Some(instance) } => wishes::restart_one(&cluster, &name, &instance).await,
        Command::Restart { name, instance: None } => wishes::restart(&cluster, &name).await,
        Command::Fence { name, which } => wishes::fence(&cluster, &name, which.instance.as_deref(), true).await,
        Command::Unfence { name, which } => wishes::fence(&cluster, &name, which.instance.as_deref(), false).await,
        Command::Pause { name } => wishes::pause(&cluster, &name, true).await,
        Command::Resume { name } => wishes::pause(&cluster, &name, false).await,
        Command::Logs { name, instance, follow, tail } => {
            logs::logs(&cluster, &name, instance.as_deref(), follow, tail).await
        }
        Command::Cli { name, instance, command } => cli::cli(&cluster, &name, instance.as_deref(), command).await,
        Command::Report { name, output } => report::report(&cluster, &name, output).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_called_as_kubectl_is() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| (cli.place, cli.command));
        let (place, command) = parse("kubectl-rr promote cart cart-replica-0 -n shop --context prod").unwrap();
        assert_eq!((place.namespace.as_deref(), place.context.as_deref()), (Some("shop"), Some("prod")));
        assert!(matches!(command, Command::Promote { instance: Some(to), .. } if to == "cart-replica-0"));
        let (_, command) = parse("kubectl-rr cli cart -- SET a -1").unwrap();
        assert!(matches!(command, Command::Cli { command, .. } if command == ["SET", "a", "-1"]));
        assert!(parse("kubectl-rr fence cart").is_err(), "which one?");
        assert!(parse("kubectl-rr fence cart cart-replica-0 --all").is_err());
    }
}
