//! `cloister run`: a shell or a command in a project's cell on this terminal, without a server.
//!
//! The cell is the same as a server's, and so is what opens it: a running one is shared, and one that was started here
//! ends with the last session in it. It doesn't know how a cell is made.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use sandbox::control::{Exit, SessionName, Size};
use sandbox::spec::ProjectId;

use crate::cell::Cell;
use crate::cli::RunOptions;
use crate::config::Config;
use crate::host::Host;
use crate::project::Projects;
use crate::screen::RESET;
use crate::session::{self, Attachment, Presence, Start, Who};
use crate::tty::{self, Event, Events, Input, Output, PIPE_SIGNAL, Raw};
use crate::wire::Role;

/// Most output moved at once, in bytes: a pipe's room.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// Longest wait for a program that is hung up: the cell kills it before.
const HANG_UP_WAIT_MAX: Duration = Duration::from_secs(5);

/// How a relay ended.
enum End {
    /// The session's program did.
    Exited(Exit),
    /// This process was asked to end by a signal.
    Signalled(u8),
    /// The cell ended or standard output is gone.
    Failed(anyhow::Error),
}

impl End {
    /// Standard output takes no more.
    fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Signalled(PIPE_SIGNAL),
            _ => Self::Failed(anyhow!(error).context("write to standard output")),
        }
    }
}

/// Runs a command, or the image's shell, and ends with its status.
pub(crate) fn run(config: Config, options: &RunOptions) -> anyhow::Result<ExitCode> {
    let project =
        ProjectId::parse(&options.project).with_context(|| format!("project `{}`", options.project.escape_debug()))?;
    let host = Host::start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run_in_cell(host, &project, &options.command))
}

async fn run_in_cell(host: Host, project: &ProjectId, command: &[String]) -> anyhow::Result<ExitCode> {
    let projects = Projects::new(host, false)?;
    // From here on a signal is heard, not obeyed at once: nothing that was started is left behind.
    let mut events = Events::listen().context("listen for signals")?;
    let ended = run_in_session(&projects, project, command, &mut events).await;
    let released = projects.release(project).await;
    let end = ended?;
    released?;
    match end {
        End::Exited(Exit::Code(status)) => Ok(ExitCode::from(status)),
        End::Exited(Exit::Signal(signal)) | End::Signalled(signal) => Ok(ExitCode::from(128_u8.saturating_add(signal))),
        End::Failed(error) => Err(error),
    }
}

/// Runs the command in a session of its own, which has ended when this has.
async fn run_in_session(
    projects: &Projects,
    project: &ProjectId,
    command: &[String],
    events: &mut Events,
) -> anyhow::Result<End> {
    // One for each process, so that two of them don't share a terminal.
    let session = SessionName::parse(&format!("run-{}", std::process::id())).expect("a number is short");
    let (client, size) = (session::random()?, tty::size());
    let opened = projects.attach(project, &session, size.unwrap_or(Size::DEFAULT), command, client).await?;
    ensure!(opened.started, "session {session} runs already: try again");
    let who = Who { client, role: Role::Writer, size, bell: Arc::default(), presence: Presence::Reading };
    let cell = projects.open(project).await?;
    let mut attachment = Attachment::new(opened.hold, Start::Resume(0), who)?;
    let end = match Raw::enter() {
        Ok(raw) => relay_and_finish(&mut attachment, events, &raw).await,
        Err(error) => End::Failed(anyhow!(error).context("set the terminal to raw mode")),
    };
    if !matches!(end, End::Exited(_)) {
        hang_up(&cell, project, &session, &mut attachment).await;
    }
    Ok(end)
}

async fn relay_and_finish(attachment: &mut Attachment, events: &mut Events, raw: &Raw) -> End {
    let mut output = Output::start();
    let end = relay(attachment, &mut output, events, raw).await;
    if !matches!(end, End::Exited(_)) {
        output.make_plain();
    }
    match output.finish(events, matches!(end, End::Signalled(_))).await {
        Err(error) if matches!(end, End::Exited(_)) => End::output(error),
        _ => end,
    }
}

/// Relays between the session and this terminal until one of them ends it.
async fn relay(attachment: &mut Attachment, output: &mut Output, events: &mut Events, raw: &Raw) -> End {
    let mut input = Input::start();
    let mut size = tty::size();
    let mut buffer = Vec::new();
    // What waits for room in the output; meanwhile the session's input goes on.
    let mut waiting: Option<Bytes> = None;
    loop {
        let (takes_input, has_room) = (attachment.takes_input(), waiting.is_none());
        let written = async {
            match &waiting {
                Some(bytes) => output.write(bytes.clone()).await,
                None => std::future::pending().await,
            }
        };
        let moved = std::future::poll_fn(|cx| {
            if has_room { attachment.poll_output(cx, OUTPUT_BYTES_MAX, &mut buffer) } else { attachment.poll_input(cx) }
        });
        tokio::select! {
            written = written => match written {
                Ok(()) => waiting = None,
                Err(error) => return End::output(error),
            },
            moved = moved => match moved {
                session::Output::Bytes { .. } | session::Output::Picture => {
                    waiting = Some(std::mem::take(&mut buffer).into());
                }
                session::Output::Reset(_) => waiting = Some(RESET.into()),
                session::Output::Room | session::Output::Resized(_) | session::Output::Painted { .. } => {}
                session::Output::Ended(exit) => return End::Exited(exit),
                session::Output::Lost(error) => return End::Failed(error.into()),
            },
            piece = input.next(), if takes_input => match piece {
                Some(piece) => attachment.input(&piece),
                None => return End::Signalled(1),
            },
            event = events.next() => {
                match event {
                    Event::Ended(signal) => return End::Signalled(signal),
                    // Without the terminal there is nothing to bring back, and a signal comes next.
                    Event::Continued => drop(raw.enter_again()),
                    Event::Resized => {}
                }
                let now = tty::size();
                if let Some(now) = now.filter(|_| now != size) {
                    attachment.resize(now);
                }
                size = now;
            }
        }
    }
}

/// Hangs up a program whose terminal is gone and waits until it has ended.
async fn hang_up(cell: &Cell, project: &ProjectId, session: &SessionName, attachment: &mut Attachment) {
    let ended = async {
        cell.close(session).await?;
        let mut unread = Vec::new();
        while !matches!(
            attachment.output(OUTPUT_BYTES_MAX, &mut unread).await,
            session::Output::Ended(_) | session::Output::Lost(_)
        ) {
            unread.clear();
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(HANG_UP_WAIT_MAX, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("failed to hang up session {session}: {error:#}"),
        Err(_) => tracing::warn!("session {session} does not end; `cloister project stop {project}` ends it"),
    }
}
