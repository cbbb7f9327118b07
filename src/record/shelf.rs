//! The recordings of one project: `<projects>/<id>/recordings/`, and how much may lie there.
//!
//! All is done relative to descriptors, no link is followed, and what has no recording's name is left alone. Room is made
//! before it is used: every file that is being written has some bytes set aside that it hasn't reached yet, and when there are
//! none left the oldest files go that nobody writes to. Everything here may wait for the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2, statat, unlinkat};
use rustix::io::Errno;
use sandbox::control::SessionName;

use super::{Error, Name};

const FOLDER: &str = "recordings";

/// As for all that is a project's: others see nothing, the group may look.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o750);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How much may lie on a shelf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Largest file, in bytes.
    pub(super) file_bytes_max: u64,
    /// All files together, in bytes.
    pub(super) bytes_max: u64,
    /// How many files.
    pub(super) files_max: usize,
    /// How many bytes are set aside at a time; at least as much as is written at once.
    pub(super) step_bytes: u64,
}

/// What is on a shelf and being written, with the bytes set aside for it.
pub(super) type Writing = Mutex<BTreeMap<Name, u64>>;

/// A project's recordings.
pub(crate) struct Shelf {
    project: OwnedFd,
    writing: Arc<Writing>,
    bounds: Bounds,
}

/// A recording as a list shows it.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Summary {
    name: String,
    session: SessionName,
    bytes: u64,
    /// When it was last written, in seconds since 1970.
    written: u64,
    /// Whether it is being written.
    recording: bool,
}

/// A recording as the folder has it.
struct Filed {
    name: Name,
    bytes: u64,
    written: u64,
}

/// A recording that is being written.
pub(super) struct Tape {
    folder: OwnedFd,
    writing: Arc<Writing>,
    bounds: Bounds,
    name: Name,
    file: File,
    bytes: u64,
}

/// What there is room for after something was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// As much again.
    More,
    /// Nothing: another tape must be begun.
    None,
}

impl Bounds {
    /// What a project may have.
    pub(super) const PROJECT: Self = Self {
        // Hours of work, and still something that a player loads.
        file_bytes_max: 64 << 20,
        // A few full ones: disks have no quota, and every project may have this much.
        bytes_max: 256 << 20,
        // A list that a person can read, and more than the sessions that a cell can have at once.
        files_max: 100,
        // Looking through the folder once in that many bytes costs nothing; 64 sessions of a cell find room.
        step_bytes: super::WRITE_BYTES_MAX as u64,
    };
}

impl Shelf {
    /// The shelf of the project whose folder this is. All that are open at the same time must share `writing`.
    pub(super) fn new(project: OwnedFd, writing: Arc<Writing>, bounds: Bounds) -> Self {
        Self { project, writing, bounds }
    }

    /// All recordings, the newest first.
    pub(crate) fn list(&self) -> Result<Vec<Summary>, Error> {
        let Some(folder) = self.folder()? else { return Ok(Vec::new()) };
        let writing = lock(&self.writing);
        let mut files = files(&folder)?;
        files.reverse();
        let summary = |Filed { name, bytes, written }| Summary {
            name: name.to_string(),
            session: name.session().clone(),
            bytes,
            written,
            recording: writing.contains_key(&name),
        };
        Ok(files.into_iter().map(summary).collect())
    }

