//! The cgroup of a cell: its limits, its members, its end.
//!
//! Version 2 is used wherever it is mounted, for life cycle and for every controller it has; a controller that only
//! version 1 has is used there (hybrid hosts). A limit that can't be enforced is an error, never a warning.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::alarm::{Alarm, Limit, number};
use crate::failure::{Context, Failure};
use crate::freezer::Freezer;
use crate::rootless::Standing;
use crate::spec::{Limits, ProjectId};
use crate::usage::{Cpu, Memory, Pids, Pressure, Stall, Usage};

/// Period of the processor limit in microseconds, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// How far below its limit a cell's memory is that the kernel begins to slow it down and to take caches back: room for others
/// to end something. A sixteenth of a small cell; of a large one no more than this, since without swap a program that only
/// grows would be slowed for a minute before it is killed. So it is some 2 s at most.
const MEMORY_MARGIN_BYTES_MAX: u64 = 16 << 20;

/// Longest wait for the processes of a cgroup to be gone: SIGKILL needs no cooperation, only time under load.
const EMPTY_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether they are: dying takes a cell about a millisecond.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// The name that stands for no group: cells have no limits of memory, processor and processes.
pub(crate) const NONE: &str = "none";

/// The controllers a cell is limited by.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The one that limits the speed of disks, where somebody wants that: only version 2's counts what is written behind.
const IO: &str = "io";

/// One hierarchy in which cells get a group.
#[derive(Debug)]
struct Hierarchy {
    /// The folder below which cells' groups are made.
    folder: OwnedFd,
    /// Version 2, which also starts and kills.
    unified: bool,
    /// Which limits are written here.
    controllers: Vec<&'static str>,
}

/// Where cells' groups are made; nowhere, if the operator wants none.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// The group of all cells and those above it, where memory is limited.
    above: Vec<OwnedFd>,
    /// The disks on which cells' files lie, as `major:minor`; or why their speed can't be limited.
    disks: Result<Vec<String>, &'static str>,
}

/// A cell's group in every hierarchy.
#[derive(Debug)]
pub(crate) struct Leaf {
    groups: Vec<(OwnedFd, bool)>,
    /// For the cell's init; none of what the kernel doesn't count.
    pub(crate) alarms: Vec<Alarm>,
}

/// What became of new limits for a cell.
pub(crate) enum Changed {
    Done,
    NoCell,
    /// So many bytes of memory are in use and can't be taken away; nothing is changed.
    MemoryInUse(u64),
}

