//! What is really enforced on a running cell, measure by measure in the order of docs/security.md, as the kernel tells it of
//! the cell's processes. Nothing of it is entered, and nothing is asked of it: what it says could be a tenant's word.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use sandbox::measures::{IDS_PER_CELL, MASKED, NO_NAMESPACES, READ_ONLY, capabilities};
use sandbox::spec::ProjectId;

use super::{Finding, cgroups, kernel, kernel_text};
use crate::config::Config;

/// Namespaces of a cell, as /proc/<pid>/ns names them.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Mounts of a cell, and what each must be.
const MOUNTS: [(&str, &[&str]); 7] = [
    ("/", &["nosuid", "nodev"]),
    ("/dev", &["ro", "nosuid", "noexec"]),
    ("/dev/pts", &["nosuid", "noexec"]),
    ("/dev/shm", &["nosuid", "nodev", "noexec"]),
    ("/proc", &["nosuid", "nodev", "noexec"]),
    ("/sys", &["ro", "nosuid", "nodev", "noexec"]),
    ("/workspace", &["nosuid", "nodev"]),
];

/// Limits of a cell: what, and the files of its group that hold it in version 2 and in version 1. Those of swap are written
/// where the kernel counts it.
const LIMITS: [(&str, [&str; 2], bool); 4] = [
    ("memory limit", ["memory.max", "memory.limit_in_bytes"], true),
    ("swap limit", ["memory.swap.max", "memory.memsw.limit_in_bytes"], false),
    ("processor limit", ["cpu.max", "cpu.cfs_quota_us"], true),
    ("process limit", ["pids.max", "pids.max"], true),
];

/// From here on a number of version 1 means that there is no limit: the largest is rounded down to a page.
const UNLIMITED: u64 = i64::MAX as u64 - 0xffff;

/// What to do about a measure that should hold and doesn't.
const REPORT: &str = "stop the cell, and report this as docs/security.md says";

/// A process of the cell, as the kernel tells of it.
struct Process {
    place: PathBuf,
    status: String,
}

/// How far each measure is enforced.
pub(super) fn findings(config: &Config, project: &ProjectId) -> anyhow::Result<Vec<Finding>> {
    ensure!(rustix::process::geteuid().is_root(), "only root sees what a cell's processes have: try it with sudo");
    let groups = cgroups::groups(config, project);
    let processes = processes(&groups);
    let init = processes.iter().find(|process| process.field("NSpid").split_whitespace().nth(1) == Some("1"));
    let none = || anyhow!("project {project} has no running cell: start one with `cloister run {project}`");
    let init = init.ok_or_else(none)?;
    let mounts = init.text("mountinfo");
    let mut found = vec![namespaces(init), ids(init), program(init), network(&init.text("net/dev"))];
    found.extend(LIMITS.map(|(thing, files, required)| limit(thing, files, required, &groups)));
    found.extend([
        mount_flags(&mounts),
        covered(&mounts, "read-only paths", &READ_ONLY, |options| has(options, "ro")),
        covered(&mounts, "masked paths", &MASKED, |_| true),
        nested(),
        process_limits(&init.text("limits")),
        held_capabilities(&processes),
        no_new_privileges(&processes),
        kernel::landlock(),
        filters(&processes, init),
    ]);
    Ok(found)
}

impl Process {
    fn text(&self, name: &str) -> String {
        kernel_text(&self.place.join(name).display().to_string())
    }

    /// A field of its status; empty if this kernel has none of that name.
    fn field(&self, name: &str) -> &str {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    }

    fn set(&self, name: &str) -> u64 {
        // What can't be read is taken for everything.
        u64::from_str_radix(self.field(name), 16).unwrap_or(u64::MAX)
    }

    fn name(&self) -> String {
        format!("{} ({})", self.place.file_name().unwrap_or_default().display(), self.field("Name"))
    }
}

