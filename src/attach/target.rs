//! What to attach to: a project's terminals on a server, and the token that opens them.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandbox::spec::ProjectId;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::end::Failure;
use crate::wire::PROTOCOL;

/// Longest wait for a server to take a connection, or to answer: beyond it, it is as good as down.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest text of a refusal in bytes, many times what the server sends.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The terminals of a project on a server.
pub(super) struct Target {
    authority: String,
    host: String,
    port: u16,
    prefix: String,
    project: ProjectId,
    bearer: HeaderValue,
}

impl Target {
    /// Puts it together from the server's address, as `http://host:port`, and a project.
    pub(super) fn new(url: &str, project: ProjectId, token: &str) -> anyhow::Result<Self> {
        let uri: Uri =
            url.parse().with_context(|| format!("--url: `{url}` is no address such as http://127.0.0.1:8000"))?;
        match uri.scheme_str() {
            Some("http" | "ws") => {}
            Some("https" | "wss") => bail!("--url: TLS is not spoken; reach the server through `ssh -L` and http://"),
            _ => bail!("--url: must begin with http://, is `{url}`"),
        }
        let authority = uri.authority().context("--url: names no host")?;
        ensure!(!authority.as_str().contains('@'), "--url: must not hold a user name; give the token by --token");
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .ok()
            .context("--token: has characters that no token has")?;
        bearer.set_sensitive(true);
        Ok(Self {
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            project,
            bearer,
        })
    }

    /// The server, for messages.
    pub(super) fn server(&self) -> &str {
        &self.authority
    }

    /// The project.
    pub(super) fn project(&self) -> &ProjectId {
        &self.project
    }

    /// Asks for the terminals' WebSocket.
    pub(super) async fn open(&self) -> Result<TokioIo<Upgraded>, Failure> {
        let key = generate_key();
        let unreachable = |error: anyhow::Error| Failure::Unreachable(format!("{error:#}"));
        let answer = self.ask(self.terminal(&key)).await.map_err(unreachable)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
            // A refusal is one without its text, too.
            let body = tokio::time::timeout(ANSWER_WAIT_MAX, body).await.ok().and_then(Result::ok);
            return Err(self.refusal(status, &body.map(|body| body.to_bytes()).unwrap_or_default()));
        }
        let says = |name, expected: &str| answer.headers().get(name).is_some_and(|value| value == expected);
        if !says(SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes())) {
            return Err(Failure::Refused("the server's answer is not that of a WebSocket".to_owned()));
        }
        if !says(SEC_WEBSOCKET_PROTOCOL, PROTOCOL) {
            return Err(Failure::Refused(format!("the server doesn't speak {PROTOCOL}: it is of another version")));
        }
        Ok(TokioIo::new(hyper::upgrade::on(answer).await.map_err(|error| unreachable(error.into()))?))
    }

    /// What a server means that doesn't upgrade.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        let message = || {
            let body: serde_json::Value = serde_json::from_slice(body).ok()?;
            Some(body.get("error")?.get("message")?.as_str()?.escape_debug().to_string())
        };
        let reason = match status {
            StatusCode::UNAUTHORIZED => {
                "the token is refused: give the right one by CLOISTER_TOKEN or --token".to_owned()
            }
            status => message().unwrap_or_else(|| format!("the server at {} answered {status}", self.server())),
        };
        if status.is_server_error() { Failure::Unable(reason) } else { Failure::Refused(reason) }
    }

    fn terminal(&self, key: &str) -> Request<Full<Bytes>> {
        self.request(Method::GET, &format!("/ws/terminal/{}/", self.project))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .header(SEC_WEBSOCKET_KEY, key)
            .body(Full::default())
            .expect("its parts were checked")
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let uri = format!("{}{path}", self.prefix);
        Request::builder().method(method).uri(uri).header(HOST, &self.authority).header(AUTHORIZATION, &self.bearer)
    }

    /// Sends a request on a connection of its own and waits for the answer's head.
    async fn ask(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let exchange = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection.with_upgrades());
            anyhow::Ok(sender.send_request(request).await?)
        };
        tokio::time::timeout(ANSWER_WAIT_MAX, exchange).await.context("no answer in time")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, token: &str) -> anyhow::Result<Target> {
        Target::new(url, ProjectId::parse("demo").unwrap(), token)
    }

    #[test]
    fn a_server_is_named_by_host_port_and_prefix() {
        let parts = |url| target(url, "t").map(|t| (t.host, t.port, t.prefix)).unwrap();
        assert_eq!(parts("http://127.0.0.1:8000"), ("127.0.0.1".to_owned(), 8000, String::new()));
        assert_eq!(parts("http://[::1]:8000/"), ("::1".to_owned(), 8000, String::new()));
        assert_eq!(parts("ws://ide.example.org/a/b/"), ("ide.example.org".to_owned(), 80, "/a/b".to_owned()));
    }

    #[test]
    fn what_is_no_server_or_token_is_refused() {
        for bad in ["", "127.0.0.1:8000", "https://x", "ftp://x", "http://", "http://u:p@x", "http://x y"] {
            assert!(target(bad, "t").is_err(), "{bad}");
        }
        assert!(target("http://x", "a\nb").is_err());
    }

    #[test]
    fn the_token_stands_in_a_header_alone() {
        let request = target("http://h:1/p", "secret").unwrap().terminal("key");
        assert_eq!(request.uri(), "/p/ws/terminal/demo/");
        assert!(!format!("{request:?}").contains("secret"));
    }
}
