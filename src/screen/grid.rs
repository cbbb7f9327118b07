//! The rows of one screen, the primary or the alternate one, with what belongs to it alone: margins, tab stops, the saved
//! cursor, the keyboard's protocol. It doesn't know where the cursor is or what becomes of rows that leave it.

use std::collections::VecDeque;
use std::ops::Range;

use super::cell::{Cell, Pen};
use super::charset::Charsets;
use super::keyboard::Keyboard;
use super::row::Row;
use super::tabs::Tabs;

/// What DECSC keeps. The link that is open isn't part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) pen: Pen,
    pub(super) charsets: Charsets,
}

/// A screen of `rows.len()` rows and `width` columns. The alternate screen has no rows while the primary is shown.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) rows: VecDeque<Row>,
    pub(super) width: usize,
    /// The rows that scroll.
    pub(super) margins: Range<usize>,
    pub(super) tabs: Tabs,
    pub(super) saved: Saved,
    pub(super) keyboard: Keyboard,
}

impl Grid {
    /// A grid without rows.
    pub(super) fn new(width: usize) -> Self {
        Self {
            rows: VecDeque::new(),
            width,
            margins: 0..0,
            tabs: Tabs::default(),
            saved: Saved::default(),
            keyboard: Keyboard::default(),
        }
    }

    /// Gives it `height` new rows.
    pub(super) fn open(&mut self, height: usize, fill: &Cell) {
        self.rows.clear();
        self.rows.resize_with(height, Row::default);
        self.rows.iter_mut().for_each(|row| row.reset(fill, self.width));
        self.margins = 0..height;
        self.tabs = Tabs::default();
    }

    /// Takes its rows away; the saved cursor and the keyboard's protocol stay.
    pub(super) fn close(&mut self) {
        self.rows = VecDeque::new();
        self.margins = 0..0;
        self.tabs = Tabs::default();
    }

    pub(super) fn height(&self) -> usize {
        self.rows.len()
    }

    /// Moves the rows of `region` up by one: its first is lost, its last becomes new.
    pub(super) fn rotate_up(&mut self, region: Range<usize>, fill: &Cell) {
        if let Some(mut row) = self.rows.remove(region.start) {
            row.reset(fill, self.width);
            self.rows.insert(region.end - 1, row);
        }
        self.unwrap_around(region);
    }

    /// Moves the rows of `region` down by one: its last is lost, its first becomes new.
    pub(super) fn rotate_down(&mut self, region: Range<usize>, fill: &Cell) {
        if let Some(mut row) = self.rows.remove(region.end - 1) {
            row.reset(fill, self.width);
            self.rows.insert(region.start, row);
        }
        if let Some(second) = self.rows.get_mut(region.start + 1) {
            second.wrapped = false;
        }
        self.unwrap_around(region);
    }

    /// A region that moved goes on with nothing above it, and nothing below goes on with it.
    fn unwrap_around(&mut self, region: Range<usize>) {
        for y in [region.start, region.end] {
            if let Some(row) = self.rows.get_mut(y) {
                row.wrapped = false;
            }
        }
    }
}
