//! One client's hold on a session: a cursor into the session's log and a data socket of its own to the cell.
//!
//! The client's task owns it and waits on it beside the client: what is typed goes straight to the cell, a wake comes
//! straight back, output is copied out of shared memory. First, late, slow and returning clients differ only in where they
//! go on: at an offset that the log still has, or behind a snapshot. What comes from the cell is hostile: at worst this
//! client loses its session. It doesn't know what the client speaks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sandbox::control::{Exit, FRAME_BYTES_MAX, FromCell, INPUT_BYTES_MAX, INPUT_WINDOW_BYTES, Size, ToCell, WAKES_MAX};
use sandbox::log::{Event, LogError, OFFSET_MAX};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Session;
use super::cursor::{Cursor, Next};
use super::data::Data;
use super::echo::Echo;
use super::picture::{Painting, Stroke};
use crate::metrics::metrics;
use crate::wire::{Member, Role, UNACKED_BYTES_MAX};

/// How far the cell may write ahead of this client, in bytes: enough that a fast client never waits for the cell, and at
/// most an eighth of a second of output for one that takes 2 MB/s, so that ^C shows soon.
const OUTPUT_WINDOW_BYTES: u64 = UNACKED_BYTES_MAX;

/// How far behind others a client may be before a snapshot is better than all that it missed, in bytes.
const LAG_BYTES_MAX: u64 = 2 * OUTPUT_WINDOW_BYTES;

/// How much output that the terminal has thrown away, as it does for ^C, is sent all the same, in bytes.
const FLUSHED_BYTES_MAX: u64 = 8 * 1024;

/// How often a client that falls behind gets a snapshot at most.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(30);

/// Most input kept for a program that doesn't read, in bytes; beyond it the client isn't read either.
const INPUT_WAITING_BYTES_MAX: usize = 64 * 1024;

/// Larger than any frame from a cell, so that a longer packet is seen to be malformed.
const PACKET_BYTES_MAX: usize = 32;

/// What a client holds a session by, as it came from the cell.
#[derive(Debug)]
pub(crate) struct Hold {
    /// What all of the session's clients share.
    pub(crate) session: Arc<Session>,
    /// A data socket.
    pub(crate) data: OwnedFd,
    /// The session's present size.
    pub(crate) size: Size,
    /// How many bytes of the client's input had arrived in the cell.
    pub(crate) typed: u64,
}

/// Who attaches.
#[derive(Debug)]
pub(crate) struct Who {
    /// Tells its input from others', over all of its connections.
    pub(crate) client: u64,
    /// What it may do.
    pub(crate) role: Role,
    /// Its own terminal's size, if it has one.
    pub(crate) size: Option<Size>,
    /// Rings when there is news of the session.
    pub(crate) bell: Arc<Notify>,
    /// What it is to the session.
    pub(crate) presence: Presence,
}

/// What a client is to a session: by what it paces the program, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The program waits until the client says that it has parsed its output.
    Acking,
    /// The program waits until the client was given its output.
    Reading,
    /// Nothing waits for the client and nobody sees it: it gets what it can, and a snapshot for the rest.
    Unseen,
}

/// Where a client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It has seen nothing.
    Snapshot,
    /// It has all before this offset.
    Resume(u64),
}

/// What there is for the client.
#[derive(Debug)]
pub(crate) enum Output {
    /// Bytes were appended to the buffer, output from this offset on.
    Bytes {
        /// Of the first of them.
        offset: u64,
    },
    /// The terminal has this size from here on.
    Resized(Size),
    /// A snapshot begins: whatever the client shows is to be forgotten, and its terminal to have this size.
    Reset(Size),
    /// Bytes were appended to the buffer, a part of the snapshot.
    Picture,
    /// The snapshot is complete; output goes on here.
    Painted {
        /// Offset of the next byte.
        offset: u64,
    },
    /// Nothing, but more input may be taken from the client again.
    Room,
    /// The program ended and the client has had all of its output.
    Ended(Exit),
    /// The cell ended or broke the protocol.
    Lost(io::Error),
}

