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
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
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
