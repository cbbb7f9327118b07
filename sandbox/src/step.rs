//! Carries out a plan: one step after the other, in the cell's first process, by descriptor.

use std::io;
use std::os::fd::OwnedFd;

use caps::Capability;
use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use nix::mount::MsFlags;
use nix::sys::resource::{Resource, setrlimit};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::failure::{Context, Failure};
use crate::mount;
use crate::plan::{Kind, Prepared, Step};
use crate::privilege::{become_root, conceal, keep_capabilities};
use crate::seccomp::Filter;
use crate::sys;

/// What root of a cell can do, to its own files and processes: what `apt-get install` and `su` need. No raw sockets, no
/// device nodes, no `chroot`, no file capabilities.
pub(crate) const CAPABILITIES: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

/// Bytes of message queues that one user of the cell may have: the kernel's own default, whatever the host has made of it.
const QUEUE_BYTES_MAX: u64 = 819_200;

/// Memory that one process may lock in bytes: the kernel's default, enough for keys and for what debuggers lock.
const LOCKED_BYTES_MAX: u64 = 8 << 20;

/// What the launcher hands to a cell's first process for its set-up.
pub(crate) struct Materials<'a> {
    pub(crate) root: OwnedFd,
    pub(crate) devices: OwnedFd,
    pub(crate) workspace: OwnedFd,
    pub(crate) filter: &'a Filter,
}

/// What one step leaves for a later one.
#[derive(Default)]
struct Kept {
    /// An empty folder, for masks.
    blank: Option<OwnedFd>,
    /// /proc/sys as it was before it became read-only.
    parameters: Option<OwnedFd>,
}

/// Carries out the steps; the first that fails ends it.
pub(crate) fn carry_out(steps: &[Step], materials: &Materials<'_>) -> Result<(), Failure> {
    let mut kept = Kept::default();
    steps.iter().try_for_each(|step| one(step, materials, &mut kept).step_with(|| step.to_string()))
}

fn one(step: &Step, materials: &Materials<'_>, kept: &mut Kept) -> io::Result<()> {
    let root = &materials.root;
    match step {
        Step::Root => become_root().and_then(|()| conceal()),
        Step::Private => {
            Ok(nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?)
        }
        Step::HostName(name) => Ok(nix::unistd::sethostname(name)?),
        Step::Loopback => sys::loopback_up(),
        // Over the old root, where no folder's mode can be in the way; pivoting then swaps the two.
        Step::Attach(Prepared::Root, _) => mount::attach(root, mount::folder("/".as_ref())?),
        Step::Attach(Prepared::Devices, at) => mount::attach(&materials.devices, folder(root, at)?),
        Step::Attach(Prepared::Workspace, at) => mount::attach(&materials.workspace, folder(root, at)?),
        Step::File(path, text) => match write_file(root, path, text) {
            // A full project must get its terminal all the same: to make room.
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Ok(()),
            other => other,
        },
        Step::Mount(kind, at) => {
            mount::attach(file_system(*kind)?, folder(root, at)?)?;
            if *kind == Kind::Processes {
                kept.parameters = Some(mount::folder_beneath(root, "proc/sys")?);
            }
            Ok(())
        }
        Step::Parameter(path, value) => {
            let parameters = kept.parameters.as_ref().ok_or_else(|| io::Error::other("/proc is not mounted yet"))?;
            set_parameter(parameters, path, value)
        }
        Step::ReadOnly(path) => on_existing(root, path, |place| {
            let copy = mount::copy_of(place)?;
            mount::set(&copy, MountAttrFlags::MOUNT_ATTR_RDONLY, None)?;
            mount::attach(copy, place)
        }),
        Step::Mask(path) => on_existing(root, path, |place| mask(root, place, &mut kept.blank)),
        Step::Pivot => mount::pivot(root),
        Step::ResourceLimits(limits) => {
            for (resource, most) in [
                (Resource::RLIMIT_NOFILE, u64::from(limits.open_files_max)),
                (Resource::RLIMIT_FSIZE, limits.file_bytes_max),
                (Resource::RLIMIT_MSGQUEUE, QUEUE_BYTES_MAX),
                (Resource::RLIMIT_MEMLOCK, LOCKED_BYTES_MAX),
                // Nobody comes before others.
                (Resource::RLIMIT_RTPRIO, 0),
                (Resource::RLIMIT_NICE, 0),
            ] {
                let (_, hard) = nix::sys::resource::getrlimit(resource)?;
                // Without CAP_SYS_RESOURCE on the host, its own limit is the most there is.
                let most = most.min(hard);
                setrlimit(resource, most, most)?;
            }
            // Not 0: where the host pipes cores to a program, the kernel asks no limit but this one (`do_coredump`).
            Ok(setrlimit(Resource::RLIMIT_CORE, 1, 1)?)
        }
        Step::Capabilities => keep_capabilities(&CAPABILITIES),
        Step::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
        Step::Landlock => restrict_scopes().map_err(io::Error::other),
        Step::Seccomp => materials.filter.apply(),
    }
}

