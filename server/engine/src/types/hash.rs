//! Hashes: a listpack of fields and values while small, then a table of thin entries.

use super::Kind;
use super::listpack::Listpack;
use super::members::Members;
use crate::{Limits, Rng};

/// Fields and their values. Turns from packed to table exactly where Redis does, and never back.
#[derive(Debug, Clone)]
pub enum Hash {
    Packed(Listpack),
    Table(Members),
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
                Some(pos) => f(Some(&list.get(pos).bytes())),
                None => f(None),
            },
            Hash::Table(table) => f(table.get(field)),
        }
    }

    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field, |v| v.is_some())
    }

    /// Turns into a table at once if these arguments will not fit in the packed form: saves packing in vain.
    pub fn prepare<'a>(&mut self, mut args: impl Iterator<Item = &'a [u8]>, limits: &Limits) {
        if matches!(self, Hash::Packed(_)) && args.any(|arg| arg.len() > limits.hash_max_listpack_value) {
            self.unpack();
        }
    }

    fn unpack(&mut self) {
        if let Hash::Packed(list) = self {
            let mut table = Members::default();
            list.pairs().for_each(|(field, value)| {
                table.insert(&field.bytes(), &value.bytes());
            });
            *self = Hash::Table(table);
        }
    }

    /// Sets a field; `true` if it is new.
    pub fn set(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        if let Hash::Packed(list) = self {
            let long = field.len().max(value.len()) > limits.hash_max_listpack_value;
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
            Hash::Packed(list) => list.pairs().for_each(|(field, value)| f(&field.bytes(), &value.bytes())),
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

    /// A field chosen at random, with its value.
    pub fn random<R>(&self, rng: &mut Rng, f: impl FnOnce(&[u8], &[u8]) -> R) -> Option<R> {
        match self {
            Hash::Packed(list) => {
                let (field, value) = list.pairs().nth(rng.below(self.len()))?;
                Some(f(&field.bytes(), &value.bytes()))
            }
            Hash::Table(table) => table.random(rng).map(|(field, value)| f(field, value)),
        }
    }
}
