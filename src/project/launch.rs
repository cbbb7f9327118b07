//! The launcher as async code asks it: one task has its connection, and asks one thing after the other.

use std::time::Duration;

use sandbox::launcher::{Error as Refusal, Launcher, Request};
use sandbox::spec::{CellSpec, ProjectId};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Error;

/// Requests that may wait for the launcher, which does some hundred a second.
const ASKS_MAX: usize = 256;

/// How long an answer may take: longer than all that can wait before it.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

struct Ask {
    request: Request,
    reply: oneshot::Sender<Result<(), Refusal>>,
}

/// A handle on the launcher.
pub(super) struct Launch {
    asks: mpsc::Sender<Ask>,
}

impl Launch {
    /// Starts the task, which ends with this handle. Call it within a runtime.
    pub(super) fn start(launcher: Launcher) -> Result<Self, Error> {
        #[expect(
            deprecated,
            reason = "the replacement is unsafe for the sake of types that exchange their descriptor; this one can't"
        )]
        let launcher = AsyncFd::with_interest(launcher, Interest::READABLE)
            .map_err(|error| Error::Io { what: "wait for the launcher".to_owned(), error })?;
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        tokio::spawn(pass_on(launcher, asked));
        Ok(Self { asks })
    }

    pub(super) async fn start_cell(&self, spec: CellSpec) -> Result<(), Error> {
        self.ask(Request::StartCell(Box::new(spec))).await
    }

    /// Removes what is left of a cell, by force if it didn't end; nothing left is fine too.
    pub(super) async fn remove_cell(&self, project: &ProjectId) -> Result<(), Error> {
        self.ask(Request::RemoveCell { project: project.clone() }).await
    }

    /// Removes a project's folder with all its files.
    pub(super) async fn remove_project(&self, project: &ProjectId) -> Result<(), Error> {
        self.ask(Request::RemoveProject { project: project.clone() }).await
    }

    async fn ask(&self, request: Request) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        match self.asks.try_send(Ask { request, reply }) {
            Err(mpsc::error::TrySendError::Full(_)) => return Err(Error::Busy),
            // A task that is gone answers like a launcher that is.
            Err(mpsc::error::TrySendError::Closed(_)) | Ok(()) => {}
        }
        let answered = timeout(ANSWER_WAIT, answer).await.map_err(|_| Error::Busy)?;
        let gone = |_| Refusal::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        answered.map_err(gone).flatten().map_err(Error::Launcher)
    }
}

async fn pass_on(mut launcher: AsyncFd<Launcher>, mut asked: mpsc::Receiver<Ask>) {
    while let Some(Ask { request, reply }) = asked.recv().await {
        let done = ask(&mut launcher, &request).await;
        // Whoever no longer waits finds the cell running, or gone.
        let _ = reply.send(done);
    }
}

async fn ask(launcher: &mut AsyncFd<Launcher>, request: &Request) -> Result<(), Refusal> {
    launcher.get_mut().send(request)?;
    // It says nothing unasked, so the answer is what makes the descriptor readable.
    launcher.readable_mut().await?.clear_ready();
    launcher.get_mut().answer()
}
