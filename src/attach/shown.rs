//! What this terminal shows of a session: output in order, how far it has come, and in between what we say ourselves. It
//! knows no connection and outlives them.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::end::End;
use super::whole::Whole;
use crate::screen::RESET;
use crate::tty::Output;
use crate::wire::UNACKED_BYTES_MAX;

/// Most that waits for the terminal before the server isn't read any more, in bytes: output is bounded by acknowledgements,
/// this is for pictures.
const UNWRITTEN_BYTES_MAX: usize = UNACKED_BYTES_MAX as usize;

/// How much is written before it is acknowledged, in bytes, while there is more to write.
const ACK_BYTES: u64 = 16 * 1024;

/// Keeps the window's title aside, and brings it back (xterm's "ctlseqs").
const KEEP_TITLE: &str = "\x1b[22;2t";
const BRING_TITLE_BACK: &str = "\x1b[23;2t";

/// A session on this terminal.
#[derive(Debug)]
pub(super) struct Shown {
    output: Output,
    whole: Whole,
    /// All bytes ever handed to the output.
    queued: u64,
    /// Where the session's output goes on, unless a snapshot is wanting.
    offset: Option<u64>,
    /// Offsets that are reached once so many bytes are written.
    marks: VecDeque<(u64, u64)>,
    /// The last one that was.
    written: u64,
    /// What the session calls itself.
    title: String,
    /// Whether something is said that isn't taken back yet.
    said: bool,
}

impl Shown {
    pub(super) fn on(output: Output) -> Self {
        let (whole, marks, title) = (Whole::default(), VecDeque::new(), String::new());
        Self { output, whole, queued: 0, offset: None, marks, written: 0, title, said: false }
    }

    /// Where the session's output goes on.
    pub(super) fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// Shows output.
    pub(super) fn output(&mut self, offset: u64, bytes: Bytes) -> Result<(), End> {
        if self.offset.is_some_and(|here| here != offset) {
            return Err(End::Failed(format!(
                "the server went on at offset {offset} of the output, which is elsewhere"
            )));
        }
        self.reach(offset + bytes.len() as u64, bytes);
        Ok(())
    }

    /// Forgets everything: a snapshot begins.
    pub(super) fn reset(&mut self) {
        self.offset = None;
        self.whole = Whole::default();
        self.put(Bytes::from_static(RESET));
    }

    /// Shows a part of a snapshot.
    pub(super) fn picture(&mut self, bytes: Bytes) {
        self.whole.pass(bytes).into_iter().for_each(|part| self.put(part));
    }

    /// The snapshot is complete.
    pub(super) fn painted(&mut self, offset: u64) {
        self.reach(offset, Bytes::new());
    }

    /// Takes note of what the session calls itself.
    pub(super) fn entitle(&mut self, title: &str) {
        self.title = title.chars().filter(|character| !character.is_control()).collect();
    }

    /// Shows the last bytes of what is the session's.
    fn reach(&mut self, offset: u64, bytes: Bytes) {
        self.picture(bytes);
        self.offset = Some(offset);
        self.marks.push_back((self.queued, offset - self.whole.held() as u64));
    }

    fn put(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len() as u64;
            self.output.put(bytes);
        }
    }

    /// Whether more may come.
    pub(super) fn has_room(&self) -> bool {
        self.output.unwritten() < UNWRITTEN_BYTES_MAX
    }

    /// Takes note of what was written; ready only when nothing can be any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let progress = self.output.poll_written(cx);
            let written = self.queued - self.output.unwritten() as u64;
            while let Some((_, offset)) = self.marks.front().filter(|(queued, _)| *queued <= written) {
                self.written = *offset;
                self.marks.pop_front();
            }
            if let Err(error) = ready!(progress) {
                return Poll::Ready(End::output(error));
            }
        }
    }

    /// The offset to acknowledge after `acked` was, if it is time.
    pub(super) fn ack(&self, acked: u64) -> Option<u64> {
        let idle = self.output.unwritten() == 0 && self.written > acked;
        (idle || self.written >= acked.saturating_add(ACK_BYTES)).then_some(self.written)
    }

    /// Says how things are, in the window's title: the screen is the session's. Without a terminal on standard error, once.
    pub(super) fn say(&mut self, line: &str) {
        if !self.output.is_terminal() {
            if !self.said {
                eprintln!("cloister: {line}");
            }
        } else if self.whole.is_whole() {
            let keep = if self.said { "" } else { KEEP_TITLE };
            self.put(format!("{keep}\x1b]2;cloister: {line}\x07").into());
        } else {
            return;
        }
        self.said = true;
    }

    /// Takes back what was said, since it isn't so any more.
    pub(super) fn unsay(&mut self, since: &str) {
        if self.said && !self.output.is_terminal() {
            eprintln!("cloister: {since}");
        }
        self.bring_title_back();
    }

    fn bring_title_back(&mut self) {
        if std::mem::take(&mut self.said) && self.output.is_terminal() {
            // Not every terminal keeps titles.
            let title = if self.title.is_empty() { String::new() } else { format!("\x1b]2;{}\x07", self.title) };
            self.put(format!("{BRING_TITLE_BACK}{title}").into());
        }
    }

    /// No more comes: gives the output, for the last words.
    pub(super) fn end(mut self) -> Output {
        self.bring_title_back();
        let rest = self.whole.end();
        self.put(rest);
        self.output
    }
}
