//! A layer's bytes on their way: read, hashed, decompressed, hashed again, counted. What they mean is the archive's matter.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::UnpackRequest;
use super::limits::{Limits, RATIO_FREE_BYTES};
use crate::archive::Input;
use crate::{Digest, Error, Result};

/// Read at once: large enough that calls don't count, small enough for the processor's cache.
const CHUNK_BYTES: usize = 128 << 10;

/// How often progress is told: some hundred times for an image of ordinary size.
const PROGRESS_BYTES: u64 = 1 << 20;

/// The same by what becomes of the blob, which of a small one may be a GiB: who hears of progress looks how full the disk is.
const PROGRESS_UNCOMPRESSED_BYTES: u64 = 16 << 20;

/// Largest window a zstd frame may ask for, as a power of two: the format's own recommendation for untrusted input is
/// 8 MiB, `zstd --long` makes 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The uncompressed content of a blob.
pub(super) struct Blob<'a> {
    decoder: Decoder<'a>,
    hash: Sha256,
    uncompressed: u64,
    size: u64,
    limits: &'a Limits,
}

/// The compressions that the OCI image specification knows.
enum Decoder<'a> {
    Plain(BufReader<Stored<'a>>),
    Gzip(Box<MultiGzDecoder<BufReader<Stored<'a>>>>),
    Zstd(zstd::Decoder<'static, BufReader<Stored<'a>>>),
}

impl<'a> Decoder<'a> {
    fn stored(&mut self) -> &mut Stored<'a> {
        match self {
            Self::Plain(input) => input.get_mut(),
            Self::Gzip(decoder) => decoder.get_mut().get_mut(),
            Self::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }
}

/// The blob as it lies in its file.
struct Stored<'a> {
    file: File,
    left: u64,
    read: u64,
    told: u64,
    hash: Sha256,
    progress: &'a mut dyn FnMut(u64) -> io::Result<()>,
}

impl<'a> Blob<'a> {
    pub(super) fn open(
        mut file: File,
        request: &UnpackRequest,
        limits: &'a Limits,
        progress: &'a mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<Self> {
        let failed = |error| Error::reading("blob", error);
        file.seek(SeekFrom::Start(request.offset)).map_err(failed)?;
        let stored = Stored { file, left: request.size, read: 0, told: 0, hash: Sha256::new(), progress };
        let mut input = BufReader::with_capacity(CHUNK_BYTES, stored);
        // By content, not by media type: some tools write one and mean another.
        let decoder = match input.fill_buf().map_err(failed)? {
            [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            // A frame, or the metadata that some tools put before the first one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(failed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
                Decoder::Zstd(decoder)
            }
            _ => Decoder::Plain(input),
        };
        Ok(Self { decoder, hash: Sha256::new(), uncompressed: 0, size: request.size, limits })
    }

    /// Reads what is left and compares both digests: until then nothing that was read may be trusted.
    pub(super) fn check(mut self, request: &UnpackRequest) -> Result<()> {
        let failed = |error| Error::reading("blob", error);
        io::copy(&mut self, &mut io::sink()).map_err(failed)?;
        let mut stored = match self.decoder {
            Decoder::Plain(input) => input,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
        }
        .into_inner();
        io::copy(&mut stored, &mut io::sink()).map_err(failed)?;
        compare("the blob", &request.digest, stored.hash)?;
        compare("the unpacked layer", &request.diff_id, self.hash)
    }
}

fn compare(what: &str, wanted: &Digest, hash: Sha256) -> Result<()> {
    let found = Digest::finish(hash);
    if found == *wanted {
        return Ok(());
    }
    Err(Error::refused(format_args!(
        "{what} should be {wanted} but is {found}: damaged or tampered with; fetch it again"
    )))
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, consumed) = match &mut self.decoder {
            Decoder::Plain(input) => (input.read(buffer)?, self.size),
            Decoder::Gzip(decoder) => (decoder.read(buffer)?, decoder.get_ref().get_ref().read),
            Decoder::Zstd(decoder) => (decoder.read(buffer)?, decoder.get_ref().get_ref().read),
        };
        self.hash.update(&buffer[..read]);
        let before = self.uncompressed / PROGRESS_UNCOMPRESSED_BYTES;
        self.uncompressed += read as u64;
        if self.uncompressed / PROGRESS_UNCOMPRESSED_BYTES > before {
            self.decoder.stored().tell()?;
        }
        let Limits { bytes_max, ratio_max, .. } = *self.limits;
        if self.uncompressed > bytes_max {
            return Err(invalid(format!("holds more than {bytes_max} bytes; split it into several layers")));
        }
        if self.uncompressed > RATIO_FREE_BYTES.saturating_add(consumed.saturating_mul(ratio_max)) {
            return Err(invalid(format!("grows to more than {ratio_max} times its size; it looks like a bomb")));
        }
        Ok(read)
    }
}

impl Input for Blob<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        // Everything must pass through the hash.
        let skipped = io::copy(&mut self.take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hash.update(&buffer[..read]);
        self.left -= read as u64;
        self.read += read as u64;
        if self.read - self.told >= PROGRESS_BYTES || self.left == 0 && self.told < self.read {
            self.tell()?;
        }
        Ok(read)
    }
}

impl Stored<'_> {
    fn tell(&mut self) -> io::Result<()> {
        self.told = self.read;
        (self.progress)(self.read)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
