//! A screen as bytes that outlive it, and back. They hold the history's lines as they are stored and the picture.
//!
//! They come back from where a hostile program may have been: each line must be what this version would have written, and
//! the picture is fed to a new screen, which bounds everything by itself.

use sandbox::control::Size;

use super::history::{self, History, Joint, Line};
use super::{Malformed, Screen, cost};

/// Identifies the format.
const MAGIC: &[u8; 8] = b"screen\x00\x01";

const NO_LINE: Malformed = Malformed("one of its lines is none");

pub(super) fn save(screen: &Screen, out: &mut Vec<u8>) {
    let (size, history) = (screen.size(), &screen.model.history);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&size.cols.to_le_bytes());
    out.extend_from_slice(&size.rows.to_le_bytes());
    out.extend_from_slice(&history.first().to_le_bytes());
    out.extend_from_slice(&((history.end() - history.first()) as u32).to_le_bytes());
    out.push(history.open as u8);
    for (line, bytes) in history.stored() {
        out.extend_from_slice(&line.bytes.to_le_bytes());
        out.extend_from_slice(&line.pad.to_le_bytes());
        out.push(line.joint as u8);
        out.push(line.rest.into());
        out.extend_from_slice(&bytes);
    }
    screen.picture(out);
}

pub(super) fn load(bytes: &[u8]) -> Result<Screen, Malformed> {
    let mut fields = Fields(bytes);
    if fields.array()? != *MAGIC {
        return Err(Malformed("it is of another version"));
    }
    let size = Size { cols: u16::from_le_bytes(fields.array()?), rows: u16::from_le_bytes(fields.array()?) };
    if Screen::new(size).size() != size {
        return Err(Malformed("its size is out of range"));
    }
    let (history, open) = lines(&mut fields)?;
    if !cost::is_a_pictures(fields.0, size) {
        return Err(Malformed("its picture takes too long"));
    }
    let mut screen = Screen::new(size);
    screen.feed(fields.0);
    if screen.model.history.end() != 0 {
        return Err(Malformed("its picture scrolls"));
    }
    if !history.is_empty() {
        screen.model.primary.rows[0].join(open != Joint::None, open == Joint::Short);
    }
    screen.model.history = history;
    screen.settle();
    screen.model.news = super::News::default();
    Ok(screen)
}

fn lines(fields: &mut Fields) -> Result<(History, Joint), Malformed> {
    let first = u64::from_le_bytes(fields.array()?);
    let count = u32::from_le_bytes(fields.array()?) as usize;
    let open = fields.joint()?;
    if count > history::LINES_MAX || first > u64::MAX / 2 {
        return Err(Malformed("its lines are too many"));
    }
    let mut history = History::starting_at(first);
    // As wide as any screen, so that no line is broken.
    let mut scratch = Screen::new(Size { cols: u16::MAX, rows: 1 });
    let mut again = Vec::new();
    for _ in 0..count {
        let bytes = u32::from_le_bytes(fields.array()?);
        let pad = u16::from_le_bytes(fields.array()?);
        let line = Line { bytes, pad, joint: fields.joint()?, rest: fields.flag()? };
        let text = fields.take(bytes as usize)?;
        if text.len() > history::LINE_BYTES_MAX {
            return Err(Malformed("one of its lines is too long"));
        }
        if !only_prints(text) || pad > scratch.size().cols {
            return Err(NO_LINE);
        }
        scratch.feed(text);
        let row = &scratch.model.primary.rows[0];
        history::encode(&row.cells()[..row.length(usize::MAX)], line.joint != Joint::None, &mut again);
        if again != text {
            return Err(NO_LINE);
        }
        history.append(line, text);
        scratch.feed(b"\r\x1b[2K");
    }
    if history.first() != first {
        return Err(Malformed("its lines are too long"));
    }
    Ok((history, open))
}

/// Whether bytes hold no control but SGR, EL and OSC: nothing then takes longer than it has bytes.
fn only_prints(text: &[u8]) -> bool {
    let mut sequences = text.split(|byte| *byte == 0x1B);
    let printed = |text: &[u8]| text.iter().all(|byte| *byte >= b' ');
    let is_last = |byte: &u8| (0x40..0x7F).contains(byte);
    sequences.next().is_none_or(printed)
        && sequences.all(|sequence| match sequence {
            [b'[', rest @ ..] => printed(rest) && matches!(rest.iter().find(|byte| is_last(byte)), Some(b'm' | b'K')),
            [b']' | b'\\', rest @ ..] => printed(rest),
            _ => false,
        })
}

/// What is still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("as many were taken"))
    }

    fn joint(&mut self) -> Result<Joint, Malformed> {
        match self.array()? {
            [0] => Ok(Joint::None),
            [1] => Ok(Joint::Wrapped),
            [2] => Ok(Joint::Short),
            [_] => Err(Malformed("a joint is none")),
        }
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [_] => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }
}
