//! `cloister doctor --url`: asks a running server through the address that its clients use, and tells what lies between both:
//! what is swallowed, changed, held back or cut, each with what mends it in nginx, Caddy and HAProxy.
//!
//! The server says what has arrived (`/api/seen`), and echoes (`/ws/seen/`). It opens no terminal and changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{
    AUTHORIZATION, CONNECTION, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::Finding;
use crate::client::{ANSWER_WAIT_MAX, Address, Error};

/// Longest answer in bytes: what has arrived is a head's size at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long an echo may take: a keystroke's takes milliseconds, and across the world a quarter of a second.
const ECHO_WAIT: Duration = Duration::from_secs(5);

/// How much later than promised a ping may come.
const PING_LATE: Duration = Duration::from_secs(5);

/// Longest time between two pings that is waited for, whatever the server promises.
const PING_EVERY_S_MAX: u64 = 60;

/// A message of the largest size that the server takes.
const LARGE_BYTES: usize = 64 * 1024;

/// Addresses of nobody (RFC 5737), which this client pretends to be.
const FORGED: [&str; 2] = ["192.0.2.77", "192.0.2.78"];

const PROXY_DOWN: &str = "see that the server runs, and that the proxy asks it where it listens: nginx: proxy_pass and its \
    upstream; Caddy: reverse_proxy; HAProxy: server";
const SET_AUTHORIZATION: &str = "nginx: no auth_basic, and proxy_set_header Authorization $http_authorization; Caddy: no \
    basicauth and no header_up -Authorization; HAProxy: no http-request auth and no del-header Authorization";
const SET_HOST: &str = "nginx: proxy_set_header Host $http_host; Caddy: no header_up Host; HAProxy: no http-request set-header \
    Host; or name the page's origin in allowed_origins";
const SET_UPGRADE: &str = "nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade and Connection \"upgrade\"; \
    Caddy: reverse_proxy does it, unless header_up takes them away; HAProxy: mode http, and no del-header Upgrade";
const SET_FORWARDED: &str = "nginx: proxy_set_header X-Forwarded-For $remote_addr and Forwarded ''; Caddy: header_up -Forwarded \
    (it sets the others itself); HAProxy: http-request set-header X-Forwarded-For %[src] and del-header Forwarded";
const SET_PROTO: &str = "nginx: proxy_set_header X-Forwarded-Proto $scheme; Caddy: sets it itself; HAProxy: http-request \
    set-header X-Forwarded-Proto https";
const NO_BUFFERS: &str = "nginx: proxy_buffering off; Caddy: flush_interval -1; HAProxy: no option http-buffer-request, and \
    timeout tunnel";
const LONGER_SILENCE: &str = "nginx: proxy_read_timeout and proxy_send_timeout 75s; Caddy: no stream_timeout and no \
    read_timeout; HAProxy: timeout tunnel 75s";

/// What has arrived of a request.
#[derive(Debug, Deserialize)]
struct Seen {
    client: String,
    peer: String,
    trusted: bool,
    secure: bool,
    ping_every_s: u64,
    headers: BTreeMap<String, Vec<String>>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|values| values.join(", ").escape_debug().to_string())
    }
}

/// A server behind an address, and the token for it.
pub(super) struct Look {
    pub(super) address: Address,
    pub(super) bearer: HeaderValue,
}

type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

impl Look {
    /// All findings; what can't be seen without what has failed is left out.
    pub(super) async fn findings(&self) -> Vec<Finding> {
        let server = self.server().await;
        let reached = server.remedy.is_none();
        let mut findings = vec![server];
        if !reached {
            return findings;
        }
        let forged = [("x-forwarded-for", FORGED[0]), ("forwarded", &format!("for={}", FORGED[1]))];
        let seen = match self.seen(&forged).await {
            Ok(seen) => seen,
            Err(finding) => return [findings, vec![finding]].concat(),
        };
        findings.extend([self.client(&seen), self.origin(&seen).await]);
        if self.address.is_secure() && seen.trusted {
            findings.push(tls(&seen));
        }
        match self.upgrade().await {
            Ok(socket) => {
                findings.extend(echo(socket, Duration::from_secs(seen.ping_every_s.min(PING_EVERY_S_MAX))).await)
            }
            Err(finding) => findings.push(finding),
        }
        findings
    }

    /// Whether a server of ours is there at all.
    async fn server(&self) -> Finding {
        const THING: &str = "server";
        // Without the token: it may be anybody's server.
        let health = self.address.request(Method::GET, "/healthz").body(Full::default());
        let answer = match self.address.ask(health.expect("its parts were checked")).await {
            Ok(answer) => answer,
            Err(Error::Untrusted(reason)) => {
                let remedy =
                    "renew it, have the whole chain in its file (fullchain.pem), and ask by a name that it has";
                return Finding::fails("certificate", reason, remedy);
            }
            Err(Error::Unreachable(reason)) => return Finding::fails(THING, reason, PROXY_DOWN),
        };
        let (status, body) = read(answer).await;
        let version = body["version"].as_str().filter(|_| status == StatusCode::OK);
        match (version, message(&body)) {
            (Some(version), _) => {
                let by = if self.address.is_secure() { "by TLS" } else { "in the clear" };
                Finding::ok(THING, format!("version {}, {by}", version.escape_debug()))
            }
            (None, Some(message)) => Finding::fails(THING, format!("answers {status}: {message}"), "ask as it says"),
            (None, None) => Finding::fails(THING, format!("{status} is answered, and not by Cloister"), PROXY_DOWN),
        }
    }

