//! DEBUG DIGEST: a fingerprint of the data that does not depend on order or encoding, by Redis's own algorithm, so that
//! a replica of either kind can be compared with its master.

use sha1::{Digest as _, Sha1};

use crate::keyspace::{Keyspace, Shards, ValueRef};
use crate::types::Object;

type Digest = [u8; 20];

/// Order does not matter: adds the hash of `bytes` to the digest by exclusive or.
fn xor(digest: &mut Digest, bytes: &[u8]) {
    let hash: Digest = Sha1::digest(bytes).into();
    digest.iter_mut().zip(hash).for_each(|(d, h)| *d ^= h);
}

/// Order matters: [`xor`], then the hash of the digest itself.
fn mix(digest: &mut Digest, bytes: &[u8]) {
    xor(digest, bytes);
    *digest = Sha1::digest(*digest).into();
}

fn add_value(digest: &mut Digest, value: ValueRef<'_>, expires_ms: Option<u64>) {
    let number = match &value {
        ValueRef::Str(_) => 0u32,
        ValueRef::Object(Object::List(_)) => 1,
        ValueRef::Object(Object::Set(_)) => 2,
        ValueRef::Object(Object::ZSet(_)) => 3,
        ValueRef::Object(Object::Hash(_)) => 4,
    };
    mix(digest, &number.to_be_bytes());
    match value {
        ValueRef::Str(bytes) => mix(digest, bytes),
        ValueRef::Object(Object::List(list)) => list.for_each_from(0, |_, item| {
            mix(digest, &item.bytes());
            true
        }),
        ValueRef::Object(Object::Set(set)) => set.for_each(|member| xor(digest, member)),
        ValueRef::Object(Object::ZSet(zset)) => zset.for_each(0..zset.len(), |member, score| {
            let (mut element, mut text) = (Digest::default(), Vec::new());
            if score.is_finite() {
                resp::number::format_17g(score, &mut text);
            } else {
                resp::number::format_f64(score, &mut text);
            }
            mix(&mut element, member);
            mix(&mut element, &text);
            xor(digest, &element);
        }),
        ValueRef::Object(Object::Hash(hash)) => hash.for_each(|field, value| {
            let mut element = Digest::default();
            mix(&mut element, field);
            mix(&mut element, value);
            xor(digest, &element);
        }),
    }
    if expires_ms.is_some() {
        xor(digest, b"!!expire!!");
    }
}

/// DEBUG DIGEST-VALUE of one value.
pub fn of_value(value: ValueRef<'_>, expires_ms: Option<u64>) -> Digest {
    let mut digest = Digest::default();
    add_value(&mut digest, value, expires_ms);
    digest
}

/// DEBUG DIGEST of everything; all shards are locked.
pub fn of_keyspace(keyspace: &Keyspace, locked: &mut dyn Shards) -> Digest {
    let shards = locked.all_mut();
    let mut total = Digest::default();
    for db in 0..keyspace.databases() {
        if shards.iter().all(|shard| shard.dbs[db].is_empty()) {
            continue;
        }
        mix(&mut total, &(db as u32).to_be_bytes());
        for entry in shards.iter().flat_map(|shard| shard.dbs[db].iter()) {
            let mut digest = Digest::default();
            mix(&mut digest, entry.key());
            add_value(&mut digest, entry.value(), entry.expires_ms());
            xor(&mut total, &digest);
        }
    }
    total
}

/// Forty hexadecimal digits.
pub fn hex(digest: Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
