//! Layers as image tools write them and as attackers do, unpacked into a folder of the test's own. They need root, like
//! the worker: files are given to others.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::*;

/// An archive in the making.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// An entry whose name is taken as it is, however hostile.
    fn raw(
        mut self,
        kind: EntryType,
        name: &[u8],
        target: &[u8],
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", content.as_bytes(), |_| {})
    }

    fn folder(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", b"", |_| {})
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.raw(kind, name.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Whether this test can run; in CI it must.
pub(crate) fn may_give_files_away() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "in CI nothing is skipped: needs root");
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

/// A folder of layers, and a secret beside it that nothing may reach.
struct Place {
    folder: tempfile::TempDir,
    limits: Limits,
}

impl Place {
    /// `None` without root, which is said.
    fn new() -> Option<Self> {
        if !may_give_files_away() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("layers")).unwrap();
        fs::write(folder.path().join("secret"), "untouched").unwrap();
        Some(Self { folder, limits: Limits::default() })
    }

    fn layers(&self) -> PathBuf {
        self.folder.path().join("layers")
    }

    fn unpack_as(&self, request: &UnpackRequest, blob: &[u8]) -> Result<Report> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(blob).unwrap();
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let layers = rustix::fs::open(self.layers(), flags, rustix::fs::Mode::empty()).unwrap();
        unpack(request, file, layers.as_fd(), &self.limits, &mut |_| Ok(()))
    }

    /// Unpacks an archive and gives the folder of its layer.
    fn unpack(&self, tar: &[u8]) -> Result<PathBuf> {
        self.unpack_as(&request(tar, tar), tar)?;
        Ok(self.layers().join(Digest::of(tar).hex()))
    }

    /// Expects a refusal that says something, in one line, and leaves nothing behind.
    fn refuses(&self, tar: &[u8], says: &str) {
        let error = self.unpack(tar).expect_err(says);
        self.is_clean_after(&error, says);
    }

    fn is_clean_after(&self, error: &Error, says: &str) {
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(says), "{text:?} doesn't say {says:?}");
        assert!(!text.contains('\n') && text.len() < 600, "{text:?}");
        assert_eq!(fs::read_dir(self.layers()).unwrap().count(), 0, "leftovers after: {text}");
        assert_eq!(fs::read_to_string(self.folder.path().join("secret")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 2, "something outside of the layers");
    }
}

fn request(tar: &[u8], blob: &[u8]) -> UnpackRequest {
    UnpackRequest { digest: Digest::of(blob), diff_id: Digest::of(tar), offset: 0, size: blob.len() as u64 }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    attribute(path, "user.overlay.opaque").as_deref() == Some(b"y")
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(64);
    rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).ok()?;
    Some(value)
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn files_come_out_as_they_went_in() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new()
        .raw(EntryType::Directory, b"./", b"", b"", |h| h.set_mode(0o711))
        .raw(EntryType::Directory, b"tmp/", b"", b"", |h| h.set_mode(0o1777))
        .raw(EntryType::Regular, b"tmp/a", b"", b"hello", |h| {
            h.set_uid(1000);
            h.set_gid(65_535);
            h.set_mode(0o640);
        })
        .link(EntryType::Symlink, "tmp/l", "../../etc/passwd")
        .link(EntryType::Link, "tmp/h", "./tmp/a")
        .raw(EntryType::Fifo, b"tmp/p", b"", b"", |h| h.set_mode(0o622))
        .file("deep/er/f", "x")
        .bytes();
    let layer = place.unpack(&tar).unwrap();
    let meta = |name: &str| fs::symlink_metadata(layer.join(name)).unwrap();
    assert_eq!(meta("").mode() & 0o7777, 0o711);
    assert_eq!(meta("").mtime(), 1_000_000_000);
    assert_eq!(meta("tmp").mode() & 0o7777, 0o1777);
    assert_eq!(meta("tmp").mtime(), 1_000_000_000, "a folder's time is set after its entries");
    let a = meta("tmp/a");
    assert_eq!((a.mode() & 0o7777, a.uid(), a.gid(), a.mtime(), a.nlink()), (0o640, 1000, 65_535, 1_000_000_000, 2));
    assert_eq!(meta("tmp/h").ino(), a.ino());
    assert_eq!(text(layer.join("tmp/h")), "hello");
    assert_eq!(fs::read_link(layer.join("tmp/l")).unwrap(), Path::new("../../etc/passwd"));
    assert_eq!(meta("tmp/l").mtime(), 1_000_000_000);
    assert!(meta("tmp/p").file_type().is_fifo());
    assert_eq!(meta("tmp/p").mode() & 0o7777, 0o622);
    assert_eq!(
        (meta("deep").mode() & 0o7777, meta("deep").mtime()),
        (0o755, 0),
        "unmentioned folders are reproducible"
    );
}

