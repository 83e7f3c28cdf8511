//! BITFIELD: integers of any width at any bit.

use super::{BAD_OFFSET, bit_offset};
use crate::command::CommandResult;
use crate::parse::{eq_ignore_case, integer};
use crate::{CommandError, Ctx};

/// An integer's kind: `i5`, `u12`; signed ones have up to 64 bits, unsigned ones up to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Encoding {
    signed: bool,
    bits: u32,
}

impl Encoding {
    fn parse(word: &[u8]) -> Result<Self, CommandError> {
        let parsed = match word {
            [b'i', digits @ ..] => number(digits, 64).map(|bits| Self { signed: true, bits }),
            [b'u', digits @ ..] => number(digits, 63).map(|bits| Self { signed: false, bits }),
            _ => None,
        };
        parsed.ok_or(CommandError::Static(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
        ))
    }

    fn range(self) -> std::ops::RangeInclusive<i128> {
        let values = 1i128 << self.bits;
        if self.signed { -values / 2..=values / 2 - 1 } else { 0..=values - 1 }
    }

    /// The value whose lowest bits these are.
    fn wrap(self, value: i128) -> i128 {
        let low = value & ((1i128 << self.bits) - 1);
        if self.signed && low >> (self.bits - 1) == 1 { low - (1i128 << self.bits) } else { low }
    }

    fn read(self, bytes: &[u8], offset: usize) -> i128 {
        let bits = (offset..offset + self.bits as usize).map(|at| i128::from(super::bit_at(bytes, at)));
        self.wrap(bits.fold(0, |value, bit| value << 1 | bit))
    }

    fn write(self, bytes: &mut [u8], offset: usize, value: i128) {
        for i in 0..self.bits as usize {
            let (at, mask) = ((offset + i) / 8, 0x80 >> ((offset + i) % 8));
            let on = value >> (self.bits as usize - 1 - i) & 1 == 1;
            bytes[at] = if on { bytes[at] | mask } else { bytes[at] & !mask };
        }
    }
}

fn number(digits: &[u8], max: u32) -> Option<u32> {
    let n = resp::number::parse_i64(digits)?;
    u32::try_from(n).ok().filter(|n| (1..=max).contains(n))
}

/// What becomes of a value that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Sat,
    Fail,
}

