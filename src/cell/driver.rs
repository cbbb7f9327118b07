//! The one task that speaks with a cell on its control socket. It keeps requests and answers in order, knows which sessions
//! run, and tells a cell that has had none for a while to stop.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use sandbox::control::{Label, Life, Request, SESSIONS_MAX, SessionName, Size};
use sandbox::spec::ProjectId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Instrument;

use super::link::{Attached, Found, Link, Message};
use super::{ANSWER_WAIT, ASKS_MAX, Care, Error, Opened, OutOfMemory, Phase, State};
use crate::metrics::metrics;
use crate::session::{Hold, Keep, Session, keep};

/// How long a cell waits for its first session at least: it was started for one, which on a busy machine takes its time to
/// be asked for.
const FIRST_SESSION_WAIT: Duration = Duration::from_secs(1);

/// How often it is logged at most that a cell has met a limit: as often as an honest one says so.
const LIMIT_LOGGED_EVERY: Duration = Duration::from_millis(100);

/// Longest time to sleep at once when there is nothing to wait for.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// End the cell.
    Stop,
}

/// What a driver waits for.
enum Event {
    Said(Result<Message, Error>),
    Asked(Option<Ask>),
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
    /// Requests that the cell has yet to answer, oldest first.
    unanswered: VecDeque<Unanswered>,
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
        let (sessions, unanswered) = (BTreeMap::new(), VecDeque::new());
        Self { project, socket, link, care, asks, keepers, state, sessions, unanswered, limit_logged: None }
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
                () = due.as_mut() => Event::Due,
            };
            let done = match event {
                Event::Said(Ok(message)) => self.heard(message),
                Event::Said(Err(error)) => Err(error),
                Event::Asked(Some(ask)) => self.asked(ask).await,
                Event::Asked(None) => return,
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

    /// Takes note of what the cell said.
    fn heard(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Opened(session, attached) => {
                let Some(Unanswered::Open(asked, reply)) = self.unanswered.pop_front() else {
                    return Err(out_of_turn());
                };
                if asked != session {
                    return Err(Error::Protocol("the cell opened a session that nobody asked for".to_owned()));
                }
                let opened = self.opened(&session, attached)?;
                self.state.send_if_modified(|state| state.sessions.insert(session));
                if self.running() > SESSIONS_MAX {
                    return Err(Error::Protocol("the cell opened more sessions than it may".to_owned()));
                }
                // Whoever no longer waits drops the descriptors, which detaches.
                let _ = reply.send(Ok(opened));
            }
            Message::Found(session, found) => {
                let Some(Unanswered::Find) = self.unanswered.pop_front() else { return Err(out_of_turn()) };
                let Found { life, kept, log, checkpoint } = found;
                let restored = Session::restore(life, log, kept.unwrap_or(0), checkpoint.as_ref());
                self.keep(&session, Arc::new(restored.map_err(malformed)?.sized_by(self.care.sizing)), kept);
            }
            Message::Failed(reason) => match self.unanswered.pop_front().ok_or_else(out_of_turn)? {
                Unanswered::Open(_, reply) => drop(reply.send(Err(Error::Refused(reason)))),
                // It ended just now.
                Unanswered::Find => {}
            },
            Message::Grown(session) => {
                if let Some(session) = self.sessions.get(&session) {
                    session.grown();
                }
            }
            Message::Labelled(session, label) => self.labelled(session, label),
            Message::OutOfMemory(killed) => {
                metrics().limit_met("memory");
                if self.may_log_limit() {
                    self.inquire(killed);
                } else {
                    self.state.send_modify(|state| state.killed = Some(killed));
                }
            }
            Message::OutOfPids(refused) => {
                metrics().limit_met("pids");
                if self.may_log_limit() {
                    tracing::warn!(refused.refusals, refused.limit, "out of processes");
                }
                self.state.send_modify(|state| state.refused = Some(refused));
            }
            Message::OutOfDisk(full) => {
                metrics().limit_met("disk");
                if self.may_log_limit() {
                    tracing::warn!(full.times, full.limit_bytes, "out of disk");
                }
                self.state.send_modify(|state| state.full = Some(full));
            }
            Message::Ended(session, exit) => {
                tracing::info!(%session, ?exit, "session ended");
                if let Some(ended) = self.sessions.remove(&session) {
                    ended.end();
                }
                self.state.send_if_modified(|state| {
                    state.labels.remove(&session);
                    state.sessions.remove(&session)
                });
            }
            Message::Gone => return Err(Error::Gone),
        }
        Ok(())
    }

    /// Makes a kill known once its victim's name is, or can't be had.
    fn inquire(&self, killed: OutOfMemory) {
        let (asked, state) = ((self.care.coroner.0)(), self.state.clone());
        let told = async move {
            let killed = OutOfMemory { victim: asked.await, ..killed };
            tracing::warn!(killed.kills, killed.limit_bytes, killed.victim, "out of memory");
            state.send_if_modified(|state| {
                let latest = state.killed.as_ref().is_none_or(|earlier| earlier.kills < killed.kills);
                if latest {
                    state.killed = Some(killed);
                }
                latest
            });
        };
        tokio::spawn(told.in_current_span());
    }

    /// Whether a limit that the cell has met may be logged: one that says so without a pause must not fill the log.
    fn may_log_limit(&mut self) -> bool {
        let now = Instant::now();
        let may = self.limit_logged.is_none_or(|last| now - last >= LIMIT_LOGGED_EVERY);
        if may {
            self.limit_logged = Some(now);
        }
        may
    }

    /// Takes note of what a session is called; of one that doesn't run it doesn't matter.
    fn labelled(&self, session: SessionName, label: Label) {
        self.state.send_if_modified(|state| {
            let earlier = match (state.sessions.contains(&session), label.is_none()) {
                (false, _) => return false,
                (true, true) => state.labels.remove(&session),
                (true, false) => state.labels.insert(session, label.clone()),
            };
            earlier.unwrap_or_default() != label
        });
    }

    /// The session that a client was attached to, known already or not.
    fn opened(&mut self, name: &SessionName, attached: Attached) -> Result<Opened, Error> {
        let Attached { started, size, life, typed, log, data } = attached;
        let session = match self.sessions.get(name).filter(|session| session.life() == life) {
            Some(session) => session.clone(),
            None => {
                let session = Arc::new(Session::new(life, log).map_err(malformed)?.sized_by(self.care.sizing));
                self.keep(name, session.clone(), started.then_some(0));
                session
            }
        };
        Ok(Opened { hold: Hold { session, data, size, typed }, started })
    }

    /// Takes note of a session, and starts its keeper. `kept` is what the cell keeps of it already.
    fn keep(&mut self, name: &SessionName, session: Arc<Session>, kept: Option<u64>) {
        if let Some(earlier) = self.sessions.insert(name.clone(), session.clone()) {
            earlier.end();
        }
        let Some(asks) = self.keepers.clone() else { return };
        let span = tracing::info_span!("keeper", session = %name);
        let (name, life) = (name.clone(), session.life());
        let tell = async move |keep| {
            // A cell that nobody asks anything any more keeps what it has.
            if let Some(asks) = asks.upgrade() {
                let _ = asks.send(Ask::Keep { session: name.clone(), life, keep }).await;
            }
        };
        tokio::spawn(keep(session, kept, tell).instrument(span));
    }

    /// Passes a request on.
    async fn asked(&mut self, ask: Ask) -> Result<(), Error> {
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
            Ask::Stop => self.stop().await?,
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
        // Another process may have opened a session: this connection heard of none but its own.
        let (_, sessions) = Link::connect(&self.project, &self.socket).await?;
        if sessions.is_empty() {
            tracing::info!("stopping an idle cell");
            return self.stop().await;
        }
        self.state.send_modify(|state| state.sessions = sessions);
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), Error> {
        self.state.send_modify(|state| state.phase = Phase::Stopping);
        self.link.send(&Request::Stop, None).await
    }

    /// Sets the alarm, if it has to be set anew: an idle cell may linger, a stopping one has a moment.
    fn wait_for_idleness(&self, due: Pin<&mut Sleep>) {
        let idle = self.running() == 0 && self.unanswered.is_empty();
        let wait = match (self.phase(), idle) {
            (Phase::Running, true) => self.care.linger,
            (Phase::Running, false) => FOREVER,
            (_, _) => ANSWER_WAIT,
        };
        due.reset(Instant::now() + wait);
    }

    fn running(&self) -> usize {
        self.state.borrow().sessions.len()
    }

    fn phase(&self) -> Phase {
        self.state.borrow().phase
    }
}

fn malformed(error: sandbox::log::LogError) -> Error {
    Error::Protocol(error.to_string())
}

fn out_of_turn() -> Error {
    Error::Protocol("the cell answered what nobody asked".to_owned())
}