/// The processes in a cell's groups; one that ends meanwhile is left out.
fn processes(groups: &[PathBuf]) -> Vec<Process> {
    let pids: BTreeSet<u32> = groups
        .iter()
        .map(|group| kernel_text(&group.join("cgroup.procs").display().to_string()))
        .flat_map(|pids| pids.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let process = |pid: u32| {
        let place = Path::new("/proc").join(pid.to_string());
        let status = kernel_text(&place.join("status").display().to_string());
        (!status.is_empty() && !status.contains("State:\tZ")).then_some(Process { place, status })
    };
    pids.into_iter().filter_map(process).collect()
}

fn namespaces(init: &Process) -> Finding {
    const THING: &str = "namespaces";
    let shared = |name: &&str| {
        let of = |place: &Path| std::fs::read_link(place.join("ns").join(name)).ok();
        let its = of(&init.place);
        its.is_none() || its == of(Path::new("/proc/self"))
    };
    let shared: Vec<&str> = NAMESPACES.into_iter().filter(|name| shared(name)).collect();
    match shared[..] {
        [] => Finding::ok(THING, NAMESPACES.join(" ")),
        _ => Finding::fails(THING, format!("not its own: {}", shared.join(" ")), REPORT),
    }
}

fn ids(init: &Process) -> Finding {
    const THING: &str = "host ids";
    let maps = [init.text("uid_map"), init.text("gid_map")];
    let bases = maps.each_ref().map(|map| exclusive(map));
    match bases {
        [Some(users), Some(groups)] if users == groups => {
            Finding::ok(THING, format!("{users} to {}", u64::from(users) + u64::from(IDS_PER_CELL) - 1))
        }
        _ => Finding::fails(THING, format!("mapped as {:?} and {:?}", maps[0].trim(), maps[1].trim()), REPORT),
    }
}

/// The first host id of a map that is one range, and none of the host's users.
fn exclusive(map: &str) -> Option<u32> {
    let numbers: Vec<u32> = map.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    match numbers[..] {
        [0, base, count] if base >= IDS_PER_CELL && count == IDS_PER_CELL => Some(base),
        _ => None,
    }
}

fn program(init: &Process) -> Finding {
    const THING: &str = "init's program";
    let program = std::fs::read_link(init.place.join("exe")).unwrap_or_default();
    if program.to_string_lossy().starts_with("/memfd:") {
        return Finding::ok(THING, "a copy in memory");
    }
    Finding::fails(THING, format!("the file {}", program.display()), REPORT)
}

fn network(devices: &str) -> Finding {
    const THING: &str = "network";
    let names: Vec<&str> = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    match names[..] {
        ["lo"] => Finding::ok(THING, "loopback alone"),
        _ => Finding::fails(THING, format!("the interfaces {}", names.join(" ")), REPORT),
    }
}

fn limit(thing: &'static str, files: [&str; 2], required: bool, groups: &[PathBuf]) -> Finding {
    let path = files.iter().find_map(|file| groups.iter().map(|group| group.join(file)).find(|path| path.exists()));
    let value = path.as_ref().map(|path| kernel_text(&path.display().to_string()));
    match (path, value.as_deref().and_then(limited)) {
        (Some(path), Some(value)) => Finding::ok(thing, format!("{value} in {}", path.display())),
        (Some(path), None) => Finding::fails(thing, format!("none in {}", path.display()), REPORT),
        (None, _) if required => Finding::fails(thing, "no cgroup counts it", REPORT),
        (None, _) => Finding::lacks(
            thing,
            "the kernel doesn't count it",
            "boot with swapaccount=1, or with version 2 of cgroups",
        ),
    }
}

/// What a limit is, in the words of the kernel, if there is one.
fn limited(value: &str) -> Option<&str> {
    let first = value.split_whitespace().next()?;
    let number: u64 = first.parse().ok()?;
    (number < UNLIMITED).then_some(value.trim())
}

fn mount_flags(mounts: &str) -> Finding {
    const THING: &str = "mounts";
    let wrong: Vec<String> = MOUNTS
        .iter()
        .filter_map(|(place, flags)| match options(mounts, place) {
            None => Some(format!("no {place}")),
            Some(options) => {
                let missing: Vec<&str> = flags.iter().copied().filter(|flag| !has(options, flag)).collect();
                (!missing.is_empty()).then(|| format!("{place} is not {}", missing.join(",")))
            }
        })
        .collect();
    match wrong[..] {
        [] => Finding::ok(THING, "nosuid and nodev where they should be; /dev and /sys read-only"),
        _ => Finding::fails(THING, wrong.join(", "), REPORT),
    }
}

/// Whether each path that this kernel has is covered by a mount of its own.
fn covered(mounts: &str, thing: &'static str, paths: &[&str], holds: impl Fn(&str) -> bool) -> Finding {
    let present: Vec<String> = paths.iter().map(|path| format!("/{path}")).filter(|path| exists(path)).collect();
    let open: Vec<&str> =
        present.iter().map(String::as_str).filter(|path| !options(mounts, path).is_some_and(&holds)).collect();
    match open[..] {
        [] => Finding::ok(thing, format!("{} of {}, the kernel has no more", present.len(), paths.len())),
        _ => Finding::fails(thing, format!("open: {}", open.join(" ")), REPORT),
    }
}

fn exists(path: &str) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}

/// The options of the uppermost mount at a place (proc_pid_mountinfo(5)).
fn options<'a>(mounts: &'a str, place: &str) -> Option<&'a str> {
    let at = |line: &'a str| {
        let mut fields = line.split(' ').skip(4);
        (fields.next() == Some(place)).then(|| fields.next()).flatten()
    };
    mounts.lines().filter_map(at).next_back()
}

fn has(options: &str, flag: &str) -> bool {
    options.split(',').any(|option| option == flag)
}

/// Each namespace of users has its own values, which only its own processes see. But a cell in which one that the kernel has
/// can't be set doesn't start.
fn nested() -> Finding {
    const THING: &str = "nested namespaces";
    let missing: Vec<&str> = NO_NAMESPACES.into_iter().filter(|path| !exists(&format!("/proc/sys/{path}"))).collect();
    match missing[..] {
        [] => Finding::ok(THING, "set to none, without which it would not have started"),
        _ => Finding::lacks(
            THING,
            format!("the kernel has no {}; the system call filters alone forbid them", missing.join(" ")),
            "install a kernel with all kinds of namespaces",
        ),
    }
}

