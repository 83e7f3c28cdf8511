//! A client's socket: received from and sent to by the system calls themselves where they need not wait.
//!
//! `recv` and `send` go straight to the kernel: in a process with threads the C library's are points of cancellation,
//! which costs a twentieth of all user time of a server that gets one command at a time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::events::Source;
use super::tasks::Tasks;
use crate::config::Settings;

/// A client's socket that no worker serves at the moment.
#[derive(Debug)]
pub(super) enum ClientSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl ClientSocket {
    /// Of the peer and of this end, as CLIENT LIST shows them.
    pub(super) fn addresses(&self, settings: &Settings) -> (String, String) {
        let name = |a: io::Result<SocketAddr>| a.map(|a| a.to_string()).unwrap_or_default();
        match self {
            Self::Tcp(stream) => (name(stream.peer_addr()), name(stream.local_addr())),
            Self::Unix(_) => {
                let path = format!("{}:0", settings.unixsocket);
                (path.clone(), path)
            }
        }
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A socket of the worker that serves it, for one task at a time. However much can be received or sent, the task has to wait
/// now and then, so that it is the others' turn.
#[derive(Debug)]
pub(super) struct Stream {
    // Closed first: then the kernel tells nothing of it any more.
    socket: ClientSocket,
    place: Place,
}

/// Among the sockets of a worker.
#[derive(Debug)]
struct Place {
    number: usize,
    source: Rc<Source>,
    tasks: Rc<Tasks>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tasks.events.forget(self.number);
    }
}

impl Stream {
    pub(super) fn new(socket: ClientSocket, tasks: &Rc<Tasks>) -> io::Result<Self> {
        let (number, source) = tasks.events.add(socket.as_fd())?;
        Ok(Self { socket, place: Place { number, source, tasks: Rc::clone(tasks) } })
    }

    /// Takes it from its worker.
    pub(super) fn into_socket(self) -> ClientSocket {
        self.place.tasks.events.remove(self.socket.as_fd());
        self.socket
    }

    /// Appends what there is, as far as there is room; 0: the peer has ended it.
    pub(super) fn poll_recv(&self, input: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let room = input.capacity() - input.len();
        self.poll_receive(room, |fd| Ok(rustix::net::recv(fd, spare_capacity(input), RecvFlags::empty())?.0))
    }

    fn poll_receive(
        &self,
        room: usize,
        mut receive: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        while self.place.source.readable.get() {
            ready!(self.place.tasks.step());
            match receive(self.socket.as_fd()) {
                Ok(n) => {
                    // Less than there was room for: the next call would find nothing. An end stays ready.
                    if 0 < n && n < room {
                        self.place.source.readable.set(self.place.source.over.get());
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => self.place.source.readable.set(false),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.place.tasks.poll_for(&self.place.source);
        Poll::Pending
    }

    /// Sends what the socket takes without waiting; returns how much that was.
    pub(super) fn send(&self, out: &[u8]) -> io::Result<usize> {
        match rustix::net::send(self.socket.as_fd(), out, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(n) => Ok(n),
            Err(Errno::AGAIN) => {
                self.place.source.writable.set(false);
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// As a stream, for who sends or receives much.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let room = buf.remaining();
        let received = self.poll_receive(room, |fd| {
            let (n, _) = rustix::net::recv(fd, buf.initialize_unfilled(), RecvFlags::empty())?;
            buf.advance(n);
            Ok(n)
        });
        received.map_ok(|_| ())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        while self.place.source.writable.get() {
            ready!(self.place.tasks.step());
            let sent = self.send(bytes)?;
            if sent > 0 {
                return Poll::Ready(Ok(sent));
            }
        }
        self.place.tasks.poll_for(&self.place.source);
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(self.socket.as_fd(), Shutdown::Write)?))
    }
}
