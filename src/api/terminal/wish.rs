//! What a client with one session wishes of its terminal, by the subprotocol and the query. It knows the keys, not what
//! becomes of them.

use sandbox::control::{SessionName, Size};

use super::alis::{self, Alis};
use super::dialect::Dialect;
use super::kubernetes::{self, Kubernetes};
use super::plain::Plain;
use super::ttyd::{self, Ttyd};
use crate::api::Query;
use crate::api::reject::{Refusal, Result};
use crate::api::sessions::session_name;
use crate::wire::Role;

/// The subprotocols of one session.
pub(super) const PROTOCOLS: [&str; 3] = [ttyd::PROTOCOL, kubernetes::PROTOCOL, alis::PROTOCOL];

/// What a client wishes.
pub(super) struct Wish {
    /// `None` is one of the client's own, which ends with it.
    pub(super) session: Option<SessionName>,
    pub(super) size: Option<Size>,
    /// What to run in a new session; empty is the shell.
    pub(super) command: Vec<String>,
    pub(super) role: Role,
    pub(super) dialect: Box<dyn Dialect>,
}

impl Wish {
    /// Without a subprotocol.
    pub(super) fn plain(query: &Query) -> Result<Self> {
        let [session, cols, rows, frames, input] = once(query, ["session", "cols", "rows", "frames", "input"])?;
        let Size { cols: usual_cols, rows: usual_rows } = Size::DEFAULT;
        let some = cols.or(rows).is_some();
        let asked = size(number("cols", cols, usual_cols)?, number("rows", rows, usual_rows)?)?;
        let binary = either("frames", frames, ["text", "binary"])?;
        let lines = either("input", input, ["keys", "line"])?;
        let dialect = Box::new(Plain::new(binary, lines));
        Ok(Self { size: some.then_some(asked), ..Self::of(session, Role::Writer, dialect)? })
    }

    /// With one of [`PROTOCOLS`].
    pub(super) fn with(subprotocol: &str, query: &Query, project: &str) -> Result<Self> {
        match subprotocol {
            ttyd::PROTOCOL => {
                let [session] = once(query, ["session"])?;
                Self::of(session, Role::Writer, Box::new(Ttyd::new(project.to_owned())))
            }
            alis::PROTOCOL => {
                let [session] = once(query, ["session"])?;
                Self::of(session, Role::Viewer, Box::new(Alis::new()))
            }
            _ => Self::exec(query),
        }
    }

    /// A session by its name, as it is.
    fn of(session: Option<&str>, role: Role, dialect: Box<dyn Dialect>) -> Result<Self> {
        Ok(Self { session: Some(name(session)?), size: None, command: Vec::new(), role, dialect })
    }

    /// What `kubectl exec` asks for.
    fn exec(query: &Query) -> Result<Self> {
        let (command, rest): (Query, Query) = query.iter().cloned().partition(|(key, _)| key == "command");
        let command: Vec<String> = command.into_iter().map(|(_, word)| word).collect();
        let [session, tty, stdin, stdout, stderr, _container] =
            once(&rest, ["session", "tty", "stdin", "stdout", "stderr", "container"])?;
        for (key, value) in [("stdin", stdin), ("stdout", stdout), ("stderr", stderr)] {
            truth(key, value)?;
        }
        if !truth("tty", tty)? {
            return Err(Refusal::Malformed("tty must be true: a session has a terminal".to_owned()));
        }
        if session.is_some() && !command.is_empty() {
            return Err(Refusal::Malformed("session and command exclude each other".to_owned()));
        }
        let shared = command.is_empty();
        let wish = Self::of(session, Role::Writer, Box::new(Kubernetes))?;
        Ok(Self { session: wish.session.filter(|_| shared), command, ..wish })
    }

    /// Refuses wishes where a subprotocol has other ways to say them.
    pub(super) fn none(query: &Query) -> Result<()> {
        let [] = once(query, [])?;
        Ok(())
    }
}

