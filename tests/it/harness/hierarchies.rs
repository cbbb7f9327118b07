//! The hierarchies of cgroups on this machine.

use std::path::{Path, PathBuf};

/// Where cgroup hierarchies are mounted: version 2 alone, or one folder for each.
pub(crate) fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let inner = root.read_dir().into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let unified = root.join("cgroup.procs").exists();
    inner.filter(move |_| !unified).chain(unified.then(|| root.to_owned()))
}
