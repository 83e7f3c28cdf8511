//! INFO, with Redis's sections and field names.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use engine::Rng;
use engine::keyspace::Figures;
use replication::ReplId;

use crate::clients::Kind;
use crate::clock;
use crate::config::Settings;
use crate::registry::Registry;
use crate::state::{Server, random_u64};

type Section = fn(&Server, &Settings, &mut Figures<'_>, &mut String);

/// Sections in their order; the last ones only when they are asked for by name or by `all`.
const SECTIONS: &[(&str, Section, bool)] = &[
    ("server", |server, settings, _, out| server_section(server, settings, out), true),
    ("clients", |server, settings, _, out| clients(server, settings, out), true),
    ("memory", |server, settings, _, out| memory(server, settings, out), true),
    ("persistence", |server, _, _, out| persistence(server, out), true),
    ("stats", |server, _, figures, out| stats(server, figures, out), true),
    ("replication", |server, settings, _, out| replication(server, settings, out), true),
    ("cpu", |_, _, _, out| cpu(out), true),
    ("modules", |_, _, _, _| {}, true),
    ("errorstats", |server, _, _, out| errorstats(server, out), true),
    ("commandstats", |_, _, _, out| commandstats(out), false),
    ("latencystats", |_, settings, _, out| latencystats(settings, out), false),
    ("cluster", |_, _, _, out| line(out, "cluster_enabled", 0), true),
    ("keyspace", |_, _, figures, out| keyspace(figures, out), true),
];

/// The text of INFO for these sections (lower case); none: the default ones.
pub fn text(server: &Server, settings: &Settings, figures: &mut Figures<'_>, asked: &[String]) -> String {
    let has = |name: &str| asked.iter().any(|s| s == name);
    let mut out = String::new();
    for (name, write, default) in SECTIONS {
        let wanted = match asked.is_empty() || has("default") {
            true => *default || has(name),
            false => has(name) || has("all") || has("everything"),
        };
        if wanted {
            if !out.is_empty() {
                out.push_str("\r\n");
            }
            let mut title = name.to_string();
            title[..1].make_ascii_uppercase();
            let title = if *name == "cpu" { "CPU".into() } else { title };
            let _ = write!(out, "# {title}\r\n");
            write(server, settings, figures, &mut out);
        }
    }
    out
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = write!(out, "{name}:{value}\r\n");
}

fn flag(on: bool) -> u8 {
    u8::from(on)
}

fn server_section(server: &Server, settings: &Settings, out: &mut String) {
    let uptime = clock::uptime().as_secs();
    line(out, "redis_version", crate::REDIS_VERSION);
    line(out, "server_name", "replicated-redis");
    line(out, "replicated_redis_version", env!("CARGO_PKG_VERSION"));
    line(out, "redis_mode", "standalone");
    line(out, "os", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    line(out, "arch_bits", usize::BITS);
    line(out, "multiplexing_api", "epoll");
    line(out, "process_id", std::process::id());
    line(out, "run_id", &server.run_id);
    line(out, "tcp_port", settings.port);
    line(out, "server_time_usec", clock::unix_us());
    line(out, "uptime_in_seconds", uptime);
    line(out, "uptime_in_days", uptime / 86400);
    line(out, "hz", settings.hz);
    line(out, "configured_hz", settings.hz);
    let config = server.config_file.as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let executable = std::env::current_exe().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    line(out, "executable", executable);
    line(out, "config_file", config);
    line(out, "io_threads_active", flag(server.spread.serving() > 1));
}

fn clients(server: &Server, settings: &Settings, out: &mut String) {
    let all = server.clients.list();
    line(out, "connected_clients", all.iter().filter(|c| c.kind() == Kind::Normal).count());
    line(out, "cluster_connections", 0);
    line(out, "maxclients", settings.maxclients);
    line(out, "blocked_clients", server.stats.blocked.load(Ordering::Relaxed));
    line(out, "tracking_clients", 0);
}

/// (allocated, resident) bytes of the allocator; 0 where it does not tell.
pub fn memory_used() -> (usize, usize) {
    let _ = tikv_jemalloc_ctl::epoch::advance();
    let read = |r: Result<usize, _>| r.unwrap_or(0);
    (read(tikv_jemalloc_ctl::stats::allocated::read()), read(tikv_jemalloc_ctl::stats::resident::read()))
}

/// Bytes that count for `maxmemory`: not what is kept for replicas beyond the backlog.
pub fn memory_counted(server: &Server) -> u64 {
    let held = server.repl.log.lock().log.held();
    let kept = held.saturating_sub(server.settings().repl_backlog_size.0);
    (memory_used().0 as u64).saturating_sub(kept)
}

fn memory(server: &Server, settings: &Settings, out: &mut String) {
    let (used, resident) = memory_used();
    let peak = server.rates.peak_memory(used);
    let startup = server.startup_memory.min(used);
    let (backlog, held) = {
        let log = server.repl.log.lock();
        (log.log.histlen(), log.log.held())
    };
    let all = server.clients.list();
    let of = |kind: Kind| all.iter().filter(|c| c.kind() == kind).map(|c| c.memory()).sum::<usize>();
    let (normal, replicas) = (of(Kind::Normal), of(Kind::Replica));
    let overhead = startup + held as usize + normal + replicas;
    let dataset = used.saturating_sub(overhead);
    let share = |n: usize, of: usize| format!("{:.2}%", n as f64 * 100.0 / of.max(1) as f64);
    line(out, "used_memory", used);
    line(out, "used_memory_human", human(used));
    line(out, "used_memory_rss", resident);
    line(out, "used_memory_rss_human", human(resident));
    line(out, "used_memory_peak", peak);
    line(out, "used_memory_peak_human", human(peak));
    line(out, "used_memory_peak_perc", share(used, peak));
    line(out, "used_memory_overhead", overhead);
    line(out, "used_memory_startup", startup);
    line(out, "used_memory_dataset", dataset);
    line(out, "used_memory_dataset_perc", share(dataset, used.saturating_sub(startup)));
    line(out, "total_system_memory", system_memory());
    line(out, "total_system_memory_human", human(system_memory()));
    line(out, "maxmemory", settings.maxmemory.0);
    line(out, "maxmemory_human", human(settings.maxmemory.0 as usize));
    line(out, "maxmemory_policy", &settings.maxmemory_policy);
    line(out, "mem_fragmentation_ratio", format!("{:.2}", resident as f64 / used.max(1) as f64));
    line(out, "mem_fragmentation_bytes", resident as i64 - used as i64);
    line(out, "mem_replication_backlog", backlog);
    line(out, "mem_total_replication_buffers", held);
    line(out, "mem_clients_slaves", replicas);
    line(out, "mem_clients_normal", normal);
    line(out, "snapshot_overhead_bytes", server.keyspace.snapshot_side_bytes());
    line(out, "mem_allocator", "jemalloc-5.3.0");
    // What is deleted is freed at once, by the thread that deletes it.
    line(out, "lazyfree_pending_objects", 0);
    line(out, "lazyfreed_objects", 0);
}

/// Memory of this machine, from `/proc/meminfo`.
fn system_memory() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kb = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kb.unwrap_or(0) * 1024
}

fn human(bytes: usize) -> String {
    let n = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{:.2}K", n / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.2}M", n / 1_048_576.0),
        _ => format!("{:.2}G", n / 1_073_741_824.0),
    }
}

