//! The launcher: the only privileged process, small, synchronous and single-threaded.
//!
//! [`wire`] is what can be asked of it, [`client`] asks, [`daemon`] answers. Policy lives in the daemon: a request names a
//! project or a layer, and every path, host id and limit that follows from it is derived and checked here.
//! It holds no secret and keeps nothing in memory that it needs, so it may restart at any time.

pub mod wire;

mod client;
pub use client::{Error, Launcher};
pub use wire::{Request, Settings};

mod daemon;
pub use daemon::{Unpack, main};

pub(crate) mod folders;
mod view;
mod worker;
