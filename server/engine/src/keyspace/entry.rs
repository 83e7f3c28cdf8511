//! One key with its value, in one allocation behind one thin pointer.
//!
//! ```text
//! byte  0        1      2      3 4 5
//!       flags    klen   vlen   access (24-bit, seconds)             narrow: both lengths fit in a byte
//!       flags    0      0      access      klen u32   vlen u32      FLAG_WIDE
//!       … [expiry u64 ms, FLAG_EXPIRES]  key bytes  value bytes
//! ```
//!
//! The value is either the bytes of a string or, with FLAG_OBJECT, the eight bytes of a `Box<Object>` pointer.
//! This is the only module of the engine that holds raw memory; everything outside sees [`EntryRef`] and [`EntryMut`],
//! whose lifetimes are those of the [`Slot`] that owns the entry. An entry with its slot costs 14 bytes beside key and
//! value, a `Box<[u8]>` in a hash table costs 8 to 10 more: that is what the unsafe code buys.

#![expect(unsafe_code, reason = "thin entries: see the module head")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::ptr::{self, NonNull};

use crate::types::Object;

const FLAG_WIDE: u8 = 1;
const FLAG_EXPIRES: u8 = 1 << 1;
const FLAG_OBJECT: u8 = 1 << 2;
/// A string that was built by APPEND or SETRANGE: `OBJECT ENCODING` says `raw` whatever its length.
const FLAG_RAW: u8 = 1 << 3;
/// Snapshot parity, see `keyspace::snapshot`.
const FLAG_PARITY: u8 = 1 << 4;

const HEADER: usize = 6;
const WIDE: usize = 8;
const EXPIRY: usize = 8;
const POINTER: usize = size_of::<*mut Object>();

/// Pointers of user space fit in 48 bits (x86-64 and arm64 Linux without opt-in for more).
const POINTER_BITS: u32 = 48;

/// A value as a command sees it.
#[derive(Debug)]
pub enum ValueRef<'a> {
    Str(&'a [u8]),
    Object(&'a Object),
}

/// What a new entry is made of.
#[derive(Debug)]
pub enum Value {
    Str(Box<[u8]>),
    Object(Object),
}

/// Owns one entry, together with 16 bits of its key's hash.
pub struct Slot(NonZeroU64);

// SAFETY: a slot owns its allocation alone; the bytes and the `Object` in it are `Send`.
unsafe impl Send for Slot {}
// SAFETY: through `&Slot` only shared access to plain bytes and to `Object: Sync` is handed out.
unsafe impl Sync for Slot {}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Slot").field(&String::from_utf8_lossy(self.get().key())).finish()
    }
}

/// Offsets within an allocation, read from its header.
#[derive(Clone, Copy)]
struct Shape {
    flags: u8,
    klen: usize,
    vlen: usize,
}

impl Shape {
    fn new(flags: u8, klen: usize, vlen: usize) -> Self {
        let wide = klen > u8::MAX as usize || vlen > u8::MAX as usize;
        assert!(klen <= u32::MAX as usize && vlen <= u32::MAX as usize, "keys and values are shorter than 4 GiB");
        Self { flags: if wide { flags | FLAG_WIDE } else { flags & !FLAG_WIDE }, klen, vlen }
    }

    fn expiry_at(self) -> usize {
        HEADER + if self.flags & FLAG_WIDE != 0 { WIDE } else { 0 }
    }

    fn key_at(self) -> usize {
        self.expiry_at() + if self.flags & FLAG_EXPIRES != 0 { EXPIRY } else { 0 }
    }

    fn value_at(self) -> usize {
        self.key_at() + self.klen
    }

    fn size(self) -> usize {
        self.value_at() + self.vlen
    }

    fn layout(self) -> Layout {
        Layout::from_size_align(self.size(), 1).expect("lengths are below 4 GiB each")
    }
}

