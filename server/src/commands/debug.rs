//! DEBUG: what tests and people in trouble need.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::command::{Acl, Flags};
use engine::keyspace::{ExpiredKeys, Expiry, Shards, ValueRef};
use engine::types::{List, Object};
use engine::{CommandError, KeysView, digest};
use replication::ReplId;

use super::{ServerCtx, family};
use crate::clock;
use crate::config::{Access, Settings};
use crate::dispatch::Next;
use crate::persistence;
use crate::state::{Server, random};

family! { Server;
    "debug" debug(-2, Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::LOADING).union(Flags::STALE), Acl::empty()) "1.0.0" "A container for debugging commands." "subcommand [argument [argument ...]]";
}

/// The selected database, through locked shards.
fn view<'v>(server: &'v Server, settings: &'v Settings, db: usize, shards: &'v mut (dyn Shards + 'v)) -> KeysView<'v> {
    KeysView::new(&server.keyspace, shards, &settings.limits, db, ExpiredKeys::Keep, clock::unix_ms())
}

fn debug(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let allowed = match ctx.settings.enable_debug_command {
        Access::Yes => true,
        Access::No => false,
        Access::Local => ctx.session.client.is_local(),
    };
    if !allowed {
        return Err(CommandError::Static(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
        ));
    }
    let word = ctx.args.at(1).to_ascii_lowercase();
    match (&word[..], ctx.args.len()) {
        (b"sleep", 3) => {
            let seconds = engine::parse::float(ctx.args.at(2))?;
            let pause = Duration::from_secs_f64(seconds.clamp(0.0, 3600.0));
            let until = clock::monotonic_ms() + u64::try_from(pause.as_millis()).unwrap_or(0);
            ctx.server.asleep_until_ms.store(until, Ordering::Relaxed);
            std::thread::sleep(pause);
            ctx.session.out.ok();
        }
        (b"set-active-expire", 3) => {
            ctx.server.active_expire.store(ctx.args.at(2) == b"1", Ordering::Release);
            ctx.session.out.ok();
        }
        (b"digest", 2) => ctx.with_shards(|ctx, shards| {
            ctx.session.out.simple(&digest::hex(digest::of_keyspace(&ctx.server.keyspace, shards)));
        }),
        (b"digest-value", 3..) => ctx.with_shards(|ctx, shards| {
            let mut keys = view(ctx.server, ctx.settings, ctx.session.db, shards);
            ctx.session.out.array(ctx.args.len() - 2);
            for key in ctx.args.skip(2).iter() {
                let digest = keys.peek(key).map_or([0; 20], |e| digest::of_value(e.value(), e.expires_ms()));
                ctx.session.out.simple(&digest::hex(digest));
            }
        }),
        (b"object", 3) => ctx.with_shards(|ctx, shards| {
            let mut keys = view(ctx.server, ctx.settings, ctx.session.db, shards);
            let entry = keys.peek(ctx.args.at(2)).ok_or(CommandError::NoSuchKey)?;
            let (encoding, len) = match entry.value() {
                ValueRef::Str(bytes) => ("embstr", bytes.len()),
                value @ ValueRef::Object(object) => (object.encoding(), engine::rdb::write_payload(value).len() - 10),
            };
            let mut line = format!(
                "Value at:0x0 refcount:1 encoding:{encoding} serializedlength:{len} lru:{} lru_seconds_idle:0",
                entry.access()
            );
            if let ValueRef::Object(Object::List(list)) = entry.value()
                && encoding == "quicklist"
            {
                line.push_str(&quicklist(list, ctx.settings.limits.list_max_listpack_size));
            }
            ctx.session.out.simple(&line);
            Ok(())
        })?,
        (b"reload", _) => reload(ctx)?,
        (b"populate", 3..=5) => populate(ctx)?,
        (b"change-repl-id", 2) => {
            let mut log = ctx.server.repl.log.lock();
            let end = log.log.end();
            log.history.shift(ReplId::from_random(random()), end);
            log.history.second = ReplId::ZERO;
            drop(log);
            ctx.session.out.ok();
        }
        (b"jmap", 2) => ctx.session.out.ok(),
        // Where a list's element gets a node of its own: here a chunk may be of any size.
        (b"quicklist-packed-threshold", 3) => ctx.session.out.ok(),
        (b"log", 3) => {
            tracing::warn!("DEBUG LOG: {}", String::from_utf8_lossy(ctx.args.at(2)));
            ctx.session.out.ok();
        }
        (b"error", 3) => {
            let text = String::from_utf8_lossy(ctx.args.at(2)).replace(['\r', '\n'], " ");
            ctx.session.out.error(&text);
        }
        (b"pause-cron", 3) => {
            ctx.server.cron_paused.store(ctx.args.at(2) == b"1", Ordering::Release);
            ctx.session.out.ok();
        }
        (b"set-skip-checksum-validation", 3) => {
            ctx.server.verify_dumps.store(ctx.args.at(2) != b"1", Ordering::Release);
            let settings = crate::config::Settings::clone(&ctx.server.settings());
            ctx.server.change_settings(settings).map_err(|(_, reason)| CommandError::text(format!("ERR {reason}")))?;
            ctx.session.out.ok();
        }
        (b"replicate", 3..) => {
            let argv: Vec<&[u8]> = ctx.args.skip(2).iter().collect();
            let mut bytes = Vec::new();
            resp::encode_command(&mut bytes, &argv);
            ctx.server.repl.log.lock().append(ctx.session.db, &bytes);
            ctx.server.repl.wake_feeds();
            ctx.session.out.ok();
        }
        (b"protocol", 3) => protocol(ctx)?,
        (b"segfault" | b"panic" | b"assert" | b"oom", 2) => {
            tracing::error!("DEBUG {}: the process ends as in a crash", String::from_utf8_lossy(&word));
            std::process::abort();
        }
        (b"help", 2) => {
            let lines = [
                "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "CHANGE-REPL-ID, DIGEST, DIGEST-VALUE key [key ...], ERROR text, JMAP, LOG text, OBJECT key, PANIC,",
                "PAUSE-CRON 0|1, POPULATE count [prefix] [size], PROTOCOL type, RELOAD [NOSAVE], REPLICATE command [arg ...],",
                "SET-ACTIVE-EXPIRE 0|1, SET-SKIP-CHECKSUM-VALIDATION 0|1, SLEEP seconds",
            ];
            ctx.session.out.array(lines.len());
            lines.iter().for_each(|line| ctx.session.out.simple(line));
        }
        _ => {
            let word = String::from_utf8_lossy(ctx.args.at(1)).into_owned();
            let text = format!("ERR unknown subcommand or wrong number of arguments for '{word}'. Try DEBUG HELP.");
            return Err(CommandError::text(text));
        }
    }
    Ok(Next::Continue)
}

/// What DEBUG OBJECT says of a quicklist's nodes, of which none is compressed.
fn quicklist(list: &List, max: i64) -> String {
    let (nodes, bytes) = (list.node_count(), list.nodes().map(|node| node.as_bytes().len()).sum::<usize>());
    let mean = list.len() as f64 / nodes.max(1) as f64;
    format!(
        " ql_nodes:{nodes} ql_avg_node:{mean:.2} ql_listpack_max:{max} ql_compressed:0 ql_uncompressed_size:{bytes}"
    )
}

/// DEBUG PROTOCOL type: a reply of that type.
fn protocol(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let out = &mut ctx.session.out;
    match ctx.args.at(2).to_ascii_lowercase().as_slice() {
        b"string" => out.bulk(b"Hello World"),
        b"integer" => out.int(12345),
        // What Redis answers: a number that looks like one.
        #[expect(clippy::approx_constant, reason = "it is the reply of Redis, not a calculation")]
        b"double" => out.double(3.141),
        b"null" => out.null(),
        b"array" => {
            out.array(3);
            (0..3).for_each(|n| out.int(n));
        }
        b"set" => {
            out.set(3);
            (0..3).for_each(|n| out.int(n));
        }
        b"map" => {
            out.map(3);
            for n in 0..3 {
                out.int(n);
                out.bool(n == 1);
            }
        }
        b"attrib" => {
            if out.resp3() {
                out.raw(b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n");
            }
            out.bulk(b"Some real reply following the attribute");
        }
        b"push" => {
            out.push(2);
            out.bulk(b"server-cpu-usage");
            out.int(42);
        }
        b"verbatim" => out.verbatim("txt", b"This is a verbatim\nstring"),
        b"true" => out.bool(true),
        b"false" => out.bool(false),
        b"bignum" if out.resp3() => out.raw(b"(1234567999999999999999999999999999999\r\n"),
        b"bignum" => out.bulk(b"1234567999999999999999999999999999999"),
        _ => {
            let text = "ERR Wrong protocol type name. Please use one of the following: string|integer|double|null|array|set|map|attrib|push|verbatim|true|false";
            return Err(CommandError::Static(text));
        }
    }
    Ok(())
}

/// Saves and loads again: what is in memory must be what is on the disk.
fn reload(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let failed = |e: String| CommandError::text(format!("ERR Error trying to load the RDB dump: {e}"));
    let server = ctx.server;
    let nosave = ctx.args.skip(2).iter().any(|w| w.eq_ignore_ascii_case(b"NOSAVE"));
    if !nosave {
        persistence::save(&server.arc()).map_err(|e| failed(e.to_string()))?;
    }
    let path = std::path::Path::new(&ctx.settings.dir).join(&ctx.settings.dbfilename);
    {
        let mut locked = server.keyspace.lock_all();
        let mut keys = view(server, ctx.settings, ctx.session.db, &mut locked);
        for db in 0..keys.databases() {
            keys.select(db);
            keys.flush();
        }
    }
    server.loading.store(true, Ordering::Release);
    let loaded = persistence::read_file(server, &path, true, &mut |_| {});
    server.loading.store(false, Ordering::Release);
    loaded.map_err(|e| failed(e.to_string()))?;
    ctx.session.out.ok();
    Ok(())
}

/// DEBUG POPULATE count [prefix] [size]: keys `prefix:N` with values `value:N`, filled up to `size`. Not propagated, as
/// in Redis.
fn populate(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let count = engine::parse::count(ctx.args.at(2))?;
    let prefix = ctx.args.get(3).unwrap_or(b"key");
    let size = ctx.args.get(4).map(engine::parse::count).transpose()?;
    ctx.with_shards(|ctx, shards| {
        fill(view(ctx.server, ctx.settings, ctx.session.db, shards), count, prefix, size);
    });
    ctx.session.out.ok();
    Ok(())
}

fn fill(mut keys: KeysView<'_>, count: usize, prefix: &[u8], size: Option<usize>) {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for n in 0..count {
        let digits = n.to_string();
        key.clear();
        key.extend_from_slice(prefix);
        key.push(b':');
        key.extend_from_slice(digits.as_bytes());
        keys.forget_hash();
        if keys.peek(&key).is_some() {
            continue;
        }
        value.clear();
        value.extend_from_slice(b"value:");
        value.extend_from_slice(digits.as_bytes());
        if let Some(size) = size.filter(|&s| s > 0) {
            value.resize(size, 0);
        }
        keys.put_str(&key, &value, Expiry::Clear);
    }
}
