//! Who runs in a cell: the image's `User`, looked up in the image's own user database.
//!
//! The files come from an image and are hostile: opened beneath the root without following links, regular ones only,
//! and read to a bound. It knows no host user.

use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags};

use crate::ids::IDS_PER_CELL;
use crate::mount;

/// Largest user database that is read, in bytes: thousands of users.
const DATABASE_BYTES_MAX: u64 = 1 << 20;

/// Most groups a process can be given here.
const GROUPS_MAX: usize = 64;

/// Longest name that an error quotes, in letters.
const QUOTED_MAX: usize = 64;

/// A user of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CellUser {
    /// User id in the cell.
    pub(crate) uid: u32,
    /// Group id in the cell.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Login name, or the uid as text.
    pub(crate) name: String,
    /// Home folder.
    pub(crate) home: String,
    /// Login shell, if the database names one.
    pub(crate) shell: Option<String>,
}

/// User and group id of `wanted`, as [`find`] gives them. Who root is needs no look at the image.
pub(crate) fn ids(root: impl AsFd, wanted: &str) -> Result<(u32, u32), String> {
    if wanted.is_empty() { Ok((0, 0)) } else { find(root, wanted).map(|user| (user.uid, user.gid)) }
}

/// Looks up `wanted` (`user`, `uid`, `user:group`, `uid:gid`; empty is root) in the databases below `root`.
/// A number is always an id, never a name: an image can't dress root up as user "1000".
pub(crate) fn find(root: impl AsFd, wanted: &str) -> Result<CellUser, String> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let passwd =
        database(&root, "etc/passwd").map_err(|error| format!("the image's /etc/passwd can't be read: {error}"))?;
    let number = id(user)?;
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 7
            && match number {
                Some(uid) => fields[2].parse() == Ok(uid),
                None => fields[0] == user,
            }
    });
    let mut found = match (entry, number) {
        (Some(fields), _) => CellUser {
            uid: known(fields[2])?,
            gid: known(fields[3])?,
            groups: Vec::new(),
            name: fields[0].to_owned(),
            home: if fields[5].starts_with('/') { fields[5].to_owned() } else { "/".to_owned() },
            shell: fields[6].starts_with('/').then(|| fields[6].to_owned()),
        },
        // A user that no database knows belongs to root's group, as with every OCI runtime.
        (None, Some(uid)) => {
            let home = if uid == 0 { "/root" } else { "/" };
            CellUser { uid, gid: 0, groups: Vec::new(), name: user.to_owned(), home: home.to_owned(), shell: None }
        }
        (None, None) => {
            return Err(format!("the image's user {} is not in its /etc/passwd: use a numeric id", quoted(user)));
        }
    };
    let groups =
        database(&root, "etc/group").map_err(|error| format!("the image's /etc/group can't be read: {error}"))?;
    let groups = groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    match group {
        Some(group) => {
            let by_name = |fields: &Vec<&str>| (fields[0] == group).then(|| known(fields[2]));
            found.gid = match id(group)? {
                Some(gid) => gid,
                None => groups.clone().find_map(|fields| by_name(&fields)).ok_or_else(|| {
                    format!("the image's group {} is not in its /etc/group: use a numeric id", quoted(group))
                })??,
            };
        }
        None => {
            let member = groups.filter(|fields| fields[3].split(',').any(|name| name == found.name));
            found.groups = member.take(GROUPS_MAX).map(|fields| known(fields[2])).collect::<Result<_, _>>()?;
        }
    }
    Ok(found)
}

/// The number that a text is, if it is one; an id that a cell doesn't have is an error.
fn id(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) { Ok(None) } else { known(text).map(Some) }
}

fn known(text: &str) -> Result<u32, String> {
    let id = text.parse().ok().filter(|id| *id < IDS_PER_CELL);
    id.ok_or_else(|| format!("the image names the user or group id {}: a cell has the ids 0 to 65535", quoted(text)))
}

/// What an image says, fit for a message.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(QUOTED_MAX).collect::<String>())
}

/// Reads a database; one that isn't there is empty.
fn database(root: impl AsFd, path: &str) -> io::Result<String> {
    // Non-blocking, because it may be a FIFO that nobody writes to.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match mount::open_beneath(root, path, flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    std::fs::File::from(file).take(DATABASE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > DATABASE_BYTES_MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(passwd: &str, group: &str) -> (tempfile::TempDir, std::os::fd::OwnedFd) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.path().join("etc/group"), group).unwrap();
        let fd = mount::folder(root.path()).unwrap();
        (root, fd)
    }

    const PASSWD: &str = "root:x:0:0::/root:/bin/bash\ndev:x:1000:1000:Dev:/home/dev:/bin/zsh\n1000:x:0:0::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nvideo:x:44:dev,other\nstaff:x:50:\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let (_keep, root) = image(PASSWD, GROUP);
        let find = |wanted| find(&root, wanted).map(|user| (user.uid, user.gid, user.groups, user.home));
        assert_eq!(find(""), Ok((0, 0, vec![], "/root".to_owned())));
        assert_eq!(find("dev"), Ok((1000, 1000, vec![44], "/home/dev".to_owned())));
        assert_eq!(find("1000"), Ok((1000, 1000, vec![44], "/home/dev".to_owned())), "a number is never a name");
        assert_eq!(find("dev:staff"), Ok((1000, 50, vec![], "/home/dev".to_owned())));
        assert_eq!(find("7:8"), Ok((7, 8, vec![], "/".to_owned())));
        assert!(find("nobody").unwrap_err().contains("not in its /etc/passwd"));
        assert!(find("dev:nogroup").unwrap_err().contains("not in its /etc/group"));
        assert!(find("4294967295").unwrap_err().contains("0 to 65535"));
    }

    proptest::proptest! {
        #[test]
        fn whoever_is_found_has_an_id_of_the_cell(
            passwd in "([a-z0-9:,\\n/]{0,40}(root|dev|0|1000|65536|4294967296|-1)?){0,8}",
            wanted in "[a-z0-9:]{0,12}|dev|root|1000|dev:0",
        ) {
            let (_keep, root) = image(&passwd, &passwd);
            if let Ok(user) = find(&root, &wanted) {
                proptest::prop_assert!(user.uid < IDS_PER_CELL && user.gid < IDS_PER_CELL);
                proptest::prop_assert!(user.groups.iter().all(|group| *group < IDS_PER_CELL));
                proptest::prop_assert!(user.home.starts_with('/'));
            }
        }
    }

    #[test]
    fn a_fifo_a_link_and_a_giant_are_no_databases() {
        let (keep, root) = image("", "");
        let passwd = keep.path().join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        assert_eq!(find(&root, "0").unwrap().home, "/root");
        std::os::unix::fs::symlink("/etc/passwd", &passwd).unwrap();
        assert!(find(&root, "0").is_err());
        std::fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert!(find(&root, "0").unwrap_err().contains("no regular file"));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::File::create(&passwd).unwrap().set_len(DATABASE_BYTES_MAX + 1).unwrap();
        assert!(find(&root, "0").unwrap_err().contains("longer than 1 MiB"));
    }
}
