//! Folders in which layers are being unpacked, and what is left of those whose unpacker was killed.
//!
//! Such a folder is locked as long as somebody works on it; the kernel gives the lock up when that process is gone,
//! however it ended. It doesn't know what is unpacked.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, fchmod, flock, mkdirat, openat2, unlinkat,
};
use rustix::io::Errno;

use crate::{Error, Result};

/// Beginning of the names of unfinished folders; no digest begins so.
const PREFIX: &str = ".tmp-";

/// Unfinished folders at once: more unpackers would only wait for the disk.
const UNFINISHED_MAX: u32 = 64;

/// Rounds of emptying a folder: reading one while it is being emptied may pass over entries on some file systems.
const ROUNDS_MAX: u32 = 8;

/// A locked folder to unpack into; removed when dropped, unless [kept](Self::keep).
pub(super) struct Unfinished<'a> {
    layers: BorrowedFd<'a>,
    folder: OwnedFd,
    name: Option<String>,
}

impl<'a> Unfinished<'a> {
    pub(super) fn new(layers: BorrowedFd<'a>) -> Result<Self> {
        // Nobody may take the new folder for a leftover before it is locked.
        let _guard = guard(layers)?;
        let failed = |error| Error::host("create a folder to unpack into", error);
        for number in 0..UNFINISHED_MAX {
            let name = format!("{PREFIX}{number}");
            match mkdirat(layers, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(failed(error)),
            }
            let folder = open_folder(layers, name.as_bytes()).map_err(failed)?;
            flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(failed)?;
            // For layers that say nothing about their root.
            fchmod(&folder, Mode::from_raw_mode(0o755)).map_err(failed)?;
            return Ok(Self { layers, folder, name: Some(name) });
        }
        Err(Error::host(format_args!("unpack more than {UNFINISHED_MAX} layers at once"), Errno::AGAIN))
    }

    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// An own descriptor of the folder.
    pub(super) fn root(&self) -> Result<OwnedFd> {
        self.folder.try_clone().map_err(|error| Error::host("open the folder to unpack into", error))
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// It has become something else: leave it alone.
    pub(super) fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What can't be removed now is a leftover, which the next run sweeps.
            let _ = remove(self.layers, name.as_bytes());
        }
    }
}

/// Removes what killed unpackers left.
pub(super) fn sweep(layers: BorrowedFd<'_>) -> Result<()> {
    let failed = |error| Error::host("look for leftovers", error);
    for entry in Dir::read_from(layers).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if !name.starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let ownerless = {
            let _guard = guard(layers)?;
            match open_folder(layers, name) {
                Ok(folder) => flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(folder),
                Err(_) => None,
            }
        };
        // The lock is held while removing, so that only one removes.
        if let Some(_folder) = ownerless {
            remove(layers, name)?;
        }
    }
    Ok(())
}

/// Removes a file, or a folder with all it holds, following nothing and staying on the device. The depth of folders is
/// bounded by whoever made them ([`Limits::depth_max`](super::Limits::depth_max)).
pub(super) fn remove(parent: BorrowedFd<'_>, leaf: &[u8]) -> Result<()> {
    remove_folder(parent, leaf)
        .map_err(|error| Error::host(format_args!("remove {}", crate::archive::printable(leaf)), error))
}

fn remove_folder(parent: BorrowedFd<'_>, leaf: &[u8]) -> rustix::io::Result<()> {
    let folder = match open_folder(parent, leaf) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(parent, leaf, AtFlags::empty()),
        Err(error) => return Err(error),
    };
    for _ in 0..ROUNDS_MAX {
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            if is_dot(entry.file_name()) {
                continue;
            }
            match entry.file_type() {
                FileType::Directory | FileType::Unknown => remove_folder(folder.as_fd(), entry.file_name().to_bytes())?,
                _ => unlinkat(&folder, entry.file_name(), AtFlags::empty())?,
            }
        }
        match unlinkat(parent, leaf, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            result => return result,
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Opens the folder `path` below `parent`, through folders only.
pub(super) fn open_folder(parent: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, path, flags, Mode::empty(), resolve)
}

/// Held for the moment between making an unfinished folder and locking it.
fn guard(layers: BorrowedFd<'_>) -> Result<OwnedFd> {
    let failed = |error| Error::host("lock the folder of layers", error);
    // A descriptor of its own: locks belong to the open file, not to the process.
    let guard = open_folder(layers, b"").map_err(failed)?;
    flock(&guard, FlockOperation::LockExclusive).map_err(failed)?;
    Ok(guard)
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
