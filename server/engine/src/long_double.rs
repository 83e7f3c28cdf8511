//! The arithmetic of INCRBYFLOAT and HINCRBYFLOAT: C's `long double` of x86-64, a 64-bit mantissa with an exponent.
//!
//! Redis reads both numbers with `strtold`, adds them and prints the sum with `%.17Lf`, so that 0.1 + 0.2 is 0.3 there
//! and not in `f64`. Reading and adding round to nearest, ties to even; printing is exact.

use std::cmp::Ordering;

/// Redis reads no number that is longer.
const TEXT_MAX: usize = 5 * 1024 - 1;
/// 10 to the power of so many digits is beyond the largest value (1.19e4932), or below the smallest.
const DECIMAL_EXPONENT_MAX: i64 = 4_932;
const DECIMAL_EXPONENT_MIN: i64 = -4_951;
/// The leading bit's weight in the largest and in the smallest value (a denormal one).
const BINARY_EXPONENT_MAX: i64 = 16_383;
const BINARY_EXPONENT_MIN: i64 = -16_445;
/// Digits behind the point, and their scale.
const DIGITS: usize = 17;
const SCALE: u128 = 100_000_000_000_000_000;
/// The largest power of ten in a word: nine digits at a time.
const GROUP: u32 = 1_000_000_000;

/// `mantissa * 2^exponent` with the mantissa's top bit set, or zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongDouble {
    negative: bool,
    mantissa: u64,
    exponent: i64,
    infinite: bool,
}

impl LongDouble {
    pub const ZERO: Self = Self { negative: false, mantissa: 0, exponent: 0, infinite: false };

    pub fn is_finite(self) -> bool {
        !self.infinite
    }

    /// Reads a whole text as `strtold` does: decimal or hexadecimal with an exponent, `inf`, `infinity`; no blanks, no
    /// NaN. A number out of range is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(Self { negative, infinite: true, ..Self::ZERO });
        }
        let magnitude = match digits {
            [b'0', b'x' | b'X', hex @ ..] => parse_hexadecimal(hex)?,
            _ => parse_decimal(digits)?,
        };
        Some(Self { negative, ..magnitude })
    }

    fn magnitude_cmp(self, other: Self) -> Ordering {
        let weight = |it: Self| (it.mantissa != 0, it.exponent, it.mantissa);
        weight(self).cmp(&weight(other))
    }

    /// As `%.17Lf` without trailing zeros. The value is finite.
    pub fn format(self) -> String {
        let mut text = String::new();
        let fraction = if self.exponent >= 0 {
            let mut number = Big::from_u64(self.mantissa);
            number.shift_left(self.exponent as usize);
            text = number.into_decimal();
            0
        } else {
            let scaled = round_shift(u128::from(self.mantissa) * SCALE, self.exponent.unsigned_abs());
            text.push_str(itoa::Buffer::new().format(scaled / SCALE));
            scaled % SCALE
        };
        if fraction != 0 {
            text.push('.');
            text.push_str(format!("{fraction:0DIGITS$}").trim_end_matches('0'));
        }
        if self.negative && text != "0" {
            text.insert(0, '-');
        }
        text
    }
}

impl std::ops::Add for LongDouble {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        match (self.infinite, other.infinite) {
            (true, _) => return self,
            (_, true) => return other,
            _ => {}
        }
        let (big, small) = if self.magnitude_cmp(other) == Ordering::Less { (other, self) } else { (self, other) };
        if small.mantissa == 0 {
            return if big.mantissa == 0 { Self { negative: big.negative && small.negative, ..big } } else { big };
        }
        // 63 guard bits; what is shifted out beyond them only matters as "not zero".
        let shift = big.exponent - small.exponent;
        let a = u128::from(big.mantissa) << 63;
        let b = u128::from(small.mantissa) << 63;
        let b = if shift < 127 { b >> shift | u128::from(b & ((1 << shift) - 1) != 0) } else { 1 };
        let sum = if big.negative == small.negative { a + b } else { a - b };
        let rounded =
            round(&[sum as u32, (sum >> 32) as u32, (sum >> 64) as u32, (sum >> 96) as u32], big.exponent - 63);
        // The sum of opposites is +0.
        Self { negative: big.negative && rounded.mantissa != 0, ..rounded }
    }
}

