//! Why a project's cell is as it is: runs, stands still, or ended, what counted as activity in it, and what comes next.

use std::io;
use std::time::{Duration, SystemTime};

use sandbox::spec::ProjectId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Error, Projects};
use crate::cell::{self, Deed, Ending, Fate, Phase, Standing, seconds, spoken};

/// How a project's cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// Its programs run.
    Running,
    /// They stand still until somebody types.
    Frozen,
    /// It was told to end.
    Stopping,
    /// There is none.
    Stopped,
}

/// Why a project's cell is as it is. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Why {
    /// How it is.
    pub(crate) state: Condition,
    /// Since when it is frozen or stopped, as far as that is known.
    pub(crate) since: Option<u64>,
    /// Why it is stopped, as a fragment.
    pub(crate) reason: Option<String>,
    /// What happened last in a cell that runs.
    pub(crate) activity: Option<Activity>,
    /// Whether and when it will be frozen, if it isn't.
    pub(crate) freeze: Option<Step>,
    /// Whether and when it will be stopped.
    pub(crate) stop: Option<Step>,
}

/// What happened last in a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Activity {
    /// What.
    pub(crate) what: Deed,
    /// When.
    pub(crate) at: u64,
    /// How much of one processor was used between the last two looks.
    pub(crate) cpu_percent: Option<f64>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// When, if nothing happens before.
    pub(crate) at: Option<u64>,
    /// Why not, if it doesn't come.
    pub(crate) never: Option<String>,
}

/// How a project's last cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    /// When, in seconds since 1970.
    at: u64,
    /// Why, if it was told to.
    ending: Option<Ending>,
}

impl End {
    pub(super) fn new(at: u64, ending: Option<Ending>) -> Self {
        Self { at, ending }
    }

    fn now(ending: Option<Ending>) -> Self {
        Self::new(seconds(SystemTime::now()), ending)
    }

    /// Whether it is known why.
    pub(super) fn is_known(self) -> bool {
        self.ending.is_some()
    }
}

impl Projects {
    /// Why a project's cell is as it is.
    pub(crate) async fn why(&self, id: &ProjectId) -> Result<Why, Error> {
        if !self.exists(id)? {
            return Err(Error::NotFound(id.clone()));
        }
        // One that a command has started.
        if self.known(id).is_none() && self.running()?.contains(id) {
            match self.find(id).await {
                Ok(()) | Err(cell::Error::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(cell) = self.settled(id).await else { return Ok(why_stopped(self.0.folder.end(id))) };
        match cell.standing().await {
            Ok(standing) if cell.state().phase != Phase::Gone => Ok(of_standing(&standing, cell.state().phase)),
            Ok(_) | Err(cell::Error::Gone) => {
                // It may be so fresh that nobody has noted it.
                let end = self.0.folder.end(id).unwrap_or_else(|| End::now(cell.state().ending));
                Ok(why_stopped(Some(end)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps that a project's cell has ended, for this reason if it was told to.
    pub(super) fn note_end(&self, id: &ProjectId, ending: Option<Ending>) {
        told_of_end(id, self.0.folder.write_end(id, &End::now(ending)));
    }

    /// A project's next cell has started.
    pub(super) fn forget_end(&self, id: &ProjectId) {
        told_of_end(id, self.0.folder.forget_end(id));
    }
}

fn told_of_end(id: &ProjectId, kept: io::Result<()>) {
    match kept {
        // The project may have gone with its cell.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(project = %id, %error, "how its cell ended can't be kept");
        }
        _ => {}
    }
}

fn why_stopped(end: Option<End>) -> Why {
    let reason = match end.map(|end| end.ending) {
        None => "it has not run yet, or ended while there was no server".to_owned(),
        Some(Some(Ending::Idle(idle))) => format!("nothing happened in it for {} (idle_stop_s)", spoken(idle)),
        Some(Some(Ending::Asked)) => "somebody stopped it".to_owned(),
        Some(Some(Ending::NoSession)) => "its last session had ended (cell_linger_s)".to_owned(),
        Some(None) => "its first process ended, or was killed".to_owned(),
    };
    let since = end.map(|end| end.at);
    Why { state: Condition::Stopped, since, reason: Some(reason), activity: None, freeze: None, stop: None }
}

fn of_standing(standing: &Standing, phase: Phase) -> Why {
    let Standing { frozen, last: (what, at), cpu_millis, freeze, stop } = standing;
    let state = match (phase, frozen) {
        (Phase::Running, Some(_)) => Condition::Frozen,
        (Phase::Running, None) => Condition::Running,
        _ => Condition::Stopping,
    };
    let cpu_percent = cpu_millis.map(|millis| millis as f64 / 10.0);
    Why {
        state,
        since: frozen.map(seconds),
        reason: None,
        activity: Some(Activity { what: *what, at: of_instant(*at), cpu_percent }),
        freeze: frozen.is_none().then(|| step(freeze)),
        stop: Some(step(stop)),
    }
}

fn step(fate: &Fate) -> Step {
    match fate {
        Fate::At(at) => Step { at: Some(of_instant(*at)), never: None },
        Fate::Not(why) => Step { at: None, never: Some((*why).to_owned()) },
    }
}

/// A moment as the clock on the wall has it now.
fn of_instant(at: Instant) -> u64 {
    let (now, clock) = (Instant::now(), SystemTime::now());
    let later = clock + at.saturating_duration_since(now);
    seconds(
        later
            - now
                .saturating_duration_since(at)
                .min(clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO)),
    )
}
