//! A stable address for a moving target: what a Service is in the cluster.
//!
//! One [`Forwarder`] listens on one port and joins each connection with one of its present [`Targets`]. A connection
//! that arrives while there is no target waits for one, for a bounded time, and is then refused with a Redis error that
//! says why. When a target is no longer allowed (the master role has moved), its connections are closed: a client must
//! never go on talking to a former master without noticing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Connections that one endpoint carries at the same time; those beyond it wait in the listen queue.
const CONNECTIONS_MAX: usize = 10_000;
/// Per connection and direction. Large enough for a pipeline, small enough for ten thousand connections.
const COPY_BUFFER_BYTES: usize = 16 * 1024;
/// A server of this machine accepts at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// Pause before another attempt when a target refuses although it is still listed.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Where connections may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// New connections go to one of these.
    pub accepting: Vec<SocketAddr>,
    /// Connections to these may live on although no new ones are made (a replica that has lost its link for a moment).
    pub draining: Vec<SocketAddr>,
}

impl Targets {
    /// The targets of an endpoint that stands for a single server, or for none.
    pub fn one(target: Option<SocketAddr>) -> Targets {
        Targets { accepting: target.into_iter().collect(), draining: Vec::new() }
    }

    fn allows(&self, address: &SocketAddr) -> bool {
        self.accepting.contains(address) || self.draining.contains(address)
    }
}

/// How one endpoint behaves.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// How long a new connection waits for a target.
    pub wait: Duration,
    /// The error, without the leading `-`, that a connection gets after that.
    pub refusal: String,
}

/// A listening endpoint. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    targets: watch::Sender<Targets>,
    open: Arc<OpenConnections>,
    task: JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarder {
    /// Starts to serve `listener`, at first without a target.
    pub fn start(listener: TcpListener, endpoint: Endpoint) -> std::io::Result<Forwarder> {
        let address = listener.local_addr()?;
        let (targets, seen) = watch::channel(Targets::default());
        let open = Arc::new(OpenConnections::default());
        let task = tokio::spawn(accept_loop(listener, endpoint, seen, Arc::clone(&open)));
        Ok(Forwarder { address, targets, open, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the targets; says whether that was a change.
    pub fn set_targets(&self, targets: Targets) -> bool {
        self.targets.send_if_modified(|now| {
            let changed = *now != targets;
            *now = targets;
            changed
        })
    }

    /// Connections that are joined with a target now.
    pub fn connections(&self) -> usize {
        self.open.total()
    }
}

async fn accept_loop(
    listener: TcpListener,
    endpoint: Endpoint,
    targets: watch::Receiver<Targets>,
    open: Arc<OpenConnections>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Owns the connections: when this task is aborted, the set is dropped and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let (endpoint, targets, open) = (endpoint.clone(), targets.clone(), Arc::clone(&open));
                    connections.spawn(async move {
                        serve(client, &endpoint, targets, &open).await;
                        drop(permit);
                    });
                }
                // Out of descriptors, or the peer left before it was accepted: both pass.
                Err(_) => sleep(RETRY_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One client: find a target, join, part when either side or the target's permission ends.
async fn serve(
    mut client: TcpStream,
    endpoint: &Endpoint,
    mut targets: watch::Receiver<Targets>,
    open: &OpenConnections,
) {
    let Some((mut server, seat)) = find_target(endpoint, &mut targets, open).await else {
        // The client may have left meanwhile; then nobody reads the refusal.
        let _ = client.write_all(format!("-{}\r\n", endpoint.refusal).as_bytes()).await;
        let _ = client.shutdown().await;
        return;
    };
    // Without this a request that fits no full packet waits for the acknowledgement of the one before it.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    tokio::select! {
        // Ends when both directions have ended: a half-closed connection goes on in the other direction.
        _ = copy_bidirectional_with_sizes(&mut client, &mut server, COPY_BUFFER_BYTES, COPY_BUFFER_BYTES) => {}
        _ = targets.wait_for(|now| !now.allows(&seat.address)) => {}
    }
}

async fn find_target<'a>(
    endpoint: &Endpoint,
    targets: &mut watch::Receiver<Targets>,
    open: &'a OpenConnections,
) -> Option<(TcpStream, Seat<'a>)> {
    let deadline = Instant::now() + endpoint.wait;
    loop {
        let accepting =
            timeout_at(deadline, targets.wait_for(|now| !now.accepting.is_empty())).await.ok()?.ok()?.accepting.clone();
        let seat = open.take_least_loaded(&accepting)?;
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(seat.address)).await {
            Ok(Ok(server)) => return Some((server, seat)),
            // It has ended, and the list does not say so yet: wait for another list, or try again soon.
            Ok(Err(_)) | Err(_) => {
                drop(seat);
                if Instant::now() >= deadline {
                    return None;
                }
                let _ = timeout(RETRY_PAUSE, targets.changed()).await;
            }
        }
    }
}

/// How many connections each target has, and whose turn it is among equals.
#[derive(Debug, Default)]
struct OpenConnections {
    state: Mutex<Loads>,
}

#[derive(Debug, Default)]
struct Loads {
    by_address: BTreeMap<SocketAddr, usize>,
    turn: usize,
}

/// A counted connection to `address`.
#[derive(Debug)]
struct Seat<'a> {
    address: SocketAddr,
    open: &'a OpenConnections,
}

