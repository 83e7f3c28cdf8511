//! Redis's listpack: a sequence of small values in one buffer, which is also its RDB form.
//!
//! ```text
//! total bytes u32 le | count u16 le (65535: more, count them) | entry* | 0xFF
//! entry: encoding+data | back-length (1 to 5 bytes, 7 bits each, readable from behind)
//! ```
//! Source: the listpack specification in the Redis documentation.

use std::borrow::Cow;

const HEADER: usize = 6;
const END: u8 = 0xFF;
const COUNT_UNKNOWN: u16 = u16::MAX;
const BYTES_MAX: usize = 1 << 30;

/// A value: what looks like an integer is stored as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    Int(i64),
    Str(&'a [u8]),
}

impl<'a> Item<'a> {
    /// The form in which `value` is stored: every value has one, so equal items are equal values.
    pub fn of(value: &'a [u8]) -> Self {
        resp::number::parse_i64(value).map_or(Item::Str(value), Item::Int)
    }

    /// The value as the bytes that were stored.
    pub fn bytes(self) -> Cow<'a, [u8]> {
        match self {
            Item::Str(bytes) => Cow::Borrowed(bytes),
            Item::Int(n) => Cow::Owned(itoa::Buffer::new().format(n).as_bytes().to_vec()),
        }
    }

    /// Gives the stored bytes to `f`, without an allocation.
    pub fn with<R>(self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Item::Str(bytes) => f(bytes),
            Item::Int(n) => f(itoa::Buffer::new().format(n).as_bytes()),
        }
    }

    pub fn is(self, value: &[u8]) -> bool {
        match self {
            Item::Str(bytes) => bytes == value,
            Item::Int(n) => itoa::Buffer::new().format(n).as_bytes() == value,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed listpack at byte {at}: {what}")]
pub struct ListpackError {
    at: usize,
    what: &'static str,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Listpack {
    /// In front of the listpack is room for values that are put there; values that were taken from there leave some.
    buf: Vec<u8>,
    /// Where the listpack begins.
    start: usize,
}

const EMPTY: [u8; HEADER + 1] = [7, 0, 0, 0, 0, 0, END];

impl Default for Listpack {
    fn default() -> Self {
        Self { buf: EMPTY.to_vec(), start: 0 }
    }
}

impl Clone for Listpack {
    fn clone(&self) -> Self {
        Self { buf: self.as_bytes().to_vec(), start: 0 }
    }
}

impl PartialEq for Listpack {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Listpack {}

/// Position of an entry in [`Listpack::as_bytes`]; valid until the listpack changes before it.
pub type Pos = usize;

/// Decodes the entry at the front of `buf`: (value, bytes without back-length). `None`: not one.
#[inline]
fn decode(buf: &[u8]) -> Option<(Item<'_>, usize)> {
    let first = *buf.first()?;
    let string = |at: usize, len: usize| Some((Item::Str(buf.get(at..at.checked_add(len)?)?), at + len));
    let int = |len: usize| {
        let bytes = buf.get(1..1 + len)?;
        let mut wide = [if bytes[len - 1] & 0x80 != 0 { 0xFF } else { 0 }; 8];
        wide[..len].copy_from_slice(bytes);
        Some((Item::Int(i64::from_le_bytes(wide)), 1 + len))
    };
    match first {
        0..=0x7F => Some((Item::Int(i64::from(first)), 1)),
        0x80..=0xBF => string(1, usize::from(first & 0x3F)),
        0xC0..=0xDF => {
            let n = i64::from(u16::from(first & 0x1F) << 8 | u16::from(*buf.get(1)?));
            Some((Item::Int(if n >= 1 << 12 { n - (1 << 13) } else { n }), 2))
        }
        0xE0..=0xEF => string(2, usize::from(first & 0x0F) << 8 | usize::from(*buf.get(1)?)),
        0xF0 => {
            let len = u32::from_le_bytes(buf.get(1..5)?.try_into().ok()?);
            string(5, len as usize)
        }
        0xF1 => int(2),
        0xF2 => int(3),
        0xF3 => int(4),
        0xF4 => int(8),
        _ => None,
    }
}

/// An entry about to be written: what stands in front of the value's bytes, they, and the back-length.
struct Encoded<'a> {
    head: ([u8; 9], usize),
    body: &'a [u8],
    back: ([u8; 5], usize),
}

impl<'a> Encoded<'a> {
    fn new(value: &'a [u8]) -> Self {
        let mut head = [0; 9];
        let (head_len, body) = match resp::number::parse_i64(value) {
            Some(n) => (encode_int(n, &mut head), &value[..0]),
            None => (encode_len(value.len(), &mut head), value),
        };
        let len = head_len + body.len();
        let mut back = [0; 5];
        let back_len = back_len_size(len);
        for (i, byte) in back[..back_len].iter_mut().enumerate() {
            let bits = (len >> (7 * (back_len - 1 - i))) as u8 & 0x7F;
            *byte = if i == 0 { bits } else { bits | 0x80 };
        }
        Self { head: (head, head_len), body, back: (back, back_len) }
    }

    fn len(&self) -> usize {
        self.head.1 + self.body.len() + self.back.1
    }

    fn parts(&self) -> [&[u8]; 3] {
        [&self.head.0[..self.head.1], self.body, &self.back.0[..self.back.1]]
    }

    /// Writes it at the front of `to`.
    fn write(&self, to: &mut [u8]) {
        let mut at = 0;
        for part in self.parts() {
            to[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }
}

fn encode_len(len: usize, head: &mut [u8; 9]) -> usize {
    match len {
        0..=63 => {
            head[0] = 0x80 | len as u8;
            1
        }
        64..=4095 => {
            head[..2].copy_from_slice(&[0xE0 | (len >> 8) as u8, len as u8]);
            2
        }
        _ => {
            head[0] = 0xF0;
            head[1..5].copy_from_slice(&(len as u32).to_le_bytes());
            5
        }
    }
}

fn encode_int(n: i64, head: &mut [u8; 9]) -> usize {
    let (mark, width) = match n {
        0..=127 => {
            head[0] = n as u8;
            return 1;
        }
        -4096..=4095 => {
            let n = (n & 0x1FFF) as u16;
            head[..2].copy_from_slice(&[0xC0 | (n >> 8) as u8, n as u8]);
            return 2;
        }
        -32768..=32767 => (0xF1, 2),
        -8_388_608..=8_388_607 => (0xF2, 3),
        -2_147_483_648..=2_147_483_647 => (0xF3, 4),
        _ => (0xF4, 8),
    };
    head[0] = mark;
    head[1..=width].copy_from_slice(&n.to_le_bytes()[..width]);
    1 + width
}

fn back_len_size(len: usize) -> usize {
    match len {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// True if the back-length at `at` is `len`, written in its one form.
fn back_len_is(buf: &[u8], at: usize, len: usize) -> bool {
    let size = back_len_size(len);
    (0..size).all(|i| {
        let bits = (len >> (7 * (size - 1 - i))) as u8 & 0x7F;
        buf.get(at + i) == Some(&if i == 0 { bits } else { bits | 0x80 })
    })
}

impl Listpack {
    /// Takes bytes from outside after checking every entry, back-lengths and the count included.
    pub fn from_bytes(buf: Vec<u8>) -> Result<Self, ListpackError> {
        let fail = |at, what| Err(ListpackError { at, what });
        if buf.len() < HEADER + 1 {
            return fail(0, "shorter than a header");
        }
        if u32::from_le_bytes([buf[0], buf[1], buf[2], buf[3]]) as usize != buf.len() {
            return fail(0, "the length in the header is not the real one");
        }
        let (mut at, mut count) = (HEADER, 0usize);
        while buf[at] != END {
            let Some((_, len)) = decode(&buf[at..buf.len() - 1]) else { return fail(at, "no such entry") };
            if !back_len_is(&buf, at + len, len) {
                return fail(at, "wrong back-length");
            }
            at += len + back_len_size(len);
            count += 1;
            if at >= buf.len() {
                return fail(at, "no end mark");
            }
        }
        if at + 1 != buf.len() {
            return fail(at, "bytes behind the end mark");
        }
        let announced = u16::from_le_bytes([buf[4], buf[5]]);
        if announced != COUNT_UNKNOWN && usize::from(announced) != count {
            return fail(4, "the count in the header is not the real one");
        }
        Ok(Self { buf, start: 0 })
    }

    /// Bytes of a listpack without entries.
    pub const EMPTY_BYTES: usize = EMPTY.len();

    /// An empty one with room for entries of so many bytes, in front of it if `front` says so, else behind.
    pub fn with_capacity(entries: usize, front: bool) -> Self {
        let mut buf = Vec::with_capacity(EMPTY.len() + entries);
        buf.resize(if front { entries } else { 0 }, 0);
        let start = buf.len();
        buf.extend_from_slice(&EMPTY);
        Self { buf, start }
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..]
    }

    /// Asks for the first bytes.
    #[inline]
    pub(super) fn prefetch(&self) {
        crate::keyspace::entry::prefetch(self.as_bytes().as_ptr());
    }

    fn counted(&self) -> u16 {
        let bytes = self.as_bytes();
        u16::from_le_bytes([bytes[4], bytes[5]])
    }

    pub fn len(&self) -> usize {
        match self.counted() {
            COUNT_UNKNOWN => self.iter().count(),
            count => usize::from(count),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.as_bytes()[HEADER] == END
    }

    fn update_header(&mut self, added: i32) {
        let count = match self.counted() {
            COUNT_UNKNOWN => COUNT_UNKNOWN,
            count => u16::try_from(i32::from(count) + added).unwrap_or(COUNT_UNKNOWN),
        };
        let bytes = self.bytes_mut();
        let total = bytes.len() as u32;
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        bytes[4..6].copy_from_slice(&count.to_le_bytes());
    }

    fn end(&self) -> Pos {
        self.as_bytes().len() - 1
    }

    fn entry(&self, pos: Pos) -> (Item<'_>, usize) {
        let (item, len) = decode(&self.as_bytes()[pos..]).expect("a listpack was checked when it came in");
        (item, len + back_len_size(len))
    }

    pub fn get(&self, pos: Pos) -> Item<'_> {
        self.entry(pos).0
    }

    /// First entry's position.
    pub fn first(&self) -> Option<Pos> {
        (!self.is_empty()).then_some(HEADER)
    }

    pub fn next(&self, pos: Pos) -> Option<Pos> {
        let next = pos + self.entry(pos).1;
        (next < self.end()).then_some(next)
    }

    fn before(&self, pos: Pos) -> Option<Pos> {
        if pos == HEADER {
            return None;
        }
        let (bytes, mut len, mut at) = (self.as_bytes(), 0usize, pos - 1);
        for shift in 0..5 {
            let byte = bytes[at];
            len |= usize::from(byte & 0x7F) << (7 * shift);
            if byte & 0x80 == 0 {
                break;
            }
            at -= 1;
        }
        Some(at - len)
    }

    pub fn last(&self) -> Option<Pos> {
        self.before(self.end())
    }

    pub fn prev(&self, pos: Pos) -> Option<Pos> {
        self.before(pos)
    }

    /// Position of entry number `index`, from the nearer end.
    pub fn nth(&self, index: usize) -> Option<Pos> {
        let len = self.len();
        if index >= len {
            return None;
        }
        if index < len / 2 {
            (0..index).try_fold(self.first()?, |pos, _| self.next(pos))
        } else {
            (0..len - 1 - index).try_fold(self.last()?, |pos, _| self.before(pos))
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.positions().map(|pos| self.get(pos))
    }

    pub fn positions(&self) -> impl Iterator<Item = Pos> {
        std::iter::successors(self.first(), |&pos| self.next(pos))
    }

    /// Neighbouring entries as pairs: fields and values, members and scores.
    pub fn pairs(&self) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
        let mut items = self.iter();
        std::iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    /// True if values of so many bytes may be added: beyond a gibibyte (Redis's safety limit) the header's total
    /// would come near its end.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.as_bytes().len().saturating_add(bytes) < BYTES_MAX
    }

    pub fn push_back(&mut self, value: &[u8]) {
        let entry = Encoded::new(value);
        self.reserve(entry.len());
        self.buf.pop();
        entry.parts().iter().for_each(|part| self.buf.extend_from_slice(part));
        self.buf.push(END);
        self.update_header(1);
    }

    pub fn push_front(&mut self, value: &[u8]) {
        let entry = Encoded::new(value);
        self.reserve_front(entry.len());
        self.move_front(self.start - entry.len());
        entry.write(&mut self.bytes_mut()[HEADER..]);
        self.update_header(1);
    }

    /// Lets the listpack begin elsewhere: what is between the header and the first entry that stays is garbage, or gone.
    fn move_front(&mut self, start: usize) {
        self.buf.copy_within(self.start..self.start + HEADER, start);
        self.start = start;
    }

    /// Inserts before the entry at `pos` (or at the end).
    pub fn insert(&mut self, pos: Pos, value: &[u8]) {
        if pos == HEADER {
            return self.push_front(value);
        }
        self.put(pos, 0, &Encoded::new(value));
        self.update_header(1);
    }

    /// Inserts behind the entry at `pos`.
    pub fn insert_after(&mut self, pos: Pos, value: &[u8]) {
        self.insert(pos + self.entry(pos).1, value);
    }

    pub fn replace(&mut self, pos: Pos, value: &[u8]) {
        let old = self.entry(pos).1;
        self.put(pos, old, &Encoded::new(value));
        self.update_header(0);
    }

    /// Writes an entry over the `old` bytes at `pos`; what is behind them moves.
    fn put(&mut self, pos: Pos, old: usize, entry: &Encoded<'_>) {
        let new = entry.len();
        self.reserve(new.saturating_sub(old));
        let (at, len) = (self.start + pos, self.buf.len());
        if new > old {
            self.buf.resize(len + new - old, 0);
        }
        if new != old {
            self.buf.copy_within(at + old..len, at + new);
            self.buf.truncate(len + new - old);
        }
        entry.write(&mut self.buf[at..]);
    }

    /// Bytes to spare of a listpack that grows to `needed`. An eighth, about a size class of the allocator: doubling would
    /// waste a third of the memory of small collections.
    fn spare(needed: usize) -> usize {
        needed / 8
    }

    /// Room for `more` bytes behind what is there.
    fn reserve(&mut self, more: usize) {
        if self.buf.len() + more <= self.buf.capacity() {
            return;
        }
        let needed = self.as_bytes().len() + more;
        // What values leave in front that are taken from there is room again.
        if self.start > more + Self::spare(needed) {
            self.remove_room_in_front();
        } else {
            self.buf.reserve_exact(more + Self::spare(needed));
        }
    }

    /// Room for `more` bytes in front of what is there.
    fn reserve_front(&mut self, more: usize) {
        if self.start >= more {
            return;
        }
        let old = self.start..self.buf.len();
        let added = more + Self::spare(old.len() + more);
        if old.end + added > self.buf.capacity() {
            self.buf.reserve_exact(added);
        }
        self.buf.resize(old.end + added, 0);
        self.start += added;
        self.buf.copy_within(old, self.start);
    }

    fn remove_room_in_front(&mut self) {
        self.buf.drain(..std::mem::take(&mut self.start));
    }

    /// Moves the entries from `pos` on into a new listpack.
    pub fn split_off(&mut self, pos: Pos) -> Self {
        let entries = &self.as_bytes()[pos..];
        let mut tail = Self::with_capacity(entries.len() - 1, false);
        tail.buf.pop();
        tail.buf.extend_from_slice(entries);
        let count = tail.positions().count();
        tail.update_header(count as i32);
        self.remove(pos, count);
        tail
    }

    /// Bytes of memory that are held.
    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Gives back room that was kept for more values.
    pub fn shrink_to_fit(&mut self) {
        self.remove_room_in_front();
        self.buf.shrink_to_fit();
    }

    /// Removes `n` entries from `pos` on.
    pub fn remove(&mut self, pos: Pos, n: usize) {
        let (mut end, mut removed) = (pos, 0);
        while removed < n && end < self.end() {
            end += self.entry(end).1;
            removed += 1;
        }
        if pos == HEADER {
            self.move_front(self.start + end - pos);
        } else {
            self.buf.drain(self.start + pos..self.start + end);
        }
        self.update_header(-(removed as i32));
        let used = self.as_bytes().len();
        if self.buf.capacity() > 4 * used + 64 {
            self.remove_room_in_front();
            self.buf.shrink_to(2 * used);
        }
    }

    /// Looks for `value` in every `step`-th entry, beginning with the first. Compares encoded bytes: every value has
    /// one encoding.
    pub fn find(&self, value: &[u8], step: usize) -> Option<Pos> {
        let wanted = Encoded::new(value);
        let [head, body, _] = wanted.parts();
        let entries = &self.as_bytes()[..self.end()];
        let (mut pos, mut skip) = (HEADER, 0);
        while let Some(&first) = entries.get(pos) {
            if skip > 0 {
                skip -= 1;
            } else if first == head[0] && entries[pos..].strip_prefix(head).is_some_and(|rest| rest.starts_with(body)) {
                return Some(pos);
            } else {
                skip = step - 1;
            }
            // The two commonest forms first.
            pos += match first {
                0..=0x7F => 2,
                0x80..=0xBF => 2 + usize::from(first & 0x3F),
                _ => self.entry(pos).1,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<i64>().prop_map(|n| n.to_string().into_bytes()),
            (-5000i64..5000).prop_map(|n| n.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(any::<u8>(), 4090..4100),
        ]
    }

    proptest! {
        #[test]
        fn a_listpack_is_a_sequence(ops in prop::collection::vec((0u8..5, any::<prop::sample::Index>(), value()), 1..60)) {
            let (mut list, mut model) = (Listpack::default(), Vec::<Vec<u8>>::new());
            for (op, index, value) in ops {
                let at = index.index(model.len() + 1);
                match (op, list.nth(at)) {
                    (0, _) => { list.push_back(&value); model.push(value); }
                    (1, _) => { list.push_front(&value); model.insert(0, value); }
                    (2, Some(pos)) => { list.replace(pos, &value); model[at] = value; }
                    (3, Some(pos)) => { list.remove(pos, 2); model.drain(at..(at + 2).min(model.len())); }
                    (4, Some(pos)) => { list.insert_after(pos, &value); model.insert(at + 1, value); }
                    _ => {}
                }
                let got: Vec<_> = list.iter().map(|item| item.bytes().into_owned()).collect();
                prop_assert_eq!(&got, &model);
                let back: Vec<_> = std::iter::successors(list.last(), |&p| list.prev(p)).map(|p| list.get(p).bytes().into_owned()).collect();
                prop_assert!(back.iter().rev().eq(model.iter()));
                prop_assert_eq!(Listpack::from_bytes(list.as_bytes().to_vec()), Ok(list.clone()));
            }
            list.shrink_to_fit();
            prop_assert_eq!((list.len(), list.capacity()), (model.len(), list.as_bytes().len()));
        }

        /// One wrong byte anywhere: refused, or still a listpack that can be walked both ways.
        #[test]
        fn a_damaged_listpack_is_refused_or_sound(
            values in prop::collection::vec(value(), 1..8), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut list = Listpack::default();
            values.iter().for_each(|v| list.push_back(v));
            let mut bytes = list.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            prop_assert!(Listpack::from_bytes(bytes[..bytes.len() - 1].to_vec()).is_err());
            if let Ok(list) = Listpack::from_bytes(bytes) {
                prop_assert_eq!(list.iter().count(), list.len());
                prop_assert_eq!(std::iter::successors(list.last(), |&p| list.prev(p)).count(), list.len());
            }
        }

        #[test]
        fn find_looks_at_every_nth_entry(values in prop::collection::vec("[ab0-3]{0,2}", 0..12), wanted in "[ab0-3]{0,2}", step in 1usize..4) {
            let mut list = Listpack::default();
            values.iter().for_each(|v| list.push_back(v.as_bytes()));
            let want = (0..values.len()).step_by(step).find(|&i| values[i] == wanted);
            prop_assert_eq!(list.find(wanted.as_bytes(), step), want.and_then(|i| list.nth(i)));
        }

        #[test]
        fn bytes_from_outside_are_refused_or_sound(mut bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if bytes.len() >= 7 {
                let len = (bytes.len() as u32).to_le_bytes();
                bytes[..4].copy_from_slice(&len);
            }
            if let Ok(list) = Listpack::from_bytes(bytes) {
                prop_assert_eq!(list.iter().count(), list.len());
            }
        }
    }

    #[test]
    fn values_that_come_and_go_at_the_ends_need_little_room() {
        for (front, back) in [(1, 1), (3, 0), (0, 3), (2, 1)] {
            let mut list = Listpack::default();
            for round in 0..10_000 {
                (0..front).for_each(|_| list.push_front(b"value"));
                (0..back).for_each(|_| list.push_back(b"value"));
                let len = list.as_bytes().len();
                assert!(list.capacity() <= 4 * len + 64, "{} bytes for {len}", list.capacity());
                // Half of the time the other end is the one that goes on.
                for n in 0..(front + back) * usize::from(round > 20) {
                    let pos = if (n < front) == (round % 2 == 0) { list.last() } else { list.first() };
                    list.remove(pos.expect("it holds some"), 1);
                }
            }
        }
        let mut list = Listpack::default();
        (0..1000).for_each(|_| list.push_front(b"value"));
        let used = list.as_bytes().len();
        assert!(list.capacity() < used + used / 7, "{} bytes for {used}", list.capacity());
        list.shrink_to_fit();
        assert_eq!((list.len(), list.capacity()), (1000, used));
    }

    /// The layout of redis-server's `DEBUG LISTPACK` and DUMP for the same values.
    #[test]
    fn every_encoding_has_its_bytes() {
        let entry = |value: &[u8]| {
            let mut list = Listpack::default();
            list.push_back(value);
            list.as_bytes()[HEADER..list.as_bytes().len() - 1].to_vec()
        };
        for (value, want) in [
            (&b"0"[..], &[0x00, 1][..]),
            (b"127", &[0x7F, 1]),
            (b"128", &[0xC0, 0x80, 2]),
            (b"-1", &[0xDF, 0xFF, 2]),
            (b"4095", &[0xCF, 0xFF, 2]),
            (b"4096", &[0xF1, 0x00, 0x10, 3]),
            (b"-4097", &[0xF1, 0xFF, 0xEF, 3]),
            (b"32768", &[0xF2, 0x00, 0x80, 0x00, 4]),
            (b"8388608", &[0xF3, 0x00, 0x00, 0x80, 0x00, 5]),
            (b"2147483648", &[0xF4, 0, 0, 0, 0x80, 0, 0, 0, 0, 9]),
            (b"01", &[0x82, b'0', b'1', 3]),
            (b"", &[0x80, 1]),
        ] {
            assert_eq!(entry(value), want, "{}", String::from_utf8_lossy(value));
        }
        assert_eq!(entry(&[b'x'; 64])[..2], [0xE0, 64]);
        assert_eq!(entry(&[b'x'; 4096])[..5], [0xF0, 0x00, 0x10, 0, 0]);
        // 126 bytes and two in front of them are 128: the back-length's first two-byte form.
        assert_eq!(entry(&[b'x'; 126])[128..], [1, 0x80]);
        assert_eq!(entry(&[b'x'; 20_000])[20_005..], [1, 0x9C, 0xA5]);
    }

    #[test]
    fn more_entries_than_the_header_can_count_are_counted() {
        let mut list = Listpack::default();
        (0..70_000).for_each(|_| list.push_back(b"1"));
        assert_eq!(list.len(), 70_000);
        list.remove(HEADER, 69_990);
        assert_eq!(list.len(), 10);
        assert_eq!(Listpack::from_bytes(list.as_bytes().to_vec()), Ok(list));
    }
}
