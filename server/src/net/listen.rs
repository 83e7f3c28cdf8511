//! Listening and accepting: the addresses of `bind` and `port`, which CONFIG SET may change, and the Unix socket.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::{ClientSocket, Incoming, Senders};
use crate::config::Settings;
use crate::state::Server;
use crate::timers;

/// Listening sockets on their way to the acceptor.
#[derive(Debug)]
pub struct Opened {
    tcp: mpsc::Receiver<Vec<StdListener>>,
    unix: Option<std::os::unix::net::UnixListener>,
}

/// The sockets that are listened on, for those who change them.
#[derive(Debug)]
pub struct Listening {
    /// Duplicates of what the acceptor has: closing them ends its listeners.
    sockets: Mutex<Vec<StdListener>>,
    acceptor: mpsc::Sender<Vec<StdListener>>,
}

impl Listening {
    /// Opens all listeners of the settings.
    pub fn open(settings: &Settings) -> Result<(Self, Opened), String> {
        let sockets = bind_all(settings, settings.port as u16)?;
        let (acceptor, tcp) = mpsc::channel(16);
        let listening = Self { sockets: Mutex::default(), acceptor };
        listening.hand_over(sockets)?;
        let unix = if settings.unixsocket.is_empty() { None } else { Some(bind_unix(settings)?) };
        Ok((listening, Opened { tcp, unix }))
    }

    /// Listens where these settings say, instead. If that cannot be done it goes on where it was.
    pub fn change(&self, old: &Settings, new: &Settings) -> Result<(), String> {
        // A wildcard and an address of the same port exclude each other: the old sockets go first.
        for socket in self.sockets.lock().drain(..) {
            let _ = SockRef::from(&socket).shutdown(std::net::Shutdown::Both);
        }
        let bound = bind_all(new, new.port as u16);
        let failed = bound.as_ref().err().cloned();
        let sockets = match bound {
            Ok(sockets) => sockets,
            Err(_) => bind_all(old, old.port as u16)?,
        };
        self.hand_over(sockets)?;
        failed.map_or(Ok(()), Err)
    }

    fn hand_over(&self, sockets: Vec<StdListener>) -> Result<(), String> {
        let copies =
            sockets.iter().map(StdListener::try_clone).collect::<io::Result<_>>().map_err(|e| e.to_string())?;
        self.acceptor.try_send(sockets).map_err(|_| "the acceptor does not take new sockets".to_string())?;
        *self.sockets.lock() = copies;
        Ok(())
    }
}

/// One socket for each address of `bind`. One with `-` in front may be absent from this machine.
pub(crate) fn bind_all(settings: &Settings, port: u16) -> Result<Vec<StdListener>, String> {
    let mut sockets = Vec::new();
    for name in settings.bind.0.iter().filter(|_| port > 0) {
        let (optional, name) = name.strip_prefix('-').map_or((false, name.as_str()), |n| (true, n));
        let ip = match name {
            "*" => "0.0.0.0",
            "::*" => "::",
            other => other,
        };
        let bound = resolve(ip).and_then(|ip| bind(SocketAddr::new(ip, port), settings.tcp_backlog as i32));
        match bound {
            Ok(socket) => sockets.push(socket),
            Err(e) if optional && e.kind() != io::ErrorKind::AddrInUse => {}
            Err(e) => {
                return Err(format!(
                    "Warning: Could not create server TCP listening socket {name}:{port}: bind: {e}\nFailed listening on port {port} (tcp), aborting."
                ));
            }
        }
    }
    Ok(sockets)
}

fn resolve(name: &str) -> io::Result<IpAddr> {
    if let Ok(ip) = name.parse() {
        return Ok(ip);
    }
    (name, 0).to_socket_addrs()?.next().map(|a| a.ip()).ok_or_else(|| io::Error::other("the name has no address"))
}

fn bind(addr: SocketAddr, backlog: i32) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(settings: &Settings) -> Result<std::os::unix::net::UnixListener, String> {
    let path = &settings.in_dir(&settings.unixsocket);
    let _ = std::fs::remove_file(path);
    let opened = std::os::unix::net::UnixListener::bind(path).and_then(|listener| {
        listener.set_nonblocking(true)?;
        if settings.unixsocketperm.0 != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.unixsocketperm.0))?;
        }
        Ok(listener)
    });
    opened.map_err(|e| format!("Failed opening Unix socket {}: bind: {e}", path.display()))
}

/// Accepts for ever, gives each connection a seat and hands it to its worker.
pub(super) async fn accept(server: Arc<Server>, mut opened: Opened, workers: Senders) {
    let seats = Rc::new(Seats { workers, next: Cell::new(0) });
    if let Some(listener) = opened.unix {
        spawn_local(accept_unix(Arc::clone(&server), listener, Rc::clone(&seats)));
    }
    while let Some(listeners) = opened.tcp.recv().await {
        for listener in listeners {
            spawn_local(accept_tcp(Arc::clone(&server), listener, Rc::clone(&seats)));
        }
    }
}

struct Seats {
    workers: Senders,
    next: Cell<u32>,
}

