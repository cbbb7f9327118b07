//! `cloister policy`: what it says of profiles and projects, and of a trace.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::harness::{Server, Settings};

fn ask(server: &Server, words: &[&str], input: &[u8]) -> (Output, String) {
    let mut command = server.command(&[&["policy"], words].concat());
    let mut process =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cloister runs");
    // It may have said no before it reads.
    let _ = process.stdin.take().expect("its input is piped").write_all(input);
    let output = process.wait_with_output().expect("cloister ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn a_projects_policy_is_shown_with_what_it_was_granted() {
    let config = "policy.profile = 'strict'\npolicy.may_allow = ['io-uring', 'default']\n".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    let shown = |words: &[&str]| {
        let (output, text) = ask(&server, &[&["show"], words].concat(), b"");
        assert!(output.status.success(), "{output:?}");
        let (allowed, refused) = text.split_once("\nRefused\n").expect("two parts");
        let io_uring = allowed.contains("io_uring_setup");
        (text.lines().next().expect("a line").to_owned(), io_uring, refused.contains("ptrace "))
    };
    let project = server.project_with("[policy]\nprofile = 'default'\nallow = ['io-uring']\n");
    assert_eq!(shown(&["--project", &project]), ("Profile default, granted io-uring".to_owned(), true, false));
    assert_eq!(shown(&[]), ("Profile strict".to_owned(), false, true));
    assert_eq!(shown(&["--profile", "default"]), ("Profile default".to_owned(), false, false));
    let wrong = server.project_with("[policy]\nallow = ['page-faults']\n");
    for (id, says) in [(wrong.as_str(), "policy.may_allow"), ("nobody", "does not exist"), ("../x", "a project id is")]
    {
        let (output, _) = ask(&server, &["show", "--project", id], b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(says), "{id}: {said}");
    }
}

#[test]
fn a_trace_is_held_against_the_policy_of_a_project() {
    let config = "policy.may_allow = ['asynchronous-io']\n".to_owned();
    let Some(server) = Server::start_with(Settings { config, ..Settings::default() }) else { return };
    let database = server.project_with("[policy]\nallow = ['asynchronous-io']\n");
    let trace = b"9 execve(\"/usr/sbin/mysqld\", [\"mysqld\"], 0x7f /* 9 vars */) = 0\n9 io_setup(256, [0x7f]) = 0\n";
    let (output, text) = ask(&server, &["check", "-"], trace);
    assert!(output.status.code() == Some(1) && text.contains("granted it as `asynchronous-io`"), "{output:?}");
    let (output, text) = ask(&server, &["check", "--project", &database, "-"], trace);
    assert_eq!((output.status.code(), text.as_str()), (Some(0), "2 calls, 0 refused\n"));
    let file = server.projects().join(&database).join("workspace/trace");
    std::fs::write(&file, trace).expect("the trace is written");
    let (output, _) = ask(&server, &["check", file.to_str().expect("test folders are UTF-8")], b"");
    assert_eq!(output.status.code(), Some(1));
    for (words, says) in [(["check", "/nowhere"], "/nowhere: "), (["check", "-"], "strace -f -o")] {
        let (output, _) = ask(&server, &words, b"no trace\n");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(says), "{words:?}: {said}");
    }
}
