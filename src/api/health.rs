//! `GET /healthz`: that the server answers, and which it is. For whoever asks; it says nothing about projects.

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use crate::cli::VERSION;

/// The route.
pub(crate) fn health() -> BoxedFilter<(Response,)> {
    warp::path!("healthz")
        .and(warp::get().or(warp::head()).unify())
        .map(|| {
            let health = serde_json::json!({ "status": "ok", "version": VERSION });
            warp::reply::json(&health).into_response()
        })
        .boxed()
}
