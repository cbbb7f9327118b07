//! Recordings of sessions, through the real server, as asciinema's player would read them.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Message, Server, Terminal, block_on};

/// A recording, read as the format's document says.
struct Cast {
    head: Value,
    /// Time since the event before, kind, data.
    events: Vec<(f64, String, String)>,
}

impl Cast {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        let head = serde_json::from_str(lines.next().expect("a head")).expect("the head is JSON");
        Self { head, events: lines.map(parse).collect() }
    }

    /// The data of all events of a kind.
    fn of(&self, kind: &str) -> Vec<&str> {
        self.events.iter().filter(|(_, is, _)| is == kind).map(|(_, _, data)| data.as_str()).collect()
    }

    fn output(&self) -> String {
        self.of("o").concat()
    }
}

fn folder(server: &Server, project: &str) -> PathBuf {
    server.projects().join(project)
}

async fn recordings(server: &Server, project: &str) -> Vec<Value> {
    let answer = server.ask("GET", &format!("/api/projects/{project}/recordings"), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json().as_array().expect("a list").clone()
}

/// Waits until the recordings are as wanted.
async fn recordings_until(server: &Server, project: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let by = Instant::now() + DEADLINE;
    loop {
        let all = recordings(server, project).await;
        if wanted(&all) {
            return all;
        }
        assert!(Instant::now() < by, "{all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read(server: &Server, project: &str, recording: &Value) -> Cast {
    let name = recording["name"].as_str().expect("a name");
    let answer = server.ask("GET", &format!("/api/projects/{project}/recordings/{name}"), None).await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/x-asciicast"));
    assert_eq!(answer.headers["content-length"], answer.body.len().to_string());
    Cast::parse(&answer.body)
}

/// Waits until what is recorded so far contains `wanted`.
async fn read_until(server: &Server, project: &str, recording: &Value, wanted: &str) -> Cast {
    let by = Instant::now() + DEADLINE;
    loop {
        let cast = read(server, project, recording).await;
        if cast.output().contains(wanted) {
            return cast;
        }
        assert!(Instant::now() < by, "no {wanted:?} in {:?}", cast.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn record(server: &Server, method: &str, project: &str, session: &str) -> u16 {
    server.ask(method, &format!("/api/projects/{project}/sessions/{session}/recording"), None).await.status
}

/// All that a terminal shows until its session ends.
async fn whole(terminal: &mut Terminal) -> Vec<u8> {
    until(terminal, |_| false).await
}

/// All that a terminal shows until that is enough, or its session ends.
async fn until(terminal: &mut Terminal, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut output = Vec::new();
    while !enough(&output) {
        match terminal.message().await {
            Some(Message::Binary(bytes)) => output.extend_from_slice(&bytes),
            Some(Message::Close(_)) | None => return output,
            Some(_) => {}
        }
    }
    output
}

#[test]
fn a_project_that_wants_it_is_recorded_from_the_first_byte_to_the_exit() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("record = true");
        let mut terminal = server.open(&project, "&cols=100&rows=30&frames=binary").await;
        let size = format!("/api/projects/{project}/sessions/main/size");
        let script = "printf 'gr\\303\\274\\303\\237e \\033[31m\"\\\\\\033[m\\t\\001'; cat /usr/bin/env | head -c 20000; \
                      read x; stty size; seq 1 20000; exit 3\r";
        terminal.send(script).await;
        // Printed, so the shell has read its line and leaves what is typed next to the program.
        let mut seen = until(&mut terminal, |output| output.contains(&1)).await;
        assert_eq!(server.ask("POST", &size, Some(json!({ "cols": 90, "rows": 20 }))).await.status, 204);
        terminal.send("go\r").await;
        seen.extend(whole(&mut terminal).await);
        let all = recordings_until(&server, &project, |all| all[0]["recording"] == false).await;
        assert_eq!((all.len(), &all[0]["session"]), (1, &json!("main")));
        assert!(all[0]["name"].as_str().is_some_and(|name| name.starts_with("main-2") && name.ends_with("Z.cast")));
        let cast = read(&server, &project, &all[0]).await;
        assert_eq!((&cast.head["version"], &cast.head["title"]), (&json!(3), &json!(format!("{project}/main"))));
        assert_eq!(cast.head["term"], json!({ "cols": 100, "rows": 30, "type": "xterm-256color" }));
        assert_eq!(cast.output(), String::from_utf8_lossy(&seen));
        assert!(cast.output().contains("grüße \x1b[31m\"\\\x1b[m\t\x01") && cast.output().contains("20 90\r\n"));
        assert_eq!((cast.of("r"), cast.of("x")), (vec!["90x20"], vec!["3"]));
        assert_eq!(cast.events.last().map(|(_, kind, _)| kind.as_str()), Some("x"));
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_secs_f64();
        let ended =
            cast.head["timestamp"].as_f64().expect("a time") + cast.events.iter().map(|event| event.0).sum::<f64>();
        assert!(ended <= now + 1.0 && ended > now - DEADLINE.as_secs_f64());
    });
}

#[test]
fn a_recording_is_begun_and_ended_by_request_and_nobody_sees_the_recorder() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("");
        assert_eq!(record(&server, "PUT", &project, "main").await, 404);
        assert_eq!(record(&server, "PUT", "nothing", "main").await, 404);
        let mut terminal = server.prompt(&project, "").await;
        terminal.run("echo be''fore").await;
        assert_eq!(recordings(&server, &project).await, Vec::<Value>::new());
        assert_eq!(record(&server, "DELETE", &project, "main").await, 204, "there is nothing to end");
        assert_eq!(record(&server, "PUT", &project, "main").await, 201);
        assert_eq!(record(&server, "PUT", &project, "main").await, 204);
        let mut wire = server.wire(&project).await;
        wire.say(json!({ "type": "attach", "channel": 1, "session": "main", "client": "000000000000000a", "cols": 80, "rows": 24 }))
            .await;
        let clients = loop {
            match wire.heard().await {
                crate::harness::Heard::Told(told) if told["type"] == "clients" => break told["clients"].clone(),
                crate::harness::Heard::Closed(..) | crate::harness::Heard::Gone => panic!("no clients are told"),
                _ => {}
            }
        };
        assert_eq!(clients.as_array().map(Vec::len), Some(2), "{clients}");
        let recording = recordings(&server, &project).await.remove(0);
        assert_eq!(recording["recording"], true);
        terminal.send("echo dur''ing\r").await;
        let cast = read_until(&server, &project, &recording, "during\r\n").await;
        assert!(cast.output().contains("before"), "it begins with a snapshot");
        let path = format!("/api/projects/{project}/recordings/{}", recording["name"].as_str().expect("a name"));
        let refused = server.ask("DELETE", &path, None).await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "recording_in_use"));
        terminal.run("echo la''st").await;
        assert_eq!(record(&server, "DELETE", &project, "main").await, 204);
        assert!(
            read(&server, &project, &recording).await.output().contains("last\r\n"),
            "all is written when it ended"
        );
        terminal.run("echo af''ter").await;
        assert_eq!(record(&server, "PUT", &project, "main").await, 201);
        let all = recordings(&server, &project).await;
        assert_eq!(all.iter().map(|one| &one["recording"]).collect::<Vec<_>>(), [true, false], "the newest first");
        let cast = read(&server, &project, &recording).await;
        assert!(!cast.output().contains("after") && cast.of("x").is_empty());
        assert_eq!(server.ask("DELETE", &path, None).await.status, 204);
        let gone = server.ask("GET", &path, None).await;
        assert_eq!((gone.status, gone.code().as_str()), (404, "recording_not_found"));
        for name in ["..%2Fproject.toml", ".cast", "project.toml", "main-20261124T120000Z.cast%00"] {
            let refused = server.ask("GET", &format!("/api/projects/{project}/recordings/{name}"), None).await;
            assert!([400, 404].contains(&refused.status), "{name}: {refused:?}");
        }
        for (method, path) in [("GET", "recordings"), ("GET", "recordings/x"), ("PUT", "sessions/main/recording")] {
            let path = format!("/api/projects/{project}/{path}");
            assert_eq!(server.ask_with(method, &path, "Content-Length: 0\r\n", "").await.status, 401);
        }
    });
}

