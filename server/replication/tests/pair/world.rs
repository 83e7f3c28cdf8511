//! The instances and what connects them.

use std::collections::VecDeque;

use replication::feed::{Announced, Body, Close, Feed, FeedLimits, FeedState, Output, Replconf, Serving};
use replication::fence::{FenceView, Offered, Own, Verdict, judge};
use replication::link::{Event, Identity, Link, LinkError, Sync};
use replication::{Ask, CutOff, Durable, History, Log, ReaderId, Record, ReplId, Role};
use resp::{Args, OwnedArgs, Request, RequestLimits, RequestParser};

pub(crate) const LEASE_MS: u64 = 2000;
pub(crate) const TIMEOUT_MS: u64 = 60_000;

pub(crate) fn id(n: u8) -> ReplId {
    // As a random one: no end of it is a beginning of it.
    ReplId::from_random(std::array::from_fn(|i| (i as u8).wrapping_mul(11) ^ n.wrapping_mul(31)))
}

/// One instance: its log, its history, and its data set, which is all the commands that made it.
pub(crate) struct Node {
    pub(crate) log: Log,
    pub(crate) history: History,
    pub(crate) data: Vec<u8>,
    pub(crate) role: Option<Role>,
    pub(crate) refused: &'static str,
    pub(crate) full_syncs: usize,
    pub(crate) partial_syncs: usize,
}

impl Node {
    pub(crate) fn new(n: u8) -> Self {
        Self {
            log: Log::new(0, 10_000, 100_000),
            history: History::new(id(n)),
            data: Vec::new(),
            role: None,
            refused: "",
            full_syncs: 0,
            partial_syncs: 0,
        }
    }

    /// A managed one, on the volume `n`, in its first incarnation.
    pub(crate) fn managed(n: u8, now_ms: u64) -> Self {
        let durable = Durable { volume: u64::from(n), ..Durable::default() };
        Self { role: Some(Role::new(durable, 100 + u64::from(n), LEASE_MS, now_ms)), ..Self::new(n) }
    }

    pub(crate) fn role(&mut self) -> &mut Role {
        self.role.as_mut().expect("a managed instance")
    }

    pub(crate) fn append(&mut self, record: &[u8]) {
        self.log.append(record);
        self.apply(record);
    }

    /// Only commands make data.
    fn apply(&mut self, record: &[u8]) {
        let mut parser = RequestParser::default();
        let whole = parser.parse(record, &RequestLimits::default());
        assert!(matches!(whole, Ok(Some(Request::Multibulk { len })) if len == record.len()), "not one record");
        match Record::of(parser.args(record)) {
            Record::Command => self.data.extend_from_slice(record),
            Record::EpochMark { epoch, .. } => self.history.marked(epoch),
            Record::Ping | Record::GetAck | Record::Unknown => {}
        }
    }

    pub(crate) fn write(&mut self, value: &str) {
        let mut record = Vec::new();
        resp::encode_command(&mut record, &["SET", "k", value]);
        self.append(&record);
    }

    pub(crate) fn begin_reign(&mut self, epoch: u64, new: ReplId) {
        self.history.shift(new, self.log.end());
        self.append(&replication::records::epoch_mark(epoch, new));
    }

    /// What REPLICAOF NO ONE does.
    pub(crate) fn stand_alone(&mut self, new: ReplId) {
        self.history.shift(new, self.log.end());
    }

    pub(crate) fn keys(&self) -> u64 {
        (self.data.len() / 10) as u64
    }

    fn view(&self) -> FenceView {
        FenceView { keys: self.keys(), epoch: self.history.epoch }
    }

    fn rdb(&self) -> Vec<u8> {
        let mut rdb = format!("{:010}", self.history.epoch).into_bytes();
        rdb.extend_from_slice(&self.data);
        rdb
    }
}

/// How the master makes its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snapshots {
    ByLength,
    ByMark,
}

/// The connection between a replica and its master; `None` while there is none.
#[derive(Default)]
struct Wire {
    to_master: VecDeque<u8>,
    to_replica: VecDeque<u8>,
}

#[derive(Default)]
struct MasterEnd {
    announced: Announced,
    feed: Option<Feed>,
    reader: Option<ReaderId>,
    parser: RequestParser,
    input: Vec<u8>,
    /// A body that is being sent.
    body: VecDeque<u8>,
}

pub(crate) struct Pair {
    pub(crate) master: Node,
    pub(crate) replica: Node,
    pub(crate) link: Link,
    pub(crate) now_ms: u64,
    pub(crate) snapshots: Snapshots,
    pub(crate) errors: Vec<LinkError>,
    pub(crate) closed: Option<Close>,
    wire: Option<Wire>,
    end: MasterEnd,
    input: Vec<u8>,
    rdb: Vec<u8>,
    parser: RequestParser,
}

