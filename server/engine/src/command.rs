//! What a command is: its metadata and its function in one constant. Dispatch, locking, access rules, `COMMAND`,
//! replication and the documentation all read this; nothing about a command is written down twice.

use bitflags::bitflags;
use resp::Args;

use crate::{CommandError, Ctx};

/// `Ok`: exactly one reply was written to `ctx.out`. `Err`: nothing that counts was written, the error is the reply.
pub type CommandResult = Result<(), CommandError>;

/// A command that works on the keyspace.
#[derive(Debug)]
pub struct Command {
    pub spec: Spec,
    pub run: fn(&mut Ctx<'_>) -> CommandResult,
}

/// Metadata as on the command's page in the Redis documentation.
#[derive(Debug)]
pub struct Spec {
    /// Lower case; a subcommand's own name, without its container's.
    pub name: &'static str,
    pub summary: &'static str,
    pub since: &'static str,
    pub group: Group,
    pub complexity: &'static str,
    /// Counts the name; negative: at least so many.
    pub arity: i16,
    pub flags: Flags,
    pub keys: Keys,
    pub acl: Acl,
    /// The arguments as in the documentation: `key [NX | XX] value [value ...]`.
    pub syntax: &'static str,
    pub subcommands: &'static [Spec],
}

impl Spec {
    /// For `..Spec::DEFAULT`.
    pub const DEFAULT: Spec = Spec {
        name: "",
        summary: "",
        since: "1.0.0",
        group: Group::Generic,
        complexity: "O(1)",
        arity: 1,
        flags: Flags::empty(),
        keys: Keys::None,
        acl: Acl::empty(),
        syntax: "",
        subcommands: &[],
    };

    /// True if a call with `argc` words, the name included, has the right number of them.
    #[inline]
    pub fn arity_ok(&self, argc: usize) -> bool {
        let n = self.arity.unsigned_abs() as usize;
        if self.arity >= 0 { argc == n } else { argc >= n }
    }

    /// Numbers of the arguments that are keys.
    #[inline]
    pub fn key_positions(&self, args: Args<'_>) -> KeyPositions {
        match self.keys {
            Keys::None => KeyPositions::NONE,
            Keys::Range { first, last, step } => {
                let last = if last < 0 { args.len() as i32 + i32::from(last) } else { i32::from(last) };
                let last = last.min(args.len() as i32 - 1);
                KeyPositions {
                    first: usize::from(first),
                    last: last.max(0) as usize,
                    step: usize::from(step),
                    extra: 0,
                }
            }
            Keys::Counted { at, extra } => {
                let n = resp::number::parse_u64(args.get(at as usize).unwrap_or_default()).unwrap_or(0);
                let first = at as usize + 1;
                let available = args.len().saturating_sub(first) as u64;
                // A wrong count is the command's to complain about.
                let n = if n > available { 0 } else { n as usize };
                KeyPositions {
                    first,
                    last: first + n.max(1) - 1,
                    step: if n == 0 { 0 } else { 1 },
                    extra: usize::from(extra),
                }
            }
            Keys::Fn(f) => f(args),
        }
    }

