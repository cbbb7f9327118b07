//! A client's data socket: packets in and out, never blocking, whatever the cell that made the socket does to its flags.
//! It knows no frame.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::watch::watched;

/// A connected SOCK_SEQPACKET socket.
#[derive(Debug)]
pub(super) struct Data {
    /// Waited on for reading alone. Each read of the cell makes room, and who also waited for that would be woken in the
    /// middle of every echo (measured: 10 to 20 µs later at the client).
    socket: AsyncFd<OwnedFd>,
    /// The same socket once more, waited on for writing, as long as it is full.
    full: Option<AsyncFd<OwnedFd>>,
}

impl Data {
    /// Takes a descriptor that a cell sent, after checking what it is.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let shape = (sockopt::socket_domain(&socket)?, sockopt::socket_type(&socket)?);
        if shape != (AddressFamily::UNIX, SocketType::SEQPACKET) {
            return Err(io::Error::other("the cell sent a data socket of a wrong type"));
        }
        Ok(Self { socket: watched(socket, Interest::READABLE)?, full: None })
    }

    /// Receives one packet into `packet` and gives its length, 0 at the end; the part of a packet that is longer is lost.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>, packet: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            match guard.try_io(|socket| Ok(recv(socket.get_ref(), &mut *packet, RecvFlags::DONTWAIT)?.0)) {
                // Said once, before what is still to be read: the cell closed without having read all it was sent.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(received) => return Poll::Ready(received),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one packet; `false` when there is no room for it. A broken socket takes everything: receiving says so.
    pub(super) fn send(&self, packet: &[u8]) -> bool {
        loop {
            match send(&self.socket, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// Ready when there may be room again, after there was none.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let full = match self.full.take() {
            Some(full) => full,
            None => watched(fcntl_dupfd_cloexec(&self.socket, 0)?, Interest::WRITABLE)?,
        };
        let room = full.poll_write_ready(cx).map_ok(|_| ());
        if room.is_pending() {
            self.full = Some(full);
        }
        room
    }
}
