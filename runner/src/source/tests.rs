//! Images as tools write them and as attackers do, found in folders and archives, and brought in with real layers.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::Digest;
use crate::image::architecture;
use crate::import::{Unpack, import};
use crate::layer::{self, Limits, UnpackRequest};
use crate::store::{Store, Using};

/// The blobs of an OCI layout in the making.
struct Layout {
    files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    fn new() -> Self {
        Self { files: vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())] }
    }

    /// Adds a blob and gives its descriptor.
    fn blob(&mut self, kind: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        self.files.push((format!("blobs/sha256/{}", digest.hex()), content.to_vec()));
        json!({ "mediaType": kind, "digest": digest, "size": content.len() })
    }

    /// Adds an image with one layer.
    fn image(&mut self, architecture: &str, layer: &[u8]) -> Value {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer)] },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", layer);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let mut entry = self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        entry
    }

    fn index(mut self, entries: Value) -> Self {
        let index = json!({ "schemaVersion": 2, "manifests": entries }).to_string();
        self.files.push(("index.json".to_owned(), index.into_bytes()));
        self
    }

    fn folder(&self, place: &TempDir) -> PathBuf {
        let folder = place.path().join("tools.oci");
        for (name, content) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn archive(&self) -> Vec<u8> {
        self.files.iter().fold(Tar::new(), |tar, (name, content)| tar.file(name, content)).0.into_inner().unwrap()
    }
}

/// An archive in the making.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(mut self, name: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, content).unwrap();
        self
    }

    fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_path(name).unwrap();
        header.set_link_name_literal(target).unwrap();
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn read(path: &Path, reference: Option<&str>) -> Result<Found> {
    Source::open(path)?.read(reference, || Ok(tempfile::tempfile().unwrap()))
}

fn read_bytes(bytes: &[u8], reference: Option<&str>) -> Result<Found> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("saved.tar.gz");
    fs::write(&path, bytes).unwrap();
    read(&path, reference)
}

#[track_caller]
fn refused<T>(result: Result<T>, says: &str) {
    let Err(error) = result else { panic!("it passed, though {says}") };
    let text = error.to_string();
    assert!(text.contains(says) && !text.contains('\n'), "{text:?} doesn't say {says:?}");
}

fn layer(content: &str) -> Vec<u8> {
    Tar::new().file("content", content.as_bytes()).bytes()
}

fn named(mut entry: Value, name: &str) -> Value {
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    entry
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_layout_is_found_in_a_folder_and_in_archives() {
    let place = tempfile::tempdir().unwrap();
    let mut layout = Layout::new();
    let entry = named(layout.image(architecture(), &layer("1")), "v1");
    let layout = layout.index(json!([entry]));
    let found = read(&layout.folder(&place), None).unwrap();
    assert_eq!((found.name.as_str(), found.image.layers.len()), ("tools:v1", 1));
    let archive = layout.archive();
    for bytes in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
        let found = read_bytes(&bytes, Some("v1")).unwrap();
        assert_eq!(found.name, "saved:v1");
        let content = found.layer(0).unwrap();
        assert_eq!(content.size, layer("1").len() as u64);
    }
}

#[test]
fn of_several_images_one_must_be_named() {
    let mut layout = Layout::new();
    let one = named(layout.image(architecture(), &layer("1")), "v1");
    let two = named(layout.image(architecture(), &layer("2")), "example.org/tools:2");
    let archive = layout.index(json!([one, two])).archive();
    refused(read_bytes(&archive, None), "2 images in it (v1, example.org/tools:2): choose one with --reference");
    refused(read_bytes(&archive, Some("v3")), "no image called \"v3\"");
    assert_eq!(read_bytes(&archive, Some("example.org/tools:2")).unwrap().name, "example.org/tools:2");
}