/// # Safety
/// `p` is an entry's allocation.
#[inline]
unsafe fn shape_of(p: *const u8) -> Shape {
    // SAFETY: every entry has at least a header, and eight bytes more when it is wide.
    unsafe {
        let flags = *p;
        if flags & FLAG_WIDE == 0 {
            Shape { flags, klen: *p.add(1) as usize, vlen: *p.add(2) as usize }
        } else {
            let klen = ptr::read_unaligned(p.add(HEADER).cast::<u32>()) as usize;
            let vlen = ptr::read_unaligned(p.add(HEADER + 4).cast::<u32>()) as usize;
            Shape { flags, klen, vlen }
        }
    }
}

/// # Safety
/// `p` has room for a header of this shape.
unsafe fn write_header(p: *mut u8, shape: Shape) {
    // SAFETY: by the contract; unaligned writes because entries have alignment 1.
    unsafe {
        *p = shape.flags;
        if shape.flags & FLAG_WIDE == 0 {
            *p.add(1) = shape.klen as u8;
            *p.add(2) = shape.vlen as u8;
        } else {
            ptr::write_bytes(p.add(1), 0, 2);
            ptr::write_unaligned(p.add(HEADER).cast::<u32>(), shape.klen as u32);
            ptr::write_unaligned(p.add(HEADER + 4).cast::<u32>(), shape.vlen as u32);
        }
    }
}

/// Allocates an entry of this shape with key and expiry in place; the value's bytes are not yet written.
fn allocate(shape: Shape, key: &[u8], expires_ms: Option<u64>) -> NonNull<u8> {
    let layout = shape.layout();
    debug_assert_eq!(shape.klen, key.len());
    // SAFETY: the layout is not empty (a header at least); all writes lie within it by `Shape`.
    unsafe {
        let Some(p) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
        write_header(p.as_ptr(), shape);
        ptr::write_bytes(p.as_ptr().add(3), 0, 3);
        if let Some(at) = expires_ms {
            ptr::write_unaligned(p.as_ptr().add(shape.expiry_at()).cast::<u64>(), at);
        }
        ptr::copy_nonoverlapping(key.as_ptr(), p.as_ptr().add(shape.key_at()), key.len());
        p
    }
}

impl Slot {
    fn pack(p: NonNull<u8>, tag: u16) -> Self {
        let address = p.as_ptr().expose_provenance() as u64;
        assert!(address >> POINTER_BITS == 0, "user-space pointers have 48 bits");
        Slot(NonZeroU64::new(address | u64::from(tag) << POINTER_BITS).expect("a pointer is not null"))
    }

    #[inline]
    fn ptr(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut((self.0.get() & ((1 << POINTER_BITS) - 1)) as usize)
    }

    /// The sixteen hash bits that the slot was made with.
    #[inline]
    pub fn tag(&self) -> u16 {
        (self.0.get() >> POINTER_BITS) as u16
    }

    /// May this slot hold an entry of this tag? One that holds none may be said to hold one of tag 0: no branch is worth less.
    #[inline]
    pub(super) fn may_have(slot: Option<&Slot>, tag: u16) -> bool {
        slot.map_or(0, |slot| slot.0.get()) >> POINTER_BITS == u64::from(tag)
    }

