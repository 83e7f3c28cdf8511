//! INFO as metrics, under redis_exporter's names.

use std::collections::{BTreeMap, HashMap};

use super::families::Families;
use crate::clock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Gauge,
    Counter,
}
use Type::{Counter, Gauge};

/// Field of INFO, the metric's type, its name without `redis_`, its help.
const FIELDS: &[(&str, Type, &str, &str)] = &[
    ("uptime_in_seconds", Gauge, "uptime_in_seconds", "Seconds since the start."),
    ("process_id", Gauge, "process_id", "Process id of the server."),
    ("io_threads_active", Gauge, "io_threads_active", "1 if more than one thread serves clients."),
    ("connected_clients", Gauge, "connected_clients", "Client connections, replicas not counted."),
    ("maxclients", Gauge, "max_clients", "Connections that are accepted at most."),
    ("blocked_clients", Gauge, "blocked_clients", "Clients that wait for something."),
    ("tracking_clients", Gauge, "tracking_clients", "Clients that are told of changed keys."),
    ("used_memory", Gauge, "memory_used_bytes", "Allocated bytes."),
    ("used_memory_rss", Gauge, "memory_used_rss_bytes", "Resident bytes."),
    ("used_memory_peak", Gauge, "memory_used_peak_bytes", "The most bytes that were ever seen to be allocated."),
    ("used_memory_overhead", Gauge, "memory_used_overhead_bytes", "Allocated bytes that hold no data set."),
    ("used_memory_startup", Gauge, "memory_used_startup_bytes", "Allocated bytes before there was any data."),
    ("used_memory_dataset", Gauge, "memory_used_dataset_bytes", "Allocated bytes that hold the data set."),
    ("total_system_memory", Gauge, "total_system_memory_bytes", "Memory of the machine."),
    ("maxmemory", Gauge, "memory_max_bytes", "The limit maxmemory; 0 for none."),
    ("mem_fragmentation_ratio", Gauge, "mem_fragmentation_ratio", "Resident bytes for each allocated byte."),
    ("mem_fragmentation_bytes", Gauge, "mem_fragmentation_bytes", "Resident less allocated bytes."),
    ("mem_clients_slaves", Gauge, "mem_clients_slaves", "Bytes that connections of replicas hold."),
    ("mem_clients_normal", Gauge, "mem_clients_normal", "Bytes that connections of clients hold."),
    ("mem_not_counted_for_evict", Gauge, "mem_not_counted_for_eviction_bytes", "Bytes that maxmemory does not count."),
    ("lazyfree_pending_objects", Gauge, "lazyfree_pending_objects", "Values that wait for being freed."),
    ("loading", Gauge, "loading_dump_file", "1 while the data set is being loaded."),
    ("async_loading", Gauge, "async_loading", "1 while a full resync is loaded beside the data set."),
    ("rdb_changes_since_last_save", Gauge, "rdb_changes_since_last_save", "Changes that are in no RDB file yet."),
    ("rdb_bgsave_in_progress", Gauge, "rdb_bgsave_in_progress", "1 while an RDB file is being written."),
    ("rdb_last_save_time", Gauge, "rdb_last_save_timestamp_seconds", "When the last RDB file was written, Unix time."),
    ("rdb_last_bgsave_status", Gauge, "rdb_last_bgsave_status", "1 if the last save went well."),
    ("rdb_saves", Counter, "rdb_saves_total", "RDB files written."),
    (
        "rdb_last_load_keys_expired",
        Gauge,
        "rdb_last_load_expired_keys",
        "Keys that had expired when a file was loaded.",
    ),
    ("rdb_last_load_keys_loaded", Gauge, "rdb_last_load_loaded_keys", "Keys loaded from the last file."),
    ("aof_enabled", Gauge, "aof_enabled", "1 if an append-only file is kept."),
    ("aof_last_write_status", Gauge, "aof_last_write_status", "1 if the last write to the append-only file went well."),
    ("pubsub_channels", Gauge, "pubsub_channels", "Channels that have subscribers."),
    ("pubsub_patterns", Gauge, "pubsub_patterns", "Patterns that have subscribers."),
    ("total_connections_received", Counter, "connections_received_total", "Connections accepted."),
    ("rejected_connections", Counter, "rejected_connections_total", "Connections refused because of maxclients."),
    ("total_commands_processed", Counter, "commands_processed_total", "Commands."),
    ("total_net_input_bytes", Counter, "net_input_bytes_total", "Bytes read from connections."),
    ("total_net_output_bytes", Counter, "net_output_bytes_total", "Bytes written to connections."),
    ("total_net_repl_input_bytes", Counter, "net_repl_input_bytes_total", "Bytes read from the master."),
    ("total_net_repl_output_bytes", Counter, "net_repl_output_bytes_total", "Bytes written to replicas."),
    ("expired_keys", Counter, "expired_keys_total", "Keys deleted because their time had passed."),
    ("evicted_keys", Counter, "evicted_keys_total", "Keys deleted because of maxmemory."),
    ("keyspace_hits", Counter, "keyspace_hits_total", "Look-ups that found a key."),
    ("keyspace_misses", Counter, "keyspace_misses_total", "Look-ups that found none."),
    ("used_cpu_sys", Counter, "cpu_sys_seconds_total", "CPU time in the kernel."),
    ("used_cpu_user", Counter, "cpu_user_seconds_total", "CPU time in the server."),
    ("sync_full", Gauge, "replica_resyncs_full", "Full resyncs served since the start."),
    ("sync_partial_ok", Gauge, "replica_partial_resync_accepted", "Partial resyncs served since the start."),
    ("sync_partial_err", Gauge, "replica_partial_resync_denied", "Requests for a partial resync that got a full one."),
    ("connected_slaves", Gauge, "connected_slaves", "Attached replicas."),
    ("min_slaves_good_slaves", Gauge, "min_slaves_good_slaves", "Replicas that count for min-replicas-to-write."),
    ("slave_expires_tracked_keys", Gauge, "slave_expires_tracked_keys", "Keys that a writable replica expires itself."),
    ("slave_priority", Gauge, "slave_priority", "Priority of this replica in a failover by Sentinel."),
    ("master_repl_offset", Gauge, "master_repl_offset", "End of the replication log."),
    ("second_repl_offset", Gauge, "second_repl_offset", "Up to where the second replication id counts; -1 for not."),
    ("repl_backlog_active", Gauge, "repl_backlog_is_active", "1 while a backlog is kept."),
    ("repl_backlog_size", Gauge, "replication_backlog_bytes", "Size of the backlog."),
    ("repl_backlog_first_byte_offset", Gauge, "repl_backlog_first_byte_offset", "Where the backlog begins."),
    ("repl_backlog_histlen", Gauge, "repl_backlog_history_bytes", "Bytes in the backlog."),
];

