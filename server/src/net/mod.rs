//! Workers and connections: a command runs on the thread that read it.
//!
//! Each worker is an OS thread that waits for its sockets ([`events`]) and polls its connections ([`tasks`]); one more thread
//! accepts and hands the sockets round. A connection reads what there is and parses all whole requests; what all connections
//! of a worker have read is run together ([`round`]); then each writes all its replies at once. As few workers serve as do
//! ([`spread`]): a connection may move.

mod events;
mod listen;
mod round;
mod spread;
mod stream;
mod tasks;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use replication::Ask;
use resp::{Request, RequestLimits, RequestParser};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::clients::Client;
use crate::clock;
use crate::config::{OutputLimit, Settings};
use crate::dispatch::{Next, Origin, Session};
use crate::repl;
use crate::state::Server;
use crate::timers;

use round::{Round, Turn, Work};
use stream::{ClientSocket, Stream};
use tasks::{Passes, Tasks};

pub(crate) use listen::bind_all;
pub use listen::{Listening, Opened};
pub use spread::Spread;
pub(crate) use spread::Watch;

/// Requests of one connection in one round, at most.
const BATCH: usize = 64;
const READ: usize = 16 * 1024;
/// A buffer larger than this is given back when it is empty.
const KEEP: usize = 64 * 1024;

const NO_EVENT_QUEUE: &str = "the operating system gives an event queue";

/// A connection on its way to its worker.
#[derive(Debug)]
struct Incoming {
    seat: u32,
    socket: ClientSocket,
    /// It comes from another worker.
    begun: Option<Box<Begun>>,
}

/// A connection that is served, without its socket.
#[derive(Debug)]
struct Begun {
    client: Arc<Client>,
    parser: RequestParser,
    work: Work,
}

impl Begun {
    fn new(server: &Server, socket: &ClientSocket) -> Box<Self> {
        server.stats.connections.fetch_add(1, Ordering::Relaxed);
        let (peer, local) = socket.addresses(&server.settings());
        let client = server.clients.add(peer, local, socket.as_fd().as_raw_fd());
        let session = Session::new(Arc::clone(&client), Origin::Client, server.users.is_open());
        Box::new(Self { client, parser: RequestParser::default(), work: Work::new(session, Vec::with_capacity(READ)) })
    }

    fn end(mut self, server: &Server) {
        self.work.session.unwatch(server);
        server.clients.remove(self.client.id);
    }
}

/// Connections on their way to each worker.
type Senders = Arc<[mpsc::Sender<Incoming>]>;

/// Starts the workers; one more thread accepts and keeps the server's clock. Returns the threads.
pub fn start(server: &Arc<Server>, listeners: Opened) -> io::Result<Vec<std::thread::JoinHandle<()>>> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..server.workers).map(|_| mpsc::channel::<Incoming>(1024)).unzip();
    let senders: Senders = senders.into();
    let mut threads = Vec::new();
    let (handles, handle) = std::sync::mpsc::sync_channel(1);
    let (shared, shared_senders) = (Arc::clone(server), Arc::clone(&senders));
    threads.push(std::thread::Builder::new().name("acceptor".into()).spawn(move || {
        let runtime = local_runtime();
        let _ = handles.send(runtime.handle().clone());
        runtime.block_on(async move {
            spawn_local(listen::accept(Arc::clone(&shared), listeners, shared_senders));
            spawn_local(repl::run_failovers(Arc::clone(&shared)));
            crate::cron::run(&shared).await;
        });
    })?);
    let timers = handle.recv().map_err(io::Error::other)?;
    for (number, receiver) in receivers.into_iter().enumerate() {
        let (server, senders, timers) = (Arc::clone(server), Arc::clone(&senders), timers.clone());
        let thread = std::thread::Builder::new().name(format!("worker-{number}"));
        threads.push(thread.spawn(move || {
            timers::use_those_of(timers);
            Worker::run(server, number, senders, receiver);
        })?);
    }
    let shared = Arc::clone(server);
    let link = std::thread::Builder::new().name("replica-link".into());
    threads.push(link.spawn(move || local_runtime().block_on(repl::run_link(shared)))?);
    Ok(threads)
}

fn local_runtime() -> LocalRuntime {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect(NO_EVENT_QUEUE)
}

/// What the connections of a worker share.
struct Worker {
    server: Arc<Server>,
    number: usize,
    round: Round,
    tasks: Rc<Tasks>,
    senders: Senders,
}

