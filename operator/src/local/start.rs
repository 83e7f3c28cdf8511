//! The command line of local mode, and everything that is checked before the first process starts.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::control::{self, Question};
use super::files;
use super::record_store::DataDirLock;
use super::screen::LogFormat;
use super::session;
use super::session::{Listeners, Session, Settings};
use super::watch::ManifestFile;
use crate::api::{ReplicatedRedis, parse_manifest};
use crate::config;

/// `replicated-redis-operator local …`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct LocalArgs {
    #[command(subcommand)]
    order: Option<LocalOrder>,
    #[command(flatten)]
    run: RunArgs,
}

/// What can be asked of a running local operator from another terminal.
#[derive(Debug, Subcommand)]
enum LocalOrder {
    /// Print the instances of NAME with their roles.
    Status {
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Move the master role of NAME, with no write lost.
    Switchover {
        name: String,
        /// The instance that becomes master; without it the replica that has the most.
        #[arg(long, value_name = "INSTANCE")]
        to: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Let NAME go on although no instance holds its data any more. What was in it is given up.
    AllowDataLoss {
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Folder of the data of all datastores.
    #[arg(long, value_name = "DIR", default_value = "replicated-redis-data")]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The manifest: a ReplicatedRedis. It is read again whenever it changes.
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Port of the endpoint that leads to the master.
    #[arg(long, value_name = "PORT", default_value_t = 6379)]
    master_port: u16,
    /// Port of the endpoint that leads to the replicas.
    #[arg(long, value_name = "PORT", default_value_t = 6380)]
    replicas_port: u16,
    /// Port of the operator's /metrics; 0 turns metrics off, those of the servers too.
    #[arg(long, value_name = "PORT", default_value_t = 8090)]
    metrics_port: u16,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// The server's program; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    server_binary: Option<PathBuf>,
}

/// Runs the command. An error is one sentence for the person who gave it.
pub fn execute(args: LocalArgs) -> Result<()> {
    let ask = |name: &str, place: &Place, question: Question| {
        let answer = control::ask(&place.data_dir, name, &question)?;
        if answer.ok { Ok(writeln!(io::stdout(), "{}", answer.text)?) } else { Err(anyhow!(answer.text)) }
    };
    match args.order {
        Some(LocalOrder::Status { name, place }) => ask(&name, &place, Question::Status),
        Some(LocalOrder::Switchover { name, to, place }) => ask(&name, &place, Question::Switchover { to }),
        Some(LocalOrder::AllowDataLoss { name, place }) => ask(&name, &place, Question::AllowDataLoss),
        None => {
            // Two threads: the session on this one, the forwarders' bytes on the others.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(run(args.run))
        }
    }
}

async fn run(args: RunArgs) -> Result<()> {
    let path = args.manifest.context("a manifest is needed: -f FILE")?;
    let (file, content) =
        ManifestFile::open(&path).with_context(|| format!("cannot read the manifest {}", path.display()))?;
    let manifest = read_manifest(&content, &path)?;
    let program = server_binary(args.server_binary)?;
    let name = manifest.metadata.name.clone().context("the manifest has no metadata.name")?;
    let dir = prepare_dir(&args.place.data_dir, &name)?;
    let lock = DataDirLock::take(&dir, &name)?;
    let password = password(&dir)?;
    let listeners = Listeners {
        master: listen(args.master_port, "--master-port").await?,
        replicas: listen(args.replicas_port, "--replicas-port").await?,
        metrics: match args.metrics_port {
            0 => None,
            port => Some(listen(port, "--metrics-port").await?),
        },
    };
    // From here on a signal asks for an orderly end; before, there was nothing to end.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => "Ctrl-C",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    };
    let settings =
        Settings { name, dir, data_dir: args.place.data_dir, program, password, log_format: args.log_format };
    let session = Session::start(settings, manifest, file, listeners)?;
    Box::pin(session.run(stop)).await;
    drop(lock);
    Ok(())
}

/// Parses and checks a manifest; the error names the file and what is wrong.
pub(super) fn read_manifest(content: &str, path: &Path) -> Result<ReplicatedRedis> {
    let origin = path.display().to_string();
    let manifest = parse_manifest(content, &origin)?;
    if manifest.spec.bootstrap.is_some() {
        bail!("{origin}: spec.bootstrap: local mode begins empty; an external master is followed on Kubernetes only");
    }
    config::check_extra(&manifest.spec.config).with_context(|| origin)?;
    Ok(manifest)
}

/// The program given, or the one in the operator's own folder.
fn server_binary(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("replicated-redis-server"),
    };
    if !path.is_file() {
        bail!("the server's program {} is not there; build it, or say --server-binary PATH", path.display());
    }
    // Processes run in their own folders.
    path.canonicalize().with_context(|| format!("cannot use the server's program {}", path.display()))
}

/// Makes DATA_DIR/NAME, shows that it can be written to, and returns its absolute path.
fn prepare_dir(data_dir: &Path, name: &str) -> Result<PathBuf> {
    let dir = data_dir.join(name);
    let probe = dir.join(".writable");
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe))
        .and_then(|()| dir.canonicalize())
        .with_context(|| format!("cannot write to the data folder {} (--data-dir)", dir.display()))
}

/// The password: generated at the first start, afterwards what the file says.
fn password(dir: &Path) -> Result<String> {
    let path = session::password_file(dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let password = text.trim_end_matches(['\r', '\n']);
            if password.is_empty() || password.chars().any(char::is_control) {
                bail!("{} holds no usable password; remove it to have one generated", path.display());
            }
            Ok(password.to_string())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let password = files::random_hex::<16>();
            let folder = path.parent().context("the password's file lies in a folder")?;
            std::fs::create_dir_all(folder)
                .and_then(|()| files::replace_with_mode(&path, password.as_bytes(), 0o600))
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(password)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

async fn listen(port: u16, flag: &str) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("port {port} of 127.0.0.1 is taken; end what uses it, or choose another by {flag}")
        }
        _ => anyhow!("cannot listen on port {port} of 127.0.0.1 ({flag}): {error}"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_password_is_generated_once_and_only_the_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = password(dir.path()).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(password(dir.path()).unwrap(), first);
        let path = dir.path().join("auth/password");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "my own\n").unwrap();
        assert_eq!(password(dir.path()).unwrap(), "my own");
        std::fs::write(&path, "\n").unwrap();
        assert!(password(dir.path()).unwrap_err().to_string().contains("auth/password holds no usable password"));
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_flag() {
        let squatter = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = squatter.local_addr().unwrap().port();
        let error = listen(port, "--replicas-port").await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("port {port} of 127.0.0.1 is taken")), "{error}");
        assert!(error.ends_with("--replicas-port"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = format!("{:#}", prepare_dir(&dir.path().join("file/below"), "x").unwrap_err());
        assert!(error.starts_with("cannot write to the data folder ") && error.contains("file/below/x"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = server_binary(Some("/nowhere/server".into())).unwrap_err().to_string();
        assert!(error.starts_with("the server's program /nowhere/server is not there"), "{error}");
    }
}
