//! The cgroup of a cell: its limits, its members, its end.
//!
//! Version 2 is used wherever it is mounted, for life cycle and for every controller it has; a controller that only
//! version 1 has is used there (hybrid hosts). A limit that can't be enforced is an error, never a warning.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Context, Failure};
use crate::oom::OomWatch;
use crate::spec::{Limits, ProjectId};

/// Period of the processor limit in microseconds, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Longest wait for the processes of a cgroup to be gone: SIGKILL needs no cooperation, only time under load.
const EMPTY_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether they are: dying takes a cell about a millisecond.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// The controllers a cell is limited by.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

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

/// Where cells' groups are made.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

/// A cell's group in every hierarchy.
#[derive(Debug)]
pub(crate) struct Leaf {
    groups: Vec<(OwnedFd, bool)>,
    /// For the cell's init; none where the kernel doesn't count.
    pub(crate) oom: Option<OomWatch>,
}

impl Cgroups {
    /// Finds the host's hierarchies and makes the group `name` in each that is needed.
    pub(crate) fn prepare(name: &str) -> Result<Self, Failure> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").step("read the list of mounts")?;
        let mut hierarchies = Vec::new();
        let mut missing = CONTROLLERS.to_vec();
        if let Some(root) = mount_point(&mounts, |kind, _| kind == "cgroup2") {
            let (folder, controllers) = prepare_unified(&root, name).step_with(|| {
                format!("make the cgroup {name} below {} (are cgroups delegated to this process?)", root.display())
            })?;
            missing.retain(|controller| !controllers.contains(controller));
            hierarchies.push(Hierarchy { folder, unified: true, controllers });
        }
        for controller in missing {
            let root = mount_point(&mounts, |kind, options| {
                kind == "cgroup" && options.split(',').any(|option| option == controller)
            });
            let root = root.ok_or_else(|| {
                let remedy = "mount cgroup2 at /sys/fs/cgroup with this controller, or have it delegated";
                Failure::new(format!("find the cgroup controller {controller}"), remedy)
            })?;
            let folder =
                make_folder(&root, name).step_with(|| format!("make the cgroup {name} below {}", root.display()))?;
            hierarchies.push(Hierarchy { folder, unified: false, controllers: vec![controller] });
        }
        Ok(Self { hierarchies })
    }

    /// Makes a cell's group with its limits written.
    pub(crate) fn create(&self, project: &ProjectId, limits: &Limits) -> Result<Leaf, Failure> {
        let mut leaf = Leaf { groups: Vec::new(), oom: None };
        for hierarchy in &self.hierarchies {
            match rustix::fs::mkdirat(&hierarchy.folder, project.as_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Failure::new("make the cell's cgroup", error)),
            }
            let group = open_group(&hierarchy.folder, project).step("open the cell's cgroup")?;
            for controller in &hierarchy.controllers {
                for (file, value, required) in limit_files(controller, hierarchy.unified, limits) {
                    match write(&group, file, &value) {
                        Err(error) if required => {
                            return Err(Failure::new(format!("limit {controller} ({file})"), error));
                        }
                        _ => {}
                    }
                }
            }
            if hierarchy.controllers.contains(&"memory") {
                leaf.oom = OomWatch::new(group.as_fd(), hierarchy.unified).ok();
            }
            leaf.groups.push((group, hierarchy.unified));
        }
        Ok(leaf)
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
        ("memory", true) => vec![("memory.max", memory, true), ("memory.swap.max", "0".to_owned(), false)],
        ("memory", false) => {
            vec![("memory.limit_in_bytes", memory.clone(), true), ("memory.memsw.limit_in_bytes", memory, false)]
        }
        ("cpu", true) => vec![("cpu.max", format!("{quota} {CPU_PERIOD_US}"), true)],
        ("cpu", false) => {
            vec![("cpu.cfs_period_us", CPU_PERIOD_US.to_string(), true), ("cpu.cfs_quota_us", quota.to_string(), true)]
        }
        _ => vec![("pids.max", pids, true)],
    }
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

/// Makes the group `name` (which may be a path) and gives its folder.
fn make_folder(root: &Path, name: &str) -> io::Result<OwnedFd> {
    let path = root.join(name);
    std::fs::create_dir_all(&path)?;
    crate::mount::folder(&path)
}

/// As [`make_folder`], with controllers handed down on the way: which are there for cells.
fn prepare_unified(root: &Path, name: &str) -> io::Result<(OwnedFd, Vec<&'static str>)> {
    let mut group = root.to_owned();
    for part in Path::new(name).components().map(Some).chain([None]) {
        let present = std::fs::read_to_string(group.join("cgroup.controllers"))?;
        for controller in
            CONTROLLERS.iter().filter(|controller| present.split_whitespace().any(|one| one == **controller))
        {
            // Refused where processes live in the group itself; then the controller is missing below, and that is found out there.
            let _ = std::fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        if let Some(part) = part {
            group.push(part);
            std::fs::create_dir_all(&group)?;
        }
    }
    let handed_down = std::fs::read_to_string(group.join("cgroup.subtree_control"))?;
    let controllers =
        CONTROLLERS.into_iter().filter(|wanted| handed_down.split_whitespace().any(|one| one == *wanted)).collect();
    Ok((crate::mount::folder(&group)?, controllers))
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
        let limits = Limits { memory_bytes_max: 1 << 30, cpu_millis_max: 1500, pids_max: 100, open_files_max: 1024 };
        assert_eq!(limit_files("cpu", true, &limits), [("cpu.max", "150000 100000".to_owned(), true)]);
        assert_eq!(limit_files("memory", false, &limits)[0], ("memory.limit_in_bytes", "1073741824".to_owned(), true));
        assert_eq!(limit_files("pids", true, &limits), [("pids.max", "100".to_owned(), true)]);
    }
}
