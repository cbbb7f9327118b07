//! Output cut only between characters and control sequences: what is written so far always leaves a terminal in which
//! something else can be said. It knows where sequences end (ECMA-48, UTF-8), not what they mean.

use bytes::Bytes;

/// Longest beginning that is held back, in bytes: all sequences but images and clipboards are shorter.
const HELD_BYTES_MAX: usize = 4096;

/// Where in the output a byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between two.
    #[default]
    Ground,
    /// In a character of which so many bytes follow.
    Character(u8),
    /// Behind ESC.
    Escape,
    /// Behind ESC and what announces one more byte.
    Announced,
    /// In a sequence of parameters.
    Parameters,
    /// In a string; BEL ends one of the operating system's.
    String { bell: bool },
    /// Behind ESC in a string.
    StringEscape,
}

impl State {
    fn next(self, byte: u8) -> Self {
        match (self, byte) {
            // Cancel and substitute end everything.
            (_, 0x18 | 0x1a) => Self::Ground,
            (Self::StringEscape, b'\\') => Self::Ground,
            (Self::String { .. }, 0x1b) => Self::StringEscape,
            (_, 0x1b) => Self::Escape,
            (Self::String { bell: true }, 0x07) => Self::Ground,
            (Self::String { bell }, _) => Self::String { bell },
            (Self::Escape | Self::StringEscape, b'[') => Self::Parameters,
            (Self::Escape | Self::StringEscape, b']') => Self::String { bell: true },
            (Self::Escape | Self::StringEscape, b'P' | b'X' | b'^' | b'_') => Self::String { bell: false },
            (Self::Escape | Self::StringEscape | Self::Announced, 0x20..=0x2f) => Self::Announced,
            (Self::Parameters, 0x20..=0x3f) => Self::Parameters,
            // Control characters are obeyed within a sequence.
            (Self::Escape | Self::Announced | Self::Parameters, 0..0x20) => self,
            (Self::Character(left @ 2..), 0x80..=0xbf) => Self::Character(left - 1),
            (Self::Character(_), 0x80..=0xbf) => Self::Ground,
            (Self::Ground | Self::Character(_), 0xc2..=0xdf) => Self::Character(1),
            (Self::Ground | Self::Character(_), 0xe0..=0xef) => Self::Character(2),
            (Self::Ground | Self::Character(_), 0xf0..=0xf4) => Self::Character(3),
            _ => Self::Ground,
        }
    }
}

/// Output on its way, and its last bytes as long as they are only a beginning.
#[derive(Debug, Default)]
pub(super) struct Whole {
    state: State,
    held: Vec<u8>,
    /// A beginning was too long to be held.
    open: bool,
}

impl Whole {
    /// Takes output, and gives what to write, in two parts.
    pub(super) fn pass(&mut self, mut bytes: Bytes) -> [Bytes; 2] {
        let mut end = 0;
        for (index, byte) in bytes.iter().enumerate() {
            self.state = self.state.next(*byte);
            if self.state == State::Ground {
                end = index + 1;
            }
        }
        if end > 0 {
            self.open = false;
        }
        let beginning = bytes.len() - end + if end == 0 { self.held.len() } else { 0 };
        self.open |= beginning > HELD_BYTES_MAX;
        if self.open {
            return [std::mem::take(&mut self.held).into(), bytes];
        }
        let rest = bytes.split_off(end);
        let before = if end == 0 { Vec::new() } else { std::mem::take(&mut self.held) };
        self.held.extend_from_slice(&rest);
        [before.into(), bytes]
    }

    /// How many bytes are held back.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether all that was given is whole.
    pub(super) fn is_whole(&self) -> bool {
        !self.open
    }

    /// No more comes: what was held back.
    pub(super) fn end(&mut self) -> Bytes {
        std::mem::take(self).held.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(whole: &mut Whole, piece: &[u8]) -> Vec<u8> {
        whole.pass(Bytes::copy_from_slice(piece)).concat()
    }

    #[test]
    fn a_beginning_waits_for_its_end() {
        for (beginning, end) in [
            (&b"\x1b"[..], &b"c"[..]),
            (b"\x1b[1;3", b"1m"),
            (b"\x1b[?25\r", b"h"),
            (b"\x1b(", b"B"),
            (b"\x1b]2;a title", b"\x07"),
            (b"\x1b]2;\xc3\xa4 title", b"\x1b\\"),
            (b"\x1bP$q\x07", b"\x1b\\"),
            (b"\x1b]2;cut \x1b", b"[m"),
            (b"\xe2\x94", b"\x80"),
            (b"\xf0", b"\x9f\xa6\x80"),
            (b"\x1b[1", b"\x18"),
        ] {
            let mut whole = Whole::default();
            assert_eq!(pass(&mut whole, &[b"before", beginning].concat()), b"before");
            assert_eq!(whole.held(), beginning.len());
            assert_eq!(pass(&mut whole, &[end, b"behind"].concat()), [beginning, end, b"behind"].concat());
            assert_eq!(whole.held(), 0, "{end:?}");
        }
    }

    #[test]
    fn what_is_no_text_passes() {
        let mut whole = Whole::default();
        for piece in [&b"\xff\x80\xc0"[..], b"\xe9!", b"\x9b1m"] {
            assert_eq!(pass(&mut whole, piece), piece);
        }
    }

    #[test]
    fn a_long_string_passes_and_is_not_whole_until_it_ends() {
        let mut whole = Whole::default();
        assert_eq!(pass(&mut whole, b"\x1bPq"), b"");
        assert_eq!(pass(&mut whole, &[b'x'; HELD_BYTES_MAX]).len(), HELD_BYTES_MAX + 3);
        assert_eq!((pass(&mut whole, b"y"), whole.is_whole()), (b"y".to_vec(), false));
        assert_eq!((pass(&mut whole, b"\x1b\\z\x1b["), whole.is_whole()), (b"\x1b\\z".to_vec(), true));
        assert_eq!(whole.end(), &b"\x1b["[..]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..20), 0..20)) {
            let mut whole = Whole::default();
            let mut passed: Vec<u8> = pieces.iter().flat_map(|piece| pass(&mut whole, piece)).collect();
            passed.extend(whole.end());
            proptest::prop_assert_eq!(passed, pieces.concat());
        }
    }
}
