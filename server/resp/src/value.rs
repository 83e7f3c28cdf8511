//! Replies as a client reads them.

use std::fmt;

/// One reply. RESP3's attributes are read and dropped; a push is an ordinary value of its own kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    Double(f64),
    Bool(bool),
    BigNumber(String),
    Verbatim(String, Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("reply starts with byte 0x{0:02x}, which is no RESP type")]
    Type(u8),
    #[error("reply has a malformed number: {0:?}")]
    Number(String),
    #[error("reply announces {0} bytes or elements, more than is allowed")]
    TooLarge(i64),
    #[error("reply is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("reply misses the CRLF behind a bulk string")]
    MissingCrlf,
}

const DEPTH_MAX: usize = 64;
const LEN_MAX: i64 = 1 << 32;

impl Value {
    /// The bytes of a text-like value (simple, bulk, verbatim, big number).
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(text) | Value::BigNumber(text) => Some(text.as_bytes()),
            Value::Bulk(bytes) | Value::Verbatim(_, bytes) => Some(bytes),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// An integer, also one that came as text.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => self.as_str()?.parse().ok(),
        }
    }

    /// Elements of an array, set or push.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => Some(items),
            _ => None,
        }
    }

    /// Pairs of a map, or of the flat array that stands for one in RESP2.
    pub fn into_pairs(self) -> Option<Vec<(Value, Value)>> {
        match self {
            Value::Map(pairs) => Some(pairs),
            Value::Array(items) if items.len() % 2 == 0 => {
                let mut items = items.into_iter();
                let mut pairs = Vec::with_capacity(items.len() / 2);
                while let (Some(k), Some(v)) = (items.next(), items.next()) {
                    pairs.push((k, v));
                }
                Some(pairs)
            }
            _ => None,
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }
}

