//! What an end means: of a connection, of an attempt to make one, of the whole command.

use sandbox::control::Exit;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::target::Target;
use crate::tty::PIPE_SIGNAL;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody answers: it may be different soon.
    Unreachable(String),
    /// The server can't at the moment.
    Unable(String),
    /// The server said no.
    Refused(String),
}

impl Failure {
    /// What it is for who has no connection yet.
    pub(super) fn at_first(self, target: &Target) -> anyhow::Error {
        match self {
            Self::Unreachable(reason) => anyhow::anyhow!(reason).context(format!(
                "no server at {}: start it with `cloister serve`, or name another by --url",
                target.server()
            )),
            Self::Unable(reason) | Self::Refused(reason) => anyhow::anyhow!(reason),
        }
    }
}

/// Why it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The session's program did.
    Exited(Exit),
    /// The keys were typed.
    Detached,
    /// This process was asked to end by a signal.
    Signalled(u8),
    /// The connection broke, or the server restarts: it may be opened again.
    Lost(String),
    /// The server ended it for good, or standard output is gone.
    Failed(String),
}

impl End {
    /// Standard output takes no more.
    pub(super) fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Signalled(PIPE_SIGNAL),
            _ => Self::Failed(format!("write to standard output: {error}")),
        }
    }

    /// What the server closed the connection with.
    pub(super) fn closed(frame: Option<&CloseFrame>) -> Self {
        let Some(CloseFrame { code, reason }) = frame else {
            return Self::Lost("the server closed the connection".to_owned());
        };
        let reason = reason.as_str().escape_debug();
        match code {
            // It would be the same again.
            CloseCode::Protocol
            | CloseCode::Unsupported
            | CloseCode::Invalid
            | CloseCode::Policy
            | CloseCode::Size
            | CloseCode::Extension => {
                Self::Failed(format!("the server closed the connection: {reason} ({})", u16::from(*code)))
            }
            _ => Self::Lost(reason.to_string()),
        }
    }
}

impl From<End> for Failure {
    /// What ends a connection while it is made.
    fn from(end: End) -> Self {
        match end {
            End::Lost(reason) => Self::Unable(reason),
            End::Failed(reason) => Self::Refused(reason),
            End::Exited(_) | End::Detached | End::Signalled(_) => Self::Refused("it ended".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_says_whether_to_come_again() {
        let end = |code: u16| End::closed(Some(&CloseFrame { code: code.into(), reason: "why".into() }));
        for code in [1000, 1001, 1011, 1012, 1013, 4000] {
            assert_eq!(end(code), End::Lost("why".to_owned()), "{code}");
        }
        for code in [1002, 1003, 1007, 1008, 1009] {
            assert!(matches!(end(code), End::Failed(_)), "{code}");
        }
        assert!(matches!(End::closed(None), End::Lost(_)));
    }
}
