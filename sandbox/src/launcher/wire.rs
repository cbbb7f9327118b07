//! What is said to the launcher and what it answers: JSON over SOCK_SEQPACKET, one answer a request, in order.

use serde::{Deserialize, Serialize};

use crate::spec::{CellSpec, LayerId, ProjectId};

/// Largest message in bytes: a spec with 128 layers and an environment of 64 KiB fits.
pub const MESSAGE_BYTES_MAX: usize = 192 * 1024;

/// To the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Start a cell. When [`Answer::Done`] comes, its control socket accepts connections.
    StartCell(Box<CellSpec>),
    /// Remove what is left of a cell that ended: processes in its cgroup, the cgroup, its upper layer, its socket.
    RemoveCell {
        /// Whose.
        project: ProjectId,
    },
    /// Unpack a layer in a confined worker. Carries two descriptors: the blob, and a socket on which the worker sends
    /// [`Progress`]. [`Answer::Done`] only says that the worker runs.
    Unpack {
        /// For the unpacking function; opaque to the launcher.
        request: String,
    },
    /// Remove an unpacked layer that no running cell uses.
    RemoveLayer {
        /// Which.
        layer: LayerId,
    },
}

/// From the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// As asked. Also the first message of all: the folders are prepared.
    Done,
    /// The project's cell runs already.
    Running,
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