    pub fn new_str(tag: u16, key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Self {
        let flags = if expires_ms.is_some() { FLAG_EXPIRES } else { 0 };
        let shape = Shape::new(flags, key.len(), value.len());
        let p = allocate(shape, key, expires_ms);
        // SAFETY: the allocation has `vlen` bytes at `value_at`.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), p.as_ptr().add(shape.value_at()), value.len()) };
        Self::pack(p, tag)
    }

    pub fn new_object(tag: u16, key: &[u8], object: Object, expires_ms: Option<u64>) -> Self {
        let flags = FLAG_OBJECT | if expires_ms.is_some() { FLAG_EXPIRES } else { 0 };
        let shape = Shape::new(flags, key.len(), POINTER);
        let p = allocate(shape, key, expires_ms);
        let object = Box::into_raw(Box::new(object));
        // SAFETY: the allocation has POINTER bytes at `value_at`; the slot now owns the box.
        unsafe { ptr::write_unaligned(p.as_ptr().add(shape.value_at()).cast::<*mut Object>(), object) };
        Self::pack(p, tag)
    }

    pub fn new(tag: u16, key: &[u8], value: Value, expires_ms: Option<u64>) -> Self {
        match value {
            Value::Str(bytes) => Self::new_str(tag, key, &bytes, expires_ms),
            Value::Object(object) => Self::new_object(tag, key, object, expires_ms),
        }
    }

    #[inline]
    pub fn get(&self) -> EntryRef<'_> {
        EntryRef { p: self.ptr(), _owner: PhantomData }
    }

    #[inline]
    pub fn get_mut(&mut self) -> EntryMut<'_> {
        EntryMut { slot: self }
    }

    /// Asks the processor to have the entry's first cache line at hand soon.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.ptr());
    }

    fn drop_value(&mut self) {
        let p = self.ptr();
        // SAFETY: the slot owns the entry; an object pointer in it came from `Box::into_raw` and is dropped once,
        // because every caller overwrites or frees the value's bytes next.
        unsafe {
            let shape = shape_of(p);
            if shape.flags & FLAG_OBJECT != 0 {
                drop(Box::from_raw(ptr::read_unaligned(p.add(shape.value_at()).cast::<*mut Object>())));
            }
        }
    }

    /// Frees the entry's bytes without its value.
    fn free(&mut self) {
        let p = self.ptr();
        // SAFETY: allocated with exactly this layout, which the header still tells.
        unsafe { dealloc(p, shape_of(p).layout()) };
    }

    /// Takes the value out; key and expiry are gone.
    pub fn into_value(self) -> Value {
        let mut slot = std::mem::ManuallyDrop::new(self);
        let p = slot.ptr();
        // SAFETY: the box is moved out once; `drop` does not run, only the bytes are freed.
        let value = unsafe {
            let shape = shape_of(p);
            if shape.flags & FLAG_OBJECT != 0 {
                let object = Box::from_raw(ptr::read_unaligned(p.add(shape.value_at()).cast::<*mut Object>()));
                Value::Object(*object)
            } else {
                Value::Str(std::slice::from_raw_parts(p.add(shape.value_at()), shape.vlen).into())
            }
        };
        slot.free();
        value
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.drop_value();
        self.free();
    }
}

/// Hints at a read of `p`; any address is allowed.
#[inline]
pub fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// The same for what is going to be written: it is taken from the caches of others at once.
#[inline]
pub fn prefetch_mut<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(p.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Shared view of an entry.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    p: *const u8,
    _owner: PhantomData<&'a Slot>,
}

impl std::fmt::Debug for EntryRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("key", &String::from_utf8_lossy(self.key())).finish()
    }
}

impl<'a> EntryRef<'a> {
    #[inline]
    fn shape(self) -> Shape {
        // SAFETY: `p` is the allocation of a living slot.
        unsafe { shape_of(self.p) }
    }

    #[inline]
    fn bytes(self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: `at` and `len` come from the entry's own shape; the slot is borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.p.add(at), len) }
    }

