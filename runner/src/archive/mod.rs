//! A tar stream, read member by member, with everything bounded that a hostile one could blow up.
//!
//! It reads what image tools write: ustar, GNU long names and sparse files, PAX records. Where writers and readers disagree
//! it does what Go's `archive/tar` does, since that made and hashed nearly every image there is: global PAX headers are
//! passed over, links, folders and devices have no content, PAX outranks GNU outranks the plain header. It doesn't know
//! what is done with a member, and judges no name.

mod pax;
mod sparse;

use std::io::{self, Read};

use crate::{Error, Result};
use pax::Pax;
pub(crate) use sparse::Chunk;

/// Unit of a tar stream.
const BLOCK_BYTES: usize = 512;

/// Longest extension header (PAX records, GNU long name): extended attributes are at most 64 KiB each by the kernel, and
/// more than a few of the largest is no image.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Extension headers before one member: at most four kinds exist; some writers repeat them.
const EXTENSIONS_MAX: usize = 16;

/// Where a tar stream comes from.
pub(crate) trait Input: Read {
    /// Passes over `bytes` bytes.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// A moment, in seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// One member as the archive describes it; nothing in it is checked beyond its form.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    /// What a link points at.
    pub(crate) target: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Time,
    /// Extended attributes: names without the archive's own prefix, values as they are.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file once unpacked.
    pub(crate) size: u64,
    /// Where the content belongs in a sparse file; `None` if it is the whole file.
    pub(crate) chunks: Option<Vec<Chunk>>,
    /// Position of the content in the stream.
    pub(crate) at: u64,
}

/// Reads an archive. After [`next`](Self::next), reading from it gives the member's content and then ends.
pub(crate) struct Archive<I> {
    input: I,
    /// Bytes of the stream consumed so far.
    at: u64,
    content_left: u64,
    padding: u64,
}

/// What extension headers say of the member that follows.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    pax: Pax,
}

impl<I: Input> Archive<I> {
    pub(crate) fn new(input: I) -> Self {
        Self { input, at: 0, content_left: 0, padding: 0 }
    }

