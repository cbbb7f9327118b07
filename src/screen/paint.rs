//! Cells as VT bytes: text, SGR and OSC 8, with no more of them than a change of looks needs.
//!
//! It moves no cursor; the same cells always give the same bytes, which is how stored lines are checked.

use std::io::Write;
use std::sync::Arc;

use super::cell::{Attributes, Cell, Colour, Hue, Link, Pen, Style};

/// Writes cells for a terminal whose pen it knows.
pub(super) struct Painter<'a> {
    out: &'a mut Vec<u8>,
    style: Style,
    underline: Colour,
    link: Option<Arc<Link>>,
}

impl<'a> Painter<'a> {
    /// For a terminal with a new pen and no link open.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, style: Style::DEFAULT, underline: Colour::DEFAULT, link: None }
    }

    /// Bytes that leave the pen alone.
    pub(super) fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.out.extend_from_slice(bytes.as_ref());
    }

    pub(super) fn cells(&mut self, cells: &[Cell]) {
        for cell in cells {
            let has_extra = cell.extra.is_some() || self.link.is_some() || self.underline != Colour::DEFAULT;
            if has_extra || cell.style != self.style {
                self.look(cell.style, cell.underline(), cell.link());
            }
            if cell.text.is_ascii() {
                if !cell.is_spacer() {
                    self.out.push(cell.text as u8);
                }
            } else {
                self.text(cell.text);
            }
            self.bytes(cell.marks());
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
        if self.link.as_ref() != link {
            let (id, uri) = link.map_or(("", ""), |link| (&link.id, &link.uri));
            let id = if id.is_empty() { String::new() } else { format!("id={id}") };
            self.bytes(format!("\x1b]8;{id};{uri}\x1b\\"));
            self.link = link.cloned();
        }
    }

    fn sgr(&mut self, style: Style, underline: Colour) {
        let mut parameters = Vec::with_capacity(32);
        let plain = style == Style::DEFAULT && underline == Colour::DEFAULT;
        if plain || !style.attributes.extend(self.style.attributes) {
            parameters.extend_from_slice(b";0");
            (self.style, self.underline) = (Style::DEFAULT, Colour::DEFAULT);
        }
        attributes(self.style.attributes, style.attributes, &mut parameters);
        if self.style.fg != style.fg {
            colour(30, style.fg, &mut parameters);
        }
        if self.style.bg != style.bg {
            colour(40, style.bg, &mut parameters);
        }
        if self.underline != underline {
            underline_colour(underline, &mut parameters);
        }
        (self.style, self.underline) = (style, underline);
        self.bytes(b"\x1b[");
        self.bytes(if parameters == b";0" { b"" } else { &parameters[1..] });
        self.bytes(b"m");
    }

    fn text(&mut self, text: char) {
        let mut bytes = [0; 4];
        self.bytes(text.encode_utf8(&mut bytes));
    }
}

/// Every attribute that SGR can set, with its number.
const ATTRIBUTES: [(u16, u8); 8] = [
    (Attributes::BOLD, b'1'),
    (Attributes::DIM, b'2'),
    (Attributes::ITALIC, b'3'),
    (Attributes::BLINK, b'5'),
    (Attributes::INVERSE, b'7'),
    (Attributes::HIDDEN, b'8'),
    (Attributes::STRIKE, b'9'),
    (Attributes::OVERLINE, 0),
];

fn attributes(from: Attributes, to: Attributes, parameters: &mut Vec<u8>) {
    for (bit, number) in ATTRIBUTES {
        if to.has(bit) && !from.has(bit) {
            parameters.push(b';');
            parameters.extend_from_slice(if number == 0 { b"53" } else { std::slice::from_ref(&number) });
        }
    }
    match to.underline() {
        style if style == from.underline() => {}
        1 => parameters.extend_from_slice(b";4"),
        style => add(parameters, format_args!(";4:{style}")),
    }
}

/// `base` is 30 for the foreground, 40 for the background.
fn colour(base: u32, colour: Colour, parameters: &mut Vec<u8>) {
    match colour.hue() {
        Hue::Default => add(parameters, format_args!(";{}", base + 9)),
        Hue::Index(index @ 0..8) => add(parameters, format_args!(";{}", base + u32::from(index))),
        Hue::Index(index @ 8..16) => add(parameters, format_args!(";{}", base + 52 + u32::from(index))),
        Hue::Index(index) => add(parameters, format_args!(";{};5;{index}", base + 8)),
        Hue::Rgb(red, green, blue) => add(parameters, format_args!(";{};2;{red};{green};{blue}", base + 8)),
    }
}

/// With colons: a terminal that doesn't know 58 would read the numbers behind semicolons as attributes.
fn underline_colour(colour: Colour, parameters: &mut Vec<u8>) {
    match colour.hue() {
        Hue::Default => add(parameters, format_args!(";59")),
        Hue::Index(index) => add(parameters, format_args!(";58:5:{index}")),
        Hue::Rgb(red, green, blue) => add(parameters, format_args!(";58:2::{red}:{green}:{blue}")),
    }
}

fn add(parameters: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    parameters.write_fmt(text).expect("a vector takes every byte");
}
