//! Recordings of a project's sessions: when one is made, and those that lie in its folder.

use std::fs::File;

use sandbox::control::SessionName;
use sandbox::spec::ProjectId;

use super::{Error, Projects};
use crate::cell::{self, Cell};
use crate::record::{Name, Shelf, Summary, blocking};
use crate::session::{Hold, Start};

/// What became of the wish to record a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// It is being recorded from now on.
    FromNow,
    /// It was already.
    Already,
    /// It doesn't run.
    NoSession,
}

impl Projects {
    /// Records a running session from now on.
    pub(crate) async fn record(&self, id: &ProjectId, session: &SessionName) -> Result<Recorded, Error> {
        match self.running_in(id, session).await? {
            Some(cell) => self.record_in(id, session, &cell).await,
            None => Ok(Recorded::NoSession),
        }
    }

    /// Stops recording a session; `false` if it doesn't run.
    pub(crate) async fn stop_recording(&self, id: &ProjectId, session: &SessionName) -> Result<bool, Error> {
        let runs = self.running_in(id, session).await?.is_some();
        self.0.recorders.stop(id, session).await;
        Ok(runs)
    }

    /// Stops recording whatever is recorded, and waits until all of it is written.
    pub(crate) async fn finish_recordings(&self) {
        self.0.recorders.finish().await;
    }

    /// A project's recordings, the newest first.
    pub(crate) async fn recordings(&self, id: &ProjectId) -> Result<Vec<Summary>, Error> {
        let shelf = self.shelf(id)?;
        Ok(blocking(move || shelf.list()).await?)
    }

    /// Opens a recording, and tells how long it is at present.
    pub(crate) async fn recording(&self, id: &ProjectId, name: Name) -> Result<(File, u64), Error> {
        let shelf = self.shelf(id)?;
        Ok(blocking(move || shelf.read(&name)).await?)
    }

    /// Removes a recording that isn't being written.
    pub(crate) async fn remove_recording(&self, id: &ProjectId, name: Name) -> Result<(), Error> {
        let shelf = self.shelf(id)?;
        Ok(blocking(move || shelf.remove(&name)).await?)
    }

    /// Records a session that runs already, if its project wants that. Nobody waits for it, nor fails with it.
    pub(super) fn record_if_wanted(&self, id: &ProjectId, session: &SessionName, cell: &Cell) {
        let (this, id, session, cell) = (self.clone(), id.clone(), session.clone(), cell.clone());
        tokio::spawn(async move {
            if this.wants_recordings(&id) {
                let recorded = this.record_in(&id, &session, &cell).await;
                recorded.map(drop).unwrap_or_else(|error| not_recorded(&id, &session, &error));
            }
        });
    }

    /// What a recorder holds a session by that is about to be started, if the project wants it recorded.
    pub(super) async fn recorder_from_birth(
        &self,
        id: &ProjectId,
        session: &SessionName,
        cell: &Cell,
    ) -> Option<Result<Option<Hold>, cell::Error>> {
        let wanted = !cell.state().sessions.contains(session) && self.wants_recordings(id);
        if wanted { Some(cell.join(session).await) } else { None }
    }

    /// Records a session that was just started. Nobody waits for it, nor fails with it.
    pub(super) fn record_from_birth(
        &self,
        id: &ProjectId,
        session: &SessionName,
        recorder: Result<Option<Hold>, cell::Error>,
    ) {
        let (this, id, session) = (self.clone(), id.clone(), session.clone());
        tokio::spawn(async move {
            let recorded = match recorder {
                Ok(Some(hold)) => this.record_from(&id, &session, hold, Start::Resume(0)).await.map(drop),
                Ok(None) => {
                    tracing::info!(project = %id, %session, "it ended before it could be recorded");
                    Ok(())
                }
                Err(error) => Err(error.into()),
            };
            recorded.unwrap_or_else(|error| not_recorded(&id, &session, &error));
        });
    }

    async fn record_in(&self, id: &ProjectId, session: &SessionName, cell: &Cell) -> Result<Recorded, Error> {
        match cell.join(session).await? {
            Some(hold) => self.record_from(id, session, hold, Start::Snapshot).await,
            None => Ok(Recorded::NoSession),
        }
    }

    async fn record_from(
        &self,
        id: &ProjectId,
        session: &SessionName,
        hold: Hold,
        start: Start,
    ) -> Result<Recorded, Error> {
        let begun = self.0.recorders.record(id, session, self.shelf(id)?, hold, start).await?;
        Ok(if begun { Recorded::FromNow } else { Recorded::Already })
    }

    /// Whether all sessions of a project are to be recorded, as its settings say now. One process of a host records.
    fn wants_recordings(&self, id: &ProjectId) -> bool {
        self.0.keeps && self.0.folder.settings(id, &self.0.config).is_ok_and(|settings| settings.record)
    }

    fn shelf(&self, id: &ProjectId) -> Result<Shelf, Error> {
        Ok(self.0.recorders.shelf(id, self.0.folder.open(id)?))
    }
}

fn not_recorded(id: &ProjectId, session: &SessionName, error: &Error) {
    tracing::warn!(project = %id, %session, %error, "a session isn't recorded");
}
