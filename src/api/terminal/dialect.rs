//! What is spoken on a WebSocket with one session, message by message. It knows no socket and no session.

use std::collections::VecDeque;

use bytes::Bytes;
use sandbox::control::{Exit, Size};

use crate::screen::RESET;
use crate::ws::{CloseFrame, Message};

/// Messages of the dialect's own, in their order.
pub(super) type Words = VecDeque<Message>;

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It types.
    Input(Bytes),
    /// Its terminal has this size.
    Size(Size),
    /// Nothing that a session needs to know.
    Nothing,
}

/// A way to speak.
pub(super) trait Dialect: Send {
    /// What a message means; or why the client can't go on.
    fn hear(&mut self, message: &Bytes) -> Result<Said, CloseFrame>;

    /// What stands before output in a message.
    fn head(&self) -> &'static [u8] {
        b""
    }

    /// The message for output, its head included; `None` if there is nothing to send yet.
    fn output(&mut self, bytes: Vec<u8>) -> Option<Message> {
        Some(Message::Binary(bytes.into()))
    }

    /// A snapshot begins: what was left of the output before means nothing any more.
    fn reset(&mut self, _size: Size) -> Option<Message> {
        self.output([self.head(), RESET].concat())
    }

    /// The session has this size from here on.
    fn resized(&mut self, _size: Size) -> Option<Message> {
        None
    }

    /// Whether the client takes output now.
    fn takes_output(&self) -> bool {
        true
    }

    /// What comes first.
    fn greeting(&mut self) -> Words {
        Words::new()
    }

    /// What comes last, before the close frame.
    fn farewell(&mut self, _exit: Exit) -> Words {
        Words::new()
    }
}
