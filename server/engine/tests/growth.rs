//! What one insert costs while a table grows: counted, not timed. Bytes that it asks the allocator for stand for its work,
//! since a table that moves its entries needs a place for them.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use engine::Limits;
use engine::keyspace::{ExpiredKeys, Expiry, KeysView, Keyspace};

struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; the counter needs no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sets so many keys in one shard; returns the most bytes that one of them asked for.
fn most_for_one_insert(keys: usize) -> usize {
    let (keyspace, limits) = (Keyspace::new(1, 1, [1, 2]), Limits::default());
    let mut most = 0;
    for n in 0..keys {
        let key = format!("key:{n:012}");
        let mut locked = keyspace.lock_one(0);
        let mut view = KeysView::new(&keyspace, &mut locked, &limits, 0, ExpiredKeys::Delete, 1);
        let before = ASKED.get();
        view.put_str(key.as_bytes(), b"x", Expiry::Clear);
        most = most.max(ASKED.get() - before);
    }
    most
}

#[test]
fn no_insert_pays_for_the_growth_of_the_whole() {
    const SEGMENT: usize = 8192;
    const KEYS: usize = 1_000_000;
    // A segment that splits, and the directory, which is seldom doubled and has less than a byte for ten keys.
    let most = most_for_one_insert(KEYS);
    assert!(most <= SEGMENT + KEYS / 10, "{most} bytes for one insert among {KEYS}");
    assert!(most_for_one_insert(KEYS / 100) <= 2 * SEGMENT + KEYS / 1000);
}
