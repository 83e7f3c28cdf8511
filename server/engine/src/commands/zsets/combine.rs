//! Unions, intersections and differences of sorted sets; plain sets count as sorted sets with scores of 1.

use super::reply_members;
use crate::command::CommandResult;
use crate::keyspace::ValueRef;
use crate::parse::{self, eq_ignore_case};
use crate::types::{Kind, Object, ZSet};
use crate::{CommandError, Ctx};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Inter,
    Diff,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            // inf - inf is 0 here, as in Redis.
            Aggregate::Sum => Some(a + b).filter(|sum| !sum.is_nan()).unwrap_or(0.0),
            Aggregate::Min => a.min(b),
            Aggregate::Max => a.max(b),
        }
    }
}

/// A parsed call: the operation and its sources.
struct Call<'a> {
    op: Operation,
    keys: Vec<&'a [u8]>,
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
}

impl<'a> Call<'a> {
    /// `at`: the argument that says how many keys follow.
    fn parse(ctx: &Ctx<'a>, op: Operation, at: usize, name: &str) -> Result<Self, CommandError> {
        let n = parse::integer(ctx.args.at(at))?;
        if n < 1 {
            return Err(CommandError::text(format!("ERR at least 1 input key is needed for '{name}' command")));
        }
        if n as u64 > (ctx.args.len() - at - 1) as u64 {
            return Err(CommandError::Syntax);
        }
        let n = n as usize;
        let keys: Vec<_> = ctx.args.skip(at + 1).iter().take(n).collect();
        let mut call = Call { op, keys, weights: vec![1.0; n], aggregate: Aggregate::Sum, with_scores: false };
        let store = at == 2;
        let mut i = at + 1 + n;
        while i < ctx.args.len() {
            let word = ctx.args.at(i);
            if op != Operation::Diff && eq_ignore_case(word, "WEIGHTS") && i + n < ctx.args.len() {
                for (weight, arg) in call.weights.iter_mut().zip(ctx.args.skip(i + 1).iter()) {
                    *weight = parse::float(arg).map_err(|_| CommandError::Static("ERR weight value is not a float"))?;
                }
                i += n;
            } else if op != Operation::Diff && eq_ignore_case(word, "AGGREGATE") && i + 1 < ctx.args.len() {
                call.aggregate = match ctx.args.at(i + 1).to_ascii_uppercase().as_slice() {
                    b"SUM" => Aggregate::Sum,
                    b"MIN" => Aggregate::Min,
                    b"MAX" => Aggregate::Max,
                    _ => return Err(CommandError::Syntax),
                };
                i += 1;
            } else if !store && eq_ignore_case(word, "WITHSCORES") {
                call.with_scores = true;
            } else {
                return Err(CommandError::Syntax);
            }
            i += 1;
        }
        Ok(call)
    }

    fn run(&self, ctx: &mut Ctx<'_>) -> Result<ZSet, CommandError> {
        let limits = ctx.limits;
        let mut sources = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            sources.push(source(ctx, key)?);
        }
        let weigh = |score: f64, i: usize| Some(score * self.weights[i]).filter(|s| !s.is_nan()).unwrap_or(0.0);
        let mut result = ZSet::new(limits);
        match self.op {
            Operation::Union => {
                for (i, source) in sources.iter().enumerate() {
                    source.for_each(0..source.len(), |member, score| {
                        let score = weigh(score, i);
                        let score = result.score(member).map_or(score, |old| self.aggregate.of(old, score));
                        result.insert(member, score, limits);
                    });
                }
            }
            Operation::Inter | Operation::Diff => {
                sources[0].for_each(0..sources[0].len(), |member, score| {
                    let mut sum = Some(weigh(score, 0));
                    for (i, other) in sources.iter().enumerate().skip(1) {
                        sum = match (self.op, sum, other.score(member)) {
                            (Operation::Inter, Some(a), Some(b)) => Some(self.aggregate.of(a, weigh(b, i))),
                            (Operation::Diff, sum, None) => sum,
                            _ => None,
                        };
                    }
                    if let Some(score) = sum {
                        result.insert(member, score, limits);
                    }
                });
            }
        }
        Ok(result)
    }

    fn reply(&self, ctx: &mut Ctx<'_>) -> CommandResult {
        let result = self.run(ctx)?;
        let mut members: Vec<(Box<[u8]>, f64)> = Vec::with_capacity(result.len());
        result.for_each(0..result.len(), |member, score| members.push((member.into(), score)));
        reply_members(ctx.out, &members, self.with_scores);
        Ok(())
    }

    fn store(&self, ctx: &mut Ctx<'_>) -> CommandResult {
        let result = self.run(ctx)?;
        ctx.out.len_int(result.len());
        ctx.keys.put(ctx.args.at(1), result);
        Ok(())
    }
}

/// A copy of a source; a key that does not exist is empty.
fn source(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<ZSet, CommandError> {
    let limits = ctx.limits;
    match ctx.keys.value(key) {
        None => Ok(ZSet::new(limits)),
        Some(ValueRef::Object(Object::ZSet(zset))) => Ok(zset.clone()),
        Some(ValueRef::Object(Object::Set(set))) => {
            let mut zset = ZSet::new(limits);
            set.for_each(|member| {
                zset.insert(member, 1.0, limits);
            });
            Ok(zset)
        }
        Some(_) => Err(CommandError::WrongType),
    }
}

pub(super) fn zunion(ctx: &mut Ctx<'_>) -> CommandResult {
    Call::parse(ctx, Operation::Union, 1, "zunion")?.reply(ctx)
}

pub(super) fn zinter(ctx: &mut Ctx<'_>) -> CommandResult {
    Call::parse(ctx, Operation::Inter, 1, "zinter")?.reply(ctx)
}

pub(super) fn zdiff(ctx: &mut Ctx<'_>) -> CommandResult {
    Call::parse(ctx, Operation::Diff, 1, "zdiff")?.reply(ctx)
}

pub(super) fn zunionstore(ctx: &mut Ctx<'_>) -> CommandResult {
    Call::parse(ctx, Operation::Union, 2, "zunionstore")?.store(ctx)
}

pub(super) fn zinterstore(ctx: &mut Ctx<'_>) -> CommandResult {
    Call::parse(ctx, Operation::Inter, 2, "zinterstore")?.store(ctx)
}

pub(super) fn zdiffstore(ctx: &mut Ctx<'_>) -> CommandResult {
    Call::parse(ctx, Operation::Diff, 2, "zdiffstore")?.store(ctx)
}

pub(super) fn zintercard(ctx: &mut Ctx<'_>) -> CommandResult {
    let (keys, behind) = super::counted_keys(ctx, 1)?;
    let limit = super::super::sets::limit_option(ctx, behind)?;
    let weights = vec![1.0; keys.len()];
    let call = Call { op: Operation::Inter, keys, weights, aggregate: Aggregate::Sum, with_scores: false };
    let n = call.run(ctx)?.len().min(limit);
    ctx.out.len_int(n);
    Ok(())
}
