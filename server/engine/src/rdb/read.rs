//! Reading, from any stream of bytes. Nothing is believed: sizes reserve only what has arrived, packed values are
//! checked entry by entry, and what is wrong is said with the place where it stands.

use std::io::{self, Read};

use super::{Crc64, kind, lzf, old, op};
use crate::Limits;
use crate::keyspace::Value;
use crate::types::{Hash, Intset, Kind, List, Listpack, Object, Set, ZSet, list::End};

/// Newest version that we understand.
const VERSION_MAX: u32 = 12;
const BUFFER: usize = 64 * 1024;
/// Largest piece that is reserved before its bytes have come.
const RESERVE: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RdbError {
    #[error("RDB ends too early, at byte {offset}: {source}")]
    Io { offset: u64, source: io::Error },
    #[error("not an RDB file: it does not begin with REDIS and a version")]
    Magic,
    #[error("RDB version {0} is not supported; this server reads versions 1 to {VERSION_MAX}")]
    Version(u32),
    #[error("RDB checksum is wrong: the file says {expected:016x}, its bytes give {found:016x}")]
    Checksum { expected: u64, found: u64 },
    #[error("RDB is corrupt at byte {offset}{}: {what}", .key.as_ref().map(|k| format!(", key {k:?}")).unwrap_or_default())]
    Corrupt { offset: u64, key: Option<String>, what: &'static str },
    #[error("RDB has a value of type {kind} at byte {offset}{}, which this server does not know (streams and modules are not supported yet)", .key.as_ref().map(|k| format!(", key {k:?}")).unwrap_or_default())]
    Type { offset: u64, key: Option<String>, kind: u8 },
}

/// What the file says next.
#[derive(Debug)]
pub enum Event {
    Aux(Vec<u8>, Vec<u8>),
    SelectDb(u64),
    /// Keys, keys with an expiry: a hint.
    Resize(u64, u64),
    /// A script library: kept by nobody yet.
    Function,
    Entry {
        key: Vec<u8>,
        value: Value,
        expires_ms: Option<u64>,
        idle_seconds: Option<u64>,
    },
    /// The end, checksum verified.
    End,
}

/// Reads one RDB from a stream.
#[derive(Debug)]
pub struct Reader<'l, R> {
    input: R,
    buf: Vec<u8>,
    /// The unread bytes are `buf[at..]`.
    at: usize,
    /// Bytes of `buf` that the checksum does not cover yet begin here.
    summed: usize,
    crc: Crc64,
    /// Offset of `buf[0]` in the stream.
    base: u64,
    verify: bool,
    version: u32,
    limits: &'l Limits,
    key: Option<Vec<u8>>,
}

impl<'l, R: Read> Reader<'l, R> {
    /// Reads the header. `verify`: the checksum must be right (a file without one says 0).
    pub fn new(input: R, verify: bool, limits: &'l Limits) -> Result<Self, RdbError> {
        let mut reader = Self {
            input,
            buf: Vec::new(),
            at: 0,
            summed: 0,
            crc: Crc64::default(),
            base: 0,
            verify,
            version: 0,
            limits,
            key: None,
        };
        let head: [u8; 9] = reader.array()?;
        let version = head.strip_prefix(b"REDIS").and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
        reader.version = version.ok_or(RdbError::Magic)?;
        if !(1..=VERSION_MAX).contains(&reader.version) {
            return Err(RdbError::Version(reader.version));
        }
        Ok(reader)
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    fn corrupt(&self, what: &'static str) -> RdbError {
        RdbError::Corrupt { offset: self.offset(), key: self.key_name(), what }
    }

    fn key_name(&self) -> Option<String> {
        self.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned())
    }

    fn sum(&mut self) {
        if self.verify {
            self.crc.update(&self.buf[self.summed..self.at]);
        }
        self.summed = self.at;
    }

