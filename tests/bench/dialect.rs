//! How web terminals say what is typed and what is printed: bytes in messages, or wrapped in one way or another. It knows no
//! socket.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// wetty's page says so after each 256 KiB that its terminal has taken; the server stops at 2 MiB without. Before it, what
/// engine.io wants to hear every ten seconds.
const TAKEN_BYTES: usize = 256 * 1024;
const TAKEN: [&str; 2] = ["3", r#"42["commit",262144]"#];

/// A web terminal's way to say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Binary messages; what is printed may also be text.
    Bytes,
    /// Text messages.
    Text,
    /// Arrays of JSON: a kind and its text.
    Terminado,
    /// Events of socket.io 4, in packets of engine.io 4.
    SocketIo,
}

impl Dialect {
    /// The message that types these bytes.
    pub(crate) fn typed(self, bytes: &[u8]) -> Message {
        let text = || String::from_utf8_lossy(bytes).into_owned();
        match self {
            Self::Bytes => Message::binary(bytes.to_vec()),
            Self::Text => Message::text(text()),
            Self::Terminado => Message::text(json!(["stdin", text()]).to_string()),
            Self::SocketIo => Message::text(format!("42{}", json!(["input", text()]))),
        }
    }

    /// Appends what a text message says was printed; gives what is to be answered.
    pub(crate) fn heard(self, text: &str, printed: &mut Vec<u8>) -> Option<Message> {
        let mut print = |text: &str| printed.extend_from_slice(text.as_bytes());
        match self {
            Self::Bytes | Self::Text => print(text),
            Self::Terminado => event(text, "stdout").into_iter().for_each(|text| print(&text)),
            Self::SocketIo => match text.strip_prefix("42") {
                Some(said) => event(said, "data").into_iter().for_each(|text| print(&text)),
                // It has opened: now the name space is to be asked for. It looks whether somebody is there.
                None if text.starts_with('0') => return Some(Message::text("40")),
                None if text == "2" => return Some(Message::text("3")),
                None => {}
            },
        }
        None
    }

    /// What is to be said once so many printed bytes were read, and again after as many more.
    pub(crate) fn receipts(self) -> Option<(usize, [&'static str; 2])> {
        (self == Self::SocketIo).then_some((TAKEN_BYTES, TAKEN))
    }
}

/// The text of an event, if it is of this kind.
fn event(said: &str, kind: &str) -> Option<String> {
    match serde_json::from_str::<(String, Value)>(said) {
        Ok((said, Value::String(text))) if said == kind => Some(text),
        _ => None,
    }
}
