//! Recordings of a project's sessions: when one is made, and those that lie in its folder.

use std::fs::File;

use sandbox::control::SessionName;
use sandbox::spec::ProjectId;

use super::{Error, Projects};
use crate::cell::Cell;
use crate::record::{Name, Shelf, Summary, blocking};
use crate::session::Start;

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
            Some(cell) => self.record_in(id, session, &cell, Start::Snapshot).await,
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

    /// Records a session in the background if its project's settings say so: nobody waits for that, nor fails with it.
    pub(super) fn record_if_wanted(&self, id: &ProjectId, session: &SessionName, cell: &Cell, start: Start) {
        if !self.0.keeps {
            return;
        }
        let (this, id, session, cell) = (self.clone(), id.clone(), session.clone(), cell.clone());
        tokio::spawn(async move {
            let recorded = async {
                if this.0.folder.settings(&id, &this.0.config)?.record {
                    this.record_in(&id, &session, &cell, start).await?;
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = recorded.await {
                tracing::warn!(project = %id, %session, %error, "a session isn't recorded");
            }
        });
    }

    async fn record_in(
        &self,
        id: &ProjectId,
        session: &SessionName,
        cell: &Cell,
        start: Start,
    ) -> Result<Recorded, Error> {
        let Some(hold) = cell.join(session).await? else { return Ok(Recorded::NoSession) };
        let begun = self.0.recorders.record(id, session, self.shelf(id)?, hold, start).await?;
        Ok(if begun { Recorded::FromNow } else { Recorded::Already })
    }

    fn shelf(&self, id: &ProjectId) -> Result<Shelf, Error> {
        Ok(self.0.recorders.shelf(id, self.0.folder.open(id)?))
    }
}
