//! The native client of a session, on a real terminal.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::harness::{Server, Settings};
use crate::pty::User;

fn url(address: SocketAddr) -> String {
    format!("--url http://{address}")
}

/// A user who has attached to a project's main session by that address.
fn attached(server: &Server, project: &str, address: SocketAddr) -> User {
    let mut user = User::sit_down(server);
    user.types(&format!("cloister attach {project} {}\r", url(address)));
    user.expect("$ ");
    user
}

/// What the client says when it can't attach.
fn refusal(server: &Server, words: &[&str]) -> String {
    let refused = server.command(&["attach"]).args(words).stdin(Stdio::null()).output().expect("cloister runs");
    assert_eq!(refused.status.code(), Some(125));
    String::from_utf8(refused.stderr).unwrap()
}

/// A way to a server that stays when the server comes back on another port.
struct Way {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
}

impl Way {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Mutex::new(server));
        let way = Self { address, server: server.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = *server.lock().unwrap();
                if let Ok(server) = TcpStream::connect(server) {
                    let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    std::thread::spawn(move || pass_on(from_client, server));
                    std::thread::spawn(move || pass_on(from_server, client));
                }
            }
        });
        way
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn who_detaches_finds_the_same_session_again() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    let mut user = User::sit_down(&server);
    let modes = user.modes();
    let attach = format!("cloister attach {project} {}\r", url(server.address));
    user.types(&attach);
    user.expect("$ ");
    user.types("mark=kept; tty\r");
    user.expect("/dev/pts/0\r\n");
    user.types("\x10\x11");
    user.expect("cloister: detached; the session goes on\r\n");
    user.expect_prompt();
    assert_eq!(user.status(), "0");
    assert_eq!(user.modes(), modes);
    user.types(&attach);
    // What was on the screen is on it again.
    user.expect("mark=kept; tty");
    user.expect("/dev/pts/0");
    user.expect("$ ");
    user.types("echo is-$mark\r");
    user.expect("is-kept\r\n");
    user.types("exit 9\r");
    user.expect_prompt();
    assert_eq!(user.status(), "9");
    assert_eq!(user.modes(), modes);
}

#[test]
fn attach_follows_the_windows_size() {
    let Some(server) = Server::start() else { return };
    let mut user = User::sit_down(&server);
    user.types(&format!("cloister attach {} {}\r", server.project(), url(server.address)));
    user.expect("$ ");
    user.types("sh -c 'trap \"stty size\" WINCH; stty size; while :; do sleep 60 & wait; done'\r");
    user.expect("30 100\r\n");
    user.resizes(120, 40);
    user.expect("40 120\r\n");
}

#[test]
fn the_keys_that_detach_can_be_chosen() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    let mut user = User::sit_down(&server);
    user.types(&format!("cloister attach {project} --detach-keys 'ctrl-],d' {}\r", url(server.address)));
    user.expect("$ ");
    user.types("cat -v\r");
    user.expect("cat -v\r\n");
    // Neither the usual keys nor a beginning of the chosen ones is kept from the program.
    user.types("\x10\x11\x1dx\r");
    user.expect("^P");
    user.types("\x1dd");
    user.expect("detached");
    user.expect_prompt();
}

#[test]
fn a_key_that_begins_the_detach_keys_still_reaches_the_program() {
    let Some(server) = Server::start() else { return };
    let mut user = User::sit_down(&server);
    user.types(&format!("cloister attach {} {}\r", server.project(), url(server.address)));
    user.expect("$ ");
    user.types("echo first\r");
    user.expect("\rfirst\r\n");
    // The command before this one; its key alone, and the end of the line only when it is shown.
    user.types("\x10");
    user.expect("echo first");
    user.types("\r");
    user.expect("\rfirst\r\n");
}

#[test]
fn attach_ends_as_the_program_does() {
    let Some(server) = Server::start() else { return };
    let mut user = User::sit_down(&server);
    user.types(&format!("cloister attach {} {}\r", server.project(), url(server.address)));
    user.expect("$ ");
    user.types("kill -9 $$\r");
    user.expect_prompt();
    assert_eq!(user.status(), "137");
}

#[test]
fn attach_takes_pipes() {
    let Some(server) = Server::start() else { return };
    let mut user = User::sit_down(&server);
    let attach = format!("cloister attach {} {}", server.project(), url(server.address));
    user.types(&format!("echo 'echo sum=$((40+2))' | {attach} | cat\r"));
    user.expect("sum=42\r");
    user.expect_prompt();
}

