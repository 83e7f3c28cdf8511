//! What the server tells: INFO, COMMAND, MEMORY.

use engine::CommandError;
use engine::command::{ACL_NAMES, Acl, FLAG_NAMES, Flags, Keys, Spec};
use engine::parse::eq_ignore_case;
use resp::Encoder;

use super::{ServerCtx, family, unknown_subcommand};
use crate::dispatch::Next;
use crate::info;
use crate::registry::Registry;

const FLAGS: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::AWAITING);

family! { Server;
    "info" info_command(-1, FLAGS, Acl::DANGEROUS) "1.0.0" "Returns information and statistics about the server." "[section [section ...]]";
    "command" command(-1, FLAGS, Acl::CONNECTION) "2.8.13" "Returns detailed information about all commands." "[subcommand [argument [argument ...]]]";
    "memory" memory(-2, Flags::READONLY, Acl::empty(), Keys::Range { first: 2, last: 2, step: 1 }) "4.0.0" "A container for memory diagnostics commands." "subcommand [argument [argument ...]]";
}

fn info_command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let sections: Vec<String> =
        ctx.args.skip(1).iter().map(|s| String::from_utf8_lossy(s).to_ascii_lowercase()).collect();
    let text = info::text(ctx.server, ctx.settings, &sections);
    ctx.session.out.verbatim("txt", text.as_bytes());
    Ok(Next::Continue)
}

/// The six classic fields of COMMAND INFO, then categories, tips, key specifications and subcommands.
fn describe(out: &mut Encoder, spec: &Spec) {
    out.array(10);
    out.bulk(spec.name.as_bytes());
    out.int(i64::from(spec.arity));
    let flags: Vec<_> = FLAG_NAMES.iter().filter(|(flag, _)| spec.flags.contains(*flag)).collect();
    let movable = matches!(spec.keys, Keys::Counted { .. } | Keys::Fn(_));
    out.set(flags.len() + usize::from(movable));
    flags.iter().for_each(|(_, name)| out.simple(name));
    if movable {
        out.simple("movablekeys");
    }
    let (first, last, step) = match spec.keys {
        Keys::Range { first, last, step } => (first.into(), last.into(), step.into()),
        Keys::Counted { extra, .. } if extra > 0 => (extra.into(), extra.into(), 1),
        Keys::None | Keys::Counted { .. } | Keys::Fn(_) => (0, 0, 0),
    };
    [first, last, step].into_iter().for_each(|n| out.int(n));
    let acl = spec.acl_all();
    let names: Vec<_> = ACL_NAMES.iter().filter(|(category, _)| acl.contains(*category)).collect();
    out.set(names.len());
    names.iter().for_each(|(_, name)| out.simple(&format!("@{name}")));
    out.array(0);
    out.array(0);
    out.array(0);
}

fn docs(out: &mut Encoder, spec: &Spec) {
    out.bulk(spec.name.as_bytes());
    let fields = [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group.name()),
        ("complexity", spec.complexity),
        ("syntax", spec.syntax),
    ];
    out.map(fields.len());
    for (name, value) in fields {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
}

fn command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let registry = Registry::get();
    let out = &mut ctx.session.out;
    let word = ctx.args.get(1).map(<[u8]>::to_ascii_lowercase);
    match (word.as_deref(), ctx.args.len()) {
        (None, _) | (Some(b"info"), 2) => {
            out.array(registry.entries().len());
            registry.entries().iter().for_each(|e| describe(out, e.spec));
        }
        (Some(b"count"), 2) => out.len_int(registry.entries().len()),
        (Some(b"info"), _) => {
            out.array(ctx.args.len() - 2);
            for name in ctx.args.skip(2).iter() {
                match registry.find(name) {
                    Some(entry) => describe(out, entry.spec),
                    None => out.null_array(),
                }
            }
        }
        (Some(b"docs"), 2) => {
            out.map(registry.entries().len());
            registry.entries().iter().for_each(|e| docs(out, e.spec));
        }
        (Some(b"docs"), _) => {
            let found: Vec<_> = ctx.args.skip(2).iter().filter_map(|name| registry.find(name)).collect();
            out.map(found.len());
            found.iter().for_each(|e| docs(out, e.spec));
        }
        (Some(b"getkeys"), 2 | 3) => return Err(CommandError::Arity("command|getkeys".into())),
        (Some(b"getkeys"), _) => {
            let args = ctx.args.skip(2);
            let entry = registry.find(args.at(0)).ok_or(CommandError::Static("ERR Invalid command specified"))?;
            if !entry.spec.arity_ok(args.len()) {
                return Err(CommandError::Static("ERR Invalid number of arguments specified for command"));
            }
            let keys: Vec<_> = entry.spec.key_positions(args).iter().filter_map(|i| args.get(i)).collect();
            if keys.is_empty() {
                return Err(CommandError::Static("ERR The command has no key arguments"));
            }
            out.array(keys.len());
            keys.iter().for_each(|key| out.bulk(key));
        }
        (Some(b"list"), n) => {
            let names: Vec<&str> = registry
                .entries()
                .iter()
                .map(|e| e.spec)
                .filter(|spec| match n {
                    2 => true,
                    _ => filter(spec, ctx.args.at(3), ctx.args.get(4).unwrap_or_default()),
                })
                .map(|spec| spec.name)
                .collect();
            if n != 2 && (n != 5 || !eq_ignore_case(ctx.args.at(2), "FILTERBY")) {
                return Err(CommandError::Syntax);
            }
            out.set(names.len());
            names.iter().for_each(|name| out.bulk(name.as_bytes()));
        }
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

fn filter(spec: &Spec, by: &[u8], what: &[u8]) -> bool {
    match by.to_ascii_lowercase().as_slice() {
        b"aclcat" => ACL_NAMES.iter().any(|(c, name)| eq_ignore_case(what, name) && spec.acl_all().contains(*c)),
        b"pattern" => engine::glob::matches_ignore_case(what, spec.name.as_bytes()),
        _ => false,
    }
}

fn memory(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    match (&word[..], ctx.args.len()) {
        (b"usage", 3 | 5) => {
            let keyspace = &ctx.server.keyspace;
            let limits = &ctx.settings.limits;
            let mut locked = keyspace.lock_all();
            let mut keys = engine::KeysView::new(
                keyspace,
                &mut locked,
                limits,
                ctx.session.db,
                engine::keyspace::ExpiredKeys::Keep,
                0,
            );
            match keys.peek(ctx.args.at(2)) {
                // The entry and, for a collection, the bytes that its serialised form takes.
                Some(entry) => {
                    let object = match entry.value() {
                        engine::keyspace::ValueRef::Str(_) => 0,
                        value @ engine::keyspace::ValueRef::Object(_) => engine::rdb::write_payload(value).len(),
                    };
                    ctx.session.out.len_int(entry.size() + 8 + object);
                }
                None => ctx.session.out.null(),
            }
        }
        (b"doctor", 2) => {
            let text = "Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n";
            ctx.session.out.verbatim("txt", text.as_bytes());
        }
        (b"purge", 2) => ctx.session.out.ok(),
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}