    #[inline]
    pub fn key(self) -> &'a [u8] {
        let shape = self.shape();
        self.bytes(shape.key_at(), shape.klen)
    }

    #[inline]
    pub fn has_key(self, key: &[u8]) -> bool {
        are_equal(self.key(), key)
    }

    #[inline]
    pub fn value(self) -> ValueRef<'a> {
        let shape = self.shape();
        if shape.flags & FLAG_OBJECT == 0 {
            return ValueRef::Str(self.bytes(shape.value_at(), shape.vlen));
        }
        // SAFETY: FLAG_OBJECT says that a pointer from `Box::into_raw` stands there; borrowed as long as the slot.
        ValueRef::Object(unsafe { &*ptr::read_unaligned(self.p.add(shape.value_at()).cast::<*const Object>()) })
    }

    /// Unix time in ms at which the key expires.
    #[inline]
    pub fn expires_ms(self) -> Option<u64> {
        let shape = self.shape();
        // SAFETY: FLAG_EXPIRES says that eight bytes stand there.
        (shape.flags & FLAG_EXPIRES != 0)
            .then(|| unsafe { ptr::read_unaligned(self.p.add(shape.expiry_at()).cast::<u64>()) })
    }

    #[inline]
    fn flag(self, flag: u8) -> bool {
        // SAFETY: the first byte of a living entry.
        unsafe { *self.p & flag != 0 }
    }

    pub fn is_raw(self) -> bool {
        self.flag(FLAG_RAW)
    }

    #[inline]
    pub fn parity(self) -> bool {
        self.flag(FLAG_PARITY)
    }

    /// Last access: seconds, low 24 bits.
    pub fn access(self) -> u32 {
        // SAFETY: bytes 3..6 of the header.
        unsafe { u32::from(*self.p.add(3)) | u32::from(*self.p.add(4)) << 8 | u32::from(*self.p.add(5)) << 16 }
    }

    /// Bytes of the entry's own allocation.
    pub fn size(self) -> usize {
        self.shape().size()
    }
}

/// Exclusive view of an entry: may move it, so it holds the slot.
#[derive(Debug)]
pub struct EntryMut<'a> {
    slot: &'a mut Slot,
}