    /// Opens one, and tells how long it is at present.
    pub(crate) fn read(&self, name: &Name) -> Result<(File, u64), Error> {
        let folder = self.folder()?.ok_or_else(|| Error::NotFound(name.clone()))?;
        // NONBLOCK: opening a FIFO must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat2(&folder, name.to_string(), flags, Mode::empty(), RESOLVE) {
            Err(Errno::NOENT) => return Err(Error::NotFound(name.clone())),
            opened => opened.map_err(|error| failed(&format!("open recording {name}"), error))?,
        };
        let stat = fstat(&file).map_err(|error| failed(&format!("look at recording {name}"), error))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Error::NotFound(name.clone()));
        }
        Ok((file.into(), u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// Removes one that nobody writes to.
    pub(crate) fn remove(&self, name: &Name) -> Result<(), Error> {
        let folder = self.folder()?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let writing = lock(&self.writing);
        if writing.contains_key(name) {
            return Err(Error::Writing(name.clone()));
        }
        match unlinkat(&folder, name.to_string(), AtFlags::empty()) {
            Err(Errno::NOENT) => Err(Error::NotFound(name.clone())),
            removed => removed.map_err(|error| failed(&format!("remove recording {name}"), error)),
        }
    }

    /// Begins a recording of a session with its head, without which it is listed for nobody.
    pub(super) fn begin(&self, session: &SessionName, now: SystemTime, head: &[u8]) -> Result<Tape, Error> {
        match mkdirat(&self.project, FOLDER, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(&format!("make folder {FOLDER}"), error)),
        }
        let folder = self.folder()?.ok_or_else(|| failed(&format!("open folder {FOLDER}"), Errno::NOENT))?;
        let mut writing = lock(&self.writing);
        let aside = head.len() as u64 + self.bounds.step_bytes;
        if !make_room(&folder, &writing, self.bounds, aside, 1)? {
            return Err(Error::Full);
        }
        let (name, mut file) = create(&folder, Name::new(session.clone(), now))?;
        if let Err(error) = file.write_all(head) {
            let _ = unlinkat(&folder, name.to_string(), AtFlags::empty());
            return Err(failed(&format!("write recording {name}"), error));
        }
        writing.insert(name.clone(), aside);
        drop(writing);
        let (writing, bounds, bytes) = (self.writing.clone(), self.bounds, head.len() as u64);
        Ok(Tape { folder, writing, bounds, name, file, bytes })
    }

    /// The folder, if it is there.
    fn folder(&self) -> Result<Option<OwnedFd>, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(&self.project, FOLDER, flags, Mode::empty(), RESOLVE) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(Error::NoFolder),
            Err(error) => Err(failed(&format!("open folder {FOLDER}"), error)),
        }
    }
}

impl Tape {
    /// Its name.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Appends bytes, at most a step, for which there is room; gives whether there is for as many again.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Room, Error> {
        if let Err(error) = self.file.write_all(bytes) {
            // A part of a line would spoil the others. If it stays all the same, the error below says what to look at.
            let _ = self.file.set_len(self.bytes);
            return Err(failed(&format!("write recording {}", self.name), error));
        }
        self.bytes += bytes.len() as u64;
        let Bounds { step_bytes, file_bytes_max, .. } = self.bounds;
        if self.bytes + step_bytes > file_bytes_max {
            return Ok(Room::None);
        }
        let mut writing = lock(&self.writing);
        let aside = writing.get(&self.name).copied().unwrap_or(0);
        if self.bytes + step_bytes <= aside {
            return Ok(Room::More);
        }
        if !make_room(&self.folder, &writing, self.bounds, step_bytes, 0)? {
            return Ok(Room::None);
        }
        writing.insert(self.name.clone(), aside + step_bytes);
        Ok(Room::More)
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        lock(&self.writing).remove(&self.name);
    }
}

/// Removes the oldest files that nobody writes to until there is room for more bytes and files; `false` if that isn't enough.
fn make_room(
    folder: &OwnedFd,
    writing: &BTreeMap<Name, u64>,
    bounds: Bounds,
    more_bytes: u64,
    more_files: usize,
) -> Result<bool, Error> {
    let mut finished = files(folder)?;
    finished.retain(|filed| !writing.contains_key(&filed.name));
    let mut bytes = writing.values().sum::<u64>() + finished.iter().map(|filed| filed.bytes).sum::<u64>() + more_bytes;
    let mut count = writing.len() + finished.len() + more_files;
    for Filed { name, bytes: size, .. } in finished {
        if bytes <= bounds.bytes_max && count <= bounds.files_max {
            break;
        }
        unlinkat(folder, name.to_string(), AtFlags::empty())
            .map_err(|error| failed(&format!("remove recording {name}"), error))?;
        tracing::info!(%name, "the oldest recording made room");
        (bytes, count) = (bytes - size, count - 1);
    }
    Ok(bytes <= bounds.bytes_max && count <= bounds.files_max)
}

