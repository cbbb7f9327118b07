//! What a cell is kept in by, for who looks at a running one from outside: `cloister doctor --cell`.

pub use crate::cgroup::delegated;
pub use crate::plan::{MASKED, NO_NAMESPACES, READ_ONLY};

/// Ids of a cell.
pub const IDS_PER_CELL: u32 = crate::ids::IDS_PER_CELL;

/// The capabilities that a cell's processes have at most, as the kernel prints sets (proc_pid_status(5)).
pub fn capabilities() -> u64 {
    crate::step::CAPABILITIES.iter().map(|capability| capability.bitmask()).fold(0, |set, bit| set | bit)
}