    /// All categories, those that follow from the flags included.
    pub fn acl_all(&self) -> Acl {
        let mut acl = self.acl;
        acl.set(Acl::WRITE, self.flags.contains(Flags::WRITE));
        acl.set(Acl::READ, self.flags.contains(Flags::READONLY) && !self.acl.contains(Acl::SCRIPTING));
        acl.set(Acl::FAST, self.flags.contains(Flags::FAST));
        acl.set(Acl::SLOW, !self.flags.contains(Flags::FAST));
        acl.set(Acl::BLOCKING, self.flags.contains(Flags::BLOCKING));
        if self.flags.contains(Flags::ADMIN) {
            acl |= Acl::ADMIN | Acl::DANGEROUS;
        }
        acl
    }
}

/// The subcommands of a container, which carries them out:
/// `"name"(arity, keys, flags, ACL categories) since complexity summary syntax;`. HELP is every container's; its categories
/// stand in front.
#[macro_export]
macro_rules! subcommands {
    ($group:ident, $help_acl:expr; $($name:literal($arity:literal, $keys:expr, $flags:expr, $acl:expr)
        $since:literal $complexity:literal $summary:literal $syntax:literal;)*) => {
        &[$($crate::Spec {
            name: $name,
            summary: $summary,
            since: $since,
            group: $crate::command::Group::$group,
            complexity: $complexity,
            arity: $arity,
            flags: $flags,
            keys: $keys,
            acl: $acl,
            syntax: $syntax,
            subcommands: &[],
        },)*
        $crate::Spec {
            name: "help",
            summary: "Returns helpful text about the different subcommands.",
            group: $crate::command::Group::$group,
            arity: 2,
            acl: $help_acl,
            flags: $crate::command::Flags::LOADING
                .union($crate::command::Flags::STALE)
                .union($crate::command::Flags::AWAITING),
            ..$crate::Spec::DEFAULT
        }]
    };
}

/// Where the keys of a command stand.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    None,
    /// Redis's numbers: `last` may count from the end (-1 is the last argument).
    Range {
        first: u8,
        last: i8,
        step: u8,
    },
    /// Argument number `at` says how many keys follow it; argument number `extra` (0: none) is one more.
    Counted {
        at: u8,
        extra: u8,
    },
    Fn(fn(Args<'_>) -> KeyPositions),
}

impl Keys {
    /// One key, behind the name.
    pub const ONE: Keys = Keys::Range { first: 1, last: 1, step: 1 };
    /// Two keys, behind the name.
    pub const TWO: Keys = Keys::Range { first: 1, last: 2, step: 1 };
    /// Every argument is a key.
    pub const ALL: Keys = Keys::Range { first: 1, last: -1, step: 1 };
}

/// Numbers of key arguments: `first`, `first + step`, … up to `last`, and `extra` when it is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPositions {
    pub first: usize,
    pub last: usize,
    /// 0: no keys in the range.
    pub step: usize,
    pub extra: usize,
}

impl KeyPositions {
    pub const NONE: Self = Self { first: 1, last: 0, step: 0, extra: 0 };

    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let range = if self.step == 0 { 1..1 } else { self.first..self.last + 1 };
        let extra = |before: bool| (self.extra > 0 && (self.extra < self.first) == before).then_some(self.extra);
        extra(true).into_iter().chain(range.step_by(self.step.max(1))).chain(extra(false))
    }

    /// The key if there is exactly one, without `extra`.
    #[inline]
    pub fn single(self) -> Option<usize> {
        (self.step != 0 && self.first == self.last && self.extra == 0).then_some(self.first)
    }
}

bitflags! {
    /// Redis's command flags, and ours.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u32 {
        const WRITE = 1;
        const READONLY = 1 << 1;
        const DENYOOM = 1 << 2;
        const ADMIN = 1 << 3;
        const PUBSUB = 1 << 4;
        const NOSCRIPT = 1 << 5;
        const BLOCKING = 1 << 6;
        /// Allowed while the data set is loading.
        const LOADING = 1 << 7;
        /// Allowed on a replica whose link is down and that does not serve stale data.
        const STALE = 1 << 8;
        const SKIP_MONITOR = 1 << 9;
        const SKIP_SLOWLOG = 1 << 10;
        const FAST = 1 << 11;
        const NO_AUTH = 1 << 12;
        const MAY_REPLICATE = 1 << 13;
        const NO_MULTI = 1 << 14;
        const MOVABLE_KEYS = 1 << 15;
        const ALLOW_BUSY = 1 << 16;
        const NO_ASYNC_LOADING = 1 << 17;
        const NO_MANDATORY_KEYS = 1 << 18;
        /// Ours: works on the whole keyspace; every shard is locked.
        const ALL_SHARDS = 1 << 24;
        /// Ours: allowed on a managed instance that awaits its role (FAILOVER.md R1).
        const AWAITING = 1 << 25;
    }
}

