//! The connections of a worker as tasks that are polled in passes.
//!
//! All of them that have become ready since the kernel was asked are polled once; then once more those that let the others go
//! first ([`Tasks::poll_again`]), for which a [round](super::round) has been run meanwhile; then the kernel is asked again.
//! A runtime for everything could do the same, but its tasks are made to be stolen, aborted and joined, and its sockets to be
//! waited for on any thread: where clients send one command at a time, that was a fifth of a worker's own time and more.

use std::cell::{Cell, RefCell};
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::{fmt, io};

use parking_lot::Mutex;
use slab::Slab;

use super::events::{Bell, Events, Source};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Passes before the kernel is asked what else has come: a task that is always ready does not keep the others waiting.
const PASSES: usize = 2;

/// How often a task may receive or send before it is the others' turn.
const STEPS: u32 = 32;

/// What tasks of a worker ask of it.
pub(super) struct Tasks {
    pub events: Events,
    new: RefCell<Vec<Task>>,
    /// The task that is being polled.
    current: Cell<usize>,
    /// All others of the present pass have been polled.
    last: Cell<bool>,
    again: Cell<bool>,
    steps: Cell<u32>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Tasks {
    pub(super) fn new() -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            events: Events::new()?,
            new: RefCell::default(),
            current: Cell::new(0),
            last: Cell::new(false),
            again: Cell::new(false),
            steps: Cell::new(0),
        }))
    }

    /// It is polled from the next pass on.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.new.borrow_mut().push(Box::pin(task));
    }

    /// The task that is being polled is polled again in the next pass, when the others of this one have been.
    pub(super) fn poll_again(&self) {
        self.again.set(true);
    }

    /// Have the others gone first? All that were to be polled in this pass have been.
    pub(super) fn is_last(&self) -> bool {
        self.last.get()
    }

    /// Before a task receives or sends: pending where it is the others' turn.
    pub(super) fn step(&self) -> Poll<()> {
        match self.steps.get().checked_sub(1) {
            Some(left) => {
                self.steps.set(left);
                Poll::Ready(())
            }
            None => {
                self.poll_again();
                Poll::Pending
            }
        }
    }

    /// The task that is being polled is polled when the kernel tells of this socket.
    pub(super) fn poll_for(&self, source: &Source) {
        source.task.set(self.current.get());
    }
}

/// Tasks that were woken, by whatever thread.
#[derive(Debug)]
struct Woken {
    at: Mutex<Vec<usize>>,
    /// There are some.
    any: AtomicBool,
    /// The worker waits for the kernel, or is about to.
    waits: AtomicBool,
    bell: Bell,
}

impl Woken {
    fn new(bell: Bell) -> Self {
        Self { at: Mutex::default(), any: AtomicBool::new(false), waits: AtomicBool::new(false), bell }
    }

    fn add(&self, at: usize) {
        let mut all = self.at.lock();
        all.push(at);
        self.any.store(true, Ordering::SeqCst);
        drop(all);
        if self.waits.load(Ordering::SeqCst) && self.waits.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    /// May the worker wait? If so, it is told of who is woken from now on.
    fn may_wait(&self) -> bool {
        // Whoever comes behind this sees that it waits; who came before is seen here.
        self.waits.store(true, Ordering::SeqCst);
        !self.any.load(Ordering::SeqCst)
    }

    /// Moves them to `to`.
    fn take(&self, to: &mut Vec<usize>) {
        self.waits.store(false, Ordering::Relaxed);
        if self.any.load(Ordering::Acquire) {
            let mut all = self.at.lock();
            self.any.store(false, Ordering::Relaxed);
            to.append(&mut all);
        }
    }
}

/// Wakes one task.
#[derive(Debug)]
struct TaskWaker {
    at: usize,
    /// It is among the woken, or about to be.
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.woken.add(self.at);
        }
    }
}

impl TaskWaker {
    /// The task is going to be polled: who wakes it from now on wakes it again.
    fn begin(&self) {
        // Most tasks are polled for their sockets, and were not woken.
        if self.is_woken.load(Ordering::Acquire) {
            self.is_woken.swap(false, Ordering::AcqRel);
        }
    }
}

