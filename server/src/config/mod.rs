//! Parameters: one table from which come the parser of `redis.conf`, `--directive value` arguments, CONFIG GET, SET and
//! REWRITE. A parameter is one line; its field, default, range and text form follow from that line.

mod file;
mod values;

use engine::Limits;

pub use file::{ConfigError, apply_args, load, rewrite};
pub use values::{BindList, LogLevel, Memory, OutputLimit, OutputLimits, ReplicaOf, SaveRule, SaveRules};
use values::{Param, Ranged};

/// When a parameter may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// By CONFIG SET.
    Live,
    /// Only at start.
    Start,
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub alias: Option<&'static str>,
    pub change: Change,
    pub get: fn(&Settings) -> String,
    pub set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// The alias of a parameter, if the table has one.
const fn first(names: &[&'static str]) -> Option<&'static str> {
    if names.is_empty() { None } else { Some(names[0]) }
}

macro_rules! parameters {
    ($($name:literal $(/ $alias:literal)? $field:ident: $type:ty = $default:expr, $change:ident $(, $range:expr)?;)*) => {
        /// The values of all parameters.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $(pub $field: $type,)*
            /// What the engine needs of them.
            pub limits: Limits,
        }

        impl Default for Settings {
            fn default() -> Self {
                let mut settings = Self { $($field: $default,)* limits: Limits::default() };
                settings.derive();
                settings
            }
        }

        pub static PARAMETERS: &[Parameter] = &[$(Parameter {
            name: $name,
            alias: first(&[$($alias)?]),
            change: Change::$change,
            get: |settings| Param::show(&settings.$field),
            set: |settings, text| {
                let value = <$type as Param>::parse(text)?;
                $(Ranged::check(&value, $range.into())?;)?
                settings.$field = value;
                Ok(())
            },
        }),*];
    };
}

parameters! {
    "bind" bind: BindList = BindList::default(), Start;
    "port" port: i64 = 6379, Start, (0, 65535);
    "unixsocket" unixsocket: String = String::new(), Start;
    "tcp-backlog" tcp_backlog: i64 = 511, Start, (0, i64::from(i32::MAX));
    "tcp-keepalive" tcp_keepalive: i64 = 300, Live, (0, i64::from(i32::MAX));
    "timeout" timeout: i64 = 0, Live, (0, i64::from(i32::MAX));
    "protected-mode" protected_mode: bool = true, Live;
    "maxclients" maxclients: i64 = 10000, Live, (1, i64::from(u32::MAX));
    "io-threads" io_threads: i64 = 0, Start, (0, 128);
    "requirepass" requirepass: String = String::new(), Live;
    "masterauth" masterauth: String = String::new(), Live;
    "masteruser" masteruser: String = String::new(), Live;
    "replicaof" / "slaveof" replicaof: ReplicaOf = ReplicaOf::default(), Start;
    "replica-read-only" / "slave-read-only" replica_read_only: bool = true, Live;
    "replica-serve-stale-data" / "slave-serve-stale-data" replica_serve_stale_data: bool = true, Live;
    "replica-priority" / "slave-priority" replica_priority: i64 = 100, Live, (0, i64::from(i32::MAX));
    "replica-announce-ip" / "slave-announce-ip" replica_announce_ip: String = String::new(), Live;
    "replica-announce-port" / "slave-announce-port" replica_announce_port: i64 = 0, Live, (0, 65535);
    "repl-backlog-size" repl_backlog_size: Memory = Memory(1 << 20), Live;
    "repl-backlog-ttl" repl_backlog_ttl: i64 = 3600, Live, (0, i64::from(i32::MAX));
    "repl-timeout" repl_timeout: i64 = 60, Live, (1, i64::from(i32::MAX));
    "repl-ping-replica-period" / "repl-ping-slave-period" repl_ping_replica_period: i64 = 10, Live, (1, i64::from(i32::MAX));
    "repl-diskless-sync" repl_diskless_sync: bool = true, Live;
    "repl-diskless-sync-delay" repl_diskless_sync_delay: i64 = 5, Live, (0, i64::from(i32::MAX));
    "min-replicas-to-write" / "min-slaves-to-write" min_replicas_to_write: i64 = 0, Live, (0, i64::from(i32::MAX));
    "min-replicas-max-lag" / "min-slaves-max-lag" min_replicas_max_lag: i64 = 10, Live, (0, i64::from(i32::MAX));
    "databases" databases: i64 = 16, Start, (1, 16384);
    "save" save: SaveRules = SaveRules::default(), Live;
    "dbfilename" dbfilename: String = "dump.rdb".into(), Live;
    "dir" dir: String = ".".into(), Live;
    "rdbcompression" rdbcompression: bool = true, Live;
    "rdbchecksum" rdbchecksum: bool = true, Start;
    "stop-writes-on-bgsave-error" stop_writes_on_bgsave_error: bool = true, Live;
    "daemonize" daemonize: bool = false, Start;
    "pidfile" pidfile: String = String::new(), Start;
    "loglevel" loglevel: LogLevel = LogLevel::Notice, Start;
    "logfile" logfile: String = String::new(), Start;
    "slowlog-log-slower-than" slowlog_log_slower_than: i64 = 10000, Live, (-1, i64::MAX);
    "slowlog-max-len" slowlog_max_len: i64 = 128, Live, (0, i64::MAX);
    "client-output-buffer-limit" client_output_buffer_limit: OutputLimits = OutputLimits::default(), Live;
    "metrics-port" metrics_port: i64 = 0, Start, (0, 65535);
    "managed" managed: bool = false, Start;
    "managed-lease-ms" managed_lease_ms: i64 = 2000, Start, (100, 600_000);
    "hash-max-listpack-entries" / "hash-max-ziplist-entries" hash_max_listpack_entries: i64 = 512, Live, (0, i64::MAX);
    "hash-max-listpack-value" / "hash-max-ziplist-value" hash_max_listpack_value: Memory = Memory(64), Live;
    "set-max-intset-entries" set_max_intset_entries: i64 = 512, Live, (0, i64::MAX);
    "set-max-listpack-entries" set_max_listpack_entries: i64 = 128, Live, (0, i64::MAX);
    "set-max-listpack-value" set_max_listpack_value: Memory = Memory(64), Live;
    "zset-max-listpack-entries" / "zset-max-ziplist-entries" zset_max_listpack_entries: i64 = 128, Live, (0, i64::MAX);
    "zset-max-listpack-value" / "zset-max-ziplist-value" zset_max_listpack_value: Memory = Memory(64), Live;
    "list-max-listpack-size" / "list-max-ziplist-size" list_max_listpack_size: i64 = -2, Live, (-5, 1 << 20);
    "proto-max-bulk-len" proto_max_bulk_len: Memory = Memory(512 << 20), Live, (1 << 20, i64::from(i32::MAX));
    "client-query-buffer-limit" client_query_buffer_limit: Memory = Memory(1 << 30), Live, (1 << 20, i64::MAX);
    "lazyfree-lazy-expire" lazyfree_lazy_expire: bool = false, Live;
    "hz" hz: i64 = 10, Live, (1, 500);
}

/// Directives of Redis that this server does not do yet, with the values that it can accept because they ask for nothing.
pub static NOT_YET: &[(&str, &[&str])] = &[
    ("appendonly", &["no"]),
    ("appendfsync", &["everysec", "always", "no"]),
    ("maxmemory", &["0"]),
    ("maxmemory-policy", &["noeviction"]),
    ("cluster-enabled", &["no"]),
    ("tls-port", &["0"]),
    ("notify-keyspace-events", &[""]),
    ("aclfile", &[""]),
    ("repl-diskless-load", &["disabled"]),
];

impl Settings {
    /// Finds a parameter by name or alias, in any case.
    pub fn parameter(name: &str) -> Option<&'static Parameter> {
        PARAMETERS
            .iter()
            .find(|p| p.name.eq_ignore_ascii_case(name) || p.alias.is_some_and(|a| a.eq_ignore_ascii_case(name)))
    }

    /// Sets what follows from other values; to be called after changes.
    pub fn derive(&mut self) {
        let count = |n: i64| usize::try_from(n).unwrap_or(0);
        self.limits = Limits {
            hash_max_listpack_entries: count(self.hash_max_listpack_entries),
            hash_max_listpack_value: self.hash_max_listpack_value.0 as usize,
            set_max_intset_entries: count(self.set_max_intset_entries),
            set_max_listpack_entries: count(self.set_max_listpack_entries),
            set_max_listpack_value: self.set_max_listpack_value.0 as usize,
            zset_max_listpack_entries: count(self.zset_max_listpack_entries),
            zset_max_listpack_value: self.zset_max_listpack_value.0 as usize,
            list_max_listpack_size: self.list_max_listpack_size,
            proto_max_bulk_len: self.proto_max_bulk_len.0 as usize,
            lazyfree_lazy_expire: self.lazyfree_lazy_expire,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_has_a_name_of_its_own_and_its_default_reads_back() {
        let mut names = std::collections::BTreeSet::new();
        let mut settings = Settings::default();
        for p in PARAMETERS {
            assert!(names.insert(p.name) && p.alias.is_none_or(|a| names.insert(a)), "{} is there twice", p.name);
            let text = (p.get)(&settings);
            if p.name != "replicaof" {
                (p.set)(&mut settings, &text).unwrap_or_else(|e| panic!("{} {text}: {e}", p.name));
                assert_eq!((p.get)(&settings), text, "{}", p.name);
            }
        }
    }

    #[test]
    fn bad_values_are_refused_with_redis_s_words() {
        let mut s = Settings::default();
        let mut check = |name: &str, value: &str, want: &str| {
            assert_eq!(
                (Settings::parameter(name).unwrap().set)(&mut s, value),
                Err(want.to_string()),
                "{name} {value}"
            );
        };
        check("port", "x", "argument couldn't be parsed into an integer");
        check("port", "70000", "argument must be between 0 and 65535 inclusive");
        check("protected-mode", "maybe", "argument must be 'yes' or 'no'");
        check("repl-backlog-size", "1zz", "argument must be a memory value");
        check("save", "1 2 3", "Invalid save parameters");
        assert!((Settings::parameter("SLAVEOF").unwrap().set)(&mut s, "host 1").is_ok());
    }
}
