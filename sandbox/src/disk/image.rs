//! A file system of a project's own: ext4 in a sparse file of the state folder, as large as the project's limit.
//!
//! The kernel alone writes to it, through a loop device that goes with its last mount. In it lie `workspace`, and `cell` with
//! the running cell's changes to the image. Nothing of it is attached anywhere but in the cell.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Uid, chownat, fstat, mkdirat, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::{Claim, Disk, Tools};
use crate::failure::{Context, Failure};
use crate::mount::{self, folder_beneath, open_beneath};
use crate::rootless::Standing;
use crate::seccomp::Filter;
use crate::spec::ProjectId;
use crate::storage;
use crate::sys;

/// Where an image's root is attached for a moment: mounts are copied, and overlays made, only of what is attached.
const PLACE: &str = "/disk";

/// Where the nodes of loop devices are.
const LOOPS: &str = "/loops";

/// Longest wait for the last cell's mount to go, before its image grows.
const IDLE_WAIT: Duration = Duration::from_secs(5);

/// What the launcher makes in an image for a cell, amply.
const START_BLOCKS: u64 = 16;
const START_FILES: u64 = 16;

/// Longest wait for as much room in a full image: what its last cell had at least is being removed.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// How often another process may take the free loop device that we were told of.
const TRIES_MAX: u32 = 64;

/// The projects' images.
pub(crate) struct Images {
    /// `<state>/disks`: root's alone.
    folder: OwnedFd,
    /// [`LOOPS`], on a file system that has devices.
    loops: OwnedFd,
    tools: Tools,
    /// The roots of images in use, to throw away what their cells leave.
    running: HashMap<ProjectId, OwnedFd>,
    /// Trashes within images, for the next sweeper.
    trashes: Vec<OwnedFd>,
}

impl Images {
    pub(crate) fn new(folder: OwnedFd, loops: OwnedFd, tools: Tools) -> Self {
        Self { folder, loops, tools, running: HashMap::new(), trashes: Vec::new() }
    }