impl OpenConnections {
    /// The address with the fewest connections; equal ones take turns.
    fn take_least_loaded(&self, among: &[SocketAddr]) -> Option<Seat<'_>> {
        let mut state = self.state.lock();
        let least = |address: &SocketAddr| state.by_address.get(address).copied().unwrap_or(0);
        let fewest = among.iter().map(least).min()?;
        let equal: Vec<SocketAddr> = among.iter().filter(|address| least(address) == fewest).copied().collect();
        let address = equal[state.turn % equal.len()];
        state.turn = state.turn.wrapping_add(1);
        *state.by_address.entry(address).or_default() += 1;
        Some(Seat { address, open: self })
    }

    fn total(&self) -> usize {
        self.state.lock().by_address.values().sum()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.open.state.lock();
        let count = state.by_address.get_mut(&self.address).expect("a seat was counted when it was taken");
        *count -= 1;
        if *count == 0 {
            state.by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server that says its name to each connection and then echoes; at the end of the input it says "bye".
    async fn named_echo(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    stream.write_all(name.as_bytes()).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                        let _ = write.write_all(b"bye").await;
                    }
                });
            }
        });
        address
    }

    async fn forwarder(wait: Duration) -> Forwarder {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Forwarder::start(listener, Endpoint { wait, refusal: "MASTERDOWN no master now".to_string() }).unwrap()
    }

    async fn read_exact(stream: &mut TcpStream, len: usize) -> String {
        let mut buffer = vec![0; len];
        stream.read_exact(&mut buffer).await.unwrap();
        String::from_utf8(buffer).unwrap()
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut buffer = String::new();
        // A connection that is closed from here may show as a reset as well as an end.
        let _ = timeout(Duration::from_secs(10), stream.read_to_string(&mut buffer)).await.unwrap();
        buffer
    }

    #[tokio::test]
    async fn a_half_closed_connection_still_gets_its_answer() {
        let forwarder = forwarder(Duration::from_secs(10)).await;
        forwarder.set_targets(Targets::one(Some(named_echo("a").await)));
        let mut client = TcpStream::connect(forwarder.address()).await.unwrap();
        let big = "x".repeat(300_000);
        let (mut read, mut write) = client.split();
        let (_, got) = tokio::join!(
            async {
                write.write_all(big.as_bytes()).await.unwrap();
                write.shutdown().await.unwrap();
            },
            async {
                let mut got = String::new();
                read.read_to_string(&mut got).await.unwrap();
                got
            }
        );
        assert_eq!(got, format!("a{big}bye"));
    }

    #[tokio::test]
    async fn connections_of_a_former_master_are_closed_and_new_ones_reach_the_new() {
        let forwarder = forwarder(Duration::from_secs(10)).await;
        let (a, b) = (named_echo("a").await, named_echo("b").await);
        assert!(forwarder.set_targets(Targets::one(Some(a))));
        assert!(!forwarder.set_targets(Targets::one(Some(a))), "the same again is no change");
        let mut old = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(read_exact(&mut old, 1).await, "a");

        forwarder.set_targets(Targets::one(Some(b)));
        assert_eq!(rest(&mut old).await, "");
        let mut new = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(read_exact(&mut new, 1).await, "b");
    }

    #[tokio::test]
    async fn a_connection_waits_for_a_master() {
        let forwarder = forwarder(Duration::from_secs(20)).await;
        // Listed but already gone, as a master that was just killed.
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut first = TcpStream::connect(forwarder.address()).await.unwrap();
        forwarder.set_targets(Targets::one(Some(gone)));
        let mut second = TcpStream::connect(forwarder.address()).await.unwrap();
        tokio::task::yield_now().await;
        forwarder.set_targets(Targets::one(Some(named_echo("b").await)));
        assert_eq!(read_exact(&mut first, 1).await, "b");
        assert_eq!(read_exact(&mut second, 1).await, "b");
    }

    #[tokio::test]
    async fn after_the_wait_the_refusal_says_why() {
        let forwarder = forwarder(Duration::from_millis(30)).await;
        let mut client = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(rest(&mut client).await, "-MASTERDOWN no master now\r\n");
    }

    #[tokio::test]
    async fn connections_spread_over_the_least_loaded() {
        let forwarder = forwarder(Duration::from_secs(10)).await;
        let (a, b) = (named_echo("a").await, named_echo("b").await);
        forwarder.set_targets(Targets { accepting: vec![a, b], draining: vec![] });
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut client = TcpStream::connect(forwarder.address()).await.unwrap();
            let name = read_exact(&mut client, 1).await;
            clients.push((name, client));
        }
        assert_eq!(clients.iter().filter(|(name, _)| name == "a").count(), 3);
        assert_eq!(forwarder.connections(), 6);

        // All of b's connections leave; the next three must go there.
        clients.retain(|(name, _)| name == "a");
        timeout(Duration::from_secs(10), async {
            while forwarder.connections() != 3 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        for _ in 0..3 {
            let mut client = TcpStream::connect(forwarder.address()).await.unwrap();
            assert_eq!(read_exact(&mut client, 1).await, "b");
            clients.push(("b".to_string(), client));
        }
    }

    #[tokio::test]
    async fn a_draining_target_keeps_its_connections_and_gets_no_new_ones() {
        let forwarder = forwarder(Duration::from_secs(10)).await;
        let (a, b) = (named_echo("a").await, named_echo("b").await);
        forwarder.set_targets(Targets { accepting: vec![a], draining: vec![] });
        let mut old = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(read_exact(&mut old, 1).await, "a");
        forwarder.set_targets(Targets { accepting: vec![b], draining: vec![a] });
        let mut new = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(read_exact(&mut new, 1).await, "b");
        old.write_all(b"still").await.unwrap();
        assert_eq!(read_exact(&mut old, 5).await, "still");
    }

    #[tokio::test]
    async fn a_dropped_forwarder_frees_its_port_and_connections() {
        let forwarder = forwarder(Duration::from_secs(10)).await;
        forwarder.set_targets(Targets::one(Some(named_echo("a").await)));
        let address = forwarder.address();
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(read_exact(&mut client, 1).await, "a");
        drop(forwarder);
        assert_eq!(rest(&mut client).await, "");
        timeout(Duration::from_secs(10), async {
            while TcpListener::bind(address).await.is_err() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }
}
