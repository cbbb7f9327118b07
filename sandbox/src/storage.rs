//! A cell's storage on disk: its lock, and the upper layer that lives as long as the cell.
//!
//! What is done with goes to the trash by one rename, and a sweeper empties that: nobody waits for a million files.
//! The lock is a file that the cell's init holds open: who can take it knows that the cell is gone. (A file, because a
//! descriptor of a folder would be a way out of the cell.) It doesn't know what a cell is beyond that.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid, chownat, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mount;
use crate::spec::{LayerId, ProjectId};

/// The file that says which layers a cell uses: the first thing that it leaves.
const LAYERS: &str = "layers";

/// The file that says which process a cell's first is, where no cgroup tells.
const INIT: &str = "init";

/// The folder of a cell's changes to the image, unless they lie in a file system of the project's own.
const CHANGES: &str = "changes";

/// How deep the folders may be that a user has put into a workspace before its first cell: each takes a descriptor while those
/// in it are gone through.
const HANDED_DEPTH_MAX: usize = 200;

/// Longest wait for a folder that another launcher has locked: what it does meanwhile takes a millisecond.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether a lock is free; the kernel's own waiting has no end.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A cell's folder, locked by us.
#[derive(Debug)]
pub(crate) struct Storage {
    folder: OwnedFd,
    /// Held as long as the cell lives.
    pub(crate) lock: OwnedFd,
}

impl Storage {
    /// Locks the storage of a project's cell below `cells`, made if needed; `None` if a running cell has it.
    pub(crate) fn lock(cells: &OwnedFd, project: &ProjectId) -> io::Result<Option<Self>> {
        loop {
            make(cells, project.as_str())?;
            let opened = folder_of(cells, project).and_then(|folder| {
                let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let lock = rustix::fs::openat(&folder, "lock", flags, Mode::RUSR | Mode::WUSR)?;
                Ok(Self { folder, lock })
            });
            let storage = match opened {
                // Another launcher has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            match flock(&storage.lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if storage.is_in(cells, project)? => return Ok(Some(storage)),
                // Another launcher has just thrown it away: its lock is nobody's.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Storage::lock`], waiting up to `patience` for a dying cell.
    pub(crate) fn lock_within(cells: &OwnedFd, project: &ProjectId, patience: Duration) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::lock(cells, project)? {
                None if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                other => return Ok(other),
            }
        }
    }

    /// Whether it still is the storage of the project, and not in the trash.
    fn is_in(&self, cells: &OwnedFd, project: &ProjectId) -> io::Result<bool> {
        let ours = rustix::fs::fstat(&self.folder)?;
        match rustix::fs::statat(cells, project.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Fresh folders below `parent` for the overlay, owned by the cell's root (host id `owner`): upper and work.
    pub(crate) fn layers(parent: &OwnedFd, owner: u32) -> io::Result<(OwnedFd, OwnedFd)> {
        let make_owned = |name: &str| {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            chownat(parent, name, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)), AtFlags::empty())?;
            mount::folder_beneath(parent, name)
        };
        Ok((make_owned("upper")?, make_owned("work")?))
    }

    /// The folder of the cell's changes to the image, fresh.
    pub(crate) fn changes(&self) -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(&self.folder, CHANGES, Mode::RWXU)?;
        mount::folder_beneath(&self.folder, CHANGES)
    }

