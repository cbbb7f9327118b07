//! A client of a terminal over a WebSocket, and of the API beside it: blocking, one thread, the same for the server and for
//! its peers, so that what it costs itself is in all.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client::client};

use crate::dialect::Dialect;
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

/// Where a terminal is, and how it is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Whose it is.
    pub(crate) address: Address,
    /// The address's path and query.
    pub(crate) path: String,
    /// What is spoken there.
    pub(crate) dialect: Dialect,
}

/// A network that takes its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// What it takes, in bytes a second.
    pub(crate) bytes_per_s: f64,
    /// Most that it takes at once.
    pub(crate) piece_bytes: usize,
}

/// An attached WebSocket.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
    dialect: Dialect,
    seen: Vec<u8>,
    /// Printed bytes that the server wasn't told of yet, if it wants to be.
    untold: usize,
}

impl Client {
    /// Connects to `path`: TCP, upgrade, until the answer 101.
    pub(crate) fn connect(address: &Address, path: &str) -> anyhow::Result<Self> {
        Self::speak(address, path, Dialect::Bytes)
    }

    /// Connects to a place.
    pub(crate) fn open(place: &Place) -> anyhow::Result<Self> {
        Self::speak(&place.address, &place.path, place.dialect)
    }

    fn speak(address: &Address, path: &str, dialect: Dialect) -> anyhow::Result<Self> {
        let stream = connect(address)?;
        let mut request = format!("ws://{}{path}", address.socket).into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {}", address.token).parse()?);
        let (socket, _) = client(request, stream).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        Ok(Self { socket, dialect, seen: Vec::new(), untold: 0 })
    }

    /// The connection, once nothing more is on its way: for who reads many of them at once.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.socket.into_inner()
    }

    /// Gives a sign of life without reading anything.
    pub(crate) fn live(&mut self) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::Pong(Vec::new().into()))?)
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
                Ok(message) => self.take(message)?,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.seen.clear();
        self.socket.get_ref().set_read_timeout(Some(DEADLINE))?;
        Ok(())
    }

    /// Types, and reads until `wanted` has come.
    pub(crate) fn until(&mut self, text: &str, wanted: &[u8]) -> anyhow::Result<()> {
        self.socket.send(self.dialect.typed(text.as_bytes()))?;
        // Of a flood only the end is looked at, where each piece was appended.
        while !self.seen.windows(wanted.len()).any(|end| end == wanted) {
            self.seen.drain(..self.seen.len().saturating_sub(wanted.len()));
            self.receive()?;
        }
        let at = self.seen.windows(wanted.len()).position(|end| end == wanted).unwrap_or_default();
        self.seen.drain(..at + wanted.len());
        Ok(())
    }

    /// Types, and reads as fast as it can while `more` says so, which is told how many bytes have come.
    pub(crate) fn read_while(&mut self, bytes: &'static [u8], more: impl Fn(usize) -> bool) -> anyhow::Result<()> {
        self.type_in(bytes)?;
        while more(self.seen.len()) {
            self.seen.clear();
            self.receive()?;
        }
        Ok(())
    }

    /// Types, and reads what comes, if anything does, until somebody says so.
    pub(crate) fn read_until_told(&mut self, bytes: &'static [u8], told: &AtomicBool) -> anyhow::Result<()> {
        self.type_in(bytes)?;
        self.socket.get_ref().set_read_timeout(Some(QUIET))?;
        while !told.load(Ordering::Relaxed) {
            match self.socket.read() {
                Ok(message) => self.take(message)?,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            self.seen.clear();
        }
        self.socket.get_ref().set_read_timeout(Some(DEADLINE))?;
        Ok(())
    }

    /// Starts a flood, types ^C in its midst, and gives the time until the prompt comes over a network; none if that is
    /// longer than `wait`.
    pub(crate) fn interrupt(
        &mut self,
        flood: Duration,
        network: Network,
        wait: Duration,
    ) -> anyhow::Result<Option<Duration>> {
        self.type_in(b"yes\r")?;
        let began = Instant::now();
        let mut pressed: Option<Instant> = None;
        let mut buffer = vec![0; network.piece_bytes];
        loop {
            let turn = Instant::now();
            if turn - began > flood + wait {
                return Ok(None);
            }
            if pressed.is_none() && turn - began >= flood {
                pressed = Some(turn);
                self.type_in(b"\x03")?;
            }
            let count = self.socket.get_mut().read(&mut buffer)?;
            ensure!(count > 0, "closed in the midst of a flood");
            self.seen.extend_from_slice(&buffer[..count]);
            if let Some(pressed) = pressed
                && shows_prompt(&self.seen)
            {
                self.seen.clear();
                return Ok(Some(pressed.elapsed()));
            }
            self.seen.drain(..self.seen.len().saturating_sub(4096));
            self.tell(count)?;
            let due = Duration::from_secs_f64(count as f64 / network.bytes_per_s);
            std::thread::sleep(due.saturating_sub(turn.elapsed()));
        }
    }

    /// Types, and reads until the session ends.
    pub(crate) fn until_closed(&mut self, bytes: &'static [u8]) -> anyhow::Result<()> {
        self.type_in(bytes)?;
        while self.receive().is_ok() {}
        Ok(())
    }

    /// Types.
    pub(crate) fn type_in(&mut self, bytes: &'static [u8]) -> anyhow::Result<()> {
        Ok(self.socket.send(self.dialect.typed(bytes))?)
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        let message = self.socket.read().with_context(|| format!("after: {}", last_line(&self.seen)))?;
        self.take(message)
    }

    fn take(&mut self, message: Message) -> anyhow::Result<()> {
        let before = self.seen.len();
        match message {
            Message::Text(text) => {
                if let Some(answer) = self.dialect.heard(&text, &mut self.seen) {
                    self.socket.send(answer)?;
                }
            }
            Message::Binary(bytes) => self.seen.extend_from_slice(&bytes),
            Message::Close(frame) => bail!("closed: {frame:?}"),
            _ => {}
        }
        self.tell(self.seen.len() - before)
    }

    /// Tells the server that so much more was read, if it wants to know.
    fn tell(&mut self, count: usize) -> anyhow::Result<()> {
        let Some((every, receipts)) = self.dialect.receipts() else { return Ok(()) };
        self.untold += count;
        while self.untold >= every {
            self.untold -= every;
            receipts.into_iter().try_for_each(|receipt| self.socket.send(Message::text(receipt)))?;
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
