//! Saving, configuration, shutting down, time.

use std::sync::atomic::Ordering;

use engine::CommandError;
use engine::Spec;
use engine::command::{Acl, Flags, Keys};
use engine::parse::eq_ignore_case;

use resp::{Args, Encoder};

use super::{ServerCtx, config, family, unknown_subcommand};
use crate::clock;
use crate::dispatch::Next;
use crate::persistence;
use crate::registry::{Entry, Registry};
use crate::{latency, shutdown};

const ADMIN: Flags =
    Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING);
const NONE: Acl = Acl::empty();

family! { Server;
    "config" config_command(-2, Flags::empty(), NONE) "2.0.0" "A container for server configuration commands." "" => CONFIG;
    "save" save(1, Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::NO_MULTI).union(Flags::NO_ASYNC_LOADING), NONE) "1.0.0" "Synchronously saves the database(s) to disk." "";
    "bgsave" bgsave(-1, Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::NO_ASYNC_LOADING), NONE) "1.0.0" "Asynchronously saves the database(s) to disk." "[SCHEDULE]";
    "lastsave" lastsave(1, Flags::LOADING.union(Flags::STALE).union(Flags::FAST).union(Flags::AWAITING), Acl::ADMIN.union(Acl::DANGEROUS)) "1.0.0" "Returns the Unix timestamp of the last successful save to disk." "";
    "shutdown" shutdown_command(-1, ADMIN.union(Flags::NO_MULTI).union(Flags::ALLOW_BUSY), NONE) "1.0.0" "Synchronously saves the database(s) to disk and shuts down the Redis server." "[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]";
    "time" time(1, Flags::LOADING.union(Flags::STALE).union(Flags::FAST).union(Flags::AWAITING), NONE) "2.6.0" "Returns the server time." "";
    "slowlog" slowlog(-2, Flags::empty(), NONE) "2.2.12" "A container for slow log commands." "" => SLOWLOG;
    "latency" latency(-2, Flags::empty(), NONE) "2.8.13" "A container for latency diagnostics commands." "" => LATENCY;
    "lolwut" lolwut(-1, Flags::READONLY.union(Flags::FAST).union(Flags::AWAITING), NONE) "5.0.0" "Displays computer art and the Redis version" "[VERSION version]";
}

const CONFIG: &[Spec] = engine::subcommands! { Server, Acl::empty();
    "get"(-3, Keys::None, ADMIN, NONE) "2.0.0" "O(N) when N is the number of configuration parameters provided" "Returns the effective values of configuration parameters." "parameter [parameter ...]";
    "set"(-4, Keys::None, ADMIN, NONE) "2.0.0" "O(N) when N is the number of configuration parameters provided" "Sets configuration parameters in-flight." "parameter value [parameter value ...]";
    "resetstat"(2, Keys::None, ADMIN, NONE) "2.0.0" "O(1)" "Resets the server's statistics." "";
    "rewrite"(2, Keys::None, ADMIN, NONE) "2.8.0" "O(1)" "Persists the effective configuration to file." "";
};

const SLOWLOG_FLAGS: Flags = Flags::ADMIN.union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING);

const SLOWLOG: &[Spec] = engine::subcommands! { Server, Acl::empty();
    "get"(-2, Keys::None, SLOWLOG_FLAGS, NONE) "2.2.12" "O(N) where N is the number of entries returned" "Returns the slow log's entries." "[count]";
    "len"(2, Keys::None, SLOWLOG_FLAGS, NONE) "2.2.12" "O(1)" "Returns the number of entries in the slow log." "";
    "reset"(2, Keys::None, SLOWLOG_FLAGS, NONE) "2.2.12" "O(N) where N is the number of entries in the slow log" "Clears all entries from the slow log." "";
};

const LATENCY: &[Spec] = engine::subcommands! { Server, Acl::empty();
    "doctor"(2, Keys::None, ADMIN, NONE) "2.8.13" "O(1)" "Returns a human-readable latency analysis report." "";
    "graph"(3, Keys::None, ADMIN, NONE) "2.8.13" "O(1)" "Returns a latency graph for an event." "event";
    "histogram"(-2, Keys::None, ADMIN, NONE) "7.0.0" "O(N) where N is the number of commands with latency information being retrieved." "Returns the cumulative distribution of latencies of a subset or all commands." "[command [command ...]]";
    "history"(3, Keys::None, ADMIN, NONE) "2.8.13" "O(1)" "Returns timestamp-latency samples for an event." "event";
    "latest"(2, Keys::None, ADMIN, NONE) "2.8.13" "O(1)" "Returns the latest latency samples for all events." "";
    "reset"(-2, Keys::None, ADMIN, NONE) "2.8.13" "O(1)" "Resets the latency data for one or more events." "[event [event ...]]";
};

fn config_command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    match (&word[..], ctx.args.len()) {
        (b"get", 3..) => config::get(ctx),
        (b"set", 4..) => config::set(ctx),
        (b"resetstat", 2) => config::resetstat(ctx),
        (b"rewrite", 2) => config::rewrite(ctx),
        (b"get" | b"set" | b"resetstat" | b"rewrite", _) => {
            Err(CommandError::Arity(format!("config|{}", String::from_utf8_lossy(&word))))
        }
        _ => Err(unknown_subcommand(ctx.args)),
    }
}

fn save(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    if ctx.server.persistence.saving.load(Ordering::Acquire) {
        return Err(CommandError::Static("ERR Background save already in progress"));
    }
    persistence::save(&ctx.server.arc()).map_err(|e| CommandError::text(format!("ERR {e}")))?;
    ctx.session.out.ok();
    Ok(Next::Continue)
}

