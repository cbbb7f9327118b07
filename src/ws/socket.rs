//! An upgraded connection: messages in, messages out, and every end of it said in a close frame.
//!
//! At most one outgoing message is buffered: who sends asks first whether the last one is out. It keeps no time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream as _};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::{CloseCode, CloseFrame, close};
use crate::metrics::metrics;
use crate::stream::{RESTART_WAIT, Stream};

/// Largest message from a client in bytes: a paste comes in several.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Largest message to a client in bytes: most of what one flood's wake brings, and little enough to keep for every client.
pub(crate) const OUTPUT_BYTES_MAX: usize = 32 * 1024;

/// Room for one message, whose text may be three times as long as its bytes (each replaced), a ping and a close.
const WRITE_BUFFER_BYTES_MAX: usize = 3 * OUTPUT_BYTES_MAX + 4096;

/// Kept for every client, and most that is read at once: a keystroke needs 7 bytes. A long message gets room of its own.
const READ_BUFFER_BYTES: usize = 1024;

/// What the kernel keeps of a client's output, in bytes, so that ^C shows soon under a flood (measured: 18 times sooner
/// than with the kernel's own 4 MiB, at the same throughput).
const SEND_BUFFER_BYTES: usize = 64 * 1024;
const UNSENT_BYTES_MAX: u32 = 16 * 1024;

/// How long a peer may take to answer a close frame, unless the server is restarted.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// An upgraded connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: WebSocketStream<Stream>,
    flushed: bool,
}

/// What came from the client.
#[derive(Debug)]
pub(crate) enum Received {
    /// A text message, UTF-8.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A sign of life.
    Control,
    /// It says goodbye; the answer is on its way.
    Closed,
    /// It broke the protocol: what to tell it.
    Refused(CloseFrame),
    /// The connection is gone.
    Lost,
}

impl Socket {
    /// Waits until the connection has switched protocols.
    pub(crate) async fn upgraded(upgrade: OnUpgrade) -> std::io::Result<Self> {
        let upgraded = upgrade.await.map_err(std::io::Error::other)?;
        let parts = upgraded.downcast::<TokioIo<Stream>>();
        let parts = parts.map_err(|_| std::io::Error::other("the connection is none of this server's"))?;
        Self::over(parts.io.into_inner(), parts.read_buf.to_vec()).await
    }

    /// Speaks on a connection that has switched protocols and of which `early` was read already.
    pub(crate) async fn over(stream: impl Into<Stream>, early: Vec<u8>) -> std::io::Result<Self> {
        let stream = stream.into();
        let socket = socket2::SockRef::from(stream.socket());
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let stream = WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
        Ok(Self { stream, flushed: true })
    }

    /// Takes what came next.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        let counted = |bytes: Bytes| {
            metrics().websocket_received_bytes.inc_by(bytes.len() as u64);
            bytes
        };
        let received = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(Message::Text(text))) => Received::Text(counted(text.into())),
            Some(Ok(Message::Binary(bytes))) => Received::Binary(counted(bytes)),
            Some(Ok(Message::Close(_))) => Received::Closed,
            Some(Ok(_)) => Received::Control,
            Some(Err(error)) => refusal(&error).map_or(Received::Lost, Received::Refused),
            None => Received::Lost,
        };
        Poll::Ready(received)
    }

    /// Ready when the last message is out, and another may be sent.
    pub(crate) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a message; ask [`Self::poll_flushed`] before.
    pub(crate) fn send(&mut self, message: Message) -> Result<(), Error> {
        // What the kernel has room for goes out at once, the rest with the next flush.
        self.flushed = false;
        metrics().websocket_sent_bytes.inc_by(message.len() as u64);
        Pin::new(&mut self.stream).start_send(message)
    }

    /// Asks for a sign of life. There is room for it behind any message.
    pub(crate) fn ping(&mut self) -> Result<(), Error> {
        self.send(Message::Ping(Bytes::new()))
    }

    /// Says why the connection ends, waits a little for the other side to agree, and closes.
    pub(crate) async fn close(mut self, frame: CloseFrame) {
        let wait = if frame.code == CloseCode::Restart { RESTART_WAIT } else { CLOSE_WAIT };
        let _too_late = timeout(wait, self.end(Some(frame))).await;
    }

    /// Ends a connection whose other side has said goodbye.
    pub(crate) async fn closed(mut self) {
        let _too_late = timeout(CLOSE_WAIT, self.end(None)).await;
    }

    async fn end(&mut self, frame: Option<CloseFrame>) -> Result<(), Error> {
        if let Some(frame) = frame {
            Pin::new(&mut self.stream).start_send(Message::Close(Some(frame)))?;
        }
        std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)).await?;
        while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_next(cx)).await {}
        self.drain().await;
        Ok(())
    }

    /// Reads to the end: a connection closed with bytes unread is reset, and the close frame could be lost with it.
    async fn drain(&mut self) {
        let stream = self.stream.get_mut();
        let _ = stream.shutdown().await;
        // Not on the stack: a task is as large as the most that it ever waits with, for all of its life.
        let mut unread = vec![0; 4096];
        while stream.read(&mut unread).await.is_ok_and(|length| length > 0) {}
    }
}

/// What to tell a client that sent what it mustn't; `None` if there is nobody to tell.
fn refusal(error: &Error) -> Option<CloseFrame> {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            Some(close(CloseCode::Size, &format!("a message is at most {MESSAGE_BYTES_MAX} bytes: send several")))
        }
        Error::Utf8(_) => {
            Some(close(CloseCode::Invalid, "a text message must be UTF-8: send bytes as binary messages"))
        }
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(error) => Some(close(CloseCode::Protocol, &error.to_string())),
        _ => None,
    }
}
