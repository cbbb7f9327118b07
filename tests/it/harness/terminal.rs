//! A client of a terminal: a WebSocket, and all the text that came out of it.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, error::Error};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{DEADLINE, Server};

pub(crate) use tokio_tungstenite::tungstenite::Message;

/// What a WebSocket goes over.
pub(crate) trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

/// An attached client.
pub(crate) struct Terminal {
    /// The WebSocket, for a test that sends what this type doesn't.
    pub(crate) socket: WebSocketStream<Box<dyn Pipe>>,
    /// Output that was not expected yet.
    text: String,
    number: u32,
}

/// An upgrade that was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: String,
}

impl Server {
    /// Opens a terminal of a project and waits for nothing. `query` begins with `&` or is empty.
    pub(crate) async fn open(&self, project: &str, query: &str) -> Terminal {
        self.try_open(project, query).await.unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// Opens a terminal of a project and waits for its prompt.
    pub(crate) async fn prompt(&self, project: &str, query: &str) -> Terminal {
        let mut terminal = self.open(project, query).await;
        terminal.expect("$ ").await;
        terminal
    }

    /// Opens a terminal, or says why not.
    pub(crate) async fn try_open(&self, project: &str, query: &str) -> Result<Terminal, Refused> {
        let path = format!("/ws/terminal/{project}/?token={}{query}", self.token);
        self.upgrade(&path, &[]).await
    }

    /// Upgrades a request for `path` with more fields.
    pub(crate) async fn upgrade(&self, path: &str, fields: &[(&'static str, &str)]) -> Result<Terminal, Refused> {
        let stream = TcpStream::connect(self.address).await.expect("the server accepts");
        stream.set_nodelay(true).expect("the socket takes options");
        upgrade(Box::new(stream), &format!("ws://{}{path}", self.address), fields).await
    }
}

/// Upgrades a connection by a request for `url` with more fields.
pub(crate) async fn upgrade(
    pipe: Box<dyn Pipe>,
    url: &str,
    fields: &[(&'static str, &str)],
) -> Result<Terminal, Refused> {
    let mut request = url.into_client_request().expect("a request");
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().expect("a field's value"));
    }
    match timeout(DEADLINE, client_async(request, pipe)).await.expect("the server answers in time") {
        Ok((socket, _)) => Ok(Terminal { socket, text: String::new(), number: 0 }),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(Refused { status: response.status().as_u16(), body: String::from_utf8_lossy(body).into_owned() })
        }
        Err(other) => panic!("{other}"),
    }
}

impl Terminal {
    /// Types.
    pub(crate) async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a message of any kind.
    pub(crate) async fn send_message(&mut self, message: Message) {
        let sent = timeout(DEADLINE, self.socket.send(message)).await;
        sent.expect("the server takes input in time").expect("the connection holds");
    }

    /// Waits until `wanted` came out, and gives all output up to its end that nobody expected before.
    pub(crate) async fn expect(&mut self, wanted: &str) -> String {
        let by = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            match timeout_at(by, self.message()).await {
                Ok(Some(Message::Text(text))) => self.text.push_str(&text),
                Ok(Some(Message::Binary(bytes))) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Ok(Some(Message::Close(frame))) => {
                    panic!("closed by {frame:?} before {wanted:?}; there was {:?}", self.text)
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("gone before {wanted:?}; there was {:?}", self.text),
                Err(_) => panic!("no {wanted:?}; there was {:?}", self.text),
            }
        }
    }

    /// Runs a command in the shell and gives its output.
    pub(crate) async fn run(&mut self, command: &str) -> String {
        self.number += 1;
        let number = self.number;
        // What is typed is echoed: the marks differ from it by their quotes.
        self.send(&format!("echo 'be''gin-{number}'; {command}; echo 'e''nd-{number}'\r")).await;
        self.expect(&format!("begin-{number}\r\n")).await;
        let mut output = self.expect(&format!("end-{number}\r\n")).await;
        output.truncate(output.len() - format!("end-{number}\r\n").len());
        output
    }

    /// Runs a command until its output contains `wanted`: for what happens elsewhere, without a word.
    pub(crate) async fn run_until(&mut self, command: &str, wanted: &str) {
        let by = Instant::now() + DEADLINE;
        loop {
            let output = self.run(command).await;
            if output.contains(wanted) {
                return;
            }
            assert!(Instant::now() < by, "no {wanted:?} by {command:?}, but {output:?}");
        }
    }

    /// The next message as it came; `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        match timeout(DEADLINE, self.socket.next()).await.expect("a message in time") {
            Some(Ok(message)) => Some(message),
            Some(Err(tungstenite::Error::ConnectionClosed)) | None => None,
            Some(Err(error)) => panic!("{error}"),
        }
    }

    /// Waits for the close frame; gives its code and reason, and all output before it that nobody expected.
    pub(crate) async fn closed(&mut self) -> (u16, String, String) {
        loop {
            match self.message().await {
                Some(Message::Text(text)) => self.text.push_str(&text),
                Some(Message::Binary(bytes)) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Message::Close(Some(frame))) => {
                    let code = frame.code.into();
                    // The server waits for our answer before it closes.
                    while self.message().await.is_some() {}
                    return (code, frame.reason.to_string(), std::mem::take(&mut self.text));
                }
                Some(_) => {}
                None => panic!("gone without a close frame; there was {:?}", self.text),
            }
        }
    }
}
