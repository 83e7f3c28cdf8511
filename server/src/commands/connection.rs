//! The connection itself: AUTH, HELLO, CLIENT, …

use std::sync::atomic::Ordering;

use engine::CommandError;
use engine::Spec;
use engine::command::{Acl, Flags, Keys};
use engine::parse::{eq_ignore_case, integer};
use resp::Protocol;

use super::{ServerCtx, family, unknown_subcommand};
use crate::clients::{Client, Kind};
use crate::clock;
use crate::dispatch::Next;
use crate::registry::Registry;

const BASE: Flags = Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::FAST).union(Flags::AWAITING);
const OPEN: Flags = BASE.union(Flags::NO_AUTH).union(Flags::ALLOW_BUSY);

family! { Connection;
    "ping" ping(-1, Flags::FAST.union(Flags::AWAITING), Acl::CONNECTION) "1.0.0" "Returns the server's liveliness response." "[message]";
    "echo" echo(2, Flags::FAST.union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING), Acl::CONNECTION) "1.0.0" "Returns the given string." "message";
    "auth" auth(-2, OPEN, Acl::CONNECTION) "1.0.0" "Authenticates the connection." "[username] password";
    "hello" hello(-1, OPEN, Acl::CONNECTION) "6.0.0" "Handshakes with the Redis server." "[protover [AUTH username password] [SETNAME clientname]]";
    "select" select(2, Flags::FAST.union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING), Acl::CONNECTION) "1.0.0" "Changes the selected database." "index";
    "quit" quit(-1, OPEN, Acl::CONNECTION) "1.0.0" "Closes the connection." "";
    "reset" reset(1, OPEN, Acl::CONNECTION) "6.2.0" "Resets the connection." "";
    "client" client(-2, Flags::empty(), Acl::empty()) "2.4.0" "A container for client connection commands." "" => CLIENT;
    "multi" never(1, BASE.union(Flags::ALLOW_BUSY), Acl::TRANSACTION) "1.2.0" "Starts a transaction." "";
    "exec" never(1, Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::SKIP_SLOWLOG), Acl::TRANSACTION) "1.2.0" "Executes all commands in a transaction." "";
    "discard" never(1, BASE.union(Flags::ALLOW_BUSY), Acl::TRANSACTION) "2.0.0" "Discards a transaction." "";
    "watch" never(-2, BASE.union(Flags::ALLOW_BUSY), Acl::TRANSACTION, engine::command::Keys::ALL) "2.2.0" "Monitors changes to keys to determine the execution of a transaction." "key [key ...]";
    "unwatch" never(1, BASE.union(Flags::ALLOW_BUSY), Acl::TRANSACTION) "2.2.0" "Forgets about watched keys of a transaction." "";
}

const EACH: Flags = Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::AWAITING);
const ADMIN: Flags = EACH.union(Flags::ADMIN);

