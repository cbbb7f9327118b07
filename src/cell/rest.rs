//! A cell at rest: frozen while nothing happens in it, and thawed by whatever does. The driver has it and tells it what it is
//! asked; it moves no session and stops nothing.
//!
//! All of a cell is frozen, its init too, so nothing that needs an answer may be sent to it before [`Rest::wake`]. What is typed
//! goes to the cell's sockets all the same, and waits there in its order for the moment that it takes.

use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use sandbox::freezer::Freezer;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until};

use super::idle::{Deed, Idle, Next, Patience, Sight};
use crate::metrics::metrics;
use crate::session::Activity;
use crate::watch::watched;

/// How long a cell may take to come to a stop. It is a moment, but for what waits for a disk that doesn't answer.
const FREEZE_WAIT: Duration = Duration::from_secs(2);

/// Longest time to sleep at once when there is nothing to wait for.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a cell isn't frozen or stopped that would be.
const USED: &str = "a command of this host has to do with the cell";
const UNSTOPPABLE: &str = "its processes didn't come to a stop, perhaps they wait for a disk";
const NO_FREEZER: &str = "cells of this host can't be frozen: `cloister doctor` says why";

/// Finds what freezes a cell: nothing where cells can't be frozen, an error if that isn't to be had now.
#[derive(Clone)]
pub(crate) struct Freezers(Arc<dyn Fn() -> Found + Send + Sync>);

type Found = BoxFuture<'static, Result<Option<Freezer>, String>>;

impl Freezers {
    pub(crate) fn new(find: impl Fn() -> Found + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }
}

impl std::fmt::Debug for Freezers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Freezers")
    }
}

/// What a cell is frozen by.
enum Tool {
    Unasked,
    Asked(Found),
    There(AsyncFd<Ear>),
    /// There is none.
    None,
}

/// A freezer that is listened to.
struct Ear(Arc<Freezer>);

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.0.events().as_raw_fd()
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Awake,
    /// Told to stop; the right to do so is claimed as long as this lasts.
    Freezing,
    Frozen(SystemTime),
}

/// What has happened.
pub(super) enum Turn {
    Stirred,
    Changed,
    Found(Result<Option<Freezer>, String>),
    Due,
}

/// What follows for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    /// It is frozen, since this moment.
    Frozen(SystemTime),
    /// It was, and goes on.
    Thawed,
    /// It is to be stopped, nothing having happened for so long.
    Stop(Duration),
}

/// What becomes of an idle cell, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It comes then, if nothing happens before.
    At(Instant),
    /// It doesn't come, for this reason.
    Not(&'static str),
}

/// Why a cell is as it is.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// Since when it is frozen.
    pub(crate) frozen: Option<SystemTime>,
    /// What happened last in it, and when.
    pub(crate) last: (Deed, Instant),
    /// How much of one processor it used between the last two looks, in thousandths.
    pub(crate) cpu_millis: Option<u64>,
    /// When it will be frozen, if it isn't.
    pub(crate) freeze: Fate,
    /// When it will be stopped.
    pub(crate) stop: Fate,
}

pub(super) struct Rest {
    freezers: Freezers,
    activity: Arc<Activity>,
    idle: Idle,
    tool: Tool,
    stage: Stage,
    /// What was in the way when it was due.
    obstacle: Option<&'static str>,
    due: Pin<Box<Sleep>>,
}

impl Rest {
    /// Of a cell that is awake.
    pub(super) fn new(patience: Patience, freezers: Freezers, activity: Arc<Activity>) -> Self {
        let now = Instant::now();
        let idle = Idle::new(patience, now);
        let due = Box::pin(sleep_until(now));
        let mut rest = Self { freezers, activity, idle, tool: Tool::Unasked, stage: Stage::Awake, obstacle: None, due };
        rest.look_later(now);
        rest
    }