fn process_limits(limits: &str) -> Finding {
    const THING: &str = "limits of processes";
    let hard = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u64>().ok())
    };
    match (hard("Max open files"), hard("Max core file size")) {
        (Some(files), Some(0..=1)) => Finding::ok(THING, format!("{files} open files, no core")),
        _ => Finding::fails(THING, "open files or cores have none", REPORT),
    }
}

fn held_capabilities(processes: &[Process]) -> Finding {
    const THING: &str = "capabilities";
    let more = |process: &&Process| {
        let sets = ["CapBnd", "CapPrm", "CapEff"].map(|name| process.set(name) & !capabilities());
        sets != [0; 3] || ["CapInh", "CapAmb"].iter().any(|name| process.set(name) != 0)
    };
    of_all(THING, processes, more, || format!("at most {:016x}", capabilities()))
}

fn no_new_privileges(processes: &[Process]) -> Finding {
    of_all("no_new_privs", processes, |process| process.field("NoNewPrivs") != "1", || "set".to_owned())
}

/// A program may add filters of its own; none is ever taken away.
fn filters(processes: &[Process], init: &Process) -> Finding {
    const THING: &str = "system calls";
    let count = |process: &Process| process.field("Seccomp_filters").parse::<u32>().ok();
    let fewer = |process: &&Process| process.field("Seccomp") != "2" || count(process) < count(init);
    // The number is told from Linux 5.9 on.
    of_all(THING, processes, fewer, || count(init).map_or("filtered".to_owned(), |count| format!("{count} filters")))
}

/// A measure that holds for every process of a cell, or not.
fn of_all(
    thing: &'static str,
    processes: &[Process],
    wrong: impl Fn(&&Process) -> bool,
    right: impl Fn() -> String,
) -> Finding {
    match processes.iter().find(wrong) {
        None => Finding::ok(thing, format!("{}, on {} processes", right(), processes.len())),
        Some(process) => Finding::fails(thing, format!("not on process {}", process.name()), REPORT),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn process(status: &str) -> Process {
        Process { place: "/proc/7".into(), status: format!("Name:\tsh\n{status}") }
    }

    #[test]
    fn a_limit_of_the_kernels_largest_number_is_none() {
        assert_eq!(limited("1073741824\n"), Some("1073741824"));
        assert_eq!(limited("150000 100000\n"), Some("150000 100000"));
        assert_eq!(limited("0\n"), Some("0"));
        for none in ["max\n", "max 100000\n", "-1\n", "9223372036854771712\n", ""] {
            assert_eq!(limited(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_map_of_the_hosts_own_ids_is_no_exclusive_one() {
        assert_eq!(exclusive("         0  268435456      65536\n"), Some(268_435_456));
        for wrong in ["0 0 4294967295\n", "0 0 65536", "0 268435456 65536\n65536 0 1\n", "1 268435456 65536", ""] {
            assert_eq!(exclusive(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_uppermost_mount_counts() {
        let mounts = "1 0 0:1 / /proc rw,nosuid - proc proc rw\n2 1 0:1 /sys /proc/sys ro,nosuid - proc proc rw\n\
                      3 1 0:2 / /proc rw - tmpfs tmpfs rw\n";
        assert_eq!(options(mounts, "/proc"), Some("rw"));
        assert_eq!(options(mounts, "/proc/sys"), Some("ro,nosuid"));
        assert_eq!(options(mounts, "/sys"), None);
        assert_eq!(mount_flags(mounts).state, State::Fails);
        let open = covered(mounts, "read-only paths", &["proc/sys", "proc/self"], |options| has(options, "ro"));
        assert_eq!(open.detail, "open: /proc/self");
    }

    #[test]
    fn one_process_without_a_measure_is_enough_to_name_it() {
        let good = "NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\nCapInh:\t0\nCapPrm:\t1\nCapEff:\t1\nCapBnd:\t1\nCapAmb:\t0\n";
        let bad =
            good.replace(":\t1", ":\t0").replace("filters:\t3", "filters:\t2").replace("CapBnd:\t0", "CapBnd:\t4");
        let both = [process(good), process(&bad)];
        for found in [held_capabilities(&both), no_new_privileges(&both), filters(&both, &both[0])] {
            assert_eq!(
                (found.state, found.detail.as_str()),
                (State::Fails, "not on process 7 (sh)"),
                "{}",
                found.thing
            );
        }
        let alone = &both[..1];
        for found in [held_capabilities(alone), no_new_privileges(alone), filters(alone, &alone[0])] {
            assert_eq!(found.state, State::Ok, "{found}");
        }
        assert_eq!(held_capabilities(&[process("")]).state, State::Fails, "what can't be read isn't taken for none");
    }

    #[test]
    fn an_interface_beside_loopback_is_told() {
        let head = "Inter-|   Receive\n face |bytes\n";
        assert_eq!(network(&format!("{head}    lo:   0  0\n")).state, State::Ok);
        assert_eq!(network(&format!("{head}    lo:   0\n  eth0: 0\n")).detail, "the interfaces lo eth0");
        assert_eq!(network("").state, State::Fails);
    }
}
