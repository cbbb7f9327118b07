//! What a session's terminal shows at a place in its log, built when somebody needs it: a screen, fed from the log.
//! It knows no client and no cell.

use std::time::{Duration, Instant};

use sandbox::control::Size;
use sandbox::log::{Event, LogError, LogReader};

use super::cursor::{Cursor, Next};
use crate::screen::{News, Screen};

/// Most bytes that are parsed in one go: of plain text a tenth of a millisecond's worth.
const PARSE_BYTES_MAX: usize = 64 * 1024;

/// Most character cells that what is parsed in one go may touch beside those that it prints: a millisecond's worth or two.
/// A sequence of three bytes can fill the whole screen.
const PARSE_CELLS_MAX: usize = 2_000_000;

/// How long the screen is fed before others have a turn: it holds the lock, and its thread.
const PARSE_TIME: Duration = Duration::from_millis(1);

/// The screen at a place.
pub(super) struct View {
    screen: Screen,
    /// Behind the buffer.
    cursor: Cursor,
    /// Read from the log; of it so many bytes are fed.
    buffer: Vec<u8>,
    fed: usize,
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
        Self::with(Screen::new(size.unwrap_or(Size::DEFAULT)), cursor)
    }

    /// A screen of which a checkpoint was made at an offset that is in the log.
    pub(super) fn restore(log: &LogReader, offset: u64, checkpoint: &[u8]) -> Option<Self> {
        let screen = Screen::load(checkpoint).ok()?;
        let (cursor, _) = Cursor::at(offset, log);
        Some(Self::with(screen, cursor))
    }

    fn with(screen: Screen, cursor: Cursor) -> Self {
        Self { screen, cursor, buffer: Vec::new(), fed: 0 }
    }

    /// Offset of the next byte that the screen lacks.
    pub(super) fn offset(&self) -> u64 {
        self.cursor.offset() - self.unfed() as u64
    }

    fn unfed(&self) -> usize {
        self.buffer.len() - self.fed
    }

    /// Feeds what comes next, for a bounded time; whether that was all.
    pub(super) fn advance(&mut self, log: &LogReader) -> Result<bool, LogError> {
        if self.unfed() > 0 {
            self.feed();
            return Ok(false);
        }
        self.fed = 0;
        self.buffer.clear();
        match self.cursor.next(log, PARSE_BYTES_MAX, &mut self.buffer) {
            Ok(Next::Bytes(_)) => self.feed(),
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

    /// Feeds what was read, in strides that can't take long.
    fn feed(&mut self) {
        let began = Instant::now();
        while self.unfed() > 0 && began.elapsed() < PARSE_TIME {
            let end = self.fed + self.stride();
            self.screen.feed(&self.buffer[self.fed..end]);
            self.fed = end;
        }
    }

    /// How many bytes can be fed in one go, by what they can cost at most: a sequence the whole screen, a line's end a move of
    /// all rows.
    fn stride(&self) -> usize {
        let Size { cols, rows } = self.screen.size();
        let (area, rows) = (usize::from(cols) * usize::from(rows), usize::from(rows));
        let mut cells = 0;
        let costs = self.buffer[self.fed..].iter().map(|byte| match byte {
            // Escape, and the lead of its kind in UTF-8.
            b'\x1b' | b'\xc2' => area,
            b'\n' | b'\x0b' | b'\x0c' => rows,
            _ => 0,
        });
        let fits = costs.take_while(|cost| {
            cells += cost;
            cells <= PARSE_CELLS_MAX
        });
        fits.count().max(1)
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
            drawing.next = Part::Picture(picture, self.cursor.before(self.unfed()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::log::{LogWriter, RING_BYTES_MIN};

    #[test]
    fn what_takes_long_is_fed_in_parts_and_a_snapshot_is_of_what_was_fed() {
        let mut writer = LogWriter::create(RING_BYTES_MIN).unwrap();
        writer.mark(Event::Resized(Size { cols: 2000, rows: 100 }));
        // Each fills the screen.
        writer.append(&b"\x1b#8".repeat(40));
        let log = LogReader::open(writer.file()).unwrap();
        let mut view = View::new(&log);
        assert!(!view.advance(&log).unwrap() && view.offset() == 0, "the size comes first");
        // Ten of them are as many cells as are touched in one go.
        assert_eq!(view.stride_of(&log), 30);
        assert!(!view.advance(&log).unwrap());
        let (mut drawing, mut out) = (view.draw(), Vec::new());
        let cursor = loop {
            match view.piece(&mut drawing, 4096, &mut out) {
                Piece::More => {}
                Piece::Last(cursor) => break cursor,
                Piece::Outgrown => panic!("it has its size"),
            }
        };
        assert_eq!(cursor.offset(), view.offset());
        assert!(view.offset() > 0 && view.offset().is_multiple_of(30), "{}", view.offset());
        while !view.advance(&log).unwrap() {}
        assert_eq!(view.offset(), writer.head());
    }

    impl View {
        /// How much of what comes next is fed in one go.
        fn stride_of(&mut self, log: &LogReader) -> usize {
            let (mut ahead, mut buffer) = (self.cursor.clone(), Vec::new());
            ahead.next(log, PARSE_BYTES_MAX, &mut buffer).unwrap();
            (self.buffer, self.fed) = (buffer, 0);
            let stride = self.stride();
            self.buffer.clear();
            stride
        }
    }
}
