//! The bytes of a WebSocket's client, from the upgrade's head on.

use std::task::Poll;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::ws::{CloseCode, CloseFrame, Handshake, Message, Received, Socket, close};

/// Largest message that a client may send.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A letter for where the bytes come: in a request's head, or on a connection that is upgraded.
pub(crate) fn socket(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        b'h' => handshake(data),
        _ => RUNTIME.with(|runtime| runtime.block_on(connection(data))),
    }
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Fields of a head, one a line, as hyper gives them.
fn handshake(head: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let chosen = Handshake::choose(&headers, &["cloister.v1", "tty"]);
    if let Ok(handshake) = Handshake::check(&headers) {
        let response: http::Response<()> = handshake.response(chosen);
        assert_eq!(response.headers()["sec-websocket-accept"].len(), 28);
        assert_eq!(response.headers().get("sec-websocket-protocol").is_some(), chosen.is_some());
    }
}

/// What was read, each message once more in the same form, and why it ended.
async fn connection(data: &[u8]) {
    let early = &data[..data.len().min(usize::from(data.first().copied().unwrap_or(0)))];
    let (messages, refusal) = talk(early, &data[early.len()..]).await;
    assert!(messages.iter().map(Message::len).sum::<usize>() <= data.len());
    assert!(messages.iter().all(|message| message.len() <= MESSAGE_BYTES_MAX));
    if let Some(CloseFrame { code, .. }) = refusal {
        assert!(matches!(code, CloseCode::Protocol | CloseCode::Invalid | CloseCode::Size), "{code}");
    }
    if !messages.is_empty() {
        let again = encoded(&messages).await;
        let (same, refusal) = talk(&[], &again).await;
        assert_eq!((same, refusal), (messages, None));
    }
}

/// Gives all messages that come of what a client sends, and what it is told if it is refused. The goodbye reaches it.
async fn talk(early: &[u8], sent: &[u8]) -> (Vec<Message>, Option<CloseFrame>) {
    let (mut client, server) = pair().await;
    let mut socket = Socket::over(server, early.to_vec()).await.expect("a socket");
    let (mut messages, mut heard) = (Vec::new(), Vec::new());
    let sending = async {
        client.write_all(sent).await.expect("the server reads");
        client.shutdown().await.expect("it is open");
    };
    let receiving = async {
        loop {
            match std::future::poll_fn(|cx| poll(&mut socket, cx)).await {
                Received::Text(text) => messages.push(Message::Text(text.try_into().expect("text is UTF-8"))),
                Received::Binary(bytes) => messages.push(Message::Binary(bytes)),
                Received::Control => {}
                Received::Closed => break (None, true),
                Received::Refused(frame) => break (Some(frame), true),
                Received::Lost => break (None, false),
            }
        }
    };
    let (refusal, speaks) = tokio::join!(sending, receiving).1;
    match (&refusal, speaks) {
        (Some(frame), _) => socket.close(frame.clone()).await,
        (None, true) => socket.closed().await,
        (None, false) => drop(socket),
    }
    // A connection that ends with something unread is reset, which nobody is to notice who was told why.
    let ended = client.read_to_end(&mut heard).await;
    if let Some(frame) = &refusal {
        ended.expect("the goodbye comes first");
        let goodbye = [&u16::from(frame.code).to_be_bytes(), frame.reason.as_bytes()].concat();
        assert!(heard.ends_with(&goodbye), "{heard:?} doesn't end with {frame:?}");
    }
    (messages, refusal)
}

/// Receives, and sends what answers by itself.
fn poll(socket: &mut Socket, cx: &mut std::task::Context<'_>) -> Poll<Received> {
    let received = socket.poll_receive(cx);
    if let Poll::Ready(Err(_)) = socket.poll_flushed(cx) {
        return Poll::Ready(Received::Lost);
    }
    received
}

/// Messages as an ordinary client sends them.
async fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut client = WebSocketStream::from_raw_socket(Sink(Vec::new()), Role::Client, None).await;
    for message in messages {
        futures_util::SinkExt::send(&mut client, message.clone()).await.expect("memory takes all");
    }
    client.into_inner().0
}

/// A connection that takes everything and gives nothing.
struct Sink(Vec<u8>);

impl tokio::io::AsyncWrite for Sink {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.0.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _cx: &mut std::task::Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncRead for Sink {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        _buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

/// A connection, and its other end.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("a connection"), server.expect("a connection").0)
}
