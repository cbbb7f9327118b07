//! A client that remembers: what it has of a session, and what it typed, over all its connections.

use serde_json::{Value, json};

use super::{Heard, Wire};

/// What a client keeps of a session over its connections.
pub(crate) struct Kept {
    pub(crate) channel: u16,
    pub(crate) session: String,
    pub(crate) life: Option<Value>,
    /// Everything before it was received.
    pub(crate) offset: u64,
    pub(crate) output: Vec<u8>,
    /// Typed, of which the first `acknowledged` bytes need not be sent again.
    pub(crate) typed: Vec<u8>,
    pub(crate) acknowledged: usize,
    /// How much of it this connection has sent.
    pub(crate) sent: usize,
}

impl Kept {
    /// Nothing yet.
    pub(crate) fn new(channel: u16, session: &str) -> Self {
        let (output, typed) = (Vec::new(), Vec::new());
        Self { channel, session: session.to_owned(), life: None, offset: 0, output, typed, acknowledged: 0, sent: 0 }
    }

    /// The output, as text.
    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.output)
    }

    /// Asks for the session, where it was left.
    pub(crate) async fn attach(&mut self, wire: &mut Wire) {
        let mut ask = json!({
            "type": "attach", "channel": self.channel, "session": self.session, "cols": 80, "rows": 24,
            "client": format!("{:016x}", 77 + u64::from(self.channel)),
        });
        if let Some(life) = &self.life {
            ask["resume"] = json!({ "life": life, "offset": self.offset });
        }
        self.sent = usize::MAX;
        wire.say(ask).await;
    }

    /// Sends what was typed and isn't sent on this connection.
    pub(crate) async fn send(&mut self, wire: &mut Wire) {
        if self.sent < self.typed.len() {
            let (from, to) = (self.sent, self.typed.len());
            self.sent = to;
            wire.input(self.channel, from as u64, &self.typed[from..to]).await;
        }
    }

    /// Takes in what was heard; fails the test if output is lost or comes twice.
    pub(crate) async fn hear(&mut self, wire: &mut Wire, heard: &Heard) {
        match heard {
            Heard::Output(channel, offset, bytes) if *channel == self.channel => {
                assert_eq!(*offset, self.offset, "output goes on where it was left");
                self.offset += bytes.len() as u64;
                self.output.extend_from_slice(bytes);
                wire.ack(self.channel, self.offset).await;
            }
            Heard::Typed(channel, seq) if *channel == self.channel => {
                self.acknowledged = usize::try_from(*seq).expect("a small number");
            }
            Heard::Told(told) if told["channel"] == self.channel => match told["type"].as_str() {
                Some("attached") => {
                    assert!(self.life.is_none() || self.life.as_ref() == Some(&told["life"]), "the session lives on");
                    self.life = Some(told["life"].clone());
                    let arrived = usize::try_from(told["typed"].as_u64().expect("a number")).expect("a small one");
                    assert!((self.acknowledged..=self.typed.len()).contains(&arrived), "{arrived} arrived");
                    self.sent = arrived;
                    self.send(wire).await;
                }
                Some("refused" | "reset" | "exited" | "lost") => panic!("{told}"),
                _ => {}
            },
            _ => {}
        }
    }
}