    /// Makes at least one unread byte available.
    fn fill(&mut self) -> Result<(), RdbError> {
        self.sum();
        self.base += self.at as u64;
        self.buf.drain(..self.at);
        (self.at, self.summed) = (0, 0);
        let have = self.buf.len();
        self.buf.resize(have + BUFFER, 0);
        let read = loop {
            match self.input.read(&mut self.buf[have..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let n = match read {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            other => other,
        };
        match n {
            Ok(n) => {
                self.buf.truncate(have + n);
                Ok(())
            }
            Err(source) => {
                self.buf.truncate(have);
                Err(RdbError::Io { offset: self.offset(), source })
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        while self.buf.len() - self.at < N {
            self.fill()?;
        }
        let bytes = self.buf[self.at..self.at + N].try_into().expect("N bytes are there");
        self.at += N;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, RdbError> {
        if self.at == self.buf.len() {
            self.fill()?;
        }
        self.at += 1;
        Ok(self.buf[self.at - 1])
    }

    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, RdbError> {
        let mut left = usize::try_from(len).map_err(|_| self.corrupt("a length beyond memory"))?;
        let mut out = Vec::with_capacity(left.min(RESERVE));
        while left > 0 {
            if self.at == self.buf.len() {
                self.fill()?;
            }
            let n = left.min(self.buf.len() - self.at);
            out.extend_from_slice(&self.buf[self.at..self.at + n]);
            self.at += n;
            left -= n;
        }
        Ok(out)
    }

    /// A length, or the number of a special string encoding.
    fn length_or_encoding(&mut self) -> Result<Result<u64, u8>, RdbError> {
        let first = self.byte()?;
        Ok(Ok(match first >> 6 {
            0 => u64::from(first),
            1 => u64::from(first & 0x3F) << 8 | u64::from(self.byte()?),
            2 if first == 0x80 => u64::from(u32::from_be_bytes(self.array()?)),
            2 if first == 0x81 => u64::from_be_bytes(self.array()?),
            2 => return Err(self.corrupt("no such length encoding")),
            _ => return Ok(Err(first & 0x3F)),
        }))
    }

    fn length(&mut self) -> Result<u64, RdbError> {
        self.length_or_encoding()?.map_err(|_| self.corrupt("a length was expected"))
    }

    fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        let text = |n: i64| n.to_string().into_bytes();
        match self.length_or_encoding()? {
            Ok(len) => self.bytes(len),
            Err(0) => Ok(text(i64::from(self.byte()? as i8))),
            Err(1) => Ok(text(i64::from(i16::from_le_bytes(self.array()?)))),
            Err(2) => Ok(text(i64::from(i32::from_le_bytes(self.array()?)))),
            Err(3) => {
                let (packed, len) = (self.length()?, self.length()?);
                let packed = self.bytes(packed)?;
                let len = usize::try_from(len).map_err(|_| self.corrupt("a length beyond memory"))?;
                lzf::decompress(&packed, len).ok_or_else(|| self.corrupt("a compressed string that is not LZF"))
            }
            Err(_) => Err(self.corrupt("no such string encoding")),
        }
    }

    /// The next event; nothing may be read after [`Event::End`].
    pub fn read(&mut self) -> Result<Event, RdbError> {
        let (mut expires_ms, mut idle_seconds) = (None, None);
        self.key = None;
        loop {
            match self.byte()? {
                op::AUX => return Ok(Event::Aux(self.string()?, self.string()?)),
                op::SELECT_DB => return Ok(Event::SelectDb(self.length()?)),
                op::RESIZE_DB => return Ok(Event::Resize(self.length()?, self.length()?)),
                op::FUNCTION2 => {
                    self.string()?;
                    return Ok(Event::Function);
                }
                op::MODULE_AUX => {
                    return Err(RdbError::Type { offset: self.offset(), key: None, kind: op::MODULE_AUX });
                }
                op::EXPIRE_MS => expires_ms = Some(u64::from_le_bytes(self.array()?)),
                op::EXPIRE_S => expires_ms = Some(u64::from(u32::from_le_bytes(self.array()?)) * 1000),
                op::IDLE => idle_seconds = Some(self.length()?),
                op::FREQ => {
                    self.byte()?;
                }
                op::EOF => {
                    self.check_end()?;
                    return Ok(Event::End);
                }
                kind => {
                    self.key = Some(self.string()?);
                    let value = self.value(kind)?;
                    let key = self.key.take().expect("it was set above");
                    return Ok(Event::Entry { key, value, expires_ms, idle_seconds });
                }
            }
        }
    }

    fn check_end(&mut self) -> Result<(), RdbError> {
        if self.version < 5 {
            return Ok(());
        }
        self.sum();
        let found = self.crc.value();
        let expected = u64::from_le_bytes(self.array()?);
        self.summed = self.at;
        if self.verify && expected != 0 && expected != found {
            return Err(RdbError::Checksum { expected, found });
        }
        Ok(())
    }

    fn value(&mut self, kind: u8) -> Result<Value, RdbError> {
        let limits = self.limits;
        let object = match kind {
            kind::STRING => return Ok(Value::Str(self.string()?.into())),
            kind::LIST => {
                let mut list = List::to_be_filled();
                for _ in 0..self.length()? {
                    list.push(End::Right, &self.string()?, limits);
                }
                list.settle(limits);
                Object::List(list)
            }
            kind::LIST_ZIPLIST => self.list_of_ziplists(1)?,
            kind::LIST_QUICKLIST => {
                let n = self.length()?;
                self.list_of_ziplists(n)?
            }
            kind::LIST_QUICKLIST_2 => {
                let mut list = List::to_be_filled();
                for _ in 0..self.length()? {
                    let container = self.length()?;
                    let bytes = self.string()?;
                    match container {
                        1 => list.push(End::Right, &bytes, limits),
                        2 => list.push_node(self.listpack(bytes)?),
                        _ => return Err(self.corrupt("no such kind of list node")),
                    }
                }
                list.settle(limits);
                Object::List(list)
            }
            kind::SET => {
                let mut set = Set::new(limits);
                for _ in 0..self.length()? {
                    let member = self.string()?;
                    self.add(&mut set, &member)?;
                }
                Object::Set(set)
            }
            kind::SET_INTSET => {
                let bytes = self.string()?;
                let ints = Intset::from_bytes(bytes).map_err(|_| self.corrupt("a malformed intset"))?;
                if ints.len() <= limits.set_max_intset_entries {
                    Object::Set(Set::Ints(ints))
                } else {
                    let mut set = Set::new(limits);
                    ints.iter().for_each(|n| {
                        set.insert(n.to_string().as_bytes(), limits);
                    });
                    Object::Set(set)
                }
            }
            kind::SET_LISTPACK => {
                let bytes = self.string()?;
                let list = self.listpack(bytes)?;
                let mut set = Set::new(limits);
                for item in list.iter() {
                    self.add(&mut set, &item.bytes())?;
                }
                Object::Set(set)
            }
            kind::HASH => {
                let mut hash = Hash::new(limits);
                for _ in 0..self.length()? {
                    let (field, value) = (self.string()?, self.string()?);
                    self.set(&mut hash, &field, &value)?;
                }
                Object::Hash(hash)
            }
            kind::HASH_LISTPACK => {
                let bytes = self.string()?;
                let list = self.listpack(bytes)?;
                let items: Vec<_> = list.iter().map(|item| item.bytes()).collect();
                self.hash_of(&items)?
            }
            kind::HASH_ZIPLIST => {
                let bytes = self.string()?;
                let items = old::ziplist(&bytes).ok_or_else(|| self.corrupt("a malformed ziplist"))?;
                self.hash_of(&items)?
            }
            kind::HASH_ZIPMAP => {
                let bytes = self.string()?;
                let items = old::zipmap(&bytes).ok_or_else(|| self.corrupt("a malformed zipmap"))?;
                self.hash_of(&items)?
            }
            kind::ZSET | kind::ZSET_2 => {
                let mut zset = ZSet::new(limits);
                for _ in 0..self.length()? {
                    let member = self.string()?;
                    let score =
                        if kind == kind::ZSET_2 { f64::from_le_bytes(self.array()?) } else { self.text_score()? };
                    self.rank(&mut zset, &member, score)?;
                }
                Object::ZSet(zset)
            }
            kind::ZSET_LISTPACK => {
                let bytes = self.string()?;
                let list = self.listpack(bytes)?;
                let items: Vec<_> = list.iter().map(|item| item.bytes()).collect();
                self.zset_of(&items)?
            }
            kind::ZSET_ZIPLIST => {
                let bytes = self.string()?;
                let items = old::ziplist(&bytes).ok_or_else(|| self.corrupt("a malformed ziplist"))?;
                self.zset_of(&items)?
            }
            _ => return Err(RdbError::Type { offset: self.offset(), key: self.key_name(), kind }),
        };
        if object.is_empty() {
            return Err(self.corrupt("a collection without elements"));
        }
        Ok(Value::Object(object))
    }

    fn listpack(&self, bytes: Vec<u8>) -> Result<Listpack, RdbError> {
        Listpack::from_bytes(bytes).map_err(|_| self.corrupt("a malformed listpack"))
    }

    fn list_of_ziplists(&mut self, n: u64) -> Result<Object, RdbError> {
        let mut list = List::to_be_filled();
        for _ in 0..n {
            let bytes = self.string()?;
            let items = old::ziplist(&bytes).ok_or_else(|| self.corrupt("a malformed ziplist"))?;
            items.iter().for_each(|item| list.push(End::Right, item, self.limits));
        }
        list.settle(self.limits);
        Ok(Object::List(list))
    }

    fn add(&self, set: &mut Set, member: &[u8]) -> Result<(), RdbError> {
        set.insert(member, self.limits).then_some(()).ok_or_else(|| self.corrupt("a member that is there twice"))
    }

    fn set(&self, hash: &mut Hash, field: &[u8], value: &[u8]) -> Result<(), RdbError> {
        hash.set(field, value, self.limits).then_some(()).ok_or_else(|| self.corrupt("a field that is there twice"))
    }

    fn rank(&self, zset: &mut ZSet, member: &[u8], score: f64) -> Result<(), RdbError> {
        if score.is_nan() {
            return Err(self.corrupt("a score that is not a number"));
        }
        zset.insert(member, score, self.limits)
            .then_some(())
            .ok_or_else(|| self.corrupt("a member that is there twice"))
    }

    fn hash_of(&self, items: &[std::borrow::Cow<'_, [u8]>]) -> Result<Object, RdbError> {
        let mut hash = Hash::new(self.limits);
        if items.len() % 2 == 1 {
            return Err(self.corrupt("a field without a value"));
        }
        items.chunks_exact(2).try_for_each(|pair| self.set(&mut hash, &pair[0], &pair[1]))?;
        Ok(Object::Hash(hash))
    }

    fn zset_of(&self, items: &[std::borrow::Cow<'_, [u8]>]) -> Result<Object, RdbError> {
        let mut zset = ZSet::new(self.limits);
        if items.len() % 2 == 1 {
            return Err(self.corrupt("a member without a score"));
        }
        for pair in items.chunks_exact(2) {
            let score = crate::parse::float_or_none(&pair[1]);
            self.rank(&mut zset, &pair[0], score.ok_or_else(|| self.corrupt("a score that is not a number"))?)?;
        }
        Ok(Object::ZSet(zset))
    }

    fn text_score(&mut self) -> Result<f64, RdbError> {
        match self.byte()? {
            253 => Err(self.corrupt("a score that is not a number")),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            len => {
                let text = self.bytes(u64::from(len))?;
                crate::parse::float_or_none(&text).ok_or_else(|| self.corrupt("a score that is not a number"))
            }
        }
    }
}

/// Why a DUMP payload was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayloadError {
    Footer,
    Value,
}

/// Reads DUMP's payload. `verify`: the checksum must be right.
pub(crate) fn payload(bytes: &[u8], verify: bool, limits: &Limits) -> Result<Value, PayloadError> {
    let body = bytes.len().checked_sub(10).filter(|&n| n > 0).ok_or(PayloadError::Footer)?;
    let version = u16::from_le_bytes([bytes[body], bytes[body + 1]]);
    let crc = u64::from_le_bytes(bytes[body + 2..].try_into().map_err(|_| PayloadError::Footer)?);
    if u32::from(version) > VERSION_MAX || (verify && crc != 0 && crc != Crc64::of(&bytes[..body + 2])) {
        return Err(PayloadError::Footer);
    }
    let mut reader = Reader {
        input: &bytes[1..body],
        buf: Vec::new(),
        at: 0,
        summed: 0,
        crc: Crc64::default(),
        base: 1,
        verify: false,
        version: u32::from(version),
        limits,
        key: None,
    };
    let value = reader.value(bytes[0]).map_err(|_| PayloadError::Value)?;
    if reader.offset() != body as u64 {
        return Err(PayloadError::Value);
    }
    Ok(value)
}

/// Reads DUMP's payload; the error is RESTORE's.
pub fn read_payload(bytes: &[u8], verify: bool, limits: &Limits) -> Result<Value, crate::CommandError> {
    payload(bytes, verify, limits).map_err(|error| {
        crate::CommandError::Static(match error {
            PayloadError::Footer => "ERR DUMP payload version or checksum are wrong",
            PayloadError::Value => "ERR Bad data format",
        })
    })
}
