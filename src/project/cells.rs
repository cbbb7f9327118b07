//! The life of projects' cells: found or started when they are wanted, looked after while they run, and what is left of them
//! removed before the next one starts.
//!
//! Whoever starts or removes a cell holds the project's place meanwhile. Other processes of this host may do the same with
//! theirs; the launcher lets only one cell of a project run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::future::ready;
use futures_util::stream::{self, StreamExt};
use sandbox::admission::Shortage;
use sandbox::control::{Label, SessionName, Size};
use sandbox::launcher::Error as Refusal;
use sandbox::spec::{CellSpec, ProjectId};
use tokio::sync::OwnedMutexGuard;
use tracing::Instrument;

use super::{Error, Projects};
use crate::cell::{self, Cell, Opened};
use crate::metrics::metrics;
use crate::traces;

/// How many cells are told to end at the same time.
const STOPPED_AT_ONCE: usize = 32;

/// The client of a session that nobody has asked for.
const NOBODY: u64 = 0;

impl Projects {
    /// Opens a session of a project for a client: starts its cell and the session if they don't run.
    #[tracing::instrument(level = "debug", name = "attach", skip_all, fields(project = %id, %session))]
    pub(crate) async fn attach(
        &self,
        id: &ProjectId,
        session: &SessionName,
        size: Size,
        command: &[String],
        client: u64,
    ) -> Result<Opened, Error> {
        for last in [false, false, true] {
            let cell = self.open(id).await?;
            // Asked for in the same breath: a program may have ended before its client could ask for a recorder.
            let recorder = self.recorder_from_birth(id, session, &cell);
            match tokio::join!(cell.open(session, size, command, client), recorder) {
                (Err(cell::Error::Gone), _) if !last => {}
                (Ok(opened), Some(recorder)) if opened.started => {
                    self.record_from_birth(id, session, recorder);
                    return Ok(opened);
                }
                (opened, _) => return Ok(opened?),
            }
        }
        unreachable!("the last try returns")
    }

    /// Gives a running session a new size; `false` if there is none of this name.
    pub(crate) async fn resize(&self, id: &ProjectId, session: &SessionName, size: Size) -> Result<bool, Error> {
        match self.running_in(id, session).await? {
            Some(cell) => Ok(cell.resize(session, size).await?),
            None => Ok(false),
        }
    }

    /// The project's cell, if this session runs in it.
    pub(super) async fn running_in(&self, id: &ProjectId, session: &SessionName) -> Result<Option<Cell>, Error> {
        if !self.exists(id)? {
            return Err(Error::NotFound(id.clone()));
        }
        Ok(self.settled(id).await.filter(|cell| cell.state().sessions.contains(session)))
    }

    /// Hangs up a session of a project, if it runs.
    pub(crate) async fn close(&self, id: &ProjectId, session: &SessionName) -> Result<(), Error> {
        match self.running_cell(id).await {
            Some(cell) => Ok(cell.close(session).await?),
            None => Ok(()),
        }
    }

    /// Calls a session of a project something else, if it runs.
    pub(crate) async fn label(&self, id: &ProjectId, session: &SessionName, label: Label) -> Result<(), Error> {
        match self.running_cell(id).await {
            Some(cell) => Ok(cell.label(session, label).await?),
            None => Ok(()),
        }
    }

    async fn running_cell(&self, id: &ProjectId) -> Option<Cell> {
        self.settled(id).await.filter(Cell::is_running)
    }

    /// The project's cell, once nobody starts or removes it. Who only looks leaves no place behind.
    pub(super) async fn settled(&self, id: &ProjectId) -> Option<Cell> {
        let held = self.place(id).lock_owned().await;
        let cell = held.clone();
        self.leave(id, held);
        cell
    }

    /// The project's running cell, started if need be. Of several at once one starts it and all get it.
    pub(crate) async fn open(&self, id: &ProjectId) -> Result<Cell, Error> {
        if !self.exists(id)? {
            return Err(Error::NotFound(id.clone()));
        }
        let held = self.place(id).lock_owned().await;
        if let Some(cell) = held.as_ref().filter(|cell| cell.is_running()) {
            return Ok(cell.clone());
        }
        let (this, id) = (self.clone(), id.clone());
        to_the_end(async move {
            let started = this.start(&id, held).await;
            started.inspect_err(|error| {
                metrics().cell_failed(why(error));
                traces::failed(error);
            })
        })
        .await
    }

    /// Ends a project's cell, if it has one, and removes what is left of it. Its files stay.
    pub(crate) async fn stop(&self, id: &ProjectId) -> Result<(), Error> {
        let (this, id) = (self.clone(), id.clone());
        to_the_end(async move {
            let mut held = this.place(&id).lock_owned().await;
            this.end(&id, &mut held).await?;
            this.leave(&id, held);
            Ok(())
        })
        .await
    }

