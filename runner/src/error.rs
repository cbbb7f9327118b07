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
        Self::Refused(text.to_string())
    }

    pub(crate) fn missing(text: impl Display) -> Self {
        Self::Missing(text.to_string())
    }

    pub(crate) fn host(doing: impl Display, source: impl Into<io::Error>) -> Self {
        Self::Host { doing: doing.to_string(), source: source.into() }
    }

    /// What went wrong while reading content: the reader's own complaints are about the image, the rest is the machine's.
    pub(crate) fn reading(what: impl Display, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                Self::Refused(format!("{what}: {source}"))
            }
            io::ErrorKind::UnexpectedEof => {
                Self::Refused(format!("{what}: ends too early; it is damaged or was not copied completely"))
            }
            _ => Self::host(format_args!("read {what}"), source),
        }
    }
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
