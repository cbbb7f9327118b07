// Tries every system call that a cell must not get through, each in a process of its own, and prints what became of it:
// one line each, "through" at its beginning if the answer isn't the one that the table expects. It runs inside a cell;
// arguments are such that a kernel that lets a call pass would carry it out, or complain of something else.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

static void judge(const char *name, const char *got, const char *expected)
{
	int through = strcmp(got, expected) != 0;

	failures += through;
	printf("%s%s: %s\n", through ? "through " : "", name, got);
}

// Runs `act` in a process of its own and judges how it ended: the name of its error, "done", or "killed".
static void attempt(const char *name, const char *expected, long (*act)(void *), void *argument)
{
	fflush(stdout);
	pid_t child = fork();

	if (child == -1) {
		judge(name, "no process to try it in", expected);
		return;
	}
	if (child == 0) {
		errno = 0;
		_exit(act(argument) == -1 ? errno : 0);
	}
	int status = 0;

	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		judge(name, "killed", expected);
	else
		judge(name, WEXITSTATUS(status) ? strerrorname_np(WEXITSTATUS(status)) : "done", expected);
}

struct call {
	const char *name;
	const char *expected;
	long number;
	long arguments[6];
};

static long make_call(void *argument)
{
	const struct call *call = argument;
	const long *a = call->arguments;

	return syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static char zeros[4096];

#define TEXT(text) ((long)(text))
#define HIGH (1L << 32)
// Numbers that the headers of an older distribution don't have.
#define NEWER(name, number) {name, "ENOSYS", number, {0}}

static struct call calls[] = {
	// Namespaces. A cell has no user namespace but its own, so it never has a capability over a network or a mount.
	{"unshare user", "EPERM", SYS_unshare, {CLONE_NEWUSER}},
	{"unshare mount", "EPERM", SYS_unshare, {CLONE_NEWNS}},
	{"unshare pid", "EPERM", SYS_unshare, {CLONE_NEWPID}},
	{"unshare net", "EPERM", SYS_unshare, {CLONE_NEWNET}},
	{"unshare nothing", "EPERM", SYS_unshare, {0}},
	{"clone user", "EPERM", SYS_clone, {CLONE_NEWUSER | SIGCHLD}},
	{"clone mount", "EPERM", SYS_clone, {CLONE_NEWNS | SIGCHLD}},
	{"clone cgroup", "EPERM", SYS_clone, {CLONE_NEWCGROUP | SIGCHLD}},
	{"clone uts", "EPERM", SYS_clone, {CLONE_NEWUTS | SIGCHLD}},
	{"clone ipc", "EPERM", SYS_clone, {CLONE_NEWIPC | SIGCHLD}},
	{"clone pid", "EPERM", SYS_clone, {CLONE_NEWPID | SIGCHLD}},
	{"clone net", "EPERM", SYS_clone, {CLONE_NEWNET | SIGCHLD}},
	{"clone user and net", "EPERM", SYS_clone, {CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD}},
	{"clone3", "ENOSYS", SYS_clone3, {TEXT(zeros), 88}},

	// Mounts, by the old calls and the new ones.
	{"mount tmpfs", "EPERM", SYS_mount, {TEXT("none"), TEXT("/tmp"), TEXT("tmpfs")}},
	{"mount proc", "EPERM", SYS_mount, {TEXT("none"), TEXT("/tmp"), TEXT("proc")}},
	{"mount cgroup", "EPERM", SYS_mount, {TEXT("none"), TEXT("/tmp"), TEXT("cgroup"), 0, TEXT("memory")}},
	{"mount cgroup2", "EPERM", SYS_mount, {TEXT("none"), TEXT("/tmp"), TEXT("cgroup2")}},
	{"bind mount", "EPERM", SYS_mount, {TEXT("/proc"), TEXT("/tmp"), 0, 4096}},
	{"remount", "EPERM", SYS_mount, {0, TEXT("/sys"), 0, 32}},
	{"umount", "EPERM", SYS_umount2, {TEXT("/proc/kcore"), 2}},
	{"pivot_root", "EPERM", SYS_pivot_root, {TEXT("/tmp"), TEXT("/tmp")}},
	{"chroot", "EPERM", SYS_chroot, {TEXT("/tmp")}},
	{"fsopen", "ENOSYS", 430, {TEXT("tmpfs")}},
	{"fsconfig", "ENOSYS", 431, {0}},
	{"fsmount", "ENOSYS", 432, {0}},
	{"fspick", "ENOSYS", 433, {AT_FDCWD, TEXT("/tmp")}},
	{"open_tree", "ENOSYS", 428, {AT_FDCWD, TEXT("/"), 1}},
	{"move_mount", "ENOSYS", 429, {AT_FDCWD, TEXT("/proc"), AT_FDCWD, TEXT("/tmp")}},
	{"mount_setattr", "ENOSYS", 442, {AT_FDCWD, TEXT("/"), 0, TEXT(zeros), 32}},
	NEWER("statmount", 457),
	NEWER("listmount", 458),
	NEWER("open_tree_attr", 467),

	// Files past the mount tree.
	{"name_to_handle_at", "EPERM", SYS_name_to_handle_at, {AT_FDCWD, TEXT("/"), TEXT(zeros), TEXT(zeros)}},
	{"open_by_handle_at", "EPERM", SYS_open_by_handle_at, {AT_FDCWD, TEXT(zeros)}},
	{"fanotify_init", "EPERM", SYS_fanotify_init, {0}},
	{"fanotify_mark", "EPERM", SYS_fanotify_mark, {-1, 1, 1, AT_FDCWD, TEXT("/")}},
	{"file_setattr", "ENOSYS", 469, {AT_FDCWD, TEXT("/tmp"), TEXT(zeros), 32}},
	{"quotactl", "EPERM", SYS_quotactl, {0, TEXT("/dev/vda")}},
	{"quotactl_fd", "ENOSYS", 443, {0}},
	{"mknod of memory", "EPERM", SYS_mknodat, {AT_FDCWD, TEXT("/tmp/d"), S_IFCHR | 0600, 0x101}},
	{"mknod of a disk", "EPERM", SYS_mknodat, {AT_FDCWD, TEXT("/tmp/d"), S_IFBLK | 0600, 0x800}},
	{"mknod with high bits", "EPERM", SYS_mknodat, {AT_FDCWD, TEXT("/tmp/d"), HIGH | S_IFCHR | 0600, HIGH | 0x101}},

	// The kernel itself, and what most escapes began with.
	{"bpf", "EPERM", SYS_bpf, {0, TEXT(zeros), 64}},
	{"perf_event_open", "EPERM", SYS_perf_event_open, {TEXT(zeros), 0, -1, -1}},
	{"userfaultfd", "EPERM", SYS_userfaultfd, {1}},
	{"io_uring_setup", "ENOSYS", SYS_io_uring_setup, {8, TEXT(zeros)}},
	{"io_uring_enter", "ENOSYS", SYS_io_uring_enter, {0}},
	{"io_uring_register", "ENOSYS", SYS_io_uring_register, {0}},
	{"add_key", "EPERM", SYS_add_key, {TEXT("user"), TEXT("k"), TEXT("v"), 1, -3}},
	{"request_key", "EPERM", SYS_request_key, {TEXT("user"), TEXT("k")}},
	{"keyctl", "EPERM", SYS_keyctl, {0, -3}},
	{"kexec_load", "EPERM", SYS_kexec_load, {0}},
	{"kexec_file_load", "ENOSYS", 320, {0}},
	{"init_module", "EPERM", SYS_init_module, {TEXT(zeros), 1, TEXT("")}},
	{"finit_module", "EPERM", SYS_finit_module, {0, TEXT("")}},
	{"delete_module", "EPERM", SYS_delete_module, {TEXT("loop")}},
	{"syslog", "EPERM", SYS_syslog, {3, TEXT(zeros), 100}},
	{"reboot", "EPERM", SYS_reboot, {0xfee1dead, 0x28121969, 0x89abcdef}},
	{"swapon", "EPERM", SYS_swapon, {TEXT("/tmp")}},
	{"swapoff", "EPERM", SYS_swapoff, {TEXT("/tmp")}},
	{"acct", "EPERM", SYS_acct, {TEXT("/tmp/acct")}},
	{"vhangup", "EPERM", SYS_vhangup, {0}},
	{"memfd_secret", "ENOSYS", 447, {0}},
	{"lookup_dcookie", "ENOSYS", SYS_lookup_dcookie, {0}},
	{"settimeofday", "EPERM", SYS_settimeofday, {TEXT(zeros)}},
	{"clock_settime", "EPERM", SYS_clock_settime, {0, TEXT(zeros)}},
	{"adjtimex", "EPERM", SYS_adjtimex, {TEXT(zeros)}},
	{"sethostname", "EPERM", SYS_sethostname, {TEXT("other"), 5}},
	{"setdomainname", "EPERM", SYS_setdomainname, {TEXT("other"), 5}},
	{"migrate_pages", "EPERM", SYS_migrate_pages, {0}},
	{"move_pages", "EPERM", SYS_move_pages, {0}},
	{"personality with executable data", "EPERM", SYS_personality, {0x0400000}},
	{"personality with pages at zero", "EPERM", SYS_personality, {0x0100000}},
	{"a call that no kernel has", "ENOSYS", 1999, {0}},
#ifdef __x86_64__
	{"iopl", "ENOSYS", SYS_iopl, {3}},
	{"ioperm", "ENOSYS", SYS_ioperm, {0x70, 1, 1}},
	{"modify_ldt", "ENOSYS", SYS_modify_ldt, {0}},
	{"uselib", "ENOSYS", SYS_uselib, {TEXT("/bin/sh")}},
	{"getpid of x32", "ENOSYS", 0x40000000 | SYS_getpid, {0}},
	{"ioctl of x32", "ENOSYS", 0x40000000 | 514, {0, TIOCSTI, TEXT("x")}},
	{"mknod of old", "EPERM", SYS_mknod, {TEXT("/tmp/d"), S_IFCHR | 0600, 0x101}},
#endif

	// Futexes that inherit priorities (GhostLock and older holes): as a kernel without them says it.
	{"locking with priorities", "ENOSYS", SYS_futex, {TEXT(zeros), 6}},
	{"locking with priorities, for one process", "ENOSYS", SYS_futex, {TEXT(zeros), 128 | 6}},
	{"locking with priorities and high bits", "ENOSYS", SYS_futex, {TEXT(zeros), HIGH | 256 | 128 | 13}},
	{"waiting for a requeue with priorities", "ENOSYS", SYS_futex, {TEXT(zeros), 11, 0, 0, TEXT(zeros + 8)}},
	{"a requeue with priorities", "ENOSYS", SYS_futex, {TEXT(zeros), 12, 1, 1, TEXT(zeros + 8)}},

	// The terminal that a session shares with nobody, but whose other end reads what is put in.
	{"TIOCSTI", "EPERM", SYS_ioctl, {0, 0x5412, TEXT("x")}},
	{"TIOCSTI with high bits", "EPERM", SYS_ioctl, {0, HIGH | 0x5412, TEXT("x")}},
	{"TIOCLINUX", "EPERM", SYS_ioctl, {0, 0x541c, TEXT("\3")}},
	{"TIOCCONS", "EPERM", SYS_ioctl, {0, 0x541d}},
	{"TIOCSETD", "EPERM", SYS_ioctl, {0, 0x5423, TEXT(zeros)}},
	{"TIOCSETD with high bits", "EPERM", SYS_ioctl, {0, HIGH | 0x5423, TEXT(zeros)}},

	// Sockets beyond the matrix below.
	{"socket of a family with high bits", "EAFNOSUPPORT", SYS_socket, {HIGH | AF_PACKET, SOCK_DGRAM}},
	{"raw socket with flags", "EAFNOSUPPORT", SYS_socket, {AF_INET, SOCK_RAW | SOCK_CLOEXEC, 1}},
	{"netlink of netfilter", "EAFNOSUPPORT", SYS_socket, {AF_NETLINK, SOCK_RAW, 12}},
	{"netlink of xfrm", "EAFNOSUPPORT", SYS_socket, {AF_NETLINK, SOCK_RAW, 6}},
	{"netlink of audit", "EAFNOSUPPORT", SYS_socket, {AF_NETLINK, SOCK_RAW, 9}},
	{"netlink of uevents", "EAFNOSUPPORT", SYS_socket, {AF_NETLINK, SOCK_RAW, 15}},
	{"netlink of cryptography", "EAFNOSUPPORT", SYS_socket, {AF_NETLINK, SOCK_RAW, 21}},
	{"SCTP", "EAFNOSUPPORT", SYS_socket, {AF_INET, SOCK_STREAM, 132}},
	{"UDP-Lite", "EAFNOSUPPORT", SYS_socket, {AF_INET, SOCK_DGRAM, 136}},
	{"L2TP", "EAFNOSUPPORT", SYS_socket, {AF_INET, SOCK_DGRAM, 115}},
	{"SMC", "EAFNOSUPPORT", SYS_socket, {AF_INET, SOCK_STREAM, 256}},
	{"SCTP over IPv6", "EAFNOSUPPORT", SYS_socket, {AF_INET6, SOCK_STREAM, 132}},
	{"socketpair of another family", "EAFNOSUPPORT", SYS_socketpair, {AF_TIPC, SOCK_STREAM, 0, TEXT(zeros)}},

	// The cell's init.
	{"ptrace of init", "EPERM", SYS_ptrace, {PTRACE_ATTACH, 1}},
	{"ptrace of init, quietly", "EPERM", SYS_ptrace, {PTRACE_SEIZE, 1}},
	{"kcmp with init", "EPERM", SYS_kcmp, {1, 1, 0}},
	{"robust list of init", "EPERM", SYS_get_robust_list, {1, TEXT(zeros), TEXT(zeros)}},
};

static long read_init(void *write)
{
	struct iovec here = {zeros, 8}, there = {(void *)0x400000, 8};

	return syscall(write ? SYS_process_vm_writev : SYS_process_vm_readv, 1, &here, 1, &there, 1, 0);
}

static long take_descriptor(void *unused)
{
	int init = syscall(SYS_pidfd_open, 1, 0);

	(void)unused;
	return init == -1 ? -1 : syscall(SYS_pidfd_getfd, init, 0, 0);
}

static long set_option(void *argument)
{
	const long *option = argument;
	int socket_fd = socket(AF_INET, option[0], 0);

	return socket_fd == -1 ? -1 : syscall(SYS_setsockopt, socket_fd, option[1], option[2], "espintcp", 9);
}

static long gain_capability(void *unused)
{
	struct { uint32_t version; int pid; } header = {0x20080522, 0};
	struct { uint32_t effective, permitted, inheritable; } data[2] = {{~0u, ~0u, 0}, {~0u, ~0u, 0}};

	(void)unused;
	return syscall(SYS_capset, &header, data);
}

static long raise_limit(void *resource)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	return setrlimit((long)resource, &limit);
}

