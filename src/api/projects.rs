//! `/api/projects`: list, create, change, stop and remove projects, what they use, and why they are as they are.

use http::StatusCode;
use serde::Deserialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use super::reject::{Refusal, Result};
use super::{Context, Request, project_id, request};
use crate::project::Changes;

/// Largest body in bytes: an id and an image's name.
const BODY_BYTES_MAX: u64 = 4096;

/// The body of a request to create a project.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    id: String,
    image: Option<String>,
}

/// The body of a request to change a project.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    limits: Changes,
}

/// The routes.
pub(crate) fn projects(context: &Context) -> BoxedFilter<(Response,)> {
    let list = warp::path!("api" / "projects")
        .and(warp::get())
        .and(request(context))
        .then(async |request: Result<_>| respond(list(request)));
    let create = warp::path!("api" / "projects")
        .and(warp::post())
        .and(request(context))
        .and(warp::body::content_length_limit(BODY_BYTES_MAX).and(warp::body::json()))
        .then(async |request, body| respond(create(request, body)));
    let stop = warp::path!("api" / "projects" / String / "stop")
        .and(warp::post())
        .and(request(context))
        .then(async |id, request| respond(stop(id, request).await));
    let remove = warp::path!("api" / "projects" / String)
        .and(warp::delete())
        .and(request(context))
        .then(async |id, request| respond(remove(id, request).await));
    let change = warp::path!("api" / "projects" / String)
        .and(warp::patch())
        .and(request(context))
        .and(warp::body::content_length_limit(BODY_BYTES_MAX).and(warp::body::json()))
        .then(async |id, request, body| respond(change(id, request, body).await));
    let usage = warp::path!("api" / "projects" / String / "usage")
        .and(warp::get())
        .and(request(context))
        .then(async |id, request| respond(usage(id, request).await));
    let why = warp::path!("api" / "projects" / String / "why")
        .and(warp::get())
        .and(request(context))
        .then(async |id, request| respond(why(id, request).await));
    list.or(create)
        .unify()
        .or(why)
        .unify()
        .or(change)
        .unify()
        .or(usage)
        .unify()
        .or(stop)
        .unify()
        .or(remove)
        .unify()
        .boxed()
}

fn list(request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    Ok(warp::reply::json(&request.context.projects.list()?).into_response())
}

fn create(request: Result<Request>, body: Create) -> Result<Response> {
    let request = request?.without_query()?;
    let id = project_id(&body.id)?;
    request.context.projects.create(&id, body.image.as_deref())?;
    let created = serde_json::json!({ "id": id });
    Ok(warp::reply::with_status(warp::reply::json(&created), StatusCode::CREATED).into_response())
}

async fn change(id: String, request: Result<Request>, body: Change) -> Result<Response> {
    let request = request?.without_query()?;
    let changed = request.context.projects.set_limits(&project_id(&id)?, body.limits).await?;
    Ok(warp::reply::json(&changed).into_response())
}

async fn usage(id: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    let id = project_id(&id)?;
    match request.context.projects.usage(&id).await? {
        Some(usage) => Ok(warp::reply::json(&usage).into_response()),
        None => Err(Refusal::NoCell(id)),
    }
}

async fn why(id: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    Ok(warp::reply::json(&request.context.projects.why(&project_id(&id)?).await?).into_response())
}

async fn stop(id: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    let id = project_id(&id)?;
    let projects = &request.context.projects;
    if !projects.exists(&id)? {
        return Err(crate::project::Error::NotFound(id).into());
    }
    projects.stop(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove(id: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    request.context.projects.remove(&project_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The answer, or why there is none.
pub(super) fn respond(result: Result<Response>) -> Response {
    result.unwrap_or_else(Refusal::into_response)
}
