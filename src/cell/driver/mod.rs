//! The one task that speaks with a cell on its control socket. It keeps requests and answers in order, knows which sessions
//! run, and tells a cell that has had none for a while to stop.

mod heard;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use sandbox::control::{Label, Life, Request, SessionName, Size};
use sandbox::spec::ProjectId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use super::idle::Deed;
use super::link::{Link, Message};
use super::rest::{Outcome, Rest, Standing, Turn};
use super::{ANSWER_WAIT, ASKS_MAX, Care, Ending, Error, Opened, Phase, State};
use crate::metrics::metrics;
use crate::session::{Activity, Keep, Session};

/// How long a cell waits for its first session at least: it was started for one, which on a busy machine takes its time to
/// be asked for.
const FIRST_SESSION_WAIT: Duration = Duration::from_secs(1);

/// A cell that is in use: no alarm is set for it.
const BUSY: (Phase, bool) = (Phase::Running, false);

/// What a cell's handles ask of its driver.
pub(super) enum Ask {
    /// Attach to a session.
    Open {
        session: SessionName,
        size: Size,
        command: Vec<String>,
        client: u64,
        reply: oneshot::Sender<Result<Opened, Error>>,
    },
    /// Attach to a session that runs.
    Join { session: SessionName, reply: oneshot::Sender<Result<Opened, Error>> },
    /// Keep a session's output for the next server.
    Keep { session: SessionName, life: Life, keep: Keep },
    /// Call a session something else.
    Label { session: SessionName, label: Label },
    /// Count the clients of all sessions.
    Clients { reply: oneshot::Sender<usize> },
    /// Hang a session up.
    Close { session: SessionName },
    /// Say why the cell is as it is.
    Explain { reply: oneshot::Sender<Standing> },
    /// Freeze the cell no more, nor stop it for being idle.
    LetGo { reply: oneshot::Sender<()> },
    /// End the cell.
    Stop,
}

/// What a driver waits for.
enum Event {
    Said(Result<Message, Error>),
    Asked(Option<Ask>),
    Rest(Turn),
    Due,
}

pub(super) struct Driver {
    project: ProjectId,
    socket: PathBuf,
    link: Link,
    care: Care,
    asks: mpsc::Receiver<Ask>,
    /// For the sessions' keepers, if there are to be any.
    keepers: Option<mpsc::WeakSender<Ask>>,
    state: watch::Sender<State>,
    sessions: BTreeMap<SessionName, Arc<Session>>,
    activity: Arc<Activity>,
    rest: Rest,
    /// Requests that the cell has yet to answer, oldest first.
    unanswered: VecDeque<Unanswered>,
    /// What the alarm is set for: the cell's phase, and whether it has no session and owes no answer.
    awaited: (Phase, bool),
    /// When it was last logged that the cell has met a limit.
    limit_logged: Option<Instant>,
}

/// A request that the cell has yet to answer.
enum Unanswered {
    Open(SessionName, oneshot::Sender<Result<Opened, Error>>),
    Find,
}

impl Driver {
    /// Drives the cell at the other end of `link`. With `keepers` its sessions' output is kept for the next server.
    pub(super) fn new(
        (project, socket): (ProjectId, PathBuf),
        link: Link,
        care: Care,
        asks: mpsc::Receiver<Ask>,
        keepers: Option<mpsc::WeakSender<Ask>>,
        state: watch::Sender<State>,
    ) -> Self {
        let (sessions, unanswered, activity) = (BTreeMap::new(), VecDeque::new(), Arc::<Activity>::default());
        let rest = Rest::new(care.patience, care.freezers.clone(), activity.clone());
        Self {
            project,
            socket,
            link,
            care,
            asks,
            keepers,
            state,
            sessions,
            activity,
            rest,
            unanswered,
            awaited: (Phase::Running, true),
            limit_logged: None,
        }
    }

    /// Runs until the cell is gone, or nobody has a handle on it any more: then the cell goes on by itself.
    #[tracing::instrument(name = "cell", skip_all, fields(project = %self.project))]
    pub(super) async fn run(mut self) {
        if self.keepers.is_some()
            && let Err(error) = self.find_sessions().await
        {
            tracing::warn!(%error, "a cell's sessions can't be found");
        }
        let mut due = pin!(sleep_until(Instant::now() + self.care.linger.max(FIRST_SESSION_WAIT)));
        loop {
            let event = tokio::select! {
                said = self.link.receive() => Event::Said(said),
                asked = self.asks.recv(), if self.unanswered.len() < ASKS_MAX => Event::Asked(asked),
                turn = self.rest.turn() => Event::Rest(turn),
                () = due.as_mut(), if self.awaited != BUSY => Event::Due,
            };
            let done = match event {
                Event::Said(Ok(message)) => self.heard(message),
                Event::Said(Err(error)) => Err(error),
                Event::Asked(Some(ask)) => self.asked(ask).await,
                Event::Asked(None) => return,
                Event::Rest(turn) => self.rested(turn).await,
                Event::Due => self.due().await,
            };
            match done {
                Ok(()) => {}
                Err(Error::Gone) => break,
                Err(error) => {
                    tracing::warn!(%error, "letting go of a cell");
                    break;
                }
            }
            self.wait_for_idleness(due.as_mut());
        }
        self.state.send_modify(|state| {
            state.phase = Phase::Gone;
            state.frozen = None;
            state.sessions.clear();
            state.labels.clear();
        });
        self.sessions.values().for_each(|session| session.end());
    }