#[test]
fn this_machines_platform_is_taken_from_indexes_in_indexes() {
    let mut layout = Layout::new();
    let foreign = layout.image("s390x", &layer("foreign"));
    let ours = layout.image(architecture(), &layer("ours"));
    let inner = json!({ "schemaVersion": 2, "manifests": [foreign, ours] }).to_string();
    let index = layout.blob("application/vnd.oci.image.index.v1+json", inner.as_bytes());
    let found = read_bytes(&layout.index(json!([named(index, "v1")])).archive(), None).unwrap();
    assert_eq!(found.image.layers[0].diff_id, Digest::of(&layer("ours")));

    let mut layout = Layout::new();
    let foreign = layout.image("s390x", &layer("foreign"));
    refused(read_bytes(&layout.index(json!([foreign])).archive(), None), "offered for linux/s390x");

    let mut layout = Layout::new();
    let mut entry = layout.image(architecture(), &layer("deep"));
    for _ in 0..6 {
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
        entry = layout.blob("application/vnd.oci.image.index.v1+json", index.as_bytes());
    }
    refused(read_bytes(&layout.index(json!([entry])).archive(), None), "indexes in each other");
}

#[test]
fn damaged_layouts_are_refused() {
    let mut layout = Layout::new();
    let entry = layout.image(architecture(), &layer("1"));
    let layout = layout.index(json!([entry]));
    let archive = layout.archive();
    let without = |part: usize| {
        let mut files = layout.files.clone();
        files.remove(part);
        Layout { files }.archive()
    };
    // The order of the files: layout, configuration, layer, manifest, index.
    refused(read_bytes(&without(1), None), "it has no blobs/sha256/");
    refused(read_bytes(&without(3), None), "it has no blobs/sha256/");
    refused(read_bytes(&without(4), None), "neither an OCI layout");
    let found = read_bytes(&without(2), None).unwrap();
    refused(found.layer(0), "is missing: export the image again");
    let mut files = layout.files.clone();
    files[3].1[20] ^= 1;
    refused(read_bytes(&Layout { files }.archive(), None), "is damaged");
    refused(read_bytes(&archive[..archive.len() / 2], None), "");
    refused(read_bytes(&gzip(&archive)[..200], None), "ends too early");
    refused(read_bytes(b"", None), "empty");
    refused(read_bytes(b"BZh91AY&SY and so on", None), "decompress it first");
    refused(read_bytes(&[b'x'; 5000], None), "not a tar archive");
    refused(read_bytes(&Tar::new().file("README", b"").bytes(), None), "neither an OCI layout");
    refused(read_bytes(&Tar::new().file("index.json", b"{").bytes(), None), "image manifest");
    refused(read_bytes(&Tar::new().file("index.json", &[b' '; 5 << 20]).bytes(), None), "at most 4194304 are read");
}

#[test]
fn names_in_a_source_lead_nowhere_else() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("secret"), "{}").unwrap();
    let mut layout = Layout::new();
    let entry = layout.image(architecture(), &layer("1"));
    let layout = layout.index(json!([entry]));
    let folder = layout.folder(&place);
    let blob = folder.join(&layout.files[1].0);
    // Blobs may be links, as long as they stay inside.
    fs::rename(&blob, folder.join("elsewhere")).unwrap();
    symlink("../../elsewhere", &blob).unwrap();
    assert!(read(&folder, None).is_ok());
    fs::remove_file(&blob).unwrap();
    symlink(place.path().join("secret"), &blob).unwrap();
    refused(read(&folder, None), "leads out of it");
    fs::remove_file(&blob).unwrap();
    symlink("../../../secret", &blob).unwrap();
    refused(read(&folder, None), "leads out of it");
    fs::remove_file(&blob).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &blob, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    refused(read(&folder, None), "isn't a file");
    refused(read(&place.path().join("missing"), None), "No such file");
    refused(read(place.path(), None), "it has no oci-layout");
    refused(read(Path::new("/dev/null"), None), "neither a folder nor a file");

    let config = json!({ "Config": "../../../../etc/hostname", "Layers": ["/etc/passwd"] });
    let list = json!([config]).to_string();
    refused(read_bytes(&Tar::new().file("manifest.json", list.as_bytes()).bytes(), None), "it has no ../../");
    let list = json!([{ "Config": "c", "Layers": ["a/layer.tar"] }]).to_string();
    let loops = Tar::new()
        .file("manifest.json", list.as_bytes())
        .file("c", b"{}")
        .link(tar::EntryType::Symlink, "a/layer.tar", "../b/layer.tar")
        .link(tar::EntryType::Symlink, "b/layer.tar", "../a/layer.tar");
    refused(read_bytes(&loops.bytes(), None), "names a layer \"a/layer.tar\" that isn't there");
}

