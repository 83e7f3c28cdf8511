//! Sorted sets, without the blocking commands.

mod combine;
mod range;

use super::lists::count_option;
use super::sets::counted_keys;
use super::{R, RF, ScanArgs, W, WF, WM, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Absent;
use crate::parse::{self, eq_ignore_case, integer};
use crate::types::ZSet;
use crate::{CommandError, Ctx};

use combine::{zdiff, zdiffstore, zinter, zintercard, zinterstore, zunion, zunionstore};
use range::*;

family! { SortedSet, Acl::SORTEDSET;
    "zadd" zadd(-4, Keys::ONE, WMF) "1.2.0" "O(log(N)) for each item added, where N is the number of elements in the sorted set." "Adds one or more members to a sorted set, or updates their scores. Creates the key if it doesn't exist." "key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]";
    "zincrby" zincrby(4, Keys::ONE, WMF) "1.2.0" "O(log(N)) where N is the number of elements in the sorted set." "Increments the score of a member in a sorted set." "key increment member";
    "zrem" zrem(-3, Keys::ONE, WF) "1.2.0" "O(M*log(N)) with N being the number of elements in the sorted set and M the number of elements to be removed." "Removes one or more members from a sorted set. Deletes the sorted set if all members were removed." "key member [member ...]";
    "zcard" zcard(2, Keys::ONE, RF) "1.2.0" "O(1)" "Returns the number of members in a sorted set." "key";
    "zscore" zscore(3, Keys::ONE, RF) "1.2.0" "O(1)" "Returns the score of a member in a sorted set." "key member";
    "zmscore" zmscore(-3, Keys::ONE, RF) "6.2.0" "O(N) where N is the number of members being requested." "Returns the score of one or more members in a sorted set." "key member [member ...]";
    "zcount" zcount(4, Keys::ONE, RF) "2.0.0" "O(log(N)) with N being the number of elements in the sorted set." "Returns the count of members in a sorted set that have scores within a range." "key min max";
    "zlexcount" zlexcount(4, Keys::ONE, RF) "2.8.9" "O(log(N)) with N being the number of elements in the sorted set." "Returns the number of members in a sorted set within a lexicographical range." "key min max";
    "zrank" zrank(-3, Keys::ONE, RF) "2.0.0" "O(log(N))" "Returns the index of a member in a sorted set ordered by ascending scores." "key member [WITHSCORE]";
    "zrevrank" zrevrank(-3, Keys::ONE, RF) "2.0.0" "O(log(N))" "Returns the index of a member in a sorted set ordered by descending scores." "key member [WITHSCORE]";
    "zrange" zrange(-4, Keys::ONE, R) "1.2.0" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned." "Returns members in a sorted set within a range of indexes." "key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]";
    "zrevrange" zrevrange(-4, Keys::ONE, R) "1.2.0" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements returned." "Returns members in a sorted set within a range of indexes in reverse order." "key start stop [WITHSCORES]";
    "zrangebyscore" zrangebyscore(-4, Keys::ONE, R) "1.0.5" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned." "Returns members in a sorted set within a range of scores." "key min max [WITHSCORES] [LIMIT offset count]";
    "zrevrangebyscore" zrevrangebyscore(-4, Keys::ONE, R) "2.2.0" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned." "Returns members in a sorted set within a range of scores in reverse order." "key max min [WITHSCORES] [LIMIT offset count]";
    "zrangebylex" zrangebylex(-4, Keys::ONE, R) "2.8.9" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned." "Returns members in a sorted set within a lexicographical range." "key min max [LIMIT offset count]";
    "zrevrangebylex" zrevrangebylex(-4, Keys::ONE, R) "2.8.9" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements being returned." "Returns members in a sorted set within a lexicographical range in reverse order." "key max min [LIMIT offset count]";
    "zrangestore" zrangestore(-5, Keys::TWO, WM) "6.2.0" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements stored into the destination key." "Stores a range of members from sorted set in a key." "dst src min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]";
    "zremrangebyrank" zremrangebyrank(4, Keys::ONE, W) "2.0.0" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation." "Removes members in a sorted set within a range of indexes. Deletes the sorted set if all members were removed." "key start stop";
    "zremrangebyscore" zremrangebyscore(4, Keys::ONE, W) "1.2.0" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation." "Removes members in a sorted set within a range of scores. Deletes the sorted set if all members were removed." "key min max";
    "zremrangebylex" zremrangebylex(4, Keys::ONE, W) "2.8.9" "O(log(N)+M) with N being the number of elements in the sorted set and M the number of elements removed by the operation." "Removes members in a sorted set within a lexicographical range. Deletes the sorted set if all members were removed." "key min max";
    "zpopmin" zpopmin(-2, Keys::ONE, WF) "5.0.0" "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped." "Returns the lowest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped." "key [count]";
    "zpopmax" zpopmax(-2, Keys::ONE, WF) "5.0.0" "O(log(N)*M) with N being the number of elements in the sorted set, and M being the number of elements popped." "Returns the highest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped." "key [count]";
    "zmpop" zmpop(-4, Keys::Counted { at: 1, extra: 0 }, W) "7.0.0" "O(K) + O(M*log(N)) where K is the number of provided keys, N being the number of elements in the sorted set, and M being the number of elements popped." "Returns the highest- or lowest-scoring members from one or more sorted sets after removing them. Deletes the sorted set if the last member was popped." "numkeys key [key ...] <MIN | MAX> [COUNT count]";
    "zrandmember" zrandmember(-2, Keys::ONE, R) "6.2.0" "O(N) where N is the number of members returned" "Returns one or more random members from a sorted set." "key [count [WITHSCORES]]";
    "zscan" zscan(-3, Keys::ONE, R) "2.8.0" "O(1) for every call. O(N) for a complete iteration." "Iterates over members and scores of a sorted set." "key cursor [MATCH pattern] [COUNT count]";
    "zunion" zunion(-3, Keys::Counted { at: 1, extra: 0 }, R) "6.2.0" "O(N)+O(M*log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set." "Returns the union of multiple sorted sets." "numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]";
    "zinter" zinter(-3, Keys::Counted { at: 1, extra: 0 }, R) "6.2.0" "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set." "Returns the intersect of multiple sorted sets." "numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]";
    "zdiff" zdiff(-3, Keys::Counted { at: 1, extra: 0 }, R) "6.2.0" "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set." "Returns the difference between multiple sorted sets." "numkeys key [key ...] [WITHSCORES]";
    "zunionstore" zunionstore(-4, Keys::Counted { at: 2, extra: 1 }, WM) "2.0.0" "O(N)+O(M log(M)) with N being the sum of the sizes of the input sorted sets, and M being the number of elements in the resulting sorted set." "Stores the union of multiple sorted sets in a key." "destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]";
    "zinterstore" zinterstore(-4, Keys::Counted { at: 2, extra: 1 }, WM) "2.0.0" "O(N*K)+O(M*log(M)) worst case with N being the smallest input sorted set, K being the number of input sorted sets and M being the number of elements in the resulting sorted set." "Stores the intersect of multiple sorted sets in a key." "destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]";
    "zdiffstore" zdiffstore(-4, Keys::Counted { at: 2, extra: 1 }, WM) "6.2.0" "O(L + (N-K)log(N)) worst case where L is the total number of elements in all the sets, N is the size of the first set, and K is the size of the result set." "Stores the difference of multiple sorted sets in a key." "destination numkeys key [key ...]";
    "zintercard" zintercard(-3, Keys::Counted { at: 1, extra: 0 }, R) "7.0.0" "O(N*K) worst case with N being the smallest input sorted set, K being the number of input sorted sets." "Returns the number of members of the intersect of multiple sorted sets." "numkeys key [key ...] [LIMIT limit]";
}

