//! What a cell says, and what follows from it: answers for those who asked, sessions that begin and end, limits that it met.

use std::sync::Arc;
use std::time::Duration;

use sandbox::control::{Label, SESSIONS_MAX, SessionName};
use tokio::time::Instant;
use tracing::Instrument;

use super::{Ask, Driver, Unanswered};
use crate::cell::link::{Attached, Found, Message};
use crate::cell::{Error, Opened, OutOfMemory};
use crate::metrics::metrics;
use crate::session::{Hold, Session, keep};

/// How often it is logged at most that a cell has met a limit: as often as an honest one says so.
const LIMIT_LOGGED_EVERY: Duration = Duration::from_millis(100);

impl Driver {
    /// Takes note of what the cell said.
    pub(super) fn heard(&mut self, message: Message) -> Result<(), Error> {
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
                self.keep(
                    &session,
                    Arc::new(restored.map_err(malformed)?.sized_by(self.care.sizing).sharing(self.activity.clone())),
                    kept,
                );
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
                let session = Arc::new(
                    Session::new(life, log)
                        .map_err(malformed)?
                        .sized_by(self.care.sizing)
                        .sharing(self.activity.clone()),
                );
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
        let life = session.life();
        let tell = async move |session, keep| {
            // A cell that nobody asks anything any more keeps what it has.
            if let Some(asks) = asks.upgrade() {
                let _ = asks.send(Ask::Keep { session, life, keep }).await;
            }
        };
        // In the cell's span: one of its own would cost each session half a KiB, for lines that are hardly ever logged.
        tokio::spawn(keep(name.clone(), session, kept, tell).in_current_span());
    }
}

fn malformed(error: sandbox::log::LogError) -> Error {
    Error::Protocol(error.to_string())
}

fn out_of_turn() -> Error {
    Error::Protocol("the cell answered what nobody asked".to_owned())
}
