//! What tests stand on: a server of their own on a free port, clients for it, and an image that all share.
//!
//! Every wait is for an event and has a deadline. Whatever a test starts ends with it, by process id.

pub(crate) mod certificate;
mod guest;
mod hierarchies;
mod http;
mod image;
mod kept;
mod server;
mod terminal;
mod wire;

use std::time::Duration;

pub(crate) use guest::{ID as GUEST, SUBORDINATE};
pub(crate) use http::Response;
pub(crate) use kept::Kept;
pub(crate) use server::{Server, Settings, remove_cgroup, tool};
pub(crate) use terminal::{Message, Pipe, Terminal, upgrade};
pub(crate) use wire::{Heard, Wire};

/// Longest wait for anything: far beyond what it takes on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a test on a runtime of its own, like the attribute that needs one more crate's feature.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(test)
}
