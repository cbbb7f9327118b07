//! Cells: sandboxes of namespaces, an overlay and a cgroup, each with an init that owns its terminals.
//!
//! In reading order: what a cell shall be ([`spec`]), what it may ask of the kernel ([`policy`]), who makes it ([`launcher`]), what is said to it ([`control`]), where
//! its output lies ([`log`]). The crate knows no HTTP, no users, no images beyond layer ids, and no async runtime.

pub mod spec;

pub mod policy;

pub mod launcher;

pub mod control;

pub mod log;

pub mod privilege;

pub mod rootless;

pub mod admission;

pub mod confine;
pub mod disk;

pub mod measures;

pub mod orphans;

pub mod usage;

pub mod freezer;

mod alarm;
mod cgroup;
mod idmap;
mod ids;
mod init;
mod kernel_log;
mod launch;
mod mount;
mod namespaces;
mod plan;
mod seccomp;
mod step;
mod storage;
mod users;

mod failure;
mod packet;
mod sys;

pub use sys::duplicate;
