//! asciinema's live streams, subprotocol `v1.alis`, for its player: a session to look at, as events (asciinema 3,
//! `src/alis.rs`). Numbers are LEB128, times are microseconds since the event before.

use std::time::Instant;

use bytes::Bytes;
use sandbox::control::{Exit, Size};

use super::dialect::{Dialect, Said, Words};
use crate::session::Utf8;
use crate::ws::{CloseFrame, Message};

/// The subprotocol's name.
pub(super) const PROTOCOL: &str = "v1.alis";

const MAGIC: &[u8] = b"ALiS\x01";
const INIT: u8 = 1;
const OUTPUT: u8 = b'o';
const RESIZE: u8 = b'r';
const EXIT: u8 = b'x';

/// The stream brings no colours of its own.
const NO_THEME: u8 = 0;

/// What asciinema's player speaks.
#[derive(Debug)]
pub(super) struct Alis {
    began: Instant,
    /// When the last event was, in microseconds since the beginning.
    last: u64,
    /// Events since the stream began.
    count: u64,
    utf8: Utf8,
}

impl Alis {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), last: 0, count: 0, utf8: Utf8::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The beginning of an event: its kind, number and time.
    fn event(&mut self, kind: u8) -> Vec<u8> {
        let now = self.now();
        self.count += 1;
        let mut event = vec![kind];
        put(self.count, &mut event);
        put(now - self.last, &mut event);
        self.last = now;
        event
    }

    fn text(&mut self, text: &str) -> Option<Message> {
        if text.is_empty() {
            return None;
        }
        let mut event = self.event(OUTPUT);
        put(text.len() as u64, &mut event);
        event.extend_from_slice(text.as_bytes());
        Some(Message::Binary(event.into()))
    }
}

impl Dialect for Alis {
    fn hear(&mut self, _message: &Bytes) -> Result<Said, CloseFrame> {
        // The player has nothing to say.
        Ok(Said::Nothing)
    }

    fn output(&mut self, bytes: Vec<u8>) -> Option<Message> {
        let text = self.utf8.text(bytes);
        self.text(&text)
    }

    fn reset(&mut self, size: Size) -> Option<Message> {
        self.utf8 = Utf8::default();
        self.last = self.now();
        let mut event = vec![INIT];
        put(self.count, &mut event);
        put(self.last, &mut event);
        put(size.cols.into(), &mut event);
        put(size.rows.into(), &mut event);
        // What the terminal shows comes as output.
        event.extend_from_slice(&[NO_THEME, 0]);
        Some(Message::Binary(event.into()))
    }

    fn resized(&mut self, size: Size) -> Option<Message> {
        let mut event = self.event(RESIZE);
        put(size.cols.into(), &mut event);
        put(size.rows.into(), &mut event);
        Some(Message::Binary(event.into()))
    }

    fn greeting(&mut self) -> Words {
        Words::from([Message::binary(MAGIC)])
    }

    fn farewell(&mut self, exit: Exit) -> Words {
        let rest = self.utf8.end();
        let mut words: Words = self.text(&rest).into_iter().collect();
        let mut event = self.event(EXIT);
        put(
            match exit {
                Exit::Code(code) => code.into(),
                Exit::Signal(signal) => 128 + u64::from(signal),
            },
            &mut event,
        );
        words.push_back(Message::Binary(event.into()));
        words
    }
}

/// Appends a number, seven bits a byte, the lowest first.
fn put(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let low = (number & 0x7F) as u8;
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_seven_bits_a_byte() {
        for (number, bytes) in [(0, &[0][..]), (127, &[127]), (128, &[128, 1]), (300, &[0xAC, 2])] {
            let mut out = Vec::new();
            put(number, &mut out);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_stream_is_a_head_a_beginning_and_events() {
        let mut alis = Alis::new();
        assert_eq!(alis.greeting(), Words::from([Message::binary(MAGIC)]));
        let bytes = |message: Option<Message>| message.expect("a message").into_data();
        let init = bytes(alis.reset(Size { cols: 80, rows: 24 }));
        assert_eq!((init[0], init[1]), (INIT, 0));
        assert_eq!(init[init.len() - 4..], [80, 24, NO_THEME, 0]);
        assert_eq!(alis.output(b"\xE2\x82".to_vec()), None);
        let output = bytes(alis.output(b"\xAC!".to_vec()));
        assert_eq!((output[0], output[1]), (OUTPUT, 1));
        assert_eq!(output[output.len() - 5..], *"\u{4}€!".as_bytes());
        let resize = bytes(alis.resized(Size { cols: 100, rows: 30 }));
        assert_eq!((resize[0], resize[1]), (RESIZE, 2));
        assert_eq!(resize[resize.len() - 2..], [100, 30]);
        let exit = alis.farewell(Exit::Signal(9)).pop_back().map(Message::into_data).expect("a message");
        assert_eq!((exit[0], &exit[exit.len() - 2..]), (EXIT, &[137, 1][..]));
    }
}
