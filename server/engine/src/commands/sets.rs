//! Sets.

use super::hashes::choose;
use super::{R, RF, ScanArgs, WF, WM, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Absent;
use crate::parse::{self, eq_ignore_case, integer};
use crate::types::{Kind, Set};
use crate::{CommandError, Ctx};

family! { Set, Acl::SET;
    "sadd" sadd(-3, Keys::ONE, WMF) "1.0.0" "O(1) for each element added." "Adds one or more members to a set. Creates the key if it doesn't exist." "key member [member ...]";
    "srem" srem(-3, Keys::ONE, WF) "1.0.0" "O(N) where N is the number of members to be removed." "Removes one or more members from a set. Deletes the set if the last member was removed." "key member [member ...]";
    "smove" smove(4, Keys::TWO, WF) "1.0.0" "O(1)" "Moves a member from one set to another." "source destination member";
    "sismember" sismember(3, Keys::ONE, RF) "1.0.0" "O(1)" "Determines whether a member belongs to a set." "key member";
    "smismember" smismember(-3, Keys::ONE, RF) "6.2.0" "O(N) where N is the number of elements being checked for membership" "Determines whether multiple members belong to a set." "key member [member ...]";
    "scard" scard(2, Keys::ONE, RF) "1.0.0" "O(1)" "Returns the number of members in a set." "key";
    "smembers" smembers(2, Keys::ONE, R) "1.0.0" "O(N) where N is the set cardinality." "Returns all members of a set." "key";
    "spop" spop(-2, Keys::ONE, WF) "1.0.0" "Without the count argument O(1), otherwise O(N) where N is the value of the passed count." "Returns one or more random members from a set after removing them. Deletes the set if the last member was popped." "key [count]";
    "srandmember" srandmember(-2, Keys::ONE, R) "1.0.0" "Without the count argument O(1), otherwise O(N) where N is the absolute value of the passed count." "Get one or multiple random members from a set" "key [count]";
    "sinter" sinter(-2, Keys::ALL, R) "1.0.0" "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets." "Returns the intersect of multiple sets." "key [key ...]";
    "sinterstore" sinterstore(-3, Keys::ALL, WM) "1.0.0" "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets." "Stores the intersect of multiple sets in a key." "destination key [key ...]";
    "sintercard" sintercard(-3, Keys::Counted { at: 1, extra: 0 }, R) "7.0.0" "O(N*M) worst case where N is the cardinality of the smallest set and M is the number of sets." "Returns the number of members of the intersect of multiple sets." "numkeys key [key ...] [LIMIT limit]";
    "sunion" sunion(-2, Keys::ALL, R) "1.0.0" "O(N) where N is the total number of elements in all given sets." "Returns the union of multiple sets." "key [key ...]";
    "sunionstore" sunionstore(-3, Keys::ALL, WM) "1.0.0" "O(N) where N is the total number of elements in all given sets." "Stores the union of multiple sets in a key." "destination key [key ...]";
    "sdiff" sdiff(-2, Keys::ALL, R) "1.0.0" "O(N) where N is the total number of elements in all given sets." "Returns the difference of multiple sets." "key [key ...]";
    "sdiffstore" sdiffstore(-3, Keys::ALL, WM) "1.0.0" "O(N) where N is the total number of elements in all given sets." "Stores the difference of multiple sets in a key." "destination key [key ...]";
    "sscan" sscan(-3, Keys::ONE, R) "2.8.0" "O(1) for every call. O(N) for a complete iteration." "Iterates over members of a set." "key cursor [MATCH pattern] [COUNT count]";
}

fn sadd(ctx: &mut Ctx<'_>) -> CommandResult {
    let (args, limits) = (ctx.args, ctx.limits);
    let new = ctx.keys.edit(args.at(1), Absent::Create, |set: &mut Set| {
        let new = args.skip(2).iter().filter(|member| set.insert(member, limits)).count();
        (new, new as u64)
    })?;
    ctx.out.len_int(new.unwrap_or(0));
    Ok(())
}

fn srem(ctx: &mut Ctx<'_>) -> CommandResult {
    let args = ctx.args;
    let gone = remove(ctx, args.at(1), args.skip(2).iter())?;
    ctx.out.len_int(gone);
    Ok(())
}

fn remove<'m>(ctx: &mut Ctx<'_>, key: &[u8], members: impl Iterator<Item = &'m [u8]>) -> Result<usize, CommandError> {
    let gone = ctx.keys.edit(key, Absent::Skip, |set: &mut Set| {
        let gone = members.filter(|member| set.remove(member)).count();
        (gone, gone as u64)
    })?;
    Ok(gone.unwrap_or(0))
}

