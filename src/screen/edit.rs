//! What changes cells without printing: scrolling, inserting, deleting, erasing.

use std::ops::Range;

use super::cell::Pen;
use super::model::Model;

impl Model {
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
}
