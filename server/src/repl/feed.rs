//! The master's side of one attached replica: it hands over a snapshot or goes on from the log, then copies the log to
//! the connection and listens to acknowledgements.
//!
//! ```text
//! PSYNC ──► partial: +CONTINUE ─────────────────────────────► Online
//!      └──► full: WaitSnapshot ──► Sending ──(its first ACK)──► Online
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use replication::{Ack, CutOff, Psync, ReaderId};
use resp::{Request, RequestLimits, RequestParser};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::sync::Piece;
use crate::clients::Kind;
use crate::clock;
use crate::dispatch::Session;
use crate::state::Server;

/// Bytes read from the log for one write.
const CHUNK: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    WaitSnapshot,
    Sending,
    Online,
}

/// What others see of a feed.
#[derive(Debug)]
pub struct Feed {
    /// The client's id.
    pub id: u64,
    pub ip: String,
    pub port: u16,
    /// Of a managed replica.
    pub volume: Option<u64>,
    state: AtomicU8,
    ack_offset: AtomicU64,
    ack_ms: AtomicU64,
    pub wake: Notify,
    pub closed: AtomicBool,
}

impl Feed {
    pub fn state(&self) -> FeedState {
        match self.state.load(Ordering::Acquire) {
            0 => FeedState::WaitSnapshot,
            1 => FeedState::Sending,
            _ => FeedState::Online,
        }
    }

    /// Ends the connection, whatever it is doing.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    async fn until_closed(&self) {
        while !self.closed.load(Ordering::Acquire) {
            self.wake.notified().await;
        }
    }

    fn set_state(&self, state: FeedState) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub fn ack(&self) -> Ack {
        Ack {
            offset: self.ack_offset.load(Ordering::Acquire),
            at_ms: self.ack_ms.load(Ordering::Acquire),
            volume: self.volume,
        }
    }

    pub(super) fn set_ack(&self, offset: u64, at_ms: u64) {
        self.ack_offset.fetch_max(offset, Ordering::AcqRel);
        self.ack_ms.store(at_ms, Ordering::Release);
    }
}

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it is {0}")]
    CutOff(#[from] CutOff),
    #[error("time-out")]
    Timeout,
    #[error("its snapshot was given up")]
    Snapshot,
    #[error("the connection was ended here")]
    Closed,
}

/// Refuses a PSYNC that cannot be served now: the error line.
fn refuse(server: &Server, session: &Session) -> Option<String> {
    let repl = &server.repl;
    if server.loading.load(Ordering::Acquire) {
        return Some("-LOADING Redis is loading the dataset in memory\r\n".into());
    }
    if repl.managed {
        // R1: a managed replica is served by the master of exactly the epoch that it was told to follow.
        let epoch = repl.role.lock().role_epoch();
        let wanted = session.replica.managed.map(|(epoch, _)| epoch);
        let serves = !repl.is_replica() && !repl.is_awaiting() && repl.role.lock().durable.promised == epoch;
        if !serves || wanted.is_some_and(|wanted| wanted != epoch) {
            return Some(format!("-NOTMASTER {epoch}\r\n"));
        }
    } else if repl.is_replica() && !repl.link_up() {
        return Some("-NOMASTERLINK Can't SYNC while not connected with my master\r\n".into());
    }
    None
}

/// Serves a replica until the connection ends.
pub async fn run<S>(server: Arc<Server>, session: &Session, stream: S, id: Vec<u8>, next: i64, sync: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(stream);
    if let Some(error) = refuse(&server, session) {
        // The replica hears why, and asks again.
        let _ = write.write_all(error.as_bytes()).await;
        let _ = write.flush().await;
        return;
    }
    let info = &session.replica;
    let ip = info.ip.clone().unwrap_or_else(|| session.client.addr.rsplit_once(':').map_or("", |(ip, _)| ip).into());
    let feed = Arc::new(Feed {
        id: session.client.id,
        ip,
        port: info.port,
        volume: info.managed.map(|(_, volume)| volume),
        state: AtomicU8::new(0),
        ack_offset: AtomicU64::new(0),
        ack_ms: AtomicU64::new(clock::monotonic_ms()),
        wake: Notify::new(),
        closed: AtomicBool::new(false),
    });
    session.client.set_kind(Kind::Replica);
    server.repl.keep_backlog(&server.settings());
    server.repl.add_feed(Arc::clone(&feed));
    let mut reader = None;
    let end = serve(&server, session, &feed, &mut read, &mut write, &mut reader, (&id, next, sync)).await;
    if let Some(reader) = reader {
        server.repl.log.lock().log.detach(reader);
    }
    server.repl.remove_feed(feed.id);
    if let Err(end) = end {
        tracing::info!("Connection with replica {}:{} lost: {end}", feed.ip, feed.port);
    }
}

