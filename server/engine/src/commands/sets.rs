//! Sets.

use resp::OwnedArgs;

use super::hashes::{draw, signed_count};
use super::{R, RF, ScanArgs, WF, WM, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Absent;
use crate::parse::{self, eq_ignore_case};
use crate::types::{Kind, Set};
use crate::{CommandError, Ctx, Limits};

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
        set.prepare(args.at(2), args.len() - 2, limits);
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

/// Members that one propagated SREM names at most, as in Redis 7.2.
const SREM_MEMBERS_MAX: usize = 1024;

fn spop(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    match ctx.args.len() {
        2 => {
            let Some(set) = ctx.keys.get::<Set>(key)? else {
                ctx.out.null();
                return Ok(());
            };
            let mut member = Vec::new();
            set.random_each(1, ctx.rng, |m| member.extend_from_slice(m));
            remove(ctx, key, std::iter::once(&member[..]))?;
            ctx.effects.replace(&[&b"SREM"[..], key, &member]);
            ctx.out.bulk(&member);
            Ok(())
        }
        3 => {
            let count = parse::count(ctx.args.at(2))?;
            pop_some(ctx, count)
        }
        _ => Err(CommandError::Syntax),
    }
}

fn pop_some(ctx: &mut Ctx<'_>, count: usize) -> CommandResult {
    let key = ctx.args.at(1);
    let Some(set) = ctx.keys.get::<Set>(key)?.filter(|_| count > 0) else {
        ctx.out.set(0);
        return Ok(());
    };
    if count >= set.len() {
        ctx.out.set(set.len());
        set.for_each(|member| ctx.out.bulk(member));
        ctx.keys.remove(key);
        ctx.effects.replace(&[ctx.limits.server_del(), key]);
        return Ok(());
    }
    let mut members = OwnedArgs::default();
    set.random_distinct(count, ctx.rng, |member| members.push(member));
    let members: Vec<&[u8]> = members.as_args().iter().collect();
    ctx.out.set(members.len());
    members.iter().for_each(|member| ctx.out.bulk(member));
    remove(ctx, key, members.iter().copied())?;
    let mut argv = Vec::with_capacity(2 + members.len().min(SREM_MEMBERS_MAX));
    for some in members.chunks(SREM_MEMBERS_MAX) {
        argv.clear();
        argv.extend_from_slice(&[&b"SREM"[..], key]);
        argv.extend_from_slice(some);
        ctx.effects.replace(&argv);
    }
    Ok(())
}

fn srandmember(ctx: &mut Ctx<'_>) -> CommandResult {
    if ctx.args.len() > 3 {
        return Err(CommandError::Syntax);
    }
    let count = ctx.args.get(2).map(signed_count).transpose()?;
    let limits = ctx.limits;
    let set = ctx.keys.get::<Set>(ctx.args.at(1))?;
    let (out, rng) = (&mut *ctx.out, &mut *ctx.rng);
    match (set, count) {
        (None, None) => out.null(),
        (None, Some(_)) => out.array(0),
        (Some(set), None) => set.random_each(1, rng, |member| out.bulk(member)),
        (Some(set), Some(count)) if count < 0 => {
            let n = count.unsigned_abs() as usize;
            out.array(n);
            draw(out, n, limits, |out, part| set.random_each(part, rng, |member| out.bulk(member)));
        }
        (Some(set), Some(count)) => {
            let n = set.len().min(count as usize);
            out.array(n);
            set.random_distinct(n, rng, |member| out.bulk(member));
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Operation {
    Inter,
    Union,
    Diff,
}

/// Calls `f` for each member that the operation yields, until it says `false`.
fn combine(sets: &[Option<&Set>], op: Operation, limits: &Limits, mut f: impl FnMut(&[u8]) -> bool) {
    match op {
        Operation::Inter => {
            // Through the smallest set; an absent one is the smallest of all.
            let by_size = sets.iter().enumerate().min_by_key(|(_, set)| set.map_or(0, Set::len));
            let Some((smallest, &Some(set))) = by_size else { return };
            let others = || sets.iter().enumerate().filter(|&(i, _)| i != smallest).filter_map(|(_, set)| *set);
            set.each_while(|member| !others().all(|other| other.contains(member)) || f(member));
        }
        Operation::Diff => {
            let Some((&Some(first), others)) = sets.split_first() else { return };
            let others = || others.iter().copied().flatten();
            first.each_while(|member| others().any(|other| other.contains(member)) || f(member));
        }
        Operation::Union => union(sets, limits).each_while(f),
    }
}

fn union(sets: &[Option<&Set>], limits: &Limits) -> Set {
    let mut union = Set::new(limits);
    for set in sets.iter().copied().flatten() {
        set.for_each(|member| {
            union.insert(member, limits);
        });
    }
    union
}

fn reply_combined(ctx: &mut Ctx<'_>, op: Operation) -> CommandResult {
    let keys: Vec<_> = ctx.args.skip(1).iter().collect();
    let sets = ctx.keys.get_all::<Set>(&keys)?;
    let (out, mut n) = (&mut *ctx.out, 0);
    let mark = out.begin();
    combine(&sets, op, ctx.limits, |member| {
        out.bulk(member);
        n += 1;
        true
    });
    out.end_set(mark, n);
    Ok(())
}

fn store_combined(ctx: &mut Ctx<'_>, op: Operation) -> CommandResult {
    let keys: Vec<_> = ctx.args.skip(2).iter().collect();
    ctx.keys.count_lookups();
    let sets = ctx.keys.get_all::<Set>(&keys)?;
    let limits = ctx.limits;
    let result = match op {
        Operation::Union => union(&sets, limits),
        Operation::Inter | Operation::Diff => {
            let mut result = Set::new(limits);
            combine(&sets, op, limits, |member| {
                result.insert(member, limits);
                true
            });
            result
        }
    };
    drop(sets);
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

/// `[LIMIT n]` as the only option from argument `at` on, the last one counts; 0 means all.
pub(super) fn limit_option(ctx: &Ctx<'_>, at: usize) -> Result<usize, CommandError> {
    let mut limit = 0;
    for i in (at..ctx.args.len()).step_by(2) {
        let value = ctx.args.get(i + 1).filter(|_| eq_ignore_case(ctx.args.at(i), "LIMIT"));
        let n = resp::number::parse_i64(value.ok_or(CommandError::Syntax)?).and_then(|n| usize::try_from(n).ok());
        limit = n.ok_or(CommandError::Static("ERR LIMIT can't be negative"))?;
    }
    Ok(if limit == 0 { usize::MAX } else { limit })
}

fn sintercard(ctx: &mut Ctx<'_>) -> CommandResult {
    let (keys, behind) = counted_keys(ctx, 1)?;
    let limit = limit_option(ctx, behind)?;
    let sets = ctx.keys.get_all::<Set>(&keys)?;
    let mut n = 0;
    combine(&sets, Operation::Inter, ctx.limits, |_| {
        n += 1;
        n < limit
    });
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
    ScanArgs::cursor(ctx.args.at(2))?;
    let Some(set) = ctx.keys.get::<Set>(ctx.args.at(1))? else {
        ScanArgs::reply(ctx.out, |_, _| 0);
        return Ok(());
    };
    let scan = ScanArgs::parse(ctx.args, 2, false)?;
    ScanArgs::reply(ctx.out, |out, written| {
        set.scan(scan.cursor, scan.count, |member| {
            if scan.matches(member) {
                out.bulk(member);
                *written += 1;
            }
        })
    });
    Ok(())
}
