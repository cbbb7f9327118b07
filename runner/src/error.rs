//! What can go wrong with an image, by what the caller can do about it.

use std::fmt::Display;
use std::io;

/// What a function of this crate gives back.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something with an image didn't work. The messages name the part of the image, or the file, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image is damaged, hostile or of a kind that isn't supported: another image may do.
    #[error("{0}")]
    Refused(String),
    /// There is no such image, blob or reference.
    #[error("{0}")]
    Missing(String),
    /// The machine failed: a full disk, a missing right, a damaged file system.
    #[error("{doing}: {source}{}", remedy(.source))]
    Host {
        /// What was being done, to which file.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn refused(text: impl Display) -> Self {
        Self::Refused(plain(&text.to_string()))
    }

    pub(crate) fn missing(text: impl Display) -> Self {
        Self::Missing(plain(&text.to_string()))
    }

    pub(crate) fn host(doing: impl Display, source: impl Into<io::Error>) -> Self {
        Self::Host { doing: doing.to_string(), source: source.into() }
    }

    /// What went wrong while reading content: the reader's own complaints are about the image, the rest is the machine's.
    pub(crate) fn reading(what: impl Display, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                Self::refused(format_args!("{what}: {source}"))
            }
            io::ErrorKind::UnexpectedEof => {
                Self::refused(format_args!("{what}: ends too early; it is damaged or was not copied completely"))
            }
            _ => Self::host(format_args!("read {what}"), source),
        }
    }
}

/// Longest message in bytes: one that a person reads to its end.
const MESSAGE_BYTES_MAX: usize = 1000;

/// A message that quotes an image, fit for a terminal and a log: what would steer either is written out, and it ends somewhere.
fn plain(text: &str) -> String {
    const DOTS: char = '…';
    let mut message = String::with_capacity(text.len().min(MESSAGE_BYTES_MAX));
    for letter in text.chars() {
        let before = message.len();
        if is_plain(letter) {
            message.push(letter)
        } else {
            message.extend(letter.escape_default())
        }
        if message.len() > MESSAGE_BYTES_MAX - DOTS.len_utf8() {
            message.truncate(before);
            message.push(DOTS);
            break;
        }
    }
    message
}

/// Neither a control nor one of the marks that change the direction of what follows (Unicode's bidirectional algorithm).
fn is_plain(letter: char) -> bool {
    !letter.is_control()
        && !matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What mends the failures that have an obvious remedy.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; free some space or move the state folder",
        io::ErrorKind::QuotaExceeded => "; raise the disk quota or move the state folder",
        io::ErrorKind::ReadOnlyFilesystem => "; put the state folder on a writable file system",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_steer_no_terminal_and_end() {
        let told = |text: &str| Error::refused(text).to_string();
        assert_eq!(told("image: `\u{1b}[2J\r\u{202e}x`"), "image: `\\u{1b}[2J\\r\\u{202e}x`");
        assert_eq!(told("für alle"), "für alle");
        for long in ["x".repeat(5000), "\u{1b}".repeat(5000), "ä".repeat(5000)] {
            let told = told(&long);
            assert!(told.len() <= MESSAGE_BYTES_MAX && told.len() > MESSAGE_BYTES_MAX - 10 && told.ends_with('…'));
        }
    }
}
