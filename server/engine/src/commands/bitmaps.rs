//! Strings as arrays of bits. Bit 0 is the highest bit of the first byte.

mod bitfield;

use bitfield::{bitfield, bitfield_ro};

use super::{R, RF, WM, family};
use crate::command::{Acl, CommandResult, Keys};
use crate::keyspace::Expiry;
use crate::parse::{self, eq_ignore_case, integer};
use crate::{CommandError, Ctx};

const OPERANDS: Keys = Keys::Range { first: 2, last: -1, step: 1 };

family! { Bitmap, Acl::BITMAP;
    "setbit" setbit(4, Keys::ONE, WM) "2.2.0" "O(1)" "Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist." "key offset value";
    "getbit" getbit(3, Keys::ONE, RF) "2.2.0" "O(1)" "Returns a bit value by offset." "key offset";
    "bitcount" bitcount(-2, Keys::ONE, R) "2.6.0" "O(N)" "Counts the number of set bits (population counting) in a string." "key [start end [BYTE | BIT]]";
    "bitpos" bitpos(-3, Keys::ONE, R) "2.8.7" "O(N)" "Finds the first set (1) or clear (0) bit in a string." "key bit [start [end [BYTE | BIT]]]";
    "bitop" bitop(-4, OPERANDS, WM) "2.6.0" "O(N)" "Performs bitwise operations on multiple strings, and stores the result." "<AND | OR | XOR | NOT> destkey key [key ...]";
    "bitfield" bitfield(-2, Keys::ONE, WM) "3.2.0" "O(1) for each subcommand specified" "Performs arbitrary bitfield integer operations on strings." "key [GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] <SET encoding offset value | INCRBY encoding offset increment> ...]";
    "bitfield_ro" bitfield_ro(-2, Keys::ONE, RF) "6.0.0" "O(1) for each subcommand specified" "Performs arbitrary read-only bitfield integer operations on strings." "key [GET encoding offset ...]";
}

const BAD_OFFSET: CommandError =
    CommandError::Text(std::borrow::Cow::Borrowed("ERR bit offset is not an integer or out of range"));

/// A bit's number. The byte that it is in must fit into a string.
fn bit_offset(ctx: &Ctx<'_>, offset: Option<i64>) -> Result<usize, CommandError> {
    let offset = offset.and_then(|n| usize::try_from(n).ok());
    offset.filter(|n| n / 8 < ctx.limits.proto_max_bulk_len).ok_or(BAD_OFFSET)
}

fn bit_at(bytes: &[u8], offset: usize) -> bool {
    bytes.get(offset / 8).is_some_and(|byte| byte & (0x80 >> (offset % 8)) != 0)
}

fn setbit(ctx: &mut Ctx<'_>) -> CommandResult {
    let key = ctx.args.at(1);
    let offset = bit_offset(ctx, resp::number::parse_i64(ctx.args.at(2)))?;
    let on = match resp::number::parse_i64(ctx.args.at(3)) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(CommandError::Static("ERR bit is not an integer or out of range")),
    };
    let (old, long_enough) =
        ctx.keys.get_str(key)?.map_or((false, false), |bytes| (bit_at(bytes, offset), offset / 8 < bytes.len()));
    if !long_enough || old != on {
        let set = |bytes: &mut [u8]| {
            let mask = 0x80 >> (offset % 8);
            let byte = &mut bytes[offset / 8];
            *byte = if on { *byte | mask } else { *byte & !mask };
        };
        ctx.keys.edit_str(key, |len| len.max(offset / 8 + 1), set)?;
    }
    ctx.out.int(old.into());
    Ok(())
}

fn getbit(ctx: &mut Ctx<'_>) -> CommandResult {
    let offset = bit_offset(ctx, resp::number::parse_i64(ctx.args.at(2)))?;
    let bit = ctx.keys.get_str(ctx.args.at(1))?.is_some_and(|bytes| bit_at(bytes, offset));
    ctx.out.int(bit.into());
    Ok(())
}

/// `BYTE` or `BIT`: is a range given in bits?
fn unit_is_bit(word: Option<&[u8]>) -> Result<bool, CommandError> {
    match word {
        None => Ok(false),
        Some(word) if eq_ignore_case(word, "BYTE") => Ok(false),
        Some(word) if eq_ignore_case(word, "BIT") => Ok(true),
        Some(_) => Err(CommandError::Syntax),
    }
}

/// Bits of a byte that lie in a range of bits that begins `skip` bits into it and is `len` long.
fn mask(skip: usize, len: usize) -> u8 {
    let from = 0xFF_u16 >> skip.min(8);
    let behind = 0xFF_u16 >> (skip + len).min(8);
    (from & !behind) as u8
}

/// The part of a string that a range means, as numbers of bits.
fn bit_range(start: i64, end: i64, in_bits: bool, len: usize) -> Option<std::ops::Range<usize>> {
    if start < 0 && end < 0 && start > end {
        return None;
    }
    let end = if end < 0 { end.saturating_add((if in_bits { len * 8 } else { len }) as i64).max(0) } else { end };
    if in_bits {
        parse::range(start, end, len * 8)
    } else {
        parse::range(start, end, len).map(|bytes| bytes.start * 8..bytes.end * 8)
    }
}

