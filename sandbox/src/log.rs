//! A session's output: a ring of bytes in shared memory, at u64 offsets since the session's birth.
//!
//! The cell's init is its only writer; the server maps it read-only and copies from it at its own pace. Neither waits for
//! the other: after copying, a reader checks that the writer didn't come round. Between two bytes there may be a mark: what
//! happened to the terminal there. It knows no screen and no client.
//!
//! Layout of the memfd: one page of header, then the ring. `reserved` is raised before bytes are written and `head` after,
//! so what lies in `[reserved - ring, head)` is whole. The marks are a ring of their own in the header, with counters of
//! the same kind; a mark is there before the bytes behind it are.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::control::Size;
use crate::sys::SharedMap;

/// Smallest ring in bytes.
pub const RING_BYTES_MIN: u32 = 64 * 1024;

/// Largest ring in bytes.
pub const RING_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Ring of a session unless configured otherwise, in bytes.
pub const RING_BYTES_DEFAULT: u32 = 4 * 1024 * 1024;

/// Largest offset that is believed, so that sums of offsets have room: a session that prints a gigabyte a second reaches it
/// in a hundred years.
pub const OFFSET_MAX: u64 = 1 << 62;

const HEADER_BYTES: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"cloister");
const VERSION: u64 = 2;

/// Marks that are kept; a size is set by a person's hand, and ^C typed by one.
const MARKS_MAX: u64 = 128;
const MARK_BYTES: usize = 16;

// Where the header's numbers lie: the hot ones on cache lines of their own.
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const RING_AT: usize = 16;
const HEAD_AT: usize = 64;
const RESERVED_AT: usize = 128;
const MARKS_COUNT_AT: usize = 192;
const MARKS_RESERVED_AT: usize = 256;
const MARKS_AT: usize = 320;
const _: () = assert!(MARKS_AT + MARKS_MAX as usize * MARK_BYTES <= HEADER_BYTES);

const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// These bytes were overwritten; the oldest that is still there begins at this offset.
    #[error("the log's bytes before offset {oldest} were overwritten")]
    Overwritten {
        /// First offset that can be read now.
        oldest: u64,
    },
    /// The cell broke the layout or the counters.
    #[error("the cell's log is corrupt: {0}")]
    Corrupt(&'static str),
    /// The memory could not be mapped.
    #[error("the cell's log can't be mapped: {0}")]
    Io(#[from] io::Error),
}

/// What happened between two bytes of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Offset of the byte behind it.
    pub offset: u64,
    /// What happened.
    pub event: Event,
}

/// What happens to a terminal beside its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It got this size.
    Resized(Size),
    /// Its output was thrown away, as ^C does: what comes before is of no interest any more.
    Flushed,
}

impl Event {
    const FLUSHED: u64 = 1 << 32;

    fn encode(self) -> u64 {
        match self {
            Self::Resized(Size { cols, rows }) => u64::from(cols) << 16 | u64::from(rows),
            Self::Flushed => Self::FLUSHED,
        }
    }

    fn decode(number: u64) -> Self {
        match number {
            Self::FLUSHED => Self::Flushed,
            size => Self::Resized(Size { cols: (size >> 16) as u16, rows: size as u16 }.clamped()),
        }
    }
}

/// Whether a ring may have this size: a power of two within the bounds.
pub fn valid_ring_bytes(bytes: u32) -> bool {
    bytes.is_power_of_two() && (RING_BYTES_MIN..=RING_BYTES_MAX).contains(&bytes)
}

/// The writing end.
#[derive(Debug)]
pub struct LogWriter {
    map: SharedMap,
    file: OwnedFd,
    ring: usize,
    head: u64,
    marks: u64,
}