const CLIENT: &[Spec] = engine::subcommands! { Connection, Acl::CONNECTION;
    "getname"(2, Keys::None, EACH, Acl::CONNECTION) "2.6.9" "O(1)" "Returns the name of the connection." "";
    "getredir"(2, Keys::None, EACH, Acl::CONNECTION) "6.0.0" "O(1)" "Returns the client ID to which the connection's tracking notifications are redirected." "";
    "id"(2, Keys::None, EACH, Acl::CONNECTION) "5.0.0" "O(1)" "Returns the unique client ID of the connection." "";
    "info"(2, Keys::None, EACH, Acl::CONNECTION) "6.2.0" "O(1)" "Returns information about the connection." "";
    "kill"(-3, Keys::None, ADMIN, Acl::CONNECTION) "2.4.0" "O(N) where N is the number of client connections" "Terminates open connections." "<old-format | <new-format [new-format ...]>>";
    "list"(-2, Keys::None, ADMIN, Acl::CONNECTION) "2.4.0" "O(N) where N is the number of client connections" "Lists open connections." "[TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]";
    "no-evict"(3, Keys::None, ADMIN, Acl::CONNECTION) "7.0.0" "O(1)" "Sets the client eviction mode of the connection." "<ON | OFF>";
    "no-touch"(3, Keys::None, EACH, Acl::CONNECTION) "7.2.0" "O(1)" "Controls whether commands sent by the client affect the LRU/LFU of accessed keys." "<ON | OFF>";
    "pause"(-3, Keys::None, ADMIN, Acl::CONNECTION) "3.0.0" "O(1)" "Suspends commands processing." "timeout [WRITE | ALL]";
    "reply"(3, Keys::None, EACH, Acl::CONNECTION) "3.2.0" "O(1)" "Instructs the server whether to reply to commands." "<ON | OFF | SKIP>";
    "setinfo"(4, Keys::None, EACH, Acl::CONNECTION) "7.2.0" "O(1)" "Sets information specific to the client or connection." "<LIB-NAME libname | LIB-VER libver>";
    "setname"(3, Keys::None, EACH, Acl::CONNECTION) "2.6.9" "O(1)" "Sets the connection name." "connection-name";
    "trackinginfo"(2, Keys::None, EACH, Acl::CONNECTION) "6.2.0" "O(1)" "Returns information about server-assisted client-side caching for the connection." "";
    "unblock"(-3, Keys::None, ADMIN, Acl::CONNECTION) "5.0.0" "O(log N) where N is the number of client connections" "Unblocks a client blocked by a blocking command from a different connection." "client-id [TIMEOUT | ERROR]";
    "unpause"(2, Keys::None, ADMIN, Acl::CONNECTION) "6.2.0" "O(1)" "Resumes processing commands from paused clients." "";
};

/// Transactions are carried out by the dispatcher, which never calls this.
fn never(_: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    Err(CommandError::Static("ERR transactions are carried out by the dispatcher"))
}

fn ping(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    match ctx.args.len() {
        1 => ctx.session.out.simple("PONG"),
        2 => ctx.session.out.bulk(ctx.args.at(1)),
        _ => return Err(CommandError::Arity("ping".into())),
    }
    Ok(Next::Continue)
}

fn echo(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    ctx.session.out.bulk(ctx.args.at(1));
    Ok(Next::Continue)
}

fn authenticate(ctx: &mut ServerCtx<'_>, user: &[u8], password: &[u8]) -> Result<(), CommandError> {
    if ctx.server.users.accepts(user, password) {
        ctx.session.authenticated = true;
        Ok(())
    } else {
        Err(CommandError::Static("WRONGPASS invalid username-password pair or user is disabled."))
    }
}

fn auth(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    match ctx.args.len() {
        2 if ctx.server.users.default_user().nopass => {
            return Err(CommandError::Static(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            ));
        }
        2 => authenticate(ctx, b"default", ctx.args.at(1))?,
        3 => authenticate(ctx, ctx.args.at(1), ctx.args.at(2))?,
        _ => return Err(CommandError::Syntax),
    }
    ctx.session.out.ok();
    Ok(Next::Continue)
}

