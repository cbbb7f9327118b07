//! Clients that anybody has, in plain mode, as a person uses them: wscat and Python's `websockets` at a terminal of their own,
//! websocat in a pipe, xterm.js' AttachAddon in a browser.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::browser::{script, web_or_skip};
use crate::harness::{DEADLINE, Server};
use crate::pty::User;

/// Debian's own Python: another one hasn't Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// What is typed, each without its Enter. What it prints differs from it by the quotes; behind the numbers nothing is typed, which
/// the terminal would show among them.
const COMMANDS: [&str; 2] = ["printf 'gr\\303\\274\\303\\237e 世界 %s.' do''ne", "seq -s, 1 2000; exit 3"];

#[test]
fn wscat_types_lines() {
    let Some(server) = Server::start() else { return };
    let wscat = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/node_modules/wscat/bin/wscat");
    if is_missing(wscat.exists(), "web/node_modules: run make web") {
        return;
    }
    let address = format!("ws://{}/ws/terminal/{}/?input=line", server.address, server.project());
    let command = format!("node {} -c '{address}' -H 'Authorization: Bearer {}'", wscat.display(), server.token);
    let shown = at_a_terminal(&server, &command, "Connected (press CTRL+C to quit)", "Disconnected (code: 1000, ");
    assert!(shown.ends_with("reason: \"exited with status 3\")"), "{shown}");
}

#[test]
fn pythons_websockets_types_lines() {
    let Some(server) = Server::start() else { return };
    let there = Command::new(PYTHON).args(["-m", "websockets", "--version"]).output();
    if is_missing(there.is_ok_and(|run| run.status.success()), "websockets: apt-get install python3-websockets") {
        return;
    }
    let (address, project, token) = (server.address, server.project(), &server.token);
    let command = format!("{PYTHON} -m websockets 'ws://{address}/ws/terminal/{project}/?input=line&token={token}'");
    let shown = at_a_terminal(&server, &command, "Connected to ws:", "Connection closed: 1000 (OK) ");
    assert!(shown.ends_with("exited with status 3."), "{shown}");
}

#[test]
fn websocat_is_a_pipe_to_a_shell() {
    let Some(server) = Server::start() else { return };
    let there = Command::new("websocat").arg("--version").output();
    if is_missing(there.is_ok_and(|run| run.status.success()), "websocat: run scripts/install-websocat") {
        return;
    }
    let address = format!("ws://{}/ws/terminal/{}/", server.address, server.project());
    let authorization = format!("-H=Authorization: Bearer {}", server.token);
    let mut run = Command::new("timeout")
        .args([&DEADLINE.as_secs().to_string(), "websocat", "--exit-on-eof", &authorization, &address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("timeout runs");
    let mut input = run.stdin.take().expect("its input is piped");
    COMMANDS.iter().for_each(|command| writeln!(input, "{command}").expect("websocat reads"));
    let mut shown = String::new();
    run.stdout.take().expect("its output is piped").read_to_string(&mut shown).expect("UTF-8");
    assert!(run.wait().expect("it is our child").success(), "{shown}");
    check(&undecorated(&shown));
}

#[test]
fn xterms_attach_addon_types_keys() {
    let Some(server) = Server::start() else { return };
    let Some(web) = web_or_skip(&server) else { return };
    let run = script(&web, "attach.mjs", &server, &server.project()).output().expect("node runs");
    let said = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(run.status.success(), "{said}");
    print!("{said}");
}

/// Starts a client, types the commands, and gives what it says from `closed` on to the end of that line, after all output was
/// seen before it.
fn at_a_terminal(server: &Server, client: &str, connected: &str, closed: &str) -> String {
    let mut user = User::sit_down(server);
    user.types(&format!("{client}\r"));
    user.expect(connected);
    for command in COMMANDS {
        user.types(&format!("{command}\r"));
    }
    check(&undecorated(&user.expect(closed)));
    let end = user.expect("\n");
    user.expect_prompt();
    format!("{closed}{}", undecorated(&end))
}

/// Sees that what the commands print was shown.
fn check(shown: &str) {
    assert!(shown.contains("grüße 世界 done."), "{shown}");
    let numbers: Vec<String> = (1..=2000).map(|number| number.to_string()).collect();
    assert!(shown.contains(&numbers.join(",")), "{shown}");
}

/// Without what these clients put around each message: a sign before it, a line's end behind, and what keeps the line that
/// is being typed at the bottom.
fn undecorated(shown: &str) -> String {
    let mut text = String::new();
    let mut characters = shown.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' if characters.next() == Some('[') => {
                characters.by_ref().find(char::is_ascii_alphabetic);
            }
            '\x1b' | '\r' | '\n' => {}
            other => text.push(other),
        }
    }
    text.replace("< ", "").replace("> ", "")
}

/// Whether a client isn't there, which is said, and in CI is a failure.
fn is_missing(there: bool, what: &str) -> bool {
    assert!(there || std::env::var_os("CI").is_none(), "in CI nothing is skipped: needs {what}");
    if !there {
        eprintln!("skipped: needs {what}");
    }
    !there
}
