//! What nobody owns any more: left by a crash, a power cut or a foreign hand.
//!
//! [`look`] only looks, as a launcher or from outside, and changes nothing. What surely belongs to nothing is removed by the next
//! launcher that starts ([`sweep`](crate::launch)). What may hold somebody's work, or runs, is kept and named: it is for a person to
//! decide. A look at a host that is at work may take for an orphan what is just being made or removed.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::launcher::folders::Folders;
use crate::mount::{folder, open_beneath};
use crate::spec::{LayerId, ProjectId};
use crate::storage;

/// Most orphans that are named; the others are counted.
const NAMED_MAX: usize = 50;

/// Most files whose size is looked at: a part of a second, however large what is left may be.
const FILES_MAX: usize = 20_000;

/// How deep folders are followed for that: each takes two descriptors.
const DEPTH_MAX: usize = 64;

/// What is or was removed, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removable {
    /// Storage of cells that ended without anybody to see to it.
    pub cells: usize,
    /// Cgroups without a cell.
    pub cgroups: usize,
    /// Sockets without a cell.
    pub sockets: usize,
    /// Layers that were being unpacked.
    pub layers: usize,
    /// Projects' file systems that were being made.
    pub disks: usize,
}

impl Removable {
    /// All of them.
    pub fn count(&self) -> usize {
        let Self { cells, cgroups, sockets, layers, disks } = self;
        cells + cgroups + sockets + layers + disks
    }
}

impl fmt::Display for Removable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.cells, "dead cell"),
            (self.cgroups, "cgroup without a cell"),
            (self.sockets, "socket without a cell"),
            (self.layers, "half unpacked layer"),
            (self.disks, "half made disk"),
        ];
        let mut separator = "";
        for (count, kind) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            let (first, rest) =
                kind.split_once(" without").map_or((kind, String::new()), |(a, b)| (a, format!(" without{b}")));
            write!(f, "{separator}{count} {first}{}{rest}", if count == 1 { "" } else { "s" })?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Something that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What it is.
    pub kind: Kind,
    /// Whose, or its name if that is no project's; printable.
    pub name: String,
    /// The room that it takes, in bytes, where that is known.
    pub bytes: u64,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A cell that runs, and whose project's folder is gone.
    Cell,
    /// A cgroup in which processes run, of no cell that is known.
    Cgroup,
    /// A project's file system with its workspace, without the project's folder.
    Disk,
    /// A range of host ids whose project's folder is gone: files may be left that belong to them.
    Ids,
    /// Something that Cloister hasn't put where it lies.
    Foreign,
}

impl Kind {
    /// Why it is kept.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Cell => "a cell runs whose project is gone",
            Self::Cgroup => "processes run in a cgroup whose cell isn't known",
            Self::Disk => "a project's disk image, perhaps with its workspace, has no project",
            Self::Ids => "host ids are given to a project that is gone",
            Self::Foreign => "it isn't Cloister's",
        }
    }

    /// What a person can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Cell => "cloister project stop <id> ends it",
            Self::Cgroup => "cloister project create <id>, then project rm <id> end them",
            Self::Disk => {
                "mount the projects' disk if it isn't; else cloister project create <id> brings it back, and project rm <id> removes it"
            }
            Self::Ids => {
                "mount the projects' disk if it isn't; else cloister project create <id> and project rm <id> give them back"
            }
            Self::Foreign => "look at it, and move it away",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// What the next launcher removes; or what one has removed.
    pub removable: Removable,
    /// What is kept; of many, the first.
    pub kept: Vec<Kept>,
    /// How many more are kept.
    pub unnamed: usize,
    /// What a sweeper is removing, or couldn't: files and folders in the trashes.
    pub trash: usize,
    /// The room that it takes, in bytes; of very many files only of the first.
    pub trash_bytes: u64,
}

impl Orphans {
    /// Whether there are none. What is in the trash is on its way.
    pub fn is_empty(&self) -> bool {
        self.removable.count() == 0 && self.kept.is_empty() && self.trash == 0
    }

