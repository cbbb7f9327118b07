//! The server that is measured: the release binary as an operator starts it, with folders of its own, and what can be seen
//! of it from outside: its processes, cgroups, mounts and descriptors.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Address, Api};
use crate::folder::{self, Folder};
use crate::signals;
use crate::tty::{DEADLINE, last_line};

/// How often it is looked whether something has happened that nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Where cgroup hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A running server. Dropping it ends it and its cells.
pub(crate) struct Server {
    process: Child,
    launcher: i32,
    places: Places,
    hierarchies: Vec<OwnedFd>,
    /// Where it listens.
    pub(crate) address: Address,
}

/// Where things of a server lie.
struct Places {
    state: PathBuf,
    projects: PathBuf,
    run: PathBuf,
    cgroup: String,
}

/// Everything a cell consists of outside of itself. Two that are equal before and after say that nothing was left over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    /// Processes of the launcher and the server, and what runs in the cells' cgroups.
    pub(crate) processes: usize,
    /// Mounts as the server, in the host's namespace, and the launcher, in its own, see them.
    pub(crate) mounts: usize,
    /// Open descriptors of the launcher and of the server.
    pub(crate) descriptors: usize,
    /// Cells' cgroups in all hierarchies.
    pub(crate) cgroups: usize,
    /// Files below the run folder.
    pub(crate) run_files: BTreeSet<PathBuf>,
    /// Files below the cells' part of the state folder.
    pub(crate) storage: BTreeSet<PathBuf>,
}

impl Server {
    /// Imports the default image and starts a server.
    pub(crate) fn start(folder: &Folder) -> anyhow::Result<Self> {
        Self::start_with(folder, "")
    }

    /// The same with a configuration of its own.
    pub(crate) fn start_with(folder: &Folder, config: &str) -> anyhow::Result<Self> {
        let hierarchies = hierarchies()?;
        let at = |name: &str| folder.path().join(name);
        let cgroup = format!("cloister-bench-{}", std::process::id());
        let places = Places { state: at("state"), projects: at("projects"), run: at("run"), cgroup };
        std::fs::write(at("config.toml"), config)?;
        let imported = places.command(&["image", "import", folder::layout()?, "--name", "default"]).output()?;
        ensure!(imported.status.success(), "import the image: {}", last_line(&imported.stderr));
        let (process, socket) = places.serve("127.0.0.1:0")?;
        let token = std::fs::read_to_string(places.state.join("owner.token"))?.trim().to_owned();
        let server = process.id().cast_signed();
        let launcher = *children(server).first().context("a server has a launcher")?;
        let server = Self { process, launcher, places, hierarchies, address: Address { socket, token } };
        ensure!(server.groups().next().is_some(), "the server's cgroup is not to be found below {CGROUPS}");
        Ok(server)
    }

    /// Sends the server a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    /// Waits for the server's end, and starts the next one at the same address.
    pub(crate) fn follow(&mut self) -> anyhow::Result<()> {
        self.process.wait()?;
        (self.process, _) = self.places.serve(&self.address.socket.to_string())?;
        self.launcher = *children(self.pid()).first().context("a server has a launcher")?;
        Ok(())
    }

    /// A project's workspace.
    pub(crate) fn workspace(&self, project: &str) -> PathBuf {
        self.places.projects.join(project).join("workspace")
    }

    /// A connection on which a project's cell can be told to stop.
    pub(crate) fn stop(&self, project: &str) -> anyhow::Result<Api> {
        Api::connect(&self.address, "POST", &format!("/api/projects/{project}/stop"))
    }

    /// A connection on which a project can be removed, cell and all.
    pub(crate) fn remove(&self, project: &str) -> anyhow::Result<Api> {
        Api::connect(&self.address, "DELETE", &format!("/api/projects/{project}"))
    }

    /// Pid of the server.
    pub(crate) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Pid of the launcher.
    pub(crate) fn launcher(&self) -> i32 {
        self.launcher
    }

    /// Whether the cell of a project is frozen.
    pub(crate) fn is_frozen(&self, project: &str) -> bool {
        let events = self.groups().map(|group| std::fs::read_to_string(group.join(project).join("cgroup.events")));
        events.flatten().any(|events| events.contains("frozen 1"))
    }

