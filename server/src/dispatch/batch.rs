//! What the commands of one pipeline share, so that each of them costs less: the lock of the shard that the last one
//! touched, the effects that wait for the log, a reading of the clock, a counter.
//!
//! The order stays the one of execution: effects wait only while the shard in which they happened is locked. Whoever locks a
//! shard, a snapshot or a promise included, finds everything that was done to it in the log.

use std::sync::atomic::Ordering;

use engine::keyspace::Locked;

use super::{Origin, Session};
use crate::clock;
use crate::config::Settings;
use crate::latency;
use crate::registry::Entry;
use crate::state::Server;

/// More than this does not wait for the end of the batch.
const WAITING_MAX: usize = 32 * 1024;

/// Commands for the log, as RESP. What belongs together (a transaction, a command with the expiries that it found) is a unit.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: Vec<u8>,
    /// Database in which the first and the last command run.
    dbs: Option<(usize, usize)>,
    /// Where the present unit begins, and how many commands it has.
    unit: usize,
    commands: usize,
    /// EXEC is running: what its commands do belongs together.
    pub(super) exec: bool,
}

impl Waiting {
    /// Adds `count` commands.
    #[inline]
    pub(super) fn push(&mut self, db: usize, commands: &[u8], count: usize) {
        match &mut self.dbs {
            None => self.dbs = Some((db, db)),
            Some((_, last)) if *last == db => {}
            Some((_, last)) => {
                *last = db;
                resp::encode_command(&mut self.bytes, &["SELECT", itoa::Buffer::new().format(db)]);
            }
        }
        if self.commands == 0 {
            self.unit = self.bytes.len();
        }
        self.bytes.extend_from_slice(commands);
        self.commands += count;
    }

    /// The unit is over: several commands are a transaction.
    #[inline]
    fn end_unit(&mut self) {
        if self.commands > 1 {
            self.bytes.splice(self.unit..self.unit, *b"*1\r\n$5\r\nMULTI\r\n");
            self.bytes.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
        }
        self.commands = 0;
    }
}

impl Waiting {
    /// The commands of the unit have nothing to do with each other: deletions of keys that were met by chance.
    #[inline]
    pub(super) fn separate(&mut self) {
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
    held: Option<(usize, Locked<'s>)>,
    counted: Option<(&'static Entry, u64, u64)>,
    /// Durations of the counted ones, by bucket.
    spread: [u8; latency::BUCKETS],
    changes: u64,
}

impl<'s> Batch<'s> {
    pub fn new(server: &'s Server, settings: &'s Settings) -> Self {
        let now_ns = clock::monotonic_ns();
        let unix_minus_now_ms = clock::unix_ms().wrapping_sub(now_ns / 1_000_000);
        Self {
            server,
            settings,
            now_ns,
            unix_minus_now_ms,
            held: None,
            counted: None,
            spread: [0; latency::BUCKETS],
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

    /// The lock of one shard, kept from the last command if that is the one.
    #[inline]
    pub(super) fn hold(&mut self, shard: usize, session: &mut Session) -> Locked<'s> {
        match self.held.take() {
            Some((held, locked)) if held == shard => locked,
            other => {
                self.held = other;
                self.release(session);
                self.server.keyspace.lock_one(shard)
            }
        }
    }

    /// Keeps the lock for the next command.
    #[inline]
    pub(super) fn keep(&mut self, shard: usize, locked: Locked<'s>) {
        self.held = Some((shard, locked));
    }

    /// Ends a unit of effects; the shards of its keys are locked.
    #[inline]
    pub(super) fn note(&mut self, changes: u64, session: &mut Session) {
        self.changes += changes;
        session.waiting.end_unit();
        if session.waiting.bytes.len() > WAITING_MAX {
            self.append(session);
        }
    }

    /// A command as the client sent it. One that is large goes to the log without waiting, copied once.
    #[inline]
    pub(super) fn push_verbatim(&mut self, raw: &[u8], session: &mut Session) {
        let db = session.db;
        if raw.len() <= WAITING_MAX / 4 || session.waiting.commands > 0 || !self.propagates(session) {
            return session.waiting.push(db, raw, 1);
        }
        self.append(session);
        let mut log = self.server.repl.log.lock();
        log.append(db, raw);
        session.write_offset = log.log.end();
    }

    /// A replica's own writes are nobody else's.
    fn propagates(&self, session: &Session) -> bool {
        session.origin == Origin::Client && !self.server.repl.is_replica()
    }

    /// What waits goes to the log; the shards of its keys are still locked.
    pub(super) fn append(&mut self, session: &mut Session) {
        if self.changes > 0 {
            self.server.dirty.fetch_add(std::mem::take(&mut self.changes), Ordering::Relaxed);
        }
        let Some((first, last)) = session.waiting.dbs.take() else { return };
        let propagates = self.propagates(session);
        let waiting = &mut session.waiting;
        if propagates {
            let mut log = self.server.repl.log.lock();
            log.append(first, &waiting.bytes);
            log.db = Some(last);
            session.write_offset = log.log.end();
        }
        waiting.bytes.clear();
        waiting.bytes.shrink_to(2 * WAITING_MAX);
    }

    /// Gives the lock back.
    pub(super) fn release(&mut self, session: &mut Session) {
        self.append(session);
        self.held = None;
    }

    /// A command has ended: returns how long it took, ns.
    #[inline]
    pub(super) fn count(&mut self, entry: &'static Entry) -> u64 {
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
        self.spread[latency::bucket(nanos)] += 1;
        nanos
    }

    pub(super) fn settle_count(&mut self) {
        if let Some((entry, calls, nanos)) = self.counted.take() {
            entry.stats.add(calls, nanos);
            if self.settings.latency_tracking {
                entry.stats.durations.add(&self.spread);
            }
            self.spread = [0; latency::BUCKETS];
        }
    }

    /// Nothing waits any longer, nothing is locked.
    pub fn end(mut self, session: &mut Session) {
        self.release(session);
        self.settle_count();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        debug_assert!(self.held.is_none() && self.changes == 0, "a batch is ended, not dropped");
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
    fn another_database_is_selected_in_front_of_the_transaction() {
        let mut effects = Waiting::default();
        effects.push(3, b"a ", 1);
        effects.end_unit();
        effects.push(1, b"b ", 1);
        effects.push(2, b"c ", 1);
        effects.end_unit();
        assert_eq!(effects.dbs, Some((3, 2)));
        assert_eq!(text(&effects), "a *2 $6 SELECT $1 1 *1 $5 MULTI b *2 $6 SELECT $1 2 c *1 $4 EXEC ");
    }
}
