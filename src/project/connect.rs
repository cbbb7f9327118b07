//! The way to a cell that runs: awake, whether it was frozen or not, and how the server looks after it from then on.
//!
//! All connections of this process begin here. A command's keep the cell from being frozen by a server, which can't know of them.

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, ready};
use sandbox::freezer::Freezer;
use sandbox::spec::ProjectId;

use super::{Error, Projects};
use crate::cell::{self, Care, Cell, Coroner, Freezers, Patience};

/// How long a command waits for a server that is just freezing a cell, and how often it looks whether that is over.
const HOLD_WAIT: Duration = Duration::from_secs(3);
const HOLD_EVERY: Duration = Duration::from_millis(5);

impl Projects {
    /// Connects to a project's cell, whoever started it and whether it is frozen or not.
    pub(super) async fn connect(&self, id: &ProjectId) -> Result<Cell, cell::Error> {
        self.connect_by(id, self.wake(id)).await
    }

    /// Connects to a project's cell that was just started, and which no server has had time to freeze.
    pub(super) async fn connect_new(&self, id: &ProjectId) -> Result<Cell, cell::Error> {
        // A command's has to be held all the same.
        if self.0.keeps { self.connect_by(id, ready(None)).await } else { self.connect(id).await }
    }

    /// Has a project's cell go on. A server freezes it again by itself; a command gives what is to be held, for of commands a
    /// server can't know.
    async fn wake(&self, id: &ProjectId) -> Option<Freezer> {
        let waken = async {
            let Some(freezer) = self.0.launch.freezer(id).await? else { return Ok(None) };
            let held = !self.0.keeps;
            let woken = async {
                if held {
                    hold(&freezer).await?;
                }
                freezer.thaw()
            };
            woken.await.map_err(|error| Error::Io { what: "thaw a cell".to_owned(), error })?;
            Ok(Some(freezer).filter(|_| held))
        };
        waken.await.unwrap_or_else(|error: Error| {
            // One that isn't frozen answers all the same.
            tracing::debug!(project = %id, %error, "a cell's freezer isn't to be had");
            None
        })
    }

    #[tracing::instrument(level = "debug", name = "connect", skip_all)]
    async fn connect_by(
        &self,
        id: &ProjectId,
        waking: impl Future<Output = Option<Freezer>>,
    ) -> Result<Cell, cell::Error> {
        // The run directory may lie where this user can't go; its descriptor leads there.
        let socket = PathBuf::from(format!("/proc/self/fd/{}/cells/{id}.sock", self.0.run.as_fd().as_raw_fd()));
        let (launch, project) = (self.0.launch.clone(), id.clone());
        let coroner = Coroner::new(move || {
            let (launch, project) = (launch.clone(), project.clone());
            Box::pin(async move { launch.usage(&project).await.ok()?.memory.victim })
        });
        let (launch, project) = (self.0.launch.clone(), id.clone());
        let freezers = Freezers::new(move || {
            let (launch, project) = (launch.clone(), project.clone());
            Box::pin(async move { launch.freezer(&project).await.map_err(|error| error.to_string()) })
        });
        // A cell that runs is looked after even if its settings have become wrong: the next start says so.
        let settings = self.0.folder.settings(id, &self.0.config);
        let (sizing, patience) = settings.map(|settings| (settings.size, settings.patience)).unwrap_or_default();
        let care = Care {
            coroner,
            linger: Duration::from_secs(self.0.config.cell_linger_s),
            keeps: self.0.keeps,
            sizing,
            // What a command has to do with a cell is no reason to freeze it.
            patience: if self.0.keeps { patience } else { Patience::default() },
            freezers,
        };
        Cell::connect(id.clone(), socket, care, waking).await
    }

    /// Has all cells go on that this process looks after, and freezes none any more.
    pub(crate) async fn let_go(&self) {
        let cells: Vec<Cell> = self.places().values().filter_map(|place| place.try_lock().ok()?.clone()).collect();
        // One that is gone has nothing to be let go of.
        let _ = join_all(cells.iter().map(Cell::let_go)).await;
    }
}

/// Keeps others from freezing a cell, once whoever is just doing that is done.
async fn hold(freezer: &Freezer) -> std::io::Result<()> {
    let by = Instant::now() + HOLD_WAIT;
    while !freezer.hold()? && Instant::now() < by {
        tokio::time::sleep(HOLD_EVERY).await;
    }
    Ok(())
}
