//! The unpack worker: a fork of the launcher that sees nothing but the folder of layers, no other process and no network,
//! and has three capabilities. An archive that finds a bug in the unpacking code finds nothing else.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use caps::Capability;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::daemon::Unpack;
use super::wire::Progress;
use crate::failure::{Context, Failure};
use crate::mount;
use crate::packet;
use crate::privilege::keep_capabilities;
use crate::seccomp::Policy;
use crate::sys;

/// To give files their owners, modes and times, and to write where a layer's own modes forbid it.
const CAPABILITIES: [Capability; 3] = [Capability::CAP_CHOWN, Capability::CAP_FOWNER, Capability::CAP_DAC_OVERRIDE];

/// Bytes of the blob between two reports: some dozen a second.
const REPORT_EVERY_BYTES: u64 = 4 << 20;

/// The worker's life: confine, unpack, report. Runs in the fork.
pub(super) fn work(unpack: Unpack, request: &str, blob: OwnedFd, reports: OwnedFd, layers: &OwnedFd, policy: &Policy) {
    let report = |progress: &Progress| packet::send_json(&reports, progress, &[]);
    let outcome =
        confine(layers, &blob, &reports, policy).map_err(|failure| format!("{}: {}", failure.step, failure.reason));
    let outcome = outcome.and_then(|layers| {
        let mut reported = 0;
        let mut progress = |bytes: u64| {
            if bytes - reported >= REPORT_EVERY_BYTES {
                reported = bytes;
                // Whoever asked may be gone; the layer is still worth having.
                let _ = report(&Progress::Read { bytes });
            }
        };
        unpack(request, File::from(blob), layers, &mut progress)
    });
    let _ = report(&match outcome {
        Ok(()) => Progress::Unpacked,
        Err(reason) => Progress::Failed { reason },
    });
}

/// Leaves the host: the folder of layers becomes the root; gives it opened.
fn confine(layers: &OwnedFd, blob: &OwnedFd, reports: &OwnedFd, policy: &Policy) -> Result<OwnedFd, Failure> {
    // Copied in the launcher's namespace, attached in the worker's: a mount is copied only where its descriptor came from.
    let root = mount::copy_of(layers).step("copy the folder of layers")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
        .step("enter namespaces of the worker's own")?;
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .step("make mounts private")?;
    mount::folder("/".as_ref())
        .and_then(|place| mount::attach(&root, place))
        .and_then(|()| mount::pivot(&root))
        .step("pivot into the folder of layers")?;
    drop(root);
    sys::close_except(&mut [blob.as_raw_fd(), reports.as_raw_fd()]).step("close the launcher's descriptors")?;
    keep_capabilities(&CAPABILITIES).step("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    policy.apply().step("load the system call filters")?;
    mount::folder("/".as_ref()).step("open the folder of layers")
}
