//! What the server counts, for Prometheus. Whoever does a thing adds to a plain atomic; nothing else happens until somebody
//! asks. It knows nobody who counts, and serves nothing.
//!
//! [`Now`] is what is the case when somebody asks, `process` what the kernel counts of this process, [`Asked`] what it counts
//! of projects' cells. No label has a value that a stranger could choose, but the projects' ids of the last.

mod answer;
mod process;
mod usage;

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use answer::Answer;
pub(crate) use answer::{Now, Room};
use process::Process;
pub(crate) use usage::Asked;

/// Upper bounds of an echo's buckets in seconds. What nobody notices ends at some 20 ms, what disturbs begins at 100.
const ECHO_BUCKETS: [f64; 14] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// Those of what the launcher does, in seconds: a cell takes some 5 ms on an idle machine, and 30 s are waited for.
const LAUNCH_BUCKETS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0, 30.0];

/// The values of labels. All are there from the beginning, so that the first failure is an increase.
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const LIMITS: [&str; 3] = ["memory", "pids", "disk"];
const REASONS: [&str; 8] = ["settings", "launcher", "busy", "cell", "io", "host_cells", "host_memory", "host_disk"];
const FORCED: [&str; 2] = ["false", "true"];
const VERBS: [&str; 9] = [
    "start_cell",
    "remove_cell",
    "remove_project",
    "set_limits",
    "usage",
    "freezer",
    "orphans",
    "unpack",
    "remove_layer",
];

/// All that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    process: Process,
    pub(crate) connections: IntGauge,
    pub(crate) connections_accepted: IntCounter,
    pub(crate) connections_refused: IntCounter,
    pub(crate) certificate_end: IntGauge,
    requests: IntCounterVec,
    pub(crate) websocket_received_bytes: IntCounter,
    pub(crate) websocket_sent_bytes: IntCounter,
    pub(crate) echo: Histogram,
    pub(crate) client_skips: IntCounter,
    /// Sessions with a client; told beside those without.
    pub(crate) sessions_attached: IntGauge,
    pub(crate) cells_started: IntCounter,
    pub(crate) cells_adopted: IntCounter,
    cells_ended: IntCounterVec,
    pub(crate) cells_frozen: IntCounter,
    pub(crate) cells_thawed: IntCounter,
    pub(crate) cells_stopped_idle: IntCounter,
    pub(crate) cell_thaw: Histogram,
    cell_start_failures: IntCounterVec,
    pub(crate) cell_start: Histogram,
    limits_met: IntCounterVec,
    launcher_requests: IntCounterVec,
    launcher_failures: IntCounterVec,
    pub(crate) launcher_request: Histogram,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// What this process counts. Called first before the process gives up reading `/proc`, if it is to know of itself.