/// `value >> shift`, rounded to nearest, ties to even. `value` is below 2^127.
fn round_shift(value: u128, shift: u64) -> u128 {
    if shift >= 128 {
        return 0;
    }
    let (kept, lost) = (value >> shift, value & ((1 << shift) - 1));
    let half = 1u128 << (shift - 1);
    kept + u128::from(lost > half || (lost == half && kept & 1 == 1))
}

fn parse_decimal(text: &[u8]) -> Option<LongDouble> {
    let (mantissa, exponent) = split_exponent(text, b'e', b'E')?;
    let mut digits = Big::default();
    let (count, behind_point) = each_digit(mantissa, 10, |d| digits.multiply_add(10, d))?;
    let exponent = exponent - behind_point;
    if digits.is_zero() {
        return Some(LongDouble::ZERO);
    }
    // Guards the size of the powers below; what is near a limit is judged after rounding.
    if exponent + count > DECIMAL_EXPONENT_MAX + 2 + TEXT_MAX as i64 || exponent + count < DECIMAL_EXPONENT_MIN - 2 {
        return None;
    }
    in_range(if exponent >= 0 {
        digits.multiply_by_power_of_ten(exponent as u64);
        round(&digits.0, 0)
    } else {
        let mut power = Big::from_u64(1);
        power.multiply_by_power_of_ten(exponent.unsigned_abs());
        divide(digits, power)
    })
}

fn parse_hexadecimal(text: &[u8]) -> Option<LongDouble> {
    let (mantissa, exponent) = split_exponent(text, b'p', b'P')?;
    let mut digits = Big::default();
    let (_, behind_point) = each_digit(mantissa, 16, |d| digits.multiply_add(16, d))?;
    in_range(round(&digits.0, exponent - 4 * behind_point))
}

fn in_range(it: LongDouble) -> Option<LongDouble> {
    let weight = it.exponent + 63;
    (it.mantissa == 0 || (BINARY_EXPONENT_MIN..=BINARY_EXPONENT_MAX).contains(&weight)).then_some(it)
}

/// Splits at the exponent's letter; an exponent has a sign or none, and at least one digit.
fn split_exponent(text: &[u8], lower: u8, upper: u8) -> Option<(&[u8], i64)> {
    let Some(at) = text.iter().position(|&b| b == lower || b == upper) else { return Some((text, 0)) };
    let (negative, digits) = match &text[at + 1..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return None;
    }
    let mut exponent = 0i64;
    for &d in digits {
        // Far beyond any range is as good as farther.
        exponent = (exponent * 10 + i64::from(d.is_ascii_digit().then(|| d - b'0')?)).min(1 << 40);
    }
    Some((&text[..at], if negative { -exponent } else { exponent }))
}

/// Calls `f` for each digit; returns their number and how many stand behind the point. `None`: something else is there,
/// or nothing.
fn each_digit(text: &[u8], radix: u32, mut f: impl FnMut(u32)) -> Option<(i64, i64)> {
    let (mut count, mut point) = (0i64, None);
    for &byte in text {
        if byte == b'.' && point.is_none() {
            point = Some(count);
        } else {
            f(char::from(byte).to_digit(radix)?);
            count += 1;
        }
    }
    (count > 0).then(|| (count, point.map_or(0, |at| count - at)))
}

