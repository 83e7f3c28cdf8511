//! Commands by name.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::command::{CommandResult, Spec};
use engine::{Command, Ctx};
use resp::Args;

use crate::commands;
use crate::latency::Histogram;

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
    /// As COMMAND and INFO show it: `client|id` for a subcommand.
    pub name: String,
    /// Of a container.
    pub subcommands: Vec<Entry>,
    /// Place in the registry, see [`Registry::name`].
    pub number: u32,
    pub handler: Handler,
    pub stats: Stats,
}

#[derive(Debug, Default)]
pub struct Stats {
    pub calls: AtomicU64,
    pub nanos: AtomicU64,
    pub failed: AtomicU64,
    pub rejected: AtomicU64,
    pub durations: Histogram,
}

impl Stats {
    #[inline]
    pub fn add(&self, calls: u64, nanos: u64) {
        self.calls.fetch_add(calls, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        [&self.calls, &self.nanos, &self.failed, &self.rejected].iter().for_each(|n| n.store(0, Ordering::Relaxed));
        self.durations.reset();
    }
}

impl Entry {
    fn new(spec: &'static Spec, handler: Handler, container: Option<&str>) -> Self {
        let name = container.map_or_else(|| spec.name.to_string(), |of| format!("{of}|{}", spec.name));
        let subcommands = spec.subcommands.iter().map(|s| Self::new(s, handler, Some(spec.name))).collect();
        Self { spec, name, subcommands, number: 0, handler, stats: Stats::default() }
    }

    /// A subcommand by name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&Entry> {
        self.subcommands.iter().find(|e| e.spec.name.as_bytes().eq_ignore_ascii_case(name))
    }
}

/// An open hash table over names as numbers.
#[derive(Debug)]
pub struct Registry {
    entries: Vec<Entry>,
    /// (name, entry number plus one); a power of two of slots.
    slots: Vec<(Name, u32)>,
}

const SLOTS: usize = 1024;

/// A name of at most 16 bytes, any case: its first and its last eight bytes as numbers, which overlap, and its length.
/// (Copying the name into a buffer and loading that costs as much as all else here: the load waits for the stores.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name(u64, u64, usize);

impl Name {
    #[inline]
    fn new(name: &[u8]) -> Option<Self> {
        // Letters to lower case; a name never has a byte for which this bit matters otherwise.
        const CASE: u64 = 0x2020_2020_2020_2020;
        let (first, last) = match name {
            [] => return None,
            [a, .., b] if name.len() < 4 => (u64::from(*a), u64::from(*b) | u64::from(name[1]) << 8),
            [a] => (u64::from(*a), 0),
            _ if name.len() < 8 => {
                let half = |bytes: Option<&[u8; 4]>| bytes.map(|b| u64::from(u32::from_le_bytes(*b)));
                (half(name.first_chunk())?, half(name.last_chunk())?)
            }
            _ if name.len() <= 16 => {
                (u64::from_le_bytes(*name.first_chunk()?), u64::from_le_bytes(*name.last_chunk()?))
            }
            _ => return None,
        };
        Some(Self(first | CASE, last | CASE, name.len()))
    }

    #[inline]
    fn slot(self) -> usize {
        let folded = self.0 ^ self.1.rotate_left(29) ^ self.2 as u64;
        (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize
    }
}

impl Registry {
    fn build() -> Self {
        let engine = engine::commands::FAMILIES.iter().copied().flatten();
        let engine = engine.map(|c: &'static Command| (&c.spec, Handler::Engine(c.run)));
        let server = commands::FAMILIES.iter().copied().flatten();
        let server = server.map(|c: &'static ServerCommand| (&c.spec, Handler::Server(c.run)));
        let mut entries: Vec<Entry> =
            engine.chain(server).map(|(spec, handler)| Entry::new(spec, handler, None)).collect();
        for (i, entry) in entries.iter_mut().enumerate() {
            entry.number = (i as u32) << 8;
            for (j, subcommand) in entry.subcommands.iter_mut().enumerate() {
                subcommand.number = (i as u32) << 8 | (j as u32 + 1);
            }
        }
        let mut slots = vec![(Name(0, 0, 0), 0); SLOTS];
        for (i, entry) in entries.iter().enumerate() {
            let name = Name::new(entry.spec.name.as_bytes()).expect("names are at most 16 bytes");
            let mut at = name.slot();
            while slots[at].1 != 0 {
                assert!(slots[at].0 != name, "{} is registered twice", entry.spec.name);
                at = (at + 1) % SLOTS;
            }
            slots[at] = (name, i as u32 + 1);
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
    pub fn find(&'static self, name: &[u8]) -> Option<&'static Entry> {
        let name = Name::new(name)?;
        let mut at = name.slot();
        loop {
            match self.slots[at] {
                (_, 0) => return None,
                (other, i) if other == name => return Some(&self.entries[i as usize - 1]),
                _ => at = (at + 1) % SLOTS,
            }
        }
    }

    /// Finds what a call means: a command, or a container's subcommand.
    pub fn resolve(&'static self, args: Args<'_>) -> Option<&'static Entry> {
        let entry = self.find(args.at(0))?;
        Some(args.get(1).and_then(|word| entry.subcommand(word)).unwrap_or(entry))
    }

    /// Finds `name` or `container|name`.
    pub fn find_full(&'static self, name: &[u8]) -> Option<&'static Entry> {
        match name.iter().position(|b| *b == b'|') {
            None => self.find(name),
            Some(at) => self.find(&name[..at])?.subcommand(&name[at + 1..]),
        }
    }

    /// The name of the command with this number.
    pub fn name(&self, number: u32) -> Option<&str> {
        let entry = self.entries.get(number as usize >> 8)?;
        match number & 0xFF {
            0 => Some(&entry.name),
            n => entry.subcommands.get(n as usize - 1).map(|e| e.name.as_str()),
        }
    }

    /// Every command, without subcommands.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Every command, each with its subcommands behind it.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flat_map(|e| std::iter::once(e).chain(&e.subcommands))
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
