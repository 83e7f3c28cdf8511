//! A client's socket: received from and sent to by the system calls themselves where they need not wait.
//!
//! `recv` and `send` go straight to the kernel: in a process with threads the C library's are points of cancellation,
//! which costs a twentieth of all user time of a server that gets one command at a time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};

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

pub(super) trait Stream: AsyncRead + AsyncWrite + AsFd + Unpin {
    /// Takes it from its worker.
    fn into_socket(self) -> io::Result<ClientSocket>;

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Runs `f`, which says `WouldBlock` when the socket is not ready any longer.
    fn try_read(&self, f: impl FnOnce() -> io::Result<()>) -> io::Result<()>;

    /// Appends what there is, as far as there is room; 0: the peer has ended it.
    fn poll_recv(&self, cx: &mut Context<'_>, input: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            let room = input.capacity() - input.len();
            let mut received = None;
            let tried = self.try_read(|| {
                let (n, _) =
                    rustix::net::recv(self.as_fd(), rustix::buffer::spare_capacity(input), RecvFlags::empty())?;
                received = Some(n);
                // Less than there was room for: the next call would find nothing. An end stays ready.
                if 0 < n && n < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (received, tried) {
                (Some(n), _) => return Poll::Ready(Ok(n)),
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                (None, result) => return Poll::Ready(result.map(|()| 0)),
            }
        }
    }

    /// Sends what the socket takes without waiting; returns how much that was.
    fn send(&self, out: &[u8]) -> io::Result<usize> {
        match rustix::net::send(self.as_fd(), out, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(n) => Ok(n),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl Stream for TcpStream {
    fn into_socket(self) -> io::Result<ClientSocket> {
        self.into_std().map(ClientSocket::Tcp)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        TcpStream::poll_read_ready(self, cx)
    }

    fn try_read(&self, f: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.try_io(Interest::READABLE, f)
    }
}

impl Stream for UnixStream {
    fn into_socket(self) -> io::Result<ClientSocket> {
        self.into_std().map(ClientSocket::Unix)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        UnixStream::poll_read_ready(self, cx)
    }

    fn try_read(&self, f: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.try_io(Interest::READABLE, f)
    }
}
