//! Ranges of sorted sets: by rank, by score, lexicographical.

use std::ops::Range;

use super::reply_members;
use crate::command::CommandResult;
use crate::keyspace::Absent;
use crate::parse::{self, eq_ignore_case, integer};
use crate::types::{Kind, ZSet};
use crate::{CommandError, Ctx};

/// One end of a range of scores.
#[derive(Clone, Copy)]
struct Score {
    value: f64,
    exclusive: bool,
}

impl Score {
    fn parse(arg: &[u8]) -> Result<Self, CommandError> {
        let (exclusive, text) = match arg {
            [b'(', rest @ ..] => (true, rest),
            _ => (false, arg),
        };
        let value = parse::float_or_none(text).ok_or(CommandError::Static("ERR min or max is not a float"))?;
        Ok(Self { value, exclusive })
    }

    fn before(self, score: f64) -> bool {
        score < self.value || (self.exclusive && score == self.value)
    }

    fn up_to(self, score: f64) -> bool {
        score < self.value || (!self.exclusive && score == self.value)
    }
}

/// One end of a lexicographical range.
#[derive(Clone, Copy)]
enum Lex<'a> {
    Lowest,
    Highest,
    Inclusive(&'a [u8]),
    Exclusive(&'a [u8]),
}

impl<'a> Lex<'a> {
    fn parse(arg: &'a [u8]) -> Result<Self, CommandError> {
        match arg {
            b"-" => Ok(Lex::Lowest),
            b"+" => Ok(Lex::Highest),
            [b'[', rest @ ..] => Ok(Lex::Inclusive(rest)),
            [b'(', rest @ ..] => Ok(Lex::Exclusive(rest)),
            _ => Err(CommandError::Static("ERR min or max not valid string range item")),
        }
    }

    fn before(self, member: &[u8]) -> bool {
        match self {
            Lex::Lowest => false,
            Lex::Highest => true,
            Lex::Inclusive(end) => member < end,
            Lex::Exclusive(end) => member <= end,
        }
    }

    fn up_to(self, member: &[u8]) -> bool {
        match self {
            Lex::Lowest => false,
            Lex::Highest => true,
            Lex::Inclusive(end) => member <= end,
            Lex::Exclusive(end) => member < end,
        }
    }
}

/// A range as it was asked for.
#[derive(Clone, Copy)]
enum By<'a> {
    Rank(i64, i64),
    Score(Score, Score),
    Lex(Lex<'a>, Lex<'a>),
}

impl<'a> By<'a> {
    fn rank(min: &[u8], max: &[u8]) -> Result<Self, CommandError> {
        Ok(By::Rank(integer(min)?, integer(max)?))
    }

    fn score(min: &[u8], max: &[u8]) -> Result<Self, CommandError> {
        Ok(By::Score(Score::parse(min)?, Score::parse(max)?))
    }

    fn lex(min: &'a [u8], max: &'a [u8]) -> Result<Self, CommandError> {
        Ok(By::Lex(Lex::parse(min)?, Lex::parse(max)?))
    }

    /// The ranks that the range means; ranks of a reversed range by rank count from the end.
    fn ranks(self, zset: &ZSet, reverse: bool) -> Range<usize> {
        let (start, end) = match self {
            By::Rank(start, stop) => {
                let range = parse::range(start, stop, zset.len()).unwrap_or(0..0);
                if reverse { (zset.len() - range.end, zset.len() - range.start) } else { (range.start, range.end) }
            }
            By::Score(min, max) => {
                (zset.partition_point(|score, _| min.before(score)), zset.partition_point(|score, _| max.up_to(score)))
            }
            By::Lex(min, max) => (
                zset.partition_point(|_, member| min.before(member)),
                zset.partition_point(|_, member| max.up_to(member)),
            ),
        };
        start..end.max(start)
    }
}

/// A range with its direction and LIMIT.
struct Query<'a> {
    by: By<'a>,
    reverse: bool,
    limit: Option<(i64, i64)>,
}

