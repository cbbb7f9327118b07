//! What is typed: numbered, and kept until it has arrived, so that it outlives connections. It doesn't know who types.

use std::collections::VecDeque;

/// Most that is sent before the server says that it has arrived, in bytes; the server takes up to 128 KiB.
const UNARRIVED_BYTES_MAX: u64 = 64 * 1024;

/// Most that is kept, in bytes: the keys that detach are found behind any paste that fits, also while nothing is sent.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Most input in one frame, in bytes: others' frames find their way between two of them.
const FRAME_BYTES_MAX: u64 = 16 * 1024;

/// Typed bytes that may have to be sent again.
#[derive(Debug, Default)]
pub(super) struct Typed {
    bytes: VecDeque<u8>,
    /// The number of the first of them.
    arrived: u64,
}

impl Typed {
    /// Whether more is taken.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() < KEPT_BYTES_MAX
    }

    /// Keeps what was typed.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// How much may still be lost.
    pub(super) fn kept(&self) -> usize {
        self.bytes.len()
    }

    /// Everything before this number has arrived; `false` if that can't be.
    pub(super) fn arrived(&mut self, seq: u64) -> bool {
        let count = seq.checked_sub(self.arrived).and_then(|count| usize::try_from(count).ok());
        let Some(count) = count.filter(|count| *count <= self.bytes.len()) else { return false };
        self.bytes.drain(..count);
        self.arrived = seq;
        true
    }

    /// What to send after everything before number `sent` was, if that may be sent now.
    pub(super) fn next(&self, sent: u64) -> Option<Vec<u8>> {
        let end = self.arrived + (self.bytes.len() as u64).min(UNARRIVED_BYTES_MAX);
        let end = end.min(sent + FRAME_BYTES_MAX);
        let place = |seq: u64| usize::try_from(seq - self.arrived).expect("what is kept fits into memory");
        (sent < end).then(|| self.bytes.range(place(sent)..place(end)).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_arrived_is_sent_again_and_nothing_else() {
        let mut typed = Typed::default();
        typed.push(b"hello");
        assert_eq!(typed.next(0).unwrap(), b"hello");
        assert_eq!(typed.next(5), None);
        assert!(typed.arrived(3));
        typed.push(b"!");
        assert_eq!((typed.next(3).unwrap(), typed.next(5).unwrap()), (b"lo!".to_vec(), b"!".to_vec()));
        assert!(!typed.arrived(2) && !typed.arrived(7));
        assert!(typed.arrived(6));
        assert_eq!((typed.next(6), typed.kept()), (None, 0));
    }

    #[test]
    fn no_more_is_sent_than_may_be_on_its_way() {
        let mut typed = Typed::default();
        while typed.has_room() {
            typed.push(&[b'x'; 1000]);
        }
        let mut sent = 0;
        while let Some(piece) = typed.next(sent) {
            sent += piece.len() as u64;
        }
        assert_eq!(sent, UNARRIVED_BYTES_MAX);
        assert!(typed.arrived(10_000));
        assert_eq!(typed.next(sent).unwrap().len(), 10_000);
    }
}
