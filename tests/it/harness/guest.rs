//! An ordinary user of the host, for a server without root. Nothing of the host is changed for it: its name and its subordinate
//! ids are in an /etc of its own, and cgroups are delegated to it as a service manager would.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use super::hierarchies::hierarchies;
use super::image::BUILT;

/// The user's id and its group's: far from what a host gives to anybody.
pub(crate) const ID: u32 = 54_321;

/// The first of its subordinate ids.
pub(crate) const SUBORDINATE: u32 = 900_000_000;

/// Runs a command as the user, in a cgroup that is delegated to it: its folder, that cgroup's processes, the words.
const SCRIPT: &str = r#"
    mount --bind "$0/etc" /etc || exit
    [ -z "$1" ] || echo 0 > "$1/cgroup.procs" || exit
    folder=$0
    shift
    exec setpriv --reuid=54321 --regid=54321 --clear-groups env -u XDG_RUNTIME_DIR HOME="$folder" "$@"
"#;

/// Makes what the user needs in a folder of its own.
pub(super) fn prepare(folder: &Path, cgroup: Option<&str>) {
    let etc = folder.join("etc");
    let copied = Command::new("cp").args(["-a", "/etc"]).arg(&etc).status().expect("cp runs");
    assert!(copied.success(), "/etc is copied");
    let add = |file: &str, line: String| {
        let path = etc.join(file);
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, text + &line + "\n").expect("the file is written");
    };
    add("passwd", format!("guest:x:{ID}:{ID}::/nonexistent:/bin/sh"));
    add("group", format!("guest:x:{ID}:"));
    add("subuid", format!("guest:{SUBORDINATE}:65536"));
    add("subgid", format!("guest:{SUBORDINATE}:65536"));
    // The user may not be able to go where these were built.
    copy(&[env!("CARGO_BIN_EXE_cloister"), env!("CARGO_BIN_EXE_cloister-launcher"), BUILT], folder);
    chown(folder, Some(ID), Some(ID)).expect("the folder is given away");
    let Some(cgroup) = cgroup else { return };
    for root in hierarchies().filter(|root| root.join("cgroup.procs").exists()) {
        // Where it is version 2; processes live in leaves.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory +cpu +pids");
        delegate(&root.join(cgroup));
        if root.join(cgroup).join("cgroup.subtree_control").exists() {
            delegate(&root.join(cgroup).join("server"));
        }
    }
}

/// Copies files and folders into a folder.
pub(super) fn copy(paths: &[&str], folder: &Path) {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).args(paths).arg(folder).status().expect("cp runs");
    assert!(copied.success(), "{paths:?} are copied");
}

fn delegate(group: &Path) {
    fs::create_dir_all(group).expect("the cgroup is made");
    for file in [group.to_owned(), group.join("cgroup.procs"), group.join("cgroup.subtree_control")] {
        if file.exists() {
            chown(file, Some(ID), Some(ID)).expect("the cgroup is given away");
        }
    }
}

/// A command that runs the server's binary as the user.
pub(super) fn command(folder: &Path, cgroup: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT]).arg(folder);
    let leaf = hierarchies().map(|root| root.join(cgroup).join("server")).find(|leaf| leaf.is_dir());
    command.arg(leaf.unwrap_or_default()).arg(folder.join("cloister"));
    command
}
