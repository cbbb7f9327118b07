//! A layer as its maker or a registry wrote it, unpacked where a worker would unpack it.
//!
//! The thread that does so has its root on a file system of its own, in memory, and of root's capabilities the worker's
//! three: whatever the unpacking code can be brought to do, it does there, beside a canary.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use caps::{CapSet, Capability};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use runner::Digest;
use runner::layer::{Limits, UnpackRequest, unpack};

/// Small, so that each of them is reached.
const LIMITS: Limits =
    Limits { entries_max: 100, bytes_max: 1 << 20, ratio_max: 200, depth_max: 12, folder_names_bytes_max: 2000 };

/// Most bytes of a compressed layer that are looked at for its digest.
const UNCOMPRESSED_BYTES_MAX: u64 = 2 << 20;

/// Ids of a cell.
const IDS: u32 = 65_536;

/// Longest error in bytes: it is shown to a person.
const ERROR_BYTES_MAX: usize = 1000;

const BLOCK: usize = 512;

/// The name of the thread that unpacks.
const THREAD: &str = "unpacking";

/// A letter, and a blob: a tar archive whose headers get their right checksums, which no mutation would hit upon; the same,
/// to be compressed by gzip or zstd; or a blob as it is.
pub(crate) fn layer(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let blob = match kind {
        b't' => summed(data),
        b'g' => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&summed(data)).and_then(|()| encoder.finish()).expect("memory takes it")
        }
        b'z' => zstd::encode_all(&summed(data)[..], 1).expect("memory takes it"),
        _ => data.to_vec(),
    };
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: unpacking takes root");
        return;
    }
    let failed = PLACE.with(|place| {
        let (blobs, outcomes) = place.get_or_init(start);
        blobs.send(blob).expect("the place is there");
        outcomes.recv().expect("the place is there")
    });
    if let Some(failed) = failed {
        panic!("{failed}");
    }
}

/// An archive with the checksum of every header in its place, as far as one header leads to the next.
fn summed(data: &[u8]) -> Vec<u8> {
    let mut archive = data.to_vec();
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let digits = header[124..136].iter().take_while(|byte| matches!(byte, b'0'..=b'7'));
        let size = digits.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add((digit - b'0').into()));
        // Links and folders have no content, whatever they say.
        let content = if matches!(header[156], b'1'..=b'6') { 0 } else { size };
        at =
            content.checked_next_multiple_of(BLOCK).and_then(|content| (at + BLOCK).checked_add(content)).unwrap_or(at);
        if at == 0 || at > archive.len() {
            break;
        }
    }
    archive
}

/// Where blobs go, and what was wrong with what became of them.
type Place = (SyncSender<Vec<u8>>, Receiver<Option<String>>);

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

/// The unpacking thread. Only it loses sight of the host.
fn start() -> Place {
    let (blobs, taken) = sync_channel::<Vec<u8>>(0);
    let (told, outcomes) = sync_channel(0);
    // libFuzzer ends the process where a thread panics, and this one couldn't leave the input behind: it tells the other.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match std::thread::current().name() {
        Some(THREAD) => eprintln!("{panic}"),
        _ => hook(panic),
    }));
    let unpacking = move || {
        retreat();
        let canary = seen(Path::new("/canary"));
        for blob in taken {
            let tried = std::panic::catch_unwind(|| {
                try_one(&blob);
                assert_eq!(seen(Path::new("/canary")), canary, "the canary has changed");
                let here: Vec<_> = names(Path::new("/"));
                assert_eq!(here, [PathBuf::from("/canary"), PathBuf::from("/layers")]);
            });
            let failed = tried.err().map(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
            });
            if told.send(failed).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name(THREAD.to_owned()).spawn(unpacking).expect("there is room for a thread");
    (blobs, outcomes)
}

/// Leaves the host's files behind, and all privileges but the worker's.
fn retreat() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("its mounts become its own");
    let options = Some("size=64m,nr_inodes=20000,mode=0755");
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::MS_NOSUID, options).expect("a file system in memory");
    std::env::set_current_dir("/tmp").expect("it is there");
    nix::unistd::pivot_root(".", ".").expect("it becomes the root");
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).expect("the host goes");
    std::env::set_current_dir("/").expect("it is the root");
    for folder in ["/canary", "/canary/folder", "/layers"] {
        std::fs::create_dir(folder).expect("it is empty");
    }
    std::fs::write("/canary/file", "untouched").expect("there is room");
    std::fs::write("/canary/folder/other", "untouched too").expect("there is room");
    symlink("../file", "/canary/folder/link").expect("there is room");
    let keep = [Capability::CAP_CHOWN, Capability::CAP_FOWNER, Capability::CAP_DAC_OVERRIDE].into();
    caps::set(None, CapSet::Effective, &keep).expect("they become fewer");
    caps::set(None, CapSet::Permitted, &keep).expect("they become fewer");
}

