//! What a cell shall be: the request a server makes of the launcher.
//!
//! A spec names things, it never points at them: the launcher derives every path and every host id itself and checks
//! each field again, because the server that sends it may be compromised. It doesn't know how a cell is made (`plan`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::Choice;

/// Longest project id: it is a folder name, and later part of a DNS label.
const PROJECT_ID_BYTES_MAX: usize = 40;

/// A project's id, `[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?`: checked once where it enters, unforgeable after.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectId(String);

impl ProjectId {
    /// Checks an id as it came from a URL, a command line or a folder listing.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let ends = bytes.first().is_some_and(|b| inner(*b)) && bytes.last().is_some_and(|b| inner(*b));
        let valid = ends && bytes.len() <= PROJECT_ID_BYTES_MAX && bytes.iter().all(|b| inner(*b) || *b == b'-');
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidId) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ProjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ProjectId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<ProjectId> for String {
    fn from(id: ProjectId) -> Self {
        id.0
    }
}

/// A text that is no project id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a project id is 1 to 40 of a-z, 0-9 and '-', and neither begins nor ends with '-'")]
pub struct InvalidId;

/// The digest of a layer's uncompressed tar (its `diff_id` in the OCI image specification), as 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(String);

impl LayerId {
    /// Accepts `sha256:<hex>` and `<hex>`.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let valid = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        valid.then(|| Self(hex.to_owned()))
    }

    /// The hex digits, which are also the layer's folder name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LayerId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a layer id is 64 hex digits")
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.0
    }
}

/// Least limit of disk in bytes: a file system of a project's own needs some of it for itself.
pub const DISK_BYTES_MIN: u64 = 64 << 20;

/// Most, beyond any one host.
pub const DISK_BYTES_MAX: u64 = 1 << 50;

/// Least limit of a disk's speed in bytes a second: with less a cell takes minutes to start a program.
pub const IO_BYTES_PER_S_MIN: u64 = 1 << 20;

/// What a cell may use. Written to its cgroup before its first process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory and page cache of all processes together, in bytes.
    pub memory_bytes_max: u64,
    /// Processor time as thousandths of one processor: 1500 is one and a half.
    pub cpu_millis_max: u32,
    /// Processes and threads together.
    pub pids_max: u32,
    /// Open files of one process.
    pub open_files_max: u32,
    /// The workspace and the cell's changes to its image together, in bytes; 0 is no limit.
    pub disk_bytes_max: u64,
    /// Share of processors beside other cells when all of them want more than there is: 1 to 10,000, where 100 is usual.
    pub cpu_weight: u32,
    /// Largest file that a process may write, in bytes.
    pub file_bytes_max: u64,
    /// What may be read from the disks of the host's in a second, and as much written to them, in bytes; 0 is no limit.
    pub io_bytes_per_s_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // A class of thirty on one 64 GiB host: enough for a compiler each, little enough that one can't take all.
        Self {
            memory_bytes_max: 2 << 30,
            cpu_millis_max: 2000,
            pids_max: 1024,
            open_files_max: 16_384,
            disk_bytes_max: 0,
            cpu_weight: 100,
            // Larger than what anybody works on in a cell; a stray seek makes a larger one.
            file_bytes_max: 1 << 40,
            io_bytes_per_s_max: 0,
        }
    }
}

/// What all cells of a host may have together; 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLimits {
    /// Cells that run.
    pub cells_max: u32,
    /// Their limits of memory, in percent of the host's or, if that is less, of what their cgroup may have: beyond 100 they
    /// couldn't all use them up at once.
    pub memory_percent_max: u32,
    /// What is to stay free of the disks of state and projects, in bytes: below it no cell starts and nothing is unpacked.
    pub disk_reserve_bytes: u64,
}

impl Default for HostLimits {
    fn default() -> Self {
        // Enough for the server's own files and an administrator's.
        Self { cells_max: 0, memory_percent_max: 0, disk_reserve_bytes: 256 << 20 }
    }
}

/// What a cell can reach. Only `none` (loopback alone) exists so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Loopback alone.
    #[default]
    None,
}

/// What the image says of how its programs want to be run (OCI image configuration, "config").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `KEY=value`, in the image's order.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty is root of the cell.
    pub user: String,
    /// Folder in which commands start; empty is `/workspace`.
    pub working_dir: String,
    /// Words put before a command that `cloister run` is given.
    pub entrypoint: Vec<String>,
    /// The command when none is given.
    pub cmd: Vec<String>,
}

/// A request for one cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellSpec {
    /// Whose cell; also its host name.
    pub project: ProjectId,
    /// The image's layers, lowest first.
    pub layers: Vec<LayerId>,
    /// The image's wishes.
    pub image: ImageConfig,
    /// The project's own environment, over the image's.
    pub env: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// What it can reach.
    pub network: Network,
    /// Size of each session's log in bytes: a power of two, 64 KiB to 64 MiB.
    pub log_bytes: u32,
    /// What it may ask of the kernel.
    pub policy: Choice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_ids_are_folder_names_and_dns_labels() {
        for good in ["a", "demo", "a-b", "0b7c-1", &"x".repeat(40), "01890a5d-ac96-774b-bcce-b302099a8057"] {
            assert!(ProjectId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-", "-a", "a-", "A", "a_b", "a/b", "..", ".", "a.b", "ä", "a b", &"x".repeat(41), "a\0"] {
            assert_eq!(ProjectId::parse(bad), Err(InvalidId), "{bad}");
        }
    }
}
