//! A recording as bytes: asciicast v3 (<https://docs.asciinema.org/manual/asciicast/v3>), a line of head and then one line
//! an event. It appends to a buffer and is told what time it is; it knows no file and no clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandbox::control::{Exit, Size};
use serde_json::json;

use crate::screen::RESET;
use crate::session::Utf8;

const VERSION: u32 = 3;

/// What programs in a cell are told that their terminal is.
const TERM: &str = "xterm-256color";

/// What a shell makes of a signal's number.
const SIGNALLED: u16 = 128;

/// A recording on its way into a buffer. Times are since its beginning.
#[derive(Debug)]
pub(super) struct Cast {
    size: Size,
    utf8: Utf8,
    /// When the last event was.
    last: Duration,
    /// Whether there was none yet.
    blank: bool,
}

impl Cast {
    /// Begins one with its head.
    pub(super) fn begin(title: &str, size: Size, now: SystemTime, out: &mut Vec<u8>) -> Self {
        let Size { cols, rows } = size;
        let timestamp = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let term = json!({ "cols": cols, "rows": rows, "type": TERM });
        let head = json!({ "version": VERSION, "term": term, "timestamp": timestamp, "title": title });
        out.extend_from_slice(format!("{head}\n").as_bytes());
        Self { size, utf8: Utf8::default(), last: Duration::ZERO, blank: true }
    }

    /// The size that the terminal has at this place.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// The terminal printed bytes; a character that is cut comes with its rest.
    pub(super) fn output(&mut self, at: Duration, bytes: Vec<u8>, out: &mut Vec<u8>) {
        let text = self.utf8.text(bytes);
        self.text(at, &text, out);
    }

    /// The terminal has a new size.
    pub(super) fn resized(&mut self, at: Duration, size: Size, out: &mut Vec<u8>) {
        if size != self.size {
            self.size = size;
            self.event(at, 'r', &format!("{}x{}", size.cols, size.rows), out);
        }
    }

    /// A snapshot follows, as output: the terminal is emptied for it.
    pub(super) fn reset(&mut self, at: Duration, size: Size, out: &mut Vec<u8>) {
        self.utf8 = Utf8::default();
        self.resized(at, size, out);
        if !self.blank {
            self.output(at, RESET.to_vec(), out);
        }
    }

    /// Nothing follows; with `exit` because the program ended.
    pub(super) fn end(&mut self, at: Duration, exit: Option<Exit>, out: &mut Vec<u8>) {
        let rest = self.utf8.end();
        self.text(at, &rest, out);
        if let Some(exit) = exit {
            let status = match exit {
                Exit::Code(code) => u16::from(code),
                Exit::Signal(signal) => SIGNALLED + u16::from(signal),
            };
            self.event(at, 'x', &status.to_string(), out);
        }
    }

    fn text(&mut self, at: Duration, text: &str, out: &mut Vec<u8>) {
        if !text.is_empty() {
            self.blank = false;
            self.event(at, 'o', text, out);
        }
    }

