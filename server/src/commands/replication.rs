//! Replication: roles, attaching, acknowledgements.

use engine::CommandError;
use engine::command::{Acl, Flags};
use engine::parse::integer;
use replication::Ask;
use replication::failover::{Request, accept};
use replication::feed::Replconf;
use replication::replicaof::{Replicaof, Target};

use super::{ServerCtx, family};
use crate::dispatch::Next;
use crate::repl::{Phase, begin_failover, managed_command, may_serve};

const ADMIN: Flags = Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::STALE);
const LINK: Flags = ADMIN.union(Flags::LOADING).union(Flags::AWAITING);

family! { Server;
    "replicaof" replicaof(3, ADMIN.union(Flags::NO_ASYNC_LOADING), Acl::empty()) "5.0.0" "Configures a server as replica of another, or promotes it to a master." "<host port | NO ONE>";
    "slaveof" replicaof(3, ADMIN.union(Flags::NO_ASYNC_LOADING), Acl::empty()) "1.0.0" "Sets a Redis server as a replica of another, or promotes it to being a master." "<host port | NO ONE>";
    "failover" failover(-1, ADMIN, Acl::empty()) "6.2.0" "Starts a coordinated failover from a server to one of its replicas." "[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]";
    "role" role(1, Flags::NOSCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::FAST).union(Flags::AWAITING), Acl::ADMIN.union(Acl::DANGEROUS)) "2.8.12" "Returns the replication role." "";
    "replconf" replconf(-1, LINK.union(Flags::ALLOW_BUSY), Acl::empty()) "3.0.0" "An internal command for configuring the replication stream." "[option value [option value ...]]";
    "psync" psync(-3, LINK.union(Flags::NO_MULTI).union(Flags::NO_ASYNC_LOADING), Acl::empty()) "2.8.0" "An internal command used in replication." "replicationid offset";
    "sync" psync(1, LINK.union(Flags::NO_MULTI).union(Flags::NO_ASYNC_LOADING), Acl::empty()) "1.0.0" "An internal command used in replication." "";
    "wait" wait(3, Flags::BLOCKING, Acl::CONNECTION) "3.0.0" "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed." "numreplicas timeout";
    "replicated" managed_command(-2, LINK, Acl::empty()) "7.2.4" "Orders of the operator to a managed instance." "subcommand [argument [argument ...]]";
}

fn replicaof(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let server = ctx.server;
    if server.repl.managed {
        return Err(CommandError::Static("ERR role is managed by the operator"));
    }
    if server.repl.failover.lock().is_active() {
        return Err(CommandError::Static("ERR REPLICAOF not allowed while failing over."));
    }
    let order = Replicaof::parse(ctx.args.skip(1)).map_err(|error| CommandError::text(error.to_string()))?;
    if let Replicaof::Follow(Target { host, port }) = &order
        && i64::from(*port) == ctx.settings.port
        && ["127.0.0.1", "localhost", "::1"].contains(&host.as_str())
    {
        return Err(CommandError::Static("ERR this instance cannot be a replica of itself"));
    }
    let reply = server.repl.replicaof(order);
    ctx.session.out.simple(reply);
    Ok(Next::Continue)
}

fn failover(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    if ctx.server.repl.managed {
        return Err(CommandError::Static("ERR role is managed by the operator"));
    }
    let request = Request::parse(ctx.args.skip(1).iter());
    let begun = request.and_then(|request| begin_failover(ctx.server, request));
    begun.map_err(|error| CommandError::text(error.to_string()))?;
    ctx.session.out.ok();
    Ok(Next::Continue)
}

fn role(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let repl = &ctx.server.repl;
    let end = repl.log.lock().log.end();
    let out = &mut ctx.session.out;
    if repl.is_awaiting() {
        // R1: no master, whatever becomes of it; clients that look for one go on looking.
        out.array(5);
        [&b"slave"[..], b""].into_iter().for_each(|text| out.bulk(text));
        out.int(0);
        out.bulk(b"connect");
        out.int(-1);
        return Ok(Next::Continue);
    }
    if let (Some(target), true) = (repl.target().0, repl.is_replica()) {
        out.array(5);
        out.bulk(b"slave");
        out.bulk(target.host.as_bytes());
        out.int(target.port.into());
        out.bulk(match repl.link.phase() {
            Phase::Connect => b"connect",
            Phase::Connecting => b"connecting",
            Phase::Handshake => b"handshake",
            Phase::Sync => b"sync",
            Phase::Connected => b"connected",
        });
        out.int(if repl.link_up() { end as i64 } else { -1 });
        return Ok(Next::Continue);
    }
    let feeds: Vec<_> = repl.feeds().into_iter().filter_map(|feed| feed.ack().map(|ack| (feed, ack))).collect();
    out.array(3);
    out.bulk(b"master");
    out.int(end as i64);
    out.array(feeds.len());
    for (feed, ack) in feeds {
        out.array(3);
        out.bulk(feed.ip.as_bytes());
        out.bulk(feed.port.to_string().as_bytes());
        out.bulk(ack.offset.to_string().as_bytes());
    }
    Ok(Next::Continue)
}

fn replconf(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let (history, end) = {
        let log = ctx.server.repl.log.lock();
        (log.history, log.log.end())
    };
    match ctx.session.replica.replconf(ctx.args.skip(1), &history, end) {
        Replconf::Simple(line) => ctx.session.out.simple(&line),
        Replconf::Error(line) => return Err(CommandError::text(line)),
        Replconf::Nothing => {}
    }
    Ok(Next::Continue)
}

fn psync(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let ask = Ask::parse(ctx.args).map_err(CommandError::Static)?;
    if let Ask::Psync { id: asked, failover: true, .. } = &ask {
        // Our master wants to be our replica.
        let repl = &ctx.server.repl;
        let id = repl.log.lock().history.id;
        if repl.managed {
            return Err(CommandError::Static("ERR role is managed by the operator"));
        }
        accept(id.as_str().as_bytes(), asked, repl.is_replica()).map_err(CommandError::Static)?;
        tracing::info!("Failover request received for replid {id}.");
        repl.replicaof(Replicaof::NoOne);
    }
    may_serve(ctx.server, &ctx.session.replica).map_err(|why| CommandError::text(why.to_string()))?;
    Ok(Next::Psync(ask))
}

fn wait(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    if ctx.server.repl.is_replica() {
        return Err(CommandError::Static(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.",
        ));
    }
    let replicas = integer(ctx.args.at(1))?;
    let timeout = resp::number::parse_i64(ctx.args.at(2));
    let timeout = timeout.ok_or(CommandError::Static("ERR timeout is not an integer or out of range"))?;
    let timeout_ms = u64::try_from(timeout).map_err(|_| CommandError::Static("ERR timeout is negative"))?;
    // Redis adds it to the present time in ms.
    if timeout.checked_add(crate::clock::unix_ms() as i64).is_none() {
        return Err(CommandError::Static("ERR timeout is out of range"));
    }
    let replicas = usize::try_from(replicas).unwrap_or(0);
    Ok(Next::Wait { replicas, offset: ctx.session.write_offset, timeout_ms })
}
