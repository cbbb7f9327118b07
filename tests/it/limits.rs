//! Limits of a running cell: changed while it runs, and what is used of them.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Server, Terminal, block_on};

/// Starts so many processes at once, and says how many there were.
async fn start(terminal: &mut Terminal, count: usize) -> usize {
    let script = format!(
        "import os, signal\\nkept = []\\ntry:\\n\
         \x20for n in range({count}):\\n\x20 pid = os.fork()\\n\x20 if pid == 0: signal.pause()\\n\x20 kept.append(pid)\\n\
         except OSError: pass\\nfor pid in kept: os.kill(pid, 9)\\nprint(len(kept))"
    );
    let output = terminal.run(&format!("printf '{script}' > /tmp/start.py; python3 /tmp/start.py")).await;
    output.trim().parse().unwrap_or_else(|_| panic!("{output:?}"))
}

fn usage_of(server: &Server, project: &str) -> impl Future<Output = Value> {
    let path = format!("/api/projects/{project}/usage");
    async move { server.ask("GET", &path, None).await.json() }
}

#[test]
fn limits_change_while_the_cell_runs() {
    let Some(mut server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("# mine\n[limits]\npids_max = 32 # few\n");
        let mut terminal = server.prompt(&project, "").await;
        let path = format!("/api/projects/{project}");
        let before = start(&mut terminal, 60).await;
        assert!(before < 32, "{before}");
        let changed = server.ask("PATCH", &path, Some(json!({ "limits": { "pids_max": 200 } }))).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let changed = changed.json();
        assert_eq!((&changed["applied"], &changed["next_start"]), (&json!(true), &json!([])));
        assert_eq!(changed["limits"]["pids_max"], 200);
        assert_eq!(start(&mut terminal, 60).await, 60);
        let settings = server.projects().join(&project).join("project.toml");
        let text = std::fs::read_to_string(&settings).expect("the settings are there");
        assert_eq!(text, "# mine\n[limits]\npids_max = 200 # few\n");

        // And less; on the command line, with what each process has from its start.
        let words = ["project", "set", &project, "limits.pids_max=32", "limits.open_files_max=300"];
        let set = server.command(&words).output().expect("cloister runs");
        let said = String::from_utf8_lossy(&set.stdout);
        assert!(said.contains("hold in the running cell") && said.contains("limits.open_files_max is each"), "{set:?}");
        assert_eq!(start(&mut terminal, 60).await, before);
        assert_eq!(usage_of(&server, &project).await["pids"]["max"], 32);

        // What can't be is refused and changes nothing.
        let kept = std::fs::read_to_string(&settings).expect("the settings are there");
        for (limits, says) in [
            (json!({ "pids_max": 1 }), "limits.pids_max must be at least 8, is 1"),
            (json!({ "pids": 100 }), "limits.pids is unknown; known are"),
            (json!({ "memory_bytes_max": 9_300_000_000_000_000_000_u64 }), "limits.memory_bytes_max is too large"),
        ] {
            let refused = server.ask("PATCH", &path, Some(json!({ "limits": limits }))).await;
            assert_eq!((refused.status, refused.code().as_str()), (422, "project_invalid"), "{refused:?}");
            assert!(refused.body.contains(says), "{refused:?}");
        }
        assert_eq!(std::fs::read_to_string(&settings).expect("the settings are there"), kept);

        // A server that comes later finds the cell as it is.
        server.signal(Signal::KILL);
        server.ended();
        server.restart();
        let mut terminal = server.prompt(&project, "&session=more").await;
        let changed = server.ask("PATCH", &path, Some(json!({ "limits": { "pids_max": null } }))).await;
        assert_eq!(changed.json()["limits"]["pids_max"], 1024, "{changed:?}");
        assert_eq!(start(&mut terminal, 60).await, 60);
    });
}

#[test]
fn memory_that_is_in_use_is_not_taken_away() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("[limits]\nmemory_bytes_max = 536_870_912\n");
        let path = format!("/api/projects/{project}");
        let mut terminal = server.prompt(&project, "").await;
        let mut hog = server.prompt(&project, "&session=hog").await;
        hog.send("python3 -c 'x = b\"x\" * (200 << 20); print(\"he\" + \"ld\"); input()'\r").await;
        hog.expect("held\r\n").await;
        let set = |bytes: u64| server.ask("PATCH", &path, Some(json!({ "limits": { "memory_bytes_max": bytes } })));
        let refused = set(64 << 20).await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "memory_in_use"), "{refused:?}");
        assert!(refused.body.contains("end programs in it first"), "{refused:?}");
        let usage = usage_of(&server, &project).await;
        assert_eq!((&usage["memory"]["bytes_max"], &usage["memory"]["kills"]), (&json!(512 << 20), &json!(0)));
        // Less is fine if it fits, then more again, and with the hog gone the rest.
        for bytes in [300 << 20, 400 << 20] {
            assert_eq!(set(bytes).await.status, 200);
            assert_eq!(usage_of(&server, &project).await["memory"]["bytes_max"], bytes);
        }
        hog.send("\r").await;
        hog.expect("$ ").await;
        assert_eq!(set(64 << 20).await.status, 200);
        assert_eq!(terminal.run("echo alive").await, "alive\r\n");
    });
}

