//! A cell's freezer (version 2's `cgroup.freeze`), what the kernel counts of the cell's work, and what takes memory back that it
//! doesn't use, by descriptors that the launcher opens and the server uses: so no keystroke that thaws a cell waits for what else
//! the launcher does, and what is frozen can be thawed without a launcher.
//!
//! All of the cell is frozen, its init too: whoever would talk to it has to thaw it first. The lock on the switch
//! says who does: commands of this host hold it shared as long as they have to do with a cell, and whoever freezes takes it alone.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, pread, pwrite};

use crate::alarm::number;

/// Longer than the files are: a line for each of some disks is the longest.
const FILE_BYTES_MAX: usize = 4096;

/// Memory that is taken back at once, in bytes: some milliseconds of the kernel's time.
const RECLAIMED_BYTES: u64 = 4 << 20;

/// The descriptors of a cell's freezer.
#[derive(Debug)]
pub struct Freezer {
    /// `cgroup.freeze`, to be written.
    switch: OwnedFd,
    /// `cgroup.events`, which tells of changes by POLLPRI.
    events: OwnedFd,
    /// `cpu.stat`.
    processors: OwnedFd,
    /// `io.stat`, where version 2 has the controller.
    disks: Option<OwnedFd>,
    /// `memory.stat`, and `memory.reclaim` to be written, where version 2 has the controller, and the kernel the file (5.19).
    memory: Option<(OwnedFd, OwnedFd)>,
}

/// What a cell has done since its birth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Processor time in microseconds.
    pub cpu_us: u64,
    /// Bytes read from disks and written to them; 0 where nobody counts them.
    pub io_bytes: u64,
}

impl Freezer {
    /// What freezes. Who freezes a cell, or keeps others from it, has it locked.
    pub(crate) const SWITCH: &'static str = "cgroup.freeze";

    /// The files of a group that it is made of, and whether to be written. The first three are in every group.
    pub(crate) const FILES: [(&'static str, bool); 6] = [
        (Self::SWITCH, true),
        ("cgroup.events", false),
        ("cpu.stat", false),
        ("io.stat", false),
        ("memory.stat", false),
        ("memory.reclaim", true),
    ];

    /// Puts together what came from the launcher, files with their names; `None` if one is missing that it can't do without.
    pub fn new(names: Vec<String>, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut files: BTreeMap<String, OwnedFd> = names.into_iter().zip(descriptors).collect();
        Some(Self {
            switch: files.remove(Self::SWITCH)?,
            events: files.remove("cgroup.events")?,
            processors: files.remove("cpu.stat")?,
            disks: files.remove("io.stat"),
            memory: files.remove("memory.stat").zip(files.remove("memory.reclaim")),
        })
    }

    /// Begins to freeze the cell: what is in the kernel's hands at the moment comes to a stop by and by.
    pub fn freeze(&self) -> io::Result<()> {
        self.switch(b"1")
    }

    /// Has the cell go on, if it is frozen.
    pub fn thaw(&self) -> io::Result<()> {
        self.switch(b"0")
    }

    fn switch(&self, word: &[u8]) -> io::Result<()> {
        pwrite(&self.switch, word, 0).map(drop).map_err(io::Error::from)
    }

    /// Whether all of the cell has come to a stop. Reading it makes the descriptor quiet until the next change.
    pub fn is_frozen(&self) -> io::Result<bool> {
        Ok(number(&text(&self.events)?, "frozen") == 1)
    }

    /// What is polled for POLLPRI: the cell has come to a stop, or goes on, whoever is the cause.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Takes the right to freeze and to stop; `false` if a command has to do with the cell.
    pub fn claim(&self) -> io::Result<bool> {
        self.lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Gives that right back.
    pub fn release(&self) -> io::Result<()> {
        self.lock(FlockOperation::Unlock).map(drop)
    }

    /// Keeps others from freezing, as long as this descriptor lives; `false` while somebody is just doing that.
    pub fn hold(&self) -> io::Result<bool> {
        self.lock(FlockOperation::NonBlockingLockShared)
    }

    fn lock(&self, operation: FlockOperation) -> io::Result<bool> {
        match flock(&self.switch, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether memory can be taken back.
    pub fn reclaims(&self) -> bool {
        self.memory.is_some()
    }

    /// Takes back what memory the cell hasn't used lately, as the kernel sees it: files in the cache, since cells have no swap.
    /// That may take a while; it ends early once `more` says so.
    pub fn reclaim(&self, more: impl Fn() -> bool) {
        let Some((stat, switch)) = &self.memory else { return };
        let mut left = text(stat).map_or(0, |stat| number(&stat, "inactive_file"));
        while left > 0 && more() {
            let piece = left.min(RECLAIMED_BYTES);
            // The kernel says so when it finds no more, which is as good.
            if pwrite(switch, piece.to_string().as_bytes(), 0).is_err() {
                return;
            }
            left -= piece;
        }
    }

    /// What the cell has done so far.
    pub fn work(&self) -> io::Result<Work> {
        let disks = self.disks.as_ref().map_or(Ok(String::new()), text)?;
        Ok(Work { cpu_us: number(&text(&self.processors)?, "usage_usec"), io_bytes: io_bytes(&disks) })
    }
}

fn text(file: &OwnedFd) -> io::Result<String> {
    let mut text = [0; FILE_BYTES_MAX];
    let length = pread(file, &mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// What was read and written, in lines such as `8:0 rbytes=1 wbytes=2 rios=3 …`.
fn io_bytes(text: &str) -> u64 {
    let bytes =
        |word: &str| ["rbytes=", "wbytes="].iter().find_map(|name| word.strip_prefix(name)?.parse::<u64>().ok());
    text.split_whitespace().filter_map(bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_disks_moved_is_summed() {
        let text = "8:0 rbytes=4096 wbytes=10 rios=1 wios=1 dbytes=9 dios=0\n259:1 rbytes=1 wbytes=0 rios=1\n";
        assert_eq!(io_bytes(text), 4107);
        assert_eq!(io_bytes(""), 0);
        assert_eq!(io_bytes("8:0 rbytes=x wbytes=18446744073709551615 rbytes=2"), u64::MAX);
    }
}