pub(crate) fn metrics() -> &'static Metrics {
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let of = Families(Registry::new());
        Self {
            process: Process::open(),
            connections: of.gauge("cloister_connections", "Connections that are open, whatever is spoken on them"),
            connections_accepted: of.counter("cloister_connections_accepted_total", "Connections that were accepted"),
            connections_refused: of
                .counter("cloister_connections_refused_total", "Connections beyond the most there may be at once"),
            certificate_end: of.gauge(
                "cloister_certificate_end_timestamp_seconds",
                "When the certificate that is shown ends, in seconds since 1970; 0 without one",
            ),
            requests: of.counters(
                "cloister_http_requests_total",
                "Requests that were answered, by the class of the status; an upgrade to a WebSocket is 1xx",
                "status",
                &STATUSES,
            ),
            websocket_received_bytes: of.counter(
                "cloister_websocket_received_bytes_total",
                "Bytes in messages from WebSocket clients, without what frames and TCP add",
            ),
            websocket_sent_bytes: of.counter(
                "cloister_websocket_sent_bytes_total",
                "Bytes in messages to WebSocket clients, without what frames and TCP add",
            ),
            echo: of.histogram(
                "cloister_echo_seconds",
                "From input that was read from a client to the first output behind it that was written to that client's \
                 connection: the server's, the cell's and the program's part of an echo, without the network's",
                &ECHO_BUCKETS,
            ),
            client_skips: of.counter(
                "cloister_client_skips_total",
                "How often a client got a snapshot of its terminal in place of output, because it fell behind or the output \
                 was thrown away",
            ),
            sessions_attached: IntGauge::new("sessions_attached", "never told by itself").expect(NAMED),
            cells_started: of.counter("cloister_cells_started_total", "Cells that this server started"),
            cells_adopted: of.counter(
                "cloister_cells_adopted_total",
                "Running cells that this server found: an earlier server's, or those of commands",
            ),
            cells_ended: of.counters(
                "cloister_cells_ended_total",
                "Cells that ended, and whether by force since they didn't when they were told to",
                "forced",
                &FORCED,
            ),
            cells_frozen: of
                .counter("cloister_cells_frozen_total", "How often a cell was frozen, since nothing happened in it"),
            cells_thawed: of.counter("cloister_cells_thawed_total", "How often a frozen cell went on"),
            cells_stopped_idle: of.counter(
                "cloister_cells_stopped_idle_total",
                "Cells that were told to end, since nothing happened in them",
            ),
            cell_thaw: of.histogram(
                "cloister_cell_thaw_seconds",
                "From the first input for a frozen cell, or a request, until its processes were told to go on",
                &ECHO_BUCKETS,
            ),
            cell_start_failures: of.counters(
                "cloister_cell_start_failures_total",
                "Cells that were wanted and didn't start, by what was in the way: the project's settings or image, the \
                 launcher, too much to do, the cell itself, the server's files, a limit of the whole host",
                "reason",
                &REASONS,
            ),
            cell_start: of.histogram(
                "cloister_cell_start_seconds",
                "From asking the launcher for a cell to being connected to it, for cells that started",
                &LAUNCH_BUCKETS,
            ),
            limits_met: of.counters(
                "cloister_cell_limits_met_total",
                "How often a cell said that it met a limit: the kernel killed programs for want of memory, refused \
                 processes, or the disk was full. Several times within a second are one, of refused processes within 10 s",
                "limit",
                &LIMITS,
            ),
            launcher_requests: of.counters(
                "cloister_launcher_requests_total",
                "What was asked of the launcher",
                "verb",
                &VERBS,
            ),
            launcher_failures: of.counters(
                "cloister_launcher_failures_total",
                "What was asked of the launcher and failed, wasn't answered in time, or wasn't even passed on",
                "verb",
                &VERBS,
            ),
            launcher_request: of.histogram(
                "cloister_launcher_request_seconds",
                "From asking the launcher to its answer, waiting for earlier ones included",
                &LAUNCH_BUCKETS,
            ),
            registry: of.0,
        }
    }

    /// A request was answered with this status.
    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUSES.len());
        self.requests.with_label_values(&[STATUSES[class - 1]]).inc();
    }

    /// A cell has ended.
    pub(crate) fn cell_ended(&self, forced: bool) {
        self.cells_ended.with_label_values(&[FORCED[usize::from(forced)]]).inc();
    }

    /// A cell didn't start, for one of [`REASONS`].
    pub(crate) fn cell_failed(&self, reason: &'static str) {
        debug_assert!(REASONS.contains(&reason));
        self.cell_start_failures.with_label_values(&[reason]).inc();
    }

    /// A cell met one of [`LIMITS`].
    pub(crate) fn limit_met(&self, limit: &'static str) {
        debug_assert!(LIMITS.contains(&limit));
        self.limits_met.with_label_values(&[limit]).inc();
    }

    /// The launcher was asked for one of [`VERBS`].
    pub(crate) fn launcher_asked(&self, verb: &'static str, failed: bool) {
        debug_assert!(VERBS.contains(&verb));
        self.launcher_requests.with_label_values(&[verb]).inc();
        if failed {
            self.launcher_failures.with_label_values(&[verb]).inc();
        }
    }

    /// All of it as text (Prometheus' exposition format, version 0.0.4), with what is asked of projects if it was.
    pub(crate) fn text(&self, now: &Now, asked: Option<&Asked>) -> String {
        let present = Answer::default();
        present.put_now(now, self.sessions_attached.get());
        present.put_process(&self.process.look());
        if let Some(asked) = asked {
            present.put_usages(asked);
        }
        let families = [self.registry.gather(), present.gather()].concat();
        prometheus::TextEncoder::new().encode_to_string(&families).expect("all families have values")
    }
}

