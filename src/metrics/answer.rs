//! Families made for one answer, of what is so when it is asked: nothing of them is kept, so two answers at once don't meet.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Opts, Registry};

use super::NAMED;
use super::process::Look;

/// What is so now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Which version this is.
    pub(crate) version: &'static str,
    /// Clients on WebSockets.
    pub(crate) clients: usize,
    /// Cells in which sessions can be opened, the frozen ones apart; that were told to end, and that are just being started or
    /// removed.
    pub(crate) running: usize,
    pub(crate) frozen: usize,
    pub(crate) stopping: usize,
    pub(crate) changing: usize,
    /// Sessions in all of them.
    pub(crate) sessions: usize,
    /// What is left where the state lies, and where projects do.
    pub(crate) state: Room,
    pub(crate) projects: Room,
}

/// What is left of a file system for who isn't root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// In bytes.
    pub(crate) bytes: u64,
    /// How many files more; as many as there can be where files are made as they come.
    pub(crate) files: u64,
}

/// The families of one answer.
#[derive(Default)]
pub(super) struct Answer(Registry);

impl Answer {
    /// What the server knows of the moment.
    pub(super) fn put_now(&self, now: &Now, attached: i64) {
        let build = self.gauges("cloister_build_info", "The version that runs; always 1", &["version"]);
        build.with_label_values(&[now.version]).set(1.0);
        self.gauge("cloister_websocket_clients", "Clients on WebSockets", now.clients as f64);
        let cells = self.gauges(
            "cloister_cells",
            "Cells: those in which sessions can be opened, the frozen ones apart, that were told to end, that are just being \
             started or removed",
            &["state"],
        );
        for (state, count) in
            [("running", now.running), ("frozen", now.frozen), ("stopping", now.stopping), ("changing", now.changing)]
        {
            cells.with_label_values(&[state]).set(count as f64);
        }
        let sessions = self.gauges("cloister_sessions", "Sessions with a client, and without", &["state"]);
        // Counted one after the other: the last client of a session that has just ended may still be there.
        let attached = usize::try_from(attached).unwrap_or(0).min(now.sessions);
        for (state, count) in [("attached", attached), ("detached", now.sessions - attached)] {
            sessions.with_label_values(&[state]).set(count as f64);
        }
        let bytes =
            self.gauges("cloister_folder_free_bytes", "Room for who isn't root on a folder's disk", &["folder"]);
        let files =
            self.gauges("cloister_folder_free_files", "How many files more a folder's disk has room for", &["folder"]);
        for (folder, room) in [("state", now.state), ("projects", now.projects)] {
            bytes.with_label_values(&[folder]).set(room.bytes as f64);
            files.with_label_values(&[folder]).set(room.files as f64);
        }
    }

    /// What the kernel says of this process, by the names that all of Prometheus' libraries have for it.
    pub(super) fn put_process(&self, look: &Look) {
        self.gauge("process_resident_memory_bytes", "Memory of the server that is in RAM", look.resident_bytes);
        self.gauge("process_virtual_memory_bytes", "Memory of the server that has an address", look.virtual_bytes);
        self.gauge("process_threads", "Threads of the server", look.threads);
        self.gauge("process_open_fds", "Descriptors that the server has open", look.descriptors);
        self.gauge("process_max_fds", "Descriptors that the server may have open", look.descriptors_max);
        self.gauge("process_start_time_seconds", "When the server started, since 1970", look.started_s);
        let cpu = Counter::new("process_cpu_seconds_total", "Processor time of the server, user's and system's");
        self.told(cpu.expect(NAMED)).inc_by(look.cpu_s);
    }

    pub(super) fn gauge(&self, name: &str, help: &str, value: f64) {
        self.told(Gauge::new(name, help).expect(NAMED)).set(value);
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.told(GaugeVec::new(Opts::new(name, help), labels).expect(NAMED))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.told(CounterVec::new(Opts::new(name, help), labels).expect(NAMED))
    }

    fn told<C: Collector + Clone + 'static>(&self, family: C) -> C {
        self.0.register(Box::new(family.clone())).expect("each has a name of its own");
        family
    }

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }
}
