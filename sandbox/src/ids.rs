//! Host ids of cells: every project has 65,536 of its own, so no cell's user is anything in another cell or on the host.
//!
//! A range is a symbolic link `<project> -> <index>` in the state folder: made and read in one system call each, durable,
//! and there is no second copy to disagree with. A removed project's link stays under another name until the last of its files
//! is gone, so that nobody inherits one.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::unistd::User;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::spec::ProjectId;
use crate::storage;

/// Ids of one cell: what a Debian system needs, `nobody` (65534) included.
pub(crate) const IDS_PER_CELL: u32 = 65_536;

/// First host id of the first range: above what useradd, newuidmap's defaults and systemd's dynamic users hand out.
const FIRST: u32 = 0x1000_0000;

/// Number of ranges that fit below the ids that Linux reserves.
const RANGES: u32 = (0xffff_0000 - FIRST) / IDS_PER_CELL;

/// What the link of a removed project begins with; no project's id does.
const RELEASED: &str = ".released-";

/// Most that is read of a host's file of subordinate ids: some ten thousand users.
const SUBORDINATE_BYTES_MAX: u64 = 1 << 20;

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

    /// The one range of all cells of a launcher without root, as that launcher sees the ids its user was given.
    pub(crate) const SHARED: Self = Self { base: 1 };

    /// The project's range, from `folder`; allocated if it has none yet.
    pub(crate) fn of(folder: BorrowedFd<'_>, project: &ProjectId, others: &SubordinateIds) -> io::Result<Self> {
        let range = match read(folder, project.as_str()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => allocate(folder, project, others),
            other => other,
        }?;
        match others.owner_of(range) {
            None => Ok(range),
            Some(owner) => Err(io::Error::other(format!(
                "the project's host ids {} to {} have been given to {owner} too: give {owner} others in /etc/subuid and /etc/subgid",
                range.base,
                range.base + (IDS_PER_CELL - 1)
            ))),
        }
    }
}

/// Ids that the host lets its users have for containers of their own (subuid(5), subgid(5)).
#[derive(Debug, Default)]
pub(crate) struct SubordinateIds {
    given: Vec<(String, std::ops::Range<u64>)>,
}

impl SubordinateIds {
    /// Reads the host's files, of which any may be missing. What they give to the service user is given to cells.
    pub(crate) fn of_others(service_uid: u32) -> io::Result<Self> {
        let mut ids = Self::default();
        for path in ["/etc/subuid", "/etc/subgid"] {
            ids.read_if_present(path)?;
        }
        let name = User::from_uid(service_uid.into())?.map(|user| user.name);
        ids.leave_out(name.as_deref(), service_uid);
        Ok(ids)
    }

    fn leave_out(&mut self, name: Option<&str>, uid: u32) {
        let uid = uid.to_string();
        self.given.retain(|(owner, _)| Some(owner.as_str()) != name && *owner != uid);
    }

