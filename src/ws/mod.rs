//! WebSocket (RFC 6455) for the server's side: the upgrade of a request, and the socket after it.
//!
//! Our own upgrade, since warp's keeps a read buffer of 128 KiB a socket, answers no protocol error with a close frame,
//! and can't tell a full socket from an empty one. It doesn't know what messages mean.

mod handshake;
mod socket;

pub(crate) use handshake::{Handshake, NotUpgradable};
pub(crate) use socket::{OUTPUT_BYTES_MAX, Received, Socket};

pub(crate) use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
pub(crate) use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

/// A close frame with a reason, which is cut at the 123 bytes that a control frame has room for.
pub(crate) fn close(code: CloseCode, reason: &str) -> CloseFrame {
    CloseFrame { code, reason: reason[..reason.floor_char_boundary(123)].into() }
}
