//! What commands that are run one after the other share, those of one pipeline and of several connections, so that each of
//! them costs less: the locks of the shards that they touch, the effects that wait for the log, a reading of the clock, a
//! counter.
//!
//! The order stays the one of execution: effects wait only while the shards in which they happened are locked. Whoever locks
//! a shard, a snapshot or a promise included, finds everything that was done to it in the log. All shards of a batch are given
//! back together, when what waits has been appended; and a batch that holds shards waits for no other
//! (see `engine::keyspace::Locked`).

use std::sync::atomic::Ordering;

use engine::keyspace::{Added, Locked, Touch};
use replication::records;
use smallvec::SmallVec;

use super::Session;
use crate::clock;
use crate::config::Settings;
use crate::latency;
use crate::registry::Entry;
use crate::state::Server;

/// More than this does not wait for the end of the batch.
const WAITING_MAX: usize = 32 * 1024;
/// Shards are not held for longer than this and a command, so that others get their turn.
const HELD_MAX_NS: u64 = 100_000;
/// Shards that are held when a batch looks ahead, at most: there has to be room for what comes.
const HELD_BEFORE_MAX: usize = 16;

/// Commands for the log, as RESP. What belongs together (a transaction, a command with the expiries that it found) is a unit.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Database in which the first and the last command run.
    dbs: Option<(usize, usize)>,
    /// Where the present unit begins, and how many commands it has.
    unit: usize,
    commands: usize,
    /// EXEC is running: what its commands do belongs together.
    exec: bool,
}

impl Waiting {
    /// Adds `count` commands.
    #[inline]
    fn push(&mut self, db: usize, commands: &[u8], count: usize) {
        if self.commands == 0 {
            self.unit = self.bytes.len();
        }
        match &mut self.dbs {
            None => self.dbs = Some((db, db)),
            Some((_, last)) if *last == db => {}
            Some((_, last)) => {
                *last = db;
                resp::encode_command(&mut self.bytes, &["SELECT", itoa::Buffer::new().format(db)]);
            }
        }
        self.bytes.extend_from_slice(commands);
        self.commands += count;
    }

    /// The unit is over: several commands are a transaction.
    #[inline]
    fn end_unit(&mut self) {
        if self.commands > 1 {
            self.bytes.splice(self.unit..self.unit, records::MULTI.iter().copied());
            self.bytes.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
        }
        self.commands = 0;
    }
}

impl Waiting {
    /// See [`Batch::separate`].
    #[inline]
    fn separate(&mut self) {
        if !self.exec {
            self.commands = 0;
        }
    }
}

/// See the head of this file. It must be [`Batch::end`]ed.
#[derive(Debug)]
pub struct Batch<'s> {
    pub server: &'s Server,
    pub settings: &'s Settings,
    /// The last reading of the clock: where the last command ended and the next one begins.
    now_ns: u64,
    unix_minus_now_ms: u64,
    pub(super) held: Locked<'s>,
    /// When the first of them was locked.
    held_since_ns: u64,
    /// What is taken by another thread is not waited for: the command is put off.
    pub puts_off: bool,
    /// Effects that are not in the log yet.
    waiting: Waiting,
    /// End of the log behind what was appended last; 0 if nothing was.
    end: u64,
    counted: Option<(&'static Entry, u64, u64)>,
    /// Commands that were run, not those that were rejected.
    commands: u64,
    /// Durations of the counted ones, by bucket.
    spread: latency::Counts,
    changes: u64,
}

impl<'s> Batch<'s> {
    pub fn new(server: &'s Server, settings: &'s Settings) -> Self {
        Self::with_buffer(server, settings, Vec::new())
    }

    /// With what [`Batch::end`] returned: an empty buffer that need not grow again.
    pub fn with_buffer(server: &'s Server, settings: &'s Settings, buffer: Vec<u8>) -> Self {
        let now_ns = clock::monotonic_ns();
        let unix_minus_now_ms = clock::unix_minus_monotonic_ms(now_ns / 1_000_000);
        Self {
            server,
            settings,
            now_ns,
            unix_minus_now_ms,
            held: Locked::default(),
            held_since_ns: now_ns,
            puts_off: false,
            waiting: Waiting { bytes: buffer, ..Waiting::default() },
            end: 0,
            counted: None,
            commands: 0,
            spread: latency::Counts::default(),
            changes: 0,
        }
    }

