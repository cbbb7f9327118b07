//! What escape and control sequences mean (ECMA-48, DEC, xterm's ctlseqs): each is a step of the model.

use super::cell::{Colour, Pen};
use super::model::Model;
use super::modes::{self, Modes};

/// Most titles kept to go back to, as in xterm.js.
const TITLES_MAX: usize = 10;

/// A control sequence, taken apart.
struct Csi<'a> {
    /// `<`, `=`, `>`, `?`, or 0.
    prefix: u8,
    parameters: &'a [u8],
    /// The intermediate byte, or 0.
    intermediate: u8,
    last: u8,
}

impl<'a> Csi<'a> {
    /// Takes it apart, without its introducer. `None` if it has no meaning whatever its last byte.
    fn parse(sequence: &'a [u8]) -> Option<Self> {
        let (last, rest) = sequence.split_last()?;
        let (prefix, rest) = match rest {
            [prefix @ b'<'..=b'?', rest @ ..] => (*prefix, rest),
            _ => (0, rest),
        };
        let length = rest.iter().position(|byte| !matches!(byte, b'0'..=b';')).unwrap_or(rest.len());
        let (parameters, intermediates) = rest.split_at(length);
        let intermediate = match intermediates {
            [] => 0,
            [intermediate @ b' '..=b'/'] => *intermediate,
            _ => return None,
        };
        Some(Self { prefix, parameters, intermediate, last: *last })
    }

    fn values(&self) -> impl Iterator<Item = u16> {
        self.parameters.split(|byte| *byte == b';').map(first)
    }

    /// A parameter, 0 if it isn't there.
    fn value(&self, index: usize) -> u16 {
        self.values().nth(index).unwrap_or(0)
    }

    /// A parameter that is at least 1.
    fn count(&self, index: usize) -> usize {
        self.value(index).max(1).into()
    }
}

/// A number in decimal digits, or the largest; 0 if there are none.
fn number(digits: &[u8]) -> u16 {
    digits.iter().fold(0, |number: u16, digit| {
        number.saturating_mul(10).saturating_add(u16::from(digit.wrapping_sub(b'0') % 10))
    })
}

/// A parameter's number, without its subparameters.
fn first(parameter: &[u8]) -> u16 {
    number(parameter.split(|byte| *byte == b':').next().unwrap_or_default())
}

impl Model {
    /// An escape sequence, without ESC.
    pub(super) fn escape(&mut self, sequence: &[u8]) {
        match sequence {
            b"7" => self.save_cursor(),
            b"8" => self.restore_cursor(),
            b"D" => self.index(),
            b"E" => {
                self.x = 0;
                self.index();
            }
            b"H" => self.set_tab(true),
            b"M" => self.reverse_index(),
            b"c" => self.reset(),
            b"=" => self.modes.set(Modes::APP_KEYPAD, true),
            b">" => self.modes.set(Modes::APP_KEYPAD, false),
            b"n" | b"}" => self.charsets.active = 2,
            b"o" | b"|" => self.charsets.active = 3,
            b"~" => self.charsets.active = 1,
            b"#8" => self.fill_with_e(),
            b"%@" | b"%G" => {
                self.charsets.active = 0;
                self.designate(0, b'B');
            }
            [b'(', name] => self.designate(0, *name),
            [b')' | b'-', name] => self.designate(1, *name),
            [b'*' | b'.', name] => self.designate(2, *name),
            [b'+', name] => self.designate(3, *name),
            _ => {}
        }
    }

