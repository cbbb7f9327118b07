//! The owner's token: made at the first start, kept in a file that only the service user and root can read. And one for what
//! the server counts, if an operator has made one.
//!
//! It knows the files, not who is asked for a token; what it lets through is decided elsewhere.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, fchown, fstat, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use sandbox::privilege::ServiceUser;

use crate::config::Config;

/// The file's name in the state folder.
pub(crate) const FILE: &str = "owner.token";

/// Randomness of a token in bytes: 256 bit can't be guessed, however many try.
const RANDOM_BYTES: usize = 32;

/// Longest token in bytes: an operator may put one of their own into the file, and it must fit in a request's head.
const TOKEN_BYTES_MAX: usize = 256;

/// Shortest token in bytes: below 128 bit an operator's own can be guessed.
const TOKEN_BYTES_MIN: usize = 22;

/// Reads the token in the folder `state`, after making it for `user` if there is none.
pub(crate) fn ensure_owner(state: BorrowedFd<'_>, user: ServiceUser) -> anyhow::Result<String> {
    match read_owner(state, user.uid) {
        Err(error) if error.downcast_ref() == Some(&Errno::NOENT) => {
            make_owner(state, user).with_context(|| format!("make {FILE} in the state folder"))?;
            read_owner(state, user.uid)
        }
        read => read,
    }
}

/// Reads the token in the folder `state`; it must belong to root or to `uid`.
pub(crate) fn read_owner(state: BorrowedFd<'_>, uid: u32) -> anyhow::Result<String> {
    let read = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(state, FILE, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        ensure!(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile, "it is no regular file: remove it");
        ensure!(stat.st_mode & 0o077 == 0, "others can read it: `chmod 600` it, or remove it for a new one");
        ensure!([0, uid].contains(&stat.st_uid), "it belongs to user id {}: `chown` it to {uid}", stat.st_uid);
        token_in(file.into()).map_err(|error| anyhow!("{error:#}: remove it for a new one"))
    };
    read().with_context(|| format!("read {FILE} in the state folder"))
}

/// Reads the operator's token for what the server counts. The file's group may read it, as whoever collects the counts must.
pub(crate) fn read_metrics(path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let read = || {
        let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        let stat = fstat(&file)?;
        ensure!(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile, "it is no regular file");
        ensure!(stat.st_mode & 0o007 == 0, "everybody can read it: `chmod o=` it");
        token_in(file.into())
    };
    let read = read().with_context(|| format!("read metrics_token_file {}", path.display()));
    read.map(Some)
}

/// The token that a file holds.
fn token_in(file: File) -> anyhow::Result<String> {
    let mut text = String::new();
    file.take(TOKEN_BYTES_MAX as u64 + 2).read_to_string(&mut text)?;
    let token = text.trim_end();
    let plain = token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    ensure!(
        plain && (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()),
        "it must hold {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} of A-Z, a-z, 0-9, '-', '.', '_' and '~'"
    );
    Ok(token.to_owned())
}

/// Makes the file under another name and moves it into place whole; whoever comes second keeps the first one's.
fn make_owner(state: BorrowedFd<'_>, user: ServiceUser) -> anyhow::Result<()> {
    let mut random = [0; RANDOM_BYTES];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).context("read /dev/urandom")?;
    let temporary = format!(".{FILE}.{}", std::process::id());
    unlink(state, &temporary)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(state, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let place = || {
        fchown(&file, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
        let mut file = File::from(file.as_fd().try_clone_to_owned()?);
        writeln!(file, "{}", base64url(&random))?;
        file.sync_all()?;
        match renameat_with(state, &temporary, state, FILE, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    let placed = place();
    unlink(state, &temporary)?;
    placed
}

fn unlink(folder: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        unlinked => unlinked,
    }
}

/// RFC 4648 section 5, without padding: every character may stand in a URL as it is.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            text.push(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63] as char);
        }
    }
    text
}

/// The token of the server on this machine.
pub(crate) fn of_this_machine(config: &Config) -> anyhow::Result<String> {
    let read = || {
        let state = File::open(&config.state).with_context(|| config.state.display().to_string())?;
        let uid = ServiceUser::find(&config.user).map_or(0, |user| user.uid);
        read_owner(state.as_fd(), uid)
    };
    read().context("no token: give one by CLOISTER_TOKEN or --token, or be root on the server's machine")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn base64url_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn a_token_is_made_once_and_read_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = File::open(folder.path()).unwrap();
        let uid = rustix::process::getuid().as_raw();
        let me = ServiceUser { uid, gid: rustix::process::getgid().as_raw() };
        let token = ensure_owner(state.as_fd(), me).unwrap();
        assert_eq!(token.len(), 43);
        assert_eq!(ensure_owner(state.as_fd(), me).unwrap(), token);
        make_owner(state.as_fd(), me).unwrap();
        assert_eq!(read_owner(state.as_fd(), uid).unwrap(), token);
        let names: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
        let mode = |mode| folder.path().join(FILE).metadata().unwrap().permissions().mode() & 0o7777 == mode;
        assert!(mode(0o600));
        std::fs::set_permissions(folder.path().join(FILE), PermissionsExt::from_mode(0o640)).unwrap();
        assert!(format!("{:#}", read_owner(state.as_fd(), uid).unwrap_err()).contains("chmod 600"));
    }

    #[test]
    fn a_token_for_metrics_is_hidden_from_everybody_but_a_group() {
        assert_eq!(read_metrics(None).unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let refused = || format!("{:#}", read_metrics(Some(&path)).unwrap_err());
        assert!(refused().contains("metrics_token_file") && refused().contains("No such file"), "{}", refused());
        std::fs::write(&path, "a-token-of-an-operator-0123456789\n").unwrap();
        let allow = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        allow(0o644);
        assert!(refused().contains("chmod o="), "{}", refused());
        allow(0o640);
        assert_eq!(read_metrics(Some(&path)).unwrap().as_deref(), Some("a-token-of-an-operator-0123456789"));
        std::fs::write(&path, "short").unwrap();
        assert!(refused().contains("22 to 256"), "{}", refused());
        assert!(format!("{:#}", read_metrics(Some(folder.path())).unwrap_err()).contains("no regular file"));
    }

    #[test]
    fn a_file_that_is_no_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = File::open(folder.path()).unwrap();
        let uid = rustix::process::getuid().as_raw();
        for text in ["", "short", &"x".repeat(257), "with spaces and more than enough", "ümläut-ümläut-ümläut-ümläut"]
        {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            std::fs::set_permissions(folder.path().join(FILE), PermissionsExt::from_mode(0o600)).unwrap();
            assert!(format!("{:#}", read_owner(state.as_fd(), uid).unwrap_err()).contains("remove it"), "{text}");
        }
    }
}
