//! The table of parameters: `"name" / "alias" field: kind = default, class [, limit];`
//!
//! Names, defaults, ranges and error texts are those of Redis 7.2's `redis.conf`, except for `io-threads` (0: as many as
//! the machine or the container has) and for those at the end, which are not Redis's.

use engine::Limits;

use crate::acl::User;

use super::values::{
    Access, Among, DisklessLoad, FileName, Folder, Limit as _, LogLevel, Memory, MemoryOrShare, NotYetBut, OnSignal,
    OutputLimits, Param as _, Percentiles, Permissions, PropagationErrors, ReplicaOf, SaveRules, Seen, Supervised,
    Words,
};

/// When a parameter may change, and what comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// By CONFIG SET.
    Live,
    /// Only at start.
    Start,
    /// By CONFIG SET if `enable-protected-configs` says so.
    Protected,
    /// Asks for something that has no meaning here, or for a detail of something that is off: kept and shown.
    Hint,
    /// The same, and only at start.
    StartHint,
    /// For tests; not shown by patterns.
    Hidden,
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub alias: Option<&'static str>,
    pub class: Class,
    /// As CONFIG GET shows it.
    pub get: fn(&Settings) -> String,
    /// What stands behind the name in `redis.conf`, for each of its lines.
    pub lines: fn(&Settings) -> Vec<String>,
    /// From the words behind the name.
    pub set: fn(&mut Settings, &[&str], Seen) -> Result<(), String>,
}

