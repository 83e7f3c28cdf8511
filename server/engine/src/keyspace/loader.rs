//! Filling a keyspace with what is read from an RDB.
//!
//! Almost every key belongs to a part of the table that is in no cache of the processor. So what was read waits behind a
//! few others, and what it will touch is asked for meanwhile.

use std::collections::VecDeque;

use super::{Keyspace, Shards, Slot, Value, table};

/// Entries that wait.
const AHEAD: usize = 16;

/// See the head of this file. What waits is lost unless it is [`Loader::finish`]ed.
#[derive(Debug)]
pub struct Loader<'k> {
    keyspace: &'k Keyspace,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    db: usize,
    hash: u64,
    slot: Slot,
}

/// A key that is there already.
#[derive(Debug, PartialEq, Eq)]
pub struct Duplicate(pub Vec<u8>);

impl<'k> Loader<'k> {
    pub fn new(keyspace: &'k Keyspace) -> Self {
        Self { keyspace, waiting: VecDeque::with_capacity(AHEAD) }
    }

    /// Adds an entry; one of those before it may turn out to be a duplicate.
    pub fn add(
        &mut self,
        db: usize,
        key: &[u8],
        value: Value,
        expires_ms: Option<u64>,
        access: u32,
    ) -> Result<(), Duplicate> {
        let hash = self.keyspace.hash(key);
        let shard = self.keyspace.shard_of(hash);
        let _ = self.keyspace.lock_one(shard).shard(shard).dbs[db].ahead(hash);
        let mut slot = Slot::new(table::tag(hash), key, value, expires_ms);
        slot.get_mut().set_access(access);
        let next = if self.waiting.len() == AHEAD { self.waiting.pop_front() } else { None };
        self.waiting.push_back(Waiting { db, hash, slot });
        next.map_or(Ok(()), |waiting| self.put(waiting))
    }

    /// Adds those that wait.
    pub fn finish(mut self) -> Result<(), Duplicate> {
        std::mem::take(&mut self.waiting).into_iter().try_for_each(|waiting| self.put(waiting))
    }

    fn put(&self, Waiting { db, hash, mut slot }: Waiting) -> Result<(), Duplicate> {
        let number = self.keyspace.shard_of(hash);
        let mut locked = self.keyspace.lock_one(number);
        let shard = locked.shard_mut(number);
        let parity = shard.snapshot.parity();
        let table = &mut shard.dbs[db];
        if table.find(hash, slot.get().key()).is_some() {
            return Err(Duplicate(slot.get().key().to_vec()));
        }
        slot.get_mut().set_parity(parity);
        table.insert(hash, slot, |key| self.keyspace.hash(key));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(keys: impl Iterator<Item = u32>) -> (Keyspace, Result<(), Duplicate>) {
        let keyspace = Keyspace::new(2, 2, [1, 2]);
        let mut loader = Loader::new(&keyspace);
        let mut add = |n: u32| loader.add(1, &n.to_be_bytes(), Value::Str(Box::from(&b"x"[..])), None, 0);
        let added = keys.map(&mut add).find(Result::is_err).unwrap_or(Ok(()));
        let result = added.and(loader.finish());
        (keyspace, result)
    }

    #[test]
    fn everything_is_there_in_the_end() {
        for count in [0, 1, AHEAD as u32, AHEAD as u32 + 1, 5000] {
            let (keyspace, result) = keyspace(0..count);
            assert_eq!((result, keyspace.len()), (Ok(()), count as usize));
        }
    }

    #[test]
    fn a_duplicate_is_named_wherever_it_stands() {
        let twice = |n: u32| Err(Duplicate(n.to_be_bytes().to_vec()));
        assert_eq!(keyspace((0..1000).chain([7]).chain(1000..2000)).1, twice(7));
        assert_eq!(keyspace((0..1000).chain([999])).1, twice(999), "among the last");
        assert_eq!(keyspace([1, 1].into_iter()).1, twice(1));
    }
}
