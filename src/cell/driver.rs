//! The one task that speaks with a cell on its control socket. It keeps requests and answers in order, knows which sessions
//! run, and tells a cell that has had none for a while to stop.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::time::Duration;

use sandbox::control::{Request, SESSIONS_MAX, SessionName, Size};
use sandbox::spec::ProjectId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use super::link::{Attached, Link, Message};
use super::{ANSWER_WAIT, ASKS_MAX, Error, Phase, State};

/// Longest time to sleep at once when there is nothing to wait for.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What a cell's handles ask of its driver.
#[derive(Debug)]
pub(super) enum Ask {
    /// Attach to a session.
    Open { session: SessionName, size: Size, command: Vec<String>, reply: oneshot::Sender<Result<Attached, Error>> },
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
    linger: Duration,
    asks: mpsc::Receiver<Ask>,
    state: watch::Sender<State>,
    /// Requests that the cell has yet to answer, oldest first.
    unanswered: VecDeque<(SessionName, oneshot::Sender<Result<Attached, Error>>)>,
}

impl Driver {
    pub(super) fn new(
        project: ProjectId,
        socket: PathBuf,
        link: Link,
        linger: Duration,
        asks: mpsc::Receiver<Ask>,
        state: watch::Sender<State>,
    ) -> Self {
        Self { project, socket, link, linger, asks, state, unanswered: VecDeque::new() }
    }

    /// Runs until the cell is gone, or nobody has a handle on it any more: then the cell goes on by itself.
    #[tracing::instrument(name = "cell", skip_all, fields(project = %self.project))]
    pub(super) async fn run(mut self) {
        let mut due = pin!(sleep_until(Instant::now() + self.linger));
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
        });
    }

    /// Takes note of what the cell said.
    fn heard(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Opened(session, attached) => {
                let (asked, reply) = self.next_unanswered()?;
                if asked != session {
                    return Err(Error::Protocol("the cell opened a session that nobody asked for".to_owned()));
                }
                self.state.send_if_modified(|state| state.sessions.insert(session));
                if self.sessions() > SESSIONS_MAX {
                    return Err(Error::Protocol("the cell opened more sessions than it may".to_owned()));
                }
                // Whoever no longer waits drops the descriptors, which detaches.
                let _ = reply.send(Ok(attached));
            }
            Message::Failed(reason) => {
                let (_, reply) = self.next_unanswered()?;
                let _ = reply.send(Err(Error::Refused(reason)));
            }
            Message::Ended(session, exit) => {
                tracing::info!(%session, ?exit, "session ended");
                self.state.send_if_modified(|state| state.sessions.remove(&session));
            }
            Message::Gone => return Err(Error::Gone),
        }
        Ok(())
    }

    fn next_unanswered(&mut self) -> Result<(SessionName, oneshot::Sender<Result<Attached, Error>>), Error> {
        self.unanswered.pop_front().ok_or_else(|| Error::Protocol("the cell answered what nobody asked".to_owned()))
    }

    /// Passes a request on.
    async fn asked(&mut self, ask: Ask) -> Result<(), Error> {
        match ask {
            Ask::Open { reply, .. } if self.phase() != Phase::Running => {
                let _ = reply.send(Err(Error::Gone));
            }
            Ask::Open { session, size, command, reply } => {
                let request = Request::Open { session: session.clone(), size, command };
                match self.link.send(&request).await {
                    Err(error @ Error::Refused(_)) => {
                        let _ = reply.send(Err(error));
                    }
                    sent => {
                        sent?;
                        self.unanswered.push_back((session, reply));
                    }
                }
            }
            Ask::Close { session } => self.link.send(&Request::Close { session }).await?,
            Ask::Stop => self.stop().await?,
        }
        Ok(())
    }

    /// The cell has been without a session, or has been stopping, for as long as it may.
    async fn due(&mut self) -> Result<(), Error> {
        if self.phase() == Phase::Stopping {
            return Err(Error::Silent);
        }
        if self.sessions() > 0 || !self.unanswered.is_empty() {
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
        self.link.send(&Request::Stop).await
    }

    /// Sets the alarm, if it has to be set anew: an idle cell may linger, a stopping one has a moment.
    fn wait_for_idleness(&self, due: Pin<&mut Sleep>) {
        let idle = self.sessions() == 0 && self.unanswered.is_empty();
        let wait = match (self.phase(), idle) {
            (Phase::Running, true) => self.linger,
            (Phase::Running, false) => FOREVER,
            (_, _) => ANSWER_WAIT,
        };
        due.reset(Instant::now() + wait);
    }

    fn sessions(&self) -> usize {
        self.state.borrow().sessions.len()
    }

    fn phase(&self) -> Phase {
        self.state.borrow().phase
    }
}