    /// The next member; what is left of the one before is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        self.skip_content()?;
        let mut extensions = Extensions::default();
        for read in 0..=EXTENSIONS_MAX {
            let Some(block) = self.header()? else {
                return if read == 0 { Ok(None) } else { Err(damaged("ends before the member it announces")) };
            };
            let header = tar::Header::from_byte_slice(&block);
            match header.entry_type() {
                tar::EntryType::XGlobalHeader => drop(self.extension(header)?),
                tar::EntryType::XHeader => extensions.pax = Pax::parse(&self.extension(header)?)?,
                tar::EntryType::GNULongName => extensions.name = Some(until_nul(self.extension(header)?)),
                tar::EntryType::GNULongLink => extensions.target = Some(until_nul(self.extension(header)?)),
                _ => return self.member(header, extensions).map(Some),
            }
        }
        Err(damaged("too many extension headers in a row"))
    }

    /// What comes after the last member: the archive's padding, if any.
    pub(crate) fn into_input(self) -> I {
        self.input
    }

    fn member(&mut self, header: &tar::Header, extensions: Extensions) -> Result<Member> {
        let Extensions { name, target, mut pax } = extensions;
        let name = pax.path.take().or(name).unwrap_or_else(|| header.path_bytes().into_owned());
        let of = |problem: Error| Error::refused(format_args!("{}: {problem}", printable(&name)));
        let target = pax.linkpath.take().or(target);
        let target = target.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let kind = kind(header.entry_type(), &name).map_err(of)?;
        let fields = header.as_old();
        // A folder from before POSIX may have content, as the file it was for everybody else.
        let stored = match (header.entry_type(), pax.size) {
            (tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse, size) => {
                size.map_or_else(|| number(&fields.size, "size"), Ok).map_err(of)?
            }
            _ => 0,
        };
        self.content_left = stored;
        self.padding = stored.next_multiple_of_block().ok_or_else(|| of(damaged("impossible size")))? - stored;
        let sparse = match kind {
            Kind::File => self.sparse(header, &pax).map_err(of)?,
            _ => None,
        };
        Ok(Member {
            mode: number(&fields.mode, "mode").map_err(of)? as u32 & 0o7777,
            uid: pax.uid.map_or_else(|| number(&fields.uid, "uid"), Ok).map_err(of)?,
            gid: pax.gid.map_or_else(|| number(&fields.gid, "gid"), Ok).map_err(of)?,
            // Before 1970 can be said only in PAX; other nonsense is as good as no time.
            mtime: pax.mtime.unwrap_or(Time {
                seconds: number(&fields.mtime, "mtime").ok().and_then(|s| s.try_into().ok()).unwrap_or(0),
                nanos: 0,
            }),
            xattrs: pax.xattrs,
            size: sparse.as_ref().map_or(stored, |map| map.size),
            chunks: sparse.map(|map| map.chunks),
            name: pax.sparse.name.unwrap_or(name),
            target,
            kind,
            at: self.at,
        })
    }

    /// The map of a sparse file, in any of the four ways that GNU tar has written it over time.
    fn sparse(&mut self, header: &tar::Header, pax: &Pax) -> Result<Option<sparse::Map>> {
        let stored = self.content_left;
        let map = if header.entry_type() == tar::EntryType::GNUSparse {
            sparse::Map::from_headers(header, || self.block()?.ok_or_else(|| damaged("ends within a sparse map")))?
        } else if pax.sparse.in_content {
            sparse::Map::from_content(pax.sparse.size, || {
                let mut block = [0; BLOCK_BYTES];
                self.read_exact(&mut block).map_err(|error| Error::reading("sparse map", error))?;
                Ok(block)
            })?
        } else if let Some(size) = pax.sparse.size {
            sparse::Map::from_numbers(size, &pax.sparse.numbers)?
        } else {
            return Ok(None);
        };
        // From here on the content is the chunks alone; a map in front of them is already read.
        debug_assert!(self.content_left <= stored);
        map.check(self.content_left)?;
        Ok(Some(map))
    }

    /// The next header, or `None` at the end of the archive: two empty blocks, or the end of the stream in their stead.
    fn header(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK_BYTES] {
            return match self.block()? {
                Some(second) if second != [0; BLOCK_BYTES] => Err(damaged("has a member after its end")),
                _ => Ok(None),
            };
        }
        let fields = tar::Header::from_byte_slice(&block).as_old();
        let written = number(&fields.cksum, "checksum").ok();
        // By POSIX the sum of all bytes, with those of the checksum itself taken for spaces.
        let checksum = 148..156;
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if checksum.contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
            .sum();
        if Some(sum) == written {
            Ok(Some(block))
        } else {
            Err(damaged("not a tar archive, or a damaged one (header checksum)"))
        }
    }

    fn extension(&mut self, header: &tar::Header) -> Result<Vec<u8>> {
        let size = number(&header.as_old().size, "size")?;
        if size > EXTENSION_BYTES_MAX {
            return Err(damaged(format_args!(
                "extension header of {size} bytes; at most {EXTENSION_BYTES_MAX} are read"
            )));
        }
        let mut body = vec![0; size as usize];
        self.content_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        self.read_exact(&mut body).map_err(|error| Error::reading("extension header", error))?;
        self.skip_content()?;
        Ok(body)
    }

    fn skip_content(&mut self) -> Result<()> {
        let bytes = self.content_left + self.padding;
        if bytes > 0 {
            self.input.skip(bytes).map_err(|error| Error::reading("archive", error))?;
            self.at += bytes;
            (self.content_left, self.padding) = (0, 0);
        }
        Ok(())
    }

    /// One block, or `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(damaged("ends within a header")),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::reading("archive", error)),
            }
        }
        self.at += BLOCK_BYTES as u64;
        Ok(Some(block))
    }
}

impl<I: Input> Read for Archive<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
        let read = self.input.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content_left -= read as u64;
        self.at += read as u64;
        Ok(read)
    }
}

/// Rounding up that notices the end of the numbers.
trait NextBlock: Sized {
    fn next_multiple_of_block(self) -> Option<Self>;
}

impl NextBlock for u64 {
    fn next_multiple_of_block(self) -> Option<Self> {
        // Twice a size is added to positions elsewhere; no file is larger than an offset of the kernel can say.
        (self <= i64::MAX as u64 / 4).then(|| self.next_multiple_of(BLOCK_BYTES as u64))
    }
}

