//! The command without a server: `run` on a real terminal, `project`, and what it says to wrong words and settings.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Server;
use crate::pty::User;

/// A program in a cell that shows its terminal's size at once and whenever it changes.
const SHOW_SIZE: &str = "sh -c 'trap \"stty size\" WINCH; stty size; while :; do sleep 60 & wait; done'";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A project of a server's own, made by the command.
fn create(server: &Server) -> String {
    let project = server.project();
    let created = output(server, &["project", "create", &project]);
    assert!(created.status.success(), "{}", text(&created.stderr));
    project
}

fn output(server: &Server, words: &[&str]) -> Output {
    server.command(words).stdin(Stdio::null()).output().expect("cloister runs")
}

/// The command without any server, root or image; what it reads is given by the test alone.
fn bare(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
    command.env_clear().args(words).stdin(Stdio::null());
    command
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("it can be signalled");
}

/// What is left of cells in the run directory.
fn sockets(server: &Server) -> usize {
    server.run_dir().join("cells").read_dir().expect("the run directory is there").count()
}

/// What an outer supervisor may give us: a pid namespace in which neither our parent nor our session's leader has an id.
#[test]
fn the_command_works_as_the_first_process_of_a_pid_namespace() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let command = server.command(&["run", &project, "--", "echo", "inside"]);
    let mut first = Command::new("unshare");
    first.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(command.get_program()).args(command.get_args());
    let done = first.stdin(Stdio::null()).output().expect("unshare runs");
    assert_eq!((text(&done.stdout).as_str(), done.status.code()), ("inside\r\n", Some(0)), "{}", text(&done.stderr));
}

#[test]
fn run_is_a_shell_on_this_terminal() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let mut user = User::sit_down(&server);
    let modes = user.modes();
    user.types(&format!("cloister run {project}\r"));
    user.expect("$ ");
    user.types("tty; hostname; pwd\r");
    user.expect(&format!("/dev/pts/0\r\n{project}\r\n/workspace\r\n"));
    user.expect("$ ");
    user.types("sh -c 'echo run\"\"ning; exec sleep 1000'\r");
    user.expect("running\r\n");
    user.types("\x03");
    user.expect("$ ");
    user.types("exit 7\r");
    user.expect_prompt();
    assert_eq!(user.status(), "7");
    assert_eq!(user.modes(), modes);
}

#[test]
fn run_follows_the_windows_size() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let mut user = User::sit_down(&server);
    user.types(&format!("cloister run {project}\r"));
    user.expect("$ ");
    user.types(&format!("{SHOW_SIZE}\r"));
    user.expect("30 100\r\n");
    user.resizes(120, 40);
    user.expect("40 120\r\n");
    user.resizes(70, 20);
    user.expect("20 70\r\n");
    user.types("\x03");
    user.expect("$ ");
    user.types("exit\r");
    user.expect_prompt();
}

#[test]
fn run_ends_as_its_command_does() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let status = |command: &str| output(&server, &["run", &project, "--", "sh", "-c", command]).status.code();
    assert_eq!(status("exit 0"), Some(0));
    assert_eq!(status("exit 42"), Some(42));
    assert_eq!(status("kill -9 $$"), Some(128 + 9));
    let missing = output(&server, &["run", &project, "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(text(&missing.stderr).contains("no-such-program"), "{}", text(&missing.stderr));
    assert_eq!(sockets(&server), 0);
    let full = std::fs::File::create("/dev/full").unwrap();
    let unwritten = server.command(&["run", &project, "--", "echo", "lost"]).stdout(full).output().unwrap();
    assert_eq!(unwritten.status.code(), Some(125));
    assert!(text(&unwritten.stderr).contains("write to standard output"), "{}", text(&unwritten.stderr));
}

#[test]
fn run_needs_no_server_and_leaves_nothing() {
    let Some(mut server) = Server::start() else { return };
    let project = create(&server);
    server.signal(Signal::TERM);
    server.ended();
    let done = output(&server, &["run", &project, "--", "sh", "-c", "echo kept > /workspace/file; id -u"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout), "0\r\n");
    assert_eq!(sockets(&server), 0);
    let kept = server.projects().join(&project).join("workspace/file");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "kept\n");
}

