//! Sets: sorted integers while all members are integers and few, a listpack while small, then a table.
//!
//! Redis 7.2's encodings (7.0 has no packed form for strings); on disk a packed set is written member by member, so
//! that Redis 7.0 can load it.

use super::Kind;
use super::intset::Intset;
use super::listpack::Listpack;
use super::members::{Members, Sample};
use crate::{Limits, Rng};

#[derive(Debug, Clone)]
pub enum Set {
    Ints(Intset),
    Packed(Listpack),
    /// Boxed, so that the many small ones are small.
    Table(Box<Members>),
}

impl Kind for Set {
    const TYPE: &'static str = "set";

    fn new(_: &Limits) -> Self {
        Set::Ints(Intset::default())
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

#[expect(clippy::len_without_is_empty, reason = "`Kind` has it")]
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
            Set::Ints(ints) => resp::number::parse_i64(member).is_some_and(|n| ints.contains(n)),
            Set::Packed(list) => list.find(member, 1).is_some(),
            Set::Table(table) => table.contains(member),
        }
    }

    /// Chooses the form for `n` more members beginning with `first`, as Redis 7.2 does, which guesses that all are new.
    pub fn prepare(&mut self, first: &[u8], n: usize, limits: &Limits) {
        match self {
            Set::Ints(ints) if ints.is_empty() => {
                let int = resp::number::parse_i64(first).is_some();
                if !(int && n <= limits.set_max_intset_entries) {
                    *self = Set::Packed(Listpack::default());
                    self.prepare(first, n, limits);
                }
            }
            Set::Ints(_) if n > limits.set_max_intset_entries => self.unpack(),
            Set::Packed(_) if n > limits.set_max_listpack_entries => self.unpack(),
            Set::Ints(_) | Set::Packed(_) | Set::Table(_) => {}
        }
    }

    /// Adds a member; `true` if it is new.
    pub fn insert(&mut self, member: &[u8], limits: &Limits) -> bool {
        if let Set::Ints(ints) = self {
            if let Some(n) = resp::number::parse_i64(member) {
                let new = ints.insert(n);
                if ints.len() > limits.set_max_intset_entries {
                    self.unpack();
                }
                return new;
            }
            self.leave_ints(limits, member.len());
        }
        if let Set::Packed(list) = self {
            if list.find(member, 1).is_some() {
                return false;
            }
            let short = member.len() <= limits.set_max_listpack_value && list.has_room(member.len());
            if list.len() < limits.set_max_listpack_entries && short {
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
        let digits = |n: Option<i64>| n.map_or(0, |n| itoa::Buffer::new().format(n).len());
        let longest = digits(ints.iter().next()).max(digits(ints.iter().next_back())).max(next_len);
        if ints.len() < limits.set_max_listpack_entries && longest <= limits.set_max_listpack_value {
            let mut list = Listpack::default();
            ints.iter().for_each(|n| list.push_back(itoa::Buffer::new().format(n).as_bytes()));
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
        *self = Set::Table(Box::new(table));
    }

    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self {
            Set::Ints(ints) => resp::number::parse_i64(member).is_some_and(|n| ints.remove(n)),
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
        self.each_while(|member| {
            f(member);
            true
        });
    }

    /// Calls `f` for the members until it says `false`.
    pub fn each_while(&self, mut f: impl FnMut(&[u8]) -> bool) {
        match self {
            Set::Ints(ints) => ints.iter().all(|n| f(itoa::Buffer::new().format(n).as_bytes())),
            Set::Packed(list) => list.iter().all(|item| item.with(&mut f)),
            Set::Table(table) => table.iter().all(|(member, _)| f(member)),
        };
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

    /// Calls `f` for `n` members chosen at random, one perhaps more than once.
    pub fn random_each(&self, n: usize, rng: &mut Rng, mut f: impl FnMut(&[u8])) {
        for _ in 0..n {
            match self {
                Set::Ints(ints) => {
                    if let Some(n) = ints.get(rng.below(ints.len().max(1))) {
                        f(itoa::Buffer::new().format(n).as_bytes());
                    }
                }
                Set::Packed(list) => {
                    if let Some(pos) = list.nth(rng.below(list.len().max(1))) {
                        list.get(pos).with(&mut f);
                    }
                }
                Set::Table(table) => {
                    if let Some((member, _)) = table.random(rng) {
                        f(member);
                    }
                }
            }
        }
    }

    /// Calls `f` for `n` different members chosen at random, at most all; for all of them in the set's own order.
    pub fn random_distinct(&self, n: usize, rng: &mut Rng, mut f: impl FnMut(&[u8])) {
        match self {
            Set::Table(table) => table.random_distinct(n, rng, |member, _| f(member)),
            Set::Ints(_) | Set::Packed(_) => {
                let mut sample = Sample::new(n, self.len());
                self.for_each(|member| {
                    if sample.takes(rng) {
                        f(member);
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn member() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            12 => (-40i64..40).prop_map(|n| n.to_string().into_bytes()),
            1 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
            2 => prop::collection::vec(any::<u8>(), 0..3),
            1 => prop::collection::vec(any::<u8>(), 21..24),
        ]
    }

    fn integer(member: &[u8]) -> bool {
        resp::number::parse_i64(member).is_some()
    }

    proptest! {
        #[test]
        fn a_set_is_a_set_in_every_form(
            ops in prop::collection::vec((0u8..5, member()), 1..150), ints_max in 0usize..30, packed_max in 0usize..30, seed in any::<u64>(),
        ) {
            let limits = Limits {
                set_max_intset_entries: ints_max, set_max_listpack_entries: packed_max, set_max_listpack_value: 20, ..Limits::default()
            };
            let (mut set, mut model) = (Set::new(&limits), BTreeSet::new());
            for (op, member) in ops {
                if op == 0 {
                    prop_assert_eq!(set.remove(&member), model.remove(&member));
                } else {
                    prop_assert_eq!(set.insert(&member, &limits), model.insert(member.clone()));
                    prop_assert!(set.contains(&member));
                }
                prop_assert_eq!(set.len(), model.len());
                // What each form may hold.
                match set.encoding() {
                    "intset" => prop_assert!(model.len() <= ints_max && model.iter().all(|m| integer(m))),
                    "listpack" => prop_assert!(model.len() <= packed_max && model.iter().all(|m| m.len() <= 20)),
                    _ => {}
                }
            }
            let mut got = Vec::new();
            set.for_each(|m| got.push(m.to_vec()));
            got.sort();
            prop_assert!(got.iter().eq(model.iter()));
            let mut scanned = BTreeSet::new();
            let mut cursor = 0;
            loop {
                cursor = set.scan(cursor, 2, |m| { scanned.insert(m.to_vec()); });
                if cursor == 0 { break; }
            }
            prop_assert_eq!(&scanned, &model);
            let mut rng = Rng::new(seed);
            let mut some = Vec::new();
            set.random_distinct(5, &mut rng, |m| some.push(m.to_vec()));
            prop_assert_eq!(some.len(), model.len().min(5));
            prop_assert!(some.iter().all(|m| model.contains(m)));
            prop_assert_eq!(some.iter().collect::<BTreeSet<_>>().len(), some.len());
            let mut drawn = 0;
            set.random_each(3, &mut rng, |m| drawn += usize::from(model.contains(m)));
            prop_assert_eq!(drawn, if model.is_empty() { 0 } else { 3 });
        }
    }

    #[test]
    fn the_form_changes_where_redis_changes_it() {
        let limits = Limits::default();
        let number = |n: u32| n.to_string().into_bytes();
        let of = |members: &mut dyn Iterator<Item = Vec<u8>>| {
            let mut set = Set::new(&limits);
            members.for_each(|m| {
                set.insert(&m, &limits);
            });
            set
        };
        let mut ints = of(&mut (0..512).map(number));
        assert_eq!(ints.encoding(), "intset");
        ints.insert(b"512", &limits);
        assert_eq!(ints.encoding(), "hashtable");
        let mut few = of(&mut (0..127).map(number));
        few.insert(b"word", &limits);
        assert_eq!(few.encoding(), "listpack");
        few.insert(b"129th", &limits);
        assert_eq!(few.encoding(), "hashtable");
        let mut many = of(&mut (0..128).map(number));
        many.insert(b"word", &limits);
        assert_eq!(many.encoding(), "hashtable");
        assert_eq!(of(&mut std::iter::once(vec![b'x'; 64])).encoding(), "listpack");
        assert_eq!(of(&mut std::iter::once(vec![b'x'; 65])).encoding(), "hashtable");
        for (first, n, want) in
            [("1", 512, "intset"), ("1", 513, "hashtable"), ("a", 128, "listpack"), ("a", 129, "hashtable")]
        {
            let mut set = Set::new(&limits);
            set.prepare(first.as_bytes(), n, &limits);
            assert_eq!(set.encoding(), want, "{n} members from {first}");
        }
    }
}