impl Query<'_> {
    fn ranks(&self, zset: &ZSet) -> Range<usize> {
        let ranks = self.by.ranks(zset, self.reverse);
        let Some((offset, count)) = self.limit else { return ranks };
        let Ok(offset) = usize::try_from(offset) else { return 0..0 };
        let left = ranks.len().saturating_sub(offset);
        let take = usize::try_from(count).unwrap_or(usize::MAX).min(left);
        if self.reverse {
            let end = ranks.end.saturating_sub(offset).max(ranks.start);
            end - take..end
        } else {
            let start = (ranks.start + offset.min(ranks.len())).min(ranks.end);
            start..start + take
        }
    }

    fn members(&self, ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Vec<(Box<[u8]>, f64)>, CommandError> {
        let mut members = Vec::new();
        if let Some(zset) = ctx.keys.get::<ZSet>(key)? {
            let ranks = self.ranks(zset);
            let add = |member: &[u8], score| members.push((member.into(), score));
            if self.reverse { zset.for_each_rev(ranks, add) } else { zset.for_each(ranks, add) }
        }
        Ok(members)
    }

    fn reply(&self, ctx: &mut Ctx<'_>, with_scores: bool) -> CommandResult {
        let members = self.members(ctx, ctx.args.at(1))?;
        reply_members(ctx.out, &members, with_scores);
        Ok(())
    }
}

/// Reads `key min max` from argument `at` on and the options behind it that `allowed` names.
struct Options {
    by_score: bool,
    by_lex: bool,
    reverse: bool,
    with_scores: bool,
    limit: Option<(i64, i64)>,
}

impl Options {
    fn parse(ctx: &Ctx<'_>, mut i: usize, full: bool, scores: bool) -> Result<Self, CommandError> {
        let mut o = Options { by_score: false, by_lex: false, reverse: false, with_scores: false, limit: None };
        while i < ctx.args.len() {
            let word = ctx.args.at(i);
            if scores && eq_ignore_case(word, "WITHSCORES") {
                o.with_scores = true;
            } else if eq_ignore_case(word, "LIMIT") && i + 2 < ctx.args.len() {
                o.limit = Some((integer(ctx.args.at(i + 1))?, integer(ctx.args.at(i + 2))?));
                i += 2;
            } else if full && eq_ignore_case(word, "REV") {
                o.reverse = true;
            } else if full && eq_ignore_case(word, "BYSCORE") {
                o.by_score = true;
            } else if full && eq_ignore_case(word, "BYLEX") {
                o.by_lex = true;
            } else {
                return Err(CommandError::Syntax);
            }
            i += 1;
        }
        Ok(o)
    }
}

