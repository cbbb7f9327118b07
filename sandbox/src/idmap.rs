//! Id maps for mounts: which owner on disk a cell sees as which user.
//!
//! The kernel takes an id map in the form of a user namespace; this makes one, written by a child that lives just as long
//! as it takes. It doesn't know what is mounted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};

use crate::ids::{IDS_PER_CELL, IdRange};
use crate::packet;
use crate::rootless::Standing;
use crate::sys::{self, Fork};

/// Most projects whose maps are kept: two descriptors each, well below any limit on open files.
const KEPT_MAX: usize = 256;

/// The two maps that a cell's mounts need.
#[derive(Debug)]
pub(crate) struct IdMaps {
    range: IdRange,
    user: (u32, u32),
    /// For the image's layers: 0 on disk is root of the cell, and so on.
    pub(crate) image: OwnedFd,
    /// For the workspace: the service user on disk is the session's user in the cell; other users of the cell own files on
    /// disk by their host ids, so that `chown` and `tar` work.
    pub(crate) workspace: OwnedFd,
}

/// The maps of recent projects, newest last: making one costs a fork.
#[derive(Debug)]
pub(crate) struct Cache {
    standing: Standing,
    service_uid: u32,
    service_gid: u32,
    kept: VecDeque<IdMaps>,
}

impl Cache {
    pub(crate) fn new(standing: Standing, service_uid: u32, service_gid: u32) -> Self {
        Self { standing, service_uid, service_gid, kept: VecDeque::new() }
    }

    /// The maps for a cell with this range whose sessions run as `user` (user and group id inside). `None` without root: the
    /// kernel maps a mount's owners only for who may mount the file system itself.
    pub(crate) fn get(&mut self, range: IdRange, user: (u32, u32)) -> io::Result<Option<&IdMaps>> {
        if self.standing == Standing::User {
            return Ok(None);
        }
        if let Some(index) = self.kept.iter().position(|maps| maps.range == range && maps.user == user) {
            let maps = self.kept.remove(index).expect("the index was just found");
            self.kept.push_back(maps);
        } else {
            if self.kept.len() == KEPT_MAX {
                self.kept.pop_front();
            }
            let whole = range.map();
            let image = user_namespace(&whole, &whole)?;
            let uids = workspace_map(range, self.service_uid, user.0);
            let gids = workspace_map(range, self.service_gid, user.1);
            let workspace = user_namespace(&uids, &gids)?;
            self.kept.push_back(IdMaps { range, user, image, workspace });
        }
        Ok(self.kept.back())
    }
}

/// The service's id on disk is `user` of the cell; every other id of the cell is itself on disk.
fn workspace_map(range: IdRange, service: u32, user: u32) -> String {
    let base = range.base();
    let (below, above) = (user, IDS_PER_CELL - user - 1);
    let mut map = format!("{service} {} 1\n", base + user);
    if below > 0 {
        map += &format!("{base} {base} {below}\n");
    }
    if above > 0 {
        map += &format!("{first} {first} {above}\n", first = base + user + 1);
    }
    map
}

/// A user namespace with these maps (user_namespaces(7)), kept alive by the descriptor alone.
fn user_namespace(uids: &str, gids: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = packet::pair()?;
    match sys::fork(libc::CLONE_NEWUSER as u64, None)? {
        Fork::Child => {
            drop(ours);
            // Returns when the parent has what it wants, or is gone.
            let _ = rustix::io::read(&theirs, &mut [0; 1]);
            sys::exit(0)
        }
        Fork::Parent { pid, pidfd } => {
            drop(theirs);
            let namespace = write_maps(pid, uids, gids).and_then(|()| {
                let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
                Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
            });
            drop(ours);
            sys::reap(&pidfd);
            namespace
        }
    }
}

/// Writes the id maps of a process's user namespace; each can be written once.
pub(crate) fn write_maps(pid: rustix::process::Pid, uids: &str, gids: &str) -> io::Result<()> {
    for (name, map) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        std::fs::OpenOptions::new().write(true).open(path)?.write_all(map.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_maps_the_service_user_to_the_session_user() {
        let range = IdRange::from_index(0).unwrap();
        let base = range.base();
        assert_eq!(workspace_map(range, 998, 0), format!("998 {base} 1\n{first} {first} 65535\n", first = base + 1));
        let map = workspace_map(range, 998, 1000);
        assert_eq!(
            map,
            format!(
                "998 {user} 1\n{base} {base} 1000\n{first} {first} 64535\n",
                user = base + 1000,
                first = base + 1001
            )
        );
        assert_eq!(workspace_map(range, 998, 65_535).lines().count(), 2);
    }
}