#[derive(Clone, Copy, Default)]
struct AddOptions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    ch: bool,
    incr: bool,
}

/// What adding one member did.
enum Added {
    Nothing,
    New(f64),
    Changed(f64),
    Same(f64),
}

impl AddOptions {
    fn apply(self, zset: &mut ZSet, member: &[u8], score: f64, limits: &crate::Limits) -> Result<Added, CommandError> {
        let Some(old) = zset.score(member) else {
            if self.xx {
                return Ok(Added::Nothing);
            }
            zset.insert(member, score, limits);
            return Ok(Added::New(score));
        };
        if self.nx {
            return Ok(Added::Nothing);
        }
        let new = if self.incr { old + score } else { score };
        if new.is_nan() {
            return Err(CommandError::Static("ERR resulting score is not a number (NaN)"));
        }
        if (self.gt && new <= old) || (self.lt && new >= old) {
            return Ok(Added::Nothing);
        }
        if new == old {
            return Ok(Added::Same(old));
        }
        zset.insert(member, new, limits);
        Ok(Added::Changed(new))
    }
}

fn zadd(ctx: &mut Ctx<'_>) -> CommandResult {
    let (mut options, mut i) = (AddOptions::default(), 2);
    while let Some(word) = ctx.args.get(i) {
        let flag = match word.to_ascii_uppercase().as_slice() {
            b"NX" => &mut options.nx,
            b"XX" => &mut options.xx,
            b"GT" => &mut options.gt,
            b"LT" => &mut options.lt,
            b"CH" => &mut options.ch,
            b"INCR" => &mut options.incr,
            _ => break,
        };
        *flag = true;
        i += 1;
    }
    let pairs = ctx.args.skip(i);
    if pairs.is_empty() || pairs.len() % 2 == 1 {
        return Err(CommandError::Syntax);
    }
    if options.nx && options.xx {
        return Err(CommandError::Static("ERR XX and NX options at the same time are not compatible"));
    }
    if (options.gt && options.nx) || (options.lt && options.nx) || (options.gt && options.lt) {
        return Err(CommandError::Static("ERR GT, LT, and/or NX options at the same time are not compatible"));
    }
    if options.incr && pairs.len() > 2 {
        return Err(CommandError::Static("ERR INCR option supports a single increment-element pair"));
    }
    add_pairs(ctx, options, pairs)
}

