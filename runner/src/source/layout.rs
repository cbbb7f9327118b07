//! OCI image layouts (OCI image specification, "Image Layout").

use super::files::{Files, blob_name};
use super::{Found, Named, choose};
use crate::image::{Document, Entry, INDEX_DEPTH_MAX, Image, for_this_machine};
use crate::{Error, Result};

/// The list of images.
pub(super) const INDEX: &str = "index.json";

pub(super) fn find(files: Files, reference: Option<&str>) -> Result<Found> {
    let Document::Index(entries) = Document::parse(&files.document(INDEX)?)? else {
        return Err(Error::refused("index.json isn't an index: export the image again"));
    };
    let Named { name, value: entries } = choose(by_name(entries, reference), reference)?;
    let mut entry = for_this_machine(&entries)?.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        let document = files.blob(&entry.blob.digest)?;
        let manifest = match Document::parse(&document)? {
            Document::Index(entries) => {
                entry = for_this_machine(&entries)?.clone();
                continue;
            }
            Document::Manifest(manifest) => manifest,
        };
        let config = files.blob(&manifest.config.digest)?;
        let image = Image::check(&document, &config)?;
        let layers = manifest.layers.iter().map(|layer| files.part(&blob_name(&layer.digest)).cloned()).collect();
        return Ok(Found { manifest: document, config, image, name: name.unwrap_or_default(), files, layers });
    }
    Err(Error::refused(format_args!("more than {INDEX_DEPTH_MAX} indexes in each other")))
}

/// Entries of one name are one image, for several platforms.
fn by_name(entries: Vec<Entry>, reference: Option<&str>) -> Vec<Named<Vec<Entry>>> {
    let mut images: Vec<Named<Vec<Entry>>> = Vec::new();
    for entry in entries {
        // An entry may have two names; the one that was asked for counts.
        let name = match reference {
            Some(reference) if entry.is_called(reference) => Some(reference),
            _ => entry.name(),
        };
        match images.iter_mut().find(|image| image.name.as_deref() == name) {
            Some(image) => image.value.push(entry),
            None => images.push(Named { name: name.map(str::to_owned), value: vec![entry] }),
        }
    }
    images
}
