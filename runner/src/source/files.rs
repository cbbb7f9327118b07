//! The files of a source, by name, whether they lie in a folder or in an archive. What they mean it doesn't know.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use crate::archive::{Archive, Input, Kind};
use crate::image::DOCUMENT_BYTES_MAX;
use crate::{Digest, Error, Result};

/// Blobs of a layout in a folder. Each is a descriptor, of which a process has 1,024 by default; in an archive they are
/// one.
const FOLDER_FILES_MAX: usize = 512;

/// Members of an archive: the largest images have 128 layers, three files for each in the oldest format.
const MEMBERS_MAX: usize = 16_384;

/// Longest name of a member; digests and a few folders.
const MEMBER_NAME_BYTES_MAX: usize = 512;

/// Links from one member to another; tools make one.
const LINKS_MAX: usize = 4;

/// A compressed archive once it is not: as much as a few of the largest images.
const ARCHIVE_BYTES_MAX: u64 = 64 << 30;

/// What was given, opened but not read.
#[derive(Debug)]
pub(super) enum Opened {
    Folder(BTreeMap<String, File>),
    Archive(File),
}

/// All files of a source.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<File>,
    parts: BTreeMap<String, Place>,
}

/// A stretch of an open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    file: usize,
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
enum Place {
    Part(Part),
    /// Another member, by its name from the archive's root.
    Link(String),
}

impl Opened {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error| Error::host("open", error);
        // Not blocking: a FIFO would wait for its writer.
        let opened =
            openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(failed)?;
        match FileType::from_raw_mode(fstat(&opened).map_err(failed)?.st_mode) {
            FileType::Directory => Self::folder(&opened),
            FileType::RegularFile => Ok(Self::Archive(File::from(opened))),
            _ => Err(Error::refused("neither a folder nor a file; save a stream to a file first")),
        }
    }

    fn folder(folder: &OwnedFd) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in ["oci-layout", "index.json"] {
            let file = open_file(folder, name)?.ok_or_else(|| {
                Error::refused(format_args!(
                    "no OCI layout: it has no {name}; give the folder that has one, or an archive"
                ))
            })?;
            files.insert(name.to_owned(), file);
        }
        let failed = |error| Error::host("list the blobs of", error);
        let blobs = openat2(
            folder,
            "blobs/sha256",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(failed)?;
        for entry in Dir::read_from(&blobs).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(digest) = entry.file_name().to_str().ok().and_then(Digest::from_hex) else { continue };
            if files.len() >= FOLDER_FILES_MAX {
                return Err(Error::refused(format_args!(
                    "more than {FOLDER_FILES_MAX} blobs: make an archive of it (tar -C … -cf layout.tar .) and import that"
                )));
            }
            let name = blob_name(&digest);
            if let Some(file) = open_file(folder, &name)? {
                files.insert(name, file);
            }
        }
        Ok(Self::Folder(files))
    }

    /// Finds the files; a compressed archive is decompressed into a temporary file first, since it is read in no order.
    pub(super) fn files(self, scratch: impl FnOnce() -> Result<File>) -> Result<Files> {
        match self {
            Self::Folder(opened) => Files::of_folder(opened),
            Self::Archive(file) => Files::of_archive(decompressed(file, scratch)?),
        }
    }
}

impl Files {
    fn of_folder(opened: BTreeMap<String, File>) -> Result<Self> {
        let mut files = Vec::new();
        let mut parts = BTreeMap::new();
        for (name, file) in opened {
            let size = file.metadata().map_err(|error| Error::host("read the size of a blob", error))?.len();
            parts.insert(name, Place::Part(Part { file: files.len(), offset: 0, size }));
            files.push(file);
        }
        Ok(Self { files, parts })
    }

    fn of_archive(file: File) -> Result<Self> {
        let mut archive = Archive::new(Positioned { file: &file, at: 0, end: size(&file)? });
        let mut parts = BTreeMap::new();
        let mut members = 0;
        while let Some(member) = archive.next()? {
            members += 1;
            if members > MEMBERS_MAX {
                return Err(Error::refused(format_args!("more than {MEMBERS_MAX} files in the archive")));
            }
            // Anything else can't be referred to anyway.
            let Some(name) = std::str::from_utf8(&member.name).ok().and_then(|name| normal("", name)) else { continue };
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            let target = std::str::from_utf8(&member.target).ok();
            let place = match member.kind {
                Kind::File if member.chunks.is_none() => {
                    Some(Place::Part(Part { file: 0, offset: member.at, size: member.size }))
                }
                Kind::Symlink => target.and_then(|target| normal(folder, target)).map(Place::Link),
                Kind::HardLink => target.and_then(|target| normal("", target)).map(Place::Link),
                _ => None,
            };
            parts.extend(place.map(|place| (name, place)));
        }
        Ok(Self { files: vec![file], parts })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.part(name).is_some()
    }

