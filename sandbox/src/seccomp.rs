//! Which system calls a cell may make: an allow-list, with the reason for each group.
//!
//! Each kind of no has its answer. A call that isn't listed doesn't exist (ENOSYS), which is what libraries
//! that probe for new calls expect; one that exists but is not for cells is not permitted (EPERM). A second filter refuses
//! listed calls with arguments that reach parts of the kernel no tool in a cell needs, a third the sockets of families and
//! protocols that a cell doesn't have.
//! Nearly every kernel escape of the last years went through a nested user namespace, an exotic socket family, io_uring,
//! or one setsockopt; none of these passes here. Nor does io_setup(2), of which the host has one pool for all cells; databases
//! do without. Another ABI (i386) kills; x32 numbers are not listed.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// The compiled filters, in the order of their loading.
#[derive(Debug)]
pub(crate) struct Policy {
    numbers: BpfProgram,
    arguments: BpfProgram,
    sockets: BpfProgram,
}

impl Policy {
    /// Compiles the policy; done once, since it takes longer than all the rest of a cell's start.
    pub(crate) fn compile() -> Result<Self, seccompiler::Error> {
        let target = std::env::consts::ARCH.try_into()?;
        let refusing = |rules, error: i32| {
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error as u32), target)?;
            Ok::<BpfProgram, seccompiler::Error>(filter.try_into()?)
        };
        Ok(Self {
            numbers: by_number(),
            arguments: refusing(narrowed()?, libc::EPERM)?,
            // As a kernel that was built without them: su, useradd and others go on without audit if there is none, but
            // not if they may not speak to it.
            sockets: refusing(sockets()?, libc::EAFNOSUPPORT)?,
        })
    }

    /// Binds this process and all its children for good. Needs `no_new_privs`.
    pub(crate) fn apply(&self) -> Result<(), seccompiler::Error> {
        seccompiler::apply_filter(&self.numbers)?;
        seccompiler::apply_filter(&self.arguments)?;
        seccompiler::apply_filter(&self.sockets)
    }
}

/// What a call gets that isn't in any list.
const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What a call gets that is to believe that it was made: the answer 0, and nothing done.
const NOTHING_DONE: u32 = libc::SECCOMP_RET_ERRNO;

// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// Where the lower half of an argument lies; the upper half is 4 bytes on.
const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn jump(test: u32, value: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k: value }
}

fn give(answer: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: answer }
}

/// Keeps the limit of cores as the plan has set it: a crash must not start the program to which a host may pipe them, as
/// its root. Said to be done, because gpg and others give up if they can't forbid cores. Begins and ends with the
/// number loaded.
fn core_limit_stays() -> [sock_filter; 14] {
    const CORE: u32 = libc::RLIMIT_CORE;
    let equal = |value, jt, jf| jump(libc::BPF_JEQ, value, jt, jf);
    [
        equal(libc::SYS_setrlimit as u32, 0, 3),
        load(argument_at(0)),
        equal(CORE, 0, 1),
        give(NOTHING_DONE),
        load(NUMBER_AT),
        equal(libc::SYS_prlimit64 as u32, 0, 7),
        load(argument_at(1)),
        equal(CORE, 0, 5),
        // No new limit is a question.
        load(argument_at(2)),
        equal(0, 0, 2),
        load(argument_at(2) + 4),
        equal(0, 1, 0),
        give(NOTHING_DONE),
        load(NUMBER_AT),
    ]
}

