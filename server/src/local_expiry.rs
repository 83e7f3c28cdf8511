//! Keys of a writable replica that its own clients gave an expiry: the master knows nothing of them, so the replica
//! deletes them itself. Nobody else is told: what is written to a replica is in nobody's history.
//!
//! Best effort, as in Redis: where clients of the master and of the replica write the same keys the two differ anyway.

use std::collections::{BTreeSet, HashMap};

use engine::KeysView;
use engine::keyspace::ExpiredKeys;
use parking_lot::Mutex;

use crate::clock;
use crate::state::Server;

/// Keys that one call looks at, so that clients do not wait for long.
const KEYS_MAX: usize = 64;

type Key = (usize, Box<[u8]>);

/// See the head of this file.
#[derive(Debug, Default)]
pub struct LocalExpiry {
    known: Mutex<Known>,
}

/// Each key is in both once, under the same time.
#[derive(Debug, Default)]
struct Known {
    times: HashMap<Key, u64>,
    order: BTreeSet<(u64, Key)>,
}

impl Known {
    fn insert(&mut self, at_ms: u64, key: Key) {
        if let Some(old) = self.times.insert(key.clone(), at_ms) {
            self.order.remove(&(old, key.clone()));
        }
        self.order.insert((at_ms, key));
    }

    /// A key whose time has come, which is known no more.
    fn take_due(&mut self, now_ms: u64) -> Option<Key> {
        self.order.first().filter(|(at, _)| *at <= now_ms)?;
        let (_, key) = self.order.pop_first()?;
        self.times.remove(&key);
        Some(key)
    }
}

impl LocalExpiry {
    /// Takes what a command gave an expiry; the shards of its keys are locked.
    pub(crate) fn remember(&self, keys: &mut KeysView<'_>) {
        let mut known = None;
        keys.drain_local_expiries(|at, db, key| known.get_or_insert_with(|| self.known.lock()).insert(at, (db, key)));
    }

    /// INFO's `slave_expires_tracked_keys`.
    pub fn len(&self) -> usize {
        self.known.lock().times.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data was replaced or emptied, or this instance expires all keys itself.
    pub fn forget_all(&self) {
        let mut known = self.known.lock();
        if !known.times.is_empty() {
            *known = Known::default();
        }
    }

    /// Deletes keys whose time has passed; the caller holds no locks.
    pub(crate) fn expire(&self, server: &Server) {
        let (now_ms, settings) = (clock::unix_ms(), server.settings());
        for _ in 0..KEYS_MAX {
            let Some((db, key)) = self.known.lock().take_due(now_ms) else { return };
            let shard = server.keyspace.shard_of(server.keyspace.hash(&key));
            let mut locked = server.keyspace.lock_one(shard);
            let mut keys =
                KeysView::new(&server.keyspace, &mut locked, &settings.limits, db, ExpiredKeys::Local, now_ms);
            if keys.remove_if_expired(&key) {
                continue;
            }
            // It may have got another time from the master, and still be this replica's.
            if let Some(Some(at)) = keys.expires_ms(&key) {
                self.known.lock().insert(at, (db, key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_time_that_a_key_was_given_counts() {
        let mut known = Known::default();
        let key = |db: usize, name: &str| (db, Box::from(name.as_bytes()));
        known.insert(30, key(0, "a"));
        known.insert(10, key(0, "b"));
        known.insert(20, key(1, "a"));
        known.insert(40, key(0, "b"));
        assert_eq!(known.take_due(19), None);
        assert_eq!((known.times.len(), known.order.len()), (3, 3));
        let due: Vec<Key> = std::iter::from_fn(|| known.take_due(40)).collect();
        assert_eq!(due, [key(1, "a"), key(0, "a"), key(0, "b")]);
        assert!(known.times.is_empty() && known.order.is_empty());
    }
}