/// Those of a replica, which carry the labels `master_host` and `master_port`.
const OF_THE_LINK: &[(&str, &str, &str)] = &[
    ("master_link_status", "master_link_up", "1 while the link to the master is up."),
    ("master_sync_in_progress", "master_sync_in_progress", "1 while a full resync is under way."),
    (
        "master_last_io_seconds_ago",
        "master_last_io_seconds_ago",
        "Seconds since the master was last heard; -1 without link.",
    ),
    ("slave_repl_offset", "slave_repl_offset", "Offset that this replica has applied."),
];

/// The value of a field: a number, or a word that stands for yes or no.
fn number(value: &str) -> Option<f64> {
    match value {
        "ok" | "up" => Some(1.0),
        "err" | "down" => Some(0.0),
        number => number.parse().ok(),
    }
}

pub(super) fn fill(families: &mut Families, fields: &HashMap<&str, &str>) {
    let text = |name: &str| fields.get(name).copied().unwrap_or_default();
    families.gauge("redis_up", "1 while the server answers.", 1.0);
    families.gauge(
        "redis_start_time_seconds",
        "When the server was started, Unix time.",
        clock::started_unix_ms() as f64 / 1000.0,
    );
    for (field, kind, name, help) in FIELDS {
        // Some are told in one role only.
        let Some(value) = fields.get(field).and_then(|value| number(value)) else { continue };
        match kind {
            Gauge => families.gauge(&format!("redis_{name}"), help, value),
            Counter => families.counter(&format!("redis_{name}"), help, value),
        }
    }
    // What the exporter reads by CONFIG GET.
    for (field, name, help) in [
        ("maxclients", "redis_config_maxclients", "The setting maxclients."),
        ("maxmemory", "redis_config_maxmemory", "The setting maxmemory; 0 for no limit."),
    ] {
        families.gauge(name, help, number(text(field)).unwrap_or(0.0));
    }
    let code =
        |(field, count): (&&'_ str, &&'_ str)| Some((field.strip_prefix("errorstat_")?.to_string(), count.to_string()));
    let errors: BTreeMap<String, String> = fields.iter().filter_map(code).collect();
    for (code, count) in &errors {
        let count = count.trim_start_matches("count=");
        let help = "Errors answered, by code.";
        families.counter_with("redis_errors_total", help, &[("err", code.as_str())], number(count).unwrap_or(0.0));
    }
    let labels = ["role", "redis_version", "redis_mode", "os", "maxmemory_policy", "tcp_port", "run_id", "process_id"];
    let mut info: Vec<(&str, &str)> = labels.map(|label| (label, text(label))).to_vec();
    info.extend([("redis_build_id", env!("CARGO_PKG_VERSION")), ("master_replid", text("master_replid"))]);
    families.gauge_with("redis_instance_info", "Always 1; says what this instance is.", &info, 1.0);
    if text("role") == "slave" {
        let master = [("master_host", text("master_host")), ("master_port", text("master_port"))];
        for (field, name, help) in OF_THE_LINK {
            let value = fields.get(field).and_then(|value| number(value)).unwrap_or(0.0);
            families.gauge_with(&format!("redis_{name}"), help, &master, value);
        }
        let labels = [master[0], master[1], ("read_only", text("slave_read_only"))];
        families.gauge_with("redis_slave_info", "Always 1; says whom this replica follows.", &labels, 1.0);
    }
}

