//! `GET /readyz`: whether the server can do its work, and if not, what is in the way. For whoever asks, as `/healthz`: it says
//! nothing about projects, and however often it is asked, the launcher is asked once a second.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use super::Context;
use crate::metrics::Room;

/// How long an answer is given again.
const KEPT: Duration = Duration::from_secs(1);

/// How long the launcher may take: it answers in a millisecond, behind a hundred cells that are wanted at once in half a second.
const LAUNCHER_WAIT: Duration = Duration::from_secs(2);

/// What a disk must have room for: checkpoints and settings are kilobytes, but with less than this left they will soon fail.
const FREE_BYTES_MIN: u64 = 64 << 20;
const FREE_FILES_MIN: u64 = 1000;

/// What is checked, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
struct Checks {
    server: Check,
    launcher: Check,
    state: Check,
    projects: Check,
    cells: Check,
}

/// `ok`, or the reason why not.
#[derive(Clone, Debug)]
struct Check(Result<(), String>);

impl Default for Check {
    fn default() -> Self {
        Self(Ok(()))
    }
}

impl Serialize for Check {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_ref().map_or_else(String::as_str, |()| "ok"))
    }
}

impl Checks {
    async fn make(context: &Context) -> Self {
        let launcher = match timeout(LAUNCHER_WAIT, context.projects.ask_for_life()).await {
            Ok(answered) => answered.map_err(|error| error.to_string()),
            Err(_) => Err(format!("it doesn't answer within {} s", LAUNCHER_WAIT.as_secs())),
        };
        let (state, projects) = context.projects.rooms();
        let no = |wrong: bool, reason: &str| if wrong { Err(reason.to_owned()) } else { Ok(()) };
        Self {
            server: Check(no(context.stop.is_cancelled(), "it is about to stop")),
            launcher: Check(launcher),
            state: Check(enough(state)),
            projects: Check(enough(projects)),
            cells: Check(no(!context.projects.is_settled(), "running cells are still being looked for")),
        }
    }

    fn are_fine(&self) -> bool {
        let Self { server, launcher, state, projects, cells } = self;
        [server, launcher, state, projects, cells].into_iter().all(|check| check.0.is_ok())
    }
}

fn enough(room: std::io::Result<Room>) -> Result<(), String> {
    let Room { bytes, files } = room.map_err(|error| error.to_string())?;
    if bytes < FREE_BYTES_MIN || files < FREE_FILES_MIN {
        return Err(format!("{} MiB and {files} files are left on its disk: make room", bytes >> 20));
    }
    Ok(())
}

/// The route.
pub(crate) fn ready(context: &Context) -> BoxedFilter<(Response,)> {
    let (context, last) = (context.clone(), Arc::new(Mutex::new(None)));
    warp::path!("readyz")
        .and(warp::get().or(warp::head()).unify())
        .then(move || {
            let (context, last) = (context.clone(), last.clone());
            async move { answer(&checks(context, last).await) }
        })
        .boxed()
}

/// The last checks, or new ones: who asks meanwhile waits for them.
async fn checks(context: Context, last: Arc<Mutex<Option<(Instant, Checks)>>>) -> Checks {
    let mut last = last.lock_owned().await;
    if let Some((at, checks)) = &*last
        && at.elapsed() < KEPT
    {
        return checks.clone();
    }
    // In a task of its own: who asks and goes away, again and again, must not have the launcher asked each time.
    let made = tokio::spawn(async move {
        let checks = Checks::make(&context).await;
        *last = Some((Instant::now(), checks.clone()));
        checks
    });
    made.await.expect("checking does not panic")
}

fn answer(checks: &Checks) -> Response {
    let ready = checks.are_fine();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": ready, "checks": checks });
    warp::reply::with_status(warp::reply::json(&body), status).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_and_nothing_else_is() {
        let checks = Checks { state: Check(enough(Ok(Room { bytes: 5 << 20, files: 7 }))), ..Checks::default() };
        assert!(!checks.are_fine() && Checks::default().are_fine());
        assert_eq!(
            serde_json::to_value(&checks).unwrap(),
            serde_json::json!({
                "server": "ok", "launcher": "ok", "projects": "ok", "cells": "ok",
                "state": "5 MiB and 7 files are left on its disk: make room",
            })
        );
        assert!(enough(Ok(Room { bytes: 1 << 30, files: 999 })).is_err());
        assert!(enough(Ok(Room { bytes: 1 << 30, files: 1000 })).is_ok());
        assert_eq!(answer(&checks).status(), 503);
    }
}
