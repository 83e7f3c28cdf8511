//! What a client sends: multibulk requests parsed in place, inline requests split as a shell would.
//!
//! The parser keeps its place between calls, so a large value that arrives in a thousand reads is looked at once.
//! Positions are relative to the start of the request that is being parsed: the owner of the buffer may drop
//! everything before that start at any time.

use crate::{Args, OwnedArgs, Span};

/// Bounds on what an unfinished request may announce. Redis: `proto-max-bulk-len`, and 1024*1024 arguments; before
/// authentication Redis allows 10 arguments of 16 KiB.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    pub args_max: usize,
    pub bulk_len_max: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { args_max: i32::MAX as usize, bulk_len_max: 512 << 20 }
    }
}

impl RequestLimits {
    pub const UNAUTHENTICATED: Self = Self { args_max: 10, bulk_len_max: 16384 };
}

/// Longest inline request, in bytes (Redis: PROTO_INLINE_MAX_SIZE).
const INLINE_MAX: usize = 64 * 1024;

/// The connection is told `ERR Protocol error: …` and closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("Protocol error: expected '$', got '{0}'")]
    ExpectedBulk(char),
    #[error("Protocol error: too big mbulk count string")]
    CountTooLong,
    #[error("Protocol error: too big bulk count string")]
    BulkCountTooLong,
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// One whole request at the front of the unparsed bytes.
#[derive(Debug)]
pub enum Request {
    /// Its arguments are in the parser's spans, see [`RequestParser::args`]; it takes `len` bytes.
    Multibulk { len: usize },
    /// Arguments that had to be unquoted; may be empty (an empty line, which is answered by nothing).
    Inline { len: usize, args: OwnedArgs },
}

#[derive(Debug, Default)]
pub struct RequestParser {
    /// Bytes of the present request that have been parsed.
    pos: usize,
    /// Arguments still to come; `None` before the multibulk header.
    missing: Option<usize>,
    /// Length of the argument whose header has been read.
    bulk_len: Option<usize>,
    spans: Vec<Span>,
}

impl RequestParser {
    /// Spans of the multibulk request that [`RequestParser::parse`] returned last, relative to its first byte.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The arguments of the multibulk request that `parse` returned last; `request` starts at its first byte.
    pub fn args<'a>(&'a self, request: &'a [u8]) -> Args<'a> {
        Args::new(request, &self.spans)
    }

    /// Gives back the memory that a request of many arguments took; to be called between requests.
    pub fn give_back(&mut self) {
        if self.missing.is_none() {
            self.spans = Vec::new();
        }
    }

    /// Bytes that are needed, at least, before parsing can go on: lets the owner reserve for a large value once.
    pub fn bytes_wanted(&self, available: usize) -> usize {
        match self.bulk_len {
            Some(len) => (self.pos + len + 2).saturating_sub(available),
            None => 1,
        }
    }