fn hello(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let protocol = match ctx.args.get(1) {
        None => None,
        Some(arg) => Some(match resp::number::parse_i64(arg) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(CommandError::Static("NOPROTO unsupported protocol version")),
            None => return Err(CommandError::Static("ERR Protocol version is not an integer or out of range")),
        }),
    };
    let (mut i, mut name) = (2, None);
    while i < ctx.args.len() {
        let (word, left) = (ctx.args.at(i), ctx.args.len() - i - 1);
        if eq_ignore_case(word, "AUTH") && left >= 2 {
            authenticate(ctx, ctx.args.at(i + 1), ctx.args.at(i + 2))?;
            i += 2;
        } else if eq_ignore_case(word, "SETNAME") && left >= 1 {
            name = Some(check_name(ctx.args.at(i + 1))?);
            i += 1;
        } else {
            let word = String::from_utf8_lossy(word);
            return Err(CommandError::text(format!("ERR Syntax error in HELLO option '{word}'")));
        }
        i += 1;
    }
    if !ctx.session.authenticated {
        return Err(CommandError::Static(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        ctx.session.client.text.lock().name = name;
    }
    if let Some(protocol) = protocol {
        ctx.session.out.set_protocol(protocol);
        ctx.session.client.resp3.store(protocol == Protocol::Resp3, Ordering::Relaxed);
    }
    let id = ctx.session.client.id;
    let replica = ctx.server.repl.is_replica() || ctx.server.repl.is_awaiting();
    let out = &mut ctx.session.out;
    out.map(7);
    for (name, value) in [("server", "redis"), ("version", crate::REDIS_VERSION)] {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"proto");
    out.int(if out.resp3() { 3 } else { 2 });
    out.bulk(b"id");
    out.int(id as i64);
    out.bulk(b"mode");
    out.bulk(b"standalone");
    out.bulk(b"role");
    out.bulk(if replica { b"replica" } else { b"master" });
    out.bulk(b"modules");
    out.array(0);
    Ok(Next::Continue)
}

fn select(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let db = integer(ctx.args.at(1))?;
    let db = usize::try_from(db).ok().filter(|&db| db < ctx.server.keyspace.databases());
    ctx.session.db = db.ok_or(CommandError::DbOutOfRange)?;
    ctx.session.client.db.store(ctx.session.db, Ordering::Relaxed);
    ctx.session.out.ok();
    Ok(Next::Continue)
}

fn quit(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    ctx.session.out.ok();
    Ok(Next::Close)
}

fn reset(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    ctx.session.reset(ctx.server);
    ctx.session.client.text.lock().name.clear();
    ctx.session.out.simple("RESET");
    Ok(Next::Continue)
}

/// A name without blanks and line breaks.
fn check_name(name: &[u8]) -> Result<String, CommandError> {
    if name.iter().all(|b| (b'!'..=b'~').contains(b)) {
        Ok(String::from_utf8_lossy(name).into_owned())
    } else {
        Err(CommandError::Static("ERR Client names cannot contain spaces, newlines or special characters."))
    }
}

fn client(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    match (&word[..], ctx.args.len()) {
        (b"id", 2) => ctx.session.out.int(ctx.session.client.id as i64),
        (b"info", 2) => {
            let line = format!("{}\n", ctx.session.client.line());
            ctx.session.out.verbatim("txt", line.as_bytes());
        }
        (b"list", _) => list(ctx)?,
        (b"getname", 2) => {
            let name = ctx.session.client.text.lock().name.clone();
            ctx.session.out.bulk_or_null(Some(name.as_bytes()).filter(|n| !n.is_empty()));
        }
        (b"setname", 3) => {
            ctx.session.client.text.lock().name = check_name(ctx.args.at(2))?;
            ctx.session.out.ok();
        }
        (b"setinfo", 4) => set_info(ctx)?,
        (b"kill", 3..) => return kill(ctx),
        (b"pause", 3 | 4) => pause(ctx)?,
        (b"unpause", 2) => {
            ctx.server.pause.all_until_ms.store(0, Ordering::Release);
            ctx.server.pause.until_ms.store(0, Ordering::Release);
            ctx.server.pause.changed.notify_waiters();
            ctx.session.out.ok();
        }
        (b"no-evict", 3) => {
            ctx.session.client.no_evict.store(on_off(ctx.args.at(2))?, Ordering::Relaxed);
            ctx.session.out.ok();
        }
        (b"no-touch", 3) => {
            ctx.session.client.no_touch.store(on_off(ctx.args.at(2))?, Ordering::Relaxed);
            ctx.session.out.ok();
        }
        (b"unblock", 3 | 4) => unblock(ctx)?,
        (b"trackinginfo", 2) => {
            // Nobody is told of changes: tracking is off.
            let out = &mut ctx.session.out;
            out.map(3);
            out.bulk(b"flags");
            out.set(1);
            out.bulk(b"off");
            out.bulk(b"redirect");
            out.int(-1);
            out.bulk(b"prefixes");
            out.array(0);
        }
        (b"reply", 3) => match ctx.args.at(2).to_ascii_lowercase().as_slice() {
            b"on" => {
                (ctx.session.reply_off, ctx.session.reply_skip) = (false, false);
                ctx.session.out.ok();
            }
            b"off" => ctx.session.reply_off = true,
            // This call says nothing, and neither does the next.
            b"skip" if !ctx.session.reply_off => return Ok(Next::SkipReply),
            b"skip" => {}
            _ => return Err(CommandError::Syntax),
        },
        (b"getredir", 2) => ctx.session.out.int(-1),
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

/// Only WAIT blocks a client in a way that another one can end.
fn unblock(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let how = match ctx.args.get(3) {
        None => 1,
        Some(word) if eq_ignore_case(word, "TIMEOUT") => 1,
        Some(word) if eq_ignore_case(word, "ERROR") => 2,
        Some(_) => return Err(CommandError::Static("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
    };
    let id = integer(ctx.args.at(2))?;
    let all = ctx.server.clients.list();
    let waits = |c: &&std::sync::Arc<Client>| {
        c.id as i64 == id
            && c.blocked.load(Ordering::Acquire)
            && Registry::get().name(c.last.load(Ordering::Relaxed)) == Some("wait")
    };
    let found = all.iter().find(waits);
    if let Some(client) = found {
        client.unblock.store(how, Ordering::Release);
        client.wake.notify_one();
    }
    ctx.session.out.int(found.is_some().into());
    Ok(())
}

fn on_off(arg: &[u8]) -> Result<bool, CommandError> {
    match arg {
        _ if eq_ignore_case(arg, "ON") => Ok(true),
        _ if eq_ignore_case(arg, "OFF") => Ok(false),
        _ => Err(CommandError::Syntax),
    }
}

fn set_info(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let value = ctx.args.at(3);
    if !value.iter().all(|b| (b'!'..=b'~').contains(b)) {
        let option = String::from_utf8_lossy(ctx.args.at(2)).to_lowercase();
        return Err(CommandError::text(format!("ERR {option} cannot contain spaces, newlines or special characters.")));
    }
    let value = String::from_utf8_lossy(value).into_owned();
    let mut text = ctx.session.client.text.lock();
    match ctx.args.at(2).to_ascii_lowercase().as_slice() {
        b"lib-name" => text.lib_name = value,
        b"lib-ver" => text.lib_ver = value,
        _ => {
            let option = String::from_utf8_lossy(ctx.args.at(2)).into_owned();
            return Err(CommandError::text(format!("ERR Unrecognized option '{option}'")));
        }
    }
    drop(text);
    ctx.session.out.ok();
    Ok(())
}

fn parse_kind(word: &[u8]) -> Result<Option<Kind>, CommandError> {
    match word.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(Some(Kind::Normal)),
        b"replica" | b"slave" => Ok(Some(Kind::Replica)),
        b"master" => Ok(Some(Kind::Master)),
        b"pubsub" => Ok(None),
        _ => Err(CommandError::text(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(word)))),
    }
}

/// Which clients are meant.
type Filter = Box<dyn Fn(&Client) -> bool>;

fn list(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let keep: Filter = match ctx.args.len() {
        2 => Box::new(|_| true),
        4 if eq_ignore_case(ctx.args.at(2), "TYPE") => {
            let kind = parse_kind(ctx.args.at(3))?;
            Box::new(move |c| Some(c.kind()) == kind)
        }
        n if n > 3 && eq_ignore_case(ctx.args.at(2), "ID") => {
            let ids =
                ctx.args.skip(3).iter().map(|arg| {
                    integer(arg).ok().filter(|&n| n > 0).ok_or(CommandError::Static("ERR Invalid client ID"))
                });
            let ids = ids.collect::<Result<Vec<_>, _>>()?;
            Box::new(move |c| ids.contains(&(c.id as i64)))
        }
        _ => return Err(CommandError::Syntax),
    };
    let lines: String =
        ctx.server.clients.list().iter().filter(|c| keep(c)).map(|c| format!("{}\n", c.line())).collect();
    ctx.session.out.verbatim("txt", lines.as_bytes());
    Ok(())
}

fn kill(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let own = ctx.session.client.id;
    if ctx.args.len() == 3 {
        let addr = String::from_utf8_lossy(ctx.args.at(2)).into_owned();
        let all = ctx.server.clients.list();
        let client = all.iter().find(|c| c.addr == addr);
        let client = client.ok_or(CommandError::Static("ERR No such client"))?;
        ctx.session.out.ok();
        if client.id == own {
            return Ok(Next::Close);
        }
        client.kill();
        return Ok(Next::Continue);
    }
    if ctx.args.len() % 2 == 1 {
        return Err(CommandError::Syntax);
    }
    let mut filters: Vec<Filter> = Vec::new();
    let mut skip_me = true;
    for i in (2..ctx.args.len()).step_by(2) {
        let (option, value) = (ctx.args.at(i).to_ascii_lowercase(), ctx.args.at(i + 1));
        let text = String::from_utf8_lossy(value).into_owned();
        match &option[..] {
            b"id" => {
                let id = integer(value).ok().filter(|&n| n > 0);
                let id = id.ok_or(CommandError::Static("ERR client-id should be greater than 0"))?;
                filters.push(Box::new(move |c| c.id as i64 == id));
            }
            b"addr" => filters.push(Box::new(move |c| c.addr == text)),
            b"laddr" => filters.push(Box::new(move |c| c.laddr == text)),
            b"type" => {
                let kind = parse_kind(value)?;
                filters.push(Box::new(move |c| Some(c.kind()) == kind));
            }
            b"user" if text == "default" => filters.push(Box::new(|_| true)),
            b"user" => return Err(CommandError::text(format!("ERR No such user '{text}'"))),
            b"maxage" => {
                let age = integer(value)?;
                let now = clock::unix_ms();
                filters.push(Box::new(move |c| (now.saturating_sub(c.created_ms) / 1000) as i64 >= age));
            }
            b"skipme" if eq_ignore_case(value, "yes") => skip_me = true,
            b"skipme" if eq_ignore_case(value, "no") => skip_me = false,
            _ => return Err(CommandError::Syntax),
        }
    }
    let (mut killed, mut me) = (0, false);
    for client in ctx.server.clients.list() {
        if !filters.iter().all(|f| f(&client)) || (skip_me && client.id == own) {
            continue;
        }
        killed += 1;
        if client.id == own {
            me = true;
        } else {
            client.kill();
        }
    }
    ctx.session.out.int(killed);
    Ok(if me { Next::Close } else { Next::Continue })
}

fn pause(ctx: &mut ServerCtx<'_>) -> Result<(), CommandError> {
    let ms = resp::number::parse_i64(ctx.args.at(2));
    let ms = ms.ok_or(CommandError::Static("ERR timeout is not an integer or out of range"))?;
    let ms = u64::try_from(ms).map_err(|_| CommandError::Static("ERR timeout is negative"))?;
    let writes_only = match ctx.args.get(3) {
        None => false,
        Some(word) if eq_ignore_case(word, "ALL") => false,
        Some(word) if eq_ignore_case(word, "WRITE") => true,
        Some(_) => return Err(CommandError::Static("ERR CLIENT PAUSE mode must be WRITE or ALL")),
    };
    let (pause, until) = (&ctx.server.pause, clock::unix_ms().saturating_add(ms));
    if !writes_only {
        pause.all_until_ms.fetch_max(until, Ordering::AcqRel);
    }
    pause.until_ms.fetch_max(until, Ordering::AcqRel);
    ctx.session.out.ok();
    Ok(())
}