fn bgsave(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    match ctx.args.get(1) {
        None => {}
        Some(word) if ctx.args.len() == 2 && eq_ignore_case(word, "SCHEDULE") => {}
        Some(_) => return Err(CommandError::Syntax),
    }
    if !persistence::save_in_background(&ctx.server.arc()) {
        return Err(CommandError::Static("ERR Background save already in progress"));
    }
    // Inside EXEC it waits for the locks, and so for the end of the transaction.
    ctx.session.out.simple(if ctx.held.is_some() {
        "Background saving scheduled"
    } else {
        "Background saving started"
    });
    Ok(Next::Continue)
}

fn lastsave(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    ctx.session.out.int(ctx.server.persistence.last_save_s.load(Ordering::Relaxed) as i64);
    Ok(Next::Continue)
}

fn shutdown_command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let mut request = shutdown::Request::default();
    for word in ctx.args.skip(1).iter() {
        match (word.to_ascii_lowercase().as_slice(), request.save) {
            (b"save", None | Some(true)) => request.save = Some(true),
            (b"nosave", None | Some(false)) => request.save = Some(false),
            (b"now", _) => request.now = true,
            (b"force", _) => request.force = true,
            (b"abort", _) if ctx.args.len() == 2 => {
                if !ctx.server.shutdown.abort() {
                    return Err(CommandError::Static("ERR No shutdown in progress."));
                }
                ctx.session.out.ok();
                return Ok(Next::Continue);
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let failures = ctx.server.shutdown.failures.load(Ordering::Acquire);
    ctx.server.shutdown.ask(request);
    Ok(Next::Shutdown { failures })
}

fn time(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let us = clock::unix_us();
    ctx.session.out.array(2);
    ctx.session.out.bulk_int((us / 1_000_000) as i64);
    ctx.session.out.bulk_int((us % 1_000_000) as i64);
    Ok(Next::Continue)
}

fn slowlog(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    let mut log = ctx.server.slowlog.lock();
    let out = &mut ctx.session.out;
    match (&word[..], ctx.args.len()) {
        (b"get", 2 | 3) => {
            let count = match ctx.args.get(2) {
                None => 10,
                Some(b"-1") => usize::MAX,
                Some(arg) => engine::parse::count(arg)
                    .map_err(|_| CommandError::Static("ERR count should be greater than or equal to -1"))?,
            };
            let entries: Vec<_> = log.entries.iter().take(count).collect();
            out.array(entries.len());
            for e in entries {
                out.array(6);
                out.int(e.id as i64);
                out.int(e.at_s as i64);
                out.int(e.micros as i64);
                out.array(e.args.len());
                e.args.iter().for_each(|arg| out.bulk(arg));
                out.bulk(e.addr.as_bytes());
                out.bulk(e.name.as_bytes());
            }
        }
        (b"len", 2) => out.len_int(log.entries.len()),
        (b"reset", 2) => {
            log.entries.clear();
            out.ok();
        }
        (b"get" | b"len" | b"reset", _) => {
            return Err(CommandError::Arity(format!("slowlog|{}", String::from_utf8_lossy(&word))));
        }
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

fn latency(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    let events = &ctx.server.latency;
    let out = &mut ctx.session.out;
    match &word[..] {
        b"latest" => {
            let all = events.all();
            out.array(all.len());
            for (name, event) in &all {
                let (at_s, ms) = event.samples.back().copied().unwrap_or_default();
                out.array(4);
                out.bulk(name.as_bytes());
                [at_s, ms, event.max_ms].iter().for_each(|n| out.int(*n as i64));
            }
        }
        b"history" => {
            let event = events.get(ctx.args.at(2)).unwrap_or_default();
            out.array(event.samples.len());
            for (at_s, ms) in &event.samples {
                out.array(2);
                out.int(*at_s as i64);
                out.int(*ms as i64);
            }
        }
        b"graph" => {
            let name = String::from_utf8_lossy(ctx.args.at(2)).into_owned();
            let none = || CommandError::text(format!("ERR No samples available for event '{name}'"));
            let event = events.get(name.as_bytes()).ok_or_else(none)?;
            out.verbatim("txt", event.graph(&name, clock::unix_ms() / 1000).as_bytes());
        }
        b"doctor" => {
            let text = latency::doctor(&events.all(), ctx.settings.latency_monitor_threshold);
            out.verbatim("txt", text.as_bytes());
        }
        b"reset" => {
            let names: Vec<&[u8]> = ctx.args.skip(2).iter().collect();
            out.len_int(events.reset(&names));
        }
        b"histogram" => histogram(out, ctx.args.skip(2)),
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

/// LATENCY HISTOGRAM: of these commands (a container means all of its subcommands), or of all that were called.
fn histogram(out: &mut Encoder, names: Args<'_>) {
    let asked = |e: &&Entry| {
        let container = e.name.split('|').next().unwrap_or_default();
        names.is_empty() || names.iter().any(|n| eq_ignore_case(n, &e.name) || eq_ignore_case(n, container))
    };
    let entries: Vec<_> = Registry::get().all().filter(asked).filter(|e| e.stats.durations.total() > 0).collect();
    out.map(entries.len());
    for entry in entries {
        let counts = entry.stats.durations.cumulative_us();
        out.bulk(entry.name.as_bytes());
        out.map(2);
        out.bulk(b"calls");
        out.int(entry.stats.durations.total() as i64);
        out.bulk(b"histogram_usec");
        out.map(counts.len());
        for (us, n) in counts {
            out.int(us as i64);
            out.int(n as i64);
        }
    }
}

fn lolwut(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let text = format!("Redis ver. {}\n", crate::REDIS_VERSION);
    ctx.session.out.verbatim("txt", text.as_bytes());
    Ok(Next::Continue)
}
