//! The launcher: the only privileged process, small, synchronous and single-threaded.
//!
//! [`wire`] is what can be asked of it, [`client`] asks, [`daemon`] answers those who are its [`clients`]. Policy lives in the daemon:
//! a request names a project or a layer, and every path, host id and limit that follows from it is derived and checked here.
//! It holds no secret and keeps nothing in memory that it needs, so it may restart at any time.

pub mod wire;

mod client;
pub use client::{Error, Given, Launcher};
pub use wire::{Request, Settings};

mod clients;

mod daemon;
pub use daemon::{Unpack, check, main};

/// The name, in the run directory, of the socket of a launcher that runs as a service.
pub const SOCKET: &str = "launcher.sock";

pub(crate) mod folders;
mod view;
mod worker;
