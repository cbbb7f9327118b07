//! Bytes into characters and control sequences, after Paul Williams' state machine (<https://vt100.net/emu/dec_ansi_parser>).
//!
//! An unfinished sequence or character is kept as the bytes it has so far: they are all of the parser's state, so whoever
//! needs it elsewhere takes [`Parser::pending`]. What sequences mean is for the [`Model`].

use super::model::Model;
use super::rush::Rush;

/// Most bytes kept of a sequence that isn't a string; those in use are far shorter. A longer one has no effect.
const SEQUENCE_BYTES_MAX: usize = 512;

/// Most bytes kept of an OSC: titles, links and palettes fit. A longer one (a clipboard, an image) has no effect.
const STRING_BYTES_MAX: usize = 4096;

const CANCEL: u8 = 0x18;
const SUBSTITUTE: u8 = 0x1A;
const ESCAPE: u8 = 0x1B;
const BELL: u8 = 0x07;

/// Where in a sequence the next byte falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// In the middle of a UTF-8 character.
    Character,
    Escape,
    Csi,
    Osc,
    /// A string that means nothing here: DCS, SOS, PM, APC.
    Ignored,
}

/// The parser.
#[derive(Debug, Default)]
pub(super) struct Parser {
    state: State,
    pending: Vec<u8>,
}

impl Parser {
    /// Bytes that bring a new parser where this one is. Of a string without meaning or of more than its share the content
    /// is left out, and what introduces it is such that what still comes of it is ignored too.
    pub(super) fn pending(&self) -> &[u8] {
        &self.pending
    }

    pub(super) fn feed(&mut self, bytes: &[u8], model: &mut Model) {
        let mut rest = bytes;
        while let [byte, behind @ ..] = rest {
            rest = match self.state {
                State::Ground => self.ground(rest, model),
                State::Character => self.character(*byte, rest, behind, model),
                _ => {
                    let taken = self.sequence(*byte, model);
                    if taken { behind } else { rest }
                }
            };
        }
    }

    /// Text, control characters and whole sequences, as far as they come; gives the rest.
    fn ground<'a>(&mut self, bytes: &'a [u8], model: &mut Model) -> &'a [u8] {
        let mut rest = bytes;
        // No byte is tried twice in vain.
        let mut tried_from = usize::MAX;
        while self.state == State::Ground {
            if rest.len() <= tried_from {
                match model.rush(rest) {
                    Rush::Taken(length) => rest = &rest[length..],
                    Rush::Not(length) => tried_from = rest.len() - length,
                }
            }
            let (text, behind) = rest.split_at(printable(rest));
            if !text.is_empty() {
                model.print_ascii(text);
            }
            rest = match behind {
                [] => return behind,
                [ESCAPE, behind @ ..] => match whole(behind) {
                    Some(length) => {
                        model.csi(&behind[1..length]);
                        &behind[length..]
                    }
                    None => {
                        self.begin(State::Escape, &[ESCAPE]);
                        behind
                    }
                },
                [control @ ..0x80, behind @ ..] => {
                    model.control(*control);
                    behind
                }
                _ => self.beyond_ascii(behind, model),
            };
        }
        rest
    }

    /// A character that isn't ASCII; gives what comes behind.
    fn beyond_ascii<'a>(&mut self, bytes: &'a [u8], model: &mut Model) -> &'a [u8] {
        match decode(bytes) {
            Decoded::Character(character, length) => {
                self.print(character, model);
                &bytes[length..]
            }
            Decoded::Invalid(length) => {
                model.print(char::REPLACEMENT_CHARACTER);
                &bytes[length..]
            }
            Decoded::Incomplete => {
                self.begin(State::Character, bytes);
                &[]
            }
        }
    }

    fn print(&mut self, character: char, model: &mut Model) {
        match character {
            '\u{80}'..='\u{9F}' => self.c1(character as u8 - 0x40, model),
            _ => model.print(character),
        }
    }

    /// A C1 control character is an escape sequence of the byte that lies 64 below it.
    fn c1(&mut self, byte: u8, model: &mut Model) {
        if matches!(byte, b'D' | b'E' | b'H' | b'P' | b'X' | b'[' | b']'..=b'_') {
            self.begin(State::Escape, &[ESCAPE]);
            self.sequence(byte, model);
        }
    }

    /// The next byte of a character that was cut.
    fn character<'a>(&mut self, byte: u8, rest: &'a [u8], behind: &'a [u8], model: &mut Model) -> &'a [u8] {
        self.pending.push(byte);
        match decode(&self.pending) {
            Decoded::Incomplete => behind,
            Decoded::Character(character, _) => {
                self.end();
                self.print(character, model);
                behind
            }
            // What didn't go on is replaced; the byte begins something else.
            Decoded::Invalid(_) => {
                self.end();
                model.print(char::REPLACEMENT_CHARACTER);
                rest
            }
        }
    }

    /// The next byte of a sequence; whether it was one.
    fn sequence(&mut self, byte: u8, model: &mut Model) -> bool {
        match (byte, self.state) {
            (CANCEL | SUBSTITUTE, _) => self.end(),
            (ESCAPE, state) => {
                if state == State::Osc {
                    self.dispatch(Model::osc, model);
                }
                self.begin(State::Escape, &[ESCAPE]);
            }
            (BELL, State::Osc) => self.dispatch(Model::osc, model),
            (..0x20, State::Osc) | (_, State::Ignored) => {}
            (_, State::Osc) => self.push(byte, STRING_BYTES_MAX, b"?"),
            (..0x20, _) => model.control(byte),
            (0x7F, _) => {}
            (0x80.., _) => {
                self.end();
                return false;
            }
            (_, State::Escape) => self.escape(byte, model),
            (0x40.., _) => {
                self.pending.push(byte);
                self.dispatch(Model::csi, model);
            }
            (_, _) => self.push(byte, SEQUENCE_BYTES_MAX, b"0<"),
        }
        true
    }

    fn escape(&mut self, byte: u8, model: &mut Model) {
        let state = match byte {
            b'[' => State::Csi,
            b']' => State::Osc,
            b'P' | b'X' | b'^' | b'_' => State::Ignored,
            0x20..0x30 => State::Escape,
            _ => State::Ground,
        };
        // After an intermediate byte every other one ends the sequence.
        let state = if self.pending.len() > 1 && state != State::Escape { State::Ground } else { state };
        match state {
            State::Ground => {
                self.pending.push(byte);
                self.dispatch(Model::escape, model);
            }
            State::Escape => self.push(byte, SEQUENCE_BYTES_MAX, b"  "),
            State::Ignored => self.begin(state, &[ESCAPE, b'X']),
            _ => self.begin(state, &[ESCAPE, byte]),
        }
    }

    /// Keeps a byte. When there are too many, what was kept is replaced by `invalid` behind the introducer.
    fn push(&mut self, byte: u8, bytes_max: usize, invalid: &[u8]) {
        if self.pending.len() == bytes_max {
            let introducer = if self.state == State::Escape { 1 } else { 2 };
            self.pending.truncate(introducer);
            self.pending.extend_from_slice(invalid);
        }
        self.pending.push(byte);
    }

    /// Hands a finished sequence on, without what introduced it.
    fn dispatch(&mut self, to: fn(&mut Model, &[u8]), model: &mut Model) {
        let introducer = if self.state == State::Escape { 1 } else { 2 };
        to(model, &self.pending[introducer..]);
        self.end();
    }

    fn begin(&mut self, state: State, bytes: &[u8]) {
        self.state = state;
        self.pending.clear();
        self.pending.extend_from_slice(bytes);
    }

    fn end(&mut self) {
        self.begin(State::Ground, &[]);
    }
}

