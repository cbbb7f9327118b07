//! Long plain output: lines that would only pass through the screen go into the history at once.
//!
//! What comes of it is the same as of printing them (a property test holds that); it is several times faster, and a build's
//! or a log's output is mostly this.

use super::cell::{Cell, Colour, Style};
use super::model::Model;
use super::modes::Modes;
use super::parser::printable;

/// What ends a line on a terminal.
const LINE_END: &[u8] = b"\r\n";

/// What became of bytes that were tried.
pub(super) enum Rush {
    /// As many went into the history.
    Taken(usize),
    /// It wouldn't be the same, or not worth it, for this many bytes.
    Not(usize),
}

impl Model {
    /// Takes whole lines of printable ASCII, each ended by CR LF, if there are more than the screen has rows and the cursor
    /// is at the beginning of its empty last row. The last of them are left, to be printed.
    pub(super) fn rush(&mut self, bytes: &[u8]) -> Rush {
        if !self.would_pass() {
            return Rush::Not(0);
        }
        let ends = line_ends(bytes, self.width());
        let height = self.height();
        // What is left fills the screen but for the cursor's row.
        let Some(through) = ends.len().checked_sub(height) else {
            return Rush::Not(ends.last().copied().unwrap_or(0));
        };
        for y in 0..height - 1 {
            self.history.push(&self.primary.rows[y], self.primary.rows.get(y + 1), self.primary.width);
        }
        let pen = (self.pen.style != Style::DEFAULT).then(|| self.pen.clone());
        let mut begin = 0;
        for end in &ends[..=through] {
            self.history.push_text(&bytes[begin..end - LINE_END.len()], pen.as_ref(), self.primary.width);
            begin = *end;
        }
        self.primary.rows.iter_mut().for_each(|row| row.reset(&Cell::BLANK, 0));
        self.y = 0;
        Rush::Taken(begin)
    }

    /// Whether a printed line would leave nothing behind but itself, and the cursor where it is.
    fn would_pass(&self) -> bool {
        let last = &self.primary.rows[self.height() - 1];
        let at_the_end = self.x == 0 && self.y + 1 == self.height() && !last.wrapped && last.cells().is_empty();
        let everything_scrolls = !self.on_alternate && self.primary.margins == (0..self.height());
        let pen_is_plain = self.pen.style.bg == Colour::DEFAULT && !self.pen.has_extra();
        let text_is_plain = self.charsets.is_ascii() && !self.modes.has(Modes::INSERT);
        at_the_end && everything_scrolls && pen_is_plain && text_is_plain
    }
}

/// Where the lines end that come first, each of which is printable ASCII and fits into a row.
fn line_ends(bytes: &[u8], width: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut begin = 0;
    loop {
        let length = printable(&bytes[begin..]);
        let end = begin + length + LINE_END.len();
        if length > width || !bytes[begin + length..].starts_with(LINE_END) {
            return ends;
        }
        ends.push(end);
        begin = end;
    }
}
