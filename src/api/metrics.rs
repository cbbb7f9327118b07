//! `GET /metrics`: what the server counts, as Prometheus wants it. For the owner, and for who has the token for it alone.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use super::projects::respond;
use super::reject::{Refusal, Result};
use super::{Context, Query};
use crate::cli::VERSION;
use crate::metrics::{Now, metrics as counted};
use crate::proxy::Caller;

/// The route.
pub(crate) fn metrics(context: &Context) -> BoxedFilter<(Response,)> {
    let context = context.clone();
    warp::path!("metrics")
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(warp::query::<Query>())
        .and(warp::ext::get::<Caller>())
        .then(move |headers, query, caller| {
            let context = context.clone();
            async move { respond(answer(&context, &headers, &caller, query).await) }
        })
        .boxed()
}

async fn answer(context: &Context, headers: &HeaderMap, caller: &Caller, mut query: Query) -> Result<Response> {
    let token = query.extract_if(.., |(key, _)| key == "token").map(|(_, token)| token).last();
    context.auth.admit_to_metrics(headers, caller, token.as_deref())?;
    let asked = if wants_projects(&query)? { Some(context.projects.usages().await?) } else { None };
    let census = context.projects.census();
    let (state, projects) = context.projects.rooms();
    let now = Now {
        version: VERSION,
        clients: context.clients.len(),
        running: census.running,
        frozen: census.frozen,
        stopping: census.stopping,
        changing: census.changing,
        sessions: census.sessions,
        // A disk that can't be asked has no room for anything.
        state: state.unwrap_or_default(),
        projects: projects.unwrap_or_default(),
    };
    let mut response = counted().text(&now, asked.as_ref()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
    Ok(response)
}

/// Whether it is asked what projects use.
fn wants_projects(query: &Query) -> Result<bool> {
    match query.as_slice() {
        [] => Ok(false),
        [(key, value)] if key == "projects" && value == "1" => Ok(true),
        [(key, value), ..] if key == "projects" => {
            Err(Refusal::Malformed(format!("projects={value:?}: give it once, as projects=1")))
        }
        [(key, _), ..] => Err(Refusal::Malformed(format!("unknown query key `{key}`; known are projects and token"))),
    }
}
