//! Projects and their cells: the one place that opens a cell, and the only one that asks the launcher for anything.
//!
//! A project at rest is a folder; opening it finds its cell or starts one. Whatever ends a cell, what is left of it is
//! removed before another is started. Used by the server and by the commands that need none. It knows no HTTP.

mod folder;
mod image;
mod launch;
mod release;
mod settings;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Dir, Mode, OFlags, openat};
use sandbox::control::{SessionName, Size};
use sandbox::spec::{CellSpec, ProjectId};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::cell::{self, Cell, Opened};
use crate::config::Config;
use crate::host::Host;
use folder::Folder;
use image::Images;
use launch::Launch;

/// How often a cell that ends just when it is wanted is started anew.
const TRIES_MAX: usize = 3;

/// Why a project or its cell isn't to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is none.
    #[error("project {0} does not exist: create it with `cloister project create {0}`")]
    NotFound(ProjectId),
    /// There is one already.
    #[error("project {0} exists already")]
    Exists(ProjectId),
    /// Its settings or its image must be changed first.
    #[error("project {project}: {reason}")]
    Invalid {
        /// Which project.
        project: ProjectId,
        /// What is wrong, with the remedy.
        reason: String,
    },
    /// Its cell doesn't do what it was asked.
    #[error("{0}")]
    Cell(#[from] cell::Error),
    /// The launcher didn't make or remove the cell.
    #[error("{0}")]
    Launcher(sandbox::launcher::Error),
    /// Too much is being asked of the launcher, or it doesn't answer.
    #[error("the launcher has too much to do: try again in a moment")]
    Busy,
    /// A file or folder can't be used.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it didn't work.
        error: io::Error,
    },
}

/// A project as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Summary {
    /// Its id.
    pub(crate) id: ProjectId,
    /// Whether it has a cell.
    pub(crate) running: bool,
    /// The sessions known to run in it.
    pub(crate) sessions: BTreeSet<SessionName>,
}

/// The projects of this host; cheap to clone.
#[derive(Clone)]
pub(crate) struct Projects(Arc<Shared>);

struct Shared {
    config: Config,
    folder: Folder,
    images: Images,
    launch: Launch,
    run: OwnedFd,
    /// One place for each project that was ever opened; holding its turn is the right to start and to remove the cell.
    places: Mutex<HashMap<ProjectId, Place>>,
}

type Place = Arc<Turn<Option<Cell>>>;

impl Projects {
    /// Takes over what a host has in hand. Call it within a runtime.
    pub(crate) fn new(host: Host) -> Result<Self, Error> {
        let Host { config, launcher, projects, images, run, .. } = host;
        Ok(Self(Arc::new(Shared {
            config,
            folder: Folder::new(projects),
            images: Images::open(images)?,
            launch: Launch::start(launcher)?,
            run,
            places: Mutex::default(),
        })))
    }

    /// Makes a project with an empty workspace.
    pub(crate) fn create(&self, id: &ProjectId, image: Option<&str>) -> Result<(), Error> {
        self.0.folder.create(id, image)
    }

    /// Whether there is such a project.
    pub(crate) fn exists(&self, id: &ProjectId) -> Result<bool, Error> {
        self.0.folder.exists(id)
    }

    /// All projects, by id.
    pub(crate) fn list(&self) -> Result<Vec<Summary>, Error> {
        let running = self.running()?;
        let summary = |id: ProjectId| Summary {
            running: running.contains(&id),
            sessions: self.known(&id).map(|cell| cell.state().sessions).unwrap_or_default(),
            id,
        };
        Ok(self.0.folder.list()?.into_iter().map(summary).collect())
    }

    /// The projects that have a cell, whoever started it.
    pub(crate) fn running(&self) -> Result<BTreeSet<ProjectId>, Error> {
        let failed = |error: rustix::io::Errno| Error::Io { what: "list the cells".to_owned(), error: error.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let cells = openat(&self.0.run, "cells", flags, Mode::empty()).map_err(failed)?;
        let mut running = BTreeSet::new();
        for entry in Dir::new(cells).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            running.extend(name.strip_suffix(".sock").and_then(|id| ProjectId::parse(id).ok()));
        }
        Ok(running)
    }

    /// Attaches to a session of a project: starts its cell and the session if they don't run.
    pub(crate) async fn attach(
        &self,
        id: &ProjectId,
        session: &SessionName,
        size: Size,
        command: &[String],
    ) -> Result<Opened, Error> {
        for _ in 1..TRIES_MAX {
            match self.open(id).await?.open(session, size, command).await {
                Err(cell::Error::Gone) => {}
                opened => return Ok(opened?),
            }
        }
        Ok(self.open(id).await?.open(session, size, command).await?)
    }

    /// Gives a running session a new size; `false` if there is none of this name.
    pub(crate) async fn resize(&self, id: &ProjectId, session: &SessionName, size: Size) -> Result<bool, Error> {
        if !self.exists(id)? {
            return Err(Error::NotFound(id.clone()));
        }
        let cell = self.place(id).lock_owned().await.clone();
        match cell.filter(|cell| cell.state().sessions.contains(session)) {
            Some(cell) => Ok(cell.resize(session, size).await?),
            None => Ok(false),
        }
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
        // In a task of its own: a caller that goes away meanwhile must not leave a cell that nobody looks after.
        let (this, id) = (self.clone(), id.clone());
        tokio::spawn(async move { this.start(&id, held).await }).await.expect("starting a cell does not panic")
    }

