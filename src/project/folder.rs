//! Projects at rest: `<id>/project.toml` and `<id>/workspace/` in the folder of projects, and `<id>/ended.json` once a cell has ended.
//!
//! All is done relative to descriptors, and no link is followed: a folder that isn't what it should be is refused by name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, fstat, mkdirat, openat2, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use sandbox::spec::ProjectId;

use super::Error;
use super::settings::{self, Settings};
use super::why::End;
use crate::config::Config;

const SETTINGS: &str = "project.toml";
const WORKSPACE: &str = "workspace";
const END: &str = "ended.json";

/// Largest settings file in bytes: an environment of 64 KiB and comments fit.
const SETTINGS_BYTES_MAX: u64 = 128 * 1024;

/// Largest note of an end in bytes, many times what is written.
const END_BYTES_MAX: u64 = 1024;

/// What a project's folder lets others do: nothing, its group may look.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o750);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// The folder of projects.
pub(super) struct Folder {
    root: OwnedFd,
}

impl Folder {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    pub(super) fn exists(&self, id: &ProjectId) -> Result<bool, Error> {
        match self.open(id) {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The project's own folder.
    pub(super) fn open(&self, id: &ProjectId) -> Result<OwnedFd, Error> {
        match open_folder(&self.root, id.as_str()) {
            Ok(folder) => Ok(folder),
            Err(Errno::NOENT) => Err(Error::NotFound(id.clone())),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(invalid(id, "it is no folder; links are not followed")),
            Err(error) => Err(failed(format!("open project {id}"), error)),
        }
    }

    /// The projects, by id; what has no id for a name is none.
    pub(super) fn list(&self) -> Result<Vec<ProjectId>, Error> {
        let failed = |error| failed("list the projects".to_owned(), error);
        let mut ids = Vec::new();
        for entry in Dir::read_from(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(id) = entry.file_name().to_str().ok().and_then(|name| ProjectId::parse(name).ok()) else {
                continue;
            };
            let stat = statat(&self.root, id.as_str(), AtFlags::SYMLINK_NOFOLLOW);
            if stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()) {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Makes a project under another name and moves it into place whole.
    pub(super) fn create(&self, id: &ProjectId, image: Option<&str>) -> Result<(), Error> {
        if self.exists(id)? {
            return Err(Error::Exists(id.clone()));
        }
        let text = settings::template(image).map_err(|reason| invalid(id, &reason))?;
        let failed = |error| failed(format!("create project {id}"), error);
        let temporary = temporary_name().map_err(failed)?;
        let made = self.make(&temporary, &text).and_then(|()| {
            renameat_with(&self.root, &temporary, &self.root, id.as_str(), RenameFlags::NOREPLACE)
                .map_err(io::Error::from)
        });
        if let Err(error) = made {
            self.unmake(&temporary);
            let lost_race = error.kind() == io::ErrorKind::AlreadyExists;
            return Err(if lost_race { Error::Exists(id.clone()) } else { failed(error) });
        }
        tracing::info!(project = %id, "created");
        Ok(())
    }

    fn make(&self, name: &str, settings: &str) -> io::Result<()> {
        mkdirat(&self.root, name, FOLDER_MODE)?;
        let project = open_folder(&self.root, name)?;
        mkdirat(&project, WORKSPACE, FOLDER_MODE)?;
        File::from(openat2(&project, SETTINGS, NEW, FILE_MODE, RESOLVE)?).write_all(settings.as_bytes())
    }

    /// Takes back what [`Self::make`] has made.
    fn unmake(&self, name: &str) {
        if let Ok(project) = open_folder(&self.root, name) {
            // What wasn't made isn't there; what can't be removed has a name that no project can have.
            let _ = unlinkat(&project, SETTINGS, AtFlags::empty());
            let _ = unlinkat(&project, WORKSPACE, AtFlags::REMOVEDIR);
            let _ = unlinkat(&self.root, name, AtFlags::REMOVEDIR);
        }
    }

    /// The project's settings, with what they leave out from the configuration.
    pub(super) fn settings(&self, id: &ProjectId, config: &Config) -> Result<Settings, Error> {
        parsed(id, &self.settings_text(id)?, config)
    }

    /// The text of the project's settings after a change, and what it says; nothing is written.
    pub(super) fn edited(
        &self,
        id: &ProjectId,
        config: &Config,
        edit: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<(String, Settings), Error> {
        let text = edit(&self.settings_text(id)?).map_err(|reason| invalid(id, &reason))?;
        if text.len() as u64 > SETTINGS_BYTES_MAX {
            return Err(invalid(id, &format!("{SETTINGS} would be larger than {SETTINGS_BYTES_MAX} bytes")));
        }
        let settings = parsed(id, &text, config)?;
        Ok((text, settings))
    }

    /// Replaces the project's settings in one go: who reads them finds the old ones or the new ones.
    pub(super) fn write_settings(&self, id: &ProjectId, text: &str) -> Result<(), Error> {
        let project = self.open(id)?;
        replace(&project, SETTINGS, text, RenameFlags::empty(), File::sync_all)
            .map_err(|error| failed(format!("write {SETTINGS} of project {id}"), error))
    }

    /// How the project's last cell ended; `None` if that isn't known.
    pub(super) fn end(&self, id: &ProjectId) -> Option<End> {
        let project = open_folder(&self.root, id.as_str()).ok()?;
        serde_json::from_str(&read(&project, END, END_BYTES_MAX).ok()?).ok()
    }

    /// Keeps how its cell ended, unless that is known already. A loss of power may undo it.
    pub(super) fn write_end(&self, id: &ProjectId, end: &End) -> io::Result<()> {
        if self.end(id).is_some_and(End::is_known) {
            return Ok(());
        }
        let project = open_folder(&self.root, id.as_str())?;
        // Another process may know more.
        let flags = if end.is_known() { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match replace(&project, END, &serde_json::to_string(end)?, flags, |_| Ok(())) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            written => written,
        }
    }

    /// Forgets it, since another cell has started.
    pub(super) fn forget_end(&self, id: &ProjectId) -> io::Result<()> {
        match unlinkat(open_folder(&self.root, id.as_str())?, END, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn settings_text(&self, id: &ProjectId) -> Result<String, Error> {
        match self.read_settings(id) {
            // A folder that somebody made by hand: all defaults.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.open(id).map(|_| String::new()),
            read => read.map_err(|error| invalid(id, &format!("{SETTINGS}: {error}"))),
        }
    }

    fn read_settings(&self, id: &ProjectId) -> io::Result<String> {
        read(&open_folder(&self.root, id.as_str())?, SETTINGS, SETTINGS_BYTES_MAX)
    }
}

/// Reads a file of a project.
fn read(project: &OwnedFd, name: &str, bytes_max: u64) -> io::Result<String> {
    // NONBLOCK: opening a FIFO must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat2(project, name, flags, Mode::empty(), RESOLVE)?;
    if !FileType::from_raw_mode(fstat(&file)?.st_mode).is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    File::from(file).take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is larger than {bytes_max} bytes")));
    }
    Ok(text)
}

/// Replaces a file of a project, if the flags allow it, by one that was `finished` before.
fn replace(
    project: &OwnedFd,
    name: &str,
    text: &str,
    flags: RenameFlags,
    finished: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_name()?;
    let write = || -> io::Result<()> {
        let mut file = File::from(openat2(project, &temporary, NEW, FILE_MODE, RESOLVE)?);
        file.write_all(text.as_bytes())?;
        finished(&file)?;
        Ok(renameat_with(project, &temporary, project, name, flags)?)
    };
    write().inspect_err(|_| {
        let _ = unlinkat(project, &temporary, AtFlags::empty());
    })
}

const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_folder(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    openat2(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
}

/// A name that no project can have.
fn temporary_name() -> io::Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".tmp-{:016x}", u64::from_le_bytes(random)))
}

fn parsed(id: &ProjectId, text: &str, config: &Config) -> Result<Settings, Error> {
    settings::parse(text, config).map_err(|reason| invalid(id, &format!("{SETTINGS}:{reason}")))
}

fn invalid(id: &ProjectId, reason: &str) -> Error {
    Error::Invalid { project: id.clone(), reason: reason.to_owned() }
}

fn failed(what: String, error: impl Into<io::Error>) -> Error {
    Error::Io { what, error: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Ending;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    fn folder() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let descriptor = rustix::fs::openat(rustix::fs::CWD, root.path(), flags, Mode::empty()).unwrap();
        (root, Folder::new(descriptor))
    }

    fn id(text: &str) -> ProjectId {
        ProjectId::parse(text).unwrap()
    }

    #[test]
    fn a_project_is_made_whole_and_listed() {
        let (root, folder) = folder();
        folder.create(&id("one"), Some("debian:12")).unwrap();
        folder.create(&id("two"), None).unwrap();
        assert!(matches!(folder.create(&id("one"), None), Err(Error::Exists(_))));
        assert!(root.path().join("one/workspace").is_dir());
        assert_eq!(folder.settings(&id("one"), &Config::default()).unwrap().image, "debian:12");
        assert_eq!(folder.settings(&id("two"), &Config::default()).unwrap().image, "default");
        assert_eq!(folder.list().unwrap(), [id("one"), id("two")]);
        folder.make(".tmp-1", "").unwrap();
        folder.unmake(".tmp-1");
        assert_eq!(root.path().read_dir().unwrap().count(), 2);
    }

    #[test]
    fn links_are_not_followed() {
        let (root, folder) = folder();
        symlink("/tmp", root.path().join("link")).unwrap();
        assert!(matches!(folder.exists(&id("link")), Err(Error::Invalid { .. })));
        assert_eq!(folder.list().unwrap(), []);
        folder.create(&id("demo"), None).unwrap();
        let settings = root.path().join("demo/project.toml");
        std::fs::remove_file(&settings).unwrap();
        symlink("/etc/passwd", &settings).unwrap();
        assert!(matches!(folder.settings(&id("demo"), &Config::default()), Err(Error::Invalid { .. })));
    }

    #[test]
    fn wrong_settings_name_file_and_line() {
        let (root, folder) = folder();
        folder.create(&id("demo"), None).unwrap();
        std::fs::write(root.path().join("demo/project.toml"), "# mine\nimmage = 'x'\n").unwrap();
        let error = folder.settings(&id("demo"), &Config::default()).unwrap_err().to_string();
        assert!(error.starts_with("project demo: project.toml:2: unknown field `immage`, expected one of"), "{error}");
    }

    #[test]
    fn how_a_cell_ended_is_kept_and_what_else_lies_there_means_nothing() {
        let (root, folder) = folder();
        let one = id("one");
        folder.create(&one, None).unwrap();
        assert_eq!(folder.end(&one), None);
        let (known, unknown) = (End::new(1, Some(Ending::Idle(Duration::from_secs(9)))), End::new(2, None));
        let later = End::new(3, Some(Ending::Asked));
        for (written, kept) in [(unknown, unknown), (known, known), (unknown, known), (later, known)] {
            folder.write_end(&one, &written).unwrap();
            assert_eq!(folder.end(&one), Some(kept));
        }
        folder.forget_end(&one).unwrap();
        folder.forget_end(&one).unwrap();
        let file = root.path().join("one").join(END);
        for text in ["", "{}", "[".repeat(100_000).as_str(), r#"{"at":-1,"ending":null}"#] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(folder.end(&one), None, "{text:.20}");
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::write(root.path().join("other"), r#"{"at":1,"ending":null}"#).unwrap();
        symlink("../other", &file).unwrap();
        assert_eq!(folder.end(&one), None, "links are not followed");
        folder.write_end(&one, &known).unwrap();
        assert_eq!(folder.end(&one), Some(known));
        assert_eq!(std::fs::read(root.path().join("other")).unwrap(), br#"{"at":1,"ending":null}"#);
        assert_eq!(std::fs::read_dir(root.path().join("one")).unwrap().count(), 3, "nothing temporary is left");
    }
}
