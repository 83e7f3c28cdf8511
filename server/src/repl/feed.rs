//! The master's side of one attached replica. The machine is `replication::Feed`; here are its connection, the log that is
//! copied to it, and the snapshot that comes from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use replication::feed::{Close, FeedLimits, Output, Wanted};
use replication::{Ack, Announced, Ask, Feed as Machine, FeedState, NotServed, ReaderId, Serving};
use resp::{Request, RequestLimits, RequestParser};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};

use super::Replication;
use super::sync::Piece;
use crate::clients::Kind;
use crate::clock;
use crate::config::Settings;
use crate::dispatch::Session;
use crate::state::Server;
use crate::timers;

/// Bytes read from the log for one write.
const CHUNK: usize = 256 * 1024;
/// Pieces of a snapshot on their way to the connection.
const PIECES: usize = 8;
/// Between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// An attached replica, for those who count them or show them.
#[derive(Debug)]
pub struct Attached {
    /// The client's id.
    pub id: u64,
    pub ip: String,
    pub port: u16,
    machine: Mutex<Machine>,
    pub wake: Notify,
    closed: AtomicBool,
}

impl Attached {
    pub fn state(&self) -> FeedState {
        self.machine.lock().state()
    }

    /// Of one that is online.
    pub fn ack(&self) -> Option<Ack> {
        self.machine.lock().ack()
    }

    pub fn ack_offset(&self) -> u64 {
        self.machine.lock().ack_offset()
    }

    pub fn lag_s(&self, now_ms: u64) -> u64 {
        self.machine.lock().lag_s(now_ms)
    }

    /// Ends the connection, whatever it is doing.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Its snapshot is open, and so many bytes are kept for it; `true` if that is given up.
    pub(super) fn is_given_up(&self, kept_bytes: u64, limits: &FeedLimits) -> bool {
        let close = self.machine.lock().on_held_up(kept_bytes, limits);
        if let Some(why) = close {
            tracing::warn!("Replica {}:{}: {why}", self.ip, self.port);
            self.close();
        }
        close.is_some()
    }
}

/// What the machine is to know of the settings.
pub(super) fn limits(settings: &Settings) -> FeedLimits {
    let limit = &settings.client_output_buffer_limit.replica;
    FeedLimits {
        timeout_ms: settings.repl_timeout as u64 * 1000,
        hard_bytes: limit.hard,
        soft_bytes: limit.soft,
        soft_ms: limit.seconds * 1000,
        backlog_bytes: settings.repl_backlog_size.0,
    }
}

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Machine(Close),
    #[error("the connection was ended here")]
    Closed,
}

/// Would this instance serve such a replica now?
pub fn may_serve(server: &Server, announced: &Announced) -> Result<(), NotServed> {
    let failing_over = server.repl.failover.lock().is_active();
    let role = server.repl.role.lock();
    serving(server, failing_over, &role).check(announced)
}

fn serving<'r>(server: &Server, failing_over: bool, role: &'r replication::Role) -> Serving<'r> {
    let repl = &server.repl;
    let link_up = repl.link_up();
    match () {
        () if server.loading.load(Ordering::Acquire) => Serving::Loading,
        () if failing_over => Serving::FailingOver,
        () if repl.managed => Serving::Managed { role, link_up },
        () if repl.is_replica() => Serving::Replica { link_up },
        () => Serving::Master,
    }
}

/// Serves a replica until the connection ends.
pub async fn run<S>(server: Arc<Server>, session: &Session, stream: S, ask: Ask)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (read, mut write) = tokio::io::split(stream);
    server.repl.keep_backlog(&server.settings());
    let (feed, reader, outputs) = match attach(&server, session, &ask) {
        Ok(attached) => attached,
        Err(why) => {
            // The role has changed since the command was run.
            let _ = write.write_all(format!("-{why}\r\n").as_bytes()).await;
            let _ = write.flush().await;
            return;
        }
    };
    session.client.set_kind(Kind::Replica);
    let mut driver = Driver {
        server: &server,
        session,
        feed: Arc::clone(&feed),
        read,
        write,
        reader,
        streams: false,
        pieces: None,
        out: Vec::new(),
        sent: 0,
        closing: None,
        ticked_ms: clock::monotonic_ms(),
        input: Vec::new(),
        parser: RequestParser::default(),
    };
    let Err(end) = driver.run(outputs).await;
    driver.detach();
    server.repl.remove_feed(feed.id);
    if let End::Machine(close) = &end
        && close.is_over_limit()
    {
        server.stats.output_limit_disconnections.fetch_add(1, Ordering::Relaxed);
    }
    tracing::info!("Connection with replica {}:{} lost: {end}", feed.ip, feed.port);
}

/// What is told to a new driver: its place in the log, and what to do first.
type Attachment = (Arc<Attached>, Option<ReaderId>, Vec<Output>);

