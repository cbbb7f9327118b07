//! Bringing an image in: its layers unpacked by whoever can, then its documents into the store, in this order, so that an
//! image in the store is one that can be used. It doesn't know how layers are unpacked or where images come from.

use std::os::fd::BorrowedFd;

use crate::image::{Image, Layer};
use crate::layer::UnpackRequest;
use crate::source::{Content, Found};
use crate::store::{Hold, Store};
use crate::{Digest, Error, Result};

/// Who puts layers where cells find them.
pub trait Unpack {
    /// Why it doesn't work.
    type Error: From<Error>;

    /// Whether a layer is there already.
    fn has(&mut self, layer: &Digest) -> Result<bool>;

    /// Unpacks a layer. `position` is the layer's number, counted from one, and how many there are.
    fn unpack(
        &mut self,
        request: &UnpackRequest,
        blob: BorrowedFd<'_>,
        position: (usize, usize),
    ) -> std::result::Result<(), Self::Error>;
}

/// Brings in an image from a source under `name`. The store must be held for
/// [`Using::Adding`](crate::store::Using::Adding).
pub fn import<U: Unpack>(
    found: &Found,
    name: &str,
    store: &Store,
    _hold: &Hold,
    unpack: &mut U,
) -> std::result::Result<Image, U::Error> {
    crate::store::check_name(name)?;
    let layers = &found.image.layers;
    for (number, layer) in layers.iter().enumerate() {
        if unpack.has(&layer.diff_id)? {
            continue;
        }
        let content = found.layer(number)?;
        unpack.unpack(&request(layer, &content), content.file, (number + 1, layers.len()))?;
    }
    Ok(store.add(name, &found.manifest, &found.config)?)
}

fn request(layer: &Layer, content: &Content<'_>) -> UnpackRequest {
    let Content { offset, size, .. } = *content;
    UnpackRequest { digest: layer.blob.digest.clone(), diff_id: layer.diff_id.clone(), offset, size }
}
