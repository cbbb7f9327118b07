//! The lines that scrolled off the primary screen, as the VT bytes that show them again.
//!
//! Kept broken where they were broken; a line that went on in the next is joined to it by having no line end between, so a
//! terminal of any width that is fed with them breaks them anew. It doesn't know the screen that the last one may go on in.

use std::collections::VecDeque;

use super::cell::{Cell, Pen};
use super::paint::Painter;
use super::row::Row;

/// Most lines kept.
pub(super) const LINES_MAX: usize = 10_000;

/// Most bytes kept: 10,000 lines of ordinary output are half of it, and a power of two is what the ring then allocates.
pub(super) const BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest line in bytes with all it has; beyond, it is kept without links, marks and underline colours (2000 columns in
/// 2000 colours are less).
pub(super) const LINE_BYTES_MAX: usize = 128 * 1024;

/// Lines are numbered since the screen's birth.
#[derive(Debug, Default)]
pub(crate) struct History {
    first: u64,
    lines: VecDeque<Line>,
    /// The lines' bytes, one behind the other.
    bytes: VecDeque<u8>,
    /// How the screen's first row goes on with the last line.
    pub(super) open: Joint,
    scratch: Vec<u8>,
}

/// What is known of a line beside its bytes. Those begin and end with a new pen and have no blanks at their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) bytes: u32,
    /// Blanks that fill the row, if the line goes on in the next.
    pub(super) pad: u16,
    pub(super) joint: Joint,
    /// Behind them there was an empty cell that a wide character left, which is now first in the next line.
    pub(super) rest: bool,
}

/// How a line goes on with the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Joint {
    /// Not at all.
    #[default]
    None,
    /// With the text that didn't fit.
    Wrapped,
    /// With a wide character for which there was one cell left.
    Short,
}

impl Joint {
    pub(super) fn of(row: &Row) -> Self {
        match row.wrapped {
            true if row.is_short() => Self::Short,
            true => Self::Wrapped,
            false => Self::None,
        }
    }
}

impl History {
    /// The number of the oldest line kept.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The number behind the last line.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Appends whole lines from number `from` (or from the oldest kept) on, as text with SGR and OSC 8, each ended by CR LF
    /// unless it goes on in the next; as many as fit into `bytes_max`, at least one. Gives the number of the next line.
    /// Every line begins and ends with a new pen.
    pub(crate) fn lines(&self, from: u64, bytes_max: usize, out: &mut Vec<u8>) -> u64 {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.lines.len());
        let mut at = self.lines.range(..skipped).map(|line| line.bytes as usize).sum();
        let mut room = bytes_max;
        for (index, line) in self.lines.iter().enumerate().skip(skipped) {
            let next = self.lines.get(index + 1).map_or(self.open, |next| next.joint);
            let pad = usize::from(line.pad) + usize::from(line.rest && next != Joint::Short);
            let needs = line.bytes as usize + if next == Joint::None { 2 } else { pad };
            if needs > room && index > skipped {
                return self.first + index as u64;
            }
            room = room.saturating_sub(needs);
            self.copy(at, line.bytes as usize, out);
            at += line.bytes as usize;
            if next == Joint::None {
                out.extend_from_slice(b"\r\n");
            } else {
                out.resize(out.len() + pad, b' ');
            }
        }
        self.end()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The kept lines with their bytes.
    pub(super) fn stored(&self) -> impl Iterator<Item = (Line, Vec<u8>)> {
        let mut at = 0;
        self.lines.iter().map(move |line| {
            let mut bytes = Vec::with_capacity(line.bytes as usize);
            self.copy(at, line.bytes as usize, &mut bytes);
            at += line.bytes as usize;
            (*line, bytes)
        })
    }

    /// Keeps a row that scrolls off; `next` is the row below it.
    pub(super) fn push(&mut self, row: &Row, next: Option<&Row>, width: usize) {
        let rest = next.is_some_and(|next| next.leaves_rest(row, width));
        let limit = width - usize::from(rest);
        let length = row.length(limit);
        let mut scratch = std::mem::take(&mut self.scratch);
        encode(&row.cells()[..length], row.wrapped, &mut scratch);
        let pad = (limit - length.max(row.wrapped.into())) as u16;
        let line = Line { bytes: scratch.len() as u32, pad, joint: Joint::of(row), rest };
        self.append(line, &scratch);
        self.scratch = scratch;
    }

    /// Keeps a row of ASCII, of which all is written with `pen`, or nothing of it with any.
    pub(super) fn push_text(&mut self, text: &[u8], pen: Option<&Pen>, width: usize) {
        let blanks = text.iter().rev().take_while(|byte| **byte == b' ' && pen.is_none()).count();
        let text = &text[..text.len() - blanks];
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut painter = Painter::new(&mut scratch);
        if let Some(pen) = pen.filter(|_| !text.is_empty()) {
            painter.pen(pen);
        }
        painter.bytes(text);
        painter.reset();
        let pad = (width - text.len()) as u16;
        self.append(Line { bytes: scratch.len() as u32, pad, joint: Joint::None, rest: false }, &scratch);
        self.scratch = scratch;
    }

    /// Keeps a line as [`encode`] wrote it.
    pub(super) fn append(&mut self, line: Line, bytes: &[u8]) {
        debug_assert_eq!(line.bytes as usize, bytes.len());
        while self.lines.len() == LINES_MAX || self.bytes.len() + bytes.len() > BYTES_MAX {
            let oldest = self.lines.pop_front().expect("bytes are of lines");
            self.bytes.drain(..oldest.bytes as usize);
            self.first += 1;
        }
        self.lines.push_back(line);
        self.bytes.extend(bytes);
    }

    /// Forgets all lines; the next one gets the number that it would have had.
    pub(super) fn clear(&mut self) {
        *self = Self { first: self.end(), ..Self::default() };
    }

    /// A history whose first line will have this number.
    pub(super) fn starting_at(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    fn copy(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        let (front, back) = self.bytes.as_slices();
        let (from, to) = (at, at + length);
        out.extend_from_slice(&front[from.min(front.len())..to.min(front.len())]);
        out.extend_from_slice(&back[from.saturating_sub(front.len())..to.saturating_sub(front.len())]);
    }
}

/// Writes cells as a line's bytes.
pub(super) fn encode(cells: &[Cell], wrapped: bool, out: &mut Vec<u8>) {
    paint(cells, wrapped, out);
    if out.len() > LINE_BYTES_MAX {
        let plain: Vec<Cell> = cells.iter().map(|cell| Cell { extra: None, ..cell.clone() }).collect();
        paint(&plain, wrapped, out);
    }
}

fn paint(cells: &[Cell], wrapped: bool, out: &mut Vec<u8>) {
    out.clear();
    let mut painter = Painter::new(out);
    if wrapped && cells.is_empty() {
        // Something has to be printed for the row to begin.
        painter.bytes(" ");
    } else if wrapped {
        painter.wrapped_cells(cells);
    } else {
        painter.cells(cells);
    }
    painter.reset();
}
