//! Images, projects and machines as an attacker or an accident leaves them: each is refused in one line that names the
//! step and the remedy, the host stays as it was, and the next good start works. What is in an archive's bytes is tried
//! with the images; here it is what a whole image looks like from a cell's first process.

mod images;
mod layout;
mod machine;
mod projects;
mod races;
mod worker;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::Server;

fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("cloister runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}

/// A command must work; gives what it printed.
#[track_caller]
fn does(server: &Server, words: &[&str]) -> String {
    let output = output(server.command(words));
    assert!(output.status.success(), "{words:?}: {output:?}");
    text(&output.stdout)
}

/// A command must fail, and say why in one line with all of `says` in it.
#[track_caller]
fn fails(server: &Server, words: &[&str], says: &[&str]) {
    is_refusal(&output(server.command(words)), says);
}

#[track_caller]
fn is_refusal(output: &Output, says: &[&str]) {
    let message = text(&output.stderr);
    assert!(!output.status.success(), "it passed, though {says:?}: {output:?}");
    assert!(message.starts_with("cloister: ") && message.lines().count() == 1, "not one line: {message:?}");
    for part in says {
        assert!(message.contains(part), "{message:?} doesn't say {part:?}");
    }
}

/// Something of the host's that links lead to.
struct Canary {
    folder: PathBuf,
    before: BTreeMap<PathBuf, (u32, u32, u64, Vec<u8>)>,
}

impl Canary {
    fn new(server: &Server) -> Self {
        let folder = server.projects().join("canary.d");
        for inner in ["etc", "workspace"] {
            std::fs::create_dir_all(folder.join(inner)).expect("the canary is made");
        }
        for name in ["hostname", "etc/hostname", "etc/hosts", "etc/passwd", "workspace/mark", "project.toml"] {
            std::fs::write(folder.join(name), "sings\n").expect("the canary is made");
        }
        let before = look(&folder);
        Self { folder, before }
    }

    fn path(&self) -> &str {
        self.folder.to_str().expect("test folders are UTF-8")
    }

    /// Nothing was changed, and nothing came to it.
    #[track_caller]
    fn sings(&self) {
        assert!(look(&self.folder) == self.before, "the host was touched: {:?}", look(&self.folder));
    }
}

/// A tree as it is: modes, owners, times and contents.
fn look(folder: &Path) -> BTreeMap<PathBuf, (u32, u32, u64, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("the canary is there") {
            let path = entry.expect("the canary is there").path();
            let metadata = path.symlink_metadata().expect("the canary is there");
            let content =
                if metadata.is_file() { std::fs::read(&path).expect("the canary is there") } else { Vec::new() };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            let changed = metadata.mtime().cast_unsigned() ^ metadata.ctime_nsec().cast_unsigned();
            seen.insert(path, (metadata.mode(), metadata.uid(), changed, content));
        }
    }
    seen
}
