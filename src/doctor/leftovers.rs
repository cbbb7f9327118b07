//! What nobody owns any more: what the next launcher removes, and what is left for a person to decide.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sandbox::orphans::{Kept, Orphans, Places, look};
use sandbox::spec::ProjectId;

use super::{Finding, kernel_text};
use crate::config::Config;

/// Most names in one finding.
const NAMED_MAX: usize = 8;

/// All findings about leftovers.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    const THING: &str = "leftovers";
    let places = Places::open(&config.state, &config.projects, &config.run_dir, &config.cgroup);
    match places.and_then(|places| look(&places)) {
        Ok(orphans) => {
            let others = [mounts(&kernel_text("/proc/self/mountinfo"), config), loops(config)];
            let found = std::iter::once(removable(THING, &orphans)).chain(kept(&orphans));
            found.chain(others.into_iter().flatten()).collect()
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            vec![Finding::ok(THING, "none, no cell was ever made here")]
        }
        Err(error) => vec![Finding::lacks(THING, error.to_string(), "ask as root")],
    }
}

fn removable(thing: &'static str, orphans: &Orphans) -> Finding {
    let Orphans { removable, trash, trash_bytes, .. } = orphans;
    let trash = match trash {
        0 => String::new(),
        count => format!("{count} in the trash, {} MiB or more", trash_bytes >> 20),
    };
    if removable.count() == 0 {
        let detail = if trash.is_empty() { "none".to_owned() } else { format!("none but {trash}, on its way") };
        return Finding::ok(thing, detail);
    }
    let trash = if trash.is_empty() { trash } else { format!("; {trash}") };
    let remedy = "the next start of cloister or its launcher removes it";
    Finding::lacks(thing, format!("{removable}{trash}"), remedy)
}

/// A finding for each kind of what is kept.
fn kept(orphans: &Orphans) -> Vec<Finding> {
    let mut kinds: BTreeMap<&str, Vec<&Kept>> = BTreeMap::new();
    for kept in &orphans.kept {
        kinds.entry(kept.kind.reason()).or_default().push(kept);
    }
    let finding = |(reason, kept): (&str, Vec<&Kept>)| {
        let bytes: u64 = kept.iter().map(|kept| kept.bytes).sum();
        let mut names: Vec<_> = kept.iter().take(NAMED_MAX).map(|kept| kept.name.as_str()).collect();
        let more = kept.len() - names.len();
        let more = (more > 0).then(|| format!("{more} more"));
        names.extend(more.as_deref());
        let room = if bytes > 0 { format!(", {} MiB", bytes >> 20) } else { String::new() };
        Finding::lacks("orphans", format!("{reason}: {}{room}", names.join(", ")), kept[0].kind.remedy())
    };
    let unnamed = (orphans.unnamed > 0)
        .then(|| Finding::lacks("orphans", format!("{} more", orphans.unnamed), "see to those above first"));
    kinds.into_iter().map(finding).chain(unnamed).collect()
}

/// Mounts where Cloister mounts nothing, which keep a sweeper from removing what is below (proc_pid_mountinfo(5)).
fn mounts(mountinfo: &str, config: &Config) -> Option<Finding> {
    let state = ["cells", "layers", "disks", "trash", "ids"].map(|name| config.state.join(name));
    let folders = [&state[..], &[config.projects.join(".trash"), config.run_dir.join("cells")]].concat();
    let folders = folders.iter().map(|folder| escaped(folder)).collect::<Vec<_>>();
    let is_within = |place: &&str| {
        let below = |folder: &String| place.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'));
        folders.iter().any(below)
    };
    let places: Vec<_> = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).filter(is_within).collect();
    let first = *places.first()?;
    let others = if places.len() > 1 { format!(" and {} more", places.len() - 1) } else { String::new() };
    Some(Finding::lacks("mounts", format!("something is mounted at {first}{others}, not by Cloister"), "umount it"))
}

/// A path as the kernel writes it into its lists.
fn escaped(path: &Path) -> String {
    let escape = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}"),
        byte => char::from(*byte).to_string(),
    };
    path.as_os_str().as_bytes().iter().map(escape).collect()
}

/// Loop devices that show a project's file system though none of its cells runs.
fn loops(config: &Config) -> Option<Finding> {
    let disks = config.state.join("disks");
    let idle = |entry: &std::fs::DirEntry| {
        let file = kernel_text(&entry.path().join("loop/backing_file").display().to_string());
        let file = Path::new(file.trim_end()).strip_prefix(&disks).ok()?;
        let id = file.to_str()?.strip_suffix(".ext4").and_then(|id| ProjectId::parse(id).ok())?;
        let running = config.run_dir.join("cells").join(format!("{id}.sock")).exists();
        (!running).then(|| entry.file_name().display().to_string())
    };
    let devices = std::fs::read_dir("/sys/block").ok()?.filter_map(Result::ok);
    let devices: Vec<_> = devices.filter_map(|entry| idle(&entry)).collect();
    let remedy =
        "a dead cell's sweeper lets go of it in a moment; else find who has it mounted (findmnt -A), and umount it";
    (!devices.is_empty()).then(|| {
        let detail = format!("{} show projects' disk images though their cells don't run", devices.join(", "));
        Finding::lacks("loop devices", detail, remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use sandbox::orphans::{Kind, Removable};

    #[test]
    fn mounts_of_others_are_told_by_where_they_are() {
        let config = Config { state: "/var/lib/clo ister".into(), ..Config::default() };
        let line = |place: &str| format!("24 30 0:22 / {place} rw,relatime shared:4 - tmpfs tmpfs rw\n");
        let ours = [r"/var/lib/clo\040ister", r"/var/lib/clo\040ister/cells", "/run/cloister"].map(line).concat();
        assert_eq!(mounts(&ours, &config), None);
        let theirs = [r"/var/lib/clo\040ister/trash/x", "/run/cloister/cells/y"].map(line).concat();
        let found = mounts(&theirs, &config).unwrap();
        assert!(found.detail.contains(r"at /var/lib/clo\040ister/trash/x and 1 more"), "{found}");
    }

    #[test]
    fn each_kind_is_told_once_with_its_remedy() {
        let disk = |name: &str| Kept { kind: Kind::Disk, name: name.to_owned(), bytes: 3 << 20 };
        let orphans = Orphans {
            removable: Removable { cells: 2, ..Removable::default() },
            kept: vec![disk("a"), disk("b"), Kept { kind: Kind::Ids, name: "c".to_owned(), bytes: 0 }],
            ..Orphans::default()
        };
        let found = removable("leftovers", &orphans);
        assert!(found.state == State::Lacks && found.detail == "2 dead cells", "{found}");
        let lines: Vec<_> = kept(&orphans).iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("has no project: a, b, 6 MiB: mount the projects' disk"), "{lines:?}");
        assert!(lines[1].contains("is gone: c: mount"), "{lines:?}");
        assert_eq!(removable("leftovers", &Orphans::default()).detail, "none");
    }
}
