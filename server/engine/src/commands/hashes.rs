//! Hashes.

use super::{R, RF, ScanArgs, WF, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Absent;
use crate::long_double::LongDouble;
use crate::parse::{eq_ignore_case, integer};
use crate::types::Hash;
use crate::{CommandError, Ctx, Limits};

family! { Hash, Acl::HASH;
    "hset" hset(-4, Keys::ONE, WMF) "2.0.0" "O(1) for each field/value pair added." "Creates or modifies the value of a field in a hash." "key field value [field value ...]";
    "hmset" hmset(-4, Keys::ONE, WMF) "2.0.0" "O(N) where N is the number of fields being set." "Sets the values of multiple fields." "key field value [field value ...]";
    "hsetnx" hsetnx(4, Keys::ONE, WMF) "2.0.0" "O(1)" "Sets the value of a field in a hash only when the field doesn't exist." "key field value";
    "hget" hget(3, Keys::ONE, RF) "2.0.0" "O(1)" "Returns the value of a field in a hash." "key field";
    "hmget" hmget(-3, Keys::ONE, RF) "2.0.0" "O(N) where N is the number of fields being requested." "Returns the values of all fields in a hash." "key field [field ...]";
    "hgetall" hgetall(2, Keys::ONE, R) "2.0.0" "O(N) where N is the size of the hash." "Returns all fields and values in a hash." "key";
    "hkeys" hkeys(2, Keys::ONE, R) "2.0.0" "O(N) where N is the size of the hash." "Returns all fields in a hash." "key";
    "hvals" hvals(2, Keys::ONE, R) "2.0.0" "O(N) where N is the size of the hash." "Returns all values in a hash." "key";
    "hdel" hdel(-3, Keys::ONE, WF) "2.0.0" "O(N) where N is the number of fields to be removed." "Deletes one or more fields and their values from a hash. Deletes the hash if no fields remain." "key field [field ...]";
    "hlen" hlen(2, Keys::ONE, RF) "2.0.0" "O(1)" "Returns the number of fields in a hash." "key";
    "hstrlen" hstrlen(3, Keys::ONE, RF) "3.2.0" "O(1)" "Returns the length of the value of a field." "key field";
    "hexists" hexists(3, Keys::ONE, RF) "2.0.0" "O(1)" "Determines whether a field exists in a hash." "key field";
    "hincrby" hincrby(4, Keys::ONE, WMF) "2.0.0" "O(1)" "Increments the integer value of a field in a hash by a number. Uses 0 as initial value if the field doesn't exist." "key field increment";
    "hincrbyfloat" hincrbyfloat(4, Keys::ONE, WMF) "2.6.0" "O(1)" "Increments the floating point value of a field by a number. Uses 0 as initial value if the field doesn't exist." "key field increment";
    "hscan" hscan(-3, Keys::ONE, R) "2.8.0" "O(1) for every call. O(N) for a complete iteration." "Iterates over fields and values of a hash." "key cursor [MATCH pattern] [COUNT count]";
    "hrandfield" hrandfield(-2, Keys::ONE, R) "6.2.0" "O(N) where N is the number of fields returned" "Returns one or more random fields from a hash." "key [count [WITHVALUES]]";
}

/// Sets the pairs of the arguments; number of new fields.
fn set_pairs(ctx: &mut Ctx<'_>, name: &str) -> Result<usize, CommandError> {
    if ctx.args.len() % 2 == 1 {
        return Err(CommandError::Arity(name.into()));
    }
    let (args, limits) = (ctx.args, ctx.limits);
    let new = ctx.keys.edit(args.at(1), Absent::Create, |hash: &mut Hash| {
        hash.prepare(args.skip(2).iter(), limits);
        let pairs = (2..args.len()).step_by(2);
        let changes = pairs.len() as u64;
        (pairs.filter(|&i| hash.set(args.at(i), args.at(i + 1), limits)).count(), changes)
    })?;
    Ok(new.unwrap_or(0))
}

fn hset(ctx: &mut Ctx<'_>) -> CommandResult {
    let new = set_pairs(ctx, "hset")?;
    ctx.out.len_int(new);
    Ok(())
}

fn hmset(ctx: &mut Ctx<'_>) -> CommandResult {
    set_pairs(ctx, "hmset")?;
    ctx.out.ok();
    Ok(())
}

fn hsetnx(ctx: &mut Ctx<'_>) -> CommandResult {
    let (args, limits) = (ctx.args, ctx.limits);
    let new = ctx.keys.edit(args.at(1), Absent::Create, |hash: &mut Hash| {
        let new = !hash.contains(args.at(2));
        if new {
            hash.set(args.at(2), args.at(3), limits);
        }
        (new, u64::from(new))
    })?;
    ctx.out.int(i64::from(new == Some(true)));
    Ok(())
}

fn hget(ctx: &mut Ctx<'_>) -> CommandResult {
    match ctx.keys.get::<Hash>(ctx.args.at(1))? {
        Some(hash) => hash.get(ctx.args.at(2), |value| ctx.out.bulk_or_null(value)),
        None => ctx.out.null(),
    }
    Ok(())
}

fn hmget(ctx: &mut Ctx<'_>) -> CommandResult {
    let hash = ctx.keys.get::<Hash>(ctx.args.at(1))?;
    ctx.out.array(ctx.args.len() - 2);
    for field in ctx.args.skip(2).iter() {
        match hash {
            Some(hash) => hash.get(field, |value| ctx.out.bulk_or_null(value)),
            None => ctx.out.null(),
        }
    }
    Ok(())
}

fn hgetall(ctx: &mut Ctx<'_>) -> CommandResult {
    let hash = ctx.keys.get::<Hash>(ctx.args.at(1))?;
    ctx.out.map(hash.map_or(0, Hash::len));
    if let Some(hash) = hash {
        hash.for_each(|field, value| {
            ctx.out.bulk(field);
            ctx.out.bulk(value);
        });
    }
    Ok(())
}

fn hkeys(ctx: &mut Ctx<'_>) -> CommandResult {
    let hash = ctx.keys.get::<Hash>(ctx.args.at(1))?;
    ctx.out.array(hash.map_or(0, Hash::len));
    if let Some(hash) = hash {
        hash.for_each(|field, _| ctx.out.bulk(field));
    }
    Ok(())
}

fn hvals(ctx: &mut Ctx<'_>) -> CommandResult {
    let hash = ctx.keys.get::<Hash>(ctx.args.at(1))?;
    ctx.out.array(hash.map_or(0, Hash::len));
    if let Some(hash) = hash {
        hash.for_each(|_, value| ctx.out.bulk(value));
    }
    Ok(())
}

fn hdel(ctx: &mut Ctx<'_>) -> CommandResult {
    let args = ctx.args;
    let gone = ctx.keys.edit(args.at(1), Absent::Skip, |hash: &mut Hash| {
        let gone = args.skip(2).iter().filter(|field| hash.remove(field)).count();
        (gone, gone as u64)
    })?;
    ctx.out.len_int(gone.unwrap_or(0));
    Ok(())
}

fn hlen(ctx: &mut Ctx<'_>) -> CommandResult {
    let len = ctx.keys.get::<Hash>(ctx.args.at(1))?.map_or(0, Hash::len);
    ctx.out.len_int(len);
    Ok(())
}

fn hstrlen(ctx: &mut Ctx<'_>) -> CommandResult {
    let hash = ctx.keys.get::<Hash>(ctx.args.at(1))?;
    let len = hash.map_or(0, |hash| hash.get(ctx.args.at(2), |value| value.map_or(0, <[u8]>::len)));
    ctx.out.len_int(len);
    Ok(())
}

fn hexists(ctx: &mut Ctx<'_>) -> CommandResult {
    let found = ctx.keys.get::<Hash>(ctx.args.at(1))?.is_some_and(|hash| hash.contains(ctx.args.at(2)));
    ctx.out.int(i64::from(found));
    Ok(())
}

fn hincrby(ctx: &mut Ctx<'_>) -> CommandResult {
    let (args, limits) = (ctx.args, ctx.limits);
    let by = integer(args.at(3))?;
    let sum = ctx.keys.edit(args.at(1), Absent::Create, |hash: &mut Hash| {
        let not_integer = CommandError::Static("ERR hash value is not an integer");
        let old = hash.get(args.at(2), |v| v.map_or(Ok(0), |v| integer(v).map_err(|_| not_integer)));
        let sum = old.and_then(|old| old.checked_add(by).ok_or(CommandError::Overflow));
        if let Ok(sum) = sum {
            hash.set(args.at(2), itoa::Buffer::new().format(sum).as_bytes(), limits);
        }
        let changes = u64::from(sum.is_ok());
        (sum, changes)
    })?;
    ctx.out.int(sum.expect("Absent::Create always calls")?);
    Ok(())
}

fn hincrbyfloat(ctx: &mut Ctx<'_>) -> CommandResult {
    let (args, limits) = (ctx.args, ctx.limits);
    let by = LongDouble::parse(args.at(3)).ok_or(CommandError::NotFloat)?;
    if !by.is_finite() {
        return Err(CommandError::Static("ERR value is NaN or Infinity"));
    }
    let sum = ctx.keys.edit(args.at(1), Absent::Create, |hash: &mut Hash| {
        let old = hash.get(args.at(2), |v| v.map_or(Some(LongDouble::ZERO), LongDouble::parse));
        let sum = match old.map(|old| old + by) {
            None => Err(CommandError::Static("ERR hash value is not a float")),
            Some(sum) if !sum.is_finite() => Err(CommandError::Static("ERR increment would produce NaN or Infinity")),
            Some(sum) => Ok(sum.format()),
        };
        if let Ok(text) = &sum {
            hash.set(args.at(2), text.as_bytes(), limits);
        }
        let changes = u64::from(sum.is_ok());
        (sum, changes)
    })?;
    let text = sum.expect("Absent::Create always calls")?;
    ctx.effects.replace(&[&b"HSET"[..], args.at(1), args.at(2), text.as_bytes()]);
    ctx.out.bulk(text.as_bytes());
    Ok(())
}

fn hscan(ctx: &mut Ctx<'_>) -> CommandResult {
    ScanArgs::cursor(ctx.args.at(2))?;
    let Some(hash) = ctx.keys.get::<Hash>(ctx.args.at(1))? else {
        ScanArgs::reply(ctx.out, |_, _| 0);
        return Ok(());
    };
    let scan = ScanArgs::parse(ctx.args, 2, false)?;
    ScanArgs::reply(ctx.out, |out, written| {
        hash.scan(scan.cursor, scan.count, |field, value| {
            if scan.matches(field) {
                out.bulk(field);
                out.bulk(value);
                *written += 2;
            }
        })
    });
    Ok(())
}

fn hrandfield(ctx: &mut Ctx<'_>) -> CommandResult {
    let Some(count) = ctx.args.get(2).map(signed_count).transpose()? else {
        return one_random_field(ctx);
    };
    let with_values = match ctx.args.get(3) {
        None => false,
        Some(word) if ctx.args.len() == 4 && eq_ignore_case(word, "WITHVALUES") => true,
        Some(_) => return Err(CommandError::Syntax),
    };
    if with_values && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(CommandError::Static("ERR value is out of range"));
    }
    let Some(hash) = ctx.keys.get::<Hash>(ctx.args.at(1))? else {
        ctx.out.array(0);
        return Ok(());
    };
    let (out, rng, limits) = (&mut *ctx.out, &mut *ctx.rng, ctx.limits);
    let nested = with_values && out.resp3();
    let n = if count < 0 { count.unsigned_abs() as usize } else { hash.len().min(count as usize) };
    out.array(if with_values && !nested { n * 2 } else { n });
    let write = |out: &mut resp::Encoder, field: &[u8], value: &[u8]| {
        if nested {
            out.array(2);
        }
        out.bulk(field);
        if with_values {
            out.bulk(value);
        }
    };
    if count < 0 {
        draw(out, n, limits, |out, part| hash.random_each(part, rng, |field, value| write(out, field, value)));
    } else {
        hash.random_distinct(n, rng, |field, value| write(out, field, value));
    }
    Ok(())
}

/// Has `n` replies drawn at random, some at a time: any number may be asked for, and nobody is given more than he may have.
pub(super) fn draw(
    out: &mut resp::Encoder,
    n: usize,
    limits: &Limits,
    mut some: impl FnMut(&mut resp::Encoder, usize),
) {
    const SOME: usize = 256;
    let mut left = n;
    while left > 0 && out.len() <= limits.reply_max {
        let part = left.min(SOME);
        some(out, part);
        left -= part;
    }
}

fn one_random_field(ctx: &mut Ctx<'_>) -> CommandResult {
    match ctx.keys.get::<Hash>(ctx.args.at(1))? {
        Some(hash) => hash.random_each(1, ctx.rng, |field, _| ctx.out.bulk(field)),
        None => ctx.out.null(),
    }
    Ok(())
}

/// A number whose absolute value counts something; its sign says which way.
pub(super) fn signed_count(arg: &[u8]) -> Result<i64, CommandError> {
    match integer(arg)? {
        i64::MIN => Err(CommandError::text(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        ))),
        count => Ok(count),
    }
}
