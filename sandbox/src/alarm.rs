//! When a cell meets a limit: the ears of its init on its own cgroup. They read counters and limits and nothing else.

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

/// How long after something has happened in the cell a counter is read of whose changes the kernel says nothing. A cell in
/// which nothing happens isn't woken for it.
const UNTOLD_DELAY: Duration = Duration::from_secs(1);

/// How long after a report of kills the next one is made at the earliest: each is of a program that somebody misses.
const KILLS_EVERY: Duration = Duration::from_secs(1);

/// The same for refused processes, of which a fork bomb has thousands a second until somebody ends it.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);

/// Longer than the files are.
const FILE_BYTES_MAX: usize = 4096;

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Memory: the kernel kills.
    Memory,
    /// Processes: the kernel refuses another one.
    Pids,
}

/// A limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    /// Which.
    pub(crate) limit: Limit,
    /// How often so far.
    pub(crate) times: u64,
    /// What it is at present.
    pub(crate) value: u64,
}

/// A cgroup's counter of how often a limit was met.
#[derive(Debug)]
pub(crate) struct Alarm {
    limit: Limit,
    /// The file with the counter: `memory.events` and `pids.events`, or version 1's `memory.oom_control`.
    counter: File,
    /// The file with the limit, which may change while the cell runs.
    value: File,
    /// What is rung before a kill by version 1.
    bell: Option<OwnedFd>,
    /// Whether the counter's file says itself that it has changed: version 2's do.
    speaks: bool,
    times: u64,
    look_at: Option<Instant>,
    /// When the next report may be made.
    rested: Instant,
}

impl Alarm {
    /// Listens to a group that has the limit's controller.
    pub(crate) fn new(limit: Limit, group: BorrowedFd<'_>, unified: bool) -> io::Result<Self> {
        let open = |name: &str, flags| -> io::Result<File> {
            Ok(openat(group, name, flags | OFlags::CLOEXEC, Mode::empty())?.into())
        };
        let (counter, value) = match (limit, unified) {
            (Limit::Memory, true) => ("memory.events", "memory.max"),
            (Limit::Memory, false) => ("memory.oom_control", "memory.limit_in_bytes"),
            (Limit::Pids, _) => ("pids.events", "pids.max"),
        };
        let (counter, value) = (open(counter, OFlags::RDONLY)?, open(value, OFlags::RDONLY)?);
        let bell = if limit == Limit::Memory && !unified {
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let wish = format!("{} {}", bell.as_raw_fd(), counter.as_raw_fd());
            rustix::io::write(open("cgroup.event_control", OFlags::WRONLY)?, wish.as_bytes())?;
            Some(bell)
        } else {
            None
        };
        let mut alarm =
            Self { limit, counter, value, bell, speaks: unified, times: 0, look_at: None, rested: Instant::now() };
        alarm.times = alarm.count()?;
        Ok(alarm)
    }

    /// What to wait for, and on what; nothing where the kernel says nothing.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, EventFlags)> {
        match &self.bell {
            Some(bell) => Some((bell.as_fd(), EventFlags::IN)),
            None => self.speaks.then(|| (self.counter.as_fd(), EventFlags::PRI)),
        }
    }

    /// Its descriptors, for who closes all others.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let files = [self.counter.as_raw_fd(), self.value.as_raw_fd()];
        files.into_iter().chain(self.bell.as_ref().map(AsRawFd::as_raw_fd))
    }

    /// The kernel has said something: what it is will be looked at.
    pub(crate) fn heard(&mut self) {
        match &self.bell {
            Some(bell) => drop(rustix::io::read(bell, &mut [0; 8])),
            // Reading it is what makes it quiet until the next change.
            None => drop(self.count()),
        }
        self.look_at.get_or_insert((Instant::now() + LOOK_DELAY).max(self.rested));
    }

    /// Something has happened in the cell, and it may have been this.
    pub(crate) fn stirred(&mut self) {
        if self.interest().is_none() {
            self.look_at.get_or_insert((Instant::now() + UNTOLD_DELAY).max(self.rested));
        }
    }

    /// When [`Self::news`] should be asked.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Says that the limit was met, if it was since it was last asked.
    pub(crate) fn news(&mut self) -> Option<Met> {
        let now = Instant::now();
        self.look_at.take_if(|at| *at <= now)?;
        let times = self.count().ok().filter(|times| *times > self.times)?;
        self.times = times;
        self.rested = now
            + match self.limit {
                Limit::Memory => KILLS_EVERY,
                Limit::Pids => REFUSALS_EVERY,
            };
        // Without a limit there is nothing to meet; a file that can't be read is of a cell that ends.
        let value = read(&self.value).ok()?.trim().parse().ok()?;
        Some(Met { limit: self.limit, times, value })
    }

    fn count(&self) -> io::Result<u64> {
        let word = match self.limit {
            Limit::Memory => "oom_kill",
            Limit::Pids => "max",
        };
        Ok(number(&read(&self.counter)?, word))
    }
}

fn read(file: &File) -> io::Result<String> {
    let mut text = [0; FILE_BYTES_MAX];
    let length = file.read_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// The number behind a word in a file of lines of both; where there is none nothing has happened that could be told.
pub(crate) fn number(text: &str, word: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn the_counter_is_found_in_both_versions_files() {
        assert_eq!(number("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n", "oom_kill"), 2);
        assert_eq!(number("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), 7);
        assert_eq!(number("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), 0);
        assert_eq!(number("max 4711\n", "max"), 4711);
    }
}
