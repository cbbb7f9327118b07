//! Terminals in cells, as a client of the WebSocket sees them.

use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

use crate::harness::{Message, Server, Settings, block_on};

#[test]
fn a_prompt_arrives_in_a_terminal_of_the_cells_own() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        assert_eq!(terminal.run("tty").await, "/dev/pts/0\r\n");
        assert_eq!(terminal.run("pwd; hostname").await, format!("/workspace\r\n{project}\r\n"));
        assert_eq!(terminal.run("stty size").await, "24 80\r\n");
        let processes = terminal.run("ps -e -o comm=").await;
        assert!(processes.lines().count() <= 3, "{processes:?}");
    });
}

#[test]
fn the_address_works_without_its_last_slash() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let path = format!("/ws/terminal/{}?token={}", server.project(), server.token);
        let mut terminal = server.upgrade(&path, &[]).await.expect("an upgrade");
        terminal.expect("$ ").await;
    });
}

#[test]
fn jobs_are_controlled() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let project = server.project();
        let mut terminal = server.prompt(&project, "").await;
        let mut watching = server.prompt(&project, "&session=watching").await;
        terminal.send("sleep 1000\r").await;
        // `+`: it is in the foreground, so keys reach it and not the shell.
        watching.run_until("ps -o stat= -C sleep", "S+").await;
        terminal.send("\x1a").await;
        terminal.expect("Stopped").await;
        terminal.expect("$ ").await;
        assert!(terminal.run("jobs").await.contains("Stopped"));
        terminal.send("fg\r").await;
        watching.run_until("ps -o stat= -C sleep", "S+").await;
        terminal.send("\x03").await;
        terminal.expect("^C").await;
        terminal.expect("$ ").await;
        terminal.send("echo sta''tus $?\r").await;
        terminal.expect("status 130\r\n").await;
    });
}

#[test]
fn the_size_follows_the_query_and_the_api() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut first = server.prompt(&project, "&cols=100&rows=30").await;
        assert_eq!(first.run("stty size").await, "30 100\r\n");
        let _unsized = server.open(&project, "").await;
        assert_eq!(first.run("stty size").await, "30 100\r\n");
        let _second = server.open(&project, "&cols=90&rows=20").await;
        first.run_until("stty size", "20 90\r\n").await;
        // Blocked before it says so: the signal can't come too early to be seen.
        let wait = "import os, signal as s; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGWINCH]); print('rea' + 'dy', flush=True); \
                    s.sigwait([s.SIGWINCH]); print('resi' + 'zed', *os.get_terminal_size())";
        first.send(&format!("python3 -c \"{wait}\"\r")).await;
        first.expect("ready\r\n").await;
        let resize = async |session: &str, body| {
            server.ask("POST", &format!("/api/projects/{project}/sessions/{session}/size"), Some(body)).await
        };
        assert_eq!(resize("main", json!({ "cols": 120, "rows": 40 })).await.status, 204);
        first.expect("resized 120 40\r\n").await;
        first.expect("$ ").await;
        assert_eq!(first.run("stty size").await, "40 120\r\n");
        let missing = resize("other", json!({ "cols": 120, "rows": 40 })).await;
        assert_eq!((missing.status, missing.code().as_str()), (404, "session_not_found"));
        assert_eq!(resize("main", json!({ "cols": 0, "rows": 40 })).await.status, 400);
        assert_eq!(resize("main", json!({ "cols": 10 })).await.status, 400);
        assert_eq!(first.run("ps -C bash -o comm=").await, "bash\r\n");
    });
}

#[test]
fn clients_share_a_session_and_see_what_was_before_them() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut first = server.prompt(&project, "").await;
        first.run("shared=yes").await;
        first.run("echo be''fore").await;
        let mut second = server.open(&project, "").await;
        second.expect("before\r\n").await;
        // The line's end isn't told of a picture that was taken before the next prompt.
        second.expect("end-2").await;
        second.send("echo shared=$shared from se''cond\r").await;
        first.expect("shared=yes from second\r\n").await;
        second.expect("shared=yes from second\r\n").await;
        drop(second);
        assert_eq!(first.run("echo $shared").await, "yes\r\n");
    });
}

#[test]
fn another_name_is_another_session() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut main = server.prompt(&project, "").await;
        main.run("mine=1").await;
        let mut other = server.prompt(&project, "&session=other").await;
        assert_eq!(other.run("echo \"<$mine>\"; tty").await, "<>\r\n/dev/pts/1\r\n");
        assert_eq!(other.run("ls -di /workspace").await, main.run("ls -di /workspace").await);
    });
}

