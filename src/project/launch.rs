//! The launcher as async code asks it: one task has its connection, and asks one thing after the other.

use std::time::{Duration, Instant};

use sandbox::freezer::Freezer;
use sandbox::launcher::{Error as Refusal, Given, Launcher, Request};
use sandbox::orphans::Orphans;
use sandbox::spec::{CellSpec, Limits, ProjectId};
use sandbox::usage::Usage;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Error;
use crate::metrics::metrics;
use crate::watch::watched;

/// Requests that may wait for the launcher, which does some hundred a second.
const ASKS_MAX: usize = 256;

/// How long an answer may take: longer than all that can wait before it.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

struct Ask {
    request: Request,
    reply: oneshot::Sender<Result<Given, Refusal>>,
}

/// A handle on the launcher.
#[derive(Clone)]
pub(super) struct Launch {
    asks: mpsc::Sender<Ask>,
}

impl Launch {
    /// Starts the task, which ends with the last copy of this handle. Call it within a runtime.
    pub(super) fn start(launcher: Launcher) -> Result<Self, Error> {
        let launcher = watched(launcher, Interest::READABLE)
            .map_err(|error| Error::Io { what: "wait for the launcher".to_owned(), error })?;
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        tokio::spawn(pass_on(launcher, asked));
        Ok(Self { asks })
    }

    pub(super) async fn start_cell(&self, spec: CellSpec) -> Result<(), Error> {
        self.ask(Request::StartCell(Box::new(spec))).await.map(drop)
    }

    /// Removes what is left of a cell, by force if it didn't end; nothing left is fine too.
    pub(super) async fn remove_cell(&self, project: &ProjectId) -> Result<(), Error> {
        self.ask(Request::RemoveCell { project: project.clone() }).await.map(drop)
    }

    /// Removes a project's folder with all its files.
    pub(super) async fn remove_project(&self, project: &ProjectId) -> Result<(), Error> {
        self.ask(Request::RemoveProject { project: project.clone() }).await.map(drop)
    }

    /// Gives a running cell other limits.
    pub(super) async fn set_limits(&self, project: &ProjectId, limits: &Limits) -> Result<(), Error> {
        self.ask(Request::SetLimits { project: project.clone(), limits: limits.clone() }).await.map(drop)
    }

    /// What a running cell uses.
    pub(super) async fn usage(&self, project: &ProjectId) -> Result<Usage, Error> {
        match self.ask(Request::Usage { project: project.clone() }).await? {
            Given::Usage(usage) => Ok(*usage),
            _ => Err(something_else()),
        }
    }

    /// What was left over when the launcher started, and what is kept of that.
    pub(super) async fn orphans(&self) -> Result<Orphans, Error> {
        match self.ask(Request::Orphans).await? {
            Given::Orphans(orphans) => Ok(*orphans),
            _ => Err(something_else()),
        }
    }

    /// What freezes and thaws a running cell; `None` where cells have none.
    pub(super) async fn freezer(&self, project: &ProjectId) -> Result<Option<Freezer>, Error> {
        match self.ask(Request::Freezer { project: project.clone() }).await? {
            Given::Freezer(freezer) => Ok(Some(freezer)),
            Given::Nothing => Ok(None),
            Given::Usage(_) | Given::Orphans(_) => Err(something_else()),
        }
    }

    /// Asks what is answered soonest, about whom it doesn't matter.
    pub(super) async fn ask_for_life(&self) -> Result<(), Error> {
        let anybody = ProjectId::parse("anybody").expect("it is an id");
        match self.usage(&anybody).await {
            Ok(_) | Err(Error::Launcher(Refusal::NoCell)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    #[tracing::instrument(level = "debug", name = "launcher", skip_all, fields(verb = verb(&request)))]
    async fn ask(&self, request: Request) -> Result<Given, Error> {
        let (verb, began) = (verb(&request), Instant::now());
        let answered = self.answer_to(request).await;
        let failed = matches!(&answered, Err(Error::Busy | Error::Launcher(Refusal::Failed { .. } | Refusal::Gone(_))));
        metrics().launcher_asked(verb, failed);
        metrics().launcher_request.observe(began.elapsed().as_secs_f64());
        answered
    }

    async fn answer_to(&self, request: Request) -> Result<Given, Error> {
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

fn something_else() -> Error {
    Error::Launcher(Refusal::from(std::io::Error::other("it answered something else")))
}

/// What is asked, as it is counted.
fn verb(request: &Request) -> &'static str {
    match request {
        Request::StartCell(_) => "start_cell",
        Request::RemoveCell { .. } => "remove_cell",
        Request::RemoveProject { .. } => "remove_project",
        Request::SetLimits { .. } => "set_limits",
        Request::Usage { .. } => "usage",
        Request::Orphans => "orphans",
        Request::Freezer { .. } => "freezer",
        Request::Unpack { .. } => "unpack",
        Request::RemoveLayer { .. } => "remove_layer",
    }
}

async fn pass_on(mut launcher: AsyncFd<Launcher>, mut asked: mpsc::Receiver<Ask>) {
    while let Some(Ask { request, reply }) = asked.recv().await {
        let mut done = ask(&mut launcher, &request).await;
        if matches!(done, Err(Refusal::Gone(_)))
            && let Some(follower) = launcher.get_ref().follower()
        {
            // Whatever the last one did of it can be asked for again: what is there is found, what is gone is gone.
            done = match prepared(follower).await {
                Ok(follower) => {
                    launcher = follower;
                    ask(&mut launcher, &request).await
                }
                Err(error) => Err(error),
            };
        }
        // Whoever no longer waits finds the cell running, or gone.
        let _ = reply.send(done);
    }
}

async fn ask(launcher: &mut AsyncFd<Launcher>, request: &Request) -> Result<Given, Refusal> {
    launcher.get_mut().send(request)?;
    answer(launcher).await
}

/// A launcher that one has just connected to, once it is prepared.
async fn prepared(launcher: std::io::Result<Launcher>) -> Result<AsyncFd<Launcher>, Refusal> {
    let mut launcher = watched(launcher?, Interest::READABLE)?;
    answer(&mut launcher).await?;
    Ok(launcher)
}

async fn answer(launcher: &mut AsyncFd<Launcher>) -> Result<Given, Refusal> {
    // It says nothing unasked, so the answer is what makes the descriptor readable.
    launcher.readable_mut().await?.clear_ready();
    launcher.get_mut().answer()
}
