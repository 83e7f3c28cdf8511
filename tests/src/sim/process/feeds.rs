//! Its replicas: what they ask for and acknowledge, and what they are sent.

use replication::feed::{Body, Output, Replconf, Serving};
use replication::{Ask, Feed, ReplId};
use resp::{Args, Request, RequestLimits};

use super::{FeedEnd, Out, Process, Weakening};

impl Process {
    pub fn accept(&mut self, conn: u64) {
        self.feeds.insert(conn, FeedEnd::default());
    }

    pub fn replicas(&self) -> usize {
        self.feeds.len()
    }

    pub(super) fn forget_feed(&mut self, conn: u64) {
        if let Some(reader) = self.feeds.remove(&conn).and_then(|end| end.reader) {
            self.log.detach(reader);
        }
    }

    pub(super) fn drop_replicas(&mut self) {
        for conn in self.feeds.keys().copied().collect::<Vec<_>>() {
            self.forget_feed(conn);
            self.out.push(Out::Close { conn });
        }
    }

    pub(super) fn on_replica_input(&mut self, conn: u64, bytes: &[u8], now_ms: u64) {
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        end.input.extend_from_slice(bytes);
        let (mut input, mut parser) = (std::mem::take(&mut end.input), std::mem::take(&mut end.parser));
        let mut start = 0;
        while let Ok(Some(request)) = parser.parse(&input[start..], &RequestLimits::default()) {
            match request {
                Request::Multibulk { len } => {
                    let args = parser.args(&input[start..]);
                    self.on_replica_command(conn, args, now_ms);
                    start += len;
                }
                Request::Inline { len, args } => {
                    if args.as_args().is_empty() {
                        self.on_replica_command(conn, args.as_args(), now_ms);
                    }
                    start += len;
                }
            }
        }
        input.drain(..start);
        if let Some(end) = self.feeds.get_mut(&conn) {
            (end.input, end.parser) = (input, parser);
        }
    }

    fn on_replica_command(&mut self, conn: u64, args: Args<'_>, now_ms: u64) {
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        if let Some(feed) = &mut end.feed {
            let outputs = feed.on_command(args, now_ms);
            let (ack, member) = (feed.ack(), feed.member());
            self.carry_out(conn, outputs, now_ms);
            if let Some((ack, (epoch, volume))) = ack.zip(member) {
                self.role.on_ack(epoch, volume, ack.offset);
                self.release(now_ms);
            }
            return;
        }
        if args.is_empty() {
            return;
        }
        let bytes = match &args.at(0).to_ascii_lowercase()[..] {
            b"ping" => b"+PONG\r\n".to_vec(),
            b"replconf" => match end.announced.replconf(args.skip(1), &self.history, self.log.end()) {
                Replconf::Simple(line) => format!("+{line}\r\n").into_bytes(),
                Replconf::Error(line) => format!("-{line}\r\n").into_bytes(),
                Replconf::Nothing => return,
            },
            _ => return self.serve(conn, args, now_ms),
        };
        self.out.push(Out::Send { conn, bytes });
    }

    fn serve(&mut self, conn: u64, args: Args<'_>, now_ms: u64) {
        let ask = Ask::parse(args).expect("the link asks properly");
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        let serving = match self.loading {
            true => Serving::Loading,
            false => Serving::Managed { role: &self.role, link_up: false },
        };
        let check = match self.settings.weakening {
            Some(Weakening::ServesAnyEpoch) if !self.loading => Ok(()),
            _ => serving.check(&end.announced),
        };
        if let Err(why) = check {
            self.out.push(Out::Send { conn, bytes: format!("-{why}\r\n").into_bytes() });
            return;
        }
        let log = &self.log;
        let (feed, outputs) =
            Feed::open(end.announced.clone(), &ask, &self.history, log.end(), |o| log.contains(o), now_ms);
        end.feed = Some(feed);
        self.carry_out(conn, outputs, now_ms);
        self.pump();
    }

    pub(super) fn carry_out(&mut self, conn: u64, outputs: Vec<Output>, now_ms: u64) {
        for output in outputs {
            match output {
                Output::Send(bytes) => self.out.push(Out::Send { conn, bytes }),
                Output::Snapshot(wanted) => self.send_snapshot(conn, wanted.eof, now_ms),
                Output::Stream { from } => {
                    // After a snapshot the reader has been there since the cut.
                    if let Some(end) = self.feeds.get_mut(&conn)
                        && end.reader.is_none()
                    {
                        end.reader = self.log.attach(from);
                        assert!(end.reader.is_some(), "the log does not reach back to {from}");
                    }
                    self.pump();
                }
                Output::Close(_) => {
                    self.forget_feed(conn);
                    self.out.push(Out::Close { conn });
                }
            }
        }
    }

    fn send_snapshot(&mut self, conn: u64, eof: bool, now_ms: u64) {
        let body = self.snapshot().encode();
        let kind = match eof && self.rng.chance(500) {
            true => Body::Mark(ReplId::from_random(self.rng.id())),
            false => Body::Length(body.len() as u64),
        };
        let (cut, id) = (self.log.end(), self.history.id);
        let Some(end) = self.feeds.get_mut(&conn) else { return };
        end.reader = self.log.attach(cut);
        let Some(feed) = &mut end.feed else { return };
        let mut outputs = feed.on_snapshot_begun(id, cut);
        outputs.extend(feed.on_body(kind, now_ms));
        // In a few parts, so that the connection can be lost between them.
        outputs.extend(body.chunks(body.len() / 3 + 1).map(|part| Output::Send(part.to_vec())));
        outputs.extend(feed.on_body_sent(now_ms));
        self.carry_out(conn, outputs, now_ms);
    }

    pub fn refused(&self) -> &'static str {
        self.refused
    }

    /// Gives each replica what it lacks of the log.
    pub(super) fn pump(&mut self) {
        let mut cut_off = Vec::new();
        for (&conn, end) in &mut self.feeds {
            let online = end.feed.as_ref().is_some_and(|feed| feed.state() == replication::FeedState::Online);
            let Some(reader) = end.reader.filter(|_| online) else { continue };
            let mut bytes = Vec::new();
            match self.log.read(reader, usize::MAX, &mut bytes) {
                Ok(0) => {}
                Ok(_) => self.out.push(Out::Send { conn, bytes }),
                Err(_) => cut_off.push(conn),
            }
        }
        for conn in cut_off {
            self.forget_feed(conn);
            self.out.push(Out::Close { conn });
        }
    }
}