#[test]
fn a_character_cut_in_two_arrives_whole() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let mut terminal = server.prompt(&server.project(), "").await;
        terminal.send("printf '<\\342'; sleep 0.1; printf '\\202\\254>'; printf '[\\377]'\r").await;
        terminal.expect("<€>").await;
        terminal.expect("[\u{FFFD}]").await;
    });
}

#[test]
fn binary_frames_bring_the_bytes_as_they_are() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let mut terminal = server.open(&server.project(), "&frames=binary").await;
        terminal.send_message(Message::binary(b"printf '<\\377\\342>'\r".to_vec())).await;
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|window| window == b"<\xFF\xE2>") {
            match terminal.message().await {
                Some(Message::Binary(more)) => bytes.extend_from_slice(&more),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    });
}

#[test]
fn line_input_presses_enter() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let mut terminal = server.prompt(&server.project(), "&input=line").await;
        terminal.send("echo o''ne").await;
        terminal.expect("one\r\n").await;
        terminal.expect("$ ").await;
        terminal.send("echo t''wo\n").await;
        terminal.expect("two\r\n").await;
        let prompt = terminal.expect("$ ").await;
        assert_eq!(prompt.matches("$ ").count(), 1, "Enter was pressed twice: {prompt:?}");
    });
}

#[test]
fn the_end_of_a_session_is_told_with_all_of_its_output() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("seq 1 20000; exit 42\r").await;
        let (code, reason, output) = terminal.closed().await;
        assert_eq!((code, reason.as_str()), (1000, "exited with status 42"));
        let numbers: String = (1..=20_000).map(|number| format!("{number}\r\n")).collect();
        assert!(output.contains(&numbers), "{} bytes", output.len());
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("kill -9 $$\r").await;
        let (code, reason, _) = terminal.closed().await;
        assert_eq!((code, reason.as_str()), (1000, "killed by signal 9"));
    });
}

#[test]
fn a_message_too_long_is_refused_with_1009() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        terminal.send_message(Message::text("x".repeat(65 * 1024))).await;
        let (code, reason, _) = terminal.closed().await;
        assert_eq!((code, reason.as_str()), (1009, "a message is at most 65536 bytes: send several"));
        assert_eq!(server.prompt(&project, "").await.run("echo go''on").await, "goon\r\n");
    });
}

#[test]
fn a_paste_larger_than_all_buffers_arrives_whole() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let mut terminal = server.prompt(&server.project(), "").await;
        // Not before the terminal is raw: what is typed earlier would be echoed and edited.
        terminal.send("stty raw -echo; echo re''ady; head -c 1000000 | sha256sum; stty sane\r").await;
        terminal.expect("ready").await;
        for _ in 0..20 {
            terminal.send(&"0123456789".repeat(5000)).await;
        }
        terminal.expect("ec21d64624228af3ecd4bdaa8239e32ed943b01e26934cd5610fddb361426dc6").await;
        assert_eq!(terminal.run("echo go''on").await, "goon\r\n");
    });
}

#[test]
fn broken_frames_are_refused_with_the_right_code() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        // Each frame is masked with zeroes, so its payload stands as it is.
        let cases: [(&[u8], u16); 7] = [
            (&[0x81, 0x02, b'h', b'i'], 1002),                         // unmasked
            (&[0xF1, 0x80, 0, 0, 0, 0], 1002),                         // reserved bits
            (&[0x83, 0x80, 0, 0, 0, 0], 1002),                         // unknown opcode
            (&[0x80, 0x80, 0, 0, 0, 0], 1002),                         // continues nothing
            (&[0x09, 0x80, 0, 0, 0, 0], 1002),                         // a ping in pieces
            (&[0x81, 0x82, 0, 0, 0, 0, 0xC3, 0x28], 1007),             // text that is no UTF-8
            (&[0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 1009), // 4 GiB
        ];
        for (frame, code) in cases {
            let mut terminal = server.prompt(&project, "").await;
            terminal.socket.get_mut().write_all(frame).await.unwrap();
            assert_eq!(terminal.closed().await.0, code, "{frame:?}");
        }
    });
}

#[test]
fn a_goodbye_is_answered_and_the_session_goes_on() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        terminal.run("here=still").await;
        terminal.socket.close(None).await.unwrap();
        while terminal.message().await.is_some() {}
        let mut terminal = server.open(&project, "").await;
        terminal.expect("end-1").await;
        assert_eq!(terminal.run("echo $here").await, "still\r\n");
    });
}

