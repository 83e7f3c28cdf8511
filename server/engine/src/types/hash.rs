//! Hashes: a listpack of fields and values while small, then a table of thin entries.

use super::Kind;
use super::listpack::{Item, Listpack};
use super::members::{Members, Sample};
use crate::{Limits, Rng};

/// Fields and their values. Turns from packed to table exactly where Redis does, and never back.
#[derive(Debug, Clone)]
pub enum Hash {
    Packed(Listpack),
    /// Boxed, so that the many small ones are small.
    Table(Box<Members>),
}

impl Kind for Hash {
    const TYPE: &'static str = "hash";

    fn new(_: &Limits) -> Self {
        Hash::Packed(Listpack::default())
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encoding(&self) -> &'static str {
        match self {
            Hash::Packed(_) => "listpack",
            Hash::Table(_) => "hashtable",
        }
    }

    crate::kind_of_object!(Hash);
}

#[expect(clippy::len_without_is_empty, reason = "`Kind` has it")]
impl Hash {
    pub fn len(&self) -> usize {
        match self {
            Hash::Packed(list) => list.len() / 2,
            Hash::Table(table) => table.len(),
        }
    }

    /// The value of `field`, given to `f`.
    pub fn get<R>(&self, field: &[u8], f: impl FnOnce(Option<&[u8]>) -> R) -> R {
        match self {
            Hash::Packed(list) => match list.find(field, 2).and_then(|pos| list.next(pos)) {
                Some(pos) => list.get(pos).with(|value| f(Some(value))),
                None => f(None),
            },
            Hash::Table(table) => f(table.get(field)),
        }
    }

    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field, |v| v.is_some())
    }

    /// Turns into a table at once if these fields and values will not fit in the packed form. Redis 7.2 guesses that
    /// all fields are new, and so do we: `OBJECT ENCODING` tells.
    pub fn prepare<'a>(&mut self, args: impl ExactSizeIterator<Item = &'a [u8]>, limits: &Limits) {
        let Hash::Packed(list) = self else { return };
        let mut fits = args.len() / 2 <= limits.hash_max_listpack_entries;
        let mut bytes = 0usize;
        for arg in args {
            fits &= arg.len() <= limits.hash_max_listpack_value;
            bytes = bytes.saturating_add(arg.len());
        }
        if !(fits && list.has_room(bytes)) {
            self.unpack();
        }
    }

    fn unpack(&mut self) {
        if let Hash::Packed(list) = self {
            let mut table = Members::default();
            list.pairs().for_each(|(field, value)| {
                field.with(|field| value.with(|value| table.insert(field, value)));
            });
            *self = Hash::Table(Box::new(table));
        }
    }

    /// Sets a field; `true` if it is new.
    pub fn set(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        if let Hash::Packed(list) = self {
            let long = field.len().max(value.len()) > limits.hash_max_listpack_value
                || !list.has_room(field.len() + value.len());
            match list.find(field, 2).and_then(|pos| list.next(pos)) {
                Some(pos) if !long => {
                    list.replace(pos, value);
                    return false;
                }
                None if !long && list.len() / 2 < limits.hash_max_listpack_entries => {
                    list.push_back(field);
                    list.push_back(value);
                    return true;
                }
                _ => self.unpack(),
            }
        }
        match self {
            Hash::Table(table) => table.insert(field, value),
            Hash::Packed(_) => unreachable!("it was unpacked above"),
        }
    }

    pub fn remove(&mut self, field: &[u8]) -> bool {
        match self {
            Hash::Packed(list) => match list.find(field, 2) {
                Some(pos) => {
                    list.remove(pos, 2);
                    true
                }
                None => false,
            },
            Hash::Table(table) => table.remove(field),
        }
    }

    pub fn for_each(&self, mut f: impl FnMut(&[u8], &[u8])) {
        match self {
            Hash::Packed(list) => list.pairs().for_each(|(field, value)| both(field, value, &mut f)),
            Hash::Table(table) => table.iter().for_each(|(field, value)| f(field, value)),
        }
    }

    /// One HSCAN call, see [`Members::scan`]; a packed hash is returned whole.
    pub fn scan(&self, cursor: u64, count: usize, mut f: impl FnMut(&[u8], &[u8])) -> u64 {
        match self {
            Hash::Packed(_) => {
                self.for_each(f);
                0
            }
            Hash::Table(table) => table.scan(cursor, count, &mut f),
        }
    }

    /// Calls `f` for `n` fields chosen at random, one perhaps more than once.
    pub fn random_each(&self, n: usize, rng: &mut Rng, mut f: impl FnMut(&[u8], &[u8])) {
        for _ in 0..n {
            match self {
                Hash::Packed(list) => {
                    let field = list.nth(rng.below(self.len().max(1)) * 2);
                    if let Some((field, value)) = field.and_then(|pos| Some((pos, list.next(pos)?))) {
                        both(list.get(field), list.get(value), &mut f);
                    }
                }
                Hash::Table(table) => {
                    if let Some((field, value)) = table.random(rng) {
                        f(field, value);
                    }
                }
            }
        }
    }

    /// Calls `f` for `n` different fields chosen at random, at most all.
    pub fn random_distinct(&self, n: usize, rng: &mut Rng, mut f: impl FnMut(&[u8], &[u8])) {
        match self {
            Hash::Packed(list) => {
                let mut sample = Sample::new(n, self.len());
                let chosen = list.pairs().filter(|_| sample.takes(rng));
                chosen.for_each(|(field, value)| both(field, value, &mut f));
            }
            Hash::Table(table) => table.random_distinct(n, rng, f),
        }
    }
}