/// The 64 leading bits of `words * 2^exponent`, to nearest even; zero stays zero.
fn round(words: &[u32], exponent: i64) -> LongDouble {
    let bit = |i: usize| words[i / 32] >> (i % 32) & 1 == 1;
    let Some(top) = words.iter().rposition(|&w| w != 0).map(|w| w * 32 + 31 - words[w].leading_zeros() as usize) else {
        return LongDouble::ZERO;
    };
    let mut mantissa = (0..64.min(top + 1)).fold(0u64, |m, i| m << 1 | u64::from(bit(top - i)));
    let mut exponent = exponent + top as i64 - 63;
    if top < 64 {
        mantissa <<= 63 - top;
    } else {
        let half = bit(top - 64);
        let rest = (0..top - 64).any(bit);
        if half && (rest || mantissa & 1 == 1) {
            // A carry out of the mantissa leaves 2^64: the next power of two.
            mantissa = mantissa.checked_add(1).unwrap_or_else(|| {
                exponent += 1;
                1 << 63
            });
        }
    }
    LongDouble { negative: false, mantissa, exponent, infinite: exponent + 63 > BINARY_EXPONENT_MAX }
}

/// `a / b`, rounded: 66 or 67 bits of the quotient, and whether anything is left.
fn divide(mut a: Big, mut b: Big) -> LongDouble {
    let difference = b.bits() as i64 - a.bits() as i64;
    if difference > 0 {
        a.shift_left(difference as usize)
    } else {
        b.shift_left(-difference as usize)
    }
    // Now a and b have equally many bits: the quotient's first bit, perhaps 0, is the one before the point.
    const BITS: u32 = 67;
    let mut quotient = 0u128;
    for _ in 0..BITS {
        quotient <<= 1;
        if a.cmp(&b) != Ordering::Less {
            a.subtract(&b);
            quotient |= 1;
        }
        a.shift_left(1);
    }
    quotient = quotient << 1 | u128::from(!a.is_zero());
    let words = [quotient as u32, (quotient >> 32) as u32, (quotient >> 64) as u32];
    round(&words, -difference - i64::from(BITS))
}

/// An unsigned integer of any size, lowest word first, without leading zero words.
#[derive(Debug, Default, Clone)]
struct Big(Vec<u32>);

impl Big {
    fn from_u64(n: u64) -> Self {
        let mut it = Self(vec![n as u32, (n >> 32) as u32]);
        it.trim();
        it
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn trim(&mut self) {
        let len = self.0.iter().rposition(|&w| w != 0).map_or(0, |i| i + 1);
        self.0.truncate(len);
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |top| self.0.len() * 32 - top.leading_zeros() as usize)
    }

    fn multiply_add(&mut self, factor: u32, mut carry: u32) {
        for word in &mut self.0 {
            let wide = u64::from(*word) * u64::from(factor) + u64::from(carry);
            *word = wide as u32;
            carry = (wide >> 32) as u32;
        }
        if carry != 0 {
            self.0.push(carry);
        }
    }

    fn multiply_by_power_of_ten(&mut self, n: u64) {
        (0..n / 9).for_each(|_| self.multiply_add(GROUP, 0));
        (0..n % 9).for_each(|_| self.multiply_add(10, 0));
    }

    fn shift_left(&mut self, n: usize) {
        if self.is_zero() {
            return;
        }
        let bits = n as u32 % 32;
        let mut carry = 0u32;
        if bits != 0 {
            for word in &mut self.0 {
                let wide = u64::from(*word) << bits | u64::from(carry);
                *word = wide as u32;
                carry = (wide >> 32) as u32;
            }
        }
        if carry != 0 {
            self.0.push(carry);
        }
        if n >= 32 {
            self.0.splice(0..0, std::iter::repeat_n(0, n / 32));
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// `other` is not larger.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (i, word) in self.0.iter_mut().enumerate() {
            let (less, a) = word.overflowing_sub(other.0.get(i).copied().unwrap_or(0));
            let (less, b) = less.overflowing_sub(u32::from(borrow));
            *word = less;
            borrow = a || b;
        }
        self.trim();
    }