    /// A control sequence, without its introducer.
    pub(super) fn csi(&mut self, sequence: &[u8]) {
        let Some(csi) = Csi::parse(sequence) else { return };
        match (csi.prefix, csi.intermediate, csi.last) {
            (0, 0, b'A'..=b'H' | b'a' | b'd'..=b'f' | b'`' | b'I' | b'Z') => self.movement(&csi),
            (0 | b'?', 0, b'J') => match csi.value(0) {
                0 => self.erase_below(),
                1 => self.erase_above(),
                2 => self.erase_all(),
                3 => self.erase_history(),
                _ => {}
            },
            (0 | b'?', 0, b'K') => match csi.value(0) {
                0 => self.erase_right(),
                1 => self.erase_left(),
                2 => self.erase_line(),
                _ => {}
            },
            (0, 0, b'@') => self.insert_characters(csi.count(0)),
            (0, 0, b'P') => self.delete_characters(csi.count(0)),
            (0, 0, b'X') => self.erase_characters(csi.count(0)),
            (0, 0, b'L') => self.insert_lines(csi.count(0)),
            (0, 0, b'M') => self.delete_lines(csi.count(0)),
            (0, 0, b'S') => self.scroll_up(csi.count(0)),
            (0, 0, b'T') => self.scroll_down(csi.count(0)),
            (0, 0, b'b') => self.repeat(csi.count(0)),
            (0, 0, b'g') => match csi.value(0) {
                0 => self.set_tab(false),
                3 => {
                    let width = self.width();
                    self.grid_mut().tabs.clear(width);
                }
                _ => {}
            },
            (0, 0, b'm') => sgr(csi.parameters, &mut self.pen),
            (0, 0, b'r') => self.set_margins(csi.value(0).into(), csi.value(1).into()),
            (0, 0, b's') => self.save_cursor(),
            (0, 0, b'u') => self.restore_cursor(),
            (0, 0, b't') => self.title_stack(csi.value(0), csi.value(1)),
            (0, 0, b'h' | b'l') => csi.values().for_each(|mode| self.set_mode(mode, csi.last == b'h')),
            (b'?', 0, b'h' | b'l') => csi.values().for_each(|mode| self.set_private_mode(mode, csi.last == b'h')),
            (0, b'!', b'p') => self.soft_reset(),
            (0, b' ', b'q') => self.set_cursor_style(csi.value(0), csi.parameters.is_empty()),
            (b'>', 0, b'm') if csi.value(0) == 4 => self.modify_other_keys = csi.value(1).min(2) as u8,
            (b'>', 0, b'm') if csi.parameters.is_empty() => self.modify_other_keys = 0,
            (b'>', 0, b'u') => self.grid_mut().keyboard.push(csi.value(0)),
            (b'<', 0, b'u') => self.grid_mut().keyboard.pop(csi.value(0).max(1)),
            (b'=', 0, b'u') => self.grid_mut().keyboard.set(csi.value(0), csi.value(1).max(1)),
            _ => {}
        }
    }

    fn movement(&mut self, csi: &Csi) {
        let count = csi.count(0);
        match csi.last {
            b'A' => self.up(count),
            b'B' | b'e' => self.down(count),
            b'C' | b'a' => {
                self.restrict();
                self.go_to_column(self.x + count);
            }
            b'D' => {
                self.restrict();
                self.x = self.x.saturating_sub(count);
            }
            b'E' => {
                self.down(count);
                self.x = 0;
            }
            b'F' => {
                self.up(count);
                self.x = 0;
            }
            b'G' | b'`' => self.go_to_column(count - 1),
            b'H' | b'f' => self.go_to(csi.count(1) - 1, count - 1),
            b'd' => self.go_to(self.x, count - 1),
            b'I' => self.tab(count),
            b'Z' => self.tab_back(count),
            _ => {}
        }
    }

    fn set_mode(&mut self, number: u16, on: bool) {
        if let Some((_, mode)) = modes::ANSI.iter().find(|(known, _)| *known == number) {
            self.modes.set(*mode, on);
        }
    }

    fn set_private_mode(&mut self, number: u16, on: bool) {
        if let Some((_, mode)) = modes::PRIVATE.iter().find(|(known, _)| *known == number) {
            self.modes.set(*mode, on);
        }
        match number {
            2 if on => self.charsets.sets = Default::default(),
            6 => self.go_to(0, 0),
            1048 if on => self.save_cursor(),
            1048 => self.restore_cursor(),
            47 | 1047 | 1049 if on => {
                if number == 1049 {
                    self.save_cursor();
                }
                self.show_alternate();
            }
            47 | 1047 | 1049 => {
                self.show_primary();
                if number == 1049 {
                    self.restore_cursor();
                }
            }
            _ if modes::MOUSE.contains(&number) => self.mouse = if on { number } else { 0 },
            _ if modes::MOUSE_ENCODING.contains(&number) => self.mouse_encoding = if on { number } else { 0 },
            _ => {}
        }
    }

