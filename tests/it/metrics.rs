//! What a server tells of itself to who watches it: counts, and whether it can work.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use crate::harness::{DEADLINE, Server, Settings, block_on};

const TOKEN: &str = "a-token-for-metrics-alone";

/// A server with a token for metrics, which lies in the folder.
fn watched() -> Option<(Server, TempDir)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).expect("the token is written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("its mode is set");
    let config = format!("metrics_token_file = '{}'", file.display());
    Some((Server::start_with(Settings { config, ..Settings::default() })?, folder))
}

/// What a server answers who has the token for it.
async fn metrics(server: &Server, query: &str) -> Metrics {
    let head = format!("Authorization: Bearer {TOKEN}\r\n");
    let response = server.ask_with("GET", &format!("/metrics{query}"), &head, "").await;
    assert_eq!(response.status, 200, "{response:?}");
    assert!(response.headers["content-type"].starts_with("text/plain; version=0.0.4"), "{response:?}");
    Metrics(response.body)
}

struct Metrics(String);

impl Metrics {
    /// The value of a series, which is there.
    fn of(&self, series: &str) -> f64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {series} in\n{}", self.0));
        value.parse().unwrap_or_else(|error| panic!("{series} {value}: {error}"))
    }
}

/// Waits until a server's metrics are as wanted.
async fn until(server: &Server, query: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
    let by = Instant::now() + DEADLINE;
    loop {
        let told = metrics(server, query).await;
        if wanted(&told) {
            return told;
        }
        assert!(Instant::now() < by, "not yet as wanted:\n{}", told.0);
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_happens_is_counted() {
    let Some((server, _folder)) = watched() else { return };
    block_on(async {
        let before = metrics(&server, "").await;
        for series in
            ["cloister_websocket_clients", "cloister_cells{state=\"running\"}", "cloister_cells_started_total"]
        {
            assert_eq!(before.of(series), 0.0, "{series}");
        }
        let project = server.project();
        let mut terminal = server.prompt(&project, "").await;
        let mut other = server.prompt(&project, "&session=other").await;
        for number in 0..20 {
            terminal.send(&format!("{number}")).await;
            terminal.expect(&number.to_string()).await;
        }
        let idle = server.prompt(&project, "&session=idle").await;
        drop(idle);
        // And the connection of who asks.
        let all =
            |told: &Metrics| (told.of("cloister_websocket_clients"), told.of("cloister_connections")) == (2.0, 3.0);
        let told = until(&server, "", all).await;
        assert_eq!(told.of("cloister_sessions{state=\"attached\"}"), 2.0);
        assert_eq!(told.of("cloister_sessions{state=\"detached\"}"), 1.0);
        assert_eq!(told.of("cloister_cells{state=\"running\"}"), 1.0);
        assert_eq!(told.of("cloister_cells_started_total"), 1.0);
        assert_eq!(told.of("cloister_cell_start_seconds_count"), 1.0);
        let start = told.of("cloister_cell_start_seconds_sum");
        assert!(start > 0.0 && start < DEADLINE.as_secs_f64(), "{start}");
        assert_eq!(told.of("cloister_launcher_requests_total{verb=\"start_cell\"}"), 1.0);
        assert_eq!(told.of("cloister_http_requests_total{status=\"1xx\"}"), 3.0);
        assert!(told.of("cloister_echo_seconds_count") >= 20.0);
        let mean = told.of("cloister_echo_seconds_sum") / told.of("cloister_echo_seconds_count");
        assert!(mean > 0.0 && mean < 5.0, "{mean}");
        let received = told.of("cloister_websocket_received_bytes_total");
        // 30 digits, and nothing that isn't a message's.
        assert_eq!(received, 30.0);
        let sent = told.of("cloister_websocket_sent_bytes_total");
        other.run("head -c 1000000 /dev/zero | tr '\\0' x").await;
        let flooded = metrics(&server, "").await.of("cloister_websocket_sent_bytes_total") - sent;
        assert!((1e6..2e6).contains(&flooded), "{flooded}");
        assert!(told.of("process_resident_memory_bytes") > 1e6 && told.of("process_cpu_seconds_total") > 0.0);
        let open = told.of("process_open_fds");
        assert!(open > 10.0 && open <= told.of("process_max_fds"), "{open}");
        assert!((open - server.descriptors() as f64).abs() < 20.0, "{open}");
        assert!(told.of("cloister_folder_free_bytes{folder=\"state\"}") > 0.0);

        assert_eq!(server.ask("POST", &format!("/api/projects/{project}/stop"), None).await.status, 204);
        let told = until(&server, "", |told| told.of("cloister_cells_ended_total{forced=\"false\"}") == 1.0).await;
        assert_eq!(told.of("cloister_cells{state=\"running\"}"), 0.0);
        let sessions =
            ["attached", "detached"].map(|state| told.of(&format!("cloister_sessions{{state=\"{state}\"}}")));
        assert_eq!(sessions, [0.0, 0.0]);
    });
}

#[test]
fn what_goes_wrong_is_counted_by_its_kind() {
    let Some((mut server, _folder)) = watched() else { return };
    block_on(async {
        let bad = server.project_with("image = 'nowhere'");
        assert_eq!(server.try_open(&bad, "").await.err().expect("there is no image").status, 422);
        let failed =
            |told: &Metrics, why: &str| told.of(&format!("cloister_cell_start_failures_total{{reason=\"{why}\"}}"));
        let told = metrics(&server, "").await;
        assert_eq!((failed(&told, "settings"), failed(&told, "launcher")), (1.0, 0.0));
        assert_eq!(told.of("cloister_http_requests_total{status=\"4xx\"}"), 1.0);

        let project = server.project_with("[limits]\nmemory_bytes_max = 67_108_864\npids_max = 32\n");
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("python3 -c 'x = b\"x\" * (1 << 30)'\r").await;
        let met =
            |told: &Metrics, limit: &str| told.of(&format!("cloister_cell_limits_met_total{{limit=\"{limit}\"}}"));
        until(&server, "", |told| met(told, "memory") == 1.0).await;
        terminal.run("python3 -c 'import os; [os.fork() for n in range(6)]' 2>/dev/null").await;
        until(&server, "", |told| met(told, "pids") >= 1.0).await;

        // A server that comes later finds the cell, and counts from the beginning.
        server.signal(Signal::KILL);
        server.ended();
        server.restart();
        let told = until(&server, "", |told| told.of("cloister_sessions{state=\"detached\"}") == 1.0).await;
        assert_eq!((met(&told, "memory"), told.of("cloister_cells_adopted_total")), (0.0, 1.0));

        kill_process(server.launcher(), Signal::KILL).expect("the launcher can be killed");
        let other = server.project();
        assert_eq!(server.try_open(&other, "").await.err().expect("nobody makes a cell").status, 503);
        let told = metrics(&server, "").await;
        assert_eq!(failed(&told, "launcher"), 1.0);
        assert_eq!(told.of("cloister_launcher_failures_total{verb=\"start_cell\"}"), 1.0);
        assert_eq!(told.of("cloister_http_requests_total{status=\"5xx\"}"), 1.0);
    });
}

#[test]
fn who_falls_behind_is_counted() {
    let Some((server, _folder)) = watched() else { return };
    block_on(async {
        let project = server.project();
        let mut reader = server.wire_prompt(&project, "main").await;
        let mut slow = server.wire(&project).await;
        slow.attach(1, "main", json!({ "client": "00000000000000aa" })).await;
        slow.told("painted").await;
        assert_eq!(metrics(&server, "").await.of("cloister_client_skips_total"), 0.0);
        // One reads and acknowledges, so the program goes on; the other has it all still before it, until it reads.
        reader.input(1, 0, b"seq 1 300000; echo 'do''ne'\r").await;
        reader.expect(1, "done").await;
        slow.told("reset").await;
        assert!(metrics(&server, "").await.of("cloister_client_skips_total") >= 1.0);
    });
}

#[test]
fn what_projects_use_is_told_to_who_asks_for_it() {
    let Some((server, _folder)) = watched() else { return };
    block_on(async {
        let project = server.project_with("[limits]\npids_max = 40\ncpu_millis_max = 1500\n");
        let mut terminal = server.prompt(&project, "").await;
        terminal.run("python3 -c '[n for n in range(3_000_000)]'").await;
        let plain = metrics(&server, "").await;
        assert!(!plain.0.contains(&project) && !plain.0.contains("cloister_project_"), "{}", plain.0);
        let told = metrics(&server, "?projects=1").await;
        let of = |what: &str| told.of(&format!("cloister_project_{what}{{project=\"{project}\"}}"));
        assert_eq!((of("processes"), of("processes_limit"), of("cpu_limit_cores")), (2.0, 40.0, 1.5));
        assert!(of("memory_bytes") > 1e5 && of("memory_bytes") < of("memory_limit_bytes"));
        assert!(of("cpu_seconds_total") > 0.05);
        assert_eq!((of("oom_kills_total"), told.of("cloister_projects_unasked")), (0.0, 0.0));
        for (query, says) in [("?project=1", "unknown query key `project`"), ("?projects=all", "as projects=1")] {
            let head = format!("Authorization: Bearer {TOKEN}\r\n");
            let refused = server.ask_with("GET", &format!("/metrics{query}"), &head, "").await;
            assert_eq!(refused.status, 400);
            assert!(refused.body.contains(says), "{refused:?}");
        }
    });
}

#[test]
fn only_who_has_a_token_for_it_is_told() {
    let Some((server, folder)) = watched() else { return };
    block_on(async {
        for (path, head) in [
            ("/metrics", String::new()),
            ("/metrics", "Authorization: Bearer wrong\r\n".to_owned()),
            ("/metrics?token=wrong", String::new()),
            // What metrics are asked with opens nothing else.
            ("/api/projects", format!("Authorization: Bearer {TOKEN}\r\n")),
            (&format!("/api/projects?token={TOKEN}"), String::new()),
            (&format!("/ws/terminal/x/?token={TOKEN}"), String::new()),
        ] {
            let refused = server.ask_with("GET", path, &head, "").await;
            assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"), "{path} {head}");
            assert!(!refused.body.contains("cloister_"), "{refused:?}");
        }
        assert_eq!(server.ask("GET", "/metrics", None).await.status, 200, "the owner may");
        let foreign = format!("Host: evil.example\r\nAuthorization: Bearer {TOKEN}\r\n");
        assert_eq!(server.ask_with("GET", "/metrics", &foreign, "").await.status, 403);
        assert_eq!(server.ask("POST", "/metrics", None).await.status, 405);
        assert!(!server.log().contains(TOKEN));
    });

    let file = folder.path().join("token");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("its mode is set");
    let refused = server.command(&["serve", "--listen", "127.0.0.1:0"]).output().expect("cloister runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("everybody can read it: `chmod o=` it"), "{said}");

    let Some(server) = Server::start() else { return };
    block_on(async {
        assert_eq!(server.ask_with("GET", "/metrics", "", "").await.status, 401, "without a token for it nobody else");
        assert_eq!(server.ask("GET", "/metrics", None).await.status, 200);
    });
}

#[test]
fn ready_is_who_can_work_and_else_the_reason_is_named() {
    let Some((server, _folder)) = watched() else { return };
    let ready = async || {
        let response = server.ask_with("GET", "/readyz", "", "").await;
        (response.status, response.json())
    };
    let settled = async |wanted: &dyn Fn(u16, &serde_json::Value) -> bool| {
        let by = Instant::now() + DEADLINE;
        loop {
            let (status, body) = ready().await;
            if wanted(status, &body) {
                return body;
            }
            assert!(Instant::now() < by, "{status} {body}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    block_on(async {
        let body = settled(&|status, _| status == 200).await;
        let fine = json!({ "server": "ok", "launcher": "ok", "state": "ok", "projects": "ok", "cells": "ok" });
        assert_eq!(body, json!({ "ready": true, "checks": fine }));
        assert_eq!(server.ask_with("HEAD", "/readyz", "", "").await.status, 200);

        // However often and impatiently it is asked, the launcher is asked now and then.
        let usages = "cloister_launcher_requests_total{verb=\"usage\"}";
        let (before, began) = (metrics(&server, "").await.of(usages), Instant::now());
        for _ in 0..200 {
            let mut stream = tokio::net::TcpStream::connect(server.address).await.expect("the server accepts");
            let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("it can be asked");
        }
        let (after, seconds) = (metrics(&server, "").await.of(usages), began.elapsed().as_secs_f64());
        assert!(after - before <= 2.0 + seconds, "{before} {after} within {seconds} s");

        std::fs::rename(server.projects(), server.run_dir().join("gone")).expect("the folder can be moved");
        std::fs::remove_dir_all(server.run_dir().join("gone")).expect("it can be removed");
        let body = settled(&|status, _| status == 503).await;
        assert_eq!((&body["ready"], &body["checks"]["projects"]), (&json!(false), &json!("it was removed")));
        assert_eq!(body["checks"]["launcher"], "ok");

        let launcher = server.launcher();
        kill_process(launcher, Signal::STOP).expect("the launcher can be stopped");
        let body = settled(&|_, body| body["checks"]["launcher"] != "ok").await;
        assert_eq!(body["checks"]["launcher"], "it doesn't answer within 2 s");
        kill_process(launcher, Signal::CONT).expect("the launcher can go on");
        settled(&|_, body| body["checks"]["launcher"] == "ok").await;
        assert_eq!(server.ask_with("GET", "/healthz", "", "").await.status, 200, "it is alive all the same");
    });
}

/// Debian's checker for all that Prometheus reads; `None` if it isn't there, which is said.
fn promtool() -> Option<&'static str> {
    let found = Command::new("promtool").arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: no promtool");
        eprintln!("skipped: no promtool: run scripts/install-deps test, and put target/tools/usr/bin into PATH");
    }
    found.then_some("promtool")
}

/// Runs the checker with words and an input; it has to be content.
fn check(words: &[&str], folder: &Path, input: &str) {
    let mut checker = Command::new("promtool");
    checker.args(words).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut checker = checker.spawn().expect("promtool starts");
    checker.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let done = checker.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "promtool {words:?}: {said}");
    // What it only dislikes it says without failing.
    assert!(!words.contains(&"metrics") || said.is_empty(), "promtool {words:?}: {said}");
}

#[test]
fn a_busy_servers_metrics_are_as_prometheus_wants_them() {
    let Some(_) = promtool() else { return };
    let Some((server, folder)) = watched() else { return };
    block_on(async {
        let project = server.project();
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("while :; do seq 1 1000; done\r").await;
        let mut told = Vec::new();
        for _ in 0..10 {
            terminal.expect("\r\n1000\r\n").await;
            told.push(metrics(&server, "?projects=1").await);
        }
        told.iter().for_each(|told| check(&["check", "metrics"], folder.path(), &told.0));
    });
}

#[test]
fn rules_and_configuration_in_the_documentation_are_valid_and_every_alert_fires() {
    let Some(_) = promtool() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let copy = |from: &str, to: &str, change: &dyn Fn(String) -> String| {
        let text = std::fs::read_to_string(root.join(from)).expect("it is there");
        std::fs::write(folder.path().join(to), change(text)).expect("it is written");
    };
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).expect("the token is written");
    copy("docs/monitoring/alerts.yml", "alerts.yml", &|text| text);
    copy("docs/monitoring/prometheus.yml", "prometheus.yml", &|text| {
        text.replace("/etc/cloister/metrics.token", &token.display().to_string())
    });
    copy("tests/it/monitoring/alerts_test.yml", "alerts_test.yml", &|text| text);
    check(&["check", "rules", "alerts.yml"], folder.path(), "");
    check(&["check", "config", "prometheus.yml"], folder.path(), "");
    check(&["test", "rules", "alerts_test.yml"], folder.path(), "");
    let names = |text: String, key: &str| -> Vec<String> {
        let values = text.split(key).skip(1).map(|rest| rest.split(['\n', '"']).next().unwrap_or_default().to_owned());
        values.collect()
    };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("it is there");
    let alerts = names(read("alerts.yml"), "- alert: ");
    let fired = names(read("alerts_test.yml"), "{alertname=\"");
    assert!(!alerts.is_empty() && alerts == fired, "{alerts:?} {fired:?}");
    let documented = std::fs::read_to_string(root.join("docs/operations.md")).expect("it is there");
    for alert in alerts {
        assert!(documented.contains(&format!("| `{alert}` |")), "docs/operations.md says nothing of {alert}");
    }
}