#[test]
fn the_next_server_goes_on_recording_in_a_file_of_its_own() {
    let Some(mut server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("record = true");
        let mut terminal = server.prompt(&project, "").await;
        terminal.run("echo fir''st").await;
        server.signal(Signal::TERM);
        server.ended();
        server.restart();
        let all = recordings_until(&server, &project, |all| all.len() == 2).await;
        let first = read(&server, &project, &all[1]).await;
        assert!(first.output().contains("first\r\n"), "nothing is lost with its server");
        let mut terminal = server.open(&project, "").await;
        terminal.send("echo sec''ond\r").await;
        let second = read_until(&server, &project, &all[0], "second\r\n").await;
        assert!(second.output().contains("first"));
        terminal.send("kill -9 $$\r").await;
        recordings_until(&server, &project, |all| all[0]["recording"] == false).await;
        assert_eq!(read(&server, &project, &all[0]).await.of("x"), ["137"]);
    });
}

#[test]
fn a_link_in_the_recordings_place_is_refused_and_the_session_goes_on() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("record = true");
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(elsewhere.path(), everybody).expect("it can be opened to all");
        std::os::unix::fs::symlink(elsewhere.path(), folder(&server, &project).join("recordings")).expect("a link");
        let mut terminal = server.prompt(&project, "").await;
        server.logged("a session isn't recorded").await;
        assert_eq!(terminal.run("echo alive").await, "alive\r\n");
        let list = format!("/api/projects/{project}/recordings");
        for (method, path) in
            [("GET", list.clone()), ("PUT", format!("/api/projects/{project}/sessions/main/recording"))]
        {
            let refused = server.ask(method, &path, None).await;
            assert_eq!((refused.status, refused.code().as_str()), (422, "project_invalid"), "{path}");
            assert!(refused.body.contains("links are not followed"));
        }
        assert_eq!(elsewhere.path().read_dir().expect("it is there").count(), 0);
    });
}

