# Looks at all that a cell can see of the kernel, and prints a line for whatever it shouldn't be able to do with it.
# It runs inside a cell, as its root.
import errno
import os
import stat

found = []


def opens(path, flags):
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW))
        return True
    except OSError:
        return False


def writes(path):
    # Some of init's can be opened by anyone, and then refuse every word.
    if not path.startswith("/proc/1/"):
        return opens(path, os.O_WRONLY)
    try:
        with open(path, "wb", buffering=0) as file:
            return file.write(b"0") > 0
    except OSError:
        return False


def is_null(status):
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


# No file of the kernel's can be written, but one's own process's and the masks, which are /dev/null.
seen = 0
for top in ("/proc", "/sys"):
    for folder, folders, files in os.walk(top):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdigit() or name == "1"]
            folders[:] = [name for name in folders if name not in ("self", "thread-self")]
        for name in files:
            path = os.path.join(folder, name)
            seen += 1
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if not stat.S_ISLNK(status.st_mode) and not is_null(status) and writes(path):
                found.append(f"writable: {path}")
        # Nothing can be made there either.
        if opens(os.path.join(folder, "new"), os.O_WRONLY | os.O_CREAT):
            found.append(f"creatable: {folder}/new")
if seen < 1000:
    found.append(f"only {seen} files looked at")

# What tells of the host or its hardware is empty.
for path in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "pressure", "sched_debug", "scsi",
             "timer_list", "timer_stats"):
    path = "/proc/" + path
    if os.path.isdir(path):
        if os.listdir(path):
            found.append(f"not masked: {path}")
    elif os.path.exists(path):
        if not is_null(os.stat(path)):
            found.append(f"masked by something else: {path}")
        with open(path, "rb") as file:
            if file.read(1):
                found.append(f"not masked: {path}")
for path in ("/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/security",
             "/sys/kernel/tracing", "/sys/fs/cgroup", "/sys/fs/bpf", "/sys/fs/pstore"):
    if os.path.isdir(path) and os.listdir(path):
        found.append(f"not empty: {path}")

# Init can be seen to be there, and nothing more.
for name in ("environ", "mem", "maps", "smaps", "auxv", "stack", "syscall", "personality", "pagemap", "io", "fd/0",
             "exe", "root/etc", "cwd/etc", "map_files", "ns/user", "ns/mnt"):
    if opens("/proc/1/" + name, os.O_RDONLY):
        found.append(f"of init: {name} can be read")
for name in ("exe", "root", "cwd", "ns/mnt", "ns/net", "ns/pid"):
    try:
        found.append(f"of init: {name} is {os.readlink('/proc/1/' + name)}")
    except OSError as error:
        if error.errno != errno.EACCES and error.errno != errno.EPERM:
            found.append(f"of init: {name}: {error}")
for name in ("fd", "fdinfo", "map_files"):
    try:
        if os.listdir("/proc/1/" + name):
            found.append(f"of init: {name} can be listed")
    except OSError:
        pass

# Devices: these and no others, and nothing can be added, removed or replaced.
expected = {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero"}
if set(os.listdir("/dev")) != expected:
    found.append(f"devices: {sorted(os.listdir('/dev'))}")
for name, numbers in (("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("random", (1, 8)), ("urandom", (1, 9)),
                      ("tty", (5, 0)), ("pts/ptmx", (5, 2))):
    status = os.stat("/dev/" + name)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(*numbers):
        found.append(f"device: {name}")
for attack in (lambda: os.unlink("/dev/null"), lambda: os.symlink("x", "/dev/x"), lambda: os.mkdir("/dev/x"),
               lambda: os.rename("/dev/zero", "/dev/null"), lambda: os.chmod("/dev/null", 0o600),
               lambda: os.rmdir("/workspace"), lambda: os.rename("/workspace", "/w"), lambda: os.rename("/proc", "/p")):
    try:
        attack()
        found.append("a mount point or device was changed")
    except OSError:
        pass
for folder, folders, files in os.walk("/", onerror=lambda error: None):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    for name in files:
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            found.append(f"device in the image: {path}")
        if mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(f"set-id file in the image: {path}")

# The kernel's parameters that keep namespaces away.
for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"):
    with open(f"/proc/sys/user/max_{name}_namespaces") as file:
        if file.read() != "0\n":
            found.append(f"namespaces: {name}")

# No descriptor but the terminal's three (and the one that lists them), in a folder that is the cell's.
descriptors = os.listdir("/proc/self/fd")
if len(descriptors) != 4:
    found.append(f"descriptors: {[(fd, os.readlink('/proc/self/fd/' + fd)) for fd in descriptors if os.path.exists('/proc/self/fd/' + fd)]}")
if os.getcwd() != "/workspace":
    found.append(f"started in {os.getcwd()}")
for descriptor in range(40):
    for way in (f"/proc/self/fd/{descriptor}/../../../..", f"/proc/self/fd/{descriptor}/.."):
        if os.path.exists(way) and not os.path.samefile(os.path.realpath(way), way):
            found.append(f"way out: {way}")

with open("/proc/self/status") as file:
    status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
for name, value in (("CapInh", "0" * 16), ("CapAmb", "0" * 16), ("CapBnd", "00000000000004fb"),
                    ("CapPrm", "00000000000004fb"), ("CapEff", "00000000000004fb"), ("NoNewPrivs", "1"),
                    ("Seccomp", "2"), ("Groups", " ")):
    if status[name] != value:
        found.append(f"{name} is {status[name]!r}")

print("\n".join(found + ["looked at everything"]))
