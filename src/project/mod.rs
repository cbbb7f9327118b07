//! Projects and their cells: the one place that opens a cell, and the only one that asks the launcher for anything.
//!
//! A project at rest is a folder; opening it finds its cell or starts one. Whatever ends a cell, what is left of it is
//! removed before another is started. Used by the server and by the commands that need none. It knows no HTTP.

mod cells;
mod census;
mod connect;
mod folder;
mod image;
mod launch;
mod limits;
mod look;
mod orphans;
mod record;
mod release;
mod settings;
mod why;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Dir, Mode, OFlags, openat};
use sandbox::control::SessionName;
use sandbox::policy::Choice;
use sandbox::spec::ProjectId;
use tokio::sync::watch;

use crate::cell::{self, Cell};
use crate::config::Config;
use crate::host::Host;
use crate::record::{self as recording, Recorders};
use census::Rooms;
use folder::Folder;
use image::Images;
use launch::Launch;
pub(crate) use look::Seen;
pub(crate) use record::Recorded;
pub(crate) use settings::Changes;
pub(crate) use why::{Activity, Condition, Step, Why};

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
    /// Something can't be recorded, or a recording isn't to be had.
    #[error("{0}")]
    Recording(#[from] recording::Error),
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

/// What a project's cell may ask of the kernel, read by who may read the project's folder, without a host.
pub(crate) fn policy(config: &Config, id: &ProjectId) -> Result<Choice, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(rustix::fs::CWD, &config.projects, flags, Mode::empty())
        .map_err(|error| Error::Io { what: format!("open {}", config.projects.display()), error: error.into() })?;
    let folder = Folder::new(root);
    if !folder.exists(id)? {
        return Err(Error::NotFound(id.clone()));
    }
    Ok(folder.settings(id, config)?.policy)
}

/// The images that projects and the configuration name. Fails if a project's settings can't be read, since what it names is
/// unknown then.
pub(crate) fn images(config: &Config, projects: OwnedFd) -> Result<BTreeSet<String>, Error> {
    let folder = Folder::new(projects);
    let mut named = BTreeSet::from([config.image.clone()]);
    for id in folder.list()? {
        named.insert(folder.settings(&id, config)?.image);
    }
    Ok(named)
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
    keeps: bool,
    recorders: Recorders,
    rooms: Rooms,
    /// Whether the cells that ran before this process are looked after.
    settled: AtomicBool,
    /// Held while running cells are asked what they use.
    asking: tokio::sync::Mutex<()>,
    /// One place for each project that is open, or being opened; holding it is the right to start and to remove the cell.
    places: Mutex<HashMap<ProjectId, Place>>,
}

/// The cell of a project, if it has one.
type Place = Arc<tokio::sync::Mutex<Option<Cell>>>;

impl Projects {
    /// Takes over what a host has in hand. With `keeps` the output of all sessions is kept for whoever comes after, and
    /// recorded where a project wants that: one process of a host does so, its server. Call it within a runtime.
    pub(crate) fn new(host: Host, keeps: bool) -> Result<Self, Error> {
        let Host { config, launcher, projects, images, layers, run, .. } = host;
        let copied = projects.try_clone();
        let copied = copied.map_err(|error| Error::Io { what: "copy a descriptor".to_owned(), error })?;
        Ok(Self(Arc::new(Shared {
            config,
            folder: Folder::new(projects),
            images: Images::open(images)?,
            launch: Launch::start(launcher)?,
            run,
            keeps,
            recorders: Recorders::default(),
            rooms: Rooms { state: layers, projects: copied },
            settled: AtomicBool::new(false),
            asking: tokio::sync::Mutex::default(),
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
        let summary = |id: ProjectId| Summary { running: running.contains(&id), sessions: self.sessions(&id), id };
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

    /// The sessions known to run in a project's cell.
    pub(crate) fn sessions(&self, id: &ProjectId) -> BTreeSet<SessionName> {
        self.known(id).map(|cell| cell.state().sessions).unwrap_or_default()
    }

    /// What is known of a project's cell, if it has one.
    pub(crate) fn state(&self, id: &ProjectId) -> Option<cell::State> {
        self.known(id).map(|cell| cell.state())
    }

    /// What becomes of a project's cell, if it has one.
    pub(crate) fn watch(&self, id: &ProjectId) -> Option<watch::Receiver<cell::State>> {
        self.known(id).map(|cell| cell.watch())
    }

    fn place(&self, id: &ProjectId) -> Place {
        self.places().entry(id.clone()).or_default().clone()
    }

    /// The project's cell, unless it is just being started or removed.
    fn known(&self, id: &ProjectId) -> Option<Cell> {
        // With the table in hand, so that two who look don't take each other for one who starts or removes.
        self.places().get(id)?.try_lock().ok()?.clone()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<ProjectId, Place>> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
