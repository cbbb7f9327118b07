//! What the kernel can do: its version, namespaces, mounts, filters, terminals, and whether it shows us all of /proc.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use landlock::{Compatible, Ruleset, RulesetAttr, Scope};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, OpenTreeFlags, fsconfig_set_fd, fsconfig_set_flag, fsopen, open_tree};
use rustix::process::{PidfdFlags, geteuid, getpid, pidfd_open};
use sandbox::confine::{self, Enforced};

use super::{Finding, State, kernel_text};

/// The first kernel that overlays layers with mapped owners.
const VERSION_MIN: (u32, u32) = (5, 19);

/// Namespaces of a cell: the name below /proc/self/ns, and the part of /proc/sys/user/max_*_namespaces.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// What an ordinary user needs of the kernel.
const WITHOUT_ROOT: &str = "without root";

/// File systems that a cell mounts.
const FILE_SYSTEMS: [&str; 6] = ["overlay", "tmpfs", "proc", "sysfs", "devpts", "mqueue"];

/// Terminals that must be left for the host and a few cells.
const TERMINALS_MIN: u64 = 256;

/// All findings about the kernel.
pub(super) fn findings() -> Vec<Finding> {
    let mounts = kernel_text("/proc/self/mountinfo");
    let root = geteuid().is_root();
    vec![
        version(kernel_text("/proc/sys/kernel/osrelease").trim()),
        namespaces(),
        if root { without_root(true) } else { own_namespace() },
        file_systems(&kernel_text("/proc/filesystems")),
        overlay(),
        whole(&mounts, "/proc", is_copied),
        whole(&mounts, "/sys", is_copied),
        calls(),
        seccomp(&kernel_text("/proc/sys/kernel/seccomp/actions_avail")),
        landlock(),
        server(confine::support()),
        terminals(&kernel_text("/proc/sys/kernel/pty/max"), &kernel_text("/proc/sys/kernel/pty/nr")),
    ]
}

fn version(release: &str) -> Finding {
    const THING: &str = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= VERSION_MIN => Finding::ok(THING, release),
        _ => {
            let (major, minor) = VERSION_MIN;
            let remedy = format!("install Linux {major}.{minor} or newer, which overlays layers with mapped owners");
            Finding::fails(THING, release, remedy)
        }
    }
}

fn namespaces() -> Finding {
    const THING: &str = "namespaces";
    let absent = NAMESPACES.iter().find(|name| !std::path::Path::new(&format!("/proc/self/ns/{name}")).exists());
    if let Some(name) = absent {
        return Finding::fails(
            THING,
            format!("the kernel has no {name} namespaces"),
            "install one of the distribution's kernels",
        );
    }
    let maximum = |name: &&&str| kernel_text(&format!("/proc/sys/user/max_{name}_namespaces")).trim() == "0";
    match NAMESPACES.iter().find(maximum) {
        Some(name) => {
            let parameter = format!("user.max_{name}_namespaces");
            let remedy =
                format!("sysctl -w {parameter}=65536, and the same in /etc/sysctl.d; in a container, leave it");
            Finding::fails(THING, format!("{parameter} is 0"), remedy)
        }
        None => Finding::ok(THING, NAMESPACES.join(" ")),
    }
}

/// Goes into a user namespace, as the launcher of an ordinary user does. What is in the way may show only when its capabilities
/// are used, so the switches are looked at first.
fn own_namespace() -> Finding {
    let switches = without_root(false);
    match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS) {
        Err(error) if switches.state == State::Ok => {
            let remedy = "see what forbids user namespaces: a container's seccomp profile, or a security module";
            Finding::fails(WITHOUT_ROOT, format!("can't make a user namespace: {error}"), remedy)
        }
        _ => switches,
    }
}

/// What the operators of some hosts switch off. Started by root, cells don't need it; as an ordinary user's they do.
fn without_root(root: bool) -> Finding {
    let switches = [
        ("kernel.unprivileged_userns_clone", "/proc/sys/kernel/unprivileged_userns_clone", "0", "1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "0",
        ),
    ];
    match switches.iter().find(|(_, path, off, _)| kernel_text(path).trim() == *off) {
        Some((name, _, off, on)) => {
            let detail = format!("{name} is {off}, so only root makes user namespaces");
            if root {
                let remedy = format!("nothing to do for cells that root starts; else sysctl -w {name}={on}");
                Finding::lacks(WITHOUT_ROOT, detail, remedy)
            } else {
                Finding::fails(
                    WITHOUT_ROOT,
                    detail,
                    format!("as root, sysctl -w {name}={on}, and the same in /etc/sysctl.d"),
                )
            }
        }
        None => Finding::ok(WITHOUT_ROOT, "every user may make user namespaces"),
    }
}

