//! Cells as VT bytes: text, SGR and OSC 8, with no more of them than a change of looks needs.
//!
//! It moves no cursor; the same cells always give the same bytes, which is how stored lines are checked.

use std::sync::Arc;

use super::cell::{Attributes, Cell, Colour, Hue, Link, Pen, Style};

/// Writes cells for a terminal whose pen it knows.
pub(super) struct Painter<'a> {
    out: &'a mut Vec<u8>,
    style: Style,
    underline: Colour,
    link: Option<Arc<Link>>,
    /// How many bytes of links may still be written.
    links: usize,
}

impl<'a> Painter<'a> {
    /// For a terminal with a new pen and no link open.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self::with_links(out, usize::MAX)
    }

    /// As [`Self::new`]; beyond so many bytes of links text leads nowhere.
    pub(super) fn with_links(out: &'a mut Vec<u8>, links: usize) -> Self {
        Self { out, style: Style::DEFAULT, underline: Colour::DEFAULT, link: None, links }
    }

    /// Bytes that leave the pen alone.
    pub(super) fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.out.extend_from_slice(bytes.as_ref());
    }

    pub(super) fn cells(&mut self, cells: &[Cell]) {
        let mut rest = cells;
        while let [cell, behind @ ..] = rest {
            let decorated = cell.extra.is_some() || self.link.is_some() || self.underline != Colour::DEFAULT;
            if decorated || cell.style != self.style {
                self.look(cell.style, cell.underline(), cell.link());
            }
            rest = if decorated || !is_plain(cell, self.style) {
                self.cell(cell);
                behind
            } else {
                let run = rest.iter().take_while(|cell| is_plain(cell, self.style)).count();
                self.out.extend(rest[..run].iter().map(|cell| cell.text as u8));
                &rest[run..]
            };
        }
    }

    /// The text of a cell.
    fn cell(&mut self, cell: &Cell) {
        if !cell.is_spacer() {
            self.bytes(cell.text.encode_utf8(&mut [0; 4]));
        }
        if let Some(extra) = &cell.extra {
            self.bytes(&extra.marks);
        }
    }

    /// The cells of a row that goes on with the one above. A terminal that scrolls for its first character fills it with
    /// that one's background, so its rest is erased first.
    pub(super) fn wrapped_cells(&mut self, cells: &[Cell]) {
        let wide = cells.get(1).is_some_and(Cell::is_spacer);
        let (first, rest) = cells.split_at(cells.len().min(1 + usize::from(wide)));
        self.cells(first);
        if self.style.bg != Colour::DEFAULT {
            let link = self.link.clone();
            self.look(Style::DEFAULT, Colour::DEFAULT, link.as_ref());
            self.bytes(b"\x1b[K");
        }
        self.cells(rest);
    }

    pub(super) fn pen(&mut self, pen: &Pen) {
        self.look(pen.style, pen.underline(), pen.link());
    }

    /// Back to a new pen, and no link.
    pub(super) fn reset(&mut self) {
        self.look(Style::DEFAULT, Colour::DEFAULT, None);
    }

    fn look(&mut self, style: Style, underline: Colour, link: Option<&Arc<Link>>) {
        if self.style != style || self.underline != underline {
            self.sgr(style, underline);
        }
        let link = link.filter(|link| self.link.as_ref() == Some(link) || link.id.len() + link.uri.len() <= self.links);
        if self.link.as_ref() != link {
            let (id, uri) = link.map_or(("", ""), |link| (&link.id, &link.uri));
            let parameters = if id.is_empty() { String::new() } else { format!("id={id}") };
            self.links -= id.len() + uri.len();
            self.bytes(format!("\x1b]8;{parameters};{uri}\x1b\\"));
            self.link = link.cloned();
        }
    }

    fn sgr(&mut self, style: Style, underline: Colour) {
        self.bytes(b"\x1b[");
        if style == Style::DEFAULT && underline == Colour::DEFAULT {
            (self.style, self.underline) = (style, underline);
            return self.bytes(b"m");
        }
        if !style.attributes.extend(self.style.attributes) {
            self.bytes(b"0;");
            (self.style, self.underline) = (Style::DEFAULT, Colour::DEFAULT);
        }
        self.attributes(style.attributes);
        if self.style.fg != style.fg {
            self.colour(30, style.fg);
        }
        if self.style.bg != style.bg {
            self.colour(40, style.bg);
        }
        if self.underline != underline {
            self.underline_colour(underline);
        }
        (self.style, self.underline) = (style, underline);
        // In the place of the last parameter's semicolon.
        self.out.pop();
        self.bytes(b"m");
    }

    fn attributes(&mut self, to: Attributes) {
        let from = self.style.attributes;
        for (bit, number) in ATTRIBUTES {
            if to.has(bit) && !from.has(bit) {
                self.number(number, b';');
            }
        }
        match to.underline() {
            style if style == from.underline() => {}
            1 => self.bytes(b"4;"),
            style => {
                self.bytes(b"4:");
                self.number(style as u8, b';');
            }
        }
    }

    /// `base` is 30 for the foreground, 40 for the background.
    fn colour(&mut self, base: u8, colour: Colour) {
        match colour.hue() {
            Hue::Default => self.number(base + 9, b';'),
            Hue::Index(index @ 0..8) => self.number(base + index, b';'),
            Hue::Index(index @ 8..16) => self.number(base + 52 + index, b';'),
            Hue::Index(index) => self.numbers([base + 8, 5, index], b';'),
            Hue::Rgb(red, green, blue) => self.numbers([base + 8, 2, red, green, blue], b';'),
        }
    }

    /// With colons: a terminal that doesn't know 58 would read the numbers behind semicolons as attributes.
    fn underline_colour(&mut self, colour: Colour) {
        match colour.hue() {
            Hue::Default => self.bytes(b"59:"),
            Hue::Index(index) => self.numbers([58, 5, index], b':'),
            Hue::Rgb(red, green, blue) => {
                self.bytes(b"58:2::");
                self.numbers([red, green, blue], b':');
            }
        }
    }

    fn numbers<const N: usize>(&mut self, numbers: [u8; N], end: u8) {
        numbers.into_iter().for_each(|number| self.number(number, end));
    }

    fn number(&mut self, number: u8, end: u8) {
        let digits = [number / 100, number / 10 % 10, number % 10].map(|digit| b'0' + digit);
        let leading = usize::from(number < 100) + usize::from(number < 10);
        self.bytes(&digits[leading..]);
        self.out.push(end);
    }
}

/// Whether a cell is nothing but a byte in this style.
fn is_plain(cell: &Cell, style: Style) -> bool {
    cell.style == style && cell.extra.is_none() && cell.text.is_ascii() && !cell.is_spacer()
}

/// Every attribute that SGR can set, with its number.
const ATTRIBUTES: [(u16, u8); 8] = [
    (Attributes::BOLD, 1),
    (Attributes::DIM, 2),
    (Attributes::ITALIC, 3),
    (Attributes::BLINK, 5),
    (Attributes::INVERSE, 7),
    (Attributes::HIDDEN, 8),
    (Attributes::STRIKE, 9),
    (Attributes::OVERLINE, 53),
];