/// A file system of 64 KiB, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        std::fs::create_dir(&at).expect("a folder");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=0777", "none"]).arg(&at).status();
        assert!(mount.is_ok_and(|status| status.success()), "root can mount");
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_session() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("record = true");
        let _disk = SmallDisk::mount(folder(&server, &project).join("recordings"));
        let mut terminal = server.prompt(&project, "").await;
        let recording = recordings_until(&server, &project, |all| all.len() == 1).await.remove(0);
        let before = read_until(&server, &project, &recording, "$ ").await;
        terminal.send("seq 1 50000\r").await;
        server.logged("the recording ends here; the session goes on").await;
        terminal.expect("50000\r\n").await;
        assert_eq!(terminal.run("echo alive").await, "alive\r\n");
        let all = recordings_until(&server, &project, |all| all[0]["recording"] == false).await;
        assert!(all.len() == 1 && server.log().contains("No space left on device"), "{all:?}");
        let after = read(&server, &project, &recording).await;
        assert!(after.events.starts_with(&before.events), "no line is cut");
        assert_eq!(record(&server, "DELETE", &project, "main").await, 204);
    });
}

#[test]
fn a_recorder_lets_no_program_run_ahead_of_its_only_client() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project_with("record = true");
        let mut watching = server.prompt(&project, "&session=watching").await;
        // ttyd's clients can ask for a pause, so that no socket's buffers come between.
        let path = format!("/ws/terminal/{project}/?token={}", server.token);
        let mut paused = server.upgrade(&path, &[("sec-websocket-protocol", "tty")]).await.expect("it is upgraded");
        paused.send_message(Message::text(r#"{"columns":80,"rows":24}"#)).await;
        recordings_until(&server, &project, |all| all.len() == 2).await;
        paused.send_message(Message::binary(&b"2"[..])).await;
        paused.send_message(Message::binary(&b"0head -c 3000000 /dev/zero | tr '\\0' x; touch done\r"[..])).await;
        let written = "cat /proc/$(pgrep -x tr)/io | grep wchar";
        watching.run_until(written, "wchar").await;
        let by = Instant::now() + DEADLINE;
        // It waits once it has written nothing for a while.
        while watching.run(&format!("test \"$({written})\" = \"$(sleep 1; {written})\" && echo waits")).await.is_empty()
        {
            assert!(Instant::now() < by, "it goes on");
        }
        assert_eq!(watching.run("ls").await, "", "it isn't done");
        paused.send_message(Message::binary(&b"3"[..])).await;
        let rest = tokio::spawn(async move { whole(&mut paused).await });
        watching.run_until("ls", "done").await;
        rest.abort();
    });
}