fn smove(ctx: &mut Ctx<'_>) -> CommandResult {
    let (from, to, member) = (ctx.args.at(1), ctx.args.at(2), ctx.args.at(3));
    let limits = ctx.limits;
    let Some(has) = ctx.keys.get::<Set>(from)?.map(|set| set.contains(member)) else {
        ctx.out.int(0);
        return Ok(());
    };
    ctx.keys.check::<Set>(to)?;
    if has && from != to {
        remove(ctx, from, std::iter::once(member))?;
        ctx.keys.edit(to, Absent::Create, |set: &mut Set| {
            let new = set.insert(member, limits);
            ((), u64::from(new))
        })?;
    }
    ctx.out.int(i64::from(has));
    Ok(())
}

fn sismember(ctx: &mut Ctx<'_>) -> CommandResult {
    let has = ctx.keys.get::<Set>(ctx.args.at(1))?.is_some_and(|set| set.contains(ctx.args.at(2)));
    ctx.out.int(i64::from(has));
    Ok(())
}

fn smismember(ctx: &mut Ctx<'_>) -> CommandResult {
    let set = ctx.keys.get::<Set>(ctx.args.at(1))?;
    ctx.out.array(ctx.args.len() - 2);
    for member in ctx.args.skip(2).iter() {
        ctx.out.int(i64::from(set.is_some_and(|set| set.contains(member))));
    }
    Ok(())
}

fn scard(ctx: &mut Ctx<'_>) -> CommandResult {
    let len = ctx.keys.get::<Set>(ctx.args.at(1))?.map_or(0, Set::len);
    ctx.out.len_int(len);
    Ok(())
}

fn smembers(ctx: &mut Ctx<'_>) -> CommandResult {
    let set = ctx.keys.get::<Set>(ctx.args.at(1))?;
    ctx.out.set(set.map_or(0, Set::len));
    if let Some(set) = set {
        set.for_each(|member| ctx.out.bulk(member));
    }
    Ok(())
}

fn spop(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    match ctx.args.len() {
        2 => {
            let Some(set) = ctx.keys.get::<Set>(key)? else {
                ctx.out.null();
                return Ok(());
            };
            let member = set.random(ctx.rng).expect("a set in the keyspace is not empty").into_owned();
            remove(ctx, key, std::iter::once(&member[..]))?;
            ctx.effects.replace(&[&b"SREM"[..], key, &member]);
            ctx.out.bulk(&member);
        }
        3 => {
            let count = parse::count(ctx.args.at(2))?;
            let Some(set) = ctx.keys.get::<Set>(key)? else {
                ctx.out.set(0);
                return Ok(());
            };
            let mut members = set.to_vec();
            let all = count >= members.len();
            choose(&mut members, count, ctx.rng);
            ctx.out.set(members.len());
            members.iter().for_each(|member| ctx.out.bulk(member));
            if members.is_empty() {
                return Ok(());
            }
            remove(ctx, key, members.iter().map(|m| &m[..]))?;
            if all {
                ctx.effects.replace(&[&b"DEL"[..], key]);
            } else {
                let mut argv = vec![&b"SREM"[..], key];
                argv.extend(members.iter().map(|m| &m[..]));
                ctx.effects.replace(&argv);
            }
        }
        _ => return Err(CommandError::Syntax),
    }
    Ok(())
}

