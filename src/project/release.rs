//! Leaving a cell that was opened for one command.

use sandbox::spec::ProjectId;

use super::{Error, Projects};
use crate::cell;

impl Projects {
    /// Ends the project's cell if no session runs in it, whoever opened it; otherwise the cell goes on. Without a server
    /// nobody else would end it, and a server starts another when it is wanted.
    pub(crate) async fn release(&self, id: &ProjectId) -> Result<(), Error> {
        // A handle hears of sessions that it opened, a new connection of all.
        match self.connect(id).await {
            Ok(cell) if !cell.state().sessions.is_empty() => Ok(()),
            Ok(_) | Err(cell::Error::Gone) => self.stop(id).await,
            Err(error) => Err(error.into()),
        }
    }
}