    /// Parses one request from `buf`, which starts at the first byte of the present request. `None`: more bytes are
    /// needed. After `Some`, the next call must be given the bytes behind this request.
    #[inline]
    pub fn parse(&mut self, buf: &[u8], limits: &RequestLimits) -> Result<Option<Request>, ProtocolError> {
        if self.missing.is_none() {
            let Some(&first) = buf.first() else { return Ok(None) };
            if first != b'*' {
                return parse_inline(buf);
            }
            self.spans.clear();
            let Some((count, next)) = header(&buf[1..]).map_err(|TooLong| ProtocolError::CountTooLong)? else {
                return Ok(None);
            };
            let count = count.ok_or(ProtocolError::MultibulkLength)?;
            let pos = 1 + next;
            if count <= 0 {
                return Ok(Some(Request::Multibulk { len: pos }));
            }
            if count as usize > limits.args_max {
                let unauthenticated = limits.args_max == RequestLimits::UNAUTHENTICATED.args_max;
                return Err(if unauthenticated && count <= i64::from(i32::MAX) {
                    ProtocolError::UnauthenticatedMultibulkLength
                } else {
                    ProtocolError::MultibulkLength
                });
            }
            self.pos = pos;
            self.missing = Some(count as usize);
        }
        while let Some(missing) = self.missing.filter(|&n| n > 0) {
            let len = match self.bulk_len {
                Some(len) => len,
                None => {
                    let Some(&first) = buf.get(self.pos) else { return Ok(None) };
                    if first != b'$' {
                        return Err(ProtocolError::ExpectedBulk(char::from(first)));
                    }
                    let Some((len, next)) =
                        header(&buf[self.pos + 1..]).map_err(|TooLong| ProtocolError::BulkCountTooLong)?
                    else {
                        return Ok(None);
                    };
                    let len = len.filter(|&n| n >= 0).ok_or(ProtocolError::BulkLength)? as usize;
                    if len > limits.bulk_len_max {
                        let unauthenticated = limits.bulk_len_max == RequestLimits::UNAUTHENTICATED.bulk_len_max;
                        return Err(if unauthenticated && len <= 512 << 20 {
                            ProtocolError::UnauthenticatedBulkLength
                        } else {
                            ProtocolError::BulkLength
                        });
                    }
                    self.pos += 1 + next;
                    self.bulk_len = Some(len);
                    len
                }
            };
            if buf.len() < self.pos + len + 2 {
                return Ok(None);
            }
            self.spans.push(Span { start: self.pos as u32, len: len as u32 });
            self.pos += len + 2;
            self.bulk_len = None;
            self.missing = Some(missing - 1);
        }
        let len = self.pos;
        self.pos = 0;
        self.missing = None;
        Ok(Some(Request::Multibulk { len }))
    }
}

struct TooLong;

/// Reads a decimal number and CRLF: (number or `None` when it is not one, bytes taken). `Ok(None)`: incomplete.
#[inline]
fn header(buf: &[u8]) -> Result<Option<(Option<i64>, usize)>, TooLong> {
    // One or two digits are by far the most frequent.
    match *buf {
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => return Ok(Some((Some(i64::from(a - b'0')), 3))),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => {
            return Ok(Some((Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')), 4)));
        }
        _ => {}
    }
    match memchr::memchr(b'\r', &buf[..buf.len().min(INLINE_MAX)]) {
        Some(end) if end + 1 < buf.len() => Ok(Some((crate::number::parse_i64(&buf[..end]), end + 2))),
        None if buf.len() >= INLINE_MAX => Err(TooLong),
        _ => Ok(None),
    }
}

fn parse_inline(buf: &[u8]) -> Result<Option<Request>, ProtocolError> {
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return if buf.len() > INLINE_MAX { Err(ProtocolError::InlineTooBig) } else { Ok(None) };
    };
    let line = buf[..end].strip_suffix(b"\r").unwrap_or(&buf[..end]);
    let args = split_args(line).ok_or(ProtocolError::UnbalancedQuotes)?;
    Ok(Some(Request::Inline { len: end + 1, args }))
}

/// Splits a line into arguments as `redis-cli` and `redis.conf` do: blanks separate, `"…"` knows `\n \r \t \b \a \xHH`
/// and `\"`, `'…'` knows only `\'`. `None`: a quote is not closed, or is followed by something other than a blank.
pub fn split_args(line: &[u8]) -> Option<OwnedArgs> {
    let mut args = OwnedArgs::default();
    let mut arg = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(args);
        }
        arg.clear();
        loop {
            match rest {
                [] => break,
                [b, tail @ ..] if b.is_ascii_whitespace() || *b == 0 => {
                    rest = tail;
                    break;
                }
                [quote @ (b'"' | b'\''), tail @ ..] => {
                    rest = unquote(*quote, tail, &mut arg)?;
                    if rest.first().is_some_and(|b| !b.is_ascii_whitespace()) {
                        return None;
                    }
                    break;
                }
                [b, tail @ ..] => {
                    arg.push(*b);
                    rest = tail;
                }
            }
        }
        args.push(&arg);
    }
}