/// What `docker save` wrote for years: layers in folders, one of them a link to another's.
fn docker_archive(lower: &[u8], upper: &[u8]) -> Vec<u8> {
    let diff_ids = [Digest::of(lower), Digest::of(upper), Digest::of(lower)];
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": { "Env": null, "Cmd": ["bash"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let layers = ["1/layer.tar", "2/layer.tar", "3/layer.tar"];
    let list = json!([
        { "Config": "abc.json", "RepoTags": ["demo:1", "demo:latest"], "Layers": layers },
        { "Config": "other.json", "RepoTags": null, "Layers": [] },
    ]);
    Tar::new()
        .file("1/layer.tar", lower)
        .file("1/VERSION", b"1.0")
        .file("2/layer.tar", upper)
        .link(tar::EntryType::Symlink, "3/layer.tar", "../1/layer.tar")
        .file("abc.json", config.to_string().as_bytes())
        .file("manifest.json", list.to_string().as_bytes())
        .bytes()
}

#[test]
fn docker_archives_of_the_old_kind_are_found() {
    let archive = docker_archive(&layer("lower"), &layer("upper"));
    refused(read_bytes(&archive, None), "choose one with --reference");
    for reference in ["demo:1", "demo:latest"] {
        let found = read_bytes(&gzip(&archive), Some(reference)).unwrap();
        assert_eq!(found.name, reference);
        assert_eq!(found.image.overlay(), [&Digest::of(&layer("upper")), &Digest::of(&layer("lower"))]);
        assert_eq!(found.image.wishes.cmd, ["bash"]);
    }
}

/// Unpacks without a launcher.
struct Directly {
    layers: OwnedFd,
    unpacked: usize,
}

impl Unpack for Directly {
    type Error = Error;

    fn has(&mut self, layer: &Digest) -> Result<bool> {
        layer::is_unpacked(self.layers.as_fd(), layer)
    }

    fn unpack(&mut self, request: &UnpackRequest, blob: BorrowedFd<'_>, _: (usize, usize)) -> Result<()> {
        self.unpacked += 1;
        let blob = File::from(blob.try_clone_to_owned().unwrap());
        layer::unpack(request, blob, self.layers.as_fd(), &Limits::default(), &mut |_| Ok(())).map(|_| ())
    }
}

#[test]
fn an_import_unpacks_each_layer_once_and_then_keeps_the_image() {
    if !layer::tests::may_give_files_away() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        fs::create_dir(place.path().join(name)).unwrap();
        OwnedFd::from(File::open(place.path().join(name)).unwrap())
    };
    let store = Store::open(open("images")).unwrap();
    let mut unpack = Directly { layers: open("layers"), unpacked: 0 };
    let compressed = gzip(&layer("upper"));
    let hold = store.hold(Using::Adding).unwrap();

    // The upper layer's digest is that of nothing in the configuration: it is refused, and no image is kept.
    let wrong = read_bytes(&docker_archive(&layer("lower"), &compressed), Some("demo:1")).unwrap();
    refused(import(&wrong, "demo", &store, &hold, &mut unpack), "the unpacked layer should be");
    assert!(store.names().unwrap().is_empty());
    assert_eq!(layer::list(unpack.layers.as_fd()).unwrap(), [Digest::of(&layer("lower"))]);

    let found = read_bytes(&docker_archive(&layer("lower"), &layer("upper")), Some("demo:1")).unwrap();
    refused(import(&found, "a name", &store, &hold, &mut unpack), "choose one with --name");
    unpack.unpacked = 0;
    let image = import(&found, "demo", &store, &hold, &mut unpack).unwrap();
    assert_eq!(unpack.unpacked, 1, "the lower layer was there already");
    assert_eq!(store.resolve("demo").unwrap(), image);
    for layer in image.overlay() {
        assert!(place.path().join("layers").join(layer.hex()).join("content").exists());
    }
    import(&found, "again", &store, &hold, &mut unpack).unwrap();
    assert_eq!(unpack.unpacked, 1);
    assert_eq!(store.names().unwrap(), ["again", "demo"]);
}