fn zincrby(ctx: &mut Ctx<'_>) -> CommandResult {
    let pair = ctx.args.skip(2);
    add_pairs(ctx, AddOptions { incr: true, ..AddOptions::default() }, pair)
}

fn add_pairs(ctx: &mut Ctx<'_>, options: AddOptions, pairs: resp::Args<'_>) -> CommandResult {
    let mut scores: smallvec::SmallVec<[f64; 8]> = smallvec::SmallVec::new();
    for i in (0..pairs.len()).step_by(2) {
        scores.push(parse::float(pairs.at(i))?);
    }
    let (limits, absent) = (ctx.limits, if options.xx { Absent::Skip } else { Absent::Create });
    let done = ctx.keys.edit(ctx.args.at(1), absent, |zset: &mut ZSet| {
        let (mut added, mut changed, mut last) = (0, 0, None);
        for (i, &score) in scores.iter().enumerate() {
            match options.apply(zset, pairs.at(2 * i + 1), score, limits) {
                Ok(Added::Nothing) => {}
                Ok(Added::New(score)) => {
                    added += 1;
                    last = Some(score);
                }
                Ok(Added::Changed(score)) => {
                    changed += 1;
                    last = Some(score);
                }
                Ok(Added::Same(score)) => last = Some(score),
                Err(error) => return (Err(error), added + changed),
            }
        }
        (Ok((added, changed, last)), added + changed)
    })?;
    let (added, changed, last) = done.unwrap_or(Ok((0, 0, None)))?;
    match (options.incr, last) {
        (true, Some(score)) => ctx.out.double(score),
        (true, None) => ctx.out.null(),
        (false, _) => ctx.out.int((added + if options.ch { changed } else { 0 }) as i64),
    }
    Ok(())
}

fn zrem(ctx: &mut Ctx<'_>) -> CommandResult {
    let args = ctx.args;
    let gone = ctx.keys.edit(args.at(1), Absent::Skip, |zset: &mut ZSet| {
        let gone = args.skip(2).iter().filter(|member| zset.remove(member).is_some()).count();
        (gone, gone as u64)
    })?;
    ctx.out.len_int(gone.unwrap_or(0));
    Ok(())
}

