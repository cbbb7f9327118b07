//! Bytes from a terminal as UTF-8 text, for clients that can take nothing else.

/// Replacement for what is no UTF-8, U+FFFD.
const REPLACEMENT: &str = "\u{FFFD}";

/// Turns pieces of a byte stream into pieces of text. A character cut between two pieces comes out whole in the later one.
#[derive(Debug, Default)]
pub(crate) struct Utf8 {
    /// The beginning of a character whose rest hasn't come: at most three bytes.
    carried: Vec<u8>,
}

impl Utf8 {
    /// The text of the next piece, as far as its characters are complete; one replacement for each ill-formed part.
    pub(crate) fn text(&mut self, piece: Vec<u8>) -> String {
        let bytes = if self.carried.is_empty() { piece } else { [std::mem::take(&mut self.carried), piece].concat() };
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => self.mended(error.as_bytes()),
        }
    }

    /// The text of what is carried when nothing comes after it.
    pub(crate) fn end(&mut self) -> String {
        if std::mem::take(&mut self.carried).is_empty() { String::new() } else { REPLACEMENT.to_owned() }
    }

    fn mended(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            if chunks.peek().is_none() && is_incomplete(chunk.invalid()) {
                self.carried = chunk.invalid().to_vec();
            } else if !chunk.invalid().is_empty() {
                text.push_str(REPLACEMENT);
            }
        }
        text
    }
}

/// Whether these bytes at the end of a piece could be the beginning of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of `bytes` that come in pieces of `size`.
    fn by(size: usize, bytes: &[u8]) -> String {
        let mut utf8 = Utf8::default();
        let mut text: String = bytes.chunks(size).map(|piece| utf8.text(piece.to_vec())).collect();
        text.push_str(&utf8.end());
        text
    }

    #[test]
    fn however_it_is_cut_the_text_is_the_same() {
        let cases: [&[u8]; 8] = [
            b"plain",
            "é€😀 und ß".as_bytes(),
            b"\xFF\xFE",
            b"a\xE2\x82z",
            b"\xF0\x9F\x98",
            b"\xE2\x28\xA1\xC3",
            b"\xED\xA0\x80 surrogate",
            b"\xC0\xAF overlong",
        ];
        for bytes in cases {
            let whole = String::from_utf8_lossy(bytes);
            for size in 1..=bytes.len() {
                assert_eq!(by(size, bytes), whole, "{bytes:?} by {size}");
            }
        }
    }

    #[test]
    fn a_cut_character_waits_for_its_rest() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.text(b"x\xE2\x82".to_vec()), "x");
        assert_eq!(utf8.text(b"".to_vec()), "");
        assert_eq!(utf8.text(b"\xAC!".to_vec()), "€!");
        assert_eq!(utf8.end(), "");
    }
}
