//! One client's hold on a session: a cursor into the session's log and a data socket of its own to the cell.
//!
//! The client's task owns it and waits on it beside the client: what is typed goes straight to the cell, a wake comes
//! straight back, output is copied out of shared memory. What comes from the cell is hostile: at worst this client loses
//! its session. It doesn't know what the client speaks.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use sandbox::control::{Exit, FRAME_BYTES_MAX, FromCell, INPUT_BYTES_MAX, INPUT_WINDOW_BYTES, Size, ToCell, WAKES_MAX};
use sandbox::log::{LogError, LogReader};

use super::data::Data;
use super::replay;

/// How far the cell may write ahead of this client, in bytes: enough that a fast client never waits for the cell, and at
/// most an eighth of a second of output for one that takes 2 MB/s, so that ^C shows soon.
const OUTPUT_WINDOW_BYTES: u64 = 256 * 1024;

/// Most input kept for a program that doesn't read, in bytes; beyond it the client isn't read either.
const INPUT_WAITING_BYTES_MAX: usize = 64 * 1024;

/// Larger than any frame from a cell, so that a longer packet is seen to be malformed.
const PACKET_BYTES_MAX: usize = 32;

/// What there is for the client.
#[derive(Debug)]
pub(crate) enum Output {
    /// Bytes were appended to the buffer.
    Bytes,
    /// The client was too slow: this many bytes are no longer in the log; its cursor is at a line's beginning again.
    Skipped {
        /// How many.
        bytes: u64,
    },
    /// Nothing, but more input may be taken from the client again.
    Room,
    /// The program ended and the client has had all of its output.
    Ended(Exit),
    /// The cell ended or broke the protocol.
    Lost(io::Error),
}

/// A client's hold on a session. Dropping it detaches the client; the session goes on.
#[derive(Debug)]
pub(crate) struct Attachment {
    log: LogReader,
    data: Data,
    /// Offset of the next byte for the client.
    cursor: u64,
    /// How often the cell has said that there is output.
    wakes: u64,
    /// The last credit: how often it may have said so, and how far it may write.
    wakes_upto: u64,
    upto: u64,
    window: u64,
    resize: Option<Size>,
    /// Typed, but not yet sent.
    waiting: Vec<u8>,
    /// The client isn't read, since too much waits.
    full: bool,
    /// Distinguishes this client's input from all others', over all restarts of the server.
    client: u64,
    /// Input bytes sent, and of those taken by the terminal.
    sent: u64,
    taken: u64,
    exit: Option<Exit>,
    packet: Vec<u8>,
}

impl Attachment {
    /// Takes the two descriptors that came with [`sandbox::control::Reply::Attached`] after checking them.
    pub(crate) fn new(log: OwnedFd, data: OwnedFd) -> io::Result<Self> {
        let log = LogReader::open(log).map_err(io::Error::other)?;
        let cursor = replay::start(&log).map_err(io::Error::other)?;
        let window = OUTPUT_WINDOW_BYTES.min(log.ring_bytes() / 2);
        let mut client = [0; 8];
        rustix::rand::getrandom(&mut client, rustix::rand::GetRandomFlags::empty())?;
        let mut attachment = Self {
            data: Data::new(data)?,
            cursor,
            wakes: 0,
            wakes_upto: 0,
            upto: 0,
            window,
            resize: None,
            waiting: Vec::new(),
            full: false,
            client: u64::from_le_bytes(client),
            sent: 0,
            taken: 0,
            exit: None,
            packet: Vec::with_capacity(64),
            log,
        };
        // Already now: a new session's first prompt needn't wait until the client is ready for it.
        attachment.send_credit();
        Ok(attachment)
    }

    /// Lets go of the session; what is left is its log.
    pub(crate) fn detach(self) -> LogReader {
        self.log
    }

