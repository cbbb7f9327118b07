//! Images that come as files: an OCI layout in a folder or an archive, or what `docker save` writes.
//!
//! [`Source::open`] opens all there is while the caller still may, and reads nothing; [`Source::read`] works on what was
//! opened, so a process can give its privileges up in between. Names inside an image lead to other parts of the same
//! image and nowhere else.

mod docker;
mod files;
mod layout;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::digest::shortened;
use crate::image::Image;
use crate::{Error, Result};
use files::{Files, Opened, Part};

/// Something that may hold images, opened.
#[derive(Debug)]
pub struct Source {
    /// What its own file is called, without endings.
    stem: String,
    opened: Opened,
}

/// An image found in a source.
#[derive(Debug)]
pub struct Found {
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// Both, checked.
    pub image: Image,
    /// The name it was given in its source, or the source's own.
    pub name: String,
    files: Files,
    /// Where each layer's blob lies, if it is there.
    layers: Vec<Option<Part>>,
}

/// A layer's blob in a file.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// Where the blob begins.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

/// One of several images, by what it is called.
struct Named<T> {
    name: Option<String>,
    value: T,
}

impl Source {
    /// Opens a folder or an archive with the rights of the caller.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Opened::open(path).map_err(|error| prefixed(error, path))?;
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        let endings = [".gz", ".tgz", ".zst", ".tar", ".oci"];
        let stem = endings.iter().fold(&*stem, |stem, ending| stem.strip_suffix(ending).unwrap_or(stem)).to_owned();
        Ok(Self { stem, opened })
    }

    /// Finds the image for this machine: the only one, or the one that is called `reference`. `scratch` gives a temporary
    /// file if the archive is compressed.
    pub fn read(self, reference: Option<&str>, scratch: impl FnOnce() -> Result<File>) -> Result<Found> {
        let files = self.opened.files(scratch)?;
        // Docker writes both formats into one archive; the newer says more.
        let mut found = if files.contains(layout::INDEX) {
            layout::find(files, reference)?
        } else if files.contains(docker::LIST) {
            docker::find(files, reference)?
        } else {
            return Err(Error::refused(format_args!(
                "neither an OCI layout ({}) nor a docker archive ({}): make one with skopeo, buildah, podman or docker save",
                layout::INDEX,
                docker::LIST
            )));
        };
        if found.name.is_empty() {
            found.name = self.stem;
        } else if !found.name.contains([':', '/']) {
            // A tag alone, as OCI layouts have it, says too little.
            found.name = format!("{}:{}", self.stem, found.name);
        }
        Ok(found)
    }
}

impl Found {
    /// The blob of the image's layer number `layer`.
    pub fn layer(&self, layer: usize) -> Result<Content<'_>> {
        let part = self.layers[layer].as_ref().ok_or_else(|| {
            let digest = &self.image.layers[layer].blob.digest;
            Error::refused(format_args!("the blob of layer {digest} is missing: export the image again"))
        })?;
        Ok(Content { file: self.files.file(part).as_fd(), offset: part.offset, size: part.size })
    }
}

/// The image that is meant by `reference`, or by saying nothing.
fn choose<T>(mut images: Vec<Named<T>>, reference: Option<&str>) -> Result<Named<T>> {
    const NAMED_MAX: usize = 10;
    if let Some(reference) = reference {
        images.retain(|image| image.name.as_deref() == Some(reference));
    }
    match images.len() {
        1 => Ok(images.remove(0)),
        0 => Err(Error::missing(match reference {
            Some(reference) => format!("there is no image called {:?} in it", shortened(reference)),
            None => "there is no image in it".to_owned(),
        })),
        several => {
            let names: Vec<&str> =
                images.iter().filter_map(|image| image.name.as_deref()).map(shortened).take(NAMED_MAX).collect();
            Err(Error::refused(format_args!(
                "there are {several} images in it ({}): choose one with --reference",
                names.join(", ")
            )))
        }
    }
}

fn prefixed(error: Error, path: &Path) -> Error {
    match error {
        Error::Refused(text) => Error::refused(format_args!("{}: {text}", path.display())),
        Error::Missing(text) => Error::missing(format_args!("{}: {text}", path.display())),
        Error::Host { doing, source } => Error::Host { doing: format!("{doing} {}", path.display()), source },
    }
}
