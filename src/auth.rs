//! Who may ask: the owner's token, the page a browser asks from, and the name it asks by. What the server counts may also be
//! asked with a token that opens nothing else.
//!
//! A browser sends requests on behalf of any page, but no page knows the token; origin and host are checked besides, so
//! that a token that leaked into a page is no use there. It doesn't know what is asked for.

use http::header::{self, HeaderMap};
use http::uri::Authority;

use crate::config::Config;
use crate::proxy::Caller;

/// What has to be true of a request before anything is done for it.
#[derive(Debug)]
pub(crate) struct Auth {
    token: Secret,
    metrics_token: Option<Secret>,
    allowed_origins: Vec<String>,
    /// Whether only this machine can connect; then a foreign host name is a page's trick (DNS rebinding).
    loopback: bool,
}

/// Proof that a request was admitted: what acts for a client asks for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted(());

/// Why a request isn't admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No token, or a wrong one.
    Token(&'static str),
    /// A page of another origin.
    Origin(String),
    /// A host name that isn't this server's.
    Host(String),
}

/// A token that isn't printed.
struct Secret(String);

impl Auth {
    /// Admits who knows `token`, to a server that listens where the configuration says.
    pub(crate) fn new(token: String, config: &Config) -> Self {
        let allowed_origins = config.allowed_origins.clone();
        let loopback = config.listen.ip().is_loopback();
        Self { token: Secret(token), metrics_token: None, allowed_origins, loopback }
    }

    /// The same with a token for what the server counts.
    pub(crate) fn with_metrics_token(self, token: Option<String>) -> Self {
        Self { metrics_token: token.map(Secret), ..self }
    }

    /// Checks a request's head and the token of its query, if it has one. A request that came by TLS comes from a page that did.
    pub(crate) fn admit(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        query_token: Option<&str>,
    ) -> Result<Admitted, Denied> {
        let token = self.presented(headers, caller, query_token)?;
        if !self.token.is(token) {
            return Err(Denied::Token("the token is wrong"));
        }
        Ok(Admitted(()))
    }

    /// Checks who asks for what the server counts: the owner, or who has the token for it. That admits to nothing else.
    pub(crate) fn admit_to_metrics(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        query_token: Option<&str>,
    ) -> Result<(), Denied> {
        let token = self.presented(headers, caller, query_token)?;
        let known = [Some(&self.token), self.metrics_token.as_ref()];
        // Both are compared, so that the time says nothing of which one it is.
        if !known.into_iter().flatten().fold(false, |right, secret| secret.is(token) | right) {
            return Err(Denied::Token("the token is neither the owner's nor that of metrics_token_file"));
        }
        Ok(())
    }

    /// The token of a request that comes from where it may.
    fn presented<'a>(
        &self,
        headers: &'a HeaderMap,
        caller: &Caller,
        query_token: Option<&'a str>,
    ) -> Result<&'a str, Denied> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("(not ASCII)"));
        let host = text(header::HOST).unwrap_or_default();
        if self.loopback && !self.is_our_name(host) {
            return Err(Denied::Host(host.to_owned()));
        }
        if let Some(origin) = text(header::ORIGIN)
            // The page's address is the proxy's, who may have asked here by another.
            && !(is_same_host(origin, caller.host.as_deref().unwrap_or(host)) && (!caller.secure || is_https(origin)))
            && !self.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
        {
            return Err(Denied::Origin(origin.to_owned()));
        }
        let bearer = text(header::AUTHORIZATION).and_then(bearer);
        bearer.or(query_token).ok_or(Denied::Token("a token is needed"))
    }

    /// Names by which a client on this machine, or a proxy before it, calls a server that listens on loopback.
    fn is_our_name(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        name == "localhost"
            || name.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
            || self.allowed_origins.iter().any(|origin| is_same_host(origin, host))
    }
}

/// Whether an origin is of the host that a request names: the server's own page, also behind a proxy that speaks TLS.
fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let default = if is_https(origin) { 443 } else { 80 };
    let split = |authority: &str| {
        let authority = authority.parse::<Authority>().ok()?;
        Some((authority.host().to_ascii_lowercase(), authority.port_u16().unwrap_or(default)))
    };
    split(authority).is_some_and(|origin| split(host) == Some(origin))
}