/// The databases: `db0:keys=1,expires=0,avg_ttl=0`. Database 0 is told of also when it is empty.
pub(super) fn fill_keyspace(families: &mut Families, info: &str) {
    let section = info.split_once("# Keyspace").map_or("", |(_, section)| section);
    let mut databases: Vec<(&str, &str)> = section.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    if !databases.iter().any(|(db, _)| *db == "db0") {
        databases.insert(0, ("db0", ""));
    }
    for (name, field, scale, help) in [
        ("redis_db_keys", "keys", 1.0, "Keys of a database."),
        ("redis_db_keys_expiring", "expires", 1.0, "Keys of a database that have an expiry."),
        ("redis_db_avg_ttl_seconds", "avg_ttl", 1e-3, "Mean time that keys of a database have left."),
    ] {
        for (db, counts) in &databases {
            let value = counts.split(',').find_map(|part| part.strip_prefix(field)?.strip_prefix('='));
            families.gauge_with(name, help, &[("db", db)], value.and_then(number).unwrap_or(0.0) * scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fields_have_the_same_name_and_counters_are_named_so() {
        let mut names: Vec<&str> = FIELDS.iter().map(|(.., name, _)| *name).collect();
        names.extend(OF_THE_LINK.iter().map(|(_, name, _)| *name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        for (_, kind, name, help) in FIELDS {
            assert_eq!(*kind == Counter, name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.'), "{help}");
        }
    }

    #[test]
    fn words_are_numbers() {
        assert_eq!(["ok", "down", "-1", "1.50", "x"].map(number), [Some(1.0), Some(0.0), Some(-1.0), Some(1.5), None]);
    }

    #[test]
    fn databases_are_read_from_their_section() {
        let mut families = Families::default();
        fill_keyspace(
            &mut families,
            "# Stats\r\ndb7:keys=9\r\n\r\n# Keyspace\r\ndb3:keys=2,expires=1,avg_ttl=1500\r\n",
        );
        let all = families.into_inner();
        let values = |at: usize| all[at].get_metric().iter().map(|m| m.get_gauge().get_value()).collect::<Vec<_>>();
        assert_eq!((values(0), values(1), values(2)), (vec![0.0, 2.0], vec![0.0, 1.0], vec![0.0, 1.5]));
    }
}
