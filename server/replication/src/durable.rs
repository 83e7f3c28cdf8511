//! The part of a role that outlives its process: a small text file beside the data, `replication.state`.
//!
//! ```text
//! volume 00c0ffee00c0ffee     random, made with the directory
//! promised 12                 highest epoch promised
//! member 1                    belongs to this cluster and has held data
//! complete 0                  1 only after an orderly shutdown of an instance that was complete
//! ```
//! Each line once, in any order. The epoch of the history is not here: it is what the loaded data holds, never a value
//! stored ahead of it (FAILOVER, sharper rules, State); it travels in the RDB as `rr-history-epoch`.
//!
//! A file that does not read is an error and not a default: guessing could break a promise.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// Random, made with the directory.
    pub volume: u64,
    /// Highest epoch promised.
    pub promised: u64,
    /// Belongs to this cluster and has held data.
    pub member: bool,
    /// The last shutdown was orderly and the instance was complete then.
    pub complete: bool,
}

/// What is wrong with the file; says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurableError {
    #[error("bad line {0:?}: restore the file, or remove it together with the data of this instance")]
    Line(String),
    #[error(
        "the line \"{0}\" is not there exactly once: restore the file, or remove it together with the data of this instance"
    )]
    Count(&'static str),
}

const NAMES: [&str; 4] = ["volume", "promised", "member", "complete"];

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "volume {:016x}", self.volume)?;
        writeln!(f, "promised {}", self.promised)?;
        writeln!(f, "member {}", u8::from(self.member))?;
        writeln!(f, "complete {}", u8::from(self.complete))
    }
}

impl std::str::FromStr for Durable {
    type Err = DurableError;

    fn from_str(text: &str) -> Result<Self, DurableError> {
        let mut durable = Durable::default();
        let mut seen = [0; NAMES.len()];
        for line in text.lines() {
            let bad = || DurableError::Line(line.into());
            let (name, value) = line.split_once(' ').ok_or_else(bad)?;
            match name {
                "volume" => durable.volume = parse_hex16(value.as_bytes()).ok_or_else(bad)?,
                "promised" => durable.promised = resp::number::parse_u64(value.as_bytes()).ok_or_else(bad)?,
                "member" => durable.member = flag(value).ok_or_else(bad)?,
                "complete" => durable.complete = flag(value).ok_or_else(bad)?,
                _ => return Err(bad()),
            }
            let at = NAMES.iter().position(|known| *known == name).ok_or_else(bad)?;
            seen[at] += 1;
        }
        match seen.iter().position(|&n| n != 1) {
            Some(at) => Err(DurableError::Count(NAMES[at])),
            None => Ok(durable),
        }
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// An incarnation or a volume: sixteen hexadecimal digits.
pub fn parse_hex16(text: &[u8]) -> Option<u64> {
    let digits = text.len() == 16 && text.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "volume 0000000000000abc\npromised 9\nmember 1\ncomplete 0\n";

    #[test]
    fn it_is_written_as_the_head_of_this_file_says() {
        let durable = Durable { volume: 0xABC, promised: 9, member: true, complete: false };
        assert_eq!(durable.to_string(), GOOD);
        assert_eq!(GOOD.parse(), Ok(durable));
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_is_wrong() {
        let check = |from: &str, to: &str, want: DurableError| {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            assert_eq!(text.parse::<Durable>(), Err(want), "{text}");
        };
        let line = |text: &str| DurableError::Line(text.into());
        check("promised 9", "promised x", line("promised x"));
        check("promised 9", "promised -1", line("promised -1"));
        check("promised 9", "promised 99999999999999999999", line("promised 99999999999999999999"));
        check("promised 9\n", "", DurableError::Count("promised"));
        check("promised 9\n", "promised 9\npromised 8\n", DurableError::Count("promised"));
        check("member 1", "member 2", line("member 2"));
        check("member 1", "member", line("member"));
        check("complete 0\n", "comp", line("comp"));
        check("0000000000000abc", "abc", line("volume abc"));
        check("complete 0", "complete 0\nextra 1", line("extra 1"));
        assert_eq!("".parse::<Durable>(), Err(DurableError::Count("volume")));
    }

    proptest! {
        #[test]
        fn every_state_reads_back_and_no_torn_one_does(
            volume: u64, promised: u64, member: bool, complete: bool, cut in 0usize..200,
        ) {
            let durable = Durable { volume, promised, member, complete };
            let text = durable.to_string();
            prop_assert_eq!(text.parse(), Ok(durable));
            // Without its last line feed it is whole all the same.
            let cut = cut % (text.len() - 1);
            prop_assert!(text[..cut].parse::<Durable>().is_err(), "{:?}", &text[..cut]);
        }
    }
}
