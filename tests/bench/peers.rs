//! The peers: other ways to the same shell with the same files, and why one can't be had on this machine.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

use crate::folder::{self, Folder};
use crate::tty::{Program, Tty, last_line};

/// What a session runs: the image's shell as a login shell.
const SHELL: [&str; 2] = ["/bin/bash", "-l"];

/// The default image's name with podman.
const PODMAN_IMAGE: &str = "localhost/bench:latest";

/// Where version 2 of cgroups lies on a machine that has its controllers in version 1.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// A peer, or why there is none.
pub(crate) type Peer = Result<Program, String>;

/// All of them, each as a program that comes to the shell's prompt.
pub(crate) struct Peers {
    /// The shell without a sandbox: the floor of whatever starts it.
    pub(crate) bash: Program,
    /// bubblewrap: namespaces and a bind mount, no cgroup, no seccomp, no network set-up, no overlay.
    pub(crate) bubblewrap: Peer,
    /// crun: an OCI runtime without an engine above it, with its usual hardening but seccomp.
    pub(crate) crun: Peer,
    /// podman: what is typed instead of `docker run -it`.
    pub(crate) podman: Peer,
    podman_words: Vec<String>,
    env: Vec<(String, String)>,
    _home: Home,
}

/// The mount namespace that this process came from. Dropping it goes back there.
struct Home(File);

/// A container of podman's with nothing in it but a sleeper, for `podman exec`. Dropping it removes it.
pub(crate) struct Container<'a> {
    peers: &'a Peers,
}

