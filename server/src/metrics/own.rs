//! Figures that are more than a field of INFO: commands, replicas, role, lease, sync, snapshot, disk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use replication::RoleState;

use super::families::Families;
use crate::registry::Registry;
use crate::state::Server;
use crate::{clock, http};

/// Bounds of the latency histograms, µs: up to a millisecond they double, up to a second they quadruple.
const LATENCY_US: [u64; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536, 262_144, 1_048_576];

/// Commands that were called, as redis_exporter tells of them.
pub(super) fn fill_commands(families: &mut Families, server: &Server) {
    type Value = fn(&crate::registry::Stats) -> f64;
    let columns: [(&str, &str, Value); 4] = [
        ("redis_commands_total", "Calls of a command.", |s| s.calls.load(Ordering::Relaxed) as f64),
        ("redis_commands_duration_seconds_total", "Time spent in a command.", |s| {
            s.nanos.load(Ordering::Relaxed) as f64 / 1e9
        }),
        ("redis_commands_failed_calls_total", "Calls that failed while they ran.", |s| {
            s.failed.load(Ordering::Relaxed) as f64
        }),
        ("redis_commands_rejected_calls_total", "Calls that were refused before they ran.", |s| {
            s.rejected.load(Ordering::Relaxed) as f64
        }),
    ];
    let used: Vec<_> = Registry::get()
        .all()
        .filter(|e| e.stats.calls.load(Ordering::Relaxed) + e.stats.rejected.load(Ordering::Relaxed) > 0)
        .collect();
    for (name, help, value) in columns {
        for entry in &used {
            families.counter_with(name, help, &[("cmd", &entry.name)], value(&entry.stats));
        }
    }
    if server.settings().latency_tracking {
        for entry in &used {
            let (below, count) = entry.stats.durations.at_most_us(&LATENCY_US);
            families.histogram(
                "redis_commands_latencies_usec",
                "Calls of a command by their duration in µs.",
                &[("cmd", &entry.name)],
                (&LATENCY_US, &below),
                (count, entry.stats.nanos.load(Ordering::Relaxed) as f64 / 1e3),
            );
        }
    }
    let slow = server.slowlog.lock();
    let last = slow.entries.iter().max_by_key(|entry| entry.id);
    families.gauge("redis_slowlog_length", "Entries of the slow log.", slow.entries.len() as f64);
    families.gauge("redis_slowlog_last_id", "Number of the latest entry.", last.map_or(0.0, |entry| entry.id as f64));
    families.gauge(
        "redis_last_slow_execution_duration_seconds",
        "Duration of the latest slow command.",
        last.map_or(0.0, |entry| entry.micros as f64 / 1e6),
    );
}

/// The attached replicas.
pub(super) fn fill_replicas(families: &mut Families, server: &Server) {
    let repl = &server.repl;
    let (now, end) = (clock::monotonic_ms(), repl.log.lock().log.end());
    // One that comes again while its old connection still hangs counts once: the newer one.
    let feeds: BTreeMap<_, _> =
        repl.feeds().into_iter().map(|feed| ((feed.ip.clone(), feed.port.to_string()), feed)).collect();
    for ((ip, port), feed) in &feeds {
        let (state, acked) = (feed.state().name(), feed.ack_offset());
        let labels = [("slave_ip", ip.as_str()), ("slave_port", port.as_str()), ("slave_state", state)];
        families.gauge_with(
            "redis_connected_slave_offset_bytes",
            "Offset that a replica has acknowledged.",
            &labels,
            acked as f64,
        );
        families.gauge_with(
            "redis_connected_slave_lag_seconds",
            "Seconds since a replica was last heard.",
            &labels,
            feed.lag_s(now) as f64,
        );
        families.gauge_with(
            "replicated_redis_replica_lag_bytes",
            "Bytes of the log that a replica has not acknowledged.",
            &labels,
            end.saturating_sub(acked) as f64,
        );
    }
}

