//! The headers by which proxies pass on who asked: `X-Forwarded-For`, `-Proto` and `-Host`, or `Forwarded` (RFC 7239). It
//! doesn't know whom to believe.
//!
//! `Forwarded` is looked at only where none of the others is: most proxies set those and pass this one on as it came, from
//! anybody.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::FORWARDED;
use http::uri::Authority;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";

/// What is said of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Who each proxy says that it was asked by, the nearest proxy's word last; `None` where it means nothing.
    pub(super) hops: Vec<Option<SocketAddr>>,
    /// The nearest proxy was asked by TLS.
    pub(super) secure: bool,
    /// The host that the nearest proxy was asked for.
    pub(super) host: Option<String>,
}

/// Whether anything is said.
pub(super) fn is_said(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED) || is_said_by_usage(headers)
}

fn is_said_by_usage(headers: &HeaderMap) -> bool {
    [FOR, PROTO, HOST].iter().any(|name| headers.contains_key(*name))
}

/// Takes in what is said.
pub(super) fn read(headers: &HeaderMap) -> Said {
    if is_said_by_usage(headers) { by_usage(headers) } else { by_rfc(headers) }
}

fn by_usage(headers: &HeaderMap) -> Said {
    let last = |name| texts(headers, name).pop().and_then(|text| Some(text.rsplit(',').next()?.trim().to_owned()));
    Said {
        hops: texts(headers, FOR).iter().flat_map(|text| text.split(',')).map(node).collect(),
        secure: last(PROTO).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: last(HOST).and_then(|text| host(&text)),
    }
}

fn by_rfc(headers: &HeaderMap) -> Said {
    let mut said = Said::default();
    // A quote that never ends would take in what the next proxy has put behind it: such a value means nothing.
    let values = texts(headers, FORWARDED.as_str());
    let values = values.iter().map(|text| if quotes_end(text) { text.as_str() } else { "" });
    for element in values.flat_map(|text| split(text, ',')) {
        let pairs: Vec<_> = split(element, ';').filter_map(|pair| pair.split_once('=')).collect();
        let value =
            |name| pairs.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, text)| unquote(text));
        said.hops.push(value("for").as_deref().and_then(node));
        said.secure = value("proto").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        said.host = value("host").as_deref().and_then(host);
    }
    said
}

/// A header's values. What isn't UTF-8 in them means nothing, and leaves the rest what it is: a proxy may have put that behind.
fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

/// Where in a text quotes are open, character by character (RFC 9110 section 5.6.4).
#[derive(Clone, Copy, Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, character: char) {
        let escapes = character == '\\' && self.open && !self.escaped;
        self.open ^= character == '"' && !self.escaped;
        self.escaped = escapes;
    }
}

fn quotes_end(text: &str) -> bool {
    let mut quotes = Quotes::default();
    text.chars().for_each(|character| quotes.pass(character));
    !quotes.open
}

/// Splits at a character that stands in no quotes.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quotes = Quotes::default();
    text.split(move |character| {
        let ends = character == at && !quotes.open;
        quotes.pass(character);
        ends
    })
}

/// A token as it stands, or what a quoted string means.
fn unquote(text: &str) -> String {
    let text = text.trim();
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    let mut escaped = false;
    let kept = inner.chars().filter(|character| {
        escaped = *character == '\\' && !escaped;
        !escaped
    });
    kept.collect()
}

/// An address, perhaps with a port; brackets around IPv6 may be left out where there is none.
fn node(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0));
    let address = address.or_else(|_| text.parse::<SocketAddr>()).ok().or_else(|| {
        let name = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?.0,
            // The port may be a word (RFC 7239 section 6.2).
            None => text.split_once(":_")?.0,
        };
        Some(SocketAddr::new(name.parse().ok()?, 0))
    })?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// A host, perhaps with a port, as `Host` has it.
fn host(text: &str) -> Option<String> {
    let authority = text.parse::<Authority>().ok()?;
    (!authority.as_str().contains('@')).then(|| authority.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(value: &str) -> Said {
        read(&HeaderMap::from_iter([(FORWARDED, value.parse().unwrap())]))
    }

    #[test]
    fn the_rfcs_own_examples_are_understood() {
        let hops =
            |value| forwarded(value).hops.into_iter().map(|hop| hop.map(|hop| hop.to_string())).collect::<Vec<_>>();
        let some = |texts: &[&str]| texts.iter().map(|text| Some((*text).to_owned())).collect::<Vec<_>>();
        assert_eq!(hops("for=\"_gazonk\""), [None]);
        assert_eq!(hops("For=\"[2001:db8:cafe::17]:4711\""), some(&["[2001:db8:cafe::17]:4711"]));
        assert_eq!(hops("for=192.0.2.60;proto=http;by=203.0.113.43"), some(&["192.0.2.60:0"]));
        assert_eq!(hops("for=192.0.2.43, for=198.51.100.17"), some(&["192.0.2.43:0", "198.51.100.17:0"]));
        assert_eq!(
            hops("for=\"192.0.2.43:_hidden\",for=unknown"),
            [Some("192.0.2.43:0".parse().map(|hop: SocketAddr| hop.to_string()).unwrap()), None]
        );
    }

    #[test]
    fn quotes_hide_what_separates() {
        let said = forwarded(r#"for="1.2.3.4, for=6.6.6.6;host=x";host="a\.example";proto=HTTPS"#);
        assert_eq!(said, Said { hops: vec![None], secure: true, host: Some("a.example".to_owned()) });
        for open in [r#"for="1.2.3.4\", for=6.6.6.6"#, r#"for=6.6.6.6;x=", for=1.2.3.4"#] {
            assert_eq!(forwarded(open).hops, [None], "a quote that never ends");
        }
    }

    #[test]
    fn hosts_hold_no_user_and_no_path() {
        for text in ["u@a.example", "a.example/x", "", "a b"] {
            assert_eq!(host(text), None, "{text}");
        }
        assert_eq!(host("[::1]:8443").as_deref(), Some("[::1]:8443"));
    }
}
