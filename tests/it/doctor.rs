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
    assert_eq!(finding(&report, "idle cells")["detail"], "frozen after 30 min, never stopped");
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

#[test]
fn a_running_cell_is_looked_at_measure_by_measure() {
    let Some(server) = Server::start() else { return };
    let project = server.project_with("[limits]\npids_max = 99\n");
    let look = |words: &[&str]| {
        let output = server.command(&[&["doctor", "--cell", &project], words].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, _, reason) = look(&[]);
    assert_eq!(status, Some(1));
    assert!(reason.contains("no running cell: start one with"), "{reason}");

    let mut command = server.command(&["run", &project, "--", "sh", "-c", "echo here; cat"]);
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let said = std::io::BufRead::lines(std::io::BufReader::new(running.stdout.take().unwrap())).next();
    assert_eq!(said.unwrap().unwrap().trim(), "here");
    let (status, table, reason) = look(&[]);
    assert_eq!(status, Some(0), "{table}{reason}");
    assert!(!table.lines().any(|line| line.starts_with("not")), "{table}");
    for line in
        ["fully  namespaces", "fully  host ids", "fully  masked paths", "fully  capabilities", "fully  system calls"]
    {
        assert!(table.contains(line), "{line:?} is not in\n{table}");
    }
    let (_, json, _) = look(&["--json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["enforced"], true);
    let measures = report["measures"].as_array().unwrap();
    let pids = measures.iter().find(|measure| measure["measure"] == "process limit").unwrap();
    assert!(pids["detail"].as_str().unwrap().starts_with("99 in "), "{pids}");

    // A limit that is taken away behind the cell's back is seen.
    let place = pids["detail"].as_str().unwrap().trim_start_matches("99 in ").to_owned();
    std::fs::write(place, "max").unwrap();
    let (status, table, _) = look(&[]);
    assert_eq!(status, Some(1));
    assert!(table.lines().any(|line| line.starts_with("not    process limit")), "{table}");
    drop(running.stdin.take());
    running.wait().unwrap();
}