impl LogWriter {
    /// Makes an empty log whose ring has `ring_bytes` (see [`valid_ring_bytes`]); its size is sealed.
    pub fn create(ring_bytes: u32) -> io::Result<Self> {
        if !valid_ring_bytes(ring_bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the ring's size is no power of two in bounds"));
        }
        let ring = ring_bytes as usize;
        let file = memfd_create(c"cloister-log", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, (HEADER_BYTES + ring) as u64)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
        let map = SharedMap::new(&file, map_len(ring), true)?;
        map.atomic(MAGIC_AT).store(MAGIC, Ordering::Relaxed);
        map.atomic(VERSION_AT).store(VERSION, Ordering::Relaxed);
        map.atomic(RING_AT).store(ring as u64, Ordering::Relaxed);
        Ok(Self { map, file, ring, head: 0, marks: 0 })
    }

    /// The memfd to hand to a reader.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Offset behind the last byte written.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Size of the ring in bytes.
    pub fn ring_bytes(&self) -> u64 {
        self.ring as u64
    }

    /// Appends bytes, at most a ring full, over the oldest ones.
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.ring, "one append is at most a ring");
        let head = self.head + bytes.len() as u64;
        self.map.atomic(RESERVED_AT).store(head, Ordering::Relaxed);
        fence(Ordering::Release);
        let at = (self.head % self.ring as u64) as usize;
        let (first, rest) = bytes.split_at(bytes.len().min(self.ring - at));
        self.map.write(HEADER_BYTES + at, first);
        self.map.write(HEADER_BYTES, rest);
        self.head = head;
        self.map.atomic(HEAD_AT).store(head, Ordering::Release);
    }

    /// Notes what happened behind the bytes written so far.
    pub fn mark(&mut self, event: Event) {
        let at = MARKS_AT + (self.marks % MARKS_MAX) as usize * MARK_BYTES;
        self.marks += 1;
        self.map.atomic(MARKS_RESERVED_AT).store(self.marks, Ordering::Relaxed);
        fence(Ordering::Release);
        self.map.atomic(at).store(self.head, Ordering::Relaxed);
        self.map.atomic(at + 8).store(event.encode(), Ordering::Relaxed);
        self.map.atomic(MARKS_COUNT_AT).store(self.marks, Ordering::Release);
    }
}

/// A reading end; cheap to share between threads.
#[derive(Debug)]
pub struct LogReader {
    map: SharedMap,
    ring: usize,
}