/// What only this server has.
pub(super) fn fill(families: &mut Families, server: &Server) {
    let (repl, link) = (&server.repl, &server.repl.link);
    let now = clock::monotonic_ms();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    families.gauge_with("replicated_redis_build_info", "Always 1; says what runs.", &version, 1.0);
    let role = if repl.is_awaiting() {
        "awaiting"
    } else if repl.is_replica() {
        "replica"
    } else {
        "master"
    };
    for name in ["master", "replica", "awaiting"] {
        let is = f64::from(u8::from(name == role));
        families.gauge_with("replicated_redis_role", "1 for the role that this instance has.", &[("role", name)], is);
    }
    let mut gauge =
        |name: &str, help: &str, value: f64| families.gauge(&format!("replicated_redis_{name}"), help, value);
    let flag = |on: bool| f64::from(u8::from(on));
    let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed) as f64;
    gauge("ready", "1 if /readyz says so.", flag(http::readiness(server).is_ok()));
    gauge(
        "writable",
        "1 if this instance takes writes.",
        flag(role == "master" && repl.may_write(now) && !server.persistence.refuses_writes(&server.settings())),
    );
    gauge("managed", "1 if an operator gives this instance its role.", flag(repl.managed));
    if repl.managed {
        let epoch = repl.log.lock().history.epoch;
        let role = repl.role.lock();
        gauge("epoch", "Epoch of the present role.", role.role_epoch() as f64);
        gauge("promised_epoch", "Highest epoch promised.", role.durable.promised as f64);
        gauge("history_epoch", "Epoch of the last entry of the history that is held.", epoch as f64);
        let left_ms = match (&role.state, role.lease_until()) {
            (RoleState::Master(_), u64::MAX) => role.lease_ms(),
            (RoleState::Master(_), until) => until.saturating_sub(now),
            (RoleState::Awaiting | RoleState::Replica { .. }, _) => 0,
        };
        gauge("lease_left_seconds", "Time for which a master may still write.", left_ms as f64 / 1000.0);
    }
    gauge("log_bytes", "Bytes of the replication log that are held.", repl.log.lock().log.held() as f64);
    gauge(
        "snapshot_overhead_bytes",
        "Bytes that a running snapshot holds besides the data set.",
        server.keyspace.snapshot_side_bytes() as f64,
    );
    if repl.is_replica() {
        let down_ms = clock::unix_ms().saturating_sub(link.down_since_ms.load(Ordering::Relaxed));
        let down_ms = if repl.link_up() { 0 } else { down_ms };
        gauge("link_down_seconds", "Time for which the link to the master has been down.", down_ms as f64 / 1000.0);
        gauge("sync_read_bytes", "Bytes received of a full resync.", load(&link.sync_read));
        gauge("sync_expected_bytes", "Size of a full resync, where the master tells it.", load(&link.sync_total));
    }
    gauge(
        "divergent_bytes",
        "Bytes that were saved aside because the new master lacks them.",
        load(&link.divergent_bytes),
    );
    let refused = *link.refused.lock();
    gauge("sync_refused", "1 while the history fence refuses the master's full resync.", flag(!refused.is_empty()));
    if let Some((free, size)) = disk(&server.settings().dir) {
        gauge("disk_free_bytes", "Free bytes of the file system of the data directory.", free);
        gauge("disk_size_bytes", "Size of that file system.", size);
    }
    families.counter(
        "replicated_redis_sync_refusals_total",
        "Full resyncs that the history fence has refused.",
        link.refusals.load(Ordering::Relaxed) as f64,
    );
}

/// Free bytes, for those who are not root, and size of a directory's file system.
fn disk(dir: &str) -> Option<(f64, f64)> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some((stat.f_bavail as f64 * stat.f_frsize as f64, stat.f_blocks as f64 * stat.f_frsize as f64))
}
