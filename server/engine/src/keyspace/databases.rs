//! The tables of one shard, by database.

use std::ops::{Index, IndexMut};

use super::Table;

/// Database 0, which most clients never leave, is found without a look elsewhere.
#[derive(Debug, Default)]
pub struct Databases {
    first: Table,
    others: Box<[Table]>,
}

impl Databases {
    /// `count`: at least one.
    pub(super) fn new(count: usize) -> Self {
        Self { first: Table::default(), others: (1..count).map(|_| Table::default()).collect() }
    }

    pub(super) fn get(&self, db: usize) -> Option<&Table> {
        if db == 0 { Some(&self.first) } else { self.others.get(db - 1) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.first).chain(&self.others)
    }

    pub(super) fn swap(&mut self, a: usize, b: usize) {
        match (a.min(b), a.max(b)) {
            (0, 0) => {}
            (0, other) => std::mem::swap(&mut self.first, &mut self.others[other - 1]),
            (one, other) => self.others.swap(one - 1, other - 1),
        }
    }
}

impl Index<usize> for Databases {
    type Output = Table;

    #[inline]
    fn index(&self, db: usize) -> &Table {
        if db == 0 { &self.first } else { &self.others[db - 1] }
    }
}

impl IndexMut<usize> for Databases {
    #[inline]
    fn index_mut(&mut self, db: usize) -> &mut Table {
        if db == 0 { &mut self.first } else { &mut self.others[db - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::{Slot, Value, table};

    #[test]
    fn each_database_has_its_table_also_when_two_are_swapped() {
        let mut dbs = Databases::new(3);
        for db in 0..3 {
            for n in 0..=db as u64 {
                let value = Value::Str(Box::from(&b"x"[..]));
                dbs[db].insert(n, Slot::new(table::tag(n), &n.to_be_bytes(), value, None), |_| {
                    unreachable!("it is small")
                });
            }
        }
        let lens = |dbs: &Databases| dbs.iter().map(Table::len).collect::<Vec<_>>();
        assert_eq!(lens(&dbs), [1, 2, 3]);
        for (a, b, want) in [(0, 2, [3, 2, 1]), (2, 1, [3, 1, 2]), (1, 0, [1, 3, 2]), (0, 0, [1, 3, 2])] {
            dbs.swap(a, b);
            assert_eq!(lens(&dbs), want, "{a} with {b}");
        }
        assert_eq!((0..4).map(|db| dbs.get(db).map(Table::len)).collect::<Vec<_>>(), [Some(1), Some(3), Some(2), None]);
        assert_eq!([0, 1, 2].map(|db| dbs[db].len()), [1, 3, 2]);
    }
}
