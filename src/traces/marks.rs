//! What a collector is told of a span besides its fields, so that the log stays as it is. Nothing is done where nothing is exported.
//!
//! Attributes are named as OpenTelemetry's semantic conventions for HTTP servers have them. A span's name and kind follow from them
//! when it goes (`queue`).

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, Request, StatusCode};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, Status, TraceContextExt, TraceFlags, TraceState};
use opentelemetry::{Context, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::proxy::Caller;

pub(super) const METHOD: &str = "http.request.method";
pub(super) const ROUTE: &str = "http.route";
const STATUS: &str = "http.response.status_code";
const CLIENT: &str = "client.address";

/// What asks every few seconds how the server is. Of these there are no traces, unless `OTEL_TRACES_SAMPLER` wants one of each.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The words of our paths. What else stands there is a name, or anything that somebody typed.
const WORDS: [&str; 19] = [
    "",
    "api",
    "assets",
    "cells",
    "healthz",
    "metrics",
    "p",
    "projects",
    "readyz",
    "recording",
    "recordings",
    "seen",
    "sessions",
    "size",
    "stop",
    "terminal",
    "usage",
    "why",
    "ws",
];

/// Longest `traceparent` and `tracestate` that are taken, in bytes: as long as the latter must be passed on (W3C Trace Context,
/// section 3.3.1.5). They last as long as their span.
const HEADER_BYTES_MAX: usize = 512;

/// Whether anything is exported.
static EXPORTS: AtomicBool = AtomicBool::new(false);

/// Has all of this happen from now on.
pub(super) fn begin() {
    EXPORTS.store(true, Ordering::Relaxed);
}

fn exports() -> bool {
    EXPORTS.load(Ordering::Relaxed)
}

/// Says of a request's span what is asked, and by whom. It goes on with the trace of a proxy that is trusted; whatever others say
/// could be made up, and would choose what is sampled.
pub(crate) fn asked<B>(span: &Span, request: &Request<B>, caller: &Caller) {
    if !exports() {
        return;
    }
    let path = request.uri().path();
    let parent = if PROBES.contains(&path.trim_end_matches('/')) {
        Some(unsampled())
    } else {
        caller.trusted.then(|| continued(request.headers())).flatten()
    };
    if let Some(parent) = parent {
        // It has no children yet, with which it would have begun.
        let _ = span.set_parent(parent);
    }
    span.set_attribute(METHOD, method(request.method().as_str()));
    span.set_attribute(ROUTE, route(path));
    span.set_attribute(CLIENT, caller.client.0.ip().to_canonical().to_string());
}

/// Says of the current span, a request's, how it was answered.
pub(crate) fn answered(status: StatusCode) {
    if !exports() {
        return;
    }
    let span = Span::current();
    span.set_attribute(STATUS, i64::from(status.as_u16()));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
}

/// Says something of the current span.
pub(crate) fn note(name: &'static str, value: &impl Display) {
    if exports() {
        Span::current().set_attribute(name, value.to_string());
    }
}

/// Says of the current span that what it stands for has failed.
pub(crate) fn failed(error: &impl Display) {
    if exports() {
        Span::current().set_status(Status::error(error.to_string()));
    }
}

/// Makes a span that has just begun a part of the trace that an earlier one is in, below it.
pub(crate) fn follow(span: &Span, earlier: &Span) {
    if exports() {
        // As above.
        let _ = span.set_parent(earlier.context());
    }
}

/// The parent of what isn't to be traced.
fn unsampled() -> Context {
    let ids = RandomIdGenerator::default();
    let (trace, span) = (ids.new_trace_id(), ids.new_span_id());
    let parent = SpanContext::new(trace, span, TraceFlags::NOT_SAMPLED, true, TraceState::default());
    Context::new().with_remote_span_context(parent)
}

/// The span that a request comes from, if its headers name one (W3C Trace Context).
fn continued(headers: &HeaderMap) -> Option<Context> {
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    parent.has_active_span().then_some(parent)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key).filter(|value| value.len() <= HEADER_BYTES_MAX)?;
        value.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// A method of HTTP; others are a stranger's words.
fn method(text: &str) -> Value {
    const KNOWN: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == text).unwrap_or("_OTHER").into()
}

/// A path without what isn't ours.
fn route(path: &str) -> String {
    let ours = |word| WORDS.into_iter().find(|known| *known == word).unwrap_or("{}");
    path.split('/').skip(1).map(ours).fold(String::new(), |route, word| route + "/" + word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_path_its_words_are_told() {
        for (path, expected) in [
            ("/", "/"),
            ("/p/demo", "/p/{}"),
            ("/ws/terminal/demo/", "/ws/terminal/{}/"),
            ("/ws/terminal/demo/&token=secret", "/ws/terminal/{}/{}"),
            ("/api/projects/demo/sessions/main/size", "/api/projects/{}/sessions/{}/size"),
            ("*", ""),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
        assert_eq!(method("GET").as_str(), "GET");
        assert_eq!(method("SECRET").as_str(), "_OTHER");
    }

    #[test]
    fn a_parent_is_taken_as_it_is_specified() {
        let parent = |said: &[(&'static str, &str)]| {
            let headers = said.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            continued(&headers).map(|context| context.span().span_context().clone())
        };
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let header = format!("00-{trace}-{span}-01");
        let found = parent(&[("traceparent", &header), ("tracestate", "a=b")]).unwrap();
        assert_eq!((found.trace_id().to_string(), found.span_id().to_string()), (trace.to_owned(), span.to_owned()));
        assert!(found.is_sampled() && found.is_remote());
        assert_eq!(found.trace_state().get("a"), Some("b"));
        let long = format!("a={}", "b".repeat(HEADER_BYTES_MAX));
        let found = parent(&[("traceparent", &header), ("tracestate", &long)]).unwrap();
        assert_eq!(found.trace_state().header(), "");
        let nothing = format!("00-{}-{span}-01", "0".repeat(32));
        let further = format!("{header}-{}", "0".repeat(600));
        for wrong in [
            "",
            "00",
            &nothing,
            &further,
            &header.to_uppercase(),
            "00-x-y-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-1-01",
        ] {
            assert_eq!(parent(&[("traceparent", wrong)]), None, "{wrong}");
        }
        assert_eq!(parent(&[("tracestate", "a=b")]), None);
    }
}
