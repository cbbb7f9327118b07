//! `/api/projects/<id>/recordings` and `…/sessions/<session>/recording`: what was recorded, and what is to be.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};

use super::projects::respond;
use super::reject::{Refusal, Result};
use super::sessions::session_name;
use super::{Context, Request, project_id, request};
use crate::project::Recorded;
use crate::record::Name;

/// What asciinema calls a recording's media type.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/x-asciicast");

/// How much of a file is read at once, in bytes: all that an answer holds of it.
const PIECE_BYTES_MAX: usize = 256 * 1024;

/// The routes.
pub(crate) fn recordings(context: &Context) -> BoxedFilter<(Response,)> {
    let session = warp::path!("api" / "projects" / String / "sessions" / String / "recording");
    let record = session
        .and(warp::put())
        .and(request(context))
        .then(async |id, session, request| respond(record(id, session, request).await));
    let stop = session
        .and(warp::delete())
        .and(request(context))
        .then(async |id, session, request| respond(stop(id, session, request).await));
    let list = warp::path!("api" / "projects" / String / "recordings")
        .and(warp::get())
        .and(request(context))
        .then(async |id, request| respond(list(id, request).await));
    let file = warp::path!("api" / "projects" / String / "recordings" / String);
    let read = file
        .and(warp::get())
        .and(request(context))
        .then(async |id, name, request| respond(read(id, name, request).await));
    let remove = file
        .and(warp::delete())
        .and(request(context))
        .then(async |id, name, request| respond(remove(id, name, request).await));
    record.or(stop).unify().or(list).unify().or(read).unify().or(remove).unify().boxed()
}

async fn record(id: String, session: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    let (id, session) = (project_id(&id)?, session_name(&session)?);
    let status = match request.context.projects.record(&id, &session).await? {
        Recorded::FromNow => StatusCode::CREATED,
        Recorded::Already => StatusCode::NO_CONTENT,
        Recorded::NoSession => return Err(Refusal::no_session(&id, &session)),
    };
    Ok(status.into_response())
}

async fn stop(id: String, session: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    let (id, session) = (project_id(&id)?, session_name(&session)?);
    if !request.context.projects.stop_recording(&id, &session).await? {
        return Err(Refusal::no_session(&id, &session));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn list(id: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    let recordings = request.context.projects.recordings(&project_id(&id)?).await?;
    Ok(warp::reply::json(&recordings).into_response())
}

async fn read(id: String, name: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    let (file, bytes) = request.context.projects.recording(&project_id(&id)?, recording_name(&name)?).await?;
    let mut response = warp::reply::stream(pieces(file, bytes)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, MEDIA_TYPE);
    headers.insert(CONTENT_LENGTH, bytes.into());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

async fn remove(id: String, name: String, request: Result<Request>) -> Result<Response> {
    let request = request?.without_query()?;
    request.context.projects.remove_recording(&project_id(&id)?, recording_name(&name)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A recording's name from an address.
fn recording_name(text: &str) -> Result<Name> {
    Name::parse(text)
        .ok_or_else(|| Refusal::Malformed(format!("recording {text:?}: a name is as the list of recordings shows it")))
}

/// So many bytes of a file, one piece after the other.
fn pieces(file: File, bytes: u64) -> impl Stream<Item = io::Result<Bytes>> {
    try_unfold((file, bytes), async |(mut file, left)| {
        if left == 0 {
            return Ok(None);
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES_MAX);
        let read = move || {
            let mut piece = vec![0; length];
            file.read_exact(&mut piece)?;
            Ok((Bytes::from(piece), (file, left - length as u64)))
        };
        tokio::task::spawn_blocking(read).await?.map(Some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;
    use std::io::{Seek, Write};

    #[test]
    fn a_file_comes_in_pieces_as_far_as_it_was_when_it_was_opened() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let written: Vec<u8> = (0..PIECE_BYTES_MAX * 5 / 2).map(|number| number as u8).collect();
        let read = |bytes: usize| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&written).unwrap();
            file.rewind().unwrap();
            runtime.block_on(pieces(file, bytes as u64).try_collect::<Vec<Bytes>>())
        };
        for bytes in [0, 1, PIECE_BYTES_MAX, written.len()] {
            let pieces = read(bytes).unwrap();
            assert_eq!(pieces.len(), bytes.div_ceil(PIECE_BYTES_MAX));
            assert_eq!(pieces.concat(), written[..bytes]);
        }
        assert!(read(written.len() + 1).is_err(), "an answer that is cut must not look whole");
    }
}