impl LogReader {
    /// Maps a log that a cell handed over, after checking that it can't be truncated under us and has the layout above.
    pub fn open(file: impl AsFd) -> Result<Self, LogError> {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map_err(io::Error::from)?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(LogError::Corrupt("its size is not sealed"));
        }
        let size = rustix::fs::fstat(&file).map_err(io::Error::from)?.st_size;
        let ring = usize::try_from(size).ok().and_then(|size| size.checked_sub(HEADER_BYTES));
        let Some(ring) = ring.filter(|ring| u32::try_from(*ring).is_ok_and(valid_ring_bytes)) else {
            return Err(LogError::Corrupt("its size is out of bounds"));
        };
        let map = SharedMap::new(&file, map_len(ring), false)?;
        let field = |at| map.atomic(at).load(Ordering::Relaxed);
        if (field(MAGIC_AT), field(VERSION_AT), field(RING_AT)) != (MAGIC, VERSION, ring as u64) {
            return Err(LogError::Corrupt("its header is not of this version"));
        }
        Ok(Self { map, ring })
    }

    /// Offset behind the last byte written.
    pub fn head(&self) -> u64 {
        self.map.atomic(HEAD_AT).load(Ordering::Acquire).min(OFFSET_MAX)
    }

    /// Size of the ring in bytes.
    pub fn ring_bytes(&self) -> u64 {
        self.ring as u64
    }

    /// First offset that can still be read.
    pub fn oldest(&self) -> u64 {
        let reserved = self.map.atomic(RESERVED_AT).load(Ordering::Acquire).min(OFFSET_MAX);
        reserved.max(self.head()).saturating_sub(self.ring as u64)
    }

    /// Appends to `out` what the log holds from offset `from` on, at most `bytes_max`; returns how many bytes.
    pub fn read(&self, from: u64, bytes_max: usize, out: &mut Vec<u8>) -> Result<usize, LogError> {
        let available = self.head().checked_sub(from).ok_or(LogError::Corrupt("its head went backwards"))?;
        if available > self.ring as u64 {
            return Err(LogError::Overwritten { oldest: self.oldest() });
        }
        let count = (available as usize).min(bytes_max);
        let before = out.len();
        out.resize(before + count, 0);
        let at = (from % self.ring as u64) as usize;
        let (first, rest) = out[before..].split_at_mut(count.min(self.ring - at));
        self.map.read(HEADER_BYTES + at, first);
        self.map.read(HEADER_BYTES, rest);
        // Pairs with the writer's release fence: if any byte copied was of a later round, its reservation is seen here.
        fence(Ordering::Acquire);
        let oldest = self.oldest();
        if from < oldest {
            out.truncate(before);
            return Err(LogError::Overwritten { oldest });
        }
        Ok(count)
    }

    /// How many marks there are since birth.
    pub fn marks(&self) -> u64 {
        self.map.atomic(MARKS_COUNT_AT).load(Ordering::Acquire)
    }

    /// Gives the marks from number `from` on, as far as they are still there, and how many there are since birth: those of
    /// them before a byte that was read earlier are among them.
    pub fn marks_since(&self, from: u64) -> (Vec<Mark>, u64) {
        let count = self.marks();
        let numbers = from.max(count.saturating_sub(MARKS_MAX))..count;
        let read = |number: u64| {
            let at = MARKS_AT + (number % MARKS_MAX) as usize * MARK_BYTES;
            let field = |at| self.map.atomic(at).load(Ordering::Relaxed);
            Mark { offset: field(at), event: Event::decode(field(at + 8)) }
        };
        let mut marks: Vec<Mark> = numbers.clone().map(read).collect();
        fence(Ordering::Acquire);
        // As with the bytes: those that the writer was just overwriting are none.
        let oldest = self.map.atomic(MARKS_RESERVED_AT).load(Ordering::Relaxed).saturating_sub(MARKS_MAX);
        let torn = usize::try_from(oldest.saturating_sub(numbers.start)).unwrap_or(usize::MAX);
        marks.drain(..torn.min(marks.len()));
        (marks, count)
    }
}

