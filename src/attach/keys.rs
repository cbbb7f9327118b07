//! The keys that detach: recognized in what is typed, and held back until it is clear that they aren't typed in full.

use std::time::Duration;

use tokio::time::Instant;

/// Longest sequence in keys: more than anyone remembers.
const KEYS_MAX: usize = 8;

/// How long a beginning is held back: long enough for the next key of a slow hand, short enough for a ctrl-p that was
/// meant for the shell.
const HOLD: Duration = Duration::from_millis(500);

/// A sequence of keys, and how much of it was typed.
#[derive(Debug)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    held: usize,
    due: Instant,
}

impl DetachKeys {
    /// No keys detach: everything is passed on.
    pub(super) fn none() -> Self {
        Self { keys: Vec::new(), held: 0, due: Instant::now() }
    }

    /// Reads `ctrl-p,ctrl-q`: keys separated by commas, each a character or `ctrl-` and one of a-z @ [ \ ] ^ _.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let key = |word: &str| match (word.strip_prefix("ctrl-").unwrap_or_default().as_bytes(), word.as_bytes()) {
            ([key @ (b'a'..=b'z' | b'@' | b'['..=b'_')], _) => Ok(key & 0x1f),
            (_, [key @ 0x20..=0x7e]) => Ok(*key),
            _ => Err(format!("`{word}` is no key: give a character, or ctrl- and one of a-z @ [ \\ ] ^ _")),
        };
        let keys: Vec<u8> = match text {
            "" => Vec::new(),
            text => text.split(',').map(key).collect::<Result<_, _>>()?,
        };
        if keys.len() > KEYS_MAX {
            return Err(format!("at most {KEYS_MAX} keys can detach"));
        }
        Ok(Self { keys, ..Self::none() })
    }

    /// Takes what was typed; gives what to pass on now, and whether the keys were typed in full.
    pub(super) fn typed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len() + self.held);
        for byte in bytes {
            // All that may belong to the sequence: its beginning, and this byte.
            let recent = [&self.keys[..self.held], &[*byte]].concat();
            let beginning = (0..=recent.len().min(self.keys.len())).rev();
            self.held = beginning.into_iter().find(|n| recent.ends_with(&self.keys[..*n])).unwrap_or(0);
            passed.extend_from_slice(&recent[..recent.len() - self.held]);
            if self.held > 0 && self.held == self.keys.len() {
                self.held = 0;
                return (passed, true);
            }
        }
        self.due = Instant::now() + HOLD;
        (passed, false)
    }

    /// Waits until what is held back was held long enough, then gives it up. Loses nothing when dropped.
    pub(super) async fn given_up(&mut self) -> Vec<u8> {
        if self.held == 0 {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.due).await;
        let held = std::mem::take(&mut self.held);
        self.keys[..held].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, pieces: &[&str]) -> (String, bool) {
        let mut keys = DetachKeys::parse(keys).unwrap();
        let mut passed = Vec::new();
        for piece in pieces {
            let (bytes, detached) = keys.typed(piece.as_bytes());
            passed.extend(bytes);
            if detached {
                return (String::from_utf8(passed).unwrap(), true);
            }
        }
        (String::from_utf8(passed).unwrap(), false)
    }

    #[test]
    fn keys_are_recognized_however_they_come() {
        assert_eq!(typed("ctrl-p,ctrl-q", &["ls\r\x10\x11rest"]), ("ls\r".to_owned(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &["\x10", "\x11"]), (String::new(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &["\x10", "x", "\x11"]), ("\x10x\x11".to_owned(), false));
        assert_eq!(typed("ctrl-p,ctrl-q", &["\x10\x10\x11"]), ("\x10".to_owned(), true));
        assert_eq!(typed("a,a,b", &["aaab"]), ("a".to_owned(), true));
        assert_eq!(typed("a,b,a,c", &["abab", "ac"]), ("ab".to_owned(), true));
        assert_eq!(typed("~", &["x~"]), ("x".to_owned(), true));
        assert_eq!(typed("", &["\x10\x11"]), ("\x10\x11".to_owned(), false));
    }

    #[test]
    fn what_is_no_key_is_named() {
        for bad in ["ctrl-", "ctrl-1", "ctrl-P", "ctrl-ab", "é", "a,", ",", "a,b,c,d,e,f,g,h,i"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(DetachKeys::parse("ctrl-@,ctrl-[,ctrl-_,ctrl-]").unwrap().keys, [0, 27, 31, 29]);
    }

    #[tokio::test]
    async fn a_beginning_is_passed_on_after_a_while() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.typed(b"\x10"), (Vec::new(), false));
        assert_eq!(keys.given_up().await, b"\x10");
        assert_eq!(keys.typed(b"\x11"), (b"\x11".to_vec(), false));
    }
}
