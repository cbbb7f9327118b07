//! One row of a screen. Cells behind its last written one aren't stored: an empty row costs nothing.
//!
//! It keeps wide characters whole: whatever changes one half of one blanks the other. It doesn't know how wide the screen is.

use super::cell::{Cell, Pen, SPACER};

/// A row's cells, and whether the row goes on with the text of the one above (soft wrap).
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    cells: Vec<Cell>,
    pub(super) wrapped: bool,
    /// It goes on with a wide character for which the row above had one cell left, which stays empty.
    short: bool,
}

impl Row {
    pub(super) fn get(&self, x: usize) -> &Cell {
        self.cells.get(x).unwrap_or(&Cell::BLANK)
    }

    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Takes what it has stored of `width` cells.
    pub(super) fn take(&mut self, width: usize) -> Vec<Cell> {
        self.cells.truncate(width);
        std::mem::take(&mut self.cells)
    }

    /// A row of these cells.
    pub(super) fn of(cells: Vec<Cell>, wrapped: bool, short: bool) -> Self {
        Self { cells, wrapped, short }
    }

    /// Makes it go on, or not, with a row above that nobody sees here.
    pub(super) fn join(&mut self, wrapped: bool, short: bool) {
        (self.wrapped, self.short) = (wrapped, short);
    }

    /// Whether it goes on with a wide character for which the row above had one cell left.
    pub(super) fn is_short(&self) -> bool {
        self.wrapped && self.short && self.is_wide(0)
    }

    /// Whether `above` ends with the empty cell that such a wide character left. A terminal leaves it by itself, and one of
    /// another width doesn't. If the cell has colours it counts as a blank: something may yet be written where the wide
    /// character is, and then nothing would bring them about.
    pub(super) fn leaves_rest(&self, above: &Self, width: usize) -> bool {
        let (last, first) = (above.get(width - 1), self.get(0));
        self.is_short() && last.is_blank() && last.looks_like(first)
    }

    pub(super) fn is_spacer(&self, x: usize) -> bool {
        self.get(x).is_spacer()
    }

    /// Whether a wide character begins at `x`.
    pub(super) fn is_wide(&self, x: usize) -> bool {
        self.is_spacer(x + 1)
    }

    /// The number of cells up to the last that isn't blank, of the first `width`.
    pub(super) fn length(&self, width: usize) -> usize {
        let cells = &self.cells[..self.cells.len().min(width)];
        cells.iter().rposition(|cell| !cell.is_blank()).map_or(0, |last| last + 1)
    }

    /// Writes a character that is `width` cells wide; the caller knows that it fits.
    pub(super) fn write(&mut self, x: usize, text: char, width: usize, pen: &Pen) {
        let cell = pen.cell(text);
        if x == self.cells.len() {
            self.short &= x > 0;
            self.cells.push(cell);
            if width == 2 {
                self.cells.push(pen.cell(SPACER));
            }
            return;
        }
        let short = x == 0 && width == 2 && self.is_short() && self.cells[0].looks_like(&cell);
        self.part(x, || pen.cell(' '));
        self.part(x + width, || pen.cell(' '));
        self.reach(x + width);
        self.cells[x] = cell;
        if width == 2 {
            self.cells[x + 1] = pen.cell(SPACER);
        }
        self.short |= short;
    }

    /// Writes a wide character for which there was too little room in the row above.
    pub(super) fn write_wrapped(&mut self, text: char, pen: &Pen) {
        self.write(0, text, 2, pen);
        self.short = true;
    }

    /// Writes printable ASCII; the caller knows that it fits.
    pub(super) fn write_ascii(&mut self, x: usize, text: &[u8], pen: &Pen) {
        self.part(x, || pen.cell(' '));
        self.part(x + text.len(), || pen.cell(' '));
        self.reach(x);
        let (over, behind) = text.split_at(text.len().min(self.cells.len() - x));
        for (cell, byte) in self.cells[x..].iter_mut().zip(over) {
            *cell = pen.cell(char::from(*byte));
        }
        self.cells.extend(behind.iter().map(|byte| pen.cell(char::from(*byte))));
    }

    /// Puts a combining character on the cell at `x`, or on the wide character that ends there.
    pub(super) fn mark(&mut self, x: usize, mark: char) {
        let x = if self.is_spacer(x) { x - 1 } else { x };
        self.reach(x + 1);
        self.cells[x].mark(mark);
    }

    /// Makes the cells from `from` up to `to` be `fill`.
    pub(super) fn erase(&mut self, from: usize, to: usize, fill: &Cell) {
        if from >= to {
            return;
        }
        self.part(from, || fill.clone());
        self.part(to, || fill.clone());
        if fill.is_blank() && to >= self.cells.len() {
            self.cells.truncate(from);
        } else {
            self.reach(to);
            self.cells[from..to].fill(fill.clone());
        }
    }

    /// Inserts `count` times `fill` at `x`; what is pushed beyond `width` is lost.
    pub(super) fn insert(&mut self, x: usize, count: usize, fill: &Cell, width: usize) {
        self.part(x, || fill.clone());
        let count = count.min(width - x);
        self.part(width - count, || fill.clone());
        self.reach(x);
        self.cells.splice(x..x, std::iter::repeat_n(fill.clone(), count));
        self.cells.truncate(width);
    }

    /// Removes `count` cells at `x`; at the end as many `fill` come in.
    pub(super) fn delete(&mut self, x: usize, count: usize, fill: &Cell, width: usize) {
        let count = count.min(width - x);
        self.part(x, || fill.clone());
        self.part(x + count, || fill.clone());
        let end = self.cells.len();
        self.cells.drain(x.min(end)..(x + count).min(end));
        self.erase(width - count, width, fill);
    }

    /// Cuts the row off at `width`.
    pub(super) fn cut(&mut self, width: usize) {
        self.part(width, || Cell::BLANK);
        self.cells.truncate(width);
    }

    /// Makes it a new row.
    pub(super) fn reset(&mut self, fill: &Cell, width: usize) {
        self.cells.clear();
        (self.wrapped, self.short) = (false, false);
        if !fill.is_blank() {
            self.cells.resize(width, fill.clone());
        }
    }

    /// If a wide character stands over the border before `x`, both its halves become `fill`.
    fn part(&mut self, x: usize, fill: impl FnOnce() -> Cell) {
        self.short &= x > 0;
        if self.is_spacer(x) {
            self.cells[x - 1..=x].fill(fill());
        }
    }

    /// Makes it store at least `width` cells.
    fn reach(&mut self, width: usize) {
        if self.cells.len() < width {
            self.cells.resize(width, Cell::BLANK);
        }
    }
}
