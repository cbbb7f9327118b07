//! Host ids of cells: every project has 65,536 of its own, so no cell's user is anything in another cell or on the host.
//!
//! A range is a symbolic link `<project> -> <index>` in the state folder: made and read in one system call each, durable,
//! and there is no second copy to disagree with.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::spec::ProjectId;

/// Ids of one cell: what a Debian system needs, `nobody` (65534) included.
pub(crate) const IDS_PER_CELL: u32 = 65_536;

/// First host id of the first range: above what useradd, newuidmap's defaults and systemd's dynamic users hand out.
const FIRST: u32 = 0x1000_0000;

/// Number of ranges that fit below the ids that Linux reserves.
const RANGES: u32 = (0xffff_0000 - FIRST) / IDS_PER_CELL;

/// A project's host ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdRange {
    base: u32,
}

impl IdRange {
    /// The range with this index, if there are so many.
    pub(crate) fn from_index(index: u32) -> Option<Self> {
        (index < RANGES).then(|| Self { base: FIRST + index * IDS_PER_CELL })
    }

    /// Host id of the cell's root.
    pub(crate) fn base(self) -> u32 {
        self.base
    }

    /// As a line of uid_map.
    pub(crate) fn map(self) -> String {
        format!("0 {} {IDS_PER_CELL}\n", self.base)
    }

    /// The project's range, from `folder`; allocated if it has none yet.
    pub(crate) fn of(folder: BorrowedFd<'_>, project: &ProjectId) -> io::Result<Self> {
        match read(folder, project.as_str()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => allocate(folder, project),
            other => other,
        }
    }
}

/// Gives a project's range back. Nothing of the project may run any more, and none of its files may be within reach: the
/// next project gets the same ids.
pub(crate) fn release(folder: BorrowedFd<'_>, project: &ProjectId) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, project.as_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads one link.
fn read(folder: BorrowedFd<'_>, project: &str) -> io::Result<IdRange> {
    let target = rustix::fs::readlinkat(folder, project, Vec::new())?;
    let index = target.to_str().ok().and_then(|text| text.parse().ok());
    index.and_then(IdRange::from_index).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the state folder's ids/{project} is no link to an index"))
    })
}

/// Takes the lowest index that no project has. A lock on the folder keeps two launchers apart.
fn allocate(folder: BorrowedFd<'_>, project: &ProjectId) -> io::Result<IdRange> {
    let listing = rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    flock(&listing, FlockOperation::LockExclusive)?;
    let mut taken = BTreeSet::new();
    for entry in Dir::read_from(&listing)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            taken.insert(read(folder, &name)?.base);
        }
    }
    let free = (0..RANGES).find(|index| IdRange::from_index(*index).is_some_and(|range| !taken.contains(&range.base)));
    let index = free.ok_or_else(|| io::Error::other("all id ranges are taken: remove projects"))?;
    match rustix::fs::symlinkat(index.to_string(), folder, project.as_str()) {
        Ok(()) | Err(Errno::EXIST) => read(folder, project.as_str()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn ranges_are_kept_and_never_shared() {
        let folder = tempfile::tempdir().unwrap();
        let fd = crate::mount::folder(folder.path()).unwrap();
        let range = |name: &str| IdRange::of(fd.as_fd(), &ProjectId::parse(name).unwrap()).unwrap();
        let (a, b) = (range("a"), range("b"));
        assert_ne!(a, b);
        assert_eq!((range("a"), range("b")), (a, b));
        let project = ProjectId::parse("a").unwrap();
        release(fd.as_fd(), &project).unwrap();
        release(fd.as_fd(), &project).unwrap();
        assert_eq!(range("c"), a, "the lowest free range is taken");
        assert_ne!(range("a"), a);
    }

    #[test]
    fn a_broken_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fd = crate::mount::folder(folder.path()).unwrap();
        std::os::unix::fs::symlink("../../etc", folder.path().join("a")).unwrap();
        assert!(IdRange::of(fd.as_fd(), &ProjectId::parse("a").unwrap()).is_err());
    }
}
