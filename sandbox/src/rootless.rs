//! Without root: a launcher that an ordinary user starts becomes root of a user namespace of its own, with the ids that the host
//! has given that user (subuid(5), subgid(5)).
//!
//! In there everything is made as by root, with few differences, each at its place in the code: no mount's owners can be
//! mapped, so all cells have one range of ids and files have them on disk; no device node can be made, so the host's are shown;
//! cgroups are those that were delegated; no disk can be limited. It doesn't know what a cell is.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::CloneFlags;
use nix::unistd::{User, getgid, getuid};
use rustix::process::{Pid, getppid};

use crate::failure::{Context, Failure};
use crate::ids::{IDS_PER_CELL, subordinate};
use crate::packet;
use crate::privilege::become_root;
use crate::sys::{self, Fork};

/// The launcher's name, and the word on its command line that says that it is where it should be.
const NAME: &str = "cloister-launcher";
const SETTLED: &str = "rootless";

/// Longest complaint of the programs that write id maps that is passed on.
const WORDS_MAX: usize = 512;

/// Longest report of the process that runs them, in bytes: the complaint in JSON, with the program's name.
const REPORT_BYTES_MAX: usize = 8 * WORDS_MAX;

/// With what rights the launcher works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The host's root.
    Root,
    /// Root of a user namespace, and an ordinary user of the host.
    User,
}

/// Finds out what this process is; an ordinary user's becomes root of a user namespace of its own, by executing its program
/// anew: only memory that began in the namespace, and children with copies of it, are that root's to look after.
/// Call it first, while the process has one thread and nothing open but the standard three.
pub(crate) fn settle() -> Result<Standing, Failure> {
    if std::env::args().nth(1).as_deref() == Some(SETTLED) {
        return Ok(Standing::User);
    }
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() {
        return Ok(Standing::Root);
    }
    let first = |kind| first(kind).map_err(|reason| Failure::new("find ids for cells", reason));
    let maps = [map(uid.as_raw(), first("uid")?), map(gid.as_raw(), first("gid")?)];
    let (ours, theirs) = packet::pair().step("make a socket pair")?;
    // Only from outside can the maps be written, and only by programs that have the right to.
    match sys::fork(0, None).step("fork")? {
        Fork::Child => {
            drop(ours);
            if let (Ok((1.., _)), Some(parent)) = (packet::receive(&theirs, &mut [0; 2]), getppid()) {
                let _ = packet::send_json(&theirs, &write_maps(parent, &maps).err(), &[]);
            }
            sys::exit(0)
        }
        Fork::Parent { pidfd, .. } => {
            drop(theirs);
            let entered = nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
                .step("make a user namespace without root (`cloister doctor` says what is in the way)");
            let mapped = entered.and_then(|()| have_mapped(&ours));
            drop(ours);
            sys::reap(&pidfd);
            mapped?;
        }
    }
    become_root().step("become root of the user namespace")?;
    let failed = Command::new("/proc/self/exe").arg0(NAME).arg(SETTLED).exec();
    Err(Failure::new("execute the launcher in the user namespace", failed))
}

/// The first of the user and of the group ids that the host gives to the user who started this process, for cells. An error says
/// what is missing, with its remedy.
pub fn ids() -> Result<[u32; 2], String> {
    Ok([first("uid")?, first("gid")?])
}

fn first(kind: &str) -> Result<u32, String> {
    let name = User::from_uid(getuid()).ok().flatten().map_or_else(|| getuid().to_string(), |user| user.name);
    let file = format!("/etc/sub{kind}");
    let found = subordinate(&file, &name, getuid().as_raw()).map_err(|error| format!("{file}: {error}"))?;
    found.ok_or_else(|| {
        format!(
            "{file} gives user {name} no {IDS_PER_CELL} ids in a row: as root, `usermod --add-sub{kind}s 100000-165535 {name}` does, \
             if nobody has these"
        )
    })
}

/// The arguments of the program that writes a map: the user itself as root, then the ids of cells.
fn map(own: u32, first: u32) -> [String; 6] {
    [0, own, 1, 1, first, IDS_PER_CELL].map(|number| number.to_string())
}

/// Writes both maps of a process by the programs of shadow.
fn write_maps(process: Pid, maps: &[[String; 6]; 2]) -> Result<(), Failure> {
    for (program, map) in ["newuidmap", "newgidmap"].into_iter().zip(maps) {
        let failed = |reason: &str| Failure::new(format!("run {program}"), reason);
        let output =
            Command::new(program).arg(process.to_string()).args(map).output().map_err(|error| match error.kind() {
                ErrorKind::NotFound => failed("it is not installed: apt install uidmap"),
                _ => failed(&error.to_string()),
            })?;
        if !output.status.success() {
            let words: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(WORDS_MAX).collect();
            return Err(failed(&words));
        }
    }
    Ok(())
}

/// Has this process's maps written by the helper, and waits for it.
fn have_mapped(helper: &OwnedFd) -> Result<(), Failure> {
    const STEP: &str = "map the ids of cells";
    packet::send(helper, b"go", &[]).step(STEP)?;
    match packet::receive_json::<Option<Failure>>(helper, REPORT_BYTES_MAX).step(STEP)? {
        Some((None, _)) => Ok(()),
        Some((Some(failure), _)) => Err(failure),
        None => Err(Failure::new(STEP, "the process that has it done was killed")),
    }
}
