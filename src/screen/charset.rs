//! The character sets that ISO 2022 sequences choose: what a byte means that is printed.

/// A set that replaces ASCII.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Charset {
    #[default]
    Ascii,
    /// DEC Special Graphics: line drawing.
    Graphics,
    /// Great Britain: a pound sign for the number sign.
    British,
}

/// What DEC Special Graphics has for `` ` `` to `~` (as xterm shows it).
const GRAPHICS: [char; 31] = [
    '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼', '⎽', '├', '┤', '┴',
    '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
];

impl Charset {
    /// The set that a designating sequence's last byte names; those that nobody uses any more count as ASCII.
    pub(super) fn named(name: u8) -> Self {
        match name {
            b'0' => Self::Graphics,
            b'A' => Self::British,
            _ => Self::Ascii,
        }
    }

    pub(super) fn name(self) -> char {
        match self {
            Self::Ascii => 'B',
            Self::Graphics => '0',
            Self::British => 'A',
        }
    }

    fn map(self, text: char) -> char {
        match (self, text) {
            (Self::Graphics, '`'..='~') => GRAPHICS[text as usize - '`' as usize],
            (Self::British, '#') => '£',
            _ => text,
        }
    }
}

/// The four designated sets, and which of them is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charsets {
    pub(super) sets: [Charset; 4],
    pub(super) active: usize,
}

impl Charsets {
    pub(super) fn is_ascii(&self) -> bool {
        self.sets[self.active] == Charset::Ascii
    }

    pub(super) fn map(&self, text: char) -> char {
        self.sets[self.active].map(text)
    }
}
