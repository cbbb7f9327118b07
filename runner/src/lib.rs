//! Runner images: from what a registry or an image tool hands over to folders a cell can be built of.
//!
//! An image is a list of layers and a few wishes ([`image`]). Its small parts lie in a [`store`]; a layer's files lie
//! unpacked, once, in a folder named by their digest, and getting them there safely is the job of [`layer`], which is
//! written to run confined and with hostile input. [`source`] reads the formats in which images come as files, and
//! [`import`] brings one of those in.
//!
//! The crate knows no network, no cells and no async runtime.

pub mod digest;
pub mod error;
pub mod image;
pub mod import;
pub mod layer;
pub mod source;
pub mod store;

mod archive;

pub use digest::Digest;
pub use error::{Error, Result};
