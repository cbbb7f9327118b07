//! What is known of a certificate that is fetched by ACME: the folder in which it lies with all that belongs to it, and by what
//! names. It fetches nothing.
//!
//! ```text
//! <state>/acme/                   0700, the service user's
//!   <directory>/                  named after the authority's address: another one has its own account and certificate
//!     account.json                the account's key; the server can't read it
//!     failure.json                why there is no new certificate, if one was wanted
//!     served/                     what the server reads
//!       certificate.pem           the key, its certificate, and those that lead to a root
//!       <name>.challenge.pem      the same for an authority that looks whether the name is ours (RFC 8737)
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustix::fs::{Mode, OFlags, fchown, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use sandbox::privilege::ServiceUser;
use serde::{Deserialize, Serialize};

use crate::config::{LogFormat, Tls};

const ROOT: &str = "acme";

/// Names in an authority's folder.
#[cfg(feature = "acme")]
pub(crate) const ACCOUNT: &str = "account.json";
pub(crate) const FAILURE: &str = "failure.json";
pub(crate) const SERVED: &str = "served";

/// The certificate's name among what is served.
pub(crate) const CERTIFICATE: &str = "certificate.pem";

/// The name of a challenge's file among what is served.
pub(crate) fn challenge(name: &str) -> String {
    format!("{name}.challenge.pem")
}

/// What the process that fetches is told by the server that starts it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// From whom and for which names.
    pub(crate) tls: Tls,
    /// As what it logs.
    pub(crate) log_format: LogFormat,
}

/// Why there is no new certificate. It outlives the process that writes it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// When the first try of a row failed, in seconds since 1970.
    pub(crate) since_s: u64,
    /// When the last one did.
    pub(crate) last_s: u64,
    /// How many there were.
    pub(crate) tries: u32,
    /// What was in the way, the last time.
    pub(crate) reason: String,
}

/// An authority's folder, below the state folder.
pub(crate) fn folder(tls: &Tls) -> PathBuf {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    let authority = tls.acme_directory.trim_start_matches("https://");
    Path::new(ROOT).join(authority.chars().map(plain).collect::<String>())
}

/// Where the certificate lies, below the state folder.
pub(crate) fn certificate(tls: &Tls) -> PathBuf {
    folder(tls).join(SERVED).join(CERTIFICATE)
}

/// Why there is no new certificate, if one was wanted and didn't come.
pub(crate) fn failure(state: &Path, tls: &Tls) -> Option<Failure> {
    serde_json::from_slice(&std::fs::read(state.join(folder(tls)).join(FAILURE)).ok()?).ok()
}

/// Makes the folders that aren't there, for `user`; gives the authority's.
pub(crate) fn ensure(state: BorrowedFd<'_>, user: ServiceUser, tls: &Tls) -> anyhow::Result<OwnedFd> {
    let path = folder(tls);
    let ensure = || {
        let mut folder = state.try_clone_to_owned()?;
        for name in &path {
            folder = ensure_one(folder.as_fd(), Path::new(name), user)?;
        }
        ensure_one(folder.as_fd(), Path::new(SERVED), user)?;
        Ok::<_, std::io::Error>(folder)
    };
    ensure().with_context(|| {
        format!("make folder {} in the state folder, where {ROOT} must be the service user's (chown)", path.display())
    })
}

fn ensure_one(parent: BorrowedFd<'_>, name: &Path, user: ServiceUser) -> std::io::Result<OwnedFd> {
    let made = match mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => false,
        made => made.map(|()| true)?,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty())?;
    if made && geteuid().is_root() {
        fchown(&folder, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    }
    Ok(folder)
}

/// Now, in seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_authority_has_a_folder_of_its_own() {
        let of = |directory: &str| {
            let tls = Tls { acme_directory: directory.to_owned(), ..Tls::default() };
            certificate(&tls).display().to_string()
        };
        assert_eq!(
            of(&Tls::default().acme_directory),
            "acme/acme-v02.api.letsencrypt.org-directory/served/certificate.pem"
        );
        assert_eq!(of("https://localhost:14000/dir/../x"), "acme/localhost-14000-dir-..-x/served/certificate.pem");
    }

    #[test]
    fn folders_are_made_once_and_for_nobody_else() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let opened = std::fs::File::open(state.path()).unwrap();
        for _ in 0..2 {
            ensure(opened.as_fd(), ServiceUser::present(), &Tls::default()).unwrap();
        }
        let served = state.path().join(folder(&Tls::default())).join(SERVED);
        assert_eq!(std::fs::metadata(served).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