/// For messages and logs; not the wire form.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Simple(text) | Value::BigNumber(text) => f.write_str(text),
            Value::Error(text) => write!(f, "(error) {text}"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Bulk(bytes) | Value::Verbatim(_, bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Value::Null => f.write_str("(nil)"),
            Value::Double(d) => write!(f, "{d}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Array(items) | Value::Set(items) | Value::Push(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Value::Map(pairs) => {
                f.write_str("{")?;
                for (i, (k, v)) in pairs.iter().enumerate() {
                    write!(f, "{}{k}: {v}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Appends a command as a multibulk request.
pub fn encode_command<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    let mut n = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(n.format(args.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for arg in args {
        let arg = arg.as_ref();
        out.push(b'$');
        out.extend_from_slice(n.format(arg.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Decodes one reply from the front of `buf`: the value and the bytes that it takes; `None` while it is incomplete.
pub fn decode_reply(buf: &[u8]) -> Result<Option<(Value, usize)>, DecodeError> {
    let mut reader = Reader { buf, pos: 0 };
    Ok(reader.value(0)?.map(|value| (value, reader.pos)))
}

struct Reader<'a> {
    buf: &'a [u8],
    pos: usize,
}

/// `Ok(None)` everywhere: the bytes end here.
impl<'a> Reader<'a> {
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.buf[self.pos..];
        let end = memchr::memchr(b'\n', rest)?;
        self.pos += end + 1;
        Some(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
    }

    fn number(line: &[u8]) -> Result<i64, DecodeError> {
        let text = line.strip_prefix(b"+").unwrap_or(line);
        crate::number::parse_i64(text).ok_or_else(|| DecodeError::Number(text_of(line)))
    }

    fn bulk(&mut self, len: i64) -> Result<Option<&'a [u8]>, DecodeError> {
        if !(0..=LEN_MAX).contains(&len) {
            return Err(DecodeError::TooLarge(len));
        }
        let len = len as usize;
        let rest = &self.buf[self.pos..];
        if rest.len() < len + 2 {
            return Ok(None);
        }
        if &rest[len..len + 2] != b"\r\n" {
            return Err(DecodeError::MissingCrlf);
        }
        self.pos += len + 2;
        Ok(Some(&rest[..len]))
    }

    fn list(&mut self, n: i64, depth: usize) -> Result<Option<Vec<Value>>, DecodeError> {
        if !(0..=LEN_MAX).contains(&n) {
            return Err(DecodeError::TooLarge(n));
        }
        // Every element takes at least three bytes: what has not been received reserves nothing.
        let mut items = Vec::with_capacity((n as usize).min((self.buf.len() - self.pos) / 3 + 1));
        for _ in 0..n {
            match self.value(depth + 1)? {
                Some(value) => items.push(value),
                None => return Ok(None),
            }
        }
        Ok(Some(items))
    }

    fn value(&mut self, depth: usize) -> Result<Option<Value>, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        let Some(&kind) = self.buf.get(self.pos) else { return Ok(None) };
        if !b"+-:$*%~>,#_(=|!".contains(&kind) {
            return Err(DecodeError::Type(kind));
        }
        self.pos += 1;
        let Some(line) = self.line() else { return Ok(None) };
        Ok(Some(match kind {
            b'+' => Value::Simple(text_of(line)),
            b'-' => Value::Error(text_of(line)),
            b':' => Value::Int(Self::number(line)?),
            b'$' | b'=' | b'!' => {
                let len = Self::number(line)?;
                if len == -1 {
                    return Ok(Some(Value::Null));
                }
                let Some(bytes) = self.bulk(len)? else { return Ok(None) };
                match kind {
                    b'$' => Value::Bulk(bytes.to_vec()),
                    b'!' => Value::Error(text_of(bytes)),
                    _ => match bytes.get(3) {
                        Some(b':') => Value::Verbatim(text_of(&bytes[..3]), bytes[4..].to_vec()),
                        _ => Value::Bulk(bytes.to_vec()),
                    },
                }
            }
            b'*' | b'~' | b'>' => {
                let n = Self::number(line)?;
                if n == -1 {
                    return Ok(Some(Value::Null));
                }
                let Some(items) = self.list(n, depth)? else { return Ok(None) };
                match kind {
                    b'*' => Value::Array(items),
                    b'~' => Value::Set(items),
                    _ => Value::Push(items),
                }
            }
            b'%' | b'|' => {
                let n = Self::number(line)?;
                let Some(items) = self.list(n.saturating_mul(2), depth)? else { return Ok(None) };
                if kind == b'|' {
                    return self.value(depth + 1);
                }
                let mut items = items.into_iter();
                let mut pairs = Vec::with_capacity(items.len() / 2);
                while let (Some(k), Some(v)) = (items.next(), items.next()) {
                    pairs.push((k, v));
                }
                Value::Map(pairs)
            }
            b',' => {
                let text = text_of(line);
                Value::Double(text.parse().map_err(|_| DecodeError::Number(text))?)
            }
            b'#' => Value::Bool(line == b"t"),
            b'_' => Value::Null,
            _ => Value::BigNumber(text_of(line)),
        }))
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoder, Protocol};

    fn check(wire: &[u8], want: Value) {
        assert_eq!(decode_reply(wire), Ok(Some((want, wire.len()))));
        for cut in 0..wire.len() {
            assert_eq!(decode_reply(&wire[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn what_the_encoder_writes_is_read_back() {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let mut out = Encoder::new(protocol);
            out.array(9);
            out.ok();
            out.error("ERR no\r\nway");
            out.int(-12345);
            out.bulk(b"a\r\nb");
            out.null();
            out.double(1.5);
            out.bool(true);
            let mark = out.begin();
            out.bulk(b"k");
            out.int(1);
            out.end_map(mark, 1);
            out.verbatim("txt", b"hello");
            let (key, one) = (Value::Bulk(b"k".to_vec()), Value::Int(1));
            let resp3 = protocol == Protocol::Resp3;
            check(
                out.buffer(),
                Value::Array(vec![
                    Value::Simple("OK".into()),
                    Value::Error("ERR no  way".into()),
                    Value::Int(-12345),
                    Value::Bulk(b"a\r\nb".to_vec()),
                    Value::Null,
                    if resp3 { Value::Double(1.5) } else { Value::Bulk(b"1.5".to_vec()) },
                    if resp3 { Value::Bool(true) } else { Value::Int(1) },
                    if resp3 { Value::Map(vec![(key, one)]) } else { Value::Array(vec![key, one]) },
                    if resp3 {
                        Value::Verbatim("txt".into(), b"hello".to_vec())
                    } else {
                        Value::Bulk(b"hello".to_vec())
                    },
                ]),
            );
        }
    }

    #[test]
    fn garbage_is_an_error_and_announced_sizes_reserve_nothing() {
        assert_eq!(decode_reply(b"x\r\n"), Err(DecodeError::Type(b'x')));
        assert_eq!(decode_reply(b":12a\r\n"), Err(DecodeError::Number("12a".into())));
        assert_eq!(decode_reply(b"*4000000000\r\n"), Ok(None));
        assert_eq!(decode_reply(b"*99999999999\r\n"), Err(DecodeError::TooLarge(99999999999)));
        assert_eq!(decode_reply(&b"*1\r\n".repeat(100)), Err(DecodeError::TooDeep));
    }
}
