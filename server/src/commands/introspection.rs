//! What the server tells: INFO, MEMORY.

use engine::command::{Acl, Flags, Keys};
use engine::keyspace::{ExpiredKeys, ValueRef};
use engine::{CommandError, KeysView, Spec};

use super::{ServerCtx, family, unknown_subcommand};
use crate::dispatch::Next;
use crate::info;

const FLAGS: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::AWAITING);

family! { Server;
    "info" info_command(-1, FLAGS, Acl::DANGEROUS) "1.0.0" "Returns information and statistics about the server." "[section [section ...]]";
    "memory" memory(-2, Flags::empty(), Acl::empty()) "4.0.0" "A container for memory diagnostics commands." "" => MEMORY;
}

const MEMORY: &[Spec] = engine::subcommands! { Server, Acl::empty();
    "doctor"(2, Keys::None, Flags::empty(), Acl::empty()) "4.0.0" "O(1)" "Outputs a memory problems report." "";
    "malloc-stats"(2, Keys::None, Flags::empty(), Acl::empty()) "4.0.0" "Depends on how much memory is allocated, could be slow" "Returns the allocator statistics." "";
    "purge"(2, Keys::None, Flags::empty(), Acl::empty()) "4.0.0" "Depends on how much memory is allocated, could be slow" "Asks the allocator to release memory." "";
    "stats"(2, Keys::None, Flags::empty(), Acl::empty()) "4.0.0" "O(1)" "Returns details about memory usage." "";
    "usage"(-3, Keys::Range { first: 2, last: 2, step: 1 }, Flags::READONLY, Acl::empty()) "4.0.0" "O(N) where N is the number of samples." "Estimates the memory usage of a key." "key [SAMPLES count]";
};

fn info_command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let sections: Vec<String> =
        ctx.args.skip(1).iter().map(|s| String::from_utf8_lossy(s).to_ascii_lowercase()).collect();
    let (server, settings) = (ctx.server, ctx.settings);
    let text = info::text(server, settings, &mut ctx.figures(), &sections);
    ctx.session.out.verbatim("txt", text.as_bytes());
    Ok(Next::Continue)
}

fn memory(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let word = ctx.args.at(1).to_ascii_lowercase();
    match (&word[..], ctx.args.len()) {
        (b"usage", 3 | 5) => memory_usage(ctx),
        (b"doctor", 2) => {
            let text = "Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n";
            ctx.session.out.verbatim("txt", text.as_bytes());
        }
        (b"malloc-stats", 2) => {
            let (used, resident) = info::memory_used();
            let text = format!("jemalloc. Allocated: {used}, active: {used}, resident: {resident}\n");
            ctx.session.out.verbatim("txt", text.as_bytes());
        }
        (b"stats", 2) => memory_stats(ctx),
        (b"purge", 2) => ctx.session.out.ok(),
        _ => return Err(unknown_subcommand(ctx.args)),
    }
    Ok(Next::Continue)
}

/// The entry and, for a collection, the bytes that its serialised form takes and the table that it is in.
fn memory_usage(ctx: &mut ServerCtx<'_>) {
    let usage = ctx.with_shards(|ctx, shards| {
        let (limits, db) = (&ctx.settings.limits, ctx.session.db);
        let mut keys = KeysView::new(&ctx.server.keyspace, shards, limits, db, ExpiredKeys::Keep, 0);
        keys.peek(ctx.args.at(2)).map(|entry| {
            let object = match entry.value() {
                ValueRef::Str(_) => 0,
                value @ ValueRef::Object(object) => engine::rdb::write_payload(value).len() + object.table_bytes(),
            };
            entry.size() + 8 + object
        })
    });
    match usage {
        Some(bytes) => ctx.session.out.len_int(bytes),
        None => ctx.session.out.null(),
    }
}

fn memory_stats(ctx: &mut ServerCtx<'_>) {
    let (used, resident) = info::memory_used();
    let keys: usize = ctx.figures().sizes().iter().map(|(keys, _)| keys).sum();
    let backlog = ctx.server.repl.log.lock().log.held() as usize;
    let clients: usize = ctx.server.clients.list().iter().map(|c| c.memory()).sum();
    let overhead = backlog + clients + ctx.server.keyspace.snapshot_side_bytes();
    let dataset = used.saturating_sub(overhead);
    let numbers = [
        ("total.allocated", used),
        ("replication.backlog", backlog),
        ("clients.normal", clients),
        ("overhead.total", overhead),
        ("keys.count", keys),
        ("keys.bytes-per-key", dataset / keys.max(1)),
        ("dataset.bytes", dataset),
        ("allocator.resident", resident),
    ];
    let out = &mut ctx.session.out;
    out.map(numbers.len() + 1);
    for (name, n) in numbers {
        out.bulk(name.as_bytes());
        out.len_int(n);
    }
    out.bulk(b"fragmentation");
    out.double(resident as f64 / used.max(1) as f64);
}