static long change_core_limit(void *unused)
{
	struct rlimit none = {0, 0}, all = {RLIM_INFINITY, RLIM_INFINITY}, limit;

	(void)unused;
	setrlimit(RLIMIT_CORE, &none);
	setrlimit(RLIMIT_CORE, &all);
	syscall(SYS_setrlimit, RLIMIT_CORE, &none);
	syscall(SYS_prlimit64, 0, HIGH | RLIMIT_CORE, &none, NULL);
	if (getrlimit(RLIMIT_CORE, &limit) == -1 || (limit.rlim_cur == 1 && limit.rlim_max == 1))
		return 0;
	errno = E2BIG;
	return -1;
}

static long old_abi(void *unused)
{
	(void)unused;
#ifdef __x86_64__
	long result;

	// getpid of i386.
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(20L) : "memory");
	return result;
#else
	return raise(SIGSYS);
#endif
}

static long kill_init(void *signal_number)
{
	return kill(1, (long)signal_number);
}

// Which sockets can be had, of all families and types there are.
static void sockets(void)
{
	char got[1024] = "";

	for (int family = 0; family <= 50; family++) {
		for (int type = 1; type <= 10; type++) {
			int fd = socket(family, type, 0);

			if (fd == -1)
				continue;
			close(fd);
			snprintf(got + strlen(got), sizeof(got) - strlen(got), "%d/%d ", family, type);
		}
	}
	// Local: stream, datagram, packets. IPv4 and IPv6: stream, datagram. Netlink's route: its two names of one type.
	judge("sockets", got, "1/1 1/2 1/5 2/1 2/2 10/1 10/2 16/2 16/3 ");
}