    /// Ends a project's cell, if it has one, and removes what is left of it. Its files stay.
    pub(crate) async fn stop(&self, id: &ProjectId) -> Result<(), Error> {
        let mut held = self.place(id).lock_owned().await;
        self.end(id, &mut held).await
    }

    /// Ends a project's cell and removes the project with all its files.
    pub(crate) async fn remove(&self, id: &ProjectId) -> Result<(), Error> {
        if !self.exists(id)? {
            return Err(Error::NotFound(id.clone()));
        }
        let mut held = self.place(id).lock_owned().await;
        self.end(id, &mut held).await?;
        // Files may belong to any user of the cell: only the launcher can remove them all.
        self.0.launch.remove_project(id).await?;
        tracing::info!(project = %id, "removed");
        Ok(())
    }

    /// Looks after the cells that run already: those that a server before this one left, or that `cloister run` started.
    pub(crate) async fn adopt(&self) {
        let running = self.running().unwrap_or_else(|error| {
            tracing::warn!(%error, "running cells are found when they are asked for");
            BTreeSet::new()
        });
        for id in running {
            let mut held = self.place(&id).lock_owned().await;
            if held.is_some() {
                continue;
            }
            match self.connect(&id).await {
                Ok(cell) => {
                    tracing::info!(project = %id, sessions = cell.state().sessions.len(), "found a running cell");
                    self.look_after(&id, &cell);
                    *held = Some(cell);
                }
                Err(cell::Error::Gone) => {
                    if let Err(error) = self.0.launch.remove_cell(&id).await {
                        tracing::warn!(project = %id, %error, "what is left of a cell can't be removed");
                    }
                }
                Err(error) => tracing::warn!(project = %id, %error, "a running cell can't be used"),
            }
        }
    }

    /// Starts the cell of a project whose turn is held; or finds that another process did.
    async fn start(&self, id: &ProjectId, mut held: OwnedMutexGuard<Option<Cell>>) -> Result<Cell, Error> {
        if let Some(ending) = held.take() {
            // Too late for manners: what doesn't end by itself is ended by the launcher.
            let _ = ending.gone().await;
            self.0.launch.remove_cell(id).await?;
        }
        let spec = self.spec(id)?;
        for last in [false, false, true] {
            let adopted = match self.0.launch.start_cell(spec.clone()).await {
                Ok(()) => false,
                Err(Error::Launcher(sandbox::launcher::Error::Running)) => true,
                Err(error) => return Err(error),
            };
            match self.connect(id).await {
                Ok(cell) => {
                    tracing::info!(project = %id, adopted, "cell is running");
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
        })
    }

    async fn connect(&self, id: &ProjectId) -> Result<Cell, cell::Error> {
        // The run directory may lie where this user can't go; its descriptor leads there.
        let socket = PathBuf::from(format!("/proc/self/fd/{}/cells/{id}.sock", self.0.run.as_fd().as_raw_fd()));
        Cell::connect(id.clone(), socket, Duration::from_secs(self.0.config.cell_linger_s)).await
    }

    /// Removes what is left of a cell once it has ended, whoever ended it.
    fn look_after(&self, id: &ProjectId, cell: &Cell) {
        let (this, id, cell) = (self.clone(), id.clone(), cell.clone());
        tokio::spawn(async move {
            let silent = cell.gone().await.is_err();
            let mut held = this.place(&id).lock_owned().await;
            if held.as_ref().is_some_and(|held| held.is(&cell)) {
                *held = None;
                let removed = if silent { this.0.launch.remove_cell(&id).await } else { this.sweep(&id).await };
                match removed {
                    Ok(()) => tracing::info!(project = %id, by_force = silent, "cell is gone"),
                    Err(error) => tracing::warn!(project = %id, %error, "what is left of a cell can't be removed"),
                }
            }
        });
    }

    async fn end(&self, id: &ProjectId, held: &mut Option<Cell>) -> Result<(), Error> {
        let cell = match held.take() {
            Some(cell) => Some(cell),
            None => self.connect(id).await.ok(),
        };
        match cell {
            Some(cell) => match cell.stop().await {
                Ok(()) => self.sweep(id).await,
                Err(error) => {
                    tracing::warn!(project = %id, %error, "ending a cell by force");
                    self.0.launch.remove_cell(id).await
                }
            },
            None => self.0.launch.remove_cell(id).await,
        }
    }

    /// Removes what is left of a cell that ended, unless another process has started the next one meanwhile.
    async fn sweep(&self, id: &ProjectId) -> Result<(), Error> {
        match self.connect(id).await {
            Ok(_) => Ok(()),
            Err(_) => self.0.launch.remove_cell(id).await,
        }
    }

    fn place(&self, id: &ProjectId) -> Place {
        let mut places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(id.clone()).or_default().clone()
    }

    /// The project's cell, unless it is just being started or removed.
    fn known(&self, id: &ProjectId) -> Option<Cell> {
        let place = self.0.places.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.clone();
        place.try_lock().ok()?.clone()
    }
}