fn persistence(server: &Server, out: &mut String) {
    let p = &server.persistence;
    line(out, "loading", flag(server.loading.load(Ordering::Relaxed)));
    line(out, "async_loading", flag(server.repl.link.loading_aside.load(Ordering::Relaxed)));
    line(out, "current_cow_size", 0);
    line(out, "rdb_changes_since_last_save", server.dirty.load(Ordering::Relaxed));
    // As in Redis, a snapshot for replicas is one, too.
    line(out, "rdb_bgsave_in_progress", flag(p.saving.load(Ordering::Relaxed) || p.syncing.load(Ordering::Relaxed)));
    line(out, "rdb_last_save_time", p.last_save_s.load(Ordering::Relaxed));
    line(out, "rdb_last_bgsave_status", if p.last_ok.load(Ordering::Relaxed) { "ok" } else { "err" });
    line(out, "rdb_last_bgsave_time_sec", p.last_seconds.load(Ordering::Relaxed));
    let current = match p.saving.load(Ordering::Relaxed) {
        true => (clock::monotonic_ms().saturating_sub(p.last_try_ms.load(Ordering::Relaxed)) / 1000) as i64,
        false => -1,
    };
    line(out, "rdb_current_bgsave_time_sec", current);
    line(out, "rdb_saves", p.saves.load(Ordering::Relaxed));
    line(out, "rdb_last_load_keys_expired", p.loaded_expired.load(Ordering::Relaxed));
    line(out, "rdb_last_load_keys_loaded", p.loaded_keys.load(Ordering::Relaxed));
    line(out, "aof_enabled", 0);
}