impl Cgroups {
    /// Finds the host's hierarchies and makes the group `name` in each that is needed. Without root, below the group that was
    /// delegated to the user.
    pub(crate) fn prepare(name: &str, standing: Standing) -> Result<Self, Failure> {
        if name == NONE {
            return Ok(Self {
                hierarchies: Vec::new(),
                above: Vec::new(),
                disks: Err("cells have no cgroups, as configured"),
            });
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").step("read the list of mounts")?;
        let (mut hierarchies, mut above) = (Vec::new(), Vec::new());
        let mut missing = CONTROLLERS.to_vec();
        let mut disks = Err("that takes cgroup version 2 with its controller io");
        let unified = mount_point(&mounts, |kind, _| kind == "cgroup2");
        let unified = match standing {
            Standing::Root => unified,
            // Who is root of a user namespace sees its own files as root's.
            Standing::User => unified.and_then(|root| delegated(&root, 0)),
        };
        if let Some(root) = unified {
            let (folder, controllers) = prepare_unified(&root, name).step_with(|| {
                format!("make the cgroup {name} below {} (are cgroups delegated to this process?)", root.display())
            })?;
            missing.retain(|controller| !controllers.contains(controller));
            if controllers.contains(&"memory") {
                above = groups_above(&root, name).step("open the cgroups above cells")?;
            }
            if has(&text(&folder, "cgroup.subtree_control"), IO) {
                disks = Ok(Vec::new());
            }
            hierarchies.push(Hierarchy { folder, unified: true, controllers });
        }
        for controller in missing {
            let root = mount_point(&mounts, |kind, options| {
                kind == "cgroup" && options.split(',').any(|option| option == controller)
            });
            let root =
                root.ok_or_else(|| Failure::new(format!("find the cgroup controller {controller}"), remedy(standing)))?;
            let folder = make_folder(&root, name).map_err(|error| {
                let reason = match standing {
                    Standing::Root => error.to_string(),
                    Standing::User => format!("{error}: {}", remedy(standing)),
                };
                Failure::new(format!("make the cgroup {name} below {}", root.display()), reason)
            })?;
            if controller == "memory" {
                above = groups_above(&root, name).step("open the cgroups above cells")?;
            }
            hierarchies.push(Hierarchy { folder, unified: false, controllers: vec![controller] });
        }
        Ok(Self { hierarchies, above, disks })
    }

    /// Finds the disks on which these folders lie.
    pub(crate) fn find_disks(&mut self, folders: [&OwnedFd; 2]) {
        if self.disks.is_ok() {
            self.disks = folders
                .map(disk_of)
                .into_iter()
                .collect::<Option<BTreeSet<_>>>()
                .map(Vec::from_iter)
                .ok_or("the state and the projects lie on a file system that is not on one disk");
        }
    }

    /// What to write for the disks' speed: a line for each disk.
    fn speeds(&self, bytes_per_s: u64) -> Result<Vec<String>, Failure> {
        let most = if bytes_per_s == 0 { "max".to_owned() } else { bytes_per_s.to_string() };
        match &self.disks {
            Ok(disks) => Ok(disks.iter().map(|disk| format!("{disk} rbps={most} wbps={most}")).collect()),
            Err(_) if bytes_per_s == 0 => Ok(Vec::new()),
            Err(reason) => {
                Err(Failure::new("limit the speed of disks", format!("{reason}: take limits.io_bytes_per_s_max back")))
            }
        }
    }

    /// How much memory all cells together may have, in bytes; `None` if their group and those above it have no limit.
    pub(crate) fn memory_bytes_max(&self) -> Option<u64> {
        self.above.iter().filter_map(memory_limit).min()
    }

    /// The limits of memory of all projects' cells but one's, together.
    pub(crate) fn memory_given(&self, but: &ProjectId) -> io::Result<u64> {
        self.memory_hierarchy().map_or(Ok(0), |hierarchy| given(&hierarchy.folder, Some(but)))
    }

    /// The limit of memory of a project's running cell, in bytes.
    pub(crate) fn memory_of(&self, project: &ProjectId) -> Option<u64> {
        memory_limit(&open_group(&self.memory_hierarchy()?.folder, project).ok()?)
    }

    fn memory_hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.contains(&"memory"))
    }

    /// Copies of the folders below which cells' groups are.
    pub(crate) fn folders(&self) -> io::Result<Vec<OwnedFd>> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.folder.try_clone()).collect()
    }

    /// Whether cells have no groups.
    pub(crate) fn is_none(&self) -> bool {
        self.hierarchies.is_empty()
    }

    /// Makes a cell's group with its limits written.
    pub(crate) fn create(&self, project: &ProjectId, limits: &Limits) -> Result<Leaf, Failure> {
        let mut leaf = Leaf { groups: Vec::new(), alarms: Vec::new() };
        let speeds = self.speeds(limits.io_bytes_per_s_max)?;
        for hierarchy in &self.hierarchies {
            match rustix::fs::mkdirat(&hierarchy.folder, project.as_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Failure::new("make the cell's cgroup", error)),
            }
            let group = open_group(&hierarchy.folder, project).step("open the cell's cgroup")?;
            for controller in &hierarchy.controllers {
                write_limits(&group, &limit_files(controller, hierarchy.unified, limits))
                    .step_with(|| format!("limit {controller}"))?;
            }
            for (controller, limit) in [("memory", Limit::Memory), ("pids", Limit::Pids)] {
                if hierarchy.controllers.contains(&controller) {
                    leaf.alarms.extend(Alarm::new(limit, group.as_fd(), hierarchy.unified));
                }
            }
            if hierarchy.unified {
                // Whoever could open it could keep it locked, and the cell from being frozen.
                rustix::fs::chmodat(&group, Freezer::SWITCH, Mode::RUSR | Mode::WUSR, AtFlags::empty())
                    .step("close the cell's freezer to others")?;
            }
            if hierarchy.unified && limits.io_bytes_per_s_max > 0 {
                limit_disks(&group, &speeds)?;
            }
            leaf.groups.push((group, hierarchy.unified));
        }
        Ok(leaf)
    }

    /// Gives a running cell other limits. Memory comes first, since it alone can be refused.
    pub(crate) fn change(&self, project: &ProjectId, limits: &Limits) -> Result<Changed, Failure> {
        self.ensure_some("limit a cell")?;
        let speeds = self.speeds(limits.io_bytes_per_s_max)?;
        let Some(groups) = self.groups(project)? else { return Ok(Changed::NoCell) };
        let has_memory = |hierarchy: &Hierarchy| hierarchy.controllers.contains(&"memory");
        for (hierarchy, group) in groups.iter().filter(|(hierarchy, _)| has_memory(hierarchy)) {
            let changed = change_memory(group, hierarchy.unified, limits).step("limit memory")?;
            if let Some(bytes) = changed {
                return Ok(Changed::MemoryInUse(bytes));
            }
        }
        for (hierarchy, group) in &groups {
            for controller in hierarchy.controllers.iter().filter(|controller| **controller != "memory") {
                write_limits(group, &limit_files(controller, hierarchy.unified, limits))
                    .step_with(|| format!("limit {controller}"))?;
            }
        }
        for (_, group) in groups.iter().filter(|(hierarchy, _)| hierarchy.unified) {
            limit_disks(group, &speeds)?;
        }
        Ok(Changed::Done)
    }

    /// What a running cell uses; `None` if there is none.
    pub(crate) fn usage(&self, project: &ProjectId) -> Result<Option<Usage>, Failure> {
        self.ensure_some("count what a cell uses")?;
        let Some(groups) = self.groups(project)? else { return Ok(None) };
        let mut usage = Usage::default();
        for (hierarchy, group) in &groups {
            let unified = hierarchy.unified;
            for controller in &hierarchy.controllers {
                match *controller {
                    "memory" => usage.memory = memory(group, unified),
                    "cpu" => {
                        let Cpu { throttled_us, millis_max, .. } = cpu(group, unified);
                        usage.cpu = Cpu { throttled_us, millis_max, ..usage.cpu };
                    }
                    _ => usage.pids = pids(group),
                }
            }
            if unified {
                // Version 2 counts these whether it has the controllers or not.
                usage.cpu.used_us = Some(number(&text(group, "cpu.stat"), "usage_usec"));
                let stall = |file| Stall::parse(&text(group, file));
                let (cpu, memory, io) = (stall("cpu.pressure"), stall("memory.pressure"), stall("io.pressure"));
                usage.pressure = Pressure { cpu, memory, io };
            }
        }
        Ok(Some(usage))
    }

    /// Opens what a [`Freezer`] is made of, of a running cell: nothing without version 2, whose freezer alone says when it is done
    /// and lets what is frozen be killed. `None` if there is no such cell.
    pub(crate) fn freezer(&self, project: &ProjectId) -> Result<Option<Vec<(String, OwnedFd)>>, Failure> {
        const STEP: &str = "open the cell's freezer";
        let hierarchy = self.hierarchies.iter().find(|hierarchy| hierarchy.unified);
        let Some(hierarchy) = hierarchy else { return Ok(Some(Vec::new())) };
        let group = match open_group(&hierarchy.folder, project) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            group => group.step(STEP)?,
        };
        let mut files = Vec::with_capacity(Freezer::FILES.len());
        for (file, written) in Freezer::FILES {
            let flags = if written { OFlags::WRONLY } else { OFlags::RDONLY };
            match rustix::fs::openat(&group, file, flags | OFlags::CLOEXEC, Mode::empty()) {
                Ok(opened) => files.push((file.to_owned(), opened)),
                // Its controller isn't version 2's, or the kernel is an older one.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(Failure::new(STEP, format!("{file}: {error}"))),
            }
        }
        Ok(Some(files))
    }

    fn ensure_some(&self, step: &str) -> Result<(), Failure> {
        let reason = "cells have no cgroups, as configured: set cgroup to a name other than none, and start them anew";
        if self.is_none() { Err(Failure::new(step, reason)) } else { Ok(()) }
    }

    /// A cell's groups; `None` if it has none.
    fn groups(&self, project: &ProjectId) -> Result<Option<Vec<(&Hierarchy, OwnedFd)>>, Failure> {
        let mut groups = Vec::with_capacity(self.hierarchies.len());
        for hierarchy in &self.hierarchies {
            match open_group(&hierarchy.folder, project) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                group => groups.push((hierarchy, group.step("open the cell's cgroup")?)),
            }
        }
        Ok(Some(groups))
    }

    /// Kills what runs in a cell's group and removes it. A group that isn't there is removed already.
    pub(crate) fn remove(&self, project: &ProjectId) -> Result<(), Failure> {
        let deadline = Instant::now() + EMPTY_WAIT_MAX;
        for hierarchy in &self.hierarchies {
            let group = match open_group(&hierarchy.folder, project) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.step("open the cell's cgroup")?,
            };
            loop {
                match rustix::fs::unlinkat(&hierarchy.folder, project.as_str(), AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => break,
                    Err(Errno::BUSY) if Instant::now() < deadline => {
                        kill(&group, hierarchy.unified).step("kill what is left in the cell's cgroup")?;
                        std::thread::sleep(LOOK_EVERY);
                    }
                    Err(error) => return Err(Failure::new("remove the cell's cgroup", error)),
                }
            }
        }
        Ok(())
    }
}

