//! Limits of the whole host: what all cells together may have, whoever starts them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Response, Server, Settings, block_on};

fn limited(host: &str) -> Option<Server> {
    Server::start_apart(Settings { config: format!("[host]\n{host}\n"), ..Settings::default() })
}

/// Starts a project's cell, with a session that stays.
async fn start(server: &Server, project: &str) -> Response {
    server.ask("PUT", &format!("/api/projects/{project}/sessions/main"), None).await
}

fn assert_full(refused: &Response, says: &str) {
    assert_eq!((refused.status, refused.code().as_str()), (503, "host_full"), "{refused:?}");
    assert!(refused.body.contains(says), "{refused:?}");
}

/// How often cells were refused by a limit of the host.
async fn refusals(server: &Server, reason: &str) -> String {
    let metrics = server.ask("GET", "/metrics", None).await.body;
    let series = format!("cloister_cell_start_failures_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).expect("the reason is counted").to_owned()
}

/// Whether a command that says something once it runs in its cell did so.
fn has_started(command: &mut Child) -> bool {
    let mut line = String::new();
    BufReader::new(command.stdout.take().expect("it is piped")).read_line(&mut line).expect("it can be read");
    line.trim_end() == "here"
}

#[test]
fn of_many_launchers_none_starts_a_cell_more_than_the_host_may_have() {
    let Some(server) = limited("cells_max = 3") else { return };
    block_on(async {
        let projects: Vec<_> = (0..10).map(|_| server.project_with("")).collect();
        let (by_server, by_command) = projects.split_at(5);
        // Each command has a launcher of its own.
        let mut commands: Vec<_> = by_command
            .iter()
            .map(|project| {
                let mut command = server.command(&["run", project, "--", "sh", "-c", "echo here; cat"]);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().expect("cloister runs")
            })
            .collect();
        let asked = join_all(by_server.iter().map(|project| start(&server, project))).await;
        let run: Vec<_> = commands.iter_mut().map(has_started).collect();
        let started = asked.iter().filter(|response| response.status == 201).count();
        assert_eq!(started + run.iter().filter(|run| **run).count(), 3, "{asked:?} {run:?}");
        for refused in asked.iter().filter(|response| response.status != 201) {
            assert_full(refused, "host.cells_max is 3, and 3 cells run; stop one");
        }
        for (mut command, started) in commands.into_iter().zip(run) {
            drop(command.stdin.take());
            let ended = command.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(started || ended.status.code() == Some(125) && said.contains("host.cells_max is 3"), "{ended:?}");
        }
        let stopped = server.command(&["project", "stop", "--all"]).output().expect("cloister runs");
        assert!(stopped.status.success(), "{stopped:?}");
        for project in &projects[..3] {
            assert_eq!(start(&server, project).await.status, 201);
        }
        // What is told of the refusal, by every way there is.
        let one_more = &projects[3];
        assert_full(&start(&server, one_more).await, "host.cells_max is 3");
        let refused = server.try_open(one_more, "").await.err().expect("it is refused");
        assert!(refused.status == 503 && refused.body.contains("host.cells_max is 3"), "{refused:?}");
        let mut wire = server.wire(one_more).await;
        wire.say(json!({ "type": "attach", "channel": 1, "session": "main", "client": "00000000000000aa",
            "role": "writer", "cols": 80, "rows": 24 }))
            .await;
        let refused = wire.told("refused").await;
        assert!(
            refused["message"].as_str().is_some_and(|message| message.contains("host.cells_max is 3")),
            "{refused}"
        );
        let left = server.state().join("cells").join(one_more);
        assert!(!left.exists(), "a cell that was refused leaves nothing");
        assert_ne!(refusals(&server, "host_cells").await, "0");
        // A place that gets free is there for who comes next.
        let stopped = server.ask("POST", &format!("/api/projects/{}/stop", projects[0]), None).await;
        assert_eq!(stopped.status, 204, "{stopped:?}");
        assert_eq!(start(&server, one_more).await.status, 201);
    });
}

#[test]
fn no_more_memory_is_promised_than_the_host_may_give() {
    let Some(server) = limited("memory_percent_max = 100") else { return };
    block_on(async {
        server.limit_memory(1 << 30);
        let with = |mib: u64| server.project_with(&format!("[limits]\nmemory_bytes_max = {}\n", mib << 20));
        let (large, small, too_large) = (with(600), with(300), with(500));
        assert_eq!(start(&server, &large).await.status, 201);
        assert_full(
            &start(&server, &too_large).await,
            "host.memory_percent_max is 100, which is 1024 MiB; 600 MiB are given to running cells, and this one is to have 500",
        );
        assert_eq!(start(&server, &small).await.status, 201);
        let set = async |project: &str, mib: u64| {
            let limits = json!({ "limits": { "memory_bytes_max": mib << 20 } });
            server.ask("PATCH", &format!("/api/projects/{project}"), Some(limits)).await
        };
        // More for one that runs is no way around it; less is always fine.
        assert_full(&set(&small, 500).await, "host.memory_percent_max is 100");
        let settings = std::fs::read_to_string(server.projects().join(&small).join("project.toml")).unwrap();
        assert!(settings.contains("314572800"), "{settings}");
        assert_eq!(set(&large, 200).await.status, 200);
        assert_eq!(set(&small, 500).await.status, 200);
        assert_eq!(refusals(&server, "host_memory").await, "1");
        // Whatever the host has: one cell can't be promised more than all of it.
        server.limit_memory(1 << 45);
        assert_full(&start(&server, &with(1 << 30)).await, "host.memory_percent_max is 100, which is ");
    });
}

#[test]
fn what_is_to_stay_free_of_the_disk_is_no_cells_and_no_images() {
    let Some(server) = limited("disk_reserve_bytes = 1_000_000_000_000_000") else { return };
    block_on(async {
        let project = server.project_with("");
        let says = "host.disk_reserve_bytes is 1000000000000000 (953674316 MiB), and ";
        assert_full(&start(&server, &project).await, says);
        assert_full(&start(&server, &project).await, "MiB are free where the state folder lies; make room");
        assert_eq!(refusals(&server, "host_disk").await, "2");
        let image = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image/default");
        std::fs::rename(server.state().join("layers"), server.state().join("away")).expect("the layers are moved");
        let refused = server.command(&["image", "import", image, "--name", "again"]).output().expect("cloister runs");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(says) && said.lines().count() == 1, "{said}");
        assert_eq!(std::fs::read_dir(server.state().join("layers")).expect("it is made anew").count(), 0);
    });
}