#[test]
fn every_compression_gives_the_same_layer() {
    let tar = Tar::new().file("a", &"content ".repeat(50_000)).bytes();
    let halves = tar.split_at(tar.len() / 2);
    let skippable = |bytes: &[u8]| [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], bytes].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    for blob in [
        tar.clone(),
        gzip(&tar),
        [gzip(halves.0), gzip(halves.1)].concat(),
        zstd(&tar),
        [zstd(halves.0), skippable(&zstd(halves.1)), skippable(b"")].concat(),
        skippable(&zstd(&tar)),
    ] {
        let Some(place) = Place::new() else { return };
        let report = place.unpack_as(&request(&tar, &blob), &blob).unwrap();
        assert_eq!(report, Report { entries: 1, devices_skipped: 0 });
        assert_eq!(text(place.layers().join(Digest::of(&tar).hex()).join("a")).len(), 400_000);
    }
}

#[test]
fn a_blob_may_be_a_part_of_a_file_and_progress_is_told() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new().file("a", &"x".repeat(3 << 20)).bytes();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[b"before".as_slice(), &tar, b"after"].concat()).unwrap();
    let request = UnpackRequest { offset: 6, ..request(&tar, &tar) };
    let mut told = Vec::new();
    let mut tell = |bytes| {
        told.push(bytes);
        Ok(())
    };
    let json = serde_json::to_string(&request).unwrap();
    worker(&json, file, File::open(place.layers()).unwrap().into(), &mut tell).unwrap();
    assert_eq!(told.last(), Some(&request.size));
    assert!(told.len() > 2 && told.is_sorted(), "{told:?}");
    assert!(
        worker("{}", tempfile::tempfile().unwrap(), File::open(place.layers()).unwrap().into(), &mut |_| Ok(()))
            .is_err()
    );
}

#[test]
fn who_hears_of_progress_can_end_it_and_nothing_is_left() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new().file("a", &"x".repeat(3 << 20)).bytes();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&tar).unwrap();
    let mut enough = |_| Err(io::Error::other("the disk is to stay free"));
    let layers = File::open(place.layers()).unwrap();
    let error = unpack(&request(&tar, &tar), file, layers.as_fd(), &Limits::default(), &mut enough).unwrap_err();
    assert!(error.to_string().contains("the disk is to stay free"), "{error}");
    assert_eq!(fs::read_dir(place.layers()).unwrap().count(), 0);
}

#[test]
fn progress_is_told_of_what_grows_too_and_can_be_ended_there() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new().file("zeros", &"\0".repeat(100 << 20)).bytes();
    for blob in [gzip(&tar), zstd::encode_all(&tar[..], 3).unwrap()] {
        assert!(blob.len() < 1 << 20, "less than a step");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&blob).unwrap();
        let mut steps = 0;
        let mut three = |_| {
            steps += 1;
            if steps < 3 { Ok(()) } else { Err(io::Error::other("the disk is to stay free")) }
        };
        let layers = File::open(place.layers()).unwrap();
        let error = unpack(&request(&blob, &tar), file, layers.as_fd(), &Limits::default(), &mut three).unwrap_err();
        assert!(error.to_string().contains("the disk is to stay free"), "{error}");
        assert_eq!(fs::read_dir(place.layers()).unwrap().count(), 0);
    }
}

#[test]
fn a_layer_is_unpacked_once() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new().file("a", "1").bytes();
    let layer = place.unpack(&tar).unwrap();
    fs::write(layer.join("mark"), "").unwrap();
    place.unpack_as(&request(&tar, &tar), b"not even read").unwrap();
    assert!(layer.join("mark").exists());
    let layers = File::open(place.layers()).unwrap();
    assert_eq!(list(layers.as_fd()).unwrap(), [Digest::of(&tar)]);
}

