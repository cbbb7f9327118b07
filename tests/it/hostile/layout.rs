//! Images made by hand, as OCI layouts: a layer of a test's own, on the default image's or on nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::EntryType;
use tempfile::TempDir;

/// The tar of a layer in the making.
pub(super) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(super) fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0o755, 0)
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, 0)
    }

    pub(super) fn fifo(self, name: &str) -> Self {
        self.entry(EntryType::Fifo, name, "", 0o644, 0)
    }

    pub(super) fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        self.0.append_data(&mut header, name, content).expect("memory takes it");
        self
    }

    /// A file of zeros.
    pub(super) fn zeros(mut self, name: &str, size: u64) -> Self {
        let mut header = header(EntryType::Regular, 0o644, size);
        let zeros = std::io::Read::take(std::io::repeat(0), size);
        self.0.append_data(&mut header, name, zeros).expect("memory takes it");
        self
    }

    fn entry(mut self, kind: EntryType, name: &str, target: &str, mode: u32, size: u64) -> Self {
        let mut header = header(kind, mode, size);
        header.set_path(name).expect("the name is short");
        header.set_link_name_literal(target).expect("the target is short");
        header.set_cksum();
        self.0.append(&header, &[][..]).expect("memory takes it");
        self
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(size);
    header
}

/// Writes an image of this layer alone, with this `config` (what it says of how to run).
pub(super) fn alone(layer: Layer, config: Value) -> TempDir {
    write(layer, config, &[], &[])
}

/// Writes an image of this layer on top of the default image's, which must be in the store already: their blobs aren't in
/// this layout.
pub(super) fn on_default(layer: Layer, config: Value) -> TempDir {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/default");
    let read = |path: PathBuf| -> Value {
        let text = fs::read(path).expect("the default image is built");
        serde_json::from_slice(&text).expect("the default image is an image")
    };
    let blob = |entry: &Value| {
        let digest = entry["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
        read(built.join("blobs/sha256").join(digest))
    };
    let manifest = blob(&read(built.join("index.json"))["manifests"][0]);
    let inner = blob(&manifest["config"]);
    let list = |value: &Value| value.as_array().expect("a list").clone();
    write(layer, config, &list(&manifest["layers"]), &list(&inner["rootfs"]["diff_ids"]))
}

fn write(layer: Layer, config: Value, layers_below: &[Value], diff_ids_below: &[Value]) -> TempDir {
    let layout = tempfile::tempdir().expect("a temporary folder");
    let blobs = layout.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a temporary folder");
    let blob = |kind: &str, content: &[u8]| -> Value {
        let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(blobs.join(&hex), content).expect("the blob is written");
        let media = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media, "digest": format!("sha256:{hex}"), "size": content.len() })
    };
    let tar = layer.0.into_inner().expect("memory takes it");
    let own = blob("layer.v1.tar", &tar);
    let (layers, diff_ids) =
        ([layers_below, std::slice::from_ref(&own)].concat(), [diff_ids_below, &[own["digest"].clone()]].concat());
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media, "config": config, "layers": layers });
    let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.path().join("index.json"), index.to_string()).expect("the index is written");
    fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the layout is written");
    layout
}