fn is_https(origin: &str) -> bool {
    origin.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

/// The token of an `Authorization: Bearer` header.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Secret {
    /// Compares in a time that depends on the length alone.
    fn is(&self, token: &str) -> bool {
        let differences = self.0.bytes().zip(token.bytes()).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        std::hint::black_box(differences) == 0 && self.0.len() == token.len()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Client;

    fn admit(listen: &str, headers: &[(&'static str, &str)], query_token: Option<&str>) -> Result<(), Denied> {
        let allowed_origins = vec!["https://ide.example.org".to_owned()];
        let config = Config { listen: listen.parse().unwrap(), allowed_origins, ..Config::default() };
        let auth = Auth::new("right".to_owned(), &config);
        let peer = listen.parse().unwrap();
        let caller = Caller { client: Client(peer), peer, trusted: false, secure: false, host: None };
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        auth.admit(&headers, &caller, query_token).map(|Admitted(())| ())
    }

    #[test]
    fn the_token_for_metrics_opens_nothing_else() {
        let auth = Auth::new("right".to_owned(), &Config::default());
        let peer = "127.0.0.1:9".parse().unwrap();
        let caller = Caller { client: Client(peer), peer, trusted: false, secure: false, host: None };
        let headers = |token: &str| {
            [("host", "localhost"), ("authorization", &format!("Bearer {token}"))]
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .into_iter()
                .collect::<HeaderMap>()
        };
        let admitted = |auth: &Auth, token: &str| auth.admit_to_metrics(&headers(token), &caller, None).is_ok();
        assert!(admitted(&auth, "right") && !admitted(&auth, "metrics") && !admitted(&auth, ""));
        let auth = auth.with_metrics_token(Some("metrics".to_owned()));
        assert!(admitted(&auth, "right") && admitted(&auth, "metrics"));
        assert!(!admitted(&auth, "metric") && !admitted(&auth, "rightmetrics") && !admitted(&auth, ""));
        assert!(
            auth.admit(&headers("metrics"), &caller, None).is_err()
                && auth.admit(&headers("right"), &caller, None).is_ok()
        );
        assert!(auth.admit_to_metrics(&HeaderMap::new(), &caller, Some("metrics")).is_err(), "no host");
    }

    const LOOPBACK: &str = "127.0.0.1:8000";
    const HOST: (&str, &str) = ("host", "localhost:8000");

    #[test]
    fn the_token_comes_as_header_or_in_the_query() {
        for scheme in ["Bearer", "bearer", "BEARER "] {
            assert_eq!(admit(LOOPBACK, &[HOST, ("authorization", &format!("{scheme} right"))], None), Ok(()));
        }
        assert_eq!(admit(LOOPBACK, &[HOST], Some("right")), Ok(()));
        for (headers, query) in [
            (vec![HOST], None),
            (vec![HOST], Some("")),
            (vec![HOST], Some("wrong")),
            (vec![HOST], Some("righ")),
            (vec![HOST], Some("right ")),
            (vec![HOST, ("authorization", "Basic right")], None),
            (vec![HOST, ("authorization", "right")], None),
            (vec![HOST, ("authorization", "Bearer wrong")], Some("right")),
        ] {
            assert!(matches!(admit(LOOPBACK, &headers, query), Err(Denied::Token(_))), "{headers:?} {query:?}");
        }
    }

    #[test]
    fn a_page_must_be_of_this_host_or_allowed() {
        let from = |origin: &str, host: &str| admit("0.0.0.0:80", &[("host", host), ("origin", origin)], Some("right"));
        for (origin, host) in [
            ("http://localhost:8000", "localhost:8000"),
            ("http://LOCALHOST:8000", "localhost:8000"),
            ("https://cell.example.org", "cell.example.org"),
            ("https://cell.example.org", "cell.example.org:443"),
            ("http://[::1]:8000", "[::1]:8000"),
            ("https://ide.example.org", "inner:8000"),
        ] {
            assert_eq!(from(origin, host), Ok(()), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://evil.example", "localhost:8000"),
            ("http://localhost:8001", "localhost:8000"),
            ("http://localhost", "localhost:8000"),
            ("null", "localhost:8000"),
            ("", "localhost:8000"),
            ("http://localhost:8000.evil.example", "localhost:8000"),
        ] {
            assert_eq!(from(origin, host), Err(Denied::Origin(origin.to_owned())), "{origin} {host}");
        }
    }

    #[test]
    fn on_loopback_a_foreign_host_name_is_refused() {
        let by = |listen: &str, host: &str| admit(listen, &[("host", host)], Some("right"));
        for host in ["localhost", "localhost:8000", "demo.localhost", "127.0.0.1:8000", "[::1]:1", "ide.example.org"] {
            assert_eq!(by(LOOPBACK, host), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "a b", "127.0.0.1.evil.example"] {
            assert_eq!(by(LOOPBACK, host), Err(Denied::Host(host.to_owned())), "{host}");
            assert_eq!(by("[::1]:8000", host), Err(Denied::Host(host.to_owned())), "{host}");
        }
        assert_eq!(by("0.0.0.0:8000", "anything.example"), Ok(()));
    }
}
