//! What the machine has: privilege, the service user, free host ids, limits of processes, memory.

use std::io::ErrorKind;
use std::process::Command;

use rustix::process::{Resource, geteuid, getrlimit};
use sandbox::privilege::ServiceUser;
use sandbox::rootless;

use super::{Finding, kernel_text};
use crate::config::Config;

/// First host id that cells use, and the first that they don't: see the launcher's id ranges.
const CELL_IDS: std::ops::Range<u64> = 0x1000_0000..0xffff_0000;

/// What the launcher does its work with: bit (linux/capability.h) and name.
const CAPABILITIES: [(u32, &str); 10] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (3, "FOWNER"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (18, "SYS_CHROOT"),
    (21, "SYS_ADMIN"),
    (27, "MKNOD"),
];

/// The one whose absence costs something, but no cell.
const SYS_RESOURCE: u32 = 24;

/// All findings about the machine.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let status = kernel_text("/proc/self/status");
    let mut findings = if geteuid().is_root() {
        vec![privilege(capabilities(&status)), resources(capabilities(&status)), service_user(config), ids(config)]
    } else {
        vec![subordinate_ids(), map_programs()]
    };
    findings.extend([
        open_files(getrlimit(Resource::Nofile).maximum, config.limits.open_files_max),
        memory(&kernel_text("/proc/meminfo"), config.limits.memory_bytes_max),
    ]);
    findings
}

/// The effective set in /proc/self/status (proc_pid_status(5)).
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

/// The ids that the host gives an ordinary user for cells.
fn subordinate_ids() -> Finding {
    const THING: &str = "ids for cells";
    match rootless::ids() {
        Ok([uid, gid]) => Finding::ok(THING, format!("user ids from {uid}, group ids from {gid}")),
        Err(reason) => {
            let (detail, remedy) = reason.split_once(": as root, ").unwrap_or((&reason, "mend that file"));
            Finding::fails(THING, detail, format!("as root, {remedy}"))
        }
    }
}

/// The programs that may map those ids.
fn map_programs() -> Finding {
    const THING: &str = "id maps";
    let absent =
        |program: &&str| Command::new(program).output().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    match ["newuidmap", "newgidmap"].into_iter().find(absent) {
        Some(program) => Finding::fails(THING, format!("no {program}"), "apt install uidmap"),
        None => Finding::ok(THING, "newuidmap newgidmap"),
    }
}

fn privilege(capabilities: u64) -> Finding {
    const THING: &str = "privilege";
    let missing: Vec<&str> = missing(capabilities).collect();
    if missing.is_empty() {
        return Finding::ok(THING, "root");
    }
    let detail = format!("root lacks {}", missing.join(" "));
    Finding::fails(THING, detail, "give them to the container or unit that this runs in")
}

fn missing(capabilities: u64) -> impl Iterator<Item = &'static str> {
    CAPABILITIES.iter().filter(move |(bit, _)| capabilities & (1 << bit) == 0).map(|(_, name)| *name)
}

fn resources(capabilities: u64) -> Finding {
    const THING: &str = "hard limits";
    if capabilities & (1 << SYS_RESOURCE) != 0 {
        return Finding::ok(THING, "can be raised");
    }
    Finding::lacks(THING, "can't be raised without CAP_SYS_RESOURCE", "nothing to do; cells keep within those below")
}

fn service_user(config: &Config) -> Finding {
    const THING: &str = "service user";
    match ServiceUser::find(&config.user) {
        Ok(user) => Finding::ok(THING, format!("{} is {}:{}", config.user, user.uid, user.gid)),
        Err(reason) => {
            let (detail, remedy) = reason.split_once(": ").unwrap_or((&reason, "name another one with --user"));
            Finding::fails(THING, detail, remedy)
        }
    }
}