    /// Types bytes. They go out at once if the cell takes them, else as soon as it does and this is polled.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        let typed = if self.waiting.is_empty() { self.send_input(bytes) } else { 0 };
        self.waiting.extend_from_slice(&bytes[typed..]);
        self.full = self.waiting.len() >= INPUT_WAITING_BYTES_MAX;
    }

    /// Whether more input should be taken from the client now; if not, [`Output::Room`] says when.
    pub(crate) fn takes_input(&self) -> bool {
        !self.full
    }

    /// Gives the session a new size; of several at once the last one counts.
    pub(crate) fn resize(&mut self, size: Size) {
        self.resize = Some(size.clamped());
        self.send_resize();
    }

    /// Waits until a resize is on its way to the cell.
    pub(crate) async fn resized(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_sent(cx, |attachment| attachment.send_resize())).await
    }

    /// As [`Self::poll_output`], for a caller that isn't a poll function. Loses nothing when dropped.
    pub(crate) async fn output(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> Output {
        std::future::poll_fn(|cx| self.poll_output(cx, bytes_max, out)).await
    }

    /// Moves what waits to be sent and what came in, while the client can't take output; so it gives none.
    pub(crate) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        loop {
            if let Poll::Ready(Err(error)) = self.poll_due(cx) {
                return Poll::Ready(Output::Lost(error));
            }
            if self.has_room_again() {
                return Poll::Ready(Output::Room);
            }
            if self.exit.is_some() {
                return Poll::Pending;
            }
            if let Err(error) = ready!(self.poll_packet(cx)) {
                return Poll::Ready(Output::Lost(error));
            }
        }
    }

    /// Gives the client's next output, at most `bytes_max` appended to `out`, and moves the rest of the attachment along.
    /// Credit follows what the client was given, after it was given: not in the way of an echo.
    pub(crate) fn poll_output(&mut self, cx: &mut Context<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Poll<Output> {
        loop {
            if self.grant_is_low()
                && let Poll::Ready(Err(error)) = self.poll_due(cx)
            {
                return Poll::Ready(Output::Lost(error));
            }
            // Before the log: what it holds once the end was announced is all there is.
            let ended = self.exit;
            match self.log.read(self.cursor, bytes_max, out) {
                Ok(0) => {
                    if let Some(exit) = ended {
                        return Poll::Ready(Output::Ended(exit));
                    }
                }
                Ok(count) => {
                    self.cursor += count as u64;
                    return Poll::Ready(Output::Bytes);
                }
                Err(LogError::Overwritten { .. }) => return Poll::Ready(self.skip()),
                Err(error) => return Poll::Ready(Output::Lost(io::Error::other(error))),
            }
            if let Poll::Ready(Err(error)) = self.poll_due(cx) {
                return Poll::Ready(Output::Lost(error));
            }
            if self.has_room_again() {
                return Poll::Ready(Output::Room);
            }
            if let Err(error) = ready!(self.poll_packet(cx)) {
                return Poll::Ready(Output::Lost(error));
            }
        }
    }

    /// Whether too much waited until now.
    fn has_room_again(&mut self) -> bool {
        let room = self.full && self.waiting.len() < INPUT_WAITING_BYTES_MAX;
        self.full &= !room;
        room
    }

    /// Goes on where a client begins that has seen nothing.
    fn skip(&mut self) -> Output {
        match replay::start(&self.log) {
            Ok(start) => {
                let bytes = start.saturating_sub(self.cursor);
                self.cursor = start;
                Output::Skipped { bytes }
            }
            Err(error) => Output::Lost(io::Error::other(error)),
        }
    }

    /// Receives one packet and takes note of it.
    fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut packet = [0; PACKET_BYTES_MAX];
        let length = ready!(self.data.poll_receive(cx, &mut packet))?;
        if length == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the cell ended")));
        }
        match FromCell::decode(&packet[..length]) {
            Ok(FromCell::Wake { taken }) if (self.taken..=self.sent).contains(&taken) => {
                self.taken = taken;
                self.wakes += 1;
            }
            Ok(FromCell::Ended(exit)) => self.exit = Some(exit),
            _ => return Poll::Ready(Err(io::Error::other("the cell sent a malformed data frame"))),
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is due: a size, a credit, input.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx, |attachment| {
            attachment.send_resize() && attachment.send_credit() && attachment.send_waiting()
        })
    }

    /// Repeats `sends` until it says that nothing is left for which the socket has no room.
    fn poll_sent(&mut self, cx: &mut Context<'_>, sends: impl Fn(&mut Self) -> bool) -> Poll<io::Result<()>> {
        while !sends(self) {
            ready!(self.data.poll_room(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn send_resize(&mut self) -> bool {
        let Some(size) = self.resize else { return true };
        let sent = self.send(&ToCell::Resize(size));
        if sent {
            self.resize = None;
        }
        sent
    }

    /// Renews the credit once half of it is used.
    fn send_credit(&mut self) -> bool {
        let few_wakes = self.wakes_upto <= self.wakes + WAKES_MAX / 2;
        if !few_wakes && !self.grant_is_low() {
            return true;
        }
        let (seen, upto) = (self.cursor, self.cursor + self.window);
        let sent = self.send(&ToCell::Credit { seen, upto, wakes: self.wakes });
        if sent {
            (self.wakes_upto, self.upto) = (self.wakes + WAKES_MAX, upto);
        }
        sent
    }

    fn grant_is_low(&self) -> bool {
        self.upto < self.cursor + self.window / 2
    }

    fn send_waiting(&mut self) -> bool {
        if self.waiting.is_empty() {
            return true;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let sent = self.send_input(&waiting);
        self.waiting = waiting;
        self.waiting.drain(..sent);
        // What the cell's window has no room for waits for a wake, not for the socket.
        self.waiting.is_empty() || self.input_room() == 0
    }

    /// Sends as much of `bytes` as the cell's window and the socket take; returns how much that is.
    fn send_input(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let length = (bytes.len() - done).min(INPUT_BYTES_MAX).min(self.input_room());
            let frame = ToCell::Input { client: self.client, seq: self.sent, bytes: &bytes[done..done + length] };
            if length == 0 || !self.send(&frame) {
                break;
            }
            done += length;
            self.sent += length as u64;
        }
        done
    }

    /// How many more bytes of input the cell takes before it says so.
    fn input_room(&self) -> usize {
        INPUT_WINDOW_BYTES.saturating_sub(self.sent - self.taken) as usize
    }

    /// Sends one frame; `false` when the socket has no room.
    fn send(&mut self, frame: &ToCell<'_>) -> bool {
        self.packet.clear();
        frame.encode(&mut self.packet);
        debug_assert!(self.packet.len() <= FRAME_BYTES_MAX);
        self.data.send(&self.packet)
    }
}

#[cfg(test)]
mod tests;
