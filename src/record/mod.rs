//! Recordings of sessions: one more reader of a session's log that writes down what it reads, bounded and rotated.
//!
//! A `cast` is a recording as bytes and a [`Name`] says which, a [`Shelf`] is where a project's lie, a `recorder` is the task
//! that makes one. [`Recorders`] are all that run. None of it knows HTTP, or who wants a session recorded.

mod cast;
mod name;
mod recorder;
mod shelf;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandbox::control::{Life, SessionName};
use sandbox::spec::ProjectId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::session::{Hold, Start};
pub(crate) use name::Name;
use recorder::Recorder;
use shelf::{Bounds, Writing};
pub(crate) use shelf::{Shelf, Summary};

/// Most bytes that are written at once; for so many room is made beforehand.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// How long to wait for a recorder that was told to stop: for what it has yet to write, at most a megabyte.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Why something can't be recorded, or a recording isn't to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is none of this name.
    #[error("there is no recording {0}")]
    NotFound(Name),
    /// It isn't finished.
    #[error("recording {name} is being written: stop it first, with DELETE …/sessions/{session}/recording", name = .0, session = .0.session())]
    Writing(Name),
    /// Something else lies in the folder's place.
    #[error("recordings is no folder; links are not followed: remove it")]
    NoFolder,
    /// Even without all finished recordings there would be too much.
    #[error("too much is being recorded in this project already: stop a recording first")]
    Full,
    /// A file or folder can't be used.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it didn't work.
        error: io::Error,
    },
}

/// All recorders that run; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Recorders(Arc<Shared>);

#[derive(Default)]
struct Shared {
    running: Mutex<HashMap<Key, Running>>,
    writing: Mutex<HashMap<ProjectId, Arc<Writing>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Whose recording it is.
type Key = (ProjectId, SessionName);

/// A recorder that runs.
struct Running {
    /// Of which session that had this name.
    life: Life,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// The right to record a session, which only one has; dropping it gives it up.
struct Turn {
    recorders: Recorders,
    key: Key,
    life: Life,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Recorders {
    /// The shelf of a project whose folder this is.
    pub(crate) fn shelf(&self, id: &ProjectId, project: OwnedFd) -> Shelf {
        let mut writing = lock(&self.0.writing);
        // Those that nobody else has are of projects in which nothing is recorded.
        writing.retain(|_, writing| Arc::strong_count(writing) > 1);
        Shelf::new(project, writing.entry(id.clone()).or_default().clone(), Bounds::PROJECT)
    }

    /// Records a session by what came from its cell, until it ends; `false` if it is being recorded already.
    pub(crate) async fn record(
        &self,
        id: &ProjectId,
        session: &SessionName,
        shelf: Shelf,
        hold: Hold,
        start: Start,
    ) -> Result<bool, Error> {
        let Some(turn) = self.turn(id, session, hold.session.life()) else { return Ok(false) };
        // Not within the request that has it start, which ends sooner.
        let span = tracing::info_span!(parent: None, "recorder", project = %id, %session);
        let begin = Recorder::begin(shelf, session.clone(), format!("{id}/{session}"), hold, start);
        let recorder = begin.instrument(span.clone()).await?;
        let run = async move {
            if let Err(error) = recorder.run(&turn.stop).await {
                tracing::warn!(%error, "the recording ends here; the session goes on");
            }
            drop(turn);
        };
        self.0.tasks.spawn(run.instrument(span));
        Ok(true)
    }

    /// Stops recording a session, if it is, and waits until all is written.
    pub(crate) async fn stop(&self, id: &ProjectId, session: &SessionName) {
        let Some(ended) = self.tell_to_stop(&(id.clone(), session.clone())) else { return };
        if timeout(STOP_WAIT, ended.cancelled()).await.is_err() {
            tracing::warn!(project = %id, %session, "the disk is slow: a recording is yet to be written");
        }
    }

    /// Stops all and waits until everything is written.
    pub(crate) async fn finish(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Gives what is cancelled once it has stopped.
    fn tell_to_stop(&self, key: &Key) -> Option<CancellationToken> {
        let running = lock(&self.0.running);
        let Running { stop, ended, .. } = running.get(key)?;
        stop.cancel();
        Some(ended.clone())
    }

    /// Takes the turn to record a session, unless somebody has it.
    fn turn(&self, id: &ProjectId, session: &SessionName, life: Life) -> Option<Turn> {
        let key = (id.clone(), session.clone());
        let (stop, ended) = (self.0.stop.child_token(), CancellationToken::new());
        let running = Running { life, stop: stop.clone(), ended: ended.clone() };
        match lock(&self.0.running).entry(key.clone()) {
            Entry::Occupied(entry) if entry.get().life == life => return None,
            // Of a session that has ended; its recorder is about to find out.
            entry => drop(entry.insert_entry(running)),
        }
        Some(Turn { recorders: self.clone(), key, life, stop, ended })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = lock(&self.recorders.0.running);
        if running.get(&self.key).is_some_and(|running| running.life == self.life) {
            running.remove(&self.key);
        }
        self.ended.cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what may wait for the disk where nobody minds.
pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|error| Err(Error::Io { what: "wait for the disk".to_owned(), error: error.into() }))
}