/// Length of the whole map.
fn map_len(ring: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(HEADER_BYTES + ring - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (LogWriter, LogReader) {
        let writer = LogWriter::create(RING_BYTES_MIN).unwrap();
        let reader = LogReader::open(writer.file()).unwrap();
        (writer, reader)
    }

    #[test]
    fn what_is_appended_can_be_read_at_its_offset_across_the_wrap() {
        let (mut writer, reader) = log();
        let pattern = |offset: u64| (offset % 251) as u8;
        let mut out = Vec::new();
        for length in [1_usize, 65_536, 1000, 65_535, 7, 40_000] {
            let from = writer.head();
            let bytes: Vec<u8> = (from..from + length as u64).map(pattern).collect();
            writer.append(&bytes);
            out.clear();
            assert_eq!(reader.read(from, usize::MAX, &mut out).unwrap(), length);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn overwritten_offsets_are_named() {
        let (mut writer, reader) = log();
        writer.append(&[b'x'; 65_536]);
        writer.append(b"y");
        let mut out = Vec::new();
        assert!(matches!(reader.read(0, 10, &mut out), Err(LogError::Overwritten { oldest: 1 })));
        assert!(out.is_empty());
        assert_eq!(reader.read(1, 10, &mut out).unwrap(), 10);
        assert!(matches!(reader.read(65_538, 1, &mut out), Err(LogError::Corrupt(_))));
    }

    #[test]
    fn marks_lie_between_the_bytes_and_the_latest_are_kept() {
        let (mut writer, reader) = log();
        let resized = |cols| Event::Resized(Size { cols, rows: 24 });
        assert_eq!(reader.marks_since(0), (vec![], 0));
        writer.mark(resized(80));
        writer.append(b"abc");
        writer.mark(Event::Flushed);
        let marks = [Mark { offset: 0, event: resized(80) }, Mark { offset: 3, event: Event::Flushed }];
        assert_eq!(reader.marks_since(0), (marks.to_vec(), 2));
        assert_eq!(reader.marks_since(1), (marks[1..].to_vec(), 2));
        assert_eq!(reader.marks_since(2), (vec![], 2));
        assert_eq!(reader.marks_since(u64::MAX), (vec![], 2));
        (0..MARKS_MAX as u16).for_each(|cols| writer.mark(resized(cols + 1)));
        let (kept, count) = reader.marks_since(0);
        assert_eq!((kept.len() as u64, count), (MARKS_MAX, MARKS_MAX + 2));
        assert_eq!((kept[0].event, kept[127].event), (resized(1), resized(128)));
    }

    #[test]
    fn unsealed_and_misshapen_memory_is_refused() {
        let file = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, (HEADER_BYTES + 65_536) as u64).unwrap();
        assert!(matches!(LogReader::open(&file), Err(LogError::Corrupt("its size is not sealed"))));
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        assert!(matches!(LogReader::open(&file), Err(LogError::Corrupt("its header is not of this version"))));
        let file = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 5000).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        assert!(matches!(LogReader::open(&file), Err(LogError::Corrupt("its size is out of bounds"))));
    }

    proptest::proptest! {
        #[test]
        fn counters_of_a_hostile_cell_are_never_believed(
            head in proptest::num::u64::ANY,
            reserved in proptest::num::u64::ANY,
            near in 0..200_000_u64,
            from in proptest::num::u64::ANY,
        ) {
            let (writer, reader) = log();
            writer.map.atomic(HEAD_AT).store(head, Ordering::Relaxed);
            writer.map.atomic(RESERVED_AT).store(reserved, Ordering::Relaxed);
            writer.map.atomic(MARKS_COUNT_AT).store(head, Ordering::Relaxed);
            writer.map.atomic(MARKS_RESERVED_AT).store(reserved, Ordering::Relaxed);
            writer.map.atomic(MARKS_AT + 8).store(reserved, Ordering::Relaxed);
            for from in [0, from, head, head.wrapping_sub(near)] {
                let (marks, count) = reader.marks_since(from);
                proptest::prop_assert!(marks.len() as u64 <= MARKS_MAX && count == head);
            }
            for from in [from, head, head.wrapping_sub(near), head.wrapping_add(near), reader.oldest()] {
                let mut out = Vec::new();
                match reader.read(from, 100_000, &mut out) {
                    Ok(count) => {
                        proptest::prop_assert_eq!(count, out.len());
                        proptest::prop_assert!(from <= head && count <= RING_BYTES_MIN as usize);
                    }
                    Err(_) => proptest::prop_assert!(out.is_empty()),
                }
            }
        }
    }

    #[test]
    fn a_reader_that_races_the_writer_never_sees_torn_bytes() {
        let (mut writer, reader) = log();
        let reading = std::thread::spawn(move || {
            let (mut from, mut out, mut seen) = (0, Vec::new(), 0_u64);
            while from < 64 << 20 {
                out.clear();
                match reader.read(from, 4096, &mut out) {
                    Ok(count) => {
                        assert!((from..).zip(&out).all(|(offset, byte)| *byte == (offset % 251) as u8));
                        from += count as u64;
                        seen += count as u64;
                    }
                    Err(LogError::Overwritten { oldest }) => from = oldest,
                    Err(other) => panic!("{other}"),
                }
            }
            seen
        });
        while writer.head() < 64 << 20 {
            let from = writer.head();
            let bytes: Vec<u8> = (from..from + 3001).map(|offset| (offset % 251) as u8).collect();
            writer.append(&bytes);
        }
        assert!(reading.join().unwrap() > 0);
    }
}
