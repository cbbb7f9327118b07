//! The launcher as async code asks it. A thread of its own waits for the answers, which the launcher gives one by one.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use sandbox::launcher::{Error as Refusal, Launcher};
use sandbox::spec::{CellSpec, ProjectId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Error;

/// Requests that may wait for the launcher, which does some hundred a second.
const ASKS_MAX: usize = 256;

/// How long an answer may take: longer than all that can wait before it.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

type Reply = oneshot::Sender<Result<(), Refusal>>;

enum Ask {
    Start(Box<CellSpec>, Reply),
    Remove(ProjectId, Reply),
    RemoveProject(ProjectId, Reply),
}

/// A handle on the launcher.
pub(super) struct Launch {
    asks: SyncSender<Ask>,
}

impl Launch {
    /// Starts the thread, which ends with this handle.
    pub(super) fn start(launcher: Launcher) -> Result<Self, Error> {
        let (asks, asked) = sync_channel(ASKS_MAX);
        let thread = std::thread::Builder::new().name("launcher".to_owned());
        let spawned = thread.spawn(move || pass_on(launcher, &asked));
        spawned.map_err(|error| Error::Io { what: "start the launcher's thread".to_owned(), error })?;
        Ok(Self { asks })
    }

    pub(super) async fn start_cell(&self, spec: CellSpec) -> Result<(), Error> {
        self.ask(|reply| Ask::Start(Box::new(spec), reply)).await
    }

    /// Removes what is left of a cell, by force if it didn't end; nothing left is fine too.
    pub(super) async fn remove_cell(&self, project: &ProjectId) -> Result<(), Error> {
        self.ask(|reply| Ask::Remove(project.clone(), reply)).await
    }

    /// Removes a project's folder with all its files.
    pub(super) async fn remove_project(&self, project: &ProjectId) -> Result<(), Error> {
        self.ask(|reply| Ask::RemoveProject(project.clone(), reply)).await
    }

    async fn ask(&self, ask: impl FnOnce(Reply) -> Ask) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        match self.asks.try_send(ask(reply)) {
            Err(TrySendError::Full(_)) => return Err(Error::Busy),
            // A thread that is gone answers like a launcher that is.
            Err(TrySendError::Disconnected(_)) | Ok(()) => {}
        }
        let answered = timeout(ANSWER_WAIT, answer).await.map_err(|_| Error::Busy)?;
        let gone = |_| Refusal::Gone(std::io::ErrorKind::BrokenPipe.into());
        answered.map_err(gone).flatten().map_err(Error::Launcher)
    }
}

fn pass_on(mut launcher: Launcher, asked: &Receiver<Ask>) {
    while let Ok(ask) = asked.recv() {
        let (done, reply) = match ask {
            Ask::Start(spec, reply) => (launcher.start_cell(&spec), reply),
            Ask::Remove(project, reply) => (launcher.remove_cell(&project), reply),
            Ask::RemoveProject(project, reply) => (launcher.remove_project(&project), reply),
        };
        // Whoever no longer waits finds the cell running, or gone.
        let _ = reply.send(done);
    }
}
