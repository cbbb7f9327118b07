//! One place on the screen: a character and how it looks. It doesn't know where it is.

use std::sync::Arc;

/// Most bytes of combining characters on one cell: every script's clusters fit, an endless row of accents doesn't.
const MARKS_BYTES_MAX: usize = 32;

/// What the second half of a wide character holds.
pub(super) const SPACER: char = '\0';

/// A colour as SGR names it: the default, an index into the palette, or red, green and blue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Colour(u32);

/// A [`Colour`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hue {
    Default,
    Index(u8),
    Rgb(u8, u8, u8),
}

impl Colour {
    pub(super) const DEFAULT: Self = Self(0);

    pub(super) const fn index(index: u8) -> Self {
        Self(0x100_0000 | index as u32)
    }

    pub(super) fn rgb(red: u8, green: u8, blue: u8) -> Self {
        Self(u32::from_be_bytes([2, red, green, blue]))
    }

    pub(super) fn hue(self) -> Hue {
        match self.0.to_be_bytes() {
            [0, ..] => Hue::Default,
            [1, _, _, index] => Hue::Index(index),
            [_, red, green, blue] => Hue::Rgb(red, green, blue),
        }
    }
}

/// What SGR can set beside colours: a bit each, and the underline's style in three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(u16);

impl Attributes {
    pub(super) const BOLD: u16 = 1;
    pub(super) const DIM: u16 = 1 << 1;
    pub(super) const ITALIC: u16 = 1 << 2;
    pub(super) const BLINK: u16 = 1 << 3;
    pub(super) const INVERSE: u16 = 1 << 4;
    pub(super) const HIDDEN: u16 = 1 << 5;
    pub(super) const STRIKE: u16 = 1 << 6;
    pub(super) const OVERLINE: u16 = 1 << 7;
    const UNDERLINE_SHIFT: u16 = 8;
    const UNDERLINE: u16 = 7 << Self::UNDERLINE_SHIFT;

    pub(super) fn set(&mut self, bits: u16) {
        self.0 |= bits;
    }

    pub(super) fn clear(&mut self, bits: u16) {
        self.0 &= !bits;
    }

    pub(super) fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    /// Whether everything that `other` has is here too; another underline isn't.
    pub(super) fn extend(self, other: Self) -> bool {
        let (ours, others) = (self.underline(), other.underline());
        other.0 & !Self::UNDERLINE & !self.0 == 0 && (others == 0 || others == ours)
    }

    /// The underline's style: 0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed.
    pub(super) fn underline(self) -> u16 {
        (self.0 & Self::UNDERLINE) >> Self::UNDERLINE_SHIFT
    }

    pub(super) fn set_underline(&mut self, style: u16) {
        self.0 = self.0 & !Self::UNDERLINE | (style & 7) << Self::UNDERLINE_SHIFT;
    }
}

/// Colours and attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) fg: Colour,
    pub(super) bg: Colour,
    pub(super) attributes: Attributes,
}

impl Style {
    pub(super) const DEFAULT: Self = Self { fg: Colour::DEFAULT, bg: Colour::DEFAULT, attributes: Attributes(0) };
}

/// Where a piece of text leads (OSC 8).
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Link {
    /// Joins the pieces of one link; empty if it has only one.
    pub(super) id: String,
    pub(super) uri: String,
}

/// What few cells have, and what is therefore kept outside of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// Combining characters, in their order.
    pub(super) marks: String,
    pub(super) underline: Colour,
    pub(super) link: Option<Arc<Link>>,
}

/// A cell of 24 bytes. A wide character's second cell is a [`SPACER`] with the same looks, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// Absent rather than empty, so that equal cells compare equal.
    pub(super) extra: Option<Arc<Extra>>,
    pub(super) style: Style,
    pub(super) text: char,
}

impl Cell {
    /// What was never written to.
    pub(super) const BLANK: Self = Self { extra: None, style: Style::DEFAULT, text: ' ' };

    pub(super) fn is_blank(&self) -> bool {
        self.text == ' ' && self.extra.is_none() && self.style == Style::DEFAULT
    }

    pub(super) fn is_spacer(&self) -> bool {
        self.text == SPACER
    }

    pub(super) fn marks(&self) -> &str {
        self.extra.as_ref().map_or("", |extra| &extra.marks)
    }

    pub(super) fn underline(&self) -> Colour {
        self.extra.as_ref().map_or(Colour::DEFAULT, |extra| extra.underline)
    }

    pub(super) fn link(&self) -> Option<&Arc<Link>> {
        self.extra.as_ref()?.link.as_ref()
    }

    /// Puts a combining character on it, as long as there is room.
    pub(super) fn mark(&mut self, mark: char) {
        let room = MARKS_BYTES_MAX.saturating_sub(self.marks().len());
        if mark.len_utf8() <= room {
            Arc::make_mut(self.extra.get_or_insert_default()).marks.push(mark);
        }
    }

    /// The same looks without text.
    pub(super) fn pen(&self) -> Pen {
        Pen::new(self.style, self.underline(), self.link().cloned())
    }

    /// Whether both look the same, whatever they show.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.style == other.style
            && (self.extra == other.extra || (self.underline() == other.underline() && self.link() == other.link()))
    }
}

/// How the next character will look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pen {
    pub(super) style: Style,
    extra: Option<Arc<Extra>>,
}

impl Pen {
    pub(super) fn new(style: Style, underline: Colour, link: Option<Arc<Link>>) -> Self {
        let plain = underline == Colour::DEFAULT && link.is_none();
        let extra = (!plain).then(|| Arc::new(Extra { marks: String::new(), underline, link }));
        Self { style, extra }
    }

    /// Whether it has a link or a colour for underlines.
    pub(super) fn has_extra(&self) -> bool {
        self.extra.is_some()
    }

    pub(super) fn underline(&self) -> Colour {
        self.extra.as_ref().map_or(Colour::DEFAULT, |extra| extra.underline)
    }

    pub(super) fn set_underline(&mut self, underline: Colour) {
        *self = Self::new(self.style, underline, self.link().cloned());
    }

    pub(super) fn link(&self) -> Option<&Arc<Link>> {
        self.extra.as_ref()?.link.as_ref()
    }

    pub(super) fn set_link(&mut self, link: Option<Arc<Link>>) {
        *self = Self::new(self.style, self.underline(), link);
    }

    /// What the pen writes.
    pub(super) fn cell(&self, text: char) -> Cell {
        Cell { extra: self.extra.clone(), style: self.style, text }
    }

    /// What it leaves where something is erased: its background.
    pub(super) fn erased(&self) -> Cell {
        Cell { style: Style { bg: self.style.bg, ..Style::DEFAULT }, ..Cell::BLANK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_stays_small() {
        assert_eq!(size_of::<Cell>(), 24);
    }

    #[test]
    fn a_colour_is_what_it_was_made_of() {
        assert_eq!(Colour::DEFAULT.hue(), Hue::Default);
        assert_eq!(Colour::index(0).hue(), Hue::Index(0));
        assert_eq!(Colour::rgb(0, 0, 0).hue(), Hue::Rgb(0, 0, 0));
        assert_eq!(Colour::rgb(1, 2, 255).hue(), Hue::Rgb(1, 2, 255));
    }

    #[test]
    fn a_cell_takes_only_so_many_marks() {
        let mut cell = Cell::BLANK;
        (0..1000).for_each(|_| cell.mark('\u{301}'));
        assert_eq!(cell.marks().len(), MARKS_BYTES_MAX);
    }
}