    /// Appends a line. Its time is what passed since the one before, in whole microseconds of both, so that nothing adds up.
    fn event(&mut self, at: Duration, kind: char, data: &str, out: &mut Vec<u8>) {
        let interval = at.as_micros().saturating_sub(self.last.as_micros());
        self.last = self.last.max(at);
        let (seconds, micros) = (interval / 1_000_000, interval % 1_000_000);
        out.extend_from_slice(format!("[{seconds}.{micros:06},\"{kind}\",").as_bytes());
        serde_json::to_writer(&mut *out, data).expect("text into memory");
        out.extend_from_slice(b"]\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_millis(1500);

    /// What is appended to a cast that has begun.
    fn after_head(events: impl FnOnce(&mut Cast, &mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        let mut cast = Cast::begin("demo/main", Size::DEFAULT, UNIX_EPOCH, &mut out);
        out.clear();
        events(&mut cast, &mut out);
        String::from_utf8(out).expect("a recording is text")
    }

    #[test]
    fn the_head_is_a_line_of_json() {
        let mut out = Vec::new();
        Cast::begin(
            "demo/main",
            Size { cols: 100, rows: 30 },
            UNIX_EPOCH + Duration::from_secs(1_795_522_205),
            &mut out,
        );
        let term = json!({ "cols": 100, "rows": 30, "type": "xterm-256color" });
        let head = json!({ "version": 3, "term": term, "timestamp": 1_795_522_205_u64, "title": "demo/main" });
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).expect("JSON"), head);
    }

    #[test]
    fn times_are_since_the_event_before() {
        let text = after_head(|cast, out| {
            cast.output(AT, b"a".to_vec(), out);
            cast.output(AT, b"b".to_vec(), out);
            cast.output(AT + Duration::from_nanos(1_999), b"c".to_vec(), out);
            cast.output(AT + Duration::from_nanos(2_000), b"d".to_vec(), out);
            cast.output(AT, b"e".to_vec(), out);
            cast.output(Duration::from_secs(3600), b"f".to_vec(), out);
        });
        let times: Vec<&str> = text.lines().map(|line| &line[1..line.find(',').expect("a comma")]).collect();
        assert_eq!(times, ["1.500000", "0.000000", "0.000001", "0.000001", "0.000000", "3598.499998"]);
    }

    #[test]
    fn cut_characters_come_whole_and_everything_is_escaped() {
        let text = after_head(|cast, out| {
            cast.output(AT, b"\xE2\x82".to_vec(), out);
            assert!(out.is_empty(), "nothing is whole yet");
            cast.output(AT, b"\xAC \"\\\x1b[0m\r\n\x00\x7f".to_vec(), out);
            cast.output(AT, b"\xFF\xF0\x9F".to_vec(), out);
            cast.end(AT, None, out);
        });
        let data: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<(f64, String, String)>(line).unwrap_or_else(|_| panic!("{line}")).2)
            .collect();
        assert_eq!(data, ["€ \"\\\x1b[0m\r\n\0\x7f", "\u{FFFD}", "\u{FFFD}"]);
    }

    #[test]
    fn sizes_snapshots_and_the_end_are_events() {
        let size = Size { cols: 90, rows: 20 };
        let text = after_head(|cast, out| {
            cast.reset(AT, Size::DEFAULT, out);
            assert!(out.is_empty(), "a snapshot at the beginning needs no reset");
            cast.output(AT, b"\xE2".to_vec(), out);
            cast.output(AT, b"\x82".to_vec(), out);
            cast.resized(AT, Size::DEFAULT, out);
            assert!(out.is_empty(), "it has this size");
            cast.resized(AT, size, out);
            cast.output(AT, b"\xACx".to_vec(), out);
            cast.output(AT, b"\xE2".to_vec(), out);
            cast.reset(AT, Size::DEFAULT, out);
            cast.end(AT, Some(Exit::Signal(9)), out);
        });
        let events: Vec<&str> = text.lines().map(|line| line.split_once(',').expect("a comma").1).collect();
        let reset = r#""o","\u0018\u001bc\u001b[3J"]"#;
        assert_eq!(events, [r#""r","90x20"]"#, r#""o","€x"]"#, r#""r","80x24"]"#, reset, r#""x","137"]"#]);
        let text = after_head(|cast, out| cast.end(AT, Some(Exit::Code(3)), out));
        assert_eq!(text, "[1.500000,\"x\",\"3\"]\n");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_recorded_is_read_again(
            pieces in proptest::collection::vec((0..5_000_000_u64, proptest::collection::vec(proptest::num::u8::ANY, 0..20)), 0..20)
        ) {
            let mut at = 0;
            let text = after_head(|cast, out| {
                for (micros, piece) in &pieces {
                    at += micros;
                    cast.output(Duration::from_micros(at), piece.clone(), out);
                }
                cast.end(Duration::from_micros(at), Some(Exit::Code(0)), out);
            });
            let events: Vec<_> = text.lines().map(|line| serde_json::from_str::<(f64, char, String)>(line).unwrap()).collect();
            let output: String = events.iter().filter(|event| event.1 == 'o').map(|event| event.2.as_str()).collect();
            let bytes: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
            proptest::prop_assert_eq!(output, String::from_utf8_lossy(&bytes));
            let micros = events.iter().map(|event| (event.0 * 1e6).round() as u64).sum::<u64>();
            proptest::prop_assert_eq!(micros, at);
        }
    }
}
