//! What the kernel tells of a worker's sockets: an event queue (epoll) in which each of them is for as long as the worker serves
//! it, and a bell that other threads ring.
//!
//! A socket is told of when something changes (edge-triggered), so its [`Source`] remembers: it is ready until it has been
//! found not to be.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;

/// Events that are taken at once, at most.
const TAKEN: usize = 1024;
const BELL: u64 = u64::MAX;
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A socket, as far as the kernel has told.
#[derive(Debug)]
pub(super) struct Source {
    pub readable: Cell<bool>,
    pub writable: Cell<bool>,
    /// The peer has ended it, or it is broken: it stays readable.
    pub over: Cell<bool>,
    /// Which is polled when something changes.
    pub task: Cell<usize>,
}

impl Source {
    fn tell(&self, flags: EventFlags) {
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.over.set(true);
            self.readable.set(true);
            self.writable.set(true);
        }
        if flags.contains(EventFlags::IN) {
            self.readable.set(true);
        }
        if flags.contains(EventFlags::OUT) {
            self.writable.set(true);
        }
    }
}

/// Ends the waiting of a worker.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(super) fn ring(&self) {
        // It fails when it has been rung 2^64 - 2 times.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

pub(super) struct Events {
    queue: OwnedFd,
    bell: Bell,
    sources: RefCell<Slab<Rc<Source>>>,
    taken: RefCell<Vec<epoll::Event>>,
}

impl Events {
    pub(super) fn new() -> io::Result<Self> {
        let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Bell(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        epoll::add(&queue, &*bell.0, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        let taken = RefCell::new(Vec::with_capacity(TAKEN));
        Ok(Self { queue, bell, sources: RefCell::default(), taken })
    }

    pub(super) fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// A socket is served here from now on; returns its number, too. What it has to tell already will come.
    pub(super) fn add(&self, socket: BorrowedFd<'_>) -> io::Result<(usize, Rc<Source>)> {
        let mut sources = self.sources.borrow_mut();
        let entry = sources.vacant_entry();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.queue, socket, EventData::new_u64(entry.key() as u64), flags)?;
        let task = Cell::new(usize::MAX);
        let source = Source { readable: Cell::new(false), writable: Cell::new(true), over: Cell::new(false), task };
        let source = Rc::new(source);
        Ok((entry.key(), Rc::clone(entry.insert(source))))
    }

    /// The kernel tells nothing of this socket any more, as if it had been closed. It is to be forgotten, too.
    pub(super) fn remove(&self, socket: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.queue, socket);
    }

    /// The socket of this number has been closed or removed.
    pub(super) fn forget(&self, number: usize) {
        self.sources.borrow_mut().remove(number);
    }

    /// Takes what has changed, for which it waits if it `waits`, and calls `changed` with the task of each socket.
    pub(super) fn take(&self, waits: bool, mut changed: impl FnMut(usize)) {
        let mut taken = self.taken.borrow_mut();
        taken.clear();
        let limit = (!waits).then_some(&AT_ONCE);
        match epoll::wait(&self.queue, spare_capacity(&mut taken), limit) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the event queue of a worker is broken: {error}"),
        }
        let sources = self.sources.borrow();
        for event in taken.iter() {
            let (data, flags) = (event.data, event.flags);
            let Some(source) = sources.get(data.u64() as usize) else { continue };
            source.tell(flags);
            changed(source.task.get());
        }
    }
}