/// The answer to each call by its number alone, as ranges of equal answers. A tenth of what one comparison a call takes:
/// the kernel runs the filter once for every number when it is loaded, and a cell's start waits for that.
fn by_number() -> BpfProgram {
    let allowed = ALLOWED.iter().chain(ALLOWED_LEGACY).flat_map(|group| group.calls);
    let allowed = allowed.map(|call| (*call, libc::SECCOMP_RET_ALLOW));
    let refused = REFUSED.iter().map(|call| (*call, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    let answers: BTreeMap<c_long, u32> = allowed.chain(refused).collect();

    let mut program = vec![
        load(ARCHITECTURE_AT),
        jump(libc::BPF_JEQ, AUDIT_ARCHITECTURE, 1, 0),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_AT),
    ];
    program.extend(core_limit_stays());
    // From the lowest number up: whatever is below the next change of answer gets the present one.
    let mut present = NOT_THERE;
    let mut next = 0;
    for (call, answer) in answers {
        if call > next && present != NOT_THERE {
            program.extend([jump(libc::BPF_JGE, next as u32, 1, 0), give(present)]);
            present = NOT_THERE;
        }
        if answer != present {
            program.extend([jump(libc::BPF_JGE, call as u32, 1, 0), give(present)]);
            present = answer;
        }
        next = call + 1;
    }
    program.extend([jump(libc::BPF_JGE, next as u32, 1, 0), give(present), give(NOT_THERE)]);
    program
}

/// The only ABI that is served (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCHITECTURE: u32 = 0xc000_00b7;

/// Calls that are allowed together, and why.
struct Group {
    #[expect(dead_code, reason = "read by people, and by the policy's own tests")]
    reason: &'static str,
    calls: &'static [c_long],
}

/// What every Linux has.
#[rustfmt::skip]
const ALLOWED: &[Group] = &[
    Group {
        reason: "files: what a shell, an editor, a compiler and git do all day",
        calls: &[
            libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
            libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_openat,
            libc::SYS_openat2, libc::SYS_close, libc::SYS_close_range, libc::SYS_lseek, libc::SYS_fstat,
            libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_faccessat,
            libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir,
            libc::SYS_fchdir, libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_linkat, libc::SYS_symlinkat,
            libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_truncate, libc::SYS_ftruncate, libc::SYS_fallocate,
            libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2,
            libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_utimensat, libc::SYS_umask, libc::SYS_flock,
            libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs, libc::SYS_sync_file_range,
            libc::SYS_dup, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_pipe2, libc::SYS_splice, libc::SYS_tee,
            libc::SYS_vmsplice, libc::SYS_sendfile, libc::SYS_copy_file_range,
        ],
    },
    Group {
        reason: "extended attributes: cp -a, tar, rsync, git on some systems",
        calls: &[
            libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_listxattr, libc::SYS_llistxattr,
            libc::SYS_flistxattr, libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_removexattr,
            libc::SYS_lremovexattr, libc::SYS_fremovexattr,
        ],
    },
    Group {
        reason: "watching files and waiting: editors, bundlers, every event loop",
        calls: &[
            libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch, libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll, libc::SYS_pselect6,
            libc::SYS_eventfd2, libc::SYS_signalfd4, libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
            libc::SYS_timerfd_gettime,
        ],
    },
    Group {
        reason: "memory: allocators, JITs (java, node), shared memory (postgres, browsers)",
        calls: &[
            libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_msync,
            libc::SYS_mincore, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mlockall,
            libc::SYS_munlockall, libc::SYS_brk, libc::SYS_memfd_create, libc::SYS_membarrier, libc::SYS_mseal,
            libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_process_madvise,
            libc::SYS_process_mrelease,
        ],
    },
    Group {
        reason: "NUMA placement of one's own memory: openjdk and BLAS ask at start",
        calls: &[libc::SYS_mbind, libc::SYS_get_mempolicy, libc::SYS_set_mempolicy, libc::SYS_getcpu],
    },
    Group {
        reason: "processes and threads; clone's namespace flags are refused below",
        calls: &[
            libc::SYS_clone, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group,
            libc::SYS_wait4, libc::SYS_waitid, libc::SYS_set_tid_address, libc::SYS_set_robust_list,
            libc::SYS_get_robust_list, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_rseq, libc::SYS_gettid,
            libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpgid, libc::SYS_setpgid, libc::SYS_getsid,
            libc::SYS_setsid, libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd, libc::SYS_pidfd_send_signal, libc::SYS_prctl, libc::SYS_restart_syscall,
        ],
    },
    Group {
        reason: "signals",
        calls: &[
            libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending,
            libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigsuspend,
            libc::SYS_rt_sigtimedwait, libc::SYS_sigaltstack,
        ],
    },
    Group {
        reason: "time; setting the clock is refused below",
        calls: &[
            libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
            libc::SYS_gettimeofday, libc::SYS_times, libc::SYS_getitimer, libc::SYS_setitimer, libc::SYS_timer_create,
            libc::SYS_timer_settime, libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_timer_delete,
        ],
    },
    Group {
        reason: "identity within the cell: su, apt's download user, dpkg's chown",
        calls: &[
            libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid,
            libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid,
            libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid,
            libc::SYS_setfsgid, libc::SYS_capget, libc::SYS_capset,
        ],
    },
    Group {
        reason: "limits, scheduling and facts about the machine: make -j, nproc, top, go's and java's runtimes",
        calls: &[
            libc::SYS_getrlimit, libc::SYS_setrlimit, libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_sysinfo,
            libc::SYS_uname, libc::SYS_getpriority, libc::SYS_setpriority, libc::SYS_ioprio_get,
            libc::SYS_ioprio_set, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity,
            libc::SYS_sched_getparam, libc::SYS_sched_setparam, libc::SYS_sched_getscheduler,
            libc::SYS_sched_setscheduler, libc::SYS_sched_getattr, libc::SYS_sched_setattr,
            libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_sched_rr_get_interval,
            libc::SYS_getrandom,
        ],
    },
    Group {
        reason: "sockets; families, types and options are narrowed below",
        calls: &[
            libc::SYS_socket, libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept,
            libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown, libc::SYS_getsockname, libc::SYS_getpeername,
            libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg,
            libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
        ],
    },
    Group {
        reason: "terminals and devices; the ioctls that type for others or load line disciplines are refused below",
        calls: &[libc::SYS_ioctl],
    },
    Group {
        reason: "System V and POSIX queues, semaphores and shared memory, in the cell's own IPC namespace: postgres, mpi",
        calls: &[
            libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmdt, libc::SYS_shmctl, libc::SYS_semget, libc::SYS_semop,
            libc::SYS_semtimedop, libc::SYS_semctl, libc::SYS_msgget, libc::SYS_msgsnd, libc::SYS_msgrcv,
            libc::SYS_msgctl, libc::SYS_mq_open, libc::SYS_mq_unlink, libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive,
            libc::SYS_mq_notify, libc::SYS_mq_getsetattr,
        ],
    },
    Group {
        reason: "debuggers: gdb, strace, perf-less profilers; they reach the cell's own processes only",
        calls: &[libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kcmp],
    },
    Group {
        reason: "a program confining itself further: browsers, sshd, bubblewrap-less sandboxes",
        calls: &[
            libc::SYS_seccomp, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule,
            libc::SYS_landlock_restrict_self,
        ],
    },
    Group {
        reason: "FIFOs and sockets as files; devices are refused below. personality: gdb and setarch, narrowed below",
        calls: &[libc::SYS_mknodat, libc::SYS_personality],
    },
];

/// What only x86-64 still has: the old names of calls above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_LEGACY: &[Group] = &[Group {
    reason: "the old names of the calls above, which libraries of ten years still use",
    calls: &[
        libc::SYS_open, libc::SYS_creat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
        libc::SYS_getdents, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_link, libc::SYS_symlink,
        libc::SYS_rename, libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes,
        libc::SYS_futimesat, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create,
        libc::SYS_epoll_wait, libc::SYS_inotify_init, libc::SYS_eventfd, libc::SYS_signalfd, libc::SYS_fork,
        libc::SYS_vfork, libc::SYS_getpgrp, libc::SYS_alarm, libc::SYS_pause, libc::SYS_time, libc::SYS_arch_prctl,
        libc::SYS_mknod,
    ],
}];

