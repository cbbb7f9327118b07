//! All cells that run, each with who is in it and what it uses: for who looks at the host. It changes nothing.

use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, statat};
use sandbox::spec::ProjectId;
use sandbox::usage::Usage;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::{Error, Projects};
use crate::cell::{Cell, Phase};

/// Most cells that are told of: more than any one host has memory for.
const CELLS_MAX: usize = 5000;

/// How long asking what they use may take together: no longer than whoever looks waits for the next look.
const ASKED_WAIT: Duration = Duration::from_millis(1500);

/// A running cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Whose.
    pub(crate) project: ProjectId,
    /// What becomes of it.
    pub(crate) state: Phase,
    /// Whether it stands still, since nothing happened in it.
    #[serde(default)]
    pub(crate) frozen: bool,
    /// Seconds since it was started, by the host's clock.
    pub(crate) uptime_s: Option<u64>,
    /// How many sessions it has, if this server is connected to it: others' cells are found by who opens them.
    pub(crate) sessions: Option<usize>,
    /// How many clients those have, of this server's.
    pub(crate) clients: Option<usize>,
    /// What it uses; nothing if there was no time to ask, or nobody counts it.
    pub(crate) usage: Option<Usage>,
}

impl Projects {
    /// Looks at all of them, in the order of their ids. One caller after the other.
    pub(crate) async fn look(&self) -> Result<Vec<Seen>, Error> {
        let by = Instant::now() + ASKED_WAIT;
        let Ok(_turn) = timeout_at(by, self.0.asking.lock()).await else { return Err(Error::Busy) };
        let mut seen = Vec::new();
        let mut asking = true;
        for project in self.running()?.into_iter().take(CELLS_MAX) {
            let asked = async { if asking { Some(self.0.launch.usage(&project).await) } else { None } };
            let usage = match timeout_at(by, asked).await {
                Ok(Some(Ok(usage))) => Some(usage),
                // It has ended just now.
                Ok(Some(Err(Error::Launcher(sandbox::launcher::Error::NoCell)))) => None,
                // What fails for one fails for all: there are no cgroups, or there is no time, or no launcher.
                Ok(Some(Err(_)) | None) | Err(_) => {
                    asking = false;
                    None
                }
            };
            let cell = self.known(&project);
            let clients = match &cell {
                Some(cell) => timeout_at(by, cell.clients()).await.ok().and_then(Result::ok),
                None => None,
            };
            seen.push(Seen {
                state: cell.as_ref().map_or(Phase::Running, |cell| cell.state().phase),
                frozen: cell.as_ref().is_some_and(|cell| cell.state().frozen.is_some()),
                uptime_s: self.uptime_s(&project),
                sessions: cell.as_ref().map(sessions),
                clients,
                usage,
                project,
            });
        }
        Ok(seen)
    }

    /// How long ago a cell's socket was made, which is the first that others see of it.
    fn uptime_s(&self, project: &ProjectId) -> Option<u64> {
        let socket = statat(&self.0.run, format!("cells/{project}.sock"), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let made = Duration::from_secs(u64::try_from(socket.st_mtime).ok()?);
        Some(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.saturating_sub(made).as_secs())
    }
}

fn sessions(cell: &Cell) -> usize {
    cell.watch().borrow().sessions.len()
}
