//! What the table shows of each cell: as it is, and what has changed since the look before.

use std::collections::HashMap;

use sandbox::usage::{Pressure, Stall};
use serde::Serialize;

use super::ask::Look;
use crate::cli::SortBy;
use crate::project::Seen;

/// A cell as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) seen: Seen,
    /// In percent of one processor, since the look before; nothing before there is one.
    pub(super) cpu_percent: Option<f64>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rows(pub(super) Vec<Row>);

impl Rows {
    /// Compares two looks.
    pub(super) fn new(before: Option<&Look>, now: Look) -> Self {
        let used: HashMap<_, _> = before
            .iter()
            .flat_map(|before| &before.cells)
            .filter_map(|seen| Some((seen.project.clone(), used_us(seen)?)))
            .collect();
        // A server that was restarted counts anew.
        let passed_us = before.and_then(|before| now.at_us.checked_sub(before.at_us)).filter(|passed| *passed > 0);
        let row = |seen: Seen| {
            // So does a cell that was.
            let spent = used_us(&seen).zip(used.get(&seen.project)).and_then(|(now, before)| now.checked_sub(*before));
            let cpu_percent = spent.zip(passed_us).map(|(spent, passed)| spent as f64 * 100.0 / passed as f64);
            Row { seen, cpu_percent }
        };
        Self(now.cells.into_iter().map(row).collect())
    }

    /// The largest first; equals, and with them what isn't known, by id.
    pub(super) fn sorted(&self, by: SortBy) -> Vec<&Row> {
        let mut rows: Vec<_> = self.0.iter().collect();
        let number = |row: &Row| -> f64 {
            let usage = row.seen.usage.as_ref();
            let value = match by {
                SortBy::Cpu => row.cpu_percent,
                SortBy::Memory => usage.and_then(|usage| usage.memory.bytes).map(|bytes| bytes as f64),
                SortBy::Pids => usage.and_then(|usage| usage.pids.count).map(|count| count as f64),
                SortBy::Waiting => usage.map(|usage| waiting(&usage.pressure)),
                SortBy::Clients => row.seen.clients.map(|clients| clients as f64),
                SortBy::Uptime => row.seen.uptime_s.map(|seconds| seconds as f64),
                SortBy::Id => None,
            };
            value.unwrap_or(-1.0)
        };
        rows.sort_by(|one, other| {
            number(other).total_cmp(&number(one)).then_with(|| one.seen.project.cmp(&other.seen.project))
        });
        rows
    }
}

fn used_us(seen: &Seen) -> Option<u64> {
    seen.usage.as_ref()?.cpu.used_us
}

/// The most that some tasks wait for anything, in percent.
fn waiting(pressure: &Pressure) -> f64 {
    let stalls = [pressure.cpu, pressure.memory, pressure.io].into_iter().flatten();
    stalls.map(|Stall { some_percent, .. }| f64::from(some_percent)).fold(0.0, f64::max)
}

#[cfg(test)]
pub(super) mod tests {
    use sandbox::spec::ProjectId;
    use sandbox::usage::{Cpu, Memory, Pids, Usage};

    use super::*;
    use crate::cell::Phase;

    /// A cell with so much processor time, memory and clients.
    pub(in super::super) fn seen(project: &str, used_us: u64, bytes: u64, clients: usize) -> Seen {
        let usage = Usage {
            memory: Memory { bytes: Some(bytes), bytes_max: Some(2 << 30), ..Memory::default() },
            cpu: Cpu { used_us: Some(used_us), ..Cpu::default() },
            pids: Pids { count: Some(3), ..Pids::default() },
            pressure: Pressure { cpu: Some(Stall { some_percent: 1.5, ..Stall::default() }), ..Pressure::default() },
        };
        Seen {
            project: ProjectId::parse(project).unwrap(),
            state: Phase::Running,
            frozen: false,
            uptime_s: Some(90_061),
            sessions: Some(1),
            clients: Some(clients),
            usage: Some(usage),
        }
    }

    #[test]
    fn use_of_processors_is_what_was_used_between_two_looks() {
        let before = Look { at_us: 1_000_000, cells: vec![seen("a", 500, 0, 0), seen("restarted", 900, 0, 0)] };
        let cells = vec![seen("a", 1_500_500, 0, 0), seen("new", 9, 0, 0), seen("restarted", 10, 0, 0)];
        let rows = Rows::new(Some(&before), Look { at_us: 2_000_000, cells: cells.clone() });
        let percents: Vec<_> = rows.0.iter().map(|row| row.cpu_percent).collect();
        assert_eq!(percents, [Some(150.0), None, None]);
        let anew = Rows::new(Some(&before), Look { at_us: 7, cells });
        assert!(anew.0.iter().all(|row| row.cpu_percent.is_none()), "the server has started again");
    }

    #[test]
    fn rows_are_sorted_by_what_is_largest() {
        let unknown = Seen { usage: None, clients: None, ..seen("unknown", 0, 0, 0) };
        let cells = vec![seen("a", 0, 5, 1), seen("b", 0, 9, 0), unknown, seen("c", 0, 9, 7)];
        let rows = Rows::new(None, Look { at_us: 0, cells });
        let order = |by| rows.sorted(by).iter().map(|row| row.seen.project.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(order(SortBy::Memory), ["b", "c", "a", "unknown"]);
        assert_eq!(order(SortBy::Clients), ["c", "a", "b", "unknown"]);
        assert_eq!(order(SortBy::Id), ["a", "b", "c", "unknown"]);
        assert_eq!(order(SortBy::Waiting)[3], "unknown");
    }
}
