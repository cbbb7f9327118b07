//! A WebSocket with one session, and the task that serves it: it owns the socket and the attachment and waits on both, so a
//! keystroke and its echo meet no queue and no other task. It doesn't know how either came to be, nor what is spoken: a
//! dialect does.

use std::task::{Context, Poll};

use sandbox::control::Exit;

use super::dialect::{Dialect, Said, Words};
use super::pulse::{End, Pulse};
use crate::session::{Attachment, Output};
use crate::ws::{CloseCode, Message, OUTPUT_BYTES_MAX, Received, Socket, close};

/// A WebSocket with one session.
pub(super) struct Client {
    socket: Socket,
    attachment: Attachment,
    dialect: Box<dyn Dialect>,
    /// What is to be sent before any output.
    words: Words,
    output: Vec<u8>,
    pulse: Pulse,
}

/// What a client's task has to do next.
enum Turn {
    Received(Received),
    Output(Output),
    /// Something of the dialect's own is to be sent.
    Words,
    /// The connection failed while it was written to.
    Lost,
}

impl Client {
    /// Boxed, since a task keeps room for every place that a value is moved through.
    pub(super) fn new(socket: Socket, attachment: Attachment, mut dialect: Box<dyn Dialect>) -> Box<Self> {
        let words = dialect.greeting();
        Box::new(Self { socket, attachment, dialect, words, output: Vec::new(), pulse: Pulse::default() })
    }

    /// Serves the client until it leaves, its session ends or the server stops.
    pub(super) async fn serve(mut self: Box<Self>, stopped: impl Future<Output = ()>) {
        let end = self.relay(stopped).await;
        let Self { socket, attachment, .. } = *self;
        // Detached before the goodbyes: a client that lingers there must not pace the session. Unmapping the log can wait: it
        // interrupts other processors, and the session's end is on its way to others too.
        let _log = attachment.detach();
        Box::pin(end.say(socket)).await;
    }

    async fn relay(&mut self, stopped: impl Future<Output = ()>) -> End {
        let mut ping = Pulse::pings();
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let ended = tokio::select! {
                biased;
                () = stopped.as_mut() => Err(End::restarting()),
                turn = std::future::poll_fn(|cx| self.poll_turn(cx)) => self.take(turn),
                _ = ping.tick() => self.ask_for_life(),
            };
            match ended {
                Ok(Pace::On) => {}
                // A whole message's worth: there may be more where it came from, and others want a turn.
                Ok(Pace::Yield) => tokio::task::yield_now().await,
                Err(end) => return end,
            }
        }
    }

    /// What to do next. What is typed comes first: ^C must overtake a flood.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.attachment.takes_input()
            && let Poll::Ready(received) = self.socket.poll_receive(cx)
        {
            return Poll::Ready(Turn::Received(received));
        }
        match self.socket.poll_flushed(cx) {
            Poll::Ready(Ok(())) if !self.words.is_empty() => Poll::Ready(Turn::Words),
            Poll::Ready(Ok(())) if self.dialect.takes_output() => {
                self.output.extend_from_slice(self.dialect.head());
                let bytes_max = OUTPUT_BYTES_MAX - self.output.len();
                let output = self.attachment.poll_output(cx, bytes_max, &mut self.output);
                if !matches!(output, Poll::Ready(Output::Bytes { .. } | Output::Picture)) {
                    self.output.clear();
                }
                output.map(Turn::Output)
            }
            Poll::Ready(Err(_)) => Poll::Ready(Turn::Lost),
            _ => self.attachment.poll_input(cx).map(Turn::Output),
        }
    }

    fn take(&mut self, turn: Turn) -> std::result::Result<Pace, End> {
        match turn {
            Turn::Received(received) => self.receive(received).map(|()| Pace::On),
            Turn::Output(output) => self.put_out(output),
            Turn::Words => self.say_next().map(|()| Pace::On),
            Turn::Lost => Err(End::Lost),
        }
    }

    fn receive(&mut self, received: Received) -> std::result::Result<(), End> {
        self.pulse.heard();
        match received {
            Received::Text(bytes) | Received::Binary(bytes) => match self.dialect.hear(&bytes).map_err(End::Close)? {
                Said::Input(bytes) => self.attachment.input(&bytes),
                Said::Size(size) => self.attachment.resize(size),
                Said::Nothing => {}
            },
            Received::Control => {}
            Received::Closed => return Err(End::Closed),
            Received::Refused(frame) => return Err(End::Close(frame)),
            Received::Lost => return Err(End::Lost),
        }
        Ok(())
    }

    fn put_out(&mut self, output: Output) -> std::result::Result<Pace, End> {
        match output {
            Output::Bytes { .. } | Output::Picture => {
                let whole = self.output.len() == OUTPUT_BYTES_MAX;
                let message = self.dialect.output(std::mem::take(&mut self.output));
                self.send(message)?;
                self.attachment.sent();
                Ok(if whole { Pace::Yield } else { Pace::On })
            }
            Output::Room => Ok(Pace::On),
            Output::Reset(size) => {
                let message = self.dialect.reset(size);
                self.send(message).map(|()| Pace::On)
            }
            Output::Resized(size) => {
                let message = self.dialect.resized(size);
                self.send(message).map(|()| Pace::On)
            }
            Output::Painted { .. } => Ok(Pace::On),
            Output::Ended(exit) => {
                self.words.extend(self.dialect.farewell(exit));
                // What doesn't go out at once is the last that can fail to arrive.
                while !self.words.is_empty() {
                    self.say_next()?;
                }
                let reason = self.attachment.session().farewell().map_or_else(|| farewell(exit), str::to_owned);
                Err(End::Close(close(CloseCode::Normal, &reason)))
            }
            Output::Lost(error) => {
                tracing::info!(%error, "the session is lost");
                let reason = self.attachment.session().farewell().unwrap_or("the cell ended");
                Err(End::Close(close(CloseCode::Error, reason)))
            }
        }
    }

    /// Sends the next of the dialect's own words.
    fn say_next(&mut self) -> std::result::Result<(), End> {
        let word = self.words.pop_front();
        self.send(word)
    }

    fn send(&mut self, message: Option<Message>) -> std::result::Result<(), End> {
        message.map_or(Ok(()), |message| self.socket.send(message)).map_err(|_| End::Lost)
    }

    fn ask_for_life(&mut self) -> std::result::Result<Pace, End> {
        if !self.attachment.takes_input() {
            // It isn't listened to at the moment; a peer that is gone is noticed by TCP, as pings pile up.
            self.pulse.heard();
        }
        self.pulse.ask(&mut self.socket).map(|()| Pace::On)
    }
}

/// Whether to go on at once or let others have a turn.
enum Pace {
    On,
    Yield,
}

/// The reason in the close frame of a session that ended.
fn farewell(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}"),
    }
}
