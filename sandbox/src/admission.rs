//! Whether the host has room for one more cell, or for a larger one: limits for all cells together.
//!
//! Cells are counted by their locks and their cgroups, which is what every launcher of this host sees; who admits one holds the
//! folder of cells meanwhile, so that two launchers don't give the last place twice. It doesn't know how a cell is made.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Cgroups};
use crate::failure::{Context, Failure};
use crate::launcher::folders::Folders;
use crate::spec::{HostLimits, ProjectId};
use crate::storage;

/// What of the host is used up, by the limit that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "limit", rename_all = "snake_case")]
pub enum Shortage {
    /// As many cells run as may.
    Cells {
        /// The most.
        max: u32,
        /// Those that run.
        running: u32,
    },
    /// Cells' memory limits together would be more than they may.
    Memory {
        /// The limit, in percent of what the host has.
        percent_max: u32,
        /// That in bytes.
        bytes_max: u64,
        /// The limits of all other running cells together, in bytes.
        bytes_given: u64,
        /// The limit that was asked for.
        bytes_wanted: u64,
    },
    /// Less is free on a disk than is to stay free.
    Disk {
        /// Whose.
        disk: Disk,
        /// What is to stay free, in bytes.
        bytes_reserved: u64,
        /// What is.
        bytes_free: u64,
    },
}

/// A disk that files are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// Where the state folder lies.
    State,
    /// Where projects do.
    Projects,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes >> 20;
        match self {
            Self::Cells { max, running } => write!(
                f,
                "the host is full: host.cells_max is {max}, and {running} cells run; stop one (cloister project stop <id>), or \
                 raise it"
            ),
            Self::Memory { percent_max, bytes_max, bytes_given, bytes_wanted } => write!(
                f,
                "the host is full: host.memory_percent_max is {percent_max}, which is {} MiB; {} MiB are given to running cells, \
                 and this one is to have {} MiB: stop one (cloister project stop <id>), lower limits.memory_bytes_max, or raise it",
                mib(bytes_max),
                mib(bytes_given),
                mib(bytes_wanted)
            ),
            Self::Disk { disk, bytes_reserved, bytes_free } => write!(
                f,
                "the host is full: host.disk_reserve_bytes is {bytes_reserved} ({} MiB), and {} MiB are free where {}; make room \
                 (cloister image prune), or lower it",
                mib(bytes_reserved),
                mib(bytes_free),
                match disk {
                    Disk::State => "the state folder lies",
                    Disk::Projects => "projects lie",
                }
            ),
        }
    }
}

/// The memory that running cells were promised, for who looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promised {
    /// Their limits together, in bytes.
    pub bytes_given: u64,
    /// What there is for them in all, in bytes.
    pub bytes_there: u64,
}

impl Promised {
    /// Looks at the cells below the configured cgroup.
    pub fn look(cgroup: &str) -> io::Result<Self> {
        let (bytes_given, limit) = cgroup::memory_of_all(cgroup)?;
        Ok(Self { bytes_given, bytes_there: limit.unwrap_or(u64::MAX).min(memory_of_host()?) })
    }
}

/// What a launcher admits by.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: HostLimits,
    /// The host's, in bytes.
    memory_bytes: u64,
}

/// The right to admit cells, and to take a layer that none uses; nobody else does until this is dropped.
pub(crate) struct Turn {
    _lock: OwnedFd,
}

impl Admission {
    /// Fails if there is a limit that can't be held.
    pub(crate) fn new(limits: HostLimits, cgroups: &Cgroups) -> Result<Self, Failure> {
        if limits.memory_percent_max > 0 && cgroups.is_none() {
            return Err(Failure::new(
                "limit the memory of all cells",
                "cells have no cgroups, as configured: take host.memory_percent_max back, or set cgroup to another name",
            ));
        }
        Ok(Self { limits, memory_bytes: memory_of_host().step("see how much memory there is")? })
    }

    /// Waits until nobody else admits.
    pub(crate) fn turn(folders: &Folders) -> Result<Turn, Failure> {
        Ok(Turn { _lock: storage::turn(&folders.cells).step("wait for another launcher")? })
    }

    /// What is missing for a project's cell, whose storage is claimed; `None` if it can start. It counts once its layers are
    /// noted and it has its cgroup, so the turn is kept until then.
    pub(crate) fn of_cell(
        &self,
        turn: &Turn,
        folders: &Folders,
        cgroups: &Cgroups,
        project: &ProjectId,
        memory_bytes: u64,
    ) -> Result<Option<Shortage>, Failure> {
        if let Some(shortage) = self.of_disks(folders)? {
            return Ok(Some(shortage));
        }
        if let max @ 1.. = self.limits.cells_max {
            let running = others(&folders.cells, project, max).step("count the cells")?;
            if running >= max {
                return Ok(Some(Shortage::Cells { max, running }));
            }
        }
        self.of_memory(turn, cgroups, project, memory_bytes)
    }

