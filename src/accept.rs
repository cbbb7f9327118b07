//! From a listening socket to requests: every connection bounded in number and in the time it may do nothing.
//!
//! Our own loop around hyper, since `warp::serve` sets no TCP_NODELAY (40 ms on a keystroke's echo) and waits for ever for
//! a request's head. It doesn't know what is asked.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use crate::metrics::metrics;
use crate::proxy::Proxies;
use crate::stream::{RESTART_WAIT, Stream};
use crate::tls::{Opened, Tls};
use crate::traces;

/// Most connections at once. A terminal costs two descriptors here, so these stay below 20,000, a usual hard limit.
const CONNECTIONS_MAX: usize = 8192;

/// Connections beyond them that are being told so; others are just closed.
const REFUSALS_MAX: usize = 64;

/// How long a connection may take to send a request's head, the first or the next one.
const HEAD_WAIT: Duration = Duration::from_secs(10);

/// How long a request may take, body and all: longer than all that a handler waits for.
const REQUEST_WAIT: Duration = Duration::from_secs(60);

/// Largest head of a request in bytes, and most fields in it: browsers send 1 to 2 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 64;

/// After how long without an acknowledgement the kernel gives a peer up.
const PEER_SILENT: Duration = Duration::from_secs(60);

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused connection has to read the refusal.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// How long a connection may take until it can be asked by: of a TLS handshake, each message and the time on its way.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// The answer to a connection beyond [`CONNECTIONS_MAX`].
const CROWDED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n\
    content-type: application/json\r\ncontent-length: 81\r\n\r\n\
    {\"error\":{\"code\":\"overloaded\",\"message\":\"too many connections, try again later\"}}";

/// The answer to HTTP in the clear where TLS is spoken.
const IN_THE_CLEAR: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 107\r\n\r\n\
    {\"error\":{\"code\":\"tls_needed\",\"message\":\"this port speaks TLS: begin the address with https:// or wss://\"}}";

/// What stands between a TCP connection and its first request.
#[derive(Clone)]
pub(crate) struct Door {
    /// TLS, if that is spoken.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Who may say that somebody else is behind a connection.
    pub(crate) proxies: Proxies,
}

/// The connection a request came by. It counts until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    _counted: Arc<Counted>,
}

/// An open connection's place among the most that there may be.
struct Counted(#[expect(dead_code, reason = "it is held, and given back")] OwnedSemaphorePermit);

impl Counted {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics().connections_accepted.inc();
        metrics().connections.inc();
        Self(permit)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics().connections.dec();
    }
}

/// Accepts connections and serves `routes` on them until `stop`; what runs then is in `connections`.
pub(crate) async fn accept(
    listener: TcpListener,
    door: Door,
    routes: BoxedFilter<(Response,)>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_peers_fault(&error) => continue,
            Err(error) => {
                // Once for a row of them: the next one would say the same.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "connections can't be accepted");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        match free.clone().try_acquire_owned() {
            Ok(permit) => {
                let connection = Connection { _counted: Arc::new(Counted::new(permit)) };
                connections.spawn(serve((stream, peer), connection, door.clone(), routes.clone(), stop.clone()));
            }
            Err(_) => {
                metrics().connections_refused.inc();
                if let Ok(permit) = refusals.clone().try_acquire_owned() {
                    connections.spawn(async move {
                        let _gave_up = timeout(REFUSAL_WAIT, refuse(stream, CROWDED)).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Serves one connection.
async fn serve(
    accepted: (TcpStream, SocketAddr),
    connection: Connection,
    door: Door,
    routes: BoxedFilter<(Response,)>,
    stop: CancellationToken,
) {
    let (stream, peer) = accepted;
    let opening = timeout(OPEN_WAIT, open(stream, peer, &door));
    let opened = tokio::select! {
        opened = opening => opened.unwrap_or_else(|elapsed| Err(elapsed.into())),
        () = stop.cancelled() => return,
    };
    let (stream, peer) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%peer, %error, "gone before it asked anything");
            return;
        }
    };
    let secure = stream.is_secure();
    let routes = TowerToHyperService::new(warp::service(routes));
    let answers = TaskTracker::new();
    let answering = answers.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let caller = door.proxies.caller(request.headers(), peer, secure);
        let client = caller.client;
        let (id, span) = RequestId::next();
        traces::asked(&span, &request, &caller);
        request.extensions_mut().insert(connection.clone());
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(id.clone());
        let answer = span.in_scope(|| {
            // Never the query, which may hold the token.
            tracing::debug!(peer = %client, method = %request.method(), path = request.uri().path(), "request");
            timeout(REQUEST_WAIT, routes.call(request))
        });
        let answered = async move {
            let answered = answer.await.unwrap_or_else(|_| Ok(StatusCode::REQUEST_TIMEOUT.into_response()));
            answered.map(|mut response| {
                metrics().answered(response.status());
                traces::answered(response.status());
                response.headers_mut().insert("x-request-id", id.0);
                response
            })
        };
        answering.track_future(answered.instrument(span))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_headers(FIELDS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            // What is being answered has the time that the server gives it; who is still asking, or doesn't read, has not.
            answers.close();
            tokio::select! {
                served = serving => served,
                () = answers.wait().then(|()| sleep(RESTART_WAIT)) => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

/// A request's name, for its answer and for all that is logged of it: ours, since what a client calls it is a stranger's word.
#[derive(Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// One that no other request has, and its span.
    fn next() -> (Self, Span) {
        /// Begins anywhere, so that another server's are others.
        static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().build_hasher().finish()));
        let id = format!("{:016x}", NEXT.fetch_add(1, Ordering::Relaxed));
        let span = tracing::info_span!("request", request_id = %id, project = Empty, peer = Empty);
        (Self(id.try_into().expect("digits may stand in a field")), span)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().expect("it is digits"))
    }
}

/// Makes a connection one that can be asked by; gives who is behind it.
async fn open(mut stream: TcpStream, peer: SocketAddr, door: &Door) -> io::Result<(Stream, SocketAddr)> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, PEER_SILENT.as_millis() as u32)?;
    let peer = door.proxies.behind(&mut stream, peer).await?;
    let Some(tls) = &door.tls else { return Ok((stream.into(), peer)) };
    match tls.handshake(stream).await? {
        Opened::Tls(stream) => Ok((Stream::Tls(stream), peer)),
        Opened::Http(stream) => {
            timeout(REFUSAL_WAIT, refuse(stream, IN_THE_CLEAR)).await??;
            Err(io::Error::other("HTTP in the clear where TLS is spoken"))
        }
        Opened::Challenged => Err(io::Error::other("an authority that has looked whether a name is ours")),
    }
}

/// Tells a connection why it isn't served. Its request is read first: closing with bytes unread resets the connection,
/// and the answer could be lost with it.
async fn refuse(stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.readable().await?;
    stream.try_read(&mut vec![0; HEAD_BYTES_MAX])?;
    stream.writable().await?;
    stream.try_write(answer)?;
    Ok(())
}

/// Whether an accept failed because of the connection that was to be accepted (accept(2)).
fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_as_long_as_they_say() {
        for refusal in [CROWDED, IN_THE_CLEAR] {
            let text = std::str::from_utf8(refusal).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
            assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
        }
    }
}