    /// A file by its name, through links.
    pub(super) fn part(&self, name: &str) -> Option<&Part> {
        let mut name = normal("", name)?;
        for _ in 0..=LINKS_MAX {
            match self.parts.get(&name)? {
                Place::Part(part) => return Some(part),
                Place::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// The file a part lies in.
    pub(super) fn file(&self, part: &Part) -> &File {
        &self.files[part.file]
    }

    /// A stream of a part's bytes.
    pub(super) fn open(&self, part: &Part) -> impl Read + '_ {
        Positioned { file: self.file(part), at: part.offset, end: part.offset.saturating_add(part.size) }
    }

    /// A document, whole.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let part =
            self.part(name).ok_or_else(|| Error::refused(format_args!("it has no {name}: export the image again")))?;
        if part.size > DOCUMENT_BYTES_MAX {
            return Err(Error::refused(format_args!(
                "{name} has {} bytes, at most {DOCUMENT_BYTES_MAX} are read",
                part.size
            )));
        }
        let mut bytes = vec![0; part.size as usize];
        self.open(part).read_exact(&mut bytes).map_err(|error| Error::reading(name, error))?;
        Ok(bytes)
    }

    /// A document by its digest, which is checked.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = self.document(&blob_name(digest))?;
        let found = Digest::of(&bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            Err(Error::refused(format_args!("blob {digest} is damaged: it has digest {found}; export the image again")))
        }
    }
}

/// Where a layout keeps a blob.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Reads a stretch of a file without moving the offset that others may be using.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Input for Positioned<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match self.at.checked_add(bytes).filter(|at| *at <= self.end) {
            Some(at) => {
                self.at = at;
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Opens a regular file in or below `folder`; links inside are followed, as long as they stay there.
fn open_file(folder: &OwnedFd, name: &str) -> Result<Option<File>> {
    let failed = |error| Error::host(format_args!("open {name} in"), error);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat2(folder, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::XDEV | Errno::LOOP) => {
            return Err(Error::refused(format_args!("{name} is a link that leads out of it")));
        }
        Err(error) => return Err(failed(error)),
    };
    if FileType::from_raw_mode(fstat(&file).map_err(failed)?.st_mode) != FileType::RegularFile {
        return Err(Error::refused(format_args!("{name} isn't a file")));
    }
    Ok(Some(File::from(file)))
}

fn decompressed(file: File, scratch: impl FnOnce() -> Result<File>) -> Result<File> {
    let mut magic = [0; 4];
    let failed = |error| Error::reading("archive", error);
    let read = file.read_at(&mut magic, 0).map_err(failed)?;
    let content = || Ok::<_, Error>(BufReader::new(Positioned { file: &file, at: 0, end: size(&file)? }));
    let mut content: Box<dyn Read> = match magic {
        _ if read < magic.len() => return Err(Error::refused("the archive is empty: export the image again")),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(content()?)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(content()?).map_err(failed)?),
        [b'B', b'Z', b'h', _] | [0xfd, b'7', b'z', b'X'] => {
            return Err(Error::refused("compressed with bzip2 or xz: decompress it first"));
        }
        _ => return Ok(file),
    };
    let mut plain = scratch()?;
    let mut buffer = vec![0; 128 << 10];
    let mut written = 0;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(plain),
            Ok(bytes) => {
                written += bytes as u64;
                if written > ARCHIVE_BYTES_MAX {
                    return Err(Error::refused(format_args!("holds more than {ARCHIVE_BYTES_MAX} bytes")));
                }
                plain.write_all(&buffer[..bytes]).map_err(|error| Error::host("decompress the archive", error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn size(file: &File) -> Result<u64> {
    Ok(file.metadata().map_err(|error| Error::host("read the size of the archive", error))?.len())
}

/// A name relative to `folder`, as one from the root: without `.` and `..`. `None` if it leads out.
fn normal(folder: &str, name: &str) -> Option<String> {
    if name.len() > MEMBER_NAME_BYTES_MAX {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    let folder = if name.starts_with('/') { "" } else { folder };
    for part in folder.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_but_into_the_source() {
        for (folder, name, normalized) in [
            ("", "./index.json", Some("index.json")),
            ("a", "../b/layer.tar", Some("b/layer.tar")),
            ("a/b", "/c", Some("c")),
            ("", "../c", None),
            ("a", "../../c", None),
            ("a", "..", None),
            ("", "", None),
        ] {
            assert_eq!(normal(folder, name).as_deref(), normalized, "{folder} {name}");
        }
    }
}