impl Peers {
    /// Prepares each, and tries whether it works. As long as they are there, this process lives in a mount namespace of its
    /// own.
    pub(crate) fn prepare(folder: &Folder) -> anyhow::Result<Self> {
        let home = hide_hybrid_cgroup()?;
        let rootfs = folder.unpack_image()?;
        let mut env = folder::image_env()?;
        let terminal = [("TERM", "xterm-256color"), ("HOME", "/root"), ("SHELL", SHELL[0])];
        env.extend(terminal.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let mut podman_words = vec!["podman".to_owned()];
        for (option, value) in [
            ("--root", folder.place("podman/root")),
            ("--runroot", folder.place("podman/run")),
            ("--tmpdir", folder.place("podman/tmp")),
            ("--cgroup-manager", "cgroupfs".to_owned()),
            ("--events-backend", "none".to_owned()),
        ] {
            podman_words.extend([option.to_owned(), value]);
        }
        let none = || Err(String::new());
        let bash = bash(&rootfs, folder, &env)?;
        let mut peers = Self { bash, bubblewrap: none(), crun: none(), podman: none(), podman_words, env, _home: home };
        Tty::start(&peers.bash)?.until_prompt().context("start the image's bash without a sandbox")?;
        peers.bubblewrap = tried(Ok(peers.bubblewrap(&rootfs)));
        peers.crun = tried(peers.crun(&rootfs, folder));
        peers.podman = tried(peers.podman());
        Ok(peers)
    }

    /// Every peer by its name.
    pub(crate) fn all(&self) -> [(&'static str, &Peer); 3] {
        [("bubblewrap", &self.bubblewrap), ("crun", &self.crun), ("podman run", &self.podman)]
    }

    /// Starts a container of podman's in the background, to execute shells in.
    pub(crate) fn container(&self) -> Result<Container<'_>, String> {
        self.podman.as_ref().map_err(String::clone)?;
        let program = self.podman_run(&["--detach", "--name", "bench"]).with(["sleep", "infinity"]);
        let started = run(&program).and_then(|output| succeeded(&output));
        started.map_err(|error| format!("{error:#}"))?;
        Ok(Container { peers: self })
    }

    fn bubblewrap(&self, rootfs: &str) -> Program {
        let options = ["--unshare-all", "--hostname", "bench", "--bind", rootfs, "/"];
        let mounts = ["--proc", "/proc", "--dev", "/dev", "--chdir", "/workspace"];
        self.program(["bwrap"]).with(options).with(mounts).with(SHELL)
    }

    fn crun(&self, rootfs: &str, folder: &Folder) -> anyhow::Result<Program> {
        let bundle = folder.place("crun");
        std::fs::create_dir_all(&bundle)?;
        let spec = Command::new("crun").arg("spec").current_dir(&bundle).output().context("crun is not installed")?;
        succeeded(&spec)?;
        let path = format!("{bundle}/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["root"] = json!({ "path": rootfs, "readonly": false });
        config["hostname"] = json!("bench");
        config["process"]["args"] = json!(SHELL);
        config["process"]["cwd"] = json!("/workspace");
        config["process"]["env"] = self.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        // A machine that may not raise its limits can't have the usual ones.
        config["process"]["rlimits"] = json!([]);
        std::fs::write(&path, config.to_string())?;
        let root = folder.place("crun-run");
        let words = ["crun", "--cgroup-manager", "cgroupfs", "--root", &root, "run", "--bundle", &bundle, "bench"];
        Ok(self.program(words))
    }

    fn podman(&self) -> anyhow::Result<Program> {
        let load = self.podman_words(&["load", "--quiet", "--input", folder::layout()?]);
        let loaded = run(&load).context("podman is not installed")?;
        succeeded(&loaded)?;
        let name = String::from_utf8_lossy(&loaded.stdout);
        let name = name.trim().rsplit(' ').next().unwrap_or_default();
        succeeded(&run(&self.podman_words(&["tag", name, PODMAN_IMAGE]))?)?;
        Ok(self.podman_run(&["--rm", "--interactive", "--tty"]).with(SHELL))
    }

    /// `podman run` with no network, and with limits that a machine may set that may not raise them.
    fn podman_run(&self, options: &[&str]) -> Program {
        let common = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        self.podman_words(&["run"]).with(common).with(options.iter().copied()).with([
            "--workdir",
            "/workspace",
            PODMAN_IMAGE,
        ])
    }

    fn podman_words(&self, words: &[&str]) -> Program {
        self.program(self.podman_words.iter().map(String::as_str)).with(words.iter().copied())
    }

    fn program<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Program {
        Program { env: self.env.clone(), ..Program::new(words, &[]) }
    }
}

impl Container<'_> {
    /// A further shell in the container.
    pub(crate) fn shell(&self) -> Program {
        self.peers.podman_words(&["exec", "--interactive", "--tty", "bench"]).with(SHELL)
    }

    /// Copies a file into the container.
    pub(crate) fn put(&self, file: &str, inside: &str) -> anyhow::Result<()> {
        succeeded(&run(&self.peers.podman_words(&["cp", file, &format!("bench:{inside}")]))?)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let removed = run(&self.peers.podman_words(&["rm", "--force", "--time", "0", "bench"]));
        if let Err(error) = removed.and_then(|output| succeeded(&output)) {
            eprintln!("podman's container may be left over: {error:#}");
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.0, CloneFlags::CLONE_NEWNS) {
            eprintln!("there is no way back to the host's mounts: {error}");
        }
    }
}

/// The image's own bash on the host, as near to a login shell in the image as can be without entering it: it reads the
/// image's profile and the image's `.bashrc`.
fn bash(rootfs: &str, folder: &Folder, env: &[(String, String)]) -> anyhow::Result<Program> {
    let profile = std::fs::read_to_string(format!("{rootfs}/etc/profile"))?.replace("/etc/", &format!("{rootfs}/etc/"));
    let startup = folder.place("profile");
    std::fs::write(&startup, format!("{profile}\n. ~/.profile\n"))?;
    let shell = format!("{rootfs}{}", SHELL[0]);
    let mut program = Program::new([shell.as_str(), "--rcfile", &startup, "-i"], &[]);
    let home = ("HOME".to_owned(), format!("{rootfs}/root"));
    program.env = env.iter().filter(|(key, _)| key != "HOME").cloned().chain([home]).collect();
    Ok(program)
}

/// Whether it comes to a prompt.
fn tried(program: anyhow::Result<Program>) -> Peer {
    let tried = program.and_then(|program| {
        let tty = Tty::start(&program).with_context(|| format!("start {}", program.words[0]))?;
        tty.until_prompt()?;
        tty.exit()?;
        Ok(program)
    });
    tried.map_err(|error| format!("{error:#}"))
}

/// Of a machine with both versions of cgroups, crun wants to see one. The server has started and sees both.
fn hide_hybrid_cgroup() -> anyhow::Result<Home> {
    let home = Home(File::open("/proc/thread-self/ns/mnt")?);
    unshare(CloneFlags::CLONE_NEWNS).context("unshare mounts")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make mounts private")?;
    match umount2(HYBRID, MntFlags::MNT_DETACH) {
        // There is none.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(home),
        Err(error) => Err(error).context("hide the second version of cgroups"),
    }
}

fn run(program: &Program) -> anyhow::Result<Output> {
    let env = program.env.iter().map(|(key, value)| (key, value));
    let mut command = Command::new(&program.words[0]);
    command.args(&program.words[1..]).env_clear().envs(env).stdin(Stdio::null());
    command.output().with_context(|| format!("start {}", program.words[0]))
}

fn succeeded(output: &Output) -> anyhow::Result<()> {
    ensure!(output.status.success(), "{}", last_line(&output.stderr));
    Ok(())
}