fn zcard(ctx: &mut Ctx<'_>) -> CommandResult {
    let len = ctx.keys.get::<ZSet>(ctx.args.at(1))?.map_or(0, ZSet::len);
    ctx.out.len_int(len);
    Ok(())
}

fn reply_score(out: &mut resp::Encoder, score: Option<f64>) {
    match score {
        Some(score) => out.double(score),
        None => out.null(),
    }
}

fn zscore(ctx: &mut Ctx<'_>) -> CommandResult {
    let score = ctx.keys.get::<ZSet>(ctx.args.at(1))?.and_then(|zset| zset.score(ctx.args.at(2)));
    reply_score(ctx.out, score);
    Ok(())
}

fn zmscore(ctx: &mut Ctx<'_>) -> CommandResult {
    let zset = ctx.keys.get::<ZSet>(ctx.args.at(1))?;
    ctx.out.array(ctx.args.len() - 2);
    for member in ctx.args.skip(2).iter() {
        reply_score(ctx.out, zset.and_then(|zset| zset.score(member)));
    }
    Ok(())
}

fn rank(ctx: &mut Ctx<'_>, reverse: bool) -> CommandResult {
    let with_score = match ctx.args.get(3) {
        None => false,
        Some(word) if ctx.args.len() == 4 && eq_ignore_case(word, "WITHSCORE") => true,
        Some(_) => return Err(CommandError::Syntax),
    };
    let member = ctx.args.at(2);
    let found = ctx.keys.get::<ZSet>(ctx.args.at(1))?.and_then(|zset| {
        let rank = zset.rank(member)?;
        Some((if reverse { zset.len() - 1 - rank } else { rank }, zset.score(member)?))
    });
    match (found, with_score) {
        (Some((rank, _)), false) => ctx.out.len_int(rank),
        (Some((rank, score)), true) => {
            ctx.out.array(2);
            ctx.out.len_int(rank);
            ctx.out.double(score);
        }
        (None, false) => ctx.out.null(),
        (None, true) => ctx.out.null_array(),
    }
    Ok(())
}

fn zrank(ctx: &mut Ctx<'_>) -> CommandResult {
    rank(ctx, false)
}

fn zrevrank(ctx: &mut Ctx<'_>) -> CommandResult {
    rank(ctx, true)
}

/// Removes up to `count` members from an end: they are returned in the order they went.
fn pop_members(ctx: &mut Ctx<'_>, key: &[u8], max: bool, count: usize) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
    let popped = ctx.keys.edit(key, Absent::Skip, |zset: &mut ZSet| {
        let n = count.min(zset.len());
        let mut popped = Vec::with_capacity(n);
        let ranks = if max { zset.len() - n..zset.len() } else { 0..n };
        if max {
            zset.for_each_rev(ranks.clone(), |member, score| popped.push((member.to_vec(), score)));
        } else {
            zset.for_each(ranks.clone(), |member, score| popped.push((member.to_vec(), score)));
        }
        zset.remove_ranks(ranks);
        (popped, n as u64)
    })?;
    Ok(popped.unwrap_or_default())
}

fn propagate_zrem(ctx: &mut Ctx<'_>, key: &[u8], popped: &[(Vec<u8>, f64)]) {
    if !popped.is_empty() {
        let mut argv = vec![&b"ZREM"[..], key];
        argv.extend(popped.iter().map(|(member, _)| &member[..]));
        ctx.effects.replace(&argv);
    }
}

fn zpop(ctx: &mut Ctx<'_>, max: bool) -> CommandResult {
    let key = ctx.args.at(1);
    let count = match ctx.args.len() {
        2 => None,
        3 => Some(parse::count(ctx.args.at(2))?),
        _ => return Err(CommandError::Syntax),
    };
    let popped = pop_members(ctx, key, max, count.unwrap_or(1))?;
    let nested = count.is_some() && ctx.out.resp3();
    ctx.out.array(if nested { popped.len() } else { popped.len() * 2 });
    for (member, score) in &popped {
        if nested {
            ctx.out.array(2);
        }
        ctx.out.bulk(member);
        ctx.out.double(*score);
    }
    propagate_zrem(ctx, key, &popped);
    Ok(())
}

fn zpopmin(ctx: &mut Ctx<'_>) -> CommandResult {
    zpop(ctx, false)
}

