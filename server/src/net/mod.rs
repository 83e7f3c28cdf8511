//! Workers and connections: a command runs on the thread that read it.
//!
//! Each worker is an OS thread with a current-thread runtime. One of them accepts and hands the sockets round. A
//! connection reads what there is, parses all whole requests, prefetches their keys, runs them, and writes all replies
//! at once.

mod listen;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replication::Ask;
use resp::{Args, OwnedArgs, Request, RequestLimits, RequestParser, Span};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use crate::clients::Client;
use crate::clock;
use crate::config::{OutputLimit, Settings};
use crate::dispatch::{Batch, Next, Origin, Session, execute};
use crate::repl;
use crate::state::Server;

pub use listen::{Listening, Opened};

/// Requests of one pipeline whose keys are prefetched together.
const BATCH: usize = 64;
const READ: usize = 16 * 1024;
/// A buffer larger than this is given back when it is empty.
const KEEP: usize = 64 * 1024;

/// A socket on its way to its worker.
#[derive(Debug)]
pub enum Incoming {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Starts the workers; the first one also accepts and keeps the server's clock. Returns their threads.
pub fn start(server: &Arc<Server>, listeners: Opened) -> io::Result<Vec<std::thread::JoinHandle<()>>> {
    let mut senders = Vec::new();
    let mut threads = Vec::new();
    for number in 0..server.workers {
        let (sender, receiver) = mpsc::channel::<Incoming>(1024);
        senders.push(sender);
        let server = Arc::clone(server);
        threads.push(
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || worker(&server, receiver))?,
        );
    }
    let shared = Arc::clone(server);
    threads.push(std::thread::Builder::new().name("acceptor".into()).spawn(move || {
        run_local(async move {
            spawn_local(listen::accept(Arc::clone(&shared), listeners, senders));
            spawn_local(repl::run_failovers(Arc::clone(&shared)));
            crate::cron::run(&shared).await;
        });
    })?);
    let shared = Arc::clone(server);
    threads.push(
        std::thread::Builder::new().name("replica-link".into()).spawn(move || run_local(repl::run_link(shared)))?,
    );
    Ok(threads)
}

fn run_local(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives an event queue");
    LocalSet::new().block_on(&runtime, future);
}

fn worker(server: &Arc<Server>, mut incoming: mpsc::Receiver<Incoming>) {
    run_local(async move {
        while let Some(socket) = incoming.recv().await {
            let server = Arc::clone(server);
            match socket {
                Incoming::Tcp(stream) => {
                    let name = |a: io::Result<SocketAddr>| a.map(|a| a.to_string()).unwrap_or_default();
                    let (peer, local) = (name(stream.peer_addr()), name(stream.local_addr()));
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        spawn_local(connection(server, stream, peer, local));
                    }
                }
                Incoming::Unix(stream) => {
                    let path = server.settings().unixsocket.clone();
                    if let Ok(stream) = UnixStream::from_std(stream) {
                        spawn_local(connection(server, stream, format!("{path}:0"), format!("{path}:0")));
                    }
                }
            }
        }
    });
}

async fn connection<S>(server: Arc<Server>, stream: S, peer: String, local: String)
where
    S: AsyncRead + AsyncWrite + AsRawFd + Unpin,
{
    server.stats.connections.fetch_add(1, Ordering::Relaxed);
    let client = server.clients.add(peer, local, stream.as_raw_fd());
    let open = server.users.is_open();
    let mut connection = Connection {
        session: Session::new(client, Origin::Client, open),
        server,
        stream,
        input: Vec::with_capacity(READ),
        parser: RequestParser::default(),
        frames: Vec::new(),
        spans: Vec::new(),
        hashes: Vec::new(),
    };
    let after = connection.serve().await;
    connection.session.unwatch(&connection.server);
    let Connection { server, session, stream, .. } = connection;
    if let Ok(Some(ask)) = after {
        repl::run_feed(Arc::clone(&server), &session, stream, ask).await;
    }
    server.clients.remove(session.client.id);
}

/// One request in the input: where it starts, how long it is, and which spans are its arguments.
struct Frame {
    start: usize,
    len: usize,
    spans: (usize, usize),
    inline: Option<OwnedArgs>,
}

