//! Removing a tree that a tenant filled: whatever its depth, its modes and its names, and never a step outside of it.
//!
//! Folders within folders are first moved up, so that depth costs neither descriptors nor stack.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, chmodat, fstat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

/// Removes the folder `name` in `parent` with all that is in it.
pub(super) fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    let top = match open_folder(parent, &name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut moved = 0;
    // Each round removes one level of every folder; what was deeper is on top then.
    all(&top, |name| {
        let folder = open_folder(&top, name)?;
        all(&folder, |inner| move_up(&folder, inner, &top, &mut moved))?;
        Ok(unlinkat(&top, name, AtFlags::REMOVEDIR)?)
    })?;
    unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Removes the files of `folder` and has `take` do away with each folder in it, until nothing is left.
fn all(folder: &OwnedFd, mut take: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    loop {
        let names = names(folder)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            match unlinkat(folder, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => take(&name)?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn move_up(folder: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    // Only who may write into a folder may move it elsewhere.
    drop(open_folder(folder, name)?);
    loop {
        *moved += 1;
        match renameat_with(folder, name, top, format!(".{moved}"), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            done => return Ok(done?),
        }
    }
}

/// Opens a folder for reading and writing, which its owner may have denied to himself.
fn open_folder(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(parent, name, OFlags::PATH | flags, Mode::empty())?;
    if fstat(&found)?.st_mode & Mode::RWXU.as_raw_mode() != Mode::RWXU.as_raw_mode() {
        chmodat(CWD, format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU, AtFlags::empty())?;
    }
    openat(&found, c".", OFlags::RDONLY | flags, Mode::empty())
}

fn names(folder: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    /// Names handled at once, so that a folder of millions costs no memory of that size.
    const NAMES_MAX: usize = 10_000;
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == NAMES_MAX {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn remove_tree(make: impl FnOnce(&std::path::Path)) {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        make(&tree);
        let parent = openat(CWD, root.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        remove(&parent, "tree").unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
        remove(&parent, "tree").unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        remove_tree(|tree| {
            symlink("../outside", tree.join("folder")).unwrap();
            symlink("../outside/kept", tree.join("file")).unwrap();
            symlink("nowhere", tree.join("dangling")).unwrap();
        });
    }

    #[test]
    fn folders_closed_to_their_owner_are_removed() {
        remove_tree(|tree| {
            fs::create_dir_all(tree.join("a/b/c")).unwrap();
            fs::write(tree.join("a/b/file"), "").unwrap();
            fs::set_permissions(tree.join("a/b"), PermissionsExt::from_mode(0o000)).unwrap();
            fs::set_permissions(tree.join("a"), PermissionsExt::from_mode(0o500)).unwrap();
        });
    }

    #[test]
    fn depth_and_awkward_names_do_not_matter() {
        remove_tree(|tree| {
            for name in [".1", ".2", "\n", "-rf", "…"] {
                fs::create_dir_all(tree.join(name).join(".1/.3/x")).unwrap();
            }
            let mut deep = openat(CWD, tree, OFlags::RDONLY, Mode::empty()).unwrap();
            for _ in 0..5000 {
                rustix::fs::mkdirat(&deep, "deeper", Mode::RWXU).unwrap();
                deep = openat(&deep, "deeper", OFlags::RDONLY, Mode::empty()).unwrap();
            }
        });
    }

    #[test]
    fn many_files_are_removed() {
        remove_tree(|tree| (0..10_500).for_each(|n| fs::write(tree.join(n.to_string()), "").unwrap()));
    }
}
