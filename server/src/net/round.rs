//! A round: what the connections of a worker have read since the last one, run together.
//!
//! A connection that has parsed its requests submits them and lets the others have their turn to do the same; who comes
//! back first runs everything. So keys of all connections are fetched from memory at the same time, and locks are taken,
//! the log is appended to and the clock is read for many commands at once, also when each connection sends one command at a
//! time. A connection whose keys another worker has locked is put off until the others of the round have been run.
//!
//! Each connection's requests are run in their order; nothing is sent before the round is over and what it wrote is in
//! the log.

use std::cell::{Cell, Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::Keyspace;
use engine::keyspace::Touch;
use resp::{Args, OwnedArgs, Span};
use smallvec::SmallVec;

use crate::config::Settings;
use crate::dispatch::{Batch, Next, Session, execute};
use crate::state::Server;

/// Requests that make a round full: it is run without waiting for others.
const FULL: usize = 1024;
/// Requests whose keys are fetched together, about.
const AHEAD: usize = 24;

/// One request in the input: where it starts, how long it is, and which spans are its arguments.
#[derive(Debug)]
struct Frame {
    start: usize,
    len: usize,
    spans: (usize, usize),
    /// Number of the inline request that it is.
    inline: Option<usize>,
    /// Of the first argument.
    hash: u64,
}

/// A connection's part of a round.
#[derive(Debug)]
pub(super) struct Work {
    pub session: Session,
    pub input: Vec<u8>,
    pub frames: Frames,
    spans: Vec<Span>,
    /// Inline requests, which were unquoted.
    inline: Vec<OwnedArgs>,
    /// Requests that have been run.
    at: usize,
    /// What the connection has to do now.
    pub next: Next,
}

/// The requests that were parsed.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<Frame>);

impl Frames {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Work {
    pub(super) fn new(session: Session, input: Vec<u8>) -> Self {
        let (frames, spans, inline) = (Frames::default(), Vec::new(), Vec::new());
        Self { session, input, frames, spans, inline, at: 0, next: Next::Continue }
    }

    /// No requests yet.
    pub(super) fn begin(&mut self) {
        self.frames.0.clear();
        self.spans.clear();
        self.inline.clear();
        self.at = 0;
    }

    /// Gives memory back that a large request needed.
    pub(super) fn give_back(&mut self) {
        self.frames = Frames::default();
        self.spans = Vec::new();
        self.inline = Vec::new();
        self.at = 0;
    }

    /// Adds a request of `len` bytes at `start` of the input.
    #[inline]
    pub(super) fn push_multibulk(&mut self, start: usize, len: usize, spans: &[Span], keyspace: &Keyspace) {
        let from = self.spans.len();
        let mut hash = 0;
        // `*0` and `*-1` are requests without arguments.
        if len > 4 {
            self.spans.extend_from_slice(spans);
            hash = Args::new(&self.input[start..], spans).get(1).map_or(0, |key| keyspace.hash(key));
        }
        self.frames.0.push(Frame { start, len, spans: (from, self.spans.len()), inline: None, hash });
    }

    pub(super) fn push_inline(&mut self, start: usize, len: usize, args: OwnedArgs) {
        self.frames.0.push(Frame { start, len, spans: (0, 0), inline: Some(self.inline.len()), hash: 0 });
        self.inline.push(args);
    }

    /// Have all its requests been run?
    pub(super) fn is_over(&self) -> bool {
        self.at >= self.frames.len()
    }

    /// What the next requests are going to touch.
    fn touches(&self) -> impl Iterator<Item = Touch<'_>> {
        let args = |f: &Frame| Args::new(&self.input[f.start..f.start + f.len], &self.spans[f.spans.0..f.spans.1]);
        let db = self.session.db;
        self.frames.0[self.at..].iter().map(move |f| Touch { db, hash: f.hash, args: args(f) })
    }

    /// Runs its requests, up to one after which the connection has something to do, or that is put off.
    fn run(&mut self, batch: &mut Batch<'_>) {
        // Another connection of the round may have ended this one.
        if self.session.client.killed.load(Ordering::Acquire) {
            self.next = Next::Close;
            return;
        }
        let mut next = Next::Continue;
        let hard = batch.settings.client_output_buffer_limit.normal.hard;
        let client = &self.session.client;
        client.input.store(self.input.len() - self.frames.0.first().map_or(0, |f| f.start), Ordering::Relaxed);
        client.input_free.store(self.input.capacity() - self.input.len(), Ordering::Relaxed);
        while let (Next::Continue, Some(frame)) = (&next, self.frames.0.get(self.at)) {
            let bytes = &self.input[frame.start..frame.start + frame.len];
            let (args, raw) = match frame.inline {
                Some(number) => (self.inline[number].as_args(), None),
                None => (Args::new(bytes, &self.spans[frame.spans.0..frame.spans.1]), Some(bytes)),
            };
            if !args.is_empty() {
                next = execute(batch, &mut self.session, args, raw, raw.is_some().then_some(frame.hash));
            }
            if hard > 0 && self.session.out.len() as u64 > hard {
                next = Next::OverLimit;
            }
            self.at += usize::from(!matches!(next, Next::Paused | Next::PutOff));
        }
        let client = &self.session.client;
        client.last_ms.store(batch.unix_ms(), Ordering::Relaxed);
        client.last.store(self.session.last, Ordering::Relaxed);
        client.input.store(0, Ordering::Relaxed);
        self.next = next;
    }
}

type Shared = Rc<RefCell<Work>>;

/// When a connection may have its round run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// When the others have had their turn.
    Later,
    Now,
}

