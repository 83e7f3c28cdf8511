//! `replicated-redis-server [redis.conf] [--directive value …]`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use server::config;
use server::state::Server;
use server::{clock, descriptors, http, logging, net, persistence, repl, shutdown, supervise};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "Usage: replicated-redis-server [/path/to/redis.conf] [--directive value ...]\n       \
    replicated-redis-server -v or --version\n       replicated-redis-server -h or --help\n";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "before logging is set up, and where Redis's tools look")]
fn main() -> ExitCode {
    clock::uptime();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("-v" | "--version") => {
            println!("ReplicatedRedis server v={} (Redis {})", env!("CARGO_PKG_VERSION"), server::REDIS_VERSION);
            return ExitCode::SUCCESS;
        }
        Some("-h" | "--help") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let (mut settings, file) = config::read_settings(args).map_err(|e| e.to_string())?;
    // A service manager watches the process that it started.
    if settings.daemonize && settings.supervised == config::Supervised::No {
        daemonize()?;
    }
    let logfile = (!settings.logfile.is_empty()).then(|| settings.in_dir(&settings.logfile));
    logging::start(settings.loglevel, logfile.as_deref()).map_err(|e| format!("Can't open the log file: {e}"))?;
    let pid = std::process::id();
    tracing::info!(
        "ReplicatedRedis {} is starting: compatible with Redis {}, PID: {pid}",
        env!("CARGO_PKG_VERSION"),
        server::REDIS_VERSION
    );
    tracing::info!("Running mode=standalone, port={}. PID: {pid}", settings.port);
    let hints = settings.hints_set();
    if !hints.is_empty() {
        tracing::warn!("Kept and shown, but nothing comes of them in this server: {}", hints.join(", "));
    }
    if let Err(room) = descriptors::allow(settings.maxclients as u64) {
        let room = i64::try_from(room).unwrap_or(i64::MAX).max(1);
        tracing::warn!(
            "maxclients is {room} instead of {}: the limit of open files is too low (ulimit -n)",
            settings.maxclients
        );
        settings.maxclients = room;
    }
    if settings.managed && settings.repl_diskless_load != config::DisklessLoad::Disabled {
        tracing::warn!("repl-diskless-load is not for managed instances: they receive a full resync on their disk");
    }
    let (listening, opened) = net::Listening::open(&settings)?;
    // Where they are now: `dir` may change.
    let path = |name: &String| (!name.is_empty()).then(|| settings.in_dir(name));
    let (pidfile, socket) = (path(&settings.pidfile), path(&settings.unixsocket));
    if let Some(pidfile) = &pidfile {
        std::fs::write(pidfile, format!("{pid}\n")).map_err(|e| format!("Can't write the pidfile: {e}"))?;
    }
    let own_files: Vec<PathBuf> = pidfile.into_iter().chain(socket).collect();
    let replicaof = settings.replicaof.0.clone();
    let managed = settings.managed;
    let server = Server::new(settings, file, listening)?.share();
    tracing::info!("Server initialized");
    http::start(&server)?;
    persistence::load_at_start(&server)?;
    if let (Some((host, port)), false) = (replicaof, managed) {
        server.repl.follow(repl::Target::unmanaged(host, port));
    }
    net::start(&server, opened).map_err(|e| format!("Can't start the workers: {e}"))?;
    tracing::info!("Ready to accept connections tcp");
    supervise::notify(&server.settings(), "READY=1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let saved = runtime.block_on(shutdown::wait(&server)).map_err(|e| format!("Can't listen to signals: {e}"))?;
    end(&server, saved, &own_files)
}

/// The process is ended from here only.
fn end(server: &Arc<Server>, saved: bool, own_files: &[PathBuf]) -> Result<(), String> {
    supervise::notify(&server.settings(), "STOPPING=1");
    repl::store_at_shutdown(server, saved);
    own_files.iter().for_each(|path| _ = std::fs::remove_file(path));
    tracing::warn!("ReplicatedRedis is now ready to exit, bye bye...");
    // The workers hold nothing that needs to be put in order.
    std::process::exit(0)
}

/// Goes into the background by starting itself again without a terminal, as a session of its own.
fn daemonize() -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(own);
    command.args(std::env::args().skip(1)).args(["--daemonize", "no"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map_err(|e| format!("Can't go into the background: {e}"))?;
    std::process::exit(0)
}
