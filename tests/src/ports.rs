//! Ports for the servers that tests start.
//!
//! A port that the kernel hands out lies in the range of outgoing connections: between its choice and the server's
//! own `bind`, any client of the machine may get it. These lie below that range (32768 and up on Linux), below
//! Kubernetes's node ports (30000 and up) and the ports of local mode (20000 and up), and belong to one test program at
//! a time.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

const PORTS: Range<u16> = 10_000..20_000;

/// The port to try next, and the locks of those that this program has: held as long as it runs.
static TAKEN: Mutex<(Option<u16>, Vec<File>)> = Mutex::new((None, Vec::new()));

/// A free port of 127.0.0.1 that no other test program gets while this one runs.
pub fn free_port() -> u16 {
    // A folder for each user: nobody can take another's locks.
    let uid = fs::metadata("/proc/self").expect("Linux has /proc").uid();
    let locks = std::env::temp_dir().join(format!("replicated-redis-test-ports-{uid}"));
    fs::create_dir_all(&locks).unwrap_or_else(|e| panic!("{}: {e}", locks.display()));
    let mut taken = TAKEN.lock().expect("no one panics with it");
    let (next, held) = &mut *taken;
    let len = PORTS.end - PORTS.start;
    // Programs begin at different places, so that they seldom ask for each other's.
    let first = next.unwrap_or(PORTS.start + (std::process::id() % u32::from(len)) as u16 / 64 * 64);
    for step in 0..len {
        let port = PORTS.start + (first - PORTS.start + step) % len;
        let path = locks.join(port.to_string());
        let lock = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            held.push(lock);
            *next = Some(PORTS.start + (port + 1 - PORTS.start) % len);
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_once_and_lie_outside_the_kernel_s_own() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
