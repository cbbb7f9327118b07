//! A client that speaks `cloister.v1`, blocking, and whose terminal takes its time as a browser's does.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client::client};

use crate::client::{Address, connect};
use crate::tty::{DEADLINE, is_prompt, last_line, shows_prompt};

/// How often a terminal says what it has parsed, in bytes.
const ACK_BYTES: u64 = 16 * 1024;

const INPUT: u8 = 1;
const ACK: u8 = 3;
const OUTPUT: u8 = 0x81;
const PICTURE: u8 = 0x82;

/// Bytes of an output frame before its payload, and of a picture's.
const OUTPUT_HEAD_BYTES: usize = 11;
const PICTURE_HEAD_BYTES: usize = 3;

/// A WebSocket with sessions on it, of which the one attached last is typed at and read.
pub(crate) struct Wire {
    socket: WebSocket<TcpStream>,
    /// Of that session.
    channel: u16,
    typed: u64,
    acknowledged: u64,
}

/// What came.
enum Heard {
    /// Output with the offset behind it, or a part of a snapshot.
    Bytes(Vec<u8>, Option<u64>),
    Told(String),
}

impl Wire {
    pub(crate) fn connect(address: &Address, project: &str) -> anyhow::Result<Self> {
        let stream = connect(address)?;
        let mut request = format!("ws://{}/ws/terminal/{project}/", address.socket).into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {}", address.token).parse()?);
        request.headers_mut().insert("sec-websocket-protocol", "cloister.v1".parse()?);
        let (socket, _) = client(request, stream).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { socket, channel: 0, typed: 0, acknowledged: 0 })
    }

    /// Asks for a session, beside those that it has.
    pub(crate) fn attach(&mut self, session: &str) -> anyhow::Result<()> {
        self.channel += 1;
        (self.typed, self.acknowledged) = (0, 0);
        let mut client = [0; 8];
        rustix::rand::getrandom(&mut client, rustix::rand::GetRandomFlags::empty())?;
        let client = u64::from_le_bytes(client);
        let channel = self.channel;
        let attach = format!(
            r#"{{"type":"attach","channel":{channel},"session":"{session}","client":"{client:016x}","cols":80,"rows":24}}"#
        );
        self.socket.send(Message::text(attach))?;
        Ok(())
    }

    /// Types.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let frame = [&[INPUT], &self.channel.to_le_bytes()[..], &self.typed.to_le_bytes(), bytes].concat();
        self.typed += bytes.len() as u64;
        Ok(self.socket.send(Message::binary(frame))?)
    }

    /// Reads until the shell's prompt is there.
    pub(crate) fn until_prompt(&mut self) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        while !is_prompt(&seen) {
            if let Heard::Bytes(bytes, end) = self.heard().with_context(|| last_line(&seen))? {
                seen.extend(bytes);
                self.parsed(end)?;
            }
        }
        Ok(())
    }

    /// Reads until a snapshot is complete, and gives how many bytes it has.
    pub(crate) fn until_painted(&mut self) -> anyhow::Result<usize> {
        let mut count = 0;
        loop {
            match self.heard()? {
                Heard::Bytes(bytes, None) => count += bytes.len(),
                Heard::Told(told) if told.contains(r#""painted""#) => return Ok(count),
                _ => {}
            }
        }
    }

    /// Reads until the session has ended.
    pub(crate) fn until_exit(&mut self) -> anyhow::Result<()> {
        loop {
            match self.heard()? {
                Heard::Told(told) if told.contains(r#""exited""#) => return Ok(()),
                Heard::Bytes(_, end) => self.parsed(end)?,
                Heard::Told(_) => {}
            }
        }
    }

    /// Starts a flood, types ^C in its midst, and gives the time until a terminal that takes so many bytes a second shows the
    /// prompt: what comes is read at once, as a browser does, and waits for the terminal.
    pub(crate) fn interrupt(&mut self, flood: Duration, bytes_per_s: f64) -> anyhow::Result<Duration> {
        self.type_in(b"yes\r")?;
        let began = Instant::now();
        let mut pressed: Option<Instant> = None;
        let mut queue: VecDeque<(Vec<u8>, Option<u64>)> = VecDeque::new();
        let mut free_at = began;
        let mut tail = Vec::new();
        loop {
            let now = Instant::now();
            ensure!(now - began < flood + DEADLINE, "^C never shows");
            if pressed.is_none() && now - began >= flood {
                pressed = Some(now);
                self.type_in(b"\x03")?;
            }
            // The terminal takes the next piece once it is done with the one before, however late we look.
            while let Some((bytes, end)) = (now >= free_at).then(|| queue.pop_front()).flatten() {
                free_at += Duration::from_secs_f64(bytes.len() as f64 / bytes_per_s);
                tail.extend_from_slice(&bytes);
                tail.drain(..tail.len().saturating_sub(4096));
                self.parsed(end)?;
                if let Some(pressed) = pressed
                    && shows_prompt(&tail)
                {
                    return Ok(free_at.max(now) - pressed);
                }
            }
            self.socket.get_ref().set_read_timeout(Some(Duration::from_millis(1)))?;
            match self.heard() {
                Ok(Heard::Bytes(bytes, end)) => {
                    if queue.is_empty() {
                        free_at = free_at.max(Instant::now());
                    }
                    queue.push_back((bytes, end));
                }
                Ok(Heard::Told(_)) => {}
                Err(error) if error.is::<TimedOut>() => {}
                Err(error) => return Err(error),
            }
            self.socket.get_ref().set_read_timeout(Some(DEADLINE))?;
        }
    }

    /// Says what the terminal has parsed.
    fn parsed(&mut self, end: Option<u64>) -> anyhow::Result<()> {
        let Some(end) = end.filter(|end| *end >= self.acknowledged + ACK_BYTES || *end < ACK_BYTES) else {
            return Ok(());
        };
        self.acknowledged = end;
        let frame = [&[ACK], &self.channel.to_le_bytes()[..], &end.to_le_bytes()].concat();
        Ok(self.socket.send(Message::binary(frame))?)
    }

    fn heard(&mut self) -> anyhow::Result<Heard> {
        use tokio_tungstenite::tungstenite::Error;
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(Heard::Told(text.to_string())),
                Ok(Message::Binary(frame)) if frame[0] == OUTPUT => {
                    let offset = u64::from_le_bytes(frame[3..OUTPUT_HEAD_BYTES].try_into()?);
                    let bytes = frame[OUTPUT_HEAD_BYTES..].to_vec();
                    let end = offset + bytes.len() as u64;
                    return Ok(Heard::Bytes(bytes, Some(end)));
                }
                Ok(Message::Binary(frame)) if frame[0] == PICTURE => {
                    return Ok(Heard::Bytes(frame[PICTURE_HEAD_BYTES..].to_vec(), None));
                }
                Ok(Message::Close(frame)) => bail!("closed: {frame:?}"),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => bail!(TimedOut),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Nothing came in time.
#[derive(Debug, thiserror::Error)]
#[error("nothing came in time")]
struct TimedOut;