impl Pair {
    pub(crate) fn new(master: Node, replica: Node) -> Self {
        Self {
            master,
            replica,
            link: Link::new(0),
            now_ms: 0,
            snapshots: Snapshots::ByLength,
            errors: Vec::new(),
            closed: None,
            wire: None,
            end: MasterEnd::default(),
            input: Vec::new(),
            rdb: Vec::new(),
            parser: RequestParser::default(),
        }
    }

    /// The network loses the connection, or the replica gives it up.
    pub(crate) fn cut(&mut self, why: LinkError) {
        if let Some(reader) = self.end.reader.take() {
            self.master.log.detach(reader);
        }
        self.end = MasterEnd::default();
        self.wire = None;
        self.input.clear();
        self.parser = RequestParser::default();
        self.link.fail(&why, 0, self.now_ms);
        self.errors.push(why);
    }

    /// Roles change places; the wire between them is another.
    pub(crate) fn swap(&mut self) {
        self.cut(LinkError::Changed);
        std::mem::swap(&mut self.master, &mut self.replica);
        self.link = Link::new(self.now_ms);
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.tick();
    }

    /// Runs until nothing moves; time stands still.
    pub(crate) fn settle(&mut self) {
        self.tick();
        while self.carry(usize::MAX) > 0 {}
    }