impl<'a> EntryMut<'a> {
    #[inline]
    pub fn as_ref(&self) -> EntryRef<'_> {
        self.slot.get()
    }

    #[inline]
    pub fn into_ref(self) -> EntryRef<'a> {
        self.slot.get()
    }

    #[inline]
    fn set_flag(&mut self, flag: u8, on: bool) {
        // SAFETY: the first byte of an entry that is borrowed exclusively.
        unsafe {
            let p = self.slot.ptr();
            *p = if on { *p | flag } else { *p & !flag };
        }
    }

    #[inline]
    pub fn set_raw(&mut self, raw: bool) {
        self.set_flag(FLAG_RAW, raw);
    }

    #[inline]
    pub fn set_parity(&mut self, parity: bool) {
        self.set_flag(FLAG_PARITY, parity);
    }

    #[inline]
    pub fn set_access(&mut self, seconds: u32) {
        let [a, b, c, _] = seconds.to_le_bytes();
        // SAFETY: bytes 3..6 of the header of an entry that is borrowed exclusively.
        unsafe {
            let p = self.slot.ptr().add(3);
            // What is only read stays in the caches of all who read it.
            if (*p, *p.add(1), *p.add(2)) == (a, b, c) {
                return;
            }
            *p = a;
            *p.add(1) = b;
            *p.add(2) = c;
        }
    }

    /// The object, if the value is one.
    pub fn object_mut(self) -> Option<&'a mut Object> {
        let p = self.slot.ptr();
        // SAFETY: as in `EntryRef::value`, and the slot is borrowed exclusively for 'a.
        unsafe {
            let shape = shape_of(p);
            (shape.flags & FLAG_OBJECT != 0)
                .then(|| &mut *ptr::read_unaligned(p.add(shape.value_at()).cast::<*mut Object>()))
        }
    }

    /// The bytes of a string value, to be changed in place.
    pub fn str_mut(self) -> Option<&'a mut [u8]> {
        let p = self.slot.ptr();
        // SAFETY: within the entry by its shape; borrowed exclusively for 'a.
        unsafe {
            let shape = shape_of(p);
            (shape.flags & FLAG_OBJECT == 0)
                .then(|| std::slice::from_raw_parts_mut(p.add(shape.value_at()), shape.vlen))
        }
    }

    /// Makes the value these bytes: in place when it is a string of this length, else in a new allocation. Expiry,
    /// parity and access time stay.
    pub fn set_str(&mut self, value: &[u8]) {
        let p = self.slot.ptr();
        // SAFETY: `p` is this slot's entry.
        let shape = unsafe { shape_of(p) };
        if shape.flags & FLAG_OBJECT == 0 && shape.vlen == value.len() {
            // SAFETY: the value has exactly this many bytes; `value` cannot overlap, the entry is borrowed exclusively.
            unsafe { ptr::copy_nonoverlapping(value.as_ptr(), p.add(shape.value_at()), value.len()) };
            return;
        }
        let mut new = Slot::new_str(self.slot.tag(), self.as_ref().key(), value, self.as_ref().expires_ms());
        self.carry_over(&mut new);
        *self.slot = new;
    }

    fn carry_over(&self, new: &mut Slot) {
        let (parity, access) = (self.as_ref().parity(), self.as_ref().access());
        let mut new = new.get_mut();
        new.set_parity(parity);
        new.set_access(access);
    }

    /// Changes the length of a string value, keeping its front; new bytes are zero. Grows within the allocator's size
    /// class without copying.
    pub fn resize_str(&mut self, len: usize) {
        let p = self.slot.ptr();
        // SAFETY: `p` is this slot's entry.
        let old = unsafe { shape_of(p) };
        debug_assert!(old.flags & FLAG_OBJECT == 0);
        let new = Shape::new(old.flags, old.klen, len);
        if new.flags != old.flags {
            // Narrow and wide headers differ in length: the parts move.
            let mut value = match self.as_ref().value() {
                ValueRef::Str(bytes) => bytes.to_vec(),
                ValueRef::Object(_) => Vec::new(),
            };
            value.resize(len, 0);
            let raw = self.as_ref().is_raw();
            self.set_str(&value);
            self.set_raw(raw);
            return;
        }
        let tag = self.slot.tag();
        // SAFETY: the entry was allocated with `old`'s layout; after `realloc` the old pointer is dead and the slot is
        // overwritten without dropping it. Bytes beyond the old value are set before anybody can read them.
        unsafe {
            let Some(p) = NonNull::new(realloc(p, old.layout(), new.size())) else { handle_alloc_error(new.layout()) };
            write_header(p.as_ptr(), new);
            if len > old.vlen {
                ptr::write_bytes(p.as_ptr().add(new.value_at() + old.vlen), 0, len - old.vlen);
            }
            ptr::write(self.slot, Slot::pack(p, tag));
        }
    }

    /// Sets or clears the expiry.
    pub fn set_expires_ms(&mut self, expires_ms: Option<u64>) {
        let p = self.slot.ptr();
        // SAFETY: `p` is this slot's entry; the expiry's eight bytes are there when the flag says so.
        let old = unsafe { shape_of(p) };
        if let (true, Some(at)) = (old.flags & FLAG_EXPIRES != 0, expires_ms) {
            // SAFETY: as above.
            unsafe { ptr::write_unaligned(p.add(old.expiry_at()).cast::<u64>(), at) };
            return;
        }
        if old.flags & FLAG_EXPIRES == 0 && expires_ms.is_none() {
            return;
        }
        let flags = if expires_ms.is_some() { old.flags | FLAG_EXPIRES } else { old.flags & !FLAG_EXPIRES };
        let new = Shape { flags, ..old };
        let key = self.as_ref().key();
        let moved = allocate(new, key, expires_ms);
        let tag = self.slot.tag();
        // SAFETY: both entries hold `vlen` value bytes; an object pointer moves with them, so the old entry's bytes are
        // freed without its value and the old slot is overwritten without dropping it.
        unsafe {
            ptr::copy_nonoverlapping(p.add(old.value_at()), moved.as_ptr().add(new.value_at()), old.vlen);
            ptr::copy_nonoverlapping(p.add(3), moved.as_ptr().add(3), 3);
            self.slot.free();
            ptr::write(self.slot, Slot::pack(moved, tag));
        }
    }
}

