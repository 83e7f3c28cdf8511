//! Which port of this machine belongs to which instance, kept in `ports.json` so that an instance has the same port in
//! every life.
//!
//! Ports come from below the kernel's range for outgoing connections (32768 and up), so that no outgoing connection of
//! this machine can sit on a port while its instance is down. A kept port that somebody else has taken meanwhile is
//! exchanged for a free one: instances find each other through the operator, not through their numbers.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::files;

/// First and last port to choose from.
const RANGE: std::ops::RangeInclusive<u16> = 20_000..=32_000;

/// The two ports of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancePorts {
    pub port: u16,
    pub metrics_port: u16,
}

impl InstancePorts {
    /// Whether nobody listens on them.
    pub fn are_free(&self) -> bool {
        is_free(self.port) && is_free(self.metrics_port)
    }
}

/// The kept choice of ports.
#[derive(Debug)]
pub struct Ports {
    path: PathBuf,
    by_instance: BTreeMap<String, InstancePorts>,
}

impl Ports {
    /// Reads `path`; a file that is not there is an empty choice.
    pub fn open(path: &Path) -> Result<Ports> {
        let by_instance = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; remove it to have new ports chosen", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Ports { path: path.to_path_buf(), by_instance })
    }

    /// The ports of an instance that is about to start: the kept ones if they are free, else others, which are kept.
    pub fn claim(&mut self, instance: &str) -> Result<InstancePorts> {
        if let Some(ports) = self.by_instance.get(instance).copied()
            && ports.are_free()
        {
            return Ok(ports);
        }
        self.by_instance.remove(instance);
        let port = self.choose(None)?;
        let ports = InstancePorts { port, metrics_port: self.choose(Some(port))? };
        self.by_instance.insert(instance.to_string(), ports);
        files::replace(&self.path, &serde_json::to_vec_pretty(&self.by_instance)?)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(ports)
    }

    /// The ports of an instance whose process runs already.
    pub fn get(&self, instance: &str) -> Option<InstancePorts> {
        self.by_instance.get(instance).copied()
    }

    fn choose(&self, besides: Option<u16>) -> Result<u16> {
        let taken = |port: u16| {
            Some(port) == besides || self.by_instance.values().any(|p| p.port == port || p.metrics_port == port)
        };
        // A random start keeps two operators of one machine from trying the same ports in step.
        let span = RANGE.end() - RANGE.start() + 1;
        let start = u16::from_le_bytes(files::random_bytes()) % span;
        for step in 0..span {
            let port = RANGE.start() + (start + step) % span;
            if !taken(port) && is_free(port) {
                return Ok(port);
            }
        }
        bail!("no free port between {} and {} on 127.0.0.1", RANGE.start(), RANGE.end())
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_kept_and_distinct() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        let mut ports = Ports::open(&path).unwrap();
        let a = ports.claim("x-master-0").unwrap();
        let b = ports.claim("x-replica-0").unwrap();
        let mut all = [a.port, a.metrics_port, b.port, b.metrics_port];
        all.sort_unstable();
        assert!(all.windows(2).all(|w| w[0] != w[1]), "{all:?}");
        assert!(all.iter().all(|p| RANGE.contains(p)), "{all:?}");

        let mut again = Ports::open(&path).unwrap();
        assert_eq!(again.claim("x-master-0").unwrap(), a);
        assert_eq!(again.get("x-replica-0"), Some(b));
    }

    #[test]
    fn a_taken_port_is_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        let before = Ports::open(&path).unwrap().claim("x-master-0").unwrap();
        let _squatter = TcpListener::bind(("127.0.0.1", before.port)).unwrap();
        let after = Ports::open(&path).unwrap().claim("x-master-0").unwrap();
        assert_ne!(after.port, before.port);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        std::fs::write(&path, b"{\"x\":").unwrap();
        let error = Ports::open(&path).unwrap_err().to_string();
        assert!(error.contains("ports.json is damaged"), "{error}");
    }
}