int main(void)
{
	long upper_protocol[] = {SOCK_STREAM, 6, 31}, upper_high[] = {SOCK_STREAM, HIGH | 6, HIGH | 31};
	long encapsulation[] = {SOCK_DGRAM, 17, 100};

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		attempt(calls[i].name, calls[i].expected, make_call, &calls[i]);
	attempt("reading init's memory", "EPERM", read_init, NULL);
	attempt("writing init's memory", "EPERM", read_init, "");
	attempt("taking init's descriptors", "EPERM", take_descriptor, NULL);
	attempt("TCP_ULP", "EPERM", set_option, upper_protocol);
	attempt("TCP_ULP with high bits", "EPERM", set_option, upper_high);
	attempt("UDP_ENCAP", "EPERM", set_option, encapsulation);
	attempt("gaining capabilities", "EPERM", gain_capability, NULL);
	attempt("more open files", "EPERM", raise_limit, (void *)RLIMIT_NOFILE);
	// At 1 not even a host that pipes cores to a program starts it. Changing it seems to work.
	attempt("core dumps", "done", change_core_limit, NULL);
	attempt("a call of another ABI", "killed", old_abi, NULL);
	// Signals to init are sent and have no effect: the test goes on, in the same cell.
	attempt("SIGKILL to init", "done", kill_init, (void *)SIGKILL);
	attempt("SIGSTOP to init", "done", kill_init, (void *)SIGSTOP);
	attempt("SIGTERM to init", "done", kill_init, (void *)SIGTERM);
	attempt("SIGSEGV to init", "done", kill_init, (void *)SIGSEGV);
	sockets();
	printf("%d got through\n", failures);
	return failures != 0;
}
