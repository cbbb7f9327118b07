//! The clients of the end-to-end tests, of a server that none of these has started.

use std::net::SocketAddr;
use std::time::Duration;

#[path = "../../it/harness/hierarchies.rs"]
mod hierarchies;
#[path = "../../it/harness/kept.rs"]
mod kept;
#[path = "../../it/harness/wire.rs"]
mod wire;

pub(crate) use hierarchies::hierarchies;
pub(crate) use kept::Kept;
pub(crate) use wire::{Heard, Wire};

/// Longest wait for anything: the processor is emulated.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A server, wherever it runs.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}