    /// `<state>/disks`.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// The trashes within images that no sweeper has emptied yet.
    pub(crate) fn trashes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.trashes.iter()
    }

    /// A sweeper has copies of the trashes, and lets go of their mounts last.
    pub(crate) fn hand_over(&mut self) {
        self.trashes.clear();
    }

    /// Whether a project has an image.
    pub(super) fn has(&self, project: &ProjectId) -> io::Result<bool> {
        match rustix::fs::statat(&self.folder, name_of(project), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a project's image, made or made larger if need be. `workspace` is the folder that it replaces.
    pub(super) fn open(
        &mut self,
        claim: &Claim<'_>,
        workspace: &OwnedFd,
        service: (u32, u32),
        filter: &Filter,
    ) -> Result<Disk, Failure> {
        if !self.has(claim.project).step("look for the project's disk image")? {
            self.make(claim, workspace, filter)?;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let image = rustix::fs::openat(&self.folder, name_of(claim.project), flags, Mode::empty())
            .step("open the project's disk image")?;
        self.fit(claim, &image, filter)?;
        let root = self.mount(&image).step("mount the project's disk image")?;
        self.arrange(claim.project, root, service).step("arrange the project's disk")
    }

    /// A cell has ended: its changes go.
    pub(super) fn close(&mut self, project: &ProjectId) -> io::Result<()> {
        match self.running.remove(project) {
            Some(root) => self.throw_away(&root),
            None => Ok(()),
        }
    }

    /// Removes a project's image; its room is free once the last mount is gone.
    pub(super) fn remove(&self, project: &ProjectId) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, name_of(project), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what a crash has left of a project's image that was being made. The project's storage is ours.
    pub(crate) fn remove_half_made(&self, project: &ProjectId) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, half_made_name_of(project), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an image, first under another name: what a crash leaves of it is made anew.
    fn make(&self, claim: &Claim<'_>, workspace: &OwnedFd, filter: &Filter) -> Result<(), Failure> {
        let step = || format!("give project {} a disk of its own", claim.project);
        if !is_empty(workspace).step_with(step)? {
            let reason = "its workspace has files on the host's file system, which has no project quotas: take its limit \
                          disk_bytes_max back, or move them out, start it once and copy them in through a terminal";
            return Err(Failure::new(step(), reason));
        }
        let begun = half_made_name_of(claim.project);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let image = rustix::fs::openat(&self.folder, &begun, flags, Mode::RUSR | Mode::WUSR).step_with(step)?;
        rustix::fs::ftruncate(&image, claim.bytes_max).step_with(step)?;
        self.tools.format(&image, filter)?;
        rustix::fs::fsync(&image).step_with(step)?;
        let placed = rustix::fs::renameat_with(
            &self.folder,
            &begun,
            &self.folder,
            name_of(claim.project),
            RenameFlags::NOREPLACE,
        );
        placed.step_with(step)
    }

    /// Makes an image as large as the limit; a limit that was taken back changes nothing.
    fn fit(&self, claim: &Claim<'_>, image: &OwnedFd, filter: &Filter) -> Result<(), Failure> {
        let step = || format!("make the disk of project {} larger", claim.project);
        let bytes = fstat(image).step_with(step)?.st_size as u64;
        if claim.bytes_max == 0 || claim.bytes_max == bytes {
            return Ok(());
        }
        if claim.bytes_max < bytes {
            return Err(Failure::new(
                format!("limit the disk of project {}", claim.project),
                format!("it has {bytes} bytes already and can't shrink: limits.disk_bytes_max must be at least that"),
            ));
        }
        let deadline = Instant::now() + IDLE_WAIT;
        while self.device_of(image).step_with(step)?.is_some() {
            if Instant::now() > deadline {
                return Err(Failure::new(step(), "its last cell is still being removed: try again"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        rustix::fs::ftruncate(image, claim.bytes_max).step_with(step)?;
        if let Err(failure) = self.tools.grow(image, filter) {
            // Nothing is lost: the file system is as it was, and so shall the file be.
            let _ = rustix::fs::ftruncate(image, bytes);
            return Err(failure);
        }
        Ok(())
    }

    /// Mounts an image; gives its root, attached nowhere.
    fn mount(&self, image: &OwnedFd) -> io::Result<OwnedFd> {
        let device = match self.device_of(image)? {
            // The sweeper of the last cell still has it mounted: two devices for one image would destroy it.
            Some(device) => device,
            None => self.attach(image)?,
        };
        let path = format!("{LOOPS}/{}", device.name);
        mount::file_system(
            "ext4",
            &[("source", &path), ("errors", "remount-ro"), ("noinit_itable", ""), ("discard", "")],
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        )
    }

    /// Finds workspace and a fresh place for a cell's changes in a mounted image.
    fn arrange(&mut self, project: &ProjectId, root: OwnedFd, service: (u32, u32)) -> io::Result<Disk> {
        mount::attach(&root, mount::folder(PLACE.as_ref())?)?;
        let place = Some(Place);
        let (uid, gid) = (Some(Uid::from_raw(service.0)), Some(Gid::from_raw(service.1)));
        if make_folder(&root, "workspace", 0o750)? {
            chownat(&root, "workspace", uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        make_folder(&root, "trash", 0o700)?;
        let workspace = mount::copy_of(folder_beneath(&root, "workspace")?)?;
        // Of a cell that ended while no launcher was there.
        self.throw_away(&root)?;
        wait_for_room(&root)?;
        make_folder(&root, "cell", 0o700)?;
        let changes = folder_beneath(&root, "cell")?;
        self.running.insert(project.clone(), root);
        Ok(Disk { workspace, changes, place })
    }

    /// Moves a cell's changes within the image to its trash.
    fn throw_away(&mut self, root: &OwnedFd) -> io::Result<()> {
        let trash = open_beneath(root, "trash", OFlags::RDONLY | OFlags::DIRECTORY)?;
        storage::throw_away(root, "cell", &trash)?;
        self.trashes.push(trash);
        Ok(())
    }

    /// The loop device that shows this image, if one does; it does so as long as it is kept open.
    fn device_of(&self, image: &OwnedFd) -> io::Result<Option<Device>> {
        let stat = fstat(image)?;
        for entry in std::fs::read_dir("/sys/block")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("loop") || !entry.path().join("loop/backing_file").exists() {
                continue;
            }
            let device = self.device(name)?;
            if sys::file_of_loop_device(device.file.as_fd())? == Some((stat.st_dev, stat.st_ino)) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// Shows an image through a free loop device.
    fn attach(&self, image: &OwnedFd) -> io::Result<Device> {
        let control = open_beneath(&self.loops, "control", OFlags::RDWR)?;
        for _ in 0..TRIES_MAX {
            let device = self.device(format!("loop{}", sys::free_loop_device(control.as_fd())?))?;
            match sys::attach_to_loop_device(device.file.as_fd(), image.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                other => return other.map(|()| device),
            }
        }
        Err(io::Error::other("others take all loop devices"))
    }

    /// Opens a loop device by its name in /sys/block, through a node of our own.
    fn device(&self, name: String) -> io::Result<Device> {
        let numbers = std::fs::read_to_string(format!("/sys/block/{name}/dev"))?;
        let numbers = numbers.trim_end().split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (major, minor) = numbers.ok_or_else(|| io::Error::other(format!("/sys/block/{name}/dev is odd")))?;
        let node = rustix::fs::makedev(major, minor);
        match mknodat(&self.loops, &name, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, node) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Device { file: open_beneath(&self.loops, &name, OFlags::RDWR)?, name })
    }
}

/// An image's root is attached at [`PLACE`], until this is dropped.
pub(crate) struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        // What is attached can be detached.
        let _ = rustix::mount::unmount(PLACE, UnmountFlags::DETACH);
    }
}

/// An open loop device.
struct Device {
    file: OwnedFd,
    name: String,
}

/// The file system in which the launcher makes the nodes of loop devices.
/// It stays empty without root.
pub(crate) fn loops(standing: Standing) -> io::Result<OwnedFd> {
    const LOOP_CONTROL: (u32, u32) = (10, 237);
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let loops = mount::file_system("tmpfs", &[("mode", "0700"), ("size", "1m")], attributes)?;
    if standing == Standing::Root {
        let (major, minor) = LOOP_CONTROL;
        let node = rustix::fs::makedev(major, minor);
        mknodat(&loops, "control", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, node)?;
    }
    Ok(loops)
}

fn name_of(project: &ProjectId) -> String {
    format!("{project}.ext4")
}

fn half_made_name_of(project: &ProjectId) -> String {
    format!(".{}", name_of(project))
}

/// Makes a folder; `false` if it is there.
fn make_folder(parent: &OwnedFd, name: &str, mode: u32) -> io::Result<bool> {
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits a little for a sweeper who makes room in a full image, by removing what its last cell left.
fn wait_for_room(root: &OwnedFd) -> io::Result<()> {
    let deadline = Instant::now() + ROOM_WAIT;
    loop {
        let free = rustix::fs::fstatvfs(root)?;
        if (free.f_bavail >= START_BLOCKS && free.f_favail >= START_FILES) || Instant::now() > deadline {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_empty(folder: &OwnedFd) -> io::Result<bool> {
    let folder = File::from(open_beneath(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY)?);
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