impl Leaf {
    /// The version 2 group, into which a process can be born.
    pub(crate) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.groups.iter().find(|(_, unified)| *unified).map(|(group, _)| group.as_fd())
    }

    /// The doors of the groups into which no process can be born: a process with one thread enters by [`enter`].
    pub(crate) fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let groups = self.groups.iter().filter(|(_, unified)| !unified);
        groups.map(|(group, _)| open_for_writing(group, "tasks")).collect()
    }
}

/// Moves the calling process into the groups behind these doors; it must have one thread. Moving itself takes no lock
/// of the whole host; being moved by another process waits for an RCU grace period, ten times as long as all the rest.
pub(crate) fn enter(doors: &[OwnedFd]) -> io::Result<()> {
    doors.iter().try_for_each(|door| rustix::io::write(door, b"0").map(drop)).map_err(io::Error::from)
}

/// The files of a group that hold a limit: name, value, and whether its absence is an error.
fn limit_files(controller: &str, unified: bool, limits: &Limits) -> Vec<(&'static str, String, bool)> {
    let memory = limits.memory_bytes_max.to_string();
    let pids = limits.pids_max.to_string();
    let quota = u64::from(limits.cpu_millis_max) * CPU_PERIOD_US / 1000;
    match (controller, unified) {
        // Swap is off where it can be: a cell that thrashes the host's disk is no cell within its limits.
        ("memory", true) => {
            let margin = (limits.memory_bytes_max / 16).min(MEMORY_MARGIN_BYTES_MAX);
            vec![
                ("memory.max", memory, true),
                ("memory.high", (limits.memory_bytes_max - margin).to_string(), true),
                ("memory.swap.max", "0".to_owned(), false),
            ]
        }
        ("memory", false) => {
            vec![("memory.limit_in_bytes", memory.clone(), true), ("memory.memsw.limit_in_bytes", memory, false)]
        }
        ("cpu", true) => vec![
            ("cpu.max", format!("{quota} {CPU_PERIOD_US}"), true),
            ("cpu.weight", limits.cpu_weight.to_string(), true),
        ],
        ("cpu", false) => vec![
            ("cpu.cfs_period_us", CPU_PERIOD_US.to_string(), true),
            ("cpu.cfs_quota_us", quota.to_string(), true),
            // 1024 shares are usual there, and 2 the least.
            ("cpu.shares", (u64::from(limits.cpu_weight) * 1024 / 100).max(2).to_string(), true),
        ],
        _ => vec![("pids.max", pids, true)],
    }
}