/// How many bytes of printable ASCII come first.
pub(super) fn printable(bytes: &[u8]) -> usize {
    let all = |chunk: &[u8; 16]| chunk.iter().fold(true, |all, byte| all & (0x20..0x7F).contains(byte));
    let (chunks, _) = bytes.as_chunks();
    let sure = 16 * chunks.iter().take_while(|chunk| all(chunk)).count();
    sure + bytes[sure..].iter().take_while(|byte| (0x20..0x7F).contains(*byte)).count()
}

/// The length of a control sequence behind ESC, if it is one and all of it is there, with nothing else in between.
fn whole(bytes: &[u8]) -> Option<usize> {
    let sequence = bytes.strip_prefix(b"[")?;
    let length = sequence.iter().take(SEQUENCE_BYTES_MAX - 2).position(|byte| !(0x20..0x40).contains(byte))?;
    (0x40..0x7F).contains(&sequence[length]).then_some(length + 2)
}

/// What bytes begin with, of which the first isn't ASCII.
enum Decoded {
    /// A character and its length.
    Character(char, usize),
    /// As many bytes that are none (a maximal subpart, as Unicode recommends to replace it).
    Invalid(usize),
    /// The beginning of one.
    Incomplete,
}

fn decode(bytes: &[u8]) -> Decoded {
    let (length, least) = match bytes[0] {
        0xC2..=0xDF => (2, 0x80),
        0xE0..=0xEF => (3, 0x800),
        0xF0..=0xF4 => (4, 0x1_0000),
        _ => return Decoded::Invalid(1),
    };
    let bytes = &bytes[..length.min(bytes.len())];
    let continued = bytes[1..].iter().all(|byte| byte & 0xC0 == 0x80);
    let first = u32::from(bytes[0]) & (0x7F >> length);
    let code = bytes[1..].iter().fold(first, |code, byte| code << 6 | u32::from(byte & 0x3F));
    match char::from_u32(code) {
        Some(character) if bytes.len() == length && continued && code >= least => Decoded::Character(character, length),
        _ => match std::str::from_utf8(bytes) {
            Ok(_) => Decoded::Incomplete,
            Err(error) => error.error_len().map_or(Decoded::Incomplete, Decoded::Invalid),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_as_the_standard_library_does() {
        let cases: [&[u8]; 14] = [
            "é".as_bytes(),
            "世".as_bytes(),
            "😀".as_bytes(),
            "\u{7FF}\u{800}".as_bytes(),
            b"\xC3",
            b"\xE4\xB8",
            b"\xF0\x9F\x98",
            b"\xC0\xAF",
            b"\xE0\x80\x80",
            b"\xED\xA0\x80",
            b"\xF4\x90\x80\x80",
            b"\xF0\x9F\x98A",
            b"\xE4A",
            b"\xFF",
        ];
        for bytes in cases {
            let chunk = bytes.utf8_chunks().next().unwrap();
            match decode(bytes) {
                Decoded::Character(character, length) => {
                    assert_eq!((chunk.valid().chars().next(), character.len_utf8()), (Some(character), length));
                }
                Decoded::Invalid(length) => {
                    assert_eq!((chunk.valid(), chunk.invalid().len()), ("", length), "{bytes:?}")
                }
                Decoded::Incomplete => assert_eq!((chunk.valid(), chunk.invalid()), ("", bytes), "{bytes:?}"),
            }
        }
    }
}
