//! Packed forms that Redis no longer writes: ziplist and zipmap. Both are read entry by entry with every bound checked.

use std::borrow::Cow;

type Bytes<'a> = Cow<'a, [u8]>;

fn int<'a>(n: i64) -> Bytes<'a> {
    Cow::Owned(n.to_string().into_bytes())
}

/// The entries of a ziplist: `bytes u32 | tail u32 | count u16 | (previous length, encoding, data)* | 0xFF`.
pub(super) fn ziplist(buf: &[u8]) -> Option<Vec<Bytes<'_>>> {
    let total = u32::from_le_bytes(buf.get(..4)?.try_into().ok()?) as usize;
    if total != buf.len() || buf.len() < 11 {
        return None;
    }
    let mut entries = Vec::new();
    let mut rest = &buf[10..];
    loop {
        match *rest.first()? {
            0xFF => return (rest.len() == 1).then_some(entries),
            0xFE => rest = rest.get(5..)?,
            _ => rest = rest.get(1..)?,
        }
        let first = *rest.first()?;
        let string = |head: usize, len: usize| Some((head + len, rest.get(head..head.checked_add(len)?)?));
        let (size, entry): (usize, Bytes<'_>) = match first {
            0..=0x3F => {
                let (size, bytes) = string(1, usize::from(first))?;
                (size, bytes.into())
            }
            0x40..=0x7F => {
                let len = usize::from(first & 0x3F) << 8 | usize::from(*rest.get(1)?);
                let (size, bytes) = string(2, len)?;
                (size, bytes.into())
            }
            0x80 => {
                let len = u32::from_be_bytes(rest.get(1..5)?.try_into().ok()?) as usize;
                let (size, bytes) = string(5, len)?;
                (size, bytes.into())
            }
            0xC0 => (3, int(i16::from_le_bytes(rest.get(1..3)?.try_into().ok()?).into())),
            0xD0 => (5, int(i32::from_le_bytes(rest.get(1..5)?.try_into().ok()?).into())),
            0xE0 => (9, int(i64::from_le_bytes(rest.get(1..9)?.try_into().ok()?))),
            0xF0 => {
                let b = rest.get(1..4)?;
                (4, int(i64::from(i32::from_le_bytes([0, b[0], b[1], b[2]]) >> 8)))
            }
            0xFE => (2, int(i64::from(*rest.get(1)? as i8))),
            0xF1..=0xFD => (1, int(i64::from(first & 0x0F) - 1)),
            _ => return None,
        };
        rest = rest.get(size..)?;
        entries.push(entry);
    }
}

/// The fields and values of a zipmap: `count u8 | (length, field, length, free u8, value, free bytes)* | 0xFF`.
pub(super) fn zipmap(buf: &[u8]) -> Option<Vec<Bytes<'_>>> {
    let mut rest = buf.get(1..)?;
    let mut entries = Vec::new();
    loop {
        for is_value in [false, true] {
            let (len, head) = match *rest.first()? {
                0xFF if !is_value => return (rest.len() == 1).then_some(entries),
                0xFE => (u32::from_le_bytes(rest.get(1..5)?.try_into().ok()?) as usize, 5),
                len @ 0..=0xFD => (usize::from(len), 1),
                _ => return None,
            };
            rest = &rest[head..];
            let mut free = 0;
            if is_value {
                free = usize::from(*rest.first()?);
                rest = &rest[1..];
            }
            entries.push(rest.get(..len)?.into());
            rest = rest.get(len.checked_add(free)?..)?;
        }
    }
}
