//! Lines of what is to be seen, as wide as it needs or as there is room. It draws nothing.

use sandbox::usage::Stall;

use super::rows::{Row, Rows};
use crate::cell::Phase;
use crate::client::without_controls;

/// Least width of the first column.
const ID_MIN: usize = 7;

/// All rows as JSON in one line.
pub(super) fn json(rows: &Rows) -> String {
    without_controls(&serde_json::json!({ "cells": rows.0 }).to_string())
}

/// A heading and all rows.
pub(super) fn whole(rows: &[&Row]) -> String {
    let width = width(rows);
    let lines = std::iter::once(heading(width)).chain(rows.iter().map(|row| line(row, width)));
    lines.map(|line| line + "\n").collect()
}

/// What fits a window of so many columns and lines: a summary, a heading, and the first rows.
pub(super) fn window(rows: &[&Row], summary: &str, cols: usize, lines: usize) -> Vec<String> {
    let room = lines.saturating_sub(2);
    // The last line says how many there are beyond.
    let shown = if rows.len() > room { room.saturating_sub(1) } else { rows.len() };
    let width = width(&rows[..shown]);
    let mut text = vec![summary.to_owned(), heading(width)];
    text.extend(rows[..shown].iter().map(|row| line(row, width)));
    if rows.len() > shown {
        text.push(format!("and {} more", rows.len() - shown));
    }
    // A letter is a column: ids are ASCII, and so is what is said of a server that doesn't answer.
    text.into_iter().take(lines).map(|line| line.chars().take(cols).collect()).collect()
}

/// What all cells use together.
pub(super) fn summary(rows: &Rows) -> String {
    let usages = || rows.0.iter().filter_map(|row| row.seen.usage.as_ref());
    let cpu: f64 = rows.0.iter().filter_map(|row| row.cpu_percent).sum();
    let memory: u64 = usages().filter_map(|usage| usage.memory.bytes).fold(0, u64::saturating_add);
    let limits: u64 = usages().filter_map(|usage| usage.memory.bytes_max).fold(0, u64::saturating_add);
    let clients: usize = rows.0.iter().filter_map(|row| row.seen.clients).sum();
    let count = rows.0.len();
    format!("{count} cells, {clients} clients, cpu {cpu:.0} %, memory {} of {}", bytes(memory), bytes(limits))
}

fn width(rows: &[&Row]) -> usize {
    rows.iter().map(|row| row.seen.project.as_str().len()).max().unwrap_or(0).max(ID_MIN)
}

fn heading(width: usize) -> String {
    columns(["PROJECT", "CPU%", "MEMORY", "LIMIT", "PIDS", "CPU-W", "MEM-W", "IO-W", "SESS", "CLNT", "UPTIME"], width)
}

fn line(row: &Row, width: usize) -> String {
    let seen = &row.seen;
    let usage = seen.usage.as_ref();
    let count = |count: Option<usize>| count.map_or("-".to_owned(), |count| count.to_string());
    let amount = |amount: Option<u64>| amount.map_or("-".to_owned(), bytes);
    let waits = |stall: Option<Stall>| stall.map_or("-".to_owned(), |stall| format!("{:.1}", stall.some_percent));
    let pressure = usage.map(|usage| usage.pressure.clone()).unwrap_or_default();
    let cpu = match seen.state {
        Phase::Running if seen.frozen => "frozen".to_owned(),
        Phase::Running => row.cpu_percent.map_or("-".to_owned(), |percent| format!("{percent:.1}")),
        Phase::Stopping | Phase::Gone => "ends".to_owned(),
    };
    let cells = [
        seen.project.to_string(),
        cpu,
        amount(usage.and_then(|usage| usage.memory.bytes)),
        amount(usage.and_then(|usage| usage.memory.bytes_max)),
        usage.and_then(|usage| usage.pids.count).map_or("-".to_owned(), |count| count.to_string()),
        waits(pressure.cpu),
        waits(pressure.memory),
        waits(pressure.io),
        count(seen.sessions),
        count(seen.clients),
        seen.uptime_s.map_or("-".to_owned(), time),
    ];
    columns(cells.each_ref().map(String::as_str), width)
}

/// The first on the left, the others on the right of theirs.
fn columns(
    [id, cpu, memory, limit, pids, cpu_waits, memory_waits, io_waits, sessions, clients, uptime]: [&str; 11],
    width: usize,
) -> String {
    format!(
        "{id:width$} {cpu:>6} {memory:>7} {limit:>7} {pids:>5} {cpu_waits:>5} {memory_waits:>5} {io_waits:>5} {sessions:>4} \
         {clients:>4} {uptime:>8}"
    )
}

/// An amount in five letters or less, by units of 1024.
fn bytes(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "K", "M", "G", "T"] {
        // What would be rounded to four digits is one of the next unit.
        if amount < 999.5 {
            let digits = usize::from(amount < 9.95 && unit != "B");
            return format!("{amount:.digits$}{unit}");
        }
        amount /= 1024.0;
    }
    format!("{amount:.0}P")
}

/// A time by its two largest units.
fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ask::Look;
    use super::super::rows::tests::seen;
    use super::*;
    use crate::cli::SortBy;
    use crate::project::Seen;

    fn rows(count: usize) -> Rows {
        let cells = |used: u64| (0..count).map(|n| seen(&format!("p{n}"), used * n as u64, 300 << 20, n)).collect();
        let before = Look { at_us: 0, cells: cells(0) };
        Rows::new(Some(&before), Look { at_us: 1_000_000, cells: cells(125_000) })
    }

    #[test]
    fn a_row_has_every_column() {
        let mut rows = rows(2);
        rows.0[0].seen = Seen { usage: None, sessions: None, clients: None, uptime_s: None, ..rows.0[0].seen.clone() };
        rows.0[0].cpu_percent = None;
        assert_eq!(
            whole(&rows.sorted(SortBy::Cpu)),
            "PROJECT   CPU%  MEMORY   LIMIT  PIDS CPU-W MEM-W  IO-W SESS CLNT   UPTIME\n\
             p1        12.5    300M    2.0G     3   1.5     -     -    1    1    1d01h\n\
             p0           -       -       -     -     -     -     -    -    -        -\n"
        );
        assert_eq!(summary(&rows), "2 cells, 1 clients, cpu 12 %, memory 300M of 2.0G");
    }

    #[test]
    fn a_window_is_never_left() {
        let rows = rows(300);
        let sorted = rows.sorted(SortBy::Id);
        for (cols, lines) in [(80, 24), (1, 1), (12, 2), (2000, 3), (40, 1000), (0, 0)] {
            let text = window(&sorted, "summary", cols, lines);
            assert!(text.len() <= lines && text.iter().all(|line| line.len() <= cols), "{cols}x{lines}");
        }
        let text = window(&sorted, "summary", 80, 10);
        assert_eq!((text[2].split(' ').next(), text[9].as_str()), (Some("p0"), "and 293 more"));
        assert_eq!(window(&sorted[..3], "summary", 80, 10).len(), 5);
    }

    #[test]
    fn amounts_and_times_are_short() {
        let amounts = [0, 999, 1000, 1 << 20, 10 << 20, 1023 << 20, u64::MAX].map(bytes);
        assert_eq!(amounts, ["0B", "999B", "1.0K", "1.0M", "10M", "1.0G", "16384P"]);
        assert_eq!([0, 59, 60, 3661, 86_400, 900_000].map(time), ["0s", "59s", "1m00s", "1h01m", "1d00h", "10d10h"]);
    }
}
