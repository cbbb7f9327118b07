//! A server of a test's own: the real binary, started as root, on a free port.

use std::fs::Permissions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::hierarchies::hierarchies;
use super::{DEADLINE, guest, image};

/// Numbers the servers and projects of this process.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// How a server is started.
pub(crate) struct Settings {
    /// Whether a terminal of an unknown project makes it.
    pub(crate) create_projects: bool,
    /// The configuration file's text.
    pub(crate) config: String,
    /// Whether cells have cgroups, and with them limits.
    pub(crate) cgroups: bool,
    /// Variables of the server's environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { create_projects: true, config: String::new(), cgroups: true, environment: Vec::new() }
    }
}

impl Settings {
    fn cgroup(&self) -> String {
        if self.cgroups { format!("cloister-it-{}", unique()) } else { "none".to_owned() }
    }
}

/// Who starts a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starter {
    /// Root, who starts the launcher with it.
    Root,
    /// An ordinary user, with what the host gives to one.
    Guest,
    /// The service user, who is given a launcher that root has started.
    Service,
}

/// Runs a command as the service user: the state, which may lie where it can't go; its folder; the words.
const SERVICE: &str = r#"
    mount --bind "$0" "$1/state" || exit
    shift
    exec setpriv --reuid=cloister --regid=cloister --clear-groups env HOME=/nonexistent "$@"
"#;

