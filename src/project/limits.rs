//! A project's limits, and what its cell uses of them. Limits are changed in its settings and in its running cell at once.

use sandbox::launcher::Error as Refusal;
use sandbox::spec::{Limits, ProjectId};
use sandbox::usage::Usage;
use serde::Serialize;

use super::cells::to_the_end;
use super::settings::{self, Changes};
use super::{Error, Projects};

/// What became of a wish to change limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Changed {
    /// All limits that the settings have now.
    pub(crate) limits: Limits,
    /// Whether a running cell has them already.
    pub(crate) applied: bool,
    /// Those of the changed ones that a running cell gets by its next start alone, since each of its processes has them.
    pub(crate) next_start: Vec<&'static str>,
}

impl Projects {
    /// Changes limits in a project's settings, and in its cell if it runs. If the cell can't have them nothing is changed.
    pub(crate) async fn set_limits(&self, id: &ProjectId, changes: Changes) -> Result<Changed, Error> {
        let (this, id) = (self.clone(), id.clone());
        to_the_end(async move {
            // Held, so that no cell of this process starts meanwhile with what was before.
            let held = this.place(&id).lock_owned().await;
            let changed = this.set_limits_of(&id, &changes).await;
            this.leave(&id, held);
            changed
        })
        .await
    }

    async fn set_limits_of(&self, id: &ProjectId, changes: &Changes) -> Result<Changed, Error> {
        let (folder, config) = (&self.0.folder, &self.0.config);
        let before = folder.settings(id, config)?.limits;
        let (text, settings) = folder.edited(id, config, |text| settings::edit(text, changes))?;
        let limits = settings.limits;
        let applied = match self.0.launch.set_limits(id, &limits).await {
            Ok(()) => true,
            Err(Error::Launcher(Refusal::NoCell)) => false,
            Err(error) => return Err(error),
        };
        folder.write_settings(id, &text)?;
        let next_start = if applied { settings::for_next_start(&before, &limits) } else { Vec::new() };
        tracing::info!(project = %id, ?limits, applied, "limits changed");
        Ok(Changed { limits, applied, next_start })
    }

    /// What a project's cell uses; `None` if it has none.
    pub(crate) async fn usage(&self, id: &ProjectId) -> Result<Option<Usage>, Error> {
        if !self.exists(id)? {
            return Err(Error::NotFound(id.clone()));
        }
        match self.0.launch.usage(id).await {
            Err(Error::Launcher(Refusal::NoCell)) => Ok(None),
            answered => answered.map(Some),
        }
    }
}