fn ids(config: &Config) -> Finding {
    const THING: &str = "host ids";
    let files = ["/etc/passwd", "/etc/group", "/etc/subuid", "/etc/subgid"];
    match files.iter().find_map(|file| Some((file, clash(file, &kernel_text(file), &config.user)?.to_owned()))) {
        Some((file, name)) => Finding::fails(
            THING,
            format!("{file} gives {name} ids that cells use"),
            format!("move them below {} there", CELL_IDS.start),
        ),
        None => Finding::ok(THING, format!("{} to {} are free for cells", CELL_IDS.start, CELL_IDS.end - 1)),
    }
}

/// Whose ids in a file overlap the cells': passwd(5) and group(5) have the id in the third field, subuid(5) first and count. What the
/// service user is given there is for cells.
fn clash<'a>(file: &str, text: &'a str, service: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, second, third) = (fields.next()?, fields.next()?, fields.next()?);
        let number = |text: &str| text.parse::<u64>().ok();
        let taken = if file.contains("/sub") {
            if name == service {
                return None;
            }
            let first = number(second)?;
            first..first.saturating_add(number(third)?)
        } else {
            number(third).map(|id| id..id + 1)?
        };
        (taken.start < CELL_IDS.end && CELL_IDS.start < taken.end).then_some(name)
    })
}

fn open_files(hard: Option<u64>, wanted: u32) -> Finding {
    const THING: &str = "open files";
    match hard {
        Some(hard) if hard < u64::from(wanted) => Finding::lacks(
            THING,
            format!("{hard} of the {wanted} that limits.open_files_max allows a process"),
            "raise it where this is started (ulimit -Hn; systemd: LimitNOFILE=)",
        ),
        Some(hard) => Finding::ok(THING, format!("{hard} a process")),
        None => Finding::ok(THING, "unlimited"),
    }
}

fn memory(meminfo: &str, wanted: u64) -> Finding {
    const THING: &str = "memory";
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024;
    let detail = format!("{} MiB available", available >> 20);
    if available < wanted {
        let remedy = format!("one cell may use {} MiB; lower limits.memory_bytes_max, or add memory", wanted >> 20);
        return Finding::lacks(THING, detail, remedy);
    }
    Finding::ok(THING, detail)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn capabilities_are_read_and_named() {
        let all = capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n");
        assert_eq!(privilege(all).state, State::Ok);
        assert_eq!(resources(all).state, State::Lacks, "bit 24 is CAP_SYS_RESOURCE");
        assert_eq!(privilege(all & !(1 << 21)).detail, "root lacks SYS_ADMIN");
        assert_eq!(capabilities(""), 0);
    }

    #[test]
    fn ids_in_the_cells_range_are_found() {
        assert_eq!(clash("/etc/subuid", "alice:100000:65536\n", "cloister"), None);
        assert_eq!(clash("/etc/subuid", "alice:100000:65536\nbob:268435400:65536\n", "cloister"), Some("bob"));
        assert_eq!(clash("/etc/subuid", "cloister:268435456:4026466304\n", "cloister"), None);
        assert_eq!(clash("/etc/subgid", "bob:1:99999999999\n", "cloister"), Some("bob"));
        assert_eq!(
            clash("/etc/passwd", "root:x:0:0::/root:/bin/sh\nbig:x:300000000:1::/:/bin/sh\n", "cloister"),
            Some("big")
        );
        assert_eq!(clash("/etc/passwd", "nobody:x:65534:65534::/:/bin/sh\n\n+::\n", "cloister"), None);
    }

    #[test]
    fn limits_below_what_is_configured_are_named() {
        assert_eq!(open_files(Some(1024), 16_384).state, State::Lacks);
        assert_eq!(open_files(Some(16_384), 16_384).state, State::Ok);
        assert_eq!(open_files(None, 16_384).state, State::Ok);
        assert_eq!(memory("MemAvailable:  1048576 kB\n", 2 << 30).state, State::Lacks);
        assert_eq!(memory("MemAvailable:  4194304 kB\n", 2 << 30).state, State::Ok);
    }
}