/// The alias of a parameter, if the table has one.
const fn first(names: &[&'static str]) -> Option<&'static str> {
    if names.is_empty() { None } else { Some(names[0]) }
}

macro_rules! parameters {
    ($($name:literal $(/ $alias:literal)? $field:ident: $type:ty = $default:expr, $class:ident $(, $limit:expr)?;)*) => {
        /// The values of all parameters.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $(pub $field: $type,)*
            /// The line `user default …`, if there is one: it prevails over `requirepass`.
            pub default_user: Option<User>,
            /// What the engine needs of them.
            pub limits: Limits,
        }

        impl Default for Settings {
            fn default() -> Self {
                let mut settings = Self { $($field: $default,)* default_user: None, limits: Limits::default() };
                settings.derive();
                settings
            }
        }

        /// Every parameter, in the order of the table.
        pub static PARAMETERS: &[Parameter] = &[$(Parameter {
            name: $name,
            alias: first(&[$($alias)?]),
            class: Class::$class,
            get: |settings| settings.$field.show(),
            lines: |settings| settings.$field.lines(),
            set: |settings, words, seen| {
                let value = settings.$field.merge(words, seen)?;
                $($limit.check(&value)?;)?
                settings.$field = value;
                Ok(())
            },
        }),*];
    };
}

const INT: std::ops::RangeInclusive<i64> = 0..=i32::MAX as i64;
const LONG: std::ops::RangeInclusive<i64> = 0..=i64::MAX;
const PORT: std::ops::RangeInclusive<i64> = 0..=65535;

fn text(default: &str) -> String {
    default.into()
}

parameters! {
    // Network.
    "bind" bind: Words = Words::new(&["*", "-::*"]), Live;
    "port" port: i64 = 6379, Live, PORT;
    "unixsocket" unixsocket: String = text(""), Start;
    "unixsocketperm" unixsocketperm: Permissions = Permissions(0), Start;
    "tcp-backlog" tcp_backlog: i64 = 511, Start, INT;
    "tcp-keepalive" tcp_keepalive: i64 = 300, Live, INT;
    "timeout" timeout: i64 = 0, Live, INT;
    "protected-mode" protected_mode: bool = true, Live;
    "maxclients" maxclients: i64 = 10000, Live, 1..=i64::from(u32::MAX);
    "io-threads" io_threads: i64 = 0, Start, 0..=128;
    "io-threads-do-reads" io_threads_do_reads: bool = false, StartHint;
    "bind-source-addr" bind_source_addr: String = text(""), Live, NotYetBut(&[""]);
    "socket-mark-id" socket_mark_id: i64 = 0, Start, NotYetBut(&["0"]);
    "proto-max-bulk-len" proto_max_bulk_len: Memory = Memory(512 << 20), Live, 1 << 20..=i64::MAX;
    "client-query-buffer-limit" client_query_buffer_limit: Memory = Memory(1 << 30), Live, 1 << 20..=i64::MAX;
    "client-output-buffer-limit" client_output_buffer_limit: OutputLimits = OutputLimits::default(), Live;
    "tracking-table-max-keys" tracking_table_max_keys: i64 = 1_000_000, Hint, LONG;
    "tls-port" tls_port: i64 = 0, Live, NotYetBut(&["0"]);
    "tls-cluster" tls_cluster: bool = false, Live, NotYetBut(&["no"]);
    "tls-replication" tls_replication: bool = false, Live, NotYetBut(&["no"]);
    "tls-auth-clients" tls_auth_clients: String = text("yes"), Hint, Among(&["no", "yes", "optional"]);
    "tls-prefer-server-ciphers" tls_prefer_server_ciphers: bool = false, Hint;
    "tls-session-caching" tls_session_caching: bool = true, Hint;
    "tls-session-cache-size" tls_session_cache_size: i64 = 20480, Hint, INT;
    "tls-session-cache-timeout" tls_session_cache_timeout: i64 = 300, Hint, INT;
    "tls-cert-file" tls_cert_file: String = text(""), Hint;
    "tls-key-file" tls_key_file: String = text(""), Hint;
    "tls-key-file-pass" tls_key_file_pass: String = text(""), Hint;
    "tls-client-cert-file" tls_client_cert_file: String = text(""), Hint;
    "tls-client-key-file" tls_client_key_file: String = text(""), Hint;
    "tls-client-key-file-pass" tls_client_key_file_pass: String = text(""), Hint;
    "tls-dh-params-file" tls_dh_params_file: String = text(""), Hint;
    "tls-ca-cert-file" tls_ca_cert_file: String = text(""), Hint;
    "tls-ca-cert-dir" tls_ca_cert_dir: String = text(""), Hint;
    "tls-protocols" tls_protocols: String = text(""), Hint;
    "tls-ciphers" tls_ciphers: String = text(""), Hint;
    "tls-ciphersuites" tls_ciphersuites: String = text(""), Hint;

    // Who may do what.
    "requirepass" requirepass: String = text(""), Live;
    "aclfile" aclfile: String = text(""), Start, NotYetBut(&[""]);
    "acl-pubsub-default" acl_pubsub_default: String = text("resetchannels"), Hint, Among(&["allchannels", "resetchannels"]);
    "acllog-max-len" acllog_max_len: i64 = 128, Hint, LONG;
    "enable-debug-command" enable_debug_command: Access = Access::No, Start;
    "enable-protected-configs" enable_protected_configs: Access = Access::No, Start;
    "enable-module-command" enable_module_command: Access = Access::No, StartHint;

    // The process.
    "daemonize" daemonize: bool = false, Start;
    "supervised" supervised: Supervised = Supervised::No, Start, NotYetBut(&["no", "systemd", "auto"]);
    "pidfile" pidfile: String = text(""), Start;
    "logfile" logfile: String = text(""), Start;
    "loglevel" loglevel: LogLevel = LogLevel::Notice, Live;
    "syslog-enabled" syslog_enabled: bool = false, Start, NotYetBut(&["no"]);
    "syslog-ident" syslog_ident: String = text("redis"), StartHint;
    "syslog-facility" syslog_facility: String = text("local0"), StartHint, Among(&["user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"]);
    "always-show-logo" always_show_logo: bool = false, StartHint;
    "set-proc-title" set_proc_title: bool = true, StartHint;
    "proc-title-template" proc_title_template: String = text("{title} {listen-addr} {server-mode}"), Hint;
    "locale-collate" locale_collate: String = text(""), Hint;
    "crash-log-enabled" crash_log_enabled: bool = true, Hint;
    "crash-memcheck-enabled" crash_memcheck_enabled: bool = true, Hint;
    "disable-thp" disable_thp: bool = true, StartHint;
    "oom-score-adj" oom_score_adj: String = text("no"), Live, NotYetBut(&["no"]);
    "oom-score-adj-values" oom_score_adj_values: Words = Words::new(&["0", "200", "800"]), Hint;
    "ignore-warnings" ignore_warnings: String = text(""), Hint;
    "server_cpulist" server_cpulist: String = text(""), Start, NotYetBut(&[""]);
    "bio_cpulist" bio_cpulist: String = text(""), StartHint;
    "aof_rewrite_cpulist" aof_rewrite_cpulist: String = text(""), StartHint;
    "bgsave_cpulist" bgsave_cpulist: String = text(""), StartHint;
    "jemalloc-bg-thread" jemalloc_bg_thread: bool = true, Hint;
    "shutdown-timeout" shutdown_timeout: i64 = 10, Live, INT;
    "shutdown-on-sigint" shutdown_on_sigint: OnSignal = OnSignal::default(), Live;
    "shutdown-on-sigterm" shutdown_on_sigterm: OnSignal = OnSignal::default(), Live;
    "hz" hz: i64 = 10, Live, INT;
    "dynamic-hz" dynamic_hz: bool = true, Hint;

    // The data set.
    "databases" databases: i64 = 16, Start, 1..=16384;
    "maxmemory" maxmemory: Memory = Memory(0), Live, LONG;
    "maxmemory-policy" maxmemory_policy: String = text("noeviction"), Live, NotYetBut(&["noeviction"]);
    "maxmemory-samples" maxmemory_samples: i64 = 5, Hint, 1..=i64::from(i32::MAX);
    "maxmemory-eviction-tenacity" maxmemory_eviction_tenacity: i64 = 10, Hint, 0..=100;
    "maxmemory-clients" maxmemory_clients: MemoryOrShare = MemoryOrShare::Bytes(Memory(0)), Live, NotYetBut(&["0", "0%"]);
    "lfu-log-factor" lfu_log_factor: i64 = 10, Hint, INT;
    "lfu-decay-time" lfu_decay_time: i64 = 1, Hint, INT;
    "active-expire-effort" active_expire_effort: i64 = 1, Live, 1..=10;
    "lazyfree-lazy-expire" lazyfree_lazy_expire: bool = false, Live;
    "lazyfree-lazy-eviction" lazyfree_lazy_eviction: bool = false, Hint;
    "lazyfree-lazy-server-del" lazyfree_lazy_server_del: bool = false, Live;
    "lazyfree-lazy-user-del" lazyfree_lazy_user_del: bool = false, Hint;
    "lazyfree-lazy-user-flush" lazyfree_lazy_user_flush: bool = false, Hint;
    "activerehashing" activerehashing: bool = true, Hint;
    "activedefrag" activedefrag: bool = false, Live, NotYetBut(&["no"]);
    "active-defrag-cycle-min" active_defrag_cycle_min: i64 = 1, Hint, 1..=99;
    "active-defrag-cycle-max" active_defrag_cycle_max: i64 = 25, Hint, 1..=99;
    "active-defrag-ignore-bytes" active_defrag_ignore_bytes: Memory = Memory(100 << 20), Hint, 1..=i64::MAX;
    "active-defrag-max-scan-fields" active_defrag_max_scan_fields: i64 = 1000, Hint, 1..=i64::MAX;
    "active-defrag-threshold-lower" active_defrag_threshold_lower: i64 = 10, Hint, 0..=1000;
    "active-defrag-threshold-upper" active_defrag_threshold_upper: i64 = 100, Hint, 0..=1000;
    "notify-keyspace-events" notify_keyspace_events: String = text(""), Live, NotYetBut(&[""]);
    "hash-max-listpack-entries" / "hash-max-ziplist-entries" hash_max_listpack_entries: i64 = 512, Live, LONG;
    "hash-max-listpack-value" / "hash-max-ziplist-value" hash_max_listpack_value: Memory = Memory(64), Live, LONG;
    "set-max-intset-entries" set_max_intset_entries: i64 = 512, Live, LONG;
    "set-max-listpack-entries" set_max_listpack_entries: i64 = 128, Live, LONG;
    "set-max-listpack-value" set_max_listpack_value: Memory = Memory(64), Live, LONG;
    "zset-max-listpack-entries" / "zset-max-ziplist-entries" zset_max_listpack_entries: i64 = 128, Live, LONG;
    "zset-max-listpack-value" / "zset-max-ziplist-value" zset_max_listpack_value: Memory = Memory(64), Live, LONG;
    "list-max-listpack-size" / "list-max-ziplist-size" list_max_listpack_size: i64 = -2, Live, i64::from(i32::MIN)..=i64::from(i32::MAX);
    "list-compress-depth" list_compress_depth: i64 = 0, Hint, INT;
    "hll-sparse-max-bytes" hll_sparse_max_bytes: Memory = Memory(3000), Hint, LONG;
    "stream-node-max-bytes" stream_node_max_bytes: Memory = Memory(4096), Hint, LONG;
    "stream-node-max-entries" stream_node_max_entries: i64 = 100, Hint, LONG;
    "sanitize-dump-payload" sanitize_dump_payload: String = text("no"), Hint, Among(&["no", "yes", "clients"]);
    "busy-reply-threshold" / "lua-time-limit" busy_reply_threshold: i64 = 5000, Hint, LONG;

    // Replication.
    "replicaof" / "slaveof" replicaof: ReplicaOf = ReplicaOf::default(), Start;
    "masterauth" masterauth: String = text(""), Live;
    "masteruser" masteruser: String = text(""), Live;
    "replica-read-only" / "slave-read-only" replica_read_only: bool = true, Live;
    "replica-serve-stale-data" / "slave-serve-stale-data" replica_serve_stale_data: bool = true, Live;
    "replica-priority" / "slave-priority" replica_priority: i64 = 100, Live, INT;
    "replica-announced" replica_announced: bool = true, Live;
    "replica-announce-ip" / "slave-announce-ip" replica_announce_ip: String = text(""), Live;
    "replica-announce-port" / "slave-announce-port" replica_announce_port: i64 = 0, Live, PORT;
    "replica-ignore-maxmemory" / "slave-ignore-maxmemory" replica_ignore_maxmemory: bool = true, Hint;
    "replica-lazy-flush" / "slave-lazy-flush" replica_lazy_flush: bool = false, Hint;
    "replica-ignore-disk-write-errors" replica_ignore_disk_write_errors: bool = false, Hint;
    "repl-backlog-size" repl_backlog_size: Memory = Memory(1 << 20), Live, 1..=i64::MAX;
    "repl-backlog-ttl" repl_backlog_ttl: i64 = 3600, Live, LONG;
    "repl-timeout" repl_timeout: i64 = 60, Live, 1..=i64::from(i32::MAX);
    "repl-ping-replica-period" / "repl-ping-slave-period" repl_ping_replica_period: i64 = 10, Live, 1..=i64::from(i32::MAX);
    "repl-disable-tcp-nodelay" repl_disable_tcp_nodelay: bool = false, Hint;
    "repl-diskless-sync" repl_diskless_sync: bool = true, Live;
    "repl-diskless-sync-delay" repl_diskless_sync_delay: i64 = 5, Live, INT;
    "repl-diskless-sync-max-replicas" repl_diskless_sync_max_replicas: i64 = 0, Live, INT;
    "repl-diskless-load" repl_diskless_load: DisklessLoad = DisklessLoad::Disabled, Live;
    "min-replicas-to-write" / "min-slaves-to-write" min_replicas_to_write: i64 = 0, Live, INT;
    "min-replicas-max-lag" / "min-slaves-max-lag" min_replicas_max_lag: i64 = 10, Live, INT;
    "propagation-error-behavior" propagation_error_behavior: PropagationErrors = PropagationErrors::Ignore, Live;

    // Persistence.
    "save" save: SaveRules = SaveRules::default(), Live;
    "dbfilename" dbfilename: String = text("dump.rdb"), Protected, FileName("dbfilename");
    "dir" dir: String = text("."), Protected, Folder;
    "rdbcompression" rdbcompression: bool = true, Live;
    "rdbchecksum" rdbchecksum: bool = true, Start;
    "rdb-del-sync-files" rdb_del_sync_files: bool = false, Live, NotYetBut(&["no"]);
    "rdb-save-incremental-fsync" rdb_save_incremental_fsync: bool = true, Hint;
    "stop-writes-on-bgsave-error" stop_writes_on_bgsave_error: bool = true, Live;
    "appendonly" appendonly: bool = false, Live, NotYetBut(&["no"]);
    "appendfsync" appendfsync: String = text("everysec"), Hint, Among(&["everysec", "always", "no"]);
    "appendfilename" appendfilename: String = text("appendonly.aof"), StartHint;
    "appenddirname" appenddirname: String = text("appendonlydir"), StartHint;
    "no-appendfsync-on-rewrite" no_appendfsync_on_rewrite: bool = false, Hint;
    "auto-aof-rewrite-percentage" auto_aof_rewrite_percentage: i64 = 100, Hint, INT;
    "auto-aof-rewrite-min-size" auto_aof_rewrite_min_size: Memory = Memory(64 << 20), Hint, LONG;
    "aof-load-truncated" aof_load_truncated: bool = true, Hint;
    "aof-use-rdb-preamble" aof_use_rdb_preamble: bool = true, Hint;
    "aof-timestamp-enabled" aof_timestamp_enabled: bool = false, Hint;
    "aof-rewrite-incremental-fsync" aof_rewrite_incremental_fsync: bool = true, Hint;
    "aof-disable-auto-gc" aof_disable_auto_gc: bool = false, Hidden;

    // What it tells.
    "slowlog-log-slower-than" slowlog_log_slower_than: i64 = 10000, Live, -1..=i64::MAX;
    "slowlog-max-len" slowlog_max_len: i64 = 128, Live, LONG;
    "latency-monitor-threshold" latency_monitor_threshold: i64 = 0, Live, LONG;
    "latency-tracking" latency_tracking: bool = true, Live;
    "latency-tracking-info-percentiles" latency_tracking_info_percentiles: Percentiles = Percentiles::default(), Live;

    // Cluster mode.
    "cluster-enabled" cluster_enabled: bool = false, Start, NotYetBut(&["no"]);
    "cluster-config-file" cluster_config_file: String = text("nodes.conf"), StartHint;
    "cluster-port" cluster_port: i64 = 0, StartHint, PORT;
    "cluster-node-timeout" cluster_node_timeout: i64 = 15000, Hint, LONG;
    "cluster-announce-ip" cluster_announce_ip: String = text(""), Hint;
    "cluster-announce-hostname" cluster_announce_hostname: String = text(""), Hint;
    "cluster-announce-human-nodename" cluster_announce_human_nodename: String = text(""), Hint;
    "cluster-announce-port" cluster_announce_port: i64 = 0, Hint, PORT;
    "cluster-announce-tls-port" cluster_announce_tls_port: i64 = 0, Hint, PORT;
    "cluster-announce-bus-port" cluster_announce_bus_port: i64 = 0, Hint, PORT;
    "cluster-preferred-endpoint-type" cluster_preferred_endpoint_type: String = text("ip"), Hint, Among(&["ip", "hostname", "unknown-endpoint"]);
    "cluster-require-full-coverage" cluster_require_full_coverage: bool = true, Hint;
    "cluster-allow-reads-when-down" cluster_allow_reads_when_down: bool = false, Hint;
    "cluster-allow-pubsubshard-when-down" cluster_allow_pubsubshard_when_down: bool = true, Hint;
    "cluster-allow-replica-migration" cluster_allow_replica_migration: bool = true, Hint;
    "cluster-migration-barrier" cluster_migration_barrier: i64 = 1, Hint, INT;
    "cluster-replica-no-failover" / "cluster-slave-no-failover" cluster_replica_no_failover: bool = false, Hint;
    "cluster-replica-validity-factor" / "cluster-slave-validity-factor" cluster_replica_validity_factor: i64 = 10, Hint, INT;
    "cluster-link-sendbuf-limit" cluster_link_sendbuf_limit: Memory = Memory(0), Hint, LONG;

    // For tests of Redis; nothing here depends on them.
    "key-load-delay" key_load_delay: i64 = 0, Hidden, i64::from(i32::MIN)..=i64::from(i32::MAX);
    "rdb-key-save-delay" rdb_key_save_delay: i64 = 0, Hidden, i64::from(i32::MIN)..=i64::from(i32::MAX);
    "loading-process-events-interval-bytes" loading_process_events_interval_bytes: Memory = Memory(2 << 20), Hidden, LONG;
    "use-exit-on-panic" use_exit_on_panic: bool = false, Hidden;
    "enable-debug-assert" enable_debug_assert: bool = false, Hidden;
    "watchdog-period" watchdog_period: i64 = 0, Hidden, INT;

    // Valkey's.
    "hash-seed" hash_seed: String = text(""), Start;

    // Ours.
    "metrics-port" metrics_port: i64 = 0, Start, PORT;
    "io-threads-adaptive" io_threads_adaptive: bool = true, Live;
    "managed" managed: bool = false, Start;
    "managed-lease-ms" managed_lease_ms: i64 = 2000, Start, 100..=600_000;
}

impl Settings {
    /// Finds a parameter by name or alias, in any case.
    pub fn parameter(name: &str) -> Option<&'static Parameter> {
        PARAMETERS
            .iter()
            .find(|p| p.name.eq_ignore_ascii_case(name) || p.alias.is_some_and(|a| a.eq_ignore_ascii_case(name)))
    }

    /// Whether a directive's value is a password, or is close to one: it is not repeated anywhere.
    pub fn is_secret(name: &str) -> bool {
        const SECRET: [&str; 6] =
            ["masterauth", "masteruser", "requirepass", "tls-client-key-file-pass", "tls-key-file-pass", "user"];
        SECRET.iter().any(|secret| secret.eq_ignore_ascii_case(name))
    }

    /// How many replicas a master needs for writes, and how long ago each may have been heard, ms; if any are needed.
    pub fn min_replicas(&self) -> Option<(usize, u64)> {
        let (count, lag_s) = (self.min_replicas_to_write, self.min_replicas_max_lag);
        (count > 0 && lag_s > 0).then_some((count as usize, lag_s as u64 * 1000))
    }

    /// Where a file that a directive names is: relative to `dir`.
    pub fn in_dir(&self, file: &str) -> std::path::PathBuf {
        std::path::Path::new(&self.dir).join(file)
    }

    /// Sets what follows from other values; to be called after changes.
    pub fn derive(&mut self) {
        let count = |n: i64| usize::try_from(n).unwrap_or(0);
        let size = |n: Memory| usize::try_from(n.0).unwrap_or(usize::MAX);
        // Redis takes any number and uses one of these.
        self.hz = self.hz.clamp(1, 500);
        self.repl_backlog_size.0 = self.repl_backlog_size.0.max(16 << 10);
        self.limits = Limits {
            hash_max_listpack_entries: count(self.hash_max_listpack_entries),
            hash_max_listpack_value: size(self.hash_max_listpack_value),
            set_max_intset_entries: count(self.set_max_intset_entries),
            set_max_listpack_entries: count(self.set_max_listpack_entries),
            set_max_listpack_value: size(self.set_max_listpack_value),
            zset_max_listpack_entries: count(self.zset_max_listpack_entries),
            zset_max_listpack_value: size(self.zset_max_listpack_value),
            list_max_listpack_size: self.list_max_listpack_size.max(-5),
            proto_max_bulk_len: size(self.proto_max_bulk_len),
            reply_max: match self.client_output_buffer_limit.normal.hard {
                0 => usize::MAX,
                bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
            },
            lazyfree_lazy_expire: self.lazyfree_lazy_expire,
            lazyfree_lazy_server_del: self.lazyfree_lazy_server_del,
            verify_dump_checksum: true,
        };
    }

    /// Bytes of log kept for a slow replica.
    pub fn replica_output_limit(&self) -> u64 {
        match self.client_output_buffer_limit.replica.hard {
            0 => u64::MAX / 2,
            limit => limit,
        }
    }

    /// Parameters that were set to something of which nothing comes here.
    pub fn hints_set(&self) -> Vec<&'static str> {
        let defaults = Settings::default();
        let hint = |p: &&Parameter| matches!(p.class, Class::Hint | Class::StartHint);
        PARAMETERS.iter().filter(hint).filter(|p| (p.get)(self) != (p.get)(&defaults)).map(|p| p.name).collect()
    }
}
