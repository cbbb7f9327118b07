//! This side: what is typed, and what happens to this terminal, while the other side is waited for.

use std::task::{Context, Poll};

use super::end::End;
use super::kept::Kept;
use super::keys::DetachKeys;
use crate::tty::{Event, Events, Input, Raw};

/// What is here; it outlives connections.
#[derive(Debug)]
pub(super) struct Near {
    pub(super) raw: Raw,
    pub(super) input: Input,
    pub(super) events: Events,
    pub(super) keys: DetachKeys,
}

impl Near {
    /// Waits until the `far` side is ready; what happens here goes into `kept`, or is the end.
    pub(super) async fn until<T>(
        &mut self,
        kept: &mut Kept,
        connected: bool,
        mut far: impl FnMut(&mut Context<'_>, &mut Kept) -> Poll<T>,
    ) -> Result<T, End> {
        // A pipe's end is typed again and again, which is of no use as long as nobody can have heard of the first one.
        let listens = connected || !self.input.is_piped();
        loop {
            tokio::select! {
                biased;
                event = self.events.next() => self.take(event, kept)?,
                done = std::future::poll_fn(|cx| far(cx, kept)) => return Ok(done),
                piece = self.input.next(), if listens && kept.typed.has_room() => {
                    let (bytes, detached) = self.keys.typed(&piece.ok_or(End::Signalled(1))?);
                    kept.typed(&bytes);
                    if detached {
                        return Err(End::Detached);
                    }
                }
                held = self.keys.given_up() => kept.typed(&held),
            }
        }
    }

    fn take(&mut self, event: Event, kept: &mut Kept) -> Result<(), End> {
        match event {
            Event::Ended(signal) => return Err(End::Signalled(signal)),
            // Without the terminal there is nothing to bring back, and a signal comes next.
            Event::Continued => drop(self.raw.enter_again()),
            Event::Resized => {}
        }
        kept.look_at_size();
        Ok(())
    }
}
