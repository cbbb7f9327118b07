//! What can be asked over HTTP. Each module is a group of addresses and gives one boxed filter; `reject` is every answer
//! that isn't the one hoped for. No handler waits for a cell except through `Projects`.

pub(crate) mod cells;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod projects;
pub(crate) mod ready;
pub(crate) mod recordings;
pub(crate) mod reject;
pub(crate) mod seen;
pub(crate) mod sessions;
pub(crate) mod terminal;

use std::sync::Arc;

use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::Filter;

use crate::auth::{Admitted, Auth};
use crate::project::Projects;
use crate::proxy::Caller;
use crate::traces;
use sandbox::spec::ProjectId;

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

/// The parts of a [`Context`].
pub(crate) struct Inner {
    /// Who may ask.
    pub(crate) auth: Auth,
    /// What is asked for.
    pub(crate) projects: Projects,
    /// Whether a terminal of an unknown project makes it.
    pub(crate) create_projects: bool,
    /// Cancelled when the server stops.
    pub(crate) stop: CancellationToken,
    /// The clients' tasks.
    pub(crate) clients: TaskTracker,
}

impl Context {
    /// Gathers the parts.
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl std::ops::Deref for Context {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// A query's keys and values, in their order, decoded.
pub(crate) type Query = Vec<(String, String)>;

/// What a handler gets of a request besides its body, once it is admitted; so no handler can forget to ask.
pub(crate) struct Request {
    /// What handlers work with.
    pub(crate) context: Context,
    /// The request's head.
    pub(crate) headers: HeaderMap,
    /// What the query says, without the token.
    pub(crate) query: Query,
    _admitted: Admitted,
}

/// Takes a request's head and admits it. Infallible for warp: a refusal is a value, so that no other route is tried.
pub(crate) fn request(
    context: &Context,
) -> impl Filter<Extract = (reject::Result<Request>,), Error = warp::Rejection> + Clone + use<> {
    let context = context.clone();
    let head = warp::header::headers_cloned().and(warp::query::<Query>()).and(warp::ext::get::<Caller>());
    head.map(move |headers: HeaderMap, mut query: Query, caller: Caller| {
        let token = query.extract_if(.., |(key, _)| key == "token").map(|(_, token)| token).last();
        let admitted = context.auth.admit(&headers, &caller, token.as_deref())?;
        Ok(Request { context: context.clone(), headers, query, _admitted: admitted })
    })
}

impl Request {
    /// Refuses a query at an address that takes none.
    pub(crate) fn without_query(self) -> reject::Result<Self> {
        match self.query.first() {
            None => Ok(self),
            Some((key, _)) => Err(reject::Refusal::Malformed(format!("unknown query key `{key}`; known is token"))),
        }
    }
}

/// A project id from an address.
pub(crate) fn project_id(text: &str) -> reject::Result<ProjectId> {
    let id = ProjectId::parse(text).map_err(|error| reject::Refusal::Malformed(format!("{text:?}: {error}")))?;
    traces::note("project", &id);
    Ok(id)
}
