//! When a cell's disk is full, which no counter of the kernel tells.

use std::time::{Duration, Instant};

/// How long after something has happened in the cell it is looked: a cell in which nothing happens isn't woken for it.
const LOOK_DELAY: Duration = Duration::from_secs(1);

/// How long after a report the next one is made at the earliest.
const REPORTS_EVERY: Duration = Duration::from_secs(10);

/// Room below which programs fail, in bytes: some blocks, of which an allocation may want several.
const FULL_BYTES: u64 = 64 * 1024;

/// The room that a cell has left within its limit of disk.
#[derive(Debug)]
pub(super) struct Room {
    /// In bytes; without one (0) a full disk is the host's matter.
    limit_bytes: u64,
    /// How often it was found full.
    times: u64,
    full: bool,
    look_at: Option<Instant>,
    /// When the next report may be made.
    rested: Instant,
}

impl Room {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, times: 0, full: false, look_at: None, rested: Instant::now() }
    }

    /// Something has happened in the cell, and it may have been this.
    pub(super) fn stirred(&mut self) {
        if self.limit_bytes > 0 {
            self.look_at.get_or_insert((Instant::now() + LOOK_DELAY).max(self.rested));
        }
    }

    /// When [`Self::news`] should be asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Says how often there was no room left and of how much, if it is so since it was last asked.
    pub(super) fn news(&mut self) -> Option<(u64, u64)> {
        let now = Instant::now();
        self.look_at.take_if(|at| *at <= now)?;
        let free = rustix::fs::statvfs("/workspace").ok()?;
        let full = free.f_bavail.saturating_mul(free.f_frsize) < FULL_BYTES || free.f_favail == 0;
        let newly = full && !self.full;
        self.full = full;
        if !newly {
            return None;
        }
        self.times += 1;
        self.rested = now + REPORTS_EVERY;
        Some((self.times, self.limit_bytes))
    }
}
