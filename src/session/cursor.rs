//! A place in a session's log: what comes next there, bytes or an event. It knows no client and no screen.

use std::collections::VecDeque;

use sandbox::control::Size;
use sandbox::log::{Event, LogError, LogReader, Mark};

/// Most marks known ahead: a cell keeps half as many, unless it is hostile.
const MARKS_AHEAD_MAX: usize = 256;

/// A place in a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    offset: u64,
    /// Marks seen since birth, of which those that lie ahead are here.
    marks: u64,
    ahead: VecDeque<Mark>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many bytes.
    Bytes(usize),
    /// Something that happened at the place.
    Event(Event),
    /// Nothing yet.
    Nothing,
}

impl Cursor {
    /// The place at an offset, before whatever happened there; and the terminal's size so far, as far as the log tells.
    pub(super) fn at(offset: u64, log: &LogReader) -> (Self, Option<Size>) {
        let (marks, count) = log.marks_since(0);
        let (past, ahead): (Vec<Mark>, Vec<Mark>) = marks.into_iter().partition(|mark| mark.offset < offset);
        let size = past.iter().rev().find_map(|mark| match mark.event {
            Event::Resized(size) => Some(size),
            Event::Flushed => None,
        });
        (Self { offset, marks: count, ahead: ahead.into() }, size)
    }

    /// Offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The place so many bytes before, of those that the last [`Self::next`] gave.
    pub(super) fn before(&self, bytes: usize) -> Self {
        Self { offset: self.offset - bytes as u64, ..self.clone() }
    }

    /// Where the output ahead was last thrown away, if it was.
    pub(super) fn flush_ahead(&self) -> Option<u64> {
        self.ahead.iter().rev().find(|mark| mark.event == Event::Flushed).map(|mark| mark.offset)
    }

    /// Moves over what comes next; at most `bytes_max` bytes, which are appended to `out`.
    pub(super) fn next(&mut self, log: &LogReader, bytes_max: usize, out: &mut Vec<u8>) -> Result<Next, LogError> {
        if let Some(event) = self.event_here() {
            return Ok(Next::Event(event));
        }
        let before = out.len();
        let count = log.read(self.offset, bytes_max.min(self.until_mark()), out)?;
        // A mark before the last of these bytes is there by now.
        self.look_ahead(log);
        let count = count.min(self.until_mark());
        out.truncate(before + count);
        self.offset += count as u64;
        match count {
            0 => Ok(self.event_here().map_or(Next::Nothing, Next::Event)),
            count => Ok(Next::Bytes(count)),
        }
    }

    /// Takes note of new marks.
    pub(super) fn look_ahead(&mut self, log: &LogReader) {
        if log.marks() != self.marks {
            let (marks, count) = log.marks_since(self.marks);
            self.marks = count;
            self.ahead.extend(marks.into_iter().filter(|mark| mark.offset >= self.offset));
            self.ahead.drain(..self.ahead.len().saturating_sub(MARKS_AHEAD_MAX));
        }
    }

    fn event_here(&mut self) -> Option<Event> {
        let here = self.ahead.front().is_some_and(|mark| mark.offset <= self.offset);
        here.then(|| self.ahead.pop_front()).flatten().map(|mark| mark.event)
    }

    fn until_mark(&self) -> usize {
        let next = self.ahead.front().map(|mark| mark.offset.saturating_sub(self.offset));
        next.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::log::{LogWriter, RING_BYTES_MIN};

    const SMALL: Size = Size { cols: 40, rows: 10 };

    #[test]
    fn bytes_and_events_come_in_their_order() {
        let mut writer = LogWriter::create(RING_BYTES_MIN).unwrap();
        let reader = LogReader::open(writer.file()).unwrap();
        writer.mark(Event::Resized(Size::DEFAULT));
        writer.append(b"one");
        writer.mark(Event::Resized(SMALL));
        let mut cursor = Cursor::default();
        let mut out = Vec::new();
        assert_eq!(cursor.next(&reader, 2, &mut out).unwrap(), Next::Event(Event::Resized(Size::DEFAULT)));
        assert_eq!(cursor.next(&reader, 2, &mut out).unwrap(), Next::Bytes(2));
        writer.append(b"two");
        writer.mark(Event::Flushed);
        writer.append(b"three");
        assert_eq!(cursor.next(&reader, 9, &mut out).unwrap(), Next::Bytes(1));
        assert_eq!(cursor.flush_ahead(), Some(6));
        assert_eq!(cursor.next(&reader, 9, &mut out).unwrap(), Next::Event(Event::Resized(SMALL)));
        assert_eq!(cursor.next(&reader, 9, &mut out).unwrap(), Next::Bytes(3));
        assert_eq!(cursor.next(&reader, 9, &mut out).unwrap(), Next::Event(Event::Flushed));
        assert_eq!(cursor.next(&reader, 9, &mut out).unwrap(), Next::Bytes(5));
        assert_eq!(cursor.next(&reader, 9, &mut out).unwrap(), Next::Nothing);
        assert_eq!(out, b"onetwothree");
        let (mut late, size) = Cursor::at(6, &reader);
        assert_eq!((size, late.offset()), (Some(SMALL), 6));
        assert_eq!(late.next(&reader, 9, &mut out).unwrap(), Next::Event(Event::Flushed));
    }
}
