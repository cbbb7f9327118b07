//! The targets that need nothing of a terminal's addresses; the others are in `terminal`.

mod checkpoint;
mod image;
mod layer;
mod message;
mod packets;
mod proxies;
mod request;
mod screen;
mod settings;
mod socket;
mod users;

pub(crate) use checkpoint::checkpoint;
pub(crate) use image::image;
pub(crate) use layer::layer;
pub(crate) use packets::packets;
pub(crate) use proxies::proxies;
pub(crate) use request::request;
pub(crate) use screen::screen;
pub(crate) use settings::settings;
pub(crate) use socket::socket;
pub(crate) use users::users;
