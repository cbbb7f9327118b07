//! Cells in which nothing happens: frozen, thawed by the first key, stopped, and why.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{DEADLINE, Server, Settings, Wire, block_on};

/// Counts in a file now and then, which costs next to no processor time, also of a slow one, and prints nothing.
const COUNTER: &str = "import time\n\
    count = 0\n\
    while True:\n\
    \x20   count += 1\n\
    \x20   open('/workspace/count', 'w').write(str(count))\n\
    \x20   time.sleep(0.4)\n";

/// What starts it.
const COUNT: &[u8] = b"python3 /workspace/counter.py & :\r";

/// A server that freezes soon, or stops.
fn server(freeze_s: u32, stop_s: u32) -> Option<Server> {
    Server::start_with(settings(freeze_s, stop_s))
}

fn settings(freeze_s: u32, stop_s: u32) -> Settings {
    let config = format!("idle_freeze_s = {freeze_s}\nidle_stop_s = {stop_s}\n");
    Settings { config, ..Settings::default() }
}

impl Server {
    fn is_frozen(&self, project: &str) -> bool {
        self.cgroup_file(project, &["cgroup.events"]).contains("frozen 1")
    }

    /// Why the server says that a project's cell is as it is.
    async fn why(&self, project: &str) -> Value {
        let answer = self.ask("GET", &format!("/api/projects/{project}/why"), None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until that is so.
    async fn is(&self, project: &str, state: &str) -> Value {
        let by = Instant::now() + DEADLINE;
        loop {
            let why = self.why(project).await;
            if why["state"] == state {
                return why;
            }
            assert!(Instant::now() < by, "not {state}: {why}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn did(&self, words: &[&str]) -> Output {
        let output = self.command(words).stdin(Stdio::null()).output().expect("cloister runs");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// A client of a project's cell in which a program counts in a file; and that file.
    async fn counting(&self, project: &str) -> (Wire, PathBuf) {
        let mut wire = self.wire_prompt(project, "main").await;
        let workspace = self.projects().join(project).join("workspace");
        std::fs::write(workspace.join("counter.py"), COUNTER).expect("the script is written");
        wire.input(1, 0, COUNT).await;
        let file = workspace.join("count");
        let by = Instant::now() + DEADLINE;
        while !file.exists() {
            assert!(Instant::now() < by, "it doesn't count");
            sleep(Duration::from_millis(10)).await;
        }
        (wire, file)
    }

    /// A project whose cell is frozen, and a client of that.
    async fn frozen(&self) -> (String, Wire) {
        let project = self.project();
        let mut wire = self.wire_prompt(&project, "main").await;
        wire.told("frozen").await;
        (project, wire)
    }
}

fn counted(file: &PathBuf) -> String {
    std::fs::read_to_string(file).expect("it was written")
}

/// Waits until it counts.
async fn goes_on(file: &PathBuf) {
    let (before, by) = (counted(file), Instant::now() + DEADLINE);
    while counted(file) == before {
        assert!(Instant::now() < by, "it stands still");
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_cell_in_which_nothing_happens_is_frozen_and_the_first_key_has_it_go_on() {
    let Some(server) = server(1, 0) else { return };
    block_on(async {
        let project = server.project();
        let (mut wire, file) = server.counting(&project).await;
        let since = wire.told("frozen").await["since"].as_u64().expect("a time");
        assert!(server.is_frozen(&project));
        let before = counted(&file);
        sleep(Duration::from_millis(1200)).await;
        assert_eq!(counted(&file), before, "a frozen program does nothing");
        let why = server.why(&project).await;
        assert_eq!((&why["state"], &why["since"]), (&json!("frozen"), &json!(since)), "{why}");
        assert_eq!(why["stop"]["never"], "idle_stop_s = 0");
        let cells = server.ask("GET", "/api/cells", None).await.json();
        assert_eq!((&cells["cells"][0]["frozen"], &cells["cells"][0]["clients"]), (&json!(true), &json!(1)), "{cells}");
        assert!(server.is_frozen(&project), "who looks has it go on");
        // Who connects and attaches to nothing leaves it alone, too.
        let mut other = server.wire(&project).await;
        other.told("frozen").await;
        assert!(server.is_frozen(&project));

        // Many keys in one go: none is lost, and their order is theirs.
        for (index, byte) in "echo abcdefghijklm''nopqrstuvwxyz0123456789\r".bytes().enumerate() {
            wire.input(1, (COUNT.len() + index) as u64, &[byte]).await;
        }
        wire.expect(1, "abcdefghijklmnopqrstuvwxyz0123456789\r\n").await;
        other.told("thawed").await;
        goes_on(&file).await;
        other.told("frozen").await;
        assert!(server.is_frozen(&project));
        let metrics = server.ask("GET", "/metrics", None).await.body;
        for line in [
            "cloister_cells{state=\"frozen\"} 1",
            "cloister_cells{state=\"running\"} 0",
            "cloister_cells_frozen_total 2",
            "cloister_cells_thawed_total 1",
            "cloister_cell_thaw_seconds_count 1",
        ] {
            assert!(metrics.contains(&format!("{line}\n")), "no {line} in {metrics}");
        }
    });
}

#[test]
fn whoever_has_to_do_with_a_frozen_cell_finds_it_going_on() {
    let Some(server) = server(1, 0) else { return };
    block_on(async {
        let (project, mut wire) = server.frozen().await;
        // A size that somebody sees is a reason.
        wire.say(json!({ "type": "resize", "channel": 1, "cols": 100, "rows": 30 })).await;
        wire.told("thawed").await;
        wire.told("frozen").await;
        // A second session.
        wire.attach(2, "other", json!({})).await;
        wire.expect(2, "$ ").await;
        wire.told("frozen").await;
        let mut terminal = server.prompt(&project, "&session=third").await;
        assert_eq!(terminal.run("echo there").await, "there\r\n");
        wire.told("frozen").await;
        // What the launcher alone does it does to a frozen cell as well.
        server.did(&["project", "set", &project, "limits.pids_max=99"]);
        assert_eq!(server.cgroup_file(&project, &["pids.max"]).trim(), "99");
        let usage = String::from_utf8_lossy(&server.did(&["project", "usage", &project]).stdout).into_owned();
        assert!(usage.contains("of 99"), "{usage}");
        assert!(server.is_frozen(&project));
        // A command's is not frozen as long as it lasts, though nothing happens in it.
        let mut ran = server.command(&["run", &project, "--", "sh", "-c", "echo in; sleep 4; echo out"]);
        let ran = tokio::task::spawn_blocking(move || ran.stdin(Stdio::null()).output());
        wire.told("thawed").await;
        let mut obstacle = false;
        // It may be frozen as soon as the command has ended; before, the command would never end.
        while !ran.is_finished() && !server.is_frozen(&project) {
            let never = server.why(&project).await["freeze"]["never"].clone();
            obstacle |= never == "a command of this host has to do with the cell";
            sleep(Duration::from_millis(20)).await;
        }
        let ran = timeout(DEADLINE, ran).await.expect("it ends").expect("no panic").expect("cloister runs");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "in\r\nout\r\n", "{ran:?}");
        assert!(obstacle, "it says why it isn't frozen");
        wire.told("frozen").await;
        let listed = String::from_utf8_lossy(&server.did(&["project", "ls"]).stdout).into_owned();
        assert!(listed.contains("main other third"), "{listed}");
        wire.told("frozen").await;
        server.did(&["project", "stop", &project]);
        wire.told("exited").await;

        let (project, _wire) = server.frozen().await;
        let removed = server.ask("DELETE", &format!("/api/projects/{project}"), None).await;
        assert_eq!(removed.status, 204, "{removed:?}");
        assert!(!server.projects().join(&project).exists());
    });
}

#[test]
fn what_works_is_not_frozen_however_silent_it_is() {
    let Some(server) = server(1, 0) else { return };
    block_on(async {
        let [busy, idle, never] = [server.project(), server.project(), server.project_with("idle_freeze_s = 0")];
        let mut works = server.wire_prompt(&busy, "main").await;
        let mut rests = server.wire_prompt(&idle, "main").await;
        let _waits = server.wire_prompt(&never, "main").await;
        works.input(1, 0, b"while :; do :; done\r").await;
        // Frozen at once three times over, beside it.
        for seq in 0..3 {
            rests.told("frozen").await;
            assert!(!server.is_frozen(&busy) && !server.is_frozen(&never));
            rests.input(1, seq, b" ").await;
        }
        let why = server.why(&busy).await;
        assert_eq!((&why["state"], &why["activity"]["what"]), (&json!("running"), &json!("work")), "{why}");
        assert!(why["activity"]["cpu_percent"].as_f64() > Some(1.0), "{why}");
        assert_eq!(server.why(&never).await["freeze"]["never"], "idle_freeze_s = 0");
        works.input(1, 20, b"\x03").await;
        works.told("frozen").await;
    });
}

#[test]
fn a_frozen_cell_outlives_its_server_and_goes_on_with_the_next() {
    let Some(mut server) = Server::start_as_service(settings(1, 0)) else { return };
    block_on(async {
        let project = server.project_with("");
        let (mut wire, file) = server.counting(&project).await;
        wire.told("frozen").await;
        server.signal(Signal::KILL);
        server.ended();
        server.kill_launcher();
        let before = counted(&file);
        sleep(Duration::from_millis(1200)).await;
        assert!(server.is_frozen(&project) && counted(&file) == before, "nobody has touched it");
        server.restart_launcher();
        server.restart();
        let mut wire = server.wire(&project).await;
        wire.attach(1, "main", json!({})).await;
        wire.told("frozen").await;
        // The launcher isn't needed to have it go on.
        server.kill_launcher();
        wire.input(1, COUNT.len() as u64, b"echo al''ive\r").await;
        wire.expect(1, "alive\r\n").await;
        goes_on(&file).await;
        server.restart_launcher();
    });
}

#[test]
fn a_server_that_is_stopped_leaves_no_cell_frozen() {
    let Some(mut server) = server(1, 0) else { return };
    block_on(async {
        let project = server.project();
        let (mut wire, file) = server.counting(&project).await;
        wire.told("frozen").await;
        server.signal(Signal::TERM);
        server.ended();
        assert!(!server.is_frozen(&project));
        goes_on(&file).await;
    });
}

#[test]
fn a_cell_is_stopped_after_longer_and_everybody_hears_why() {
    let Some(mut server) = server(1, 6) else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire_prompt(&project, "main").await;
        let mut plain = server.open(&project, "").await;
        let url = format!("http://{}", server.address);
        let mut attach = server.command(&["attach", &project, "--session", "other", "--url", &url]);
        attach.env("CLOISTER_TOKEN", &server.token).stdin(Stdio::piped());
        let mut attached = attach.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cloister runs");
        // Open, as a terminal's would be.
        let _typed = attached.stdin.take();
        let attached = tokio::task::spawn_blocking(move || attached.wait_with_output());
        wire.told("frozen").await;
        assert!(server.why(&project).await["stop"]["at"].is_u64());
        let idle_s = wire.told("idle_stop").await["idle_s"].as_u64().expect("a time");
        assert!(idle_s >= 6, "{idle_s}");
        wire.told("exited").await;
        let (_, reason, _) = plain.closed().await;
        assert!(reason.starts_with("the project was stopped, since nothing happened in it for 6 s"), "{reason}");
        let attached = attached.await.expect("no panic").expect("cloister runs");
        let said = String::from_utf8_lossy(&attached.stderr).into_owned();
        assert!(said.contains("the project was stopped, since nothing happened in it for 6 s"), "{said}");
        let why = server.is(&project, "stopped").await;
        assert_eq!(why["reason"], "nothing happened in it for 6 s (idle_stop_s)", "{why}");
        let told = server.did(&["project", "why", &project, "--url", &url]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.starts_with(&format!("{project} is stopped, since ")), "{told}");
        server.signal(Signal::KILL);
        server.ended();
        server.restart();
        assert_eq!(server.why(&project).await["reason"], why["reason"], "the next server knows it too");
        // It is started as ever.
        server.prompt(&project, "").await;
        let why = server.is(&project, "running").await;
        assert_eq!(why["reason"], Value::Null, "{why}");
        server.did(&["project", "stop", &project]);
        let why = server.is(&project, "stopped").await;
        assert_eq!(why["reason"], "somebody stopped it", "{why}");
        let unknown = server.ask("GET", "/api/projects/nobody/why", None).await;
        assert_eq!((unknown.status, unknown.code()), (404, "project_not_found".to_owned()));
    });
}

#[test]
fn a_cell_that_is_looked_at_often_ends_all_the_same_without_a_session() {
    let config = "idle_freeze_s = 1\ncell_linger_s = 1\n".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    block_on(async {
        let project = server.project();
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("exit\r").await;
        terminal.closed().await;
        let why = server.is(&project, "stopped").await;
        assert_eq!(why["reason"], "its last session had ended (cell_linger_s)", "{why}");
    });
}

#[test]
fn memory_that_a_frozen_cell_does_not_use_is_taken_back() {
    let Some(server) = server(2, 0) else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire_prompt(&project, "main").await;
        if !server.has_cgroup_file(&project, "memory.reclaim") {
            eprintln!(
                "the kernel has no memory controller of cgroup version 2 here, or no memory.reclaim: nothing to test"
            );
            return;
        }
        // Written to the disk, so that the kernel may forget it.
        wire.input(1, 0, b"head -c 64M /dev/urandom > big; sync; cat big > /dev/null; echo wr''itten\r").await;
        wire.expect(1, "written\r\n").await;
        let used = || server.cgroup_file(&project, &["memory.current"]).trim().parse::<u64>().expect("a number");
        let before = used();
        assert!(before > 64 << 20, "{before}");
        wire.told("frozen").await;
        let by = Instant::now() + DEADLINE;
        while used() > before - (32 << 20) {
            assert!(Instant::now() < by, "{} of {before} bytes are left", used());
            sleep(Duration::from_millis(50)).await;
        }
        wire.input(1, 74, b"echo th''ere\r").await;
        wire.expect(1, "there\r\n").await;
    });
}
