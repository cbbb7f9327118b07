//! What `docker save` wrote before version 25, and other tools still do: a list of images, their configurations, and
//! layers as plain archives. There are no manifests and no digests of layers in it; both are made here.

use serde::Deserialize;

use super::files::{Files, Part};
use super::{Found, Named, choose};
use crate::image::{Blob, Image, manifest_of, parse};
use crate::{Digest, Error, Result};

/// The list of images.
pub(super) const LIST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn find(files: Files, reference: Option<&str>) -> Result<Found> {
    let list: Vec<Listed> = parse(LIST, &files.document(LIST)?)?;
    let images = list.into_iter().map(|image| {
        let tags = image.repo_tags.as_deref().unwrap_or_default();
        let asked = tags.iter().find(|tag| Some(tag.as_str()) == reference);
        Named { name: asked.or(tags.first()).cloned(), value: image }
    });
    let Named { name, value: listed } = choose(images.collect(), reference)?;
    let config = files.document(&listed.config)?;
    let parts = listed.layers.iter().map(|layer| part(&files, layer)).collect::<Result<Vec<_>>>()?;
    let blobs = parts.iter().map(|part| blob(&files, part)).collect::<Result<Vec<_>>>()?;
    let manifest = manifest_of(&Blob { digest: Digest::of(&config), size: config.len() as u64 }, &blobs);
    let image = Image::check(&manifest, &config)?;
    let layers = parts.into_iter().map(Some).collect();
    Ok(Found { manifest, config, image, name: name.unwrap_or_default(), files, layers })
}

fn part(files: &Files, layer: &str) -> Result<Part> {
    files.part(layer).cloned().ok_or_else(|| {
        Error::refused(format_args!(
            "{LIST} names a layer {:?} that isn't there: export the image again",
            crate::digest::shortened(layer)
        ))
    })
}

fn blob(files: &Files, part: &Part) -> Result<Blob> {
    let digest = Digest::of_all(files.open(part)).map_err(|error| Error::reading("layer", error))?;
    Ok(Blob { digest, size: part.size })
}
