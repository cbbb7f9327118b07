//! What there is at this moment, for who watches the host: how many cells and sessions, what they use, how much room is left.
//! It changes nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{StatVfsMountFlags, fstat, fstatvfs};
use sandbox::launcher::Error as Refusal;
use tokio::time::{Instant, timeout_at};

use super::{Error, Projects};
use crate::cell::Phase;
use crate::metrics::{Asked, Room};

/// Most projects that are asked for what they use: the launcher answers some thousands a second, one after the other, and
/// whoever collects the answers keeps a dozen series of each.
const ASKED_MAX: usize = 200;

/// How long all of them may take together: who collects waits 10 s by default.
const ASKED_WAIT: Duration = Duration::from_secs(2);

/// How many cells and sessions there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Cells in which sessions can be opened, but for the frozen ones.
    pub(crate) running: usize,
    /// Those in which nothing runs until somebody types.
    pub(crate) frozen: usize,
    /// Those that were told to end.
    pub(crate) stopping: usize,
    /// Those that are just being started or removed.
    pub(crate) changing: usize,
    /// Sessions in all of them.
    pub(crate) sessions: usize,
}

/// Folders that have to have room.
pub(super) struct Rooms {
    pub(super) state: OwnedFd,
    pub(super) projects: OwnedFd,
}

impl Projects {
    /// Counts them.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        // With the table in hand, as `known` has it: a look into a place keeps nobody else from looking.
        for place in self.places().values() {
            let Ok(place) = place.try_lock() else {
                census.changing += 1;
                continue;
            };
            let Some(state) = place.as_ref().map(|cell| cell.watch()) else { continue };
            let state = state.borrow();
            census.sessions += state.sessions.len();
            match state.phase {
                Phase::Running if state.frozen.is_some() => census.frozen += 1,
                Phase::Running => census.running += 1,
                Phase::Stopping => census.stopping += 1,
                Phase::Gone => census.changing += 1,
            }
        }
        census
    }

    /// What is left where the state lies, which the launcher alone writes, and where projects do.
    pub(crate) fn rooms(&self) -> (io::Result<Room>, io::Result<Room>) {
        let Rooms { state, projects } = &self.0.rooms;
        (room(state), ensure_writable(projects).and_then(|()| room(projects)))
    }

    /// Whether the cells that ran before this process are looked after.
    pub(crate) fn is_settled(&self) -> bool {
        self.0.settled.load(Ordering::Relaxed)
    }

    /// Whether the launcher answers.
    pub(crate) async fn ask_for_life(&self) -> Result<(), Error> {
        self.0.launch.ask_for_life().await
    }

    /// What running cells use: of as many as there is time for, in the order of their ids. One caller after the other.
    pub(crate) async fn usages(&self) -> Result<Asked, Error> {
        let by = Instant::now() + ASKED_WAIT;
        let Ok(_turn) = timeout_at(by, self.0.asking.lock()).await else { return Err(Error::Busy) };
        let running = self.running()?;
        let mut asked = Asked { usages: Vec::new(), unasked: running.len() };
        for id in running.into_iter().take(ASKED_MAX) {
            match timeout_at(by, self.0.launch.usage(&id)).await {
                Ok(Ok(usage)) => asked.usages.push((id, usage)),
                // It has ended just now.
                Ok(Err(Error::Launcher(Refusal::NoCell))) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(asked),
            }
            asked.unasked -= 1;
        }
        Ok(asked)
    }
}

/// What is left for who isn't root on the disk of a folder that can still be used.
fn room(folder: &OwnedFd) -> io::Result<Room> {
    if fstat(folder)?.st_nlink == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it was removed"));
    }
    let disk = fstatvfs(folder)?;
    // btrfs makes inodes as it goes and says that it has none.
    let files = if disk.f_files == 0 { u64::from(u32::MAX) } else { disk.f_favail };
    Ok(Room { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), files })
}

fn ensure_writable(folder: &OwnedFd) -> io::Result<()> {
    if fstatvfs(folder)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "its file system is read-only"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_removed_has_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let open = OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let there = room(&open).unwrap();
        assert!(there.bytes > 0 && there.files > 0, "{there:?}");
        drop(folder);
        assert_eq!(room(&open).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
