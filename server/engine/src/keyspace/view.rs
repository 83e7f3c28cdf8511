//! [`KeysView`]: one database through the locked shards, the only way a command touches data.

use smallvec::SmallVec;

use super::entry::{EntryMut, EntryRef, Slot, Value, ValueRef};
use super::table::{self, Cursor, Place};
use super::{Keyspace, Shard, Shards};
use crate::types::{Kind, Object};
use crate::{CommandError, Limits, access};

/// Positions without keys that one SCAN call may pass, so that a small database is scanned in one call.
const EMPTY_POSITIONS_MAX: usize = 8192;

/// What happens to a key whose time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiredKeys {
    /// On a master: it is deleted where it is met, and the deletion is propagated.
    Delete,
    /// For clients of a replica: it is treated as absent and stays until the master says DEL.
    Hide,
    /// For commands by which clients of a writable replica write: it is deleted where it is met, and what gets an expiry
    /// is remembered ([`KeysView::drain_local_expiries`]), because the master knows nothing of it.
    Local,
    /// For the replication stream and for loading: it is there.
    Keep,
}

/// What [`KeysView::edit`] does where there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    Create,
    Skip,
}

/// What becomes of a key's expiry when its value is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    Clear,
    Keep,
    /// Unix time in ms.
    At(u64),
}

/// A key and its hash.
#[derive(Debug, Clone, Copy)]
pub struct KeyHash<'k> {
    pub key: &'k [u8],
    pub hash: u64,
}

impl KeyHash<'_> {
    /// Is it of this very slice?
    #[inline]
    fn is_of(&self, key: &[u8]) -> bool {
        (self.key.as_ptr(), self.key.len()) == (key.as_ptr(), key.len())
    }
}

/// The data as one command sees it. Whatever a method changes is counted in [`KeysView::changes`], told to WATCHers
/// and handed to a running snapshot first.
#[derive(Debug)]
pub struct KeysView<'a> {
    keyspace: &'a Keyspace,
    locked: &'a mut (dyn Shards + 'a),
    limits: &'a Limits,
    db: usize,
    expired: ExpiredKeys,
    now_ms: u64,
    /// Deleted because their time had passed: to be propagated in front of the command.
    lazily_deleted: Vec<(usize, Box<[u8]>)>,
    /// Keys that got an expiry, and when: see [`ExpiredKeys::Local`].
    local_expiries: Vec<(u64, usize, Box<[u8]>)>,
    changes: u64,
    /// Address, length and hash of the key that was hashed last: the dispatcher has hashed it already.
    last_hash: (*const u8, usize, u64),
    /// Keys that come next, if the command goes through them in this order.
    next_hashes: &'a [KeyHash<'a>],
    /// Reading a key sets its access time.
    touch: bool,
    /// Looking for a key is a hit or a miss. Redis counts what is looked for to be read, not what is to be changed.
    counting: bool,
}

