//! Commands by name.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::command::{CommandResult, Spec};
use engine::{Command, Ctx};

use crate::commands;

/// A command about the server or the connection.
#[derive(Debug)]
pub struct ServerCommand {
    pub spec: Spec,
    pub run: commands::Run,
}

#[derive(Debug, Clone, Copy)]
pub enum Handler {
    Engine(fn(&mut Ctx<'_>) -> CommandResult),
    Server(commands::Run),
}

/// A command with its counters.
#[derive(Debug)]
pub struct Entry {
    pub spec: &'static Spec,
    pub handler: Handler,
    pub stats: Stats,
}

#[derive(Debug, Default)]
pub struct Stats {
    pub calls: AtomicU64,
    pub nanos: AtomicU64,
    pub failed: AtomicU64,
    pub rejected: AtomicU64,
}

impl Stats {
    #[inline]
    pub fn add(&self, nanos: u64) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        [&self.calls, &self.nanos, &self.failed, &self.rejected].iter().for_each(|n| n.store(0, Ordering::Relaxed));
    }
}

/// An open hash table over names as numbers: names are at most 16 bytes, folded to lower case by setting one bit.
#[derive(Debug)]
pub struct Registry {
    entries: Vec<Entry>,
    /// (name, entry number plus one); a power of two of slots.
    slots: Vec<(u128, u32)>,
}

const SLOTS: usize = 1024;

#[inline]
fn number(name: &[u8]) -> Option<u128> {
    let mut bytes = [0u8; 16];
    bytes.get_mut(..name.len())?.copy_from_slice(name);
    // Letters to lower case; a name never has a byte for which this bit matters otherwise.
    Some(u128::from_le_bytes(bytes) | 0x2020_2020_2020_2020_2020_2020_2020_2020)
}

#[inline]
fn slot(number: u128) -> usize {
    let folded = (number as u64) ^ (number >> 64) as u64;
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize
}

impl Registry {
    fn build() -> Self {
        let engine = engine::commands::FAMILIES.iter().copied().flatten();
        let engine = engine.map(|c: &'static Command| (&c.spec, Handler::Engine(c.run)));
        let server = commands::FAMILIES.iter().copied().flatten();
        let server = server.map(|c: &'static ServerCommand| (&c.spec, Handler::Server(c.run)));
        let entries: Vec<Entry> =
            engine.chain(server).map(|(spec, handler)| Entry { spec, handler, stats: Stats::default() }).collect();
        let mut slots = vec![(0, 0); SLOTS];
        for (i, entry) in entries.iter().enumerate() {
            let number = number(entry.spec.name.as_bytes()).expect("names are at most 16 bytes");
            let mut at = slot(number);
            while slots[at].1 != 0 {
                assert!(slots[at].0 != number, "{} is registered twice", entry.spec.name);
                at = (at + 1) % SLOTS;
            }
            slots[at] = (number, i as u32 + 1);
        }
        Self { entries, slots }
    }

    /// The registry of this process.
    pub fn get() -> &'static Registry {
        static REGISTRY: OnceLock<Registry> = OnceLock::new();
        REGISTRY.get_or_init(Self::build)
    }

    /// Finds a command by name, in any case.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        let number = number(name)?;
        let mut at = slot(number);
        loop {
            match self.slots[at] {
                (_, 0) => return None,
                (n, i) if n == number => {
                    let entry = &self.entries[i as usize - 1];
                    return (entry.spec.name.len() == name.len()).then_some(entry);
                }
                _ => at = (at + 1) % SLOTS,
            }
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case_and_nothing_else_is() {
        let registry = Registry::get();
        for entry in registry.entries() {
            for name in [entry.spec.name.to_string(), entry.spec.name.to_uppercase()] {
                assert_eq!(registry.find(name.as_bytes()).map(|e| e.spec.name), Some(entry.spec.name));
            }
            assert!(entry.spec.arity != 0 && !entry.spec.summary.is_empty(), "{}", entry.spec.name);
        }
        assert!(registry.find(b"nosuch").is_none() && registry.find(&[b'x'; 17]).is_none());
        assert!(registry.find(b"get ").is_none() && registry.find(b"").is_none());
    }
}