fn stats(server: &Server, figures: &mut Figures<'_>, out: &mut String) {
    let s = &server.stats;
    let keys = figures.stats();
    let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    line(out, "total_connections_received", get(&s.connections));
    line(out, "total_commands_processed", get(&s.commands));
    let [ops, input, output, replica_input, replica_output] = server.rates.per_second();
    let kbps = |rate: f64| format!("{:.2}", rate / 1024.0);
    line(out, "instantaneous_ops_per_sec", ops.round() as u64);
    line(out, "total_net_input_bytes", get(&s.input_bytes));
    line(out, "total_net_output_bytes", get(&s.output_bytes));
    line(out, "total_net_repl_input_bytes", get(&s.replica_input_bytes));
    line(out, "total_net_repl_output_bytes", get(&s.replica_output_bytes));
    line(out, "instantaneous_input_kbps", kbps(input));
    line(out, "instantaneous_output_kbps", kbps(output));
    line(out, "instantaneous_input_repl_kbps", kbps(replica_input));
    line(out, "instantaneous_output_repl_kbps", kbps(replica_output));
    line(out, "rejected_connections", get(&s.rejected_connections));
    line(out, "sync_full", get(&s.sync_full));
    line(out, "sync_partial_ok", get(&s.sync_partial_ok));
    line(out, "sync_partial_err", get(&s.sync_partial_err));
    line(out, "expired_keys", keys.expired);
    line(out, "evicted_keys", 0);
    line(out, "keyspace_hits", keys.hits);
    line(out, "keyspace_misses", keys.misses);
    line(out, "total_forks", 0);
    line(out, "slave_expires_tracked_keys", server.local_expiry.len());
    line(out, "total_error_replies", get(&s.errors));
    line(out, "client_output_buffer_limit_disconnections", get(&s.output_limit_disconnections));
}

fn replication(server: &Server, settings: &Settings, out: &mut String) {
    let repl = &server.repl;
    let link = &repl.link;
    let (history, end, first, size, held) = {
        let log = repl.log.lock();
        (log.history, log.log.end(), log.log.first(), settings.repl_backlog_size.0, log.log.end() - log.log.first())
    };
    let target = repl.target().0.filter(|_| repl.is_replica());
    if repl.is_awaiting() {
        line(out, "role", "awaiting");
    } else {
        line(out, "role", if repl.is_replica() { "slave" } else { "master" });
    }
    if let Some(target) = &target {
        let up = repl.link_up();
        let ago = |at: u64| clock::unix_ms().saturating_sub(at) / 1000;
        let syncing = link.syncing.load(Ordering::Relaxed);
        line(out, "master_host", &target.host);
        line(out, "master_port", target.port);
        line(out, "master_link_status", if up { "up" } else { "down" });
        line(out, "master_last_io_seconds_ago", if up { link.silent_s() as i64 } else { -1 });
        line(out, "master_sync_in_progress", flag(syncing));
        line(out, "slave_read_repl_offset", link.read_offset.load(Ordering::Relaxed).max(end));
        line(out, "slave_repl_offset", end);
        if syncing {
            let (read, total) = (link.sync_read.load(Ordering::Relaxed), link.sync_total.load(Ordering::Relaxed));
            line(out, "master_sync_total_bytes", total);
            line(out, "master_sync_read_bytes", read);
            line(out, "master_sync_left_bytes", total as i64 - read as i64);
            line(out, "master_sync_last_io_seconds_ago", link.silent_s());
        }
        if !up {
            line(out, "master_link_down_since_seconds", ago(link.down_since_ms.load(Ordering::Relaxed)));
        }
        let refused = *link.refused.lock();
        if !refused.is_empty() {
            line(out, "master_sync_refused", refused);
        }
        let divergent = link.divergent_bytes.load(Ordering::Relaxed);
        if divergent > 0 {
            line(out, "divergent_bytes_saved", divergent);
        }
        line(out, "slave_priority", settings.replica_priority);
        line(out, "slave_read_only", flag(settings.replica_read_only));
        line(out, "replica_announced", flag(settings.replica_announced));
    }
    let feeds = repl.feeds();
    line(out, "connected_slaves", feeds.len());
    if let Some((_, lag_ms)) = settings.min_replicas() {
        line(out, "min_slaves_good_slaves", repl.good_replicas(lag_ms));
    }
    let now = clock::monotonic_ms();
    for (i, feed) in feeds.iter().enumerate() {
        let (state, offset, lag) = (feed.state().name(), feed.ack_offset(), feed.lag_s(now));
        let value = format!("ip={},port={},state={state},offset={offset},lag={lag}", feed.ip, feed.port);
        line(out, &format!("slave{i}"), value);
    }
    // It is locked for longer only while a failover waits for what is being written: for EXEC, too, in which we may be.
    let failover = repl.failover.try_lock().map_or("waiting-for-sync", |failover| failover.state());
    line(out, "master_failover_state", failover);
    line(out, "master_replid", history.id);
    line(out, "master_replid2", history.second);
    line(out, "master_repl_offset", end);
    let second = history.second_offset.filter(|_| history.second != ReplId::ZERO);
    line(out, "second_repl_offset", second.map_or(-1, |n| n as i64 + 1));
    line(out, "repl_backlog_active", flag(!repl.backlog_released.load(Ordering::Relaxed)));
    line(out, "repl_backlog_size", size);
    line(out, "repl_backlog_first_byte_offset", first + 1);
    line(out, "repl_backlog_histlen", held);
    if repl.managed {
        let role = repl.role.lock();
        line(out, "replicated_epoch", role.role_epoch());
        line(out, "replicated_promised_epoch", role.durable.promised);
        line(out, "replicated_history_epoch", history.epoch);
        line(out, "replicated_writable", flag(repl.may_write(now) && !repl.is_replica()));
    }
}