fn kind(entry: tar::EntryType, name: &[u8]) -> Result<Kind> {
    Ok(match entry {
        // Before POSIX a folder was a file whose name ends in a slash.
        tar::EntryType::Regular if name.ends_with(b"/") => Kind::Folder,
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => Kind::File,
        tar::EntryType::Directory => Kind::Folder,
        tar::EntryType::Symlink => Kind::Symlink,
        tar::EntryType::Link => Kind::HardLink,
        tar::EntryType::Fifo => Kind::Fifo,
        tar::EntryType::Char | tar::EntryType::Block => Kind::Device,
        other => {
            let byte = other.as_byte();
            return Err(damaged(format_args!("unknown kind of member {:?}", char::from(byte))));
        }
    })
}

/// A number in a header: octal text, or base 256 marked by the highest bit.
fn number(field: &[u8], what: &str) -> Result<u64> {
    let invalid = || damaged(format_args!("{what} is no number"));
    if field[0] & 0x80 != 0 {
        // The next bit is the sign; nothing negative makes sense here.
        let first = u64::from(field[0] & 0x7f);
        let folded = field[1..].iter().try_fold(first, |value, byte| Some(value.checked_mul(256)? + u64::from(*byte)));
        return folded.filter(|_| first & 0x40 == 0).ok_or_else(invalid);
    }
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    text.iter()
        .try_fold(0_u64, |value, byte| match byte {
            b'0'..=b'7' => Some(value.checked_mul(8)? + u64::from(byte - b'0')),
            _ => None,
        })
        .ok_or_else(invalid)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// A name from an archive, made fit for one line of a message.
pub(crate) fn printable(name: &[u8]) -> String {
    const MESSAGE_BYTES_MAX: usize = 200;
    let cut = &name[..name.len().min(MESSAGE_BYTES_MAX)];
    let dots = if cut.len() < name.len() { "…" } else { "" };
    format!("`{}{dots}`", cut.escape_ascii())
}

fn damaged(text: impl std::fmt::Display) -> Error {
    Error::refused(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Input for &[u8] {
        fn skip(&mut self, bytes: u64) -> io::Result<()> {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            *self = self.get(bytes..).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(())
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"     12 ", 0o12),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"\x80\0\0\0\0\0\x01\x02", 258),
        ] {
            assert_eq!(number(field, "size").unwrap(), value, "{field:?}");
        }
        for bad in
            [&b"8"[..], b"-1", b"0x1", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\x81\0\0\0\0\0\0\0\0\0\0\0", &[b'7'; 30]]
        {
            assert!(number(bad, "size").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn positions_of_contents_are_exact() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "d/".repeat(80) + "f";
        for (name, content) in [("a", &b"one"[..]), (&long, &[7; 512]), ("b", b"")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let mut archive = Archive::new(&bytes[..]);
        let mut names = Vec::new();
        while let Some(member) = archive.next().unwrap() {
            let mut content = Vec::new();
            if member.name != b"a" {
                archive.read_to_end(&mut content).unwrap();
                assert_eq!(content, bytes[member.at as usize..][..content.len()]);
            }
            assert_eq!(member.size, [3, 512, 0][names.len()]);
            names.push(member.name);
        }
        assert_eq!(names, [b"a".to_vec(), long.into_bytes(), b"b".to_vec()]);
    }

    #[test]
    fn no_cut_and_no_flipped_byte_does_more_than_fail() {
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([("SCHILY.xattr.user.a", &b"x\ny"[..]), ("mtime", b"-1.5"), ("path", b"long")])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        builder.append_data(&mut header, "short", &b"abc"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let read = |bytes: &[u8]| {
            let mut archive = Archive::new(bytes);
            let mut members = Vec::new();
            while let Some(member) = archive.next()? {
                io::copy(&mut archive, &mut io::sink()).map_err(|error| Error::reading("content", error))?;
                members.push(member);
            }
            Ok::<_, Error>(members)
        };
        let members = read(&bytes).unwrap();
        assert_eq!(members[0].name, b"long");
        assert_eq!(members[0].mtime, Time { seconds: -2, nanos: 500_000_000 });
        assert_eq!(members[0].xattrs, [(b"user.a".to_vec(), b"x\ny".to_vec())]);
        for cut in 0..bytes.len() {
            let _ = read(&bytes[..cut]);
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0x55;
            let _ = read(&flipped);
        }
    }
}
