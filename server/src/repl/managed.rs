//! The operator's orders to a managed instance: `REPLICATED …`. The rules are in `replication::role`; here they are
//! given the disk, the log and the link.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use engine::CommandError;
use replication::records::epoch_mark;
use replication::{Durable, Refusal, ReplId, Role, RoleState};

use super::Target;
use crate::clock;
use crate::commands::ServerCtx;
use crate::config::Settings;
use crate::dispatch::Next;
use crate::persistence::replace_file;
use crate::state::{Server, random, random_u64};

/// How long the writes of a master wait for the end of an election that it takes part in. One that takes longer is waiting
/// for something else, and then a client is better off with an error.
const ELECTION_PAUSE_MS: u64 = 1500;

fn state_path(settings: &Settings) -> PathBuf {
    Path::new(&settings.dir).join("replication.state")
}

/// Reads the durable part of the role, or makes it. A damaged file is an error: guessing could break a promise.
pub fn load_durable(settings: &Settings) -> Result<Role, String> {
    let path = state_path(settings);
    let durable = match std::fs::read_to_string(&path) {
        Ok(text) => text.parse().map_err(|e| format!("{}: {e}", path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Durable { volume: random_u64(), ..Durable::default() },
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let role = Role::new(durable, random_u64(), settings.managed_lease_ms as u64, clock::monotonic_ms());
    if settings.managed {
        store(settings, &role.durable)?;
    }
    Ok(role)
}

fn store(settings: &Settings, durable: &Durable) -> Result<(), String> {
    use std::io::Write;
    let path = state_path(settings);
    replace_file(&path, |file| file.write_all(durable.to_string().as_bytes()))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// Notes an orderly shutdown: what this instance acknowledged is in the file that was saved.
pub fn store_at_shutdown(server: &Server, saved: bool) {
    if server.repl.managed {
        let durable = server.repl.role.lock().at_shutdown(saved);
        if let Err(error) = store(&server.settings(), &durable) {
            tracing::warn!("{error}");
        }
    }
}

/// Stores what of the role has changed by itself, without an order.
pub(super) fn store_role(server: &Server, role: &Role) {
    if let Err(error) = store(&server.settings(), &role.durable) {
        tracing::warn!("{error}");
    }
}

fn error(refusal: Refusal) -> CommandError {
    CommandError::text(refusal.to_string())
}

/// `REPLICATED <subcommand> …`
pub fn command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    if !ctx.server.repl.managed && word != b"status" {
        return Err(CommandError::Static("ERR not managed: this server was not started with `managed yes`"));
    }
    match (&word[..], ctx.args.len()) {
        (b"status", 2) => {
            status(ctx);
            Ok(Next::Continue)
        }
        (b"promise", 3) => promise(ctx),
        (b"promote", 6..) => promote(ctx),
        (b"lease", 6) => lease(ctx),
        (b"follow", 5) => follow(ctx),
        (b"handover", 4) => handover(ctx),
        (b"acceptmaster", 2) => {
            ctx.server.repl.link.accept_once.store(true, Ordering::Release);
            ctx.session.out.ok();
            Ok(Next::Continue)
        }
        _ => Err(CommandError::text(format!(
            "ERR unknown subcommand or wrong number of arguments for 'REPLICATED {}'",
            String::from_utf8_lossy(ctx.args.at(1))
        ))),
    }
}

fn number(arg: &[u8]) -> Result<u64, CommandError> {
    resp::number::parse_u64(arg).ok_or(CommandError::NotInteger)
}

fn hex(arg: &[u8]) -> Result<u64, CommandError> {
    let text = std::str::from_utf8(arg).ok();
    let text = text.and_then(|t| u64::from_str_radix(t, 16).ok());
    text.ok_or(CommandError::Static("ERR an incarnation or volume is sixteen hexadecimal digits"))
}

/// Changes the role; what must outlive the process is on the disk before this returns (R2).
fn change<R>(server: &Server, f: impl FnOnce(&mut Role) -> Result<R, Refusal>) -> Result<R, CommandError> {
    let mut role = server.repl.role.lock();
    let before = role.clone();
    let result = f(&mut role).map_err(error)?;
    if role.durable != before.durable
        && let Err(text) = store(&server.settings(), &role.durable)
    {
        *role = before;
        return Err(CommandError::text(format!("ERR {text}")));
    }
    server.repl.publish(&role);
    Ok(result)
}

fn promise(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let epoch = number(ctx.args.at(2))?;
    let server = ctx.server;
    // A master that promises may be elected again (R11) or be told to follow: until then its writes wait rather than fail.
    // Where it follows, its clients are disconnected. The pause comes first, so that no write meets a master without lease.
    let pause = &server.repl.paused_until;
    let was_master = !server.repl.is_replica() && !server.repl.is_awaiting();
    let before = pause.swap(if was_master { clock::monotonic_ms() + ELECTION_PAUSE_MS } else { 0 }, Ordering::AcqRel);
    if let Err(refused) = change(server, |role| role.promise(epoch)) {
        pause.store(before, Ordering::Release);
        return Err(refused);
    }
    if !server.repl.role.lock().may_follow() && server.repl.is_replica() {
        server.repl.drop_link();
        // What is being applied is finished before the answer; nothing of the old epoch is applied after it.
        drop(server.repl.apply.lock());
    }
    // Writes that hold their shards now are in the log before the offset is reported.
    drop(server.keyspace.lock_all());
    status(ctx);
    Ok(Next::Continue)
}

fn promote(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let (epoch, incarnation, k) = (number(ctx.args.at(2))?, hex(ctx.args.at(3))?, number(ctx.args.at(4))?);
    let members = ctx.args.skip(5).iter().map(hex).collect::<Result<Vec<_>, _>>()?;
    let server = ctx.server;
    let busy = if server.loading.load(Ordering::Acquire) {
        Some("loading")
    } else if server.repl.link.syncing.load(Ordering::Acquire) && server.repl.link_up() {
        Some("syncing")
    } else {
        None
    };
    change(server, |role| role.promote(epoch, incarnation, k as usize, members, busy))?;
    server.repl.set_target(None);
    {
        // R7: a history of its own, and the mark as the first entry of the reign.
        let _apply = server.repl.apply.lock();
        let id = ReplId::from_random(random());
        let mut log = server.repl.log.lock();
        let end = log.log.end();
        log.history.shift(id, end);
        log.db = None;
        log.append_plain(&epoch_mark(epoch, id));
        log.history.epoch = epoch;
    }
    server.repl.disconnect_feeds();
    if server.repl.role.lock().lease_until() == u64::MAX {
        // A master alone needs no lease, so none comes to end the pause.
        server.repl.paused_until.store(0, Ordering::Release);
    }
    server.repl.set_mode(super::MASTER);
    tracing::info!("Promoted to master of epoch {epoch}");
    ctx.session.out.ok();
    Ok(Next::Continue)
}

fn lease(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let (epoch, incarnation) = (number(ctx.args.at(2))?, hex(ctx.args.at(3))?);
    let (duration, token) = (number(ctx.args.at(4))?, number(ctx.args.at(5))?);
    let now = clock::monotonic_ms();
    let left = change(ctx.server, |role| role.lease(epoch, incarnation, duration, token, now))?;
    ctx.server.repl.paused_until.store(0, Ordering::Release);
    ctx.session.out.int(left as i64);
    Ok(Next::Continue)
}

fn follow(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let host = String::from_utf8_lossy(ctx.args.at(2)).into_owned();
    let port = u16::try_from(number(ctx.args.at(3))?).map_err(|_| CommandError::Static("ERR Invalid master port"))?;
    let epoch = number(ctx.args.at(4))?;
    let server = ctx.server;
    if change(server, |role| role.follow(&host, port, epoch))? {
        let was_master = !server.repl.is_replica() && !server.repl.is_awaiting();
        server.repl.follow(Target { host, port, epoch: Some(epoch) });
        if was_master {
            // Clients of a demoted master are to look for the new one.
            server.clients.kill_normal(ctx.session.client.id);
        }
    }
    ctx.session.out.ok();
    Ok(Next::Continue)
}

fn handover(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let (epoch, timeout) = (number(ctx.args.at(2))?, number(ctx.args.at(3))?);
    let now = clock::monotonic_ms();
    let server = ctx.server;
    change(server, |role| role.handover(epoch, timeout, now))?;
    server.repl.paused_until.store(now + timeout, Ordering::Release);
    // Writes that hold their shards now are still in time; none begins after this.
    drop(server.keyspace.lock_all());
    let end = server.repl.log.lock().log.end();
    ctx.session.out.int(end as i64);
    Ok(Next::Continue)
}

/// The names and values of `REPLICATED STATUS`, see the control protocol in `server/README.md`.
fn status(ctx: &mut ServerCtx<'_>) {
    let server = ctx.server;
    let repl = &server.repl;
    let now = clock::monotonic_ms();
    let keys = server.keyspace.len();
    let role = repl.role.lock().clone();
    let (history, end) = {
        let log = repl.log.lock();
        (log.history, log.log.end())
    };
    let flag = |on: bool| u8::from(on).to_string();
    let lease_left = match role.lease_until() {
        u64::MAX => role.lease_ms(),
        until => until.saturating_sub(now),
    };
    let (host, port) = match &role.state {
        RoleState::Replica { host, port, .. } => (host.clone(), *port),
        RoleState::Awaiting | RoleState::Master(_) => (String::new(), 0),
    };
    let is_master = matches!(role.state, RoleState::Master(_));
    let name = match role.state {
        RoleState::Awaiting => "awaiting",
        RoleState::Master(_) => "master",
        RoleState::Replica { .. } => "replica",
    };
    let link = match (is_master || repl.is_awaiting(), repl.link_up()) {
        (true, _) => "none",
        (false, true) => "up",
        (false, false) => "down",
    };
    let down_ms = if link == "down" {
        clock::unix_ms().saturating_sub(repl.link.down_since_ms.load(Ordering::Relaxed))
    } else {
        0
    };
    let paused = now < repl.paused_until.load(Ordering::Acquire);
    let fields: &[(&str, String)] = &[
        ("managed", flag(repl.managed)),
        ("incarnation", format!("{:016x}", role.incarnation)),
        ("started_unix_ms", clock::started_unix_ms().to_string()),
        ("volume", format!("{:016x}", role.durable.volume)),
        ("promised", role.durable.promised.to_string()),
        ("role", name.into()),
        ("role_epoch", role.role_epoch().to_string()),
        ("history_epoch", history.epoch.to_string()),
        ("replid", history.id.to_string()),
        ("replid2", history.second.to_string()),
        ("second_offset", history.second_offset.map_or(-1, |n| n as i64).to_string()),
        ("offset", end.to_string()),
        ("complete", flag(role.complete)),
        ("has_data", flag(keys > 0 || history.epoch > 0)),
        ("member", flag(role.durable.member)),
        ("keys", keys.to_string()),
        ("loading", flag(server.loading.load(Ordering::Acquire))),
        ("syncing", flag(repl.link.syncing.load(Ordering::Acquire))),
        ("writable", flag(is_master && repl.may_write(now))),
        ("lease_left_ms", lease_left.to_string()),
        ("grant_left_ms", role.grant_left(now).to_string()),
        ("master_host", host),
        ("master_port", port.to_string()),
        ("link", link.into()),
        ("link_down_ms", down_ms.to_string()),
        ("caught_up", flag(role.caught_up)),
        ("sync_refused", (*repl.link.refused.lock()).into()),
        ("connected_replicas", repl.feed_count().to_string()),
        ("paused", flag(paused)),
        ("token", now.to_string()),
        ("version", env!("CARGO_PKG_VERSION").into()),
    ];
    ctx.session.out.map(fields.len());
    for (name, value) in fields {
        ctx.session.out.bulk(name.as_bytes());
        ctx.session.out.bulk(value.as_bytes());
    }
}