/// A running server. Dropping it ends it, its cells and all it left.
pub(crate) struct Server {
    settings: Settings,
    state: PathBuf,
    folder: TempDir,
    cgroup: String,
    starter: Starter,
    /// Where it is a service.
    launcher: Option<Child>,
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
        let state = or_skip(image::state())?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cgroup = settings.cgroup();
        Some(Self::start_in(settings, state, folder, cgroup, Starter::Root))
    }

    /// Starts a server with a state of its own, for what holds for all cells of a host.
    pub(crate) fn start_apart(settings: Settings) -> Option<Self> {
        let shared = or_skip(image::state())?;
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        let state = folder.path().join("state");
        image::link(&shared, &state);
        let cgroup = settings.cgroup();
        Some(Self::start_in(settings, state, folder, cgroup, Starter::Root))
    }

    /// Starts a server of an ordinary user's, with a state and an image of its own.
    pub(crate) fn start_as_guest(settings: Settings) -> Option<Self> {
        or_skip(image::index())?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cgroup = settings.cgroup();
        guest::prepare(folder.path(), settings.cgroups.then_some(&*cgroup));
        std::fs::write(folder.path().join("config.toml"), &settings.config).expect("the configuration is written");
        let state = folder.path().join("state");
        let mut import = command(&state, folder.path(), &cgroup, Starter::Guest);
        import.args(["image", "import", "--name", "default"]).arg(folder.path().join("default"));
        let imported = import.output().expect("cloister runs");
        assert!(imported.status.success(), "image import: {}", String::from_utf8_lossy(&imported.stderr));
        Some(Self::start_in(settings, state, folder, cgroup, Starter::Guest))
    }

    /// Starts a launcher as a service, and a server that never was root.
    pub(crate) fn start_as_service(settings: Settings) -> Option<Self> {
        let state = or_skip(image::state())?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("the folder is opened");
        guest::copy(&[env!("CARGO_BIN_EXE_cloister")], folder.path());
        std::fs::create_dir(folder.path().join("state")).expect("a place for the state");
        let cgroup = settings.cgroup();
        Some(Self::start_in(settings, state, folder, cgroup, Starter::Service))
    }

    fn start_in(settings: Settings, state: PathBuf, folder: TempDir, cgroup: String, starter: Starter) -> Self {
        std::fs::write(folder.path().join("config.toml"), &settings.config).expect("the configuration is written");
        let launch = || launch(&state, folder.path(), &cgroup);
        let launcher = (starter == Starter::Service).then(launch);
        let (process, log) = spawn(&settings, server_command(&state, folder.path(), &cgroup, starter));
        let address = log.address();
        let token = std::fs::read_to_string(state.join("owner.token")).expect("the server has made a token");
        let token = token.trim().to_owned();
        Self { settings, state, folder, cgroup, starter, launcher, process, log, address, token }
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
        let mut command = command(&self.state, self.folder.path(), &self.cgroup, self.starter);
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
        if let Some(launcher) = &self.launcher {
            return Pid::from_child(launcher);
        }
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the server runs");
        let child = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        child.expect("the server has a launcher")
    }

    /// The processes of a project's cell, its init first.
    pub(crate) fn processes(&self, project: &str) -> Vec<Pid> {
        let mut groups = hierarchies().map(|root| self.group(&root, project).join("cgroup.procs"));
        let found = groups.find_map(|group| std::fs::read_to_string(group).ok()).unwrap_or_default();
        found.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    /// The first of these files that the cgroup of a project's cell has, whatever version it is.
    pub(crate) fn cgroup_file(&self, project: &str, names: &[&str]) -> String {
        let groups = hierarchies().map(|root| self.group(&root, project));
        let mut files = groups.flat_map(|group| names.iter().map(move |name| group.join(name)));
        let found = files.find_map(|file| std::fs::read_to_string(file).ok());
        found.unwrap_or_else(|| panic!("no {names:?} of {project}"))
    }

    /// How many groups there are for cells, in all hierarchies together.
    pub(crate) fn cgroups(&self) -> usize {
        let groups = hierarchies().map(|root| root.join(&self.cgroup));
        let inner = groups.filter_map(|group| group.read_dir().ok()).flatten().filter_map(Result::ok);
        inner.filter(|entry| entry.path().is_dir()).count()
    }

    /// Where a project's cell has, or would have, its cgroup: in every hierarchy that cells are in.
    pub(crate) fn groups(&self, project: &str) -> Vec<PathBuf> {
        let groups = hierarchies().map(|root| self.group(&root, project));
        groups.filter(|group| group.parent().is_some_and(Path::is_dir)).collect()
    }

    /// Limits the memory of all cells together, as a unit's slice does.
    pub(crate) fn limit_memory(&self, bytes: u64) {
        let groups = hierarchies().map(|root| root.join(&self.cgroup));
        let mut files = groups.flat_map(|group| ["memory.max", "memory.limit_in_bytes"].map(|name| group.join(name)));
        let file = files.find(|file| file.exists()).expect("the cells' group has a limit of memory");
        std::fs::write(file, bytes.to_string()).expect("the limit is written");
    }

    /// Whether the cgroup of a project's cell has a file, in one of its hierarchies.
    pub(crate) fn has_cgroup_file(&self, project: &str, name: &str) -> bool {
        hierarchies().any(|root| self.group(&root, project).join(name).exists())
    }

    /// The group of a project's cell in a hierarchy. Version 2 has an ordinary user's below the one that was delegated.
    fn group(&self, root: &Path, project: &str) -> PathBuf {
        let group = root.join(&self.cgroup);
        let inner = group.join(&self.cgroup);
        if inner.is_dir() { inner.join(project) } else { group.join(project) }
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
        let command = server_command(&self.state, self.folder.path(), &self.cgroup, self.starter);
        let (process, log) = spawn(&self.settings, command);
        self.process = process;
        self.log = log;
        self.address = self.log.address();
    }

    /// The command that becomes such a server, by a script that executes what it is given.
    pub(crate) fn server_command(&self, script: &str) -> Command {
        let server = server_command(&self.state, self.folder.path(), &self.cgroup, self.starter);
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(server.get_program()).args(server.get_args());
        command
    }

    /// Kills the launcher of a server that is a service, without a warning.
    pub(crate) fn kill_launcher(&mut self) {
        let launcher = self.launcher.as_mut().expect("the launcher is a service");
        launcher.kill().and_then(|()| launcher.wait()).expect("it is our child");
    }

    /// Starts the launcher of a server that is a service anew. It must have ended.
    pub(crate) fn restart_launcher(&mut self) {
        self.launcher = Some(launch(&self.state, self.folder.path(), &self.cgroup));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        if !self.log.ended(Instant::now() + DEADLINE) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
        if let Some(launcher) = &mut self.launcher {
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
        let stopped = self.command(&["project", "stop", "--all"]).output().expect("cloister runs");
        remove_cgroup(&self.cgroup);
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.log.text());
        } else {
            assert!(stopped.status.success(), "project stop: {}", String::from_utf8_lossy(&stopped.stderr));
        }
    }
}

/// A name that no other test has, nor had one before whose storage is still there: process ids come again.
fn unique() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish() & 0xFFF_FFFF);
    format!("{:07x}-{}", *PROCESS, COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A program that tests start, installed or unpacked by `scripts/install-deps`; `None` if there is none, which is said.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let own =
        ["usr/bin", "usr/sbin"].map(|place| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(place));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain(own).map(|folder| folder.join(name)).find(|path| path.is_file());
    or_skip(found.ok_or_else(|| format!("no {name}: scripts/install-deps test")))
}

fn or_skip<T>(found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) if std::env::var_os("CI").is_some() => panic!("in CI nothing is skipped: {reason}"),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

