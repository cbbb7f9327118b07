//! A client of a terminal over a WebSocket, and of the API beside it: blocking, one thread, the same for the server and for
//! the bare relay, so that what it costs itself is in both.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client::client};

use crate::tty::{DEADLINE, is_prompt, last_line, shows_prompt};

/// How long a terminal says nothing that has no more to say; the slowest answers in a tenth of it.
const QUIET: Duration = Duration::from_millis(50);

/// Where terminals are served, and by which token.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// The listening socket.
    pub(crate) socket: SocketAddr,
    /// The owner's token.
    pub(crate) token: String,
}

/// An attached WebSocket.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
    seen: Vec<u8>,
}

impl Client {
    /// Connects to `path`: TCP, upgrade, until the answer 101.
    pub(crate) fn connect(address: &Address, path: &str) -> anyhow::Result<Self> {
        let stream = connect(address)?;
        let mut request = format!("ws://{}{path}", address.socket).into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {}", address.token).parse()?);
        let (socket, _) = client(request, stream).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        Ok(Self { socket, seen: Vec::new() })
    }

    /// Reads until the shell's prompt is there.
    pub(crate) fn until_prompt(&mut self) -> anyhow::Result<()> {
        while !is_prompt(&self.seen) {
            self.receive()?;
        }
        self.seen.clear();
        Ok(())
    }

    /// Types, and reads until the terminal has given back as many bytes: the echo.
    pub(crate) fn until_echo(&mut self, bytes: &'static [u8]) -> anyhow::Result<()> {
        self.type_in(bytes)?;
        while self.seen.len() < bytes.len() {
            self.receive()?;
        }
        ensure!(self.seen.ends_with(bytes), "typed {bytes:?}, and saw {:?}", String::from_utf8_lossy(&self.seen));
        self.seen.clear();
        Ok(())
    }

    /// Types, and reads what comes of it until nothing more does.
    pub(crate) fn until_quiet(&mut self, bytes: &'static [u8]) -> anyhow::Result<()> {
        self.type_in(bytes)?;
        self.socket.get_ref().set_read_timeout(Some(QUIET))?;
        loop {
            match self.socket.read() {
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.socket.get_ref().set_read_timeout(Some(DEADLINE))?;
        Ok(())
    }

    /// Types, and reads until `wanted` has come.
    pub(crate) fn until(&mut self, text: &str, wanted: &[u8]) -> anyhow::Result<()> {
        self.socket.send(Message::binary(text.as_bytes().to_vec()))?;
        // Of a flood only the end is looked at, where each piece was appended.
        while !self.seen.windows(wanted.len()).any(|end| end == wanted) {
            self.seen.drain(..self.seen.len().saturating_sub(wanted.len()));
            self.receive()?;
        }
        let at = self.seen.windows(wanted.len()).position(|end| end == wanted).unwrap_or_default();
        self.seen.drain(..at + wanted.len());
        Ok(())
    }

    /// Types, and reads as fast as it can while `more` says so.
    pub(crate) fn read_while(&mut self, bytes: &'static [u8], more: impl Fn() -> bool) -> anyhow::Result<()> {
        self.type_in(bytes)?;
        while more() {
            self.receive()?;
            self.seen.clear();
        }
        Ok(())
    }

    /// Starts a flood, types ^C in its midst, and gives the time until the prompt comes over a network that takes so many
    /// bytes a second.
    pub(crate) fn interrupt(&mut self, flood: Duration, bytes_per_s: f64, piece: usize) -> anyhow::Result<Duration> {
        self.type_in(b"yes\r")?;
        let began = std::time::Instant::now();
        let mut pressed: Option<std::time::Instant> = None;
        let mut buffer = vec![0; piece];
        loop {
            let turn = std::time::Instant::now();
            ensure!(turn - began < flood + DEADLINE, "^C never shows");
            if pressed.is_none() && turn - began >= flood {
                pressed = Some(turn);
                self.type_in(b"\x03")?;
            }
            let count = self.socket.get_mut().read(&mut buffer)?;
            self.seen.extend_from_slice(&buffer[..count]);
            if let Some(pressed) = pressed
                && shows_prompt(&self.seen)
            {
                self.seen.clear();
                return Ok(pressed.elapsed());
            }
            self.seen.drain(..self.seen.len().saturating_sub(4096));
            let due = Duration::from_secs_f64(count as f64 / bytes_per_s);
            std::thread::sleep(due.saturating_sub(turn.elapsed()));
        }
    }

    /// Types, and reads until the session ends.
    pub(crate) fn until_closed(&mut self, bytes: &'static [u8]) -> anyhow::Result<()> {
        self.type_in(bytes)?;
        while self.receive().is_ok() {}
        Ok(())
    }

    fn type_in(&mut self, bytes: &'static [u8]) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::binary(bytes))?)
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        match self.socket.read().with_context(|| format!("after: {}", last_line(&self.seen)))? {
            Message::Text(text) => self.seen.extend_from_slice(text.as_bytes()),
            Message::Binary(bytes) => self.seen.extend_from_slice(&bytes),
            Message::Close(frame) => bail!("closed: {frame:?}"),
            _ => {}
        }
        Ok(())
    }
}

/// An HTTP connection for one request, opened beforehand.
pub(crate) struct Api {
    stream: TcpStream,
    head: String,
}

impl Api {
    /// Opens the connection.
    pub(crate) fn connect(address: &Address, method: &str, path: &str) -> anyhow::Result<Self> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\n\r\n",
            address.socket, address.token
        );
        Ok(Self { stream: connect(address)?, head })
    }

    /// Sends the request, and waits for an answer that says it was done.
    pub(crate) fn ask(mut self) -> anyhow::Result<()> {
        self.stream.write_all(self.head.as_bytes())?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            let count = self.stream.read(&mut buffer)?;
            ensure!(count > 0, "the server hung up");
            answer.extend_from_slice(&buffer[..count]);
        }
        ensure!(answer.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}

/// A TCP connection.
pub(crate) fn connect(address: &Address) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address.socket)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}