    /// What is missing for a cell with so much memory.
    pub(crate) fn of_memory(
        &self,
        _turn: &Turn,
        cgroups: &Cgroups,
        project: &ProjectId,
        bytes_wanted: u64,
    ) -> Result<Option<Shortage>, Failure> {
        let percent_max @ 1.. = self.limits.memory_percent_max else { return Ok(None) };
        let there = cgroups.memory_bytes_max().unwrap_or(u64::MAX).min(self.memory_bytes);
        let bytes_max = (u128::from(there) * u128::from(percent_max) / 100).try_into().unwrap_or(u64::MAX);
        let bytes_given = cgroups.memory_given(project).step("count the memory of cells")?;
        let fits = bytes_given.checked_add(bytes_wanted).is_some_and(|sum| sum <= bytes_max);
        Ok((!fits).then_some(Shortage::Memory { percent_max, bytes_max, bytes_given, bytes_wanted }))
    }

    /// What is missing for a layer that is to be unpacked; [`shortage`] says it meanwhile.
    pub(crate) fn of_layer(&self, folders: &Folders) -> Result<Option<Shortage>, Failure> {
        self.of_disk(Disk::State, &folders.layers)
    }

    /// What is missing on the disks for any cell.
    pub(crate) fn of_disks(&self, folders: &Folders) -> Result<Option<Shortage>, Failure> {
        match self.of_disk(Disk::State, &folders.cells)? {
            None => self.of_disk(Disk::Projects, &folders.projects),
            shortage => Ok(shortage),
        }
    }

    fn of_disk(&self, disk: Disk, folder: &OwnedFd) -> Result<Option<Shortage>, Failure> {
        shortage(disk, folder, self.limits.disk_reserve_bytes).step("see how much of the disk is free")
    }

    /// What has to stay free while a layer is unpacked.
    pub(crate) fn disk_reserve_bytes(&self) -> u64 {
        self.limits.disk_reserve_bytes
    }
}

/// Whether less of a folder's disk is free than is reserved.
pub(crate) fn shortage(disk: Disk, folder: impl AsFd, bytes_reserved: u64) -> io::Result<Option<Shortage>> {
    if bytes_reserved == 0 {
        return Ok(None);
    }
    let free = rustix::fs::fstatvfs(folder)?;
    let bytes_free = free.f_bavail.saturating_mul(free.f_frsize);
    Ok((bytes_free < bytes_reserved).then_some(Shortage::Disk { disk, bytes_reserved, bytes_free }))
}

/// How many other projects' cells run. It is looked closely only if that may be `enough`: a folder whose cell has ended is
/// removed within a moment.
fn others(cells: &OwnedFd, project: &ProjectId, enough: u32) -> io::Result<u32> {
    let others: Vec<_> = storage::projects(cells)?.into_iter().filter(|other| other != project).collect();
    if others.len() < enough as usize {
        return Ok(others.len() as u32);
    }
    let mut running = 0;
    for other in others {
        running += u32::from(storage::is_running(cells, &other)?);
    }
    Ok(running)
}

/// The host's memory in bytes (proc_meminfo(5)).
fn memory_of_host() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    total.map(|kib: u64| kib << 10).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;

    #[test]
    fn cells_that_run_are_counted_and_what_dead_ones_left_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let cells = crate::mount::folder(folder.path()).unwrap();
        let id = |name: &str| ProjectId::parse(name).unwrap();
        let start = |name: &str| {
            let storage = Storage::lock(&cells, &id(name)).unwrap().unwrap();
            storage.note_layers(&[]).unwrap();
            storage
        };
        let (_a, b) = (start("a"), start("b"));
        assert_eq!(others(&cells, &id("a"), 9).unwrap(), 1);
        assert_eq!(others(&cells, &id("c"), 2).unwrap(), 2);
        drop(b);
        let _claimed = Storage::lock(&cells, &id("d")).unwrap().unwrap();
        assert_eq!(others(&cells, &id("c"), 2).unwrap(), 1, "neither the dead one nor the one that isn't admitted yet");
    }

    #[test]
    fn a_disk_is_short_before_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let open = crate::mount::folder(folder.path()).unwrap();
        let short = |reserved| shortage(Disk::Projects, &open, reserved).unwrap();
        assert_eq!((short(0), short(1)), (None, None));
        let said = short(u64::MAX).unwrap().to_string();
        assert!(
            said.contains("host.disk_reserve_bytes is 18446744073709551615") && said.contains("projects lie"),
            "{said}"
        );
    }

    #[test]
    fn every_shortage_names_limit_use_and_remedy() {
        let memory =
            Shortage::Memory { percent_max: 150, bytes_max: 3 << 30, bytes_given: 2 << 30, bytes_wanted: 2 << 30 };
        assert_eq!(
            memory.to_string(),
            "the host is full: host.memory_percent_max is 150, which is 3072 MiB; 2048 MiB are given to running cells, and this \
             one is to have 2048 MiB: stop one (cloister project stop <id>), lower limits.memory_bytes_max, or raise it"
        );
        let cells = Shortage::Cells { max: 2, running: 2 }.to_string();
        assert!(cells.contains("host.cells_max is 2, and 2 cells run; stop one"), "{cells}");
    }
}
