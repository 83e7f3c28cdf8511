//! What happens by the clock: active expiry, save rules, signs of life, leases.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::KeysView;
use engine::keyspace::{Added, Cursor, ExpiredKeys, Locked, Shards};

use crate::clock;
use crate::config::Settings;
use crate::info;
use crate::net;
use crate::persistence;
use crate::state::Server;
use crate::timers;

const TICK: Duration = Duration::from_millis(100);
/// Active expiry works in slices, so many in a tick as long as there is something to do: clients never wait for long.
const EXPIRE_SLICES: u32 = 10;
/// Time that one slice may take, µs: at `active-expire-effort 1`, and more for each step of it.
const EXPIRE_SLICE_US: u64 = 500;
const EXPIRE_EFFORT_US: u64 = 200;

/// Runs for ever, ten times a second.
pub(crate) async fn run(server: &Arc<Server>) {
    let (mut expiry, mut spread) = (ActiveExpiry::default(), net::Watch::default());
    let begun = clock::monotonic_ms();
    let (mut last_ping, mut last_lease, mut last_replica, mut last_second) = (begun, 0, begun, 0);
    loop {
        expiry.tick(server).await;
        let commands = server.stats.commands.load(Ordering::Relaxed);
        spread.look(&server.spread, server.settings().io_threads_adaptive, commands);
        server.unite_or_divide();
        if !server.repl.is_replica() {
            server.local_expiry.forget_all();
        } else if server.active_expire.load(Ordering::Acquire) {
            server.local_expiry.expire(server);
        }
        if server.cron_paused.load(Ordering::Acquire) {
            continue;
        }
        let now = clock::monotonic_ms();
        let settings = server.settings();
        server.rates.sample(now, &server.stats);
        if now / 1000 != last_second {
            last_second = now / 1000;
            server.rates.peak_memory(info::memory_used().0);
            if settings.timeout > 0 {
                server.clients.wake_idle(settings.timeout as u64);
            }
        }
        persistence::save_if_due(server);
        if server.repl.managed {
            // One that is ending stays at the offset that it saves.
            if now - last_lease >= settings.managed_lease_ms as u64 / 4 && !server.repl.writes_held() {
                last_lease = now;
                server.repl.request_leases(now);
            }
        } else if now - last_ping >= settings.repl_ping_replica_period as u64 * 1000 {
            last_ping = now;
            // A failover waits for acknowledgements of the log's end: it stays where it is.
            if server.repl.feed_count() > 0 && !server.repl.is_replica() && !server.repl.writes_held() {
                server.repl.append_ping();
            }
        }
        if server.repl.feed_count() > 0 || server.repl.managed || server.repl.is_replica() {
            last_replica = now;
        } else if settings.repl_backlog_ttl > 0 && now - last_replica >= settings.repl_backlog_ttl as u64 * 1000 {
            server.repl.release_backlog(&settings);
        }
        let until = server.pause.until_ms.load(Ordering::Acquire);
        if until != 0 && clock::unix_ms() >= until {
            let _ = server.pause.until_ms.compare_exchange(until, 0, Ordering::AcqRel, Ordering::Relaxed);
            server.pause.changed.notify_waiters();
        }
    }
}

/// Walks the keyspace in hash order, a little at a time, and deletes what has expired.
#[derive(Default)]
struct ActiveExpiry {
    shard: usize,
    db: usize,
    cursor: Cursor,
}

impl ActiveExpiry {
    /// Takes as long as a tick.
    async fn tick(&mut self, server: &Server) {
        let mut took_ms = 0;
        for left in (0..EXPIRE_SLICES).rev() {
            let own = !server.repl.is_replica() && !server.repl.is_awaiting();
            let on = own && server.active_expire.load(Ordering::Acquire) && !server.paused().0;
            let on = on && !server.cron_paused.load(Ordering::Acquire);
            let begun = clock::monotonic_ms();
            let effort = server.settings().active_expire_effort as u64 - 1;
            let idle = !on || self.slice(server, EXPIRE_SLICE_US + EXPIRE_EFFORT_US * effort);
            took_ms = took_ms.max(clock::monotonic_ms() - begun);
            if idle {
                timers::sleep(TICK / EXPIRE_SLICES * (left + 1)).await;
                break;
            }
            timers::sleep(TICK / EXPIRE_SLICES).await;
        }
        let threshold = server.settings().latency_monitor_threshold;
        if threshold > 0 && took_ms >= threshold as u64 {
            server.latency.note("expire-cycle", clock::unix_ms() / 1000, took_ms);
        }
    }

    /// One slice; `true` if there is nothing more to do for now: it has been round once.
    fn slice(&mut self, server: &Server, budget_us: u64) -> bool {
        let settings = server.settings();
        let until = clock::monotonic_ns() + budget_us * 1000;
        let mut left = server.keyspace.shard_count();
        while left > 0 && clock::monotonic_ns() < until {
            left -= self.visit(server, &settings, left);
        }
        server.repl.wake_feeds();
        left == 0
    }

    /// Visits some positions under one lock: of one shard, or of up to `shards_max` if they have the same lock. Returns to
    /// the end of how many it came.
    fn visit(&mut self, server: &Server, settings: &Settings, shards_max: usize) -> usize {
        const POSITIONS: usize = 32;
        let keyspace = &server.keyspace;
        let mut locked = Locked::default();
        if keyspace.is_united() {
            locked = keyspace.lock_one(self.shard);
        } else if keyspace.add(&mut locked, self.shard) != Added::Yes {
            // In use: those who serve clients go first, its turn comes again.
            self.next_shard(server);
            return 1;
        }
        if !server.repl.still_writable(true, clock::monotonic_ms()) {
            return shards_max;
        }
        let shards_max = if locked.is_united() { shards_max } else { 1 };
        let now = clock::unix_ms();
        let (mut positions, mut ended) = (0, 0);
        while positions < POSITIONS && ended < shards_max {
            if self.db == keyspace.databases() {
                self.next_shard(server);
                ended += 1;
            } else if locked.shard(self.shard).table(self.db).is_none_or(|table| table.expiring() == 0) {
                (self.db, self.cursor) = (self.db + 1, Cursor::default());
            } else {
                positions += 1;
                let next = self.expire(server, settings, &mut locked, now);
                self.cursor = next.unwrap_or_default();
                self.db += usize::from(next.is_none());
            }
        }
        ended
    }

    /// Deletes what has expired at the position; returns the next one of the table.
    fn expire(&self, server: &Server, settings: &Settings, locked: &mut Locked<'_>, now: u64) -> Option<Cursor> {
        let mut keys = KeysView::new(&server.keyspace, locked, &settings.limits, self.db, ExpiredKeys::Delete, now);
        let (next, _) = keys.expire_at(self.shard, self.cursor);
        let deleted = keys.take_lazily_deleted();
        if !deleted.is_empty() {
            let verb = settings.limits.expire_del();
            let mut bytes = Vec::new();
            let mut log = server.repl.log.lock();
            for (db, key) in deleted {
                bytes.clear();
                resp::encode_command(&mut bytes, &[verb, &key]);
                log.append(db, &bytes);
                server.dirty.fetch_add(1, Ordering::Relaxed);
            }
        }
        next
    }

    fn next_shard(&mut self, server: &Server) {
        self.shard = (self.shard + 1) % server.keyspace.shard_count();
        (self.db, self.cursor) = (0, Cursor::default());
    }
}
