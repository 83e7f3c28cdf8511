//! COMMAND: the table of commands, told to clients.

use engine::CommandError;
use engine::command::{ACL_NAMES, Acl, FLAG_NAMES, Flags, KeyPositions, Keys, Spec};
use engine::parse::eq_ignore_case;
use resp::{Args, Encoder};

use super::{ServerCtx, family, syntax, unknown_subcommand};
use crate::dispatch::Next;
use crate::registry::{Entry, Registry};

const FLAGS: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::AWAITING);

family! { Server;
    "command" command(-1, FLAGS, Acl::CONNECTION) "2.8.13" "Returns detailed information about all commands." "" => COMMAND;
}

const COMMAND: &[Spec] = engine::subcommands! { Server, Acl::CONNECTION;
    "count"(2, Keys::None, FLAGS, Acl::CONNECTION) "2.8.13" "O(1)" "Returns a count of commands." "";
    "docs"(-2, Keys::None, FLAGS, Acl::CONNECTION) "7.0.0" "O(N) where N is the number of commands to look up" "Returns documentary information about one, multiple or all commands." "[command-name [command-name ...]]";
    "getkeys"(-3, Keys::None, FLAGS, Acl::CONNECTION) "2.8.13" "O(N) where N is the number of arguments to the command" "Extracts the key names from an arbitrary command." "command [arg [arg ...]]";
    "getkeysandflags"(-3, Keys::None, FLAGS, Acl::CONNECTION) "7.0.0" "O(N) where N is the number of arguments to the command" "Extracts the key names and access flags for an arbitrary command." "command [arg [arg ...]]";
    "info"(-2, Keys::None, FLAGS, Acl::CONNECTION) "2.8.13" "O(N) where N is the number of commands to look up" "Returns information about one, multiple or all commands." "[command-name [command-name ...]]";
    "list"(-2, Keys::None, FLAGS, Acl::CONNECTION) "7.0.0" "O(N) where N is the total number of commands" "Returns a list of command names." "[FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]";
};

/// What a command does with its keys, in Redis's words; those of a second group of keys stand behind a `/`. Commands that
/// are not here only read theirs (`RO access`) or change them (`RW update`).
const KEY_USAGE: &[(&str, &[&str])] = &[
    ("RW access delete", &["zpopmax", "spop", "rpop", "lpop", "zpopmin", "getdel", "lmpop", "zmpop"]),
    ("RW delete", &["zremrangebyscore", "zrem", "zremrangebyrank", "srem", "lrem", "zremrangebylex", "ltrim", "hdel"]),
    ("RW insert", &["hsetnx", "rpushx", "lpushx", "rpush", "lpush", "append", "sadd", "linsert"]),
    (
        "RW access update",
        &[
            "incrbyfloat",
            "hincrby",
            "zincrby",
            "getset",
            "decrby",
            "move",
            "hincrbyfloat",
            "getex",
            "incrby",
            "decr",
            "incr",
            "setbit",
        ],
    ),
    ("RW access update variable_flags", &["set", "bitfield"]),
    ("RM delete", &["del", "unlink"]),
    ("OW update", &["setex", "mset", "psetex", "restore"]),
    ("OW insert", &["setnx", "msetnx"]),
    (
        "RO",
        &[
            "zcard",
            "sismember",
            "llen",
            "touch",
            "type",
            "scard",
            "strlen",
            "hstrlen",
            "exists",
            "hexists",
            "hlen",
            "watch",
            "encoding",
            "freq",
            "idletime",
            "refcount",
            "usage",
        ],
    ),
    (
        "OW update/RO access",
        &["zdiffstore", "zunionstore", "zinterstore", "bitop", "sdiffstore", "sunionstore", "zrangestore"],
    ),
    ("RW update/RO access", &["sinterstore"]),
    ("RW access delete/OW insert", &["renamenx"]),
    ("RW access delete/OW update", &["rename"]),
    ("RW access delete/RW insert", &["rpoplpush", "lmove", "smove"]),
    ("RO access/OW update", &["copy", "sort"]),
];

