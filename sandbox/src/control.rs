//! The wires of a cell: what the server and a cell's init say to each other.
//!
//! Two kinds of SOCK_SEQPACKET socket, so that a paste into a program that doesn't read never delays a resize:
//! * the **control socket** (`cells/<project>.sock` in the run directory), JSON messages: open, attach, close, stop;
//! * one **data socket** a client of a session, binary frames: input, size, credit; wake, exit.
//!
//! Both sides treat what they read as hostile: sizes are bounded here, unknown messages end the connection with a reason.

use serde::{Deserialize, Serialize};

use crate::spec::ProjectId;

/// Version of both wires. A server refuses by name a cell whose version it doesn't speak.
pub const VERSION: u32 = 6;

/// Oldest version that a server speaks: cells go on while it is upgraded. One of version 5 never says [`Reply::OutOfPids`]
/// or [`Reply::OutOfDisk`].
pub const VERSION_MIN: u32 = 5;

/// Largest control message in bytes: an environment of 64 KiB and a command of 64 KiB fit.
pub const CONTROL_BYTES_MAX: usize = 192 * 1024;

/// Largest input in one data frame in bytes: a socket buffer holds several.
pub const INPUT_BYTES_MAX: usize = 16 * 1024;

/// Largest data frame in bytes, header included.
pub const FRAME_BYTES_MAX: usize = INPUT_BYTES_MAX + 32;

/// Most input bytes of one data socket that the cell hasn't yet written to the terminal: the server sends no more until a
/// [`FromCell::Wake`] says that some are taken. So the cell always reads its sockets to the end, and a paste into a program
/// that doesn't read can't hold back a resize or a credit behind it. A server that sends more is cut off.
pub const INPUT_WINDOW_BYTES: u64 = 64 * 1024;

/// Most [`FromCell::Wake`]s that the server hasn't received yet: enough that not every keystroke's echo needs a credit after
/// it; few, because under a flood each one is a packet that says nothing new.
pub const WAKES_MAX: u64 = 8;

/// Longest label in characters.
const LABEL_CHARACTERS_MAX: usize = 60;

/// Longest session name in bytes.
const SESSION_NAME_BYTES_MAX: usize = 40;

/// Most sessions in one cell: a PTY, a log and a shell each.
pub const SESSIONS_MAX: usize = 64;

/// A session's name within its project, `[A-Za-z0-9_-]{1,40}`; the first one is `main`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

impl SessionName {
    /// Checks a name as it came from a URL or a command line.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=SESSION_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        valid.then(|| Self(text.to_owned()))
    }

    /// The session that every client without a wish gets.
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SessionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SessionName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a session name is 1 to 40 of A-Z, a-z, 0-9, '-' and '_'")
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.0
    }
}

/// What people call a session, at most 60 characters, none of them a control character. Its name is its address and stays.
/// Empty if nobody has given it one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// Whether nobody has given one.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid = text.chars().count() <= LABEL_CHARACTERS_MAX && !text.chars().any(char::is_control);
        valid.then_some(Self(text)).ok_or("a label is at most 60 characters, and none of them a control character")
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// Most character cells of a terminal: four large monitors full. A program fills all of them with three bytes.
pub const CELLS_MAX: u32 = 200_000;

/// A random number that tells a session from those that had its name before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Life(pub u64);

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns, 1 to 2000.
    pub cols: u16,
    /// Rows, 1 to 2000.
    pub rows: u16,
}

impl Size {
    /// What a terminal has before anyone says.
    pub const DEFAULT: Self = Self { cols: 80, rows: 24 };

    /// Brings both numbers into 1 to 2000, and rows down until there are at most [`CELLS_MAX`] character cells: beyond that,
    /// programs allocate absurd screens, and we with them.
    pub fn clamped(self) -> Self {
        let cols = self.cols.clamp(1, 2000);
        let most = u16::try_from(CELLS_MAX / u32::from(cols)).unwrap_or(u16::MAX);
        Self { cols, rows: self.rows.clamp(1, most.min(2000)) }
    }
}

/// How a session's program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this status.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

