//! Sorted sets, without the blocking commands.

mod combine;
mod range;

use std::collections::BTreeSet;

use bitflags::bitflags;
use smallvec::SmallVec;

use super::hashes::signed_count;
use super::lists::{count_option, popped_keys};
use super::{R, RF, ScanArgs, W, WF, WM, WMF, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Absent;
use crate::parse::{self, eq_ignore_case};
use crate::types::ZSet;
use crate::{CommandError, Ctx, Limits};

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

bitflags! {
    #[derive(Clone, Copy)]
    struct Add: u8 {
        const NX = 1;
        const XX = 1 << 1;
        const GT = 1 << 2;
        const LT = 1 << 3;
        const CH = 1 << 4;
        const INCR = 1 << 5;
    }
}

/// What became of one member.
#[derive(Clone, Copy)]
enum Added {
    /// An option forbade it.
    Nothing,
    New(f64),
    Changed(f64),
    /// It has this score already.
    Same(f64),
    NotANumber,
}

impl Add {
    fn option(word: &[u8]) -> Option<Self> {
        const WORDS: [(&str, Add); 6] =
            [("nx", Add::NX), ("xx", Add::XX), ("gt", Add::GT), ("lt", Add::LT), ("ch", Add::CH), ("incr", Add::INCR)];
        // Every pair's score is asked this way first.
        if !word.first()?.is_ascii_alphabetic() {
            return None;
        }
        WORDS.iter().find(|(name, _)| eq_ignore_case(word, name)).map(|&(_, option)| option)
    }

    fn check(self, pairs: usize) -> CommandResult {
        if self.contains(Add::NX | Add::XX) {
            return Err(CommandError::Static("ERR XX and NX options at the same time are not compatible"));
        }
        if (self & (Add::NX | Add::GT | Add::LT)).bits().count_ones() > 1 {
            return Err(CommandError::Static("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if self.contains(Add::INCR) && pairs > 1 {
            return Err(CommandError::Static("ERR INCR option supports a single increment-element pair"));
        }
        Ok(())
    }

    /// What a member of score `old` gets for the argument `score`.
    fn decide(self, old: Option<f64>, score: f64) -> Added {
        let Some(old) = old else {
            return if self.contains(Add::XX) { Added::Nothing } else { Added::New(score) };
        };
        if self.contains(Add::NX) {
            return Added::Nothing;
        }
        let new = if self.contains(Add::INCR) { old + score } else { score };
        if new.is_nan() {
            Added::NotANumber
        } else if (self.contains(Add::GT) && new <= old) || (self.contains(Add::LT) && new >= old) {
            Added::Nothing
        } else if new == old {
            Added::Same(new)
        } else {
            Added::Changed(new)
        }
    }

    fn apply(self, zset: &mut ZSet, member: &[u8], score: f64, limits: &Limits) -> Added {
        let mut added = Added::Nothing;
        zset.update(member, limits, |old| {
            added = self.decide(old, score);
            match added {
                Added::New(score) | Added::Changed(score) => Some(score),
                Added::Nothing | Added::Same(_) | Added::NotANumber => None,
            }
        });
        added
    }
}

fn zadd(ctx: &mut Ctx<'_>) -> CommandResult {
    let (mut options, mut i) = (Add::empty(), 2);
    while let Some(option) = ctx.args.get(i).and_then(Add::option) {
        options |= option;
        i += 1;
    }
    let pairs = ctx.args.skip(i);
    if pairs.is_empty() || pairs.len() % 2 == 1 {
        return Err(CommandError::Syntax);
    }
    options.check(pairs.len() / 2)?;
    add_pairs(ctx, options, pairs)
}

fn zincrby(ctx: &mut Ctx<'_>) -> CommandResult {
    let pair = ctx.args.skip(2);
    add_pairs(ctx, Add::INCR, pair)
}

fn add_pairs(ctx: &mut Ctx<'_>, options: Add, pairs: resp::Args<'_>) -> CommandResult {
    // All scores are read before anything is changed.
    let mut scores: SmallVec<[f64; 8]> = SmallVec::new();
    for i in (0..pairs.len()).step_by(2) {
        scores.push(parse::float(pairs.at(i))?);
    }
    let (limits, absent) = (ctx.limits, if options.contains(Add::XX) { Absent::Skip } else { Absent::Create });
    let done = ctx.keys.edit(ctx.args.at(1), absent, |zset: &mut ZSet| {
        let (mut new, mut changed, mut last) = (0, 0, Added::Nothing);
        for (i, &score) in scores.iter().enumerate() {
            last = options.apply(zset, pairs.at(2 * i + 1), score, limits);
            match last {
                Added::New(_) => new += 1,
                Added::Changed(_) => changed += 1,
                Added::Nothing | Added::Same(_) | Added::NotANumber => {}
            }
        }
        ((new, changed, last), new + changed)
    })?;
    let (new, changed, last) = done.unwrap_or((0, 0, Added::Nothing));
    if !options.contains(Add::INCR) {
        ctx.out.int((new + if options.contains(Add::CH) { changed } else { 0 }) as i64);
        return Ok(());
    }
    match last {
        Added::New(score) | Added::Changed(score) | Added::Same(score) => ctx.out.double(score),
        Added::Nothing => ctx.out.null(),
        Added::NotANumber => return Err(CommandError::Static("ERR resulting score is not a number (NaN)")),
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
        _ if ctx.args.len() > 4 => {
            return Err(CommandError::Arity(if reverse { "zrevrank" } else { "zrank" }.into()));
        }
        None => false,
        Some(word) if eq_ignore_case(word, "WITHSCORE") => true,
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

/// The end of a sorted set that is popped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pop {
    Min,
    Max,
}

/// How popped members are replied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pairs {
    Flat,
    Nested,
}

impl Pop {
    /// Removes up to `count` members of the set at `key` and replies them; returns how many, `None` if there is no key.
    fn run(self, ctx: &mut Ctx<'_>, key: &[u8], count: usize, pairs: Pairs) -> Result<Option<usize>, CommandError> {
        let out = &mut *ctx.out;
        ctx.keys.edit(key, Absent::Skip, |zset: &mut ZSet| {
            let (len, n) = (zset.len(), count.min(zset.len()));
            out.array(if pairs == Pairs::Nested { n } else { 2 * n });
            let reply = |member: &[u8], score| {
                if pairs == Pairs::Nested {
                    out.array(2);
                }
                out.bulk(member);
                out.double(score);
            };
            match self {
                Pop::Min => {
                    zset.for_each(0..n, reply);
                    zset.remove_ranks(0..n);
                }
                Pop::Max => {
                    zset.for_each_rev(len - n..len, reply);
                    zset.remove_ranks(len - n..len);
                }
            }
            (n, n as u64)
        })
    }

    fn command(self) -> &'static str {
        match self {
            Pop::Min => "ZPOPMIN",
            Pop::Max => "ZPOPMAX",
        }
    }
}

fn zpop(ctx: &mut Ctx<'_>, end: Pop) -> CommandResult {
    let key = ctx.args.at(1);
    let count = match ctx.args.len() {
        2 => None,
        3 => Some(parse::count(ctx.args.at(2))?),
        _ => return Err(CommandError::Syntax),
    };
    // Without a count the reply is one flat pair in both protocols.
    let pairs = if count.is_some() && ctx.out.resp3() { Pairs::Nested } else { Pairs::Flat };
    if end.run(ctx, key, count.unwrap_or(1), pairs)?.is_none() {
        ctx.out.array(0);
    }
    Ok(())
}

fn zpopmin(ctx: &mut Ctx<'_>) -> CommandResult {
    zpop(ctx, Pop::Min)
}

fn zpopmax(ctx: &mut Ctx<'_>) -> CommandResult {
    zpop(ctx, Pop::Max)
}

fn zmpop(ctx: &mut Ctx<'_>) -> CommandResult {
    let (keys, behind) = popped_keys(ctx)?;
    let end = match ctx.args.at(behind) {
        word if eq_ignore_case(word, "MIN") => Pop::Min,
        word if eq_ignore_case(word, "MAX") => Pop::Max,
        _ => return Err(CommandError::Syntax),
    };
    let count = count_option(ctx, behind + 1)?;
    for key in keys {
        if ctx.keys.check::<ZSet>(key)? {
            ctx.out.array(2);
            ctx.out.bulk(key);
            let n = end.run(ctx, key, count, Pairs::Nested)?.unwrap_or(0);
            ctx.effects.replace(&[end.command().as_bytes(), key, itoa::Buffer::new().format(n).as_bytes()]);
            return Ok(());
        }
    }
    ctx.out.null_array();
    Ok(())
}

/// Writes members to a reply, with their scores if asked: nested pairs in RESP3, flat in RESP2.
struct MemberReply<'o> {
    out: &'o mut resp::Encoder,
    with_scores: bool,
}

impl<'o> MemberReply<'o> {
    /// `n` members follow.
    fn begin(out: &'o mut resp::Encoder, n: usize, with_scores: bool) -> Self {
        let flat_pairs = with_scores && !out.resp3();
        out.array(if flat_pairs { 2 * n } else { n });
        Self { out, with_scores }
    }

    fn member(&mut self, member: &[u8], score: f64) {
        if self.with_scores && self.out.resp3() {
            self.out.array(2);
        }
        self.out.bulk(member);
        if self.with_scores {
            self.out.double(score);
        }
    }
}

fn zrandmember(ctx: &mut Ctx<'_>) -> CommandResult {
    let Some(count) = ctx.args.get(2).map(signed_count).transpose()? else {
        let zset = ctx.keys.get::<ZSet>(ctx.args.at(1))?;
        let out = &mut *ctx.out;
        if zset.and_then(|zset| zset.random(ctx.rng, |member, _| out.bulk(member))).is_none() {
            ctx.out.null();
        }
        return Ok(());
    };
    let with_scores = match ctx.args.get(3) {
        None => false,
        Some(word) if ctx.args.len() == 4 && eq_ignore_case(word, "WITHSCORES") => true,
        Some(_) => return Err(CommandError::Syntax),
    };
    if with_scores && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(CommandError::Static("ERR value is out of range"));
    }
    let Some(zset) = ctx.keys.get::<ZSet>(ctx.args.at(1))? else {
        ctx.out.array(0);
        return Ok(());
    };
    let (n, limits) = (count.unsigned_abs() as usize, ctx.limits);
    if count < 0 {
        let mut reply = MemberReply::begin(ctx.out, n, with_scores);
        // As in `draw`: nobody is given more than he may have.
        for _ in 0..n {
            if reply.out.len() > limits.reply_max {
                break;
            }
            zset.random(ctx.rng, |member, score| reply.member(member, score));
        }
    } else if n >= zset.len() {
        let mut reply = MemberReply::begin(ctx.out, zset.len(), with_scores);
        zset.for_each(0..zset.len(), |member, score| reply.member(member, score));
    } else {
        let mut reply = MemberReply::begin(ctx.out, n, with_scores);
        for rank in distinct_below(zset.len(), n, ctx.rng) {
            zset.for_each(rank..rank + 1, |member, score| reply.member(member, score));
        }
    }
    Ok(())
}

/// `n` different numbers below `len`, each choice as likely as any other (R. W. Floyd's algorithm).
fn distinct_below(len: usize, n: usize, rng: &mut crate::Rng) -> BTreeSet<usize> {
    let mut chosen = BTreeSet::new();
    for top in len - n..len {
        let at = rng.below(top + 1);
        if !chosen.insert(at) {
            chosen.insert(top);
        }
    }
    chosen
}

fn zscan(ctx: &mut Ctx<'_>) -> CommandResult {
    ScanArgs::cursor(ctx.args.at(2))?;
    let Some(zset) = ctx.keys.get::<ZSet>(ctx.args.at(1))? else {
        ScanArgs::reply(ctx.out, |_, _| 0);
        return Ok(());
    };
    let scan = ScanArgs::parse(ctx.args, 2, false)?;
    ScanArgs::reply(ctx.out, |out, written| {
        let mut text = Vec::new();
        zset.scan(scan.cursor, scan.count, |member, score| {
            if scan.matches(member) {
                text.clear();
                parse::format_double(score, &mut text);
                out.bulk(member);
                out.bulk(&text);
                *written += 2;
            }
        })
    });
    Ok(())
}
