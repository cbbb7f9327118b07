//! What clients say, in each of the dialects, and what `attach` hears from a server.

use bytes::Bytes;
use sandbox::control::{Exit, Size};

use super::alis::Alis;
use super::dialect::{Dialect, Said};
use super::kubernetes::Kubernetes;
use super::plain::Plain;
use super::ttyd::Ttyd;
use crate::wire::{Ask, FromServer, OUTPUT_HEAD_BYTES, TEXT_BYTES_MAX, Tell, ToServer};
use crate::ws::{CloseCode, CloseFrame, Message};

/// What stands between two messages of a dialogue: ASCII's record separator.
const SEPARATOR: u8 = 0x1E;

/// Longest reason of a close frame in bytes.
const REASON_BYTES_MAX: usize = 123;

/// A letter for the dialect, and what is said in it.
pub(crate) fn frames(data: &[u8]) {
    let Some((kind, said)) = data.split_first() else { return };
    match kind {
        b'j' => ask(said),
        b'b' => binary(said),
        b's' => tell(said),
        b't' => dialogue(Ttyd::new("demo".to_owned()), said),
        b'k' => dialogue(Kubernetes, said),
        b'a' => dialogue(Alis::new(), said),
        b'l' => dialogue(Plain::new(false, true), said),
        b'p' => dialogue(Plain::new(true, false), said),
        b'u' => text(said),
        _ => {}
    }
}

fn ask(message: &[u8]) {
    let Ok(ask) = Ask::parse(message) else { return };
    assert!(message.len() <= TEXT_BYTES_MAX);
    if let Ask::Attach { cols, rows, .. } | Ask::Resize { cols, rows, .. } = ask {
        assert_eq!(Size { cols, rows }, Size { cols, rows }.clamped());
    }
    let again = serde_json::to_vec(&ask).expect("it is JSON");
    assert_eq!(Ask::parse(&again), Ok(ask));
}

fn binary(message: &[u8]) {
    if let Ok(frame) = ToServer::decode(message) {
        assert_eq!(frame.encode(), message);
    }
    if let Ok(frame) = FromServer::decode(message) {
        assert_eq!(frame.encode(), message);
        if let FromServer::Output { channel, offset, bytes } = frame {
            let mut put = [&[0; OUTPUT_HEAD_BYTES], bytes].concat();
            FromServer::put_output_head(&mut put, channel, offset);
            assert_eq!(put, message);
        }
    }
}

fn tell(message: &[u8]) {
    let Ok(tell) = serde_json::from_slice::<Tell>(message) else { return };
    let again = serde_json::to_vec(&tell).expect("it is JSON");
    assert_eq!(serde_json::from_slice::<Tell>(&again).expect("it was understood before"), tell);
}

/// Messages of one client, each of which comes back as output too.
fn dialogue(mut dialect: impl Dialect, messages: &[u8]) {
    dialect.greeting();
    dialect.reset(Size::DEFAULT);
    for message in messages.split(|byte| *byte == SEPARATOR) {
        let message = Bytes::copy_from_slice(message);
        match dialect.hear(&message) {
            // A line's end may be added.
            Ok(Said::Input(typed)) => assert!(typed.len() <= message.len() + 1),
            Ok(Said::Size(size)) => {
                assert_eq!(size, size.clamped());
                dialect.resized(size);
            }
            Ok(Said::Nothing) => {}
            Err(CloseFrame { code, reason }) => {
                assert!(reason.len() <= REASON_BYTES_MAX, "{reason}");
                assert!(matches!(code, CloseCode::Protocol | CloseCode::Policy), "{code}");
                break;
            }
        }
        if dialect.takes_output() {
            dialect.output([dialect.head(), &message].concat());
        }
    }
    dialect.farewell(Exit::Code(0));
}

/// Output in pieces is the same text as in one.
fn text(pieces: &[u8]) {
    let (mut plain, mut whole, mut shown) = (Plain::new(false, false), Vec::new(), String::new());
    for piece in pieces.split(|byte| *byte == SEPARATOR) {
        whole.extend_from_slice(piece);
        shown.extend(plain.output(piece.to_vec()).map(said));
    }
    shown.extend(plain.farewell(Exit::Signal(9)).into_iter().map(said));
    assert_eq!(shown, String::from_utf8_lossy(&whole));
}

fn said(message: Message) -> String {
    match message {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?} is no text"),
    }
}