async fn serve<R, W>(
    server: &Arc<Server>,
    session: &Session,
    feed: &Arc<Feed>,
    read: &mut R,
    write: &mut W,
    reader: &mut Option<ReaderId>,
    (id, next, sync): (&[u8], i64, bool),
) -> Result<(), End>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let limit = Duration::from_secs(server.settings().repl_timeout as u64);
    // The decision and the reader's place are one step: the log may move on between them otherwise.
    let (decision, history) = {
        let mut log = server.repl.log.lock();
        let decision = if sync {
            Psync::Full("SYNC")
        } else {
            log.history.psync(id, next, log.log.end(), |offset| log.log.contains(offset))
        };
        if let Psync::Continue { from } = decision {
            *reader = log.log.attach(from);
        }
        (decision, log.history)
    };
    let mut marked = false;
    match decision {
        Psync::Continue { from } => {
            server.stats.sync_partial_ok.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                "Partial resynchronization request from {}:{} accepted from offset {}.",
                feed.ip,
                feed.port,
                from + 1
            );
            let line =
                if session.replica.psync2 { format!("+CONTINUE {}\r\n", history.id) } else { "+CONTINUE\r\n".into() };
            write_all(write, line.as_bytes(), limit).await?;
            feed.set_ack(from, clock::monotonic_ms());
            feed.set_state(FeedState::Online);
        }
        Psync::Full(reason) => {
            if next >= 0 && !sync {
                server.stats.sync_partial_err.fetch_add(1, Ordering::Relaxed);
            }
            server.stats.sync_full.fetch_add(1, Ordering::Relaxed);
            tracing::info!("Full resync requested by replica {}:{}: {reason}", feed.ip, feed.port);
            marked = send_snapshot(server, session, feed, write, reader, sync, limit).await?;
        }
    }
    stream_log(server, session, feed, read, write, reader, limit, marked).await
}

async fn write_all<W: AsyncWrite + Unpin>(write: &mut W, bytes: &[u8], limit: Duration) -> Result<(), End> {
    timeout(limit, async {
        write.write_all(bytes).await?;
        write.flush().await
    })
    .await
    .map_err(|_| End::Timeout)??;
    Ok(())
}

/// Sends the RDB; `true` if it ended with a mark.
async fn send_snapshot<W: AsyncWrite + Unpin>(
    server: &Arc<Server>,
    session: &Session,
    feed: &Arc<Feed>,
    write: &mut W,
    reader: &mut Option<ReaderId>,
    sync: bool,
    limit: Duration,
) -> Result<bool, End> {
    let (sender, mut pieces) = mpsc::channel(8);
    let eof = session.replica.eof && !sync;
    server.repl.sync.request(server, feed, sender, eof);
    let mut mark = None;
    loop {
        let piece = match timeout(Duration::from_secs(1), pieces.recv()).await {
            Ok(piece) => piece.ok_or(End::Snapshot)?,
            // Keeps the replica's time-out away while the snapshot is waited for.
            Err(_) if feed.state() == FeedState::WaitSnapshot => {
                write_all(write, b"\n", limit).await?;
                continue;
            }
            Err(_) if feed.closed.load(Ordering::Acquire) => return Err(End::Closed),
            Err(_) => continue,
        };
        match piece {
            Piece::Begin { reader: at, offset, id, size } => {
                *reader = Some(at);
                feed.set_state(FeedState::Sending);
                let mut head = if sync { String::new() } else { format!("+FULLRESYNC {id} {offset}\r\n") };
                match size {
                    Some(size) => head.push_str(&format!("${size}\r\n")),
                    None => {
                        let text = replication::ReplId::from_random(crate::state::random()).to_string();
                        head.push_str(&format!("$EOF:{text}\r\n"));
                        mark = Some(text);
                    }
                }
                write_all(write, head.as_bytes(), limit).await?;
            }
            // It may wait long here for a replica that is slow.
            Piece::Bytes(bytes) => tokio::select! {
                biased;
                written = write_all(write, &bytes, limit) => written?,
                () = feed.until_closed() => return Err(End::Closed),
            },
            Piece::End => break,
        }
    }
    if let Some(mark) = &mark {
        write_all(write, mark.as_bytes(), limit).await?;
    }
    Ok(mark.is_some())
}

