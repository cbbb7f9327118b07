//! `/ws/terminal/<project>/`: terminals over a WebSocket. `docs/protocol.md` says what is spoken.
//!
//! `single` is the task that serves a client of one session, in a `dialect`: `plain` without a subprotocol, or what the clients
//! of `ttyd`, `kubernetes` and asciinema (`alis`) have; `wish` is what such a client may ask for. `multi` is the task of one that speaks `cloister.v1`, with a
//! `hold` for each session. Here they are brought together, and whatever can fail fails before the upgrade.

mod alis;
mod dialect;
mod hold;
mod kubernetes;
mod multi;
mod plain;
mod pulse;
mod single;
mod ttyd;
mod wish;

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use sandbox::control::{SessionName, Size};
use sandbox::spec::ProjectId;
use tracing::field::display;
use tracing::{Instrument, Span};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::projects::respond;
use super::reject::{Refusal, Result};
use super::{Context, Request, project_id, request};
use crate::accept::{Connection, RequestId};
use crate::cell;
use crate::project;
use crate::proxy::Caller;
use crate::session::{Attachment, Presence, Start, Who, random};
use crate::traces;
use crate::wire::{PROTOCOL, Role};
use crate::ws::{Handshake, Socket};
use dialect::Dialect;
use multi::Multi;
pub(super) use pulse::PING_EVERY;
use single::Client;
pub(super) use wish::size;
use wish::{PROTOCOLS, Wish};

/// The routes, with and without the last slash.
pub(crate) fn terminal(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!("ws" / "terminal" / String / ..)
        .and(warp::path::end())
        .and(warp::get())
        .and(request(context))
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::ext::get::<Caller>())
        .and(warp::ext::get::<Connection>())
        .and(warp::ext::get::<RequestId>())
        .then(async |id, request, upgrade, caller, connection, name| {
            respond(attach(id, request, upgrade, (caller, connection, name)).await)
        })
        .boxed()
}

/// Finds the session and promises the upgrade. Whatever fails does so here, where there is a status to say it with.
async fn attach(
    id: String,
    request: Result<Request>,
    upgrade: Option<OnUpgrade>,
    (caller, connection, name): (Caller, Connection, RequestId),
) -> Result<Response> {
    let Request { context, headers, query, .. } = request?;
    let id = project_id(&id)?;
    let subprotocol = Handshake::choose(&headers, &[&[PROTOCOL], &PROTOCOLS[..]].concat());
    let wish = match subprotocol {
        None => Some(Wish::plain(&query)?),
        Some(PROTOCOL) => Wish::none(&query).map(|()| None)?,
        Some(other) => Some(Wish::with(other, &query, id.as_str())?),
    };
    let exists = context.projects.exists(&id)?;
    if !exists && !context.create_projects {
        return Err(project::Error::NotFound(id).into());
    }
    let handshake = Handshake::check(&headers)?;
    let upgrade =
        upgrade.ok_or_else(|| Refusal::Malformed("HTTP/1.1 is needed to upgrade to a WebSocket".to_owned()))?;
    if context.stop.is_cancelled() {
        return Err(Refusal::Stopping);
    }
    if !exists {
        create(&context, &id)?;
    }
    let looks = wish.as_ref().is_none_or(|wish| wish.role == Role::Viewer);
    if looks && let Err(error) = context.projects.find(&id).await {
        // Whoever opens a session hears why that can't be; who looks, that none runs.
        tracing::debug!(project = %id, %error, "no running cell is found");
    }
    let request = Span::current();
    request.record("project", display(&id)).record("peer", display(caller.client));
    let one = match wish {
        None => None,
        Some(wish) => Some(attach_one(&context, &id, wish).await?),
    };
    // In place of the request's, which ends with the answer: two for each client would cost half a KiB more.
    let span = tracing::info_span!(parent: None, "client", request_id = %name, project = %id, peer = %caller.client);
    traces::follow(&span, &request);
    let clients = context.clients.clone();
    // A task of its own kind for each: one for both would be as large as the larger.
    match one {
        Some(one) => clients.spawn(serve_one(context, id, upgrade, one, connection).instrument(span)),
        None => clients.spawn(serve_all(context, id, upgrade, connection).instrument(span)),
    };
    Ok(handshake.response(subprotocol))
}

/// A client's only session.
struct One {
    attachment: Attachment,
    dialect: Box<dyn Dialect>,
    /// The session's name if it is the client's own.
    own: Option<SessionName>,
}

/// Serves a client of one session. It counts as a connection for as long as that lasts.
async fn serve_one(context: Context, id: ProjectId, upgrade: OnUpgrade, one: One, _connection: Connection) {
    let One { attachment, dialect, own } = one;
    match Socket::upgraded(upgrade).await {
        Ok(socket) => {
            let client = Client::new(socket, attachment, dialect);
            client.serve(context.stop.child_token().cancelled_owned()).await;
        }
        Err(error) => tracing::debug!(%error, "gone before the upgrade"),
    }
    if let Some(session) = own {
        // Nobody else knows it.
        let closed = Box::pin(context.projects.close(&id, &session)).await;
        closed.unwrap_or_else(|error| tracing::warn!(%error, "a client's own session is left"));
    }
}

/// Serves a client of all the project's sessions, likewise.
async fn serve_all(context: Context, id: ProjectId, upgrade: OnUpgrade, _connection: Connection) {
    match Socket::upgraded(upgrade).await {
        Ok(socket) => {
            let client = Multi::new(socket, context.projects.clone(), id);
            client.serve(context.stop.child_token().cancelled_owned()).await;
        }
        Err(error) => tracing::debug!(%error, "gone before the upgrade"),
    }
}

async fn attach_one(context: &Context, id: &ProjectId, wish: Wish) -> Result<One> {
    let client = random().map_err(failed)?;
    let Wish { session, size, command, role, dialect } = wish;
    let own = session.is_none().then(|| SessionName::parse(&format!("exec-{client:016x}")).expect("it is short"));
    let session = session.or_else(|| own.clone()).expect("it is one or the other");
    if role == Role::Viewer && !context.projects.sessions(id).contains(&session) {
        return Err(Refusal::NoSession(format!("project {id} has no session {session}, and who looks starts none")));
    }
    let opened = context.projects.attach(id, &session, size.unwrap_or(Size::DEFAULT), &command, client).await?;
    let who = Who { client, role, size, bell: Arc::default(), presence: Presence::Reading };
    let start = if opened.started { Start::Resume(0) } else { Start::Snapshot };
    let mut attachment = Attachment::new(opened.hold, start, who).map_err(failed)?;
    if let Some(size) = size {
        // Who names a size wants it, also while another client leads.
        attachment.impose(size);
    }
    tracing::info!(project = %id, %session, "attached");
    Ok(One { attachment, dialect, own })
}

/// The cell's answer can't be used.
fn failed(error: std::io::Error) -> project::Error {
    cell::Error::from(error).into()
}

fn create(context: &Context, id: &ProjectId) -> Result<()> {
    match context.projects.create(id, None) {
        // Another client was first.
        Err(project::Error::Exists(_)) => Ok(()),
        created => Ok(created?),
    }
}
