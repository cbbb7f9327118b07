//! A project's quota on a file system that counts and enforces them (ext4 and xfs, mounted with `prjquota`).
//!
//! The project's number is the first of its host ids: durable, and no other project's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, FileType, OFlags};

use super::Claim;
use crate::mount::open_beneath;
use crate::sys;

/// How many files a project may have for each of its bytes, at most: as ext4 makes room for by default.
const BYTES_PER_FILE: u64 = 16 * 1024;

/// What the launcher makes on a project's behalf, amply; what a cell that was killed half-way may have too much.
const START_KIB: u64 = 1024;
const START_FILES: u64 = 64;

/// Most files of a project from before there were quotas that are counted while its cell starts; it takes two seconds.
const FILES_MAX: u32 = 200_000;

/// Deepest that these may be nested: two descriptors each.
const DEPTH_MAX: u32 = 64;

/// Whether the file system of `folder` enforces quotas of projects.
pub(super) fn is_enforced(folder: &OwnedFd) -> bool {
    sys::enforces_project_quotas(folder.as_fd())
}

/// Limits what may be counted to the project on the file system of `folder`.
pub(super) fn limit(folder: &OwnedFd, claim: &Claim<'_>) -> io::Result<()> {
    let kib = claim.bytes_max.div_ceil(1024);
    sys::set_project_quota(folder.as_fd(), claim.range.base(), kib, claim.bytes_max / BYTES_PER_FILE)
}

/// Counts all that is in `folder` to the project, and leaves room for its cell to start, however full it is.
pub(super) fn prepare(folder: &OwnedFd, claim: &Claim<'_>) -> io::Result<()> {
    let folder = open_beneath(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let number = claim.range.base();
    if claim.bytes_max > 0 {
        let (bytes, files) = sys::project_usage(folder.as_fd(), number)?;
        let kib = bytes.max(claim.bytes_max).div_ceil(1024) + START_KIB;
        sys::set_project_quota(folder.as_fd(), number, kib, files.max(claim.bytes_max / BYTES_PER_FILE) + START_FILES)?;
    }
    if sys::project_of(folder.as_fd())? == Some(number) {
        return Ok(());
    }
    let mut left = FILES_MAX;
    let counted = count_below(&folder, number, &mut left, DEPTH_MAX)?;
    if !counted {
        return Err(io::Error::other(format!(
            "it has too many files from before there were quotas: run `chattr -R +P -p {number}` on its folder once"
        )));
    }
    // Last, for it says that the rest is done.
    sys::count_to_project(folder.as_fd(), number, true)
}

/// Counts what lies below a folder; `false` if it is too much. Links, sockets and FIFOs can't be counted, and take no room.
fn count_below(folder: &OwnedFd, number: u32, left: &mut u32, depth: u32) -> io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = entry.file_type();
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            continue;
        }
        *left = match left.checked_sub(1) {
            Some(left) => left,
            None => return Ok(false),
        };
        let flags = if kind.is_dir() { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
        let file = match open_beneath(folder, name, OFlags::RDONLY | flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if kind.is_dir() && (depth == 0 || !count_below(&file, number, left, depth - 1)?) {
            return Ok(false);
        }
        sys::count_to_project(file.as_fd(), number, kind.is_dir())?;
    }
    Ok(true)
}
