//! Saving, configuration, shutting down, time.

use std::sync::atomic::Ordering;

use engine::CommandError;
use engine::command::{Acl, Flags};
use engine::parse::{eq_ignore_case, integer};

use super::{ServerCtx, config, family, unknown_subcommand};
use crate::clock;
use crate::dispatch::Next;
use crate::persistence;
use crate::shutdown;

const ADMIN: Flags =
    Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING);
const NONE: Acl = Acl::empty();

family! { Server;
    "config" config_command(-2, ADMIN, NONE) "2.0.0" "A container for server configuration commands." "subcommand [argument [argument ...]]";
    "save" save(1, Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::NO_MULTI), NONE) "1.0.0" "Synchronously saves the database(s) to disk." "";
    "bgsave" bgsave(-1, Flags::ADMIN.union(Flags::NOSCRIPT), NONE) "1.0.0" "Asynchronously saves the database(s) to disk." "[SCHEDULE]";
    "lastsave" lastsave(1, Flags::LOADING.union(Flags::STALE).union(Flags::FAST).union(Flags::AWAITING), Acl::ADMIN.union(Acl::DANGEROUS)) "1.0.0" "Returns the Unix timestamp of the last successful save to disk." "";
    "shutdown" shutdown_command(-1, ADMIN.union(Flags::NO_MULTI).union(Flags::ALLOW_BUSY), NONE) "1.0.0" "Synchronously saves the database(s) to disk and shuts down the Redis server." "[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]";
    "time" time(1, Flags::LOADING.union(Flags::STALE).union(Flags::FAST).union(Flags::AWAITING), NONE) "2.6.0" "Returns the server time." "";
    "slowlog" slowlog(-2, Flags::ADMIN.union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING), NONE) "2.2.12" "A container for slow log commands." "subcommand [argument]";
    "latency" latency(-2, ADMIN, NONE) "2.8.13" "A container for latency diagnostics commands." "subcommand [argument [argument ...]]";
    "lolwut" lolwut(-1, Flags::READONLY.union(Flags::FAST).union(Flags::AWAITING), NONE) "5.0.0" "Displays computer art and the Redis version" "[VERSION version]";
}

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
    ctx.session.out.simple("Background saving started");
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
                Some(arg) => match integer(arg)? {
                    -1 => usize::MAX,
                    n => usize::try_from(n)
                        .map_err(|_| CommandError::Static("ERR count should be greater than or equal to -1"))?,
                },
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

/// No event is sampled yet, so there is nothing to tell; the answers have the right form.
fn latency(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    match &word[..] {
        b"latest" | b"history" => ctx.session.out.array(0),
        b"reset" => ctx.session.out.int(0),
        b"doctor" => {
            let text = "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this server.\n";
            ctx.session.out.verbatim("txt", text.as_bytes());
        }
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

fn lolwut(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let text = format!("Redis ver. {}\n", crate::REDIS_VERSION);
    ctx.session.out.verbatim("txt", text.as_bytes());
    Ok(Next::Continue)
}
