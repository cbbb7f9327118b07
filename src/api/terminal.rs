//! `/ws/terminal/<project>/`: a terminal over a WebSocket, in plain mode: a message in is typed, output comes out.
//!
//! One task serves a client from the upgrade to the close: it owns the WebSocket and the attachment and waits on both, so
//! a keystroke and its echo meet no queue and no other task. `docs/protocol.md` says what is spoken.

use std::task::{Context as Waker, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use sandbox::control::{Exit, SessionName, Size};
use sandbox::spec::ProjectId;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::Instrument;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::projects::respond;
use super::reject::{Refusal, Result};
use super::sessions::session_name;
use super::{Context, Query, Request, project_id, request};
use crate::accept::Connection;
use crate::project;
use crate::session::{Attachment, Output, Utf8};
use crate::ws::{CloseCode, CloseFrame, Handshake, OUTPUT_BYTES_MAX, Received, Socket, close};

/// How often a client is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long a client may give none: two answers may be lost, and a laptop's lid be closed for a moment.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The routes, with and without the last slash.
pub(crate) fn terminal(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!("ws" / "terminal" / String / ..)
        .and(warp::path::end())
        .and(warp::get())
        .and(request(context))
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::ext::get::<Connection>())
        .then(async |id, request, upgrade, connection| respond(attach(id, request, upgrade, connection).await))
        .boxed()
}

/// Finds the session and promises the upgrade. Whatever fails does so here, where there is a status to say it with.
async fn attach(
    id: String,
    request: Result<Request>,
    upgrade: Option<OnUpgrade>,
    connection: Connection,
) -> Result<Response> {
    let Request { context, headers, query, .. } = request?;
    let id = project_id(&id)?;
    let wish = Wish::parse(&query)?;
    let exists = context.projects.exists(&id)?;
    if !exists && !context.create_projects {
        return Err(project::Error::NotFound(id).into());
    }
    let handshake = Handshake::check(&headers)?;
    let upgrade =
        upgrade.ok_or_else(|| Refusal::Malformed("HTTP/1.1 is needed to upgrade to a WebSocket".to_owned()))?;
    if context.stop.is_cancelled() {
        return Err(Refusal::Stopping);
    }
    if !exists {
        create(&context, &id)?;
    }
    let opened = context.projects.attach(&id, &wish.session, wish.size.unwrap_or(Size::DEFAULT), &[]).await?;
    let mut attachment = opened.attachment;
    if let Some(size) = wish.size.filter(|size| *size != opened.size) {
        attachment.resize(size);
    }
    let span = tracing::info_span!("client", project = %id, session = %wish.session, peer = %connection.peer);
    let stop = context.stop.clone();
    context.clients.spawn(
        async move {
            match Socket::upgraded(upgrade).await {
                Ok(socket) => Client::new(socket, attachment, wish).serve(stop.child_token().cancelled_owned()).await,
                Err(error) => tracing::debug!(%error, "gone before the upgrade"),
            }
            // Counts as a connection for as long as it lasts.
            drop(connection);
        }
        .instrument(span),
    );
    Ok(handshake.response())
}

fn create(context: &Context, id: &ProjectId) -> Result<()> {
    match context.projects.create(id, None) {
        // Another client was first.
        Err(project::Error::Exists(_)) => Ok(()),
        created => Ok(created?),
    }
}

/// What a client wishes, by the query.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    session: SessionName,
    size: Option<Size>,
    /// Output as binary messages, not as text.
    binary: bool,
    /// Each message is a line: Enter is pressed behind it.
    lines: bool,
}