fn try_one(blob: &[u8]) {
    let layers = File::open("/layers").expect("it is there");
    let file = tempfile::tempfile_in("/").expect("there is room");
    (&file).write_all(blob).expect("there is room");
    let digest = Digest::of(blob);
    let diff_id = uncompressed(blob).map_or_else(|| digest.clone(), |content| Digest::of(&content));
    let request = UnpackRequest { digest, diff_id, offset: 0, size: blob.len() as u64 };
    let place = Path::new("/layers").join(request.diff_id.hex());
    match unpack(&request, file, layers.as_fd(), &LIMITS, &mut |_| Ok(())) {
        Ok(report) => {
            assert!(report.entries <= LIMITS.entries_max);
            assert_eq!(names(Path::new("/layers")), [place.as_path()]);
            let mut counted = Counted::default();
            look(&place, 0, &mut counted);
            // Folders that no member names are made on the way, and their names are bounded.
            let most = LIMITS.entries_max + LIMITS.folder_names_bytes_max as u64;
            assert!(counted.entries <= most && counted.bytes <= LIMITS.bytes_max, "{counted:?}");
            std::fs::remove_dir_all(&place).expect("it can be removed");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, runner::Error::Refused(_)), "the machine is blamed: {text}");
            assert!(!text.is_empty() && text.len() <= ERROR_BYTES_MAX, "an error of {} bytes", text.len());
            assert!(!text.contains(char::is_control), "{text:?}");
            assert_eq!(names(Path::new("/layers")), [] as [PathBuf; 0], "something is left");
        }
    }
}

/// What a compressed blob holds, if it is one and whole.
fn uncompressed(blob: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let read = match blob {
        [0x1f, 0x8b, ..] => {
            flate2::bufread::MultiGzDecoder::new(blob).take(UNCOMPRESSED_BYTES_MAX).read_to_end(&mut content)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => zstd::Decoder::with_buffer(blob)
            .and_then(|decoder| decoder.take(UNCOMPRESSED_BYTES_MAX).read_to_end(&mut content)),
        _ => return None,
    };
    read.ok().map(|_| content)
}

#[derive(Debug, Default)]
struct Counted {
    entries: u64,
    bytes: u64,
}

/// Looks at everything of an unpacked layer, and follows nothing.
fn look(path: &Path, depth: usize, counted: &mut Counted) {
    let metadata = path.symlink_metadata().expect("it is there");
    let (kind, mode) = (metadata.file_type(), metadata.permissions().mode());
    assert!(metadata.uid() < IDS && metadata.gid() < IDS, "{path:?}");
    assert!(!kind.is_block_device() && !kind.is_socket(), "{path:?}");
    if kind.is_char_device() {
        assert_eq!(metadata.rdev(), 0, "{path:?} is a device, not a whiteout");
    }
    if !kind.is_symlink() {
        let most = if kind.is_dir() { 0o1777 } else { 0o777 };
        assert_eq!(mode & 0o7777 & !most, 0, "{path:?} has mode {mode:o}");
    }
    for name in attributes(path) {
        let mark = kind.is_dir() && name.as_bytes() == b"user.overlay.opaque";
        let ordinary = name.as_bytes().starts_with(b"user.") && !name.as_bytes().starts_with(b"user.overlay.");
        assert!(mark || ordinary, "{path:?} has {name:?}");
    }
    if depth > 0 {
        counted.entries += 1;
    }
    if kind.is_file() {
        // Of several names for one file each counts, which is more than there can be.
        counted.bytes += metadata.len() / metadata.nlink();
    }
    if kind.is_dir() {
        assert!(depth <= LIMITS.depth_max, "{path:?} lies deep");
        names(path).iter().for_each(|inner| look(inner, depth + 1, counted));
    }
}

/// The names of a file's extended attributes that its owner sees.
fn attributes(path: &Path) -> Vec<CString> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names).expect("there is room for them");
    let names = names[..length].split_inclusive(|byte| *byte == 0);
    names.map(|name| CStr::from_bytes_with_nul(name).expect("they end so").to_owned()).collect()
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("it is a folder");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    names.sort();
    names
}

/// All that can be seen of a tree, the time of its last change included.
fn seen(path: &Path) -> Vec<(PathBuf, u32, u32, i64, i64, Vec<u8>)> {
    let metadata = path.symlink_metadata().expect("it is there");
    let content = if metadata.is_file() { std::fs::read(path).expect("it can be read") } else { Vec::new() };
    let mut all =
        vec![(path.to_owned(), metadata.mode(), metadata.uid(), metadata.ctime(), metadata.ctime_nsec(), content)];
    if metadata.is_dir() {
        all.extend(names(path).iter().flat_map(|inner| seen(inner)));
    }
    all
}
