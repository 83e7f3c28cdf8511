//! The connected clients, across workers: what CLIENT LIST shows and CLIENT KILL ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;

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
    pub created_ms: u64,
    pub last_ms: AtomicU64,
    pub db: AtomicUsize,
    kind: AtomicU8,
    pub in_multi: AtomicBool,
    pub resp3: AtomicBool,
    pub commands: AtomicU64,
    pub text: Mutex<ClientText>,
    pub killed: AtomicBool,
    /// Wakes the connection to see `killed`.
    pub wake: Notify,
}

#[derive(Debug, Clone, Default)]
pub struct ClientText {
    pub name: String,
    pub lib_name: String,
    pub lib_ver: String,
    pub last_command: &'static str,
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

    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// One line of CLIENT LIST.
    pub fn line(&self) -> String {
        let now = clock::unix_ms();
        let text = self.text.lock().clone();
        let flags = match self.kind() {
            Kind::Replica => "S",
            Kind::Master => "M",
            Kind::Normal if self.in_multi.load(Ordering::Relaxed) => "x",
            Kind::Normal if self.addr.starts_with('/') => "U",
            Kind::Normal => "N",
        };
        format!(
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags} db={} sub=0 psub=0 ssub=0 multi={} qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user=default \
             redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.addr,
            self.laddr,
            text.name,
            now.saturating_sub(self.created_ms) / 1000,
            now.saturating_sub(self.last_ms.load(Ordering::Relaxed)) / 1000,
            self.db.load(Ordering::Relaxed),
            if self.in_multi.load(Ordering::Relaxed) { 0 } else { -1 },
            if text.last_command.is_empty() { "NULL" } else { text.last_command },
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
    pub fn add(&self, addr: String, laddr: String) -> Arc<Client> {
        let now = clock::unix_ms();
        let client = Arc::new(Client {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            addr,
            laddr,
            created_ms: now,
            last_ms: AtomicU64::new(now),
            db: AtomicUsize::new(0),
            kind: AtomicU8::new(0),
            in_multi: AtomicBool::new(false),
            resp3: AtomicBool::new(false),
            commands: AtomicU64::new(0),
            text: Mutex::default(),
            killed: AtomicBool::new(false),
            wake: Notify::new(),
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

    /// Ends every ordinary connection but one.
    pub fn kill_normal(&self, except: u64) {
        self.list().iter().filter(|c| c.kind() == Kind::Normal && c.id != except).for_each(|c| c.kill());
    }
}