impl Worker {
    fn run(server: Arc<Server>, number: usize, senders: Senders, mut incoming: mpsc::Receiver<Incoming>) -> ! {
        server.spread.begin(number);
        let tasks = Tasks::new().expect(NO_EVENT_QUEUE);
        let worker = Self { round: Round::new(&server), tasks: Rc::clone(&tasks), server, number, senders };
        let worker = Rc::new(worker);
        tasks.spawn(async move {
            while let Some(connection) = incoming.recv().await {
                worker.take(connection);
            }
        });
        Passes::new(tasks).run()
    }

    fn take(self: &Rc<Self>, Incoming { seat, socket, begun }: Incoming) {
        let begun = begun.unwrap_or_else(|| Begun::new(&self.server, &socket));
        match Stream::new(socket, &self.tasks) {
            Ok(stream) => self.tasks.spawn(connection(Rc::clone(self), stream, seat, *begun)),
            Err(_) => begun.end(&self.server),
        }
    }

    /// Hands a connection to the worker that it belongs to.
    async fn pass_on(&self, stream: Stream, seat: u32, begun: Begun) {
        let incoming = Incoming { seat, socket: stream.into_socket(), begun: Some(Box::new(begun)) };
        let _ = self.senders[self.server.spread.worker_of(seat)].send(incoming).await;
    }
}

