//! Limits of disk: what a full project hears, what it keeps, and what its neighbours notice.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Instant;

use crate::harness::{DEADLINE, Server};

const MIB: u64 = 1 << 20;

/// A project of a server, with a limit of disk in MiB.
struct Project<'a> {
    server: &'a Server,
    id: String,
}

impl<'a> Project<'a> {
    fn new(server: &'a Server, mib: u64) -> Self {
        Self { server, id: server.project_with(&limited(mib)) }
    }

    fn folder(&self) -> PathBuf {
        self.server.projects().join(&self.id)
    }

    fn limit(&self, mib: u64) {
        std::fs::write(self.folder().join("project.toml"), limited(mib)).expect("the settings are written");
    }

    fn try_run(&self, script: &str) -> Output {
        let words = ["run", &self.id, "--", "sh", "-c", script];
        self.server.command(&words).stdin(Stdio::null()).output().expect("cloister runs")
    }

    /// Runs a script in the project's cell; gives what it said.
    fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        assert_ne!(output.status.code(), Some(125), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        // A terminal is told of a quota by the kernel too.
        said.split_inclusive('\n').filter(|line| !line.contains("write failed, project")).collect()
    }

    /// Size and free room of a path in the cell, in MiB.
    fn df(&self, path: &str) -> (u64, u64) {
        let said = self.run(&format!("df -BM --output=size,avail {path} | tail -1"));
        let numbers: Vec<u64> =
            said.split_whitespace().map(|word| word.trim_end_matches('M').parse().expect("MiB")).collect();
        (numbers[0], numbers[1])
    }
}

/// Whether this host's file systems have project quotas; otherwise each limited project has a disk image.
fn has_quotas(server: &Server) -> bool {
    let output = server.command(&["doctor"]).output().expect("cloister runs");
    String::from_utf8_lossy(&output.stdout).contains("by project quotas")
}

fn limited(mib: u64) -> String {
    format!("[limits]\ndisk_bytes_max = {}\n", mib * MIB)
}

#[test]
fn a_full_project_gets_no_more_room_and_nobody_else_notices() {
    let Some(server) = Server::start() else { return };
    let (full, other) = (Project::new(&server, 64), Project::new(&server, 64));
    for place in ["/workspace", "/var/tmp"] {
        let (size, free) = full.df(place);
        assert!((40..=64).contains(&size) && free <= size, "{place}: {size} MiB, {free} free");
    }
    let said = full.run(
        "cd /workspace; head -c 200M /dev/zero > big 2>/dev/null && echo through; \
         stat -c %s big | awk '{ print ($1 > 20e6 && $1 <= 64 * 2^20) }'; \
         (head -c 1M /dev/zero > /var/tmp/more) 2>/dev/null && echo through; rm big; echo more > more; cat more",
    );
    assert_eq!(said, "1\nmore\n");
    // And files as many as there is room for.
    let said = full.run(
        "cd /workspace; python3 -c '\n\
         import errno\n\
         try:\n\
         \x20   for n in range(10**6): open(f\"file{n}\", \"w\").close()\n\
         except OSError as error: print(errno.errorcode[error.errno])\n'",
    );
    assert!(matches!(said.as_str(), "ENOSPC\n" | "EDQUOT\n"), "{said}");
    assert_eq!(other.run("head -c 20M /dev/zero > /workspace/file && stat -c %s /workspace/file"), "20971520\n");
    assert_eq!(full.run("rm -r /workspace/file*; echo there > /workspace/file; cat /workspace/file"), "there\n");
}

#[test]
fn the_workspace_stays_and_what_the_cell_changed_goes() {
    let Some(server) = Server::start() else { return };
    let project = Project::new(&server, 64);
    let owner =
        project.run("echo kept > /workspace/kept; head -c 30M /dev/zero > /var/gone; stat -c %u /workspace/kept");
    assert_eq!(owner, "0\n");
    let by = Instant::now() + DEADLINE;
    while project.df("/").1 <= 40 {
        assert!(Instant::now() < by, "the last cell's 30 MiB are still not free");
    }
    assert_eq!(project.run("cat /workspace/kept; ls /var/gone 2>/dev/null; ls -A /workspace"), "kept\nkept\n");
}

#[test]
fn a_disk_grows_and_does_not_shrink() {
    let Some(server) = Server::start() else { return };
    let project = Project::new(&server, 64);
    project.run("head -c 8M /dev/urandom > /workspace/file; sha256sum /workspace/file > /workspace/sum");
    project.limit(1024);
    let (size, _) = project.df("/workspace");
    assert!((900..=1024).contains(&size), "{size} MiB");
    assert_eq!(project.run("cd /workspace; sha256sum -c sum"), "/workspace/file: OK\n");
}

#[test]
fn nothing_of_a_removed_projects_disk_is_left() {
    let Some(server) = Server::start() else { return };
    let project = Project::new(&server, 64);
    project.run("echo file > /workspace/file");
    let removed = server.command(&["project", "rm", &project.id]).output().expect("cloister runs");
    assert!(removed.status.success(), "{removed:?}");
    let attached = || {
        let devices = std::fs::read_dir("/sys/block").expect("/sys is there").filter_map(Result::ok);
        let files = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
        files.filter(|file| file.contains(&format!("{}.ext4", project.id))).count()
    };
    let by = Instant::now() + DEADLINE;
    while attached() > 0 {
        assert!(Instant::now() < by, "its loop device is still there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let left = server.state().join("disks").read_dir().expect("the folder is there").filter_map(Result::ok);
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains(&project.id)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_limit_that_can_not_hold_is_refused_with_what_to_do() {
    let Some(server) = Server::start() else { return };
    let refused = |project: &Project<'_>| {
        let output = project.try_run("true");
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let (project, older) = (Project::new(&server, 128), Project::new(&server, 0));
    project.run("true");
    project.limit(64);
    older.run("mkdir /workspace/folder; head -c 80M /dev/zero > /workspace/folder/older");
    older.limit(64);
    if has_quotas(&server) {
        assert!(project.df("/").0 <= 64, "a quota can shrink");
        let said = older.run("cd /workspace; (echo more > more) 2>/dev/null || echo no more; stat -c %s folder/older");
        assert_eq!(said, "no more\n83886080\n", "what was there stays, and counts");
    } else {
        let said = refused(&project);
        assert!(said.contains("it has 134217728 bytes already and can't shrink"), "{said}");
        let said = refused(&older);
        assert!(said.contains("its workspace has files on the host's file system"), "{said}");
        older.limit(0);
        assert_eq!(older.run("stat -c %s /workspace/folder/older"), "83886080\n");
    }
    // No more of the host's disk than it says: the least is there for a file system of a project's own.
    older.limit(1);
    assert!(refused(&older).contains("limits.disk_bytes_max must be 0 for no limit, or 67108864 to"));
}

#[test]
fn without_enforcement_a_limit_is_ignored_because_the_operator_says_so() {
    let settings = crate::harness::Settings { config: "quota = 'unenforced'\n".to_owned(), ..Default::default() };
    let Some(server) = Server::start_with(settings) else { return };
    let project = Project::new(&server, 64);
    assert_eq!(project.run("head -c 100M /dev/zero > /var/tmp/file; stat -c %s /var/tmp/file"), "104857600\n");
}