#[test]
fn an_interrupt_overtakes_a_flood() {
    let Some(server) = Server::start() else { return };
    block_on(async {
        let mut terminal = server.prompt(&server.project(), "").await;
        terminal.send("yes\r").await;
        terminal.expect("y\r\ny\r\ny\r\n").await;
        terminal.send("\x03").await;
        let asked = Instant::now();
        terminal.expect("^C").await;
        terminal.expect("$ ").await;
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    });
}

#[test]
fn a_client_that_does_not_read_holds_back_nobody_else() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut stalled = server.prompt(&project, "").await;
        let mut reading = server.open(&project, "").await;
        reading.expect("$ ").await;
        reading.send("seq 1 2000000; echo do''ne\r").await;
        reading.expect("2000000\r\ndone\r\n").await;
        assert_eq!(reading.run("echo alive").await, "alive\r\n");
        // It has fallen behind, so it begins anew, and has the rest like everybody.
        stalled.expect("\x1bc").await;
        stalled.expect("alive\r\n").await;
        stalled.expect("end-1").await;
    });
}

#[test]
fn sigterm_says_goodbye_and_a_new_server_finds_the_session() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        terminal.run("kept='over restarts'").await;
        let asked = Instant::now();
        server.signal(Signal::TERM);
        let (code, reason, _) = terminal.closed().await;
        assert_eq!((code, reason.as_str()), (1012, "server is restarting"));
        let status = server.ended();
        assert!(status.success() && asked.elapsed() < Duration::from_secs(2), "{status} {:?}", asked.elapsed());
        server.restart();
        let mut terminal = server.open(&project, "").await;
        terminal.expect("end-1").await;
        assert_eq!(terminal.run("echo $kept").await, "over restarts\r\n");
    });
}

#[test]
fn a_killed_server_loses_no_output() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("echo st''art; sleep 1; seq 1 1000; echo fin''ished\r").await;
        terminal.expect("start\r\n").await;
        server.signal(Signal::KILL);
        server.ended();
        server.restart();
        let mut terminal = server.open(&project, "").await;
        let output = terminal.expect("finished\r\n").await;
        assert!(
            output.contains("start") && output.contains("1\r\n2\r\n3\r\n") && output.contains("\r\n999\r\n1000\r\n")
        );
    });
}

#[test]
fn clients_that_hang_do_not_have_the_others_wait_for_the_next_server() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        // Of some rounds the quickest: the machine may be busy.
        let mut quickest = Duration::MAX;
        for round in 0..3 {
            let mut hanging = server.prompt(&project, &format!("&session=hanging{round}")).await;
            hanging.send("yes\r").await;
            hanging.expect("y\r\ny\r\n").await;
            // It has room for the goodbye, and doesn't answer.
            let _silent = server.prompt(&project, &format!("&session=silent{round}")).await;
            let mut asking = tokio::net::TcpStream::connect(server.address).await.expect("it listens");
            asking.write_all(b"GET /api/projects HTTP/1.1\r\nHost: ").await.expect("it reads");
            assert_eq!(server.ask("GET", "/healthz", None).await.status, 200);
            let asked = Instant::now();
            server.signal(Signal::TERM);
            assert!(server.ended().success());
            quickest = quickest.min(asked.elapsed());
            server.restart();
        }
        assert!(quickest < Duration::from_secs(1), "{quickest:?}");
    });
}

#[test]
fn an_idle_cell_is_stopped_and_nothing_of_it_is_left() {
    let config = "cell_linger_s = 0".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        terminal.run("touch /gone /workspace/kept").await;
        terminal.send("exit\r").await;
        terminal.closed().await;
        server.logged("cell is gone").await;
        assert_eq!(server.run_dir().join("cells").read_dir().unwrap().count(), 0);
        let mut terminal = server.prompt(&project, "").await;
        assert_eq!(terminal.run("ls /gone /workspace/kept 2>/dev/null").await, "/workspace/kept\r\n");
    });
    let kept = server.projects().join(&project).join("workspace/kept");
    let owner = std::os::unix::fs::MetadataExt::uid(&kept.metadata().unwrap());
    let service = std::os::unix::fs::MetadataExt::uid(&server.projects().metadata().unwrap());
    assert_ne!(owner, 0);
    assert_eq!(owner, service);
}

