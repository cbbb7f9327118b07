//! The set-up of a cell as data: which steps make one, in which order and why. Pure; `step` carries it out.

use std::fmt;

use crate::spec::{CellSpec, Limits, Network};

/// A mount that the launcher has prepared outside, because only it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// The overlay of the image's layers under the cell's upper layer.
    Root,
    /// The device nodes.
    Devices,
    /// The project's workspace.
    Workspace,
}

/// A file system that the cell mounts itself, inside its namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Processes,
    System,
    Terminals,
    SharedMemory,
    Queues,
}

/// One step, carried out by the cell's first process in its new namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Become root of the cell, without groups, and invisible to debuggers.
    Root,
    /// Make all mounts private to this namespace.
    Private,
    /// Name the host.
    HostName(String),
    /// Bring loopback up.
    Loopback,
    /// Attach a prepared mount; [`Prepared::Root`] becomes the place of everything below.
    Attach(Prepared, &'static str),
    /// Write a file of the image.
    File(&'static str, String),
    /// Mount a file system.
    Mount(Kind, &'static str),
    /// Set a kernel parameter (a path below /proc/sys) of the cell's own namespaces.
    Parameter(&'static str, &'static str),
    /// Make a path read-only; one that this kernel doesn't have is skipped.
    ReadOnly(&'static str),
    /// Hide a path; one that this kernel doesn't have is skipped.
    Mask(&'static str),
    /// Make the root the root, and forget the host's mounts.
    Pivot,
    /// Limits of each process.
    ResourceLimits(Limits),
    /// Give up every capability but those of [`crate::step::CAPABILITIES`], for good.
    Capabilities,
    /// No program gains privileges by being executed.
    NoNewPrivileges,
    /// No signal and no abstract socket beyond the cell (where the kernel has Landlock).
    Landlock,
    /// Allow the listed system calls alone.
    Seccomp,
}

/// Paths of /proc and /sys that tell about the host or its hardware: Docker's list, and the host's load, on which anyone
/// could also set alarms.
pub const MASKED: [&str; 14] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/pressure",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/kernel/debug",
];

/// Paths of /proc that change the kernel.
pub const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// No namespace within a cell: most kernel escapes begin with one. Paths below /proc/sys.
pub const NO_NAMESPACES: [&str; 8] = [
    "user/max_user_namespaces",
    "user/max_mnt_namespaces",
    "user/max_pid_namespaces",
    "user/max_net_namespaces",
    "user/max_ipc_namespaces",
    "user/max_uts_namespaces",
    "user/max_cgroup_namespaces",
    "user/max_time_namespaces",
];

/// The steps for a cell.
pub(crate) fn plan(spec: &CellSpec) -> Vec<Step> {
    let name = spec.project.as_str();
    // First identity and mount propagation: nothing after this can reach the host's mount table.
    let mut steps = vec![Step::Root, Step::Private, Step::HostName(name.to_owned())];
    match spec.network {
        Network::None => steps.push(Step::Loopback),
    }
    steps.push(Step::Attach(Prepared::Root, "."));
    steps.extend([
        Step::File("etc/hostname", format!("{name}\n")),
        Step::File("etc/hosts", format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t{name}\n")),
        Step::Attach(Prepared::Devices, "dev"),
        Step::Mount(Kind::Terminals, "dev/pts"),
        Step::Mount(Kind::SharedMemory, "dev/shm"),
        Step::Mount(Kind::Queues, "dev/mqueue"),
        // While the host's /proc and /sys are still in sight: the kernel allows new ones only to who can see whole ones.
        Step::Mount(Kind::Processes, "proc"),
        Step::Mount(Kind::System, "sys"),
        Step::Attach(Prepared::Workspace, "workspace"),
    ]);
    steps.extend(READ_ONLY.map(Step::ReadOnly));
    steps.extend(MASKED.map(Step::Mask));
    steps.push(Step::Pivot);
    // After the last mount: even a detached one counts as a mount namespace.
    steps.extend(NO_NAMESPACES.map(|path| Step::Parameter(path, "0")));
    steps.push(Step::Parameter("net/ipv4/ip_unprivileged_port_start", "0"));
    // Privileges go last, each after what still needs it; the filter at the very end, since it forbids the rest.
    steps.extend([
        Step::ResourceLimits(spec.limits.clone()),
        Step::Capabilities,
        Step::NoNewPrivileges,
        Step::Landlock,
        Step::Seccomp,
    ]);
    steps
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "become root of the cell"),
            Self::Private => write!(f, "make mounts private"),
            Self::HostName(name) => write!(f, "set the host name {name}"),
            Self::Loopback => write!(f, "bring loopback up"),
            Self::Attach(Prepared::Root, _) => write!(f, "attach the root file system"),
            Self::Attach(Prepared::Devices, at) => write!(f, "attach devices at /{at}"),
            Self::Attach(Prepared::Workspace, at) => write!(f, "attach the workspace at /{at}"),
            Self::File(path, _) => write!(f, "write /{path}"),
            Self::Mount(kind, at) => write!(f, "mount {} at /{at}", kind.name()),
            Self::Parameter(path, value) => write!(f, "set /proc/sys/{path} to {value}"),
            Self::ReadOnly(path) => write!(f, "make /{path} read-only"),
            Self::Mask(path) => write!(f, "mask /{path}"),
            Self::Pivot => write!(f, "pivot into the root file system"),
            Self::ResourceLimits(limits) => {
                let Limits { open_files_max, file_bytes_max, .. } = limits;
                write!(f, "limit each process to {open_files_max} open files, files of {file_bytes_max} bytes, no core")
            }
            Self::Capabilities => write!(f, "drop capabilities"),
            Self::NoNewPrivileges => write!(f, "forbid new privileges"),
            Self::Landlock => write!(f, "restrict signals and abstract sockets with Landlock"),
            Self::Seccomp => write!(f, "load the system call filter"),
        }
    }
}

impl Kind {
    /// The kernel's name of the file system.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Processes => "proc",
            Self::System => "sysfs",
            Self::Terminals => "devpts",
            Self::SharedMemory => "tmpfs",
            Self::Queues => "mqueue",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ImageConfig, ProjectId};

    #[test]
    fn the_plan_reads_like_the_security_document() {
        let spec = CellSpec {
            project: ProjectId::parse("demo").unwrap(),
            layers: Vec::new(),
            image: ImageConfig::default(),
            env: Default::default(),
            limits: Limits::default(),
            network: Network::None,
            log_bytes: crate::log::RING_BYTES_DEFAULT,
            policy: Default::default(),
        };
        let lines: Vec<String> = plan(&spec).iter().map(Step::to_string).collect();
        let expected = include_str!("plan.txt");
        assert_eq!(lines.join("\n") + "\n", expected, "the plan changed: update plan.txt and docs/security.md");
    }
}