/// Server to cell, on the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Attach to a session; start it first if it isn't running.
    /// Answered by [`Reply::Attached`] with two descriptors, or by [`Reply::Failed`].
    Open {
        /// Which session.
        session: SessionName,
        /// Its size, if it has to be started.
        size: Size,
        /// What to run in it, if it has to be started; empty is the image's shell as a login shell in `/workspace`.
        /// A command is put behind the image's entry point and starts in the image's working folder.
        command: Vec<String>,
        /// Who attaches, as its [`ToCell::Input`] will say.
        client: u64,
        /// Whether all output of a new session is kept from its birth on, as by a [`Request::Keep`] that is due after a
        /// quarter of the log.
        kept: bool,
    },
    /// Attach to a session that runs, for who types nothing.
    /// Answered like [`Request::Open`], by [`Reply::Failed`] if it doesn't run.
    Join {
        /// Which session.
        session: SessionName,
    },
    /// Give what a server needs to know a session that was started before it, and attach nobody.
    /// Answered by [`Reply::Found`] with one or two descriptors, or by [`Reply::Failed`].
    Find {
        /// Which session.
        session: SessionName,
    },
    /// Overwrite no output from offset `from` on, wait rather than that, and say so once the log's head is at `until`.
    /// May carry a descriptor of a checkpoint: something from which a later server, with the log from `from` on, makes the
    /// session's screen; the cell keeps the latest and never looks at it. Not answered.
    Keep {
        /// Which session.
        session: SessionName,
        /// Which of all that had this name.
        life: Life,
        /// First offset that is still needed.
        from: u64,
        /// Offset at which [`Reply::Grown`] is due.
        until: u64,
    },
    /// Call a session something else from now on. Answered by [`Reply::Labelled`] to all.
    Label {
        /// Which session.
        session: SessionName,
        /// Its label; an empty one takes it away.
        label: Label,
    },
    /// Hang up a session's program (SIGHUP, then SIGKILL to its session's processes).
    Close {
        /// Which session.
        session: SessionName,
    },
    /// End the cell. The sockets close when all its processes are gone.
    Stop,
}

/// Cell to server, on the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// The first message on a connection.
    Hello {
        /// The cell's [`VERSION`].
        version: u32,
        /// Whose cell it is.
        project: ProjectId,
        /// The sessions that run in it.
        sessions: Vec<SessionName>,
    },
    /// Carries two descriptors: the session's log (a sealed memfd, see [`crate::log`]) and a data socket.
    /// Replies come in the order of the requests.
    Attached {
        /// Which session.
        session: SessionName,
        /// Whether it was started just now.
        started: bool,
        /// Its present size.
        size: Size,
        /// Which of all that had this name.
        life: Life,
        /// How many bytes of this client's input have arrived, over all of its connections; 0 if none did lately.
        typed: u64,
    },
    /// Carries the session's log, and its checkpoint if there is one.
    Found {
        /// Which session.
        session: SessionName,
        /// Which of all that had this name.
        life: Life,
        /// First offset that isn't overwritten, and that the checkpoint is of; `None` if nobody has asked for any.
        kept: Option<u64>,
    },
    /// The log's head is where a [`Request::Keep`] wanted to hear of it. Sent on every control connection.
    Grown {
        /// Which session.
        session: SessionName,
    },
    /// What a session is called. Sent on every control connection: when it changes, and after [`Reply::Hello`] for those
    /// that have a label.
    Labelled {
        /// Which session.
        session: SessionName,
        /// Its label.
        label: Label,
    },
    /// The kernel has killed processes of the cell because its memory was used up. Sent on every control connection.
    OutOfMemory {
        /// How many, since the cell's birth.
        kills: u64,
        /// The limit that was reached, in bytes.
        limit_bytes: u64,
    },
    /// The kernel has refused processes of the cell because it has as many as it may. Sent on every control connection, every
    /// few seconds at most.
    OutOfPids {
        /// How many, since the cell's birth.
        refusals: u64,
        /// The limit that was reached.
        limit: u64,
    },
    /// The cell has no room left within its limit of disk. Sent on every control connection, every few seconds at most.
    OutOfDisk {
        /// How often that was found, since the cell's birth.
        times: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The request could not be carried out.
    Failed {
        /// Why, as a fragment that reads after "failed to open the session: ".
        reason: String,
    },
    /// A session's program ended and its output is all in the log. Sent on every control connection.
    Ended {
        /// Which session.
        session: SessionName,
        /// How.
        exit: Exit,
    },
}