impl Seats {
    async fn give(&self, server: &Server, socket: ClientSocket) {
        let seat = self.next.get();
        self.next.set(seat.wrapping_add(1));
        let _ = self.workers[server.spread.worker_of(seat)].send(Incoming { seat, socket, begun: None }).await;
    }
}

/// Until the socket is shut down.
async fn accept_tcp(server: Arc<Server>, listener: StdListener, seats: Rc<Seats>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("A listener is lost: {e}"),
    };
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // It was shut down: another one has taken its place.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
            Err(_) => {
                // Out of descriptors: give those that close a moment.
                timers::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let settings = server.settings();
        let Ok(mut stream) = stream.into_std() else { continue };
        if let Some(refusal) = refuse(&server, &settings, Some(peer.ip())) {
            server.stats.rejected_connections.fetch_add(1, Ordering::Relaxed);
            let _ = io::Write::write_all(&mut stream, refusal.as_bytes());
            continue;
        }
        let socket = SockRef::from(&stream);
        let _ = socket.set_tcp_nodelay(true);
        if settings.tcp_keepalive > 0 {
            let seconds = settings.tcp_keepalive as u64;
            let keepalive = TcpKeepalive::new()
                .with_time(Duration::from_secs(seconds))
                .with_interval(Duration::from_secs((seconds / 3).max(1)))
                .with_retries(3);
            let _ = socket.set_tcp_keepalive(&keepalive);
        }
        seats.give(&server, ClientSocket::Tcp(stream)).await;
    }
}

async fn accept_unix(server: Arc<Server>, listener: std::os::unix::net::UnixListener, seats: Rc<Seats>) {
    let Ok(listener) = UnixListener::from_std(listener) else { return };
    loop {
        let Ok(mut stream) = listener.accept().await.and_then(|(s, _)| s.into_std()) else {
            timers::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if let Some(refusal) = refuse(&server, &server.settings(), None) {
            server.stats.rejected_connections.fetch_add(1, Ordering::Relaxed);
            let _ = io::Write::write_all(&mut stream, refusal.as_bytes());
            continue;
        }
        seats.give(&server, ClientSocket::Unix(stream)).await;
    }
}

/// Why a connection is not let in: the error line. `peer`: none on the Unix socket.
fn refuse(server: &Server, settings: &Settings, peer: Option<IpAddr>) -> Option<&'static str> {
    if server.clients.len() >= settings.maxclients as usize {
        return Some("-ERR max number of clients reached\r\n");
    }
    if settings.protected_mode
        && server.users.default_user().nopass
        && !peer.is_none_or(|ip| ip.to_canonical().is_loopback())
    {
        return Some(
            "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only accepted from the loopback interface. If you want to connect from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Redis from the same host the server is running, however MAKE SURE Redis is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively you can just disable the protected mode by editing the Redis configuration file, and setting the protected mode option to 'no', and then restarting the server. 3) If you started the server manually just for testing, restart it with the '--protected-mode no' option. 4) Setup a an authentication password for the default user. NOTE: You only need to do one of the above things in order for the server to start accepting connections from the outside.\r\n",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bind: &[&str], port: u16) -> Settings {
        let mut settings = Settings::default();
        settings.bind.0 = bind.iter().map(|b| (*b).into()).collect();
        settings.port = port.into();
        settings
    }

    fn free_port() -> u16 {
        StdListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port()
    }

    fn reachable(ip: &str, port: u16) -> bool {
        std::net::TcpStream::connect((ip, port)).is_ok()
    }

    #[test]
    fn an_address_with_a_minus_may_be_absent_and_others_may_not() {
        let port = free_port();
        let (_listening, _opened) = Listening::open(&settings(&["127.0.0.1", "-::1", "-192.0.2.1"], port)).unwrap();
        assert!(reachable("127.0.0.1", port));
        let error = Listening::open(&settings(&["192.0.2.1"], port)).unwrap_err();
        assert!(error.contains("Could not create server TCP listening socket 192.0.2.1"), "{error}");
        assert!(Listening::open(&settings(&["-127.0.0.1"], port)).is_err(), "it is there, but taken");
    }

    #[test]
    fn listeners_move_to_another_port_and_address_and_stay_when_they_cannot() {
        let (from, to) = (free_port(), free_port());
        let old = settings(&["127.0.0.1"], from);
        let (listening, mut opened) = Listening::open(&old).unwrap();
        drop(opened.tcp.try_recv());
        let new = settings(&["*"], to);
        listening.change(&old, &new).unwrap();
        assert!(reachable("127.0.0.2", to) && !reachable("127.0.0.1", from));
        let taken = StdListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = settings(&["127.0.0.1"], taken.local_addr().unwrap().port());
        assert!(listening.change(&new, &elsewhere).is_err());
        drop(opened.tcp.try_recv());
        assert!(reachable("127.0.0.2", to), "it listens where it was");
    }

    #[test]
    fn the_unix_socket_has_the_permissions_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(&[], 0);
        settings.unixsocket = dir.path().join("sock").to_string_lossy().into_owned();
        settings.unixsocketperm.0 = 0o700;
        let (_listening, _opened) = Listening::open(&settings).unwrap();
        let mode = std::fs::metadata(&settings.unixsocket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
