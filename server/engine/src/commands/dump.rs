//! DUMP and RESTORE.

use super::{NO_ACL, R, WM, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::parse::{eq_ignore_case, integer};
use crate::{CommandError, Ctx, rdb};

family! { Generic, Acl::KEYSPACE;
    "dump" dump(2, Keys::ONE, R, NO_ACL) "2.6.0" "O(1) to access the key and additional O(N*M) to serialize it, where N is the number of Redis objects composing the value and M their average size." "Returns a serialized representation of the value stored at a key." "key";
    "restore" restore(-4, Keys::ONE, WM, Acl::DANGEROUS) "2.6.0" "O(1) to create the new key and additional O(N*M) to reconstruct the serialized value." "Creates a key from the serialized representation of a value." "key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]";
}

fn dump(ctx: &mut Ctx<'_>) -> CommandResult {
    let payload = ctx.keys.value(ctx.args.at(1)).map(rdb::write_payload);
    ctx.out.bulk_or_null(payload.as_deref());
    Ok(())
}

fn restore(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    let (mut replace, mut absolute, mut idle, mut i) = (false, false, None, 4);
    while i < ctx.args.len() {
        let (word, value) = (ctx.args.at(i), ctx.args.get(i + 1));
        match value {
            _ if eq_ignore_case(word, "REPLACE") => replace = true,
            _ if eq_ignore_case(word, "ABSTTL") => absolute = true,
            Some(value) if eq_ignore_case(word, "IDLETIME") => {
                let n = u64::try_from(integer(value)?);
                idle = Some(n.map_err(|_| CommandError::Static("ERR Invalid IDLETIME value, must be >= 0"))?);
                i += 1;
            }
            Some(value) if eq_ignore_case(word, "FREQ") => {
                if !(0..=255).contains(&integer(value)?) {
                    return Err(CommandError::Static("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
                i += 1;
            }
            _ => return Err(CommandError::Syntax),
        }
        i += 1;
    }
    if !replace && ctx.keys.peek(key).is_some() {
        return Err(CommandError::Static("BUSYKEY Target key name already exists."));
    }
    let ttl = u64::try_from(integer(ctx.args.at(2))?);
    let ttl = ttl.map_err(|_| CommandError::Static("ERR Invalid TTL value, must be >= 0"))?;
    let expires_ms = match ttl {
        0 => None,
        ttl if absolute => Some(ttl),
        ttl => Some(ttl.saturating_add(ctx.now_ms)),
    };
    let value = rdb::read_payload(ctx.args.at(3), ctx.limits.verify_dump_checksum, ctx.limits)?;
    let existed = replace && ctx.keys.peek(key).is_some();
    if expires_ms.is_some_and(|at| at <= ctx.now_ms) && !ctx.keys.is_replica() {
        // It has expired already: nothing is created, what it replaces is deleted.
        if existed {
            ctx.keys.remove(key);
            ctx.effects.replace(&[ctx.limits.server_del(), key]);
        }
        ctx.out.ok();
        return Ok(());
    }
    ctx.keys.put_value(key, value, expires_ms);
    if let Some(seconds) = idle {
        ctx.keys.set_idle_seconds(key, seconds);
    }
    if let Some(at) = expires_ms {
        let at = at.to_string();
        let mut argv: Vec<&[u8]> = ctx.args.iter().collect();
        argv[2] = at.as_bytes();
        if !absolute {
            argv.push(b"ABSTTL");
        }
        ctx.effects.replace(&argv);
    }
    ctx.out.ok();
    Ok(())
}
