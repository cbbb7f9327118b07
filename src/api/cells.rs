//! `/api/cells`: all cells that run, with what they use. For the owner: it names every project.

use std::time::Instant;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use super::projects::respond;
use super::reject::Result;
use super::{Context, Request, request};

/// The route.
pub(crate) fn cells(context: &Context) -> BoxedFilter<(Response,)> {
    let began = Instant::now();
    warp::path!("api" / "cells")
        .and(warp::get())
        .and(request(context))
        .then(move |request| async move { respond(tell(request, began).await) })
        .boxed()
}

async fn tell(request: Result<Request>, began: Instant) -> Result<Response> {
    let request = request?.without_query()?;
    let cells = request.context.projects.look().await?;
    // For who compares two answers: the wall clock may be set between them.
    let at_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(warp::reply::json(&serde_json::json!({ "at_us": at_us, "cells": cells })).into_response())
}
