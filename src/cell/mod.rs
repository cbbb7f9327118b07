//! A running cell, as the server knows it: a socket on which sessions are opened, closed and heard of.
//!
//! [`Cell`] is the handle, `driver` the one task behind it, `link` the socket; `rest` freezes a cell in which nothing happens, as
//! `idle` decides. What comes from the cell is hostile: it is bounded and checked, and a cell that breaks the protocol is let go.
//! It doesn't know how a cell is started or removed.

mod driver;
mod idle;
mod link;
mod rest;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use sandbox::control::{Label, SessionName, Size};
use sandbox::freezer::Freezer;
use sandbox::spec::ProjectId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::session::{Hold, Sizing};
use driver::{Ask, Driver};
pub(crate) use idle::{Deed, Patience};
use link::Link;
pub(crate) use rest::{Fate, Freezers, Standing};

/// How long a cell may take for anything it is asked: a shell starts in milliseconds, on a machine that swaps in seconds.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Requests to a cell that may wait for their turn.
const ASKS_MAX: usize = 64;

/// Why a cell didn't do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no cell, or no longer: start one.
    #[error("the cell has ended")]
    Gone,
    /// It doesn't answer.
    #[error("the cell did not answer within {} seconds: is the machine overloaded?", ANSWER_WAIT.as_secs())]
    Silent,
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It broke the protocol, or speaks another version of it.
    #[error("{0}")]
    Protocol(String),
    /// The socket failed.
    #[error("the cell's socket: {0}")]
    Io(#[from] io::Error),
}

/// What is known of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The sessions that run in it.
    pub(crate) sessions: BTreeSet<SessionName>,
    /// What those of them are called that have a label.
    pub(crate) labels: BTreeMap<SessionName, Label>,
    /// What the kernel killed last, since this server has known the cell.
    pub(crate) killed: Option<OutOfMemory>,
    /// Which processes it refused last, likewise.
    pub(crate) refused: Option<OutOfPids>,
    /// That its disk was full, likewise.
    pub(crate) full: Option<OutOfDisk>,
    /// Since when it is frozen.
    pub(crate) frozen: Option<SystemTime>,
    /// How far its life is.
    pub(crate) phase: Phase,
    /// Why it was told to end, if it was.
    pub(crate) ending: Option<Ending>,
}

/// Why a cell is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// Somebody asked for it.
    Asked,
    /// Its last session has ended.
    NoSession,
    /// Nothing has happened in it for so long.
    Idle(Duration),
}

impl Ending {
    /// What the clients of its sessions are told, if they can't know.
    fn farewell(self) -> Option<String> {
        match self {
            Self::Idle(idle) => {
                Some(format!("the project was stopped, since nothing happened in it for {}", spoken(idle)))
            }
            Self::Asked | Self::NoSession => None,
        }
    }
}

/// A time in seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time as people say it, in its two largest units, as in `3 h 20 min`.
pub(crate) fn spoken(time: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(24 * 3600, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = time.as_secs();
    let index = UNITS.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(UNITS.len() - 1);
    let (unit, name) = UNITS[index];
    let smaller = UNITS.get(index + 1).map(|(smaller, name)| ((seconds % unit) / smaller, name));
    match smaller.filter(|(count, _)| *count > 0) {
        Some((count, smaller)) => format!("{} {name} {count} {smaller}", seconds / unit),
        None => format!("{} {name}", seconds / unit),
    }
}

/// The kernel has killed processes of a cell because its memory was used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory {
    /// How many, since the cell's birth.
    pub(crate) kills: u64,
    /// The limit that was reached, in bytes.
    pub(crate) limit_bytes: u64,
    /// The program that was killed last, where that is known.
    pub(crate) victim: Option<String>,
}

/// The kernel has refused a cell processes because it has as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfPids {
    /// How many, since the cell's birth.
    pub(crate) refusals: u64,
    /// The limit that was reached.
    pub(crate) limit: u64,
}

/// A cell had no room left within its limit of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfDisk {
    /// How often that was found, since the cell's birth.
    pub(crate) times: u64,
    /// The limit, in bytes.
    pub(crate) limit_bytes: u64,
}

/// How far a cell's life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Sessions can be opened.
    Running,
    /// It was told to end.
    Stopping,
    /// Nothing answers any more; what is left of it can be removed.
    Gone,
}

/// Finds out which program of a cell the kernel killed last, if that can be known.
#[derive(Clone)]
pub(crate) struct Coroner(Arc<dyn Fn() -> BoxFuture<'static, Option<String>> + Send + Sync>);

impl Coroner {
    pub(crate) fn new(ask: impl Fn() -> BoxFuture<'static, Option<String>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl std::fmt::Debug for Coroner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Coroner")
    }
}

/// How a cell and its sessions are looked after.
#[derive(Clone, Debug)]
pub(crate) struct Care {
    /// Whom to ask when the kernel has killed a program.
    pub(crate) coroner: Coroner,
    /// After how long without a session the cell is told to stop.
    pub(crate) linger: Duration,
    /// Whether the sessions' output is kept for whoever comes after: one server does that.
    pub(crate) keeps: bool,
    /// Whose size the sessions have.
    pub(crate) sizing: Sizing,
    /// For how long nothing may happen in the cell.
    pub(crate) patience: Patience,
    /// What it is frozen by.
    pub(crate) freezers: Freezers,
}

/// A handle on a running cell; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    asks: mpsc::Sender<Ask>,
    state: watch::Receiver<State>,
    connection: Arc<()>,
    /// Keeps others from freezing it, as long as there is a handle.
    _held: Option<Arc<Freezer>>,
}

