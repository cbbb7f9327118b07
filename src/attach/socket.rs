//! A WebSocket that speaks `cloister.v1`: asks and frames out, what the server says in. It doesn't know what for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::end::End;
use crate::wire::{Ask, FromServer, Tell, ToServer};

/// Largest message from the server in bytes, several times what it sends.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The connection to a server.
#[derive(Debug)]
pub(super) struct Socket {
    stream: WebSocketStream<TokioIo<Upgraded>>,
}

/// What the server says. Who wants output has one channel.
#[derive(Debug)]
pub(super) enum Heard {
    Tell(Tell),
    Output {
        offset: u64,
        bytes: Bytes,
    },
    Picture {
        bytes: Bytes,
    },
    Typed {
        seq: u64,
    },
    /// That it lives.
    Life,
}

impl Socket {
    pub(super) async fn over(io: TokioIo<Upgraded>) -> Self {
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
        Self { stream: WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await }
    }

    /// What comes next.
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard, End>> {
        Poll::Ready(match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            None => Err(End::Lost("the connection ended".to_owned())),
            Some(Err(error)) => Err(lost(&error)),
            Some(Ok(Message::Close(frame))) => Err(End::closed(frame.as_ref())),
            Some(Ok(Message::Binary(message))) => decode(&message),
            Some(Ok(Message::Text(text))) => {
                serde_json::from_str(&text).map(Heard::Tell).map_err(|error| broken(&error))
            }
            Some(Ok(_)) => Ok(Heard::Life),
        })
    }

    /// As [`Self::poll_heard`], with what was said before on its way meanwhile. Loses nothing when dropped.
    pub(super) async fn heard(&mut self) -> Result<Heard, End> {
        std::future::poll_fn(|cx| match self.poll_flushed(cx) {
            Poll::Ready(Err(end)) => Poll::Ready(Err(end)),
            _ => self.poll_heard(cx),
        })
        .await
    }

    /// Ready when something may be said.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        Pin::new(&mut self.stream).poll_ready(cx).map_err(|error| lost(&error))
    }

    /// Ready when all that was said is on its way.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(|error| lost(&error))
    }

    /// Asks.
    pub(super) fn ask(&mut self, ask: &Ask) -> Result<(), End> {
        self.put(Message::text(serde_json::to_string(ask).expect("what is asked has string keys")))
    }

    /// Sends a frame.
    pub(super) fn send(&mut self, frame: ToServer<'_>) -> Result<(), End> {
        self.put(Message::binary(frame.encode()))
    }

    fn put(&mut self, message: Message) -> Result<(), End> {
        Pin::new(&mut self.stream).start_send(message).map_err(|error| lost(&error))
    }

    /// Says goodbye; a server that is gone has no need of it.
    pub(super) async fn close(mut self, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: reason.into() };
        if self.put(Message::Close(Some(frame))).is_ok() {
            let _ = std::future::poll_fn(|cx| self.poll_flushed(cx)).await;
        }
    }
}

fn decode(message: &Bytes) -> Result<Heard, End> {
    Ok(match FromServer::decode(message).map_err(|error| broken(&error))? {
        FromServer::Output { offset, bytes, .. } => Heard::Output { offset, bytes: message.slice_ref(bytes) },
        FromServer::Picture { bytes, .. } => Heard::Picture { bytes: message.slice_ref(bytes) },
        FromServer::Typed { seq, .. } => Heard::Typed { seq },
    })
}

fn lost(error: &Error) -> End {
    End::Lost(error.to_string().escape_debug().to_string())
}

/// The server speaks another language, and will the next time.
fn broken(error: &dyn std::fmt::Display) -> End {
    End::Failed(format!("the server's message means nothing: {}", error.to_string().escape_debug()))
}
