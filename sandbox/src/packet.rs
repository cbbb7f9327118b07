//! Messages over SOCK_SEQPACKET with descriptors beside them: one packet is one message, never a part of one.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most descriptors that travel with one message.
const DESCRIPTORS_MAX: usize = 6;

/// A connected pair of sockets, close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one packet; blocks only if the socket does.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet into `buffer`; gives its length (0: the other side closed) and its descriptors, close-on-exec.
/// A packet that doesn't fit is an error: half a message means nothing.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut receive =
        || rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let received = match receive() {
        // The other side closed with something unread. The kernel says so once, before it gives what came earlier.
        Err(Errno::CONNRESET) => receive()?,
        other => other?,
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was longer than the wire allows"));
    }
    Ok((received.bytes, descriptors))
}

/// Sends a value as JSON.
pub(crate) fn send_json(socket: impl AsFd, value: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send(socket, &serde_json::to_vec(value)?, descriptors)
}

/// Receives a value as JSON, at most `bytes_max` long; `None` when the other side closed.
pub(crate) fn receive_json<T: DeserializeOwned>(
    socket: impl AsFd,
    bytes_max: usize,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; next_length(&socket)?.min(bytes_max)];
    let (length, descriptors) = receive(socket, &mut buffer)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, descriptors)))
}

/// Waits for the next packet and gives its length, 0 at the end: clearing room for the longest one that could come takes
/// longer than all the rest of most requests.
fn next_length(socket: impl AsFd) -> io::Result<usize> {
    let peek = || rustix::net::recv(&socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::TRUNC);
    let (_, length) = match peek() {
        Err(Errno::CONNRESET) => peek()?,
        other => other?,
    };
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_too_long_is_refused_and_the_next_one_received() {
        let (ours, theirs) = pair().unwrap();
        send_json(&theirs, &"x".repeat(100), &[]).unwrap();
        send_json(&theirs, &"next", &[]).unwrap();
        let error = receive_json::<String>(&ours, 50).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive_json::<String>(&ours, 50).unwrap().unwrap().0, "next");
        drop(theirs);
        assert!(receive_json::<String>(&ours, 50).unwrap().is_none());
    }

    #[test]
    fn what_was_sent_before_the_end_is_received_whatever_was_left_unread() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, b"never read", &[]).unwrap();
        send(&theirs, b"last words", &[]).unwrap();
        drop(theirs);
        let mut buffer = [0; 32];
        let received = |buffer: &mut [u8]| receive(&ours, buffer).unwrap().0;
        assert_eq!(received(&mut buffer), 10);
        assert_eq!(&buffer[..10], b"last words");
        assert_eq!(received(&mut buffer), 0);
    }
}