/// Hints for clients and proxies, by Redis's names.
const TIPS: &[(&str, &[&str])] = &[
    (
        "nondeterministic_output",
        &[
            "ttl",
            "pttl",
            "sscan",
            "hscan",
            "zscan",
            "spop",
            "srandmember",
            "zrandmember",
            "hrandfield",
            "client|info",
            "client|list",
            "object|freq",
            "object|idletime",
            "object|encoding",
            "object|refcount",
            "dump",
            "lastsave",
            "time",
        ],
    ),
    ("nondeterministic_output request_policy:special", &["scan"]),
    (
        "nondeterministic_output_order",
        &[
            "hgetall",
            "sdiff",
            "sunion",
            "sinter",
            "hvals",
            "hkeys",
            "smembers",
            "command",
            "command|info",
            "command|list",
            "command|docs",
        ],
    ),
    ("request_policy:multi_shard response_policy:all_succeeded", &["mset"]),
    ("request_policy:multi_shard response_policy:agg_min", &["msetnx"]),
    ("request_policy:multi_shard response_policy:agg_sum", &["del", "touch", "exists", "unlink"]),
    ("request_policy:multi_shard", &["mget"]),
    ("request_policy:all_shards response_policy:agg_min", &["wait"]),
    ("request_policy:all_shards response_policy:agg_sum", &["dbsize"]),
    ("request_policy:all_shards response_policy:all_succeeded", &["flushdb", "flushall", "ping", "memory|purge"]),
    ("request_policy:all_shards nondeterministic_output", &["randomkey"]),
    ("request_policy:all_shards nondeterministic_output_order", &["keys"]),
    ("request_policy:all_nodes response_policy:all_succeeded", &["config|set", "slowlog|reset", "latency|reset"]),
    ("request_policy:all_nodes nondeterministic_output", &["slowlog|get"]),
    ("request_policy:all_nodes response_policy:agg_sum nondeterministic_output", &["slowlog|len"]),
    (
        "nondeterministic_output request_policy:all_shards response_policy:special",
        &["info", "memory|malloc-stats", "memory|doctor", "memory|stats"],
    ),
    (
        "nondeterministic_output request_policy:all_nodes response_policy:special",
        &["latency|histogram", "latency|latest", "latency|doctor", "latency|history", "latency|graph"],
    ),
];

fn listed(table: &'static [(&str, &[&str])], name: &str) -> Option<&'static str> {
    table.iter().find(|(_, names)| names.contains(&name)).map(|(text, _)| *text)
}

/// Flags of the first and of the second group of keys.
fn usage(spec: &Spec) -> (&'static str, Option<&'static str>) {
    let default = if spec.flags.contains(Flags::WRITE) { "RW update" } else { "RO access" };
    let text = listed(KEY_USAGE, spec.name).unwrap_or(default);
    text.split_once('/').map_or((text, None), |(first, second)| (first, Some(second)))
}

fn fields(out: &mut Encoder, fields: &[(&str, i64)]) {
    out.map(fields.len());
    for (name, value) in fields {
        out.bulk(name.as_bytes());
        out.int(*value);
    }
}

/// One key specification: where its keys begin and how the others are found from there.
fn key_spec(out: &mut Encoder, flags: &str, begin: Option<i64>, how: &str, find: &[(&str, i64)]) {
    out.map(3);
    out.bulk(b"flags");
    let flags: Vec<_> = flags.split(' ').collect();
    out.set(flags.len());
    flags.iter().for_each(|flag| out.simple(flag));
    out.bulk(b"begin_search");
    out.map(2);
    out.bulk(b"type");
    out.bulk(if begin.is_some() { b"index" } else { b"unknown" });
    out.bulk(b"spec");
    match begin {
        Some(index) => fields(out, &[("index", index)]),
        None => out.map(0),
    }
    out.bulk(b"find_keys");
    out.map(2);
    out.bulk(b"type");
    out.bulk(how.as_bytes());
    out.bulk(b"spec");
    fields(out, find);
}

fn key_specs(out: &mut Encoder, spec: &Spec) {
    let range = |last: i64, step: i64| [("lastkey", last), ("keystep", step), ("limit", 0)];
    let keynum = [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)];
    match (spec.keys, usage(spec)) {
        (Keys::None, _) => out.set(0),
        (Keys::Range { first, last, step }, (flags, None)) => {
            let (first, last) = (i64::from(first), i64::from(last));
            out.set(1);
            key_spec(out, flags, Some(first), "range", &range(if last < 0 { last } else { last - first }, step.into()));
        }
        (Keys::Range { first, last, step }, (flags, Some(others))) => {
            let (first, last) = (i64::from(first), i64::from(last));
            out.set(2);
            key_spec(out, flags, Some(first), "range", &range(0, 1));
            let last = if last < 0 { last } else { last - first - 1 };
            key_spec(out, others, Some(first + 1), "range", &range(last, step.into()));
        }
        (Keys::Counted { at, .. }, (flags, None)) => {
            out.set(1);
            key_spec(out, flags, Some(at.into()), "keynum", &keynum);
        }
        (Keys::Counted { at, extra }, (flags, Some(others))) => {
            out.set(2);
            key_spec(out, flags, Some(extra.into()), "range", &range(0, 1));
            key_spec(out, others, Some(at.into()), "keynum", &keynum);
        }
        (Keys::Fn(_), (flags, others)) => {
            out.set(1 + usize::from(others.is_some()));
            key_spec(out, flags, Some(1), "range", &range(0, 1));
            if let Some(others) = others {
                key_spec(out, others, None, "unknown", &[]);
            }
        }
    }
}

