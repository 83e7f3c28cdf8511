//! Reading arguments.

use crate::CommandError;

/// An integer argument, read as strictly as Redis does.
#[inline]
pub fn integer(arg: &[u8]) -> Result<i64, CommandError> {
    resp::number::parse_i64(arg).ok_or(CommandError::NotInteger)
}

/// A number of things: `0..=i64::MAX`, with Redis's error for a negative one.
pub fn count(arg: &[u8]) -> Result<usize, CommandError> {
    usize::try_from(resp::number::parse_i64(arg).ok_or(CommandError::NotPositive)?)
        .map_err(|_| CommandError::NotPositive)
}

/// A floating point argument as Redis reads it: C's `strtod` on the whole argument (decimal, exponent, hexadecimal,
/// `inf` and `infinity`, any sign and case), without blanks, NaN and numbers that a double cannot hold.
pub fn float(arg: &[u8]) -> Result<f64, CommandError> {
    float_or_none(arg).ok_or(CommandError::NotFloat)
}

pub fn float_or_none(arg: &[u8]) -> Option<f64> {
    let value = strtod(arg)?;
    let digits = arg.strip_prefix(b"-").or(arg.strip_prefix(b"+")).unwrap_or(arg);
    let exact = match value {
        0.0 => digits.iter().take_while(|b| !matches!(b, b'e' | b'E' | b'p' | b'P')).all(|b| !matches!(b, b'1'..=b'9')),
        _ if value.is_infinite() => digits[0].is_ascii_alphabetic(),
        _ => true,
    };
    exact.then_some(value)
}

/// An end of a range of scores, `(` already taken off: `strtod` as C has it. Blanks in front are skipped, no text at all
/// is 0, what is too large is infinite; NaN is refused.
pub fn score_bound(arg: &[u8]) -> Option<f64> {
    let text = arg.split(|&b| b == 0).next()?.trim_ascii_start();
    if text.is_empty() {
        // Blanks alone are no number, so C stops in front of them.
        return arg.is_empty().then_some(0.0);
    }
    strtod(text)
}

/// `strtod` where it takes all of a text that begins with no blank; not for NaN.
fn strtod(arg: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(arg).ok()?;
    let (sign, digits) = match arg.first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return hex_float(hex).map(|v| sign * v);
    }
    match digits.bytes().next()? {
        b'0'..=b'9' | b'.' => digits.parse::<f64>().ok().map(|v| sign * v),
        _ if digits.eq_ignore_ascii_case("inf") || digits.eq_ignore_ascii_case("infinity") => {
            Some(sign * f64::INFINITY)
        }
        _ => None,
    }
}

fn hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.find(['p', 'P']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0f64;
    for c in whole.chars() {
        value = value * 16.0 + f64::from(c.to_digit(16)?);
    }
    let mut scale = 1.0 / 16.0;
    for c in fraction.chars() {
        value += f64::from(c.to_digit(16)?) * scale;
        scale /= 16.0;
    }
    let value = value * f64::from(exponent).exp2();
    Some(value)
}

/// Appends a double as in replies, see [`resp::number::format_f64`].
pub fn format_double(value: f64, out: &mut Vec<u8>) {
    resp::number::format_f64(value, out);
}

/// Compares an argument with an upper- or lower-case word.
#[inline]
pub fn eq_ignore_case(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// A pair of relative indexes (negative: from the end) as the half-open range that they mean in a sequence of `len`;
/// `None` when nothing is in it.
pub fn range(start: i64, end: i64, len: usize) -> Option<std::ops::Range<usize>> {
    let len = len as i64;
    let from_end = |i: i64| if i < 0 { i.saturating_add(len) } else { i };
    let (start, end) = (from_end(start).max(0), from_end(end).min(len - 1));
    (start <= end && start < len).then(|| start as usize..end as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_as_redis_reads_them() {
        for (text, want) in [
            ("1.5", Some(1.5)),
            ("-.5", Some(-0.5)),
            ("+inf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("1e3", Some(1000.0)),
            ("0x1p3", Some(8.0)),
            ("nan", None),
            (" 1", None),
            ("1 ", None),
            ("", None),
            ("1e400", None),
            ("1e-400", None),
            ("0e-400", Some(0.0)),
            ("4.9406564584124654e-324", Some(f64::from_bits(1))),
            ("0x", None),
            ("0x1p9999", None),
            (".", None),
            ("infinit", None),
            ("abc", None),
            ("--1", None),
        ] {
            assert_eq!(float_or_none(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn ends_of_score_ranges_are_read_as_c_reads_them() {
        for (text, want) in [
            ("", Some(0.0)),
            ("  1", Some(1.0)),
            ("1 ", None),
            (" ", None),
            ("1\0x", Some(1.0)),
            ("-1e400", Some(f64::NEG_INFINITY)),
            ("1e-400", Some(0.0)),
            ("nan", None),
            ("(1", None),
        ] {
            assert_eq!(score_bound(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_sequence() {
        assert_eq!(range(0, -1, 3), Some(0..3));
        assert_eq!(range(-2, -1, 3), Some(1..3));
        assert_eq!(range(-100, 1, 3), Some(0..2));
        assert_eq!(range(2, 1, 3), None);
        assert_eq!(range(3, 9, 3), None);
        assert_eq!(range(0, -1, 0), None);
    }
}
