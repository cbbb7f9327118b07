//! A server of a test's own: the real binary, started as root, on a free port.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{DEADLINE, image};

/// Numbers the servers and projects of this process.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// How a server is started.
pub(crate) struct Settings {
    /// Whether a terminal of an unknown project makes it.
    pub(crate) create_projects: bool,
    /// The configuration file's text.
    pub(crate) config: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { create_projects: true, config: String::new() }
    }
}

/// A running server. Dropping it ends it, its cells and all it left.
pub(crate) struct Server {
    settings: Settings,
    state: PathBuf,
    folder: TempDir,
    cgroup: String,
    process: Child,
    log: Arc<Log>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The owner's token.
    pub(crate) token: String,
}

impl Server {
    /// Starts a server that creates projects; `None` if this machine can't, which is said.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(Settings::default())
    }

    /// Starts a server.
    pub(crate) fn start_with(settings: Settings) -> Option<Self> {
        let state = match image::state() {
            Ok(state) => state,
            Err(reason) if std::env::var_os("CI").is_some() => panic!("in CI nothing is skipped: {reason}"),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return None;
            }
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cgroup = format!("cloister-it-{}", unique());
        std::fs::write(folder.path().join("config.toml"), &settings.config).expect("the configuration is written");
        let (process, log) = spawn(&settings, &state, folder.path(), &cgroup);
        let address = log.address();
        let token = std::fs::read_to_string(state.join("owner.token")).expect("the server has made a token");
        let token = token.trim().to_owned();
        Some(Self { settings, state, folder, cgroup, process, log, address, token })
    }

    /// An id that no other test uses: cells' storage lies in the shared state.
    pub(crate) fn project(&self) -> String {
        format!("it-{}", unique())
    }

    /// A project with such a `project.toml`.
    pub(crate) fn project_with(&self, settings: &str) -> String {
        let project = self.project();
        let created = self.command(&["project", "create", &project]).output().expect("cloister runs");
        assert!(created.status.success(), "{created:?}");
        let file = self.projects().join(&project).join("project.toml");
        std::fs::write(file, settings).expect("the settings are written");
        project
    }

    /// The folder of projects.
    pub(crate) fn projects(&self) -> PathBuf {
        self.folder.path().join("projects")
    }

    /// The state folder, which all tests share.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// The server's process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The run directory.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// A command of the binary, with this server's folders.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.state, self.folder.path(), &self.cgroup);
        command.args(words);
        command
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until the server has logged `text`.
    pub(crate) async fn logged(&self, text: &'static str) {
        let log = self.log.clone();
        let found = move || log.wait(Instant::now() + DEADLINE, |state| state.text.contains(text).then_some(()));
        let found = tokio::task::spawn_blocking(found).await.expect("waiting does not panic");
        assert!(found.is_some(), "the server did not log {text:?}, but:\n{}", self.log.text());
    }

    /// How many descriptors the server has open.
    pub(crate) fn descriptors(&self) -> usize {
        Path::new("/proc").join(self.process.id().to_string()).join("fd").read_dir().expect("the server runs").count()
    }

    /// The server's launcher.
    pub(crate) fn launcher(&self) -> Pid {
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the server runs");
        let child = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        child.expect("the server has a launcher")
    }

    /// The processes of a project's cell, its init first.
    pub(crate) fn processes(&self, project: &str) -> Vec<Pid> {
        let leaf = Path::new(&self.cgroup).join(project).join("cgroup.procs");
        let found = hierarchies().find_map(|root| std::fs::read_to_string(root.join(&leaf)).ok()).unwrap_or_default();
        found.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    /// Sends the server a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("the server can be signalled");
    }

    /// Waits until the server's process is gone.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let by = Instant::now() + DEADLINE;
        // A process that ended closes its output: waiting for that has a deadline, which wait(2) hasn't.
        assert!(self.log.ended(by), "the server did not end; it logged:\n{}", self.log.text());
        self.process.wait().expect("the server is our child")
    }

    /// Starts the server anew, with the same folders and on another port. It must have ended.
    pub(crate) fn restart(&mut self) {
        let (process, log) = spawn(&self.settings, &self.state, self.folder.path(), &self.cgroup);
        self.process = process;
        self.log = log;
        self.address = self.log.address();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        if !self.log.ended(Instant::now() + DEADLINE) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
        let stopped = self.command(&["project", "stop", "--all"]).output().expect("cloister runs");
        remove_cgroup(&self.cgroup);
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.log.text());
        } else {
            assert!(stopped.status.success(), "project stop: {}", String::from_utf8_lossy(&stopped.stderr));
        }
    }
}

fn unique() -> String {
    format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn command(state: &Path, folder: &Path, cgroup: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
    // A developer's own settings are not a test's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLOISTER_") {
            command.env_remove(name);
        }
    }
    command
        .arg("--config")
        .arg(folder.join("config.toml"))
        .arg("--state")
        .arg(state)
        .arg("--projects")
        .arg(folder.join("projects"))
        .arg("--run-dir")
        .arg(folder.join("run"))
        .args(["--cgroup", cgroup]);
    command
}

fn spawn(settings: &Settings, state: &Path, folder: &Path, cgroup: &str) -> (Child, Arc<Log>) {
    let mut command = command(state, folder, cgroup);
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    if settings.create_projects {
        command.arg("--create-projects");
    }
    let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the server starts");
    let output = process.stderr.take().expect("its log is piped");
    let log = Arc::new(Log::default());
    let writer = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            writer.change(|state| state.text.push_str(&(line + "\n")));
        }
        writer.change(|state| state.ended = true);
    });
    (process, log)
}

/// Removes a cgroup in every hierarchy, once nothing is in it.
pub(crate) fn remove_cgroup(name: &str) {
    for hierarchy in hierarchies() {
        let _ = std::fs::remove_dir(hierarchy.join(name));
    }
}

/// Where cgroup hierarchies are mounted: version 2 alone, or one folder for each.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let inner = root.read_dir().into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    inner.chain([root.to_owned()])
}

/// A server's log as it grows.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    text: String,
    ended: bool,
}

impl Log {
    fn change(&self, change: impl FnOnce(&mut LogState)) {
        change(&mut self.state.lock().expect("no reader panics"));
        self.changed.notify_all();
    }

    fn text(&self) -> String {
        self.state.lock().expect("no writer panics").text.clone()
    }

    /// Waits until `found` finds something, or the server ended, or it is too late.
    fn wait<T>(&self, by: Instant, mut found: impl FnMut(&LogState) -> Option<T>) -> Option<T> {
        let mut state = self.state.lock().expect("no writer panics");
        loop {
            if let Some(value) = found(&state) {
                return Some(value);
            }
            let left = by.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).expect("no writer panics").0;
        }
    }

    fn ended(&self, by: Instant) -> bool {
        self.wait(by, |state| state.ended.then_some(())).is_some()
    }

    fn address(&self) -> SocketAddr {
        let address = self.wait(Instant::now() + DEADLINE, |state| {
            let rest = state.text.split("serving on http://").nth(1)?;
            rest.split_once('/').map(|(address, _)| address.parse().expect("an address"))
        });
        address.unwrap_or_else(|| panic!("the server does not serve; it logged:\n{}", self.text()))
    }
}
