//! The kernel calls that no crate wraps safely, and the only `unsafe` of the project.
//!
//! Each function is as small as its argument for soundness. Nothing here knows what a cell is.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A file mapped into memory that another process may read or write at the same time.
#[derive(Debug)]
pub(crate) struct SharedMap {
    start: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached only through atomics and raw copies.
unsafe impl Send for SharedMap {}
// SAFETY: as above; no method hands out a reference to plain (non-atomic) memory.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Maps the first `len` bytes of `file`. The caller makes sure that the file can't shrink (seals), since touching a
    /// page beyond its end would raise SIGBUS.
    pub(crate) fn new(file: impl AsFd, len: NonZeroUsize, writable: bool) -> io::Result<Self> {
        let access = if writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice can't alias memory that Rust knows of.
        let start = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, len })
    }

    /// The eight bytes at `at` as an atomic.
    pub(crate) fn atomic(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len.get(), "atomic outside of the map");
        // SAFETY: in bounds and aligned (the map is page-aligned); all accesses of all processes to it are atomic.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().byte_add(at).cast()) }
    }

    /// Copies `bytes` into the map at `at`.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.len.get()), "write outside of the map");
        // SAFETY: in bounds; `bytes` can't overlap the map, of which no reference exists. A concurrent reader in another
        // process may see torn bytes and finds out by the log's counters.
        unsafe {
            let to = self.start.as_ptr().byte_add(at).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Copies from the map at `at` into `out`, whose old content is overwritten.
    pub(crate) fn read(&self, at: usize, out: &mut [u8]) {
        assert!(at.checked_add(out.len()).is_some_and(|end| end <= self.len.get()), "read outside of the map");
        // SAFETY: as in `write`, the other way round; any bit pattern is a valid u8.
        unsafe {
            let from = self.start.as_ptr().byte_add(at).cast::<u8>();
            std::ptr::copy_nonoverlapping(from.cast_const(), out.as_mut_ptr(), out.len());
        }
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the map was made in `new` with this length, and every borrow of it ended before the drop.
        // Unmapping a valid range can't fail.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// The child's pid as the parent sees it.
        pid: rustix::process::Pid,
        /// Refers to the child, whatever becomes of its pid.
        pidfd: OwnedFd,
    },
}

/// The kernel's `struct clone_args` (clone3(2)), up to its third published size.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with clone3(2): `namespaces` are `CLONE_NEW*` flags; the child starts in `cgroup` if one is given.
/// Call it from a single-threaded process only: in the child of a threaded one, a lock may stay taken for ever.
pub(crate) fn fork(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces | CLONE_CLEAR_SIGHAND | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with a null stack this is a fork: the child goes on with a copy of all memory.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => {
            let pid = rustix::process::Pid::from_raw(pid as i32).expect("the kernel returns a positive pid");
            // SAFETY: the kernel has just stored a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Fork::Parent { pid, pidfd })
        }
    }
}