/// Writes limits; the file is named that can't be written and has to be.
fn write_limits(group: &OwnedFd, files: &[(&'static str, String, bool)]) -> io::Result<()> {
    for (file, value, required) in files {
        match write(group, file, value) {
            Err(error) if *required => return Err(io::Error::new(error.kind(), format!("{file}: {error}"))),
            _ => {}
        }
    }
    Ok(())
}

fn limit_disks(group: &OwnedFd, speeds: &[String]) -> Result<(), Failure> {
    speeds.iter().try_for_each(|speed| write(group, "io.max", speed)).step("limit the speed of disks")
}

/// The disk on which a folder lies, whole if that is a part of it: of parts the kernel limits nothing. `None` for a file system
/// that is on none, or on several.
fn disk_of(folder: &OwnedFd) -> Option<String> {
    let device = rustix::fs::fstat(folder).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let disk = if place.join("partition").exists() { place.join("../dev") } else { place.join("dev") };
    std::fs::read_to_string(disk).ok().map(|numbers| numbers.trim().to_owned())
}

/// Changes the memory that a group may have; gives how much it uses, if that is more and the kernel can't take it away.
/// Nothing is killed: who lowers a limit wants to know what it would have cost.
fn change_memory(group: &OwnedFd, unified: bool, limits: &Limits) -> io::Result<Option<u64>> {
    let mut files = limit_files("memory", unified, limits);
    let used = |file| text(group, file).trim().parse().unwrap_or(0);
    if unified {
        // Version 2 would kill. Above `memory.high` it takes away what it can, at once, and kills nothing.
        let high = text(group, "memory.high");
        write(group, "memory.high", &limits.memory_bytes_max.to_string())?;
        let bytes = used("memory.current");
        if bytes > limits.memory_bytes_max {
            write(group, "memory.high", high.trim())?;
            return Ok(Some(bytes));
        }
    } else if limits.memory_bytes_max > used("memory.limit_in_bytes") {
        // Memory with swap can't be less than without.
        files.reverse();
    }
    match write_limits(group, &files) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(Some(used("memory.usage_in_bytes"))),
        written => written.map(|()| None),
    }
}

fn memory(group: &OwnedFd, unified: bool) -> Memory {
    let [now, peak, most, counter] = if unified {
        ["memory.current", "memory.peak", "memory.max", "memory.events"]
    } else {
        ["memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control"]
    };
    let [bytes, bytes_peak, bytes_max] = [now, peak, most].map(|file| text(group, file).trim().parse().ok());
    Memory { bytes, bytes_peak, bytes_max, kills: number(&text(group, counter), "oom_kill"), victim: None }
}

/// The most memory that a group may have by its own limit, in bytes.
fn memory_limit(group: &OwnedFd) -> Option<u64> {
    ["memory.max", "memory.limit_in_bytes"].into_iter().find_map(|file| text(group, file).trim().parse().ok())
}

fn cpu(group: &OwnedFd, unified: bool) -> Cpu {
    let stat = text(group, "cpu.stat");
    let (throttled_us, quota) = if unified {
        (number(&stat, "throttled_usec"), text(group, "cpu.max"))
    } else {
        (number(&stat, "throttled_time") / 1000, text(group, "cpu.cfs_quota_us"))
    };
    let quota = quota.split_whitespace().next().and_then(|quota| quota.parse::<u64>().ok());
    Cpu { used_us: None, throttled_us: Some(throttled_us), millis_max: quota.map(|us| us * 1000 / CPU_PERIOD_US) }
}

fn pids(group: &OwnedFd) -> Pids {
    let [count, peak, max] =
        ["pids.current", "pids.peak", "pids.max"].map(|file| text(group, file).trim().parse().ok());
    Pids { count, peak, max, refusals: number(&text(group, "pids.events"), "max") }
}

/// Where the first mount is whose type and super block options please `wanted` (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut rest = rest.split(' ');
        let (kind, options) = (rest.next()?, rest.nth(1)?);
        wanted(kind, options).then(|| fields.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The folders below which the groups of a host's cells are, in every hierarchy; none that isn't there.
pub(crate) fn groups_of_all(name: &str) -> io::Result<Vec<OwnedFd>> {
    roots()?
        .iter()
        .map(|root| root.join(name))
        .filter(|group| group.is_dir())
        .map(|group| crate::mount::folder(&group))
        .collect()
}

/// The limits of memory of all cells' groups together, and how much they may have by the groups above them, if that is limited;
/// in bytes.
pub(crate) fn memory_of_all(name: &str) -> io::Result<(u64, Option<u64>)> {
    for root in roots()?.iter().filter(|root| root.join(name).is_dir()) {
        let folder = crate::mount::folder(&root.join(name))?;
        // Of version 1, another controller's have none.
        if ["memory.max", "memory.limit_in_bytes"].iter().any(|file| !text(&folder, file).is_empty()) {
            let given = given(&folder, None)?;
            return Ok((given, groups_above(root, name)?.iter().filter_map(memory_limit).min()));
        }
    }
    Ok((0, None))
}

/// Where the hierarchies are in which cells get groups; of version 2, for who isn't root, what was delegated.
fn roots() -> io::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let user = rustix::process::geteuid();
    let unified = mount_point(&mounts, |kind, _| kind == "cgroup2");
    let unified = if user.is_root() { unified } else { unified.and_then(|root| delegated(&root, user.as_raw())) };
    let of_controller = |controller: &str| {
        mount_point(&mounts, |kind, options| kind == "cgroup" && options.split(',').any(|one| one == controller))
    };
    Ok(unified.into_iter().chain(CONTROLLERS.into_iter().filter_map(of_controller)).collect())
}

/// The limits of memory of the projects' groups below `folder`, but one's, together, in bytes.
fn given(folder: &OwnedFd, but: Option<&ProjectId>) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    for entry in Dir::read_from(crate::mount::open_beneath(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY)?)? {
        let entry = entry?;
        let project = entry.file_name().to_str().ok().and_then(|name| ProjectId::parse(name).ok());
        let Some(project) = project.filter(|project| Some(project) != but) else { continue };
        // One that ends just now has none any more.
        let limit = open_group(folder, &project).ok().and_then(|group| memory_limit(&group));
        bytes = bytes.saturating_add(limit.unwrap_or(0));
    }
    Ok(bytes)
}

