//! Whether a request asks for a WebSocket, and the answer that begins it (RFC 6455 section 4.2).

use http::header::{self, HeaderMap, HeaderName};
use http::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The protocol's only version.
const VERSION: &str = "13";

/// A request that may be upgraded.
#[derive(Debug)]
pub(crate) struct Handshake {
    accept: String,
}

/// Why a request can't be upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotUpgradable {
    /// It doesn't ask for a WebSocket, or for another version.
    Upgrade(&'static str),
    /// It asks for one in a wrong way.
    Malformed(&'static str),
}

impl Handshake {
    /// Checks the request's head.
    pub(crate) fn check(headers: &HeaderMap) -> Result<Self, NotUpgradable> {
        if !has_token(headers, header::UPGRADE, "websocket") || !has_token(headers, header::CONNECTION, "upgrade") {
            return Err(NotUpgradable::Upgrade("this address speaks WebSocket: connect with a WebSocket client"));
        }
        let version = headers.get(header::SEC_WEBSOCKET_VERSION);
        if version.is_none_or(|version| version != VERSION) {
            return Err(NotUpgradable::Upgrade("only version 13 of WebSocket is spoken here"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], |key| key.as_bytes());
        if !is_key(key) {
            return Err(NotUpgradable::Malformed("sec-websocket-key must be 16 bytes in base64"));
        }
        Ok(Self { accept: derive_accept_key(key) })
    }

    /// The first of the subprotocols that a client offers which is `known`.
    pub(crate) fn choose(headers: &HeaderMap, known: &[&'static str]) -> Option<&'static str> {
        let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
        lists
            .flat_map(|list| list.split(','))
            .find_map(|offered| known.iter().find(|name| **name == offered.trim()))
            .copied()
    }

    /// The answer that switches protocols, to a subprotocol if one was chosen.
    pub(crate) fn response<B: Default>(self, subprotocol: Option<&'static str>) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        if let Some(name) = subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(name));
        }
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept.parse().expect("base64 is a header value"));
        response
    }
}

/// Whether a header, which may come several times and hold a list, has this element; letter case doesn't matter.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|element| element.trim().eq_ignore_ascii_case(token))
}

/// 16 bytes in base64: 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(digit) && key.ends_with(b"==")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A right request with `name` set to `value`, or without it.
    fn with(name: &'static str, value: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        match value {
            Some(value) => headers.insert(name, value.parse().unwrap()),
            None => headers.remove(name),
        };
        headers
    }

    #[test]
    fn the_rfcs_own_example_is_accepted() {
        let response: Response<()> = Handshake::check(&with("upgrade", Some("WebSocket"))).unwrap().response(None);
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!response.headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn the_first_subprotocol_that_is_known_is_chosen() {
        for (offered, chosen) in [("a, b", Some("b")), ("c,b", Some("c")), ("B", None), ("", None)] {
            let headers = with("sec-websocket-protocol", Some(offered));
            assert_eq!(Handshake::choose(&headers, &["b", "c"]), chosen, "{offered}");
        }
        let response: Response<()> = Handshake::check(&with("upgrade", Some("websocket"))).unwrap().response(Some("b"));
        assert_eq!(response.headers()["sec-websocket-protocol"], "b");
    }

    #[test]
    fn other_requests_are_told_what_is_wrong() {
        let check = |name, value| Handshake::check(&with(name, value)).unwrap_err();
        for (name, value) in [
            ("upgrade", None),
            ("upgrade", Some("h2c")),
            ("connection", None),
            ("connection", Some("close")),
            ("sec-websocket-version", None),
            ("sec-websocket-version", Some("8")),
        ] {
            assert!(matches!(check(name, value), NotUpgradable::Upgrade(_)), "{name}: {value:?}");
        }
        for value in [None, Some("short"), Some("dGhlIHNhbXBsZSBub25jZQ=!"), Some("dGhlIHNhbXBsZSBub25jZSB4")] {
            assert!(matches!(check("sec-websocket-key", value), NotUpgradable::Malformed(_)), "{value:?}");
        }
    }
}
