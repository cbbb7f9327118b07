//! A session seen from the server: bytes at offsets in shared memory, and a socket to the cell that writes them.
//!
//! There is no driver and no queue here. Every client owns an [`Attachment`]: a cursor into the session's log and a data
//! socket of its own, so a keystroke and its echo each cross one task. It knows neither HTTP nor WebSocket.

mod attachment;
mod data;
mod replay;
mod text;

pub(crate) use attachment::{Attachment, Output};
pub(crate) use text::Utf8;
