//! A session's screen: a terminal's model, fed with a program's output, that says at any time what another terminal has to be
//! told to show the same and to go on in the same way.
//!
//! It is written for being restored. A terminal's state is kept such that VT bytes can bring about all of it: no half of a
//! wide character without the other, a soft wrap between rows and not in a cell, an unfinished sequence as its bytes. Memory
//! is bounded by the size and by constants here, whatever the program prints. It does no I/O, waits for nothing and answers
//! no query of a program; it knows neither sessions nor clients.
//!
//! It is no crate's model, since none known to us can be restored: alacritty_terminal, the fastest, hides half of its state,
//! and has states that no output brings about.

mod cell;
mod charset;
mod checkpoint;
mod cost;
mod csi;
mod cursor;
mod edit;
mod grid;
mod history;
mod keyboard;
mod link;
mod model;
mod modes;
mod osc;
mod paint;
mod parser;
mod picture;
mod print;
mod resize;
mod row;
mod rush;
#[cfg(any(test, fuzzing))]
pub(crate) mod seen;
mod sgr;
mod tabs;
#[cfg(test)]
mod tests;

use sandbox::control::Size;

pub(crate) use history::History;
use history::Joint;
use model::Model;
use parser::Parser;
pub(crate) use picture::RESET;

/// Fewest columns: a wide character has two. xterm.js has the same limit.
const COLS_MIN: u16 = 2;

/// A terminal's model.
#[derive(Debug)]
pub(crate) struct Screen {
    parser: Parser,
    model: Model,
}

/// What happened on a screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// How often the bell rang.
    pub(crate) bells: u32,
    /// The title is another one.
    pub(crate) title: bool,
    /// The working directory is another one.
    pub(crate) cwd: bool,
}

/// Why bytes are no checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(&'static str);

impl Screen {
    /// An empty screen. It has at least two columns.
    pub(crate) fn new(size: Size) -> Self {
        Self { parser: Parser::default(), model: Model::new(within_limits(size)) }
    }

    /// Takes a program's output. It may be cut into pieces anywhere.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.parser.feed(bytes, &mut self.model);
        self.settle();
    }

    /// Changes the size: lines are broken anew, rows without room become history, and none comes back from there.
    pub(crate) fn resize(&mut self, size: Size) {
        let size = within_limits(size);
        self.model.resize(size.cols.into(), size.rows.into());
        self.settle();
    }

    /// The size.
    pub(crate) fn size(&self) -> Size {
        Size { cols: self.model.width() as u16, rows: self.model.height() as u16 }
    }

    /// The lines that scrolled off the primary screen.
    pub(crate) fn history(&self) -> &History {
        &self.model.history
    }

    /// Appends VT bytes that, fed to a terminal of the same size right after a reset and the history's lines, restore the
    /// rest. A string that isn't finished (a title, an image) and is too long or means nothing here is restored as one
    /// that will be ignored.
    pub(crate) fn picture(&self, out: &mut Vec<u8>) {
        picture::paint(&self.model, out);
        out.extend_from_slice(self.parser.pending());
    }

    /// A reset, the history and the picture.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let mut out = picture::RESET.to_vec();
        self.history().lines(0, usize::MAX, &mut out);
        self.picture(&mut out);
        out
    }

    /// What happened since this was last asked.
    pub(crate) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.model.news)
    }

    /// The title that the program set: one line of at most 1 KiB.
    pub(crate) fn title(&self) -> &str {
        &self.model.title
    }

    /// The working directory that the program (a shell) last told, if it is a path.
    pub(crate) fn cwd(&self) -> Option<&str> {
        self.model.directory.as_deref()
    }

    /// Appends a checkpoint, from which [`Self::load`] makes an equal screen.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        checkpoint::save(self, out);
    }

    /// The screen of a checkpoint, which may be anything.
    pub(crate) fn load(bytes: &[u8]) -> Result<Self, Malformed> {
        checkpoint::load(bytes)
    }

    /// Tells the history whether its last line goes on.
    fn settle(&mut self) {
        self.model.history.open = Joint::of(&self.model.primary.rows[0]);
    }
}

fn within_limits(size: Size) -> Size {
    let size = size.clamped();
    Size { cols: size.cols.max(COLS_MIN), ..size }
}
