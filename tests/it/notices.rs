//! What clients are told of sessions that isn't in their output: what they are called, whose size they have, and what the
//! kernel killed.

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::harness::{DEADLINE, Heard, Server, block_on};

#[test]
fn a_label_is_everybodys_and_outlives_the_server() {
    let Some(mut server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire(&project).await;
        wire.attach(1, "main", json!({})).await;
        wire.say(json!({ "type": "label", "session": "main", "label": "build — ☕" })).await;
        let labels = json!({ "main": "build — ☕" });
        while wire.told("sessions").await["labels"] != labels {}
        assert_eq!(server.wire(&project).await.sessions["labels"], labels);

        server.signal(Signal::KILL);
        server.ended();
        server.restart();
        labelled(&server, &project, labels).await;
        let mut wire = server.wire(&project).await;
        wire.say(json!({ "type": "label", "session": "main", "label": "" })).await;
        labelled(&server, &project, Value::Null).await;
        // A label goes with its session.
        wire.say(json!({ "type": "label", "session": "main", "label": "again" })).await;
        labelled(&server, &project, json!({ "main": "again" })).await;
        wire.say(json!({ "type": "close", "session": "main" })).await;
        labelled(&server, &project, Value::Null).await;
        wire.attach(1, "main", json!({})).await;
        let sessions = server.wire(&project).await.sessions;
        assert_eq!((&sessions["sessions"], &sessions["labels"]), (&json!(["main"]), &Value::Null));
        // One for a session that doesn't run does nothing; what can't be one is refused.
        wire.say(json!({ "type": "label", "session": "none", "label": "x" })).await;
        wire.say(json!({ "type": "label", "session": "main", "label": "two\nlines" })).await;
        let (code, reason) = wire.closed().await;
        assert!(code == 1002 && reason.contains("a label is at most 60 characters"), "{code} {reason}");
    });
}

/// Waits until who comes is told these labels.
async fn labelled(server: &Server, project: &str, labels: Value) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let told = server.wire(project).await.sessions["labels"].clone();
        if told == labels {
            return;
        }
        assert!(Instant::now() < deadline, "{told} instead of {labels}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn who_runs_out_of_memory_is_told_and_of_which() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("[limits]\nmemory_bytes_max = 67_108_864\n");
        let mut wire = server.wire_prompt(&project, "main").await;
        let mut other = server.wire(&project).await;
        wire.input(1, 0, b"python3 -c 'x = b\"x\" * (1 << 30)'\r").await;
        for wire in [&mut wire, &mut other] {
            let killed = wire.told("out_of_memory").await;
            assert_eq!((&killed["kills"], &killed["limit_bytes"]), (&json!(1), &json!(67_108_864)));
            assert_eq!(killed["victim"], "python3");
        }
        // Who comes later has missed nothing that can be helped.
        let mut late = server.wire(&project).await;
        late.say(json!({ "type": "ping", "id": 1 })).await;
        late.told("pong").await;
        server.logged("out of memory").await;
    });
}

/// Forks for two seconds, whatever comes of it.
const FORKS: &str = "import os, time\n\
    by, refused = time.monotonic() + 2, 0\n\
    while time.monotonic() < by or refused <= 100:\n\
    \x20   try:\n\
    \x20       if os.fork() == 0: time.sleep(60)\n\
    \x20   except OSError: refused += 1\n\
    print('tried', refused > 100)\n";

#[test]
fn who_has_too_many_processes_is_told_once_however_many_are_refused() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("[limits]\npids_max = 32\n");
        let mut wire = server.wire_prompt(&project, "main").await;
        let mut other = server.wire(&project).await;
        let script = server.projects().join(&project).join("workspace/forks.py");
        std::fs::write(script, FORKS).expect("the script is written");
        wire.input(1, 0, b"python3 /workspace/forks.py\r").await;
        let refused = other.told("out_of_pids").await;
        assert!(refused["refusals"].as_u64() > Some(0) && refused["limit"] == 32, "{refused}");
        let (mut told, mut text) = (0, String::new());
        while !text.contains("tried True\r\n") {
            match wire.heard().await {
                Heard::Told(tell) => told += usize::from(tell["type"] == "out_of_pids"),
                Heard::Output(1, offset, bytes) => {
                    wire.ack(1, offset + bytes.len() as u64).await;
                    text.push_str(&String::from_utf8_lossy(&bytes));
                }
                Heard::Closed(code, reason) => panic!("closed with {code} {reason:?} after {text:?}"),
                Heard::Gone => panic!("gone after {text:?}"),
                _ => {}
            }
        }
        assert_eq!(told, 1);
        let log = server.log();
        assert_eq!(log.matches("out of processes").count(), 1, "{log}");
    });
}

#[test]
fn who_fills_the_disk_is_told_of_the_limit() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("[limits]\ndisk_bytes_max = 67_108_864\n");
        let mut wire = server.wire_prompt(&project, "main").await;
        let mut other = server.wire(&project).await;
        wire.input(1, 0, b"head -c 100M /dev/zero > big\r").await;
        let full = other.told("out_of_disk").await;
        assert!(full["times"] == 1 && full["limit_bytes"] == 67_108_864, "{full}");
        server.logged("out of disk").await;
        assert_eq!(server.log().matches("out of disk").count(), 1);
    });
}

#[test]
fn a_project_says_whose_size_its_sessions_have() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("size = \"smallest\"");
        let mut wide = server.wire(&project).await;
        wide.attach(1, "main", json!({ "cols": 150, "rows": 20 })).await;
        wide.expect(1, "$ ").await;
        let mut high = server.wire(&project).await;
        high.attach(1, "main", json!({ "cols": 90, "rows": 50, "client": "00000000000000aa" })).await;
        wide.input(1, 0, b"stty size\r").await;
        wide.expect(1, "20 90\r\n").await;
        let mut viewer = server.wire(&project).await;
        viewer.attach(1, "main", json!({ "cols": 10, "rows": 10, "role": "viewer" })).await;
        high.say(json!({ "type": "detach", "channel": 1 })).await;
        loop {
            let resized = wide.told("resized").await;
            if (&resized["cols"], &resized["rows"]) == (&json!(150), &json!(20)) {
                break;
            }
        }

        let project = server.project_with("size = \"100x33\"");
        let mut wire = server.wire(&project).await;
        wire.attach(1, "main", json!({ "cols": 80, "rows": 24 })).await;
        wire.expect(1, "$ ").await;
        wire.say(json!({ "type": "resize", "channel": 1, "cols": 70, "rows": 20 })).await;
        wire.input(1, 0, b"stty size\r").await;
        wire.expect(1, "33 100\r\n").await;
    });
}
