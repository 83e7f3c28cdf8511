//! The two machines against Debian's redis-server, over a real socket: a link follows it, a feed serves it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use replication::feed::{Body, Output, Replconf};
use replication::{Announced, Ask, Event, Feed, FeedState, History, Identity, Link, Log, Record, ReplId, records};
use resp::{OwnedArgs, Request, RequestLimits, RequestParser};

const PATIENCE: Duration = Duration::from_secs(20);

struct Redis {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Redis {
    fn start(args: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = std::env::temp_dir().join(format!("replication-with-redis-{port}"));
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--daemonize", "no", "--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(&dir)
            .args(args)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian: redis-server)");
        let redis = Self { child, port, dir };
        until("redis-server answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        redis
    }

    /// One command; the lines of its reply.
    fn ask(&self, argv: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut bytes = Vec::new();
        resp::encode_command(&mut bytes, argv);
        stream.write_all(&bytes).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some(len) = line.trim().strip_prefix('$').and_then(|len| len.parse::<usize>().ok()) else { return line };
        let mut body = vec![0; len];
        reader.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    fn info(&self, field: &str) -> String {
        let info = self.ask(&["INFO", "replication"]);
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().to_string()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited for too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads what there is; `false` at the end of the stream.
fn fill(stream: &mut TcpStream, buf: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk) {
        Ok(0) => false,
        Ok(n) => {
            buf.extend_from_slice(&chunk[..n]);
            true
        }
        Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn id(n: u8) -> ReplId {
    ReplId::from_random(std::array::from_fn(|i| (i as u8).wrapping_mul(11) ^ n))
}

/// A replica whose data set is the RDB and the commands that came after it.
struct Follower {
    link: Link,
    history: History,
    log: Log,
    rdb: Vec<u8>,
    commands: Vec<String>,
    full: usize,
    partial: usize,
    begun: Instant,
}

impl Follower {
    fn new() -> Self {
        Self {
            link: Link::new(0),
            history: History::fresh(id(1)),
            log: Log::new(0, 1 << 20, 1 << 20),
            rdb: Vec::new(),
            commands: Vec::new(),
            full: 0,
            partial: 0,
            begun: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Follows until `done`, then drops the connection.
    fn follow(&mut self, master: &Redis, mut done: impl FnMut(&Self) -> bool) {
        self.link.retry_now(self.now_ms());
        assert!(self.link.poll_connect(self.now_ms()));
        let mut stream = TcpStream::connect(("127.0.0.1", master.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let identity = Identity { port: 7777, ..Identity::default() };
        stream.write_all(&self.link.on_connected(identity, self.now_ms())).unwrap();
        let (mut buf, mut parser) = (Vec::new(), RequestParser::default());
        let begun = Instant::now();
        while !done(self) {
            assert!(
                begun.elapsed() < PATIENCE,
                "the follower waits for too long: {:?} {:?}",
                self.commands,
                master.ask(&["INFO", "replication"])
            );
            assert!(fill(&mut stream, &mut buf), "the master closed the connection");
            self.work(&mut stream, &mut buf, &mut parser);
            let end = self.log.end();
            if let Some(bytes) = self.link.tick(end, 60_000, self.now_ms()).unwrap() {
                stream.write_all(&bytes).unwrap();
            }
        }
        self.link.fail(&replication::LinkError::Changed, 0, self.now_ms());
    }

    fn work(&mut self, stream: &mut TcpStream, buf: &mut Vec<u8>, parser: &mut RequestParser) {
        loop {
            let now_ms = self.now_ms();
            let (used, event) = self.link.next(buf, now_ms).unwrap();
            let taken: Vec<u8> = buf.drain(..used).collect();
            match event {
                Event::More => return,
                Event::Nothing => {}
                Event::Send(bytes) => stream.write_all(&bytes).unwrap(),
                Event::WantPsync => {
                    let end = self.log.end();
                    stream.write_all(&self.link.psync(&self.history, end)).unwrap();
                }
                Event::Continue { id } => {
                    self.partial += 1;
                    id.into_iter().for_each(|id| self.history.renamed(id, self.log.end()));
                }
                Event::FullResync(_) => self.full += 1,
                Event::BodyBegins { .. } => self.rdb.clear(),
                Event::Body => self.rdb.extend(taken),
                Event::BodyEnds => {
                    let sync = self.link.sync().unwrap();
                    self.history.replaced(sync.id.unwrap(), 0);
                    self.log.reset(sync.offset);
                    stream.write_all(&self.link.on_loaded(sync.offset, now_ms)).unwrap();
                }
                Event::Stream => return self.run(stream, buf, parser, now_ms),
            }
        }
    }

    fn run(&mut self, stream: &mut TcpStream, buf: &mut Vec<u8>, parser: &mut RequestParser, now_ms: u64) {
        let mut wants_ack = false;
        self.link.on_read(now_ms);
        while let Some(Request::Multibulk { len }) = parser.parse(buf, &RequestLimits::default()).unwrap() {
            let args = parser.args(buf);
            wants_ack |= Record::of(args).wants_ack(false);
            if Record::of(args) == Record::Command {
                self.commands.push(args.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "));
            }
            self.log.append(&buf[..len]);
            buf.drain(..len);
        }
        if let Some(bytes) = self.link.on_applied(self.log.end(), wants_ack, now_ms) {
            stream.write_all(&bytes).unwrap();
        }
    }
}

fn follows_redis(diskless: &str) {
    let master = Redis::start(&["--repl-diskless-sync", diskless]);
    (0..100).for_each(|n| drop(master.ask(&["SET", &format!("k{n}"), "v"])));
    let mut follower = Follower::new();
    follower.follow(&master, |f| f.link.is_streaming());
    assert!(follower.rdb.starts_with(b"REDIS00") && follower.rdb.len() > 500, "{} bytes", follower.rdb.len());
    assert_eq!((follower.full, follower.partial), (1, 0));
    // Cut, written to, and continued: nothing is missing, nothing comes twice.
    master.ask(&["SET", "while", "away"]);
    let mut asked = false;
    follower.follow(&master, |f| {
        if f.link.is_streaming() && !std::mem::replace(&mut asked, true) {
            master.ask(&["SET", "while", "here"]);
        }
        // What the master counts as acknowledged is what is here.
        f.commands.len() >= 3 && master.info("slave0").contains(&format!("offset={},", f.log.end()))
    });
    assert_eq!(follower.commands, ["SELECT 0", "SET while away", "SET while here"]);
    assert_eq!((follower.full, follower.partial), (1, 1));
    assert_eq!(follower.log.end().to_string(), master.info("master_repl_offset"));
    assert_eq!(follower.history.id.as_str(), master.info("master_replid"));
}

#[test]
fn a_link_follows_redis_by_length() {
    follows_redis("no");
}

#[test]
fn a_link_follows_redis_by_mark() {
    follows_redis("yes");
}

/// Serves one replica with a feed until `done`.
struct Server {
    listener: TcpListener,
    log: Log,
    history: History,
    rdb: Vec<u8>,
    begun: Instant,
}

impl Server {
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn write(&mut self, argv: &[&str]) {
        let mut record = Vec::new();
        resp::encode_command(&mut record, argv);
        self.log.append(&record);
    }

    fn serve(&mut self, mark: bool, mut done: impl FnMut(&Self, Option<&Feed>) -> bool) -> Feed {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (mut buf, mut parser) = (Vec::new(), RequestParser::default());
        let (mut announced, mut feed, mut reader) = (Announced::default(), None::<Feed>, None);
        let begun = Instant::now();
        while !done(self, feed.as_ref()) {
            assert!(begun.elapsed() < PATIENCE, "the feed waits for too long: {feed:?}");
            assert!(fill(&mut stream, &mut buf), "the replica closed the connection");
            let mut outputs = Vec::new();
            while let Some(args) = command(&mut buf, &mut parser) {
                let (args, now_ms) = (args.as_args(), self.begun.elapsed().as_millis() as u64);
                match (&mut feed, &args.at(0).to_ascii_lowercase()[..]) {
                    (Some(feed), _) => outputs.extend(feed.on_command(args, now_ms)),
                    (None, b"ping") => stream.write_all(b"+PONG\r\n").unwrap(),
                    (None, b"replconf") => match announced.replconf(args.skip(1), &self.history, self.log.end()) {
                        Replconf::Simple(line) => stream.write_all(format!("+{line}\r\n").as_bytes()).unwrap(),
                        other => panic!("{other:?}"),
                    },
                    (None, _) => {
                        let (ask, log) = (Ask::parse(args).unwrap(), &self.log);
                        let has = |offset| log.contains(offset);
                        let (new, first) = Feed::open(announced.clone(), &ask, &self.history, log.end(), has, now_ms);
                        feed = Some(new);
                        outputs = first;
                    }
                }
            }
            let Some(feed) = &mut feed else { continue };
            for output in outputs {
                match output {
                    Output::Send(bytes) => stream.write_all(&bytes).unwrap(),
                    Output::Stream { from } => reader = reader.or_else(|| self.log.attach(from)),
                    Output::Close(why) => panic!("{why}"),
                    Output::Snapshot(wanted) => {
                        reader = self.log.attach(self.log.end());
                        assert!(wanted.eof, "Redis takes a mark");
                        self.send_snapshot(feed, mark, &mut stream);
                    }
                }
            }
            let mut bytes = Vec::new();
            if let (Some(reader), FeedState::Online) = (reader, feed.state()) {
                self.log.read(reader, usize::MAX, &mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
            }
        }
        feed.unwrap()
    }

    /// The body, with a write in its middle and another right behind it.
    fn send_snapshot(&mut self, feed: &mut Feed, mark: bool, stream: &mut TcpStream) {
        let mut send = |outputs: Vec<Output>| {
            for output in outputs {
                if let Output::Send(bytes) = output {
                    stream.write_all(&bytes).unwrap();
                }
            }
        };
        let body = if mark { Body::Mark(id(9)) } else { Body::Length(self.rdb.len() as u64) };
        send(feed.on_snapshot_begun(self.history.id, self.log.end()));
        send(feed.on_body(body, self.now_ms()));
        send(vec![Output::Send(self.rdb.clone())]);
        self.write(&["SELECT", "0"]);
        self.write(&["SET", "during", "the sync"]);
        send(feed.on_body_sent(self.now_ms()));
    }
}

fn command(buf: &mut Vec<u8>, parser: &mut RequestParser) -> Option<OwnedArgs> {
    loop {
        let (len, args) = match parser.parse(buf, &RequestLimits::default()).unwrap()? {
            Request::Multibulk { len } => (len, parser.args(buf).to_owned()),
            Request::Inline { len, args } => (len, args),
        };
        buf.drain(..len);
        if !args.as_args().is_empty() {
            return Some(args);
        }
    }
}

fn serves_redis(mark: bool) {
    // An RDB of Redis's own making.
    let source = Redis::start(&[]);
    source.ask(&["SET", "from", "the snapshot"]);
    let mut follower = Follower::new();
    follower.follow(&source, |f| f.link.is_streaming());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &port]);
    let log = Log::new(5000, 1 << 20, 1 << 20);
    let mut server = Server { listener, log, history: History::new(id(3)), rdb: follower.rdb, begun: Instant::now() };
    let holds_all = |server: &Server, feed: Option<&Feed>| {
        feed.and_then(Feed::ack).is_some_and(|ack| ack.offset == server.log.end())
    };
    let feed =
        server.serve(mark, |server, feed| holds_all(server, feed) && replica.ask(&["GET", "during"]) == "the sync");
    assert!(feed.full.is_some() && feed.announced.psync2 && feed.announced.eof);
    assert_eq!(replica.ask(&["GET", "from"]), "the snapshot");
    // The connection is cut; under a new id, as after a promotion, the replica goes on.
    server.history.shift(id(4), server.log.end());
    server.log.append(&records::epoch_mark(7, id(4)));
    server.write(&["SET", "while", "away"]);
    server.log.append(records::GETACK);
    let feed = server.serve(mark, holds_all);
    assert_eq!(feed.full, None, "a partial resync");
    until("the write arrives", || replica.ask(&["GET", "while"]) == "away");
    assert_eq!(replica.info("master_replid"), id(4).as_str());
    assert_eq!(replica.info("master_repl_offset"), server.log.end().to_string());
}

#[test]
fn a_feed_serves_redis_by_length() {
    serves_redis(false);
}

#[test]
fn a_feed_serves_redis_by_mark() {
    serves_redis(true);
}