#[test]
fn names_that_leave_the_root_are_refused() {
    let Some(place) = Place::new() else { return };
    for name in ["../secret", "a/../../secret", "..", "/../secret", "a/.."] {
        place.refuses(&Tar::new().raw(EntryType::Regular, name.as_bytes(), b"", b"x", |_| {}).bytes(), "`..`");
        place.refuses(&Tar::new().raw(EntryType::Directory, name.as_bytes(), b"", b"", |_| {}).bytes(), "`..`");
    }
}

#[test]
fn absolute_names_are_relative_to_the_root() {
    let Some(place) = Place::new() else { return };
    let outside = place.folder.path().join("planted");
    let tar = Tar::new().file(outside.to_str().unwrap(), "x").bytes();
    let layer = place.unpack(&tar).unwrap();
    assert!(!outside.exists());
    assert!(layer.join(outside.strip_prefix("/").unwrap()).exists());
}

#[test]
fn symlinks_are_never_written_through() {
    let Some(place) = Place::new() else { return };
    let outside = place.folder.path().to_str().unwrap().to_owned();
    for target in [&*outside, "../..", "/", ".", "/proc/self/root"] {
        let tar = Tar::new()
            .link(EntryType::Symlink, "way", target)
            .file("way/secret", "overwritten")
            .link(EntryType::Symlink, "f", &format!("{outside}/secret"))
            .file("f", "overwritten")
            .raw(EntryType::Directory, b"d", b"", b"", |h| h.set_mode(0o700))
            .link(EntryType::Symlink, "d2", &outside)
            .raw(EntryType::Directory, b"d2", b"", b"", |h| h.set_mode(0o777))
            .bytes();
        let layer = place.unpack(&tar).unwrap();
        assert!(fs::symlink_metadata(layer.join("way")).unwrap().is_dir());
        assert!(fs::symlink_metadata(layer.join("f")).unwrap().is_file());
        assert!(fs::symlink_metadata(layer.join("d2")).unwrap().is_dir());
        assert_eq!(text(layer.join("way/secret")), "overwritten");
        assert_eq!(text(place.folder.path().join("secret")), "untouched");
        assert_ne!(fs::metadata(place.folder.path()).unwrap().mode() & 0o777, 0o777);
        fs::remove_dir_all(layer).unwrap();
    }
}

