//! What the kernel knows of a process, and filling a server.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Conn, Server, program};

/// CPU time that the threads of a process have used, user and system, s.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // The first number: ns on a CPU. The usual ones count in hundredths of a second.
    let on_cpu_ns = |thread: fs::DirEntry| -> Option<f64> {
        fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    threads.filter_map(on_cpu_ns).sum::<f64>() / 1e9
}

/// Memory of a process and its children, each page counted once, bytes.
pub(crate) fn memory_bytes(pid: u32) -> f64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([pid]);
    pids.map(pss_bytes).sum()
}

fn pss_bytes(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

/// One line about where this was measured.
pub(crate) fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ours = version(&program("replicated-redis-server"));
    let theirs = version(Path::new("redis-server"));
    format!("{cpus} CPUs{}, Linux {}; ours {ours}, redis-server {theirs}", model.replace('\t', ""), kernel.trim())
}

/// What a server of either kind says after `v=`.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_string()
}

/// Random bytes that do not compress.
#[derive(Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Sends `count` commands in pipelines of `batch` and reads the replies; `each` encodes one command.
pub(crate) fn pipeline(conn: &mut Conn, count: usize, batch: usize, mut each: impl FnMut(&mut Vec<u8>, usize)) {
    let mut bytes = Vec::new();
    for from in (0..count).step_by(batch) {
        let to = (from + batch).min(count);
        bytes.clear();
        (from..to).for_each(|n| each(&mut bytes, n));
        conn.send_raw(&bytes).expect("the server takes commands");
        for _ in from..to {
            let reply = conn.read().expect("the server answers");
            assert!(!reply.is_error(), "{reply}");
        }
    }
}

/// `count` keys `key:N` with random values of `len` bytes.
pub(crate) fn fill(server: &Server, count: usize, len: usize) {
    let mut noise = Noise::new(7);
    let mut value = vec![0; len];
    pipeline(&mut server.conn(), count, 200, |bytes, n| {
        noise.fill(&mut value);
        resp::encode_command(bytes, &[b"SET".as_slice(), format!("key:{n:012}").as_bytes(), &value]);
    });
}

/// Both kinds of server with the same arguments: ours with one io-thread, then redis-server.
pub(crate) fn both(args: &[&str]) -> [Server; 2] {
    [Server::ours(&[args, &["--io-threads", "1"]].concat()), Server::redis(args)]
}