/// Name, arity, flags, first and last key and step, categories, tips, key specifications, subcommands.
fn describe(out: &mut Encoder, entry: &Entry) {
    let spec = entry.spec;
    out.array(10);
    out.bulk(entry.name.as_bytes());
    out.int(i64::from(spec.arity));
    let movable = matches!(spec.keys, Keys::Counted { .. } | Keys::Fn(_)) && !spec.flags.contains(Flags::MOVABLE_KEYS);
    let flags: Vec<_> = FLAG_NAMES.iter().filter(|(flag, _)| spec.flags.contains(*flag)).collect();
    out.set(flags.len() + usize::from(movable));
    flags.iter().for_each(|(_, name)| out.simple(name));
    if movable {
        out.simple("movablekeys");
    }
    let (first, last, step) = match spec.keys {
        Keys::Range { first, last, step } => (first.into(), last.into(), step.into()),
        Keys::Counted { extra, .. } if extra > 0 => (extra.into(), extra.into(), 1),
        Keys::Fn(_) => (1, 1, 1),
        Keys::None | Keys::Counted { .. } => (0, 0, 0),
    };
    [first, last, step].into_iter().for_each(|n| out.int(n));
    let acl = spec.acl_all();
    let names: Vec<_> = ACL_NAMES.iter().filter(|(category, _)| acl.contains(*category)).collect();
    out.set(names.len());
    names.iter().for_each(|(_, name)| out.simple(&format!("@{name}")));
    let tips: Vec<_> = listed(TIPS, &entry.name).into_iter().flat_map(|tips| tips.split(' ')).collect();
    out.set(tips.len());
    tips.iter().for_each(|tip| out.bulk(tip.as_bytes()));
    key_specs(out, spec);
    out.array(entry.subcommands.len());
    entry.subcommands.iter().for_each(|e| describe(out, e));
}

fn docs(out: &mut Encoder, entry: &Entry) {
    let spec = entry.spec;
    out.bulk(entry.name.as_bytes());
    let texts = [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group.name()),
        ("complexity", spec.complexity),
    ];
    let arguments = syntax::parse(spec.syntax);
    out.map(texts.len() + usize::from(!arguments.is_empty()) + usize::from(!entry.subcommands.is_empty()));
    for (name, value) in texts {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    if !arguments.is_empty() {
        out.bulk(b"arguments");
        out.array(arguments.len());
        arguments.iter().for_each(|argument| argument.encode(out));
    }
    if !entry.subcommands.is_empty() {
        out.bulk(b"subcommands");
        out.map(entry.subcommands.len());
        entry.subcommands.iter().for_each(|e| docs(out, e));
    }
}

