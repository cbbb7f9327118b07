//! Unpacking one layer, once: from a blob that nobody vouches for to a folder that cells can be built of.
//!
//! [`worker`] is what the launcher runs, as root but confined: its `/` is the folder of layers, it has no network and only
//! the rights to give files away (CAP_CHOWN, CAP_FOWNER) and to work in folders that were given away (CAP_DAC_OVERRIDE).
//! Nothing here relies on that confinement. A layer is unpacked beside its place, checked, synced, and only then renamed
//! to its digest, so that a folder with that name is complete whatever happened. Files keep their owners 0 to 65,535;
//! whiteouts and opaque folders become what overlayfs reads with its option `userxattr`.
//!
//! It knows neither where blobs come from nor who mounts what it makes.

mod apply;
mod blob;
mod leftover;
mod limits;
mod name;
mod tree;

#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, RenameFlags, fsync, renameat_with, statat, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use limits::Limits;

use crate::{Digest, Error, Result};
use blob::Blob;
use leftover::{Unfinished, open_folder};

/// Which bytes are to become which layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpackRequest {
    /// Digest of the blob as it is, compressed or not.
    pub digest: Digest,
    /// Digest of the uncompressed archive; also the name of the layer's folder.
    pub diff_id: Digest,
    /// Where in its file the blob begins: an archive of blobs needs no copying.
    pub offset: u64,
    /// The blob's length.
    pub size: u64,
}

/// What a layer turned out to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Members of the archive.
    pub entries: u64,
    /// Device nodes among them, which are left out: a cell has its own `/dev`, and no use for others.
    pub devices_skipped: u64,
}

/// [`unpack`] in the form in which the launcher calls it: the request is JSON, the blob is read from its own offset on,
/// and `progress` hears how many bytes of it are read; its error ends the unpacking.
pub fn worker(
    request: &str,
    blob: File,
    layers: OwnedFd,
    progress: &mut dyn FnMut(u64) -> io::Result<()>,
) -> std::result::Result<(), String> {
    let request = serde_json::from_str(request).map_err(|error| format!("unpack request: {error}"))?;
    match unpack(&request, blob, layers.as_fd(), &Limits::default(), progress) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Unpacks a layer into the folder `layers`, unless it is there already.
pub fn unpack(
    request: &UnpackRequest,
    blob: File,
    layers: BorrowedFd<'_>,
    limits: &Limits,
    progress: &mut dyn FnMut(u64) -> io::Result<()>,
) -> Result<Report> {
    let place = request.diff_id.hex();
    // The launcher's may be one that only names the folder (O_PATH); syncing it takes a real one.
    let layers = open_folder(layers, b"").map_err(|error| Error::host("open the folder of layers", error))?;
    let layers = layers.as_fd();
    if is_unpacked(layers, &request.diff_id)? {
        return Ok(Report::default());
    }
    leftover::sweep(layers)?;
    let unfinished = Unfinished::new(layers)?;
    let blob = Blob::open(blob, request, limits, progress)?;
    let report = apply::apply(blob, request, unfinished.root()?, limits)?;
    // The name promises all of the content, so all of it must be on the disk before the name is.
    syncfs(unfinished.folder()).map_err(|error| Error::host("write the layer to disk", error))?;
    match renameat_with(layers, unfinished.name(), layers, place, RenameFlags::NOREPLACE) {
        Ok(()) => unfinished.keep(),
        // Somebody else unpacked the same content meanwhile; ours goes.
        Err(Errno::EXIST) => {}
        Err(error) => return Err(Error::host(format_args!("put the layer {place} in its place"), error)),
    }
    fsync(layers).map_err(|error| Error::host("write the folder of layers to disk", error))?;
    Ok(report)
}

/// Whether a layer lies complete in the folder `layers`.
pub fn is_unpacked(layers: BorrowedFd<'_>, diff_id: &Digest) -> Result<bool> {
    match statat(layers, diff_id.hex(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::host(format_args!("look for the layer {diff_id}"), error)),
    }
}

/// The room that a layer takes on the disk, in bytes, as far as the caller may look into it; 0 if it isn't there. A file with several
/// names counts once for each.
pub fn bytes(layers: BorrowedFd<'_>, diff_id: &Digest) -> Result<u64> {
    let failed = |error| Error::host(format_args!("look into the layer {diff_id}"), error);
    match open_folder(layers, diff_id.hex().as_bytes()) {
        Ok(folder) => bytes_within(&folder).map_err(failed),
        Err(Errno::NOENT) => Ok(0),
        Err(error) => Err(failed(error)),
    }
}

/// The depth of folders is bounded by [`Limits::depth_max`].
fn bytes_within(folder: &OwnedFd) -> rustix::io::Result<u64> {
    let mut bytes = 0;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        bytes += stat.st_blocks as u64 * 512;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match open_folder(folder, entry.file_name().to_bytes()) {
                Ok(inner) => bytes += bytes_within(&inner)?,
                Err(Errno::ACCESS) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}

/// All layers that lie complete in the folder `layers`.
pub fn list(layers: BorrowedFd<'_>) -> Result<Vec<Digest>> {
    let failed = |error| Error::host("list the folder of layers", error);
    let mut found = Vec::new();
    for entry in Dir::read_from(layers).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.extend(entry.file_name().to_str().ok().and_then(Digest::from_hex));
    }
    found.sort();
    Ok(found)
}