async fn connection(worker: Rc<Worker>, stream: Stream, seat: u32, begun: Begun) {
    let Begun { client, parser, work } = begun;
    let server = Arc::clone(&worker.server);
    client.set_task(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    let work = Rc::new(RefCell::new(work));
    let mut connection = Connection { server, worker, stream, seat, client, parser, work };
    let end = connection.serve().await;
    let Connection { server, worker, stream, client, parser, work, .. } = connection;
    let work = Rc::into_inner(work).expect("a round gives back what it has run").into_inner();
    let mut begun = Begun { client, parser, work };
    match end {
        Ok(End::Moves) => return worker.pass_on(stream, seat, begun).await,
        Ok(End::Feeds(ask)) => {
            begun.work.session.unwatch(&server);
            repl::run_feed(Arc::clone(&server), &begun.work.session, stream, ask).await;
        }
        Ok(End::Closed) | Err(_) => {}
    }
    begun.end(&server);
}

/// How a worker is done with a connection.
enum End {
    Closed,
    /// It becomes a feed.
    Feeds(Ask),
    /// To another worker.
    Moves,
}

struct Connection {
    server: Arc<Server>,
    worker: Rc<Worker>,
    stream: Stream,
    /// Says which worker serves it.
    seat: u32,
    client: Arc<Client>,
    parser: RequestParser,
    /// Shared with the round, which runs what has been parsed.
    work: Rc<RefCell<Work>>,
}

/// What a pipeline ended with.
enum Batched {
    Continue,
    Close,
    Psync(Ask),
}

impl Connection {
    /// Until the connection ends, becomes a feed or moves.
    async fn serve(&mut self) -> io::Result<End> {
        loop {
            let n = self.read().await?;
            // What a client sends after it was killed is not run, even if it came together with that.
            if n == 0 || self.client.killed.load(Ordering::Acquire) {
                return Ok(End::Closed);
            }
            self.worker.round.count_input(n);
            let settings = self.worker.round.settings();
            let mut start = 0;
            loop {
                let (consumed, broken) = self.parse(start, &settings);
                if self.work.borrow().frames.is_empty() && broken.is_none() {
                    break;
                }
                let end = self.run().await?;
                start += consumed;
                if let Some(error) = broken {
                    self.work.borrow_mut().session.out.error(&format!("ERR {error}"));
                    self.flush().await?;
                    return Ok(End::Closed);
                }
                match end {
                    Batched::Continue => {}
                    Batched::Close => return Ok(End::Closed),
                    Batched::Psync(ask) => return Ok(End::Feeds(ask)),
                }
                if start == self.work.borrow().input.len() {
                    break;
                }
            }
            // Whose requests were run has been seen by their round.
            if start == 0 {
                self.client.touch();
            }
            let work = &mut *self.work.borrow_mut();
            work.input.drain(..start);
            if work.input.is_empty() && work.input.capacity() > KEEP {
                work.give_back();
                work.input = Vec::with_capacity(READ);
                self.parser.give_back();
            }
            let want = self.parser.bytes_wanted(work.input.len()).clamp(READ, 1 << 20);
            work.input.reserve(want);
            if work.input.len() as u64 > settings.client_query_buffer_limit.0 {
                return Ok(End::Closed);
            }
            if self.server.spread.worker_of(self.seat) != self.worker.number {
                return Ok(End::Moves);
            }
        }
    }

    /// Waits for more input and reads it; 0: the connection is over, from either side.
    async fn read(&mut self) -> io::Result<usize> {
        poll_fn(|_| {
            let read = self.stream.poll_recv(&mut self.work.borrow_mut().input);
            if read.is_ready() {
                return read;
            }
            // Whoever ends the connection, or thinks that it is idle, wakes this task.
            let over =
                self.client.killed.load(Ordering::Acquire) || self.client.is_idle(self.worker.round.settings().timeout);
            if over { Poll::Ready(Ok(0)) } else { Poll::Pending }
        })
        .await
    }

    /// Parses up to a batch of requests from `start` on; returns the bytes that they take, and what is no request.
    fn parse(&mut self, start: usize, settings: &Settings) -> (usize, Option<resp::ProtocolError>) {
        let work = &mut *self.work.borrow_mut();
        work.begin();
        let limits = if work.session.authenticated {
            RequestLimits { bulk_len_max: settings.proto_max_bulk_len.0 as usize, ..RequestLimits::default() }
        } else {
            RequestLimits::UNAUTHENTICATED
        };
        let mut at = start;
        while work.frames.len() < BATCH {
            match self.parser.parse(&work.input[at..], &limits) {
                Ok(None) => break,
                Ok(Some(Request::Multibulk { len })) => {
                    work.push_multibulk(at, len, self.parser.spans(), &self.server.keyspace);
                    at += len;
                }
                Ok(Some(Request::Inline { len, args })) => {
                    work.push_inline(at, len, args);
                    at += len;
                }
                Err(error) => return (at - start, Some(error)),
            }
        }
        (at - start, None)
    }

    /// Has the parsed requests run and sends their replies.
    async fn run(&mut self) -> io::Result<Batched> {
        let mut end = Batched::Continue;
        while !self.work.borrow().is_over() {
            let first = self.worker.round.submit(&self.work);
            self.others_first(first).await;
            self.worker.round.run();
            let next = std::mem::replace(&mut self.work.borrow_mut().next, Next::Continue);
            match next {
                Next::Continue | Next::SkipReply | Next::PutOff => {}
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
                    self.work.borrow_mut().session.out.truncate(0);
                    break;
                }
                Next::Shutdown { failures } => self.shutdown_failed(failures).await?,
                Next::Wait { replicas, offset, timeout_ms } => {
                    let waited = self.wait(replicas, offset, timeout_ms).await?;
                    let out = &mut self.work.borrow_mut().session.out;
                    match waited {
                        Waited::Held(n) => out.len_int(n),
                        Waited::Unblocked => out.error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
                        Waited::Demoted => {
                            out.error(DEMOTED);
                            end = Batched::Close;
                            break;
                        }
                    }
                }
            }
        }
        self.gate().await?;
        self.flush().await?;
        Ok(end)
    }

    /// Lets the other connections that have something to read go first: what they all ask for is run together, and replies
    /// that leave together wake their clients once.
    async fn others_first(&self, wait: Turn) {
        let mut waited = wait == Turn::Now || self.worker.tasks.is_last();
        poll_fn(|_| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.worker.tasks.poll_again();
            Poll::Pending
        })
        .await;
    }

    /// Holds the replies of a write until its quorum has it, and until the master that ran it is known to have been
    /// one when it did (FAILOVER R3, R4). One that takes part in an election may be elected again, with the same history
    /// (R11): its replies wait for that as its writes do. If it is told to follow, its clients are disconnected.
    async fn gate(&mut self) -> io::Result<()> {
        let repl = &self.server.repl;
        if !repl.managed || self.work.borrow().session.write_offset == 0 {
            return Ok(());
        }
        let offset = std::mem::take(&mut self.work.borrow_mut().session.write_offset);
        loop {
            let changed = repl.acked.notified();
            let quorum = repl.quorum();
            if quorum == 0 || repl.members_holding(offset) >= quorum {
                // A pause for a handover is no end. One for an election begins before the lease ends.
                if repl.leads(clock::monotonic_ms()) {
                    return Ok(());
                }
                let waits = repl.writes_wait(clock::monotonic_ms());
                if !waits && !repl.leads(clock::monotonic_ms()) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            if repl.is_replica() || self.client.killed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let _ = timers::timeout(Duration::from_millis(100), changed).await;
            self.client.touch();
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let mut out = std::mem::take(self.work.borrow_mut().session.out.buffer_mut());
        if !out.is_empty() {
            self.worker.round.count_output(out.len());
            let sent = self.stream.send(&out)?;
            if sent < out.len() {
                self.flush_slowly(&out, sent).await?;
            }
            out.clear();
        }
        if out.capacity() <= KEEP {
            *self.work.borrow_mut().session.out.buffer_mut() = out;
        }
        Ok(())
    }

    /// What the socket does not take at once.
    async fn flush_slowly(&mut self, out: &[u8], sent: usize) -> io::Result<()> {
        // What fits into a socket's buffer is taken in any case.
        let soft = if out.len() > READ {
            self.server.settings().client_output_buffer_limit.normal
        } else {
            OutputLimit::default()
        };
        self.client.output.store(out.len(), Ordering::Relaxed);
        let limited = soft.soft > 0 && out.len() as u64 > soft.soft && soft.seconds > 0;
        let rest = async {
            self.stream.write_all(&out[sent..]).await?;
            self.stream.flush().await
        };
        // Above the soft limit a client has its time to take what was asked for.
        let written =
            if limited { timers::timeout(Duration::from_secs(soft.seconds), rest).await } else { Ok(rest.await) };
        self.client.output.store(0, Ordering::Relaxed);
        self.client.touch();
        written.unwrap_or_else(|_| {
            self.over_limit();
            Err(io::ErrorKind::TimedOut.into())
        })
    }

    /// The client does not read what it asked for: `client-output-buffer-limit`.
    fn over_limit(&self) {
        self.server.stats.output_limit_disconnections.fetch_add(1, Ordering::Relaxed);
        let line = self.client.line();
        tracing::warn!("Client {line} closed for overcoming of output buffer limits.");
    }

    /// Waits until CLIENT PAUSE is over. What has been answered goes out first.
    async fn pause_over(&mut self) -> io::Result<()> {
        self.flush().await?;
        let _blocked = Blocked::new(&self.server, &self.client);
        let changed = self.server.pause.changed.notified();
        let _ = timers::timeout(Duration::from_millis(20), changed).await;
        if self.client.killed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Until the process has ended, or cannot end.
    async fn shutdown_failed(&mut self, failures: u64) -> io::Result<()> {
        self.flush().await?;
        let blocked = Blocked::new(&self.server, &self.client);
        let shutdown = &self.server.shutdown;
        loop {
            let failed = shutdown.failed.notified();
            if shutdown.failures.load(Ordering::Acquire) != failures {
                break;
            }
            tokio::select! {
                () = failed => {}
                () = self.client.wake.notified() => {}
            }
            if self.client.killed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        drop(blocked);
        self.work.borrow_mut().session.out.error("ERR Errors trying to SHUTDOWN. Check logs.");
        Ok(())
    }

    async fn wait(&mut self, replicas: usize, offset: u64, timeout_ms: u64) -> io::Result<Waited> {
        self.flush().await?;
        let server = Arc::clone(&self.server);
        let client = Arc::clone(&self.client);
        let _blocked = Blocked::new(&server, &client);
        let begun = clock::monotonic_ms();
        if server.repl.holding(offset) < replicas {
            server.repl.append_getack();
        }
        loop {
            let acked = server.repl.acked.notified();
            let n = server.repl.holding(offset);
            let over = timeout_ms > 0 && clock::monotonic_ms() - begun >= timeout_ms;
            if server.repl.is_replica() {
                return Ok(Waited::Demoted);
            }
            if n >= replicas || over {
                return Ok(Waited::Held(n));
            }
            match client.unblock.swap(0, Ordering::AcqRel) {
                0 => {}
                1 => return Ok(Waited::Held(n)),
                _ => return Ok(Waited::Unblocked),
            }
            if self.client.killed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let left = if timeout_ms == 0 { 100 } else { (begun + timeout_ms).saturating_sub(clock::monotonic_ms()) };
            tokio::select! {
                _ = timers::timeout(Duration::from_millis(left.clamp(1, 100)), acked) => {}
                () = client.wake.notified() => {}
            }
        }
    }
}

/// How a WAIT ended.
enum Waited {
    /// So many replicas hold the write.
    Held(usize),
    /// CLIENT UNBLOCK … ERROR.
    Unblocked,
    /// This instance is no master any more: the client is told and has to look for the new one.
    Demoted,
}

const DEMOTED: &str = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";

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
        self.client.touch();
    }
}