struct Connection<S> {
    server: Arc<Server>,
    stream: S,
    session: Session,
    input: Vec<u8>,
    parser: RequestParser,
    frames: Vec<Frame>,
    spans: Vec<Span>,
    hashes: Vec<u64>,
}

/// What a pipeline ended with.
enum Batched {
    Continue,
    Close,
    Psync(Ask),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Until the connection ends or becomes a feed.
    async fn serve(&mut self) -> io::Result<Option<Ask>> {
        loop {
            let settings = self.server.settings();
            if self.session.client.killed.load(Ordering::Acquire) {
                return Ok(None);
            }
            let wake = self.session.client.wake.notified();
            let read = self.stream.read_buf(&mut self.input);
            let n = tokio::select! {
                biased;
                n = read => n?,
                () = wake => continue,
                () = idle(settings.timeout) => return Ok(None),
            };
            // What a client sends after it was killed is not run, even if it came together with that.
            if n == 0 || self.session.client.killed.load(Ordering::Acquire) {
                return Ok(None);
            }
            self.server.stats.input_bytes.fetch_add(n as u64, Ordering::Relaxed);
            let settings = self.server.settings();
            let mut start = 0;
            loop {
                let (consumed, broken) = self.parse(start, &settings);
                if self.frames.is_empty() && broken.is_none() {
                    break;
                }
                let end = self.run(&settings).await?;
                start += consumed;
                if let Some(error) = broken {
                    self.session.out.error(&format!("ERR {error}"));
                    self.flush().await?;
                    return Ok(None);
                }
                match end {
                    Batched::Continue => {}
                    Batched::Close => return Ok(None),
                    Batched::Psync(ask) => return Ok(Some(ask)),
                }
            }
            self.input.drain(..start);
            if self.input.is_empty() && self.input.capacity() > KEEP {
                self.input = Vec::with_capacity(READ);
                self.spans = Vec::new();
                self.parser.give_back();
            }
            let want = self.parser.bytes_wanted(self.input.len()).clamp(READ, 1 << 20);
            self.input.reserve(want);
            if self.input.len() as u64 > settings.client_query_buffer_limit.0 {
                return Ok(None);
            }
        }
    }

    /// Parses up to a batch of requests from `start` on; returns the bytes that they take, and what is no request.
    fn parse(&mut self, start: usize, settings: &Settings) -> (usize, Option<resp::ProtocolError>) {
        self.frames.clear();
        self.spans.clear();
        let limits = if self.session.authenticated {
            RequestLimits { bulk_len_max: settings.proto_max_bulk_len.0 as usize, ..RequestLimits::default() }
        } else {
            RequestLimits::UNAUTHENTICATED
        };
        let mut at = start;
        while self.frames.len() < BATCH {
            match self.parser.parse(&self.input[at..], &limits) {
                Ok(None) => break,
                Ok(Some(Request::Multibulk { len })) => {
                    let from = self.spans.len();
                    if len > 4 {
                        self.spans.extend_from_slice(self.parser.spans());
                    }
                    self.frames.push(Frame { start: at, len, spans: (from, self.spans.len()), inline: None });
                    at += len;
                }
                Ok(Some(Request::Inline { len, args })) => {
                    self.frames.push(Frame { start: at, len, spans: (0, 0), inline: Some(args) });
                    at += len;
                }
                Err(error) => return (at - start, Some(error)),
            }
        }
        (at - start, None)
    }

    /// Hashes the first arguments and brings closer what the batch is going to touch.
    fn prefetch(&mut self) {
        self.hashes.clear();
        let keyspace = &self.server.keyspace;
        let args = |frame: &Frame| Args::new(&self.input[frame.start..], &self.spans[frame.spans.0..frame.spans.1]);
        self.hashes.extend(self.frames.iter().map(|frame| args(frame).get(1).map_or(0, |key| keyspace.hash(key))));
        if self.frames.len() > 1 {
            keyspace.prefetch(self.session.db, &self.hashes, |i| args(&self.frames[i]));
        }
    }

