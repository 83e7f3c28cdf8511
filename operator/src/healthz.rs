//! Asks a running operator whether it is well, as `helm test` does from a pod that has no other program.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

/// One attempt.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);
/// More than /healthz ever says.
const ANSWER_BYTES_MAX: u64 = 4096;

/// `replicated-redis-operator healthz …`
#[derive(Debug, Args)]
pub struct HealthzArgs {
    /// Where the operator serves /metrics and /healthz.
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// Seconds for which an operator that does not answer is asked again.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    within: u64,
}

/// Succeeds when it answers that it is well. An error is one sentence with the last reason.
pub fn execute(args: &HealthzArgs) -> Result<String> {
    let end = Instant::now() + Duration::from_secs(args.within);
    loop {
        match ask(&args.address) {
            Ok(()) => return Ok(format!("the operator at {} is well", args.address)),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn ask(address: &str) -> Result<()> {
    let asking = || format!("the operator at {address} does not answer");
    let target = address.to_socket_addrs().with_context(|| format!("{address} is not known"))?.next();
    let target = target.with_context(|| format!("{address} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).with_context(asking)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(asking)?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(asking)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).with_context(asking)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_string();
    bail!("the operator at {address} is not well: {first}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, MetricsServer};

    fn asked(address: String) -> Result<String> {
        execute(&HealthzArgs { address, within: 0 })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_running_operator_is_well_and_others_are_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = MetricsServer::start(listener, Metrics::new("kubernetes")).unwrap();
        let address = server.address().to_string();
        let answer = tokio::task::spawn_blocking(move || asked(address)).await.unwrap();
        assert!(answer.unwrap().ends_with("is well"));

        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            let _ = stream.read(&mut [0; 512]);
            stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\n\r\n").unwrap();
        });
        let unwell = asked(address).unwrap_err().to_string();
        assert!(unwell.contains("500 Internal Server Error"), "{unwell}");
        assert!(asked("no-such-host.invalid:1".into()).is_err());
    }
}
