//! A full resync's RDB on its way in: to a file beside the data set, or straight into memory (`repl-diskless-load`).
//!
//! In memory it goes to a keyspace of its own. The data set stays as it is, and is read from, until the new one is whole and
//! has passed the fence; then the two are exchanged in one step.

use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::Keyspace;
use engine::rdb::RdbError;
use replication::{Event, LinkError, ReplId, Sync};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::link::{Link, rdb};
use crate::persistence::{self, Loaded};
use crate::state::Server;
use crate::timers::timeout;

/// Pieces on their way to the loader: beyond that the master waits.
const PIECES: usize = 8;

/// Room for one read of the body.
const READ: usize = 256 * 1024;

/// Where the bytes go.
pub(super) enum Sink {
    File(std::fs::File),
    Memory(Loader),
}

impl Sink {
    /// Takes the next bytes; `alive` is called while that takes time.
    async fn put(&mut self, bytes: &[u8], stream: &mut Option<tokio::net::TcpStream>) -> Result<(), LinkError> {
        match self {
            Self::File(file) => Ok(file.write_all(bytes)?),
            Self::Memory(loader) => {
                let mut piece = Some(bytes.to_vec());
                while let Some(bytes) = piece.take() {
                    match timeout(Duration::from_secs(1), loader.pieces.reserve()).await {
                        Ok(Ok(place)) => place.send(bytes),
                        // It has given up and will say why.
                        Ok(Err(_)) => return Ok(()),
                        Err(_) => {
                            piece = Some(bytes);
                            if let Some(stream) = stream {
                                stream.write_all(b"\n").await?;
                            }
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

/// A thread that reads an RDB into a keyspace while it arrives.
pub(super) struct Loader {
    pieces: mpsc::Sender<Vec<u8>>,
    done: JoinHandle<(Keyspace, Result<Loaded, RdbError>)>,
}

impl Loader {
    pub(super) fn start(server: &Arc<Server>) -> Self {
        let (pieces, receiver) = mpsc::channel(PIECES);
        let server = Arc::clone(server);
        let done = tokio::task::spawn_blocking(move || {
            let aside = server.keyspace.empty_like();
            let input = Pieces { receiver, piece: Vec::new(), at: 0 };
            let loaded = persistence::read_stream(&server, input, Some(&aside), &mut |_| {});
            (aside, loaded)
        });
        Self { pieces, done }
    }

    /// Nothing more comes.
    pub(super) async fn finish(self) -> Result<(Keyspace, Loaded), LinkError> {
        drop(self.pieces);
        let (keyspace, loaded) = self.done.await.map_err(io::Error::other)?;
        Ok((keyspace, loaded.map_err(rdb)?))
    }
}

/// Pieces as one stream of bytes.
struct Pieces {
    receiver: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.receiver.blocking_recv() {
                Some(piece) => (self.piece, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let n = out.len().min(self.piece.len() - self.at);
        out[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl Link<'_> {
    /// Receives the RDB into a file.
    pub(super) async fn receive_file(&mut self, path: &Path) -> Result<(), LinkError> {
        let mut sink = Sink::File(std::fs::File::create(path)?);
        self.receive(&mut sink).await?;
        if let Sink::File(file) = sink {
            file.sync_all()?;
        }
        Ok(())
    }

    /// Receives the RDB into memory and makes it the data set; returns the database that the stream begins in.
    pub(super) async fn load_aside(&mut self, id: ReplId, sync: Sync) -> Result<usize, LinkError> {
        tracing::info!("MASTER <-> REPLICA sync: Loading DB in memory, the present data set is served meanwhile");
        let server = Arc::clone(self.server);
        let info = &server.repl.link;
        info.loading_aside.store(true, Ordering::Release);
        let mut sink = Sink::Memory(Loader::start(&server));
        let received = self.receive(&mut sink).await;
        let Sink::Memory(loader) = sink else { return Err(LinkError::Protocol("the loader is gone".into())) };
        let loaded = loader.finish().await;
        info.loading_aside.store(false, Ordering::Release);
        received?;
        let (aside, loaded) = loaded?;
        self.check_changed()?;
        self.judge(sync, &loaded)?;
        server.repl.disconnect_feeds();
        {
            // Data and offset change together, also for a snapshot that is about to be cut.
            let _apply = server.repl.apply.lock();
            server.keyspace.swap(&aside);
            server.local_expiry.forget_all();
            let mut log = server.repl.log.lock();
            log.log.reset(sync.offset);
            log.history.replaced(id, loaded.epoch);
            log.db = None;
        }
        info.syncing.store(false, Ordering::Release);
        server.dirty.store(0, Ordering::Release);
        tracing::info!("MASTER <-> REPLICA sync: Finished with success, {} keys", loaded.keys);
        Ok(loaded.stream_db.unwrap_or(0))
    }

    /// The RDB's bytes, up to their end.
    async fn receive(&mut self, sink: &mut Sink) -> Result<(), LinkError> {
        loop {
            let (used, event) = self.event().await?;
            match event {
                Event::BodyBegins { length } => {
                    self.server.repl.link.sync_total.store(length.unwrap_or(0), Ordering::Relaxed);
                }
                Event::Body => {
                    sink.put(&self.buf[..used], &mut self.stream).await?;
                    self.server.repl.link.sync_read.fetch_add(used as u64, Ordering::Relaxed);
                }
                Event::BodyEnds => {
                    self.used(used);
                    return Ok(());
                }
                _ => return Err(LinkError::Protocol("something else where the data set was expected".into())),
            }
            self.used(used);
            self.buf.reserve(READ);
        }
    }
}
