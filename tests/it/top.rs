//! `cloister top`: the cells of a server, once and live.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{DEADLINE, Server, Settings, block_on};
use crate::pty::User;

fn top(server: &Server, url: &str, words: &[&str]) -> Output {
    let mut command = server.command(&[&["top", "--url", url], words].concat());
    command.env("CLOISTER_TOKEN", &server.token).output().expect("cloister runs")
}

fn of(server: &Server) -> String {
    format!("http://{}", server.address)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn scripts_read_what_cells_use() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        assert_eq!(server.ask("GET", "/api/cells", None).await.json()["cells"], Value::Array(Vec::new()));
        let (busy, idle) = (server.project_with("[limits]\npids_max = 99\n"), server.project());
        let mut terminal = server.prompt(&busy, "").await;
        let _viewer = server.prompt(&busy, "&session=more").await;
        drop(server.prompt(&idle, "").await);
        terminal.send("while :; do :; done\r").await;
        let json = top(&server, &of(&server), &["--json"]);
        assert!(json.status.success(), "{json:?}");
        let json: Value = serde_json::from_slice(&json.stdout).expect("it prints JSON");
        let cells = json["cells"].as_array().expect("there are cells");
        let cell = |id: &str| cells.iter().find(|cell| cell["project"] == id).unwrap_or_else(|| panic!("{json}"));
        let (busy_one, idle_one) = (cell(&busy), cell(&idle));
        assert_eq!(cells.len(), 2, "{json}");
        assert!(busy_one["cpu_percent"].as_f64() > idle_one["cpu_percent"].as_f64(), "{json}");
        assert_eq!(
            (&busy_one["state"], &busy_one["sessions"], &busy_one["clients"]),
            (&"running".into(), &2.into(), &2.into())
        );
        assert_eq!(
            (&idle_one["sessions"], &idle_one["usage"]["memory"]["bytes_max"]),
            (&1.into(), &(2_u64 << 30).into())
        );
        assert!(busy_one["uptime_s"].as_u64().is_some_and(|seconds| seconds < 600), "{json}");
        assert_eq!(busy_one["usage"]["pids"]["max"], 99);

        let table = text(&top(&server, &of(&server), &["--once"]).stdout);
        let mut lines = table.lines();
        let heading = lines.next().expect("there is a heading");
        assert!(heading.starts_with("PROJECT") && heading.ends_with("UPTIME"), "{table}");
        assert!(lines.next().is_some_and(|line| line.starts_with(&busy)), "the busiest comes first: {table}");
        let sorted = text(&top(&server, &of(&server), &["--once", "--sort", "id"]).stdout);
        let ids: Vec<_> = sorted.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
        assert!(ids.len() == 2 && ids.is_sorted(), "{sorted}");
    });
}

#[test]
fn only_the_owner_sees_cells() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let refused = server.ask_with("GET", "/api/cells", "Authorization: Bearer nobody\r\n", "").await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"));
        assert_eq!(server.ask("GET", "/api/cells?x=1", None).await.status, 400);
    });
    let mut command = server.command(&["top", "--json", "--url", &of(&server)]);
    let refused = command.env("CLOISTER_TOKEN", "0".repeat(43)).output().expect("cloister runs");
    assert!(!refused.status.success() && text(&refused.stderr).contains("the token is refused"), "{refused:?}");
}

#[test]
fn cells_without_limits_are_shown_without_use() {
    let settings = Settings { cgroups: false, ..Settings::default() };
    let Some(server) = Server::start_with(settings) else { return };
    block_on(async {
        let project = server.project();
        let _terminal = server.prompt(&project, "").await;
        let table = text(&top(&server, &of(&server), &["--once"]).stdout);
        let row: Vec<_> = table.lines().nth(1).expect("there is a row").split_whitespace().collect();
        assert_eq!(row[..5], [project.as_str(), "-", "-", "-", "-"], "{table}");
        assert_eq!(row[8..10], ["1", "1"], "{table}");
    });
}

#[test]
fn a_frozen_cell_is_shown_as_that_and_left_alone() {
    let config = "idle_freeze_s = 1\nidle_stop_s = 0\n".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    block_on(async {
        let project = server.project();
        let mut wire = server.wire_prompt(&project, "main").await;
        let since = wire.told("frozen").await["since"].clone();
        for _ in 0..3 {
            let json: Value = serde_json::from_slice(&top(&server, &of(&server), &["--json"]).stdout).expect("JSON");
            let cell = &json["cells"][0];
            assert_eq!((&cell["frozen"], &cell["sessions"], &cell["clients"]), (&true.into(), &1.into(), &1.into()));
        }
        let table = text(&top(&server, &of(&server), &["--once"]).stdout);
        assert!(table.lines().nth(1).is_some_and(|line| line.contains(" frozen ")), "{table}");
        let why = server.ask("GET", &format!("/api/projects/{project}/why"), None).await.json();
        assert_eq!((&why["state"], &why["since"]), (&"frozen".into(), &since), "who looks has it go on: {why}");
    });
}