/// A command of the binary.
fn command(state: &Path, folder: &Path, cgroup: &str, starter: Starter) -> Command {
    let command = match starter {
        Starter::Guest => guest::command(folder, cgroup),
        Starter::Root | Starter::Service => Command::new(env!("CARGO_BIN_EXE_cloister")),
    };
    configure(command, state, folder, cgroup)
}

/// The command that becomes the server.
fn server_command(state: &Path, folder: &Path, cgroup: &str, starter: Starter) -> Command {
    if starter != Starter::Service {
        return command(state, folder, cgroup, starter);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SERVICE]).args([state, folder]);
    command.arg(folder.join("cloister"));
    configure(command, &folder.join("state"), folder, cgroup)
}

/// Starts a launcher as a service, and waits until it can be asked.
fn launch(state: &Path, folder: &Path, cgroup: &str) -> Child {
    let socket = folder.join("run/launcher.sock");
    let _ = std::fs::remove_file(&socket);
    let mut command = command(state, folder, cgroup, Starter::Service);
    let launcher = command.arg("launcher").stdin(Stdio::null()).spawn().expect("the launcher starts");
    let by = Instant::now() + DEADLINE;
    while !socket.exists() {
        assert!(Instant::now() < by, "the launcher does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    launcher
}

fn configure(mut command: Command, state: &Path, folder: &Path, cgroup: &str) -> Command {
    // A developer's own settings are not a test's.
    for (name, _) in std::env::vars_os() {
        if ["CLOISTER_", "OTEL_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
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

fn spawn(settings: &Settings, mut command: Command) -> (Child, Arc<Log>) {
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    if settings.create_projects {
        command.arg("--create-projects");
    }
    command.envs(settings.environment.iter().map(|(name, text)| (name, text)));
    let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the server starts");
    let log = Log::of(process.stderr.take().expect("its log is piped"));
    (process, log)
}

/// Removes a cgroup in every hierarchy. An ordinary user's has groups below, in which a launcher's sweeper may be at work yet.
pub(crate) fn remove_cgroup(name: &str) {
    let by = Instant::now() + Duration::from_secs(5);
    for group in hierarchies().map(|hierarchy| hierarchy.join(name)) {
        for group in [group.join("server"), group.join(name), group] {
            let busy = || std::fs::remove_dir(&group).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy);
            while busy() && Instant::now() < by {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A server's log as it grows. Who asks for it has every line that was written before.
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

struct LogState {
    /// Never waited for.
    output: BufReader<ChildStderr>,
    line: Vec<u8>,
    text: String,
    ended: bool,
}

impl LogState {
    /// Takes in what is there by now.
    fn read(&mut self) {
        while !self.ended {
            match self.output.read_until(b'\n', &mut self.line) {
                Ok(count) => self.ended = count == 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the server's log is read: {error}"),
            }
            self.text.push_str(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}

impl Log {
    fn of(output: ChildStderr) -> Arc<Self> {
        fcntl_setfl(&output, OFlags::NONBLOCK).expect("reading need not wait");
        let readable = output.as_fd().try_clone_to_owned().expect("there are descriptors");
        let state = LogState { output: BufReader::new(output), line: Vec::new(), text: String::new(), ended: false };
        let log = Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() });
        let reader = log.clone();
        std::thread::spawn(move || {
            while !reader.read().ended {
                let _ = poll(&mut [PollFd::new(&readable, PollFlags::IN)], None);
            }
        });
        log
    }

    fn read(&self) -> MutexGuard<'_, LogState> {
        let mut state = self.state.lock().expect("no reader panics");
        state.read();
        self.changed.notify_all();
        state
    }

    fn text(&self) -> String {
        self.read().text.clone()
    }

    /// Waits until `found` finds something, or the server ended, or it is too late.
    fn wait<T>(&self, by: Instant, mut found: impl FnMut(&LogState) -> Option<T>) -> Option<T> {
        let mut state = self.read();
        loop {
            if let Some(value) = found(&state) {
                return Some(value);
            }
            let left = by.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).expect("no reader panics").0;
        }
    }

    fn ended(&self, by: Instant) -> bool {
        self.wait(by, |state| state.ended.then_some(())).is_some()
    }

    fn address(&self) -> SocketAddr {
        let address = self.wait(Instant::now() + DEADLINE, |state| {
            let rest = state.text.split("serving on http").nth(1)?.trim_start_matches('s').strip_prefix("://")?;
            rest.split_once('/').map(|(address, _)| address.parse().expect("an address"))
        });
        address.unwrap_or_else(|| panic!("the server does not serve; it logged:\n{}", self.text()))
    }
}