    /// Asks for the sessions that run already.
    async fn find_sessions(&mut self) -> Result<(), Error> {
        let running = self.state.borrow().sessions.clone();
        for session in running {
            self.link.send(&Request::Find { session }, None).await?;
            self.unanswered.push_back(Unanswered::Find);
        }
        Ok(())
    }

    /// Something happened to the cell's rest, or nothing has for long.
    async fn rested(&mut self, turn: Turn) -> Result<(), Error> {
        let judged = self.phase() == Phase::Running && self.unanswered.is_empty() && !self.sessions.is_empty();
        // Any number that is another one once a session has printed, begun or ended.
        let printed = |sum: u64, session: &Arc<Session>| sum.wrapping_add(session.head()).wrapping_add(1);
        let printed = judged.then(|| self.sessions.values().fold(0, printed));
        match self.rest.take(turn, printed) {
            Outcome::Nothing => {}
            Outcome::Frozen(since) => {
                tracing::info!("frozen");
                self.state.send_modify(|state| state.frozen = Some(since));
            }
            Outcome::Thawed => self.thawed(),
            Outcome::Stop(idle) => {
                tracing::info!(idle_s = idle.as_secs(), "stopping an idle cell");
                metrics().cells_stopped_idle.inc();
                self.stop(Ending::Idle(idle)).await?;
            }
        }
        Ok(())
    }

    /// Has the cell go on, if it is frozen: it is to hear something.
    fn wake(&mut self) {
        if self.rest.wake(Deed::Request) {
            self.thawed();
        }
    }

    fn thawed(&self) {
        tracing::info!("thawed");
        self.state.send_modify(|state| state.frozen = None);
    }

    /// Passes a request on.
    async fn asked(&mut self, ask: Ask) -> Result<(), Error> {
        // What is answered here, or needs no answer, shan't wake it.
        if !matches!(ask, Ask::Keep { .. } | Ask::Clients { .. } | Ask::Explain { .. }) {
            self.wake();
        }
        match ask {
            Ask::Open { reply, .. } | Ask::Join { reply, .. } if self.phase() != Phase::Running => {
                let _ = reply.send(Err(Error::Gone));
            }
            Ask::Open { session, size, command, client, reply } => {
                let kept = self.keepers.is_some();
                let request = Request::Open { session: session.clone(), size, command, client, kept };
                match self.link.send(&request, None).await {
                    Err(error @ Error::Refused(_)) => {
                        let _ = reply.send(Err(error));
                    }
                    sent => {
                        sent?;
                        self.unanswered.push_back(Unanswered::Open(session, reply));
                    }
                }
            }
            Ask::Join { session, reply } => {
                self.link.send(&Request::Join { session: session.clone() }, None).await?;
                self.unanswered.push_back(Unanswered::Open(session, reply));
            }
            Ask::Keep { session, life, keep: Keep { from, until, checkpoint } } => {
                self.link.send(&Request::Keep { session, life, from, until }, checkpoint).await?;
            }
            Ask::Label { session, label } => self.link.send(&Request::Label { session, label }, None).await?,
            // Whoever asked may no longer want to know.
            Ask::Clients { reply } => drop(reply.send(self.sessions.values().map(|session| session.attached()).sum())),
            Ask::Close { session } => self.link.send(&Request::Close { session }, None).await?,
            Ask::Explain { reply } => {
                let _ = reply.send(self.rest.standing(!self.sessions.is_empty()));
            }
            Ask::LetGo { reply } => {
                self.rest.end();
                let _ = reply.send(());
            }
            Ask::Stop => self.stop(Ending::Asked).await?,
        }
        Ok(())
    }

    /// The cell has been without a session, or has been stopping, for as long as it may.
    async fn due(&mut self) -> Result<(), Error> {
        if self.phase() == Phase::Stopping {
            return Err(Error::Silent);
        }
        if self.running() > 0 || !self.unanswered.is_empty() {
            return Ok(());
        }
        // Another process may have opened a session: this connection heard of none but its own. Frozen it doesn't say so, and it
        // may be, if the last one ended in the moment that freezing takes.
        self.wake();
        let (_, sessions) = Link::connect(&self.project, &self.socket).await?;
        if sessions.is_empty() {
            tracing::info!("stopping a cell without a session");
            return self.stop(Ending::NoSession).await;
        }
        self.state.send_modify(|state| state.sessions = sessions);
        Ok(())
    }

    async fn stop(&mut self, ending: Ending) -> Result<(), Error> {
        self.wake();
        if let Some(reason) = ending.farewell() {
            self.activity.end(reason);
        }
        self.state.send_modify(|state| {
            state.phase = Phase::Stopping;
            state.ending.get_or_insert(ending);
        });
        self.link.send(&Request::Stop, None).await
    }

    /// Sets the alarm, if something else is waited for than before: an idle cell may linger, a stopping one has a moment. Who
    /// looks at it meanwhile prolongs neither.
    fn wait_for_idleness(&mut self, due: Pin<&mut Sleep>) {
        let awaited = (self.phase(), self.running() == 0 && self.unanswered.is_empty());
        if self.awaited == awaited {
            return;
        }
        self.awaited = awaited;
        match awaited {
            BUSY => {}
            (Phase::Running, _) => due.reset(Instant::now() + self.care.linger),
            _ => due.reset(Instant::now() + ANSWER_WAIT),
        }
    }

    fn running(&self) -> usize {
        self.state.borrow().sessions.len()
    }

    fn phase(&self) -> Phase {
        self.state.borrow().phase
    }
}
