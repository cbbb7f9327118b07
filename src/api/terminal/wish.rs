//! What a client wishes of its terminal, by the query. It knows the keys, not what becomes of them.

use sandbox::control::{SessionName, Size};

use crate::api::Query;
use crate::api::reject::{Refusal, Result};
use crate::api::sessions::session_name;

/// What a client wishes, by the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) session: SessionName,
    pub(super) size: Option<Size>,
    /// Output as binary messages, not as text.
    pub(super) binary: bool,
    /// Each message is a line: Enter is pressed behind it.
    pub(super) lines: bool,
}

impl Wish {
    pub(super) fn parse(query: &Query) -> Result<Self> {
        let malformed = |reason: String| Err(Refusal::Malformed(reason));
        let (mut session, mut cols, mut rows, mut frames, mut input) = (None, None, None, None, None);
        for (key, value) in query {
            let place = match key.as_str() {
                "session" => &mut session,
                "cols" => &mut cols,
                "rows" => &mut rows,
                "frames" => &mut frames,
                "input" => &mut input,
                _ => {
                    return malformed(format!(
                        "unknown query key `{key}`; known are session, cols, rows, frames, input, token"
                    ));
                }
            };
            if place.replace(value.as_str()).is_some() {
                return malformed(format!("query key `{key}` comes twice"));
            }
        }
        let number = |name: &str, value: Option<&str>, default: u16| match value.map(str::parse::<u16>) {
            None => Ok(default),
            Some(Ok(number)) => Ok(number),
            Some(Err(_)) => Err(Refusal::Malformed(format!("{name} must be a number, is {value:?}"))),
        };
        let Size { cols: usual_cols, rows: usual_rows } = Size::DEFAULT;
        let some = cols.or(rows).is_some();
        let asked = size(number("cols", cols, usual_cols)?, number("rows", rows, usual_rows)?)?;
        let binary = match frames {
            None | Some("text") => false,
            Some("binary") => true,
            Some(other) => return malformed(format!("frames must be text or binary, is {other:?}")),
        };
        let lines = match input {
            None | Some("keys") => false,
            Some("line") => true,
            Some(other) => return malformed(format!("input must be keys or line, is {other:?}")),
        };
        let session = session.map_or_else(|| Ok(SessionName::main()), session_name)?;
        Ok(Self { session, size: some.then_some(asked), binary, lines })
    }
}

/// A terminal's size as a client gave it.
pub(in crate::api) fn size(cols: u16, rows: u16) -> Result<Size> {
    let size = Size { cols, rows };
    if size == size.clamped() {
        Ok(size)
    } else {
        Err(Refusal::Malformed("cols and rows must be 1 to 2000".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> std::result::Result<Wish, String> {
        let query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Wish::parse(&query).map_err(|refusal| match refusal {
            Refusal::Malformed(reason) => reason,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn without_wishes_it_is_the_main_session_in_text() {
        let wish = Wish { session: SessionName::main(), size: None, binary: false, lines: false };
        assert_eq!(parse(&[]), Ok(wish.clone()));
        assert_eq!(parse(&[("frames", "text"), ("input", "keys"), ("session", "main")]), Ok(wish));
    }

    #[test]
    fn wishes_are_taken() {
        let wish = parse(&[("session", "a_B-1"), ("cols", "100"), ("frames", "binary"), ("input", "line")]).unwrap();
        assert_eq!((wish.session.as_str(), wish.binary, wish.lines), ("a_B-1", true, true));
        assert_eq!(wish.size, Some(Size { cols: 100, rows: 24 }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, says) in [
            ("colums", "80", "unknown query key `colums`; known are session, cols"),
            ("cols", "", "cols must be a number"),
            ("cols", "-1", "cols must be a number"),
            ("cols", "65536", "cols must be a number"),
            ("rows", "0", "1 to 2000"),
            ("cols", "2001", "1 to 2000"),
            ("frames", "Binary", "frames must be text or binary"),
            ("input", "lines", "input must be keys or line"),
            ("session", "a b", "session \"a b\": a name is"),
            ("session", "", "a name is"),
        ] {
            let reason = parse(&[(key, value)]).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
        assert_eq!(parse(&[("cols", "80"), ("cols", "80")]), Err("query key `cols` comes twice".to_owned()));
    }
}