    fn keep(&mut self, kind: Kind, name: &[u8], bytes: u64) {
        if self.kept.len() < NAMED_MAX {
            self.kept.push(Kept { kind, name: name.escape_ascii().to_string(), bytes });
        } else {
            self.unnamed += 1;
        }
    }
}

/// Where orphans may be.
#[derive(Debug)]
pub struct Places {
    pub(crate) cells: OwnedFd,
    pub(crate) sockets: OwnedFd,
    pub(crate) layers: OwnedFd,
    pub(crate) disks: OwnedFd,
    pub(crate) ids: OwnedFd,
    pub(crate) projects: OwnedFd,
    pub(crate) trashes: Vec<OwnedFd>,
    /// The group of all cells, in every hierarchy.
    pub(crate) groups: Vec<OwnedFd>,
}

impl Places {
    /// Opens what a launcher with these folders has made; an error if it can't be seen, or none has made it.
    pub fn open(state: &Path, projects: &Path, run_dir: &Path, cgroup: &str) -> io::Result<Self> {
        let within = |path: &Path, name: &str| {
            let path = path.join(name);
            folder(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let sockets = match within(run_dir, "cells") {
            // It goes with a reboot.
            Err(error) if error.kind() == io::ErrorKind::NotFound => within(state, "trash"),
            opened => opened,
        };
        Ok(Self {
            cells: within(state, "cells")?,
            sockets: sockets?,
            layers: within(state, "layers")?,
            disks: within(state, "disks")?,
            ids: within(state, "ids")?,
            projects: folder(projects)?,
            trashes: [within(state, "trash")?].into_iter().chain(within(projects, ".trash").ok()).collect(),
            groups: cgroup::groups_of_all(cgroup)?,
        })
    }

    /// A launcher's.
    pub(crate) fn of(folders: &Folders, cgroups: &cgroup::Cgroups) -> io::Result<Self> {
        Ok(Self {
            cells: folders.cells.try_clone()?,
            sockets: folders.sockets.try_clone()?,
            layers: folders.layers.try_clone()?,
            disks: folders.images.folder().try_clone()?,
            ids: folders.ids.try_clone()?,
            projects: folders.projects.try_clone()?,
            trashes: vec![folders.trash.try_clone()?, folders.projects_trash.try_clone()?],
            groups: cgroups.folders()?,
        })
    }

    /// Projects that have a cgroup or a socket, and no storage.
    pub(crate) fn strays(&self) -> io::Result<BTreeSet<ProjectId>> {
        // In this order: what is started meanwhile has storage before it has anything else.
        let strays = self.grouped()?.into_iter().chain(self.with_socket()?);
        let with_storage: BTreeSet<_> = storage::projects(&self.cells)?.into_iter().collect();
        Ok(strays.filter(|project| !with_storage.contains(project)).collect())
    }

    fn grouped(&self) -> io::Result<BTreeSet<ProjectId>> {
        let mut grouped = BTreeSet::new();
        for group in &self.groups {
            for (name, kind) in names(group)? {
                grouped.extend(project(&name, "").filter(|_| kind == FileType::Directory));
            }
        }
        Ok(grouped)
    }

    fn with_socket(&self) -> io::Result<BTreeSet<ProjectId>> {
        Ok(names(&self.sockets)?.iter().filter_map(|(name, _)| project(name, ".sock")).collect())
    }

    /// Whether processes run in a project's cgroup.
    pub(crate) fn has_processes(&self, project: &ProjectId) -> bool {
        self.groups.iter().any(|group| cgroup::is_populated(group, project))
    }

    fn has_project(&self, id: &ProjectId) -> io::Result<bool> {
        match rustix::fs::statat(&self.projects, id.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Looks for all of them.
pub fn look(places: &Places) -> io::Result<Orphans> {
    let mut found = Orphans::default();
    for (name, kind) in names(&places.cells)? {
        match project(&name, "").filter(|_| storage::may_be_folder(kind)) {
            Some(id) if !storage::is_locked(&places.cells, &id)? => found.removable.cells += 1,
            Some(id) if !places.has_project(&id)? => found.keep(Kind::Cell, &name, 0),
            Some(_) => {}
            None => found.keep(Kind::Foreign, &[b"cells/", &name[..]].concat(), 0),
        }
    }
    let (grouped, with_socket) = (places.grouped()?, places.with_socket()?);
    for id in places.strays()? {
        if places.has_processes(&id) {
            found.keep(Kind::Cgroup, id.as_str().as_bytes(), 0);
            continue;
        }
        found.removable.cgroups += usize::from(grouped.contains(&id));
        found.removable.sockets += usize::from(with_socket.contains(&id));
    }
    let layers = names(&places.layers)?;
    // Who makes one would take it for another's while we look whether it is locked.
    let half = layers.iter().any(|(name, _)| is_half_unpacked(name));
    let turn = half.then(|| storage::turn(&places.layers)).transpose()?;
    for (name, _) in layers {
        if is_half_unpacked(&name) {
            found.removable.layers += usize::from(storage::is_free(&places.layers, &name)?);
        } else if !is_layer(&name) {
            found.keep(Kind::Foreign, &[b"layers/", &name[..]].concat(), 0);
        }
    }
    drop(turn);
    for (name, _) in names(&places.disks)? {
        let bytes = || Ok::<_, io::Error>(size(&places.disks, &name)?.unwrap_or(0));
        match (project(&name, ".ext4"), half_made(&name)) {
            (Some(id), _) if !places.has_project(&id)? => found.keep(Kind::Disk, id.as_str().as_bytes(), bytes()?),
            (Some(_), _) => {}
            (None, Some(id)) => found.removable.disks += usize::from(!storage::is_locked(&places.cells, &id)?),
            (None, None) => found.keep(Kind::Foreign, &[b"disks/", &name[..]].concat(), bytes()?),
        }
    }
    for (name, _) in names(&places.ids)? {
        match project(&name, "") {
            // Of a cell it is told already, and so it is of a disk.
            Some(id) if !places.has_project(&id)? && !found.kept.iter().any(|kept| kept.name == id.as_str()) => {
                found.keep(Kind::Ids, &name, 0);
            }
            _ => {}
        }
    }
    let mut files = FILES_MAX;
    for trash in &places.trashes {
        found.trash += names(trash)?.len();
        found.trash_bytes += bytes_within(trash, 0, &mut files);
    }
    Ok(found)
}

/// The names in a folder, with their types.
pub(crate) fn names(folder: &OwnedFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    entries(folder)?.collect()
}

/// The same one by one: a tenant's folder may have any number.
fn entries(folder: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<(Vec<u8>, FileType)>>> {
    let folder = open_beneath(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    Ok(Dir::read_from(&folder)?.filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        Ok(entry) => Some(Ok((entry.file_name().to_bytes().to_owned(), entry.file_type()))),
        Err(error) => Some(Err(error.into())),
    }))
}

/// The project that is named, with this behind it.
fn project(name: &[u8], suffix: &str) -> Option<ProjectId> {
    std::str::from_utf8(name).ok()?.strip_suffix(suffix).and_then(|id| ProjectId::parse(id).ok())
}

fn is_layer(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| LayerId::parse(name).is_some())
}

/// Whether a name in the folder of layers is that of one that is being unpacked (`runner::layer`), or was.
pub(crate) fn is_half_unpacked(name: &[u8]) -> bool {
    name.starts_with(b".tmp-")
}

/// Whose file system is being made under this name, or was.
pub(crate) fn half_made(name: &[u8]) -> Option<ProjectId> {
    project(name.strip_prefix(b".")?, ".ext4")
}

/// What a file takes of the disk, in bytes; `None` if it is gone.
fn size(parent: impl AsFd, name: &[u8]) -> io::Result<Option<u64>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.st_blocks as u64 * 512)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a folder holds, in bytes, as far as it can be seen within the bounds. A sweeper may be at work in it.
fn bytes_within(folder: &OwnedFd, depth: usize, files: &mut usize) -> u64 {
    let mut bytes = 0;
    for (name, kind) in entries(folder).into_iter().flatten().map_while(Result::ok) {
        if *files == 0 {
            break;
        }
        *files -= 1;
        bytes += size(folder, &name).ok().flatten().unwrap_or(0);
        if kind == FileType::Directory
            && depth < DEPTH_MAX
            && let Ok(inner) = open_beneath(folder, &name[..], OFlags::PATH | OFlags::DIRECTORY)
        {
            bytes += bytes_within(&inner, depth + 1, files);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, Instant};

    use rustix::fs::{FlockOperation, flock};

    use super::*;
    use crate::storage::Storage;

    fn places(folder: &Path) -> Places {
        for name in ["cells", "layers", "disks", "ids", "trash", "projects/.trash", "run/cells"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let groups = Vec::new();
        Places { groups, ..Places::open(folder, &folder.join("projects"), &folder.join("run"), "none").unwrap() }
    }

    #[test]
    fn a_host_in_order_has_no_orphans() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let within = |name: &str| folder.path().join(name);
        fs::create_dir(within("projects/demo")).unwrap();
        symlink("0", within("ids/demo")).unwrap();
        fs::write(within("disks/demo.ext4"), "").unwrap();
        fs::create_dir(within("layers").join("0".repeat(64))).unwrap();
        let _cell = Storage::lock(&places.cells, &ProjectId::parse("demo").unwrap()).unwrap().unwrap();
        fs::write(within("run/cells/demo.sock"), "").unwrap();
        let found = look(&places).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_layer_that_is_just_being_made_is_neither_an_orphan_nor_locked_by_who_looks() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let half = folder.path().join("layers/.tmp-0");
        let turn = storage::turn(&places.layers).unwrap();
        fs::create_dir(&half).unwrap();
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| look(&places).unwrap());
            // As long as it would take if it didn't wait.
            let by = Instant::now() + Duration::from_millis(100);
            while !looks.is_finished() && Instant::now() < by {
                std::thread::yield_now();
            }
            let unpacked = fs::File::open(&half).unwrap();
            flock(&unpacked, FlockOperation::NonBlockingLockExclusive).unwrap();
            drop(turn);
            assert_eq!(looks.join().unwrap().removable, Removable::default());
        });
    }

    #[test]
    fn what_belongs_to_nothing_is_told_from_what_may_be_somebodys() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let within = |name: &str| folder.path().join(name);
        for name in ["cells/dead", "cells/.odd\n", "layers/.tmp-0", "trash/dead-1-0"] {
            fs::create_dir(within(name)).unwrap();
        }
        for name in ["run/cells/dead2.sock", "disks/.half.ext4", "disks/lost.ext4", "trash/dead-1-0/file"] {
            fs::write(within(name), "x".repeat(9000)).unwrap();
        }
        for name in ["lost", "gone"] {
            symlink("0", within("ids").join(name)).unwrap();
        }
        let _cell = Storage::lock(&places.cells, &ProjectId::parse("runs").unwrap()).unwrap().unwrap();
        let found = look(&places).unwrap();
        let removable = Removable { cells: 1, cgroups: 0, sockets: 1, layers: 1, disks: 1 };
        assert_eq!(found.removable, removable);
        assert_eq!(
            found.removable.to_string(),
            "1 dead cell, 1 socket without a cell, 1 half unpacked layer, 1 half made disk"
        );
        assert_eq!(Removable { cgroups: 2, ..Removable::default() }.to_string(), "2 cgroups without a cell");
        let mut kept: Vec<_> = found.kept.iter().map(|kept| (kept.kind, kept.name.as_str())).collect();
        kept.sort_by_key(|(_, name)| *name);
        let expected =
            [(Kind::Foreign, "cells/.odd\\n"), (Kind::Ids, "gone"), (Kind::Disk, "lost"), (Kind::Cell, "runs")];
        assert_eq!(kept, expected);
        assert!(found.trash == 1 && found.trash_bytes >= 9000, "{found:?}");
        assert!(found.kept.iter().any(|kept| kept.kind == Kind::Disk && kept.bytes >= 9000), "{found:?}");
    }
}
