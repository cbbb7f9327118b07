//! An image's databases of users, and whom it wants to be.

use std::fs::File;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::input::Input;
use crate::users::{find, ids};

/// Ids of a cell, and groups of a process at most.
const IDS: u32 = 65_536;
const GROUPS_MAX: usize = 64;

/// Longest error in bytes: it is shown to a person.
const ERROR_BYTES_MAX: usize = 1000;

thread_local! {
    static IMAGE: (TempDir, File) = {
        // In memory where that is to be had: the files are written anew each time.
        let memory = PathBuf::from("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let root = root.expect("a temporary folder");
        std::fs::create_dir(root.path().join("etc")).expect("it is empty");
        let opened = File::open(root.path()).expect("it is there");
        (root, opened)
    };
}

/// Who is wanted, behind its length; passwd, behind its; the rest is group.
pub(crate) fn users(data: &[u8]) {
    let mut input = Input::new(data);
    let wanted = input.short().into();
    let wanted = input.take(wanted);
    let Ok(wanted) = std::str::from_utf8(wanted) else { return };
    let passwd = input.short().into();
    let passwd = input.take(passwd);
    let group = input.rest();
    IMAGE.with(|(folder, root)| {
        let etc = folder.path().join("etc");
        std::fs::write(etc.join("passwd"), passwd).expect("there is room");
        std::fs::write(etc.join("group"), group).expect("there is room");
        let found = find(root, wanted);
        let pair = found.as_ref().map(|user| (user.uid, user.gid)).map_err(Clone::clone);
        if !wanted.is_empty() {
            assert_eq!(ids(root, wanted), pair);
        }
        let user = match found {
            Ok(user) => user,
            Err(reason) => {
                assert!(!reason.is_empty() && reason.len() <= ERROR_BYTES_MAX, "{} bytes", reason.len());
                return assert!(!reason.contains(char::is_control), "{reason:?}");
            }
        };
        assert!(user.uid < IDS && user.gid < IDS);
        assert!(user.groups.len() <= GROUPS_MAX && user.groups.iter().all(|group| *group < IDS));
        assert!(user.home.starts_with('/'), "{:?}", user.home);
        assert!(user.shell.is_none_or(|shell| shell.starts_with('/')));
        // A number is what it says, whoever in the image is called so.
        let (name, group) = wanted.split_once(':').map_or((wanted, None), |(name, group)| (name, Some(group)));
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        assert!(number(name).is_none_or(|uid: u32| uid == user.uid));
        assert!(group.and_then(number).is_none_or(|gid: u32| gid == user.gid));
    });
}
