//! All addresses in one chain. A route matches its path before its method, so a wrong method is told from a wrong path.

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::api::{
    Context, cells, health, metrics, page, projects, ready, recordings, reject, seen, sessions, terminal,
};

/// Everything that can be asked; never fails, since what no route takes is answered too.
pub(crate) fn routes(context: &Context) -> BoxedFilter<(Response,)> {
    // The page last: its path is any.
    let sessions = terminal::terminal(context).or(sessions::sessions(context)).unify();
    let api = sessions.or(recordings::recordings(context)).unify().or(projects::projects(context)).unify();
    let api = api.or(cells::cells(context)).unify().or(seen::seen(context)).unify();
    let open = health::health().or(ready::ready(context)).unify().or(page::page()).unify();
    api.or(metrics::metrics(context)).unify().or(open).unify().recover(reject::recover).unify().boxed()
}