    /// Runs the parsed requests and sends their replies.
    async fn run(&mut self, settings: &Settings) -> io::Result<Batched> {
        self.prefetch();
        let mut end = Batched::Continue;
        let mut at = 0;
        while at < self.frames.len() {
            match self.run_some(&mut at, settings) {
                Next::Continue | Next::SkipReply => {}
                Next::Paused => self.pause_over().await?,
                Next::Close => {
                    end = Batched::Close;
                    break;
                }
                Next::Psync(ask) => {
                    end = Batched::Psync(ask);
                    break;
                }
                Next::OverLimit => {
                    self.over_limit();
                    end = Batched::Close;
                    self.session.out.truncate(0);
                    break;
                }
                Next::Shutdown { failures } => self.shutdown_failed(failures).await?,
                Next::Wait { replicas, offset, timeout_ms } => match self.wait(replicas, offset, timeout_ms).await? {
                    Some(n) => self.session.out.len_int(n),
                    None => self.session.out.error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
                },
            }
        }
        self.server.stats.commands.fetch_add(at as u64, Ordering::Relaxed);
        self.server.repl.wake_feeds();
        self.gate().await?;
        others_first().await;
        self.flush().await?;
        Ok(end)
    }

    /// Runs requests from `at` on, up to one after which the connection has something to do; `at` is then behind it, or at
    /// it if it must be run again.
    fn run_some(&mut self, at: &mut usize, settings: &Settings) -> Next {
        let mut batch = Batch::new(&self.server, settings);
        let mut next = Next::Continue;
        let hard = settings.client_output_buffer_limit.normal.hard;
        let client = &self.session.client;
        client.input.store(self.input.len() - self.frames.first().map_or(0, |f| f.start), Ordering::Relaxed);
        client.input_free.store(self.input.capacity() - self.input.len(), Ordering::Relaxed);
        while let (Next::Continue, Some(frame)) = (&next, self.frames.get(*at)) {
            let bytes = &self.input[frame.start..frame.start + frame.len];
            let (args, raw) = match &frame.inline {
                Some(args) => (args.as_args(), None),
                None => (Args::new(bytes, &self.spans[frame.spans.0..frame.spans.1]), Some(bytes)),
            };
            if !args.is_empty() {
                let hash = raw.is_some().then(|| self.hashes[*at]);
                next = execute(&mut batch, &mut self.session, args, raw, hash);
            }
            if hard > 0 && self.session.out.len() as u64 > hard {
                next = Next::OverLimit;
            }
            *at += usize::from(!matches!(next, Next::Paused));
        }
        let client = &self.session.client;
        client.last_ms.store(batch.unix_ms(), Ordering::Relaxed);
        client.last.store(self.session.last, Ordering::Relaxed);
        client.input.store(0, Ordering::Relaxed);
        batch.end(&mut self.session);
        next
    }