fn bitcount(ctx: &mut Ctx<'_>) -> CommandResult {
    let range = match ctx.args.len() {
        2 => None,
        4 | 5 => {
            let ends = (integer(ctx.args.at(2))?, integer(ctx.args.at(3))?);
            Some((ends, unit_is_bit(ctx.args.get(4))?))
        }
        _ => return Err(CommandError::Syntax),
    };
    let bytes = ctx.keys.get_str(ctx.args.at(1))?.unwrap_or_default();
    let bits = match range {
        None => Some(0..bytes.len() * 8),
        Some(((start, end), in_bits)) => bit_range(start, end, in_bits, bytes.len()),
    };
    ctx.out.int(bits.map_or(0, |bits| count_bits(bytes, bits)) as i64);
    Ok(())
}

fn count_bits(bytes: &[u8], bits: std::ops::Range<usize>) -> u64 {
    let (first, last) = (bits.start / 8, bits.end.div_ceil(8));
    let bytes = &bytes[first..last];
    let (words, rest) = bytes.as_chunks::<8>();
    let whole: u64 = words.iter().map(|word| u64::from(u64::from_le_bytes(*word).count_ones())).sum();
    let rest: u64 = rest.iter().map(|byte| u64::from(byte.count_ones())).sum();
    // What lies in the first and the last byte outside of the range was counted too.
    let outside = |byte: u8, mask: u8| u64::from((byte & mask).count_ones());
    let before = bytes.first().map_or(0, |byte| outside(*byte, mask(0, bits.start % 8)));
    let behind = bytes.last().map_or(0, |byte| match bits.end % 8 {
        0 => 0,
        used => outside(*byte, mask(used, 8)),
    });
    whole + rest - before - behind
}

fn bitpos(ctx: &mut Ctx<'_>) -> CommandResult {
    let wanted = match integer(ctx.args.at(2))? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::Static("ERR The bit argument must be 1 or 0.")),
    };
    if ctx.args.len() > 6 {
        return Err(CommandError::Syntax);
    }
    let in_bits = unit_is_bit(ctx.args.get(5))?;
    let start = ctx.args.get(3).map_or(Ok(0), integer)?;
    let end = ctx.args.get(4).map(integer).transpose()?;
    let Some(bytes) = ctx.keys.get_str(ctx.args.at(1))? else {
        ctx.out.int(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let range = bit_range(start, end.unwrap_or(-1), in_bits, bytes.len());
    let found = range.as_ref().and_then(|range| find_bit(bytes, range.clone(), wanted));
    let at = match (found, end) {
        (Some(at), _) => at as i64,
        // A string without an end has zeros behind it.
        (None, None) if !wanted && range.is_some() => bytes.len() as i64 * 8,
        (None, _) => -1,
    };
    ctx.out.int(at);
    Ok(())
}

fn find_bit(bytes: &[u8], bits: std::ops::Range<usize>, wanted: bool) -> Option<usize> {
    let skip = if wanted { 0 } else { 0xFF };
    let mut at = bits.start;
    while at < bits.end {
        let byte = bytes[at / 8];
        if byte == skip {
            // Most of a sparse bitmap is passed by this.
            let same = bytes[at / 8..].iter().take_while(|b| **b == skip).count();
            at = (at / 8 + same) * 8;
            continue;
        }
        let here = (byte ^ skip) & mask(at % 8, bits.end - at);
        if here != 0 {
            return Some(at / 8 * 8 + here.leading_zeros() as usize);
        }
        at = (at / 8 + 1) * 8;
    }
    None
}

fn bitop(ctx: &mut Ctx<'_>) -> CommandResult {
    let (dest, sources) = (ctx.args.at(2), ctx.args.skip(3));
    let op: fn(u8, u8) -> u8 = match ctx.args.at(1).to_ascii_lowercase().as_slice() {
        b"and" => |a, b| a & b,
        b"or" => |a, b| a | b,
        b"xor" => |a, b| a ^ b,
        b"not" if sources.len() != 1 => {
            return Err(CommandError::Static("ERR BITOP NOT must be called with a single source key."));
        }
        b"not" => |a, _| !a,
        _ => return Err(CommandError::Syntax),
    };
    ctx.keys.count_lookups();
    let mut result: Vec<u8> = ctx.keys.get_str(sources.at(0))?.unwrap_or_default().to_vec();
    if eq_ignore_case(ctx.args.at(1), "NOT") {
        result.iter_mut().for_each(|byte| *byte = op(*byte, 0));
    }
    for key in sources.skip(1).iter() {
        // A string that is shorter has zeros behind it.
        let other = ctx.keys.get_str(key)?.unwrap_or_default();
        result.resize(result.len().max(other.len()), 0);
        for (i, byte) in result.iter_mut().enumerate() {
            *byte = op(*byte, other.get(i).copied().unwrap_or(0));
        }
    }
    if result.is_empty() {
        ctx.keys.remove(dest);
    } else {
        ctx.keys.put_str(dest, &result, Expiry::Clear);
    }
    ctx.out.len_int(result.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counting_and_finding_agree_with_looking_at_each_bit(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(255u8), any::<u8>()], 1..40),
            a in 0usize..320, b in 0usize..320,
        ) {
            let end = bytes.len() * 8;
            let (from, to) = (a.min(b).min(end), a.max(b).min(end));
            let set = |at: &usize| bit_at(&bytes, *at);
            if from < to {
                prop_assert_eq!(count_bits(&bytes, from..to), (from..to).filter(set).count() as u64);
            }
            prop_assert_eq!(find_bit(&bytes, from..to, true), (from..to).find(set));
            prop_assert_eq!(find_bit(&bytes, from..to, false), (from..to).find(|at| !set(at)));
        }
    }
}