/// What a worker's connections share.
#[derive(Debug)]
pub(super) struct Round {
    server: Arc<Server>,
    waiting: RefCell<VecDeque<Shared>>,
    requests: Cell<usize>,
    /// With their version.
    settings: RefCell<(u64, Rc<Settings>)>,
    input_bytes: Cell<u64>,
    output_bytes: Cell<u64>,
    /// For effects on their way to the log.
    buffer: RefCell<Vec<u8>>,
}

/// A copy that no other worker counts references of.
fn own(server: &Server) -> Rc<Settings> {
    Rc::new(Settings::clone(&server.settings()))
}

impl Round {
    pub(super) fn new(server: &Arc<Server>) -> Self {
        let version = server.settings_version();
        Self {
            settings: RefCell::new((version, own(server))),
            server: Arc::clone(server),
            waiting: RefCell::default(),
            requests: Cell::new(0),
            input_bytes: Cell::new(0),
            output_bytes: Cell::new(0),
            buffer: RefCell::default(),
        }
    }

    /// The present settings, without touching what other workers touch.
    pub(super) fn settings(&self) -> Rc<Settings> {
        let version = self.server.settings_version();
        let mut known = self.settings.borrow_mut();
        if known.0 != version {
            *known = (version, own(&self.server));
        }
        Rc::clone(&known.1)
    }

    pub(super) fn count_input(&self, bytes: usize) {
        self.input_bytes.set(self.input_bytes.get() + bytes as u64);
    }

    pub(super) fn count_output(&self, bytes: usize) {
        self.output_bytes.set(self.output_bytes.get() + bytes as u64);
    }

    /// Adds a connection's requests.
    pub(super) fn submit(&self, work: &Shared) -> Turn {
        self.requests.set(self.requests.get() + work.borrow().frames.len());
        self.waiting.borrow_mut().push_back(Rc::clone(work));
        if self.requests.get() >= FULL { Turn::Now } else { Turn::Later }
    }

    /// Runs everything that was submitted.
    pub(super) fn run(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        let mut works = std::mem::take(&mut *self.waiting.borrow_mut());
        self.requests.set(0);
        self.settle_counts();
        let settings = self.settings();
        let mut batch = Batch::with_buffer(&self.server, &settings, self.buffer.take());
        // Those that are put off come once more behind the others; then their keys are waited for. Where one
        // lock is for all, nobody can go first.
        let count = works.len();
        let first_put_off = if self.server.keyspace.is_united() { 0 } else { count };
        let (mut at, mut ahead) = (0, 0);
        while at < works.len() {
            batch.puts_off = at < first_put_off;
            if at == ahead {
                let end = if at < count { count } else { works.len() };
                ahead = look_ahead(&mut batch, works.range(at..end)) + at;
            }
            let work = &works[at];
            work.borrow_mut().run(&mut batch);
            if matches!(work.borrow().next, Next::PutOff) {
                let work = Rc::clone(work);
                works.push_back(work);
            }
            at += 1;
        }
        *self.buffer.borrow_mut() = batch.end();
        for work in works.range(..count) {
            batch.settle(&mut work.borrow_mut().session);
        }
        if batch.wrote() {
            self.server.repl.wake_feeds();
        }
        drop(batch);
        works.clear();
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            *waiting = works;
        }
    }

    /// INFO shows them.
    fn settle_counts(&self) {
        let stats = &self.server.stats;
        for (sum, n) in [(&stats.input_bytes, &self.input_bytes), (&stats.output_bytes, &self.output_bytes)] {
            sum.fetch_add(n.take(), Ordering::Relaxed);
        }
    }
}

/// Brings closer what the next connections are going to touch; returns how many of them.
fn look_ahead<'w>(batch: &mut Batch<'_>, works: impl Iterator<Item = &'w Shared>) -> usize {
    let mut borrowed = SmallVec::<[Ref<'w, Work>; AHEAD]>::new();
    let mut requests = 0;
    for work in works {
        let work = work.borrow();
        requests += work.frames.len() - work.at;
        borrowed.push(work);
        if requests >= AHEAD {
            break;
        }
    }
    // What one request touches, it will ask for itself at once.
    if requests > 1 {
        let mut touches = SmallVec::<[Touch<'_>; 64]>::new();
        touches.extend(borrowed.iter().flat_map(|work| work.touches()));
        batch.prefetch(&touches);
    }
    borrowed.len()
}