#[test]
fn hard_links_stay_inside() {
    let Some(place) = Place::new() else { return };
    let secret = place.folder.path().join("secret").to_str().unwrap().to_owned();
    place.refuses(&Tar::new().link(EntryType::Link, "h", "../../secret").bytes(), "`..`");
    place.refuses(&Tar::new().link(EntryType::Link, "h", &secret).bytes(), "isn't a file of this layer");
    place.refuses(
        &Tar::new()
            .link(EntryType::Symlink, "s", place.folder.path().to_str().unwrap())
            .link(EntryType::Link, "h", "s/secret")
            .bytes(),
        "isn't a file of this layer",
    );
    place.refuses(&Tar::new().folder("d").link(EntryType::Link, "h", "d").bytes(), "isn't a file of this layer");
    place.refuses(&Tar::new().link(EntryType::Link, "h", "").bytes(), "isn't a file of this layer");
    place.refuses(&Tar::new().file(".wh.w", "").link(EntryType::Link, "h", "w").bytes(), "isn't a file of this layer");
    place.refuses(&Tar::new().file("d/f", "").link(EntryType::Link, "d", "d/f").bytes(), "isn't a file of this layer");
    // A link to a symlink is one more symlink; writing to its name replaces the name.
    let tar = Tar::new()
        .link(EntryType::Symlink, "s", &secret)
        .link(EntryType::Link, "h", "s")
        .file("h", "overwritten")
        .file("own", "1")
        .link(EntryType::Link, "own", "own")
        .bytes();
    let layer = place.unpack(&tar).unwrap();
    assert_eq!(text(place.folder.path().join("secret")), "untouched");
    assert!(fs::symlink_metadata(layer.join("s")).unwrap().is_symlink());
    assert_eq!((text(layer.join("h")), text(layer.join("own"))), ("overwritten".to_owned(), "1".to_owned()));
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new()
        .file("a", "first")
        .link(EntryType::Link, "b", "a")
        .file("a", "second")
        .file("d/x/y", "gone")
        .file("d", "now a file")
        .file("d/z", "a folder again")
        .file("keep/1", "1")
        .raw(EntryType::Directory, b"keep", b"", b"", |h| h.set_mode(0o700))
        .bytes();
    let layer = place.unpack(&tar).unwrap();
    assert_eq!((text(layer.join("a")), text(layer.join("b"))), ("second".to_owned(), "first".to_owned()));
    assert_eq!(text(layer.join("d/z")), "a folder again");
    assert!(!layer.join("d/x").exists());
    assert_eq!(text(layer.join("keep/1")), "1");
    assert_eq!(fs::metadata(layer.join("keep")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn whiteouts_hide_lower_layers_wherever_they_stand() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new()
        .file("d/.wh.gone", "")
        .file("before/.wh..wh..opq", "")
        .file("before/f", "1")
        .file("after/f", "1")
        .file("after/.wh..wh..opq", "")
        .folder("after")
        .file(".wh.replaced", "")
        .file("replaced/f", "1")
        .file("also/f", "1")
        .file(".wh.also", "")
        .file("f", "1")
        .file(".wh.f", "")
        .file(".wh.g", "")
        .file("g", "1")
        .file(".wh..wh.plnk/1.2", "")
        .file(".wh..wh.aufs", "")
        .bytes();
    let layer = place.unpack(&tar).unwrap();
    assert!(is_whiteout(&layer.join("d/gone")));
    for (folder, opaque) in [("d", false), ("before", true), ("after", true), ("replaced", true), ("also", true)] {
        assert_eq!(is_opaque(&layer.join(folder)), opaque, "{folder}");
    }
    for file in ["before/f", "after/f", "replaced/f", "also/f", "f", "g"] {
        assert_eq!(text(layer.join(file)), "1", "{file}");
    }
    let mut names: Vec<_> = fs::read_dir(&layer).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["after", "also", "before", "d", "f", "g", "replaced"]);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    let Some(place) = Place::new() else { return };
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        place.refuses(&Tar::new().file(name, "").bytes(), "whiteout of nothing");
    }
    place.refuses(&Tar::new().file(".wh.d/f", "").bytes(), "can't be a folder");
    place.refuses(&Tar::new().file(".wh..wh..opq", "").bytes(), "squash");
}

