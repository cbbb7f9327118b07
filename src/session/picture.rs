//! A snapshot on its way to one client: first what the screen lacks is parsed, then it is given in pieces, so that no client
//! costs more than one of them. It doesn't know who gets it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sandbox::control::Size;
use sandbox::log::LogError;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Session;
use super::cursor::Cursor;
use super::view::{Drawing, Piece};

/// Most parts of the log that are parsed before others have a turn.
const PARTS_PER_TURN: usize = 4;

/// A snapshot on its way.
pub(super) struct Painting {
    /// When it may begin.
    pause: Option<Pin<Box<Sleep>>>,
    /// What of the log must be in it.
    from: u64,
    drawing: Option<Drawing>,
    last: Option<Cursor>,
}

/// What comes next of it.
pub(super) enum Stroke {
    /// It begins, or begins anew, with a screen of this size.
    Reset(Size),
    /// Bytes were appended.
    Bytes,
    /// It is complete, and of this place.
    Last(Cursor),
}

impl Painting {
    /// Of the output up to offset `from` at least.
    pub(super) fn begin(from: u64) -> Self {
        Self { pause: None, from, drawing: None, last: None }
    }

    /// As [`Self::begin`], but not before `at`.
    pub(super) fn begin_after(at: Instant, from: u64) -> Self {
        let pause = (at > Instant::now()).then(|| Box::pin(sleep_until(at)));
        Self { pause, ..Self::begin(from) }
    }

    /// Gives the next piece, about `bytes_max` at most.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        session: &Session,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Stroke, LogError>> {
        if let Some(last) = self.last.take() {
            return Poll::Ready(Ok(Stroke::Last(last)));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
            self.from = session.log.head();
        }
        let mut view = session.view();
        let Some(drawing) = &mut self.drawing else {
            for _ in 0..PARTS_PER_TURN {
                if view.advance(&session.log)? || view.offset() >= self.from {
                    let drawing = self.drawing.insert(view.draw());
                    return Poll::Ready(Ok(Stroke::Reset(drawing.size)));
                }
            }
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        match view.piece(drawing, bytes_max, out) {
            Piece::More => {}
            Piece::Last(cursor) if out.is_empty() => return Poll::Ready(Ok(Stroke::Last(cursor))),
            Piece::Last(cursor) => self.last = Some(cursor),
            Piece::Outgrown => {
                let drawing = self.drawing.insert(view.draw());
                return Poll::Ready(Ok(Stroke::Reset(drawing.size)));
            }
        }
        Poll::Ready(Ok(Stroke::Bytes))
    }
}