    /// Lets time go on in steps of 100 ms, so long, with everything that happens in it.
    pub(crate) fn run(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.advance(100);
            self.settle();
        }
    }

    /// Carries up to `max` bytes in each direction; returns how many.
    pub(crate) fn carry(&mut self, max: usize) -> usize {
        self.feed_more(max);
        let Some(wire) = &mut self.wire else { return 0 };
        let up: Vec<u8> = wire.to_master.drain(..max.min(wire.to_master.len())).collect();
        let down: Vec<u8> = wire.to_replica.drain(..max.min(wire.to_replica.len())).collect();
        let n = up.len() + down.len();
        self.master_hears(&up);
        self.replica_hears(&down);
        n
    }

    pub(crate) fn state(&self) -> Option<FeedState> {
        self.end.feed.as_ref().map(Feed::state)
    }

    pub(crate) fn feed_ack(&self) -> Option<u64> {
        self.end.feed.as_ref().and_then(Feed::ack).map(|ack| ack.offset)
    }

    fn tick(&mut self) {
        let replica_may_follow = self.replica.role.as_ref().is_none_or(Role::may_follow);
        if replica_may_follow && self.link.poll_connect(self.now_ms) {
            self.wire = Some(Wire::default());
            let identity = Identity {
                managed: self.replica.role.as_ref().map(|r| (r.role_epoch(), r.durable.volume)),
                ..Identity::default()
            };
            let bytes = self.link.on_connected(identity, self.now_ms);
            self.replica_says(&bytes);
        }
        match self.link.tick(self.replica.log.end(), TIMEOUT_MS, self.now_ms) {
            Ok(Some(bytes)) => self.acknowledge(&bytes),
            Ok(None) => {}
            Err(error) => self.cut(error),
        }
        let behind = self.end.reader.and_then(|reader| self.master.log.behind(reader)).unwrap_or(0);
        let limits = FeedLimits { timeout_ms: TIMEOUT_MS, hard_bytes: 0, soft_bytes: 0, soft_ms: 0, backlog_bytes: 0 };
        let outputs =
            self.end.feed.as_mut().map(|feed| feed.tick(Ok(behind), &limits, self.now_ms)).unwrap_or_default();
        self.carry_out(outputs);
    }

    // The replica.

    fn replica_says(&mut self, bytes: &[u8]) {
        if let Some(wire) = &mut self.wire {
            wire.to_master.extend(bytes);
        }
    }

    /// R2, R4: an acknowledgement is sent only if the role lets it.
    fn acknowledge(&mut self, bytes: &[u8]) {
        let now_ms = self.now_ms;
        if self.replica.role.as_mut().is_none_or(|role| role.acknowledge(now_ms)) {
            self.replica_says(bytes);
        } else {
            self.cut(LinkError::Changed);
        }
    }

    fn replica_hears(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.wire.is_some() {
            let (used, event) = match self.link.next(&self.input, self.now_ms) {
                Ok(step) => step,
                Err(error) => return self.cut(error),
            };
            let taken: Vec<u8> = self.input.drain(..used).collect();
            match event {
                Event::More => return,
                Event::Stream => return self.run_stream(),
                Event::Nothing => {}
                Event::Send(bytes) => self.replica_says(&bytes),
                Event::WantPsync => {
                    let end = self.replica.log.end();
                    let bytes = self.link.psync(&self.replica.history, end);
                    self.replica_says(&bytes);
                }
                Event::Continue { id } => {
                    let end = self.replica.log.end();
                    id.into_iter().for_each(|id| self.replica.history.renamed(id, end));
                    self.replica.partial_syncs += 1;
                    self.attached();
                }
                Event::FullResync(sync) => {
                    if let Err(error) = self.fence(sync, None) {
                        return self.cut(error);
                    }
                }
                Event::BodyBegins { .. } => self.rdb.clear(),
                Event::Body => self.rdb.extend(taken),
                Event::BodyEnds => {
                    if let Err(error) = self.load() {
                        return self.cut(error);
                    }
                }
            }
        }
    }

    fn attached(&mut self) {
        let (end, applied) = (self.link.master_end(), self.replica.log.end());
        if let Some(role) = &mut self.replica.role {
            end.into_iter().for_each(|end| role.on_attached(end));
            role.on_applied(applied);
        }
    }

    fn fence(&mut self, sync: Sync, data: Option<FenceView>) -> Result<(), LinkError> {
        let node = &self.replica;
        let allowed_once = node.role.as_ref().is_some_and(|role| role.accept_once);
        let own = Own { data: node.view(), history: &node.history, offset: node.log.end(), allowed_once };
        match judge(&own, &Offered { id: sync.id, offset: sync.offset, data }) {
            Verdict::Accept | Verdict::AskAgain => Ok(()),
            Verdict::Refuse(reason) => {
                self.replica.refused = reason;
                Err(LinkError::Fenced(reason))
            }
        }
    }

    fn load(&mut self) -> Result<(), LinkError> {
        let Some(sync) = self.link_sync() else { panic!("a body outside a full resync") };
        let (epoch, data) = self.rdb.split_at(10);
        let epoch = std::str::from_utf8(epoch).unwrap().parse().unwrap();
        let data = data.to_vec();
        self.fence(sync, Some(FenceView { keys: (data.len() / 10) as u64, epoch }))?;
        let node = &mut self.replica;
        node.history.replaced(sync.id.unwrap_or(id(250)), epoch);
        node.log.reset(sync.offset);
        node.data = data;
        node.full_syncs += 1;
        node.refused = "";
        node.role.iter_mut().for_each(|role| role.accept_once = false);
        self.attached();
        let bytes = self.link.on_loaded(sync.offset, self.now_ms);
        self.acknowledge(&bytes);
        Ok(())
    }

    fn link_sync(&self) -> Option<Sync> {
        self.link.sync()
    }

    /// Runs whole records, appends them verbatim, acknowledges.
    fn run_stream(&mut self) {
        let mut wants_ack = false;
        self.link.on_read(self.now_ms);
        let managed = self.replica.role.is_some();
        while let Ok(Some(Request::Multibulk { len })) = self.parser.parse(&self.input, &RequestLimits::default()) {
            wants_ack |= Record::of(self.parser.args(&self.input)).wants_ack(managed);
            let record: Vec<u8> = self.input.drain(..len).collect();
            self.replica.append(&record);
        }
        let end = self.replica.log.end();
        self.replica.role.iter_mut().for_each(|role| _ = role.on_applied(end));
        if let Some(bytes) = self.link.on_applied(end, wants_ack, self.now_ms) {
            self.acknowledge(&bytes);
        }
    }

    // The master.

    fn master_hears(&mut self, bytes: &[u8]) {
        self.end.input.extend_from_slice(bytes);
        let mut input = std::mem::take(&mut self.end.input);
        let mut parser = std::mem::take(&mut self.end.parser);
        while let Ok(Some(request)) = parser.parse(&input, &RequestLimits::default()) {
            let (len, args) = match request {
                Request::Multibulk { len } => (len, parser.args(&input).to_owned()),
                Request::Inline { len, args } => (len, args),
            };
            input.drain(..len);
            if !args.as_args().is_empty() {
                self.master_does(&args);
            }
        }
        if self.wire.is_some() {
            (self.end.input, self.end.parser) = (input, parser);
        }
    }

    fn master_says(&mut self, bytes: &[u8]) {
        if let Some(wire) = &mut self.wire {
            wire.to_replica.extend(bytes);
        }
    }

    fn master_does(&mut self, args: &OwnedArgs) {
        let args = args.as_args();
        if let Some(feed) = &mut self.end.feed {
            let outputs = feed.on_command(args, self.now_ms);
            let (ack, member) = (feed.ack(), feed.member());
            self.carry_out(outputs);
            if let (Some(role), Some(ack)) = (&mut self.master.role, ack) {
                member.into_iter().for_each(|(epoch, volume)| role.on_ack(epoch, volume, ack.offset));
            }
            return;
        }
        match &args.at(0).to_ascii_lowercase()[..] {
            b"ping" => self.master_says(b"+PONG\r\n"),
            b"replconf" => match self.end.announced.replconf(args.skip(1), &self.master.history, self.master.log.end())
            {
                Replconf::Simple(line) => self.master_says(format!("+{line}\r\n").as_bytes()),
                Replconf::Error(line) => self.master_says(format!("-{line}\r\n").as_bytes()),
                Replconf::Nothing => {}
            },
            b"psync" | b"sync" => self.master_serves(args),
            other => panic!("the link said {:?}", String::from_utf8_lossy(other)),
        }
    }

    fn master_serves(&mut self, args: Args<'_>) {
        let ask = Ask::parse(args).expect("the link asks properly");
        let serving = match &self.master.role {
            Some(role) => Serving::Managed { role, link_up: false },
            None => Serving::Master,
        };
        if let Err(why) = serving.check(&self.end.announced) {
            return self.master_says(format!("-{why}\r\n").as_bytes());
        }
        let (log, announced) = (&self.master.log, self.end.announced.clone());
        let (feed, outputs) =
            Feed::open(announced, &ask, &self.master.history, log.end(), |o| log.contains(o), self.now_ms);
        self.end.feed = Some(feed);
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(bytes) => self.master_says(&bytes),
                Output::Snapshot(wanted) => self.snapshot(wanted.eof),
                Output::Stream { from } => {
                    // After a snapshot the reader has been there since the cut.
                    if self.end.reader.is_none() {
                        self.end.reader = self.master.log.attach(from);
                    }
                    assert!(self.end.reader.is_some(), "the log does not reach back to {from}");
                }
                Output::Close(why) => {
                    self.closed = Some(why);
                    self.cut(LinkError::Io("closed".into()));
                }
            }
        }
    }

    fn snapshot(&mut self, eof: bool) {
        let body = self.master.rdb();
        let (cut, history) = (self.master.log.end(), self.master.history.id);
        self.end.reader = self.master.log.attach(cut);
        let kind = match self.snapshots {
            Snapshots::ByMark if eof => Body::Mark(id(99)),
            Snapshots::ByMark | Snapshots::ByLength => Body::Length(body.len() as u64),
        };
        self.end.body = body.into();
        let now_ms = self.now_ms;
        let Some(feed) = &mut self.end.feed else { return };
        let mut outputs = feed.on_snapshot_begun(history, cut);
        outputs.extend(feed.on_body(kind, now_ms));
        self.carry_out(outputs);
    }

    /// Gives the wire more of the body or of the log.
    fn feed_more(&mut self, max: usize) {
        let Some(feed) = &mut self.end.feed else { return };
        match feed.state() {
            FeedState::WaitSnapshot | FeedState::WaitAck => {}
            FeedState::Sending => {
                let n = max.min(self.end.body.len());
                let bytes: Vec<u8> = self.end.body.drain(..n).collect();
                feed.on_progress(self.now_ms);
                let sent = self.end.body.is_empty().then(|| feed.on_body_sent(self.now_ms));
                self.master_says(&bytes);
                self.carry_out(sent.unwrap_or_default());
            }
            FeedState::Online => {
                let (Some(reader), mut bytes) = (self.end.reader, Vec::new()) else { return };
                match self.master.log.read(reader, max, &mut bytes) {
                    Ok(_) => self.master_says(&bytes),
                    Err(CutOff { .. }) => self.cut(LinkError::Io("cut off".into())),
                }
            }
        }
    }

    /// While they are connected: the replica's data is how the master's began. Always: offsets agree with it.
    pub(crate) fn check(&self) {
        if self.link.is_streaming() {
            assert!(self.master.data.starts_with(&self.replica.data), "the replica is silently wrong");
            assert!(self.replica.log.end() <= self.master.log.end());
        }
    }

    pub(crate) fn assert_equal(&self) {
        assert_eq!(self.replica.data, self.master.data);
        assert_eq!(self.replica.log.end(), self.master.log.end());
        assert_eq!(self.replica.history.id, self.master.history.id);
        assert_eq!(self.replica.history.epoch, self.master.history.epoch);
    }
}