/// The C library's comparison reads 32 bytes whatever the length: half of all entries end before that, and it would wait for
/// a cache line that nobody has asked for. This one reads what it compares.
#[inline]
fn are_equal(a: &[u8], b: &[u8]) -> bool {
    fn ends<const N: usize>(a: &[u8], b: &[u8]) -> bool {
        a.first_chunk::<N>() == b.first_chunk::<N>() && a.last_chunk::<N>() == b.last_chunk::<N>()
    }
    a.len() == b.len()
        && match a.len() {
            0..4 => a.iter().zip(b).all(|(a, b)| a == b),
            4..8 => ends::<4>(a, b),
            8..16 => ends::<8>(a, b),
            16..=32 => ends::<16>(a, b),
            _ => a == b,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entry: EntryRef<'_>) -> Vec<u8> {
        match entry.value() {
            ValueRef::Str(bytes) => bytes.to_vec(),
            ValueRef::Object(_) => panic!("not a string"),
        }
    }

    #[test]
    fn an_entry_keeps_its_parts_through_every_change() {
        for klen in [0, 1, 16, 255, 256, 1000] {
            for vlen in [0, 1, 255, 256, 70_000] {
                let (key, value) = (vec![b'k'; klen], vec![b'v'; vlen]);
                let mut slot = Slot::new_str(0xABCD, &key, &value, None);
                slot.get_mut().set_access(0x123456);
                slot.get_mut().set_parity(true);
                slot.get_mut().set_expires_ms(Some(77));
                assert_eq!((slot.get().key(), text(slot.get())), (&key[..], value.clone()));
                slot.get_mut().set_expires_ms(Some(78));
                for len in [vlen, vlen + 1, 10, 300, 0] {
                    let before = text(slot.get());
                    slot.get_mut().resize_str(len);
                    let mut want = before;
                    want.resize(len, 0);
                    assert_eq!(text(slot.get()), want);
                }
                slot.get_mut().set_str(b"other");
                assert_eq!(slot.get().expires_ms(), Some(78));
                slot.get_mut().set_expires_ms(None);
                let entry = slot.get();
                assert_eq!((entry.key(), text(entry), entry.expires_ms()), (&key[..], b"other".to_vec(), None));
                assert_eq!((entry.access(), entry.parity(), slot.tag()), (0x123456, true, 0xABCD));
            }
        }
    }

    #[test]
    fn keys_are_equal_when_every_byte_is() {
        for len in 0..80usize {
            let key: Vec<u8> = (0..len as u8).collect();
            assert!(are_equal(&key, &key.clone()), "{len}");
            assert!(!are_equal(&key, &[&key[..], b"x"].concat()), "{len}");
            for at in 0..len {
                let mut other = key.clone();
                other[at] ^= 0x80;
                assert!(!are_equal(&key, &other), "{at} of {len}");
            }
        }
    }

    #[test]
    fn an_object_moves_with_its_entry_and_is_dropped_once() {
        let object = || Object::Set(crate::types::Kind::new(&crate::Limits::default()));
        let mut slot = Slot::new_object(1, b"k", object(), None);
        slot.get_mut().set_expires_ms(Some(5));
        assert!(matches!(slot.get().value(), ValueRef::Object(Object::Set(_))));
        assert!(slot.get_mut().str_mut().is_none());
        assert!(slot.get_mut().object_mut().is_some());
        slot.get_mut().set_str(b"now a string");
        assert_eq!(text(slot.get()), b"now a string");
        let value = Slot::new_object(1, b"k", object(), Some(9)).into_value();
        assert!(matches!(value, Value::Object(Object::Set(_))));
    }
}