struct Slot {
    task: Task,
    waker: Waker,
    /// Behind `waker`.
    state: Arc<TaskWaker>,
}

/// Polls the tasks of a worker.
pub(super) struct Passes {
    tasks: Rc<Tasks>,
    slots: Slab<Slot>,
    woken: Arc<Woken>,
    /// Tasks of the present pass.
    pass: Vec<usize>,
    /// Tasks of the next one that are not among the woken.
    again: Vec<usize>,
}

impl Passes {
    pub(super) fn new(tasks: Rc<Tasks>) -> Self {
        let woken = Arc::new(Woken::new(tasks.events.bell()));
        Self { tasks, slots: Slab::new(), woken, pass: Vec::new(), again: Vec::new() }
    }

    pub(super) fn run(mut self) -> ! {
        loop {
            self.turn(true);
        }
    }

    /// Takes what the kernel tells and polls whom it concerns. If there is nothing to be done it waits, if it `may_wait`.
    fn turn(&mut self, may_wait: bool) {
        self.adopt();
        let waits = may_wait && self.again.is_empty() && self.woken.may_wait();
        self.tasks.events.take(waits, |task| self.pass.push(task));
        self.woken.take(&mut self.pass);
        for _ in 0..PASSES {
            self.pass.append(&mut self.again);
            self.poll_pass();
        }
    }

    fn adopt(&mut self) {
        if self.tasks.new.borrow().is_empty() {
            return;
        }
        for task in self.tasks.new.take() {
            let entry = self.slots.vacant_entry();
            let at = entry.key();
            let woken = Arc::clone(&self.woken);
            let state = Arc::new(TaskWaker { at, is_woken: AtomicBool::new(false), woken });
            entry.insert(Slot { task, waker: Waker::from(Arc::clone(&state)), state });
            self.again.push(at);
        }
    }

