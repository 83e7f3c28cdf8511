//! What SCAN, HSCAN, SSCAN and ZSCAN have in common.

use resp::Args;

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
    /// Reads the cursor at argument `at` and the options behind it; TYPE is SCAN's alone.
    pub fn parse(args: Args<'a>, at: usize, with_type: bool) -> Result<Self, CommandError> {
        let cursor = std::str::from_utf8(args.at(at)).ok().and_then(|t| t.parse().ok());
        let cursor = cursor.ok_or(CommandError::InvalidCursor)?;
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

    pub fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}