#[test]
fn run_takes_pipes() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let script = server.projects().join("script");
    std::fs::write(&script, "echo sum=$((40 + 2))\n").unwrap();
    let input = std::fs::File::open(script).unwrap();
    let done = server.command(&["run", &project]).stdin(input).output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("sum=42\r\n"), "{}", text(&done.stdout));
    let done = output(&server, &["run", &project, "--", "seq", "200000"]);
    let expected: String = (1..=200_000).map(|n| format!("{n}\r\n")).collect();
    assert!(text(&done.stdout) == expected, "some of {} bytes are missing or twice", expected.len());
}

#[test]
fn run_ends_with_its_reader() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let mut user = User::sit_down(&server);
    user.types(&format!("(cloister run {project} -- yes; echo status=$? >&2) | head -2\r"));
    user.expect("y\r\n");
    user.expect("status=141\r\n");
    user.expect_prompt();
    assert_eq!(sockets(&server), 0);
}

#[test]
fn a_signal_gives_the_terminal_back_and_ends_the_session() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let mut user = User::sit_down(&server);
    let modes = user.modes();
    for (number, asked) in [(15, Signal::TERM), (1, Signal::HUP), (2, Signal::INT), (3, Signal::QUIT)] {
        let pid = user.starts(&format!("run {project} -- vim.tiny"));
        user.expect("~");
        signal(pid, asked);
        user.expect_prompt();
        assert_eq!(user.status(), (128 + number).to_string());
        assert_eq!(user.modes(), modes);
        assert_eq!(sockets(&server), 0);
    }
}

#[test]
fn run_goes_on_after_it_was_stopped() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let mut user = User::sit_down(&server);
    user.types("stty sane\r");
    user.expect_prompt();
    let modes = user.modes();
    let pid = user.starts(&format!("run {project}"));
    user.expect("$ ");
    signal(pid, Signal::STOP);
    user.expect_prompt();
    // What a shell with line editing does by itself.
    user.types("stty sane\n");
    user.expect_prompt();
    user.types("fg\r");
    user.expect("fg\r\n");
    user.types("echo ba''ck\r");
    user.expect("back\r\n");
    // Raw again: the key goes to the cell.
    user.expect("$ ");
    user.types("\x03");
    user.expect("^C");
    user.types("\r");
    user.expect("$ ");
    user.types("exit\r");
    user.expect_prompt();
    assert_eq!(user.modes(), modes);
}

#[test]
fn a_closed_window_ends_the_session() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let mut user = User::sit_down(&server);
    let pid = user.starts(&format!("run {project}"));
    user.expect("$ ");
    let process =
        rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), rustix::process::PidfdFlags::empty()).unwrap();
    drop(user);
    let mut polled = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let deadline = rustix::event::Timespec::try_from(crate::harness::DEADLINE).unwrap();
    assert_eq!(rustix::event::poll(&mut polled, Some(&deadline)), Ok(1), "run goes on without a terminal");
    assert_eq!(sockets(&server), 0);
}

#[test]
fn two_runs_share_a_cell_and_the_last_one_ends_it() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let mut user = User::sit_down(&server);
    user.types(&format!("cloister run {project}\r"));
    user.expect("$ ");
    user.types("touch /tmp/shared; echo rea''dy\r");
    user.expect("ready\r\n");
    let other = output(&server, &["run", &project, "--", "ls", "/tmp"]);
    assert_eq!(text(&other.stdout), "shared\r\n");
    let list = text(&output(&server, &["project", "ls"]).stdout);
    assert!(list.contains(&format!("{project}  running  run-")), "{list}");
    user.types("exit\r");
    user.expect_prompt();
    assert_eq!(sockets(&server), 0);
    let list = text(&output(&server, &["project", "ls"]).stdout);
    assert!(list.contains(&format!("{project}  -\n")), "{list}");
}

