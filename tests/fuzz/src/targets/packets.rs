//! Single packets between a server and a cell, each side hostile to the other, over real sockets.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use sandbox::control::{CONTROL_BYTES_MAX, FromCell, INPUT_BYTES_MAX, Reply, Request, SessionName, Size, ToCell};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::packet;

/// Largest packet that is tried, so that none waits for room in its socket.
const PACKET_BYTES_MAX: usize = 64 * 1024;

/// A letter for what the packet is to be, and the packet.
pub(crate) fn packets(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    let message = &message[..message.len().min(PACKET_BYTES_MAX)];
    match kind {
        b'q' => control::<Request>(message, request),
        b'r' => control::<Reply>(message, |_| {}),
        b'd' => to_cell(message),
        b'f' => from_cell(message),
        _ => {}
    }
}

thread_local! {
    static SOCKETS: (OwnedFd, OwnedFd) = packet::pair().expect("a pair of sockets");
}

/// As init and the launcher receive it; what is understood is said again and understood as the same.
fn control<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &[u8], check: impl Fn(&T)) {
    if message.is_empty() {
        return;
    }
    SOCKETS.with(|(ours, theirs)| {
        packet::send(theirs, message, &[]).expect("there is room");
        let Ok(received) = packet::receive_json::<T>(ours, CONTROL_BYTES_MAX) else { return };
        let (value, descriptors) = received.expect("the socket is open");
        assert!(descriptors.is_empty());
        check(&value);
        packet::send_json(theirs, &value, &[]).expect("there is room");
        let (again, _) = packet::receive_json::<T>(ours, CONTROL_BYTES_MAX).expect("it is one").expect("it came");
        assert_eq!(value, again);
    });
}

fn request(request: &Request) {
    if let Request::Open { session, .. } | Request::Join { session } | Request::Close { session } = request {
        assert_eq!(SessionName::parse(session.as_str()).as_ref(), Some(session));
    }
}

fn to_cell(packet: &[u8]) {
    let Ok(frame) = ToCell::decode(packet) else { return };
    match frame {
        ToCell::Input { bytes, .. } => assert!(bytes.len() <= INPUT_BYTES_MAX),
        ToCell::Resize(size) => assert_eq!(size, Size::clamped(size)),
        ToCell::Credit { .. } => {}
    }
    let mut again = Vec::new();
    frame.encode(&mut again);
    assert_eq!(ToCell::decode(&again), Ok(frame));
    assert!(again == packet || matches!(frame, ToCell::Resize(_)));
}

fn from_cell(packet: &[u8]) {
    let Ok(frame) = FromCell::decode(packet) else { return };
    assert_eq!(FromCell::decode(&frame.encode()), Ok(frame));
}
