//! The host as a container of systemd-nspawn's, on this machine's kernel and at its speed: with the disk as its lower layer, a
//! volume for what cells' overlays can't stand on, and a part of every hierarchy of cgroups.

use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{COMMAND_WAIT, MADE};
use crate::harness::hierarchies;

/// How long it may take to boot.
const BOOT_WAIT: Duration = Duration::from_secs(60);

/// How long what it leaves may take to go.
const SWEEP_WAIT: Duration = Duration::from_secs(10);

/// Enters the cgroups before `--`, and executes what stands behind. A hierarchy that refuses has nothing that cells need.
const ENTER: &str = r#"
    while [ "$1" != -- ]; do mkdir "$1" && echo $$ 2>/dev/null >"$1/cgroup.procs" || :; shift; done
    shift
    exec "$@"
"#;

/// Where hierarchies of version 1 are mounted in it, if version 2 has no controllers: nspawn mounts version 2 alone.
pub(super) const LIMITS: &str = r"
    grep --quiet memory /sys/fs/cgroup/cgroup.controllers || (
        set -e
        for one in cpu memory pids; do
            mkdir --parents /run/cgroups/$one
            mount -t cgroup -o $one none /run/cgroups/$one
        done
        unit=/etc/systemd/system/cloister-launcher.service.d
        mkdir --parents $unit
        printf '[Service]\nReadWritePaths=/run/cgroups\n' >$unit/cgroups.conf
    )
";

/// Starts it with a volume in `folder`; gives the process with which it ends, and a root shell in it.
pub(super) fn start(folder: &Path, payload: &Path) -> (Child, BufReader<UnixStream>) {
    let state = folder.join("state");
    std::fs::create_dir(&state).expect("a folder for the state");
    let mut machine = Command::new("sh")
        .args(["-c", ENTER, "sh"])
        .args(groups(folder))
        .arg("--")
        // With the test, or with the first process of the namespace, everything ends.
        .args("setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount-proc".split(' '))
        .args("systemd-nspawn --quiet --register=no --keep-unit --console=pipe --volatile=overlay --boot".split(' '))
        .args(["--directory", &format!("{MADE}/root")])
        .arg("--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self")
        .arg(format!("--bind-ro={}:/payload", payload.display()))
        .arg(format!("--bind={}:/var/lib/cloister", state.display()))
        // That one is for the emulator.
        .args(["--", "--show-status=no", "systemd.mask=shell.service"])
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .stdin(Stdio::null())
        .spawn()
        .expect("systemd-nspawn starts: scripts/install-deps vm");
    match booted(&mut machine) {
        Ok(init) => (machine, shell(&init)),
        Err(reason) => {
            let _ = machine.kill();
            let _ = machine.wait();
            sweep(folder);
            panic!("{reason}");
        }
    }
}

/// Waits until it has booted; gives its first process.
fn booted(machine: &mut Child) -> Result<String, String> {
    let by = Instant::now() + BOOT_WAIT;
    loop {
        if let Some(status) = machine.try_wait().expect("it is our child") {
            return Err(format!("systemd-nspawn ended with {status}"));
        }
        if let Some(init) = init(machine.id()) {
            let mut running = Command::new("nsenter");
            running.args(["--all", "--target", &init, "systemctl", "--quiet", "is-active", "multi-user.target"]);
            if running.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
                return Ok(init);
            }
        }
        if Instant::now() > by {
            return Err("the container doesn't boot".to_owned());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Removes its cgroups, as soon as its processes are gone.
pub(super) fn sweep(folder: &Path) {
    let by = Instant::now() + SWEEP_WAIT;
    loop {
        let left: Vec<PathBuf> = groups(folder).filter(|group| group.is_dir()).collect();
        if left.is_empty() || Instant::now() > by {
            return;
        }
        let mut find = Command::new("find");
        let _ = find.args(left).args(["-depth", "-type", "d", "-delete"]).stderr(Stdio::null()).status();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Its cgroups, one in every hierarchy.
fn groups(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let name = format!("cloister-{}", folder.file_name().expect("it has a name").display());
    hierarchies().map(move |hierarchy| hierarchy.join(&name))
}

/// The container's first process, once that is systemd.
fn init(machine: u32) -> Option<String> {
    let children = |id: &str| std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let mut ids = vec![machine.to_string()];
    while let Some(id) = ids.pop() {
        if std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name == "systemd\n") {
            return Some(id);
        }
        ids.extend(children(&id).split_whitespace().map(str::to_owned));
    }
    None
}

fn shell(init: &str) -> BufReader<UnixStream> {
    let (ours, theirs) = UnixStream::pair().expect("there are sockets");
    let end = || Stdio::from(OwnedFd::from(theirs.try_clone().expect("there are descriptors")));
    // It ends with the container.
    let mut shell = Command::new("setsid");
    shell.args(["--fork", "nsenter", "--all", "--target", init, "env", "--ignore-environment", "HOME=/root"]);
    shell.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "bash"]);
    let started = shell.current_dir("/").stdin(end()).stdout(end()).stderr(end()).status();
    assert!(started.is_ok_and(|status| status.success()), "setsid runs");
    ours.set_read_timeout(Some(COMMAND_WAIT)).expect("a deadline");
    BufReader::new(ours)
}
