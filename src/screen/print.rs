//! What printing does: characters, combining marks, soft wraps, and the control characters between them.

use unicode_width::UnicodeWidthChar;

use super::cell::Pen;
use super::model::Model;
use super::modes::Modes;
use super::row::Row;

impl Model {
    /// Prints characters from U+0020 to U+007E.
    pub(super) fn print_ascii(&mut self, text: &[u8]) {
        if !self.charsets.is_ascii() || self.modes.has(Modes::INSERT) {
            return text.iter().for_each(|byte| self.print(char::from(*byte)));
        }
        let width = self.width();
        let mut rest = text;
        while !rest.is_empty() {
            if self.x >= width && !self.wrap() {
                // They all fall on the last cell.
                rest = &rest[rest.len() - 1..];
            }
            let (now, later) = rest.split_at(rest.len().min(width - self.x));
            let (x, (row, pen)) = (self.x, self.row_and_pen());
            row.write_ascii(x, now, pen);
            self.x += now.len();
            rest = later;
        }
    }

    /// Prints one character, or what the character set has in its place.
    pub(super) fn print(&mut self, text: char) {
        let text = self.charsets.map(text);
        match width_of(text) {
            0 => self.mark(text),
            cells => self.write(text, cells),
        }
    }

    /// Puts a combining character on the cell before the cursor.
    fn mark(&mut self, mark: char) {
        let (x, y) = (self.x, self.y);
        if let Some(x) = x.checked_sub(1) {
            self.grid_mut().rows[y].mark(x, mark);
        }
    }

    fn write(&mut self, text: char, cells: usize) {
        let width = self.width();
        let mut short = false;
        if self.x + cells > width {
            short = self.modes.has(Modes::WRAP) && self.x < width;
            if short {
                let (x, (row, pen)) = (self.x, self.row_and_pen());
                row.write(x, ' ', 1, pen);
            }
            if !self.wrap() && cells == 2 {
                return;
            }
        }
        let (x, insert) = (self.x, self.modes.has(Modes::INSERT));
        let (row, pen) = self.row_and_pen();
        if insert {
            row.insert(x, cells, &pen.cell(' '), width);
        }
        if short {
            row.write_wrapped(text, pen);
        } else {
            row.write(x, text, cells, pen);
        }
        self.x += cells;
    }

    /// The cursor's row, and what is written there.
    fn row_and_pen(&mut self) -> (&mut Row, &Pen) {
        let grid = if self.on_alternate { &mut self.alternate } else { &mut self.primary };
        (&mut grid.rows[self.y], &self.pen)
    }

    /// Goes to a new row with the text. Without autowrap only to the last cell; `false` says so.
    fn wrap(&mut self) -> bool {
        if !self.modes.has(Modes::WRAP) {
            self.x = self.width() - 1;
            return false;
        }
        self.x = 0;
        if self.y + 1 == self.margins().end {
            self.scroll_up(1);
        } else if self.y + 1 < self.height() {
            self.y += 1;
        } else {
            return true;
        }
        let y = self.y;
        self.grid_mut().rows[y].wrapped = y > 0 || !self.on_alternate;
        true
    }

    /// Prints the character before the cursor again (REP).
    pub(super) fn repeat(&mut self, count: usize) {
        let Some(x) = self.x.checked_sub(1) else { return };
        let row = &self.grid().rows[self.y];
        let cell = row.get(if row.is_spacer(x) { x - 1 } else { x }).clone();
        let cells = width_of(cell.text);
        // More than fill the screen change nothing but the history.
        for _ in 0..count.min(self.width() * self.height()) {
            self.write(cell.text, cells);
            cell.marks().chars().for_each(|mark| self.mark(mark));
        }
    }

    /// A C0 control character.
    pub(super) fn control(&mut self, control: u8) {
        match control {
            0x07 => self.news.bells = self.news.bells.saturating_add(1),
            0x08 => self.backspace(),
            0x09 => self.tab(1),
            0x0A..=0x0C => self.linefeed(),
            0x0D => self.x = 0,
            0x0E => self.charsets.active = 1,
            0x0F => self.charsets.active = 0,
            _ => {}
        }
    }

    fn linefeed(&mut self) {
        if self.modes.has(Modes::NEWLINE) {
            self.x = 0;
        }
        let above = self.y;
        self.index();
        let y = self.y;
        if y != above {
            self.grid_mut().rows[y].wrapped = false;
        }
    }
}

/// The cells that a character takes. Unicode has one that is three wide; no terminal shows it so.
fn width_of(text: char) -> usize {
    text.width().unwrap_or(0).min(2)
}