fn file_systems(list: &str) -> Finding {
    const THING: &str = "file systems";
    let has = |name: &str| list.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    // A module that isn't loaded yet is not in the list, and loaded when root mounts it first.
    match FILE_SYSTEMS.iter().find(|name| !has(name) && !available(name)) {
        Some(name) => {
            Finding::fails(THING, format!("no {name}"), format!("modprobe {name}, or install a kernel that has it"))
        }
        None => Finding::ok(THING, FILE_SYSTEMS.join(" ")),
    }
}

/// Whether a file system's context can be opened; that loads its module, as mounting does, and mounts nothing.
fn available(name: &str) -> bool {
    fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

fn overlay() -> Finding {
    const THING: &str = "overlay";
    let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(Errno::PERM) => {
            let remedy =
                "see the line `without root`; with AppArmor, a profile that allows userns for cloister does, too";
            return Finding::fails(THING, "can't be mounted in a user namespace", remedy);
        }
        Err(Errno::NOSYS) => {
            return Finding::fails(
                THING,
                "fsopen(2) is filtered away",
                "leave the container, or allow it in its seccomp profile",
            );
        }
        Err(error) => {
            return Finding::fails(THING, format!("{error}"), "modprobe overlay, or install a kernel that has it");
        }
    };
    if fsconfig_set_flag(context.as_fd(), "userxattr").is_err() {
        return Finding::fails(THING, "no userxattr", "install Linux 5.11 or newer");
    }
    match add_layer_by_descriptor(&context) {
        Ok(()) => Finding::ok(THING, "userxattr, layers by descriptor"),
        Err(_) => Finding::lacks(
            THING,
            "layers by path only",
            "nothing to do; with Linux 6.13 or newer a cell starts a little faster",
        ),
    }
}

/// Sets a layer in a context that is dropped without being mounted.
fn add_layer_by_descriptor(context: &OwnedFd) -> std::io::Result<()> {
    let layer = File::open("/")?;
    Ok(fsconfig_set_fd(context.as_fd(), "lowerdir+", layer.as_fd())?)
}

/// Whether all of /proc or /sys can be seen: the kernel lets a cell mount its own only then (mount_namespaces(7)). What is
/// mounted in it doesn't matter where the launcher has a copy without that.
fn whole(mounts: &str, root: &'static str, is_copied: fn(&str) -> bool) -> Finding {
    match mounts_below(mounts, root).find(|place| !may_be_covered(place)) {
        Some(place) if is_copied(root) => {
            Finding::ok(root, format!("{place} is covered by another mount, not for cells"))
        }
        Some(place) => Finding::fails(
            root,
            format!("{place} is covered by another mount, so a cell can't have a {root} of its own"),
            "run outside of the container, or give it an unmasked view (docker and podman: --security-opt systempaths=unconfined, unmask=ALL)",
        ),
        None => Finding::ok(root, "all of it is visible"),
    }
}

/// Whether a mount can be copied without what is mounted in it, as the launcher does: by root, and nothing of another user
/// namespace.
fn is_copied(root: &str) -> bool {
    open_tree(CWD, root, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).is_ok()
}

/// Where something is mounted below `root`.
fn mounts_below<'a>(mounts: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    let inner = move |place: &&str| place.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(inner)
}

/// Folders that the kernel keeps empty for others to mount on; what lies on them hides nothing.
fn may_be_covered(place: &str) -> bool {
    place == "/proc/sys/fs/binfmt_misc"
        || place == "/proc/fs/nfsd"
        || place == "/sys/firmware/efi/efivars"
        || place.starts_with("/sys/fs/")
        || place.starts_with("/sys/kernel/")
}

fn calls() -> Finding {
    const THING: &str = "system calls";
    let remedy = "install Linux 5.19 or newer; in a container, allow it in the seccomp profile";
    let beneath = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    if let Err(error) = beneath {
        return Finding::fails(THING, format!("openat2: {error}"), remedy);
    }
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Err(error) => Finding::fails(THING, format!("pidfd_open: {error}"), remedy),
        Ok(_) => Finding::ok(THING, "openat2 pidfd_open"),
    }
}

