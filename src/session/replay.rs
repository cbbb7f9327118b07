//! Where in a session's log a client begins that has seen nothing, or that fell so far behind that its place is gone.

use sandbox::log::{LogError, LogReader};

/// Most output that is shown again, in bytes: some thousand lines, on a browser's screen in a few frames.
const REPLAY_BYTES_MAX: u64 = 256 * 1024;

/// How far a line's end is looked for, in bytes: longer "lines" are no text, and may be cut anywhere.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// How often a place may be overwritten while it is looked at: then only what comes next is shown.
const TRIES_MAX: usize = 3;

/// The offset at which to begin: the log's birth if it is near enough, else a line's beginning.
pub(super) fn start(log: &LogReader) -> Result<u64, LogError> {
    let mut from = log.oldest().max(log.head().saturating_sub(REPLAY_BYTES_MAX));
    let mut cut = Vec::new();
    for _ in 0..TRIES_MAX {
        if from == 0 {
            return Ok(0);
        }
        cut.clear();
        match log.read(from, LINE_BYTES_MAX, &mut cut) {
            Ok(_) => return Ok(from + beginning(&cut) as u64),
            Err(LogError::Overwritten { oldest }) => from = oldest,
            Err(error) => return Err(error),
        }
    }
    Ok(log.head())
}

/// How many bytes of a text cut at its front to leave out: up to its first line's end, or else up to a whole character.
fn beginning(cut: &[u8]) -> usize {
    let continuation = |byte: &&u8| **byte & 0xC0 == 0x80;
    match cut.iter().position(|byte| *byte == b'\n') {
        Some(end) => end + 1,
        None => cut.iter().take(3).take_while(continuation).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::log::{LogWriter, RING_BYTES_MIN};

    fn started_after(writes: &[&[u8]]) -> (u64, u64) {
        let mut writer = LogWriter::create(RING_BYTES_MIN * 16).unwrap();
        writes.iter().for_each(|bytes| writer.append(bytes));
        (start(&LogReader::open(writer.file()).unwrap()).unwrap(), writer.head())
    }

    #[test]
    fn a_short_log_is_shown_from_its_birth() {
        assert_eq!(started_after(&[]), (0, 0));
        assert_eq!(started_after(&[b"half a li"]), (0, 9));
    }

    #[test]
    fn a_long_log_is_shown_from_a_lines_beginning() {
        let lines = b"0123456789abcd\n".repeat(20_000);
        let (from, head) = started_after(&[&lines]);
        assert_eq!(from % 15, 0);
        assert!(head - from <= REPLAY_BYTES_MAX && head - from > REPLAY_BYTES_MAX - 15);
    }

    #[test]
    fn a_log_without_lines_is_shown_from_a_whole_character() {
        let (from, head) = started_after(&["€".repeat(100_000).as_bytes()]);
        assert_eq!(from % 3, 0);
        assert!(head - from <= REPLAY_BYTES_MAX);
    }
}
