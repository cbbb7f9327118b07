//! What all cells of this host may have together: how near the limits are, and whether the disks have what is to stay free.

use std::path::Path;

use rustix::fs::statvfs;
use sandbox::admission::Promised;

use super::Finding;
use super::state::present;
use crate::config::Config;

/// All findings about the whole host.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![cells(config)];
    if config.cgroup != "none" {
        findings.push(memory(config.host.memory_percent_max, Promised::look(&config.cgroup)));
    }
    findings.push(disks(config));
    findings
}

fn cells(config: &Config) -> Finding {
    const THING: &str = "cells";
    // A socket each; those of dead cells are told of as leftovers.
    let running = std::fs::read_dir(config.run_dir.join("cells")).map_or(0, Iterator::count);
    match config.host.cells_max as usize {
        0 => Finding::ok(THING, format!("{running} run; host.cells_max sets no limit")),
        max if running >= max => Finding::lacks(
            THING,
            format!("{running} run, and host.cells_max is {max}: no other one starts"),
            "stop one (cloister project stop <id>), or raise it",
        ),
        max => Finding::ok(THING, format!("{running} of {max} run")),
    }
}

fn memory(percent_max: u32, promised: std::io::Result<Promised>) -> Finding {
    const THING: &str = "memory promised";
    let Promised { bytes_given, bytes_there } = match promised {
        Ok(promised) => promised,
        Err(error) => return Finding::lacks(THING, format!("unknown: {error}"), "see whether cgroups are mounted"),
    };
    let percent = u128::from(bytes_given) * 100 / u128::from(bytes_there.max(1));
    let detail = format!("{} of {} MiB, {percent} %", bytes_given >> 20, bytes_there >> 20);
    match percent_max {
        0 => Finding::ok(THING, format!("{detail}; host.memory_percent_max sets no limit")),
        max if percent >= u128::from(max) => Finding::lacks(
            THING,
            format!("{detail}, and host.memory_percent_max is {max}: no other cell starts"),
            "stop one (cloister project stop <id>), lower limits.memory_bytes_max, or raise it",
        ),
        max => Finding::ok(THING, format!("{detail}; {max} % may be")),
    }
}

fn disks(config: &Config) -> Finding {
    const THING: &str = "disk reserve";
    let reserve = config.host.disk_reserve_bytes;
    if reserve == 0 {
        let detail = "none: cells and images may fill the disks of state and projects";
        return Finding::lacks(THING, detail, "set host.disk_reserve_bytes");
    }
    match [&config.state, &config.projects].into_iter().find_map(|folder| short(folder, reserve)) {
        None => Finding::ok(THING, format!("{} MiB stay free", reserve >> 20)),
        Some(detail) => {
            Finding::fails(THING, detail, "make room (cloister image prune), or lower host.disk_reserve_bytes")
        }
    }
}

/// What is wrong with a folder's disk if less is free than is to stay so.
fn short(folder: &Path, reserve: u64) -> Option<String> {
    let free = statvfs(present(folder)).ok()?;
    let bytes = free.f_bavail.saturating_mul(free.f_frsize);
    let folder = folder.display();
    (bytes < reserve).then(|| {
        format!(
            "{} MiB are free where {folder} lies, and {} are to stay so: no cell starts",
            bytes >> 20,
            reserve >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_limit_that_is_reached_is_told_before_somebody_runs_into_it() {
        let promised = |given: u64| Ok(Promised { bytes_given: given << 30, bytes_there: 4 << 30 });
        assert_eq!(memory(0, promised(8)).detail, "8192 of 4096 MiB, 200 %; host.memory_percent_max sets no limit");
        assert_eq!(memory(150, promised(5)).detail, "5120 of 4096 MiB, 125 %; 150 % may be");
        assert_eq!(memory(150, promised(6)).state, State::Lacks);
    }

    #[test]
    fn disks_without_room_let_no_cell_start() {
        let mut config = Config { state: "/".into(), projects: "/tmp".into(), ..Config::default() };
        config.host.disk_reserve_bytes = u64::MAX;
        assert_eq!(disks(&config).state, State::Fails);
        config.host.disk_reserve_bytes = 1;
        assert_eq!(disks(&config).state, State::Ok);
        config.host.disk_reserve_bytes = 0;
        assert_eq!(disks(&config).state, State::Lacks);
    }
}
