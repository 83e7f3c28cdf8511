//! Hashes.

use super::strings::format_long_double;
use super::{R, RF, ScanArgs, WF, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Absent;
use crate::parse::{self, eq_ignore_case, integer};
use crate::types::Hash;
use crate::{CommandError, Ctx};

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
    let by = parse::float(args.at(3))?;
    let sum = ctx.keys.edit(args.at(1), Absent::Create, |hash: &mut Hash| {
        let not_float = CommandError::Static("ERR hash value is not a float");
        let old = hash.get(args.at(2), |v| v.map_or(Ok(0.0), |v| parse::float(v).map_err(|_| not_float)));
        let infinite = CommandError::Static("ERR increment would produce NaN or Infinity");
        let sum = old.and_then(|old| Some(old + by).filter(|sum| sum.is_finite()).ok_or(infinite));
        let text = sum.map(format_long_double);
        if let Ok(text) = &text {
            hash.set(args.at(2), text.as_bytes(), limits);
        }
        let changes = u64::from(text.is_ok());
        (text, changes)
    })?;
    let text = sum.expect("Absent::Create always calls")?;
    ctx.effects.replace(&[&b"HSET"[..], args.at(1), args.at(2), text.as_bytes()]);
    ctx.out.bulk(text.as_bytes());
    Ok(())
}

fn hscan(ctx: &mut Ctx<'_>) -> CommandResult {
    let scan = ScanArgs::parse(ctx.args, 2, false)?;
    let hash = ctx.keys.get::<Hash>(ctx.args.at(1))?;
    let mut found: Vec<(Box<[u8]>, Box<[u8]>)> = Vec::new();
    let next = hash.map_or(0, |hash| {
        hash.scan(scan.cursor, scan.count, |field, value| {
            if scan.matches(field) {
                found.push((field.into(), value.into()));
            }
        })
    });
    ctx.out.array(2);
    ctx.out.bulk(next.to_string().as_bytes());
    ctx.out.array(found.len() * 2);
    found.iter().for_each(|(field, value)| {
        ctx.out.bulk(field);
        ctx.out.bulk(value);
    });
    Ok(())
}

fn hrandfield(ctx: &mut Ctx<'_>) -> CommandResult {
    let count = ctx.args.get(2).map(integer).transpose()?;
    let with_values = match ctx.args.get(3) {
        None => false,
        Some(word) if ctx.args.len() == 4 && eq_ignore_case(word, "WITHVALUES") => true,
        Some(_) => return Err(CommandError::Syntax),
    };
    if count.is_some_and(|n| n < -(i64::MAX / 2) || n > i64::MAX / 2) {
        return Err(CommandError::Static("ERR value is out of range"));
    }
    let hash = ctx.keys.get::<Hash>(ctx.args.at(1))?;
    let Some(count) = count else {
        match hash.and_then(|hash| hash.random(ctx.rng, |field, _| field.to_vec())) {
            Some(field) => ctx.out.bulk(&field),
            None => ctx.out.null(),
        }
        return Ok(());
    };
    let mut picked: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if let Some(hash) = hash {
        if count < 0 {
            for _ in 0..count.unsigned_abs() {
                picked.extend(hash.random(ctx.rng, |f, v| (f.to_vec(), v.to_vec())));
            }
        } else {
            hash.for_each(|f, v| picked.push((f.to_vec(), v.to_vec())));
            choose(&mut picked, count as usize, ctx.rng);
        }
    }
    let nested = with_values && ctx.out.resp3();
    ctx.out.array(if with_values && !nested { picked.len() * 2 } else { picked.len() });
    for (field, value) in &picked {
        if nested {
            ctx.out.array(2);
        }
        ctx.out.bulk(field);
        if with_values {
            ctx.out.bulk(value);
        }
    }
    Ok(())
}

/// Keeps `count` of the items, chosen at random without repetition.
pub(super) fn choose<T>(items: &mut Vec<T>, count: usize, rng: &mut crate::Rng) {
    for i in 0..count.min(items.len()) {
        let j = i + rng.below(items.len() - i);
        items.swap(i, j);
    }
    items.truncate(count);
}
