//! Traces for a collector that speaks OpenTelemetry's protocol (OTLP) over HTTP, if the environment names one: requests, the lives of
//! WebSocket clients and of cells, and what the start of a cell takes its time for.
//!
//! Spans are `tracing`'s, made where things happen; here is what becomes of them. [`export`] is set up by the variables that
//! OpenTelemetry gives to that, `marks` says of a span what its fields don't, `queue` holds what is to go, and loses what it has no
//! room for, `collector` sends it. Without the feature `otel` all of it is `absent`. No event of the log is exported, no query, no
//! header, and of a path the words that we know.

#[cfg(not(feature = "otel"))]
mod absent;
#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod export;
#[cfg(feature = "otel")]
mod marks;
#[cfg(feature = "otel")]
mod queue;

#[cfg(not(feature = "otel"))]
pub(crate) use absent::{Export, answered, asked, failed, follow, note, prepare};
#[cfg(feature = "otel")]
pub(crate) use export::{Export, prepare};
#[cfg(feature = "otel")]
pub(crate) use marks::{answered, asked, failed, follow, note};

/// The variables that name a collector, the one for traces alone first.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The address of a collector and the variable that says it; `None` if nothing is to be exported.
fn endpoint(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    let set = |name| variable(name).filter(|text| !text.is_empty());
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    if disabled || set("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none") {
        return None;
    }
    ENDPOINTS.iter().find_map(|name| Some((*name, set(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_exported_unless_an_endpoint_is_set() {
        let asked = |variables: &[(&str, &str)]| {
            let variable =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
            endpoint(variable).map(|(name, text)| format!("{name}={text}"))
        };
        let (any, own) =
            (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b"));
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_SERVICE_NAME", "x")]), None);
        assert_eq!(asked(&[any]).as_deref(), Some("OTEL_EXPORTER_OTLP_ENDPOINT=http://a"));
        assert_eq!(asked(&[any, own]).as_deref(), Some("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://b"));
        assert_eq!(asked(&[any, ("OTEL_SDK_DISABLED", "true")]), None);
        assert_eq!(asked(&[any, ("OTEL_TRACES_EXPORTER", "none")]), None);
    }
}
