//! Plain mode: a message in is typed, output comes out as it is, or as text.

use bytes::Bytes;
use sandbox::control::{Exit, Size};

use super::dialect::{Dialect, Said, Words};
use crate::screen::RESET;
use crate::session::Utf8;
use crate::ws::{CloseFrame, Message};

/// What websocat, Postman, wscat and xterm.js' AttachAddon speak.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// Output as binary messages, not as text.
    pub(super) binary: bool,
    /// Each message is a line: Enter is pressed behind it.
    pub(super) lines: bool,
    utf8: Utf8,
}

impl Plain {
    pub(super) fn new(binary: bool, lines: bool) -> Self {
        Self { binary, lines, utf8: Utf8::default() }
    }
}

impl Dialect for Plain {
    fn hear(&mut self, message: &Bytes) -> Result<Said, CloseFrame> {
        if self.lines && !message.ends_with(b"\n") && !message.ends_with(b"\r") {
            // What Enter sends.
            return Ok(Said::Input([message, &b"\r"[..]].concat().into()));
        }
        Ok(Said::Input(message.clone()))
    }

    fn output(&mut self, bytes: Vec<u8>) -> Option<Message> {
        if self.binary {
            return Some(Message::Binary(bytes.into()));
        }
        let text = self.utf8.text(bytes);
        (!text.is_empty()).then(|| Message::Text(text.into()))
    }

    fn reset(&mut self, _size: Size) -> Option<Message> {
        self.utf8 = Utf8::default();
        self.output(RESET.to_vec())
    }

    fn farewell(&mut self, _exit: Exit) -> Words {
        let rest = self.utf8.end();
        if rest.is_empty() { Words::new() } else { Words::from([Message::Text(rest.into())]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_ended_once() {
        let mut plain = Plain::new(false, true);
        for (message, typed) in [("ls", "ls\r"), ("ls\n", "ls\n"), ("ls\r", "ls\r"), ("", "\r")] {
            assert_eq!(plain.hear(&Bytes::from(message)), Ok(Said::Input(Bytes::from(typed))));
        }
        assert_eq!(Plain::new(false, false).hear(&Bytes::from("ls")), Ok(Said::Input(Bytes::from("ls"))));
    }

    #[test]
    fn text_is_whole_and_bytes_are_as_they_are() {
        let mut text = Plain::new(false, false);
        assert_eq!(text.output(b"\xE2\x82".to_vec()), None);
        assert_eq!(text.output(b"\xAC".to_vec()), Some(Message::text("€")));
        assert_eq!(text.output(b"\xE2".to_vec()), None);
        assert_eq!(text.farewell(Exit::Code(0)), Words::from([Message::text("\u{FFFD}")]));
        let mut bytes = Plain::new(true, false);
        assert_eq!(bytes.output(b"\xE2".to_vec()), Some(Message::binary(vec![0xE2])));
    }
}
