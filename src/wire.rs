//! The frames of `cloister.v1`, for both ends: what a client and a server say to each other over one WebSocket.
//!
//! Text messages are JSON, binary ones a type, a channel, mostly an offset, and bytes. `docs/protocol.md` says what they
//! mean. Whatever a stranger sends is a frame or refused with a reason; it doesn't know what a frame does.

use std::collections::BTreeMap;
use std::fmt;

use sandbox::control::{Exit, Label, Life, SessionName, Size};
use serde::{Deserialize, Serialize};

/// The subprotocol's name.
pub(crate) const PROTOCOL: &str = "cloister.v1";

/// Longest JSON message from a client in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 4096;

/// Most channels of one WebSocket.
pub(crate) const CHANNELS_MAX: usize = 64;

/// Output that may be sent beyond the last acknowledgement, in bytes.
pub(crate) const UNACKED_BYTES_MAX: u64 = 256 * 1024;

/// A session on a WebSocket, by a number of the client's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Channel(pub(crate) u16);

/// A random number as JSON has it: 16 hexadecimal digits, since JavaScript's numbers have 53 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Hex(pub(crate) u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Hex> for String {
    fn from(number: Hex) -> Self {
        number.to_string()
    }
}

impl TryFrom<String> for Hex {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = digits.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        number.map(Self).ok_or("expected 16 digits of 0-9 and a-f")
    }
}

impl From<Life> for Hex {
    fn from(life: Life) -> Self {
        Self(life.0)
    }
}

/// What a client may do in a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// See, type, size.
    #[default]
    Writer,
    /// See.
    Viewer,
}

/// Up to where a client has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resume {
    /// Of which session of this name.
    pub(crate) life: Hex,
    /// Offset behind the last byte it has.
    pub(crate) offset: u64,
}

/// Client to server, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Ask {
    /// Hold a session.
    Attach {
        /// The hold's number from now on.
        channel: Channel,
        /// Which session.
        session: SessionName,
        /// Who it is, over all of its connections.
        client: Hex,
        /// What it may do.
        #[serde(default)]
        role: Role,
        /// Its own terminal's size.
        cols: u16,
        /// Its own terminal's size.
        rows: u16,
        /// Where to go on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Resume>,
    },
    /// The client's own terminal has a new size.
    Resize {
        /// Which hold.
        channel: Channel,
        /// The size.
        cols: u16,
        /// The size.
        rows: u16,
    },
    /// Let go of a session.
    Detach {
        /// Which hold.
        channel: Channel,
    },
    /// Call a session something else, for everybody.
    Label {
        /// Which session.
        session: SessionName,
        /// Its label; an empty one takes it away.
        label: Label,
    },
    /// Hang a session up.
    Close {
        /// Which session.
        session: SessionName,
    },
    /// Answer this.
    Ping {
        /// Comes back.
        id: u64,
    },
}

/// Server to client, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Tell {
    /// The first message.
    Hello {
        /// The server's version.
        version: String,
        /// Whose sessions these are.
        project: String,
    },
    /// What runs.
    Sessions {
        /// The names.
        sessions: Vec<SessionName>,
        /// What those of them are called that have a label.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<SessionName, Label>,
    },
    /// The kernel has killed programs of the project because its memory was used up.
    OutOfMemory {
        /// How many processes, since the cell's birth.
        kills: u64,
        /// The limit that was reached, in bytes.
        limit_bytes: u64,
        /// The program that was killed last, where that is known: up to 15 bytes of its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        victim: Option<String>,
    },
    /// The kernel has refused the project more processes. Said every few seconds at most.
    OutOfPids {
        /// How many, since the cell's birth.
        refusals: u64,
        /// The limit that was reached.
        limit: u64,
    },
    /// The project has no room left within its limit of disk. Said every few seconds at most.
    OutOfDisk {
        /// How often that was found, since the cell's birth.
        times: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The project's cell is frozen, since nothing has happened in it: its programs stand still until somebody types.
    Frozen {
        /// Since when, in seconds since 1970.
        since: u64,
    },
    /// It goes on.
    Thawed,
    /// The project's cell is being stopped, since nothing has happened in it.
    IdleStop {
        /// For how long, in seconds.
        idle_s: u64,
    },
    /// The hold is there.
    Attached {
        /// Its number.
        channel: Channel,
        /// Which session it is of.
        session: SessionName,
        /// Which of all that had this name.
        life: Hex,
        /// How many bytes of this client's input have arrived.
        typed: u64,
        /// Whether the session was started just now.
        started: bool,
        /// Its present size.
        #[serde(flatten)]
        size: Size,
    },
    /// There is no hold.
    Refused {
        /// The number that it would have had.
        channel: Channel,
        /// Why not.
        message: String,
    },
    /// A snapshot begins.
    Reset {
        /// Which hold.
        channel: Channel,
        /// The terminal's size.
        #[serde(flatten)]
        size: Size,
    },
    /// A snapshot is complete.
    Painted {
        /// Which hold.
        channel: Channel,
        /// Where output goes on.
        offset: u64,
    },
    /// The session has a new size from this place on.
    Resized {
        /// Which hold.
        channel: Channel,
        /// The size.
        #[serde(flatten)]
        size: Size,
    },
    /// Who is attached.
    Clients {
        /// Which hold.
        channel: Channel,
        /// Who of them it is told to.
        you: u64,
        /// Who leads.
        leader: Option<u64>,
        /// All of them.
        clients: Vec<Member>,
    },
    /// What a session calls itself.
    Title {
        /// Which hold.
        channel: Channel,
        /// The title.
        title: String,
    },
    /// Where a session's shell is.
    Cwd {
        /// Which hold.
        channel: Channel,
        /// The folder, as the cell sees it.
        cwd: String,
    },
    /// A program wants to be looked at.
    Bell {
        /// Which hold.
        channel: Channel,
    },
    /// The session's program ended, and with it the hold.
    Exited {
        /// Which hold.
        channel: Channel,
        /// How.
        #[serde(flatten)]
        exit: Exit,
    },
    /// The cell ended, and with it the hold.
    Lost {
        /// Which hold.
        channel: Channel,
        /// What is known.
        message: String,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's.
        id: u64,
    },
}

