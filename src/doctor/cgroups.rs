//! Whether the limits of a cell can be enforced: each controller on version 2, else on version 1, and writable.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use sandbox::measures::delegated;
use sandbox::spec::ProjectId;

use super::{Finding, kernel_text};
use crate::cell::spoken;
use crate::config::Config;

/// What a cell is limited by.
const CONTROLLERS: [(&str, &str); 3] =
    [("memory", "memory limit"), ("cpu", "processor limit"), ("pids", "process limit")];

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy<'a> {
    place: &'a str,
    unified: bool,
    writable: bool,
    options: &'a str,
}

/// All findings about cgroups.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    if config.cgroup == "none" {
        let remedy = "set cgroup to another name";
        let what = "none, as configured: no limit of memory, processor and processes";
        return vec![Finding::lacks("cgroups", what, remedy), freezing(config, false)];
    }
    let mounts = kernel_text("/proc/self/mountinfo");
    let hierarchies = hierarchies(&mounts);
    let unified = hierarchies.iter().find(|hierarchy| hierarchy.unified);
    let user = geteuid();
    if !user.is_root() {
        let delegated = unified.and_then(|unified| delegated(Path::new(unified.place), user.as_raw()));
        let freezing = freezing(config, delegated.is_some());
        return vec![delegation(delegated), freezing];
    }
    // Of a group that exists already, what reached it counts; else what the root can hand down.
    let offered = unified.map(|hierarchy| {
        let group = Path::new(hierarchy.place).join(&config.cgroup);
        let own = kernel_text(&group.join("cgroup.controllers").display().to_string());
        if group.is_dir() { own } else { kernel_text(&format!("{}/cgroup.controllers", hierarchy.place)) }
    });
    let mut findings = vec![life_cycle(unified)];
    findings.extend(CONTROLLERS.map(|(controller, thing)| limit(controller, thing, &hierarchies, offered.as_deref())));
    findings.push(freezing(config, unified.is_some_and(|unified| unified.writable)));
    findings
}

/// Whether cells in which nothing happens can be frozen: a group of version 2 has a freezer, with controllers or without.
fn freezing(config: &Config, unified: bool) -> Finding {
    const THING: &str = "idle cells";
    let after = |seconds: u64, verb: &str| match seconds {
        0 => format!("never {verb}"),
        _ => format!("{verb} after {}", spoken(Duration::from_secs(seconds))),
    };
    let both = [after(config.idle_freeze_s, "frozen"), after(config.idle_stop_s, "stopped")].join(", ");
    if unified || (config.idle_freeze_s, config.idle_stop_s) == (0, 0) {
        return Finding::ok(THING, both);
    }
    Finding::lacks(
        THING,
        "cells have no cgroup of version 2, so they are neither frozen nor stopped when nothing happens in them",
        "see cgroups above; or set idle_freeze_s = 0 and idle_stop_s = 0",
    )
}

/// Whether an ordinary user's cells can be limited, by what a service manager has delegated.
fn delegation(delegated: Option<PathBuf>) -> Finding {
    const THING: &str = "cgroups";
    let Some(group) = delegated else {
        return Finding::fails(
            THING,
            "none is delegated to this user, so cells can't be limited",
            "start it by `systemd-run --user --scope cloister` or as a user's service; or set cgroup = \"none\"",
        );
    };
    let offered = kernel_text(&group.join("cgroup.controllers").display().to_string());
    let missing = CONTROLLERS.iter().find(|(name, _)| !offered.split_whitespace().any(|one| one == *name));
    match missing {
        None => Finding::ok(THING, format!("{} is delegated", group.display())),
        Some((name, thing)) => Finding::fails(
            THING,
            format!("{} has no controller {name}, so there is no {thing}", group.display()),
            format!("have {name} delegated: as root, Delegate=cpu memory pids in a drop-in of user@.service"),
        ),
    }
}

/// The folders of a cell's group, in each hierarchy that has one.
pub(super) fn groups(config: &Config, project: &ProjectId) -> Vec<PathBuf> {
    let mounts = kernel_text("/proc/self/mountinfo");
    let below = |hierarchy: &Hierarchy<'_>| Path::new(hierarchy.place).join(&config.cgroup).join(project.as_str());
    hierarchies(&mounts).iter().map(below).filter(|group| group.is_dir()).collect()
}

