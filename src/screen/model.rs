//! The terminal: what printing, control characters and plain movements do to it. It does as xterm.js does, where terminals
//! differ: that is what our page shows while a program runs, and a snapshot must show the same.
//!
//! It answers no query: that is for the terminal of a client. It doesn't know bytes; `parser` reads them, and the sequences'
//! meaning is in `csi` and `osc`.

use std::collections::BTreeMap;
use std::ops::Range;

use sandbox::control::Size;
use unicode_width::UnicodeWidthChar;

use super::News;
use super::cell::Pen;
use super::charset::{Charset, Charsets};
use super::grid::{Grid, Saved};
use super::history::History;
use super::link::Links;
use super::modes::Modes;

/// All that a terminal remembers.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) primary: Grid,
    pub(super) alternate: Grid,
    /// The alternate screen is shown.
    pub(super) on_alternate: bool,
    /// The cursor's column; the width, when the next character begins a new row.
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) pen: Pen,
    pub(super) charsets: Charsets,
    pub(super) modes: Modes,
    pub(super) mouse: u16,
    pub(super) mouse_encoding: u16,
    /// DECSCUSR's number.
    pub(super) cursor_style: u8,
    /// XTMODKEYS' value for other keys.
    pub(super) modify_other_keys: u8,
    pub(super) title: String,
    pub(super) titles: Vec<String>,
    pub(super) directory: Option<String>,
    /// The colours that aren't the client's own any more: 0 to 255, and those of OSC 10 to 12 as 256 to 258.
    pub(super) palette: BTreeMap<u16, [u8; 3]>,
    pub(super) links: Links,
    pub(super) history: History,
    pub(super) news: News,
}

impl Model {
    pub(super) fn new(size: Size) -> Self {
        let width = usize::from(size.cols);
        let mut primary = Grid::new(width);
        primary.open(size.rows.into(), &Pen::default().erased());
        Self {
            primary,
            alternate: Grid::new(width),
            on_alternate: false,
            x: 0,
            y: 0,
            pen: Pen::default(),
            charsets: Charsets::default(),
            modes: Modes::DEFAULT,
            mouse: 0,
            mouse_encoding: 0,
            cursor_style: 0,
            modify_other_keys: 0,
            title: String::new(),
            titles: Vec::new(),
            directory: None,
            palette: BTreeMap::new(),
            links: Links::default(),
            history: History::default(),
            news: News::default(),
        }
    }

    pub(super) fn width(&self) -> usize {
        self.primary.width
    }

    pub(super) fn height(&self) -> usize {
        self.primary.height()
    }

    /// The screen that is shown.
    pub(super) fn grid(&self) -> &Grid {
        if self.on_alternate { &self.alternate } else { &self.primary }
    }

    pub(super) fn grid_mut(&mut self) -> &mut Grid {
        if self.on_alternate { &mut self.alternate } else { &mut self.primary }
    }

    pub(super) fn margins(&self) -> Range<usize> {
        self.grid().margins.clone()
    }

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
            let grid = if self.on_alternate { &mut self.alternate } else { &mut self.primary };
            grid.rows[self.y].write_ascii(self.x, now, &self.pen);
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
        let pen = self.pen.clone();
        let mut short = false;
        if self.x + cells > width {
            let (x, y) = (self.x, self.y);
            short = self.modes.has(Modes::WRAP) && x < width;
            if short {
                self.grid_mut().rows[y].write(x, ' ', 1, &pen);
            }
            if !self.wrap() && cells == 2 {
                return;
            }
        }
        let (x, y) = (self.x, self.y);
        let insert = self.modes.has(Modes::INSERT);
        let row = &mut self.grid_mut().rows[y];
        if insert {
            row.insert(x, cells, &pen.cell(' '), width);
        }
        if short {
            row.write_wrapped(text, &pen);
        } else {
            row.write(x, text, cells, &pen);
        }
        self.x += cells;
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

    /// Down by one; at the bottom margin the rows scroll.
    pub(super) fn index(&mut self) {
        if self.y + 1 == self.margins().end {
            self.scroll_up(1);
        } else if self.y + 1 < self.height() {
            self.y += 1;
        }
        self.restrict();
    }

    /// Up by one; at the top margin the rows scroll.
    pub(super) fn reverse_index(&mut self) {
        let margins = self.margins();
        if self.y == margins.start {
            let fill = self.pen.erased();
            self.grid_mut().rotate_down(margins, &fill);
        } else {
            self.y = self.y.saturating_sub(1);
        }
        self.restrict();
    }

