//! The modes that a program switches on and off, with their numbers. What most of them mean is between the program and the
//! client; the model only remembers them.

/// Modes that are either on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes(u32);

impl Modes {
    pub(super) const INSERT: u32 = 1;
    pub(super) const NEWLINE: u32 = 1 << 1;
    pub(super) const APP_CURSOR: u32 = 1 << 2;
    pub(super) const REVERSE_VIDEO: u32 = 1 << 3;
    pub(super) const ORIGIN: u32 = 1 << 4;
    pub(super) const WRAP: u32 = 1 << 5;
    pub(super) const BLINK: u32 = 1 << 6;
    pub(super) const SHOW_CURSOR: u32 = 1 << 7;
    pub(super) const REVERSE_WRAP: u32 = 1 << 8;
    pub(super) const APP_KEYPAD: u32 = 1 << 9;
    pub(super) const FOCUS: u32 = 1 << 10;
    pub(super) const ALTERNATE_SCROLL: u32 = 1 << 11;
    pub(super) const PASTE: u32 = 1 << 12;
    pub(super) const SYNCHRONIZED: u32 = 1 << 13;
    pub(super) const COLOUR_SCHEME: u32 = 1 << 14;
    pub(super) const RESIZE_REPORT: u32 = 1 << 15;

    /// What is on in a new terminal.
    pub(super) const DEFAULT: Self = Self(Self::WRAP | Self::SHOW_CURSOR);

    /// What DECSTR brings back to its default.
    const SOFT_RESET: u32 = Self::INSERT
        | Self::APP_CURSOR
        | Self::ORIGIN
        | Self::WRAP
        | Self::SHOW_CURSOR
        | Self::REVERSE_WRAP
        | Self::APP_KEYPAD
        | Self::FOCUS
        | Self::PASTE
        | Self::SYNCHRONIZED;

    pub(super) fn has(self, mode: u32) -> bool {
        self.0 & mode != 0
    }

    pub(super) fn set(&mut self, mode: u32, on: bool) {
        self.0 = if on { self.0 | mode } else { self.0 & !mode };
    }

    pub(super) fn soft_reset(&mut self) {
        self.0 = self.0 & !Self::SOFT_RESET | Self::DEFAULT.0 & Self::SOFT_RESET;
    }
}

/// The modes of SM and RM (ECMA-48).
pub(super) const ANSI: [(u16, u32); 2] = [(4, Modes::INSERT), (20, Modes::NEWLINE)];

/// The modes of DECSET and DECRST that are nothing but on or off.
pub(super) const PRIVATE: [(u16, u32); 14] = [
    (1, Modes::APP_CURSOR),
    (5, Modes::REVERSE_VIDEO),
    (6, Modes::ORIGIN),
    (7, Modes::WRAP),
    (12, Modes::BLINK),
    (25, Modes::SHOW_CURSOR),
    (45, Modes::REVERSE_WRAP),
    (66, Modes::APP_KEYPAD),
    (1004, Modes::FOCUS),
    (1007, Modes::ALTERNATE_SCROLL),
    (2004, Modes::PASTE),
    (2026, Modes::SYNCHRONIZED),
    (2031, Modes::COLOUR_SCHEME),
    (2048, Modes::RESIZE_REPORT),
];

/// What the mouse reports: modes that exclude each other. 0 is none of them.
pub(super) const MOUSE: [u16; 4] = [9, 1000, 1002, 1003];

/// How it reports: modes that exclude each other. 0 is none of them.
pub(super) const MOUSE_ENCODING: [u16; 4] = [1005, 1006, 1015, 1016];
