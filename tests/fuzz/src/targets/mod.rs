//! The targets that need nothing of a terminal's addresses; the others are in `terminal`.

mod checkpoint;
mod packets;
mod screen;
mod socket;

pub(crate) use checkpoint::checkpoint;
pub(crate) use packets::packets;
pub(crate) use screen::screen;
pub(crate) use socket::socket;
