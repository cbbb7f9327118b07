//! The server's certificate, if it has one: whether server and key go together, for how long, and who can read them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use sandbox::privilege::ServiceUser;

use super::Finding;
use crate::config::Config;
use crate::tls;
use crate::tls::fetched::Failure;

/// How long before its end a certificate is told of: what renews it has failed for some time by then.
const NOTICE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const THING: &str = "certificate";

/// How long before its end one is told of that is fetched: its renewal is due for a month of three by then, or for two days of six.
const NOTICE_OF_FETCHED: Duration = Duration::from_secs(24 * 60 * 60);

/// The finding, if the server speaks TLS.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    if config.tls.is_fetched() {
        return vec![fetched(config)];
    }
    let Some(files) = config.tls.files() else { return Vec::new() };
    let path = files.certificate.display();
    let finding = match tls::inspect(&files, NOTICE) {
        Err(error) => {
            Finding::fails(THING, format!("{error:#}"), "give both files anew: the server doesn't start with these")
        }
        Ok(Some(complaint)) => {
            Finding::lacks(THING, format!("{path} {complaint}"), "renew it; the server reads it by itself")
        }
        Ok(None) => match unreadable(config, [&files.certificate, &files.key]) {
            Some(detail) => Finding::lacks(
                THING,
                detail,
                "give its group both files (chgrp, chmod 0640) and their folder (chmod 0750)",
            ),
            None => Finding::ok(THING, format!("{path} is the key's, and holds for more than 30 days")),
        },
    };
    vec![finding]
}

/// The finding on a certificate that is fetched: whether there is one, and what is in the way of the next.
fn fetched(config: &Config) -> Finding {
    let path = config.state.join(tls::fetched::certificate(&config.tls));
    let shown = match tls::inspect_fetched(&path, NOTICE_OF_FETCHED) {
        Err(error) => {
            return Finding::lacks(
                THING,
                format!("{error:#}"),
                "ask as root; if it is broken remove it, and a server that starts fetches another",
            );
        }
        Ok(shown) => shown,
    };
    let (directory, shown) = (&config.tls.acme_directory, shown.as_deref());
    match tls::fetched::failure(&config.state, &config.tls) {
        Some(Failure { since_s, tries, reason, .. }) => Finding::lacks(
            THING,
            format!(
                "none from {directory}: {reason} (tries: {tries}, the first {} ago); the last one {}",
                tls::pair::span(tls::fetched::now_s().saturating_sub(since_s)),
                shown.unwrap_or("holds")
            ),
            "see to that (docs/operations.md, \"A certificate that is fetched\"); the server tries again by itself, and at once on SIGHUP",
        ),
        None => match shown {
            Some(shown) => {
                Finding::lacks(THING, format!("{} {shown}", path.display()), "start the server, which fetches one")
            }
            None => Finding::ok(THING, format!("{} is fetched from {directory}, and holds", path.display())),
        },
    }
}

/// Which file the service user can't read: as a service it couldn't start, and a renewed one waits for a restart.
fn unreadable(config: &Config, files: [&Path; 2]) -> Option<String> {
    let user = ServiceUser::find(&config.user).ok()?;
    let file = files.into_iter().find(|file| !may_read(file, user))?;
    Some(format!("the service user can't read {}, so a renewed one waits for a restart", file.display()))
}

/// Whether a user may, by its own id and its group's; what lies above may be closed to it.
fn may_read(file: &Path, user: ServiceUser) -> bool {
    let bits = |path: &Path, bit: u32| {
        let Ok(stat) = std::fs::metadata(path) else { return false };
        let shift = match (stat.uid() == user.uid, stat.gid() == user.gid) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        stat.mode() >> shift & bit != 0
    };
    bits(file, 4) && file.parent().is_none_or(|folder| bits(folder, 1))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn who_may_read_is_told_by_owner_group_and_mode() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        write(&file, "").unwrap();
        let own = std::fs::metadata(&file).unwrap();
        let stranger = ServiceUser { uid: own.uid() + 1, gid: own.gid() + 1 };
        let member = ServiceUser { gid: own.gid(), ..stranger };
        let owner = ServiceUser { uid: own.uid(), ..stranger };
        let may = |mode: u32, folder_mode: u32| {
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            set_permissions(folder.path(), Permissions::from_mode(folder_mode)).unwrap();
            [owner, member, stranger].map(|user| may_read(&file, user))
        };
        assert_eq!(may(0o600, 0o755), [true, false, false]);
        assert_eq!(may(0o640, 0o750), [true, true, false]);
        assert_eq!(may(0o644, 0o700), [true, false, false]);
        assert_eq!(may(0o644, 0o755), [true, true, true]);
    }
}
