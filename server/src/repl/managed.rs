//! The operator's orders to a managed instance: `REPLICATED …`. What they make of the role is in `replication::orders`;
//! here it is given the disk, and its effects are carried out.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use engine::CommandError;
use replication::records::epoch_mark;
use replication::{Answer, Durable, Effect, Order, ReplId, Role, RoleState};

use super::Target;
use crate::clock;
use crate::commands::ServerCtx;
use crate::config::Settings;
use crate::dispatch::Next;
use crate::persistence::replace_file;
use crate::state::{Server, random, random_u64};

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

/// `REPLICATED <subcommand> …`
pub fn command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let order = Order::parse(&ctx.args.skip(1).iter().collect::<Vec<_>>());
    let managed = ctx.server.repl.managed;
    if !managed && order != Ok(Order::Status) {
        return Err(CommandError::Static("ERR not managed: this server was not started with `managed yes`"));
    }
    if ctx.args.len() > 3 && ctx.args.at(1).eq_ignore_ascii_case(b"config") {
        return crate::commands::directives::command(ctx);
    }
    let order = order.map_err(|error| CommandError::text(error.to_string()))?;
    // One order at a time: the effects of one are carried out before the next is heard.
    let _orders = ctx.server.repl.orders.lock();
    let answer = if order == Order::Status { Answer::Status } else { obey(ctx, &order)? };
    match answer {
        Answer::Ok => ctx.session.out.ok(),
        Answer::Status => status(ctx),
        Answer::Offset => {
            let end = ctx.server.repl.log.lock().log.end();
            ctx.session.out.int(end as i64);
        }
        Answer::Left(ms) => ctx.session.out.int(ms as i64),
    }
    Ok(Next::Continue)
}

/// Does what `replication::orders` asks of a driver, in its order.
fn obey(ctx: &ServerCtx<'_>, order: &Order) -> Result<Answer, CommandError> {
    let (server, repl) = (ctx.server, &ctx.server.repl);
    let busy = server.loading.load(Ordering::Acquire).then_some("loading");
    let obeyed = {
        let mut role = repl.role.lock();
        let obeyed = role.obey(order, busy, clock::monotonic_ms());
        let obeyed = obeyed.map_err(|refusal| CommandError::text(refusal.to_string()))?;
        if let Some(durable) = &obeyed.persist {
            store(&server.settings(), durable).map_err(|error| CommandError::text(format!("ERR {error}")))?;
        }
        *role = obeyed.role;
        repl.forbid(&role);
        (obeyed.effects, obeyed.answer)
    };
    let (effects, answer) = obeyed;
    effects.into_iter().for_each(|effect| carry_out(ctx, effect));
    repl.allow(&repl.role.lock());
    Ok(answer)
}

fn carry_out(ctx: &ServerCtx<'_>, effect: Effect) {
    let (server, repl) = (ctx.server, &ctx.server.repl);
    match effect {
        // Those that hold their shards now are in the log afterwards.
        Effect::SettleWrites => drop(server.keyspace.lock_all()),
        Effect::DropLink => {
            repl.drop_link();
            // What is being applied is finished before the answer; nothing of the old epoch is applied after it.
            drop(repl.apply.lock());
        }
        Effect::DropReplicas => repl.disconnect_feeds(),
        Effect::BeginReign { epoch } => {
            repl.set_target(None);
            let _apply = repl.apply.lock();
            let id = ReplId::from_random(random());
            let mut log = repl.log.lock();
            let end = log.log.end();
            log.history.shift(id, end);
            log.db = None;
            log.append_plain(&epoch_mark(epoch, id));
            log.history.marked(epoch);
            tracing::info!("Promoted to master of epoch {epoch}");
        }
        Effect::Follow { host, port, epoch, external } => {
            repl.follow(Target { host, port, epoch: Some(epoch), external });
        }
        Effect::RetryLink => repl.target_changed.notify_one(),
        Effect::Await => repl.set_target(None),
        Effect::CloseClients => server.clients.kill_normal(ctx.session.client.id),
    }
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
    let paused = now < role.writes_wait_until();
    let fields: &[(&str, String)] = &[
        ("managed", flag(repl.managed)),
        ("incarnation", format!("{:016x}", role.incarnation)),
        ("started_unix_ms", clock::started_unix_ms().to_string()),
        ("volume", format!("{:016x}", role.durable.volume)),
        ("promised", role.durable.promised.to_string()),
        ("role", role.name().into()),
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
        ("last_save_ok", flag(server.persistence.last_ok.load(Ordering::Relaxed))),
        ("save_stops_writes", flag(server.persistence.refuses_writes(&server.settings()))),
        ("token", now.to_string()),
        ("version", env!("CARGO_PKG_VERSION").into()),
    ];
    ctx.session.out.map(fields.len());
    for (name, value) in fields {
        ctx.session.out.bulk(name.as_bytes());
        ctx.session.out.bulk(value.as_bytes());
    }
}
