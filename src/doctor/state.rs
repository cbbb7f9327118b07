//! Where cells' files lie: whether the folders' file systems can hold layers and workspaces, and whether there is an image.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use runner::layer;
use runner::store::Store;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, openat, statfs, statvfs};
use rustix::process::geteuid;
use sandbox::disk::{TOOLS, has_quotas};

use super::Finding;
use crate::config::{Config, Quota};
use crate::host;

/// Room below which an image can't be unpacked any more: the default one takes a third of it.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// Files below which an image can't be unpacked any more: the default one has 12,000.
const FREE_FILES_MIN: u64 = 50_000;

/// File systems whose mounts can have mapped owners: magic number (statfs(2)) and name.
const MAPPABLE: [(u64, &str); 7] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x2fc1_2fc1, "zfs"),
];

/// Overlay, which can't lie on itself.
const OVERLAY: u64 = 0x794c_7630;

/// All findings about folders and images.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    vec![
        folder("state folder", &config.state, "--state"),
        folder("projects folder", &config.projects, "--projects"),
        room(&config.state),
        disk_limits(config),
        run_dir(&config.run_dir),
        image(config),
        image_garbage(config),
    ]
}

/// Whether the folder's file system, or the one it will be made on, can hold what goes there.
fn folder(thing: &'static str, path: &Path, flag: &str) -> Finding {
    let present = present(path);
    let elsewhere = format!("choose a folder on ext4, xfs or btrfs with {flag}");
    let (kind, flags) = match (statfs(present), statvfs(present)) {
        (Ok(kind), Ok(flags)) => (kind.f_type as u64 & 0xffff_ffff, flags.f_flag),
        (Err(error), _) | (_, Err(error)) => {
            return Finding::fails(thing, format!("{}: {error}", present.display()), elsewhere);
        }
    };
    if flags.contains(StatVfsMountFlags::RDONLY) {
        return Finding::fails(thing, format!("{} is read-only", present.display()), elsewhere);
    }
    if flags.contains(StatVfsMountFlags::NOEXEC) {
        return Finding::lacks(thing, format!("nothing in {} can be executed (noexec)", present.display()), elsewhere);
    }
    match MAPPABLE.iter().find(|(magic, _)| *magic == kind) {
        Some((_, name)) => Finding::ok(thing, format!("{} on {name}", path.display())),
        None if kind == OVERLAY => {
            Finding::fails(thing, format!("{} is an overlay itself", present.display()), elsewhere)
        }
        None => Finding::lacks(
            thing,
            format!("{} is on a file system ({kind:#x}) not known to map owners", present.display()),
            elsewhere,
        ),
    }
}

/// The path itself, or the nearest ancestor that exists: where it will be made.
pub(super) fn present(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

fn room(state: &Path) -> Finding {
    const THING: &str = "room";
    let Ok(free) = statvfs(present(state)) else {
        return Finding::lacks(THING, "unknown", "see what df says of the state folder");
    };
    let (bytes, files) = (free.f_bavail.saturating_mul(free.f_frsize), free.f_favail);
    let detail = format!("{} MiB", bytes >> 20);
    // btrfs makes inodes as it goes and says that it has none.
    if bytes < FREE_BYTES_MIN || (free.f_files > 0 && files < FREE_FILES_MIN) {
        let detail = format!("{detail} and {files} files left");
        return Finding::lacks(THING, detail, "cloister image prune, make room, or choose another folder with --state");
    }
    Finding::ok(THING, detail)
}

/// Whether a project can be kept within a limit of disk, and how.
fn disk_limits(config: &Config) -> Finding {
    const THING: &str = "disk limits";
    if config.quota == Quota::Unenforced {
        return Finding::lacks(THING, "not enforced, as configured", "set quota = \"enforced\"");
    }
    if !geteuid().is_root() {
        let detail = "can't be had without root: a cell whose project has such a limit doesn't start";
        return Finding::lacks(THING, detail, "set none, or quota = \"unenforced\"");
    }
    let unset =
        if config.limits.disk_bytes_max == 0 { "; limits.disk_bytes_max sets none for all projects" } else { "" };
    let quotas = [&config.state, &config.projects].map(|folder| has_quotas(present(folder)));
    if quotas.iter().all(|quotas| matches!(quotas, Ok(true))) {
        return Finding::ok(THING, format!("by project quotas{unset}"));
    }
    match TOOLS.iter().find(|tool| !Path::new(tool).exists()) {
        None => Finding::ok(
            THING,
            format!("by a disk image for each project that has one, for want of project quotas{unset}"),
        ),
        Some(tool) => Finding::lacks(
            THING,
            format!("neither project quotas nor {tool}: a cell whose project has such a limit doesn't start"),
            "apt install e2fsprogs, or mount with prjquota",
        ),
    }
}

fn run_dir(path: &Path) -> Finding {
    const THING: &str = "run directory";
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::ok(THING, format!("{} will be made", path.display()))
        }
        Err(error) => Finding::fails(THING, format!("{}: {error}", path.display()), "choose another with --run-dir"),
        Ok(metadata) if metadata.uid() != geteuid().as_raw() => Finding::fails(
            THING,
            format!("{} belongs to user {}", path.display(), metadata.uid()),
            format!("chown {} it, or choose another with --run-dir", geteuid().as_raw()),
        ),
        Ok(_) => Finding::ok(THING, path.display().to_string()),
    }
}