fn seccomp(actions: &str) -> Finding {
    const THING: &str = "seccomp";
    let missing =
        ["errno", "kill_process"].into_iter().find(|wanted| !actions.split_whitespace().any(|one| one == *wanted));
    match missing {
        None => Finding::ok(THING, "errno kill_process"),
        Some(action) => Finding::fails(
            THING,
            format!("the filter's action {action} is missing"),
            "install a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

/// Makes the very set of rules that a cell enters, and drops it.
pub(super) fn landlock() -> Finding {
    const THING: &str = "landlock";
    let rules = Ruleset::default()
        .set_compatibility(landlock::CompatLevel::HardRequirement)
        .scope(Scope::AbstractUnixSocket | Scope::Signal)
        .and_then(Ruleset::create);
    match rules {
        Ok(_) => Finding::ok(THING, "scopes of signals and abstract sockets"),
        Err(_) => Finding::lacks(
            THING,
            "no scopes of signals and abstract sockets; namespaces alone keep them apart",
            "Linux 6.12 or newer with landlock in the lsm= parameter adds a second wall",
        ),
    }
}

/// How far the server itself can be kept to its folders and its port.
fn server(enforced: Enforced) -> Finding {
    const THING: &str = "server's walls";
    let lacks = |detail| {
        Finding::lacks(THING, detail, "Linux 6.12 or newer with landlock in the lsm= parameter has all of its rules")
    };
    match enforced {
        Enforced::Fully => Finding::ok(THING, "system calls, files, TCP, signals"),
        Enforced::Partly => lacks("system calls and files; not all of TCP, truncating and signals"),
        Enforced::Not => lacks("system calls alone: taken over, it sees all that its user sees"),
    }
}

fn terminals(max: &str, used: &str) -> Finding {
    const THING: &str = "terminals";
    let (max, used) = (max.trim().parse::<u64>().unwrap_or(0), used.trim().parse::<u64>().unwrap_or(0));
    let free = max.saturating_sub(used);
    match free {
        0 => Finding::fails(THING, format!("all {max} are in use"), "sysctl -w kernel.pty.max=65536"),
        1..TERMINALS_MIN => Finding::lacks(THING, format!("{free} of {max} free"), "sysctl -w kernel.pty.max=65536"),
        _ => Finding::ok(THING, format!("{free} of {max} free")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (release, state) in [
            ("6.1.0-28-amd64", State::Ok),
            ("5.19.0", State::Ok),
            ("10.0", State::Ok),
            ("5.4.0-200-generic", State::Fails),
            ("5.2", State::Fails),
            ("", State::Fails),
            ("custom", State::Fails),
        ] {
            assert_eq!(version(release).state, state, "{release}");
        }
    }

    #[test]
    fn a_masked_file_of_proc_is_found() {
        let line = |place: &str| format!("22 27 0:21 / {place} rw,relatime - tmpfs tmpfs rw\n");
        let free = line("/proc") + &line("/proc/sys/fs/binfmt_misc") + &line("/processes/x");
        let whole = |mounts: &str, root| whole(mounts, root, |_| false);
        assert_eq!(whole(&free, "/proc").state, State::Ok);
        let masked = free + &line("/proc/kcore");
        assert_eq!(whole(&masked, "/proc").state, State::Fails);
        assert!(whole(&masked, "/proc").detail.starts_with("/proc/kcore "));
        assert_eq!(whole(&(line("/sys/fs/cgroup") + &line("/sys/kernel/debug")), "/sys").state, State::Ok);
        assert_eq!(whole(&line("/sys/firmware"), "/sys").state, State::Fails);
        assert_eq!(super::whole(&line("/sys/firmware"), "/sys", |_| true).state, State::Ok);
    }

    #[test]
    fn a_module_in_the_list_of_file_systems_is_found() {
        let list = "nodev\ttmpfs\nnodev\tproc\nnodev\tsysfs\nnodev\tdevpts\nnodev\tmqueue\nnodev\toverlay\n\text4\n";
        assert_eq!(file_systems(list).state, State::Ok);
    }

    #[test]
    fn a_server_without_all_of_its_walls_is_told() {
        assert_eq!(server(Enforced::Fully).state, State::Ok);
        assert_eq!(server(Enforced::Partly).state, State::Lacks);
        assert!(server(Enforced::Not).detail.contains("system calls alone"));
    }

    #[test]
    fn terminals_run_out() {
        assert_eq!(terminals("4096\n", "3\n").state, State::Ok);
        assert_eq!(terminals("4096\n", "4000\n").state, State::Lacks);
        assert_eq!(terminals("4096\n", "4096\n").state, State::Fails);
        assert_eq!(terminals("", "").state, State::Fails);
    }
}