/// The recordings in a folder, the oldest first.
fn files(folder: &OwnedFd) -> Result<Vec<Filed>, Error> {
    let failed = |error| failed("list the recordings", error);
    let mut files = Vec::new();
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().ok().and_then(Name::parse) else { continue };
        // What was removed meanwhile isn't there.
        let Ok(stat) = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if FileType::from_raw_mode(stat.st_mode).is_file() {
            let [bytes, written] = [stat.st_size, stat.st_mtime].map(|number| u64::try_from(number).unwrap_or(0));
            files.push(Filed { name, bytes, written });
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// Makes a file of this name, or of the next one that is free.
fn create(folder: &OwnedFd, mut name: Name) -> Result<(Name, File), Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    loop {
        match openat2(folder, name.to_string(), flags, FILE_MODE, RESOLVE) {
            Ok(file) => return Ok((name, file.into())),
            Err(Errno::EXIST) => {
                let what = format!("make recording {name}");
                name = name.next().ok_or_else(|| failed(&what, Errno::EXIST))?;
            }
            Err(error) => return Err(failed(&format!("make recording {name}"), error)),
        }
    }
}

fn lock(writing: &Writing) -> MutexGuard<'_, BTreeMap<Name, u64>> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str, error: impl Into<io::Error>) -> Error {
    Error::Io { what: what.to_owned(), error: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    const SMALL: Bounds = Bounds { file_bytes_max: 100, bytes_max: 200, files_max: 4, step_bytes: 10 };

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let root = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(open(root.path()), Arc::default(), SMALL);
        (root, shelf)
    }

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    /// Begins a recording `second` seconds after another time.
    fn begin(shelf: &Shelf, second: u64) -> Tape {
        shelf.begin(&SessionName::main(), UNIX_EPOCH + Duration::from_secs(second), b"").unwrap()
    }

    /// A finished recording of so many bytes.
    fn finished(shelf: &Shelf, second: u64, bytes: usize) {
        let mut tape = begin(shelf, second);
        (0..bytes).for_each(|_| assert_eq!(tape.write(b"x").unwrap(), Room::More));
    }

    /// Seconds and sizes, the newest first.
    fn listed(shelf: &Shelf) -> Vec<(String, u64)> {
        let second = |name: &str| name.split_once("T0000").unwrap().1.trim_end_matches("Z.cast").to_owned();
        shelf.list().unwrap().into_iter().map(|one| (second(&one.name), one.bytes)).collect()
    }

    #[test]
    fn recordings_are_listed_read_and_removed() {
        let (root, shelf) = shelf();
        assert_eq!(shelf.list().unwrap(), []);
        let missing = Name::parse("main-19700101T000009Z.cast").unwrap();
        assert!(matches!(shelf.read(&missing), Err(Error::NotFound(_))));
        let mut first = begin(&shelf, 1);
        first.write(b"one").unwrap();
        let second = begin(&shelf, 1);
        assert_eq!(second.name().to_string(), "main-19700101T000001Z-2.cast");
        let path = root.path().join("recordings").join(first.name().to_string());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        std::fs::write(root.path().join("recordings/notes.txt"), "mine").unwrap();
        let name = first.name().clone();
        let written = 1_795_522_205;
        let summary = |name: &str, bytes, recording| Summary {
            name: name.to_owned(),
            session: SessionName::main(),
            bytes,
            written,
            recording,
        };
        for tape in [&first, &second] {
            tape.file.set_modified(UNIX_EPOCH + Duration::from_secs(written)).unwrap();
        }
        drop(second);
        let (older, newer) = ("main-19700101T000001Z.cast", "main-19700101T000001Z-2.cast");
        assert_eq!(shelf.list().unwrap(), [summary(newer, 0, false), summary(older, 3, true)]);
        assert!(matches!(shelf.remove(&name), Err(Error::Writing(_))));
        drop(first);
        let (file, bytes) = shelf.read(&name).unwrap();
        assert_eq!((io::read_to_string(file).unwrap().as_str(), bytes), ("one", 3));
        shelf.remove(&name).unwrap();
        assert!(matches!(shelf.remove(&name), Err(Error::NotFound(_))));
        assert!(matches!(shelf.remove(&missing), Err(Error::NotFound(_))));
        assert_eq!(shelf.list().unwrap().len(), 1);
        assert!(root.path().join("recordings/notes.txt").exists());
    }

    #[test]
    fn none_is_listed_without_its_head() {
        let (_root, shelf) = shelf();
        std::thread::scope(|scope| {
            let recording = scope.spawn(|| {
                let begin =
                    |second| shelf.begin(&SessionName::main(), UNIX_EPOCH + Duration::from_secs(second), b"head");
                (0..500).for_each(|second| drop(begin(second).unwrap()));
            });
            while !recording.is_finished() {
                assert!(shelf.list().unwrap().iter().all(|one| one.bytes == 4));
            }
        });
        assert_eq!(shelf.list().unwrap().len(), SMALL.files_max);
    }

    #[test]
    fn links_are_not_followed() {
        let (root, shelf) = shelf();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), root.path().join("recordings")).unwrap();
        let now = UNIX_EPOCH;
        assert!(matches!(shelf.begin(&SessionName::main(), now, b""), Err(Error::NoFolder)));
        assert!(matches!(shelf.list(), Err(Error::NoFolder)));
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
        std::fs::remove_file(root.path().join("recordings")).unwrap();
        std::fs::create_dir(root.path().join("recordings")).unwrap();
        let (target, name) = (elsewhere.path().join("target"), Name::new(SessionName::main(), now));
        symlink(&target, root.path().join("recordings").join(name.to_string())).unwrap();
        assert!(matches!(shelf.read(&name), Err(Error::Io { .. })));
        assert_eq!(shelf.list().unwrap(), []);
        assert_eq!(begin(&shelf, 0).name().to_string(), "main-19700101T000000Z-2.cast");
        assert!(!target.exists());
    }

    #[test]
    fn a_file_that_is_full_says_so_before_it_is_too_large() {
        let (_root, shelf) = shelf();
        let mut tape = begin(&shelf, 1);
        let mut written = 0;
        while tape.write(&[b'x'; 7]).unwrap() == Room::More {
            written += 7;
        }
        assert_eq!((written + 7, tape.bytes), (91, 91), "90 and a step of 10 would be as much as may be");
    }

    #[test]
    fn the_oldest_that_nobody_writes_to_make_room() {
        let (_root, shelf) = shelf();
        let mut oldest = begin(&shelf, 1);
        oldest.write(b"x").unwrap();
        finished(&shelf, 2, 60);
        finished(&shelf, 3, 60);
        assert_eq!(listed(&shelf).len(), 3);
        // 20 bytes are set aside for the oldest one, 10 for this: together with the others that isn't too much yet.
        let mut newest = begin(&shelf, 4);
        while newest.bytes < 60 {
            assert_eq!(newest.write(&[b'x'; 10]).unwrap(), Room::More);
            let all: u64 = listed(&shelf).iter().map(|(_, bytes)| bytes).sum();
            assert!(all <= SMALL.bytes_max);
        }
        let seconds = |shelf| listed(shelf).into_iter().map(|(second, _)| second).collect::<Vec<_>>();
        assert_eq!(seconds(&shelf), ["04", "03", "01"]);
        drop((newest, oldest));
        for second in 5..8 {
            finished(&shelf, second, 0);
        }
        assert_eq!(seconds(&shelf), ["07", "06", "05", "04"], "no more files than may be");
    }

    #[test]
    fn who_finds_no_room_begins_anew_and_gives_way_to_itself() {
        let (_root, shelf) = shelf();
        let mut going: VecDeque<Tape> = (1..=3).map(|second| begin(&shelf, second)).collect();
        let mut full = Vec::new();
        while let Some(mut tape) = going.pop_front() {
            match tape.write(&[b'x'; 10]).unwrap() {
                Room::More => going.push_back(tape),
                Room::None => full.push(tape),
            }
        }
        let bytes = |shelf| listed(shelf).iter().map(|(_, bytes)| bytes).sum::<u64>();
        assert_eq!((bytes(&shelf), SMALL.bytes_max), (200, 200));
        assert!(matches!(shelf.begin(&SessionName::main(), UNIX_EPOCH, b""), Err(Error::Full)));
        let freed = full.remove(0).bytes;
        begin(&shelf, 4).write(&[b'x'; 10]).unwrap();
        assert_eq!((listed(&shelf).len(), bytes(&shelf)), (3, 210 - freed));
    }
}
