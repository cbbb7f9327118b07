//! The folder that a run works in, and the default image in it as a root file system for the peers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

/// The default image as `make image` leaves it: an OCI layout.
const LAYOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image/default");

/// A folder that is removed in the end.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes an empty one below `target/`, on the disk where the server's folders may lie too.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let path = format!("{}/target/bench-{}", env!("CARGO_MANIFEST_DIR"), std::process::id());
        std::fs::create_dir(&path).with_context(|| format!("make folder {path}"))?;
        Ok(Self { path: path.into() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A place in it, as text.
    pub(crate) fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Unpacks the default image's layer; gives the root file system's folder.
    pub(crate) fn unpack_image(&self) -> anyhow::Result<String> {
        let rootfs = self.place("rootfs");
        std::fs::create_dir(&rootfs)?;
        let layer = blob(&manifest()?["layers"][0]["digest"])?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--zstd", "--numeric-owner", "--xattrs", "--directory", &rootfs, "--file"]).arg(layer);
        ensure!(tar.status()?.success(), "unpack the default image");
        Ok(rootfs)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What a peer has mounted there goes first.
        let _ = Command::new("umount")
            .args(["--quiet", "--lazy", "--recursive"])
            .arg(&self.path)
            .stderr(Stdio::null())
            .status();
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} can't be removed: {error}", self.path.display());
        }
    }
}

/// The default image's layout.
pub(crate) fn layout() -> anyhow::Result<&'static str> {
    ensure!(Path::new(LAYOUT).join("index.json").is_file(), "{LAYOUT} is missing: run make image");
    Ok(LAYOUT)
}

/// What the image says of its environment.
pub(crate) fn image_env() -> anyhow::Result<Vec<(String, String)>> {
    let config: Value = serde_json::from_slice(&std::fs::read(blob(&manifest()?["config"]["digest"])?)?)?;
    let env = config["config"]["Env"].as_array().context("the image has an environment")?;
    let pairs = env.iter().filter_map(|entry| entry.as_str()?.split_once('='));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn manifest() -> anyhow::Result<Value> {
    let index: Value = serde_json::from_slice(&std::fs::read(format!("{}/index.json", layout()?))?)?;
    Ok(serde_json::from_slice(&std::fs::read(blob(&index["manifests"][0]["digest"])?)?)?)
}

fn blob(digest: &Value) -> anyhow::Result<PathBuf> {
    let hex =
        digest.as_str().and_then(|digest| digest.strip_prefix("sha256:")).context("a layout names sha256 digests")?;
    Ok(Path::new(LAYOUT).join("blobs/sha256").join(hex))
}