    /// Ends all cells in the run directory, many at once; those that could not be ended, and why.
    pub(crate) async fn stop_all(&self) -> Result<Vec<(ProjectId, Error)>, Error> {
        let stopping = self.running()?.into_iter().map(|id| async move {
            let stopped = self.stop(&id).await;
            stopped.err().map(|error| (id, error))
        });
        Ok(stream::iter(stopping).buffer_unordered(STOPPED_AT_ONCE).filter_map(ready).collect().await)
    }

    /// Ends a project's cell and removes the project with all its files.
    pub(crate) async fn remove(&self, id: &ProjectId) -> Result<(), Error> {
        if !self.exists(id)? {
            return Err(Error::NotFound(id.clone()));
        }
        let (this, id) = (self.clone(), id.clone());
        to_the_end(async move {
            let mut held = this.place(&id).lock_owned().await;
            this.end(&id, &mut held).await?;
            // Files may belong to any user of the cell: only the launcher can remove them all.
            this.0.launch.remove_project(&id).await?;
            this.leave(&id, held);
            tracing::info!(project = %id, "removed");
            Ok(())
        })
        .await
    }

    /// Looks after the cells that run already: those that a server before this one left, or that `cloister run` started.
    pub(crate) async fn adopt(&self) {
        let running = self.running().unwrap_or_else(|error| {
            tracing::warn!(%error, "running cells are found when they are asked for");
            BTreeSet::new()
        });
        for id in running {
            let mut held = self.place(&id).lock_owned().await;
            match self.look_in(&id, &mut held).await {
                Ok(()) => {}
                Err(cell::Error::Gone) => {
                    if let Err(error) = self.0.launch.remove_cell(&id).await {
                        tracing::warn!(project = %id, %error, "what is left of a cell can't be removed");
                    }
                }
                Err(error) => tracing::warn!(project = %id, %error, "a running cell can't be used"),
            }
            self.leave(&id, held);
        }
        self.0.settled.store(true, Ordering::Relaxed);
    }