/// `COMMAND INFO`'s words for the flags, in Redis's order.
pub const FLAG_NAMES: &[(Flags, &str)] = &[
    (Flags::WRITE, "write"),
    (Flags::READONLY, "readonly"),
    (Flags::DENYOOM, "denyoom"),
    (Flags::ADMIN, "admin"),
    (Flags::PUBSUB, "pubsub"),
    (Flags::NOSCRIPT, "noscript"),
    (Flags::BLOCKING, "blocking"),
    (Flags::LOADING, "loading"),
    (Flags::STALE, "stale"),
    (Flags::SKIP_MONITOR, "skip_monitor"),
    (Flags::SKIP_SLOWLOG, "skip_slowlog"),
    (Flags::FAST, "fast"),
    (Flags::NO_AUTH, "no_auth"),
    (Flags::MAY_REPLICATE, "may_replicate"),
    (Flags::NO_MANDATORY_KEYS, "no_mandatory_keys"),
    (Flags::NO_ASYNC_LOADING, "no_async_loading"),
    (Flags::NO_MULTI, "no_multi"),
    (Flags::MOVABLE_KEYS, "movablekeys"),
    (Flags::ALLOW_BUSY, "allow_busy"),
];

bitflags! {
    /// ACL categories; READ, WRITE, FAST, SLOW, BLOCKING and ADMIN's follow from the flags.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Acl: u32 {
        const KEYSPACE = 1;
        const READ = 1 << 1;
        const WRITE = 1 << 2;
        const SET = 1 << 3;
        const SORTEDSET = 1 << 4;
        const LIST = 1 << 5;
        const HASH = 1 << 6;
        const STRING = 1 << 7;
        const BITMAP = 1 << 8;
        const HYPERLOGLOG = 1 << 9;
        const GEO = 1 << 10;
        const STREAM = 1 << 11;
        const PUBSUB = 1 << 12;
        const ADMIN = 1 << 13;
        const FAST = 1 << 14;
        const SLOW = 1 << 15;
        const BLOCKING = 1 << 16;
        const DANGEROUS = 1 << 17;
        const CONNECTION = 1 << 18;
        const TRANSACTION = 1 << 19;
        const SCRIPTING = 1 << 20;
    }
}

/// The categories' names, without `@`, in Redis's order.
pub const ACL_NAMES: &[(Acl, &str)] = &[
    (Acl::KEYSPACE, "keyspace"),
    (Acl::READ, "read"),
    (Acl::WRITE, "write"),
    (Acl::SET, "set"),
    (Acl::SORTEDSET, "sortedset"),
    (Acl::LIST, "list"),
    (Acl::HASH, "hash"),
    (Acl::STRING, "string"),
    (Acl::BITMAP, "bitmap"),
    (Acl::HYPERLOGLOG, "hyperloglog"),
    (Acl::GEO, "geo"),
    (Acl::STREAM, "stream"),
    (Acl::PUBSUB, "pubsub"),
    (Acl::ADMIN, "admin"),
    (Acl::FAST, "fast"),
    (Acl::SLOW, "slow"),
    (Acl::BLOCKING, "blocking"),
    (Acl::DANGEROUS, "dangerous"),
    (Acl::CONNECTION, "connection"),
    (Acl::TRANSACTION, "transaction"),
    (Acl::SCRIPTING, "scripting"),
];

/// The groups of the Redis documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Generic,
    String,
    List,
    Set,
    SortedSet,
    Hash,
    PubSub,
    Transactions,
    Connection,
    Server,
    Scripting,
    HyperLogLog,
    Cluster,
    Sentinel,
    Geo,
    Stream,
    Bitmap,
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sorted-set",
            Group::Hash => "hash",
            Group::PubSub => "pubsub",
            Group::Transactions => "transactions",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Scripting => "scripting",
            Group::HyperLogLog => "hyperloglog",
            Group::Cluster => "cluster",
            Group::Sentinel => "sentinel",
            Group::Geo => "geo",
            Group::Stream => "stream",
            Group::Bitmap => "bitmap",
        }
    }
}
