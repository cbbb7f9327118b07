//! Keeps a session's output until the screen has seen it: feeds the screen before the log comes round, and hands the cell a
//! checkpoint from which the next server can do the same. It doesn't know how the cell is told.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::io::pread;
use sandbox::control::SessionName;
use sandbox::log::LogError;

use super::{Session, View};

/// How long after a client saw output the screen is fed with it, for its title and the like: long enough that a keystroke
/// and its echo aren't disturbed.
const NEWS_DELAY: Duration = Duration::from_millis(100);

/// Longer than it takes to parse a part of what programs usually print.
const COSTLY: Duration = Duration::from_millis(1);

/// Largest checkpoint that is read back, in bytes: a history of two MiB and a large screen.
const CHECKPOINT_BYTES_MAX: u64 = 16 * 1024 * 1024;

const SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE).union(SealFlag::F_SEAL_SEAL);

/// What the cell is told.
#[derive(Debug)]
pub(crate) struct Keep {
    /// First offset that is still needed.
    pub(crate) from: u64,
    /// Offset at which to say that the log has grown.
    pub(crate) until: u64,
    /// A checkpoint of the screen at `from`; none at birth.
    pub(crate) checkpoint: Option<OwnedFd>,
}

/// Looks after a session until it ends. `kept` is what the cell keeps already.
pub(crate) async fn keep(
    name: SessionName,
    session: Arc<Session>,
    mut kept: Option<u64>,
    tell: impl AsyncFn(SessionName, Keep),
) {
    let step = session.log.ring_bytes() / 4;
    loop {
        if let Err(error) = session.caught_up().await {
            tracing::warn!(session = %name, %error, "a session's output is no longer followed");
            return;
        }
        let offset = session.view().offset();
        if kept.is_none_or(|kept| offset >= kept.saturating_add(step)) {
            let made = checkpoint(&session.view());
            match made {
                Ok((from, checkpoint)) => {
                    kept = Some(from);
                    tell(name.clone(), Keep { from, until: from + step, checkpoint: Some(checkpoint) }).await;
                }
                // The program waits once the log is full, rather than that output is lost.
                Err(error) => tracing::error!(session = %name, %error, "no checkpoint of a session can be made"),
            }
        }
        session.publish_news();
        tokio::select! {
            () = session.ended.cancelled() => return,
            () = session.grown.notified() => {}
            () = session.seen.notified() => {
                tokio::select! {
                    () = tokio::time::sleep(NEWS_DELAY) => {}
                    () = session.grown.notified() => {}
                    () = session.ended.cancelled() => return,
                }
                session.watched.store(false, Ordering::Relaxed);
            }
        }
    }
}

fn checkpoint(view: &View) -> std::io::Result<(u64, OwnedFd)> {
    let mut bytes = Vec::new();
    view.screen().save(&mut bytes);
    let file = memfd_create(c"cloister-checkpoint", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(file);
    file.write_all(&bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok((view.offset(), file.into()))
}

/// Reads a checkpoint that a cell kept. It may have put anything in its place: what can't change any more is read, if it
/// isn't too much.
pub(super) fn read_checkpoint(file: &OwnedFd) -> Option<Vec<u8>> {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).ok()?;
    let size = u64::try_from(rustix::fs::fstat(file).ok()?.st_size).ok()?;
    if !SealFlag::from_bits_truncate(seals).contains(SEALS) || size > CHECKPOINT_BYTES_MAX {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    let mut read = 0;
    while read < bytes.len() {
        match pread(file, &mut bytes[read..], read as u64).ok()? {
            0 => return None,
            count => read += count,
        }
    }
    Some(bytes)
}

impl Session {
    /// Feeds the screen with all that the log holds now, a part at a time, letting others have a turn between. A program whose
    /// output takes long to parse gets half of a processor at most: its own cell's share doesn't pay for this.
    pub(crate) async fn caught_up(&self) -> Result<(), LogError> {
        let head = self.log.head();
        loop {
            let began = Instant::now();
            let all = self.view().advance(&self.log)?;
            if all || self.view().offset() >= head {
                return Ok(());
            }
            match began.elapsed() {
                long if long > COSTLY => tokio::time::sleep(long).await,
                _ => tokio::task::yield_now().await,
            }
        }
    }
}
