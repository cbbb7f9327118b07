//! What a client, or a proxy that passes its words on, says of who asks: prefaces of the PROXY protocol, and headers.

use std::net::SocketAddr;

use futures_util::FutureExt;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};

use crate::config::Config;
use crate::proxy::{Caller, Client, Proxies, preface};

/// Longest preface that is read, in bytes.
const PREFACE_BYTES_MAX: usize = 2048;

const HEADERS: [&str; 4] = ["x-forwarded-for", "forwarded", "x-forwarded-host", "x-forwarded-proto"];

/// Who the last proxy says that it was asked by.
const HONEST: &str = "192.0.2.7";

pub(crate) fn proxies(bytes: &[u8]) {
    preface(bytes);
    let trusted_proxies = vec!["10.0.0.0/8".parse().expect("a network")];
    let proxies = Proxies::new(&Config { trusted_proxies, ..Config::default() });
    let [stranger, proxy] =
        ["198.51.100.1:9", "10.0.0.1:9"].map(|text| text.parse::<SocketAddr>().expect("an address"));
    let headers = headers(bytes);
    let direct = Caller { client: Client(stranger), peer: stranger, trusted: false, secure: false, host: None };
    assert_eq!(proxies.caller(&headers, stranger, false), direct);

    let caller = proxies.caller(&headers, proxy, false);
    let host = caller.host.map(|host| host.parse::<Authority>().expect("a host"));
    assert!(host.is_none_or(|host| !host.as_str().contains('@')));

    let client = |headers: &HeaderMap| proxies.caller(headers, proxy, false).client.to_string();
    assert_eq!(client(&behind(&headers, "x-forwarded-for", HONEST)), HONEST);
    assert_eq!(client(&beside(&headers, "x-forwarded-for", HONEST)), HONEST);
    if HEADERS.iter().all(|name| *name == "forwarded" || !headers.contains_key(*name)) {
        let honest = format!("for={HONEST}");
        assert_eq!(client(&beside(&headers, "forwarded", &honest)), HONEST);
        // Behind a quote that never ends nothing can be said.
        let behind = client(&behind(&headers, "forwarded", &honest));
        assert!(behind == HONEST || behind == proxy.to_string(), "{behind}");
    }
}

fn preface(bytes: &[u8]) {
    let mut rest = bytes;
    let read = preface::read(&mut rest).now_or_never().expect("bytes are there or not");
    assert!(bytes.len() - rest.len() <= PREFACE_BYTES_MAX);
    if let Ok(Some(client)) = read {
        assert_eq!(client.ip(), client.ip().to_canonical());
    }
}

/// A header a line: its first byte says which.
fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        let Some((kind, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(HEADERS[usize::from(*kind) % HEADERS.len()], value);
    }
    headers
}

/// What a proxy makes of headers that appends to the last of a name.
fn behind(headers: &HeaderMap, name: &'static str, honest: &str) -> HeaderMap {
    let mut values: Vec<_> = headers.get_all(name).iter().cloned().collect();
    let last = values.pop().map(|last| [last.as_bytes(), b", ", honest.as_bytes()].concat());
    values.push(HeaderValue::from_bytes(&last.unwrap_or_else(|| honest.into())).expect("a value"));
    let mut headers = headers.clone();
    headers.remove(name);
    headers.extend(values.into_iter().map(|value| (http::HeaderName::from_static(name), value)));
    headers
}

/// What a proxy makes of headers that appends another of the name.
fn beside(headers: &HeaderMap, name: &'static str, honest: &str) -> HeaderMap {
    let mut headers = headers.clone();
    headers.append(name, honest.parse().expect("a value"));
    headers
}
