//! Unions, intersections and differences of sorted sets; plain sets count as sorted sets with scores of 1.

use smallvec::SmallVec;

use super::MemberReply;
use crate::command::CommandResult;
use crate::keyspace::ValueRef;
use crate::parse::{self, eq_ignore_case};
use crate::types::{Object, Set, ZSet};
use crate::{CommandError, Ctx, Limits};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Inter,
    Diff,
}

/// What is done with the result: it decides which options there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Reply,
    Store,
    Count,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    /// `b` may be NaN (an infinite weight of a score of 0): it counts for nothing then, or makes a sum 0.
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Aggregate::Sum => number_or_0(a + b),
            Aggregate::Min => {
                if b < a {
                    b
                } else {
                    a
                }
            }
            Aggregate::Max => {
                if b > a {
                    b
                } else {
                    a
                }
            }
        }
    }
}

/// inf - inf and inf * 0 are 0 here, as in Redis.
fn number_or_0(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// Options behind the keys.
struct Options {
    weights: SmallVec<[f64; 4]>,
    aggregate: Aggregate,
    with_scores: bool,
    /// ZINTERCARD's.
    limit: usize,
}

impl Options {
    /// Reads them from argument `i` on.
    fn parse(ctx: &Ctx<'_>, op: Operation, purpose: Purpose, keys: usize, mut i: usize) -> Result<Self, CommandError> {
        let mut options = Self {
            weights: SmallVec::from_elem(1.0, keys),
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: usize::MAX,
        };
        let weighted = op != Operation::Diff && purpose != Purpose::Count;
        while i < ctx.args.len() {
            let (word, left) = (ctx.args.at(i), ctx.args.len() - i);
            if weighted && left > keys && eq_ignore_case(word, "WEIGHTS") {
                for (weight, arg) in options.weights.iter_mut().zip(ctx.args.skip(i + 1).iter()) {
                    *weight = parse::float(arg).map_err(|_| CommandError::Static("ERR weight value is not a float"))?;
                }
                i += 1 + keys;
            } else if weighted && left > 1 && eq_ignore_case(word, "AGGREGATE") {
                options.aggregate = match ctx.args.at(i + 1) {
                    word if eq_ignore_case(word, "SUM") => Aggregate::Sum,
                    word if eq_ignore_case(word, "MIN") => Aggregate::Min,
                    word if eq_ignore_case(word, "MAX") => Aggregate::Max,
                    _ => return Err(CommandError::Syntax),
                };
                i += 2;
            } else if purpose == Purpose::Reply && eq_ignore_case(word, "WITHSCORES") {
                options.with_scores = true;
                i += 1;
            } else if purpose == Purpose::Count && left > 1 && eq_ignore_case(word, "LIMIT") {
                let limit = resp::number::parse_i64(ctx.args.at(i + 1)).and_then(|n| usize::try_from(n).ok());
                options.limit = match limit.ok_or(CommandError::Static("ERR LIMIT can't be negative"))? {
                    0 => usize::MAX,
                    limit => limit,
                };
                i += 2;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }
}

/// One of the sets that are combined.
#[derive(Clone, Copy)]
enum Source<'v> {
    /// There is no such key.
    Nothing,
    ZSet(&'v ZSet),
    Set(&'v Set),
}

impl<'v> Source<'v> {
    fn of(value: Option<ValueRef<'v>>) -> Result<Self, CommandError> {
        match value {
            None => Ok(Source::Nothing),
            Some(ValueRef::Object(Object::ZSet(zset))) => Ok(Source::ZSet(zset)),
            Some(ValueRef::Object(Object::Set(set))) => Ok(Source::Set(set)),
            Some(_) => Err(CommandError::WrongType),
        }
    }

    fn len(self) -> usize {
        match self {
            Source::Nothing => 0,
            Source::ZSet(zset) => zset.len(),
            Source::Set(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Source::Nothing => None,
            Source::ZSet(zset) => zset.score(member),
            Source::Set(set) => set.contains(member).then_some(1.0),
        }
    }

    fn for_each(self, mut f: impl FnMut(&[u8], f64)) {
        match self {
            Source::Nothing => {}
            Source::ZSet(zset) => zset.for_each(0..zset.len(), f),
            Source::Set(set) => set.for_each(|member| f(member, 1.0)),
        }
    }
}

/// A source with its weight.
type Weighted<'v> = (Source<'v>, f64);

fn union(sources: &[Weighted<'_>], aggregate: Aggregate, limits: &Limits) -> ZSet {
    let mut result = ZSet::unpacked();
    for &(source, weight) in sources {
        source.for_each(|member, score| {
            let score = number_or_0(weight * score);
            result.update(member, limits, |old| Some(old.map_or(score, |old| aggregate.of(old, score))));
        });
    }
    result
}

/// Calls `f` for the members that are in all sources, for `limit` of them at most.
fn intersect(sources: &[Weighted<'_>], aggregate: Aggregate, mut limit: usize, mut f: impl FnMut(&[u8], f64)) {
    let [(first, weight), others @ ..] = sources else { return };
    first.for_each(|member, score| {
        if limit == 0 {
            return;
        }
        let all = others.iter().try_fold(number_or_0(weight * score), |sum, (other, weight)| {
            Some(aggregate.of(sum, weight * other.score(member)?))
        });
        if let Some(score) = all {
            f(member, score);
            limit -= 1;
        }
    });
}

fn difference(sources: &[Weighted<'_>], limits: &Limits) -> ZSet {
    let mut result = ZSet::unpacked();
    if let [(first, _), others @ ..] = sources {
        first.for_each(|member, score| {
            if others.iter().all(|(other, _)| other.score(member).is_none()) {
                result.insert(member, score, limits);
            }
        });
    }
    result
}

/// A call's sources, in the order in which they are combined, and its options. `name`: the command's.
fn sources<'v>(
    ctx: &'v mut Ctx<'_>,
    op: Operation,
    purpose: Purpose,
    name: &str,
) -> Result<(SmallVec<[Weighted<'v>; 4]>, Options), CommandError> {
    let at = if purpose == Purpose::Store { 2 } else { 1 };
    let n = parse::integer(ctx.args.at(at))?;
    if n < 1 {
        return Err(CommandError::text(format!("ERR at least 1 input key is needed for '{name}' command")));
    }
    let n = usize::try_from(n).ok().filter(|&n| n < ctx.args.len() - at).ok_or(CommandError::Syntax)?;
    let keys: SmallVec<[&[u8]; 4]> = ctx.args.skip(at + 1).iter().take(n).collect();
    // A key of the wrong type is reported before the options are read.
    for key in &keys {
        Source::of(ctx.keys.peek(key).map(|entry| entry.value()))?;
    }
    let options = Options::parse(ctx, op, purpose, n, at + 1 + n)?;
    let mut sources = SmallVec::new();
    ctx.keys.count_lookups();
    for (value, &weight) in ctx.keys.values(&keys).into_iter().zip(&options.weights) {
        sources.push((Source::of(value)?, weight));
    }
    if op != Operation::Diff {
        // Besides being the least work, this is the order in which Redis adds the scores up.
        sources.sort_by_key(|(source, _): &Weighted<'_>| source.len());
    }
    Ok((sources, options))
}

/// The combined set, and whether scores are asked for.
fn combine(ctx: &mut Ctx<'_>, op: Operation, purpose: Purpose, name: &str) -> Result<(ZSet, bool), CommandError> {
    let limits = ctx.limits;
    let (sources, options) = sources(ctx, op, purpose, name)?;
    let set = match op {
        Operation::Union => union(&sources, options.aggregate, limits),
        Operation::Diff => difference(&sources, limits),
        Operation::Inter => {
            let mut set = ZSet::unpacked();
            intersect(&sources, options.aggregate, usize::MAX, |member, score| {
                set.insert(member, score, limits);
            });
            set
        }
    };
    Ok((set, options.with_scores))
}

fn reply(ctx: &mut Ctx<'_>, op: Operation, name: &str) -> CommandResult {
    let (set, with_scores) = combine(ctx, op, Purpose::Reply, name)?;
    let mut reply = MemberReply::begin(ctx.out, set.len(), with_scores);
    set.for_each(0..set.len(), |member, score| reply.member(member, score));
    Ok(())
}

fn store(ctx: &mut Ctx<'_>, op: Operation, name: &str) -> CommandResult {
    let (set, _) = combine(ctx, op, Purpose::Store, name)?;
    ctx.out.len_int(set.len());
    ctx.keys.put(ctx.args.at(1), set.pack(ctx.limits));
    Ok(())
}

pub(super) fn zunion(ctx: &mut Ctx<'_>) -> CommandResult {
    reply(ctx, Operation::Union, "zunion")
}

pub(super) fn zinter(ctx: &mut Ctx<'_>) -> CommandResult {
    reply(ctx, Operation::Inter, "zinter")
}

pub(super) fn zdiff(ctx: &mut Ctx<'_>) -> CommandResult {
    reply(ctx, Operation::Diff, "zdiff")
}

pub(super) fn zunionstore(ctx: &mut Ctx<'_>) -> CommandResult {
    store(ctx, Operation::Union, "zunionstore")
}

pub(super) fn zinterstore(ctx: &mut Ctx<'_>) -> CommandResult {
    store(ctx, Operation::Inter, "zinterstore")
}

pub(super) fn zdiffstore(ctx: &mut Ctx<'_>) -> CommandResult {
    store(ctx, Operation::Diff, "zdiffstore")
}

pub(super) fn zintercard(ctx: &mut Ctx<'_>) -> CommandResult {
    let (sources, options) = sources(ctx, Operation::Inter, Purpose::Count, "zintercard")?;
    let mut n = 0;
    intersect(&sources, options.aggregate, options.limit, |_, _| n += 1);
    drop(sources);
    ctx.out.len_int(n);
    Ok(())
}