/// Somebody who is attached to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Tells it from others of the session.
    pub(crate) id: u64,
    /// What it may do.
    pub(crate) role: Role,
    /// Its own terminal's size, if it has one.
    #[serde(flatten)]
    pub(crate) size: Option<Size>,
}

/// Client to server, binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToServer<'a> {
    /// Typed bytes, numbered.
    Input { channel: Channel, seq: u64, bytes: &'a [u8] },
    /// What the client's terminal answers by itself.
    Answer { channel: Channel, bytes: &'a [u8] },
    /// Everything before this offset is parsed.
    Ack { channel: Channel, offset: u64 },
}

/// Server to client, binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FromServer<'a> {
    /// Output from this offset on.
    Output { channel: Channel, offset: u64, bytes: &'a [u8] },
    /// A part of a snapshot.
    Picture { channel: Channel, bytes: &'a [u8] },
    /// So many bytes of the client's input have arrived.
    Typed { channel: Channel, seq: u64 },
}

/// A frame that means nothing, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

const INPUT: u8 = 1;
const ANSWER: u8 = 2;
const ACK: u8 = 3;
const OUTPUT: u8 = 0x81;
const PICTURE: u8 = 0x82;
const TYPED: u8 = 0x83;

/// Bytes of a frame before its offset.
const HEAD_BYTES: usize = 3;

/// Bytes of an output frame before its payload.
pub(crate) const OUTPUT_HEAD_BYTES: usize = HEAD_BYTES + 8;

impl<'a> ToServer<'a> {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Input { channel, seq, bytes } => frame(INPUT, channel, Some(seq), bytes),
            Self::Answer { channel, bytes } => frame(ANSWER, channel, None, bytes),
            Self::Ack { channel, offset } => frame(ACK, channel, Some(offset), &[]),
        }
    }

    pub(crate) fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, channel, rest) = head(message)?;
        match kind {
            INPUT => number(rest).map(|(seq, bytes)| Self::Input { channel, seq, bytes }),
            ANSWER => Ok(Self::Answer { channel, bytes: rest }),
            ACK => last_number(rest).map(|offset| Self::Ack { channel, offset }),
            _ => Err(Malformed(format!("a binary message of unknown type {kind:#x}"))),
        }
    }
}

impl<'a> FromServer<'a> {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Output { channel, offset, bytes } => frame(OUTPUT, channel, Some(offset), bytes),
            Self::Picture { channel, bytes } => frame(PICTURE, channel, None, bytes),
            Self::Typed { channel, seq } => frame(TYPED, channel, Some(seq), &[]),
        }
    }

    /// Puts the head of an output frame into the room left for it at the beginning of `frame`.
    pub(crate) fn put_output_head(frame: &mut [u8], channel: Channel, offset: u64) {
        frame[0] = OUTPUT;
        frame[1..HEAD_BYTES].copy_from_slice(&channel.0.to_le_bytes());
        frame[HEAD_BYTES..OUTPUT_HEAD_BYTES].copy_from_slice(&offset.to_le_bytes());
    }

    pub(crate) fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, channel, rest) = head(message)?;
        match kind {
            OUTPUT => number(rest).map(|(offset, bytes)| Self::Output { channel, offset, bytes }),
            PICTURE => Ok(Self::Picture { channel, bytes: rest }),
            TYPED => last_number(rest).map(|seq| Self::Typed { channel, seq }),
            _ => Err(Malformed(format!("a binary message of unknown type {kind:#x}"))),
        }
    }
}

impl Ask {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Malformed> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Malformed(format!("a JSON message is at most {TEXT_BYTES_MAX} bytes")));
        }
        let ask: Self = serde_json::from_slice(text).map_err(|error| Malformed(format!("JSON: {error}")))?;
        match &ask {
            &Self::Attach { cols, rows, .. } | &Self::Resize { cols, rows, .. }
                if (Size { cols, rows }) != (Size { cols, rows }).clamped() =>
            {
                Err(Malformed("cols and rows must be 1 to 2000, and their product at most 200000".to_owned()))
            }
            _ => Ok(ask),
        }
    }
}