fn command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let registry = Registry::get();
    let names = ctx.args.skip(ctx.args.len().min(2));
    let out = &mut ctx.session.out;
    match ctx.args.get(1).map(<[u8]>::to_ascii_lowercase).as_deref() {
        None | Some(b"info") if names.is_empty() => {
            out.array(registry.entries().len());
            registry.entries().iter().for_each(|e| describe(out, e));
        }
        Some(b"info") => {
            out.array(names.len());
            for name in names.iter() {
                match registry.find_full(name) {
                    Some(entry) => describe(out, entry),
                    None => out.null(),
                }
            }
        }
        Some(b"count") => out.len_int(registry.entries().len()),
        Some(b"docs") if names.is_empty() => {
            out.map(registry.entries().len());
            registry.entries().iter().for_each(|e| docs(out, e));
        }
        Some(b"docs") => {
            let found: Vec<_> = names.iter().filter_map(|name| registry.find_full(name)).collect();
            out.map(found.len());
            found.iter().for_each(|e| docs(out, e));
        }
        Some(b"getkeys") => keys_of(out, names, false)?,
        Some(b"getkeysandflags") => keys_of(out, names, true)?,
        Some(b"list") => list(out, names)?,
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

/// COMMAND GETKEYS and GETKEYSANDFLAGS.
fn keys_of(out: &mut Encoder, args: Args<'_>, with_flags: bool) -> Result<(), CommandError> {
    let entry = Registry::get().resolve(args).ok_or(CommandError::Static("ERR Invalid command specified"))?;
    let positions = entry.spec.key_positions(args);
    if matches!(entry.spec.keys, Keys::None) {
        return Err(CommandError::Static("ERR The command has no key arguments"));
    }
    if !entry.spec.arity_ok(args.len()) {
        return Err(CommandError::Static("ERR Invalid number of arguments specified for command"));
    }
    let keys: Vec<_> = positions.iter().filter(|at| args.get(*at).is_some()).collect();
    let miscounted = matches!(entry.spec.keys, Keys::Counted { .. }) && positions.step == 0;
    if keys.is_empty() || miscounted {
        return Err(CommandError::Static("ERR Invalid arguments specified for command"));
    }
    out.array(keys.len());
    for at in keys {
        if !with_flags {
            out.bulk(args.at(at));
            continue;
        }
        out.array(2);
        out.bulk(args.at(at));
        let flags: Vec<_> = flags_at(entry.spec, positions, at, args).split(' ').collect();
        out.set(flags.len());
        flags.iter().for_each(|flag| out.simple(flag));
    }
    Ok(())
}

/// What the command does with the key that is argument number `at`.
fn flags_at(spec: &Spec, positions: KeyPositions, at: usize, args: Args<'_>) -> &'static str {
    let has = |words: &[&str]| args.skip(2).iter().any(|arg| words.iter().any(|word| eq_ignore_case(arg, word)));
    // `variable_flags`
    match spec.name {
        "set" if !has(&["GET"]) => return "OW update",
        "bitfield" if !has(&["SET", "INCRBY"]) => return "RO access",
        "set" | "bitfield" => return "RW access update",
        _ => {}
    }
    let (first, others) = usage(spec);
    let is_first = match spec.keys {
        Keys::Counted { extra, .. } => extra > 0 && at == usize::from(extra),
        Keys::None | Keys::Range { .. } | Keys::Fn(_) => at == positions.first,
    };
    if is_first { first } else { others.unwrap_or(first) }
}

/// COMMAND LIST [FILTERBY …]; subcommands are in it.
fn list(out: &mut Encoder, filter: Args<'_>) -> Result<(), CommandError> {
    type Keep<'a> = Box<dyn Fn(&Entry) -> bool + 'a>;
    let keep: Keep<'_> = match filter.len() {
        0 => Box::new(|_| true),
        3 if eq_ignore_case(filter.at(0), "FILTERBY") => {
            let what = filter.at(2);
            match filter.at(1).to_ascii_lowercase().as_slice() {
                b"aclcat" => {
                    let category = ACL_NAMES.iter().find(|(_, name)| eq_ignore_case(what, name)).map(|(c, _)| *c);
                    Box::new(move |e| category.is_some_and(|c| e.spec.acl_all().contains(c)))
                }
                b"pattern" => Box::new(move |e| engine::glob::matches_ignore_case(what, e.name.as_bytes())),
                // This server has no modules.
                b"module" => Box::new(|_| false),
                _ => return Err(CommandError::Syntax),
            }
        }
        _ => return Err(CommandError::Syntax),
    };
    let names: Vec<_> = Registry::get().all().filter(|e| keep(e)).map(|e| e.name.as_str()).collect();
    out.set(names.len());
    names.iter().for_each(|name| out.bulk(name.as_bytes()));
    Ok(())
}