    /// Waits for something to happen that concerns it. Loses nothing when dropped.
    pub(super) async fn turn(&mut self) -> Turn {
        let resting = self.stage != Stage::Awake;
        let tool = &mut self.tool;
        let heard = async {
            match tool {
                Tool::Asked(found) => Turn::Found(found.await),
                Tool::There(ear) => {
                    // A descriptor that can't be waited for says nothing any more.
                    match ear.ready(Interest::PRIORITY).await {
                        Ok(mut ready) => ready.clear_ready(),
                        Err(_) => std::future::pending().await,
                    }
                    Turn::Changed
                }
                Tool::Unasked | Tool::None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.activity.stirs(), if resting => Turn::Stirred,
            turn = heard => turn,
            () = self.due.as_mut() => Turn::Due,
        }
    }

    /// Does what follows from it. `printed` is how much the cell's sessions have printed; none while it isn't to be frozen,
    /// since it has no session or owes an answer.
    pub(super) fn take(&mut self, turn: Turn, printed: Option<u64>) -> Outcome {
        let now = Instant::now();
        match turn {
            // Of several keys in one go some are heard of again when the cell rests the next time.
            Turn::Stirred if self.has_stirred() && self.wake(Deed::Input) => Outcome::Thawed,
            Turn::Stirred => Outcome::Nothing,
            Turn::Changed => self.changed(now),
            Turn::Found(found) => {
                self.found(found);
                self.look(now, printed)
            }
            Turn::Due if self.stage == Stage::Freezing => {
                self.go_on(now);
                self.put_off(UNSTOPPABLE, now);
                Outcome::Nothing
            }
            Turn::Due => self.look(now, printed),
        }
    }

    /// Something is done in the cell, or is to be done: has it go on, and tells whether it was frozen.
    pub(super) fn wake(&mut self, deed: Deed) -> bool {
        let now = Instant::now();
        self.idle.happens(deed, now);
        let frozen = matches!(self.stage, Stage::Frozen(_));
        self.go_on(now);
        if frozen {
            let wanted = self.activity.stirred().filter(|_| deed == Deed::Input).unwrap_or(now);
            metrics().cells_thawed.inc();
            metrics().cell_thaw.observe(wanted.elapsed().as_secs_f64());
        }
        frozen
    }

    /// From now on nothing becomes of the cell, however idle it is. It is awake.
    pub(super) fn end(&mut self) {
        let now = Instant::now();
        self.idle = Idle::new(Patience::default(), now);
        self.look_later(now);
    }

    /// Takes the freezing back.
    fn go_on(&mut self, now: Instant) {
        if self.stage == Stage::Awake {
            return;
        }
        self.stage = Stage::Awake;
        self.activity.wake();
        if let Some(freezer) = self.freezer() {
            // Of a cell that is gone there is nothing to thaw.
            let thawed = freezer.thaw().and_then(|()| freezer.release());
            thawed.unwrap_or_else(|error| tracing::warn!(%error, "a frozen cell can't be thawed"));
        }
        self.awake(now);
    }

    /// Why it is as it is.
    pub(super) fn standing(&self, has_sessions: bool) -> Standing {
        let Patience { freeze, stop } = self.idle.patience();
        let (freeze_at, stop_at) = self.idle.due();
        let fate = |patience: Option<Duration>, at: Option<Instant>, key| match (patience, at) {
            (Some(_), Some(_)) if matches!(self.tool, Tool::None) => Fate::Not(NO_FREEZER),
            (Some(_), Some(_)) if !has_sessions => Fate::Not("it has no session, and ends soon (cell_linger_s)"),
            (Some(_), Some(at)) => self.obstacle.filter(|_| at <= Instant::now()).map_or(Fate::At(at), Fate::Not),
            _ => Fate::Not(key),
        };
        let frozen = if let Stage::Frozen(since) = self.stage { Some(since) } else { None };
        Standing {
            frozen,
            last: self.idle.last(),
            cpu_millis: self.idle.cpu_millis(),
            freeze: fate(freeze, freeze_at, "idle_freeze_s = 0"),
            stop: fate(stop, stop_at, "idle_stop_s = 0"),
        }
    }

    /// The kernel says that the cell has come to a stop, or goes on.
    fn changed(&mut self, now: Instant) -> Outcome {
        let Some(frozen) = self.freezer().and_then(|freezer| freezer.is_frozen().ok()) else {
            return Outcome::Nothing;
        };
        match self.stage {
            Stage::Freezing if frozen => Outcome::Frozen(self.frozen(now)),
            Stage::Frozen(_) if !frozen => {
                self.wake(Deed::Thaw);
                Outcome::Thawed
            }
            _ => Outcome::Nothing,
        }
    }

    fn found(&mut self, found: Result<Option<Freezer>, String>) {
        self.tool = match found {
            Ok(Some(freezer)) => watched(Ear(Arc::new(freezer)), Interest::PRIORITY).map_or_else(
                |error| {
                    tracing::warn!(%error, "a cell's freezer can't be listened to");
                    Tool::None
                },
                Tool::There,
            ),
            Ok(None) => Tool::None,
            Err(error) => {
                tracing::debug!(error, "a cell's freezer isn't to be had");
                Tool::Unasked
            }
        };
    }

    /// Looks what has happened, and freezes a cell in which nothing has.
    fn look(&mut self, now: Instant, printed: Option<u64>) -> Outcome {
        let work = match (&self.tool, printed) {
            (Tool::There(ear), Some(printed)) => ear.get_ref().0.work().ok().map(|work| (work, printed)),
            (Tool::Unasked, Some(_)) if !matches!(self.idle.next(now, false), Next::Nothing) => {
                self.tool = Tool::Asked((self.freezers.0)());
                None
            }
            _ => None,
        };
        let frozen = matches!(self.stage, Stage::Frozen(_));
        match work {
            Some((work, printed)) if !frozen => {
                self.idle.see(Sight { at: now, typed: self.activity.stirred(), printed, work });
            }
            None if !frozen => self.idle.goes_on(),
            _ => {}
        }
        match self.idle.next(now, frozen) {
            Next::Look(at) => self.due.as_mut().reset(at),
            Next::Nothing => self.due.as_mut().reset(now + FOREVER),
            Next::Freeze => return self.freeze(now),
            Next::Stop => return self.give_up(now),
        }
        Outcome::Nothing
    }

    /// Begins to freeze the cell.
    fn freeze(&mut self, now: Instant) -> Outcome {
        let claimed = self.freezer().map(Freezer::claim);
        if !matches!(claimed, Some(Ok(true))) {
            self.put_off(USED, now);
            return Outcome::Nothing;
        }
        // Who types from now on is heard; who did so since the look has it put off.
        self.stage = Stage::Freezing;
        self.activity.rest();
        let typed = self.has_stirred();
        let begun = self.freezer().map(Freezer::freeze);
        if typed || !matches!(begun, Some(Ok(()))) {
            self.go_on(now);
            return Outcome::Nothing;
        }
        self.due.as_mut().reset(now + FREEZE_WAIT);
        // It may be done already.
        self.changed(now)
    }

    /// The cell has come to a stop.
    fn frozen(&mut self, now: Instant) -> SystemTime {
        let since = SystemTime::now();
        self.stage = Stage::Frozen(since);
        self.obstacle = None;
        if let Some(freezer) = self.freezer() {
            let _ = freezer.release();
        }
        metrics().cells_frozen.inc();
        self.reclaim();
        // What comes next may be due by now.
        self.due.as_mut().reset(now);
        since
    }

    /// It has been idle for as long as it may be.
    fn give_up(&mut self, now: Instant) -> Outcome {
        match self.freezer().map(Freezer::claim) {
            Some(Ok(true)) => Outcome::Stop(now - self.idle.last().1),
            _ => {
                self.put_off(USED, now);
                Outcome::Nothing
            }
        }
    }

    /// Something is in the way: it is tried again with the next look.
    fn put_off(&mut self, obstacle: &'static str, now: Instant) {
        self.obstacle = Some(obstacle);
        self.look_later(now);
    }

    fn awake(&mut self, now: Instant) {
        self.obstacle = None;
        self.idle.goes_on();
        self.look_later(now);
    }

    fn look_later(&mut self, now: Instant) {
        let later = self.idle.patience().look_every().unwrap_or(FOREVER);
        self.due.as_mut().reset(now + later);
    }

    /// Has memory taken back that the frozen cell doesn't need, on a thread that may wait for it, of one cell after the other.
    fn reclaim(&self) {
        static TURN: Semaphore = Semaphore::const_new(1);
        let Tool::There(ear) = &self.tool else { return };
        let (freezer, activity) = (ear.get_ref().0.clone(), self.activity.clone());
        if !freezer.reclaims() {
            return;
        }
        tokio::spawn(async move {
            let Ok(_turn) = TURN.acquire().await else { return };
            let _ = tokio::task::spawn_blocking(move || freezer.reclaim(|| activity.rests())).await;
        });
    }

    /// Whether somebody has typed since what is known to have happened last.
    fn has_stirred(&self) -> bool {
        self.activity.stirred().is_some_and(|typed| typed > self.idle.last().1)
    }

    fn freezer(&self) -> Option<&Freezer> {
        if let Tool::There(ear) = &self.tool { Some(&ear.get_ref().0) } else { None }
    }
}
