//! Every way a request is refused, in one table: status, code and message. It knows no route.

use std::convert::Infallible;

use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use sandbox::control::SessionName;
use sandbox::spec::ProjectId;
use warp::Rejection;
use warp::reply::{Reply, Response};

use crate::auth::Denied;
use crate::ws::NotUpgradable;
use crate::{cell, project, record};

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The query, the body or the address says something that means nothing.
    Malformed(String),
    /// The request isn't from somebody who may ask.
    Denied(Denied),
    /// The address is for WebSockets.
    NotUpgradable(NotUpgradable),
    /// There is no such session.
    NoSession(String),
    /// The project has no cell.
    NoCell(ProjectId),
    /// The project or its cell isn't to be had.
    Project(project::Error),
    /// The server is about to exit.
    Stopping,
}

/// A shorthand of handlers.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

impl From<project::Error> for Refusal {
    fn from(error: project::Error) -> Self {
        Self::Project(error)
    }
}

impl From<cell::Error> for Refusal {
    fn from(error: cell::Error) -> Self {
        Self::Project(error.into())
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<NotUpgradable> for Refusal {
    fn from(reason: NotUpgradable) -> Self {
        Self::NotUpgradable(reason)
    }
}

impl warp::reject::Reject for Refusal {}

impl Refusal {
    /// A session doesn't run that would have to.
    pub(crate) fn no_session(id: &ProjectId, session: &SessionName) -> Self {
        Self::NoSession(format!("project {id} has no session {session}: open its terminal first"))
    }

    /// The table.
    fn parts(&self) -> (StatusCode, &'static str, String) {
        use StatusCode as Is;
        match self {
            Self::Malformed(reason) => (Is::BAD_REQUEST, "malformed", reason.clone()),
            Self::Denied(Denied::Token(reason)) => (
                Is::UNAUTHORIZED,
                "unauthorized",
                format!(
                    "{reason}: send it as `Authorization: Bearer …` or `?token=…`; it lies in owner.token in the state folder"
                ),
            ),
            Self::Denied(Denied::Origin(origin)) => (
                Is::FORBIDDEN,
                "origin_refused",
                format!("pages of origin {origin:?} may not connect: add it to allowed_origins in the configuration"),
            ),
            Self::Denied(Denied::Host(host)) => (
                Is::FORBIDDEN,
                "host_refused",
                format!(
                    "this server listens on loopback and isn't called {host:?}: add https://<name> to allowed_origins in the configuration"
                ),
            ),
            Self::NotUpgradable(NotUpgradable::Upgrade(reason)) => {
                (Is::UPGRADE_REQUIRED, "upgrade_required", (*reason).to_owned())
            }
            Self::NotUpgradable(NotUpgradable::Malformed(reason)) => {
                (Is::BAD_REQUEST, "malformed", (*reason).to_owned())
            }
            Self::NoSession(reason) => (Is::NOT_FOUND, "session_not_found", reason.clone()),
            Self::NoCell(id) => {
                (Is::NOT_FOUND, "cell_not_running", format!("project {id} has no cell: open a terminal of it first"))
            }
            Self::Project(error) => {
                let (status, code) = of_project(error);
                (status, code, error.to_string())
            }
            Self::Stopping => {
                (Is::SERVICE_UNAVAILABLE, "restarting", "the server is restarting: try again in a moment".to_owned())
            }
        }
    }

    /// The answer, also a line in the log if the fault is the server's.
    pub(crate) fn into_response(self) -> Response {
        let (status, code, message) = self.parts();
        if status.is_server_error() {
            tracing::warn!(%status, code, reason = message, "request failed");
        }
        let mut response = answer(status, code, &message);
        response.headers_mut().extend(self.headers());
        response
    }

    /// What the status demands besides (RFC 9110).
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Self::Denied(Denied::Token(_)) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"cloister\""));
            }
            Self::NotUpgradable(NotUpgradable::Upgrade(_)) => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        headers
    }
}

fn of_project(error: &project::Error) -> (StatusCode, &'static str) {
    use project::Error;
    use sandbox::launcher::Error as Launcher;
    match error {
        Error::NotFound(_) => (StatusCode::NOT_FOUND, "project_not_found"),
        Error::Exists(_) => (StatusCode::CONFLICT, "project_exists"),
        Error::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "project_invalid"),
        Error::Cell(cell::Error::Refused(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "session_failed"),
        Error::Recording(record::Error::NotFound(_)) => (StatusCode::NOT_FOUND, "recording_not_found"),
        Error::Recording(record::Error::Writing(_) | record::Error::Full) => (StatusCode::CONFLICT, "recording_in_use"),
        Error::Recording(record::Error::NoFolder) => (StatusCode::UNPROCESSABLE_ENTITY, "project_invalid"),
        Error::Cell(cell::Error::Silent) | Error::Busy => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        Error::Launcher(Launcher::Gone(_)) => (StatusCode::SERVICE_UNAVAILABLE, "launcher_gone"),
        Error::Launcher(Launcher::HostFull(_)) => (StatusCode::SERVICE_UNAVAILABLE, "host_full"),
        Error::Launcher(Launcher::MemoryInUse(_)) => (StatusCode::CONFLICT, "memory_in_use"),
        Error::Cell(_) | Error::Launcher(_) => (StatusCode::INTERNAL_SERVER_ERROR, "cell_failed"),
        Error::Io { .. } | Error::Recording(record::Error::Io { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
    }
}

/// An error as clients get it.
fn answer(status: StatusCode, code: &str, message: &str) -> Response {
    let body = warp::reply::json(&serde_json::json!({ "error": { "code": code, "message": message } }));
    warp::reply::with_status(body, status).into_response()
}

/// Answers what no route took. Last in the chain of routes.
pub(crate) async fn recover(rejection: Rejection) -> std::result::Result<Response, Infallible> {
    use warp::reject::{LengthRequired, MethodNotAllowed, PayloadTooLarge, UnsupportedMediaType};
    let (status, code, message) = if rejection.find::<PayloadTooLarge>().is_some() {
        (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is too long".to_owned())
    } else if rejection.find::<LengthRequired>().is_some() {
        (StatusCode::LENGTH_REQUIRED, "length_required", "send the body with a content-length".to_owned())
    } else if rejection.find::<UnsupportedMediaType>().is_some() {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "send the body as application/json".to_owned())
    } else if let Some(error) = rejection.find::<warp::body::BodyDeserializeError>() {
        let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        (StatusCode::BAD_REQUEST, "malformed", format!("the body: {reason}"))
    } else if rejection.find::<warp::reject::InvalidQuery>().is_some() {
        (StatusCode::BAD_REQUEST, "malformed", "the query is no list of key=value".to_owned())
    } else if rejection.find::<MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address doesn't take this method".to_owned())
    } else if rejection.is_not_found() {
        (StatusCode::NOT_FOUND, "not_found", "there is nothing at this address".to_owned())
    } else {
        (StatusCode::BAD_REQUEST, "malformed", "the request makes no sense here".to_owned())
    };
    Ok(answer(status, code, &message))
}
