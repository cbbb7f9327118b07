//! Sets up what is exported and where to, by the variables that OpenTelemetry gives to that. They are the environment's and no keys
//! of the configuration, since whoever runs a collector sets them for every program alike.
//!
//! In two halves: the one before the server walls itself in, where names are found and certificates read, and no thread is
//! started; and the one after, in which the collector's port is all that can be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use super::collector::Collector;
use super::marks;
use super::queue::Queue;
use crate::cli::VERSION;
use crate::client::{ANSWER_WAIT_MAX, Address, Names};

/// How long it may take to find the collector's host by its name, in seconds.
const FIND_WAIT_S: u64 = 5;

/// How long the end of the server waits for the last spans to go: what the two seconds that are promised for it leave.
const FINISH_WAIT: Duration = Duration::from_millis(400);

/// What begins the targets of our spans.
const OURS: &str = "cloister";

/// What is exported, and where to.
pub(crate) struct Export {
    provider: SdkTracerProvider,
    queue: Queue,
    collector: Collector,
    resource: Resource,
    /// Until it is started.
    exporter: Option<SpanExporter>,
}

/// Looks into the environment for what is to be exported; `None` if nothing is. Call it as long as the process has one thread and
/// may read files. An error names the variable, and what to do.
pub(crate) fn prepare() -> anyhow::Result<Option<Export>> {
    let Some((name, url)) = super::endpoint(|name| std::env::var(name).ok()) else { return Ok(None) };
    if let Some((name, protocol)) = setting("PROTOCOL") {
        ensure!(
            protocol == "http/protobuf",
            "{name} is {protocol}, and only http/protobuf is spoken: set that, and the collector's port for it (mostly 4318)"
        );
    }
    let certificates = setting("CERTIFICATE").map(|(_, path)| PathBuf::from(path));
    let names = Names { url: name, certificates: "OTEL_EXPORTER_OTLP_CERTIFICATE" };
    let mut address = Address::parse_named(names, &url, certificates.as_deref())?;
    address.found = Some(find(&address.host, address.port).with_context(|| format!("{name}: find {}", address.host))?);
    let collector = Collector::new(address, wait()?);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(collector.clone())
        .with_protocol(Protocol::HttpBinary)
        .build()?;
    let (queue, resource) = (Queue::default(), resource());
    // The sampler is its own affair: OTEL_TRACES_SAMPLER.
    let provider =
        SdkTracerProvider::builder().with_resource(resource.clone()).with_span_processor(queue.clone()).build();
    Ok(Some(Export { provider, queue, collector, resource, exporter: Some(exporter) }))
}

impl Export {
    /// Makes spans of ours to spans for the collector, whatever is logged.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        marks::begin();
        // Nothing is done when a span is entered, which a client's is with every key.
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(OURS))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(
                filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with(OURS))
                    .with_max_level_hint(LevelFilter::DEBUG),
            )
    }

    /// The TCP port that is to be reached.
    pub(crate) fn port(&self) -> u16 {
        self.collector.address().port
    }

    /// Begins to send. Call it once, when the walls are up.
    pub(crate) fn start(&mut self, runtime: Handle) {
        if let Some(exporter) = self.exporter.take() {
            self.collector.open(runtime);
            self.queue.start(exporter, self.collector.clone(), &self.resource);
            tracing::info!(collector = self.collector.address().authority, "traces are exported");
        }
    }

    /// Sends what is left, as far as that is quickly done.
    pub(crate) fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FINISH_WAIT) {
            tracing::debug!(%error, "the last traces are lost");
        }
    }
}

/// A variable of the exporter's that is set, the one for traces alone first, with its value.
fn setting(name: &str) -> Option<(String, String)> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.into_iter().find_map(|name| {
        let text = std::env::var(&name).ok().filter(|text| !text.is_empty())?;
        Some((name, text))
    })
}

/// How long the collector may take for one batch.
fn wait() -> anyhow::Result<Duration> {
    let Some((name, text)) = setting("TIMEOUT") else { return Ok(ANSWER_WAIT_MAX) };
    let millis = text.parse().ok().filter(|millis| *millis > 0);
    let millis = millis.with_context(|| format!("{name} must be a number of milliseconds, is `{text}`"))?;
    Ok(ANSWER_WAIT_MAX.min(Duration::from_millis(millis)))
}

/// What the environment says of this process, and our name and version unless it says another.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let is_named = |name: &opentelemetry::Value| !name.as_str().starts_with("unknown_service");
    let resource = Resource::builder_empty().with_attribute(KeyValue::new("service.version", VERSION));
    let resource = resource.with_attributes(said.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
    if said.get(&"service.name".into()).as_ref().is_some_and(is_named) {
        resource.build()
    } else {
        resource.with_service_name(OURS).build()
    }
}

/// Finds a host, once for all: behind the walls no name can be looked up. A program does it, since a thread that waits for a
/// name server would stay outside of them.
fn find(host: &str, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let addresses: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        Err(_) if host == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        Err(_) => {
            let wait = FIND_WAIT_S.to_string();
            let mut command = Command::new("timeout");
            command.args([&wait, "getent", "ahosts", "--", host]).stdin(Stdio::null()).stderr(Stdio::null());
            let said = command.output().context("start getent")?.stdout;
            let lines = std::str::from_utf8(&said)?.lines();
            lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
        }
    };
    ensure!(
        !addresses.is_empty(),
        "it has no address, or none was found within {FIND_WAIT_S} s: name one, or restart the server once it has"
    );
    let mut found: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
    found.dedup();
    Ok(found)
}