fn image(config: &Config) -> Finding {
    const THING: &str = "runner image";
    let remedy = "cloister image import <folder or archive> --name ".to_owned() + &config.image;
    let name = &config.image;
    let images = config.state.join("images");
    // Opening a store makes it one; a doctor leaves nothing behind.
    if !images.join("index.json").exists() {
        return Finding::fails(THING, format!("no images in {}", images.display()), remedy);
    }
    let opened = openat(CWD, &images, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let found = match opened {
        Ok(folder) => Store::open(folder).and_then(|store| store.resolve(name)).map_err(|error| error.to_string()),
        Err(error) => Err(format!("{}: {error}", images.display())),
    };
    match found {
        Err(problem) => Finding::fails(THING, problem, remedy),
        Ok(image) => {
            let layers = config.state.join("layers");
            match image.overlay().iter().find(|layer| !layers.join(layer.hex()).is_dir()) {
                Some(layer) => Finding::fails(THING, format!("{name}: layer {} is missing", layer.short()), remedy),
                None => Finding::ok(THING, format!("{name}, {} MiB", image.size() >> 20)),
            }
        }
    }
}

/// Layers that no image needs.
fn image_garbage(config: &Config) -> Finding {
    const THING: &str = "image garbage";
    if !config.state.join("images/index.json").exists() {
        return Finding::ok(THING, "none");
    }
    let look = || {
        let needed = Store::open(host::open_folder(&config.state.join("images"))?)?.layers_needed()?;
        let layers = host::open_folder(&config.state.join("layers"))?;
        let garbage = layer::list(layers.as_fd())?.into_iter().filter(|layer| !needed.contains(layer));
        garbage.map(|one| Ok(layer::bytes(layers.as_fd(), &one)?)).collect::<anyhow::Result<Vec<_>>>()
    };
    match look() {
        Ok(sizes) if sizes.is_empty() => Finding::ok(THING, "none"),
        Ok(sizes) => {
            let bytes: u64 = sizes.iter().sum();
            let detail = format!("{} layers, {} MiB, are needed by no image", sizes.len(), bytes >> 20);
            Finding::lacks(THING, detail, "cloister image prune; what running cells use stays")
        }
        Err(error) => Finding::lacks(THING, format!("unknown: {error:#}"), "mend that, or remove the image"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_folder_that_will_be_made_is_judged_by_where() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("not/there/yet");
        assert_eq!(present(&below), folder.path());
        assert_eq!(super::folder("state folder", Path::new("/proc/x"), "--state").state, State::Lacks);
    }

    #[test]
    fn probing_a_store_that_is_none_makes_none() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), ..Config::default() };
        std::fs::create_dir(folder.path().join("images")).unwrap();
        assert_eq!(image(&config).state, State::Fails);
        assert_eq!(std::fs::read_dir(folder.path().join("images")).unwrap().count(), 0);
    }
}
