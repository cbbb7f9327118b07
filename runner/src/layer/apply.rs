//! From the members of a layer's archive to its files: what each means, and what of it is believed. How files are made is
//! the tree's matter, how an archive is read the archive's.
//!
//! The rules are those of the OCI image specification ("Image Layer Filesystem Changeset"). A whiteout hides only what
//! lower layers have, wherever in the archive it stands.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use super::blob::Blob;
use super::limits::{IDS, Limits};
use super::name::Name;
use super::tree::{Attributes, Tree};
use super::{Report, UnpackRequest};
use crate::archive::{Archive, Chunk, Kind, Member, printable};
use crate::{Error, Result};

/// Copied at once.
const COPY_BYTES: usize = 128 << 10;

/// Beginning of the name of a whiteout.
const WHITEOUT: &[u8] = b".wh.";

/// Beginning of names that aufs kept to itself; only one of them has a meaning today.
const RESERVED: &[u8] = b".wh..wh.";

/// The whiteout of everything in its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The longest target of a symlink that the kernel takes.
const TARGET_BYTES_MAX: usize = 4095;

/// Set-user-id and set-group-id mean nothing in a cell, which can't gain privileges, and only danger elsewhere.
const MODE_OF_FILES: u32 = 0o777;

/// Folders keep the sticky bit: `/tmp` needs it.
const MODE_OF_FOLDERS: u32 = 0o1777;

/// Makes all files of a layer below `root` and checks both digests.
pub(super) fn apply<'a>(blob: Blob<'a>, request: &UnpackRequest, root: OwnedFd, limits: &'a Limits) -> Result<Report> {
    let mut unpacking = Unpacking {
        archive: Archive::new(blob),
        tree: Tree::new(root, limits.folder_names_bytes_max),
        limits,
        report: Report::default(),
        bytes: 0,
        buffer: vec![0; COPY_BYTES],
    };
    while let Some(member) = unpacking.archive.next()? {
        let name = member.name.clone();
        unpacking.member(member).map_err(|error| match error {
            Error::Refused(text) => Error::refused(format_args!("{}: {text}", printable(&name))),
            other => other,
        })?;
    }
    unpacking.archive.into_input().check(request)?;
    unpacking.tree.finish()?;
    Ok(unpacking.report)
}

struct Unpacking<'a> {
    archive: Archive<Blob<'a>>,
    tree: Tree,
    limits: &'a Limits,
    report: Report,
    /// Sizes of all files so far, holes included.
    bytes: u64,
    buffer: Vec<u8>,
}

impl Unpacking<'_> {
    fn member(&mut self, member: Member) -> Result<()> {
        self.report.entries += 1;
        if self.report.entries > self.limits.entries_max {
            return Err(Error::refused(format_args!("more than {} entries in a layer", self.limits.entries_max)));
        }
        let name = Name::parse(&member.name, self.limits.depth_max)?;
        if name.parent().components().any(|component| component.starts_with(WHITEOUT)) {
            // What aufs kept in folders of its own.
            return if name.components().any(|component| component.starts_with(RESERVED)) {
                Ok(())
            } else {
                Err(Error::refused("a whiteout can't be a folder"))
            };
        }
        match name.leaf() {
            OPAQUE => self.tree.opaque(&name.parent()),
            leaf if leaf.starts_with(RESERVED) => Ok(()),
            leaf => match leaf.strip_prefix(WHITEOUT) {
                Some(b"" | b"." | b"..") => Err(Error::refused("a whiteout of nothing")),
                Some(hidden) => self.tree.whiteout(&name.with_leaf(hidden)),
                None => self.file(&name, member),
            },
        }
    }

    fn file(&mut self, name: &Name, member: Member) -> Result<()> {
        let attributes = attributes(&member)?;
        match member.kind {
            Kind::Folder => self.tree.folder(name, &attributes),
            Kind::File => {
                self.bytes = self.bytes.saturating_add(member.size);
                if self.bytes > self.limits.bytes_max {
                    return Err(Error::refused(format_args!(
                        "files of more than {} bytes in a layer",
                        self.limits.bytes_max
                    )));
                }
                let Self { archive, buffer, tree, .. } = self;
                tree.file(name, &attributes, |file| write(file, name, &member, archive, buffer))
            }
            Kind::Symlink => {
                let target = &member.target;
                if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
                    return Err(Error::refused("a symlink that points at nothing a path can say"));
                }
                self.tree.symlink(name, target, &attributes)
            }
            Kind::HardLink => self.tree.hard_link(name, &Name::parse(&member.target, self.limits.depth_max)?),
            Kind::Fifo => self.tree.fifo(name, &attributes),
            Kind::Device => {
                self.report.devices_skipped += 1;
                Ok(())
            }
        }
    }
}

fn attributes(member: &Member) -> Result<Attributes> {
    let id = |what: &str, id: u64| {
        u32::try_from(id).ok().filter(|_| id < IDS).ok_or_else(|| {
            Error::refused(format_args!(
                "belongs to {what} {id}, and a cell has ids up to {}; change the owner",
                IDS - 1
            ))
        })
    };
    let mode = if member.kind == Kind::Folder { MODE_OF_FOLDERS } else { MODE_OF_FILES };
    let xattrs = if matches!(member.kind, Kind::File | Kind::Folder) {
        member.xattrs.iter().filter(|(key, _)| is_believed(key)).cloned().collect()
    } else {
        // The kernel has user attributes on files and folders only.
        Vec::new()
    };
    Ok(Attributes {
        mode: member.mode & mode,
        uid: id("user", member.uid)?,
        gid: id("group", member.gid)?,
        mtime: member.mtime,
        xattrs,
    })
}

/// Only a user's own attributes: `security` and `trusted` hold privileges, `system` holds access lists in terms of the
/// host's ids, and the overlay's own marks are ours to make.
fn is_believed(key: &[u8]) -> bool {
    key.starts_with(b"user.") && !key.starts_with(b"user.overlay.") && !key.contains(&0)
}

/// Copies a member's content into its file.
fn write(
    file: &mut File,
    name: &Name,
    member: &Member,
    archive: &mut Archive<Blob<'_>>,
    buffer: &mut [u8],
) -> Result<()> {
    let failed = |error| Error::host(format_args!("write {}", printable(name.as_bytes())), error);
    match &member.chunks {
        None => copy(archive, member.size, buffer, |bytes| file.write_all(bytes).map_err(failed)),
        Some(chunks) => {
            for Chunk { offset, bytes } in chunks {
                file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                copy(archive, *bytes, buffer, |bytes| file.write_all(bytes).map_err(failed))?;
            }
            file.set_len(member.size).map_err(failed)
        }
    }
}

fn copy(
    from: &mut Archive<Blob<'_>>,
    bytes: u64,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match from.read(&mut buffer[..wanted]) {
            Ok(read) => {
                take(&buffer[..read])?;
                left -= read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::reading("content", error)),
        }
    }
    Ok(())
}
