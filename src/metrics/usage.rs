//! What projects' cells use, as the kernel counts it: told to who asks for it by name, since it takes the launcher's time and a
//! label for each project.

use sandbox::spec::ProjectId;
use sandbox::usage::{Stall, Usage};

use super::answer::Answer;

/// What was asked of projects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// What their cells use.
    pub(crate) usages: Vec<(ProjectId, Usage)>,
    /// How many more have a cell.
    pub(crate) unasked: usize,
}

/// What is so of one cell.
type Value = fn(&Usage) -> Option<f64>;

/// Gauges and counters with the label `project`. What this kernel doesn't count is left out.
const GAUGES: [(&str, &str, Value); 5] = [
    ("memory_bytes", "Memory of a project's cell, page cache included", |usage| usage.memory.bytes.map(number)),
    ("memory_limit_bytes", "The most that it may be", |usage| usage.memory.bytes_max.map(number)),
    ("cpu_limit_cores", "Processors that a project's cell may keep busy", |usage| {
        usage.cpu.millis_max.map(|millis| millis as f64 / 1e3)
    }),
    ("processes", "Processes and threads of a project's cell", |usage| usage.pids.count.map(number)),
    ("processes_limit", "The most that there may be", |usage| usage.pids.max.map(number)),
];
const COUNTERS: [(&str, &str, Value); 4] = [
    ("cpu_seconds_total", "Processor time of a project's cell", |usage| usage.cpu.used_us.map(seconds)),
    ("cpu_throttled_seconds_total", "How long a project's cell had used up its share of processors", |usage| {
        usage.cpu.throttled_us.map(seconds)
    }),
    ("oom_kills_total", "Programs of a project's cell that the kernel killed for want of memory", |usage| {
        Some(number(usage.memory.kills))
    }),
    ("processes_refused_total", "Processes that a project's cell was refused", |usage| {
        Some(number(usage.pids.refusals))
    }),
];

impl Answer {
    /// What was asked of projects.
    pub(super) fn put_usages(&self, asked: &Asked) {
        for (name, help, value) in GAUGES {
            let family = self.gauges(&format!("cloister_project_{name}"), help, &["project"]);
            for (project, value) in values(asked, value) {
                family.with_label_values(&[project]).set(value);
            }
        }
        for (name, help, value) in COUNTERS {
            let family = self.counters(&format!("cloister_project_{name}"), help, &["project"]);
            for (project, value) in values(asked, value) {
                family.with_label_values(&[project]).inc_by(value);
            }
        }
        let stalls = self.counters(
            "cloister_project_stalled_seconds_total",
            "How long some tasks of a project's cell, or all at once (full), waited for a resource",
            &["project", "resource", "tasks"],
        );
        for (project, usage) in &asked.usages {
            let pressure = &usage.pressure;
            let resources = [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)];
            for (resource, stall) in resources.into_iter().filter_map(|(resource, stall)| Some((resource, stall?))) {
                let Stall { some_us, full_us, .. } = stall;
                for (tasks, us) in [("some", some_us), ("full", full_us)] {
                    stalls.with_label_values(&[project.as_str(), resource, tasks]).inc_by(seconds(us));
                }
            }
        }
        self.gauge(
            "cloister_projects_unasked",
            "Projects with a cell that isn't told of: there are too many, or the launcher has too much to do",
            asked.unasked as f64,
        );
    }
}

fn values(asked: &Asked, value: Value) -> impl Iterator<Item = (&str, f64)> {
    asked.usages.iter().filter_map(move |(project, usage)| Some((project.as_str(), value(usage)?)))
}

fn number(count: u64) -> f64 {
    count as f64
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use sandbox::usage::{Cpu, Memory, Pids, Pressure};

    /// One project of which the kernel counts everything.
    pub(in super::super) fn one() -> Asked {
        let stall = Some(Stall { some_percent: 1.0, some_us: 2_500_000, full_percent: 0.0, full_us: 0 });
        let usage = Usage {
            memory: Memory { bytes: Some(1 << 20), bytes_peak: None, bytes_max: Some(1 << 30), kills: 3, victim: None },
            cpu: Cpu { used_us: Some(1_500_000), throttled_us: Some(0), millis_max: Some(1500) },
            pids: Pids { count: Some(2), peak: None, max: Some(40), refusals: 0 },
            pressure: Pressure { cpu: stall, memory: stall, io: stall },
        };
        Asked { usages: vec![(ProjectId::parse("demo").unwrap(), usage)], unasked: 7 }
    }

    #[test]
    fn usage_is_told_in_base_units_and_what_is_not_counted_not_at_all() {
        let text = |asked: &Asked| {
            let answer = Answer::default();
            answer.put_usages(asked);
            prometheus::TextEncoder::new().encode_to_string(&answer.gather()).unwrap()
        };
        let all = text(&one());
        for line in [
            "cloister_project_memory_bytes{project=\"demo\"} 1048576\n",
            "cloister_project_cpu_limit_cores{project=\"demo\"} 1.5\n",
            "cloister_project_cpu_seconds_total{project=\"demo\"} 1.5\n",
            "cloister_project_oom_kills_total{project=\"demo\"} 3\n",
            "cloister_project_stalled_seconds_total{project=\"demo\",resource=\"io\",tasks=\"some\"} 2.5\n",
            "cloister_projects_unasked 7\n",
        ] {
            assert!(all.contains(line), "{line} in\n{all}");
        }
        let mut asked = one();
        asked.usages[0].1 = Usage::default();
        let little = text(&asked);
        assert!(!little.contains("memory_bytes") && little.contains("oom_kills_total{project=\"demo\"} 0"), "{little}");
    }
}