impl Wish {
    fn parse(query: &Query) -> Result<Self> {
        let malformed = |reason: String| Err(Refusal::Malformed(reason));
        let (mut session, mut cols, mut rows, mut frames, mut input) = (None, None, None, None, None);
        for (key, value) in query {
            let place = match key.as_str() {
                "session" => &mut session,
                "cols" => &mut cols,
                "rows" => &mut rows,
                "frames" => &mut frames,
                "input" => &mut input,
                _ => {
                    return malformed(format!(
                        "unknown query key `{key}`; known are session, cols, rows, frames, input, token"
                    ));
                }
            };
            if place.replace(value.as_str()).is_some() {
                return malformed(format!("query key `{key}` comes twice"));
            }
        }
        let number = |name: &str, value: Option<&str>, default: u16| match value.map(str::parse::<u16>) {
            None => Ok(default),
            Some(Ok(number)) => Ok(number),
            Some(Err(_)) => Err(Refusal::Malformed(format!("{name} must be a number, is {value:?}"))),
        };
        let Size { cols: usual_cols, rows: usual_rows } = Size::DEFAULT;
        let some = cols.or(rows).is_some();
        let asked = size(number("cols", cols, usual_cols)?, number("rows", rows, usual_rows)?)?;
        let binary = match frames {
            None | Some("text") => false,
            Some("binary") => true,
            Some(other) => return malformed(format!("frames must be text or binary, is {other:?}")),
        };
        let lines = match input {
            None | Some("keys") => false,
            Some("line") => true,
            Some(other) => return malformed(format!("input must be keys or line, is {other:?}")),
        };
        let session = session.map_or_else(|| Ok(SessionName::main()), session_name)?;
        Ok(Self { session, size: some.then_some(asked), binary, lines })
    }
}

/// A terminal's size as a client gave it.
pub(super) fn size(cols: u16, rows: u16) -> Result<Size> {
    let size = Size { cols, rows };
    if size == size.clamped() {
        Ok(size)
    } else {
        Err(Refusal::Malformed("cols and rows must be 1 to 2000".to_owned()))
    }
}

/// An attached WebSocket.
struct Client {
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
    fn new(socket: Socket, attachment: Attachment, wish: Wish) -> Self {
        Self { socket, attachment, wish, utf8: Utf8::default(), output: Vec::new(), heard: Instant::now() }
    }

    /// Serves the client until it leaves, its session ends or the server stops.
    async fn serve(mut self, stopped: impl Future<Output = ()>) {
        tracing::info!("attached");
        let end = self.relay(stopped).await;
        let Self { socket, attachment, .. } = self;
        // Detached before the goodbyes: a client that lingers there must not pace the session.
        drop(attachment);
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
    fn poll_turn(&mut self, cx: &mut Waker<'_>) -> Poll<Turn> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> std::result::Result<Wish, String> {
        let query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Wish::parse(&query).map_err(|refusal| match refusal {
            Refusal::Malformed(reason) => reason,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn without_wishes_it_is_the_main_session_in_text() {
        let wish = Wish { session: SessionName::main(), size: None, binary: false, lines: false };
        assert_eq!(parse(&[]), Ok(wish.clone()));
        assert_eq!(parse(&[("frames", "text"), ("input", "keys"), ("session", "main")]), Ok(wish));
    }

    #[test]
    fn wishes_are_taken() {
        let wish = parse(&[("session", "a_B-1"), ("cols", "100"), ("frames", "binary"), ("input", "line")]).unwrap();
        assert_eq!((wish.session.as_str(), wish.binary, wish.lines), ("a_B-1", true, true));
        assert_eq!(wish.size, Some(Size { cols: 100, rows: 24 }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, says) in [
            ("colums", "80", "unknown query key `colums`; known are session, cols"),
            ("cols", "", "cols must be a number"),
            ("cols", "-1", "cols must be a number"),
            ("cols", "65536", "cols must be a number"),
            ("rows", "0", "1 to 2000"),
            ("cols", "2001", "1 to 2000"),
            ("frames", "Binary", "frames must be text or binary"),
            ("input", "lines", "input must be keys or line"),
            ("session", "a b", "session \"a b\": a name is"),
            ("session", "", "a name is"),
        ] {
            let reason = parse(&[(key, value)]).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
        assert_eq!(parse(&[("cols", "80"), ("cols", "80")]), Err("query key `cols` comes twice".to_owned()));
    }
}
