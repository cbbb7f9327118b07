//! What a session's terminal shows at a place in its log, built when somebody needs it: a screen, fed from the log.
//! It knows no client and no cell.

use sandbox::control::Size;
use sandbox::log::{Event, LogError, LogReader};

use super::cursor::{Cursor, Next};
use crate::screen::{News, Screen};

/// Most bytes that are parsed at once: what holds the lock, and its thread, for half a millisecond.
pub(super) const PARSE_BYTES_MAX: usize = 64 * 1024;

/// The screen at a place.
pub(super) struct View {
    screen: Screen,
    cursor: Cursor,
    buffer: Vec<u8>,
}

/// How far a snapshot is given.
#[derive(Debug)]
pub(super) struct Drawing {
    /// Of a screen of this size.
    pub(super) size: Size,
    next: Part,
}

#[derive(Debug)]
enum Part {
    /// The history from this line on.
    History(u64),
    /// The rest of the picture, and the place that it is of.
    Picture(Vec<u8>, Cursor),
}

/// What a piece of a snapshot was.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes were appended, more follow.
    More,
    /// The last bytes were appended; this is the place they are of.
    Last(Cursor),
    /// The screen has another size by now: begin anew.
    Outgrown,
}

impl View {
    /// An empty screen at the log's birth, or at its oldest byte if that is gone.
    pub(super) fn new(log: &LogReader) -> Self {
        let (cursor, size) = Cursor::at(log.oldest(), log);
        Self { screen: Screen::new(size.unwrap_or(Size::DEFAULT)), cursor, buffer: Vec::new() }
    }

    /// A screen of which a checkpoint was made at an offset that is in the log.
    pub(super) fn restore(log: &LogReader, offset: u64, checkpoint: &[u8]) -> Option<Self> {
        let screen = Screen::load(checkpoint).ok()?;
        let (cursor, _) = Cursor::at(offset, log);
        Some(Self { screen, cursor, buffer: Vec::new() })
    }

    /// The place in the log.
    pub(super) fn offset(&self) -> u64 {
        self.cursor.offset()
    }

    /// Feeds what comes next, a bounded part of it; whether that was all.
    pub(super) fn advance(&mut self, log: &LogReader) -> Result<bool, LogError> {
        self.buffer.clear();
        match self.cursor.next(log, PARSE_BYTES_MAX, &mut self.buffer) {
            Ok(Next::Bytes(_)) => self.screen.feed(&self.buffer),
            Ok(Next::Event(Event::Resized(size))) => self.screen.resize(size),
            Ok(Next::Event(Event::Flushed)) => {}
            Ok(Next::Nothing) => {
                // Room for a flood isn't kept for a session that is silent.
                self.buffer = Vec::new();
                return Ok(true);
            }
            // Nobody has kept it: the next best is what is there.
            Err(LogError::Overwritten { .. }) => *self = Self::new(log),
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    /// Begins to draw.
    pub(super) fn draw(&self) -> Drawing {
        Drawing { size: self.screen.size(), next: Part::History(self.screen.history().first()) }
    }

    /// Appends the next piece of a snapshot, about `bytes_max` at most. What the terminal shows meanwhile is part of it.
    pub(super) fn piece(&self, drawing: &mut Drawing, bytes_max: usize, out: &mut Vec<u8>) -> Piece {
        let history = self.screen.history();
        if let Part::History(line) = &mut drawing.next {
            if drawing.size != self.screen.size() {
                return Piece::Outgrown;
            }
            if *line < history.end() {
                *line = history.lines(*line, bytes_max, out);
                return Piece::More;
            }
            let mut picture = Vec::new();
            self.screen.picture(&mut picture);
            drawing.next = Part::Picture(picture, self.cursor.clone());
        }
        let Part::Picture(rest, cursor) = &mut drawing.next else { return Piece::Outgrown };
        let behind = rest.split_off(rest.len().min(bytes_max));
        out.extend_from_slice(rest);
        *rest = behind;
        if rest.is_empty() { Piece::Last(cursor.clone()) } else { Piece::More }
    }

    /// What happened since this was last asked.
    pub(super) fn take_news(&mut self) -> News {
        self.screen.take_news()
    }

    /// The screen.
    pub(super) fn screen(&self) -> &Screen {
        &self.screen
    }
}
