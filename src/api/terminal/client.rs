//! One attached WebSocket and the task that serves it: it owns the socket and the attachment and waits on both, so a
//! keystroke and its echo meet no queue and no other task. It doesn't know how either came to be.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sandbox::control::Exit;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::wish::Wish;
use crate::session::{Attachment, Output, Utf8};
use crate::ws::{CloseCode, CloseFrame, OUTPUT_BYTES_MAX, Received, Socket, close};

/// How often a client is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long a client may give none: two answers may be lost, and a laptop's lid be closed for a moment.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An attached WebSocket.
pub(super) struct Client {
    socket: Socket,
    attachment: Attachment,
    wish: Wish,
    utf8: Utf8,
    output: Vec<u8>,
    heard: Instant,
}

/// What a client's task has to do next.
enum Turn {
    Received(Received),
    Output(Output),
    /// The connection failed while it was written to.
    Lost,
}

/// How a client's time ends.
enum End {
    /// We say why.
    Close(CloseFrame),
    /// It said goodbye.
    Closed,
    /// It is gone.
    Lost,
}

impl Client {
    pub(super) fn new(socket: Socket, attachment: Attachment, wish: Wish) -> Self {
        Self { socket, attachment, wish, utf8: Utf8::default(), output: Vec::new(), heard: Instant::now() }
    }

    /// Serves the client until it leaves, its session ends or the server stops.
    pub(super) async fn serve(mut self, stopped: impl Future<Output = ()>) {
        tracing::info!("attached");
        let end = self.relay(stopped).await;
        let Self { socket, attachment, .. } = self;
        // Detached before the goodbyes: a client that lingers there must not pace the session. Unmapping the log can wait: it
        // interrupts other processors, and the session's end is on its way to others too.
        let _log = attachment.detach();
        match end {
            End::Close(frame) => {
                tracing::info!(code = u16::from(frame.code), reason = %frame.reason, "detached");
                socket.close(frame).await;
            }
            End::Closed => {
                tracing::info!("left");
                socket.closed().await;
            }
            End::Lost => tracing::info!("lost"),
        }
    }

    async fn relay(&mut self, stopped: impl Future<Output = ()>) -> End {
        let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let ended = tokio::select! {
                biased;
                () = stopped.as_mut() => Err(End::Close(close(CloseCode::Restart, "server is restarting"))),
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
            Poll::Ready(Ok(())) => {
                self.attachment.poll_output(cx, OUTPUT_BYTES_MAX, &mut self.output).map(Turn::Output)
            }
            Poll::Ready(Err(_)) => Poll::Ready(Turn::Lost),
            Poll::Pending => self.attachment.poll_input(cx).map(Turn::Output),
        }
    }

    fn take(&mut self, turn: Turn) -> std::result::Result<Pace, End> {
        match turn {
            Turn::Received(received) => self.receive(received).map(|()| Pace::On),
            Turn::Output(output) => self.put_out(output),
            Turn::Lost => Err(End::Lost),
        }
    }

    fn receive(&mut self, received: Received) -> std::result::Result<(), End> {
        self.heard = Instant::now();
        match received {
            Received::Message(bytes) => self.type_in(&bytes),
            Received::Control => {}
            Received::Closed => return Err(End::Closed),
            Received::Refused(frame) => return Err(End::Close(frame)),
            Received::Lost => return Err(End::Lost),
        }
        Ok(())
    }

    fn type_in(&mut self, bytes: &Bytes) {
        self.attachment.input(bytes);
        if self.wish.lines && !bytes.ends_with(b"\n") && !bytes.ends_with(b"\r") {
            // What Enter sends.
            self.attachment.input(b"\r");
        }
    }

    fn put_out(&mut self, output: Output) -> std::result::Result<Pace, End> {
        match output {
            Output::Bytes => {
                let whole = self.output.len() == OUTPUT_BYTES_MAX;
                let bytes = std::mem::take(&mut self.output);
                self.send(bytes)?;
                Ok(if whole { Pace::Yield } else { Pace::On })
            }
            Output::Room => Ok(Pace::On),
            Output::Skipped { bytes } => {
                // CAN ends whatever escape sequence the gap cut in two.
                let notice = format!("\x18\x1b[0m\r\n[{bytes} bytes of output skipped]\r\n");
                self.utf8 = Utf8::default();
                self.send(notice.into_bytes())?;
                Ok(Pace::On)
            }
            Output::Ended(exit) => {
                let rest = self.utf8.end();
                // A character that never came whole is the last that can fail to arrive.
                let sent = if rest.is_empty() { Ok(()) } else { self.socket.send_text(rest) };
                sent.map_err(|_| End::Lost)?;
                Err(End::Close(close(CloseCode::Normal, &farewell(exit))))
            }
            Output::Lost(error) => {
                tracing::info!(%error, "the session is lost");
                Err(End::Close(close(CloseCode::Error, "the cell ended")))
            }
        }
    }

    fn send(&mut self, bytes: Vec<u8>) -> std::result::Result<(), End> {
        let sent = if self.wish.binary {
            self.socket.send_binary(bytes)
        } else {
            match self.utf8.text(bytes) {
                text if text.is_empty() => Ok(()),
                text => self.socket.send_text(text),
            }
        };
        sent.map_err(|_| End::Lost)
    }

    fn ask_for_life(&mut self) -> std::result::Result<Pace, End> {
        if !self.attachment.takes_input() {
            // It isn't listened to at the moment; a peer that is gone is noticed by TCP, as pings pile up.
            self.heard = Instant::now();
        }
        if self.heard.elapsed() > SILENCE_MAX {
            tracing::info!("gave no sign of life");
            return Err(End::Lost);
        }
        self.socket.ping().map(|()| Pace::On).map_err(|_| End::Lost)
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
