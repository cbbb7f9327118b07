//! Server and launcher as two services: neither was the other's parent, and each is killed and started without the other.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::Uid;
use rustix::process::{Pid, Signal, kill_process};
use sandbox::launcher::Launcher;

use crate::harness::{DEADLINE, GUEST, Server, Settings, block_on};

/// Kills of launcher and server, in the test that does both.
const KILLS: u32 = 12;

#[test]
fn a_server_that_never_was_root_has_cells_by_a_launcher_that_is_a_service() {
    let Some(server) = Server::start_as_service(Settings::default()) else { return };
    block_on(async {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("the server runs");
        let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says so");
        assert!(!of("Uid:").split_whitespace().any(|uid| uid == "0"), "{status}");
        assert_eq!(of("CapPrm:").trim(), "0000000000000000");
        let project = server.project_with("");
        let mut terminal = server.prompt(&project, "").await;
        assert_eq!(terminal.run("id -un; echo kept > mine; cat mine").await, "root\r\nkept\r\n");
        assert_eq!(server.cgroup_file(&project, &["pids.max"]).trim(), "1024", "limits hold");
        let answer = server.ask("DELETE", &format!("/api/projects/{project}"), None).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        assert!(!server.projects().join(&project).exists());
    });
}

#[test]
fn sessions_outlive_their_launcher_and_new_cells_come_from_the_next() {
    let Some(mut server) = Server::start_as_service(Settings::default()) else { return };
    block_on(async {
        let [here, next] = [server.project_with(""), server.project_with("")];
        let mut terminal = server.prompt(&here, "").await;
        server.kill_launcher();
        assert_eq!(terminal.run("echo alive").await, "alive\r\n");
        let refused = server.try_open(&next, "").await.err().expect("there is no launcher");
        assert!(refused.body.contains("the launcher is gone"), "{} {}", refused.status, refused.body);
        server.restart_launcher();
        let mut other = server.prompt(&next, "").await;
        assert_eq!(other.run("echo new").await, "new\r\n");
        assert_eq!(terminal.run("echo the same").await, "the same\r\n");
    });
}

#[test]
fn server_and_launcher_are_killed_again_and_again_and_a_shell_notices_nothing() {
    let Some(mut server) = Server::start_as_service(Settings::default()) else { return };
    block_on(async {
        let project = server.project_with("");
        server.prompt(&project, "").await.run("here=0").await;
        for kill in 1..=KILLS {
            match kill % 3 {
                0 => server.kill_launcher(),
                1 => server.signal(Signal::KILL),
                _ => {
                    server.signal(Signal::KILL);
                    server.kill_launcher();
                }
            }
            if kill % 3 != 1 {
                server.restart_launcher();
            }
            if kill % 3 != 0 {
                server.ended();
                server.restart();
            }
            // Typed behind the snapshot: what came before would be a part of it, and its lines end otherwise.
            let mut terminal = server.prompt(&project, "").await;
            terminal.send("echo $((here += 1)) kills\r").await;
            terminal.expect(&format!("{kill} kills\r\n")).await;
        }
        let spare = server.project_with("");
        server.prompt(&spare, "").await;
    });
}

#[test]
fn a_launcher_that_is_a_service_answers_nobody_but_the_service_user() {
    let Some(server) = Server::start_as_service(Settings::default()) else { return };
    let socket = server.run_dir().join("launcher.sock");
    let metadata = std::fs::metadata(&socket).expect("the launcher listens");
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o660));
    let as_guest = |socket: std::path::PathBuf| {
        // The ids of a thread are its own.
        let asked = std::thread::spawn(move || {
            let guest = Uid::from_raw(GUEST);
            rustix::thread::set_thread_res_uid(guest, guest, guest).expect("root can be anybody");
            Launcher::connect(&socket).map(drop).map_err(|error| error.to_string())
        });
        asked.join().expect("it does not panic")
    };
    let refused = as_guest(socket.clone()).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).expect("root can");
    let refused = as_guest(socket.clone()).unwrap_err();
    assert!(refused.contains("the launcher is gone"), "it looks who is there: {refused}");
    // Whoever may, and more of them than are let in at once.
    let clients: Vec<_> = (0..7).map(|_| Launcher::connect(&socket).expect("root may")).collect();
    drop(clients);
    block_on(async { server.prompt(&server.project_with(""), "").await });
}