/// ZRANGE and ZRANGESTORE, whose source key is argument `at`.
fn full_query<'a>(ctx: &Ctx<'a>, at: usize, store: bool) -> Result<(Query<'a>, bool), CommandError> {
    let options = Options::parse(ctx, at + 3, true, !store)?;
    if options.limit.is_some() && !options.by_score && !options.by_lex {
        return Err(CommandError::Static(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
        ));
    }
    if options.with_scores && options.by_lex {
        return Err(CommandError::Static("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
    }
    let (mut min, mut max) = (ctx.args.at(at + 1), ctx.args.at(at + 2));
    if options.reverse && (options.by_score || options.by_lex) {
        (min, max) = (max, min);
    }
    let by = match (options.by_score, options.by_lex) {
        (true, true) => return Err(CommandError::Syntax),
        (true, false) => By::score(min, max)?,
        (false, true) => By::lex(min, max)?,
        (false, false) => By::rank(min, max)?,
    };
    Ok((Query { by, reverse: options.reverse, limit: options.limit }, options.with_scores))
}

pub(super) fn zrange(ctx: &mut Ctx<'_>) -> CommandResult {
    let (query, with_scores) = full_query(ctx, 1, false)?;
    query.reply(ctx, with_scores)
}

pub(super) fn zrangestore(ctx: &mut Ctx<'_>) -> CommandResult {
    let (query, _) = full_query(ctx, 2, true)?;
    let limits = ctx.limits;
    let mut result = ZSet::new(limits);
    for (member, score) in query.members(ctx, ctx.args.at(2))? {
        result.insert(&member, score, limits);
    }
    ctx.out.len_int(result.len());
    ctx.keys.put(ctx.args.at(1), result);
    Ok(())
}

pub(super) fn zrevrange(ctx: &mut Ctx<'_>) -> CommandResult {
    let options = Options::parse(ctx, 4, false, true)?;
    if options.limit.is_some() {
        return Err(CommandError::Static(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
        ));
    }
    let by = By::rank(ctx.args.at(2), ctx.args.at(3))?;
    Query { by, reverse: true, limit: None }.reply(ctx, options.with_scores)
}

/// The four older commands: arguments 2 and 3 are min and max, or the other way round in reverse.
fn old_query(ctx: &mut Ctx<'_>, reverse: bool, lex: bool) -> CommandResult {
    let (min, max) = if reverse { (3, 2) } else { (2, 3) };
    let (min, max) = (ctx.args.at(min), ctx.args.at(max));
    let options = Options::parse(ctx, 4, false, !lex)?;
    let by = if lex { By::lex(min, max)? } else { By::score(min, max)? };
    Query { by, reverse, limit: options.limit }.reply(ctx, options.with_scores)
}

pub(super) fn zrangebyscore(ctx: &mut Ctx<'_>) -> CommandResult {
    old_query(ctx, false, false)
}

pub(super) fn zrevrangebyscore(ctx: &mut Ctx<'_>) -> CommandResult {
    old_query(ctx, true, false)
}

pub(super) fn zrangebylex(ctx: &mut Ctx<'_>) -> CommandResult {
    old_query(ctx, false, true)
}

pub(super) fn zrevrangebylex(ctx: &mut Ctx<'_>) -> CommandResult {
    old_query(ctx, true, true)
}

fn count(ctx: &mut Ctx<'_>, by: By<'_>) -> CommandResult {
    let n = ctx.keys.get::<ZSet>(ctx.args.at(1))?.map_or(0, |zset| by.ranks(zset, false).len());
    ctx.out.len_int(n);
    Ok(())
}

pub(super) fn zcount(ctx: &mut Ctx<'_>) -> CommandResult {
    let by = By::score(ctx.args.at(2), ctx.args.at(3))?;
    count(ctx, by)
}

pub(super) fn zlexcount(ctx: &mut Ctx<'_>) -> CommandResult {
    let by = By::lex(ctx.args.at(2), ctx.args.at(3))?;
    count(ctx, by)
}

fn remove(ctx: &mut Ctx<'_>, by: By<'_>) -> CommandResult {
    let gone = ctx.keys.edit(ctx.args.at(1), Absent::Skip, |zset: &mut ZSet| {
        let ranks = by.ranks(zset, false);
        zset.remove_ranks(ranks.clone());
        (ranks.len(), ranks.len() as u64)
    })?;
    ctx.out.len_int(gone.unwrap_or(0));
    Ok(())
}

pub(super) fn zremrangebyrank(ctx: &mut Ctx<'_>) -> CommandResult {
    let by = By::rank(ctx.args.at(2), ctx.args.at(3))?;
    remove(ctx, by)
}

pub(super) fn zremrangebyscore(ctx: &mut Ctx<'_>) -> CommandResult {
    let by = By::score(ctx.args.at(2), ctx.args.at(3))?;
    remove(ctx, by)
}

pub(super) fn zremrangebylex(ctx: &mut Ctx<'_>) -> CommandResult {
    let by = By::lex(ctx.args.at(2), ctx.args.at(3))?;
    remove(ctx, by)
}
