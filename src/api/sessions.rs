//! `/api/projects/<id>/sessions/<session>`: what plain terminal messages have no room for.

use http::StatusCode;
use sandbox::control::{SessionName, Size};
use serde::Deserialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use super::projects::respond;
use super::reject::{Refusal, Result};
use super::{Context, Request, project_id, request};

/// Largest body in bytes: two numbers.
const BODY_BYTES_MAX: u64 = 256;

/// The body of a request to resize a session.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    cols: u16,
    rows: u16,
}

/// The routes.
pub(crate) fn sessions(context: &Context) -> BoxedFilter<(Response,)> {
    let start = warp::path!("api" / "projects" / String / "sessions" / String)
        .and(warp::put())
        .and(request(context))
        .then(async |id, session, request| respond(start(id, session, request).await));
    let resize = warp::path!("api" / "projects" / String / "sessions" / String / "size")
        .and(warp::post())
        .and(request(context))
        .and(warp::body::content_length_limit(BODY_BYTES_MAX).and(warp::body::json()))
        .then(async |id, session, request, body| respond(resize(id, session, request, body).await));
    start.or(resize).unify().boxed()
}

/// Starts a session unless it runs; and a browser, which can't see why a WebSocket was refused, learns here why it can't.
async fn start(id: String, session: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    let (id, session) = (project_id(&id)?, session_name(&session)?);
    let opened = request.context.projects.attach(&id, &session, Size::DEFAULT, &[], 0).await?;
    let status = if opened.started { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    Ok(status.into_response())
}

async fn resize(
    id: String,
    session: String,
    request: Result<Request>,
    Resize { cols, rows }: Resize,
) -> Result<Response> {
    let request = request?.without_query()?;
    let id = project_id(&id)?;
    let session = session_name(&session)?;
    let size = super::terminal::size(cols, rows)?;
    if !request.context.projects.resize(&id, &session, size).await? {
        return Err(Refusal::no_session(&id, &session));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A session's name from an address.
pub(super) fn session_name(text: &str) -> Result<SessionName> {
    SessionName::parse(text)
        .ok_or_else(|| Refusal::Malformed(format!("session {text:?}: a name is 1 to 40 of A-Z, a-z, 0-9, '-' and '_'")))
}
