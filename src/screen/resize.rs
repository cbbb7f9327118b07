//! What a new size does. Lines of the primary screen are broken anew, except the one with the cursor: its program is told of
//! the size and prints it again (a shell its prompt), as in xterm.js.
//!
//! Rows for which there is no room become history, first and foremost; nothing ever comes back out of it. A line that began
//! in the history ends there when the width changes: its rest begins a row, so that rows keep their place.

use std::collections::VecDeque;

use super::cell::{Cell, SPACER};
use super::grid::Grid;
use super::history::History;
use super::model::Model;
use super::row::Row;

impl Model {
    pub(super) fn resize(&mut self, width: usize, height: usize) {
        if (width, height) == (self.width(), self.height()) {
            return;
        }
        let primary = &mut self.primary;
        // While it is hidden, its program's place is the cursor that was saved.
        let mut cursor = if self.on_alternate { primary.saved.y } else { self.y };
        if width != primary.width {
            primary.rows[0].wrapped = false;
            break_anew(primary, width, &mut cursor);
        }
        fit(primary, height, &mut cursor, Some(&mut self.history));
        adopt(primary, width);
        if self.on_alternate {
            self.alternate.rows.iter_mut().for_each(|row| row.cut(width));
            fit(&mut self.alternate, height, &mut self.y, None);
        } else {
            self.y = cursor;
        }
        adopt(&mut self.alternate, width);
        let last = height - 1;
        self.primary.saved.y = self.primary.saved.y.min(last);
        self.alternate.saved.y = self.alternate.saved.y.min(last);
        self.restrict();
    }
}

/// What a screen has for its new width.
fn adopt(grid: &mut Grid, width: usize) {
    grid.width = width;
    grid.margins = 0..grid.height();
    grid.tabs.resize(width);
    grid.saved.x = grid.saved.x.min(width - 1);
}

/// Breaks the lines of a screen for another width. `cursor` is the row whose line is left as it is; the saved cursor moves
/// with its line.
fn break_anew(grid: &mut Grid, width: usize, cursor: &mut usize) {
    let old: Vec<Row> = std::mem::take(&mut grid.rows).into();
    let mut rows = VecDeque::with_capacity(old.len());
    let (old_cursor, old_saved) = (*cursor, grid.saved.y);
    let mut begin = 0;
    let mut old = old.into_iter().peekable();
    while let Some(row) = old.next() {
        let mut line = vec![row];
        while let Some(row) = old.next_if(|row| row.wrapped) {
            line.push(row);
        }
        let (end, first) = (begin + line.len(), rows.len());
        if (begin..end).contains(&old_cursor) {
            line.iter_mut().for_each(|row| row.cut(width));
            *cursor = first + old_cursor - begin;
            rows.extend(line);
        } else {
            rows.extend(broken(line, grid.width, width));
        }
        if (begin..end).contains(&old_saved) {
            grid.saved.y = first + (old_saved - begin).min(rows.len() - 1 - first);
        }
        begin = end;
    }
    grid.rows = rows;
    grid.width = width;
}

/// The rows of one line, of which each had `old` cells, in rows of `width` cells.
fn broken(mut line: Vec<Row>, old: usize, width: usize) -> Vec<Row> {
    if let [row] = &line[..]
        && row.length(old) <= width
    {
        line[0].cut(width);
        return line;
    }
    let cells = joined(line, old);
    let mut rows = Vec::with_capacity(cells.len() / width + 1);
    let (mut rest, mut short) = (&cells[..], false);
    loop {
        let mut end = rest.len().min(width);
        end -= usize::from(rest.get(end).is_some_and(Cell::is_spacer));
        let mut row = rest[..end].to_vec();
        let wrapped_short = short;
        short = end < width && end < rest.len();
        if short {
            row.push(rest[end].pen().cell(' '));
        }
        rows.push(Row::of(row, !rows.is_empty(), wrapped_short));
        rest = &rest[end..];
        if rest.is_empty() {
            return rows;
        }
    }
}

/// The cells of one line, without what was left where a wide character didn't fit.
fn joined(mut line: Vec<Row>, old: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for y in 0..line.len() {
        let limit = match line.get(y + 1) {
            Some(next) => old - usize::from(next.leaves_rest(&line[y], old)),
            None => line[y].length(old),
        };
        let begin = cells.len();
        cells.extend(line[y].take(limit));
        cells.resize(begin + limit, Cell::BLANK);
    }
    debug_assert!(cells.first().is_none_or(|cell| cell.text != SPACER));
    cells
}

/// Gives a screen another height: takes empty rows from below, then rows from above, which are history on the primary
/// screen, and only then others from below. `cursor` and the saved cursor move with their rows.
fn fit(grid: &mut Grid, height: usize, cursor: &mut usize, mut history: Option<&mut History>) {
    let rows = &mut grid.rows;
    while rows.len() > height && rows.len() - 1 > *cursor && rows.back().is_some_and(|row| row.length(usize::MAX) == 0)
    {
        rows.pop_back();
    }
    while rows.len() > height && *cursor > 0 {
        if let (Some(history), Some(row)) = (&mut history, rows.front()) {
            history.push(row, rows.get(1), grid.width);
        }
        rows.pop_front();
        *cursor -= 1;
        grid.saved.y = grid.saved.y.saturating_sub(1);
    }
    rows.resize_with(height, Row::default);
    if history.is_none() {
        rows[0].wrapped = false;
    }
}