    fn read_if_present(&mut self, path: &str) -> io::Result<()> {
        match std::fs::File::open(path) {
            Ok(file) => self.read(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lines that aren't `name:first:count` give nothing to anybody.
    fn read(&mut self, file: impl io::Read) -> io::Result<()> {
        let text = io::read_to_string(io::Read::take(file, SUBORDINATE_BYTES_MAX))?;
        self.given.extend(text.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            let (first, count): (u64, u64) = (first.trim().parse().ok()?, count.trim().parse().ok()?);
            Some((name.to_owned(), first..first.checked_add(count)?))
        }));
        Ok(())
    }

    /// The first of as many ids in a row as a cell has, of those that a user was given.
    fn first_of(&self, name: &str, uid: u32) -> Option<u32> {
        let uid = uid.to_string();
        let enough = |given: &std::ops::Range<u64>| given.end - given.start >= u64::from(IDS_PER_CELL);
        let given = self.given.iter().find(|(owner, given)| (owner == name || *owner == uid) && enough(given));
        given.and_then(|(_, given)| u32::try_from(given.start).ok())
    }

    /// Who else has ids of this range.
    fn owner_of(&self, range: IdRange) -> Option<&str> {
        let ours = u64::from(range.base)..u64::from(range.base) + u64::from(IDS_PER_CELL);
        let shared = |given: &std::ops::Range<u64>| given.start < ours.end && ours.start < given.end;
        self.given.iter().find(|(_, given)| shared(given)).map(|(name, _)| name.as_str())
    }
}

/// The first of the ids for cells that one of the host's files gives a user, by name or number; `None` if it gives too few.
pub(crate) fn subordinate(path: &str, name: &str, uid: u32) -> io::Result<Option<u32>> {
    let mut ids = SubordinateIds::default();
    ids.read_if_present(path)?;
    Ok(ids.first_of(name, uid))
}

/// Gives a project's range back, once the last of its files is gone: until [`forget`] nobody gets it.
pub(crate) fn release(folder: BorrowedFd<'_>, project: &ProjectId) -> io::Result<()> {
    let _turn = storage::turn(folder)?;
    let index = match rustix::fs::readlinkat(folder, project.as_str(), Vec::new()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let name = format!("{RELEASED}{}", index.to_string_lossy());
    Ok(rustix::fs::renameat(folder, project.as_str(), folder, name)?)
}

/// The ranges that are given back.
pub(crate) fn released(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(listing(folder)?)? {
        let entry = entry?;
        if entry.file_name().to_bytes().starts_with(RELEASED.as_bytes()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Frees ranges that are given back: none of their projects' files may be left.
pub(crate) fn forget(folder: BorrowedFd<'_>, released: &[CString]) -> io::Result<()> {
    let _turn = storage::turn(folder)?;
    for name in released {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn listing(folder: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads one link.
fn read(folder: BorrowedFd<'_>, project: &str) -> io::Result<IdRange> {
    let target = rustix::fs::readlinkat(folder, project, Vec::new())?;
    let index = target.to_str().ok().and_then(|text| text.parse().ok());
    index.and_then(IdRange::from_index).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the state folder's ids/{project} is no link to an index"))
    })
}

/// Takes the lowest index that no project and nobody else has.
fn allocate(folder: BorrowedFd<'_>, project: &ProjectId, others: &SubordinateIds) -> io::Result<IdRange> {
    // A link that gets another name meanwhile may be seen twice or not at all.
    let listing = storage::turn(folder)?;
    let mut taken = BTreeSet::new();
    for entry in Dir::read_from(&listing)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            taken.insert(read(folder, &name)?.base);
        }
    }
    let is_free = |range: IdRange| !taken.contains(&range.base) && others.owner_of(range).is_none();
    let free = (0..RANGES).find(|index| IdRange::from_index(*index).is_some_and(is_free));
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
        let nobody = SubordinateIds::default();
        let range = |name: &str| IdRange::of(fd.as_fd(), &ProjectId::parse(name).unwrap(), &nobody).unwrap();
        let (a, b) = (range("a"), range("b"));
        assert_ne!(a, b);
        assert_eq!((range("a"), range("b")), (a, b));
        let project = ProjectId::parse("a").unwrap();
        release(fd.as_fd(), &project).unwrap();
        release(fd.as_fd(), &project).unwrap();
        assert!(![a, b].contains(&range("c")), "files of the removed project may be left");
        let gone = released(fd.as_fd()).unwrap();
        assert_eq!(gone, [c".released-0".to_owned()]);
        forget(fd.as_fd(), &gone).unwrap();
        assert_eq!(range("a"), a, "the lowest free range is taken");
    }

    #[test]
    fn ids_that_the_host_gave_to_others_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let fd = crate::mount::folder(folder.path()).unwrap();
        let project = ProjectId::parse("a").unwrap();
        let mut others = SubordinateIds::default();
        others
            .read(&b"# none\nalice:100000:65536\nbob:268435456:65537\nodd:x\nodd:1:18446744073709551615\n"[..])
            .unwrap();
        let range = IdRange::of(fd.as_fd(), &project, &others).unwrap();
        assert_eq!(range, IdRange::from_index(2).unwrap(), "bob has the first range, and one id of the second");
        others.read(format!("carol:{}:1\n", range.base() + 65_535).as_bytes()).unwrap();
        let refused = IdRange::of(fd.as_fd(), &project, &others).unwrap_err().to_string();
        assert!(refused.contains("given to carol too"), "{refused}");
        assert_eq!((others.first_of("alice", 1000), others.first_of("bob", 1000)), (Some(100_000), Some(268_435_456)));
        assert_eq!((others.first_of("carol", 1000), others.first_of("dave", 1000)), (None, None), "one id is too few");
        others.read(&b"1000:200000:65536\n"[..]).unwrap();
        assert_eq!(others.first_of("dave", 1000), Some(200_000), "the file may have numbers for names");
        others.leave_out(Some("carol"), 999);
        assert_eq!(
            IdRange::of(fd.as_fd(), &project, &others).unwrap(),
            range,
            "what the service user has is for cells"
        );
    }

    #[test]
    fn ranges_that_are_given_back_meanwhile_disturb_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let fd = crate::mount::folder(folder.path()).unwrap();
        let live = |name: &str| {
            for number in 0..200 {
                let project = ProjectId::parse(&format!("{name}-{number}")).unwrap();
                IdRange::of(fd.as_fd(), &project, &SubordinateIds::default()).unwrap();
                release(fd.as_fd(), &project).unwrap();
                forget(fd.as_fd(), &released(fd.as_fd()).unwrap()).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                scope.spawn(|| live(name));
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_keeps_the_folder_locked_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let fd = crate::mount::folder(folder.path()).unwrap();
        let _turn = storage::turn(&fd).unwrap();
        let refused = IdRange::of(fd.as_fd(), &ProjectId::parse("a").unwrap(), &SubordinateIds::default()).unwrap_err();
        assert!(refused.to_string().contains("lslocks"), "{refused}");
    }

    #[test]
    fn a_broken_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fd = crate::mount::folder(folder.path()).unwrap();
        std::os::unix::fs::symlink("../../etc", folder.path().join("a")).unwrap();
        let project = ProjectId::parse("a").unwrap();
        assert!(IdRange::of(fd.as_fd(), &project, &SubordinateIds::default()).is_err());
    }
}
