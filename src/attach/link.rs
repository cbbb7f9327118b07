//! One connection to a session: opened, relayed to this terminal until it ends, and what its end means.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandbox::control::Size;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::keys::DetachKeys;
use super::target::{Opened, Target};
use crate::tty::{Event, Events, Input, Output, PIPE_SIGNAL, Raw, size};

/// Longest silence of a server, which sends a ping every 20 s: beyond it the link is lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Longest wait for the last words of a connection.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Largest message from the server in bytes, several times what it sends.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Why a link couldn't be opened.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody answers: it may be different soon.
    Unreachable(String),
    /// The server said no.
    Refused(String),
}

/// Why a link ended.
#[derive(Debug)]
pub(super) enum End {
    /// The session's program ended with this status, a signal counted as a shell does.
    Exited(u8),
    /// The keys were typed.
    Detached,
    /// This process was asked to end by a signal.
    Signalled(u8),
    /// The connection broke, or the server restarts: it may be opened again.
    Lost(String),
    /// The server ended it for good, or standard output is gone.
    Failed(String),
}

impl End {
    /// Standard output takes no more.
    pub(super) fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Signalled(PIPE_SIGNAL),
            _ => Self::Failed(format!("write to standard output: {error}")),
        }
    }
}

/// What a relay needs of this terminal; it outlives links.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) raw: Raw,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) events: Events,
    pub(super) keys: DetachKeys,
}

/// An open connection to a session.
#[derive(Debug)]
pub(super) struct Link {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    size: Option<Size>,
}

impl Link {
    /// Connects and attaches, at this terminal's size.
    pub(super) async fn open(target: &Target) -> Result<Self, Failure> {
        let size = size();
        match target.open(size).await {
            Ok(Opened::Socket(io)) => {
                let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
                let socket = WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await;
                Ok(Self { socket, size })
            }
            Ok(Opened::Refused(status, text)) => Err(refusal(target, status, &text)),
            Err(error) => Err(Failure::Unreachable(format!("{error:#}"))),
        }
    }

    /// Relays between the session and the terminal until one of them ends it.
    pub(super) async fn relay(self, target: &Target, terminal: &mut Terminal) -> End {
        let Terminal { raw, input, output, events, keys } = terminal;
        let (mut sink, mut stream) = self.socket.split();
        let (resized, mut sizes) = watch::channel(self.size);
        let up = async {
            loop {
                let (bytes, detached) = tokio::select! {
                    piece = input.next() => match piece {
                        Some(piece) => keys.typed(&piece),
                        None => return End::Signalled(1),
                    },
                    held = keys.given_up() => (held, false),
                };
                if !bytes.is_empty() && sink.send(Message::binary(bytes)).await.is_err() {
                    // The other direction knows why.
                    std::future::pending::<()>().await;
                }
                if detached {
                    return End::Detached;
                }
            }
        };
        let down = async {
            loop {
                let bytes = match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
                    Err(_) => return End::Lost("the server is silent".to_owned()),
                    Ok(None) => return End::Lost("the connection ended".to_owned()),
                    Ok(Some(Err(error))) => return End::Lost(error.to_string()),
                    Ok(Some(Ok(Message::Close(frame)))) => return closed(frame.as_ref()),
                    Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
                    Ok(Some(Ok(Message::Text(text)))) => text.into(),
                    Ok(Some(Ok(_))) => continue,
                };
                if let Err(error) = output.write(bytes).await {
                    return End::output(error);
                }
            }
        };
        let around = async {
            loop {
                match events.next().await {
                    Event::Ended(signal) => return End::Signalled(signal),
                    Event::Resized => {}
                    // Without the terminal there is nothing to bring back, and a signal comes next.
                    Event::Continued => drop(raw.enter_again()),
                }
                resized.send_if_modified(|known| std::mem::replace(known, size()) != *known);
            }
        };
        let resizing = async {
            while sizes.changed().await.is_ok() {
                let size = *sizes.borrow_and_update();
                if let Some(size) = size
                    && let Err(error) = target.resize(size).await
                {
                    tracing::debug!("failed to tell the size: {error:#}");
                }
            }
            std::future::pending().await
        };
        let end = tokio::select! { end = down => end, end = up => end, end = around => end, end = resizing => end };
        let goodbye = async {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "detached".into() };
            // Fails if the server said goodbye first; then the answer to that is waiting to be flushed.
            let _ = sink.send(Message::Close(Some(frame))).await;
            sink.flush().await
        };
        // A server that doesn't listen any more has no need of a goodbye.
        let _ = tokio::time::timeout(CLOSE_WAIT_MAX, goodbye).await;
        end
    }
}

/// What a server means that doesn't let us attach.
fn refusal(target: &Target, status: StatusCode, body: &[u8]) -> Failure {
    let message = || {
        let body: serde_json::Value = serde_json::from_slice(body).ok()?;
        Some(body.get("error")?.get("message")?.as_str()?.escape_debug().to_string())
    };
    let reason = match status {
        StatusCode::UNAUTHORIZED => "the token is refused: give the right one by CLOISTER_TOKEN or --token".to_owned(),
        status => message().unwrap_or_else(|| format!("the server at {} answered {status}", target.server())),
    };
    if status.is_server_error() { Failure::Unreachable(reason) } else { Failure::Refused(reason) }
}

/// What the close of a connection means.
fn closed(frame: Option<&CloseFrame>) -> End {
    let Some(CloseFrame { code, reason }) = frame else {
        return End::Lost("the server closed the connection".to_owned());
    };
    let reason = reason.as_str().escape_debug().to_string();
    match code {
        CloseCode::Normal => match exit_status(&reason) {
            Some(status) => End::Exited(status),
            None => End::Failed(reason),
        },
        CloseCode::Restart | CloseCode::Away | CloseCode::Again => End::Lost(reason),
        _ => End::Failed(format!("the server closed the session: {reason} ({})", u16::from(*code))),
    }
}

/// The status in "exited with status N" or "killed by signal N".
fn exit_status(reason: &str) -> Option<u8> {
    let number = |beginning| reason.strip_prefix(beginning).and_then(|number: &str| number.parse::<u8>().ok());
    number("exited with status ").or_else(|| number("killed by signal ")?.checked_add(128))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_says_how_the_program_ended_or_whether_to_come_again() {
        let end =
            |code: u16, reason: &'static str| closed(Some(&CloseFrame { code: code.into(), reason: reason.into() }));
        assert!(matches!(end(1000, "exited with status 7"), End::Exited(7)));
        assert!(matches!(end(1000, "killed by signal 9"), End::Exited(137)));
        assert!(matches!(end(1000, "exited with status 256"), End::Failed(_)));
        assert!(matches!(end(1000, "killed by signal 200"), End::Failed(_)));
        assert!(matches!(end(1012, "server is restarting"), End::Lost(_)));
        assert!(matches!(end(1011, "the cell ended"), End::Failed(_)));
        assert!(matches!(closed(None), End::Lost(_)));
    }
}