#[test]
fn a_flood_into_a_pipe_comes_whole() {
    let Some(server) = Server::start() else { return };
    let mut user = User::sit_down(&server);
    let project = server.project();
    let attach = format!("cloister attach {project} {}", url(server.address));
    let file = server.projects().join("flood");
    user.types(&format!("echo 'echo be''gin; seq 1 500000; exit 3' | {attach} > {}\r", file.display()));
    user.expect_prompt();
    assert_eq!(user.status(), "3");
    let text = std::fs::read_to_string(&file).unwrap();
    let (_, flood) = text.split_once("begin\r\n").expect("it began");
    let numbers = flood.lines().zip(1..).take_while(|(line, number)| *line == number.to_string()).count();
    assert_eq!(numbers, 500_000);
}

#[test]
fn a_signal_ends_the_client_and_not_the_session() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    let mut user = User::sit_down(&server);
    let modes = user.modes();
    let pid = user.starts(&format!("attach {project} {}", url(server.address)));
    user.expect("$ ");
    user.types("mark=kept; vim.tiny\r");
    user.expect("~");
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    // The program's screen is left with it.
    user.expect("\x1b[?1047l");
    user.expect_prompt();
    assert_eq!(user.status(), "143");
    assert_eq!(user.modes(), modes);
    let list = server.command(&["project", "ls"]).output().unwrap();
    assert!(String::from_utf8(list.stdout).unwrap().contains(&format!("{project}  running  main\n")));
}

#[test]
fn a_server_that_restarts_is_hardly_noticed() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    let way = Way::to(server.address);
    let mut user = attached(&server, &project, way.address);
    user.types("mark=kept; echo rea''dy\r");
    user.expect("ready\r\n");
    user.expect("$ ");
    server.signal(Signal::TERM);
    // In the window's title, which is put aside for it.
    user.expect("\x1b[22;2t\x1b]2;cloister: no connection");
    user.expect("trying again\x07");
    server.ended();
    user.types("echo is-$mark\r");
    server.restart();
    *way.server.lock().unwrap() = server.address;
    let again = user.expect("is-kept\r\n");
    assert!(again.contains("\x1b[23;2t"), "{again:?}");
    assert!(!again.contains("ready") && !again.contains("\x1bc"), "nothing comes twice: {again:?}");
}

#[test]
fn a_server_that_is_killed_costs_neither_output_nor_input() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    let way = Way::to(server.address);
    let mut user = attached(&server, &project, way.address);
    user.types("stty -echo; count() { i=0; while [ $i -lt 300 ]; do echo line-$i.; i=$((i+1)); sleep 0.01; done; echo do''ne; }\r");
    user.types("count & cat > typed\r");
    user.expect("line-0.");
    let mut output = user.expect("line-20.");
    for keys in ["first\r", "second\r"] {
        user.types("before-");
        server.signal(Signal::KILL);
        output += &user.expect("trying again\x07");
        server.ended();
        user.types(keys);
        server.restart();
        *way.server.lock().unwrap() = server.address;
        output += &user.expect("\x1b[23;2t");
        output += &user.expect("\r\n");
    }
    output += &user.expect("done\r\n");
    user.types("\x04echo en''d\r");
    user.expect("end\r\n");
    let numbers: Vec<_> = output.split("line-").skip(1).map(|line| line.split_once('.').expect("whole").0).collect();
    assert_eq!(numbers, (1..300).map(|number| number.to_string()).collect::<Vec<_>>());
    let typed = std::fs::read_to_string(server.projects().join(&project).join("workspace/typed")).unwrap();
    assert_eq!(typed, "before-first\nbefore-second\n");
}

#[test]
fn a_paste_while_the_server_is_away_arrives_whole() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    let way = Way::to(server.address);
    let mut user = attached(&server, &project, way.address);
    let paste: String = (0..40_000).map(|number| format!("{number:05}")).collect();
    user.types(&format!("stty raw -echo; echo rea''dy; head -c {} > typed; stty sane; echo do''ne\r", paste.len()));
    user.expect("ready");
    server.signal(Signal::KILL);
    user.expect("trying again\x07");
    server.ended();
    user.types(&paste);
    server.restart();
    *way.server.lock().unwrap() = server.address;
    user.expect("done\r\n");
    let typed = std::fs::read_to_string(server.projects().join(&project).join("workspace/typed")).unwrap();
    assert!(typed == paste, "{} bytes of {}", typed.len(), paste.len());
}

