//! Writing: plain functions that append to a buffer, so that a snapshot walker can encode one entry at a time.

use super::{Crc64, kind, lzf, op};
use crate::keyspace::{EntryRef, ValueRef};
use crate::types::{Hash, Object, Set, ZSet};

/// The version that we write.
pub const VERSION: u16 = 10;

/// Strings shorter than this are not worth compressing.
const COMPRESS_MIN: usize = 20;

pub fn header(out: &mut Vec<u8>) {
    out.extend_from_slice(format!("REDIS{VERSION:04}").as_bytes());
}

pub fn aux(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(op::AUX);
    string(out, name.as_bytes(), false);
    string(out, value.as_bytes(), false);
}

pub fn select_db(out: &mut Vec<u8>, db: usize) {
    out.push(op::SELECT_DB);
    length(out, db as u64);
}

pub fn resize_db(out: &mut Vec<u8>, keys: usize, expiring: usize) {
    out.push(op::RESIZE_DB);
    length(out, keys as u64);
    length(out, expiring as u64);
}

/// The end mark and the checksum of everything before it; `checksum`: what was written so far, `None` writes 0.
pub fn end(out: &mut Vec<u8>, checksum: Option<&mut Crc64>) {
    out.push(op::EOF);
    let crc = checksum.map_or(0, |crc| {
        crc.update(&[op::EOF]);
        crc.value()
    });
    out.extend_from_slice(&crc.to_le_bytes());
}

/// One key with expiry and value.
pub fn encode_entry(_db: usize, entry: EntryRef<'_>, out: &mut Vec<u8>) {
    entry_with(entry, out, false);
}

/// One key with expiry and value; long strings are compressed.
pub fn encode_entry_compressed(_db: usize, entry: EntryRef<'_>, out: &mut Vec<u8>) {
    entry_with(entry, out, true);
}

fn entry_with(entry: EntryRef<'_>, out: &mut Vec<u8>, compress: bool) {
    if let Some(at) = entry.expires_ms() {
        out.push(op::EXPIRE_MS);
        out.extend_from_slice(&at.to_le_bytes());
    }
    let at = out.len();
    out.push(0);
    string(out, entry.key(), false);
    out[at] = value(out, entry.value(), compress);
}

/// DUMP's payload: type, value, version, checksum.
pub fn write_payload(it: ValueRef<'_>) -> Vec<u8> {
    let mut out = vec![0];
    out[0] = value(&mut out, it, false);
    out.extend_from_slice(&VERSION.to_le_bytes());
    let crc = Crc64::of(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Appends a value; returns its type byte.
fn value(out: &mut Vec<u8>, it: ValueRef<'_>, compress: bool) -> u8 {
    let object = match it {
        ValueRef::Str(bytes) => {
            string(out, bytes, compress);
            return kind::STRING;
        }
        ValueRef::Object(object) => object,
    };
    match object {
        Object::List(list) => {
            const PACKED: u64 = 2;
            length(out, list.node_count() as u64);
            for node in list.nodes() {
                length(out, PACKED);
                string(out, node.as_bytes(), compress);
            }
            kind::LIST_QUICKLIST_2
        }
        Object::Set(Set::Ints(ints)) => {
            string(out, ints.as_bytes(), compress);
            kind::SET_INTSET
        }
        Object::Set(set) => {
            length(out, set.len() as u64);
            set.for_each(|member| string(out, member, compress));
            kind::SET
        }
        Object::Hash(Hash::Packed(list)) => {
            string(out, list.as_bytes(), compress);
            kind::HASH_LISTPACK
        }
        Object::Hash(hash) => {
            length(out, hash.len() as u64);
            hash.for_each(|field, value| {
                string(out, field, compress);
                string(out, value, compress);
            });
            kind::HASH
        }
        Object::ZSet(ZSet::Packed(list)) => {
            string(out, list.as_bytes(), compress);
            kind::ZSET_LISTPACK
        }
        Object::ZSet(zset) => {
            length(out, zset.len() as u64);
            // From the highest down: Redis inserts at the front of its skiplist.
            zset.for_each_rev(0..zset.len(), |member, score| {
                string(out, member, compress);
                out.extend_from_slice(&score.to_le_bytes());
            });
            kind::ZSET_2
        }
    }
}

fn length(out: &mut Vec<u8>, n: u64) {
    match n {
        0..0x40 => out.push(n as u8),
        0x40..0x4000 => out.extend_from_slice(&[0x40 | (n >> 8) as u8, n as u8]),
        0x4000..0x1_0000_0000 => {
            out.push(0x80);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

#[inline]
fn string(out: &mut Vec<u8>, bytes: &[u8], compress: bool) {
    if bytes.len() <= 11 {
        match resp::number::parse_i64(bytes) {
            Some(n @ -128..=127) => return out.extend_from_slice(&[0xC0, n as u8]),
            Some(n @ -32768..=32767) => {
                out.push(0xC1);
                return out.extend_from_slice(&(n as i16).to_le_bytes());
            }
            Some(n @ -2_147_483_648..=2_147_483_647) => {
                out.push(0xC2);
                return out.extend_from_slice(&(n as i32).to_le_bytes());
            }
            _ => {}
        }
    }
    if compress
        && bytes.len() > COMPRESS_MIN
        && let Some(packed) = lzf::compress(bytes, bytes.len() - 4)
    {
        out.push(0xC3);
        length(out, packed.len() as u64);
        length(out, bytes.len() as u64);
        return out.extend_from_slice(&packed);
    }
    length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