#[test]
fn limits_of_the_project_hold() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        server.ask("POST", "/api/projects", Some(json!({ "id": project }))).await;
        let settings =
            "[limits]\nmemory_bytes_max = 67108864\npids_max = 20\nopen_files_max = 300\n[env]\nGREETING = 'hi there'";
        std::fs::write(server.projects().join(&project).join("project.toml"), settings).unwrap();
        let mut terminal = server.prompt(&project, "").await;
        assert_eq!(terminal.run("echo $GREETING").await, "hi there\r\n");
        assert_eq!(terminal.run("ulimit -n").await, "300\r\n");
        let killed = terminal.run("python3 -c 'x = bytearray(200 << 20); print(len(x))'; echo status $?").await;
        assert!(killed.contains("status 137"), "{killed}");
        let forked = terminal.run("(for i in $(seq 40); do sleep 5 & done) 2>&1 | grep -c 'fork: '").await;
        assert_ne!(forked.trim(), "0");
    });
}

#[test]
fn many_open_a_project_at_once_and_one_cell_starts() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let opening = (0..10).map(|_| server.prompt(&project, ""));
        let mut terminals = futures_util::future::join_all(opening).await;
        assert_eq!(terminals[0].run("ps -C bash -o comm=").await, "bash\r\n");
    });
    assert_eq!(server.log().matches("cell is running").count(), 1);
}

#[test]
fn a_cell_that_is_killed_closes_its_clients_and_can_be_had_again() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        let stop = server.command(&["project", "stop", &project]).output().unwrap();
        assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
        let (code, reason, _) = terminal.closed().await;
        assert!([1000, 1011].contains(&code), "{code} {reason}");
        server.prompt(&project, "").await;
    });
}

#[test]
fn a_cell_that_dies_closes_its_clients_and_nothing_of_it_is_left() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        let [init, ..] = server.processes(&project)[..] else { panic!("the cell has no process") };
        rustix::process::kill_process(init, Signal::KILL).unwrap();
        let (code, reason, _) = terminal.closed().await;
        assert_eq!((code, reason.as_str()), (1011, "the cell ended"));
        server.logged("cell is gone").await;
        assert!(server.processes(&project).is_empty());
        assert_eq!(server.prompt(&project, "").await.run("echo ba''ck").await, "back\r\n");
    });
}

#[test]
fn the_server_keeps_nothing_of_clients_and_cells_that_are_gone() {
    let Some(server) = Server::start() else { return };
    let first = server.project();
    block_on(async {
        server.prompt(&first, "").await;
        server.command(&["project", "stop", "--all"]).output().unwrap();
        server.logged("cell is gone").await;
        let before = server.descriptors();
        let project = server.project();
        for name in 0..10 {
            let mut terminal = server.prompt(&project, &format!("&session=s{name}")).await;
            let mut watching = server.open(&project, &format!("&session=s{name}")).await;
            terminal.send("exit\r").await;
            terminal.closed().await;
            watching.closed().await;
        }
        assert_eq!(server.ask("DELETE", &format!("/api/projects/{project}"), None).await.status, 204);
        // The server closes its side after ours: the last of them may be a moment away.
        let by = Instant::now() + Duration::from_secs(10);
        while server.descriptors() > before && Instant::now() < by {
            assert_eq!(server.ask("GET", "/healthz", None).await.status, 200);
        }
        // The connection that is asked by may still be closing.
        assert!(server.descriptors() <= before + 1, "{before} before, {} now", server.descriptors());
    });
}

#[test]
fn without_its_launcher_the_server_says_so_and_serves_what_runs() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        rustix::process::kill_process(server.launcher(), Signal::KILL).unwrap();
        let refused = server.try_open(&server.project(), "").await.err().expect("no launcher");
        assert_eq!(refused.status, 503);
        assert!(refused.body.contains("launcher_gone") && refused.body.contains("restart cloister"), "{refused:?}");
        assert_eq!(terminal.run("echo st''ill").await, "still\r\n");
        server.prompt(&project, "&session=more").await;
    });
}

#[test]
fn hundreds_share_a_server() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut typing = server.prompt(&project, "").await;
        let watching = (0..200).map(|_| server.open(&project, ""));
        let mut watching = futures_util::future::join_all(watching).await;
        typing.run("echo to e''verybody").await;
        futures_util::future::join_all(watching.iter_mut().map(|one| one.expect("to everybody\r\n"))).await;
    });
}

#[test]
fn a_program_that_does_not_read_delays_neither_output_nor_goodbye() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async {
        let mut terminal = server.prompt(&project, "").await;
        terminal.send("stty -echo; (while sleep 0.2; do echo ti''ck; done) & sleep 1000\r").await;
        terminal.expect("tick\r\n").await;
        for _ in 0..4 {
            terminal.send(&"x".repeat(60_000)).await;
        }
        for _ in 0..3 {
            terminal.expect("tick\r\n").await;
        }
        let mut other = server.open(&project, "").await;
        other.expect("tick\r\n").await;
        drop(terminal);
        other.expect("tick\r\n").await;
    });
}