#[test]
fn what_a_cell_uses_is_told() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("[limits]\npids_max = 40\ncpu_millis_max = 1500\n");
        let path = format!("/api/projects/{project}/usage");
        let stopped = server.ask("GET", &path, None).await;
        assert_eq!((stopped.status, stopped.code().as_str()), (404, "cell_not_running"));
        assert_eq!(server.ask("GET", "/api/projects/nobody/usage", None).await.code(), "project_not_found");
        let mut terminal = server.prompt(&project, "").await;
        let idle = usage_of(&server, &project).await;
        let number =
            |usage: &Value, of: &str, what: &str| usage[of][what].as_u64().unwrap_or_else(|| panic!("{usage}"));
        // Init and a shell.
        assert_eq!((number(&idle, "pids", "count"), number(&idle, "pids", "max")), (2, 40));
        assert_eq!((number(&idle, "cpu", "millis_max"), number(&idle, "pids", "refusals")), (1500, 0));
        assert_eq!(number(&idle, "memory", "bytes_max"), 2 << 30);
        terminal.run("python3 -c 'x = b\"x\" * (100 << 20); [n for n in range(3_000_000)]'").await;
        start(&mut terminal, 60).await;
        let busy = usage_of(&server, &project).await;
        assert!(number(&busy, "memory", "bytes_peak") > 100 << 20, "{busy}");
        assert!(number(&busy, "memory", "bytes") < number(&busy, "memory", "bytes_peak"), "{busy}");
        assert!(number(&busy, "pids", "refusals") > 0, "{busy}");
        assert!(number(&busy, "cpu", "used_us") > number(&idle, "cpu", "used_us") + 50_000, "{busy}");
        let shown = server.command(&["project", "usage", &project]).output().expect("cloister runs");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("processes  2 of 40, at most 40; ") && shown.contains("of 2048 MiB"), "{shown}");
    });
}

#[test]
fn what_each_process_may_is_bounded() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("[limits]\nfile_bytes_max = 134_217_728\ncpu_weight = 50\n");
        let mut terminal = server.prompt(&project, "").await;
        let said =
            terminal.run("truncate -s 128M /tmp/most && (truncate -s 129M /tmp/more; echo $?) 2>/dev/null").await;
        // 128 and SIGXFSZ.
        assert_eq!(said, "153\r\n");
        assert_eq!(terminal.run("ulimit -f unlimited 2>/dev/null || echo no more").await, "no more\r\n");
        let queues = "import ctypes\n\
            libc, made = ctypes.CDLL(None, use_errno=True), 0\n\
            while libc.mq_open(b'/q%d' % made, 0o102, 0o600, None) >= 0: made += 1\n\
            print(0 < made < 100, ctypes.get_errno())\n";
        let script = server.projects().join(&project).join("workspace/queues.py");
        std::fs::write(script, queues).expect("the script is written");
        // EMFILE.
        assert_eq!(terminal.run("python3 /workspace/queues.py").await, "True 24\r\n");
        let refused = terminal.run("chrt -f 1 true 2>/dev/null || echo no; nice -n -5 nice").await;
        assert!(refused.starts_with("no\r\n") && refused.ends_with("0\r\n"), "{refused}");
        let weight = server.cgroup_file(&project, &["cpu.weight", "cpu.shares"]);
        assert!(matches!(weight.trim(), "50" | "512"), "{weight}");
        let path = format!("/api/projects/{project}");
        let limits = json!({ "cpu_weight": 200, "file_bytes_max": 1_u64 << 30 });
        let changed = server.ask("PATCH", &path, Some(json!({ "limits": limits }))).await;
        assert_eq!(changed.json()["next_start"], json!(["file_bytes_max"]), "{changed:?}");
        let weight = server.cgroup_file(&project, &["cpu.weight", "cpu.shares"]);
        assert!(matches!(weight.trim(), "200" | "2048"), "{weight}");
    });
}

#[test]
fn disks_are_as_slow_as_a_project_says_or_its_cell_is_refused() {
    let Some(server) = Server::start() else { return };
    let project = server.project_with("[limits]\nio_bytes_per_s_max = 4_194_304\n");
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !controllers.split_whitespace().any(|controller| controller == "io") {
        eprintln!("the kernel has no io controller of cgroup version 2 here: refusal alone is tested");
        let refused = server.command(&["run", &project, "--", "true"]).output().expect("cloister runs");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("limit the speed of disks: that takes cgroup version 2"), "{said}");
        return;
    }
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        let began = Instant::now();
        terminal.run("dd if=/dev/zero of=/workspace/written bs=1M count=12 oflag=direct").await;
        assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
        let limit = server.cgroup_file(&project, &["io.max"]);
        assert!(limit.contains("rbps=4194304 wbps=4194304"), "{limit}");
        let changed = json!({ "limits": { "io_bytes_per_s_max": 0 } });
        let changed = server.ask("PATCH", &format!("/api/projects/{project}"), Some(changed)).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(server.cgroup_file(&project, &["io.max"]), "");
    });
}