/// The values of the keys that are known, each of which may come once.
fn once<'a, const COUNT: usize>(query: &'a Query, keys: [&str; COUNT]) -> Result<[Option<&'a str>; COUNT]> {
    let mut values = [None; COUNT];
    for (key, value) in query {
        let Some(at) = keys.iter().position(|known| known == key) else {
            let known: String = keys.iter().map(|known| format!("{known}, ")).collect();
            return Err(Refusal::Malformed(format!("unknown query key `{key}`; known are {known}token")));
        };
        if values[at].replace(value.as_str()).is_some() {
            return Err(Refusal::Malformed(format!("query key `{key}` comes twice")));
        }
    }
    Ok(values)
}

fn number(name: &str, value: Option<&str>, default: u16) -> Result<u16> {
    match value.map(str::parse::<u16>) {
        None => Ok(default),
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => Err(Refusal::Malformed(format!("{name} must be a number, is {value:?}"))),
    }
}

/// Whether a value is the second of two; the first is what it is without one.
fn either(name: &str, value: Option<&str>, [first, second]: [&str; 2]) -> Result<bool> {
    match value {
        None => Ok(false),
        Some(value) if value == first => Ok(false),
        Some(value) if value == second => Ok(true),
        Some(other) => Err(Refusal::Malformed(format!("{name} must be {first} or {second}, is {other:?}"))),
    }
}

/// A truth value as Kubernetes writes them.
fn truth(name: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(other) => Err(Refusal::Malformed(format!("{name} must be true or false, is {other:?}"))),
    }
}

fn name(session: Option<&str>) -> Result<SessionName> {
    session.map_or_else(|| Ok(SessionName::main()), session_name)
}

/// A terminal's size as a client gave it.
pub(in crate::api) fn size(cols: u16, rows: u16) -> Result<Size> {
    let size = Size { cols, rows };
    if size == size.clamped() {
        Ok(size)
    } else {
        Err(Refusal::Malformed("cols and rows must be 1 to 2000, and their product at most 200000".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(query: &[(&str, &str)]) -> Query {
        query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn reason<T>(refused: Result<T>) -> String {
        match refused.err().expect("it is refused") {
            Refusal::Malformed(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_wishes_it_is_the_main_session() {
        for asked in [&[][..], &[("frames", "text"), ("input", "keys"), ("session", "main")]] {
            let wish = Wish::plain(&query(asked)).unwrap();
            assert_eq!((wish.session, wish.size), (Some(SessionName::main()), None));
        }
    }

    #[test]
    fn wishes_are_taken() {
        let wish = Wish::plain(&query(&[("session", "a_B-1"), ("cols", "100")])).unwrap();
        assert_eq!(wish.session.unwrap().as_str(), "a_B-1");
        assert_eq!(wish.size, Some(Size { cols: 100, rows: 24 }));
        let wish = Wish::with("tty", &query(&[("session", "x")]), "demo").unwrap();
        assert_eq!((wish.session.unwrap().as_str(), wish.role), ("x", Role::Writer));
        assert_eq!(Wish::with("v1.alis", &query(&[]), "demo").unwrap().role, Role::Viewer);
        let exec = [("command", "echo"), ("command", "a b"), ("tty", "true"), ("stdin", "1"), ("container", "c")];
        let wish = Wish::with("v5.channel.k8s.io", &query(&exec), "demo").unwrap();
        assert_eq!((wish.session, wish.command), (None, vec!["echo".to_owned(), "a b".to_owned()]));
        let wish = Wish::with("v5.channel.k8s.io", &query(&[("tty", "true")]), "demo").unwrap();
        assert_eq!(wish.session, Some(SessionName::main()));
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
            let reason = reason(Wish::plain(&query(&[(key, value)])));
            assert!(reason.contains(says), "{reason}");
        }
        let twice = Wish::plain(&query(&[("cols", "80"), ("cols", "80")]));
        assert_eq!(reason(twice), "query key `cols` comes twice");
        let exec = |asked| reason(Wish::with("v5.channel.k8s.io", &query(asked), "demo"));
        assert!(exec(&[("command", "ls")]).contains("tty must be true"));
        assert!(exec(&[("tty", "yes")]).contains("tty must be true or false"));
        assert!(exec(&[("tty", "1"), ("command", "ls"), ("session", "x")]).contains("exclude each other"));
        assert_eq!(reason(Wish::none(&query(&[("cols", "80")]))), "unknown query key `cols`; known are token");
    }
}
