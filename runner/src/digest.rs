//! The names of content: sha256 digests. Other algorithms are refused, since nothing that makes images uses them.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// Hex digits of a sha256 digest.
const HEX_LEN: usize = 64;

/// Buffer of whole-file reads: large enough that calls don't count, small enough for the processor's cache.
const CHUNK_BYTES: usize = 128 << 10;

/// `sha256:` and 64 lower-case hex digits; safe as a file name and in messages.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Checks a digest as it came from a manifest or a user, with its algorithm.
    pub fn parse(text: &str) -> Result<Self> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| Error::refused(format_args!("digest {:?}: only sha256 is supported", shortened(text))))?;
        Self::from_hex(hex)
            .ok_or_else(|| Error::refused(format_args!("digest {:?}: not 64 lower-case hex digits", shortened(text))))
    }

    /// Takes the hex digits alone, as in the name of a blob or of an unpacked layer.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (hex.len() == HEX_LEN && hex.bytes().all(digit)).then(|| Self(format!("sha256:{hex}")))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// The digest of everything that `content` has left.
    pub fn of_all(mut content: impl Read) -> io::Result<Self> {
        let mut state = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match content.read(&mut chunk) {
                Ok(0) => return Ok(Self::finish(state)),
                Ok(n) => state.update(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The hex digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The whole digest, with its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough of the digits to tell layers apart on a screen.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    pub(crate) fn finish(state: Sha256) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity("sha256:".len() + HEX_LEN);
        text.push_str("sha256:");
        for byte in state.finalize() {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        Self(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// A text from outside, cut to what fits into a message.
pub(crate) fn shortened(text: &str) -> &str {
    const MESSAGE_BYTES_MAX: usize = 100;
    let end = (0..=MESSAGE_BYTES_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_sha256_digests_are_taken() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::parse(empty).unwrap(), Digest::of(b""));
        assert_eq!(Digest::of_all(&b""[..]).unwrap().as_str(), empty);
        for bad in
            ["", "sha256:", "sha512:00", &empty[..70], &empty.to_uppercase(), &format!("{empty}0"), "sha256:../../x"]
        {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shortened("ab"), "ab");
        assert_eq!(shortened(&"ä".repeat(80)).len(), 100);
        assert_eq!(shortened(&format!("x{}", "ä".repeat(80))).len(), 99);
    }
}