/// A client's hold on a session. Dropping it detaches the client; the session goes on.
pub(crate) struct Attachment {
    session: Arc<Session>,
    data: Data,
    /// Tells this client from the session's others; 0 if it is none of them.
    id: u64,
    role: Role,
    presence: Presence,
    cursor: Cursor,
    /// A snapshot on its way; the cursor means nothing meanwhile.
    painting: Option<Painting>,
    /// When the next snapshot may begin.
    rested: Instant,
    /// What the client came back for is sent to it, however much it is.
    owed_until: u64,
    /// Up to where the client has parsed its output, if it says so.
    acked: Option<u64>,
    /// From where on the cell may write a window ahead.
    base: u64,
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
    /// Whose input this is, and how many bytes of it had arrived before this hold.
    client: u64,
    typed_before: u64,
    /// As whom the client's terminal answers, and how many bytes it has.
    answerer: u64,
    answered: u64,
    /// Input bytes sent, and of these and the answers taken by the terminal.
    sent: u64,
    taken: u64,
    exit: Option<Exit>,
    packet: Vec<u8>,
    echo: Echo,
}

impl Hold {
    /// Gives the session a size whoever leads, and waits until that is on its way.
    pub(crate) async fn impose(self, size: Size) -> io::Result<()> {
        let mut data = Data::new(self.data)?;
        self.session.clients.impose(size);
        self.session.activity.stir();
        let mut packet = Vec::new();
        ToCell::Resize(size).encode(&mut packet);
        while !data.send(&packet) {
            std::future::poll_fn(|cx| data.poll_room(cx)).await?;
        }
        Ok(())
    }
}

impl Attachment {
    /// Attaches a client by what came from the cell, after checking that.
    pub(crate) fn new(hold: Hold, start: Start, who: Who) -> io::Result<Self> {
        let Hold { session, data, size: present, typed } = hold;
        let data = Data::new(data)?;
        if typed > OFFSET_MAX {
            return Err(io::Error::other("the cell has had more input than there can be"));
        }
        let head = session.log.head();
        let (cursor, painting) = match start {
            Start::Resume(offset) if (session.log.oldest()..=head).contains(&offset) => {
                (Cursor::at(offset, &session.log).0, None)
            }
            _ => (Cursor::default(), Some(Painting::begin(head))),
        };
        let base = if painting.is_some() { head } else { cursor.offset() };
        let window = OUTPUT_WINDOW_BYTES.min(session.log.ring_bytes() / 2);
        let (id, size) = match who.presence {
            Presence::Unseen => (0, None),
            _ => session.clients.join(present, who.role, who.size, who.bell),
        };
        let mut attachment = Self {
            data,
            id,
            role: who.role,
            presence: who.presence,
            cursor,
            painting,
            rested: Instant::now(),
            owed_until: head,
            acked: (who.presence == Presence::Acking).then_some(base),
            base,
            wakes: 0,
            wakes_upto: 0,
            upto: 0,
            window,
            resize: size,
            waiting: Vec::new(),
            full: false,
            client: who.client,
            typed_before: typed,
            answerer: random()?,
            answered: 0,
            sent: 0,
            taken: 0,
            exit: None,
            packet: Vec::with_capacity(64),
            echo: Echo::default(),
            session,
        };
        // Already now: a new session's first prompt needn't wait until the client is ready for it.
        attachment.send_credit();
        attachment.send_resize();
        Ok(attachment)
    }

    /// Lets go of the session; what is left is what others may hold too.
    pub(crate) fn detach(self) -> Arc<Session> {
        self.session.clone()
    }

    /// The session.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Tells this client from the session's others.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Who is attached, and who leads; changes with [`Session::generation`].
    pub(crate) fn members(&self) -> (Option<u64>, Vec<Member>) {
        let leader = self.session.clients.leader();
        ((leader != 0).then_some(leader), self.session.clients.members())
    }

