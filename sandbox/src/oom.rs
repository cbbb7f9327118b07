//! When the kernel kills for want of memory: the ear of a cell's init on its own cgroup. It reads a counter and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, openat};

/// How long after the kernel said something the counter is read: version 1 says it before it kills, and of many kills at once
/// one word is enough.
const LOOK_DELAY: Duration = Duration::from_millis(100);

/// Longer than the files are.
const FILE_BYTES_MAX: usize = 4096;

/// A cgroup's counter of processes killed for want of memory.
#[derive(Debug)]
pub(crate) struct OomWatch {
    /// The file with the counter: `memory.events`, or version 1's `memory.oom_control`.
    counter: File,
    /// What is rung before a kill by version 1. Version 2's file says itself that it has changed.
    bell: Option<OwnedFd>,
    kills: u64,
    look_at: Option<Instant>,
}

impl OomWatch {
    /// Listens to a group that has the memory controller.
    pub(crate) fn new(group: BorrowedFd<'_>, unified: bool) -> io::Result<Self> {
        let open = |name: &str, flags| -> io::Result<File> {
            Ok(openat(group, name, flags | OFlags::CLOEXEC, Mode::empty())?.into())
        };
        let (counter, bell) = if unified {
            (open("memory.events", OFlags::RDONLY)?, None)
        } else {
            let counter = open("memory.oom_control", OFlags::RDONLY)?;
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let wish = format!("{} {}", bell.as_raw_fd(), counter.as_raw_fd());
            rustix::io::write(open("cgroup.event_control", OFlags::WRONLY)?, wish.as_bytes())?;
            (counter, Some(bell))
        };
        let mut watch = Self { counter, bell, kills: 0, look_at: None };
        watch.kills = watch.count()?;
        Ok(watch)
    }

    /// What to wait for, and on what.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, EventFlags) {
        match &self.bell {
            Some(bell) => (bell.as_fd(), EventFlags::IN),
            None => (self.counter.as_fd(), EventFlags::PRI),
        }
    }

    /// Its descriptors, for who closes all others.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [self.counter.as_raw_fd()].into_iter().chain(self.bell.as_ref().map(AsRawFd::as_raw_fd))
    }

    /// The kernel has said something: what it is will be looked at.
    pub(crate) fn heard(&mut self) {
        match &self.bell {
            Some(bell) => drop(rustix::io::read(bell, &mut [0; 8])),
            // Reading it is what makes it quiet until the next change.
            None => drop(self.count()),
        }
        self.look_at.get_or_insert_with(|| Instant::now() + LOOK_DELAY);
    }

    /// When it is to be looked at, if at all.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// How many processes were killed so far, if these are more than when it was last asked.
    pub(crate) fn news(&mut self) -> Option<u64> {
        self.look_at.take_if(|at| *at <= Instant::now())?;
        let kills = self.count().ok()?;
        let more = kills > self.kills;
        self.kills = kills;
        more.then_some(kills)
    }

    fn count(&self) -> io::Result<u64> {
        let mut text = [0; FILE_BYTES_MAX];
        let length = self.counter.read_at(&mut text, 0)?;
        Ok(kills(&String::from_utf8_lossy(&text[..length])))
    }
}

/// The counter in a file of lines of a name and a number; where there is none nothing is killed that could be told.
fn kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::kills;

    #[test]
    fn the_counter_is_found_in_both_versions_files() {
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), 7);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }
}
