//! Where the cursor goes: movements, tab stops, margins, the saved cursor.

use super::cell::Pen;
use super::grid::Saved;
use super::model::Model;
use super::modes::Modes;

impl Model {
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

    pub(super) fn backspace(&mut self) {
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

    pub(super) fn restrict_row(&mut self) {
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
}
