//! The terminal: all that it remembers. What happens to it is in `print`, `cursor`, `edit`, `csi`, `osc` and `resize`.
//!
//! It does as xterm.js does, where terminals differ: that is what our page shows while a program runs, and a snapshot must
//! show the same. It answers no query: that is for the terminal of a client. It doesn't know bytes; `parser` reads them.

use std::collections::BTreeMap;
use std::ops::Range;

use super::News;
use super::cell::Pen;
use super::charset::{Charset, Charsets};
use super::grid::{Grid, Saved};
use super::history::History;
use super::link::Links;
use super::modes::Modes;
use sandbox::control::Size;

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

    /// Sets one of the character sets from a designating sequence.
    pub(super) fn designate(&mut self, set: usize, name: u8) {
        self.charsets.sets[set] = Charset::named(name);
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
