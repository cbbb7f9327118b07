//! The files of a layer, made below one folder and never outside it: every step goes through descriptors, no link is
//! followed, and what is in the way of a new entry goes. Who calls it has read the names; it knows no archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fchown, fsetxattr, futimens, linkat, mkdirat, mknodat, openat2, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::leftover::{open_folder, remove};
use super::name::Name;
use crate::archive::{Time, printable};
use crate::{Error, Result};

/// Mark of a folder that hides what lower layers have in it, as overlayfs reads it with its option `userxattr`.
const OPAQUE: (&str, &[u8]) = ("user.overlay.opaque", b"y");

/// Access of a folder that the archive uses but doesn't mention, as everybody does it.
const UNMENTIONED_MODE: u32 = 0o755;

/// What a file has beside its content.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A layer being made.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// The folder used last: archives are sorted, so it is mostly the next one too.
    recent: Option<(Name, Rc<OwnedFd>)>,
    /// Times of folders, which every entry made in them changes again.
    times: BTreeMap<Vec<u8>, Time>,
    names_bytes: usize,
    names_bytes_max: usize,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, names_bytes_max: usize) -> Self {
        let times = BTreeMap::from([(Vec::new(), Time::default())]);
        Self { root: Rc::new(root), recent: None, times, names_bytes: 0, names_bytes_max }
    }

    /// Makes a folder, or gives one that is there its attributes.
    pub(super) fn folder(&mut self, name: &Name, attributes: &Attributes) -> Result<()> {
        let folder = self.open_or_make(name)?;
        finish(&folder, name, attributes)?;
        self.remember(name, attributes.mtime)
    }

    /// Makes a file; `fill` writes its content.
    pub(super) fn file(
        &mut self,
        name: &Name,
        attributes: &Attributes,
        fill: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        let parent = self.clear(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(&*parent, name.leaf(), flags, Mode::RUSR | Mode::WUSR, resolve)
            .map_err(|error| failed(name, "create", error))?;
        let mut file = File::from(file);
        fill(&mut file)?;
        finish(&file, name, attributes)?;
        futimens(&file, &timestamps(attributes.mtime)).map_err(|error| failed(name, "set the time of", error))
    }

    pub(super) fn symlink(&mut self, name: &Name, target: &[u8], attributes: &Attributes) -> Result<()> {
        let parent = self.clear(name)?;
        symlinkat(target, &*parent, name.leaf()).map_err(|error| failed(name, "create", error))?;
        self.finish_unopened(name, &parent, attributes)
    }

    pub(super) fn fifo(&mut self, name: &Name, attributes: &Attributes) -> Result<()> {
        let parent = self.clear(name)?;
        mknodat(&*parent, name.leaf(), FileType::Fifo, Mode::RUSR, 0).map_err(|error| failed(name, "create", error))?;
        self.finish_unopened(name, &parent, attributes)?;
        // Not a link: it was made just now, and nobody else is here.
        chmodat(&*parent, name.leaf(), Mode::from_raw_mode(attributes.mode), AtFlags::empty())
            .map_err(|error| failed(name, "set the mode of", error))
    }

    /// Gives the file `target` another name. A symlink there is not followed but gets another name itself.
    pub(super) fn hard_link(&mut self, name: &Name, target: &Name) -> Result<()> {
        let missing = || {
            Error::refused(format_args!(
                "hard link to {}, which isn't a file of this layer; rebuild the image",
                printable(target.as_bytes())
            ))
        };
        let from = open_folder(&*self.root, target.parent().as_bytes()).map_err(|_| missing())?;
        let stat = lookup(&from, target.leaf(), target)?.ok_or_else(missing)?;
        if is_folder(&stat) || is_whiteout(&stat) || target.is_root() {
            return Err(missing());
        }
        if name == target {
            return Ok(());
        }
        let parent = self.clear(name)?;
        match linkat(&from, target.leaf(), &*parent, name.leaf(), AtFlags::empty()) {
            // It was in a folder that gave way to the link.
            Err(Errno::NOENT) => Err(missing()),
            result => result.map_err(|error| failed(name, "link", error)),
        }
    }

    /// Hides what lower layers have under this name, and nothing of this layer.
    pub(super) fn whiteout(&mut self, name: &Name) -> Result<()> {
        let parent = self.open_or_make(&name.parent())?;
        match lookup(&*parent, name.leaf(), name)? {
            Some(stat) if is_folder(&stat) => self.opaque(name),
            // A file of this layer hides the lower one already.
            Some(_) => Ok(()),
            // Not a device at all, and open to everybody since Linux 5.8.
            None => mknodat(&*parent, name.leaf(), FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|error| failed(name, "create the whiteout of", error)),
        }
    }

    /// Hides all that lower layers have in a folder.
    pub(super) fn opaque(&mut self, name: &Name) -> Result<()> {
        let folder = self.open_or_make(name)?;
        make_opaque(&folder, name)
    }

    /// Sets what could not be set before all entries were there.
    pub(super) fn finish(self) -> Result<()> {
        for (name, time) in &self.times {
            match open_folder(&*self.root, name) {
                Ok(folder) => futimens(&folder, &timestamps(*time)),
                // A later entry took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(error),
            }
            .map_err(|error| Error::host(format_args!("set the time of {}", printable(name)), error))?;
        }
        Ok(())
    }

    /// Opens a folder. Those missing on the way are made; what else is in the way goes.
    fn open_or_make(&mut self, name: &Name) -> Result<Rc<OwnedFd>> {
        if let Some((recent, folder)) = &self.recent
            && recent == name
        {
            return Ok(Rc::clone(folder));
        }
        let folder = match open_folder(&*self.root, name.as_bytes()) {
            Ok(folder) => Rc::new(folder),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.make_way(name)?,
            Err(error) => return Err(failed(name, "open", error)),
        };
        self.recent = Some((name.clone(), Rc::clone(&folder)));
        Ok(folder)
    }

    fn make_way(&mut self, name: &Name) -> Result<Rc<OwnedFd>> {
        let mut folder = Rc::clone(&self.root);
        let mut end = 0;
        for component in name.components() {
            let begin = if end == 0 { 0 } else { end + 1 };
            end = begin + component.len();
            folder = match open_folder(&*folder, component) {
                Ok(next) => Rc::new(next),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    self.make_folder(&folder, component, &name.as_bytes()[..end])?
                }
                Err(error) => return Err(failed(name, "open", error)),
            };
        }
        Ok(folder)
    }

    /// Makes one folder that isn't there, with the attributes of one that the archive doesn't mention.
    fn make_folder(&mut self, parent: &OwnedFd, leaf: &[u8], path: &[u8]) -> Result<Rc<OwnedFd>> {
        let name = Name::parse(path, usize::MAX)?;
        let in_the_way = lookup(parent, leaf, &name)?;
        if in_the_way.is_some() {
            unlinkat(parent, leaf, AtFlags::empty()).map_err(|error| failed(&name, "replace", error))?;
        }
        mkdirat(parent, leaf, Mode::RWXU).map_err(|error| failed(&name, "create", error))?;
        let folder = open_folder(parent, leaf).map_err(|error| failed(&name, "open", error))?;
        fchmod(&folder, Mode::from_raw_mode(UNMENTIONED_MODE))
            .map_err(|error| failed(&name, "set the mode of", error))?;
        if in_the_way.is_some_and(|stat| is_whiteout(&stat)) {
            make_opaque(&folder, &name)?;
        }
        self.remember(&name, Time::default())?;
        Ok(Rc::new(folder))
    }

    /// Makes room for an entry that is no folder, and gives the folder it belongs in.
    fn clear(&mut self, name: &Name) -> Result<Rc<OwnedFd>> {
        if name.is_root() {
            return Err(Error::refused("the root must be a folder"));
        }
        let parent = self.open_or_make(&name.parent())?;
        match lookup(&*parent, name.leaf(), name)? {
            None => {}
            Some(stat) if is_folder(&stat) => {
                remove(parent.as_fd(), name.leaf())?;
                self.recent = None;
            }
            Some(_) => {
                unlinkat(&*parent, name.leaf(), AtFlags::empty()).map_err(|error| failed(name, "replace", error))?;
            }
        }
        Ok(parent)
    }

    fn finish_unopened(&self, name: &Name, parent: &OwnedFd, attributes: &Attributes) -> Result<()> {
        let (uid, gid) = owner(attributes);
        chownat(parent, name.leaf(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(name, "set the owner of", error))?;
        utimensat(parent, name.leaf(), &timestamps(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(name, "set the time of", error))
    }

    fn remember(&mut self, name: &Name, mtime: Time) -> Result<()> {
        if self.times.insert(name.as_bytes().to_vec(), mtime).is_none() {
            self.names_bytes += name.as_bytes().len();
            if self.names_bytes > self.names_bytes_max {
                return Err(Error::refused(format_args!(
                    "the names of the layer's folders are longer than {} bytes together",
                    self.names_bytes_max
                )));
            }
        }
        Ok(())
    }
}

/// Extended attributes, owner and mode of a file or folder; in this order, since giving a file away clears attributes.
fn finish(file: impl AsFd, name: &Name, attributes: &Attributes) -> Result<()> {
    let file = file.as_fd();
    for (key, value) in &attributes.xattrs {
        match fsetxattr(file, key.as_slice(), value, XattrFlags::empty()) {
            Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::INVAL) => {
                return Err(Error::refused(format_args!(
                    "the file system of the layers doesn't take its extended attribute {} of {} bytes; rebuild the image without",
                    printable(key),
                    value.len()
                )));
            }
            result => result.map_err(|error| failed(name, "set an extended attribute of", error))?,
        }
    }
    let (uid, gid) = owner(attributes);
    fchown(file, uid, gid).map_err(|error| failed(name, "set the owner of", error))?;
    fchmod(file, Mode::from_raw_mode(attributes.mode)).map_err(|error| failed(name, "set the mode of", error))
}

fn owner(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

fn make_opaque(folder: &OwnedFd, name: &Name) -> Result<()> {
    if name.is_root() {
        // overlayfs looks for the mark in folders of a layer, not in its root.
        return Err(Error::refused(
            "a layer that hides everything below it isn't supported; squash the image into one layer",
        ));
    }
    let (key, value) = OPAQUE;
    fsetxattr(folder, key, value, XattrFlags::empty()).map_err(|error| match error {
        Errno::NOTSUP => {
            failed(name, "mark (the state folder needs a file system with user extended attributes)", error)
        }
        _ => failed(name, "mark as opaque", error),
    })
}

fn lookup(parent: impl AsFd, leaf: &[u8], name: &Name) -> Result<Option<Stat>> {
    match statat(parent, leaf, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(name, "look for", error)),
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// No other devices are ever made.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
}

fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanos) },
    }
}

fn failed(name: &Name, doing: &str, error: Errno) -> Error {
    Error::host(format_args!("{doing} {}", printable(name.as_bytes())), error)
}
