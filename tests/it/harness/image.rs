//! The state folder that all tests share, with the default image in it: importing it takes longer than most tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `scripts/build-image` leaves the image.
pub(super) const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image/default");

/// The image's index, or why servers can't be started.
pub(super) fn index() -> Result<String, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    fs::read_to_string(Path::new(BUILT).join("index.json"))
        .map_err(|_| "needs the default image: run scripts/build-image".to_owned())
}

/// The shared state folder, or why there is none.
pub(crate) fn state() -> Result<PathBuf, String> {
    let index = index()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("it-state");
    fs::create_dir_all(&folder).expect("the state folder can be made");
    // One test imports, the others wait: they may be processes of their own.
    let lock = File::create(folder.with_extension("lock")).expect("the lock can be made");
    lock.lock().expect("the lock is taken");
    let imported = fs::read_to_string(folder.join("images/index.json")).unwrap_or_default();
    if !imported.contains(digest(&index)) {
        import(&folder);
    }
    Ok(folder)
}

/// The digest of the image's manifest.
fn digest(index: &str) -> &str {
    let start = index.find("sha256:").expect("the index names a manifest");
    &index[start..start + "sha256:".len() + 64]
}

fn import(state: &Path) {
    let other = tempfile::tempdir().expect("a temporary folder");
    let folder = |name: &str| other.path().join(name);
    let imported = Command::new(env!("CARGO_BIN_EXE_cloister"))
        .args(["image", "import", "--name", "default"])
        .arg(BUILT)
        .arg("--state")
        .arg(state)
        .arg("--projects")
        .arg(folder("projects"))
        .arg("--run-dir")
        .arg(folder("run"))
        .args(["--cgroup", "cloister-it-import"])
        .output()
        .expect("cloister runs");
    super::server::remove_cgroup("cloister-it-import");
    assert!(imported.status.success(), "image import: {}", String::from_utf8_lossy(&imported.stderr));
}
