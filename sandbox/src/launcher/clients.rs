//! Who asks the launcher: the one who started it, or whoever connects to the socket of a service.
//!
//! The socket's mode lets in whom it should; here it is checked again, by what the kernel says of the other side. It doesn't
//! know what is asked.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{SocketFlags, accept_with};

use super::wire::Answer;
use crate::packet;

/// Most clients of a service at once: its server, the one that takes over from it, and commands. Others wait in the socket's
/// queue.
const CLIENTS_MAX: usize = 8;

/// How long one who doesn't read its answers may hold up the others.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// The connections, and what lets in new ones.
pub(super) struct Clients {
    door: Option<Door>,
    connections: Vec<OwnedFd>,
}

struct Door {
    listener: OwnedFd,
    service_uid: u32,
}

/// What there is to be done.
pub(super) struct Waited {
    /// The other descriptor is readable.
    pub(super) other: bool,
    /// Clients who said something or left, in ascending order.
    pub(super) asking: Vec<usize>,
}

impl Clients {
    /// Whoever started the launcher, alone.
    pub(super) fn one(connection: OwnedFd) -> Self {
        Self { door: None, connections: vec![connection] }
    }

    /// The service user, and root, who may do more by other means.
    pub(super) fn of_service(listener: OwnedFd, service_uid: u32) -> Self {
        Self { door: Some(Door { listener, service_uid }), connections: Vec::new() }
    }

    /// Who started the launcher and waits until it is prepared; nobody in particular did that to a service.
    pub(super) fn starter(&self) -> Option<&OwnedFd> {
        if self.door.is_some() { None } else { self.connections.first() }
    }

    /// Whether nobody is left, and nobody can come.
    pub(super) fn are_gone(&self) -> bool {
        self.door.is_none() && self.connections.is_empty()
    }

    pub(super) fn get(&self, client: usize) -> &OwnedFd {
        &self.connections[client]
    }

    /// Ends a connection; the last one takes its number.
    pub(super) fn leave(&mut self, client: usize) {
        self.connections.swap_remove(client);
    }

    /// Lets in who comes, until something is asked or `other` is readable.
    pub(super) fn wait(&mut self, other: BorrowedFd<'_>) -> io::Result<Waited> {
        let door = self.door.as_ref().filter(|_| self.connections.len() < CLIENTS_MAX);
        let readable = |polled: &PollFd<'_>| !polled.revents().is_empty();
        let mut polled = vec![PollFd::from_borrowed_fd(other, PollFlags::IN)];
        polled.extend(self.connections.iter().map(|connection| PollFd::new(connection, PollFlags::IN)));
        polled.extend(door.map(|door| PollFd::new(&door.listener, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Waited { other: false, asking: Vec::new() }),
            Err(error) => return Err(error.into()),
        }
        let (other, connections) = (readable(&polled[0]), &polled[1..=self.connections.len()]);
        let asking = connections.iter().enumerate().filter(|(_, polled)| readable(polled)).map(|(client, _)| client);
        let asking = asking.collect();
        let knocked = door.is_some() && polled.last().is_some_and(readable);
        drop(polled);
        if knocked {
            self.connections.extend(self.door.as_ref().and_then(Door::open));
        }
        Ok(Waited { other, asking })
    }
}

impl Door {
    /// Lets in the next one, who is told that the launcher is prepared; nobody who may not, or has left already.
    fn open(&self) -> Option<OwnedFd> {
        let connection = accept_with(&self.listener, SocketFlags::CLOEXEC).ok()?;
        let uid = socket_peercred(&connection).ok()?.uid.as_raw();
        if uid != 0 && uid != self.service_uid {
            eprintln!("cloister-launcher: user id {uid} may not ask for cells");
            return None;
        }
        set_socket_timeout(&connection, Timeout::Send, Some(ANSWER_WAIT)).ok()?;
        packet::send_json(&connection, &Answer::Done, &[]).ok()?;
        Some(connection)
    }
}