#[test]
fn cells_end_with_the_server_where_that_is_wanted() {
    let config = "cells_at_stop = \"end\"".to_owned();
    let Some(mut server) = Server::start_as_service(Settings { config, ..Settings::default() }) else { return };
    block_on(async {
        let projects = [server.project_with(""), server.project_with("")];
        for project in &projects {
            server.prompt(project, "").await;
            assert!(!server.processes(project).is_empty());
        }
        server.signal(Signal::TERM);
        assert!(server.ended().success());
        assert!(server.log().contains("cells end"), "{}", server.log());
        assert!(projects.iter().all(|project| server.processes(project).is_empty()), "{}", server.log());
        assert_eq!(server.cgroups(), 0);
    });
}

#[test]
fn projects_that_want_it_start_with_the_server() {
    let Some(mut server) = Server::start_as_service(Settings::default()) else { return };
    block_on(async {
        let [wants, broken, other] = [
            server.project_with("autostart = true"),
            server.project_with("autostart = true\nimage = \"none-such\""),
            server.project_with(""),
        ];
        server.signal(Signal::TERM);
        server.ended();
        server.restart();
        server.logged("the project can't be started").await;
        let by = std::time::Instant::now() + DEADLINE;
        let state = async |project: &str| {
            let projects = server.ask("GET", "/api/projects", None).await.json();
            let mut all = projects.as_array().expect("a list").iter();
            all.find(|one| one["id"] == project).expect("it is listed").clone()
        };
        while state(&wants).await["sessions"] != serde_json::json!(["main"]) {
            assert!(std::time::Instant::now() < by, "{}", state(&wants).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((&state(&broken).await["running"], &state(&other).await["running"]), (&false.into(), &false.into()));
        let mut terminal = server.prompt(&wants, "").await;
        assert_eq!(terminal.run("tty; stty size").await, "/dev/pts/0\r\n24 80\r\n");
    });
}

#[test]
fn a_service_manager_gives_the_socket_and_is_told_how_it_goes() {
    let Some(server) = Server::start_as_service(Settings::default()) else { return };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let address = (Ipv4Addr::LOCALHOST, listener.local_addr().expect("it is bound").port());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let told = folder.path().join("notify");
    let manager = UnixDatagram::bind(&told).expect("a socket");
    for path in [folder.path(), &told] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("it is ours");
    }
    manager.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let hear = |wanted: &str| {
        let mut word = [0; 256];
        loop {
            let length = manager.recv(&mut word).expect("the server says something");
            if word[..length].starts_with(wanted.as_bytes()) {
                return;
            }
        }
    };
    // Descriptor 3 by a shell, which is the process whose id the variable names.
    let mut command = server.server_command("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"");
    command.args(["serve", "--listen", "127.0.0.1:1"]).env("NOTIFY_SOCKET", &told).env("WATCHDOG_USEC", "200000");
    let mut second = command.stdin(Stdio::from(OwnedFd::from(listener))).spawn().expect("the server starts");
    drop(command);
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
    // By any name: that is for the socket to say, and this one isn't of loopback, whatever the configuration says.
    let request = format!(
        "GET /api/projects HTTP/1.1\r\nHost: ide.example.org\r\nAuthorization: Bearer {}\r\n\r\n",
        server.token
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("it reads");
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut answer).expect("it answers");
    assert!(answer.ends_with(b"200"), "{answer:?}");
    kill_process(Pid::from_child(&second), Signal::TERM).expect("it runs");
    hear("STOPPING=1");
    assert!(second.wait().expect("it ends").success());
    let after = std::net::TcpStream::connect(address).map_err(|error| error.kind());
    assert_eq!(after.err(), Some(ErrorKind::ConnectionRefused), "the socket was the manager's alone");
}
