//! Whether somebody does something in a cell: what all its sessions share with whoever lets it rest. It costs a keystroke a look
//! at the clock and two atomics. It knows no freezer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// When somebody last did something that the cell's programs have to hear of.
#[derive(Debug)]
pub(crate) struct Activity {
    born: Instant,
    /// In microseconds after that; 0 is never.
    stirred_us: AtomicU64,
    /// Whether somebody waits for the next time.
    resting: AtomicBool,
    stir: Notify,
    farewell: OnceLock<String>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            stirred_us: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            stir: Notify::new(),
            farewell: OnceLock::new(),
        }
    }
}

impl Activity {
    /// Somebody types, or changes a size.
    pub(crate) fn stir(&self) {
        let us = u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        // In one order for all, so that either we see the rest or who begins it sees us.
        self.stirred_us.store(us.max(1), Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst) {
            self.stir.notify_one();
        }
    }

    /// When that was last; `None` if it never was.
    pub(crate) fn stirred(&self) -> Option<Instant> {
        let us = self.stirred_us.load(Ordering::SeqCst);
        (us > 0).then(|| self.born + Duration::from_micros(us))
    }

    /// From now on the next time is waited for, until [`Self::wake`].
    pub(crate) fn rest(&self) {
        self.resting.store(true, Ordering::SeqCst);
    }

    /// Whether it is waited for.
    pub(crate) fn rests(&self) -> bool {
        self.resting.load(Ordering::SeqCst)
    }

    /// It is no more.
    pub(crate) fn wake(&self) {
        self.resting.store(false, Ordering::SeqCst);
    }

    /// Waits for somebody to stir while resting. One who did before that may be reported once more.
    pub(crate) async fn stirs(&self) {
        self.stir.notified().await;
    }

    /// The cell is about to be ended, for a reason that its clients shall hear.
    pub(crate) fn end(&self, reason: String) {
        // The first reason is the one that ends it.
        let _ = self.farewell.set(reason);
    }

    /// That reason, as in "the project was stopped since …".
    pub(crate) fn farewell(&self) -> Option<&str> {
        self.farewell.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_stirs_while_nobody_rests_is_remembered_and_wakes_nobody() {
        let activity = Activity::default();
        assert_eq!(activity.stirred(), None);
        activity.stir();
        assert!(activity.stirred().is_some_and(|at| at <= Instant::now()));
        tokio::time::timeout(Duration::from_millis(1), activity.stirs()).await.unwrap_err();
        activity.rest();
        activity.stir();
        activity.stirs().await;
        activity.wake();
        activity.stir();
        tokio::time::timeout(Duration::from_millis(1), activity.stirs()).await.unwrap_err();
    }
}