    /// DECSCUSR. Without a parameter it means 1, with 0 the client's own style.
    fn set_cursor_style(&mut self, style: u16, absent: bool) {
        match style {
            0 if absent => self.cursor_style = 1,
            0..=6 => self.cursor_style = style as u8,
            _ => {}
        }
    }

    /// XTWINOPS 22 and 23, of which only the window's title is kept.
    fn title_stack(&mut self, operation: u16, what: u16) {
        match (operation, what) {
            (22, 0 | 2) => {
                if self.titles.len() == TITLES_MAX {
                    self.titles.remove(0);
                }
                self.titles.push(self.title.clone());
            }
            (23, 0 | 2) => {
                if let Some(title) = self.titles.pop() {
                    self.set_title(title);
                }
            }
            _ => {}
        }
    }
}

/// SGR.
fn sgr(parameters: &[u8], pen: &mut Pen) {
    let mut fields = parameters.split(|byte| *byte == b';');
    while let Some(field) = fields.next() {
        let attributes = &mut pen.style.attributes;
        match first(field) {
            0 => *pen = Pen::new(Default::default(), Colour::DEFAULT, pen.link().cloned()),
            number @ (1..=3 | 5 | 7..=9) => attributes.set(attribute(number)),
            4 => attributes.set_underline(match field.split(|byte| *byte == b':').nth(1) {
                None | Some([]) => 1,
                Some(style) => match number(style) {
                    style @ 0..=5 => style,
                    _ => 1,
                },
            }),
            21 => attributes.set_underline(2),
            22 => attributes.clear(attribute(1) | attribute(2)),
            24 => attributes.set_underline(0),
            number @ (23 | 25 | 27..=29) => attributes.clear(attribute(number - 20)),
            number @ 30..=37 => pen.style.fg = Colour::index(number as u8 - 30),
            number @ 90..=97 => pen.style.fg = Colour::index(number as u8 - 82),
            number @ 40..=47 => pen.style.bg = Colour::index(number as u8 - 40),
            number @ 100..=107 => pen.style.bg = Colour::index(number as u8 - 92),
            39 => pen.style.fg = Colour::DEFAULT,
            49 => pen.style.bg = Colour::DEFAULT,
            59 => pen.set_underline(Colour::DEFAULT),
            53 => attributes.set(attribute(53)),
            55 => attributes.clear(attribute(53)),
            target @ (38 | 48 | 58) => match (target, colour(field, &mut fields)) {
                (38, Some(colour)) => pen.style.fg = colour,
                (48, Some(colour)) => pen.style.bg = colour,
                (_, Some(colour)) => pen.set_underline(colour),
                (_, None) => {}
            },
            _ => {}
        }
    }
}

/// The attribute that an SGR number sets.
fn attribute(number: u16) -> u16 {
    use super::cell::Attributes;
    match number {
        1 => Attributes::BOLD,
        2 => Attributes::DIM,
        3 => Attributes::ITALIC,
        5 => Attributes::BLINK,
        7 => Attributes::INVERSE,
        8 => Attributes::HIDDEN,
        9 => Attributes::STRIKE,
        _ => Attributes::OVERLINE,
    }
}

/// The colour behind 38, 48 or 58: `5;n` or `2;r;g;b`, or with colons in the same field, where a colour space may come
/// before red.
fn colour<'a>(field: &[u8], fields: &mut impl Iterator<Item = &'a [u8]>) -> Option<Colour> {
    if field.contains(&b':') {
        let values: Vec<u16> = field.split(|byte| *byte == b':').skip(1).take(6).map(number).collect();
        return match values[..] {
            [5, index, ..] => Some(Colour::index(index as u8)),
            [2, red, green, blue] | [2, _, red, green, blue, ..] => {
                Some(Colour::rgb(red as u8, green as u8, blue as u8))
            }
            _ => None,
        };
    }
    let mut next = || fields.next().map(first);
    match next()? {
        5 => Some(Colour::index(next()? as u8)),
        2 => Some(Colour::rgb(next()? as u8, next()? as u8, next()? as u8)),
        _ => None,
    }
}
