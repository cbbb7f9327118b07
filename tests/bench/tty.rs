//! A program on a terminal of its own, as a terminal emulator starts it: what peers without a server are measured by.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// How long anything that is measured may take; the slowest peer needs a twentieth of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// How the prompt of the default image ends, whatever the host's name and the folder.
const PROMPT: &[u8] = b"$ ";

/// Most bytes of one read; the kernel gives up to 19 KiB at once.
const READ_BYTES_MAX: usize = 32 * 1024;

/// A program with its arguments and its whole environment.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Its path or name, and its arguments.
    pub(crate) words: Vec<String>,
    /// `KEY=value`.
    pub(crate) env: Vec<(String, String)>,
}

impl Program {
    /// A program with its environment.
    pub(crate) fn new<'a>(words: impl IntoIterator<Item = &'a str>, env: &[(&str, &str)]) -> Self {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { words: words.into_iter().map(str::to_owned).collect(), env }
    }

    /// Puts words behind the others.
    pub(crate) fn with<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.words.extend(words.into_iter().map(str::to_owned));
        self
    }
}

/// The master's side of a terminal, and the program in it.
pub(crate) struct Tty {
    master: OwnedFd,
    program: Box<dyn portable_pty::Child + Send + Sync>,
}

impl Tty {
    /// Starts a program on a new terminal.
    pub(crate) fn start(program: &Program) -> anyhow::Result<Self> {
        let pair = native_pty_system().openpty(PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 })?;
        let mut builder = CommandBuilder::new(&program.words[0]);
        builder.args(&program.words[1..]);
        builder.env_clear();
        program.env.iter().for_each(|(key, value)| builder.env(key, value));
        builder.cwd("/");
        let program = pair.slave.spawn_command(builder)?;
        let number = pair.master.as_raw_fd().context("a terminal has a descriptor")?;
        Ok(Self { master: duplicate(number)?, program })
    }

    /// The terminal's descriptor, for who waits for several.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.master
    }

    /// Reads until the shell's prompt is there.
    pub(crate) fn until_prompt(&self) -> anyhow::Result<()> {
        let by = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        while !is_prompt(&seen) {
            ensure!(self.read(&mut seen, by)?, "ended without a prompt: {}", last_line(&seen));
        }
        Ok(())
    }

    /// Ends the shell in it, and waits until the program has ended.
    pub(crate) fn exit(mut self) -> anyhow::Result<()> {
        let by = Instant::now() + DEADLINE;
        rustix::io::write(&self.master, b"exit\r")?;
        let mut rest = Vec::new();
        while self.read(&mut rest, by)? {}
        self.program.wait()?;
        Ok(())
    }

    /// Reads what there is; false if nothing more can come.
    fn read(&self, out: &mut Vec<u8>, by: Instant) -> anyhow::Result<bool> {
        let mut buffer = [0; READ_BYTES_MAX];
        if !wait_readable(&self.master, by)? {
            bail!("nothing for {} seconds, but: {}", DEADLINE.as_secs(), last_line(out));
        }
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) | Err(Errno::IO) => return Ok(false),
            Ok(count) => out.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }
}

/// Whether a shell's output ends in its prompt.
pub(crate) fn is_prompt(output: &[u8]) -> bool {
    output.ends_with(PROMPT)
}

/// Whether the prompt is somewhere in what a terminal was sent; a snapshot has it in its midst.
pub(crate) fn shows_prompt(output: &[u8]) -> bool {
    output.windows(PROMPT.len()).any(|part| part == PROMPT)
}

/// The last line of some output that says something.
pub(crate) fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was said").trim().to_owned()
}

fn wait_readable(descriptor: impl AsFd, by: Instant) -> anyhow::Result<bool> {
    let left = by.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    Ok(poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left))? > 0)
}

/// A descriptor of ours by its number, without taking the number's word for it.
fn duplicate(number: i32) -> anyhow::Result<OwnedFd> {
    let this =
        pidfd_open(Pid::from_raw(getpid().as_raw_nonzero().get()).context("we have a pid")?, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?)
}