#[test]
fn privileges_are_not_unpacked() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new()
        .raw(EntryType::Regular, b"su", b"", b"x", |h| h.set_mode(0o6755))
        .raw(EntryType::Directory, b"d", b"", b"", |h| h.set_mode(0o7777))
        .raw(EntryType::Char, b"null", b"", b"", |h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .raw(EntryType::Block, b"disk", b"", b"", |_| {})
        .raw(EntryType::Char, b"zero", b"", b"", |_| {})
        .pax(&[
            ("SCHILY.xattr.user.kept", b"1"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
            ("SCHILY.xattr.user.bad\0name", b"1"),
        ])
        .folder("x")
        .bytes();
    let file = request(&tar, &tar);
    let report = place.unpack_as(&file, &tar).unwrap();
    assert_eq!(report.devices_skipped, 3);
    let layer = place.layers().join(file.diff_id.hex());
    assert_eq!(fs::metadata(layer.join("su")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(layer.join("d")).unwrap().mode() & 0o7777, 0o1777);
    for device in ["null", "disk", "zero"] {
        assert!(fs::symlink_metadata(layer.join(device)).is_err(), "{device}");
    }
    let mut names = vec![0; 1024];
    let length = rustix::fs::llistxattr(layer.join("x"), &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.kept\0");
    assert_eq!(attribute(&layer.join("x"), "user.kept").unwrap(), b"1");
}

#[test]
fn owners_that_a_cell_does_not_have_are_refused() {
    let Some(place) = Place::new() else { return };
    for id in [65_536, u64::from(u32::MAX), 1 << 40] {
        place
            .refuses(&Tar::new().raw(EntryType::Regular, b"f", b"", b"", |h| h.set_uid(id)).bytes(), "belongs to user");
        place.refuses(
            &Tar::new().raw(EntryType::Directory, b"f", b"", b"", |h| h.set_gid(id)).bytes(),
            "belongs to group",
        );
    }
    place.refuses(&Tar::new().pax(&[("uid", b"70000")]).file("f", "").bytes(), "belongs to user 70000");
}

#[test]
fn long_and_strange_names_work_up_to_the_kernels_limits() {
    let Some(place) = Place::new() else { return };
    let long = format!("{}/{}", "d".repeat(255), "f".repeat(255));
    let mut builder = Tar::new();
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.0.append_data(&mut header, &long, &b"1"[..]).unwrap();
    let tar = builder
        .raw(EntryType::Regular, b"\xff\xfe\n\x1b[31m", b"", b"2", |_| {})
        .pax(&[("path", long.replace('f', "g").as_bytes())])
        .file("short", "3")
        .bytes();
    let layer = place.unpack(&tar).unwrap();
    assert_eq!(text(layer.join(&long)), "1");
    assert_eq!(text(layer.join(long.replace('f', "g"))), "3");
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(text(layer.join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n\x1b[31m"))), "2");
    fs::remove_dir_all(layer).unwrap();
    let name = |name: &str| Tar::new().pax(&[("path", name.as_bytes())]).file("x", "").bytes();
    place.refuses(&name(&"n".repeat(256)), "more than 255 bytes");
    place.refuses(&name(&format!("{}x", "0123456789/".repeat(400))), "more than 4095 bytes");
    place.refuses(&name(&"d/".repeat(300)), "folders deep");
    place.refuses(&name("a\0b"), "NUL");
    place.refuses(&Tar::new().raw(EntryType::Regular, b"..\x1b[31m\n/../x", b"", b"", |_| {}).bytes(), "\\x1b[31m\\n");
}

#[test]
fn roots_and_links_that_are_no_files_are_refused() {
    let Some(place) = Place::new() else { return };
    place.refuses(
        &Tar::new().file("./", "skipped").raw(EntryType::Continuous, b".", b"", b"", |_| {}).bytes(),
        "root must be a folder",
    );
    place.refuses(&Tar::new().link(EntryType::Symlink, "/", "/etc").bytes(), "root must be a folder");
    place.refuses(&Tar::new().link(EntryType::Symlink, "s", "").bytes(), "points at nothing");
    place.refuses(&Tar::new().raw(EntryType::new(b'V'), b"volume", b"", b"", |_| {}).bytes(), "unknown kind");
}

#[test]
fn bombs_are_stopped() {
    let Some(mut place) = Place::new() else { return };
    place.limits.bytes_max = 1 << 20;
    let zeros = Tar::new().file("zeros", &"\0".repeat(2 << 20)).bytes();
    let blob = gzip(&zeros);
    let error = place.unpack_as(&request(&zeros, &blob), &blob).unwrap_err();
    place.is_clean_after(&error, "bytes in a layer");
    // The same after the archive's end, where no entry claims it.
    let tail = [Tar::new().file("a", "1").bytes(), vec![0; 2 << 20]].concat();
    let blob = zstd::encode_all(&tail[..], 1).unwrap();
    let error = place.unpack_as(&request(&tail, &blob), &blob).unwrap_err();
    place.is_clean_after(&error, "holds more than 1048576 bytes");
    // A file that is all hole costs no disk, but whoever copies it pays.
    place.refuses(&sparse(b"", &[], 1 << 40), "bytes in a layer");
    // A long name may not fill the memory.
    let long =
        Tar::new().raw(EntryType::GNULongName, b"././@LongLink", b"", &[b'n'; 2 << 20], |_| {}).file("x", "").bytes();
    place.limits.bytes_max = 32 << 30;
    place.refuses(&long, "extension header of 2097152 bytes");
    place.limits.entries_max = 10;
    place.refuses(&(0..11).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), "")).bytes(), "more than 10 entries");
    place.limits = Limits { folder_names_bytes_max: 100, ..Limits::default() };
    place.refuses(
        &(0..11).fold(Tar::new(), |tar, n| tar.folder(&format!("a long name {n}"))).bytes(),
        "names of the layer's folders",
    );
    let headers = (0..20).fold(Tar::new(), |tar, _| tar.pax(&[("comment", b"again")])).file("x", "").bytes();
    place.limits = Limits::default();
    place.refuses(&headers, "too many extension headers");
}

#[test]
fn a_ratio_beyond_belief_is_a_bomb() {
    let Some(mut place) = Place::new() else { return };
    // A stream of zeros as zstd says it, 16 GiB in less than a MiB.
    let mut blob = Vec::new();
    let mut encoder = zstd::Encoder::new(&mut blob, 1).unwrap();
    let header = Tar::new().raw(EntryType::Regular, b"zeros", b"", b"", |h| h.set_size(2 << 30)).bytes();
    encoder.write_all(&header[..512]).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1100 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
    place.limits.bytes_max = 4 << 30;
    let error = place.unpack_as(&request(b"", &blob), &blob).unwrap_err();
    place.is_clean_after(&error, "looks like a bomb");
}

#[test]
fn damaged_blobs_are_refused_and_leave_nothing() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new().file("a", &"x".repeat(100_000)).bytes();
    let blob = gzip(&tar);
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let fails = |request: &UnpackRequest, blob: &[u8], says: &str| {
        let error = place.unpack_as(request, blob).unwrap_err();
        place.is_clean_after(&error, says);
    };
    let other = Digest::of(b"other");
    fails(&UnpackRequest { digest: other.clone(), ..request(&tar, &blob) }, &blob, "the blob should be");
    fails(&UnpackRequest { diff_id: other, ..request(&tar, &blob) }, &blob, "the unpacked layer should be");
    // Cut in the file, and cut by a digest that belongs to the cut blob.
    fails(&request(&tar, &blob), &blob[..blob.len() / 2], "too early");
    for whole in [&blob, &zstd, &tar] {
        for end in [1, 3, 20, whole.len() / 2, whole.len() - 1] {
            let cut = &whole[..end];
            if let Ok(_) | Err(Error::Host { .. }) = place.unpack_as(&request(&tar, cut), cut) {
                panic!("a blob cut at {end} passed");
            }
            assert_eq!(fs::read_dir(place.layers()).unwrap().count(), 0);
        }
    }
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 1;
    assert!(matches!(place.unpack_as(&request(&tar, &flipped), &flipped), Err(Error::Refused(_))));
    fails(&request(&tar, b"BZh91AY&SY"), b"BZh91AY&SY", "ends within a header");
    fails(&request(&tar, &[b'x'; 2048]), &[b'x'; 2048], "not a tar archive");
}

#[test]
fn no_flipped_byte_does_more_than_fail() {
    let Some(place) = Place::new() else { return };
    let tar = Tar::new()
        .folder("d")
        .link(EntryType::Symlink, "s", "../..")
        .link(EntryType::Symlink, "d/s", "/")
        .file("d/.wh.x", "")
        .pax(&[("path", b"d/long"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")])
        .file("f", "content")
        .link(EntryType::Link, "h", "d/long")
        .file("s/secret", "overwritten")
        .bytes();
    let (good, bytes) = (request(&tar, &tar), tar.len() - 1024);
    // Headers are text at the front of each block: most of the changes go there. A fixed sequence, so that a failure is
    // one again (Numerical Recipes' generator).
    let mut random = 1_u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) as usize
    };
    for _ in 0..600 {
        let mut bad = tar.clone();
        let block = next() % (bytes / 512) * 512;
        let at = block + next() % if next() % 2 == 0 { 160 } else { 512 };
        bad[at] = *[b'.', b'/', 0, b'0', b'7', b'5', 0xff, next() as u8].get(next() % 8).unwrap();
        // A changed header only passes with its checksum.
        if next() % 4 != 0 {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bad[block..block + 512]);
            header.set_cksum();
            bad[block..block + 512].copy_from_slice(header.as_bytes());
        }
        match place.unpack_as(&UnpackRequest { digest: Digest::of(&bad), ..good.clone() }, &bad) {
            Ok(_) => assert_eq!(bad, tar),
            Err(Error::Refused(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
        for layer in fs::read_dir(place.layers()).unwrap() {
            fs::remove_dir_all(layer.unwrap().path()).unwrap();
        }
        assert_eq!(text(place.folder.path().join("secret")), "untouched");
        assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 2);
    }
}

/// A sparse file in GNU tar's oldest format.
fn sparse(content: &[u8], chunks: &[(u64, u64)], size: u64) -> Vec<u8> {
    Tar::new()
        .raw(EntryType::GNUSparse, b"sparse", b"", content, |header| {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.set_real_size(size);
            for (slot, (offset, bytes)) in gnu.sparse.iter_mut().zip(chunks) {
                slot.set_offset(*offset);
                slot.set_length(*bytes);
            }
        })
        .bytes()
}

#[test]
fn sparse_files_keep_their_holes_in_every_format() {
    let chunks = [(0, 3), (8 << 20, 5)];
    let pax = |records: &[(&str, &[u8])], content: &[u8]| {
        Tar::new().pax(records).raw(EntryType::Regular, b"GNUSparseFile.0/sparse", b"", content, |_| {}).bytes()
    };
    let size = (16_u64 << 20).to_string();
    let with_map = [b"2\n0\n3\n8388608\n5\n".as_slice(), &[0; 496], b"onetwo22"].concat();
    for tar in [
        sparse(b"onetwo22", &chunks, 16 << 20),
        pax(
            &[
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"8388608"),
                ("GNU.sparse.numbytes", b"5"),
                ("path", b"sparse"),
            ],
            b"onetwo22",
        ),
        pax(
            &[
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.map", b"0,3,8388608,5"),
                ("GNU.sparse.name", b"sparse"),
            ],
            b"onetwo22",
        ),
        pax(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.realsize", size.as_bytes()),
            ],
            &with_map,
        ),
    ] {
        let Some(place) = Place::new() else { return };
        let layer = place.unpack(&tar).unwrap();
        let mut file = File::open(layer.join("sparse")).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 16 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "holes take no space");
        let mut content = [0; 8];
        file.read_exact(&mut content[..3]).unwrap();
        file.seek(SeekFrom::Start(8 << 20)).unwrap();
        file.read_exact(&mut content[3..]).unwrap();
        assert_eq!(&content, b"onetwo22");
    }
    let Some(place) = Place::new() else { return };
    place.refuses(&sparse(b"onetwo22", &[(0, 3), (2, 5)], 100), "out of order");
    place.refuses(&sparse(b"onetwo22", &[(0, 3)], 100), "doesn't match the content");
}

#[test]
fn leftovers_of_killed_unpackers_go_and_those_of_living_ones_stay() {
    let Some(place) = Place::new() else { return };
    let layers = File::open(place.layers()).unwrap();
    let dead = place.layers().join(".tmp-7");
    fs::create_dir_all(dead.join("a/b")).unwrap();
    fs::write(dead.join("a/f"), "").unwrap();
    fs::set_permissions(dead.join("a"), fs::Permissions::from_mode(0o0)).unwrap();
    std::os::unix::fs::symlink(place.folder.path(), dead.join("a/link")).unwrap();
    let living = Unfinished::new(layers.as_fd()).unwrap();
    let name = place.layers().join(living.name());
    place.unpack(&Tar::new().file("x", "").bytes()).unwrap();
    assert!(!dead.exists());
    assert!(name.exists());
    drop(living);
    assert!(!name.exists());
    assert_eq!(fs::read_to_string(place.folder.path().join("secret")).unwrap(), "untouched");
}

/// Set for the copy of this test that is to be killed: the folder of layers.
const VICTIM: &str = "RUNNER_TEST_VICTIM";

#[test]
fn a_killed_unpacker_leaves_nothing_that_is_trusted() {
    let tar = Tar::new().file("a", &"x".repeat(2 << 20)).file("b", &"y".repeat(2 << 20)).bytes();
    if let Some(layers) = std::env::var_os(VICTIM) {
        let mut blob = tempfile::tempfile().unwrap();
        blob.write_all(&tar).unwrap();
        let mut halfway = |bytes: u64| {
            if bytes > 3 << 20 {
                println!("halfway");
                loop {
                    std::thread::park();
                }
            }
            Ok(())
        };
        let layers = File::open(layers).unwrap();
        unpack(&request(&tar, &tar), blob, layers.as_fd(), &Limits::default(), &mut halfway).unwrap();
        unreachable!("killed before");
    }
    let Some(place) = Place::new() else { return };
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "layer::tests::a_killed_unpacker_leaves_nothing_that_is_trusted"])
        .env(VICTIM, place.layers())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(victim.stdout.take().unwrap());
    let halfway = std::io::BufRead::lines(output).any(|line| line.unwrap().ends_with("halfway"));
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(halfway, "it came so far");
    let left: Vec<_> = fs::read_dir(place.layers()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".tmp-0"]);
    let layer = place.unpack(&tar).unwrap();
    assert_eq!(text(layer.join("b")).len(), 2 << 20);
    assert_eq!(fs::read_dir(place.layers()).unwrap().count(), 1, "the leftover is gone");
}