#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_LEGACY: &[Group] = &[];

/// Calls that exist but are not for cells, so that a program that tries hears "not permitted".
#[rustfmt::skip]
const REFUSED: &[c_long] = &[
    // Namespaces and mounts.
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot,
    // Reaching files past the mount tree.
    libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at, libc::SYS_fanotify_init, libc::SYS_quotactl,
    // The kernel itself.
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_syslog, libc::SYS_reboot, libc::SYS_swapon,
    libc::SYS_swapoff, libc::SYS_acct, libc::SYS_vhangup,
    // Keyrings are not namespaced well enough to share a kernel.
    libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl,
    // The host's clock and names.
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex,
    libc::SYS_sethostname, libc::SYS_setdomainname,
    // Moving other processes' memory.
    libc::SYS_migrate_pages, libc::SYS_move_pages,
];

/// Namespace flags of clone(2); the time namespace's has no bit there.
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// ioctls that type into a terminal, switch consoles, or load a line discipline.
const REFUSED_IOCTLS: [u64; 4] = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCCONS, libc::TIOCSETD];

/// Execution domains that change nothing another process could notice: Linux, 32-bit uname, no randomisation, a query.
const PERSONALITIES: [u64; 6] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0x0004_0000, 0xffff_ffff];

/// The arguments that are refused of calls that are allowed otherwise.
fn narrowed() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, seccompiler::Error> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};

    let mut rules = BTreeMap::new();
    let namespaces = NAMESPACE_FLAGS.map(int).map(|flag| all(vec![when(0, MaskedEq(flag), flag)?]));
    rules.insert(libc::SYS_clone, namespaces.into_iter().collect::<Result<_, _>>()?);

    // Kernel TLS, ESP in TCP and other "upper layer protocols"; ESP in UDP.
    const TCP_ULP: u64 = 31;
    const UDP_ENCAP: u64 = 100;
    let option = |level, name| all(vec![when(1, Eq, int(level))?, when(2, Eq, name)?]);
    rules
        .insert(libc::SYS_setsockopt, vec![option(libc::IPPROTO_TCP, TCP_ULP)?, option(libc::IPPROTO_UDP, UDP_ENCAP)?]);

    let ioctls = REFUSED_IOCTLS.map(|request| all(vec![when(1, Eq, request)?]));
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().collect::<Result<_, _>>()?);

    let other_domain = PERSONALITIES.map(|domain| when(0, Ne, domain)).into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_personality, vec![all(other_domain)?]);

    // Device 0:0 is none: it is how overlayfs marks what a layer hides, which the unpack worker makes.
    let device = |argument| -> Result<Vec<SeccompRule>, seccompiler::Error> {
        let kind = |kind: u32| when(argument, MaskedEq(u64::from(libc::S_IFMT)), u64::from(kind));
        Ok(vec![all(vec![kind(libc::S_IFCHR)?, when(argument + 1, Ne, 0)?])?, all(vec![kind(libc::S_IFBLK)?])?])
    };
    rules.insert(libc::SYS_mknodat, device(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_mknod, device(1)?);
    Ok(rules)
}

