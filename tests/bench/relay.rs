//! The bare relay: a terminal's bytes as WebSocket messages and back, and nothing else. One thread, one epoll, no sandbox.
//!
//! It is the floor of what a terminal over a WebSocket costs, and with `podman exec -it` in its terminal the like-for-like
//! peer. It runs as a process of its own, as servers do: this program once more, with other arguments.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rustix::event::epoll;
use rustix::io::Errno;
use tokio_tungstenite::tungstenite::accept;

use crate::client::Address;
use crate::signals;
use crate::tty::{Program, Tty};

/// The argument that makes this program a relay; the program for its terminals follows.
pub(crate) const WORD: &str = "relay";

/// Most reads of the terminal in one wake-up: draining it "until EAGAIN" makes a neighbour's echo ten times slower.
const READS_PER_WAKE: usize = 4;

/// Most bytes of one read; the kernel gives up to 19 KiB at once.
const READ_BYTES_MAX: usize = 32 * 1024;

const TERMINAL: u64 = 0;
const SOCKET: u64 = 1;

/// A relay's process. Dropping it ends it.
pub(crate) struct Relay {
    process: Child,
    /// Where it listens; any token will do.
    pub(crate) address: Address,
}

impl Relay {
    /// Starts a relay whose terminals run `program`.
    pub(crate) fn start(program: &Program) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(WORD).args(&program.words).env_clear().envs(program.env.iter().map(|(key, value)| (key, value)));
        let mut process = signals::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("its output is piped")?).read_line(&mut line)?;
        let socket = line.trim().parse().with_context(|| format!("the relay says where it listens, not {line:?}"))?;
        Ok(Self { process, address: Address { socket, token: String::new() } })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves one client after the other, each with a terminal of its own.
pub(crate) fn run(words: Vec<String>) -> anyhow::Result<()> {
    let program = Program { words, env: std::env::vars().collect() };
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        // A client that goes away in the midst of it is no failure.
        if let Ok(socket) = accept(stream) {
            let tty = Tty::start(&program)?;
            let _ = serve(socket.into_inner(), tty.descriptor());
        }
    }
}

/// Relays until one of both ends.
fn serve(mut socket: TcpStream, terminal: &OwnedFd) -> anyhow::Result<()> {
    rustix::io::ioctl_fionbio(terminal, true)?;
    let waiting = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&waiting, terminal, epoll::EventData::new_u64(TERMINAL), epoll::EventFlags::IN)?;
    epoll::add(&waiting, &socket, epoll::EventData::new_u64(SOCKET), epoll::EventFlags::IN)?;
    let mut events = Vec::with_capacity(2);
    let (mut buffer, mut frame) = ([0; READ_BYTES_MAX], Vec::new());
    let mut received = Vec::new();
    loop {
        events.clear();
        epoll::wait(&waiting, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            if event.data.u64() == TERMINAL {
                frame.clear();
                let more = drain(terminal, &mut buffer, &mut frame)?;
                write_message(&mut socket, &frame)?;
                if !more {
                    return Ok(());
                }
            } else {
                let count = socket.read(&mut buffer)?;
                received.extend_from_slice(&buffer[..count]);
                while let Some(bytes) = take_message(&mut received) {
                    write_all(terminal, &bytes)?;
                }
                if count == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads what the terminal has now, up to a bound; false if nothing more can come.
fn drain(terminal: &OwnedFd, buffer: &mut [u8], out: &mut Vec<u8>) -> anyhow::Result<bool> {
    for _ in 0..READS_PER_WAKE {
        match rustix::io::read(terminal, &mut *buffer) {
            Ok(0) | Err(Errno::IO) => return Ok(false),
            Ok(count) => out.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Waits as long as the program doesn't read: nothing that is measured here types that much.
fn write_all(terminal: &OwnedFd, mut bytes: &[u8]) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(terminal, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes one unmasked binary message (RFC 6455 §5.2) with one system call.
fn write_message(socket: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut message = vec![0x82];
    match bytes.len() {
        length @ 0..126 => message.push(length as u8),
        length @ 126..65_536 => {
            message.push(126);
            message.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            message.push(127);
            message.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    message.extend_from_slice(bytes);
    socket.write_all(&message)
}

/// Takes one masked message off the front once it is whole, without its mask. Its length is below 126: it is typed.
fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    const HEAD_BYTES: usize = 6;
    let length = usize::from(received.get(1)? & 0x7f);
    if received.len() < HEAD_BYTES + length {
        return None;
    }
    let mask: [u8; 4] = received[2..HEAD_BYTES].try_into().expect("four bytes");
    let message = received.drain(..HEAD_BYTES + length).skip(HEAD_BYTES);
    Some(message.zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect())
}
