//! The connected clients, across workers: what CLIENT LIST shows and CLIENT KILL ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::registry::Registry;

/// What a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Replica,
    Master,
}

/// The part of a connection that others may look at. Its own worker updates it once a batch.
#[derive(Debug)]
pub struct Client {
    pub id: u64,
    pub addr: String,
    pub laddr: String,
    /// The socket's number in this process; -1 without one.
    pub fd: i32,
    pub created_ms: u64,
    pub last_ms: AtomicU64,
    pub db: AtomicUsize,
    kind: AtomicU8,
    /// Number of its last command in the registry.
    pub last: AtomicU32,
    /// Commands that wait for EXEC; -1: not in MULTI.
    pub queued: AtomicI64,
    /// It waits for something.
    pub blocked: AtomicBool,
    pub no_evict: AtomicBool,
    pub no_touch: AtomicBool,
    /// Bytes received and not yet run, and room for more; bytes of replies not yet sent.
    pub input: AtomicUsize,
    pub input_free: AtomicUsize,
    pub output: AtomicUsize,
    /// CLIENT UNBLOCK: 1 as if its time were over, 2 with an error.
    pub unblock: AtomicU8,
    pub resp3: AtomicBool,
    pub commands: AtomicU64,
    pub text: Mutex<ClientText>,
    pub killed: AtomicBool,
    /// It is to look whether it is idle.
    idle: AtomicBool,
    /// Wakes the connection to see `killed`, where it waits for this or for something else.
    pub wake: Notify,
    /// Its task, which waits for input.
    task: Mutex<Option<Waker>>,
}

#[derive(Debug, Clone, Default)]
pub struct ClientText {
    pub name: String,
    pub lib_name: String,
    pub lib_ver: String,
}

impl Client {
    pub fn kind(&self) -> Kind {
        match self.kind.load(Ordering::Relaxed) {
            1 => Kind::Replica,
            2 => Kind::Master,
            _ => Kind::Normal,
        }
    }

    pub fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Relaxed);
    }

    /// Does it come from this machine?
    pub fn is_local(&self) -> bool {
        match self.addr.parse::<std::net::SocketAddr>() {
            Ok(addr) => addr.ip().to_canonical().is_loopback(),
            Err(_) => self.addr.starts_with('/'),
        }
    }

    /// The task that is to look at `killed` when that is set. To be said before it looks.
    pub(crate) fn set_task(&self, task: Waker) {
        *self.task.lock() = Some(task);
    }

    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake.notify_waiters();
        self.wake.notify_one();
        self.wake_task();
    }

    fn wake_task(&self) {
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }

    /// It has asked for something, or has been answered, just now.
    pub(crate) fn touch(&self) {
        self.last_ms.store(clock::unix_ms(), Ordering::Relaxed);
    }

    fn is_silent_for(&self, timeout_s: u64) -> bool {
        clock::unix_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)) > timeout_s * 1000
    }

    /// To be asked where there is no input: has it been told that it is idle, and is it so?
    pub(crate) fn is_idle(&self, timeout_s: i64) -> bool {
        let told = self.idle.load(Ordering::Acquire) && self.idle.swap(false, Ordering::AcqRel);
        told && timeout_s > 0 && self.is_silent_for(timeout_s as u64)
    }

    /// The letters of CLIENT LIST.
    fn flags(&self) -> String {
        let on = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let letters = [
            (self.kind() == Kind::Replica, 'S'),
            (self.kind() == Kind::Master, 'M'),
            (self.queued.load(Ordering::Relaxed) >= 0, 'x'),
            (on(&self.blocked), 'b'),
            (on(&self.killed), 'A'),
            (self.addr.starts_with('/'), 'U'),
            (on(&self.no_evict), 'e'),
            (on(&self.no_touch), 'T'),
        ];
        let letters: String = letters.iter().filter(|(on, _)| *on).map(|(_, letter)| *letter).collect();
        if letters.is_empty() { "N".into() } else { letters }
    }

    /// Bytes of its buffers and of what is known about it.
    pub fn memory(&self) -> usize {
        let buffers = [&self.input, &self.input_free, &self.output].map(|n| n.load(Ordering::Relaxed));
        buffers.iter().sum::<usize>() + size_of::<Self>()
    }

    /// One line of CLIENT LIST.
    pub fn line(&self) -> String {
        let now = clock::unix_ms();
        let text = self.text.lock().clone();
        let load = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let (input, input_free, output) = (load(&self.input), load(&self.input_free), load(&self.output));
        format!(
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi={} qbuf={input} \
             qbuf-free={input_free} argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={output} oll=0 omem=0 tot-mem={} events=r cmd={} \
             user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.addr,
            self.laddr,
            self.fd,
            text.name,
            now.saturating_sub(self.created_ms) / 1000,
            now.saturating_sub(self.last_ms.load(Ordering::Relaxed)) / 1000,
            self.flags(),
            self.db.load(Ordering::Relaxed),
            self.queued.load(Ordering::Relaxed),
            self.memory(),
            Registry::get().name(self.last.load(Ordering::Relaxed)).unwrap_or("NULL"),
            if self.resp3.load(Ordering::Relaxed) { 3 } else { 2 },
            text.lib_name,
            text.lib_ver,
        )
    }
}

#[derive(Debug, Default)]
pub struct Clients {
    all: Mutex<BTreeMap<u64, Arc<Client>>>,
    next: AtomicU64,
}

impl Clients {
    pub fn add(&self, addr: String, laddr: String, fd: i32) -> Arc<Client> {
        let now = clock::unix_ms();
        let client = Arc::new(Client {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            addr,
            laddr,
            fd,
            created_ms: now,
            last_ms: AtomicU64::new(now),
            db: AtomicUsize::new(0),
            kind: AtomicU8::new(0),
            last: AtomicU32::new(u32::MAX),
            queued: AtomicI64::new(-1),
            blocked: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            input: AtomicUsize::new(0),
            input_free: AtomicUsize::new(0),
            output: AtomicUsize::new(0),
            unblock: AtomicU8::new(0),
            resp3: AtomicBool::new(false),
            commands: AtomicU64::new(0),
            text: Mutex::default(),
            killed: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            wake: Notify::new(),
            task: Mutex::default(),
        });
        self.all.lock().insert(client.id, Arc::clone(&client));
        client
    }

    pub fn remove(&self, id: u64) {
        self.all.lock().remove(&id);
    }

    pub fn len(&self) -> usize {
        self.all.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<Arc<Client>> {
        self.all.lock().values().cloned().collect()
    }

    /// Has ordinary connections that have asked for nothing in so many seconds look whether they are idle: if they wait for
    /// input, and there is none, they end.
    pub fn wake_idle(&self, timeout_s: u64) {
        for client in self.list().iter().filter(|c| c.kind() == Kind::Normal && c.is_silent_for(timeout_s)) {
            client.idle.store(true, Ordering::Release);
            client.wake_task();
        }
    }

    /// Ends every ordinary connection but one.
    pub fn kill_normal(&self, except: u64) {
        self.list().iter().filter(|c| c.kind() == Kind::Normal && c.id != except).for_each(|c| c.kill());
    }
}
