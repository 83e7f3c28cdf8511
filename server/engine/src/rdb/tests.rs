use super::*;
use crate::keyspace::{ExpiredKeys, KeysView, Keyspace, Loader, SnapshotWalk, Value, ValueRef, WalkStep};
use crate::types::{Hash, Kind, List, Object, Set, ZSet, list::End};
use crate::{Limits, Rng};

fn objects(limits: &Limits) -> Vec<Object> {
    let mut all = Vec::new();
    for n in [1, 50, 600] {
        let (mut hash, mut set, mut ints) = (Hash::new(limits), Set::new(limits), Set::new(limits));
        let (mut list, mut zset) = (List::new(limits), ZSet::new(limits));
        for i in 0..n {
            let text = format!("{}{i}", "x".repeat(i % 90));
            hash.set(text.as_bytes(), i.to_string().as_bytes(), limits);
            set.insert(text.as_bytes(), limits);
            ints.insert((i * 70_001).to_string().as_bytes(), limits);
            list.push(End::Right, text.repeat(i % 9 + 1).as_bytes(), limits);
            zset.insert(text.as_bytes(), i as f64 / 3.0, limits);
        }
        all.extend([hash.into(), set.into(), ints.into(), list.into(), zset.into()]);
    }
    all
}

fn digest_of(keyspace: &Keyspace) -> [u8; 20] {
    crate::digest::of_keyspace(keyspace, &mut keyspace.lock_all())
}

/// The digest of a value: equal for equal values, whatever their encoding.
fn digest(value: ValueRef<'_>) -> [u8; 20] {
    crate::digest::of_value(value, None)
}

#[test]
fn every_type_and_encoding_survives_dump_and_restore() {
    let limits = Limits::default();
    for object in objects(&limits) {
        let payload = write_payload(ValueRef::Object(&object));
        let Value::Object(back) = read_payload(&payload, true, &limits).unwrap() else { panic!("a string") };
        assert_eq!(digest(ValueRef::Object(&back)), digest(ValueRef::Object(&object)));
        assert_eq!(back.encoding(), object.encoding());
    }
    for text in ["", "12", "-32768", "2147483648", "plain", &"long".repeat(1000)] {
        let payload = write_payload(ValueRef::Str(text.as_bytes()));
        assert!(matches!(read_payload(&payload, true, &limits), Ok(Value::Str(s)) if *s == *text.as_bytes()));
    }
}

#[test]
fn damaged_payloads_are_refused_with_and_without_checksum() {
    let limits = Limits::default();
    let mut rng = Rng::new(7);
    for object in objects(&limits) {
        let good = write_payload(ValueRef::Object(&object));
        for _ in 0..300 {
            let mut bad = good.clone();
            let at = rng.below(bad.len());
            bad[at] ^= 1 << rng.below(8);
            assert!(read_payload(&bad, true, &limits).is_err(), "a wrong checksum passes");
            // Without the checksum it may be another value, but nothing may break.
            let _ = read_payload(&bad, false, &limits).map(|_| ());
            bad.truncate(rng.below(bad.len()));
            let _ = read_payload(&bad, false, &limits).map(|_| ());
        }
    }
}

fn file(keyspace: &Keyspace) -> Vec<u8> {
    let mut walk = SnapshotWalk::begin(keyspace, &mut keyspace.lock_all(), encode_entry_compressed);
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    header(&mut out);
    aux(&mut out, "redis-ver", "7.2.4");
    while walk.step(keyspace, &mut scratch, 1000, |db, bytes, _| {
        select_db(&mut out, db);
        out.extend_from_slice(bytes);
    }) == WalkStep::More
    {}
    let mut crc = Crc64::default();
    crc.update(&out);
    end(&mut out, Some(&mut crc));
    out
}

fn load(bytes: &[u8], limits: &Limits) -> Result<Keyspace, RdbError> {
    let keyspace = Keyspace::new(2, 16, [1, 2]);
    let mut reader = Reader::new(bytes, true, limits)?;
    let (mut loader, mut db) = (Loader::new(&keyspace), 0);
    loop {
        match reader.read()? {
            Event::SelectDb(n) => db = n as usize,
            Event::Entry { key, value, expires_ms, .. } => loader.add(db, &key, value, expires_ms, 0).unwrap(),
            Event::End => {
                loader.finish().unwrap();
                return Ok(keyspace);
            }
            Event::Aux(..) | Event::Resize(..) | Event::Function => {}
        }
    }
}

