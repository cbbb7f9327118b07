//! This terminal: the one that the command was typed on. Raw mode, its size, its bytes, its signals.
//!
//! Reading and writing are threads, because a terminal or a pipe that others share must not be made non-blocking. It
//! doesn't know where the bytes go.

use std::io::{self, IsTerminal, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sandbox::control::Size;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Most bytes read at once: a paste in few pieces.
const INPUT_BYTES_MAX: usize = 16 * 1024;

/// Pieces on their way from the thread that reads: one to work on, one to come.
const PIECES_MAX: usize = 2;

/// Most that waits to be written before more is taken, in bytes: one piece to work on, one to come.
const OUTPUT_WAITING_BYTES_MAX: usize = 64 * 1024;

/// What a terminal's end of input is typed as.
const END_OF_INPUT: u8 = 4;

/// First and longest time between two ends of input: a program that begins to read later than the first one came must
/// see an end too, as it would from a pipe; one that never reads shouldn't be bothered often.
const END_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Longest wait for the last output once a signal has asked to end.
const LAST_OUTPUT_WAIT_MAX: Duration = Duration::from_secs(1);

/// Brings a terminal back that a program left in its own state: main screen, no mouse reports, no bracketed paste,
/// a visible cursor, plain letters (xterm's "ctlseqs").
const PLAIN: &str = "\x1b[?1047l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h\x1b[0m";

/// Raw mode, until it is dropped. Without a terminal on standard input there is nothing to change.
#[derive(Debug)]
pub(crate) struct Raw {
    saved: Option<Termios>,
}

impl Raw {
    /// Hands every key to the program at the other end.
    pub(crate) fn enter() -> io::Result<Self> {
        let saved = if io::stdin().is_terminal() { Some(tcgetattr(io::stdin())?) } else { None };
        let raw = Self { saved };
        raw.enter_again()?;
        Ok(raw)
    }

    /// Enters raw mode again after a shell took it away, as it does when it stops us.
    pub(crate) fn enter_again(&self) -> io::Result<()> {
        if let Some(mut modes) = self.saved.clone() {
            modes.make_raw();
            tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        }
        Ok(())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(modes) = &self.saved {
            // Not after the output is drained: it may be stopped for good. A terminal that is gone needs nothing.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
        }
    }
}

/// The terminal's size; `None` without a terminal.
pub(crate) fn size() -> Option<Size> {
    let size =
        tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).or_else(|_| tcgetwinsize(io::stderr()));
    let size = size.ok().filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
    Some(Size { cols: size.ws_col, rows: size.ws_row }.clamped())
}

/// What is typed, or what a pipe brings.
#[derive(Debug)]
pub(crate) struct Input {
    pieces: mpsc::Receiver<Vec<u8>>,
    /// Whether the end of a pipe has to be typed; a terminal's own end of input comes as a key.
    piped: bool,
    /// When the end is due again, and how long that was put off.
    end_again: Option<(Instant, Duration)>,
}

impl Input {
    /// Starts to read.
    pub(crate) fn start() -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        std::thread::spawn(move || {
            let mut buffer = vec![0; INPUT_BYTES_MAX];
            loop {
                match io::stdin().read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        Self { pieces, piped: !io::stdin().is_terminal(), end_again: None }
    }

    /// Whether it comes from a pipe or a file, and not from a terminal.
    pub(crate) fn is_piped(&self) -> bool {
        self.piped
    }

    /// The next bytes to type; `None` when the terminal is gone. A pipe's end is typed as the end of input, again and
    /// again. Loses nothing when dropped.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some((due, _)) = self.end_again {
            tokio::time::sleep_until(due).await;
        } else if let Some(piece) = self.pieces.recv().await {
            return Some(piece);
        } else if !self.piped {
            return None;
        }
        let (first, longest) = END_AGAIN;
        let pause = self.end_again.map_or(first, |(_, pause)| (2 * pause).min(longest));
        self.end_again = Some((Instant::now() + pause, pause));
        Some(vec![END_OF_INPUT])
    }
}

