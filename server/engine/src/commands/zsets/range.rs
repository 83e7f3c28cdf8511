//! Ranges of sorted sets: by rank, by score, lexicographical.

use std::ops::Range;

use super::MemberReply;
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
        let value = parse::score_bound(text).ok_or(CommandError::Static("ERR min or max is not a float"))?;
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
                (zset.count_scores(|score| min.before(score)), zset.count_scores(|score| max.up_to(score)))
            }
            By::Lex(min, max) => {
                (zset.count_members(|member| min.before(member)), zset.count_members(|member| max.up_to(member)))
            }
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

    /// Calls `f` for the members of the range in its direction.
    fn for_each(&self, zset: &ZSet, ranks: Range<usize>, f: impl FnMut(&[u8], f64)) {
        if self.reverse { zset.for_each_rev(ranks, f) } else { zset.for_each(ranks, f) }
    }

    fn reply(&self, ctx: &mut Ctx<'_>, with_scores: bool) -> CommandResult {
        let Some(zset) = ctx.keys.get::<ZSet>(ctx.args.at(1))? else {
            ctx.out.array(0);
            return Ok(());
        };
        let ranks = self.ranks(zset);
        let mut reply = MemberReply::begin(ctx.out, ranks.len(), with_scores);
        self.for_each(zset, ranks, |member, score| reply.member(member, score));
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Rank,
    Score,
    Lex,
}

/// The options behind `key min max`. What the command's name says already cannot be said again.
struct Options {
    by: Option<Order>,
    reverse: Option<bool>,
    /// `None`: WITHSCORES is not among the command's options.
    with_scores: Option<bool>,
    limit: Option<(i64, i64)>,
}

impl Options {
    /// Reads them from argument `i` on, and checks what goes with what.
    fn parse(mut self, ctx: &Ctx<'_>, mut i: usize) -> Result<Self, CommandError> {
        while let Some(word) = ctx.args.get(i) {
            i += 1;
            if self.with_scores.is_some() && eq_ignore_case(word, "WITHSCORES") {
                self.with_scores = Some(true);
            } else if eq_ignore_case(word, "LIMIT") && i + 1 < ctx.args.len() {
                self.limit = Some((integer(ctx.args.at(i))?, integer(ctx.args.at(i + 1))?));
                i += 2;
            } else if self.reverse.is_none() && eq_ignore_case(word, "REV") {
                self.reverse = Some(true);
            } else if self.by.is_none() && eq_ignore_case(word, "BYSCORE") {
                self.by = Some(Order::Score);
            } else if self.by.is_none() && eq_ignore_case(word, "BYLEX") {
                self.by = Some(Order::Lex);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        if self.limit.is_some_and(|(_, count)| count != -1) && self.order() == Order::Rank {
            return Err(CommandError::Static(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if self.with_scores == Some(true) && self.by == Some(Order::Lex) {
            return Err(CommandError::Static("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        Ok(self)
    }

    fn order(&self) -> Order {
        self.by.unwrap_or(Order::Rank)
    }

    /// The query for `first` and `second` as they stand in the call: a reversed range names its higher end first.
    fn query<'a>(&self, first: &'a [u8], second: &'a [u8]) -> Result<Query<'a>, CommandError> {
        let reverse = self.reverse == Some(true);
        let (min, max) = if reverse && self.order() != Order::Rank { (second, first) } else { (first, second) };
        let by = match self.order() {
            Order::Rank => By::rank(min, max)?,
            Order::Score => By::score(min, max)?,
            Order::Lex => By::lex(min, max)?,
        };
        Ok(Query { by, reverse, limit: self.limit.filter(|_| self.order() != Order::Rank) })
    }
}

/// A command that replies a range of the key of argument 1.
fn reply_range(ctx: &mut Ctx<'_>, options: Options) -> CommandResult {
    let options = options.parse(ctx, 4)?;
    options.query(ctx.args.at(2), ctx.args.at(3))?.reply(ctx, options.with_scores == Some(true))
}

pub(super) fn zrange(ctx: &mut Ctx<'_>) -> CommandResult {
    reply_range(ctx, Options { by: None, reverse: None, with_scores: Some(false), limit: None })
}

/// The commands that are older than ZRANGE's options.
fn old_range(ctx: &mut Ctx<'_>, by: Order, reverse: bool) -> CommandResult {
    reply_range(ctx, Options { by: Some(by), reverse: Some(reverse), with_scores: Some(false), limit: None })
}

pub(super) fn zrevrange(ctx: &mut Ctx<'_>) -> CommandResult {
    old_range(ctx, Order::Rank, true)
}

pub(super) fn zrangebyscore(ctx: &mut Ctx<'_>) -> CommandResult {
    old_range(ctx, Order::Score, false)
}

pub(super) fn zrevrangebyscore(ctx: &mut Ctx<'_>) -> CommandResult {
    old_range(ctx, Order::Score, true)
}

pub(super) fn zrangebylex(ctx: &mut Ctx<'_>) -> CommandResult {
    old_range(ctx, Order::Lex, false)
}

pub(super) fn zrevrangebylex(ctx: &mut Ctx<'_>) -> CommandResult {
    old_range(ctx, Order::Lex, true)
}

pub(super) fn zrangestore(ctx: &mut Ctx<'_>) -> CommandResult {
    let options = Options { by: None, reverse: None, with_scores: None, limit: None }.parse(ctx, 5)?;
    let query = options.query(ctx.args.at(3), ctx.args.at(4))?;
    let limits = ctx.limits;
    let mut result = ZSet::new(limits);
    ctx.keys.count_lookups();
    if let Some(zset) = ctx.keys.get::<ZSet>(ctx.args.at(2))? {
        let ranks = query.ranks(zset);
        if options.order() == Order::Rank && ranks.len() > limits.zset_max_listpack_entries {
            result = ZSet::unpacked();
        }
        query.for_each(zset, ranks, |member, score| {
            result.insert(member, score, limits);
        });
    }
    ctx.out.len_int(result.len());
    ctx.keys.put(ctx.args.at(1), result);
    Ok(())
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
