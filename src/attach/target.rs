//! What to attach to: a project's terminals on a server, and the token that opens them.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandbox::spec::ProjectId;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::end::Failure;
use crate::client::{self, ANSWER_WAIT_MAX, Address, bearer};
use crate::wire::PROTOCOL;

/// Longest text of a refusal in bytes, many times what the server sends.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The terminals of a project on a server.
pub(super) struct Target {
    address: Address,
    project: ProjectId,
    bearer: HeaderValue,
}

impl Target {
    /// Puts it together from the server's address, a project and the token.
    pub(super) fn new(address: Address, project: ProjectId, token: &str) -> anyhow::Result<Self> {
        Ok(Self { address, project, bearer: bearer(token)? })
    }

    /// The server, for messages.
    pub(super) fn server(&self) -> &str {
        &self.address.authority
    }

    /// The project.
    pub(super) fn project(&self) -> &ProjectId {
        &self.project
    }

    /// Asks for the terminals' WebSocket.
    pub(super) async fn open(&self) -> Result<TokioIo<Upgraded>, Failure> {
        let key = generate_key();
        let answer = self.address.ask(self.terminal(&key)).await?;
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
        Ok(TokioIo::new(hyper::upgrade::on(answer).await.map_err(client::Error::from)?))
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
        self.address
            .request(Method::GET, &format!("/ws/terminal/{}/", self.project))
            .header(AUTHORIZATION, &self.bearer)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .header(SEC_WEBSOCKET_KEY, key)
            .body(Full::default())
            .expect("its parts were checked")
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Unreachable(reason) => Self::Unreachable(reason),
            client::Error::Untrusted(reason) => Self::Refused(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, token: &str) -> anyhow::Result<Target> {
        Target::new(Address::parse(url, None).unwrap(), ProjectId::parse("demo").unwrap(), token)
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert!(target("http://x", "a\nb").is_err());
    }

    #[test]
    fn the_token_stands_in_a_header_alone() {
        let request = target("http://h:1/p", "secret").unwrap().terminal("key");
        assert_eq!(request.uri(), "/p/ws/terminal/demo/");
        assert!(!format!("{request:?}").contains("secret"));
    }
}
