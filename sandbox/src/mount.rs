//! Mounts by descriptor: file systems and copies of trees that are attached nowhere until somebody attaches them.
//!
//! It joins no paths: what comes from an image is opened beneath a descriptor, never through a link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys;

/// Resolves a path without leaving `beneath` and without following any link: whoever made the tree has no say in where
/// we end up.
const STRICT: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How often a path is looked up anew while the kernel isn't sure.
const LOOKS_MAX: u32 = 1000;

/// Opens `path` beneath a descriptor; see [`STRICT`].
pub(crate) fn open_beneath(beneath: impl AsFd, path: impl rustix::path::Arg, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(beneath, path, flags | OFlags::CLOEXEC, Mode::empty(), STRICT)?)
}

/// Opens the folder `path` beneath a descriptor, for use as a place.
pub(crate) fn folder_beneath(beneath: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    open_beneath(beneath, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Whether `path` is a folder of the tree `root`, links within it followed, but none of `/proc` that lead past any path.
pub(crate) fn is_folder_within(root: impl AsFd, path: impl rustix::path::Arg) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    path.into_with_c_str(|path| {
        // Behind a `..` the kernel isn't sure while anybody on the host renames or mounts something.
        let look = || rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve);
        let sure = (0..LOOKS_MAX).map(|_| look()).find(|looked| !matches!(looked, Err(Errno::AGAIN)));
        sure.unwrap_or(Err(Errno::AGAIN))
    })
    .is_ok()
}

/// A new file system of type `name` with options (an empty value is a flag), attached nowhere.
pub(crate) fn file_system(name: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), *key)?;
        } else {
            fsconfig_set_string(context.as_fd(), *key, *value)?;
        }
    }
    create(&context, attributes)
}

/// A copy of the mount that holds the file or folder `place`, of that part alone, attached nowhere.
pub(crate) fn copy_of(place: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(place, "", flags)?)
}

/// As [`copy_of`], with all that is mounted below.
pub(crate) fn tree_of(place: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(place, "", flags)?)
}

/// Sets `MOUNT_ATTR_*` flags and, if given, the id map of a mount.
pub(crate) fn set(mount: impl AsFd, attributes: MountAttrFlags, id_map: Option<BorrowedFd<'_>>) -> io::Result<()> {
    sys::mount_setattr(mount.as_fd(), u64::from(attributes.bits()), id_map, false)
}

/// Attaches a mount at the file or folder `place`.
pub(crate) fn attach(mount: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

/// Makes an attached mount the root, and forgets the old root with all that is below it (pivot_root(2), the paragraph on
/// `pivot_root(".", ".")`).
pub(crate) fn pivot(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// `userxattr` keeps overlay's own marks in `user.overlay.*`, so that a layer needs no privilege to carry them. `volatile`
/// syncs nothing when the overlay goes: its upper layer goes too, and a sync is of the whole disk.
const OVERLAY_FLAGS: [&str; 2] = ["userxattr", "volatile"];

/// An overlay of read-only `lowers` (lowest first) under `upper`, attached nowhere. `stage` is an empty folder of the
/// present mount namespace that older kernels need to attach the lower layers at for a moment.
pub(crate) fn overlay(
    lowers: &[OwnedFd],
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
    stage: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    OVERLAY_FLAGS.iter().try_for_each(|flag| fsconfig_set_flag(context.as_fd(), *flag))?;
    // Overlay wants its layers from the top down; descriptors came with Linux 6.13.
    let by_descriptor = lowers
        .iter()
        .rev()
        .try_for_each(|lower| fsconfig_set_fd(context.as_fd(), "lowerdir+", lower.as_fd()))
        .and_then(|()| fsconfig_set_fd(context.as_fd(), "upperdir", upper))
        .and_then(|()| fsconfig_set_fd(context.as_fd(), "workdir", work));
    match by_descriptor {
        Ok(()) => create(&context, attributes),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => overlay_by_path(lowers, upper, work, stage, attributes),
        Err(error) => Err(error.into()),
    }
}

/// As [`overlay`], for kernels whose overlay takes only paths and only layers that are attached somewhere.
/// Relative paths of a few characters, because an option's value holds at most 255.
fn overlay_by_path(
    lowers: &[OwnedFd],
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
    stage: BorrowedFd<'_>,
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    use rustix::process::{chdir, fchdir};

    let names: Vec<String> = (0..lowers.len()).map(|index| format!("{index:x}")).collect();
    let attached = || -> io::Result<OwnedFd> {
        for (name, lower) in names.iter().zip(lowers) {
            match rustix::fs::mkdirat(stage, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            attach(lower, folder_beneath(stage, name)?)?;
        }
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        OVERLAY_FLAGS.iter().try_for_each(|flag| fsconfig_set_flag(context.as_fd(), *flag))?;
        let from_top: Vec<&str> = names.iter().rev().map(String::as_str).collect();
        fsconfig_set_string(context.as_fd(), "lowerdir", from_top.join(":"))?;
        fsconfig_set_string(context.as_fd(), "upperdir", descriptor_path(upper))?;
        fsconfig_set_string(context.as_fd(), "workdir", descriptor_path(work))?;
        fchdir(stage)?;
        create(&context, attributes)
    }();
    let detached = fchdir(stage).and_then(|()| {
        names.iter().for_each(|name| {
            // A layer that was not attached can't be detached; the overlay holds its own references.
            let _ = rustix::mount::unmount(name.as_str(), rustix::mount::UnmountFlags::DETACH);
        });
        chdir("/")
    });
    let mount = attached?;
    detached?;
    Ok(mount)
}

/// Makes the configured file system and a mount of it.
fn create(context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(context.as_fd()).map_err(|error| explained(context, error))?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// What the kernel itself has to say of a failed mount: it leaves messages on the context.
fn explained(context: &OwnedFd, error: Errno) -> io::Error {
    let mut message = [0; 512];
    match rustix::io::read(context, &mut message) {
        Ok(length) if length > 2 => {
            let text = String::from_utf8_lossy(&message[2..length]);
            io::Error::new(io::Error::from(error).kind(), format!("{} ({error})", text.trim()))
        }
        _ => error.into(),
    }
}

/// A path that leads to what a descriptor refers to.
fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens a folder by an operator's path.
pub(crate) fn folder(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