    fn backspace(&mut self) {
        if !self.modes.has(Modes::REVERSE_WRAP) {
            self.restrict();
            self.x = self.x.saturating_sub(1);
            return;
        }
        let (y, margins) = (self.y, self.margins());
        if self.x > 0 {
            self.x -= 1;
        } else if self.grid().rows[y].wrapped && y > margins.start && y < margins.end {
            self.grid_mut().rows[y].wrapped = false;
            self.y -= 1;
            self.x = self.width() - 1;
            // An empty last cell was left by a wide character.
            if self.grid().rows[self.y].get(self.x).is_blank() {
                self.x -= 1;
            }
        }
    }

    /// To the `count`th tab stop from here; not beyond the last column.
    pub(super) fn tab(&mut self, count: usize) {
        let width = self.width();
        for _ in 0..count.min(width) {
            if self.x < width {
                self.x = self.grid().tabs.next(self.x, width);
            }
        }
    }

    pub(super) fn tab_back(&mut self, count: usize) {
        let width = self.width();
        for _ in 0..count.min(width) {
            if self.x < width {
                self.x = self.grid().tabs.previous(self.x);
            }
        }
    }

    /// Brings the cursor onto the screen, or between the margins if it may not leave them.
    pub(super) fn restrict(&mut self) {
        self.x = self.x.min(self.width() - 1);
        self.restrict_row();
    }

    fn restrict_row(&mut self) {
        let rows = if self.modes.has(Modes::ORIGIN) { self.margins() } else { 0..self.height() };
        self.y = self.y.clamp(rows.start, rows.end - 1);
    }

    /// To a column and a row, counted from the top margin in origin mode.
    pub(super) fn go_to(&mut self, x: usize, y: usize) {
        let top = if self.modes.has(Modes::ORIGIN) { self.margins().start } else { 0 };
        (self.x, self.y) = (x, y + top);
        self.restrict();
    }

    pub(super) fn go_to_column(&mut self, x: usize) {
        self.x = x;
        self.restrict();
    }

    /// Up by `count`, but not over the top margin from within.
    pub(super) fn up(&mut self, count: usize) {
        self.restrict();
        let top = self.margins().start;
        let limit = if self.y >= top { top } else { 0 };
        self.y = self.y.saturating_sub(count).max(limit);
    }

    /// Down by `count`, but not over the bottom margin from within.
    pub(super) fn down(&mut self, count: usize) {
        self.restrict();
        let end = self.margins().end;
        let limit = if self.y < end { end } else { self.height() };
        self.y = (self.y + count).min(limit - 1);
    }

    /// The rows between the margins move up; what leaves the primary screen at its top is history.
    pub(super) fn scroll_up(&mut self, count: usize) {
        let (margins, fill, width) = (self.margins(), self.pen.erased(), self.width());
        let keep = !self.on_alternate && margins.start == 0;
        for _ in 0..count.min(margins.len()) {
            if !keep {
                self.grid_mut().rotate_up(margins.clone(), &fill);
                continue;
            }
            let rows = &mut self.primary.rows;
            let goes_on = rows.get(1).is_some_and(|next| next.wrapped);
            self.history.push(&rows[0], rows.get(1), width);
            self.primary.rotate_up(margins.clone(), &fill);
            self.primary.rows[0].wrapped = goes_on;
        }
    }

    /// The rows between the margins move down.
    pub(super) fn scroll_down(&mut self, count: usize) {
        let margins = self.margins();
        for _ in 0..count.min(margins.len()) {
            self.grid_mut().rotate_down(margins.clone(), &Pen::default().erased());
        }
    }

    pub(super) fn insert_lines(&mut self, count: usize) {
        self.restrict();
        let (y, margins, fill) = (self.y, self.margins(), self.pen.erased());
        if margins.contains(&y) {
            for _ in 0..count.min(margins.end - y) {
                self.grid_mut().rotate_down(y..margins.end, &fill);
            }
            self.x = 0;
        }
    }

    pub(super) fn delete_lines(&mut self, count: usize) {
        self.restrict();
        let (y, margins, fill) = (self.y, self.margins(), self.pen.erased());
        if margins.contains(&y) {
            for _ in 0..count.min(margins.end - y) {
                self.grid_mut().rotate_up(y..margins.end, &fill);
            }
            self.x = 0;
        }
    }

    pub(super) fn insert_characters(&mut self, count: usize) {
        self.restrict();
        let (x, y, width, fill) = (self.x, self.y, self.width(), self.pen.erased());
        self.grid_mut().rows[y].insert(x, count, &fill, width);
    }

    pub(super) fn delete_characters(&mut self, count: usize) {
        self.restrict();
        let (x, y, width, fill) = (self.x, self.y, self.width(), self.pen.erased());
        self.grid_mut().rows[y].delete(x, count, &fill, width);
    }

    pub(super) fn erase_characters(&mut self, count: usize) {
        self.restrict();
        self.erase(self.x..self.width().min(self.x + count));
    }

    /// ED 0
    pub(super) fn erase_below(&mut self) {
        self.erase_right();
        self.erase_rows(self.y + 1..self.height());
    }