#[test]
fn an_unknown_project_is_named_with_its_remedy() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    for words in [&["run", &project][..], &["project", "rm", &project], &["project", "stop", &project]] {
        let refused = output(&server, words);
        assert!(!refused.status.success());
        let message =
            format!("cloister: project {project} does not exist: create it with `cloister project create {project}`\n");
        assert_eq!(text(&refused.stderr), message, "{words:?}");
    }
    for words in [["run", "A/B"], ["run", ".."], ["attach", "-x"]] {
        let refused = output(&server, &words);
        assert!(text(&refused.stderr).contains("project") || refused.status.code() == Some(2), "{words:?}");
    }
}

#[test]
fn projects_are_created_stopped_and_removed() {
    let Some(server) = Server::start() else { return };
    let project = create(&server);
    let again = output(&server, &["project", "create", &project]);
    assert_eq!(text(&again.stderr), format!("cloister: project {project} exists already\n"));
    let mut user = User::sit_down(&server);
    user.types(&format!("cloister run {project}\r"));
    user.expect("$ ");
    assert!(output(&server, &["project", "stop", &project]).status.success());
    user.expect_prompt();
    assert_ne!(user.status(), "0");
    assert_eq!(sockets(&server), 0);
    let folder = server.projects().join(&project);
    assert!(folder.join("workspace").is_dir());
    assert!(output(&server, &["project", "rm", &project]).status.success());
    assert!(!folder.exists());
}

#[test]
fn wrong_settings_are_named_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let refused = |command: &mut Command, expected: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = text(&output.stderr);
        assert!(message.starts_with(&format!("cloister: {expected}")) && message.lines().count() == 1, "{message}");
    };
    let config = file.to_str().unwrap();
    for (line, expected) in [
        ("lisen = 'x'", "lisen: unknown key; known are listen, state, "),
        ("listen = 'x'", "listen: must be an address and a port such as 127.0.0.1:8000"),
        ("[limits]\npids_max = 0", "limits.pids_max: must be 8 to "),
        ("image = ", ""),
    ] {
        std::fs::write(&file, format!("# mine\n{line}\n")).unwrap();
        let number = 1 + line.lines().count();
        refused(&mut bare(&["--config", config, "serve"]), &format!("{config}:{number}: {expected}"));
    }
    let mut command = bare(&["project", "ls"]);
    refused(command.env("CLOISTER_LISTN", "x"), "CLOISTER_LISTN: unknown variable; known are CLOISTER_LISTEN, ");
    let mut command = bare(&["project", "ls"]);
    refused(command.env("CLOISTER_LOG_BYTES", "65537"), "CLOISTER_LOG_BYTES: must be a power of two, is 65537");
    refused(&mut bare(&["serve", "--listen", "here"]), "--listen: must be an address");
    refused(&mut bare(&["--config", "/nowhere", "project", "ls"]), "configuration file /nowhere: ");
}

#[test]
fn who_is_neither_root_nor_has_ids_for_cells_is_told_how_to_get_some() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root, to be somebody else");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for program in [env!("CARGO_BIN_EXE_cloister"), env!("CARGO_BIN_EXE_cloister-launcher")] {
        std::fs::copy(program, folder.path().join(Path::new(program).file_name().unwrap())).unwrap();
    }
    let home = folder.path().join("home");
    std::fs::create_dir(&home).and_then(|()| chown(&home, Some(65_534), Some(65_534))).unwrap();
    let mut command = Command::new(folder.path().join("cloister"));
    command.args(["run", "demo"]).env_clear().env("HOME", home).uid(65_534).gid(65_534);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("usermod --add-subuids"), "{}", text(&output.stderr));
}

#[test]
fn completions_and_man_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let script = bare(&["completions", shell]).output().unwrap();
        assert!(script.status.success() && text(&script.stdout).contains("attach"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(bare(&["man"]).arg(folder.path()).status().unwrap().success());
    for page in ["cloister.1", "cloister-run.1", "cloister-project-create.1", "cloister-config.5"] {
        assert!(std::fs::read_to_string(folder.path().join(page)).unwrap().contains(".TH"), "{page}");
    }
}
