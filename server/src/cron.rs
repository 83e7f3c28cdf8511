//! What happens by the clock: active expiry, save rules, signs of life, leases.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::KeysView;
use engine::keyspace::{Cursor, ExpiredKeys};

use crate::clock;
use crate::info;
use crate::persistence;
use crate::state::Server;

/// Time that one round of active expiry may take, ms: at `active-expire-effort 1`, and more for each step of it.
const EXPIRE_BUDGET_MS: u64 = 5;
const EXPIRE_EFFORT_MS: u64 = 2;

/// Runs for ever, ten times a second.
pub(crate) async fn run(server: &Arc<Server>) {
    let mut expiry = ActiveExpiry::default();
    let (mut last_ping, mut last_lease, mut last_replica, mut last_second) = (0, 0, clock::monotonic_ms(), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if server.cron_paused.load(Ordering::Acquire) {
            continue;
        }
        let now = clock::monotonic_ms();
        let settings = server.settings();
        server.rates.sample(now, &server.stats);
        if now / 1000 != last_second {
            last_second = now / 1000;
            server.rates.peak_memory(info::memory_used().0);
        }
        let own = !server.repl.is_replica() && !server.repl.is_awaiting();
        if own && server.active_expire.load(Ordering::Acquire) && !server.paused().0 {
            expiry.round(server);
            let took = clock::monotonic_ms() - now;
            if settings.latency_monitor_threshold > 0 && took >= settings.latency_monitor_threshold as u64 {
                server.latency.note("expire-cycle", clock::unix_ms() / 1000, took);
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
    fn round(&mut self, server: &Server) {
        let settings = server.settings();
        let begun = clock::monotonic_ms();
        let budget = EXPIRE_BUDGET_MS + EXPIRE_EFFORT_MS * (settings.active_expire_effort as u64 - 1);
        let mut whole = 0;
        while clock::monotonic_ms() - begun < budget
            && whole < server.keyspace.shard_count() * settings.databases as usize
        {
            if self.visit(server, &settings) {
                whole += 1;
            }
        }
        server.repl.wake_feeds();
    }

    /// Visits some positions under one lock; `true` if a table came to its end.
    fn visit(&mut self, server: &Server, settings: &crate::config::Settings) -> bool {
        const POSITIONS: usize = 32;
        let mut locked = server.keyspace.lock_one(self.shard);
        if !server.repl.still_writable(true, clock::monotonic_ms()) {
            return true;
        }
        let now = clock::unix_ms();
        let mut keys =
            KeysView::new(&server.keyspace, &mut locked, &settings.limits, self.db, ExpiredKeys::Delete, now);
        let mut end = false;
        for _ in 0..POSITIONS {
            let (next, _) = keys.expire_at(self.shard, self.cursor);
            self.cursor = next.unwrap_or_default();
            if next.is_none() {
                end = true;
                break;
            }
        }
        let verb = settings.limits.expire_del();
        if keys.has_lazily_deleted() {
            let mut log = server.repl.log.lock();
            let mut bytes = Vec::new();
            keys.drain_lazily_deleted(|db, key| {
                bytes.clear();
                resp::encode_command(&mut bytes, &[verb, key]);
                log.append(db, &bytes);
                server.dirty.fetch_add(1, Ordering::Relaxed);
            });
        }
        drop(keys);
        if end {
            self.db += 1;
            if self.db == server.keyspace.databases() {
                self.db = 0;
                self.shard = (self.shard + 1) % server.keyspace.shard_count();
            }
        }
        end
    }
}