    /// Starts the cells of projects that want it and have none, each with its first session. One after the other: a host that
    /// has just booted has other things to do, too.
    pub(crate) async fn autostart(&self) {
        let projects = self.0.folder.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "no project is started");
            Vec::new()
        });
        for id in projects {
            // What is wrong with the others' settings is said when they are opened.
            let wanted = self.0.folder.settings(&id, &self.0.config).is_ok_and(|settings| settings.autostart);
            if !wanted || self.running_cell(&id).await.is_some() {
                continue;
            }
            if let Err(error) = self.attach(&id, &SessionName::main(), Size::DEFAULT, &[], NOBODY).await {
                tracing::warn!(project = %id, %error, "the project can't be started");
            }
        }
    }

    /// Looks after a project's cell, if it runs: for who must know its sessions before anybody opens one.
    pub(crate) async fn find(&self, id: &ProjectId) -> Result<(), cell::Error> {
        let mut held = self.place(id).lock_owned().await;
        let found = self.look_in(id, &mut held).await;
        self.leave(id, held);
        found
    }

    /// Fills the place of a project whose cell runs, if nobody has done so.
    async fn look_in(&self, id: &ProjectId, held: &mut OwnedMutexGuard<Option<Cell>>) -> Result<(), cell::Error> {
        if held.is_none() {
            let cell = self.connect(id).await?;
            tracing::info!(project = %id, sessions = cell.state().sessions.len(), "found a running cell");
            metrics().cells_adopted.inc();
            self.look_after(id, &cell);
            **held = Some(cell);
        }
        Ok(())
    }

    /// Starts the cell of a project whose turn is held; or finds that another process did.
    #[tracing::instrument(level = "debug", name = "start cell", skip_all, fields(project = %id))]
    async fn start(&self, id: &ProjectId, mut held: OwnedMutexGuard<Option<Cell>>) -> Result<Cell, Error> {
        if let Some(ending) = held.take() {
            let gone = ending.gone().await;
            self.clear(id, gone.is_ok()).await?;
        }
        let mut spec = self.spec(id)?;
        let began = Instant::now();
        for last in [false, false, true] {
            let adopted = match self.0.launch.start_cell(spec.clone()).await {
                Ok(()) => false,
                Err(Error::Launcher(Refusal::Running)) => true,
                Err(Error::Launcher(Refusal::Failed { .. })) if !last && self.is_outdated(&spec) => {
                    // Another image was imported under its name, and its layers have gone, between two looks.
                    spec = self.spec(id)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let connected = if adopted { self.connect(id).await } else { self.connect_new(id).await };
            match connected {
                Ok(cell) => {
                    tracing::info!(project = %id, adopted, "cell is running");
                    self.forget_end(id);
                    if adopted {
                        metrics().cells_adopted.inc();
                    } else {
                        metrics().cells_started.inc();
                        metrics().cell_start.observe(began.elapsed().as_secs_f64());
                    }
                    self.look_after(id, &cell);
                    return Ok(held.insert(cell).clone());
                }
                Err(cell::Error::Gone) if !last => self.0.launch.remove_cell(id).await?,
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the last try returns")
    }

    /// What the project's settings and image make of its cell.
    #[tracing::instrument(level = "debug", name = "read settings", skip_all)]
    fn spec(&self, id: &ProjectId) -> Result<CellSpec, Error> {
        let settings = self.0.folder.settings(id, &self.0.config)?;
        let (layers, image) = self.0.images.resolve(id, &settings.image)?;
        Ok(CellSpec {
            project: id.clone(),
            layers,
            image,
            env: settings.env,
            limits: settings.limits,
            network: settings.network,
            log_bytes: self.0.config.log_bytes,
            policy: settings.policy,
        })
    }

    /// Whether the image of a cell that was to start has become another one meanwhile.
    fn is_outdated(&self, spec: &CellSpec) -> bool {
        self.spec(&spec.project).is_ok_and(|now| now.layers != spec.layers)
    }

    /// Records the sessions that a cell has already, if the project wants that; and removes what is left of the cell once it
    /// has ended, whoever ended it.
    fn look_after(&self, id: &ProjectId, cell: &Cell) {
        for session in cell.state().sessions {
            self.record_if_wanted(id, &session, cell);
        }
        let (this, id, cell) = (self.clone(), id.clone(), cell.clone());
        tokio::spawn(async move {
            let gone = cell.gone().await;
            metrics().cell_ended(gone.is_err());
            let mut held = this.place(&id).lock_owned().await;
            if held.as_ref().is_some_and(|held| held.is(&cell)) {
                *held = None;
                this.note_end(&id, cell.state().ending);
                match this.clear(&id, gone.is_ok()).await {
                    Ok(()) => tracing::info!(project = %id, by_force = gone.is_err(), "cell is gone"),
                    Err(error) => tracing::warn!(project = %id, %error, "what is left of a cell can't be removed"),
                }
            }
            this.leave(&id, held);
        });
    }

    /// Ends the cell of a project whose place is held, politely if it can be talked to.
    async fn end(&self, id: &ProjectId, held: &mut Option<Cell>) -> Result<(), Error> {
        let cell = match held.take() {
            Some(cell) => Some(cell),
            None => self.connect(id).await.ok(),
        };
        let stopped = match cell {
            Some(cell) => {
                let stopped = cell.stop().await;
                // Who looks after the cell may be late, if the server stops.
                self.note_end(id, cell.state().ending);
                stopped
            }
            None => Err(cell::Error::Gone),
        };
        if let Err(error) = &stopped
            && !matches!(error, cell::Error::Gone)
        {
            tracing::warn!(project = %id, %error, "ending a cell by force");
        }
        self.clear(id, stopped.is_ok()).await
    }

    /// Removes what is left of a cell, by force if it didn't end. If it did, another process may have started the next one
    /// meanwhile, which is left alone.
    async fn clear(&self, id: &ProjectId, ended: bool) -> Result<(), Error> {
        if ended && self.connect(id).await.is_ok() {
            return Ok(());
        }
        self.0.launch.remove_cell(id).await
    }

    /// Gives a place up, and forgets it if there is no cell in it and nobody waits for it.
    pub(super) fn leave(&self, id: &ProjectId, held: OwnedMutexGuard<Option<Cell>>) {
        let mut places = self.places();
        // The table's and ours; more are made only with the table in hand.
        if held.is_none() && Arc::strong_count(OwnedMutexGuard::mutex(&held)) == 2 {
            places.remove(id);
        }
    }
}

/// Why a cell didn't start, as it is counted.
fn why(error: &Error) -> &'static str {
    match error {
        Error::NotFound(_) | Error::Exists(_) | Error::Invalid { .. } => "settings",
        Error::Launcher(Refusal::HostFull(Shortage::Cells { .. })) => "host_cells",
        Error::Launcher(Refusal::HostFull(Shortage::Memory { .. })) => "host_memory",
        Error::Launcher(Refusal::HostFull(Shortage::Disk { .. })) => "host_disk",
        Error::Launcher(_) => "launcher",
        Error::Busy => "busy",
        Error::Cell(_) => "cell",
        Error::Io { .. } | Error::Recording(_) => "io",
    }
}

/// Does it in a task of its own: a caller that goes away meanwhile, as clients do, must not leave it half done.
pub(super) async fn to_the_end<T: Send + 'static>(doing: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(doing.in_current_span()).await.expect("neither starting nor ending a cell panics")
}
