//! What the launcher sees of the host: its three folders, /proc and /sys, the devices it made, and, read-only, the programs that
//! make file systems. Nothing else.
//!
//! A mount namespace of its own keeps what it mounts out of the host's. That it is small keeps cells quick: each begins with
//! a copy of it, and throws that away.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, chmodat, makedev, mkdirat, mknodat, symlinkat};
use rustix::mount::MountAttrFlags;

use crate::disk::{self, Tools};
use crate::failure::{Context, Failure};
use crate::mount;
use crate::rootless::Standing;

/// The places in the view.
pub(super) struct View {
    pub(super) state: OwnedFd,
    pub(super) projects: OwnedFd,
    pub(super) run: OwnedFd,
    /// A file system with the device nodes, read-only.
    pub(super) devices: OwnedFd,
    /// An empty folder.
    pub(super) stage: OwnedFd,
    /// For the nodes of loop devices.
    pub(super) loops: OwnedFd,
    pub(super) tools: Tools,
}

impl View {
    /// Leaves the host's mounts.
    pub(super) fn retreat(state: &Path, projects: &Path, run: &Path, standing: Standing) -> Result<Self, Failure> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).step("enter a mount namespace of the launcher's own")?;
        // A slave: what the host mounts below the folders later is seen here; nothing from here is seen there.
        nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .step("detach the launcher's mounts from the host's")?;
        let devices = devices(standing).step("make the device nodes (is CAP_MKNOD missing?)")?;
        build(state, projects, run, devices, standing).step("leave the host's mounts")
    }
}

fn build(state: &Path, projects: &Path, run: &Path, devices: OwnedFd, standing: Standing) -> io::Result<View> {
    let still =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let trees = [state, projects, run].map(|path| mount::folder(path).and_then(mount::tree_of));
    // Whole ones, without what the host has mounted in them: the kernel lets cells mount their own only then. It takes nothing
    // of them apart for who came from another user namespace.
    let copy: fn(OwnedFd) -> io::Result<OwnedFd> = match standing {
        Standing::Root => mount::copy_of,
        Standing::User => mount::tree_of,
    };
    let kernel = ["/proc", "/sys"].map(|path| mount::folder(path.as_ref()).and_then(copy));
    let (loops, tools) = (disk::loops(standing)?, Tools::root()?);
    // Without root no project has a file system of its own to make.
    let programs = if standing == Standing::Root { Tools::programs()? } else { Vec::new() };
    let nodes = match standing {
        Standing::Root => Vec::new(),
        Standing::User => nodes_of_host()?,
    };
    let root = mount::file_system("tmpfs", &[("mode", "0700"), ("size", "1m")], still)?;
    mount::attach(&root, mount::folder("/".as_ref())?)?;
    let place = |name: &str| -> io::Result<OwnedFd> {
        mkdirat(&root, name, Mode::RWXU)?;
        mount::folder_beneath(&root, name)
    };
    for (name, tree) in ["state", "projects", "run", "proc", "sys"].into_iter().zip(trees.into_iter().chain(kernel)) {
        mount::attach(tree?, place(name)?)?;
    }
    mount::attach(&devices, place("devices")?)?;
    for (name, node) in nodes {
        mount::attach(node, mount::open_beneath(&devices, name, OFlags::PATH)?)?;
    }
    let stage = place("stage")?;
    place("disk")?;
    mount::attach(&loops, place("loops")?)?;
    mount::attach(&tools, place("tools")?)?;
    mount::pivot(&root)?;
    let tools = Tools::attach(&tools, programs)?;
    let [state, projects, run] = ["/state", "/projects", "/run"].map(|path| mount::folder(path.as_ref()));
    Ok(View { state: state?, projects: projects?, run: run?, devices, stage, loops, tools })
}

/// The devices that every program expects: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Mounts of the host's devices, each seen to be what its name says.
fn nodes_of_host() -> io::Result<Vec<(&'static str, OwnedFd)>> {
    let node = |(name, major, minor)| {
        let node = mount::open_beneath(mount::folder("/dev".as_ref())?, name, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&node)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != makedev(major, minor) {
            return Err(io::Error::other(format!("the host's /dev/{name} is something else")));
        }
        Ok((name, mount::copy_of(node)?))
    };
    DEVICES.into_iter().map(node).collect()
}

/// A file system with the devices, made by ourselves and therefore what they claim to be; without root, with files in their
/// place.
fn devices(standing: Standing) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = mount::file_system("tmpfs", &[("mode", "0755"), ("size", "64k"), ("nr_inodes", "32")], attributes)?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        match standing {
            Standing::Root => mknodat(&mount, name, FileType::CharacterDevice, mode, makedev(major, minor))?,
            Standing::User => mknodat(&mount, name, FileType::RegularFile, mode, 0)?,
        }
        chmodat(&mount, name, mode, AtFlags::empty())?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(&mount, name, Mode::from_raw_mode(0o755))?;
    }
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        symlinkat(target, &mount, name)?;
    }
    mount::set(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY, None)?;
    Ok(mount)
}