    fn poll_pass(&mut self) {
        let mut pass = mem::take(&mut self.pass);
        let count = pass.len();
        for (n, at) in pass.drain(..).enumerate() {
            // A waker may outlive its task, and wake the one that has its place now. That does no harm.
            let Some(slot) = self.slots.get_mut(at) else { continue };
            slot.state.begin();
            self.tasks.last.set(n + 1 == count);
            self.tasks.current.set(at);
            self.tasks.steps.set(STEPS);
            let polled = slot.task.as_mut().poll(&mut Context::from_waker(&slot.waker));
            let again = self.tasks.again.take();
            if polled.is_ready() {
                self.slots.remove(at);
            } else if again {
                self.again.push(at);
            }
        }
        self.pass = pass;
        self.adopt();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    struct Fixture {
        tasks: Rc<Tasks>,
        passes: Passes,
        log: Rc<RefCell<String>>,
    }

    type Seen = Rc<RefCell<Option<Waker>>>;

    impl Fixture {
        fn new() -> Self {
            let tasks = Tasks::new().unwrap();
            Self { passes: Passes::new(Rc::clone(&tasks)), tasks, log: Rc::default() }
        }

        /// Returns who was polled.
        fn turn(&mut self) -> String {
            self.passes.turn(false);
            self.log.take()
        }

        /// As [`Fixture::turn`]; waits if nobody is to be polled.
        fn wait(&mut self) -> String {
            self.passes.turn(true);
            self.log.take()
        }

        /// A task that lets the others go first so many times; its waker.
        fn spawn(&self, name: char, mut again: usize) -> Seen {
            let (tasks, log, seen) = (Rc::clone(&self.tasks), Rc::clone(&self.log), Seen::default());
            let waker = Rc::clone(&seen);
            self.tasks.spawn(poll_fn(move |cx| {
                log.borrow_mut().push(name);
                *waker.borrow_mut() = Some(cx.waker().clone());
                if again > 0 {
                    again -= 1;
                    tasks.poll_again();
                }
                Poll::Pending
            }));
            seen
        }
    }

    fn later(f: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            f();
        })
    }

    #[test]
    fn who_lets_others_go_first_is_polled_behind_them() {
        let mut f = Fixture::new();
        f.spawn('a', 1);
        f.spawn('b', 1);
        f.spawn('c', 0);
        assert_eq!(f.turn(), "abcab");
        assert_eq!(f.turn(), "");
    }

    #[test]
    fn the_last_of_a_pass_knows_that_the_others_have_gone_first() {
        let mut f = Fixture::new();
        for _ in 0..3 {
            let (tasks, log) = (Rc::clone(&f.tasks), Rc::clone(&f.log));
            f.tasks.spawn(poll_fn(move |_| {
                log.borrow_mut().push(if tasks.is_last() { 'l' } else { '-' });
                Poll::Pending
            }));
        }
        assert_eq!(f.turn(), "--l");
    }

    #[test]
    fn who_is_always_ready_keeps_nobody_waiting() {
        let mut f = Fixture::new();
        f.spawn('a', 3);
        assert_eq!(f.turn(), "aa");
        f.spawn('b', 0);
        assert_eq!(f.wait(), "aba", "it does not wait while one is to be polled again");
        assert_eq!(f.turn(), "");
    }

    #[test]
    fn another_thread_ends_the_waiting_and_a_task_is_woken_once() {
        let mut f = Fixture::new();
        let seen = f.spawn('a', 0);
        f.spawn('b', 0);
        assert_eq!(f.turn(), "ab");
        let waker = seen.borrow().clone().unwrap();
        let thread = later(move || (0..3).for_each(|_| waker.wake_by_ref()));
        assert_eq!(f.wait(), "a");
        thread.join().unwrap();
        assert!(["", "a"].contains(&f.turn().as_str()), "it was woken again behind that, or not");
        assert_eq!(f.turn(), "");
    }

    #[test]
    fn who_is_woken_while_others_are_polled_is_not_forgotten() {
        let mut f = Fixture::new();
        let seen = f.spawn('a', 0);
        f.turn();
        let wake = seen.borrow().clone().unwrap();
        f.tasks.spawn(async move { wake.wake() });
        assert_eq!(f.turn(), "");
        assert_eq!(f.wait(), "a", "it does not wait for the kernel");
    }

    #[test]
    fn the_waker_of_a_task_that_has_ended_does_no_harm() {
        let mut f = Fixture::new();
        let seen = Seen::default();
        let waker = Rc::clone(&seen);
        f.tasks.spawn(poll_fn(move |cx| {
            *waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Ready(())
        }));
        f.turn();
        let waker = seen.take().unwrap();
        waker.wake_by_ref();
        assert_eq!(f.turn(), "");
        f.spawn('n', 0);
        waker.wake();
        assert_eq!(f.turn(), "n");
        assert_eq!(f.passes.slots.len(), 1);
    }

    #[test]
    fn a_socket_that_becomes_readable_has_its_task_polled_and_one_that_is_removed_has_not() {
        let mut f = Fixture::new();
        let (mut near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let (number, source) = f.tasks.events.add(far.as_fd()).unwrap();
        let (tasks, log, known) = (Rc::clone(&f.tasks), Rc::clone(&f.log), Rc::clone(&source));
        f.tasks.spawn(poll_fn(move |_| {
            log.borrow_mut().push(if known.readable.take() { 'r' } else { '-' });
            tasks.poll_for(&known);
            Poll::Pending
        }));
        f.turn();
        f.turn();
        let thread = later(move || {
            near.write_all(b"x").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        });
        assert_eq!(f.wait(), "r");
        assert!(!source.over.get());
        assert_eq!(f.wait(), "r");
        assert!(source.over.get(), "its peer is gone");
        thread.join().unwrap();
        f.tasks.events.remove(far.as_fd());
        f.tasks.events.forget(number);
        drop(far);
        assert_eq!(f.turn(), "");
    }

    #[test]
    fn a_stream_that_can_always_be_written_gives_the_others_their_turn() {
        let mut f = Fixture::new();
        let (tasks, log) = (Rc::clone(&f.tasks), Rc::clone(&f.log));
        f.tasks.spawn(poll_fn(move |_| {
            while tasks.step().is_ready() {}
            log.borrow_mut().push('s');
            Poll::Pending
        }));
        f.spawn('a', 0);
        assert_eq!(f.turn(), "sas");
        assert_eq!(f.wait(), "ss");
    }
}