/// Whether processes are in a project's group below `folder`; of version 2, also in groups below that.
pub(crate) fn is_populated(folder: &OwnedFd, project: &ProjectId) -> bool {
    open_group(folder, project).is_ok_and(|group| {
        number(&text(&group, "cgroup.events"), "populated") > 0 || !text(&group, "cgroup.procs").trim().is_empty()
    })
}

/// The highest group below `root`, a mount of version 2, that this process is in and that belongs to a user: what the host's
/// service manager has delegated to that user.
pub fn delegated(root: &Path, uid: u32) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut group = root.to_owned();
    Path::new(own).components().find_map(|part| {
        group.push(part);
        let processes = std::fs::metadata(group.join("cgroup.procs")).ok()?;
        (processes.uid() == uid).then(|| group.clone())
    })
}

fn remedy(standing: Standing) -> &'static str {
    match standing {
        Standing::Root => "mount cgroup2 at /sys/fs/cgroup with this controller, or have it delegated",
        Standing::User => {
            "start cloister below your own service manager, by `systemd-run --user --scope cloister` or as a user's service, and \
             have memory, cpu and pids delegated to it; or set cgroup = \"none\", and cells have none of these limits"
        }
    }
}

/// Makes the group `name` (which may be a path) and gives its folder.
fn make_folder(root: &Path, name: &str) -> io::Result<OwnedFd> {
    let path = root.join(name);
    std::fs::create_dir_all(&path)?;
    crate::mount::folder(&path)
}

