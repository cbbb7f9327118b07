//! Machines that don't offer what a cell needs, and folders that belong to somebody else.

use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use super::{is_refusal, output};
use crate::harness::Server;

/// The command in folders and a cgroup of its own: the shared ones shall not suffer.
fn apart(folder: &std::path::Path, cgroup: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
    for (option, name) in [("--state", "state"), ("--projects", "projects"), ("--run-dir", "run")] {
        command.arg(option).arg(folder.join(name));
    }
    command.env_clear().args(["--cgroup", cgroup]).args(words);
    command
}

#[test]
fn folders_of_somebody_else_are_not_taken_over() {
    let Some(server) = Server::start() else { return };
    let cgroup = server.project();
    for name in ["state", "state/layers", "state/cells", "run"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        chown(&path, Some(65_534), None).expect("it can be given away");
        let step = format!("prepare {}", path.display());
        is_refusal(
            &output(apart(folder.path(), &cgroup, &["image", "ls"])),
            &[&step, "it belongs to user 65534, not 0: give it to the right one with chown, or choose another folder"],
        );
        chown(&path, Some(0), None).expect("it can be taken back");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("its mode can be set");
        is_refusal(
            &output(apart(folder.path(), &cgroup, &["image", "ls"])),
            &[&step, "others can write to it: chmod go-w it, or choose another folder"],
        );
    }
    crate::harness::remove_cgroup(&cgroup);
}

#[test]
fn without_delegated_cgroups_nothing_starts() {
    let Some(server) = Server::start() else { return };
    let cgroup = server.project();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let command = apart(folder.path(), &cgroup, &["image", "ls"]);
    // As in an unprivileged service: the hierarchies can be read, not written.
    let script = "for place in $(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts); do \
                      mount -o remount,bind,ro \"$place\" || exit 99; \
                  done; exec \"$@\"";
    let mut confined = Command::new("unshare");
    confined.args(["--mount", "sh", "-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    is_refusal(&output(confined), &[&format!("make the cgroup {cgroup} below "), "Read-only file system"]);
}