/// The kernel's `struct mount_attr` (mount_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets `MOUNT_ATTR_*` flags on the mount `mount` refers to and, if `id_map` is given, maps the owners of its files by
/// that user namespace. `recursive` reaches the mounts below it too.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    id_map: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let mut attr = MountAttr { attr_set: set, ..MountAttr::default() };
    if let Some(namespace) = id_map {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = namespace.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure is the kernel's and its size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An own copy of a descriptor that somebody else gave as a number, close-on-exec.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on any number is harmless.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by the kernel for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Puts a descriptor in place of the process's own standard input, output or error.
pub(crate) fn replace_standard(fd: BorrowedFd<'_>, standard: RawFd) -> io::Result<()> {
    assert!((0..=2).contains(&standard), "only the three standard descriptors");
    // SAFETY: std treats 0 to 2 as always open and never as owned, so replacing what they refer to breaks nothing.
    if unsafe { libc::dup2(fd.as_raw_fd(), standard) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes each read of a terminal's master side begin with a byte that says what happened, 0 if it is data that follows
/// (ioctl_tty(2), TIOCPKT).
pub(crate) fn packet_mode(master: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one int, which lives through the call.
    let result = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCPKT, &raw const on) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tries to get a page of memory that may be executed.
#[cfg(test)]
pub(crate) fn executable_page() -> io::Result<()> {
    let length = NonZeroUsize::MIN;
    // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing, and nobody uses it.
    unsafe { nix::sys::mman::mmap_anonymous(None, length, ProtFlags::PROT_EXEC, MapFlags::MAP_PRIVATE) }?;
    Ok(())
}

/// Brings the loopback interface of the present network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all zero is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel run a filter for every system call of this process and its children, for good (seccomp(2)).
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions, which live through the call, and checks each; it writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends this process at once: no destructor, no exit handler of the program it is a fork of.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes any number and doesn't return.
    unsafe { libc::_exit(status) }
}

/// Waits for a child to end, and forgets how it did.
pub(crate) fn reap(child: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    while matches!(waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED), Err(rustix::io::Errno::INTR)) {}
}

/// Closes every descriptor but `kept` and the standard three. For a fork that never returns to the owners of the others.
pub(crate) fn close_except(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut first = 3;
    for last in kept.iter().map(|fd| fd - 1).chain([i32::MAX]) {
        if first <= last {
            // SAFETY: the caller is a fork in which nothing owns these any more: it leaks their owners and exits with `exit`.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = last.saturating_add(2);
    }
    Ok(())
}

/// Makes the file system's kernel call `request` of `file` with a structure that it reads and may change.
///
/// # Safety
/// `request` must take a pointer to a `T`, and no longer one.
// SAFETY: the callers, all in this file, name for each request the structure that it takes.
unsafe fn ioctl<T>(file: BorrowedFd<'_>, request: u64, argument: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the structure lives through the call, and by the caller's word is what the request takes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The kernel's `struct fsxattr` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct ExtendedFlags {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// The project of the file system's quotas to which all is counted that is made in a folder, if any.
pub(crate) fn project_of(folder: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut flags = ExtendedFlags::default();
    // SAFETY: the request takes a `struct fsxattr`.
    unsafe { ioctl(folder, FS_IOC_FSGETXATTR, &mut flags) }?;
    Ok((flags.flags & FS_XFLAG_PROJINHERIT != 0).then_some(flags.project))
}

/// Counts a file or folder, and all that is made in the folder from now on, to a project of the file system's quotas.
pub(crate) fn count_to_project(file: BorrowedFd<'_>, project: u32, folder: bool) -> io::Result<()> {
    let mut flags = ExtendedFlags::default();
    // SAFETY: the request takes a `struct fsxattr`.
    unsafe { ioctl(file, FS_IOC_FSGETXATTR, &mut flags) }?;
    flags.project = project;
    flags.flags |= if folder { FS_XFLAG_PROJINHERIT } else { 0 };
    // SAFETY: as above.
    unsafe { ioctl(file, FS_IOC_FSSETXATTR, &mut flags) }.map(drop)
}

/// The kernel's `struct if_dqblk` (linux/quota.h).
#[repr(C)]
#[derive(Default)]
struct QuotaBlock {
    /// In KiB.
    bytes_hard: u64,
    bytes_soft: u64,
    bytes_used: u64,
    files_hard: u64,
    files_soft: u64,
    files_used: u64,
    bytes_grace: u64,
    files_grace: u64,
    valid: u32,
}

/// The kernel's `struct fs_quota_stat` (linux/dqblk_xfs.h), of which the flags count.
#[repr(C)]
#[derive(Default)]
struct QuotaState {
    version: i8,
    flags: u16,
    rest: [u64; 12],
}

fn quotactl<T>(file: BorrowedFd<'_>, command: u32, project: u32, argument: &mut T) -> io::Result<()> {
    const PROJECT_QUOTA: u32 = 2;
    let command = command << 8 | PROJECT_QUOTA;
    // SAFETY: the callers below pass for each command the structure that it takes, which lives through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, std::ptr::from_mut(argument))
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the file system of `file` enforces quotas of projects.
pub(crate) fn enforces_project_quotas(file: BorrowedFd<'_>) -> bool {
    const Q_XGETQSTAT: u32 = 0x5805;
    const ENFORCED: u16 = 1 << 5;
    let mut state = QuotaState::default();
    quotactl(file, Q_XGETQSTAT, 0, &mut state).is_ok() && state.flags & ENFORCED != 0
}

/// Limits what a project may have on the file system of `file`: KiB and files; 0 is no limit.
pub(crate) fn set_project_quota(file: BorrowedFd<'_>, project: u32, kib_max: u64, files_max: u64) -> io::Result<()> {
    const Q_SETQUOTA: u32 = 0x80_0008;
    const LIMITS: u32 = 1 | 4;
    let mut limits = QuotaBlock {
        bytes_hard: kib_max,
        bytes_soft: kib_max,
        files_hard: files_max,
        files_soft: files_max,
        valid: LIMITS,
        ..QuotaBlock::default()
    };
    quotactl(file, Q_SETQUOTA, project, &mut limits)
}

/// Bytes and files that are counted to a project on the file system of `file`.
pub(crate) fn project_usage(file: BorrowedFd<'_>, project: u32) -> io::Result<(u64, u64)> {
    const Q_GETQUOTA: u32 = 0x80_0007;
    let mut used = QuotaBlock::default();
    match quotactl(file, Q_GETQUOTA, project, &mut used) {
        Ok(()) => Ok((used.bytes_used, used.files_used)),
        // Of which nothing was ever counted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, 0)),
        Err(error) => Err(error),
    }
}

/// The kernel's `struct loop_info64` (linux/loop.h).
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rest: [u64; 3],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

impl Default for LoopInfo {
    fn default() -> Self {
        Self {
            device: 0,
            inode: 0,
            rest: [0; 3],
            number: 0,
            encryption: [0; 2],
            flags: 0,
            names: [0; 160],
            init: [0; 2],
        }
    }
}

/// The kernel's `struct loop_config` (linux/loop.h).
#[repr(C)]
#[derive(Default)]
struct LoopConfig {
    file: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The number of a loop device that nobody uses, made if need be; by the time it is used, somebody may.
pub(crate) fn free_loop_device(control: BorrowedFd<'_>) -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: u64 = 0x4c82;
    // SAFETY: the request takes no argument, and what is passed is ignored.
    unsafe { ioctl(control, LOOP_CTL_GET_FREE, &mut 0_u64) }.map(|number| number as u32)
}

/// Makes a free loop device show a file's bytes, past the page cache where that can be, until nobody has it open.
pub(crate) fn attach_to_loop_device(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    const LOOP_CONFIGURE: u64 = 0x4c0a;
    const AUTOCLEAR: u32 = 4;
    const DIRECT_IO: u32 = 16;
    let info = LoopInfo { flags: AUTOCLEAR | DIRECT_IO, ..LoopInfo::default() };
    let mut config = LoopConfig { file: file.as_raw_fd() as u32, info, ..LoopConfig::default() };
    // SAFETY: the request takes a `struct loop_config`.
    unsafe { ioctl(device, LOOP_CONFIGURE, &mut config) }.map(drop)
}

/// Device and inode of the file whose bytes a loop device shows, if any.
pub(crate) fn file_of_loop_device(device: BorrowedFd<'_>) -> io::Result<Option<(u64, u64)>> {
    const LOOP_GET_STATUS64: u64 = 0x4c05;
    let mut info = LoopInfo::default();
    // SAFETY: the request takes a `struct loop_info64`.
    match unsafe { ioctl(device, LOOP_GET_STATUS64, &mut info) } {
        Ok(_) => Ok(Some((info.device, info.inode))),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}