    /// Whether a cell has been here whose end nobody has seen to.
    pub(crate) fn is_used(&self) -> io::Result<bool> {
        match rustix::fs::statat(&self.folder, LAYERS, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes which layers the cell uses, for whoever wants to remove one.
    pub(crate) fn note_layers(&self, layers: &[LayerId]) -> io::Result<()> {
        let text: String = layers.iter().map(|layer| format!("{}\n", layer.as_str())).collect();
        self.note(LAYERS, &text)
    }

    /// Notes the cell's first process, for [`init`].
    pub(crate) fn note_init(&self, pid: Pid) -> io::Result<()> {
        self.note(INIT, &pid.to_string())
    }

    fn note(&self, name: &str, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        io::Write::write_all(&mut std::fs::File::from(file), text.as_bytes())
    }

    /// Throws everything away; the lock ends with it.
    pub(crate) fn discard(self, cells: &OwnedFd, project: &ProjectId, trash: &OwnedFd) -> io::Result<()> {
        throw_away(cells, project.as_str(), trash)
    }
}

/// Whether a project's cell runs, or was [admitted](crate::admission) to.
pub(crate) fn is_running(cells: &OwnedFd, project: &ProjectId) -> io::Result<bool> {
    // Who only claims the storage has noted nothing yet.
    let noted = folder_of(cells, project).and_then(|folder| mount::open_beneath(folder, LAYERS, OFlags::PATH));
    Ok(there(noted)?.is_some() && is_locked(cells, project)?)
}

/// Whether somebody has a project's storage: its cell, or a launcher that makes one.
pub(crate) fn is_locked(cells: &OwnedFd, project: &ProjectId) -> io::Result<bool> {
    let lock = folder_of(cells, project).and_then(|folder| mount::open_beneath(folder, "lock", OFlags::RDONLY));
    Ok(there(lock)?.is_some_and(|lock| is_held(&lock)))
}

/// Whether a folder is there that nobody has locked.
pub(crate) fn is_free(parent: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    let folder = mount::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY);
    Ok(there(folder)?.is_some_and(|folder| !is_held(&folder)))
}

/// Whether somebody else has locked this. Who tries to at this very moment may find it locked by us.
fn is_held(file: &OwnedFd) -> bool {
    flock(file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// What was opened; `None` if it isn't there.
fn there(opened: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Locks a folder: of the cells, for the one launcher that counts them to add one; of the layers, for who makes one or looks for
/// leftovers; of the ids, for who changes links that are there, or must see them all.
pub(crate) fn turn(folder: impl AsFd) -> io::Result<OwnedFd> {
    let turn = listing(folder, ".")?;
    let deadline = Instant::now() + TURN_WAIT;
    loop {
        match flock(&turn, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(turn),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::other(
                    "another process keeps the folder locked: end it, lslocks says which it is",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A project's storage. Not by [`mount::folder_beneath`]: the kernel takes a folder that another launcher throws away at that
/// moment for one that leads out of where it was looked for.
fn folder_of(cells: &OwnedFd, project: &ProjectId) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(cells, project.as_str(), flags, Mode::empty())?)
}

/// Moves the folder `name` below `parent` into the trash if nobody has it locked; whether it did. A turn of the parent is held.
pub(crate) fn throw_away_if_free(parent: &OwnedFd, name: &str, trash: &OwnedFd) -> io::Result<bool> {
    let Some(folder) = there(mount::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY))? else {
        return Ok(false);
    };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        // The lock goes with the descriptor, when the folder has another name.
        Ok(()) => throw_away(parent, name, trash).map(|()| true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves the folder `name` below `parent` into the trash. One that isn't there is gone already.
pub(crate) fn throw_away(parent: &OwnedFd, name: &str, trash: &OwnedFd) -> io::Result<()> {
    let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut serial = 0;
    loop {
        let new_name = format!("{name}-{stamp}-{serial}");
        match rustix::fs::renameat_with(parent, name, trash, new_name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => serial += 1,
            other => return gone(other),
        }
    }
}

/// Empties a trash, one sweeper after the other: two at once would move folders out of each other's hands, and both fail.
/// What can't be removed keeps nothing else.
pub(crate) fn empty(trash: &OwnedFd) -> io::Result<()> {
    // A descriptor that was inherited would share its lock with whoever has it too.
    let trash = &listing(trash, ".")?;
    flock(trash, FlockOperation::LockExclusive)?;
    let mut outcome = Ok(());
    for entry in Dir::read_from(trash)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            outcome = outcome.and(remove_tree(trash, name));
        }
    }
    outcome
}

/// Gives a workspace that is still the service user's, whom a launcher without root sees as root, to an owner, with all in it
/// that is the service user's too. The folder itself comes last: what is interrupted is begun again.
pub(crate) fn hand_over(folder: &OwnedFd, owner: (u32, u32)) -> io::Result<()> {
    let folder = listing(folder, ".")?;
    if rustix::fs::fstat(&folder)?.st_uid != 0 {
        return Ok(());
    }
    hand_over_tree(&folder, owner, 0)
}

fn hand_over_tree(folder: &OwnedFd, owner: (u32, u32), depth: usize) -> io::Result<()> {
    if depth > HANDED_DEPTH_MAX {
        return Err(io::Error::other(format!(
            "its folders are nested more than {HANDED_DEPTH_MAX} deep: flatten them"
        )));
    }
    let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            hand_over_tree(&listing(folder, name)?, owner, depth + 1)?;
        } else if stat.st_uid == 0 {
            chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(rustix::fs::fchown(folder, uid, gid)?)
}

/// The first process of a project's running cell, where no cgroup tells; `None` if no cell runs.
pub(crate) fn init(cells: &OwnedFd, project: &ProjectId) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = noted_init(cells, project)? else { return Ok(None) };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
    // It holds the lock as long as it lives; with the note unchanged until now, it is the process that we have opened.
    let runs = Storage::lock(cells, project)?.is_none() && noted_init(cells, project)? == Some(pid);
    Ok(runs.then_some(process))
}

fn noted_init(cells: &OwnedFd, project: &ProjectId) -> io::Result<Option<Pid>> {
    let opened = folder_of(cells, project).and_then(|folder| mount::open_beneath(folder, INIT, OFlags::RDONLY));
    match opened.and_then(|file| io::read_to_string(std::fs::File::from(file))) {
        Ok(text) => Ok(text.parse().ok().and_then(Pid::from_raw)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whose running cell uses a layer, if any does.
pub(crate) fn user_of_layer(cells: &OwnedFd, layer: &LayerId) -> io::Result<Option<ProjectId>> {
    for project in projects(cells)? {
        let noted = folder_of(cells, &project).and_then(|folder| mount::open_beneath(folder, LAYERS, OFlags::RDONLY));
        let noted = match noted.and_then(|file| io::read_to_string(std::fs::File::from(file))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            noted => noted?,
        };
        if noted.lines().any(|line| line == layer.as_str()) && Storage::lock(cells, &project)?.is_none() {
            return Ok(Some(project));
        }
    }
    Ok(None)
}

/// The projects that have storage: a cell that runs, or one of which something is left.
pub(crate) fn projects(cells: &OwnedFd) -> io::Result<Vec<ProjectId>> {
    let mut projects = Vec::new();
    for entry in Dir::read_from(&listing(cells, ".")?)? {
        let entry = entry?;
        let name = entry.file_name().to_str().ok().filter(|_| may_be_folder(entry.file_type()));
        projects.extend(name.and_then(|name| ProjectId::parse(name).ok()));
    }
    Ok(projects)
}

/// Whether an entry is a folder, as far as its file system says.
pub(crate) fn may_be_folder(kind: FileType) -> bool {
    matches!(kind, FileType::Directory | FileType::Unknown)
}

/// Removes `name` below `parent`, a folder with everything in it, never following a link and never leaving the file
/// system. However deep a cell has nested its folders: each folder that isn't empty is moved up to the top and its turn
/// comes, so that two descriptors and no recursion suffice.
fn remove_tree(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        no_folder => return gone(no_folder),
    }
    let top = match listing(parent, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let device = rustix::fs::fstat(&top)?.st_dev;
    let mut serial = 0_u64;
    loop {
        let full = sweep(&top)?;
        if full.is_empty() {
            return gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR));
        }
        for folder in full {
            let inner = listing(&top, folder.as_c_str())?;
            if rustix::fs::fstat(&inner)?.st_dev != device {
                return Err(io::Error::other("something is mounted in it"));
            }
            for below in sweep(&inner)? {
                move_up(&inner, &below, &top, &mut serial)?;
            }
            gone(rustix::fs::unlinkat(&top, folder.as_c_str(), AtFlags::REMOVEDIR))?;
        }
    }
}

/// Unlinks everything in a folder but the folders that aren't empty, and gives their names.
fn sweep(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut full = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => full.push(name.to_owned()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(full)
}

/// Moves a folder to a name in `top` that nobody has; a cell may have taken some.
fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, serial: &mut u64) -> io::Result<()> {
    loop {
        *serial += 1;
        let new_name = format!(".removing-{serial}");
        match rustix::fs::renameat_with(from, name, top, new_name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

/// A folder below `parent`, open for listing; links are not followed.
fn listing<P: rustix::path::Arg>(parent: impl AsFd, name: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Makes a folder unless it is there.
fn make(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Something that isn't there is removed already.
fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_tree_with_links_goes_and_what_the_links_name_stays() {
        let base = tempfile::tempdir().unwrap();
        let canary = base.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "safe").unwrap();
        let parent = mount::folder(base.path()).unwrap();
        let upper = base.path().join("upper");
        std::fs::create_dir(&upper).unwrap();
        std::os::unix::fs::symlink(&canary, upper.join("link")).unwrap();
        // Deeper than PATH_MAX allows a path to be.
        let mut at = mount::folder(&upper).unwrap();
        for depth in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::RWXU).unwrap();
            if depth % 100 == 0 {
                rustix::fs::symlinkat(&canary, &at, "way-out").unwrap();
                rustix::fs::mkdirat(&at, ".removing-1", Mode::RWXU).unwrap();
            }
            at = mount::folder_beneath(&at, "d").unwrap();
        }
        remove_tree(&parent, c"upper").unwrap();
        assert!(!upper.exists());
        std::os::unix::fs::symlink(&canary, &upper).unwrap();
        remove_tree(&parent, c"upper").unwrap();
        assert!(!upper.is_symlink());
        assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "safe");
        remove_tree(&parent, c"upper").unwrap();
    }

    #[test]
    fn a_locked_storage_belongs_to_a_running_cell() {
        let base = tempfile::tempdir().unwrap();
        let cells = mount::folder(base.path()).unwrap();
        let project = ProjectId::parse("demo").unwrap();
        let layer = LayerId::parse(&"a".repeat(64)).unwrap();
        let storage = Storage::lock(&cells, &project).unwrap().unwrap();
        assert!(!storage.is_used().unwrap());
        storage.note_layers(std::slice::from_ref(&layer)).unwrap();
        assert!(storage.is_used().unwrap());
        assert!(Storage::lock(&cells, &project).unwrap().is_none());
        assert_eq!(user_of_layer(&cells, &layer).unwrap(), Some(project.clone()));
        Storage::layers(&storage.changes().unwrap(), 0).unwrap();
        std::fs::create_dir(base.path().join("trash")).unwrap();
        let trash = listing(&cells, "trash").unwrap();
        storage.discard(&cells, &project, &trash).unwrap();
        assert_eq!(std::fs::read_dir(base.path().join("trash")).unwrap().count(), 1);
        empty(&trash).unwrap();
        assert_eq!(std::fs::read_dir(base.path().join("trash")).unwrap().count(), 0);
        std::fs::remove_dir(base.path().join("trash")).unwrap();
        assert_eq!(projects(&cells).unwrap(), []);
        assert_eq!(user_of_layer(&cells, &layer).unwrap(), None);
    }

    #[test]
    fn of_many_launchers_each_has_a_storage_of_its_own_and_none_that_is_thrown_away() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("trash")).unwrap();
        let project = ProjectId::parse("demo").unwrap();
        let launcher = || {
            let cells = mount::folder(base.path()).unwrap();
            let trash = listing(&cells, "trash").unwrap();
            for _ in 0..200 {
                if let Some(storage) = Storage::lock(&cells, &project).unwrap() {
                    storage.note_layers(&[]).unwrap();
                    Storage::layers(&storage.changes().unwrap(), 0).unwrap();
                    std::fs::create_dir_all(base.path().join("demo/changes/upper/a/b/c")).unwrap();
                    std::thread::yield_now();
                    assert!(storage.is_used().unwrap() && storage.is_in(&cells, &project).unwrap());
                    storage.discard(&cells, &project, &trash).unwrap();
                }
                empty(&trash).unwrap();
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(launcher))));
        assert!(!base.path().join("demo").exists());
        assert_eq!(std::fs::read_dir(base.path().join("trash")).unwrap().count(), 0);
    }
}
