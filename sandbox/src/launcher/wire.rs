//! What is said to the launcher and what it answers: JSON over SOCK_SEQPACKET, one answer a request, in order.
//! The first message is its [`Settings`], the first answer says that the folders are prepared.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::admission::Shortage;
use crate::orphans::Orphans;
use crate::policy::Leeway;
use crate::spec::{CellSpec, HostLimits, LayerId, Limits, ProjectId};
use crate::usage::Usage;

/// Largest message in bytes: a spec with 128 layers and an environment of 64 KiB fits.
pub const MESSAGE_BYTES_MAX: usize = 192 * 1024;

/// What the launcher is started with. Absolute paths; they are the operator's, not a client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Folder of images, layers, cells' storage and id ranges.
    pub state: PathBuf,
    /// Folder of projects.
    pub projects: PathBuf,
    /// Folder of the cells' sockets.
    pub run_dir: PathBuf,
    /// Name of the cgroup below which cells get theirs, e.g. `cloister`.
    pub cgroup: String,
    /// Whether projects are kept within `limits.disk_bytes_max`, or a cell that has such a limit is refused where that can't be.
    pub enforce_quota: bool,
    /// The service user, whom the server runs as and who owns projects.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What all cells together may have.
    pub host: HostLimits,
    /// What projects may choose of the policy: a request that goes beyond is refused.
    pub policy: Leeway,
}

/// To the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Start a cell. When [`Answer::Done`] comes, its control socket accepts connections.
    StartCell(Box<CellSpec>),
    /// Remove what is left of a cell: processes in its cgroup, the cgroup, its upper layer, its socket.
    RemoveCell {
        /// Whose.
        project: ProjectId,
    },
    /// Remove a project's folder with all its files, whoever in its cell they belong to; first what [`Request::RemoveCell`]
    /// does, last its range of host ids. [`Answer::Done`] when there is no such project any more: its files go by and by.
    RemoveProject {
        /// Which.
        project: ProjectId,
    },
    /// Unpack a layer in a confined worker. Carries two descriptors: the blob, and a socket on which the worker sends
    /// [`Progress`]. [`Answer::Done`] only says that the worker runs.
    Unpack {
        /// For the unpacking function; opaque to the launcher.
        request: String,
    },
    /// Give a running cell other limits, as far as they aren't each process's own. They are checked as for a new one.
    SetLimits {
        /// Whose.
        project: ProjectId,
        /// All of them.
        limits: Limits,
    },
    /// Say what a running cell uses. Answered by [`Answer::Usage`].
    Usage {
        /// Whose.
        project: ProjectId,
    },
    /// Say what was left over when the launcher started, and what is kept of that. Answered by [`Answer::Orphans`].
    Orphans,
    /// Give what freezes and thaws a running cell. Answered by [`Answer::Freezer`].
    Freezer {
        /// Whose.
        project: ProjectId,
    },
    /// Remove an unpacked layer that no running cell uses.
    RemoveLayer {
        /// Which.
        layer: LayerId,
    },
}

/// From the launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// As asked.
    Done,
    /// The project's cell runs already.
    Running,
    /// The project has no running cell.
    NoCell,
    /// The cell's memory can't be limited to so little.
    MemoryInUse {
        /// How much it uses.
        bytes: u64,
    },
    /// The host has no room for it.
    HostFull(Shortage),
    /// What the cell uses.
    Usage(Box<Usage>),
    /// What was left over.
    Orphans(Box<Orphans>),
    /// What freezes the cell, see [`crate::freezer::Freezer`]: descriptors of files of its cgroup of version 2. None where it
    /// has no such group.
    Freezer {
        /// The files' names, in the order of their descriptors.
        files: Vec<String>,
    },
    /// The layer can't go: this project's cell uses it.
    InUse {
        /// Whose cell.
        project: ProjectId,
    },
    /// It didn't work; nothing of it is left.
    Failed {
        /// What was being done, as in "mount /proc".
        step: String,
        /// Why, with a remedy where there is one.
        reason: String,
    },
}

/// From an unpack worker. The socket closes after `Unpacked` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Progress {
    /// So many bytes of the blob are read.
    Read {
        /// Bytes.
        bytes: u64,
    },
    /// The layer is in the store.
    Unpacked,
    /// It is not, and nothing of it is left.
    Failed {
        /// Why, naming the entry.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            proptest::prop_assert!(serde_json::from_slice::<Request>(&bytes).is_err());
        }

        #[test]
        fn a_request_names_projects_and_layers_and_no_paths(name in "[a-zA-Z0-9./\\-_ ]{0,70}") {
            let project = serde_json::json!({ "type": "remove_cell", "project": name });
            if let Ok(Request::RemoveCell { project }) = serde_json::from_value(project) {
                proptest::prop_assert!(!project.as_str().is_empty() && !project.as_str().contains(['.', '/']));
            }
            let layer = serde_json::json!({ "type": "remove_layer", "layer": name });
            proptest::prop_assert!(serde_json::from_value::<Request>(layer).is_err() || name.len() >= 64);
        }
    }
}