    /// ED 1
    pub(super) fn erase_above(&mut self) {
        let (x, y, width) = (self.x, self.y, self.width());
        self.erase_left();
        let rows = &mut self.grid_mut().rows;
        rows[y].wrapped = false;
        if let Some(below) = rows.get_mut(y + 1).filter(|_| x + 1 >= width) {
            below.wrapped = false;
        }
        self.erase_rows(0..y);
    }

    /// ED 2
    pub(super) fn erase_all(&mut self) {
        self.erase_rows(0..self.height());
    }

    /// ED 3. The alternate screen has no history to forget.
    pub(super) fn erase_history(&mut self) {
        if !self.on_alternate {
            self.history.clear();
            self.primary.rows[0].wrapped = false;
        }
    }

    /// EL 0
    pub(super) fn erase_right(&mut self) {
        self.erase(self.x..self.width());
        let (x, y) = (self.x, self.y);
        if x == 0 {
            self.grid_mut().rows[y].wrapped = false;
        }
    }

    /// EL 1
    pub(super) fn erase_left(&mut self) {
        self.erase(0..self.width().min(self.x + 1));
    }

    /// EL 2
    pub(super) fn erase_line(&mut self) {
        self.erase_rows(self.y..self.y + 1);
    }

    fn erase(&mut self, cells: Range<usize>) {
        let (y, fill) = (self.y, self.pen.erased());
        self.grid_mut().rows[y].erase(cells.start, cells.end, &fill);
    }

    fn erase_rows(&mut self, rows: Range<usize>) {
        let (width, fill) = (self.width(), self.pen.erased());
        self.grid_mut().rows.range_mut(rows).for_each(|row| row.reset(&fill, width));
    }

    /// DECALN
    pub(super) fn fill_with_e(&mut self) {
        let (width, height, pen) = (self.width(), self.height(), self.pen.clone());
        let pen = Pen::new(pen.style, pen.underline(), None);
        for row in self.grid_mut().rows.range_mut(0..height) {
            row.reset(&pen.cell('E'), width);
        }
        self.go_to(0, 0);
    }

    /// DECSTBM, counted from 1.
    pub(super) fn set_margins(&mut self, top: usize, bottom: usize) {
        let height = self.height();
        let (top, bottom) = (top.max(1), if bottom == 0 { height } else { bottom.min(height) });
        if bottom > top {
            self.grid_mut().margins = top - 1..bottom;
            self.go_to(0, 0);
        }
    }

    pub(super) fn set_tab(&mut self, stop: bool) {
        let (x, width) = (self.x, self.width());
        if x < width {
            self.grid_mut().tabs.set(x, stop, width);
        }
    }

    /// Sets one of the character sets from a designating sequence.
    pub(super) fn designate(&mut self, set: usize, name: u8) {
        self.charsets.sets[set] = Charset::named(name);
    }

    /// DECSC
    pub(super) fn save_cursor(&mut self) {
        let pen = Pen::new(self.pen.style, self.pen.underline(), None);
        let saved = Saved { x: self.x.min(self.width() - 1), y: self.y, pen, charsets: self.charsets };
        self.grid_mut().saved = saved;
    }

    /// DECRC
    pub(super) fn restore_cursor(&mut self) {
        let Saved { x, y, pen, charsets } = self.grid().saved.clone();
        (self.x, self.y, self.charsets) = (x, y, charsets);
        self.pen = Pen::new(pen.style, pen.underline(), self.pen.link().cloned());
        self.restrict();
    }

    /// The alternate screen is new whenever it is shown; the cursor stays where it is.
    pub(super) fn show_alternate(&mut self) {
        if !self.on_alternate {
            self.alternate.open(self.height(), &self.pen.erased());
            self.on_alternate = true;
            self.restrict_row();
        }
    }

    pub(super) fn show_primary(&mut self) {
        if self.on_alternate {
            self.alternate.close();
            self.on_alternate = false;
            self.restrict_row();
        }
    }

    /// DECSTR
    pub(super) fn soft_reset(&mut self) {
        let height = self.height();
        self.modes.soft_reset();
        self.cursor_style = 0;
        self.pen = Pen::default();
        self.charsets = Charsets::default();
        let grid = self.grid_mut();
        grid.margins = 0..height;
        grid.saved = Saved::default();
    }

    /// RIS. As in xterm.js title and colours stay, and the history goes.
    pub(super) fn reset(&mut self) {
        let size = Size { cols: self.width() as u16, rows: self.height() as u16 };
        let old = std::mem::replace(self, Self::new(size));
        (self.title, self.directory, self.palette, self.news) = (old.title, old.directory, old.palette, old.news);
        self.history = History::starting_at(old.history.end());
    }
}

/// The cells that a character takes. Unicode has one that is three wide; no terminal shows it so.
fn width_of(text: char) -> usize {
    text.width().unwrap_or(0).min(2)
}
