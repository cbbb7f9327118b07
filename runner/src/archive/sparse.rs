//! Maps of sparse files: which parts of a file an archive holds, the rest being holes. GNU tar has written them in four
//! ways (tar manual, "Storing Sparse Files"); here they all become one checked list.

use super::pax::decimal;
use super::{BLOCK_BYTES, Result, damaged, number};

/// Chunks of one file: a database or disk image as developers have them has some thousands.
pub(super) const CHUNKS_MAX: usize = 65_536;

/// A stretch of a file that has content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// What of a file has content.
#[derive(Debug)]
pub(super) struct Map {
    /// Size of the file, holes included.
    pub(super) size: u64,
    pub(super) chunks: Vec<Chunk>,
}

impl Map {
    /// The old GNU format: four chunks in the header, 21 in each block that follows it.
    pub(super) fn from_headers(
        header: &tar::Header,
        mut next_block: impl FnMut() -> Result<[u8; BLOCK_BYTES]>,
    ) -> Result<Self> {
        let gnu = header.as_gnu().ok_or_else(|| damaged("sparse, but without a GNU header"))?;
        let mut map = Self { size: number(&gnu.realsize, "real size")?, chunks: Vec::new() };
        map.take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extended = tar::GnuExtSparseHeader::new();
            *extended.as_mut_bytes() = next_block()?;
            map.take(extended.sparse())?;
            more = extended.is_extended();
        }
        Ok(map)
    }

    /// PAX format 1.0: the number of chunks, then their offsets and lengths, each on a line of its own, in whole blocks.
    pub(super) fn from_content(
        size: Option<u64>,
        mut next_block: impl FnMut() -> Result<[u8; BLOCK_BYTES]>,
    ) -> Result<Self> {
        let size = size.ok_or_else(|| damaged("sparse, but without a real size"))?;
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            for byte in next_block()? {
                match byte {
                    b'\n' if numbers.len() < wanted => {
                        numbers.push(decimal(&line)?);
                        line.clear();
                        if numbers.len() == 1 {
                            let chunks = usize::try_from(numbers[0]).ok().filter(|chunks| *chunks <= CHUNKS_MAX);
                            wanted += 2 * chunks.ok_or_else(too_many)?;
                        }
                    }
                    // The rest of the last block is padding.
                    _ if numbers.len() == wanted => break,
                    _ if line.len() < 20 => line.push(byte),
                    _ => return Err(damaged("malformed sparse map")),
                }
            }
        }
        Self::from_numbers(size, &numbers[1..])
    }

    /// Offsets and lengths by turns.
    pub(super) fn from_numbers(size: u64, numbers: &[u64]) -> Result<Self> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(damaged("malformed sparse map"));
        }
        Ok(Self { size, chunks: pairs.iter().map(|&[offset, bytes]| Chunk { offset, bytes }).collect() })
    }

    /// Chunks must come in order, lie within the file and be all that is stored.
    pub(super) fn check(&self, stored: u64) -> Result<()> {
        let mut end = 0_u64;
        let mut total = 0_u64;
        for chunk in &self.chunks {
            let stop = chunk.offset.checked_add(chunk.bytes).filter(|stop| *stop <= self.size);
            match stop {
                Some(stop) if chunk.offset >= end => end = stop,
                _ => return Err(damaged("sparse map out of order or beyond the file")),
            }
            // Can't overflow: the chunks don't overlap and end before `size`.
            total += chunk.bytes;
        }
        if total == stored { Ok(()) } else { Err(damaged("sparse map doesn't match the content")) }
    }

    fn take(&mut self, headers: &[tar::GnuSparseHeader]) -> Result<()> {
        for header in headers.iter().take_while(|header| header.numbytes[0] != 0) {
            if self.chunks.len() == CHUNKS_MAX {
                return Err(too_many());
            }
            let offset = number(&header.offset, "chunk offset")?;
            self.chunks.push(Chunk { offset, bytes: number(&header.numbytes, "chunk size")? });
        }
        Ok(())
    }
}

fn too_many() -> super::Error {
    damaged(format_args!("more than {CHUNKS_MAX} chunks in a sparse file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_fit_its_file() {
        let check = |size, numbers: &[u64], stored| Map::from_numbers(size, numbers)?.check(stored);
        check(100, &[0, 10, 50, 5, 100, 0], 15).unwrap();
        check(0, &[], 0).unwrap();
        for (size, numbers, stored) in [
            (100, &[0, 10][..], 11),
            (100, &[10, 5, 0, 5], 10),
            (100, &[0, 10, 5, 10], 20),
            (100, &[95, 10], 10),
            (100, &[u64::MAX, 2], 2),
            (100, &[0], 0),
        ] {
            assert!(check(size, numbers, stored).is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn a_map_before_the_content_ends_with_its_block() {
        let mut block = [0; BLOCK_BYTES];
        block[..14].copy_from_slice(b"2\n0\n3\n10\n400\n9");
        let map = Map::from_content(Some(1000), || Ok(block)).unwrap();
        assert_eq!(map.chunks, [Chunk { offset: 0, bytes: 3 }, Chunk { offset: 10, bytes: 400 }]);
        for bad in [&b"65537\n"[..], b"x\n", b"99999999999999999999999\n", b"\n"] {
            let mut block = [b'1'; BLOCK_BYTES];
            block[..bad.len()].copy_from_slice(bad);
            assert!(Map::from_content(Some(1000), || Ok(block)).is_err(), "{bad:?}");
        }
    }
}