fn srandmember(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    match ctx.args.len() {
        2 => {
            let member = ctx.keys.get::<Set>(key)?.and_then(|set| set.random(ctx.rng));
            ctx.out.bulk_or_null(member.as_deref());
        }
        3 => {
            let count = integer(ctx.args.at(2))?;
            if count < -(i64::MAX / 2) {
                return Err(CommandError::Static("ERR value is out of range"));
            }
            let Some(set) = ctx.keys.get::<Set>(key)? else {
                ctx.out.array(0);
                return Ok(());
            };
            if count < 0 {
                let n = count.unsigned_abs() as usize;
                ctx.out.array(n);
                for _ in 0..n {
                    let member = set.random(ctx.rng);
                    ctx.out.bulk_or_null(member.as_deref());
                }
            } else {
                let mut members = set.to_vec();
                choose(&mut members, count as usize, ctx.rng);
                ctx.out.array(members.len());
                members.iter().for_each(|member| ctx.out.bulk(member));
            }
        }
        _ => return Err(CommandError::Syntax),
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Operation {
    Inter,
    Union,
    Diff,
}

/// The members that the operation yields, up to `limit` of them. Every key's type is checked, wherever it stands.
fn combine(ctx: &mut Ctx<'_>, op: Operation, keys: &[&[u8]], limit: usize) -> Result<Set, CommandError> {
    let limits = ctx.limits;
    for key in keys {
        ctx.keys.check::<Set>(key)?;
    }
    let mut result = Set::new(limits);
    match op {
        Operation::Union => {
            for key in keys {
                if let Some(set) = ctx.keys.get::<Set>(key)? {
                    set.for_each(|member| {
                        result.insert(member, limits);
                    });
                }
            }
        }
        Operation::Inter | Operation::Diff => {
            let mut sizes = Vec::with_capacity(keys.len());
            for (i, key) in keys.iter().enumerate() {
                sizes.push((ctx.keys.get::<Set>(key)?.map_or(0, Set::len), i));
            }
            // An intersection goes through the smallest set; a difference always through the first.
            let first = match op {
                Operation::Inter => sizes.iter().min().map_or(0, |&(_, i)| i),
                Operation::Union | Operation::Diff => 0,
            };
            let mut members = ctx.keys.get::<Set>(keys[first])?.map(Set::to_vec).unwrap_or_default();
            let want = matches!(op, Operation::Inter);
            for (i, key) in keys.iter().enumerate() {
                if i != first {
                    let set = ctx.keys.get::<Set>(key)?;
                    members.retain(|member| set.is_some_and(|set| set.contains(member)) == want);
                }
            }
            members.iter().take(limit).for_each(|member| {
                result.insert(member, limits);
            });
        }
    }
    Ok(result)
}

fn reply_combined(ctx: &mut Ctx<'_>, op: Operation) -> CommandResult {
    let keys: Vec<_> = ctx.args.skip(1).iter().collect();
    let result = combine(ctx, op, &keys, usize::MAX)?;
    ctx.out.set(result.len());
    result.for_each(|member| ctx.out.bulk(member));
    Ok(())
}

fn store_combined(ctx: &mut Ctx<'_>, op: Operation) -> CommandResult {
    let keys: Vec<_> = ctx.args.skip(2).iter().collect();
    let result = combine(ctx, op, &keys, usize::MAX)?;
    ctx.out.len_int(result.len());
    ctx.keys.put(ctx.args.at(1), result);
    Ok(())
}

fn sinter(ctx: &mut Ctx<'_>) -> CommandResult {
    reply_combined(ctx, Operation::Inter)
}

fn sinterstore(ctx: &mut Ctx<'_>) -> CommandResult {
    store_combined(ctx, Operation::Inter)
}

/// `numkeys key [key …]` at argument `at`: the keys and the number of the first argument behind them.
pub(super) fn counted_keys<'a>(ctx: &Ctx<'a>, at: usize) -> Result<(Vec<&'a [u8]>, usize), CommandError> {
    let n = resp::number::parse_i64(ctx.args.at(at)).filter(|&n| n > 0);
    let n = n.ok_or(CommandError::Static("ERR numkeys should be greater than 0"))? as usize;
    if n > ctx.args.len() - at - 1 {
        return Err(CommandError::Static("ERR Number of keys can't be greater than number of args"));
    }
    Ok((ctx.args.skip(at + 1).iter().take(n).collect(), at + 1 + n))
}

/// `[LIMIT n]` as the only option from argument `at` on; 0 means all.
pub(super) fn limit_option(ctx: &Ctx<'_>, at: usize) -> Result<usize, CommandError> {
    match ctx.args.len() - at {
        0 => Ok(usize::MAX),
        2 if eq_ignore_case(ctx.args.at(at), "LIMIT") => {
            let n = resp::number::parse_i64(ctx.args.at(at + 1)).and_then(|n| usize::try_from(n).ok());
            let n = n.ok_or(CommandError::Static("ERR LIMIT can't be negative"))?;
            Ok(if n == 0 { usize::MAX } else { n })
        }
        _ => Err(CommandError::Syntax),
    }
}

fn sintercard(ctx: &mut Ctx<'_>) -> CommandResult {
    let (keys, behind) = counted_keys(ctx, 1)?;
    let limit = limit_option(ctx, behind)?;
    let n = combine(ctx, Operation::Inter, &keys, limit)?.len();
    ctx.out.len_int(n);
    Ok(())
}

fn sunion(ctx: &mut Ctx<'_>) -> CommandResult {
    reply_combined(ctx, Operation::Union)
}

fn sunionstore(ctx: &mut Ctx<'_>) -> CommandResult {
    store_combined(ctx, Operation::Union)
}

fn sdiff(ctx: &mut Ctx<'_>) -> CommandResult {
    reply_combined(ctx, Operation::Diff)
}

fn sdiffstore(ctx: &mut Ctx<'_>) -> CommandResult {
    store_combined(ctx, Operation::Diff)
}

fn sscan(ctx: &mut Ctx<'_>) -> CommandResult {
    let scan = ScanArgs::parse(ctx.args, 2, false)?;
    let set = ctx.keys.get::<Set>(ctx.args.at(1))?;
    let mut found: Vec<Box<[u8]>> = Vec::new();
    let next = set.map_or(0, |set| {
        set.scan(scan.cursor, scan.count, |member| {
            if scan.matches(member) {
                found.push(member.into());
            }
        })
    });
    ctx.out.array(2);
    ctx.out.bulk(next.to_string().as_bytes());
    ctx.out.array(found.len());
    found.iter().for_each(|member| ctx.out.bulk(member));
    Ok(())
}