/// Version 2 starts a process in its group and kills a group in one call.
fn life_cycle(unified: Option<&Hierarchy<'_>>) -> Finding {
    const THING: &str = "cgroup v2";
    match unified {
        None => Finding::lacks(
            THING,
            "not mounted; ending a cell takes longer",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        ),
        Some(Hierarchy { writable: false, place, .. }) => Finding::fails(
            THING,
            format!("{place} is read-only"),
            "run outside of the container, or delegate it (docker and podman: --cgroupns=private and a writable mount)",
        ),
        Some(hierarchy) => Finding::ok(THING, hierarchy.place),
    }
}

fn limit(controller: &str, thing: &'static str, hierarchies: &[Hierarchy<'_>], offered: Option<&str>) -> Finding {
    let on_unified = offered.is_some_and(|offered| offered.split_whitespace().any(|one| one == controller));
    if on_unified {
        return Finding::ok(thing, "cgroup v2");
    }
    let old = hierarchies
        .iter()
        .find(|hierarchy| !hierarchy.unified && hierarchy.options.split(',').any(|option| option == controller));
    match old {
        Some(hierarchy) if hierarchy.writable => Finding::ok(thing, format!("cgroup v1 at {}", hierarchy.place)),
        Some(hierarchy) => {
            Finding::fails(thing, format!("{} is read-only", hierarchy.place), "run outside of the container")
        }
        None => Finding::fails(
            thing,
            format!("no cgroup controller {controller}"),
            format!(
                "have it delegated (systemd: Delegate={controller}), or boot with systemd.unified_cgroup_hierarchy=1{}",
                if controller == "memory" { " cgroup_enable=memory" } else { "" }
            ),
        ),
    }
}

/// The hierarchies in a list of mounts (proc_pid_mountinfo(5)).
fn hierarchies(mounts: &str) -> Vec<Hierarchy<'_>> {
    let hierarchy = |line| -> Option<Hierarchy<'_>> {
        let (fields, rest): (&str, &str) = str::split_once(line, " - ")?;
        let mut fields = fields.split(' ').skip(4);
        let (place, flags) = (fields.next()?, fields.next()?);
        let mut rest = rest.split(' ');
        let (kind, options) = (rest.next()?, rest.nth(1)?);
        let read_only = |options: &str| options.split(',').any(|option| option == "ro");
        let writable = !read_only(flags) && !read_only(options);
        ["cgroup", "cgroup2"].contains(&kind).then_some(Hierarchy {
            place,
            unified: kind == "cgroup2",
            writable,
            options,
        })
    };
    mounts.lines().filter_map(hierarchy).collect()
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    const HYBRID: &str = "40 31 0:37 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
                          41 31 0:38 / /sys/fs/cgroup/unified ro,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                          42 31 0:39 / /proc rw - proc proc rw\n";

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let found = hierarchies(HYBRID);
        let expected = [
            Hierarchy { place: "/sys/fs/cgroup/pids", unified: false, writable: true, options: "rw,pids" },
            Hierarchy { place: "/sys/fs/cgroup/unified", unified: true, writable: false, options: "rw,nsdelegate" },
        ];
        assert_eq!(found, expected);
        assert_eq!(life_cycle(found.get(1)).state, State::Fails);
    }

    #[test]
    fn idle_cells_need_version_2_if_something_is_to_become_of_them() {
        let config = Config::default();
        assert_eq!(freezing(&config, true).detail, "frozen after 30 min, never stopped");
        assert_eq!(freezing(&config, false).state, State::Lacks);
        let never = Config { idle_freeze_s: 0, ..config };
        assert_eq!(freezing(&never, false), Finding::ok("idle cells", "never frozen, never stopped"));
    }

    #[test]
    fn a_controller_is_taken_where_it_is() {
        let found = hierarchies(HYBRID);
        let detail = |offered| limit("pids", "process limit", &found, offered).detail;
        assert_eq!(detail(Some("cpu pids")), "cgroup v2");
        assert_eq!(detail(Some("hugetlb")), "cgroup v1 at /sys/fs/cgroup/pids");
        assert_eq!(limit("memory", "memory limit", &found, None).state, State::Fails);
    }
}
