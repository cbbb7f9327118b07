//! What proxies say of the clients behind them, and who of them is believed: those whose addresses the configuration names,
//! and nobody else. [`forwarded`] reads their headers, [`preface`] what the PROXY protocol puts before a connection.
//!
//! What is said makes a client's address for logs, and the host that a page's origin is compared with. It opens no door:
//! the token does.

mod forwarded;
pub(crate) mod preface;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Once};

use http::HeaderMap;
use ipnet::IpNet;
use tokio::net::TcpStream;

use crate::config::Config;

/// Which proxies are believed.
#[derive(Clone)]
pub(crate) struct Proxies(Arc<Inner>);

struct Inner {
    trusted: Vec<IpNet>,
    /// Whether each connection begins with who is behind it.
    preface: bool,
    /// Those who aren't believed are complained of once: it is a slip of the configuration's, or anybody's play.
    complained: Once,
}

/// Who asks and how, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Whom the request is from.
    pub(crate) client: Client,
    /// Whom the connection is from.
    pub(crate) peer: SocketAddr,
    /// Whether that is a proxy which is believed.
    pub(crate) trusted: bool,
    /// Whether it came by TLS, to here or to a proxy.
    pub(crate) secure: bool,
    /// The host that it was sent to, if a proxy says so.
    pub(crate) host: Option<String>,
}

/// A client's address; port 0 is one that isn't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client(pub(crate) SocketAddr);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == 0 { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

impl Proxies {
    /// Those that a configuration names.
    pub(crate) fn new(config: &Config) -> Self {
        let (trusted, preface) = (config.trusted_proxies.clone(), config.proxy_protocol);
        Self(Arc::new(Inner { trusted, preface, complained: Once::new() }))
    }

    /// Whether what comes from an address is a proxy's word.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        // An IPv6 socket has IPv4 addresses in a form of its own.
        let address = address.to_canonical();
        self.0.trusted.iter().any(|network| network.contains(&address))
    }

    /// Who is behind a connection that was just accepted; who calls bounds the time.
    pub(crate) async fn behind(&self, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
        if !self.0.preface {
            return Ok(peer);
        }
        if !self.trusts(peer.ip()) {
            self.complain(peer, "a connection");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "none of the trusted_proxies"));
        }
        Ok(preface::read(stream).await?.unwrap_or(peer))
    }

    /// Who sends a request that came from `peer`.
    pub(crate) fn caller(&self, headers: &HeaderMap, peer: SocketAddr, secure: bool) -> Caller {
        let trusted = self.trusts(peer.ip());
        let mut caller = Caller { client: Client(peer), peer, trusted, secure, host: None };
        if !trusted {
            // Behind a preface it is the client's own word, or its proxy's beside the preface.
            if !self.0.preface && forwarded::is_said(headers) {
                self.complain(peer, "a header");
            }
            return caller;
        }
        let said = forwarded::read(headers);
        for hop in said.hops.into_iter().rev() {
            // What stands before the word of one who isn't trusted, that one may have written.
            let Some(hop) = hop.filter(|_| self.trusts(caller.client.0.ip())) else { break };
            caller.client = Client(hop);
        }
        caller.secure |= said.secure;
        caller.host = said.host;
        caller
    }

    fn complain(&self, peer: SocketAddr, what: &str) {
        self.0.complained.call_once(|| {
            tracing::warn!(
                "{what} from {} says who is behind it, and isn't believed: if that is a proxy of yours, name it in \
                 trusted_proxies (this is said once)",
                peer.ip().to_canonical()
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is taken for the caller of a request from `peer`, with 10.0.0.0/8 and ::1 trusted.
    fn caller(peer: &str, headers: &[(&'static str, &str)]) -> Caller {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let proxies = Proxies::new(&Config { trusted_proxies, ..Config::default() });
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        proxies.caller(&headers, peer.parse().unwrap(), false)
    }

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        caller(peer, headers).client.to_string()
    }

    #[test]
    fn nothing_is_believed_of_who_isnt_trusted() {
        for header in ["x-forwarded-for", "forwarded"] {
            for value in ["1.2.3.4", "for=1.2.3.4;host=evil.example;proto=https", "10.0.0.1"] {
                let caller = caller("192.0.2.1:7", &[(header, value), ("x-forwarded-host", "evil.example")]);
                let peer = "192.0.2.1:7".parse().unwrap();
                let direct = Caller { client: Client(peer), peer, trusted: false, secure: false, host: None };
                assert_eq!(caller, direct, "{header}: {value}");
            }
        }
    }

    #[test]
    fn the_client_is_the_last_that_no_proxy_of_ours_is() {
        for (value, expected) in [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4, 10.1.1.1", "1.2.3.4"),
            // The first was written by the client itself.
            ("9.9.9.9, 1.2.3.4, 10.1.1.1", "1.2.3.4"),
            ("10.9.9.9, 1.2.3.4", "1.2.3.4"),
            ("10.9.9.9, 10.1.1.1", "10.9.9.9"),
            ("9.9.9.9, unknown, 10.1.1.1", "10.1.1.1"),
            ("9.9.9.9, rubbish", "10.0.0.1:7"),
            ("", "10.0.0.1:7"),
            ("1.2.3.4:99", "1.2.3.4:99"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(client("10.0.0.1:7", &[("x-forwarded-for", value)]), expected, "{value}");
            assert_eq!(client("[::ffff:10.0.0.1]:7", &[("x-forwarded-for", "1.2.3.4")]), "1.2.3.4");
        }
        assert_eq!(
            client("10.0.0.1:7", &[("forwarded", "for=9.9.9.9, for=\"[2001:db8::7]:4711\"")]),
            "[2001:db8::7]:4711"
        );
    }

    #[test]
    fn the_host_and_tls_are_the_nearest_proxys_word() {
        let behind = caller("[::1]:7", &[("x-forwarded-host", "a.example, b.example"), ("x-forwarded-proto", "https")]);
        assert_eq!((behind.host.as_deref(), behind.secure), (Some("b.example"), true));
        let behind =
            caller("[::1]:7", &[("forwarded", "host=a.example;proto=https, for=1.2.3.4;host=\"b.example:8443\"")]);
        assert_eq!((behind.host.as_deref(), behind.secure), (Some("b.example:8443"), false));
        let behind = caller("[::1]:7", &[("x-forwarded-host", "no host"), ("x-forwarded-proto", "http")]);
        assert_eq!((behind.host, behind.secure), (None, false));
    }

    #[test]
    fn one_family_of_headers_counts() {
        let both = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(client("10.0.0.1:7", &both), "1.2.3.4");
    }
}