#[test]
fn a_file_brings_back_the_whole_keyspace_and_a_damaged_one_is_refused() {
    let limits = Limits::default();
    let keyspace = Keyspace::new(4, 16, [3, 4]);
    let mut loader = Loader::new(&keyspace);
    for (i, object) in objects(&limits).into_iter().enumerate() {
        let at = (i % 3 == 0).then_some(9_999_999_999_999);
        loader.add(i % 2, format!("key:{i}").as_bytes(), Value::Object(object), at, 0).unwrap();
    }
    loader.finish().unwrap();
    let bytes = file(&keyspace);
    let back = load(&bytes, &limits).unwrap();
    assert_eq!(digest_of(&back), digest_of(&keyspace));
    let mut rng = Rng::new(1);
    for _ in 0..500 {
        let mut bad = bytes.clone();
        let at = 9 + rng.below(bad.len() - 9);
        bad[at] = bad[at].wrapping_add(1 + rng.below(255) as u8);
        assert!(load(&bad, &limits).is_err());
        assert!(load(&bytes[..rng.below(bytes.len())], &limits).is_err());
    }
}

#[test]
fn a_snapshot_is_the_data_as_it_was_at_the_cut_whatever_is_written_meanwhile() {
    let limits = Limits::default();
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let keyspace = Keyspace::new(2, 16, [5, 6]);
        let mut loader = Loader::new(&keyspace);
        for i in 0..3000 {
            loader.add(0, format!("k{i}").as_bytes(), Value::Str(Box::from(&b"old"[..])), None, 0).unwrap();
        }
        loader.finish().unwrap();
        let want = digest_of(&keyspace);
        let mut walk = SnapshotWalk::begin(&keyspace, &mut keyspace.lock_all(), encode_entry);
        let (mut out, mut scratch) = (Vec::new(), Vec::new());
        header(&mut out);
        loop {
            for _ in 0..rng.below(200) {
                let key = format!("k{}", rng.below(6000));
                let mut locked = keyspace.lock_all();
                let mut keys = KeysView::new(&keyspace, &mut locked, &limits, 0, ExpiredKeys::Delete, 0);
                match rng.below(4) {
                    0 => drop(keys.remove(key.as_bytes())),
                    1 => drop(keys.set_expires_ms(key.as_bytes(), Some(u64::MAX))),
                    2 => drop(keys.edit_str(key.as_bytes(), |n| n + 1, |_| ())),
                    _ => keys.put_str(key.as_bytes(), b"new", crate::keyspace::Expiry::Clear),
                }
            }
            let step = walk.step(&keyspace, &mut scratch, 500, |db, bytes, _| {
                select_db(&mut out, db);
                out.extend_from_slice(bytes);
            });
            if step == WalkStep::Done {
                break;
            }
        }
        end(&mut out, None);
        assert_eq!(digest_of(&load(&out, &limits).unwrap()), want, "seed {seed}");
    }
}

#[test]
fn ziplists_and_zipmaps_of_old_files_are_read() {
    let limits = Limits::default();
    // A ziplist of "a", 5, -2 (int8), 300 (int16).
    let entries: &[&[u8]] = &[&[0, 1, b'a'], &[3, 0xF6], &[2, 0xFE, 0xFE], &[3, 0xC0, 44, 1]];
    let body: Vec<u8> = entries.concat();
    let mut ziplist = ((body.len() + 11) as u32).to_le_bytes().to_vec();
    ziplist.extend_from_slice(&[10, 0, 0, 0, 4, 0]);
    ziplist.extend_from_slice(&body);
    ziplist.push(0xFF);
    let mut payload = vec![kind::LIST_ZIPLIST, ziplist.len() as u8];
    payload.extend_from_slice(&ziplist);
    payload.extend_from_slice(&[6, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let Ok(Value::Object(Object::List(list))) = read_payload(&payload, true, &limits) else { panic!("no list") };
    let mut got = Vec::new();
    list.for_each_from(0, |_, item| {
        got.push(String::from_utf8_lossy(&item.bytes()).into_owned());
        true
    });
    assert_eq!(got, ["a", "5", "-2", "300"]);
    let zipmap = [&[1u8][..], &[1, b'f', 2, 1, b'v', b'w', 0], &[0xFF]].concat();
    let mut payload = vec![kind::HASH_ZIPMAP, zipmap.len() as u8];
    payload.extend_from_slice(&zipmap);
    payload.extend_from_slice(&[6, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let Ok(Value::Object(Object::Hash(hash))) = read_payload(&payload, true, &limits) else { panic!("no hash") };
    assert!(hash.get(b"f", |v| v == Some(b"vw")));
}