/// Opens a folder of the image as a place for a mount; makes it if the image has nothing there.
fn folder(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    match mount::folder_beneath(root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755))?;
            mount::folder_beneath(root, path)
        }
        other => other.map_err(|error| not_a_folder(error, path)),
    }
}

/// Says in words what is wrong with an image whose /proc (say) is something else.
fn not_a_folder(error: io::Error, path: &str) -> io::Error {
    let first = path.split('/').next().unwrap_or(path);
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
            io::Error::other(format!("/{first} of the image is a link or a file: it must be a folder, mend the image"))
        }
        _ => error,
    }
}

/// Writes a file of the image, which must be a regular file (or nothing) in a real folder.
fn write_file(root: &OwnedFd, path: &str, text: &str) -> io::Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent_fd = folder(root, parent)?;
    // Non-blocking, because it may be a FIFO; not followed, because it may be a link.
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::TRUNC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let irregular = || io::Error::other(format!("/{path} of the image is no regular file: mend the image"));
    let file = match rustix::fs::openat(&parent_fd, name, flags, Mode::from_raw_mode(0o644)) {
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(irregular()),
        other => other?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(irregular());
    }
    io::Write::write_all(&mut std::fs::File::from(file), text.as_bytes())
}

/// A new file system of the cell's own.
fn file_system(kind: Kind) -> io::Result<OwnedFd> {
    const QUIET: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
    const STILL: MountAttrFlags = QUIET.union(MountAttrFlags::MOUNT_ATTR_NODEV);
    let (options, attributes): (&[(&str, &str)], _) = match kind {
        Kind::Processes | Kind::Queues => (&[], STILL),
        Kind::System => (&[], STILL.union(MountAttrFlags::MOUNT_ATTR_RDONLY)),
        // Group 5 is `tty` on every Linux; the launcher's terminals are opened through this instance's own ptmx. All cells
        // share some 3000 terminals of the host: one gets what its sessions and a `tmux` in each need.
        Kind::Terminals => (&[("mode", "0620"), ("gid", "5"), ("ptmxmode", "0666"), ("max", "256")], QUIET),
        // As large as Docker's; the memory limit counts it in any case.
        Kind::SharedMemory => (&[("mode", "1777"), ("size", "64m")], STILL),
    };
    mount::file_system(kind.name(), options, attributes)
}

/// Writes a kernel parameter. An old kernel that doesn't have it has nothing to limit.
fn set_parameter(parameters: &OwnedFd, path: &str, value: &str) -> io::Result<()> {
    match mount::open_beneath(parameters, path, OFlags::WRONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => {
            rustix::io::write(other?, value.as_bytes())?;
            Ok(())
        }
    }
}

/// Does something to a path if this kernel has it.
fn on_existing(root: &OwnedFd, path: &str, act: impl FnOnce(&OwnedFd) -> io::Result<()>) -> io::Result<()> {
    match mount::open_beneath(root, path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => act(&other?),
    }
}

/// Covers a folder with an empty read-only one, and anything else with /dev/null.
fn mask(root: &OwnedFd, place: &OwnedFd, blank: &mut Option<OwnedFd>) -> io::Result<()> {
    if FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode) != FileType::Directory {
        let null = mount::open_beneath(root, "dev/null", OFlags::PATH)?;
        return mount::attach(mount::copy_of(null)?, place);
    }
    // One empty file system for all folders: each further super block costs time at the cell's end.
    match blank {
        Some(first) => mount::attach(mount::copy_of(first)?, place),
        None => {
            let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            let empty =
                mount::file_system("tmpfs", &[("mode", "0555"), ("nr_inodes", "2"), ("size", "4k")], attributes)?;
            mount::attach(&empty, place)?;
            *blank = Some(empty);
            Ok(())
        }
    }
}

/// Best effort: a second wall behind the namespaces.
fn restrict_scopes() -> Result<(), landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .restrict_self()?;
    Ok(())
}