/// Appends what stands up to the closing quote; returns what follows it.
fn unquote<'a>(quote: u8, mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match *rest {
            [] => return None,
            [b, ref tail @ ..] if b == quote => return Some(tail),
            [b'\\', b'x', h, l, ref tail @ ..] if quote == b'"' && h.is_ascii_hexdigit() && l.is_ascii_hexdigit() => {
                let digit = |c: u8| char::from(c).to_digit(16).expect("checked to be a hexadecimal digit") as u8;
                arg.push(digit(h) << 4 | digit(l));
                rest = tail;
            }
            [b'\\', b, ref tail @ ..] if quote == b'"' => {
                arg.push(match b {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                rest = tail;
            }
            [b'\\', b'\'', ref tail @ ..] if quote == b'\'' => {
                arg.push(b'\'');
                rest = tail;
            }
            [b, ref tail @ ..] => {
                arg.push(b);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(parser: &mut RequestParser, mut buf: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let mut requests = Vec::new();
        while let Some(request) = parser.parse(buf, &RequestLimits::default())? {
            let (len, args) = match &request {
                Request::Multibulk { len } => (*len, parser.args(buf)),
                Request::Inline { len, args } => (*len, args.as_args()),
            };
            requests.push(args.iter().map(<[u8]>::to_vec).collect());
            buf = &buf[len..];
        }
        Ok(requests)
    }

    fn words(text: &str) -> Vec<Vec<u8>> {
        text.split(' ').map(|w| w.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_pipeline_of_both_kinds_is_parsed() {
        let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*0\r\n*1\r\n$4\r\nPING\r\n";
        let got = all(&mut RequestParser::default(), input).unwrap();
        assert_eq!(got, [words("GET k"), words("PING"), vec![], words("PING")]);
    }

    #[test]
    fn inline_requests_are_split_as_redis_splits_them() {
        for (line, want) in [
            (&b"set k \"a b\\x41\\n\""[..], Some(vec![&b"set"[..], b"k", b"a bA\n"])),
            (b"set 'a\\'b' c", Some(vec![b"set", b"a'b", b"c"])),
            (b"set \"a\"b", None),
            (b"set \"a", None),
            (b"   ", Some(vec![])),
            (b"\"\"", Some(vec![b""])),
        ] {
            let got = split_args(line);
            let got = got.as_ref().map(|args| args.as_args().iter().collect::<Vec<_>>());
            assert_eq!(got, want);
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_refused_with_redis_s_words() {
        for (input, want) in [
            (&b"*a\r\n"[..], ProtocolError::MultibulkLength),
            (b"*1\r\n:1\r\n", ProtocolError::ExpectedBulk(':')),
            (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$999999999999\r\n", ProtocolError::BulkLength),
            (b"*99999999999\r\n", ProtocolError::MultibulkLength),
            (b"get \"\n", ProtocolError::UnbalancedQuotes),
        ] {
            assert_eq!(all(&mut RequestParser::default(), input), Err(want));
        }
        let mut parser = RequestParser::default();
        let got = parser.parse(b"*11\r\n", &RequestLimits::UNAUTHENTICATED);
        assert!(matches!(got, Err(ProtocolError::UnauthenticatedMultibulkLength)));
    }

    proptest! {
        #[test]
        fn the_parser_keeps_its_place_wherever_the_bytes_are_cut(
            requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 1..6),
            cuts in prop::collection::vec(1usize..20, 1..60),
        ) {
            let mut wire = Vec::new();
            for args in &requests {
                crate::encode_command(&mut wire, args);
            }
            let (mut parser, mut got) = (RequestParser::default(), Vec::new());
            let (mut start, mut end, mut cuts) = (0, 0, cuts.into_iter().cycle());
            while end < wire.len() {
                end = (end + cuts.next().unwrap()).min(wire.len());
                while let Some(request) = parser.parse(&wire[start..end], &RequestLimits::default()).unwrap() {
                    let Request::Multibulk { len } = request else { panic!("inline") };
                    got.push(parser.args(&wire[start..end]).iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
                    start += len;
                }
            }
            prop_assert_eq!(got, requests);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&mut RequestParser::default(), &bytes);
        }
    }
}
