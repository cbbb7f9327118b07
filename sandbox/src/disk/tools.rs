//! The two programs of e2fsprogs that make and grow a project's file system, each run in a process that sees the host's
//! programs, read-only, and the one image; without a capability, a network or another process.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, mkdirat, mknodat, symlinkat};
use rustix::mount::MountAttrFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::TOOLS;
use crate::failure::{Context, Failure};
use crate::mount;
use crate::privilege::keep_capabilities;
use crate::seccomp::Filter;
use crate::sys::{self, Fork};

/// Where the launcher's view has the programs.
const PLACE: &str = "/tools";

/// Where the image is in their root.
const IMAGE: &CStr = c"/image";
const IMAGE_BENEATH: &str = "image";

/// Folders of the host in which programs and their libraries lie; those that are links stay links.
const FOLDERS: [&str; 5] = ["usr", "bin", "sbin", "lib", "lib64"];

/// Longest that a tool may take: a terabyte is formatted in a fifth of a second, and growing reads what is there.
const TOOL_WAIT: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Most of what a failing tool says that is passed on.
const WORDS_MAX: usize = 512;

/// Whether there are such tools.
pub(crate) struct Tools {
    present: bool,
}

impl Tools {
    /// The root of the tools, attached nowhere.
    pub(crate) fn root() -> io::Result<OwnedFd> {
        let still = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let root = mount::file_system("tmpfs", &[("mode", "0755"), ("size", "64k"), ("nr_inodes", "32")], still)?;
        mkdirat(&root, "etc", Mode::from_raw_mode(0o755))?;
        // resize2fs asks for a list of mounts: in here there are none.
        for file in [IMAGE_BENEATH, "etc/mtab"] {
            mknodat(&root, file, FileType::RegularFile, Mode::RUSR, 0)?;
        }
        for folder in FOLDERS {
            match std::fs::read_link(Path::new("/").join(folder)) {
                Ok(target) => symlinkat(target, &root, folder)?,
                Err(_) => mkdirat(&root, folder, Mode::from_raw_mode(0o755))?,
            }
        }
        Ok(root)
    }

    /// Attaches the host's programs in the root of the tools, itself attached at [`PLACE`].
    pub(crate) fn attach(root: &OwnedFd, programs: Vec<(&'static str, OwnedFd)>) -> io::Result<Self> {
        for (folder, copy) in programs {
            mount::attach(copy, mount::folder_beneath(root, folder)?)?;
        }
        let there = |program: &str| Path::new(PLACE).join(program.trim_start_matches('/')).exists();
        Ok(Self { present: TOOLS.into_iter().all(there) })
    }

    /// Read-only copies of the mounts of the host's programs, made while the host is in sight.
    pub(crate) fn programs() -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let folders = FOLDERS.into_iter().filter(|folder| {
            let path = Path::new("/").join(folder);
            path.is_dir() && !path.is_symlink()
        });
        let still =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_RDONLY;
        folders
            .map(|folder| {
                let copy = mount::copy_of(mount::folder(&Path::new("/").join(folder))?)?;
                mount::set(&copy, still, None)?;
                Ok((folder, copy))
            })
            .collect()
    }

    /// Makes a file system as large as the image, with nothing kept for root.
    pub(super) fn format(&self, image: &OwnedFd, filter: &Filter) -> Result<(), Failure> {
        // Inode tables and journal are holes of the file, zero already.
        let lazy = c"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
        let words = [c"mkfs.ext4", c"-q", c"-F", c"-b", c"4096", c"-I", c"256", c"-m", c"0", c"-E", lazy, IMAGE];
        self.run("format the project's disk", c"/sbin/mkfs.ext4", &words, image, filter)
    }

    /// Makes the file system as large as the image, which nobody has mounted.
    pub(super) fn grow(&self, image: &OwnedFd, filter: &Filter) -> Result<(), Failure> {
        // Forced: its check by another program is for file systems whose kernel crashed, and the journal sees to those.
        let words = [c"resize2fs", c"-f", IMAGE];
        self.run("make the project's disk larger", c"/sbin/resize2fs", &words, image, filter)
    }

    fn run(
        &self,
        step: &str,
        program: &CStr,
        words: &[&CStr],
        image: &OwnedFd,
        filter: &Filter,
    ) -> Result<(), Failure> {
        if !self.present {
            let reason = "this host's file systems have no project quotas, and mkfs.ext4 and resize2fs aren't there: \
                          install e2fsprogs, mount with prjquota, or set quota = \"unenforced\"";
            return Err(Failure::new(step, reason));
        }
        let (heard, said) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(step)?;
        match sys::fork(libc::CLONE_NEWPID as u64, None).step(step)? {
            Fork::Child => {
                let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _ =
                        sys::replace_standard(said.as_fd(), 1).and_then(|()| sys::replace_standard(said.as_fd(), 2));
                    confine(image, filter).and_then(|()| execute(program, words)).err()
                }));
                if let Ok(Some(failure)) = failed {
                    let _ = rustix::io::write(&said, format!("{}: {}", failure.step, failure.reason).as_bytes());
                }
                sys::exit(1)
            }
            Fork::Parent { pidfd, .. } => {
                drop(said);
                outcome(&pidfd, &heard).map_err(|reason| Failure::new(step, reason))
            }
        }
    }
}

/// Waits for a tool. What it says fits in the pipe, or it waits and is ended.
fn outcome(tool: &OwnedFd, heard: &OwnedFd) -> Result<(), String> {
    let mut polled = [PollFd::new(tool, PollFlags::IN)];
    let ended = poll(&mut polled, Some(&TOOL_WAIT)).map_err(|error| error.to_string())?;
    if ended == 0 {
        let _ = pidfd_send_signal(tool, Signal::KILL);
    }
    let status = waitid(WaitId::PidFd(tool.as_fd()), WaitIdOptions::EXITED).map_err(|error| error.to_string())?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        _ if ended == 0 => Err("it took longer than 20 seconds; is the disk stuck?".to_owned()),
        _ => {
            let mut words = [0; WORDS_MAX];
            let length = rustix::io::read(heard, &mut words).unwrap_or(0);
            Err(String::from_utf8_lossy(&words[..length]).trim().replace('\n', "; "))
        }
    }
}

/// Leaves the launcher's view for the tools' root, with the image in it.
fn confine(image: &OwnedFd, filter: &Filter) -> Result<(), Failure> {
    // Copied in the launcher's namespace, attached in the tool's: a mount is copied only where its descriptor came from.
    let image = mount::copy_of(image).step("copy the image's mount")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
        .step("enter namespaces of the tool's own")?;
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .step("make mounts private")?;
    let enter = || -> io::Result<()> {
        let root = mount::folder(PLACE.as_ref())?;
        mount::attach(&image, mount::open_beneath(&root, IMAGE_BENEATH, OFlags::PATH)?)?;
        mount::pivot(&root)
    };
    enter().step("enter the tool's root")?;
    drop(image);
    sys::close_except(&mut []).step("close the launcher's descriptors")?;
    keep_capabilities(&[]).step("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    filter.apply().step("load the system call filter")
}

fn execute(program: &CStr, words: &[&CStr]) -> Result<(), Failure> {
    let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"LC_ALL=C"];
    nix::unistd::execve(program, words, &environment).map(drop).step("start the tool")
}