    fn into_decimal(mut self) -> String {
        let mut groups = Vec::new();
        while !self.is_zero() {
            let mut rest = 0u64;
            for word in self.0.iter_mut().rev() {
                let wide = rest << 32 | u64::from(*word);
                *word = (wide / u64::from(GROUP)) as u32;
                rest = wide % u64::from(GROUP);
            }
            groups.push(rest);
            self.trim();
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        groups.iter().rev().for_each(|group| text.push_str(&format!("{group:09}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(a: &str, b: &str) -> String {
        let read = |text: &str| LongDouble::parse(text.as_bytes()).expect("a number");
        (read(a) + read(b)).format()
    }

    /// The sums of `tests/transcripts/hashes.txt` come from redis-server; these are the edges of the arithmetic.
    #[test]
    fn sums_are_those_of_a_long_double() {
        for (a, b, want) in [
            ("0.1", "0.2", "0.3"),
            ("3.0e3", "2.0e2", "3200"),
            ("18446744073709551615", "1", "18446744073709551616"),
            // 2^64 + 1 has 65 bits: a tie, to even.
            ("18446744073709551616", "1", "18446744073709551616"),
            ("18446744073709551616", "3", "18446744073709551620"),
            ("1e-17", "-1e-17", "0"),
            ("-1", "1", "0"),
            ("-0", "-0", "0"),
            ("-1e-30", "0", "0"),
            ("1e30", "1", "1000000000000000000024696061952"),
            ("0.333333333333333333333333", "0", "0.33333333333333333"),
            ("0x1.8p1", "0", "3"),
            ("9223372036854775807", "1", "9223372036854775808"),
        ] {
            assert_eq!(sum(a, b), want, "{a} + {b}");
        }
    }

    #[test]
    fn the_range_is_that_of_a_long_double() {
        let read = |text: &str| LongDouble::parse(text.as_bytes());
        let max = read("1.18973149535723176502e+4932").expect("the largest");
        assert!(!(max + max).is_finite());
        assert_eq!(max + LongDouble { negative: true, ..max }, LongDouble::ZERO);
        assert!(read("1e-4940").is_some());
        for text in [
            "1.2e4932",
            "1e5000",
            "-1e99999999999999999999",
            "1e-5000",
            "nan",
            "",
            "-",
            ".",
            "e5",
            "1e",
            "1e+",
            "0x",
            "0xp1",
            "1.2.3",
            "1_0",
            " 1",
            "1 ",
            "١",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert_eq!(read("0e99999999"), Some(LongDouble::ZERO));
        assert!(read("-iNf").is_some_and(|it| !it.is_finite()));
        assert!(read(&"9".repeat(4000)).is_some() && read(&"0".repeat(5120)).is_none());
    }

    proptest! {
        /// Integers below 2^63 are exact, and so are sums of fractions with few binary digits.
        #[test]
        fn integers_and_binary_fractions_add_exactly(a in -(1i64 << 40)..1 << 40, b in -(1i64 << 40)..1 << 40) {
            prop_assert_eq!(sum(&a.to_string(), &b.to_string()), (a + b).to_string());
            let want = format!("{:.17}", (a + b) as f64 / 1024.0);
            let want = want.trim_end_matches('0').trim_end_matches('.');
            let want = if want == "-0" { "0" } else { want };
            prop_assert_eq!(sum(&format!("{:.10}", a as f64 / 1024.0), &format!("{:.10}", b as f64 / 1024.0)), want);
        }

        #[test]
        fn any_text_is_refused_or_read(text in "[-+0-9.eExXpPaAiInNfF]{0,12}") {
            if let Some(it) = LongDouble::parse(text.as_bytes()).filter(|it| it.is_finite()) {
                prop_assert!(LongDouble::parse(it.format().as_bytes()).is_some());
            }
        }
    }
}
