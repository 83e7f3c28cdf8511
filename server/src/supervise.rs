//! `supervised systemd`: tells the service manager when the server is ready and when it ends (`sd_notify(3)`).

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::config::{Settings, Supervised};

/// Sends a state such as `READY=1` to the socket in `NOTIFY_SOCKET`, if the settings ask for it.
pub fn notify(settings: &Settings, state: &str) {
    let socket = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    match (settings.supervised, socket.is_empty()) {
        (Supervised::No | Supervised::Upstart, _) | (Supervised::Auto, true) => {}
        (Supervised::Systemd, true) => {
            tracing::warn!("supervised systemd is set, but NOTIFY_SOCKET is not: nobody can be told \"{state}\"");
        }
        (Supervised::Systemd | Supervised::Auto, false) => {
            if let Err(error) = send(&socket, state) {
                tracing::warn!("Can't tell the service manager \"{state}\" on {socket}: {error}");
            }
        }
    }
}

/// A name with `@` in front is one without a file.
fn send(socket: &str, state: &str) -> std::io::Result<()> {
    let addr = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &addr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives_at_a_path_and_at_a_name_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("replicated-redis-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, to) in [(by_path, path.to_string_lossy().into_owned()), (by_name, format!("@{name}"))] {
            send(&to, "READY=1").unwrap();
            let mut buffer = [0; 32];
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1");
        }
        assert!(send("/nosuch/socket", "READY=1").is_err());
    }
}
