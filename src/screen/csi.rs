//! What escape and control sequences mean (ECMA-48, DEC, xterm's ctlseqs): each is a step of the model.

use super::model::Model;
use super::modes::{self, Modes};
use super::sgr::sgr;

/// Most titles kept to go back to, as in xterm.js.
const TITLES_MAX: usize = 10;

/// Most parameters of a control sequence, subparameters included; those behind are left out, as in xterm.js.
const PARAMETERS_MAX: usize = 32;

/// A control sequence, taken apart.
pub(super) struct Csi {
    /// `<`, `=`, `>`, `?`, or 0.
    prefix: u8,
    /// Parameters and subparameters in their order; 0 if one is empty.
    values: [u16; PARAMETERS_MAX],
    count: usize,
    /// A bit for each value that is a subparameter: it follows a colon.
    subparameters: u32,
    /// There is no parameter, not even an empty one.
    empty: bool,
    /// The intermediate byte, or 0.
    intermediate: u8,
    last: u8,
}

impl Csi {
    /// Takes it apart, without its introducer. `None` if it has no meaning whatever its last byte.
    fn parse(sequence: &[u8]) -> Option<Self> {
        let (last, rest) = sequence.split_last()?;
        let (prefix, rest) = match rest {
            [prefix @ b'<'..=b'?', rest @ ..] => (*prefix, rest),
            _ => (0, rest),
        };
        let (intermediate, parameters) = match rest {
            [parameters @ .., intermediate @ b' '..=b'/'] => (*intermediate, parameters),
            _ => (0, rest),
        };
        let empty = parameters.is_empty();
        let mut csi =
            Self { prefix, values: [0; PARAMETERS_MAX], count: 1, subparameters: 0, empty, intermediate, last: *last };
        for byte in parameters {
            match byte {
                b'0'..=b'9' => csi.digit(byte - b'0'),
                b';' | b':' => csi.next(*byte == b':'),
                _ => return None,
            }
        }
        csi.count = csi.count.min(PARAMETERS_MAX);
        Some(csi)
    }

    fn digit(&mut self, digit: u8) {
        if let Some(value) = self.values.get_mut(self.count - 1) {
            *value = value.saturating_mul(10).saturating_add(digit.into());
        }
    }

    fn next(&mut self, subparameter: bool) {
        self.subparameters |= u32::from(subparameter && self.count < PARAMETERS_MAX) << (self.count % PARAMETERS_MAX);
        self.count += usize::from(self.count <= PARAMETERS_MAX);
    }

    pub(super) fn is_subparameter(&self, index: usize) -> bool {
        self.subparameters >> index & 1 == 1
    }

    /// All values.
    pub(super) fn values(&self) -> &[u16] {
        &self.values[..self.count]
    }

    /// A value, 0 if it isn't there.
    fn value(&self, index: usize) -> u16 {
        self.values[index]
    }

    /// A parameter that is at least 1.
    fn count(&self, index: usize) -> usize {
        self.value(index).max(1).into()
    }
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
            (0, 0, b'm') => sgr(&csi, &mut self.pen),
            (0, 0, b'r') => self.set_margins(csi.value(0).into(), csi.value(1).into()),
            (0, 0, b's') => self.save_cursor(),
            (0, 0, b'u') => self.restore_cursor(),
            (0, 0, b't') => self.title_stack(csi.value(0), csi.value(1)),
            (0, 0, b'h' | b'l') => csi.values().iter().for_each(|mode| self.set_mode(*mode, csi.last == b'h')),
            (b'?', 0, b'h' | b'l') => {
                csi.values().iter().for_each(|mode| self.set_private_mode(*mode, csi.last == b'h'))
            }
            (0, b'!', b'p') => self.soft_reset(),
            (0, b' ', b'q') => self.set_cursor_style(csi.value(0), csi.empty),
            (b'>', 0, b'm') if csi.value(0) == 4 => self.modify_other_keys = csi.value(1).min(2) as u8,
            (b'>', 0, b'm') if csi.empty => self.modify_other_keys = 0,
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
            b'B' => self.down(count),
            b'e' => {
                self.restrict();
                self.y += count;
                self.restrict();
            }
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