/// The sockets that there aren't.
fn sockets() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, seccompiler::Error> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};

    // Families: local, IP, and netlink to ask for addresses and routes. Not AF_ALG, AF_PACKET, AF_VSOCK, AF_RXRPC...
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(int);
    let other_family = families.map(|family| when(0, Ne, family)).into_iter().collect::<Result<_, _>>()?;
    // Obsolete and therefore deprecated in libc, but the kernel still knows it.
    const SOCK_PACKET: i32 = 10;
    // The low four bits of the type, without SOCK_CLOEXEC and SOCK_NONBLOCK.
    let types = [libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_DCCP, SOCK_PACKET].map(int);
    let mut sockets = vec![all(other_family)?];
    for kind in types {
        // Netlink's "raw" is the same as its datagram.
        sockets.push(all(vec![when(0, Ne, int(libc::AF_NETLINK))?, when(1, MaskedEq(0xf), kind)?])?);
    }
    sockets.push(all(vec![when(0, Eq, int(libc::AF_NETLINK))?, when(2, Ne, int(libc::NETLINK_ROUTE))?])?);
    // IPPROTO_SCTP and friends come as streams too; TCP, UDP, ping and MPTCP's fallback are what programs need.
    let protocols =
        [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6, libc::IPPROTO_MPTCP];
    for family in [libc::AF_INET, libc::AF_INET6].map(int) {
        let mut other = vec![when(0, Eq, family)?];
        for protocol in protocols {
            other.push(when(2, Ne, int(protocol))?);
        }
        sockets.push(all(other)?);
    }
    let pairs = vec![all(vec![when(0, Ne, int(libc::AF_UNIX))?])?];
    Ok(BTreeMap::from([(libc::SYS_socket, sockets), (libc::SYS_socketpair, pairs)]))
}