/// One step under the locks of role and log: another role comes before it, and is asked, or behind it, and disconnects;
/// and the log keeps what the machine promises.
fn attach(server: &Server, session: &Session, ask: &Ask) -> Result<Attachment, NotServed> {
    let (repl, now_ms) = (&server.repl, clock::monotonic_ms());
    let failing_over = repl.failover.lock().is_active();
    let role = repl.role.lock();
    let mut log = repl.log.lock();
    let announced = &session.replica;
    serving(server, failing_over, &role).check(announced)?;
    let end = log.log.end();
    let (machine, outputs) =
        Machine::open(announced.clone(), ask, &log.history, end, |offset| log.log.contains(offset), now_ms);
    let from = outputs.iter().find_map(|output| match output {
        Output::Stream { from } => Some(*from),
        Output::Send(_) | Output::Snapshot(_) | Output::Close(_) => None,
    });
    let reader = from.and_then(|from| log.log.attach(from));
    let ip = announced.ip.clone();
    let ip = ip.unwrap_or_else(|| session.client.addr.rsplit_once(':').map_or("", |(ip, _)| ip).into());
    count(server, ask, &machine, &ip);
    let feed = Arc::new(Attached {
        id: session.client.id,
        ip,
        port: announced.port,
        machine: Mutex::new(machine),
        wake: Notify::new(),
        closed: AtomicBool::new(false),
    });
    repl.add_feed(Arc::clone(&feed));
    Ok((feed, reader, outputs))
}

fn count(server: &Server, ask: &Ask, machine: &Machine, ip: &str) {
    let (stats, port) = (&server.stats, machine.announced.port);
    match machine.full {
        None => {
            stats.sync_partial_ok.fetch_add(1, Ordering::Relaxed);
            let from = machine.ack_offset() + 1;
            tracing::info!("Partial resynchronization request from {ip}:{port} accepted from offset {from}.");
        }
        Some(reason) => {
            stats.sync_partial_err.fetch_add(u64::from(ask.is_partial()), Ordering::Relaxed);
            stats.sync_full.fetch_add(1, Ordering::Relaxed);
            tracing::info!("Full resync requested by replica {ip}:{port}: {reason}");
        }
    }
}

impl Replication {
    /// A replica acknowledged something.
    fn on_ack(&self, member: Option<(u64, u64)>, ack: Ack) {
        if let Some((epoch, volume)) = member {
            let mut role = self.role.lock();
            role.on_ack(epoch, volume, ack.offset);
            self.publish_lease(&role);
        }
        self.acked.notify_waiters();
    }
}

/// Moves bytes between the machine, the log and the connection.
struct Driver<'s, S> {
    server: &'s Arc<Server>,
    session: &'s Session,
    feed: Arc<Attached>,
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    /// Its place in the log.
    reader: Option<ReaderId>,
    /// The log follows.
    streams: bool,
    /// The snapshot follows.
    pieces: Option<mpsc::Receiver<Piece>>,
    /// To be written, up to `sent` it is.
    out: Vec<u8>,
    sent: usize,
    closing: Option<Close>,
    ticked_ms: u64,
    input: Vec<u8>,
    parser: RequestParser,
}

/// The next piece; never, if there is no snapshot.
async fn next(pieces: &mut Option<mpsc::Receiver<Piece>>) -> Option<Piece> {
    match pieces {
        Some(pieces) => pieces.recv().await,
        None => std::future::pending().await,
    }
}

