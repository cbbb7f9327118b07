//! ttyd's subprotocol `tty`, for its clients: a letter before each message (ttyd 1.7, `src/server.h`).

use bytes::Bytes;
use sandbox::control::Size;
use serde::Deserialize;

use super::dialect::{Dialect, Said, Words};
use crate::ws::{CloseCode, CloseFrame, Message, close};

/// The subprotocol's name.
pub(super) const PROTOCOL: &str = "tty";

const INPUT: u8 = b'0';
const RESIZE: u8 = b'1';
const PAUSE: u8 = b'2';
const RESUME: u8 = b'3';
/// The first message is JSON without a letter before it.
const BEGIN: u8 = b'{';
const OUTPUT: &[u8] = b"0";
const TITLE: &str = "1";
const PREFERENCES: &str = "2";

/// What ttyd's page and its like speak.
#[derive(Debug)]
pub(super) struct Ttyd {
    title: String,
    /// The client has said that it is ready.
    begun: bool,
    /// It has asked for a pause.
    paused: bool,
}

/// What the first message and a resize hold, among others.
#[derive(Deserialize)]
struct Sizes {
    columns: Option<u16>,
    rows: Option<u16>,
}

impl Ttyd {
    pub(super) fn new(title: String) -> Self {
        Self { title, begun: false, paused: false }
    }
}

impl Dialect for Ttyd {
    fn hear(&mut self, message: &Bytes) -> Result<Said, CloseFrame> {
        match message.first() {
            Some(&INPUT) if self.begun => Ok(Said::Input(message.slice(1..))),
            Some(&RESIZE) if self.begun => size(&message[1..]),
            Some(&PAUSE) => {
                self.paused = true;
                Ok(Said::Nothing)
            }
            Some(&RESUME) => {
                self.paused = false;
                Ok(Said::Nothing)
            }
            Some(&BEGIN) => {
                self.begun = true;
                size(message)
            }
            Some(&INPUT | &RESIZE) => {
                Err(close(CloseCode::Policy, "tty: the first message is JSON with columns and rows"))
            }
            _ => Err(close(CloseCode::Protocol, "tty: a message begins with 0, 1, 2, 3 or {")),
        }
    }

    fn head(&self) -> &'static [u8] {
        OUTPUT
    }

    fn takes_output(&self) -> bool {
        self.begun && !self.paused
    }

    fn greeting(&mut self) -> Words {
        let word = |kind: &str, text: &str| Message::binary(format!("{kind}{text}").into_bytes());
        Words::from([word(TITLE, &self.title), word(PREFERENCES, "{}")])
    }
}

fn size(json: &[u8]) -> Result<Said, CloseFrame> {
    let sizes: Sizes = serde_json::from_slice(json)
        .map_err(|error| close(CloseCode::Protocol, &format!("tty: columns and rows as JSON: {error}")))?;
    Ok(match (sizes.columns, sizes.rows) {
        (Some(cols), Some(rows)) => Said::Size(Size { cols, rows }.clamped()),
        _ => Said::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_json_and_goes_on_with_letters() {
        let mut ttyd = Ttyd::new("demo".to_owned());
        assert_eq!(
            ttyd.greeting(),
            Words::from([Message::binary(b"1demo".to_vec()), Message::binary(b"2{}".to_vec())])
        );
        let mut hear = |text: &str| ttyd.hear(&Bytes::from(text.to_owned())).map_err(|frame| u16::from(frame.code));
        assert_eq!(hear("0ls"), Err(1008));
        let size = |cols, rows| Ok(Said::Size(Size { cols, rows }));
        assert_eq!(hear(r#"{"AuthToken":"","columns":100,"rows":30}"#), size(100, 30));
        assert_eq!(hear("0ls\r"), Ok(Said::Input(Bytes::from("ls\r"))));
        assert_eq!(hear("0"), Ok(Said::Input(Bytes::new())));
        assert_eq!(hear(r#"1{"columns":0,"rows":9999}"#), size(1, 2000));
        assert_eq!(hear("1{}"), Ok(Said::Nothing));
        for wrong in ["", "x", "1", "1[]", r#"1{"columns":-1}"#] {
            assert_eq!(hear(wrong), Err(1002), "{wrong}");
        }
        assert_eq!(hear("2"), Ok(Said::Nothing));
        assert!(!ttyd.takes_output());
        ttyd.hear(&Bytes::from("3")).unwrap();
        assert!(ttyd.takes_output());
    }
}
