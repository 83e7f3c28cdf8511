//! The way to its master: the connection, the full resync and the fence before it, the stream.

use replication::Record;
use replication::fence::{FenceView, Offered, Own, Verdict, judge};
use replication::link::{Event, Identity, LinkError, Sync};
use resp::{Request, RequestLimits, RequestParser};

use super::{Disk, Note, Out, Process, Weakening};
use crate::sim::data::Snapshot;

impl Process {
    pub fn on_connected(&mut self, attempt: u64, conn: Result<u64, LinkError>, now_ms: u64) {
        if !self.connecting || attempt != self.attempt {
            if let Ok(conn) = conn {
                self.out.push(Out::Close { conn });
            }
            return;
        }
        self.connecting = false;
        match conn {
            Ok(conn) => {
                self.conn = Some(conn);
                let identity = Identity {
                    port: self.port,
                    managed: Some((self.role.role_epoch(), self.role.durable.volume)),
                    ..Identity::default()
                };
                let bytes = self.link.on_connected(identity, now_ms);
                self.say(bytes);
            }
            Err(error) => self.fail(&error, now_ms),
        }
    }

    fn say(&mut self, bytes: Vec<u8>) {
        if let Some(conn) = self.conn {
            self.out.push(Out::Send { conn, bytes });
        }
    }

    pub(super) fn fail(&mut self, error: &LinkError, now_ms: u64) {
        if let Some(conn) = self.conn.take() {
            self.out.push(Out::Close { conn });
        }
        self.connecting = false;
        self.input.clear();
        self.parser = RequestParser::default();
        self.rdb.clear();
        let jitter = (self.rng.word() & 0xFFFF) as u16;
        self.link.fail(error, jitter, now_ms);
    }

    /// R2, R4: an acknowledgement is sent only if the role lets it.
    pub(super) fn acknowledge(&mut self, bytes: &[u8], now_ms: u64) {
        if self.role.acknowledge(now_ms) {
            self.say(bytes.to_vec());
        } else {
            self.fail(&LinkError::Changed, now_ms);
        }
    }

    /// Bytes have come on a connection.
    pub fn hears(&mut self, conn: u64, bytes: &[u8], disk: &mut Disk, now_ms: u64) {
        if self.conn == Some(conn) {
            self.input.extend_from_slice(bytes);
            if let Err(error) = self.on_input(disk, now_ms) {
                self.fail(&error, now_ms);
            }
        } else if self.feeds.contains_key(&conn) {
            self.on_replica_input(conn, bytes, now_ms);
        }
    }

    /// The other end, or the network, has closed it.
    pub fn on_closed(&mut self, conn: u64, now_ms: u64) {
        if self.conn == Some(conn) {
            self.fail(&LinkError::Io("closed".into()), now_ms);
        } else {
            self.forget_feed(conn);
        }
    }

    fn on_input(&mut self, disk: &mut Disk, now_ms: u64) -> Result<(), LinkError> {
        loop {
            let (used, event) = self.link.next(&self.input, now_ms)?;
            match event {
                Event::More => return Ok(()),
                Event::Stream => {
                    self.run_stream(disk, now_ms)?;
                    return Ok(());
                }
                Event::Body => self.rdb.extend_from_slice(&self.input[..used]),
                Event::Nothing => {}
                Event::Send(bytes) => self.say(bytes),
                Event::WantPsync => {
                    let end = self.log.end();
                    let bytes = self.link.psync(&self.history, end);
                    self.say(bytes);
                }
                Event::Continue { id } => {
                    let end = self.log.end();
                    id.into_iter().for_each(|id| self.history.renamed(id, end));
                    self.attached(disk);
                }
                Event::FullResync(sync) => self.fence(sync, None)?,
                Event::BodyBegins { .. } => self.rdb.clear(),
                Event::BodyEnds => self.install(disk, now_ms)?,
            }
            self.input.drain(..used);
        }
    }

    fn attached(&mut self, disk: &mut Disk) {
        if let Some(end) = self.link.master_end() {
            self.role.on_attached(end);
        }
        self.applied(disk);
    }

    fn applied(&mut self, disk: &mut Disk) {
        if self.role.on_applied(self.log.end()) {
            let durable = self.role.durable.clone();
            self.store(&durable, disk);
        }
        self.out.push(Out::Note(Note::Applied));
    }

    fn fence(&mut self, sync: Sync, data: Option<FenceView>) -> Result<(), LinkError> {
        let own = Own {
            data: FenceView { keys: self.data.keys(), epoch: self.history.epoch },
            history: &self.history,
            offset: self.log.end(),
            allowed_once: self.role.accept_once || self.is_weak(Weakening::NoHistoryFence),
        };
        match judge(&own, &Offered { id: sync.id, offset: sync.offset, data }) {
            Verdict::Accept | Verdict::AskAgain => Ok(()),
            Verdict::Refuse(reason) => {
                self.refused = reason;
                Err(LinkError::Fenced(reason))
            }
        }
    }

    /// R8: the former data counts until the new one is whole and on the disk.
    fn install(&mut self, disk: &mut Disk, now_ms: u64) -> Result<(), LinkError> {
        let sync = self.link.sync().expect("a body belongs to a full resync");
        let id = sync.id.expect("a managed replica asks by PSYNC");
        let snapshot = Snapshot::decode(&self.rdb, id, sync.offset);
        self.rdb.clear();
        self.fence(sync, Some(FenceView { keys: snapshot.data.keys(), epoch: snapshot.epoch }))?;
        let before = self.data.clone();
        disk.snapshot = Some(snapshot.clone());
        self.take(snapshot);
        self.refused = "";
        let allowed = std::mem::take(&mut self.role.accept_once);
        self.out.push(Out::Note(Note::Replaced { before, allowed }));
        self.attached(disk);
        let bytes = self.link.on_loaded(sync.offset, now_ms);
        self.acknowledge(&bytes, now_ms);
        Ok(())
    }

    /// Runs whole records, appends them verbatim, acknowledges.
    fn run_stream(&mut self, disk: &mut Disk, now_ms: u64) -> Result<(), LinkError> {
        self.link.on_read(now_ms);
        let mut start = 0;
        let bad = |error: resp::ProtocolError| LinkError::Protocol(error.to_string());
        while let Some(request) = self.parser.parse(&self.input[start..], &RequestLimits::default()).map_err(bad)? {
            let Request::Multibulk { len } = request else {
                return Err(LinkError::Protocol("an inline command in the stream".into()));
            };
            let record = &self.input[start..start + len];
            let args = self.parser.args(record);
            self.log.append(record);
            match Record::of(args) {
                Record::Command => {
                    let write = args.get(2).and_then(resp::number::parse_u64).expect("writes are numbered");
                    self.data.push(write, self.log.end());
                }
                Record::EpochMark { epoch, .. } => self.history.marked(epoch),
                Record::Ping | Record::GetAck | Record::Unknown => {}
            }
            start += len;
        }
        self.input.drain(..start);
        if start > 0 {
            self.applied(disk);
            // As the server does: a managed replica acknowledges each part of the stream at once.
            if let Some(bytes) = self.link.on_applied(self.log.end(), true, now_ms) {
                self.acknowledge(&bytes, now_ms);
            }
        }
        Ok(())
    }
}
