//! What changes, or dies, while cells start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, kill_process};

use super::projects::create;
use super::{Canary, does};
use crate::harness::{DEADLINE, Server, block_on};

#[test]
fn folders_exchanged_for_links_while_five_hundred_cells_start_lead_nowhere() {
    const STARTS: usize = 500;
    const PROJECTS: usize = 4;
    let Some(server) = Server::start() else { return };
    let canary = Canary::new(&server);
    let projects = [(); PROJECTS].map(|()| create(&server));
    let aside = server.projects().join("aside.d");
    fs::create_dir(&aside).expect("a folder can be made");
    let mut pairs = Vec::new();
    for (project, folder) in &projects {
        fs::write(folder.join("workspace/mark"), "mine\n").expect("the mark is written");
        let (link, parent) = (aside.join(format!("{project}-workspace")), aside.join(project));
        symlink(Path::new(canary.path()).join("workspace"), &link).expect("a link can be made");
        symlink(canary.path(), &parent).expect("a link can be made");
        pairs.push((folder.join("workspace"), link));
        pairs.push((folder.clone(), parent));
    }
    let (stop, started, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| exchange(&pairs, &stop));
        let (server, started, refused) = (&server, &started, &refused);
        block_on(join_all(projects.iter().map(|(project, _)| async move {
            for start in 0..STARTS / PROJECTS {
                match server.try_open(project, &format!("&session=s{start}")).await {
                    Ok(mut terminal) => {
                        terminal.expect("$ ").await;
                        assert_eq!(terminal.run("cat mark; ls").await, "mine\r\nmark\r\n");
                        started.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(refusal) => {
                        assert!((400..600).contains(&refusal.status), "{refusal:?}");
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // A project that is a link at this moment is none, and its cell goes on; the next turn finds it.
                server.ask("POST", &format!("/api/projects/{project}/stop"), None).await;
            }
        })));
    });
    let (started, refused) = (started.into_inner(), refused.into_inner());
    assert!(started > STARTS / 20 && refused > 0, "{started} started, {refused} refused");
    canary.sings();
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", server.launcher().as_raw_nonzero()));
    assert!(!mounts.expect("the launcher runs").contains("canary.d"), "it is mounted nowhere");
}

/// Says that it is over when it goes, a panic or not.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Exchanges each two, again and again; in the end each is where it was.
fn exchange(pairs: &[(PathBuf, PathBuf)], stop: &AtomicBool) {
    let swap = |(a, b): &(PathBuf, PathBuf)| renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok();
    while !stop.load(Ordering::Relaxed) {
        for pair in pairs {
            if swap(pair) {
                std::thread::sleep(Duration::from_micros(50));
                while !swap(pair) {}
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Whom a signal hits that nobody can catch.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Launcher,
    /// The cell's first process, from when it is in its cgroup.
    Init,
}

#[test]
fn a_launcher_or_init_that_is_killed_at_any_moment_of_a_start_leaves_nothing() {
    const MOMENTS: u32 = 40;
    let Some(server) = Server::start() else { return };
    let (project, _) = create(&server);
    let storage = server.state().join("cells").join(&project);
    let socket = server.run_dir().join(format!("cells/{project}.sock"));
    let mut failed = 0;
    for victim in [Victim::Launcher, Victim::Init] {
        for moment in 0..MOMENTS {
            let run = server.command(&["run", &project, "--", "sleep", "0.1"]);
            let mut command = begin(run);
            // Its storage is the first that there is of a cell.
            until(|| storage.exists().then_some(()));
            std::thread::sleep(Duration::from_micros(u64::from(moment) * 250));
            let hit = match victim {
                Victim::Launcher => child_of(&command),
                Victim::Init => server.processes(&project).first().copied(),
            };
            if let Some(hit) = hit {
                let _ = kill_process(hit, Signal::KILL);
            }
            failed += u32::from(!command.wait().expect("it is our child").success());
            does(&server, &["project", "stop", &project]);
            let left = [storage.exists(), socket.exists(), !server.processes(&project).is_empty()];
            assert_eq!(
                left,
                [false; 3],
                "{victim:?} killed {} us into a start: storage, socket, processes",
                moment * 250
            );
        }
    }
    assert!(failed > MOMENTS / 2, "hardly any was hit: {failed}");
    assert_eq!(does(&server, &["run", &project, "--", "echo", "fine"]), "fine\n");
}

fn begin(mut command: std::process::Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cloister runs")
}

fn child_of(command: &Child) -> Option<Pid> {
    let pid = command.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?))
}

/// Looks until there is something, without a pause: what is looked for lasts for milliseconds.
fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let by = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < by, "it never comes");
    }
}
