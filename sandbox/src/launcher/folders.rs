//! The launcher's folders, opened once: from then on everything is named relative to a descriptor.
//!
//! The launcher has a mount namespace of its own. In it, and nowhere else, the stage holds what cells get copies of.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, makedev};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::wire::Settings;
use crate::failure::{Context, Failure};
use crate::mount;
use crate::storage;

/// The folders.
#[derive(Debug)]
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
    /// `<run>/cells`: root's, with sockets of the service user's in it.
    pub(crate) sockets: OwnedFd,
    /// A file system with the device nodes, read-only.
    pub(crate) devices: OwnedFd,
    /// An empty folder where layers can be attached for a moment.
    pub(crate) stage_layers: OwnedFd,
    pub(crate) service_uid: u32,
    pub(crate) service_gid: u32,
}

impl Folders {
    /// Makes what is missing, checks who owns the rest, and sets the stage.
    pub(crate) fn prepare(settings: &Settings) -> Result<Self, Failure> {
        // Before any folder is opened: a mount is copied only in the namespace that its descriptor came from.
        enter_mount_namespace()?;
        let service = (settings.uid, settings.gid);
        let state = &settings.state;
        let root_folder =
            |path: &Path, mode| folder(path, (0, 0), mode).step_with(|| format!("prepare {}", path.display()));
        root_folder(state, 0o755)?;
        let layers = root_folder(&state.join("layers"), 0o755)?;
        let cells = root_folder(&state.join("cells"), 0o700)?;
        let trash = root_folder(&state.join("trash"), 0o700)?;
        let trash = mount::open_beneath(trash, ".", OFlags::RDONLY | OFlags::DIRECTORY).step("open the trash")?;
        let ids = root_folder(&state.join("ids"), 0o755)?;
        root_folder(&settings.run_dir, 0o755)?;
        let sockets = root_folder(&settings.run_dir.join("cells"), 0o755)?;
        let stage_path = settings.run_dir.join("stage");
        root_folder(&stage_path, 0o700)?;
        let service_folder =
            |path: &Path| folder(path, service, 0o750).step_with(|| format!("prepare {}", path.display()));
        service_folder(&state.join("images"))?;
        let projects = service_folder(&settings.projects)?;
        let stage = set_stage(&stage_path)?;
        Ok(Self {
            layers,
            cells,
            trash,
            ids,
            projects,
            sockets,
            devices: stage.devices,
            stage_layers: stage.layers,
            service_uid: settings.uid,
            service_gid: settings.gid,
        })
    }

    /// Removes what dead cells have left. Live ones hold their lock.
    pub(crate) fn leftovers(&self) -> std::io::Result<Vec<crate::spec::ProjectId>> {
        let mut dead = Vec::new();
        for project in storage::projects(&self.cells)? {
            if storage::Storage::lock(&self.cells, &project)?.is_some() {
                dead.push(project);
            }
        }
        Ok(dead)
    }
}

/// Makes a folder of this owner, or checks that the one there is. One of root's that nobody has used yet is handed over.
fn folder(path: &Path, owner: (u32, u32), mode: u32) -> std::io::Result<OwnedFd> {
    let made = !path.exists();
    std::fs::create_dir_all(path)?;
    let fd = mount::folder(path)?;
    let stat = rustix::fs::fstat(&fd)?;
    if stat.st_uid != owner.0 {
        if stat.st_uid != 0 {
            return Err(std::io::Error::other(format!(
                "it belongs to user {}, not {}: give it to the right one with chown, or choose another folder",
                stat.st_uid, owner.0
            )));
        }
        chownat(CWD, path, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)), AtFlags::SYMLINK_NOFOLLOW)?;
    } else if owner.0 == 0 && stat.st_mode & 0o022 != 0 && !made {
        return Err(std::io::Error::other("others can write to it: chmod go-w it, or choose another folder"));
    }
    if made {
        chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(fd)
}

/// What is on the stage.
struct Stage {
    devices: OwnedFd,
    layers: OwnedFd,
}

/// Leaves the host's mount namespace for one of the launcher's own.
fn enter_mount_namespace() -> Result<(), Failure> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).step("enter a mount namespace of the launcher's own")?;
    // A slave: what the host mounts later is seen here; nothing from here is seen there.
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .step("detach the launcher's mounts from the host's")
}

/// Mounts the stage, where nobody but the launcher sees it.
fn set_stage(path: &Path) -> Result<Stage, Failure> {
    let still =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let stage = mount::file_system("tmpfs", &[("mode", "0700"), ("size", "1m")], still).step("mount the stage")?;
    let place = mount::folder(path).step("open the stage")?;
    mount::attach(&stage, place).step("attach the stage")?;
    let inner = |name: &str| -> std::io::Result<OwnedFd> {
        rustix::fs::mkdirat(&stage, name, Mode::RWXU)?;
        mount::folder_beneath(&stage, name)
    };
    let layers = inner("layers").step("make the stage's folders")?;
    let devices = devices().step("make the device nodes (is CAP_MKNOD missing?)")?;
    mount::attach(&devices, inner("devices").step("make the stage's folders")?).step("attach the devices")?;
    Ok(Stage { devices, layers })
}

/// A file system with the devices that every program expects, made by ourselves and therefore what they claim to be.
fn devices() -> std::io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = mount::file_system("tmpfs", &[("mode", "0755"), ("size", "64k"), ("nr_inodes", "32")], attributes)?;
    let numbers = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in numbers {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&mount, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
        chmodat(&mount, name, mode, AtFlags::empty())?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&mount, name, Mode::from_raw_mode(0o755))?;
    }
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        match rustix::fs::symlinkat(target, &mount, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    mount::set(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, None)?;
    Ok(mount)
}