/// A condition on 32 bits of an argument, as the kernel reads an int: high bits can't smuggle a value past the filter.
fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?)
}

/// A rule that matches if all conditions hold.
fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::Error> {
    Ok(SeccompRule::new(conditions)?)
}

/// A constant as the filter sees it.
fn int(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_compiles_and_no_call_is_both_allowed_and_refused() {
        Policy::compile().unwrap();
        let allowed: Vec<c_long> =
            ALLOWED.iter().chain(ALLOWED_LEGACY).flat_map(|group| group.calls).copied().collect();
        for (index, call) in allowed.iter().enumerate() {
            assert!(!allowed[..index].contains(call), "call {call} is listed twice");
            assert!(!REFUSED.contains(call), "call {call} is allowed and refused");
        }
        for (call, _) in narrowed().unwrap().into_iter().chain(sockets().unwrap()) {
            assert!(allowed.contains(&call), "call {call} is narrowed but not allowed");
        }
    }

    /// Runs a filter as the kernel does, for the few instructions that `by_number` uses.
    fn answer_with(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    loaded = match step.k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        offset => {
                            let (index, half) = ((offset - 16) / 8, (offset - 16) % 8);
                            (arguments[index as usize] >> (8 * half)) as u32
                        }
                    }
                }
                code if code == libc::BPF_RET | libc::BPF_K => return step.k,
                code => {
                    let holds = match code & !libc::BPF_JMP {
                        libc::BPF_JEQ => loaded == step.k,
                        libc::BPF_JGE => loaded >= step.k,
                        other => panic!("instruction {other:#x}"),
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }

    fn answer(program: &[sock_filter], architecture: u32, number: u32) -> u32 {
        answer_with(program, architecture, number, [0; 6])
    }

    #[test]
    fn the_limit_of_cores_can_be_asked_and_not_changed() {
        let program = by_number();
        let core = u64::from(libc::RLIMIT_CORE);
        for (call, arguments, expected) in [
            (libc::SYS_setrlimit, [core, 1, 0], NOTHING_DONE),
            (libc::SYS_setrlimit, [1 << 32 | core, 1, 0], NOTHING_DONE),
            (libc::SYS_setrlimit, [u64::from(libc::RLIMIT_NOFILE), 1, 0], libc::SECCOMP_RET_ALLOW),
            (libc::SYS_prlimit64, [0, core, 8], NOTHING_DONE),
            (libc::SYS_prlimit64, [7, core, 1 << 32], NOTHING_DONE),
            (libc::SYS_prlimit64, [0, core, 0], libc::SECCOMP_RET_ALLOW),
            (libc::SYS_prlimit64, [0, u64::from(libc::RLIMIT_NOFILE), 8], libc::SECCOMP_RET_ALLOW),
            (libc::SYS_getrlimit, [core, 8, 8], libc::SECCOMP_RET_ALLOW),
        ] {
            let [a, b, c] = arguments;
            let given = answer_with(&program, AUDIT_ARCHITECTURE, call as u32, [a, b, c, 0, 0, 0]);
            assert_eq!(given, expected, "call {call} with {arguments:?}");
        }
    }

    #[test]
    fn every_number_gets_its_answer() {
        let program = by_number();
        let allowed: Vec<c_long> =
            ALLOWED.iter().chain(ALLOWED_LEGACY).flat_map(|group| group.calls).copied().collect();
        for number in 0..2000_u32 {
            let expected = match c_long::from(number) {
                call if allowed.contains(&call) => libc::SECCOMP_RET_ALLOW,
                call if REFUSED.contains(&call) => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
                _ => NOT_THERE,
            };
            assert_eq!(answer(&program, AUDIT_ARCHITECTURE, number), expected, "call {number}");
        }
        for number in [0x4000_0000, 0x4000_0001, u32::MAX] {
            assert_eq!(answer(&program, AUDIT_ARCHITECTURE, number), NOT_THERE, "x32 call {number:#x}");
        }
        assert_eq!(answer(&program, 0x4000_0003, 1), libc::SECCOMP_RET_KILL_PROCESS, "i386");
    }
}