    /// Holds the replies of a write until its quorum has it, and until the master that ran it is known to have been
    /// one when it did (FAILOVER R3, R4).
    async fn gate(&mut self) -> io::Result<()> {
        let repl = &self.server.repl;
        if !repl.managed || self.session.write_offset == 0 {
            return Ok(());
        }
        let offset = std::mem::take(&mut self.session.write_offset);
        let quorum = repl.quorum();
        if quorum > 0 {
            loop {
                let acked = repl.acked.notified();
                if repl.members_holding(offset) >= quorum {
                    break;
                }
                if repl.is_replica() || self.session.client.killed.load(Ordering::Acquire) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                let _ = tokio::time::timeout(Duration::from_millis(100), acked).await;
            }
        }
        // A lease that ran out while the command ran: its reply must not go out. (A pause for a handover is no end.)
        if !repl.leads(clock::monotonic_ms()) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let out = self.session.out.buffer_mut();
        if !out.is_empty() {
            self.server.stats.output_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
            // What fits into a socket's buffer is taken in any case.
            let soft = if out.len() > READ {
                self.server.settings().client_output_buffer_limit.normal
            } else {
                OutputLimit::default()
            };
            let waits = if soft.soft > 0 && out.len() as u64 > soft.soft && soft.seconds > 0 {
                Duration::from_secs(soft.seconds)
            } else {
                Duration::MAX
            };
            self.session.client.output.store(out.len(), Ordering::Relaxed);
            let sent = async {
                self.stream.write_all(out).await?;
                self.stream.flush().await
            };
            // Above the soft limit a client has its time to take what was asked for.
            let sent = if waits == Duration::MAX { Ok(sent.await) } else { tokio::time::timeout(waits, sent).await };
            self.session.client.output.store(0, Ordering::Relaxed);
            let out = self.session.out.buffer_mut();
            match sent {
                Ok(sent) => sent?,
                Err(_) => {
                    self.over_limit();
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            out.clear();
            if out.capacity() > KEEP {
                *out = Vec::new();
            }
        }
        Ok(())
    }

    /// The client does not read what it asked for: `client-output-buffer-limit`.
    fn over_limit(&self) {
        self.server.stats.output_limit_disconnections.fetch_add(1, Ordering::Relaxed);
        let line = self.session.client.line();
        tracing::warn!("Client {line} closed for overcoming of output buffer limits.");
    }

    /// Waits until CLIENT PAUSE is over. What has been answered goes out first.
    async fn pause_over(&mut self) -> io::Result<()> {
        self.flush().await?;
        let _blocked = Blocked::new(&self.server, &self.session.client);
        let changed = self.server.pause.changed.notified();
        let _ = tokio::time::timeout(Duration::from_millis(20), changed).await;
        if self.session.client.killed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Until the process has ended, or cannot end.
    async fn shutdown_failed(&mut self, failures: u64) -> io::Result<()> {
        self.flush().await?;
        let blocked = Blocked::new(&self.server, &self.session.client);
        let shutdown = &self.server.shutdown;
        loop {
            let failed = shutdown.failed.notified();
            if shutdown.failures.load(Ordering::Acquire) != failures {
                break;
            }
            tokio::select! {
                () = failed => {}
                () = self.session.client.wake.notified() => {}
            }
            if self.session.client.killed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        drop(blocked);
        self.session.out.error("ERR Errors trying to SHUTDOWN. Check logs.");
        Ok(())
    }

    async fn wait(&mut self, replicas: usize, offset: u64, timeout_ms: u64) -> io::Result<Option<usize>> {
        self.flush().await?;
        let server = Arc::clone(&self.server);
        let client = Arc::clone(&self.session.client);
        let _blocked = Blocked::new(&server, &client);
        let begun = clock::monotonic_ms();
        if server.repl.holding(offset) < replicas {
            server.repl.append_getack();
        }
        loop {
            let acked = server.repl.acked.notified();
            let n = server.repl.holding(offset);
            let over = timeout_ms > 0 && clock::monotonic_ms() - begun >= timeout_ms;
            if n >= replicas || over || server.repl.is_replica() {
                return Ok(Some(n));
            }
            match client.unblock.swap(0, Ordering::AcqRel) {
                0 => {}
                1 => return Ok(Some(n)),
                _ => return Ok(None),
            }
            if self.session.client.killed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let left = if timeout_ms == 0 { 100 } else { (begun + timeout_ms).saturating_sub(clock::monotonic_ms()) };
            tokio::select! {
                _ = tokio::time::timeout(Duration::from_millis(left.clamp(1, 100)), acked) => {}
                () = client.wake.notified() => {}
            }
        }
    }
}

/// A client that waits, as INFO and CLIENT LIST show it.
struct Blocked<'a> {
    server: &'a Server,
    client: &'a Client,
}

impl<'a> Blocked<'a> {
    fn new(server: &'a Server, client: &'a Client) -> Self {
        server.stats.blocked.fetch_add(1, Ordering::Relaxed);
        client.blocked.store(true, Ordering::Release);
        Self { server, client }
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.server.stats.blocked.fetch_sub(1, Ordering::Relaxed);
        self.client.blocked.store(false, Ordering::Release);
    }
}

/// Lets the other connections that have something to read go first: replies that leave together wake their clients once.
async fn others_first() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Ends after the idle time-out; never for 0.
async fn idle(seconds: i64) {
    match seconds {
        0 => std::future::pending().await,
        n => tokio::time::sleep(Duration::from_secs(n as u64)).await,
    }
}
