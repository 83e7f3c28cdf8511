//! Replies, written straight into the output buffer in the protocol that the client speaks.

use crate::number;

/// The protocol of a connection; a new connection speaks RESP2 until it says `HELLO 3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

/// A place in the output where a length is still to be written, see [`Encoder::begin`].
#[derive(Debug)]
#[must_use]
pub struct Mark(usize);

/// Appends replies to a byte buffer. What RESP2 cannot say is said as Redis says it there: a map as a flat array,
/// a double as a bulk string, a boolean as an integer, null as `$-1`.
#[derive(Debug, Default)]
pub struct Encoder {
    buf: Vec<u8>,
    protocol: Protocol,
}

impl Encoder {
    pub fn new(protocol: Protocol) -> Self {
        Self { buf: Vec::new(), protocol }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    #[inline]
    pub fn resp3(&self) -> bool {
        self.protocol == Protocol::Resp3
    }

    pub fn buffer(&self) -> &[u8] {
        &self.buf
    }

    /// The buffer itself, for the connection to write from and clear.
    pub fn buffer_mut(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    pub fn len(&self) -> usize {
        self.buf.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Takes back everything written since `len`: for a command that fails after it began to answer.
    pub fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
    }

    /// Bytes that are already RESP.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.buf.push(kind);
        self.buf.extend_from_slice(text);
        self.buf.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn header(&mut self, kind: u8, n: usize) {
        if n < 10 {
            self.buf.extend_from_slice(&[kind, b'0' + n as u8, b'\r', b'\n']);
        } else {
            self.line(kind, itoa::Buffer::new().format(n).as_bytes());
        }
    }

    pub fn ok(&mut self) {
        self.buf.extend_from_slice(b"+OK\r\n");
    }

    /// `text` is one line; a line break in it would break the protocol, so it becomes a space.
    pub fn simple(&mut self, text: &str) {
        self.one_line(b'+', text);
    }

    /// `text` starts with the error code (`ERR …`, `WRONGTYPE …`), without the `-`.
    pub fn error(&mut self, text: &str) {
        self.one_line(b'-', text);
    }

    fn one_line(&mut self, kind: u8, text: &str) {
        self.buf.push(kind);
        self.buf.extend(text.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.buf.extend_from_slice(b"\r\n");
    }

    #[inline]
    pub fn int(&mut self, n: i64) {
        if (0..10).contains(&n) {
            self.buf.extend_from_slice(&[b':', b'0' + n as u8, b'\r', b'\n']);
        } else {
            self.line(b':', itoa::Buffer::new().format(n).as_bytes());
        }
    }

    /// A count or length; Redis's integers are signed, lengths beyond `i64::MAX` do not occur.
    #[inline]
    pub fn len_int(&mut self, n: usize) {
        self.int(n as i64);
    }

    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.buf.extend_from_slice(bytes);
        self.buf.extend_from_slice(b"\r\n");
    }

    /// An integer as a bulk string.
    pub fn bulk_int(&mut self, n: i64) {
        self.bulk(itoa::Buffer::new().format(n).as_bytes());
    }

    /// A bulk string or null.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    pub fn null(&mut self) {
        self.buf.extend_from_slice(if self.resp3() { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub fn null_array(&mut self) {
        self.buf.extend_from_slice(if self.resp3() { b"_\r\n" } else { b"*-1\r\n" });
    }

    #[inline]
    pub fn array(&mut self, n: usize) {
        self.header(b'*', n);
    }

    /// `n` pairs follow.
    pub fn map(&mut self, n: usize) {
        if self.resp3() { self.header(b'%', n) } else { self.header(b'*', n * 2) }
    }

    pub fn set(&mut self, n: usize) {
        self.header(if self.resp3() { b'~' } else { b'*' }, n);
    }

    pub fn push(&mut self, n: usize) {
        self.header(if self.resp3() { b'>' } else { b'*' }, n);
    }

    pub fn double(&mut self, value: f64) {
        let mut text = Vec::with_capacity(24);
        number::format_f64(value, &mut text);
        if self.resp3() { self.line(b',', &text) } else { self.bulk(&text) }
    }

    pub fn bool(&mut self, value: bool) {
        match (self.resp3(), value) {
            (true, true) => self.buf.extend_from_slice(b"#t\r\n"),
            (true, false) => self.buf.extend_from_slice(b"#f\r\n"),
            (false, value) => self.int(i64::from(value)),
        }
    }

    /// A text for people; `format` is three letters (`txt`, `mkd`).
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        if self.resp3() {
            self.header(b'=', text.len() + 4);
            self.buf.extend_from_slice(format.as_bytes());
            self.buf.push(b':');
            self.buf.extend_from_slice(text);
            self.buf.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// Opens an aggregate whose length is known only at its end.
    pub fn begin(&mut self) -> Mark {
        Mark(self.buf.len())
    }

    fn end(&mut self, mark: Mark, kind: u8, n: usize) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(n).as_bytes();
        let header = std::iter::once(kind).chain(digits.iter().copied()).chain(*b"\r\n");
        self.buf.splice(mark.0..mark.0, header);
    }

    pub fn end_array(&mut self, mark: Mark, n: usize) {
        self.end(mark, b'*', n);
    }

    pub fn end_set(&mut self, mark: Mark, n: usize) {
        let kind = if self.resp3() { b'~' } else { b'*' };
        self.end(mark, kind, n);
    }

    /// `n` pairs were written since `mark`.
    pub fn end_map(&mut self, mark: Mark, n: usize) {
        if self.resp3() { self.end(mark, b'%', n) } else { self.end(mark, b'*', n * 2) }
    }
}