    /// What arrives of a request with these headers.
    async fn seen(&self, fields: &[(&str, &str)]) -> Result<Seen, Finding> {
        let answer = self.ask("/api/seen", fields).await;
        let answer = answer.map_err(|error| Finding::fails("server", error.to_string(), PROXY_DOWN))?;
        let (status, body) = read(answer).await;
        let message = message(&body).unwrap_or_else(|| format!("{status} is answered, and not by Cloister"));
        let is_of_host = body["error"]["code"] == "host_refused";
        Err(match status {
            StatusCode::OK => match serde_json::from_value(body) {
                Ok(seen) => return Ok(seen),
                Err(error) => Finding::fails("server", error.to_string(), "let it and this command be of one version"),
            },
            StatusCode::UNAUTHORIZED if message.starts_with("a token is needed") => {
                Finding::fails("token", "the header Authorization doesn't arrive", SET_AUTHORIZATION)
            }
            StatusCode::UNAUTHORIZED => Finding::fails("token", "is refused", "give the right one by CLOISTER_TOKEN"),
            StatusCode::FORBIDDEN if is_of_host && message.contains(&self.address.authority) => {
                let remedy = format!("allowed_origins = [\"{}\"]", self.address.origin());
                Finding::fails("host", "the server listens on loopback and doesn't know this name", remedy)
            }
            StatusCode::FORBIDDEN if is_of_host => {
                Finding::fails("host", format!("another one arrives than was asked for: {message}"), SET_HOST)
            }
            StatusCode::FORBIDDEN => Finding::fails("origin", message, SET_HOST),
            StatusCode::NOT_FOUND => {
                Finding::fails("server", "has nothing to say of what it sees", "let it be as new as this command")
            }
            _ => Finding::fails("server", message, PROXY_DOWN),
        })
    }

    /// Whether the server knows who asks, and is told so by nobody who doesn't know.
    fn client(&self, seen: &Seen) -> Finding {
        const THING: &str = "client's address";
        let client = seen.client.escape_debug();
        let said = seen.header("x-forwarded-for");
        if FORGED.contains(&seen.client.as_str()) {
            return Finding::fails(
                THING,
                "the proxy passes on what clients say of themselves: any may be anybody in the log",
                SET_FORWARDED,
            );
        }
        match said.as_deref() {
            // It came as it was sent, or nobody changed it.
            Some(said) if said == FORGED[0] && !seen.trusted => {
                Finding::ok(THING, format!("{client}, and nobody is believed who says otherwise"))
            }
            Some(said) if !seen.trusted => Finding::lacks(
                THING,
                format!("X-Forwarded-For ({said}) is not believed, for it comes from {}", seen.peer.escape_debug()),
                format!("if that is the proxy: trusted_proxies = [\"{}\"]", seen.peer.escape_debug()),
            ),
            None if seen.client.starts_with(&seen.peer) => {
                Finding::lacks(THING, format!("the proxy says of nobody who asks; all are {client}"), SET_FORWARDED)
            }
            _ => Finding::ok(THING, format!("{client}, by the word of a trusted proxy")),
        }
    }

    /// Whether the server's own page may connect.
    async fn origin(&self, seen: &Seen) -> Finding {
        const THING: &str = "origin";
        let origin = self.address.origin();
        match self.seen(&[(ORIGIN.as_str(), &origin)]).await {
            Ok(_) => Finding::ok(THING, format!("a page of {origin} may connect")),
            Err(refused) if refused.thing == THING => {
                let host = seen.header("host").unwrap_or_default();
                let detail = format!("a page of {origin} may not connect, for the server is asked as {host:?}");
                Finding::fails(THING, detail, SET_HOST)
            }
            Err(other) => other,
        }
    }