fn frame(kind: u8, channel: Channel, number: Option<u64>, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(OUTPUT_HEAD_BYTES + bytes.len());
    frame.push(kind);
    frame.extend_from_slice(&channel.0.to_le_bytes());
    frame.extend(number.into_iter().flat_map(u64::to_le_bytes));
    frame.extend_from_slice(bytes);
    frame
}

fn head(message: &[u8]) -> Result<(u8, Channel, &[u8]), Malformed> {
    match *message {
        [kind, low, high, ref rest @ ..] => Ok((kind, Channel(u16::from_le_bytes([low, high])), rest)),
        _ => Err(Malformed(format!("a binary message of fewer than {HEAD_BYTES} bytes"))),
    }
}

fn number(rest: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (number, bytes) = rest.split_first_chunk().ok_or_else(|| Malformed("a number is cut short".to_owned()))?;
    Ok((u64::from_le_bytes(*number), bytes))
}

fn last_number(rest: &[u8]) -> Result<u64, Malformed> {
    match number(rest)? {
        (number, []) => Ok(number),
        _ => Err(Malformed("something follows the number".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: Channel = Channel(0x1234);

    #[test]
    fn binary_frames_round_trip_and_cut_ones_are_refused() {
        let to = [
            ToServer::Input { channel: CHANNEL, seq: u64::MAX, bytes: b"ls\r" },
            ToServer::Answer { channel: CHANNEL, bytes: b"\x1b[?1;2c" },
            ToServer::Ack { channel: CHANNEL, offset: 1 << 40 },
        ];
        for frame in to {
            let message = frame.encode();
            assert_eq!(ToServer::decode(&message), Ok(frame));
            assert!(ToServer::decode(&message[..2]).is_err());
        }
        let from = [
            FromServer::Output { channel: CHANNEL, offset: 7, bytes: b"x" },
            FromServer::Picture { channel: CHANNEL, bytes: b"" },
            FromServer::Typed { channel: CHANNEL, seq: 9 },
        ];
        for frame in from {
            assert_eq!(FromServer::decode(&frame.encode()), Ok(frame));
        }
        assert!(ToServer::decode(&[INPUT, 0, 0, 1, 2]).is_err());
        assert!(ToServer::decode(&[ACK, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).is_err());
        assert!(ToServer::decode(&[9, 0, 0]).unwrap_err().to_string().contains("unknown type 0x9"));
    }

    #[test]
    fn json_reads_as_documented() {
        let text = r#"{"type":"attach","channel":1,"session":"main","client":"00000000000000ff","cols":80,"rows":24,
            "resume":{"life":"9ab4000000000000","offset":4711}}"#;
        let resume = Some(Resume { life: Hex(0x9ab4 << 48), offset: 4711 });
        let (session, client, role) = (SessionName::main(), Hex(255), Role::Writer);
        let attach = Ask::Attach { channel: Channel(1), session, client, role, cols: 80, rows: 24, resume };
        assert_eq!(Ask::parse(text.as_bytes()), Ok(attach));
        let exited = Tell::Exited { channel: Channel(1), exit: Exit::Signal(9) };
        assert_eq!(serde_json::to_string(&exited).unwrap(), r#"{"type":"exited","channel":1,"signal":9}"#);
        let member = Member { id: 3, role: Role::Viewer, size: None };
        assert_eq!(serde_json::to_string(&member).unwrap(), r#"{"id":3,"role":"viewer"}"#);
    }

    #[test]
    fn what_is_wrong_with_json_is_named() {
        for (text, says) in [
            ("", "JSON: EOF"),
            ("{}", "missing field `type`"),
            (r#"{"type":"dance"}"#, "unknown variant `dance`"),
            (r#"{"type":"ping","id":1,"extra":2}"#, "unknown field `extra`"),
            (r#"{"type":"resize","channel":1,"cols":0,"rows":24}"#, "1 to 2000"),
            (r#"{"type":"resize","channel":70000,"cols":1,"rows":24}"#, "70000"),
            (r#"{"type":"close","session":"a b"}"#, "a session name is"),
            (
                r#"{"type":"attach","channel":1,"session":"main","client":"xyz","cols":80,"rows":24}"#,
                "expected 16 digits",
            ),
        ] {
            let error = Ask::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(Ask::parse(&[b' '; TEXT_BYTES_MAX + 1]).unwrap_err().to_string().contains("at most 4096"));
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_a_frame_or_refused(message in proptest::collection::vec(proptest::num::u8::ANY, 0..40), kind in 0..5_u8) {
            for message in [message.clone(), [&[kind], &message[..]].concat()] {
                if let Ok(frame) = ToServer::decode(&message) {
                    proptest::prop_assert_eq!(frame.encode(), message.clone());
                }
                if let Ok(frame) = FromServer::decode(&message) {
                    proptest::prop_assert_eq!(frame.encode(), message.clone());
                }
                let _ = Ask::parse(&message);
            }
        }
    }
}