/// Copies the log to the replica; reads its acknowledgements.
#[expect(clippy::too_many_arguments, reason = "the two halves of a connection and what belongs to it")]
async fn stream_log<R, W>(
    server: &Arc<Server>,
    session: &Session,
    feed: &Arc<Feed>,
    read: &mut R,
    write: &mut W,
    reader: &mut Option<ReaderId>,
    limit: Duration,
    marked: bool,
) -> Result<(), End>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(id) = *reader else { return Err(End::Snapshot) };
    let (mut out, mut input, mut parser) = (Vec::new(), Vec::new(), RequestParser::default());
    let mut soft = SoftLimit::default();
    loop {
        soft.check(server, id, clock::monotonic_ms())?;
        if feed.closed.load(Ordering::Acquire) || session.client.killed.load(Ordering::Acquire) {
            return Err(End::Closed);
        }
        // Behind a stream with a mark nothing may follow until the replica has seen the mark and acknowledges: it looks
        // for it at the end of what has come.
        out.clear();
        let silent = marked && feed.state() == FeedState::Sending;
        let got = if silent { 0 } else { server.repl.log.lock().log.read(id, CHUNK, &mut out)? };
        if got > 0 {
            server.stats.output_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
            server.stats.replica_output_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
            write_all(write, &out, limit).await?;
            // Acknowledgements are looked at between two chunks too.
            if out.len() == CHUNK {
                tokio::task::yield_now().await;
            }
        }
        let full = out.len() == CHUNK;
        tokio::select! {
            biased;
            n = read.read_buf(&mut input) => {
                if n? == 0 {
                    return Err(End::Closed);
                }
                take_acks(server, feed, &mut input, &mut parser)?;
            }
            () = std::future::ready(()), if full => {}
            () = feed.wake.notified() => {}
            () = session.client.wake.notified() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                let silent = clock::monotonic_ms().saturating_sub(feed.ack().at_ms);
                if silent > limit.as_millis() as u64 {
                    return Err(End::Timeout);
                }
            }
        }
    }
}

/// `client-output-buffer-limit replica`: more than the soft limit may wait for a replica for so many seconds.
#[derive(Default)]
struct SoftLimit {
    over_since_ms: Option<u64>,
}

impl SoftLimit {
    fn check(&mut self, server: &Server, id: ReaderId, now_ms: u64) -> Result<(), End> {
        let limit = server.settings().client_output_buffer_limit.replica;
        let (behind, backlog) = {
            let log = server.repl.log.lock();
            (log.log.behind(id).unwrap_or(0), log.log.backlog_size())
        };
        // What the backlog holds anyway costs nothing.
        if limit.soft == 0 || behind <= limit.soft.max(backlog) {
            self.over_since_ms = None;
            return Ok(());
        }
        let since = *self.over_since_ms.get_or_insert(now_ms);
        if now_ms - since >= limit.seconds * 1000 {
            server.stats.output_limit_disconnections.fetch_add(1, Ordering::Relaxed);
            return Err(CutOff { behind, limit: limit.soft }.into());
        }
        Ok(())
    }
}

fn take_acks(server: &Server, feed: &Feed, input: &mut Vec<u8>, parser: &mut RequestParser) -> Result<(), End> {
    let mut start = 0;
    let bad = |e: resp::ProtocolError| End::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, e.to_string()));
    while let Some(request) = parser.parse(&input[start..], &RequestLimits::UNAUTHENTICATED).map_err(bad)? {
        match request {
            Request::Multibulk { len } => {
                let args = parser.args(&input[start..]);
                if args.len() >= 3
                    && args.at(0).eq_ignore_ascii_case(b"REPLCONF")
                    && args.at(1).eq_ignore_ascii_case(b"ACK")
                    && let Some(offset) = resp::number::parse_u64(args.at(2))
                {
                    if feed.state() == FeedState::Sending {
                        feed.set_state(FeedState::Online);
                        tracing::info!("Synchronization with replica {}:{} succeeded", feed.ip, feed.port);
                    }
                    server.repl.on_ack(feed, offset);
                }
                start += len;
            }
            Request::Inline { len, .. } => start += len,
        }
    }
    input.drain(..start);
    Ok(())
}
