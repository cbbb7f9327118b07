//! The state folder that all tests share, with the default image in it: importing it takes longer than most tests.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where `scripts/build-image` leaves the image.
pub(super) const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image/default");

/// How long importing it may take: ten times what it does on a busy machine.
const IMPORT_WAIT: Duration = Duration::from_secs(120);

/// How often the shared state is linked until nothing goes meanwhile.
const LINKS_MAX: u32 = 10;

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
        // Where it failed once, it isn't tried again for each of hundreds of tests.
        let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
        let failure = folder.with_extension(format!("failed-{run}"));
        let outcome = fs::read_to_string(&failure).map_or_else(|_| import(&folder), Err);
        outcome.unwrap_or_else(|reason| {
            fs::write(&failure, &reason).expect("the failure is kept");
            panic!("image import: {reason}");
        });
    }
    Ok(folder)
}

/// Makes another state folder with the same image. It must be on the same file system: of the layers there are only links.
pub(super) fn link(shared: &Path, state: &Path) {
    let linked = || {
        fs::create_dir(state).expect("the state folder is made");
        let mut copy = Command::new("cp");
        copy.arg("-al").args(["images", "layers"].map(|name| shared.join(name))).arg(state);
        copy.status().expect("cp runs").success()
    };
    // What another test is unpacking there may go meanwhile.
    for _ in 0..LINKS_MAX {
        if linked() {
            return;
        }
        fs::remove_dir_all(state).expect("the state folder is removed");
    }
    panic!("the image can't be linked");
}

/// The digest of the image's manifest.
fn digest(index: &str) -> &str {
    let start = index.find("sha256:").expect("the index names a manifest");
    &index[start..start + "sha256:".len() + 64]
}

fn import(state: &Path) -> Result<(), String> {
    let other = tempfile::tempdir().expect("a temporary folder");
    let folder = |name: &str| other.path().join(name);
    let mut said = tempfile::tempfile().expect("a temporary file");
    let copy = || said.try_clone().expect("the file can be shared");
    let mut importing = Command::new(env!("CARGO_BIN_EXE_cloister"))
        .args(["image", "import", "--name", "default"])
        .arg(BUILT)
        .arg("--state")
        .arg(state)
        .arg("--projects")
        .arg(folder("projects"))
        .arg("--run-dir")
        .arg(folder("run"))
        .args(["--cgroup", "cloister-it-import"])
        .stdin(Stdio::null())
        .stdout(copy())
        .stderr(copy())
        .spawn()
        .expect("cloister runs");
    let by = Instant::now() + IMPORT_WAIT;
    let status = loop {
        match importing.try_wait().expect("it is our child") {
            None if Instant::now() < by => std::thread::sleep(Duration::from_millis(20)),
            ended => break ended,
        }
    };
    let stuck = if status.is_none() { stop(&mut importing) } else { String::new() };
    super::server::remove_cgroup("cloister-it-import");
    if status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    let mut text = String::new();
    said.rewind().and_then(|()| said.read_to_string(&mut text)).expect("what it said can be read");
    Err(format!("{status:?}; it said: {text}{stuck}"))
}

/// Ends what doesn't end by itself; tells what all that belongs to it waits for.
fn stop(importing: &mut Child) -> String {
    let mut told = String::from("\nnot ended in time; what waits, and where in the kernel:\n");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path());
    for process in processes {
        let read = |name: &str| fs::read_to_string(process.join(name)).unwrap_or_default();
        let words = read("cmdline").replace('\0', " ");
        if words.contains("cloister") {
            let _ = writeln!(told, "{} {words}\n{}{}", process.display(), read("syscall"), read("stack"));
        }
    }
    let _ = importing.kill();
    let _ = importing.wait();
    told
}