/// A session that was opened for a client.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The client's hold on it.
    pub(crate) hold: Hold,
    /// Whether it was started just now.
    pub(crate) started: bool,
}

impl Cell {
    /// Connects to the cell of `project` at `socket` and starts its driver. `waking` has it go on, if it may be frozen, and gives
    /// what is to be held so that others don't freeze it.
    pub(crate) async fn connect(
        project: ProjectId,
        socket: PathBuf,
        care: Care,
        waking: impl Future<Output = Option<Freezer>>,
    ) -> Result<Self, Error> {
        let link = Link::reach(&socket).await?;
        let held = waking.await;
        let (link, sessions) = link.greeted(&project).await?;
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (publish, state) = watch::channel(State {
            sessions,
            labels: BTreeMap::new(),
            killed: None,
            refused: None,
            full: None,
            frozen: None,
            phase: Phase::Running,
            ending: None,
        });
        let keepers = care.keeps.then(|| asks.downgrade());
        tokio::spawn(Driver::new((project, socket), link, care, asked, keepers, publish).run());
        Ok(Self { asks, state, connection: Arc::new(()), _held: held.map(Arc::new) })
    }

    /// Opens a session for a client, as whose input says it; it is started with `size` and `command` if it isn't running.
    #[tracing::instrument(level = "debug", name = "open session", skip_all)]
    pub(crate) async fn open(
        &self,
        session: &SessionName,
        size: Size,
        command: &[String],
        client: u64,
    ) -> Result<Opened, Error> {
        let (session, command) = (session.clone(), command.to_vec());
        self.opened(|reply| Ask::Open { session, size, command, client, reply }).await
    }

    /// Opens a session that runs, for who types nothing; `None` if it has ended.
    pub(crate) async fn join(&self, session: &SessionName) -> Result<Option<Hold>, Error> {
        let asked = session.clone();
        match self.opened(|reply| Ask::Join { session: asked, reply }).await {
            Ok(opened) => Ok(Some(opened.hold)),
            // A cell says that a session ended before it says anything that follows from it.
            Err(Error::Refused(_)) if !self.state().sessions.contains(session) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn opened(&self, ask: impl FnOnce(oneshot::Sender<Result<Opened, Error>>) -> Ask) -> Result<Opened, Error> {
        let (reply, answer) = oneshot::channel();
        let ask = ask(reply);
        let answered = timeout(ANSWER_WAIT, async {
            self.asks.send(ask).await.map_err(|_| Error::Gone)?;
            answer.await.map_err(|_| Error::Gone)?
        });
        answered.await.map_err(|_| Error::Silent)?
    }

    /// Gives a running session a new size; `false` if it ended meanwhile.
    pub(crate) async fn resize(&self, session: &SessionName, size: Size) -> Result<bool, Error> {
        let Some(hold) = self.join(session).await? else { return Ok(false) };
        timeout(ANSWER_WAIT, hold.impose(size)).await.map_err(|_| Error::Silent)??;
        Ok(true)
    }

    /// How many clients its sessions have together, of this server's.
    pub(crate) async fn clients(&self) -> Result<usize, Error> {
        self.answered(|reply| Ask::Clients { reply }).await
    }

    /// Calls a session something else.
    pub(crate) async fn label(&self, session: &SessionName, label: Label) -> Result<(), Error> {
        self.ask(Ask::Label { session: session.clone(), label }).await
    }

    /// Hangs up a session.
    pub(crate) async fn close(&self, session: &SessionName) -> Result<(), Error> {
        self.ask(Ask::Close { session: session.clone() }).await
    }

    /// Why it is as it is.
    pub(crate) async fn standing(&self) -> Result<Standing, Error> {
        self.answered(|reply| Ask::Explain { reply }).await
    }

    /// Has it go on whatever happens: who looks after it next may not know that cells can be frozen.
    pub(crate) async fn let_go(&self) -> Result<(), Error> {
        self.answered(|reply| Ask::LetGo { reply }).await
    }

    /// Ends the cell and waits until it has.
    pub(crate) async fn stop(&self) -> Result<(), Error> {
        match self.ask(Ask::Stop).await {
            Ok(()) => self.gone().await,
            Err(Error::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until the cell has ended, but not for ever once it was told to.
    pub(crate) async fn gone(&self) -> Result<(), Error> {
        let mut state = self.state.clone();
        // A driver that is no more has published that or can't any more.
        let _ = state.wait_for(|state| state.phase > Phase::Running).await;
        let ended = timeout(ANSWER_WAIT, state.wait_for(|state| state.phase == Phase::Gone)).await;
        ended.map(|_| ()).map_err(|_| Error::Silent)
    }

    /// What is known of it now.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What becomes of it.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Whether sessions can be opened in it.
    pub(crate) fn is_running(&self) -> bool {
        self.state.borrow().phase == Phase::Running
    }

    /// Whether both are handles on the same connection to the same cell.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }

    /// Asks what the driver itself answers.
    async fn answered<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(ask(reply)).await?;
        timeout(ANSWER_WAIT, answer).await.map_err(|_| Error::Silent)?.map_err(|_| Error::Gone)
    }

    async fn ask(&self, ask: Ask) -> Result<(), Error> {
        let sent = timeout(ANSWER_WAIT, self.asks.send(ask)).await.map_err(|_| Error::Silent)?;
        sent.map_err(|_| Error::Gone)
    }
}

#[cfg(test)]
mod tests;