#[test]
fn a_session_that_is_gone_is_not_replaced_silently() {
    let Some(mut server) = Server::start() else { return };
    let project = server.project();
    let way = Way::to(server.address);
    let mut user = attached(&server, &project, way.address);
    server.signal(Signal::KILL);
    user.expect("trying again\x07");
    server.ended();
    // As after a restart of the machine.
    assert!(server.command(&["project", "stop", &project]).status().unwrap().success());
    server.restart();
    *way.server.lock().unwrap() = server.address;
    user.expect("cloister: session main has ended meanwhile");
    user.expect_prompt();
    assert_eq!(user.status(), "125");
    let list = server.command(&["project", "ls"]).output().unwrap();
    assert!(!String::from_utf8(list.stdout).unwrap().contains("main"));
}

#[test]
fn who_views_sees_everything_and_types_nothing() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    let attach = format!("cloister attach {project} {}", url(server.address));
    let mut viewer = User::sit_down(&server);
    viewer.types(&format!("{attach} --view\r"));
    viewer.expect("session main does not run, and a viewer starts none\r\n");
    viewer.expect_prompt();
    assert_eq!(viewer.status(), "125");
    let mut user = User::sit_down(&server);
    user.types(&format!("{attach}\r"));
    user.expect("$ ");
    user.types("echo is-$((6*7))\r");
    user.expect("is-42\r\n");
    viewer.types(&format!("{attach} --view\r"));
    viewer.expect("is-42\r\n");
    viewer.resizes(60, 20);
    viewer.types("touch viewer\r\x10\x11");
    viewer.expect("detached");
    assert!(!viewer.expect_prompt().contains("may not have arrived"));
    user.types("ls; stty size\r");
    assert!(!user.expect("30 100\r\n").contains("viewer"));
}

#[test]
fn the_sessions_are_listed_with_who_is_attached() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    let attach = format!("cloister attach {project} {}", url(server.address));
    let mut user = User::sit_down(&server);
    user.types(&format!("{attach} --session build\r"));
    user.expect("$ ");
    user.types("\x10\x11");
    user.expect_prompt();
    user.types(&format!("{attach}\r"));
    user.expect("$ ");
    let listed = server.command(&["attach", &project, "--ls", "--url", &format!("http://{}", server.address)]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    assert_eq!(listed, "SESSION  ATTACHED (* ITS SIZE COUNTS)\nbuild    -\nmain     writer 100x30*\n");
}

#[test]
fn detaching_works_without_a_connection() {
    let Some(mut server) = Server::start() else { return };
    let mut user = User::sit_down(&server);
    let modes = user.modes();
    user.types(&format!("cloister attach {} {}\r", server.project(), url(server.address)));
    user.expect("$ ");
    server.signal(Signal::TERM);
    server.ended();
    user.expect("trying again\x07");
    user.types("ls\x10\x11");
    user.expect("\x1b[23;2t");
    user.expect("detached");
    user.expect("the last 2 bytes that were typed may not have arrived\r\n");
    user.expect_prompt();
    assert_eq!(user.status(), "0");
    assert_eq!(user.modes(), modes);
}

#[test]
fn what_can_not_be_attached_to_is_named_with_its_remedy() {
    let Some(server) = Server::start_with(Settings { create_projects: false, ..Settings::default() }) else { return };
    let project = server.project();
    let here = format!("http://{}", server.address);
    let unknown = refusal(&server, &[&project, "--url", &here]);
    assert!(unknown.contains(&format!("cloister project create {project}")), "{unknown}");
    let token = refusal(&server, &[&project, "--url", &here, "--token", "0123456789012345678901234567890123456789"]);
    assert_eq!(token, "cloister: the token is refused: give the right one by CLOISTER_TOKEN or --token\n");
    let nobody = refusal(&server, &[&project, "--url", "http://127.0.0.1:9"]);
    assert!(nobody.starts_with("cloister: no server at 127.0.0.1:9: start it with `cloister serve`"), "{nobody}");
    let no_address = refusal(&server, &[&project, "--url", "127.0.0.1:9"]);
    assert!(no_address.contains("must begin with https:// or http://"), "{no_address}");
    assert!(refusal(&server, &[&project, "--session", "a/b"]).contains("--session: a session name is"));
    assert!(refusal(&server, &[&project, "--detach-keys", "ctrl-1"]).contains("--detach-keys: `ctrl-1` is no key"));
    assert!(refusal(&server, &["A"]).contains("a project id is"));
}