    /// Types bytes. They go out at once if the cell takes them, else as soon as it does and this is polled. A viewer's are
    /// dropped.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        if self.role == Role::Viewer {
            return;
        }
        self.echo.typed(self.session.log.head());
        self.resize = self.session.clients.lead(self.id).or(self.resize);
        self.send_resize();
        let typed = if self.waiting.is_empty() { self.send_input(bytes) } else { 0 };
        self.waiting.extend_from_slice(&bytes[typed..]);
        self.full = self.waiting.len() >= INPUT_WAITING_BYTES_MAX;
    }

    /// What the client was given is on its way.
    pub(crate) fn sent(&mut self) {
        self.echo.sent(self.cursor.offset());
    }

    /// Types what the client's terminal answers to a program. Only the leader's does, and what finds no room is dropped:
    /// whoever asked asks again or goes on.
    pub(crate) fn answer(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        if self.role == Role::Viewer
            || self.session.clients.leader() != self.id
            || !self.waiting.is_empty()
            || length > self.input_room()
        {
            return;
        }
        if length <= INPUT_BYTES_MAX && self.send(&ToCell::Input { client: self.answerer, seq: self.answered, bytes }) {
            self.answered += length as u64;
        }
    }

    /// How many bytes of the client's input were taken from it, over all of its connections: the next one's number.
    pub(crate) fn next_seq(&self) -> u64 {
        self.typed_before + self.sent + self.waiting.len() as u64
    }

    /// How many of them have arrived, so that they aren't lost with this server.
    pub(crate) fn typed(&self) -> u64 {
        self.typed_before + self.taken.saturating_sub(self.answered).min(self.sent)
    }

    /// Whether more input should be taken from the client now; if not, [`Output::Room`] says when.
    pub(crate) fn takes_input(&self) -> bool {
        !self.full
    }

    /// The client has parsed its output up to an offset; `false` if it was never sent that much.
    pub(crate) fn ack(&mut self, offset: u64) -> bool {
        if self.painting.is_some() {
            // It is of what came before the snapshot.
            return true;
        }
        if offset > self.cursor.offset() {
            return false;
        }
        if let Some(acked) = &mut self.acked {
            *acked = offset.max(*acked);
            self.base = self.base.max(*acked);
        }
        true
    }

    /// The client is to get a snapshot, whatever it has.
    pub(crate) fn start_over(&mut self) {
        self.begin_painting();
    }

    /// The client's own terminal has a new size. The session gets it if this client leads.
    pub(crate) fn resize(&mut self, size: Size) {
        self.resize = self.session.clients.resize(self.id, size.clamped()).or(self.resize);
        self.send_resize();
    }

    /// Gives the session a size whoever leads.
    pub(crate) fn impose(&mut self, size: Size) {
        self.session.clients.impose(size);
        self.resize = Some(size);
        self.send_resize();
    }

    /// As [`Self::poll_output`], for a caller that isn't a poll function. Loses nothing when dropped.
    pub(crate) async fn output(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> Output {
        std::future::poll_fn(|cx| self.poll_output(cx, bytes_max, out)).await
    }

    /// Moves what waits to be sent and what came in, while the client can't take output; so it gives none.
    pub(crate) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        loop {
            if let Some(output) = ready!(self.poll_rest(cx)) {
                return Poll::Ready(output);
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
            match self.next(cx, bytes_max, out) {
                Ok(Some(output)) => return Poll::Ready(output),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Output::Lost(io::Error::other(error))),
            }
            if let Some(exit) = ended
                && self.painting.is_none()
                && self.cursor.offset() == self.session.log.head()
            {
                return Poll::Ready(Output::Ended(exit));
            }
            if let Some(output) = ready!(self.poll_rest(cx)) {
                return Poll::Ready(output);
            }
        }
    }

    /// Moves along what isn't output; `None` once something was moved, after which there may be some.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Output>> {
        if let Poll::Ready(Err(error)) = self.poll_due(cx) {
            return Poll::Ready(Some(Output::Lost(error)));
        }
        if self.has_room_again() {
            return Poll::Ready(Some(Output::Room));
        }
        if self.exit.is_some() {
            return Poll::Pending;
        }
        Poll::Ready(ready!(self.poll_packet(cx)).err().map(Output::Lost))
    }

    /// What comes next for the client, if anything does.
    fn next(&mut self, cx: &mut Context<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Result<Option<Output>, LogError> {
        if self.painting.is_none() && self.is_behind() {
            self.skip();
        }
        if let Some(painting) = &mut self.painting {
            return match painting.poll(cx, &self.session, bytes_max, out) {
                Poll::Ready(stroke) => Ok(Some(self.painted(stroke?))),
                Poll::Pending => Ok(None),
            };
        }
        let offset = self.cursor.offset();
        let unacked = self.acked.map_or(0, |acked| offset.saturating_sub(acked));
        let room = usize::try_from(UNACKED_BYTES_MAX.saturating_sub(unacked)).unwrap_or(usize::MAX);
        if room == 0 {
            return Ok(None);
        }
        match self.cursor.next(&self.session.log, bytes_max.min(room), out) {
            Ok(Next::Bytes(_)) => {
                self.session.touch();
                if self.acked.is_none() {
                    self.base = self.cursor.offset();
                }
                Ok(Some(Output::Bytes { offset }))
            }
            Ok(Next::Event(Event::Resized(size))) => Ok(Some(Output::Resized(size))),
            Ok(Next::Event(Event::Flushed)) => {
                // One a turn: a hostile cell has the next one there whenever it is looked for.
                cx.waker().wake_by_ref();
                Ok(None)
            }
            Ok(Next::Nothing) => Ok(None),
            Err(LogError::Overwritten { .. }) => {
                self.skip();
                self.next(cx, bytes_max, out)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a snapshot is better than what lies ahead.
    fn is_behind(&mut self) -> bool {
        self.cursor.look_ahead(&self.session.log);
        let offset = self.cursor.offset();
        let flushed = self.cursor.flush_ahead().is_some_and(|flush| flush.saturating_sub(offset) > FLUSHED_BYTES_MAX);
        let lagging = self.session.log.head().saturating_sub(offset) > LAG_BYTES_MAX.max(2 * self.window);
        flushed || lagging && offset >= self.owed_until
    }

    /// Goes on behind a snapshot, since the client can't have all that it missed.
    fn skip(&mut self) {
        if self.presence != Presence::Unseen {
            metrics().client_skips.inc();
        }
        self.begin_painting();
    }

    fn begin_painting(&mut self) {
        let head = self.session.log.head();
        self.base = head;
        self.painting = Some(Painting::begin_after(self.rested, head));
    }

    fn painted(&mut self, stroke: Stroke) -> Output {
        match stroke {
            Stroke::Reset(size) => Output::Reset(size),
            Stroke::Bytes => Output::Picture,
            Stroke::Last(cursor) => {
                self.painting = None;
                self.rested = Instant::now() + SNAPSHOT_EVERY;
                self.base = cursor.offset();
                self.owed_until = 0;
                self.acked = self.acked.map(|_| cursor.offset());
                self.cursor = cursor;
                Output::Painted { offset: self.base }
            }
        }
    }

    /// Whether too much waited until now.
    fn has_room_again(&mut self) -> bool {
        let room = self.full && self.waiting.len() < INPUT_WAITING_BYTES_MAX;
        self.full &= !room;
        room
    }

    /// Receives one packet and takes note of it.
    fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut packet = [0; PACKET_BYTES_MAX];
        let length = ready!(self.data.poll_receive(cx, &mut packet))?;
        if length == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the cell ended")));
        }
        match FromCell::decode(&packet[..length]) {
            Ok(FromCell::Wake { taken }) if (self.taken..=self.sent + self.answered).contains(&taken) => {
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
        let seen = if self.painting.is_some() { self.base } else { self.cursor.offset() };
        let upto = if self.paces() { self.base + self.window } else { 0 };
        let sent = self.send(&ToCell::Credit { seen, upto, wakes: self.wakes });
        if sent {
            (self.wakes_upto, self.upto) = (self.wakes + WAKES_MAX, upto);
        }
        sent
    }

    fn grant_is_low(&self) -> bool {
        self.paces() && self.upto < self.base + self.window / 2
    }

    fn paces(&self) -> bool {
        self.presence != Presence::Unseen
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
            let seq = self.typed_before + self.sent;
            let frame = ToCell::Input { client: self.client, seq, bytes: &bytes[done..done + length] };
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
        INPUT_WINDOW_BYTES.saturating_sub(self.sent + self.answered - self.taken) as usize
    }

    /// Sends one frame; `false` when the socket has no room.
    fn send(&mut self, frame: &ToCell<'_>) -> bool {
        self.packet.clear();
        frame.encode(&mut self.packet);
        debug_assert!(self.packet.len() <= FRAME_BYTES_MAX);
        let sent = self.data.send(&self.packet);
        // Behind what waits in the socket, so that a frozen cell finds it there once it goes on. A credit changes nothing for one.
        if !matches!(frame, ToCell::Credit { .. }) {
            self.session.activity.stir();
        }
        sent
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // The next leader may have another size.
        if self.presence != Presence::Unseen
            && let Some(size) = self.session.clients.leave(self.id)
        {
            self.send(&ToCell::Resize(size));
        }
    }
}

/// A number that nobody else has.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests;
