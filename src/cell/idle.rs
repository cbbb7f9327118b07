//! When a cell in which nothing happens is to be frozen, and when stopped: times and counters in, what is to be done out. It
//! knows neither how a cell is frozen nor how its activity is found out.

use std::time::Duration;

use sandbox::freezer::Work;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often a cell is looked at that isn't frozen: a quarter of the time that it may be idle, within these bounds. Shorter looks
/// would take a shell's own little work for much, longer ones average a build's minute away.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(250);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(60);

/// From how much of one processor on a cell is at work, as an average between two looks in thousandths. A build takes a hundred
/// times as much, an editor that looks at the clock a tenth.
const BUSY_CPU_MILLIS: u64 = 10;

/// The same of bytes that it reads from disks and writes to them in a second, where the kernel counts these for cells.
const BUSY_IO_BYTES_PER_S: u64 = 64 << 10;

/// For how long nothing may happen in a cell; `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Until it is frozen.
    pub(crate) freeze: Option<Duration>,
    /// Until it is stopped.
    pub(crate) stop: Option<Duration>,
}

impl Patience {
    /// By seconds, of which 0 is for ever.
    pub(crate) fn from_seconds(freeze_s: u64, stop_s: u64) -> Self {
        let time = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        Self { freeze: time(freeze_s), stop: time(stop_s) }
    }

    /// How often to look whether something happens; `None` if nobody needs to know.
    pub(super) fn look_every(self) -> Option<Duration> {
        let shortest = self.freeze.into_iter().chain(self.stop).min()?;
        Some((shortest / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX))
    }
}

/// What counts as activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deed {
    /// A client attached, or something was asked of the cell.
    Request,
    /// Somebody typed, or changed a terminal's size.
    Input,
    /// A program printed.
    Output,
    /// Programs computed, or moved bytes to or from disks.
    Work,
    /// Somebody else let it go on: a command of this host, or its operator.
    Thaw,
}

/// What is seen of a cell at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) at: Instant,
    /// When somebody last typed.
    pub(super) typed: Option<Instant>,
    /// How much all sessions have printed, or any number that is another one once that is more.
    pub(super) printed: u64,
    pub(super) work: Work,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again then.
    Look(Instant),
    Freeze,
    Stop,
    /// Nothing, whatever happens.
    Nothing,
}

/// What is known of a cell's activity.
#[derive(Debug)]
pub(super) struct Idle {
    patience: Patience,
    last: (Deed, Instant),
    seen: Option<Sight>,
    cpu_millis: Option<u64>,
}

impl Idle {
    /// Of a cell that was asked for something just now.
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
        Self { patience, last: (Deed::Request, now), seen: None, cpu_millis: None }
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// What happened last, and when.
    pub(super) fn last(&self) -> (Deed, Instant) {
        self.last
    }

    /// How much of one processor was used between the last two looks, in thousandths.
    pub(super) fn cpu_millis(&self) -> Option<u64> {
        self.cpu_millis
    }

    /// Something happens.
    pub(super) fn happens(&mut self, deed: Deed, at: Instant) {
        if at >= self.last.1 {
            self.last = (deed, at);
        }
    }

    /// The cell goes on after a rest: what is seen next is compared with nothing before it.
    pub(super) fn goes_on(&mut self) {
        (self.seen, self.cpu_millis) = (None, None);
    }

    /// Takes note of what is seen.
    pub(super) fn see(&mut self, sight: Sight) {
        if let Some(typed) = sight.typed {
            self.happens(Deed::Input, typed);
        }
        if let Some(before) = self.seen.replace(sight) {
            let us = u64::try_from((sight.at - before.at).as_micros()).unwrap_or(u64::MAX).max(1);
            let cpu_us = sight.work.cpu_us.saturating_sub(before.work.cpu_us);
            let bytes = sight.work.io_bytes.saturating_sub(before.work.io_bytes);
            let millis = cpu_us.saturating_mul(1000) / us;
            self.cpu_millis = Some(millis);
            if millis >= BUSY_CPU_MILLIS || bytes.saturating_mul(1_000_000) / us >= BUSY_IO_BYTES_PER_S {
                self.happens(Deed::Work, sight.at);
            }
            if sight.printed != before.printed {
                self.happens(Deed::Output, sight.at);
            }
        }
    }

    /// What is to be done now with a cell that is seen as it is.
    pub(super) fn next(&self, now: Instant, frozen: bool) -> Next {
        let due = |patience: Option<Duration>| patience.map(|patience| self.last.1 + patience);
        let (freeze, stop) = (due(self.patience.freeze).filter(|_| !frozen), due(self.patience.stop));
        // Nothing is done before the cell was seen at work or not.
        let compared = frozen || self.cpu_millis.is_some();
        if compared && stop.is_some_and(|at| at <= now) {
            return Next::Stop;
        }
        if compared && freeze.is_some_and(|at| at <= now) {
            return Next::Freeze;
        }
        // Nothing can happen in a frozen cell that would have to be found out.
        let look = self.patience.look_every().filter(|_| !frozen).map(|every| now + every);
        let soonest = freeze.into_iter().chain(stop).filter(|at| *at > now).chain(look).min();
        soonest.map_or(Next::Nothing, Next::Look)
    }