impl<'a> KeysView<'a> {
    pub fn new(
        keyspace: &'a Keyspace,
        locked: &'a mut (dyn Shards + 'a),
        limits: &'a Limits,
        db: usize,
        expired: ExpiredKeys,
        now_ms: u64,
    ) -> Self {
        Self {
            keyspace,
            locked,
            limits,
            db,
            expired,
            now_ms,
            lazily_deleted: Vec::new(),
            local_expiries: Vec::new(),
            changes: 0,
            last_hash: (std::ptr::null(), 0, 0),
            next_hashes: &[],
            touch: true,
            counting: false,
        }
    }

    /// CLIENT NO-TOUCH: what is read from now on keeps its access time.
    pub fn leave_access_times(&mut self) {
        self.touch = false;
    }

    /// What is looked for from now on is read: it counts as a hit or a miss.
    pub fn count_lookups(&mut self) {
        self.counting = true;
    }

    /// Says what hashes the keys (these very slices) have that the command is going to ask for.
    #[inline]
    pub fn hint_hashes(&mut self, hashes: &'a [KeyHash<'a>]) {
        match hashes {
            [one] => self.remember_hash(one.key, one.hash),
            several => self.next_hashes = several,
        }
    }

    #[inline]
    fn remember_hash(&mut self, key: &[u8], hash: u64) {
        self.last_hash = (key.as_ptr(), key.len(), hash);
    }

    /// To be called before a key is looked up that the command made itself: it may lie in memory where another one lay.
    /// (The command's arguments stay where they are.)
    pub fn forget_hash(&mut self) {
        self.last_hash = (std::ptr::null(), 0, 0);
        self.next_hashes = &[];
    }

    #[inline]
    fn hash(&mut self, key: &[u8]) -> u64 {
        if (key.as_ptr(), key.len()) == (self.last_hash.0, self.last_hash.1) {
            return self.last_hash.2;
        }
        let hash = match self.next_hashes {
            [next, rest @ ..] if next.is_of(key) => {
                self.next_hashes = rest;
                next.hash
            }
            _ => self.keyspace.hash(key),
        };
        self.remember_hash(key, hash);
        hash
    }

    /// Number of changes so far: the command is propagated if it is not 0. Redis's `dirty`.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Counts a change that the view cannot see.
    pub fn add_changes(&mut self, n: u64) {
        self.changes += n;
    }

    pub fn db(&self) -> usize {
        self.db
    }

    pub fn databases(&self) -> usize {
        self.keyspace.databases()
    }

    /// Turns to another database, below [`KeysView::databases`].
    pub fn select(&mut self, db: usize) {
        assert!(db < self.databases(), "the caller has checked the database number");
        self.db = db;
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// True for a client of a replica or the replication stream: this instance does not expire keys by itself.
    pub fn is_replica(&self) -> bool {
        self.expired != ExpiredKeys::Delete
    }

    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// Keys, with their databases, that were deleted because their time had passed: to be propagated in front of the
    /// command's own effects.
    #[inline]
    pub fn take_lazily_deleted(&mut self) -> Vec<(usize, Box<[u8]>)> {
        std::mem::take(&mut self.lazily_deleted)
    }

    /// What a client of a writable replica gave an expiry: `f(unix ms, database, key)`.
    pub fn drain_local_expiries(&mut self, mut f: impl FnMut(u64, usize, Box<[u8]>)) {
        self.local_expiries.drain(..).for_each(|(at, db, key)| f(at, db, key));
    }

    /// To be called when a key gets this expiry.
    #[inline]
    fn note_expiry(&mut self, key: &[u8], expires_ms: Option<u64>) {
        if let (Some(at), ExpiredKeys::Local) = (expires_ms, self.expired) {
            self.local_expiries.push((at, self.db, key.into()));
        }
    }

    #[inline]
    fn shard(&mut self, hash: u64) -> &mut Shard {
        let shard = self.keyspace.shard_of(hash);
        self.locked.shard_mut(shard)
    }

    /// Finds a living key; deletes one whose time has passed where that is this instance's to do.
    #[inline]
    fn find(&mut self, key: &[u8]) -> Option<(u64, Place)> {
        let hash = self.hash(key);
        let db = self.db;
        let (place, entry) = self.shard(hash).dbs[db].find_entry(hash, key)?;
        if entry.expires_ms().is_some() {
            return self.living(hash, place, key);
        }
        Some((hash, place))
    }

    #[cold]
    fn living(&mut self, hash: u64, place: Place, key: &[u8]) -> Option<(u64, Place)> {
        let db = self.db;
        let at = self.shard(hash).dbs[db].at(place).expires_ms();
        if self.expired == ExpiredKeys::Keep || at.is_none_or(|at| at > self.now_ms) {
            return Some((hash, place));
        }
        if matches!(self.expired, ExpiredKeys::Delete | ExpiredKeys::Local) {
            self.take(hash, place, key);
            self.keyspace.expired.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.lazily_deleted.push((db, key.into()));
        }
        None
    }

    /// Removes an entry: snapshot first, WATCHers told. Does not count as a change of the command.
    fn take(&mut self, hash: u64, place: Place, key: &[u8]) -> Slot {
        let db = self.db;
        let shard = self.shard(hash);
        shard.snapshot.before_change(db, &mut shard.dbs[db].at_mut(place));
        let slot = shard.dbs[db].remove(place);
        shard.touch(db, key);
        slot
    }

    /// Before a change of the entry: hands its old value to the snapshot.
    #[inline]
    fn before_change(&mut self, hash: u64, place: Place) {
        let db = self.db;
        let shard = self.shard(hash);
        shard.snapshot.before_change(db, &mut shard.dbs[db].at_mut(place));
    }

    /// After a change: counts it and tells WATCHers.
    #[inline]
    fn changed(&mut self, hash: u64, key: &[u8], n: u64) {
        let db = self.db;
        self.changes += n;
        self.shard(hash).touch(db, key);
    }

    /// Looks a key up: see [`KeysView::count_lookups`] and [`KeysView::leave_access_times`].
    #[inline]
    fn read(&mut self, key: &[u8]) -> Option<EntryRef<'_>> {
        let (touch, clock) = (self.touch, access::clock(self.now_ms));
        let mut entry = self.find_counted(key)?;
        if touch {
            entry.set_access(clock);
        }
        Some(entry.into_ref())
    }

    /// The same, and its access time stays.
    #[inline]
    fn find_counted(&mut self, key: &[u8]) -> Option<EntryMut<'_>> {
        let found = self.find(key);
        let (db, counting, hash) = (self.db, self.counting, self.hash(key));
        let shard = self.shard(hash);
        if counting {
            *if found.is_some() { &mut shard.stats.hits } else { &mut shard.stats.misses } += 1;
        }
        let (_, place) = found?;
        Some(shard.dbs[db].at_mut(place))
    }

    #[inline]
    fn at(&mut self, hash: u64, place: Place) -> EntryRef<'_> {
        let db = self.db;
        self.shard(hash).dbs[db].at(place)
    }

    /// The value of a key, whatever its type.
    #[inline]
    pub fn value(&mut self, key: &[u8]) -> Option<ValueRef<'_>> {
        self.read(key).map(EntryRef::value)
    }

    /// The values of several keys together, whatever their types.
    pub fn values(&mut self, keys: &[&[u8]]) -> SmallVec<[Option<ValueRef<'_>>; 8]> {
        // Expired keys go first: their removal may move other entries.
        for key in keys {
            self.read(key);
        }
        let places: SmallVec<[_; 8]> = keys.iter().map(|key| self.find(key)).collect();
        let value = |(hash, place)| self.locked.shard(self.keyspace.shard_of(hash)).dbs[self.db].at(place).value();
        places.into_iter().map(|found| found.map(value)).collect()
    }

    /// The entry; its access time stays.
    pub fn look(&mut self, key: &[u8]) -> Option<EntryRef<'_>> {
        self.find_counted(key).map(EntryMut::into_ref)
    }

    /// The same, which is neither a hit nor a miss.
    pub fn peek(&mut self, key: &[u8]) -> Option<EntryRef<'_>> {
        let (hash, place) = self.find(key)?;
        Some(self.at(hash, place))
    }

    /// The collection at `key`.
    pub fn get<T: Kind>(&mut self, key: &[u8]) -> Result<Option<&T>, CommandError> {
        match self.value(key) {
            None => Ok(None),
            Some(ValueRef::Object(object)) => T::of(object).map(Some).ok_or(CommandError::WrongType),
            Some(ValueRef::Str(_)) => Err(CommandError::WrongType),
        }
    }

    /// The collections at several keys, together. A wrong type among them fails, wherever it stands.
    pub fn get_all<T: Kind>(&mut self, keys: &[&[u8]]) -> Result<SmallVec<[Option<&T>; 8]>, CommandError> {
        let collection = |value| match value {
            None => Ok(None),
            Some(ValueRef::Object(object)) => T::of(object).map(Some).ok_or(CommandError::WrongType),
            Some(ValueRef::Str(_)) => Err(CommandError::WrongType),
        };
        self.values(keys).into_iter().map(collection).collect()
    }

    /// The string at `key`.
    #[inline]
    pub fn get_str(&mut self, key: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        match self.value(key) {
            None => Ok(None),
            Some(ValueRef::Str(bytes)) => Ok(Some(bytes)),
            Some(ValueRef::Object(_)) => Err(CommandError::WrongType),
        }
    }

    /// Fails with WRONGTYPE if the key holds something else than `T`.
    pub fn check<T: Kind>(&mut self, key: &[u8]) -> Result<bool, CommandError> {
        match self.find(key) {
            None => Ok(false),
            Some((hash, place)) => match self.at(hash, place).value() {
                ValueRef::Object(object) if T::of(object).is_some() => Ok(true),
                _ => Err(CommandError::WrongType),
            },
        }
    }

    pub fn exists(&mut self, key: &[u8]) -> bool {
        self.read(key).is_some()
    }

    /// `TYPE`'s word.
    pub fn type_of(&mut self, key: &[u8]) -> Option<&'static str> {
        Some(match self.look(key)?.value() {
            ValueRef::Str(_) => "string",
            ValueRef::Object(object) => object.type_name(),
        })
    }

    /// Changes the collection at `key` by `f`, which returns its result and the number of changes it made. A key that
    /// is absent is made for [`Absent::Create`], else the answer is `None`; a collection that is empty afterwards is
    /// removed.
    pub fn edit<T: Kind, R>(
        &mut self,
        key: &[u8],
        absent: Absent,
        f: impl FnOnce(&mut T) -> (R, u64),
    ) -> Result<Option<R>, CommandError> {
        let Some((hash, place)) = self.find(key) else {
            if absent == Absent::Skip {
                return Ok(None);
            }
            let mut value = T::new(self.limits);
            let (result, changes) = f(&mut value);
            if !value.is_empty() {
                let hash = self.hash(key);
                self.insert(hash, key, Value::Object(value.into_object()), None);
                self.changed(hash, key, changes);
            }
            return Ok(Some(result));
        };
        let (db, clock) = (self.db, access::clock(self.now_ms));
        let shard = self.shard(hash);
        let mut entry = shard.dbs[db].at_mut(place);
        if !matches!(entry.as_ref().value(), ValueRef::Object(object) if T::of(object).is_some()) {
            return Err(CommandError::WrongType);
        }
        shard.snapshot.before_change(db, &mut entry);
        entry.set_access(clock);
        let value = entry.object_mut().and_then(T::of_mut).expect("the type was checked under the same lock");
        let (result, changes) = f(value);
        if value.is_empty() {
            drop(shard.dbs[db].remove(place));
        }
        if changes > 0 {
            shard.touch(db, key);
            self.changes += changes;
        }
        Ok(Some(result))
    }

    fn insert(&mut self, hash: u64, key: &[u8], value: Value, expires_ms: Option<u64>) {
        self.note_expiry(key, expires_ms);
        self.insert_slot(hash, Slot::new(table::tag(hash), key, value, expires_ms));
    }

    #[inline]
    fn insert_slot(&mut self, hash: u64, mut slot: Slot) {
        let (db, clock, keyspace) = (self.db, access::clock(self.now_ms), self.keyspace);
        let shard = self.shard(hash);
        let mut entry = slot.get_mut();
        entry.set_parity(shard.snapshot.parity());
        entry.set_access(clock);
        shard.dbs[db].insert(hash, slot, |key| keyspace.hash(key));
    }

    /// Makes `value` the key's value, whatever was there, without an expiry. An empty collection removes the key.
    pub fn put<T: Kind>(&mut self, key: &[u8], value: T) {
        if value.is_empty() {
            self.remove(key);
        } else {
            self.put_value(key, Value::Object(value.into_object()), None);
        }
    }

    /// Makes `value` the key's value, whatever was there.
    pub fn put_value(&mut self, key: &[u8], value: Value, expires_ms: Option<u64>) {
        match self.find(key) {
            None => {
                let hash = self.hash(key);
                self.insert(hash, key, value, expires_ms);
                self.changed(hash, key, 1);
            }
            Some((hash, place)) => {
                let slot = Slot::new(table::tag(hash), key, value, expires_ms);
                self.note_expiry(key, expires_ms);
                self.replace(hash, place, slot);
                self.changed(hash, key, 1);
            }
        }
    }

    fn replace(&mut self, hash: u64, place: Place, mut slot: Slot) {
        let (db, clock) = (self.db, access::clock(self.now_ms));
        let shard = self.shard(hash);
        shard.snapshot.before_change(db, &mut shard.dbs[db].at_mut(place));
        let mut entry = slot.get_mut();
        entry.set_parity(shard.snapshot.parity());
        entry.set_access(clock);
        drop(shard.dbs[db].replace(place, slot));
    }

    /// Sets a string, whatever was there.
    #[inline]
    pub fn put_str(&mut self, key: &[u8], value: &[u8], expiry: Expiry) {
        let new = if let Expiry::At(at) = expiry { Some(at) } else { None };
        self.note_expiry(key, new);
        let Some((hash, place)) = self.find(key) else { return self.insert_str(key, value, new) };
        let (db, clock) = (self.db, access::clock(self.now_ms));
        let shard = self.shard(hash);
        let mut entry = shard.dbs[db].at_mut(place);
        shard.snapshot.before_change(db, &mut entry);
        overwrite(&mut entry, value, clock);
        if expiry != Expiry::Keep && entry.as_ref().expires_ms() != new {
            shard.dbs[db].set_expires_ms(place, new);
        }
        shard.touch(db, key);
        self.changes += 1;
    }

    /// Sets a string to what `f` makes of the present one, and returns that. When it expires stays. The key is looked up once.
    #[inline]
    pub fn update_str<T: AsRef<[u8]>>(
        &mut self,
        key: &[u8],
        f: impl FnOnce(Option<&[u8]>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let Some((hash, place)) = self.find(key) else {
            let new = f(None)?;
            self.insert_str(key, new.as_ref(), None);
            return Ok(new);
        };
        let (db, clock, touch) = (self.db, access::clock(self.now_ms), self.touch);
        let shard = self.shard(hash);
        let mut entry = shard.dbs[db].at_mut(place);
        if touch {
            entry.set_access(clock);
        }
        let ValueRef::Str(old) = entry.as_ref().value() else { return Err(CommandError::WrongType) };
        let new = f(Some(old))?;
        shard.snapshot.before_change(db, &mut entry);
        overwrite(&mut entry, new.as_ref(), clock);
        shard.touch(db, key);
        self.changes += 1;
        Ok(new)
    }

    #[inline]
    fn insert_str(&mut self, key: &[u8], value: &[u8], expires_ms: Option<u64>) {
        let hash = self.hash(key);
        self.insert_slot(hash, Slot::new_str(table::tag(hash), key, value, expires_ms));
        self.changed(hash, key, 1);
    }

    /// Changes the bytes of a string in place; it is made (empty) where there is none, then brought to `len` bytes if
    /// that is `Some`, zeros behind. The result is an ordinary (`raw`) string. `f` gets the bytes.
    pub fn edit_str<R>(
        &mut self,
        key: &[u8],
        len: impl FnOnce(usize) -> usize,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, CommandError> {
        let (hash, place) = match self.find(key) {
            Some((hash, place)) => {
                if !matches!(self.at(hash, place).value(), ValueRef::Str(_)) {
                    return Err(CommandError::WrongType);
                }
                self.before_change(hash, place);
                (hash, place)
            }
            None => {
                let hash = self.hash(key);
                self.insert_slot(hash, Slot::new_str(table::tag(hash), key, b"", None));
                self.find(key).expect("it was inserted under the same lock")
            }
        };
        let (db, clock) = (self.db, access::clock(self.now_ms));
        let shard = self.shard(hash);
        let mut entry = shard.dbs[db].at_mut(place);
        let old = match entry.as_ref().value() {
            ValueRef::Str(bytes) => bytes.len(),
            ValueRef::Object(_) => 0,
        };
        let new = len(old);
        if new != old {
            entry.resize_str(new);
        }
        entry.set_raw(true);
        entry.set_access(clock);
        let result = f(entry.str_mut().expect("the type was checked under the same lock"));
        self.changed(hash, key, 1);
        Ok(result)
    }

    /// Deletes a key; `false` if there was none.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        self.remove_entry(key).is_some()
    }

    /// Deletes a key and returns its value and expiry.
    pub fn remove_value(&mut self, key: &[u8]) -> Option<(Value, Option<u64>)> {
        let slot = self.remove_entry(key)?;
        let expires_ms = slot.get().expires_ms();
        Some((slot.into_value(), expires_ms))
    }

    fn remove_entry(&mut self, key: &[u8]) -> Option<Slot> {
        let (hash, place) = self.find(key)?;
        let slot = self.take(hash, place, key);
        self.changes += 1;
        Some(slot)
    }

    /// Deletes the key if its time has passed: what active expiry does. `true` if it did.
    pub fn remove_if_expired(&mut self, key: &[u8]) -> bool {
        let before = self.lazily_deleted.len();
        self.find(key);
        self.lazily_deleted.len() > before
    }

    /// A copy of a value.
    pub fn clone_value(&mut self, key: &[u8]) -> Option<(Value, Option<u64>)> {
        let entry = self.look(key)?;
        let value = match entry.value() {
            ValueRef::Str(bytes) => Value::Str(bytes.into()),
            ValueRef::Object(object) => Value::Object(Object::clone(object)),
        };
        Some((value, entry.expires_ms()))
    }

    /// Unix time in ms at which the key expires; `None` if there is no key, `Some(None)` if it has no expiry.
    pub fn expires_ms(&mut self, key: &[u8]) -> Option<Option<u64>> {
        self.look(key).map(EntryRef::expires_ms)
    }

    /// Sets or clears the expiry of a key that exists; `false` if there is no key.
    pub fn set_expires_ms(&mut self, key: &[u8], expires_ms: Option<u64>) -> bool {
        let Some((hash, place)) = self.find(key) else { return false };
        let db = self.db;
        self.before_change(hash, place);
        self.note_expiry(key, expires_ms);
        self.shard(hash).dbs[db].set_expires_ms(place, expires_ms);
        self.changed(hash, key, 1);
        true
    }

    /// Sets the access time to what it was so many seconds ago: RESTORE's IDLETIME.
    pub fn set_idle_seconds(&mut self, key: &[u8], seconds: u64) {
        let Some((hash, place)) = self.find(key) else { return };
        let db = self.db;
        let clock = access::clock(self.now_ms.saturating_sub(seconds.saturating_mul(1000)));
        self.shard(hash).dbs[db].at_mut(place).set_access(clock);
    }

    /// Seconds since the last access.
    pub fn idle_seconds(&mut self, key: &[u8]) -> Option<u64> {
        let now_ms = self.now_ms;
        self.peek(key).map(|entry| access::idle_seconds(now_ms, entry.access()))
    }

    // What follows looks at the whole database: every shard is locked.

    /// Keys in the selected database.
    pub fn len(&mut self) -> usize {
        let db = self.db;
        self.locked.all_mut().iter().map(|shard| shard.dbs[db].len()).sum()
    }

    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Calls `f` for every living key.
    pub fn for_each(&mut self, mut f: impl FnMut(EntryRef<'_>)) {
        let (db, now_ms, keep) = (self.db, self.now_ms, self.expired == ExpiredKeys::Keep);
        for shard in self.locked.all_mut() {
            let living = shard.dbs[db].iter().filter(|e| keep || e.expires_ms().is_none_or(|at| at > now_ms));
            living.for_each(&mut f);
        }
    }

    /// One SCAN call: visits positions from `cursor` until `count` living keys were seen; returns the next cursor, 0 at
    /// the end. The cursor is shard, then position in hash order.
    pub fn scan(&mut self, cursor: u64, count: usize, mut f: impl FnMut(EntryRef<'_>)) -> u64 {
        let (db, now_ms, keep) = (self.db, self.now_ms, self.expired == ExpiredKeys::Keep);
        let mut shard = (cursor >> Cursor::BITS) as usize;
        let mut position = Cursor::from_bits(cursor);
        let (mut seen, mut visits) = (0, 0usize);
        let mut expired: Vec<Box<[u8]>> = Vec::new();
        while shard < self.keyspace.shard_count() {
            let next = self.locked.shard_mut(shard).dbs[db].visit(position, false, |_, entry| {
                let entry = entry.as_ref();
                seen += 1;
                if keep || entry.expires_ms().is_none_or(|at| at > now_ms) {
                    f(entry);
                } else {
                    expired.push(entry.key().into());
                }
            });
            match next {
                Some(next) => position = next,
                None => {
                    shard += 1;
                    position = Cursor::default();
                }
            }
            visits += 1;
            if seen >= count || visits >= count.saturating_mul(10).saturating_add(EMPTY_POSITIONS_MAX) {
                break;
            }
        }
        self.delete_expired(&expired);
        if shard >= self.keyspace.shard_count() { 0 } else { (shard as u64) << Cursor::BITS | position.bits() }
    }

    /// Deletes what was found to be expired, where that is this instance's to do.
    fn delete_expired(&mut self, keys: &[Box<[u8]>]) {
        for key in keys {
            self.forget_hash();
            let _ = self.find(key);
        }
        self.forget_hash();
    }

    /// A living key chosen at random, copied; expired ones are passed over.
    pub fn random_key(&mut self, rng: &mut crate::Rng) -> Option<Box<[u8]>> {
        const DRAWS: usize = 16;
        let db = self.db;
        let total = self.len();
        if total == 0 {
            return None;
        }
        // A shard by its share of the keys, then a random key in it; where most have expired, the next ones in their order.
        let mut pick = rng.below(total);
        let shards = self.keyspace.shard_count();
        let mut shard = (0..shards).find(|&s| {
            let len = self.locked.shard_mut(s).dbs[db].len();
            if pick < len {
                return true;
            }
            pick -= len;
            false
        })?;
        let now_ms = self.now_ms;
        let mut expired: Vec<Box<[u8]>> = Vec::new();
        for _ in 0..DRAWS {
            let Some(entry) = self.locked.shard(shard).dbs[db].random(rng) else { break };
            let key = entry.key().into();
            if entry.expires_ms().is_none_or(|at| at > now_ms) {
                self.delete_expired(&expired);
                return Some(key);
            }
            expired.push(key);
        }
        let mut position = Cursor::from_bits(rng.next_u64());
        for _ in 0..=shards {
            let mut wraps = 0;
            while wraps < 2 {
                let mut candidates = Vec::new();
                let next = self.locked.shard_mut(shard).dbs[db].visit(position, false, |_, entry| {
                    let entry = entry.as_ref();
                    if entry.expires_ms().is_none_or(|at| at > now_ms) {
                        candidates.push(Box::from(entry.key()));
                    } else {
                        expired.push(entry.key().into());
                    }
                });
                if !candidates.is_empty() {
                    self.delete_expired(&expired);
                    return Some(candidates.swap_remove(rng.below(candidates.len())));
                }
                match next {
                    Some(next) => position = next,
                    None => {
                        wraps += 1;
                        position = Cursor::default();
                    }
                }
            }
            shard = (shard + 1) % shards;
        }
        self.delete_expired(&expired);
        None
    }

    /// Empties the selected database; returns the number of keys that went. A running snapshot is given up.
    pub fn flush(&mut self) -> usize {
        let db = self.db;
        let mut gone = 0;
        for shard in self.locked.all_mut() {
            shard.snapshot.abort();
            let table = std::mem::take(&mut shard.dbs[db]);
            gone += table.len();
            for (_, _, flags) in
                shard.watched().filter(|(of, key, _)| *of == db && is_living(&table, self.keyspace, key, self.now_ms))
            {
                flags.iter().for_each(|flag| flag.store(true, std::sync::atomic::Ordering::Release));
            }
        }
        self.changes += gone as u64;
        gone
    }

    /// Exchanges two databases.
    pub fn swap_dbs(&mut self, a: usize, b: usize) {
        for shard in self.locked.all_mut() {
            shard.snapshot.abort();
            for (db, key, flags) in shard.watched() {
                let other = if db == a {
                    b
                } else if db == b {
                    a
                } else {
                    continue;
                };
                let is_in = |db: usize| is_living(&shard.dbs[db], self.keyspace, key, self.now_ms);
                if is_in(db) || is_in(other) {
                    flags.iter().for_each(|flag| flag.store(true, std::sync::atomic::Ordering::Release));
                }
            }
            shard.dbs.swap(a, b);
        }
        self.changes += 1;
    }

    /// Visits the position at `cursor` of one shard and deletes what has expired there: active expiry. Returns the next
    /// cursor and how many keys went.
    pub fn expire_at(&mut self, shard: usize, cursor: Cursor) -> (Option<Cursor>, usize) {
        let (db, now_ms) = (self.db, self.now_ms);
        let mut due: Vec<Box<[u8]>> = Vec::new();
        let next = self.locked.shard_mut(shard).dbs[db].visit(cursor, true, |_, entry| {
            let entry = entry.as_ref();
            if entry.expires_ms().is_some_and(|at| at <= now_ms) {
                due.push(entry.key().into());
            }
        });
        let gone = due.iter().filter(|key| self.remove_if_expired(key)).count();
        (next, gone)
    }
}

/// Makes the value of an entry, which the snapshot has seen, an ordinary string.
#[inline]
fn overwrite(entry: &mut EntryMut<'_>, value: &[u8], clock: u32) {
    entry.set_str(value);
    entry.set_raw(false);
    entry.set_access(clock);
}

fn is_living(table: &table::Table, keyspace: &Keyspace, key: &[u8], now_ms: u64) -> bool {
    let found = table.find(keyspace.hash(key), key);
    found.is_some_and(|place| table.at(place).expires_ms().is_none_or(|at| at > now_ms))
}
