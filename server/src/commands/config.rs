//! CONFIG.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use engine::CommandError;

use super::ServerCtx;
use crate::acl::User;
use crate::config::{self, Access, Class, PARAMETERS, Parameter, Seen, Settings};
use crate::dispatch::Next;
use crate::persistence;
use crate::registry::Registry;

/// The value that counts now, where it is not simply the one that was set.
fn value(ctx: &ServerCtx<'_>, p: &Parameter) -> String {
    match p.name {
        // Who follows whom may have changed since the start.
        "replicaof" => match ctx.server.repl.target().0 {
            Some(target) => format!("{} {}", target.host, target.port),
            None => String::new(),
        },
        "dir" => std::fs::canonicalize(&ctx.settings.dir)
            .map_or_else(|_| ctx.settings.dir.clone(), |p| p.to_string_lossy().into_owned()),
        "io-threads" => ctx.server.workers.to_string(),
        _ => (p.get)(ctx.settings),
    }
}

/// A name without `*?[` is looked up as it is, and comes back as it was written; a pattern does not show hidden ones.
pub(super) fn get(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let mut found: BTreeMap<String, &'static Parameter> = BTreeMap::new();
    for pattern in ctx.args.skip(2).iter() {
        let text = String::from_utf8_lossy(pattern).into_owned();
        if !text.contains(['*', '?', '[']) {
            found.extend(Settings::parameter(&text).map(|p| (text, p)));
            continue;
        }
        for p in PARAMETERS.iter().filter(|p| p.class != Class::Hidden) {
            let names = [Some(p.name), p.alias].into_iter().flatten();
            let matching = names.filter(|name| engine::glob::matches_ignore_case(pattern, name.as_bytes()));
            found.extend(matching.map(|name| (name.into(), p)));
        }
    }
    let found: Vec<_> = found.into_iter().map(|(name, p)| (name, value(ctx, p))).collect();
    ctx.session.out.map(found.len());
    for (name, value) in &found {
        ctx.session.out.bulk(name.as_bytes());
        ctx.session.out.bulk(value.as_bytes());
    }
    Ok(Next::Continue)
}

fn failed(name: &str, reason: &str) -> CommandError {
    CommandError::text(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"))
}

/// All or nothing: the settings are changed in a copy, and what listens and logs goes back if one of them cannot follow.
pub(super) fn set(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    if ctx.args.len() % 2 == 1 {
        return Err(CommandError::Arity("config|set".into()));
    }
    let words: Vec<String> = ctx.args.skip(2).iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let mut changes: Vec<(&str, &Parameter, &str)> = Vec::new();
    for pair in words.chunks_exact(2) {
        let (name, value) = (pair[0].as_str(), pair[1].as_str());
        let Some(p) = Settings::parameter(name) else {
            let text = format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'");
            return Err(CommandError::text(text));
        };
        let protected = match ctx.settings.enable_protected_configs {
            Access::Yes => false,
            Access::No => true,
            Access::Local => !ctx.session.client.is_local(),
        };
        match p.class {
            Class::Start | Class::StartHint => return Err(failed(name, "can't set immutable config")),
            Class::Protected if protected => return Err(failed(name, "can't set protected config")),
            _ if changes.iter().any(|(_, other, _)| other.name == p.name) => {
                return Err(failed(name, "duplicate parameter"));
            }
            Class::Live | Class::Hint | Class::Hidden | Class::Protected => changes.push((name, p, value)),
        }
    }
    let mut settings = Settings::clone(ctx.settings);
    for (name, p, value) in &changes {
        (p.set)(&mut settings, &[value], Seen::First).map_err(|reason| failed(name, &reason))?;
    }
    ctx.server.change_settings(settings).map_err(|(parameter, reason)| {
        let named = changes.iter().find(|(_, p, _)| p.name == parameter).map_or(parameter, |(name, _, _)| name);
        failed(named, &reason)
    })?;
    ctx.session.out.ok();
    Ok(Next::Continue)
}

pub(super) fn resetstat(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    Registry::get().all().for_each(|e| e.stats.reset());
    let stats = &ctx.server.stats;
    let counters = [
        &stats.connections,
        &stats.rejected_connections,
        &stats.commands,
        &stats.input_bytes,
        &stats.output_bytes,
        &stats.replica_input_bytes,
        &stats.replica_output_bytes,
        &stats.output_limit_disconnections,
        &stats.errors,
        &stats.sync_full,
        &stats.sync_partial_ok,
        &stats.sync_partial_err,
    ];
    counters.iter().for_each(|n| n.store(0, Ordering::Relaxed));
    stats.error_codes.lock().clear();
    ctx.server.keyspace.reset_stats();
    ctx.session.out.ok();
    Ok(Next::Continue)
}

pub(super) fn rewrite(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let path = ctx.server.config_file.as_ref();
    let path = path.ok_or(CommandError::Static("ERR The server is running without a config file"))?;
    let mut settings = Settings::clone(ctx.settings);
    if !ctx.server.repl.managed {
        settings.replicaof = config::ReplicaOf(ctx.server.repl.target().0.map(|t| (t.host, t.port)));
    }
    // One that `requirepass` makes needs no line of its own.
    let user = ctx.server.users.default_user();
    let is_plain = *user == User::with_password(&settings.requirepass);
    settings.default_user = (!is_plain).then(|| User::clone(&user));
    let failed = |e: std::io::Error| CommandError::text(format!("ERR Rewriting config file: {e}"));
    let old = match std::fs::read_to_string(path) {
        // A file that was removed is written anew, as Redis does it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        old => old.map_err(failed)?,
    };
    let new = config::rewrite(&settings, &old);
    persistence::replace_file(path, |file| std::io::Write::write_all(file, new.as_bytes())).map_err(failed)?;
    tracing::info!("CONFIG REWRITE executed with success.");
    ctx.session.out.ok();
    Ok(Next::Continue)
}