/// Where output goes.
#[derive(Debug)]
pub(crate) struct Output {
    /// Bounded by who puts: it looks at what is unwritten first.
    pieces: mpsc::UnboundedSender<Bytes>,
    /// The lengths of what was written.
    written: mpsc::UnboundedReceiver<usize>,
    unwritten: usize,
    /// How writing ended; `None` once that was told.
    ended: Option<oneshot::Receiver<io::Result<()>>>,
    terminal: bool,
}

impl Output {
    /// Starts to write.
    pub(crate) fn start() -> Self {
        let (pieces, mut receiver) = mpsc::unbounded_channel::<Bytes>();
        let (progress, written) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let mut stdout = io::stdout();
            let mut write = || {
                while let Some(piece) = receiver.blocking_recv() {
                    stdout.write_all(&piece)?;
                    stdout.flush()?;
                    // Nobody may want to know any more.
                    let _ = progress.send(piece.len());
                }
                Ok(())
            };
            // The relay may have ended already.
            let _ = end.send(write());
        });
        Self { pieces, written, unwritten: 0, ended: Some(ended), terminal: io::stdout().is_terminal() }
    }

    /// Whether it goes to a terminal, and not to a pipe or a file.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// How many bytes wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten
    }

    /// Has `bytes` written when their turn comes.
    pub(crate) fn put(&mut self, bytes: Bytes) {
        self.unwritten += bytes.len();
        // Whoever waits for what is written is told if nothing is any more.
        let _ = self.pieces.send(bytes);
    }

    /// Waits for room, then has `bytes` written. Nothing of them is if it is dropped.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        while self.unwritten > OUTPUT_WAITING_BYTES_MAX {
            std::future::poll_fn(|cx| self.poll_written(cx)).await?;
        }
        self.put(bytes);
        Ok(())
    }

    /// Ready when less is unwritten than before, or nothing is written any more.
    pub(crate) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(length) = ready!(self.written.poll_recv(cx)) {
            self.unwritten -= length;
            return Poll::Ready(Ok(()));
        }
        let told = match self.ended.as_mut() {
            Some(ended) => ready!(Pin::new(ended).poll(cx)),
            None => Ok(Ok(())),
        };
        self.ended = None;
        Poll::Ready(Err(told.ok().and_then(Result::err).unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
    }

    /// Leaves a program that goes on, or that ended badly, and with it the state it brought the terminal into.
    pub(crate) fn make_plain(&mut self) {
        if self.terminal {
            self.put(format!("{PLAIN}\r\n").into());
        }
    }

    /// Waits until all is written. A terminal may be stopped: what it doesn't take is given up when a signal asks to end,
    /// or soon if one has `asked` already.
    pub(crate) async fn finish(self, events: &mut Events, asked: bool) -> io::Result<()> {
        drop(self.pieces);
        let Some(ended) = self.ended else { return Ok(()) };
        let given_up = async {
            if asked {
                tokio::time::sleep(LAST_OUTPUT_WAIT_MAX).await;
            } else {
                while !matches!(events.next().await, Event::Ended(_)) {}
            }
        };
        tokio::select! {
            ended = ended => ended.unwrap_or(Ok(())),
            () = given_up => Ok(()),
        }
    }
}

/// The signal that a shell reports for a program whose reader is gone.
pub(crate) const PIPE_SIGNAL: u8 = 13;

/// Something that happened to this terminal besides typing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It has, perhaps, another size.
    Resized,
    /// This process was stopped and goes on.
    Continued,
    /// This process is asked to end, by the signal of this number.
    Ended(u8),
}

/// The signals that tell of it. While it lives they no longer end the process.
#[derive(Debug)]
pub(crate) struct Events {
    resized: Signal,
    continued: Signal,
    hang_up: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Events {
    /// Starts to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next one. Loses nothing when dropped.
    pub(crate) async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.resized.recv() => Event::Resized,
            _ = self.continued.recv() => Event::Continued,
            _ = self.hang_up.recv() => Event::Ended(1),
            _ = self.interrupt.recv() => Event::Ended(2),
            _ = self.quit.recv() => Event::Ended(3),
            _ = self.terminate.recv() => Event::Ended(15),
        }
    }
}