impl<S: AsyncRead + AsyncWrite> Driver<'_, S> {
    async fn run(&mut self, outputs: Vec<Output>) -> Result<std::convert::Infallible, End> {
        self.carry_out(outputs)?;
        loop {
            self.fill()?;
            let writes = self.sent < self.out.len();
            match self.closing {
                Some(close) if !writes => return Err(End::Machine(close)),
                _ => {}
            }
            if self.feed.closed.load(Ordering::Acquire) || self.session.client.killed.load(Ordering::Acquire) {
                return Err(End::Closed);
            }
            tokio::select! {
                biased;
                n = self.read.read_buf(&mut self.input) => self.on_read(n?)?,
                n = self.write.write(&self.out[self.sent..]), if writes => self.on_written(n?).await?,
                piece = next(&mut self.pieces), if !writes => self.on_piece(piece)?,
                () = self.feed.wake.notified() => {}
                () = self.session.client.wake.notified() => {}
                () = timers::sleep(TICK) => {}
            }
            self.tick()?;
        }
    }

    fn machine<R>(&self, f: impl FnOnce(&mut Machine) -> R) -> R {
        f(&mut self.feed.machine.lock())
    }

    fn carry_out(&mut self, outputs: Vec<Output>) -> Result<(), End> {
        for output in outputs {
            match output {
                Output::Send(bytes) => self.out.extend_from_slice(&bytes),
                Output::Snapshot(wanted) => self.want_snapshot(wanted),
                Output::Stream { .. } => self.streams = true,
                Output::Close(close) if close.is_orderly() => self.closing = Some(close),
                Output::Close(close) => return Err(End::Machine(close)),
            }
        }
        Ok(())
    }

    fn want_snapshot(&mut self, wanted: Wanted) {
        let (sender, pieces) = mpsc::channel(PIECES);
        self.pieces = Some(pieces);
        self.server.repl.sync.request(self.server, &self.feed, sender, wanted);
    }

    /// Takes more of the log when all is written.
    fn fill(&mut self) -> Result<(), End> {
        let Some(reader) = self.reader.filter(|_| self.streams && self.out.is_empty()) else { return Ok(()) };
        let read = self.server.repl.log.lock().log.read(reader, CHUNK, &mut self.out);
        read.map_err(|cut_off| End::Machine(cut_off.into()))?;
        Ok(())
    }

    async fn on_written(&mut self, n: usize) -> Result<(), End> {
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        let stats = &self.server.stats;
        stats.output_bytes.fetch_add(n as u64, Ordering::Relaxed);
        stats.replica_output_bytes.fetch_add(n as u64, Ordering::Relaxed);
        self.sent += n;
        if !self.streams {
            self.machine(|machine| machine.on_progress(clock::monotonic_ms()));
        }
        if self.sent == self.out.len() {
            // More waits in the log: clients go first.
            let full = self.out.len() >= CHUNK;
            self.out.clear();
            self.sent = 0;
            self.write.flush().await?;
            if full {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn on_piece(&mut self, piece: Option<Piece>) -> Result<(), End> {
        let now_ms = clock::monotonic_ms();
        let outputs = match piece {
            Some(Piece::Begin { reader, offset, id }) => {
                self.reader = Some(reader);
                self.machine(|machine| machine.on_snapshot_begun(id, offset))
            }
            Some(Piece::Body(body)) => self.machine(|machine| machine.on_body(body, now_ms)),
            Some(Piece::Bytes(bytes)) => {
                self.out.extend_from_slice(&bytes);
                vec![]
            }
            Some(Piece::End) => {
                self.pieces = None;
                let outputs = self.machine(|machine| machine.on_body_sent(now_ms));
                tracing::info!("The snapshot for replica {}:{} is sent", self.feed.ip, self.feed.port);
                outputs
            }
            None => self.machine(Machine::on_no_snapshot),
        };
        self.carry_out(outputs)
    }

    fn on_read(&mut self, n: usize) -> Result<(), End> {
        if n == 0 {
            return Err(End::Closed);
        }
        let (mut input, mut parser) = (std::mem::take(&mut self.input), std::mem::take(&mut self.parser));
        let (mut start, now_ms) = (0, clock::monotonic_ms());
        let bad = |e: resp::ProtocolError| End::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, e.to_string()));
        while let Some(request) = parser.parse(&input[start..], &RequestLimits::UNAUTHENTICATED).map_err(bad)? {
            let (outputs, len) = match request {
                Request::Multibulk { len } => {
                    let args = parser.args(&input[start..]);
                    (self.machine(|machine| machine.on_command(args, now_ms)), len)
                }
                Request::Inline { len, args } => {
                    (self.machine(|machine| machine.on_command(args.as_args(), now_ms)), len)
                }
            };
            self.carry_out(outputs)?;
            start += len;
        }
        input.drain(..start);
        (self.input, self.parser) = (input, parser);
        let (ack, member) = self.machine(|machine| (machine.ack(), machine.member()));
        ack.into_iter().for_each(|ack| self.server.repl.on_ack(member, ack));
        Ok(())
    }

    fn tick(&mut self) -> Result<(), End> {
        let now_ms = clock::monotonic_ms();
        if now_ms - self.ticked_ms < TICK.as_millis() as u64 {
            return Ok(());
        }
        self.ticked_ms = now_ms;
        let behind = self.reader.map_or(Ok(0), |reader| {
            let mut log = self.server.repl.log.lock();
            // Reading nothing tells one that was cut off.
            log.log.read(reader, 0, &mut Vec::new()).map(|_| log.log.behind(reader).unwrap_or(0))
        });
        let limits = limits(&self.server.settings());
        let outputs = self.machine(|machine| machine.tick(behind, &limits, now_ms));
        self.carry_out(outputs)
    }

    /// Gives back the place in the log, also one that is still on its way here.
    fn detach(&mut self) {
        let mut reader = self.reader.take();
        if let Some(mut pieces) = self.pieces.take() {
            pieces.close();
            while let Ok(piece) = pieces.try_recv() {
                if let Piece::Begin { reader: begun, .. } = piece {
                    reader = Some(begun);
                }
            }
        }
        if let Some(reader) = reader {
            self.server.repl.log.lock().log.detach(reader);
        }
    }
}
