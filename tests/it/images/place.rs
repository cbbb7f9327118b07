//! Folders of a test's own, the binary at work in them, and small images made by the tools that Debian has.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::harness::remove_cgroup;

/// Numbers the places of this process.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Folders of a test's own for everything. Dropping it ends its cells.
pub(super) struct Place {
    folder: TempDir,
    cgroup: String,
}

impl Place {
    /// A place where `tools` are there; `None` if not, which is said.
    pub(super) fn new(tools: &[&str]) -> Option<Self> {
        let missing = match tools.iter().find(|tool| program(tool).is_none()) {
            _ if !rustix::process::geteuid().is_root() => Some("root".to_owned()),
            Some(tool) => Some(format!("{tool}: run scripts/install-deps test")),
            None => None,
        };
        if let Some(missing) = missing {
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: needs {missing}");
            eprintln!("skipped: needs {missing}");
            return None;
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("cloister-it-images-{}-{number}", std::process::id());
        Some(Self { folder: tempfile::tempdir().expect("a temporary folder"), cgroup })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn cloister(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
        // A developer's own settings and credentials are not a test's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLOISTER_")) {
            command.env_remove(name);
        }
        fs::write(self.path("config.toml"), "").expect("the configuration is written");
        command.env("DOCKER_CONFIG", self.path("docker")).current_dir(self.folder.path()).stdin(Stdio::null());
        for (option, name) in
            [("--config", "config.toml"), ("--state", "state"), ("--projects", "projects"), ("--run-dir", "run")]
        {
            command.arg(option).arg(self.path(name));
        }
        command.args(["--cgroup", &self.cgroup]).args(words);
        command
    }

    /// Runs a command of ours that must work; gives what it printed.
    #[track_caller]
    pub(super) fn does(&self, words: &[&str]) -> String {
        let output = self.cloister(words).output().expect("cloister runs");
        assert!(output.status.success(), "{words:?}: {output:?}");
        text(&output.stdout)
    }

    /// Runs a command of ours that must fail, and say why in one line.
    #[track_caller]
    pub(super) fn fails(&self, words: &[&str], says: &str) {
        is_refusal(&self.cloister(words).output().expect("cloister runs"), says);
    }

    /// Runs a shell command in a new cell of an image.
    #[track_caller]
    pub(super) fn run(&self, image: &str, command: &str) -> String {
        let project = format!("p-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.does(&["project", "create", &project, "--image", image]);
        self.does(&["run", &project, "--", "/bin/sh", "-c", command]).replace("\r\n", "\n")
    }

    /// The unpacked layers, and anything unfinished.
    pub(super) fn layers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("state/layers")).expect("the folder of layers");
        let mut names: Vec<String> = entries.map(|entry| text(entry.unwrap().file_name().as_encoded_bytes())).collect();
        names.sort();
        names
    }

    /// The files of a small system.
    pub(super) fn rootfs(&self) -> PathBuf {
        let rootfs = self.path("rootfs");
        for folder in ["bin", "etc", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy(program("busybox").unwrap(), rootfs.join("bin/busybox")).unwrap();
        for name in ["cat", "id", "ls", "sh"] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(rootfs.join("greeting"), "hello\n").unwrap();
        fs::write(rootfs.join("gone"), "").unwrap();
        rootfs
    }

    /// An OCI layout made by umoci, with an image `v1` of two layers, the upper of which removes a file.
    pub(super) fn layout(&self) -> PathBuf {
        let rootfs = self.rootfs();
        let layout = self.path("layout");
        let bundle = self.path("bundle");
        let [layout_text, bundle_text] = [&layout, &bundle].map(|path| path.to_str().unwrap().to_owned());
        let image = format!("{layout_text}:v1");
        tool(&["umoci", "init", "--layout", &layout_text]);
        tool(&["umoci", "new", "--image", &image]);
        tool(&["umoci", "unpack", "--image", &image, &bundle_text]);
        tool(&["cp", "-a", &format!("{}/.", rootfs.display()), &format!("{bundle_text}/rootfs/")]);
        tool(&["umoci", "repack", "--refresh-bundle", "--image", &image, &bundle_text]);
        fs::remove_file(bundle.join("rootfs/gone")).unwrap();
        tool(&["umoci", "repack", "--image", &image, &bundle_text]);
        let config = ["--config.cmd", "/bin/sh", "--config.env", "PATH=/bin", "--config.env", "TOOL=umoci"];
        tool(&[&["umoci", "config", "--image", &image, "--config.workingdir", "/tmp"], &config[..]].concat());
        layout
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stopped = self.cloister(&["project", "stop", "--all"]).output().expect("cloister runs");
        remove_cgroup(&self.cgroup);
        assert!(std::thread::panicking() || stopped.status.success(), "project stop: {stopped:?}");
    }
}

/// A program by its name, in the usual places or where `scripts/install-deps` puts those it doesn't install.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/usr/bin");
    std::env::split_paths(&path).chain([own]).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[track_caller]
pub(super) fn tool(words: &[&str]) -> String {
    let path = program(words[0]).expect("the tool is there");
    let output = Command::new(path).args(&words[1..]).stdin(Stdio::null()).output().expect("the tool runs");
    assert!(output.status.success(), "{words:?}: {output:?}");
    text(&output.stdout).trim().to_owned()
}

#[track_caller]
pub(super) fn is_refusal(output: &Output, says: &str) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(error.contains(says), "{error:?} doesn't say {says:?}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image with one layer, as blobs.
pub(super) struct Made {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) layer: Vec<u8>,
}

/// Makes an image of a layer's blob, which is said to be `diff_id` once it is uncompressed.
pub(super) fn image_of(layer: &[u8], diff_id: &[u8]) -> Made {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "rootfs": { "diff_ids": [format!("sha256:{}", sha256(diff_id))] },
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({ "config": descriptor(&config), "layers": [descriptor(layer)] });
    Made { manifest: manifest.to_string().into_bytes(), config, layer: layer.to_owned() }
}

impl Made {
    /// Writes it as an OCI layout.
    pub(super) fn layout(&self, folder: PathBuf) -> PathBuf {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for blob in [&self.manifest, &self.config, &self.layer] {
            fs::write(blobs.join(sha256(blob)), blob).unwrap();
        }
        let index = serde_json::json!({ "manifests": [descriptor(&self.manifest)] });
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        folder
    }
}

fn descriptor(blob: &[u8]) -> serde_json::Value {
    serde_json::json!({ "digest": format!("sha256:{}", sha256(blob)), "size": blob.len() })
}
