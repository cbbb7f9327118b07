//! A client of `cloister.v1`, written from `docs/protocol.md` alone: it keeps offsets and sequence numbers as the document
//! says, and fails a test as soon as the server doesn't.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{DEADLINE, Server};

/// A connection.
pub(crate) struct Wire {
    pub(crate) socket: WebSocketStream<TcpStream>,
    /// What it was told of sessions as it connected.
    pub(crate) sessions: Value,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A JSON message.
    Told(Value),
    /// Output of a channel at an offset.
    Output(u16, u64, Vec<u8>),
    /// A part of a snapshot.
    Picture(u16, Vec<u8>),
    /// So much input has arrived.
    Typed(u16, u64),
    /// The close frame.
    Closed(u16, String),
    /// The connection broke.
    Gone,
}

impl Server {
    /// Connects and hears the greeting.
    pub(crate) async fn wire(&self, project: &str) -> Wire {
        self.try_wire(project).await.expect("the connection holds")
    }

    /// Connects, holds a session on channel 1 and waits for its prompt.
    pub(crate) async fn wire_prompt(&self, project: &str, session: &str) -> Wire {
        let mut wire = self.wire(project).await;
        wire.attach(1, session, serde_json::json!({})).await;
        wire.expect(1, "$ ").await;
        wire
    }

    /// As [`Self::wire`], for a server that may die meanwhile.
    pub(crate) async fn try_wire(&self, project: &str) -> Option<Wire> {
        Wire::connect(self.address, &self.token, project).await
    }
}

impl Wire {
    /// Connects to wherever a server may be, and hears the greeting.
    pub(crate) async fn connect(address: SocketAddr, token: &str, project: &str) -> Option<Self> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let url = format!("ws://{address}/ws/terminal/{project}/?token={token}");
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", "cloister.v1".parse().expect("a value"));
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let connected = timeout(DEADLINE, tokio_tungstenite::client_async(request, stream)).await;
        let (socket, response) = connected.expect("the server answers in time").ok()?;
        assert_eq!(response.headers()["sec-websocket-protocol"], "cloister.v1");
        let mut wire = Self { socket, sessions: Value::Null };
        match wire.heard().await {
            Heard::Told(hello) => assert_eq!((&hello["type"], &hello["project"]), (&json!("hello"), &json!(project))),
            Heard::Gone => return None,
            other => panic!("{other:?}"),
        }
        match wire.heard().await {
            Heard::Told(sessions) if sessions["type"] == "sessions" => wire.sessions = sessions,
            Heard::Gone => return None,
            other => panic!("{other:?}"),
        }
        Some(wire)
    }

    /// The next message.
    pub(crate) async fn heard(&mut self) -> Heard {
        timeout(DEADLINE, self.next()).await.expect("a message in time")
    }

    /// The next message, whenever it comes.
    async fn next(&mut self) -> Heard {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Heard::Told(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Binary(bytes))) => return decode(&bytes),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Heard::Closed(frame.code.into(), frame.reason.to_string());
                }
                // A ping is no message: what is waited for would never be missed.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Heard::Gone,
            }
        }
    }

    /// The next JSON message of a type; others are passed over, output and clients among them.
    pub(crate) async fn told(&mut self, kind: &str) -> Value {
        loop {
            match self.heard().await {
                Heard::Told(told) if told["type"] == kind => return told,
                Heard::Closed(code, reason) => panic!("closed with {code} {reason:?} before {kind}"),
                Heard::Gone => panic!("gone before {kind}"),
                _ => {}
            }
        }
    }

    /// Waits for the close frame.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.heard().await {
                Heard::Closed(code, reason) => return (code, reason),
                Heard::Gone => panic!("gone without a close frame"),
                _ => {}
            }
        }
    }

    /// Says something; a broken connection is noticed by hearing.
    pub(crate) async fn say(&mut self, ask: Value) {
        let _ = self.socket.send(Message::text(ask.to_string())).await;
    }

    /// Sends a binary frame of a type, a channel, a number and bytes.
    pub(crate) async fn send(&mut self, kind: u8, channel: u16, number: Option<u64>, bytes: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_le_bytes());
        frame.extend(number.into_iter().flat_map(u64::to_le_bytes));
        frame.extend_from_slice(bytes);
        let _ = self.socket.send(Message::binary(frame)).await;
    }

    /// Types.
    pub(crate) async fn input(&mut self, channel: u16, seq: u64, bytes: &[u8]) {
        self.send(1, channel, Some(seq), bytes).await;
    }

    /// Says that everything before an offset is parsed.
    pub(crate) async fn ack(&mut self, channel: u16, offset: u64) {
        self.send(3, channel, Some(offset), &[]).await;
    }

    /// Attaches as a new client and gives the answer.
    pub(crate) async fn attach(&mut self, channel: u16, session: &str, more: Value) -> Value {
        let mut ask = json!({
            "type": "attach", "channel": channel, "session": session,
            "client": format!("{:016x}", u64::from(channel) + 1), "cols": 80, "rows": 24,
        });
        for (key, value) in more.as_object().expect("an object") {
            ask[key] = value.clone();
        }
        self.say(ask).await;
        self.told("attached").await
    }

    /// Output of a channel until it contains `wanted`, acknowledged as it comes; snapshots count as output.
    pub(crate) async fn expect(&mut self, channel: u16, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            let heard = timeout(DEADLINE, self.next()).await;
            match heard.unwrap_or_else(|_| panic!("no {wanted:?} in time; there was {text:?}")) {
                Heard::Output(at, offset, bytes) if at == channel => {
                    self.ack(channel, offset + bytes.len() as u64).await;
                    text.push_str(&String::from_utf8_lossy(&bytes));
                }
                Heard::Picture(at, bytes) if at == channel => text.push_str(&String::from_utf8_lossy(&bytes)),
                Heard::Closed(code, reason) => panic!("closed with {code} {reason:?}; there was {text:?}"),
                Heard::Gone => panic!("gone before {wanted:?}; there was {text:?}"),
                _ => {}
            }
        }
        text
    }
}

fn decode(frame: &[u8]) -> Heard {
    let number = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().expect("eight bytes"));
    let channel = u16::from_le_bytes([frame[1], frame[2]]);
    match frame[0] {
        0x81 => Heard::Output(channel, number(3), frame[11..].to_vec()),
        0x82 => Heard::Picture(channel, frame[3..].to_vec()),
        0x83 => Heard::Typed(channel, number(3)),
        other => panic!("a frame of type {other:#x}"),
    }
}
