//! What a command that touches cells has in hand: the launcher, the folders, the owner's token; and no privilege.
//!
//! A host starts as root, starts the launcher, opens what it will need, and becomes the service user for good. The
//! folders' ancestors may be closed to that user, so all that follows is done relative to the descriptors opened here.
//! An ordinary user who starts one is the service user from the beginning.
//! It doesn't know what is done with them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::fs::{CWD, Mode, OFlags, openat};
use sandbox::launcher::{Launcher, SOCKET, Settings};
use sandbox::privilege::ServiceUser;

use crate::config::{Config, Quota};
use crate::tls::fetched;
use crate::token;

/// The launcher's program, which lies beside this one.
const LAUNCHER: &str = "cloister-launcher";

/// Everything that may need root to get, held by a process that no longer is. Not printable, since it holds the token.
pub(crate) struct Host {
    /// The configuration in force.
    pub(crate) config: Config,
    /// The one process with privileges; it ends with this host.
    pub(crate) launcher: Launcher,
    /// The folder of projects.
    pub(crate) projects: OwnedFd,
    /// The folder of images, an OCI layout.
    pub(crate) images: OwnedFd,
    /// The folder of unpacked layers, which only the launcher writes.
    pub(crate) layers: OwnedFd,
    /// The run directory, with the cells' sockets in `cells/`.
    pub(crate) run: OwnedFd,
    /// Where what is fetched for TLS lies, if it is.
    pub(crate) acme: Option<OwnedFd>,
    /// The owner's token.
    pub(crate) token: String,
}

impl Host {
    /// Starts the launcher and gives up root, or connects to the one that runs as a service. Call it before any thread exists:
    /// a thread keeps its privileges.
    pub(crate) fn start(config: Config) -> anyhow::Result<Self> {
        // Folders made from here on have the modes that they are made with, whatever the caller's shell prefers.
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        let user = service_user(&config)?;
        let service = config.run_dir.join(SOCKET);
        let launcher = if !rustix::process::geteuid().is_root() && service.exists() {
            let failed = "wait for the launcher (see `systemctl status cloister-launcher`)";
            Launcher::connect(&service).context(failed)?
        } else {
            let (program, settings) = prepare_launcher(&config, user)?;
            Launcher::spawn(&program, &settings)?
        };
        let state = open_folder(&config.state)?;
        let token = token::ensure_owner(state.as_fd(), user)?;
        let acme = config.tls.is_fetched().then(|| fetched::ensure(state.as_fd(), user, &config.tls)).transpose()?;
        let host = Self {
            acme,
            projects: open_folder(&config.projects)?,
            images: open_folder(&config.state.join("images"))?,
            layers: open_folder(&config.state.join("layers"))?,
            run: open_folder(&config.run_dir)?,
            token,
            launcher,
            config,
        };
        user.assume().with_context(|| format!("become user {}", host.config.user))?;
        Ok(host)
    }
}

/// Who serves: as configured, or the ordinary user who started this process.
pub(crate) fn service_user(config: &Config) -> anyhow::Result<ServiceUser> {
    if !rustix::process::geteuid().is_root() {
        return Ok(ServiceUser::present());
    }
    ServiceUser::find(&config.user).map_err(|reason| anyhow!("{reason}"))
}

/// Makes what the launcher's folders are made in; gives its program, and what it works with.
pub(crate) fn prepare_launcher(config: &Config, user: ServiceUser) -> anyhow::Result<(PathBuf, Settings)> {
    for folder in [&config.state, &config.projects, &config.run_dir] {
        make_parents(folder)?;
    }
    let program = std::env::current_exe().context("find this program's folder")?.with_file_name(LAUNCHER);
    let settings = Settings {
        state: config.state.clone(),
        projects: config.projects.clone(),
        run_dir: config.run_dir.clone(),
        cgroup: config.cgroup.clone(),
        enforce_quota: config.quota == Quota::Enforced,
        uid: user.uid,
        gid: user.gid,
        host: config.host.clone(),
        policy: config.policy.clone(),
    };
    Ok((program, settings))
}

fn make_parents(folder: &Path) -> anyhow::Result<()> {
    let parent = folder.parent().with_context(|| format!("folder {}: choose one below the root", folder.display()))?;
    std::fs::create_dir_all(parent).with_context(|| format!("make folder {}", parent.display()))
}

pub(crate) fn open_folder(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).with_context(|| format!("open folder {}", path.display()))
}