fn both(field: Item<'_>, value: Item<'_>, f: &mut impl FnMut(&[u8], &[u8])) {
    field.with(|field| value.with(|value| f(field, value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Whether Redis 7.2 would keep the pairs that were ever set in a listpack: the entries and lengths of all times
    /// count, because a table does not turn back.
    #[derive(Default)]
    struct Model {
        pairs: BTreeMap<Vec<u8>, Vec<u8>>,
        table: bool,
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            8 => (-300i64..300).prop_map(|n| n.to_string().into_bytes()),
            8 => prop::collection::vec(any::<u8>(), 0..4),
            1 => prop::collection::vec(any::<u8>(), 9..12),
        ]
    }

    proptest! {
        #[test]
        fn a_hash_is_a_map_and_turns_where_redis_does(ops in prop::collection::vec((0u8..6, text(), text()), 1..150), entries in 0usize..40) {
            let limits = Limits { hash_max_listpack_entries: entries, hash_max_listpack_value: 10, ..Limits::default() };
            let (mut hash, mut model) = (Hash::new(&limits), Model::default());
            for (op, field, value) in ops {
                if op == 0 {
                    prop_assert_eq!(hash.remove(&field), model.pairs.remove(&field).is_some());
                } else {
                    model.table |= field.len().max(value.len()) > 10;
                    prop_assert_eq!(hash.set(&field, &value, &limits), model.pairs.insert(field.clone(), value.clone()).is_none());
                    model.table |= model.pairs.len() > entries;
                    prop_assert!(hash.get(&field, |v| v == Some(&value[..])));
                }
                prop_assert_eq!(hash.len(), model.pairs.len());
                prop_assert_eq!(hash.encoding(), if model.table { "hashtable" } else { "listpack" });
            }
            let mut all = BTreeMap::new();
            hash.for_each(|f, v| { all.insert(f.to_vec(), v.to_vec()); });
            prop_assert_eq!(&all, &model.pairs);
            let mut scanned = BTreeMap::new();
            let mut cursor = 0;
            loop {
                cursor = hash.scan(cursor, 3, |f, v| { scanned.insert(f.to_vec(), v.to_vec()); });
                if cursor == 0 { break; }
            }
            prop_assert_eq!(scanned, model.pairs);
        }
    }
}