/// Server to cell, on a data socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToCell<'a> {
    /// Bytes for the terminal, at most [`INPUT_BYTES_MAX`]. `seq` counts a client's input bytes: what of them has arrived
    /// before, by whichever data socket, isn't typed again; a gap is against the protocol.
    Input {
        /// Who typed.
        client: u64,
        /// How many bytes this client had sent before these, over all of its connections.
        seq: u64,
        /// What was typed.
        bytes: &'a [u8],
    },
    /// A new size.
    Resize(Size),
    /// "I have read the log up to `seen`; you may write up to `upto`, and wake me until you have done so [`WAKES_MAX`] times
    /// more than `wakes`." The cell sends a [`FromCell::Wake`] at once if the log's head is beyond `seen`, and whenever it
    /// moves, as long as it may. Of several data sockets the one that grants most counts: a laggard finds its place
    /// overwritten. One whose `upto` is 0 reads along and doesn't count: the program neither waits for it nor goes on
    /// because of it. A session without a data socket that counts writes freely over its oldest output.
    Credit {
        /// Offset up to which the log was read.
        seen: u64,
        /// Offset up to which the cell may write; 0 if it isn't to mind this data socket.
        upto: u64,
        /// How many wakes the server has received.
        wakes: u64,
    },
}

/// Cell to server, on a data socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromCell {
    /// The log's head has moved (see [`ToCell::Credit`] for how often this is said), or much input was taken.
    Wake {
        /// Input bytes of this data socket that the terminal has taken since the socket was attached.
        taken: u64,
    },
    /// The program ended; the log is complete. The socket closes after this.
    Ended(Exit),
}

/// A frame that doesn't parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed data frame")]
pub struct Malformed;

const INPUT: u8 = 1;
const RESIZE: u8 = 2;
const CREDIT: u8 = 3;
const WAKE: u8 = 0x81;
const ENDED: u8 = 0x82;
/// Set in the number of an `ENDED` frame if it is a signal.
const SIGNALLED: u64 = 1 << 8;

impl<'a> ToCell<'a> {
    /// Appends the frame to `out`; one frame is one packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Input { client, seq, bytes } => {
                out.push(INPUT);
                out.extend_from_slice(&client.to_le_bytes());
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Resize(Size { cols, rows }) => {
                out.push(RESIZE);
                out.extend_from_slice(&cols.to_le_bytes());
                out.extend_from_slice(&rows.to_le_bytes());
            }
            Self::Credit { seen, upto, wakes } => {
                out.push(CREDIT);
                out.extend_from_slice(&seen.to_le_bytes());
                out.extend_from_slice(&upto.to_le_bytes());
                out.extend_from_slice(&wakes.to_le_bytes());
            }
        }
    }

    /// Reads one packet.
    pub fn decode(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (&kind, rest) = packet.split_first().ok_or(Malformed)?;
        match kind {
            INPUT if rest.len() >= 16 && rest.len() - 16 <= INPUT_BYTES_MAX => {
                Ok(Self::Input { client: u64_at(rest, 0), seq: u64_at(rest, 8), bytes: &rest[16..] })
            }
            RESIZE if rest.len() == 4 => {
                let at = |i: usize| u16::from_le_bytes([rest[i], rest[i + 1]]);
                Ok(Self::Resize(Size { cols: at(0), rows: at(2) }.clamped()))
            }
            CREDIT if rest.len() == 24 => {
                Ok(Self::Credit { seen: u64_at(rest, 0), upto: u64_at(rest, 8), wakes: u64_at(rest, 16) })
            }
            _ => Err(Malformed),
        }
    }
}

impl FromCell {
    /// The frame as a packet of nine bytes.
    pub fn encode(self) -> [u8; 9] {
        let (kind, number) = match self {
            Self::Wake { taken } => (WAKE, taken),
            Self::Ended(Exit::Code(code)) => (ENDED, u64::from(code)),
            Self::Ended(Exit::Signal(signal)) => (ENDED, SIGNALLED | u64::from(signal)),
        };
        let mut packet = [kind; 9];
        packet[1..].copy_from_slice(&number.to_le_bytes());
        packet
    }

