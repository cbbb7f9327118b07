//! From a listening socket to requests: every connection bounded in number and in the time it may do nothing.
//!
//! Our own loop around hyper, since `warp::serve` sets no TCP_NODELAY (40 ms on a keystroke's echo) and waits for ever for
//! a request's head. It doesn't know what is asked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
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
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

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

/// The answer to a connection beyond [`CONNECTIONS_MAX`].
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n\
    content-type: application/json\r\ncontent-length: 81\r\n\r\n\
    {\"error\":{\"code\":\"overloaded\",\"message\":\"too many connections, try again later\"}}";

/// The connection a request came by, as handlers see it. It counts until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Who connected.
    pub(crate) peer: SocketAddr,
    _counted: Arc<OwnedSemaphorePermit>,
}

/// Accepts connections and serves `routes` on them until `stop`; what runs then is in `connections`.
pub(crate) async fn accept(
    listener: TcpListener,
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
                let connection = Connection { peer, _counted: Arc::new(permit) };
                connections.spawn(serve(stream, connection, routes.clone(), stop.clone()));
            }
            Err(_) => {
                if let Ok(permit) = refusals.clone().try_acquire_owned() {
                    connections.spawn(async move {
                        let _gave_up = timeout(REFUSAL_WAIT, refuse(stream)).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Serves one connection.
async fn serve(stream: TcpStream, connection: Connection, routes: BoxedFilter<(Response,)>, stop: CancellationToken) {
    let peer = connection.peer;
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%peer, %error, "gone before it said anything");
        return;
    }
    let routes = TowerToHyperService::new(warp::service(routes));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        // Never the query, which may hold the token.
        tracing::debug!(%peer, method = %request.method(), path = request.uri().path(), "request");
        let answering = timeout(REQUEST_WAIT, routes.call(request));
        async move { answering.await.unwrap_or_else(|_| Ok(StatusCode::REQUEST_TIMEOUT.into_response())) }
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
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, PEER_SILENT.as_millis() as u32)?;
    Ok(())
}

/// Tells a connection that there are too many. Its request is read first: closing with bytes unread resets the connection,
/// and the answer could be lost with it.
async fn refuse(stream: TcpStream) -> io::Result<()> {
    stream.readable().await?;
    stream.try_read(&mut [0; HEAD_BYTES_MAX])?;
    stream.writable().await?;
    stream.try_write(REFUSAL)?;
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
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