    /// Monotonic ms, as it was between the last command and this one.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    /// The same moment in unix ms.
    #[inline]
    pub fn unix_ms(&self) -> u64 {
        self.now_ms().wrapping_add(self.unix_minus_now_ms)
    }

    /// Looks ahead: locks what these commands are going to touch, as far as it is free, and brings it closer.
    #[inline]
    pub fn prefetch(&mut self, touches: &[Touch<'_>]) {
        if self.held.added() > HELD_BEFORE_MAX {
            self.release();
        }
        if self.held.added() == 0 {
            self.held_since_ns = self.now_ns;
            if let (Some(first), false) = (touches.first(), self.puts_off) {
                let keyspace = &self.server.keyspace;
                keyspace.add_first(&mut self.held, keyspace.shard_of(first.hash));
            }
        }
        self.server.keyspace.prefetch(&mut self.held, touches);
    }

    /// Are all shards of a united keyspace held?
    #[inline]
    pub(super) fn holds_united(&mut self) -> bool {
        if self.held.is_united() {
            self.release_in_time();
        }
        self.held.is_united()
    }

    /// Others get their turn.
    #[inline]
    fn release_in_time(&mut self) {
        if self.now_ns.saturating_sub(self.held_since_ns) > HELD_MAX_NS {
            self.release();
        }
    }

    /// Locks these shards beside those that are held; `false`: the command is to be put off.
    #[inline]
    pub(super) fn hold(&mut self, shards: &[usize]) -> bool {
        self.release_in_time();
        if shards.len() > 1 {
            self.server.keyspace.prefetch_shards(shards);
            // With many held, one of several that it needs would often be another thread's.
            if self.held.added() > HELD_BEFORE_MAX {
                self.release();
            }
        }
        let mut added = self.try_hold(shards);
        if added == Added::Full && self.held.added() > 0 {
            self.release();
            added = self.try_hold(shards);
        }
        match added {
            Added::Yes => return true,
            Added::Taken if self.puts_off => return false,
            Added::Taken | Added::Full => self.release(),
        }
        self.held_since_ns = self.now_ns;
        match shards {
            [one] => self.server.keyspace.add_first(&mut self.held, *one),
            _ => self.held = self.server.keyspace.lock_some(&mut SmallVec::from_slice(shards)),
        }
        true
    }

    /// Holds these instead of what was held: `lock` is called when everything was given back.
    pub(super) fn hold_instead(&mut self, lock: impl FnOnce() -> Locked<'s>) {
        self.release();
        self.held = lock();
    }

    #[inline]
    fn try_hold(&mut self, shards: &[usize]) -> Added {
        if self.held.added() == 0 {
            self.held_since_ns = self.now_ns;
        }
        let mut adding = shards.iter().map(|shard| self.server.keyspace.add(&mut self.held, *shard));
        adding.find(|added| *added != Added::Yes).unwrap_or(Added::Yes)
    }

    /// A command is over: what was locked for it alone is given back.
    #[inline]
    pub(super) fn release_own(&mut self) {
        if !self.held.grows() {
            self.release();
        }
    }

    /// Ends a unit of effects; the shards of its keys are locked.
    #[inline]
    pub(super) fn note(&mut self, changes: u64, session: &mut Session) {
        self.changes += changes;
        session.unlogged |= self.waiting.commands > 0;
        self.waiting.end_unit();
        if self.waiting.bytes.len() > WAITING_MAX {
            self.append();
        }
    }

    /// Adds commands to the present unit.
    #[inline]
    pub(super) fn push(&mut self, db: usize, commands: &[u8], count: usize) {
        self.waiting.push(db, commands, count);
    }

    /// The commands of the unit have nothing to do with each other: deletions of keys that were met by chance.
    #[inline]
    pub(super) fn separate(&mut self) {
        self.waiting.separate();
    }

    /// EXEC is running: what its commands do belongs together.
    pub(super) fn set_exec(&mut self, exec: bool) {
        self.waiting.exec = exec;
    }

    /// A command as the client sent it. One that is large goes to the log without waiting, copied once.
    #[inline]
    pub(super) fn push_verbatim(&mut self, raw: &[u8], session: &mut Session) {
        let db = session.db;
        if raw.len() <= WAITING_MAX / 4 || self.waiting.commands > 0 || self.server.repl.is_replica() {
            return self.push(db, raw, 1);
        }
        self.append();
        let mut log = self.server.repl.log.lock();
        log.append(db, raw);
        self.end = log.log.end();
        session.unlogged = true;
    }

    /// What waits goes to the log; the shards of its keys are still locked.
    pub(super) fn append(&mut self) {
        if self.changes > 0 {
            self.server.dirty.fetch_add(std::mem::take(&mut self.changes), Ordering::Relaxed);
        }
        let waiting = &mut self.waiting;
        let Some((first, last)) = waiting.dbs.take() else { return };
        // A replica's own writes are nobody else's.
        if !self.server.repl.is_replica() {
            let mut log = self.server.repl.log.lock();
            log.append(first, &waiting.bytes);
            log.db = Some(last);
            self.end = log.log.end();
        }
        waiting.bytes.clear();
        waiting.bytes.shrink_to(2 * WAITING_MAX);
    }

    /// Gives the locks back.
    pub(super) fn release(&mut self) {
        self.append();
        self.held.clear();
    }

    /// Tells a session where in the log its writes are. Nothing waits.
    #[inline]
    pub fn settle(&self, session: &mut Session) {
        debug_assert!(self.waiting.dbs.is_none(), "what waits has no place in the log yet");
        if std::mem::take(&mut session.unlogged) && self.end > 0 {
            session.write_offset = self.end;
        }
    }

    /// A command has ended: returns how long it took, ns.
    #[inline]
    pub(super) fn count(&mut self, entry: &'static Entry) -> u64 {
        self.commands += 1;
        let now_ns = clock::monotonic_ns();
        let nanos = now_ns.saturating_sub(std::mem::replace(&mut self.now_ns, now_ns));
        match &mut self.counted {
            Some((counted, calls, sum)) if std::ptr::eq(*counted, entry) && *calls < u64::from(u8::MAX) => {
                *calls += 1;
                *sum += nanos;
            }
            _ => {
                self.settle_count();
                self.counted = Some((entry, 1, nanos));
            }
        }
        self.spread.add(nanos);
        nanos
    }

    /// What was counted is seen by others.
    pub(super) fn settle_counts(&mut self) {
        self.settle_count();
        self.server.stats.commands.fetch_add(std::mem::take(&mut self.commands), Ordering::Relaxed);
    }

    fn settle_count(&mut self) {
        if let Some((entry, calls, nanos)) = self.counted.take() {
            entry.stats.add(calls, nanos);
            if self.settings.latency_tracking {
                entry.stats.durations.add(&self.spread);
            }
            self.spread.clear();
        }
    }

    /// Everything is in the log and nothing is locked. Sessions that were in the batch are to be settled.
    pub fn end(&mut self) -> Vec<u8> {
        self.release();
        self.settle_counts();
        std::mem::take(&mut self.waiting.bytes)
    }

    /// Has anything been added to the log?
    pub fn wrote(&self) -> bool {
        self.end > 0
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let ended = self.held.added() == 0 && self.changes == 0;
        debug_assert!(ended || std::thread::panicking(), "a batch is ended before it is dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(effects: &Waiting) -> String {
        String::from_utf8_lossy(&effects.bytes).replace("\r\n", " ")
    }

    #[test]
    fn several_commands_of_a_unit_are_a_transaction_and_units_are_not() {
        let mut effects = Waiting::default();
        effects.push(0, b"a ", 1);
        effects.end_unit();
        effects.push(0, b"b ", 1);
        effects.push(0, b"c ", 1);
        effects.end_unit();
        effects.end_unit();
        effects.push(0, b"d ", 1);
        effects.end_unit();
        assert_eq!(text(&effects), "a *1 $5 MULTI b c *1 $4 EXEC d ");
    }

    #[test]
    fn what_has_nothing_to_do_with_each_other_is_no_transaction_but_in_exec() {
        let mut effects = Waiting::default();
        effects.push(0, b"a b ", 2);
        effects.separate();
        effects.end_unit();
        effects.exec = true;
        effects.push(0, b"c d ", 2);
        effects.separate();
        effects.end_unit();
        assert_eq!(text(&effects), "a b *1 $5 MULTI c d *1 $4 EXEC ");
    }

    #[test]
    fn another_database_is_selected_inside_the_transaction() {
        let mut effects = Waiting::default();
        effects.push(3, b"a ", 1);
        effects.end_unit();
        effects.push(1, b"b ", 1);
        effects.push(2, b"c ", 1);
        effects.end_unit();
        assert_eq!(effects.dbs, Some((3, 2)));
        assert_eq!(text(&effects), "a *1 $5 MULTI *2 $6 SELECT $1 1 b *2 $6 SELECT $1 2 c *1 $4 EXEC ");
    }
}
