//! The launcher's folders, made, checked and opened once: from then on everything is named relative to a descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chmodat, chownat, mkdirat};
use rustix::io::Errno;

use super::view::View;
use super::wire::Settings;
use crate::disk::{Images, Way};
use crate::failure::{Context, Failure};
use crate::ids::IdRange;
use crate::mount;
use crate::rootless::Standing;

/// The folders.
pub(crate) struct Folders {
    /// `<state>/layers`: root's.
    pub(crate) layers: OwnedFd,
    /// `<state>/cells`: root's alone.
    pub(crate) cells: OwnedFd,
    /// `<state>/trash`: root's alone.
    pub(crate) trash: OwnedFd,
    /// `<state>/ids`: root's.
    pub(crate) ids: OwnedFd,
    /// The projects: the service user's.
    pub(crate) projects: OwnedFd,
    /// `<projects>/.trash`: root's alone. A folder moves only within its file system.
    pub(crate) projects_trash: OwnedFd,
    /// `<run>/cells`: root's, with sockets of the service user's in it.
    pub(crate) sockets: OwnedFd,
    /// A file system with the device nodes, read-only.
    pub(crate) devices: OwnedFd,
    /// An empty folder where layers can be attached for a moment.
    pub(crate) stage: OwnedFd,
    /// How projects are kept within their limits of disk.
    pub(crate) way: Way,
    /// The projects' own file systems, below `<state>/disks`: root's alone.
    pub(crate) images: Images,
    pub(crate) standing: Standing,
    pub(crate) service_uid: u32,
    pub(crate) service_gid: u32,
}

impl Folders {
    /// Makes what is missing, checks who owns the rest, and leaves the host's mounts for a [`view`](super::view) of these.
    pub(crate) fn prepare(settings: &Settings, standing: Standing) -> Result<Self, Failure> {
        let (service, unpacker) = match standing {
            Standing::Root => ((settings.uid, settings.gid), 0),
            // The server is the user whom the launcher sees as root; layers are unpacked with the ids of cells.
            Standing::User => ((0, 0), IdRange::SHARED.base()),
        };
        let (state, run) = (&settings.state, &settings.run_dir);
        let root_folder = |path: &Path, mode| folder(path, (0, 0), mode);
        root_folder(state, 0o755)?;
        locked_folder(&state.join("layers"), (unpacker, service.1))?;
        root_folder(&state.join("cells"), 0o700)?;
        root_folder(&state.join("trash"), 0o700)?;
        locked_folder(&state.join("ids"), (0, 0))?;
        root_folder(&state.join("disks"), 0o700)?;
        root_folder(run, 0o755)?;
        root_folder(&run.join("cells"), 0o755)?;
        folder(&state.join("images"), service, 0o750)?;
        folder(&settings.projects, service, 0o750)?;
        let way = Way::choose(settings.enforce_quota, standing, [state, &settings.projects])?;
        let view = View::retreat(state, &settings.projects, run, standing)?;
        let place = |parent: &OwnedFd, name| mount::folder_beneath(parent, name).step("open the launcher's folders");
        let trash = place(&view.state, "trash")?;
        Ok(Self {
            layers: place(&view.state, "layers")?,
            cells: place(&view.state, "cells")?,
            trash: mount::open_beneath(trash, ".", OFlags::RDONLY | OFlags::DIRECTORY).step("open the trash")?,
            ids: place(&view.state, "ids")?,
            projects_trash: trash_within(&view.projects).step("prepare the folder .trash of the projects")?,
            projects: view.projects,
            sockets: place(&view.run, "cells")?,
            devices: view.devices,
            stage: view.stage,
            way,
            images: Images::new(place(&view.state, "disks")?, view.loops, view.tools),
            standing,
            service_uid: service.0,
            service_gid: service.1,
        })
    }
}

/// Makes a folder of this owner, or checks that the one there is. One of root's that nobody has used yet is handed over.
fn folder(path: &Path, owner: (u32, u32), mode: u32) -> Result<(), Failure> {
    prepared(path, owner, mode).step_with(|| format!("prepare {}", path.display()))
}

/// The same for one that is locked now and then: whoever may read a folder can keep it locked, so others than its group only pass
/// through.
fn locked_folder(path: &Path, owner: (u32, u32)) -> Result<(), Failure> {
    const MODE: u32 = 0o751;
    folder(path, owner, MODE)?;
    chownat(CWD, path, None, Some(Gid::from_raw(owner.1)), AtFlags::SYMLINK_NOFOLLOW)
        .and_then(|()| chmodat(CWD, path, Mode::from_raw_mode(MODE), AtFlags::empty()))
        .step_with(|| format!("close {} to others", path.display()))
}

/// A trash in a folder of the service user's, who may have put anything in its place: never through a link, and root's.
fn trash_within(projects: &OwnedFd) -> io::Result<OwnedFd> {
    const NAME: &str = ".trash";
    match mkdirat(projects, NAME, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let trash = mount::open_beneath(projects, NAME, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let stat = rustix::fs::fstat(&trash)?;
    if stat.st_uid != 0 || stat.st_mode & 0o077 != 0 {
        return Err(io::Error::other("it is not root's alone: remove it"));
    }
    Ok(trash)
}

fn prepared(path: &Path, owner: (u32, u32), mode: u32) -> io::Result<()> {
    let made = !path.exists();
    std::fs::create_dir_all(path)?;
    let stat = rustix::fs::fstat(mount::folder(path)?)?;
    if stat.st_uid != owner.0 {
        if stat.st_uid != 0 {
            return Err(io::Error::other(format!(
                "it belongs to user {}, not {}: give it to the right one with chown, or choose another folder",
                stat.st_uid, owner.0
            )));
        }
        chownat(CWD, path, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)), AtFlags::SYMLINK_NOFOLLOW)?;
    } else if owner.0 == 0 && stat.st_mode & 0o022 != 0 && !made {
        return Err(io::Error::other("others can write to it: chmod go-w it, or choose another folder"));
    }
    if made {
        chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(())
}
