//! What is to go to the collector: bounded, and never waited for by who adds to it. What there is no room for is lost, and counted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

use super::collector::Collector;
use super::marks::{METHOD, ROUTE};

/// Most spans that wait, those on their way included: some MiB, and what a busy server makes in seconds.
const SPANS_MAX: usize = 2048;

/// The queue; cheap to clone. It takes nothing before it is started.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    batches: OnceLock<BatchSpanProcessor>,
    waiting: AtomicUsize,
    lost: AtomicU64,
}

impl Queue {
    /// Starts the thread that sends what is in it, a batch at a time.
    pub(super) fn start(&self, exporter: opentelemetry_otlp::SpanExporter, collector: Collector, resource: &Resource) {
        let exporter = Exporter { inner: exporter, queue: self.clone(), collector };
        let config = BatchConfigBuilder::default().with_max_queue_size(SPANS_MAX).build();
        let mut batches = BatchSpanProcessor::new(exporter, config);
        batches.set_resource(resource);
        let _ = self.0.batches.set(batches);
    }

    /// Takes a place, if there is one.
    fn enter(&self) -> bool {
        let entered = self.0.waiting.fetch_add(1, Ordering::Relaxed) < SPANS_MAX;
        if !entered {
            self.leave(1);
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    fn leave(&self, spans: usize) {
        self.0.waiting.fetch_sub(spans, Ordering::Relaxed);
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(batches) = self.0.batches.get()
            && self.enter()
        {
            batches.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.batches.get().map_or(Ok(()), SpanProcessor::force_flush)
    }

    fn shutdown_with_timeout(&self, wait: Duration) -> OTelSdkResult {
        self.0.batches.get().map_or(Ok(()), |batches| batches.shutdown_with_timeout(wait))
    }
}

/// Sends batches, and has it told how that goes.
#[derive(Debug)]
struct Exporter {
    inner: opentelemetry_otlp::SpanExporter,
    queue: Queue,
    collector: Collector,
}

impl SpanExporter for Exporter {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().for_each(finish);
        let spans = batch.len();
        let sent = self.inner.export(batch).await;
        self.queue.leave(spans);
        let crowded_out = self.queue.0.lost.swap(0, Ordering::Relaxed);
        self.collector.tell(&sent, spans as u64, crowded_out);
        sent
    }

    fn shutdown_with_timeout(&self, wait: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(wait)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Gives a span what its attributes make of it: those of a request a name and a kind by which collectors count requests. An
/// attribute that a field and a mark have in common is told once.
fn finish(span: &mut SpanData) {
    let mut names = HashSet::new();
    span.attributes.retain(|attribute| names.insert(attribute.key.clone()));
    let attribute = |name| span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    let text = |name| attribute(name).map(|attribute| attribute.value.as_str().into_owned());
    if let (Some(method), Some(route)) = (text(METHOD), text(ROUTE)) {
        span.name = format!("{method} {route}").into();
        span.span_kind = SpanKind::Server;
    }
}