    /// Reads one packet.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let Some((&kind, rest)) = packet.split_first().filter(|(_, rest)| rest.len() == 8) else {
            return Err(Malformed);
        };
        let number = u64_at(rest, 0);
        let byte = |number: u64| u8::try_from(number).map_err(|_| Malformed);
        match kind {
            WAKE => Ok(Self::Wake { taken: number }),
            ENDED if number & SIGNALLED == 0 => Ok(Self::Ended(Exit::Code(byte(number)?))),
            ENDED => Ok(Self::Ended(Exit::Signal(byte(number & !SIGNALLED)?))),
            _ => Err(Malformed),
        }
    }
}

/// The little-endian number at `at`; the caller has checked the length.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip() {
        let frames = [
            ToCell::Input { client: 7, seq: u64::MAX, bytes: b"ls\r" },
            ToCell::Input { client: 0, seq: 0, bytes: b"" },
            ToCell::Resize(Size { cols: 120, rows: 40 }),
            ToCell::Credit { seen: 1, upto: 1 << 40, wakes: 3 },
        ];
        for frame in frames {
            let mut packet = Vec::new();
            frame.encode(&mut packet);
            assert_eq!(ToCell::decode(&packet), Ok(frame));
            for cut in 0..packet.len().min(16) {
                assert!(ToCell::decode(&packet[..cut]).is_err(), "{frame:?} cut at {cut}");
            }
        }
        for frame in
            [FromCell::Wake { taken: 1 << 33 }, FromCell::Ended(Exit::Code(42)), FromCell::Ended(Exit::Signal(9))]
        {
            assert_eq!(FromCell::decode(&frame.encode()), Ok(frame));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_packet_is_a_frame_or_refused(packet in proptest::collection::vec(proptest::num::u8::ANY, 0..64), kind in 0..4_u8) {
            // As it is, and once more behind a first byte that means something.
            let known = [&[kind], &packet[..]].concat();
            for packet in [&packet, &known] {
                if let Ok(frame) = ToCell::decode(packet) {
                    let mut again = Vec::new();
                    frame.encode(&mut again);
                    proptest::prop_assert_eq!(ToCell::decode(&again), Ok(frame));
                }
                if let Ok(frame) = FromCell::decode(packet) {
                    proptest::prop_assert_eq!(FromCell::decode(&frame.encode()), Ok(frame));
                }
            }
        }

        #[test]
        fn any_text_is_a_message_or_refused(text in r#"\{"type": ?"(open|close|stop|hello|attached|ended)"(, ?"(session|size|command|version|project|exit)": ?("[a-z\\]{0,50}"|-?[0-9]{1,20}|\[.{0,20}\]|\{.{0,20}\}|null)){0,4}\}?"#) {
            if let Ok(request) = serde_json::from_str::<Request>(&text) {
                let again = serde_json::to_string(&request).unwrap();
                proptest::prop_assert_eq!(serde_json::from_str::<Request>(&again).unwrap(), request);
            }
            if let Ok(reply) = serde_json::from_str::<Reply>(&text) {
                let again = serde_json::to_string(&reply).unwrap();
                proptest::prop_assert_eq!(serde_json::from_str::<Reply>(&again).unwrap(), reply);
            }
        }
    }

    #[test]
    fn sizes_are_brought_into_bounds() {
        for (size, clamped) in
            [((80, 24), (80, 24)), ((0, 0), (1, 1)), ((9999, 9999), (2000, 100)), ((300, 1000), (300, 666))]
        {
            let [size, clamped] = [size, clamped].map(|(cols, rows)| Size { cols, rows });
            assert_eq!(size.clamped(), clamped);
            assert_eq!(clamped.clamped(), clamped);
        }
    }

    #[test]
    fn oversized_and_unknown_frames_are_refused() {
        let mut packet = vec![INPUT];
        packet.resize(1 + 16 + INPUT_BYTES_MAX + 1, 0);
        assert_eq!(ToCell::decode(&packet), Err(Malformed));
        assert_eq!(ToCell::decode(&[99, 0, 0]), Err(Malformed));
        assert_eq!(FromCell::decode(&[WAKE, 1, 0]), Err(Malformed));
        assert_eq!(FromCell::decode(&[ENDED, 0, 2, 0, 0, 0, 0, 0, 0]), Err(Malformed));
    }
}