    /// How long the processes of all cells have worked so far, in nanoseconds.
    pub(crate) fn cells_processor_ns(&self) -> anyhow::Result<u64> {
        let mut stats = self.groups().filter_map(|group| std::fs::read_to_string(group.join("cpu.stat")).ok());
        let us = stats.find_map(|stat| stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()));
        us.map(|us: u64| us * 1000).context("version 2 of cgroups counts the processor time of groups, and isn't there")
    }

    /// How long the server's process has worked so far (proc_pid_stat(5)).
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name in parentheses is the second field; utime and stime are the fourteenth and fifteenth.
        let (_, behind) = text.rsplit_once(')').context("a process has a name")?;
        Ok(ticks(behind.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()))
    }

    /// Pids of the server, of the launcher, and of every cell's init.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids = vec![self.pid(), self.launcher];
        pids.extend(children(self.launcher));
        pids
    }

    /// Whether the cell's cgroup is removed in every hierarchy, which the kernel allows once no process is left in it.
    pub(crate) fn is_gone(&self, project: &str) -> bool {
        self.groups().all(|group| !group.join(project).exists())
    }

    /// Waits until the launcher has let go of every cell.
    pub(crate) fn until_idle(&self) -> anyhow::Result<()> {
        let idle = wait_for(|| {
            let groups = self.groups().any(|group| !subfolders(&group).is_empty());
            (!groups && children(self.launcher).is_empty()).then_some(())
        });
        idle.context("a cell goes on though it was told to stop")
    }

    /// What can be seen of its cells now.
    pub(crate) fn traces(&self) -> anyhow::Result<Traces> {
        let server = self.pid();
        let count = |file: String| anyhow::Ok(std::fs::read_to_string(file)?.lines().count());
        let descriptors = |pid: i32| anyhow::Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        let groups: Vec<PathBuf> = self.groups().flat_map(|group| subfolders(&group)).collect();
        let grouped = groups.iter().filter_map(|group| std::fs::read_to_string(group.join("cgroup.procs")).ok());
        let mut processes: BTreeSet<i32> = grouped.flat_map(|pids| numbers(&pids)).collect();
        processes.extend(children(server));
        processes.extend(children(self.launcher));
        let mounts = count(format!("/proc/{server}/mountinfo"))? + count(format!("/proc/{}/mountinfo", self.launcher))?;
        Ok(Traces {
            processes: processes.len(),
            mounts,
            descriptors: descriptors(server)? + descriptors(self.launcher)?,
            cgroups: groups.len(),
            run_files: files(&self.places.run)?,
            storage: files(&self.places.state.join("cells"))?,
        })
    }

    /// This server's group in every hierarchy.
    fn groups(&self) -> impl Iterator<Item = PathBuf> {
        let opened = self.hierarchies.iter().map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd()));
        opened.map(|folder| Path::new(&folder).join(&self.places.cgroup)).filter(|group| group.is_dir())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
        match self.places.command(&["project", "stop", "--all"]).output() {
            Ok(stopped) if stopped.status.success() => {}
            other => eprintln!("cells may be left over: {other:?}"),
        }
        for group in self.groups() {
            if let Err(error) = std::fs::remove_dir(&group) {
                eprintln!("cgroup {} is left over: {error}", group.display());
            }
        }
    }
}

impl Places {
    /// Starts a server, and waits until it says where it listens.
    fn serve(&self, listen: &str) -> anyhow::Result<(Child, SocketAddr)> {
        let log = self.state.with_file_name("log");
        let mut command = self.command(&["serve", "--listen", listen, "--create-projects"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let process = signals::spawn(&mut command)?;
        signals::end_instead(Pid::from_child(&process))?;
        let socket = wait_for(|| {
            let text = std::fs::read_to_string(&log).ok()?;
            let (address, _) = text.split("serving on http://").nth(1)?.split_once('/')?;
            address.parse().ok()
        });
        match socket {
            Some(socket) => Ok((process, socket)),
            None => bail!("the server does not serve: {}", last_line(&std::fs::read(&log)?)),
        }
    }

    /// A command of the binary with these folders. The caller's own settings are not for it.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLOISTER_") {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(self.state.with_file_name("config.toml"));
        command.arg("--state").arg(&self.state).arg("--projects").arg(&self.projects).arg("--run-dir").arg(&self.run);
        command.args(["--cgroup", &self.cgroup]).args(words);
        command
    }
}

/// Looks again and again until there is something, or it is too late.
pub(crate) fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let by = Instant::now() + DEADLINE;
    loop {
        match look() {
            None if Instant::now() < by => std::thread::sleep(LOOK_EVERY),
            found => return found,
        }
    }
}

/// A process's children, whichever of its threads forked them.
fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| numbers(&list)).collect()
}

/// What the kernel tells times in: hundredths of a second on every processor that this runs on.
pub(crate) fn ticks(count: u64) -> Duration {
    Duration::from_millis(10 * count)
}

fn numbers(text: &str) -> Vec<i32> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Every folder that a hierarchy may be mounted at, version 2 also at the root: opened, since this program will hide one
/// from itself.
fn hierarchies() -> anyhow::Result<Vec<OwnedFd>> {
    let root = Path::new(CGROUPS);
    let folders = subfolders(root).into_iter().chain([root.to_owned()]);
    let opened = folders.map(|folder| open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()));
    opened.collect::<Result<_, _>>().with_context(|| format!("open the folders in {CGROUPS}"))
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Every file below a folder.
fn files(folder: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in folder.read_dir().with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    Ok(found)
}
