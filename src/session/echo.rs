//! How long echoes take, as far as the server can see: from input that was read from a client to the output behind it being
//! written to that client's connection. It costs two looks at the clock and some additions; it knows no socket.

use std::time::Instant;

use crate::metrics::metrics;

/// A client's last input, until there is output behind it. What was typed before that and had no output yet is forgotten:
/// of a password, or keys that a program ignores, nobody can say when their echo would have been due. So an echo that takes
/// longer than the pause between two keystrokes may be told as too short.
#[derive(Debug, Default)]
pub(super) struct Echo {
    typed: Option<Typed>,
}

#[derive(Debug)]
struct Typed {
    at: Instant,
    /// Where the session's output ended.
    head: u64,
}

impl Echo {
    /// The client has typed, when the session's output ended at offset `head`.
    pub(super) fn typed(&mut self, head: u64) {
        self.typed = Some(Typed { at: Instant::now(), head });
    }

    /// The client was sent all output up to this offset.
    pub(super) fn sent(&mut self, offset: u64) {
        if let Some(typed) = self.typed.take_if(|typed| offset > typed.head) {
            metrics().echo.observe(typed.at.elapsed().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_from_before_is_no_echo_and_one_input_has_one() {
        // Other tests of this process count too.
        let counted = || metrics().echo.get_sample_count();
        let mut echo = Echo::default();
        echo.sent(10);
        echo.typed(10);
        echo.sent(7);
        echo.sent(10);
        assert!(echo.typed.is_some(), "what was there before says nothing");
        echo.typed(12);
        echo.sent(12);
        assert!(echo.typed.is_some(), "the last one counts");
        let before = counted();
        echo.sent(13);
        assert!(echo.typed.is_none() && counted() > before);
    }
}
