//! RDB: Redis's file and full-sync format, and the payload of DUMP.
//!
//! ```text
//! "REDIS" version(4 digits) | op* | 0xFF crc64(8, little endian; 0 = not computed)
//! op: 0xFA name value          aux field          0xFE n        select database
//!     0xFB keys expiring       sizes, a hint      0xFC ms(8)    expiry of the next key (0xFD: seconds, 4)
//!     0xF8 n, 0xF9 n           idle, frequency    type key value
//! ```
//! We read versions 1 to 12 and write version 10, the lowest that can say what we have, so that Redis 7.0 can load it.
//! Source: the RDB specification and the files that Redis writes.

mod crc64;
pub mod lzf;
mod old;
mod read;
mod write;

pub use crc64::Crc64;
pub use read::{Event, RdbError, Reader, read_payload};
pub use write::{
    VERSION, aux, encode_entry, encode_entry_compressed, end, header, resize_db, select_db, write_payload,
};

/// Type bytes in front of a value.
mod kind {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    pub(super) const ZSET: u8 = 3;
    pub(super) const HASH: u8 = 4;
    pub(super) const ZSET_2: u8 = 5;
    pub(super) const HASH_ZIPMAP: u8 = 9;
    pub(super) const LIST_ZIPLIST: u8 = 10;
    pub(super) const SET_INTSET: u8 = 11;
    pub(super) const ZSET_ZIPLIST: u8 = 12;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_QUICKLIST: u8 = 14;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const ZSET_LISTPACK: u8 = 17;
    pub(super) const LIST_QUICKLIST_2: u8 = 18;
    pub(super) const SET_LISTPACK: u8 = 20;
}

/// Opcodes.
mod op {
    pub(super) const FUNCTION2: u8 = 0xF5;
    pub(super) const MODULE_AUX: u8 = 0xF7;
    pub(super) const IDLE: u8 = 0xF8;
    pub(super) const FREQ: u8 = 0xF9;
    pub(super) const AUX: u8 = 0xFA;
    pub(super) const RESIZE_DB: u8 = 0xFB;
    pub(super) const EXPIRE_MS: u8 = 0xFC;
    pub(super) const EXPIRE_S: u8 = 0xFD;
    pub(super) const SELECT_DB: u8 = 0xFE;
    pub(super) const EOF: u8 = 0xFF;
}

#[cfg(test)]
mod tests;