fn cpu(out: &mut String) {
    let (user, system) = cpu_seconds();
    line(out, "used_cpu_sys", format!("{system:.6}"));
    line(out, "used_cpu_user", format!("{user:.6}"));
    line(out, "used_cpu_sys_children", "0.000000");
    line(out, "used_cpu_user_children", "0.000000");
}

/// CPU seconds of this process in user and in system mode, from `/proc/self/stat` (hundredths of a second).
pub fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let seconds = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) / 100.0;
    (seconds(11), seconds(12))
}

fn errorstats(server: &Server, out: &mut String) {
    for (code, n) in server.stats.error_codes.lock().iter() {
        line(out, &format!("errorstat_{code}"), format!("count={n}"));
    }
}

fn commandstats(out: &mut String) {
    for entry in Registry::get().all() {
        let s = &entry.stats;
        let calls = s.calls.load(Ordering::Relaxed);
        let (failed, rejected) = (s.failed.load(Ordering::Relaxed), s.rejected.load(Ordering::Relaxed));
        if calls + rejected > 0 {
            let micros = s.nanos.load(Ordering::Relaxed) / 1000;
            let per_call = micros as f64 / calls.max(1) as f64;
            let value = format!(
                "calls={calls},usec={micros},usec_per_call={per_call:.2},rejected_calls={rejected},failed_calls={failed}"
            );
            line(out, &format!("cmdstat_{}", entry.name), value);
        }
    }
}

fn latencystats(settings: &Settings, out: &mut String) {
    for entry in Registry::get().all().filter(|e| settings.latency_tracking && e.stats.durations.total() > 0) {
        let durations = &entry.stats.durations;
        let percentile = |p: &f64| format!("p{p}={:.3}", durations.percentile(*p) as f64 / 1000.0);
        let all: Vec<_> = settings.latency_tracking_info_percentiles.0.iter().map(percentile).collect();
        line(out, &format!("latency_percentiles_usec_{}", entry.name), all.join(","));
    }
}

fn keyspace(figures: &mut Figures<'_>, out: &mut String) {
    let mut rng = Rng::new(random_u64());
    for (db, (keys, expires)) in figures.sizes().into_iter().enumerate() {
        if keys > 0 {
            let ttl = if expires > 0 { figures.average_ttl_ms(db, clock::unix_ms(), &mut rng) } else { 0 };
            line(out, &format!("db{db}"), format!("keys={keys},expires={expires},avg_ttl={ttl}"));
        }
    }
}