/// Why a family of ours can be made.
const NAMED: &str = "names and labels are written here";

/// Makes families that are told to whoever asks.
struct Families(Registry);

impl Families {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.told(IntCounter::new(name, help).expect(NAMED))
    }

    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let family = self.told(IntCounterVec::new(Opts::new(name, help), &[label]).expect(NAMED));
        values.iter().for_each(|value| drop(family.with_label_values(&[value])));
        family
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.told(IntGauge::new(name, help).expect(NAMED))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.told(Histogram::with_opts(options).expect(NAMED))
    }

    fn told<C: Collector + Clone + 'static>(&self, family: C) -> C {
        self.0.register(Box::new(family.clone())).expect("each has a name of its own");
        family
    }
}

#[cfg(test)]
mod tests {
    use prometheus::proto::{MetricFamily, MetricType};

    use super::*;

    /// All that can be told, by name.
    fn families() -> Vec<MetricFamily> {
        let present = Answer::default();
        present.put_now(&Now::default(), 0);
        present.put_process(&metrics().process.look());
        present.put_usages(&usage::tests::one());
        let mut families = [metrics().registry.gather(), present.gather()].concat();
        families.sort_by(|one, other| one.name().cmp(other.name()));
        families
    }

    /// The table of `docs/operations.md`.
    fn table() -> String {
        let mut table = "| metric | kind | unit | labels | meaning |\n|---|---|---|---|---|\n".to_owned();
        for family in families() {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                other => panic!("{other:?}"),
            };
            let name = family.name();
            let measured = name.trim_end_matches("_total");
            let unit = ["seconds", "bytes", "cores", "ratio"].into_iter().find(|unit| measured.ends_with(unit));
            let labels: Vec<_> = family.get_metric()[0].get_label().iter().map(|label| label.name()).collect();
            let (labels, help) = (labels.join(", "), family.help());
            table.push_str(&format!("| `{name}` | {kind} | {} | {labels} | {help} |\n", unit.unwrap_or("1")));
        }
        table
    }

    #[test]
    fn the_documentation_has_every_metric() {
        let text = include_str!("../../docs/operations.md");
        assert!(text.contains(&table()), "docs/operations.md needs this table:\n{}", table());
    }

    #[test]
    fn alerts_and_dashboard_ask_for_what_is_told() {
        let families = families();
        let known: Vec<_> = families.iter().map(MetricFamily::name).collect();
        for text in
            [include_str!("../../docs/monitoring/alerts.yml"), include_str!("../../docs/monitoring/dashboard.json")]
        {
            let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let names = words.filter(|word| ["cloister_", "process_"].iter().any(|start| word.starts_with(start)));
            let unknown: Vec<_> = names.filter(|name| !known.contains(&name.trim_end_matches("_bucket"))).collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn a_status_is_told_by_its_class() {
        let told = || metrics().text(&Now::default(), None);
        metrics().answered(http::StatusCode::IM_A_TEAPOT);
        assert!(!told().contains("cloister_http_requests_total{status=\"4xx\"} 0\n"));
        // What isn't a class of HTTP's is no reason to fail.
        metrics().answered(http::StatusCode::from_u16(999).unwrap());
        assert!(told().contains("cloister_http_requests_total{status=\"5xx\"}"));
    }
}