impl Overflow {
    fn fit(self, value: i128, encoding: Encoding) -> Option<i128> {
        let range = encoding.range();
        match self {
            _ if range.contains(&value) => Some(value),
            Self::Wrap => Some(encoding.wrap(value)),
            Self::Sat => Some(if value < *range.start() { *range.start() } else { *range.end() }),
            Self::Fail => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Get,
    Set(i64),
    IncrBy(i64),
}

#[derive(Debug, Clone, Copy)]
struct Step {
    op: Op,
    encoding: Encoding,
    offset: usize,
    overflow: Overflow,
}

impl Step {
    /// Carries it out; the reply, `None` if the result did not fit and was to fail then.
    fn run(self, bytes: &mut [u8]) -> Option<i128> {
        let old = self.encoding.read(bytes, self.offset);
        let (new, reply_old) = match self.op {
            Op::Get => return Some(old),
            // An unsigned field takes a negative number for a very large one.
            Op::Set(value) if !self.encoding.signed => (i128::from(value as u64), true),
            Op::Set(value) => (value.into(), true),
            Op::IncrBy(by) => (old + i128::from(by), false),
        };
        let new = self.overflow.fit(new, self.encoding)?;
        self.encoding.write(bytes, self.offset, new);
        Some(if reply_old { old } else { new })
    }

    fn end(&self) -> usize {
        (self.offset + self.encoding.bits as usize).div_ceil(8)
    }
}

/// `100`: bit 100; `#100`: the hundredth field of this width.
fn field_offset(ctx: &Ctx<'_>, word: &[u8], encoding: Encoding) -> Result<usize, CommandError> {
    let offset = match word.strip_prefix(b"#") {
        Some(n) => resp::number::parse_i64(n).and_then(|n| n.checked_mul(encoding.bits.into())),
        None => resp::number::parse_i64(word),
    };
    let offset = bit_offset(ctx, offset)?;
    // The field's end must fit too.
    bit_offset(ctx, i64::try_from(offset + encoding.bits as usize - 1).ok()).map_err(|_| BAD_OFFSET)?;
    Ok(offset)
}

fn steps(ctx: &Ctx<'_>) -> Result<Vec<Step>, CommandError> {
    let mut steps = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut i = 2;
    while i < ctx.args.len() {
        let (word, left) = (ctx.args.at(i), ctx.args.len() - i - 1);
        if eq_ignore_case(word, "OVERFLOW") && left >= 1 {
            overflow = match ctx.args.at(i + 1).to_ascii_lowercase().as_slice() {
                b"wrap" => Overflow::Wrap,
                b"sat" => Overflow::Sat,
                b"fail" => Overflow::Fail,
                _ => return Err(CommandError::Static("ERR Invalid OVERFLOW type specified")),
            };
            i += 2;
            continue;
        }
        let get = eq_ignore_case(word, "GET") && left >= 2;
        let set = eq_ignore_case(word, "SET") && left >= 3;
        let incrby = eq_ignore_case(word, "INCRBY") && left >= 3;
        if !(get || set || incrby) {
            return Err(CommandError::Syntax);
        }
        let encoding = Encoding::parse(ctx.args.at(i + 1))?;
        let offset = field_offset(ctx, ctx.args.at(i + 2), encoding)?;
        let op = match (get, set) {
            (true, _) => Op::Get,
            (_, true) => Op::Set(integer(ctx.args.at(i + 3))?),
            _ => Op::IncrBy(integer(ctx.args.at(i + 3))?),
        };
        steps.push(Step { op, encoding, offset, overflow });
        i += if get { 3 } else { 4 };
    }
    Ok(steps)
}

fn reply(ctx: &mut Ctx<'_>, results: &[Option<i128>]) {
    ctx.out.array(results.len());
    for result in results {
        match result {
            Some(n) => ctx.out.int(i64::try_from(*n).expect("a field has at most 63 bits and a sign")),
            None => ctx.out.null(),
        }
    }
}

/// The results if the steps leave the string as it is: then there is nothing to propagate. Tried on the part that they
/// touch.
fn unchanged(bytes: Option<&[u8]>, steps: &[Step], end: usize) -> Option<Vec<Option<i128>>> {
    let bytes = bytes.filter(|bytes| bytes.len() >= end)?;
    let begin = steps.iter().map(|step| step.offset / 8).min()?;
    let last = steps.iter().map(Step::end).max()?.min(bytes.len()).max(begin);
    let mut part = bytes.get(begin..last)?.to_vec();
    let moved = |step: &Step| Step { offset: step.offset - begin * 8, ..*step };
    let results = steps.iter().map(|step| moved(step).run(&mut part)).collect();
    (part == bytes[begin..last]).then_some(results)
}

pub(super) fn bitfield(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    let steps = steps(ctx)?;
    let end = steps.iter().filter(|step| step.op != Op::Get).map(Step::end).max();
    let results: Vec<_> = match end {
        None => {
            let bytes = ctx.keys.get_str(key)?.unwrap_or_default();
            steps.iter().map(|step| Some(step.encoding.read(bytes, step.offset))).collect()
        }
        Some(end) => match unchanged(ctx.keys.get_str(key)?, &steps, end) {
            Some(results) => results,
            None => {
                let all = |bytes: &mut [u8]| steps.iter().map(|step| step.run(bytes)).collect();
                ctx.keys.edit_str(key, |len| len.max(end), all)?
            }
        },
    };
    reply(ctx, &results);
    Ok(())
}

pub(super) fn bitfield_ro(ctx: &mut Ctx<'_>) -> CommandResult {
    let steps = steps(ctx)?;
    if steps.iter().any(|step| step.op != Op::Get) {
        return Err(CommandError::Static("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    let bytes = ctx.keys.get_str(ctx.args.at(1))?.unwrap_or_default();
    let results: Vec<_> = steps.iter().map(|step| Some(step.encoding.read(bytes, step.offset))).collect();
    reply(ctx, &results);
    Ok(())
}