/// The group `name` below `root`, and all between and above it that can be seen.
fn groups_above(root: &Path, name: &str) -> io::Result<Vec<OwnedFd>> {
    let has_limit = |group: &&Path| group.join("cgroup.procs").exists();
    root.join(name).ancestors().take_while(has_limit).map(crate::mount::folder).collect()
}

/// As [`make_folder`], with controllers handed down on the way: which are there for cells.
fn prepare_unified(root: &Path, name: &str) -> io::Result<(OwnedFd, Vec<&'static str>)> {
    let mut group = root.to_owned();
    for part in Path::new(name).components().map(Some).chain([None]) {
        let present = std::fs::read_to_string(group.join("cgroup.controllers"))?;
        for controller in CONTROLLERS.iter().chain([&IO]).filter(|controller| has(&present, controller)) {
            // Refused where processes live in the group itself; then the controller is missing below, and that is found out there.
            let _ = std::fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        if let Some(part) = part {
            group.push(part);
            std::fs::create_dir_all(&group)?;
        }
    }
    let handed_down = std::fs::read_to_string(group.join("cgroup.subtree_control"))?;
    let controllers = CONTROLLERS.into_iter().filter(|wanted| has(&handed_down, wanted)).collect();
    Ok((crate::mount::folder(&group)?, controllers))
}

/// Whether a list of controllers has one.
fn has(controllers: &str, wanted: &str) -> bool {
    controllers.split_whitespace().any(|one| one == wanted)
}

fn open_group(folder: &OwnedFd, project: &ProjectId) -> io::Result<OwnedFd> {
    crate::mount::folder_beneath(folder, project.as_str())
}

/// Kills every process of a group. Version 1 has no call for that, and a process may fork between two reads: callers repeat.
fn kill(group: &OwnedFd, unified: bool) -> io::Result<()> {
    if unified {
        return write(group, "cgroup.kill", "1");
    }
    let file = rustix::fs::openat(group, "cgroup.procs", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let pids = io::read_to_string(std::fs::File::from(file))?;
    for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn write(group: &OwnedFd, file: &str, value: &str) -> io::Result<()> {
    rustix::io::write(open_for_writing(group, file)?, value.as_bytes())?;
    Ok(())
}

/// A file's text; empty if this kernel doesn't have it.
fn text(group: &OwnedFd, file: &str) -> String {
    let opened = rustix::fs::openat(group, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let read = opened.map_err(io::Error::from).and_then(|file| io::read_to_string(std::fs::File::from(file)));
    read.unwrap_or_default()
}

fn open_for_writing(group: &OwnedFd, file: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(group, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_type_and_controller() {
        let mounts = "24 30 0:22 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                      25 30 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let v1 = |name: &'static str| {
            mount_point(mounts, move |kind, options| kind == "cgroup" && options.split(',').any(|one| one == name))
        };
        assert_eq!(mount_point(mounts, |kind, _| kind == "cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(v1("cpu"), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(v1("memory"), None);
    }

    #[test]
    fn limits_are_written_in_the_units_of_each_version() {
        let limits = Limits {
            memory_bytes_max: 1 << 30,
            cpu_millis_max: 1500,
            pids_max: 100,
            cpu_weight: 50,
            ..Limits::default()
        };
        let named = |controller, unified| -> Vec<_> {
            let files = limit_files(controller, unified, &limits);
            files.into_iter().map(|(file, value, _)| format!("{file}={value}")).collect()
        };
        assert_eq!(named("cpu", true), ["cpu.max=150000 100000", "cpu.weight=50"]);
        assert_eq!(named("cpu", false), ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000", "cpu.shares=512"]);
        let memory = ["memory.max=1073741824", "memory.high=1056964608", "memory.swap.max=0"];
        assert_eq!(named("memory", true), memory);
        assert_eq!(limit_files("memory", false, &limits)[0], ("memory.limit_in_bytes", "1073741824".to_owned(), true));
        assert_eq!(limit_files("pids", true, &limits), [("pids.max", "100".to_owned(), true)]);
    }
}
