//! What interrupts this program ends the server instead: the measurement fails then, and what it has made is removed.

use std::process::{Child, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{self, SigSet};
use rustix::process::{Pid, Signal, kill_process};

/// The latest server.
static SERVER: AtomicI32 = AtomicI32::new(0);

/// Has this server ended whenever this program is interrupted. First called before any other thread exists, so that none gets
/// the signal.
pub(crate) fn end_instead(server: Pid) -> anyhow::Result<()> {
    static WAITING: Once = Once::new();
    SERVER.store(server.as_raw_pid(), Ordering::Relaxed);
    interrupts().thread_block()?;
    WAITING.call_once(|| {
        std::thread::spawn(|| {
            if interrupts().wait().is_ok() {
                eprintln!("==> interrupted: cleaning up");
                // If it is gone, that is what was wanted.
                let _ = Pid::from_raw(SERVER.load(Ordering::Relaxed)).map(|pid| kill_process(pid, Signal::TERM));
            }
        });
    });
    Ok(())
}

/// Starts a process that is interrupted as usual: it would inherit what this thread blocks, and so would its shells.
pub(crate) fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    let before = SigSet::thread_get_mask()?;
    interrupts().thread_unblock()?;
    let child = command.spawn();
    before.thread_set_mask()?;
    Ok(child?)
}

fn interrupts() -> SigSet {
    [signal::SIGINT, signal::SIGTERM].into_iter().collect()
}
