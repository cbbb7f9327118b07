//! `cloister doctor` on a machine where cells run, and on one where they can't.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::Server;

/// What it says, and its exit status.
fn doctor(server: &Server, words: &[&str]) -> (Option<i32>, Value) {
    let output = server.command(&[&["doctor", "--json"], words].concat()).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("it prints JSON"))
}

fn finding<'a>(report: &'a Value, thing: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["thing"] == thing).expect("every thing is reported")
}

#[test]
fn where_cells_run_nothing_fails() {
    let Some(server) = Server::start() else { return };
    let (status, report) = doctor(&server, &[]);
    assert_eq!((status, &report["cells"]), (Some(0), &Value::Bool(true)), "{report:#}");
    assert_eq!(finding(&report, "runner image")["state"], "ok");
}

#[test]
fn what_is_missing_is_named_with_its_remedy_and_nothing_is_made() {
    let Some(server) = Server::start() else { return };
    let nowhere = server.run_dir().join("nowhere");
    let (status, report) = doctor(&server, &["--state", nowhere.to_str().unwrap(), "--user", "nobody-here"]);
    assert_eq!((status, &report["cells"]), (Some(1), &Value::Bool(false)));
    for thing in ["runner image", "service user"] {
        let finding = finding(&report, thing);
        assert_eq!(finding["state"], "fails");
        assert!(finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{finding}");
    }
    assert!(!nowhere.exists());
}