#[test]
fn the_table_lives_in_any_window_and_leaves_the_terminal_as_it_was() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let (one, other) = (server.project(), server.project());
        let mut terminal = server.prompt(&one, "").await;
        drop(server.prompt(&other, "").await);
        let mut user = User::sit_down(&server);
        let modes = user.modes();
        let words = format!("top --every 1 --sort id --url {} --token {}", of(&server), server.token);
        let pid = user.starts(&words);
        user.expect("\x1b[?1049h");
        let shown = user.expect("UPTIME");
        assert!(shown.contains("2 cells, 1 clients"), "{shown:?}");
        user.expect(&other);
        // It goes on by itself.
        terminal.run("true").await;
        let third = server.project();
        let _terminal = server.prompt(&third, "").await;
        user.expect("3 cells, 2 clients");
        // Two lines and a few columns are enough for it, and so is one.
        user.resizes(12, 3);
        user.expect("\x1b[H\x1b[K3 cells, 2 c\r\n\x1b[KPROJECT");
        user.expect("and 3 more");
        user.resizes(5, 1);
        user.expect("\x1b[H\x1b[K3 cel\x1b[H");
        user.resizes(100, 30);
        user.expect("UPTIME");
        user.types("m");
        user.expect("UPTIME");
        user.types("q");
        user.expect("\x1b[?25h\x1b[?1049l");
        user.expect_prompt();
        assert_eq!((user.status().as_str(), user.modes()), ("0", modes.clone()));
        let gone = Pid::from_raw(pid).expect("a process id");
        assert!(kill_process(gone, Signal::TERM).is_err(), "it has ended");
        // By ^C, which is a key there, and by every signal.
        user.starts(&words);
        user.expect("UPTIME");
        user.types("\x03");
        user.expect("\x1b[?1049l");
        user.expect_prompt();
        for (signal, status) in
            [(Signal::INT, "130"), (Signal::TERM, "143"), (Signal::HUP, "129"), (Signal::QUIT, "131")]
        {
            let pid = user.starts(&words);
            user.expect("UPTIME");
            kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it runs");
            user.expect("\x1b[?25h\x1b[?1049l");
            user.expect_prompt();
            assert_eq!((user.status().as_str(), user.modes()), (status, modes.clone()), "{signal:?}");
        }
    });
}

#[test]
fn a_server_that_goes_away_is_waited_for() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    let mut user = User::sit_down(&server);
    block_on(async { drop(server.prompt(&project, "").await) });
    user.starts(&format!("top --every 1 --url {} --token {}", of(&server), server.token));
    user.expect(&project);
    server.signal(Signal::KILL);
    server.ended();
    user.expect("no answer, trying again: 127.0.0.1");
    let shown = user.expect(&project);
    assert!(shown.contains("UPTIME"), "what was seen last stays");
    user.types("q");
    user.expect_prompt();
    server.restart();
}

/// Answers everybody with this, as a server does.
fn liar(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it has an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut buffer, by) = (Vec::new(), [0; 4096], Instant::now() + DEADLINE);
            while !head.ends_with(b"\r\n\r\n") && Instant::now() < by {
                match stream.read(&mut buffer) {
                    Ok(count @ 1..) => head.extend_from_slice(&buffer[..count]),
                    _ => break,
                }
            }
            let status = if body.contains("error") { "500 Oops" } else { "200 OK" };
            // A client that has left hears nothing.
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    });
    url
}

#[test]
fn what_a_server_says_steers_no_terminal() {
    let Some(server) = Server::start() else { return };
    for (body, says) in [
        ("{\"at_us\":1,\"cells\":[{\"project\":\"\\u001b[2Jevil\",\"state\":\"running\"}]}", "makes no sense"),
        ("{\"at_us\":1,\"cells\":[{\"project\":\"evil\",\"state\":\"\\u001b]0;x\\u0007\"}]}", "makes no sense"),
        (
            "{\"error\":{\"code\":\"x\",\"message\":\"\\u001b[31m\\u202eevil\\r\\n\"}}",
            "\\u{1b}[31m\\u{202e}evil\\u{d}\\u{a}",
        ),
        ("\u{1b}[2J\u{7}", "makes no sense"),
    ] {
        let refused = top(&server, &liar(body), &["--once"]);
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains(says), "{body:?}: {said:?}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said:?}");
        let steers = |byte: &u8| byte.is_ascii_control() && *byte != b'\n';
        assert!(refused.stdout.is_empty() && !said.bytes().any(|byte| steers(&byte)), "{said:?}");
    }
}
