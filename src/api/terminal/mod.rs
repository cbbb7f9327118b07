//! `/ws/terminal/<project>/`: a terminal over a WebSocket, in plain mode: a message in is typed, output comes out.
//! `docs/protocol.md` says what is spoken.
//!
//! `wish` is what a client may ask for, `client` the task that serves it from the upgrade to the close; here both are brought
//! together, and whatever can fail fails before the upgrade.

mod client;
mod wish;

use hyper::upgrade::OnUpgrade;
use sandbox::control::Size;
use sandbox::spec::ProjectId;
use tracing::Instrument;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::projects::respond;
use super::reject::{Refusal, Result};
use super::{Context, Request, project_id, request};
use crate::accept::Connection;
use crate::project;
use crate::ws::{Handshake, Socket};
use client::Client;
use wish::Wish;
pub(super) use wish::size;

/// The routes, with and without the last slash.
pub(crate) fn terminal(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!("ws" / "terminal" / String / ..)
        .and(warp::path::end())
        .and(warp::get())
        .and(request(context))
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::ext::get::<Connection>())
        .then(async |id, request, upgrade, connection| respond(attach(id, request, upgrade, connection).await))
        .boxed()
}

/// Finds the session and promises the upgrade. Whatever fails does so here, where there is a status to say it with.
async fn attach(
    id: String,
    request: Result<Request>,
    upgrade: Option<OnUpgrade>,
    connection: Connection,
) -> Result<Response> {
    let Request { context, headers, query, .. } = request?;
    let id = project_id(&id)?;
    let wish = Wish::parse(&query)?;
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
    let opened = context.projects.attach(&id, &wish.session, wish.size.unwrap_or(Size::DEFAULT), &[]).await?;
    let mut attachment = opened.attachment;
    if let Some(size) = wish.size.filter(|size| *size != opened.size) {
        attachment.resize(size);
    }
    let span = tracing::info_span!("client", project = %id, session = %wish.session, peer = %connection.peer);
    let stop = context.stop.clone();
    context.clients.spawn(
        async move {
            match Socket::upgraded(upgrade).await {
                Ok(socket) => Client::new(socket, attachment, wish).serve(stop.child_token().cancelled_owned()).await,
                Err(error) => tracing::debug!(%error, "gone before the upgrade"),
            }
            // Counts as a connection for as long as it lasts.
            drop(connection);
        }
        .instrument(span),
    );
    Ok(handshake.response())
}

fn create(context: &Context, id: &ProjectId) -> Result<()> {
    match context.projects.create(id, None) {
        // Another client was first.
        Err(project::Error::Exists(_)) => Ok(()),
        created => Ok(created?),
    }
}
