//! What SCAN, HSCAN, SSCAN and ZSCAN have in common.

use resp::{Args, Encoder};

use crate::{CommandError, glob, parse};

/// Cursor and options of a SCAN call.
#[derive(Debug)]
pub struct ScanArgs<'a> {
    pub cursor: u64,
    pub count: usize,
    pub pattern: Option<&'a [u8]>,
    pub type_name: Option<&'a [u8]>,
}

impl<'a> ScanArgs<'a> {
    /// Reads a cursor as C's `strtoul` does, so a negative one wraps round and an empty one is 0.
    pub fn cursor(arg: &[u8]) -> Result<u64, CommandError> {
        let (negative, digits) = match arg {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, arg),
        };
        if digits.is_empty() {
            return if arg.is_empty() { Ok(0) } else { Err(CommandError::InvalidCursor) };
        }
        let cursor = digits.iter().try_fold(0u64, |n, d| {
            d.is_ascii_digit().then_some(())?;
            n.checked_mul(10)?.checked_add(u64::from(d - b'0'))
        });
        let cursor = cursor.ok_or(CommandError::InvalidCursor)?;
        Ok(if negative { cursor.wrapping_neg() } else { cursor })
    }

    /// Reads the cursor at argument `at` and the options behind it; TYPE is SCAN's alone. The commands on one key look
    /// at the key between the two: what is wrong with the options does not matter where there is no key.
    pub fn parse(args: Args<'a>, at: usize, with_type: bool) -> Result<Self, CommandError> {
        let cursor = Self::cursor(args.at(at))?;
        let mut scan = Self { cursor, count: 10, pattern: None, type_name: None };
        let mut i = at + 1;
        while i < args.len() {
            let value = args.get(i + 1).ok_or(CommandError::Syntax)?;
            if parse::eq_ignore_case(&args[i], "COUNT") {
                let count = parse::integer(value)?;
                scan.count = usize::try_from(count).ok().filter(|&n| n > 0).ok_or(CommandError::Syntax)?;
            } else if parse::eq_ignore_case(&args[i], "MATCH") {
                scan.pattern = (value != b"*").then_some(value);
            } else if with_type && parse::eq_ignore_case(&args[i], "TYPE") {
                scan.type_name = Some(value);
            } else {
                return Err(CommandError::Syntax);
            }
            i += 2;
        }
        Ok(scan)
    }

    /// The reply of a scan: `scan` writes items that match, counts them, and returns the next cursor.
    pub fn reply(out: &mut Encoder, scan: impl FnOnce(&mut Encoder, &mut usize) -> u64) {
        // The cursor stands in front of the items but is known behind them.
        let (mut items, mut count) = (Encoder::new(out.protocol()), 0);
        let next = scan(&mut items, &mut count);
        out.array(2);
        out.bulk(itoa::Buffer::new().format(next).as_bytes());
        out.array(count);
        out.raw(items.buffer());
    }

    pub fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_strtoul_reads_them() {
        for (text, want) in [
            ("0", Some(0)),
            ("", Some(0)),
            ("+5", Some(5)),
            ("007", Some(7)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-", None),
            (" 0", None),
            ("0 ", None),
            ("0x1", None),
        ] {
            assert_eq!(ScanArgs::cursor(text.as_bytes()).ok(), want, "{text:?}");
        }
    }
}
