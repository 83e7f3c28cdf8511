//! Sets: sorted integers while all members are integers and few, a listpack while small, then a table.
//!
//! Redis 7.2's encodings (7.0 has no packed form for strings); on disk a packed set is written member by member, so
//! that Redis 7.0 can load it.

use std::borrow::Cow;

use super::Kind;
use super::listpack::Listpack;
use super::members::Members;
use crate::{Limits, Rng};

#[derive(Debug, Clone)]
pub enum Set {
    /// Sorted, without duplicates.
    Ints(Vec<i64>),
    Packed(Listpack),
    Table(Members),
}

impl Kind for Set {
    const TYPE: &'static str = "set";

    fn new(_: &Limits) -> Self {
        Set::Ints(Vec::new())
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encoding(&self) -> &'static str {
        match self {
            Set::Ints(_) => "intset",
            Set::Packed(_) => "listpack",
            Set::Table(_) => "hashtable",
        }
    }

    crate::kind_of_object!(Set);
}

impl Set {
    pub fn len(&self) -> usize {
        match self {
            Set::Ints(ints) => ints.len(),
            Set::Packed(list) => list.len(),
            Set::Table(table) => table.len(),
        }
    }

    pub fn contains(&self, member: &[u8]) -> bool {
        match self {
            Set::Ints(ints) => resp::number::parse_i64(member).is_some_and(|n| ints.binary_search(&n).is_ok()),
            Set::Packed(list) => list.find(member, 1).is_some(),
            Set::Table(table) => table.contains(member),
        }
    }

    /// Adds a member; `true` if it is new.
    pub fn insert(&mut self, member: &[u8], limits: &Limits) -> bool {
        if let Set::Ints(ints) = self {
            if let Some(n) = resp::number::parse_i64(member) {
                let Err(at) = ints.binary_search(&n) else { return false };
                ints.insert(at, n);
                if ints.len() > limits.set_max_intset_entries {
                    self.leave_ints(limits, 0);
                }
                return true;
            }
            self.leave_ints(limits, member.len());
        }
        if let Set::Packed(list) = self {
            if list.find(member, 1).is_some() {
                return false;
            }
            if list.len() < limits.set_max_listpack_entries && member.len() <= limits.set_max_listpack_value {
                list.push_back(member);
                return true;
            }
            self.unpack();
        }
        match self {
            Set::Table(table) => table.insert(member, b""),
            Set::Ints(_) | Set::Packed(_) => unreachable!("it was unpacked above"),
        }
    }

    /// From integers to a listpack if that may take them and one more member of `next_len` bytes, else to a table.
    fn leave_ints(&mut self, limits: &Limits, next_len: usize) {
        let Set::Ints(ints) = self else { return };
        if ints.len() < limits.set_max_listpack_entries && next_len <= limits.set_max_listpack_value {
            let mut list = Listpack::default();
            ints.iter().for_each(|&n| list.push_back(itoa::Buffer::new().format(n).as_bytes()));
            *self = Set::Packed(list);
        } else {
            self.unpack();
        }
    }

    fn unpack(&mut self) {
        let mut table = Members::default();
        self.for_each(|member| {
            table.insert(member, b"");
        });
        *self = Set::Table(table);
    }

    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self {
            Set::Ints(ints) => match resp::number::parse_i64(member).map(|n| ints.binary_search(&n)) {
                Some(Ok(at)) => {
                    ints.remove(at);
                    true
                }
                _ => false,
            },
            Set::Packed(list) => match list.find(member, 1) {
                Some(pos) => {
                    list.remove(pos, 1);
                    true
                }
                None => false,
            },
            Set::Table(table) => table.remove(member),
        }
    }

    pub fn for_each(&self, mut f: impl FnMut(&[u8])) {
        match self {
            Set::Ints(ints) => ints.iter().for_each(|&n| f(itoa::Buffer::new().format(n).as_bytes())),
            Set::Packed(list) => list.iter().for_each(|item| f(&item.bytes())),
            Set::Table(table) => table.iter().for_each(|(member, _)| f(member)),
        }
    }

    /// Copies of all members.
    pub fn to_vec(&self) -> Vec<Box<[u8]>> {
        let mut members = Vec::with_capacity(self.len());
        self.for_each(|member| members.push(member.into()));
        members
    }

    /// One SSCAN call; a set that is not a table is returned whole.
    pub fn scan(&self, cursor: u64, count: usize, mut f: impl FnMut(&[u8])) -> u64 {
        match self {
            Set::Table(table) => table.scan(cursor, count, &mut |member, _| f(member)),
            Set::Ints(_) | Set::Packed(_) => {
                self.for_each(f);
                0
            }
        }
    }

    pub fn random(&self, rng: &mut Rng) -> Option<Cow<'_, [u8]>> {
        match self {
            Set::Ints(ints) => {
                let n = ints.get(rng.below(ints.len()))?;
                Some(Cow::Owned(itoa::Buffer::new().format(*n).as_bytes().to_vec()))
            }
            Set::Packed(list) => list.nth(rng.below(list.len())).map(|pos| list.get(pos).bytes()),
            Set::Table(table) => table.random(rng).map(|(member, _)| Cow::Borrowed(member)),
        }
    }
}
