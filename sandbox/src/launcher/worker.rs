//! The unpack worker: a fork of the launcher that sees nothing but the folder of layers, no other process and no network,
//! and has three capabilities. An archive that finds a bug in the unpacking code finds nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use caps::Capability;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::daemon::Unpack;
use super::folders::Folders;
use super::wire::Progress;
use crate::admission::{Disk, shortage};
use crate::failure::{Context, Failure};
use crate::idmap;
use crate::ids::IdRange;
use crate::mount;
use crate::packet;
use crate::privilege::{become_root, keep_capabilities};
use crate::rootless::Standing;
use crate::seccomp::Filter;
use crate::sys::{self, Fork};

/// To give files their owners, modes and times, and to write where a layer's own modes forbid it.
const CAPABILITIES: [Capability; 3] = [Capability::CAP_CHOWN, Capability::CAP_FOWNER, Capability::CAP_DAC_OVERRIDE];

/// Bytes of the blob between two reports: some dozen a second.
const REPORT_EVERY_BYTES: u64 = 4 << 20;

/// What a worker is given.
pub(super) struct Materials<'a> {
    pub(super) blob: OwnedFd,
    pub(super) reports: OwnedFd,
    pub(super) filter: &'a Filter,
    /// What is to stay free of the disk, in bytes.
    pub(super) reserve: u64,
}

/// Starts a worker; it answers on the socket that came along, and nobody waits for it.
pub(super) fn start(unpack: Unpack, request: &str, materials: Materials<'_>, folders: &Folders) -> Result<(), Failure> {
    const STEP: &str = "start an unpack worker";
    // Copied in the launcher's namespace, attached in the worker's: a mount is copied only where its descriptor came from.
    let layers = mount::copy_of(&folders.layers).step("copy the folder of layers")?;
    let (ours, theirs) = packet::pair().step(STEP)?;
    // Alone among processes: it is the host's root without capabilities, and as such could signal root's others. Without root
    // it has the ids of cells besides, and nobody else's.
    let users = if folders.standing == Standing::User { libc::CLONE_NEWUSER } else { 0 };
    match sys::fork((libc::CLONE_NEWPID | users) as u64, None).step(STEP)? {
        Fork::Child => {
            drop(ours);
            // Its maps must be written first.
            if matches!(packet::receive(&theirs, &mut [0; 2]), Ok((2, _))) {
                drop(theirs);
                let run = || work(unpack, request, materials, layers);
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            }
            sys::exit(0)
        }
        Fork::Parent { pid, .. } => {
            drop(theirs);
            if folders.standing == Standing::User {
                let map = IdRange::SHARED.map();
                idmap::write_maps(pid, &map, &map).step("write the unpack worker's id map")?;
            }
            packet::send(&ours, b"go", &[]).step(STEP)
        }
    }
}

/// The worker's life: confine, unpack, report. Runs in the fork.
fn work(unpack: Unpack, request: &str, materials: Materials<'_>, layers: OwnedFd) {
    let Materials { blob, reports, filter, reserve } = materials;
    let report = |progress: &Progress| packet::send_json(&reports, progress, &[]);
    let outcome =
        confine(layers, &blob, &reports, filter).map_err(|failure| format!("{}: {}", failure.step, failure.reason));
    let outcome = outcome.and_then(|layers| {
        let disk = layers.try_clone().map_err(|error| error.to_string())?;
        let mut reported = 0;
        let mut progress = |bytes: u64| {
            if let Some(shortage) = shortage(Disk::State, &disk, reserve)? {
                return Err(io::Error::other(shortage.to_string()));
            }
            if bytes - reported >= REPORT_EVERY_BYTES {
                reported = bytes;
                // Whoever asked may be gone; the layer is still worth having.
                let _ = report(&Progress::Read { bytes });
            }
            Ok(())
        };
        unpack(request, File::from(blob), layers, &mut progress)
    });
    let _ = report(&match outcome {
        Ok(()) => Progress::Unpacked,
        Err(reason) => Progress::Failed { reason },
    });
}

/// Leaves the host: the folder of layers becomes the root; gives it opened.
fn confine(layers: OwnedFd, blob: &OwnedFd, reports: &OwnedFd, filter: &Filter) -> Result<OwnedFd, Failure> {
    become_root().step("become root")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
        .step("enter namespaces of the worker's own")?;
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .step("make mounts private")?;
    mount::folder("/".as_ref())
        .and_then(|place| mount::attach(&layers, place))
        .and_then(|()| mount::pivot(&layers))
        .step("pivot into the folder of layers")?;
    drop(layers);
    sys::close_except(&mut [blob.as_raw_fd(), reports.as_raw_fd()]).step("close the launcher's descriptors")?;
    keep_capabilities(&CAPABILITIES).step("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    filter.apply().step("load the system call filter")?;
    mount::folder("/".as_ref()).step("open the folder of layers")
}
