//! `/api/seen` and `/ws/seen/`: what of a request has arrived here, for `cloister doctor --url`, which knows what it has sent.
//! What lies between both shows by the difference. Nothing of the token is told.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::Duration;

use http::HeaderMap;
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use super::projects::respond;
use super::reject::{Refusal, Result};
use super::terminal::PING_EVERY;
use super::{Context, Request, request};
use crate::accept::Connection;
use crate::proxy::Caller;
use crate::ws::{CloseCode, Handshake, Message, Received, Socket, close};

/// The headers that are told: those that proxies change.
const TOLD: [&str; 12] = [
    "connection",
    "forwarded",
    "host",
    "origin",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// How long an echo lasts: three times what it takes to see a ping.
const ECHO_MAX: Duration = Duration::from_secs(60);

/// The routes.
pub(crate) fn seen(context: &Context) -> BoxedFilter<(Response,)> {
    let head = warp::path!("api" / "seen")
        .and(warp::get())
        .and(request(context))
        .and(warp::ext::get::<Caller>())
        .then(async |request, caller| respond(tell(request, caller)));
    let echo = warp::path!("ws" / "seen" / ..)
        .and(warp::path::end())
        .and(warp::get())
        .and(request(context))
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::ext::get::<Connection>())
        .then(async |request, upgrade, connection| respond(answer(request, upgrade, connection)));
    head.or(echo).unify().boxed()
}

fn tell(request: Result<Request>, caller: Caller) -> Result<Response> {
    let Request { headers, .. } = request?.without_query()?;
    let told: BTreeMap<_, _> = TOLD.iter().map(|name| (*name, values(&headers, name))).collect();
    let told: BTreeMap<_, _> = told.into_iter().filter(|(_, values)| !values.is_empty()).collect();
    let body = json!({
        "client": caller.client.to_string(),
        "peer": caller.peer.ip().to_canonical().to_string(),
        "trusted": caller.trusted,
        "secure": caller.secure,
        "host": caller.host,
        "ping_every_s": PING_EVERY.as_secs(),
        "headers": told,
    });
    Ok(warp::reply::json(&body).into_response())
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

fn answer(request: Result<Request>, upgrade: Option<OnUpgrade>, connection: Connection) -> Result<Response> {
    let request = request?.without_query()?;
    let handshake = Handshake::check(&request.headers)?;
    let upgrade =
        upgrade.ok_or_else(|| Refusal::Malformed("HTTP/1.1 is needed to upgrade to a WebSocket".to_owned()))?;
    let stop = request.context.stop.child_token();
    request.context.clients.spawn(async move {
        if let Ok(socket) = Socket::upgraded(upgrade).await {
            let _long_enough = timeout(ECHO_MAX, echo(socket, stop)).await;
        }
        // Counts as a connection for as long as it lasts.
        drop(connection);
    });
    Ok(handshake.response(None))
}

/// Says what it hears, and pings as a terminal's socket does.
async fn echo(mut socket: Socket, stop: CancellationToken) {
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    loop {
        let received = tokio::select! {
            received = poll_fn(|cx| socket.poll_receive(cx)) => received,
            _ = pings.tick() => {
                if socket.ping().is_err() || poll_fn(|cx| socket.poll_flushed(cx)).await.is_err() {
                    return;
                }
                continue;
            }
            () = stop.cancelled() => return socket.close(close(CloseCode::Restart, "server is restarting")).await,
        };
        let message = match received {
            Received::Text(bytes) | Received::Binary(bytes) => Message::Binary(bytes),
            Received::Control => continue,
            Received::Closed => return socket.closed().await,
            Received::Refused(frame) => return socket.close(frame).await,
            Received::Lost => return,
        };
        // One at a time: who doesn't listen isn't heard.
        if socket.send(message).is_err() || poll_fn(|cx| socket.poll_flushed(cx)).await.is_err() {
            return;
        }
    }
}