    /// Opens a WebSocket, or finds out what is missing for one.
    async fn upgrade(&self) -> Result<WebSocket, Finding> {
        const THING: &str = "websocket";
        let key = generate_key();
        let fields = [
            (CONNECTION.as_str(), "Upgrade"),
            (UPGRADE.as_str(), "websocket"),
            (SEC_WEBSOCKET_VERSION.as_str(), "13"),
            (SEC_WEBSOCKET_KEY.as_str(), key.as_str()),
        ];
        let failed = |detail: String| Finding::fails(THING, detail, SET_UPGRADE);
        let answer = self.ask("/ws/seen/", &fields).await.map_err(|error| failed(error.to_string()))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let accept = answer.headers().get(SEC_WEBSOCKET_ACCEPT).cloned();
            if accept.is_none_or(|accept| accept != derive_accept_key(key.as_bytes()).as_str()) {
                return Err(failed("the answer is that of another request".to_owned()));
            }
            let upgraded = hyper::upgrade::on(answer).await.map_err(|error| failed(error.to_string()))?;
            let config = WebSocketConfig::default().max_message_size(Some(2 * LARGE_BYTES));
            return Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await);
        }
        let (status, body) = read(answer).await;
        let arrived = self.seen(&fields).await?;
        let lacking: Vec<_> = [("connection", "upgrade"), ("upgrade", "websocket")]
            .into_iter()
            .map(|(name, word)| (name, word, arrived.header(name).unwrap_or_else(|| "missing".to_owned())))
            .filter(|(_, word, value)| !value.to_ascii_lowercase().contains(word))
            .map(|(name, _, value)| format!("{name} ({value})"))
            .collect();
        Err(failed(match (lacking.as_slice(), message(&body)) {
            ([], Some(message)) => format!("{status}: {message}"),
            ([], None) => format!("{status} is answered, and not by Cloister"),
            (lacking, _) => format!("doesn't arrive as one: {}", lacking.join(" and ")),
        }))
    }

    /// Asks as the owner.
    async fn ask(&self, path: &str, fields: &[(&str, &str)]) -> Result<Response<Incoming>, Error> {
        let mut request: Request<Full<Bytes>> = self
            .address
            .request(Method::GET, path)
            .header(AUTHORIZATION, &self.bearer)
            .body(Full::default())
            .expect("its parts were checked");
        for (name, value) in fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
            request.headers_mut().insert(name, value.parse().expect("a header's value"));
        }
        self.address.ask(request).await
    }
}

/// Status and body of an answer; a body that is no JSON is none.
async fn read(answer: Response<Incoming>) -> (StatusCode, serde_json::Value) {
    let status = answer.status();
    let body = timeout(ANSWER_WAIT_MAX, Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// What an error of ours says.
fn message(body: &serde_json::Value) -> Option<String> {
    Some(body["error"]["message"].as_str()?.escape_debug().to_string())
}

/// Whether a proxy that is believed says that it was asked by TLS.
fn tls(seen: &Seen) -> Finding {
    const THING: &str = "tls";
    if seen.secure {
        Finding::ok(THING, "the server knows that it is asked by TLS")
    } else {
        Finding::lacks(
            THING,
            "the server isn't told that it is asked by TLS: pages in the clear may connect",
            SET_PROTO,
        )
    }
}

/// Whether bytes go both ways at once, large messages too, and silence is borne until the next ping.
async fn echo(mut socket: WebSocket, ping_every: Duration) -> Vec<Finding> {
    const THING: &str = "echo";
    let mut findings = Vec::new();
    for (thing, length) in [(THING, 1), ("large messages", LARGE_BYTES)] {
        let started = Instant::now();
        let echoed = timeout(ECHO_WAIT, echo_once(&mut socket, length)).await;
        match echoed {
            Ok(Ok(())) => {
                findings.push(Finding::ok(thing, format!("{length} bytes in {} ms", started.elapsed().as_millis())))
            }
            Ok(Err(reason)) => {
                findings.push(Finding::fails(thing, format!("the connection ended: {reason}"), SET_UPGRADE));
                return findings;
            }
            Err(_) => {
                let detail = format!("{length} bytes are held back for longer than {} s", ECHO_WAIT.as_secs());
                findings.push(Finding::fails(thing, detail, NO_BUFFERS));
                return findings;
            }
        }
    }
    findings.push(silence(&mut socket, ping_every).await);
    let _gone = timeout(ECHO_WAIT, socket.close(None)).await;
    findings
}

async fn echo_once(socket: &mut WebSocket, length: usize) -> Result<(), String> {
    let sent = Bytes::from(vec![b'x'; length]);
    socket.send(Message::Binary(sent.clone())).await.map_err(|error| error.to_string())?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) if bytes == sent => return Ok(()),
            Some(Ok(Message::Ping(_))) => {}
            Some(Ok(_)) => return Err("something else came back".to_owned()),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("without a word".to_owned()),
        }
    }
}

/// Says nothing until the server pings.
async fn silence(socket: &mut WebSocket, ping_every: Duration) -> Finding {
    const THING: &str = "silence";
    let began = Instant::now();
    match timeout_at(began + ping_every + PING_LATE, socket.next()).await {
        Ok(Some(Ok(Message::Ping(_)))) => {
            Finding::ok(THING, format!("is borne for the {} s between two pings", ping_every.as_secs()))
        }
        Ok(_) => {
            let detail = format!("the connection is cut after {} s of it", began.elapsed().as_secs());
            Finding::fails(THING, detail, LONGER_SILENCE)
        }
        Err(_) => Finding::fails(THING, "the server's ping doesn't arrive", NO_BUFFERS),
    }
}