    /// When that is done if nothing happens until then: it is frozen, and stopped.
    pub(super) fn due(&self) -> (Option<Instant>, Option<Instant>) {
        let due = |patience: Option<Duration>| patience.map(|patience| self.last.1 + patience);
        (due(self.patience.freeze), due(self.patience.stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn sight(at: Instant, cpu_us: u64, io_bytes: u64, printed: u64) -> Sight {
        Sight { at, typed: None, printed, work: Work { cpu_us, io_bytes } }
    }

    fn patience(freeze_s: u64, stop_s: u64) -> Patience {
        Patience::from_seconds(freeze_s, stop_s)
    }

    #[test]
    fn a_cell_in_which_nothing_happens_is_frozen_and_then_stopped() {
        let born = Instant::now();
        let mut idle = Idle::new(patience(100, 1000), born);
        assert_eq!(idle.next(born, false), Next::Look(born + 25 * S));
        for look in 1..4 {
            idle.see(sight(born + 25 * look * S, 7, 0, 4));
            assert_eq!(idle.next(born + 25 * look * S, false), Next::Look(born + 25 * (look + 1) * S));
        }
        idle.see(sight(born + 100 * S, 1000, 0, 4));
        assert_eq!(idle.next(born + 100 * S, false), Next::Freeze);
        assert_eq!(idle.next(born + 100 * S, true), Next::Look(born + 1000 * S));
        assert_eq!(idle.next(born + 1000 * S, true), Next::Stop);
        // It can't be frozen: it is looked at as before.
        assert_eq!(idle.next(born + 100 * S, false), Next::Freeze);
    }

    #[test]
    fn input_output_and_work_put_it_off() {
        let born = Instant::now();
        let at = |look: u32| born + 100 * look * S;
        let mut idle = Idle::new(patience(100, 0), born);
        for (look, cpu_us, io_bytes, printed, deed) in [
            (0, 0, 0, 0, None),
            (1, 990_000, 0, 0, None),
            // A hundredth of one processor.
            (2, 1_990_000, 0, 0, Some(Deed::Work)),
            (3, 1_990_000, 0, 1, Some(Deed::Output)),
            (4, 1_990_000, 100 * BUSY_IO_BYTES_PER_S - 1, 1, None),
            (5, 1_990_000, 200 * BUSY_IO_BYTES_PER_S, 1, Some(Deed::Work)),
        ] {
            let before = idle.last();
            idle.see(sight(at(look), cpu_us, io_bytes, printed));
            assert_eq!(idle.last(), deed.map_or(before, |deed| (deed, at(look))), "{look}");
        }
        let typed = at(5) + 5 * S;
        idle.see(Sight { typed: Some(typed), ..sight(at(6), 1_990_000, 200 * BUSY_IO_BYTES_PER_S, 1) });
        assert_eq!(idle.last(), (Deed::Input, typed));
        assert_eq!(idle.next(at(6), false), Next::Look(typed + 100 * S));
    }

    #[test]
    fn nothing_is_done_to_a_cell_that_was_not_seen_at_rest() {
        let born = Instant::now();
        let mut idle = Idle::new(patience(100, 200), born);
        let late = born + 1000 * S;
        assert_eq!(idle.next(late, false), Next::Look(late + 25 * S));
        idle.see(sight(late, 0, 0, 0));
        assert_eq!(idle.next(late, false), Next::Look(late + 25 * S));
        idle.see(sight(late + 25 * S, 0, 0, 0));
        assert_eq!(idle.next(late + 25 * S, false), Next::Stop);
        idle.goes_on();
        assert_eq!(idle.next(late + 25 * S, false), Next::Look(late + 50 * S));
    }

    #[test]
    fn who_has_patience_for_ever_is_never_looked_at() {
        let now = Instant::now();
        assert_eq!(Idle::new(patience(0, 0), now).next(now, false), Next::Nothing);
        let idle = Idle::new(patience(10, 0), now);
        assert_eq!(idle.next(now + 100 * S, true), Next::Nothing, "a frozen cell that is never stopped");
        let idle = Idle::new(patience(0, 4 * 3600), now);
        assert_eq!(idle.next(now, false), Next::Look(now + LOOK_EVERY_MAX));
        let idle = Idle::new(patience(1, 0), now);
        assert_eq!(idle.next(now, false), Next::Look(now + LOOK_EVERY_MIN));
    }
}