fn zpopmax(ctx: &mut Ctx<'_>) -> CommandResult {
    zpop(ctx, true)
}

fn zmpop(ctx: &mut Ctx<'_>) -> CommandResult {
    let (keys, behind) = counted_keys(ctx, 1)?;
    let max = match ctx.args.get(behind) {
        Some(word) if eq_ignore_case(word, "MIN") => false,
        Some(word) if eq_ignore_case(word, "MAX") => true,
        _ => return Err(CommandError::Syntax),
    };
    let count = count_option(ctx, behind + 1)?;
    for key in keys {
        if ctx.keys.get::<ZSet>(key)?.is_none() {
            continue;
        }
        let popped = pop_members(ctx, key, max, count)?;
        ctx.out.array(2);
        ctx.out.bulk(key);
        ctx.out.array(popped.len());
        for (member, score) in &popped {
            ctx.out.array(2);
            ctx.out.bulk(member);
            ctx.out.double(*score);
        }
        propagate_zrem(ctx, key, &popped);
        return Ok(());
    }
    ctx.out.null_array();
    Ok(())
}

fn zrandmember(ctx: &mut Ctx<'_>) -> CommandResult {
    let count = ctx.args.get(2).map(integer).transpose()?;
    let with_scores = match ctx.args.get(3) {
        None => false,
        Some(word) if ctx.args.len() == 4 && eq_ignore_case(word, "WITHSCORES") => true,
        Some(_) => return Err(CommandError::Syntax),
    };
    if count.is_some_and(|n| n < -(i64::MAX / 2) || n > i64::MAX / 2) {
        return Err(CommandError::Static("ERR value is out of range"));
    }
    let zset = ctx.keys.get::<ZSet>(ctx.args.at(1))?;
    let Some(count) = count else {
        let member = zset.and_then(|zset| zset.random(ctx.rng, |member, _| member.to_vec()));
        ctx.out.bulk_or_null(member.as_deref());
        return Ok(());
    };
    let mut picked: Vec<(Vec<u8>, f64)> = Vec::new();
    if let Some(zset) = zset {
        if count < 0 {
            for _ in 0..count.unsigned_abs() {
                picked.extend(zset.random(ctx.rng, |member, score| (member.to_vec(), score)));
            }
        } else {
            zset.for_each(0..zset.len(), |member, score| picked.push((member.to_vec(), score)));
            choose(&mut picked, count as usize, ctx.rng);
        }
    }
    reply_members(ctx.out, &picked, with_scores);
    Ok(())
}

/// Members, with their scores if asked: nested pairs in RESP3, flat in RESP2.
fn reply_members<M: AsRef<[u8]>>(out: &mut resp::Encoder, members: &[(M, f64)], with_scores: bool) {
    let nested = with_scores && out.resp3();
    out.array(if with_scores && !nested { members.len() * 2 } else { members.len() });
    for (member, score) in members {
        if nested {
            out.array(2);
        }
        out.bulk(member.as_ref());
        if with_scores {
            out.double(*score);
        }
    }
}

fn zscan(ctx: &mut Ctx<'_>) -> CommandResult {
    let scan = ScanArgs::parse(ctx.args, 2, false)?;
    let zset = ctx.keys.get::<ZSet>(ctx.args.at(1))?;
    let mut found: Vec<(Box<[u8]>, f64)> = Vec::new();
    let next = zset.map_or(0, |zset| {
        zset.scan(scan.cursor, scan.count, |member, score| {
            if scan.matches(member) {
                found.push((member.into(), score));
            }
        })
    });
    ctx.out.array(2);
    ctx.out.bulk(next.to_string().as_bytes());
    ctx.out.array(found.len() * 2);
    for (member, score) in &found {
        ctx.out.bulk(member);
        ctx.out.bulk(&crate::types::zset::score_text(*score));
    }
    Ok(())
}

/// Keeps `count` of the items, chosen at random without repetition.
fn choose<T>(items: &mut Vec<T>, count: usize, rng: &mut crate::Rng) {
    for i in 0..count.min(items.len()) {
        let j = i + rng.below(items.len() - i);
        items.swap(i, j);
    }
    items.truncate(count);
}
