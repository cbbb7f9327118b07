//! What is left by crashes, power cuts and foreign hands: what goes by itself, what stays, and who is told.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Server, Settings, block_on};

/// What `cloister doctor` finds of a thing, as lines.
fn doctor(server: &Server, thing: &str) -> Vec<String> {
    let output = server.command(&["doctor", "--json"]).output().expect("cloister runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let findings = report["findings"].as_array().expect("there are findings").iter();
    let of_thing = findings.filter(|finding| finding["thing"] == thing);
    of_thing
        .map(|finding| format!("{} {}", finding["state"].as_str().unwrap(), finding["detail"].as_str().unwrap()))
        .collect()
}

fn succeeds(server: &Server, words: &[&str]) {
    let output = server.command(words).output().expect("cloister runs");
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// A file with all the folders that lead to it.
fn plant(path: &Path) {
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("folders are made");
    fs::write(path, "left over").expect("the file is written");
}

#[test]
fn what_belongs_to_nothing_goes_with_the_next_start_and_what_may_be_somebodys_stays() {
    let Some(mut server) = Server::start_apart(Settings::default()) else { return };
    block_on(async {
        let project = server.project();
        let mut terminal = server.prompt(&project, "").await;
        terminal.run("echo mine > /workspace/work").await;
        assert_eq!(doctor(&server, "leftovers"), ["ok none"]);
        assert_eq!(doctor(&server, "orphans"), [""; 0]);
        server.signal(Signal::KILL);
        server.ended();
        let (state, run) = (server.state().to_owned(), server.run_dir());
        let work = server.projects().join(&project).join("workspace/work");

        let groups = server.groups("stray");
        assert!(!groups.is_empty());
        for group in groups.iter().chain(&server.groups("busy")) {
            fs::create_dir(group).expect("a group is made");
        }
        let mut busy = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep runs");
        for group in server.groups("busy") {
            fs::write(group.join("cgroup.procs"), busy.id().to_string()).expect("a process enters the group");
        }
        let removable = [
            state.join("cells/dead/changes/upper/file"),
            state.join("cells/dead/layers"),
            run.join("cells/stray.sock"),
            state.join("layers/.tmp-7/usr/half"),
            state.join("disks/.half.ext4"),
        ];
        let kept = [state.join("disks/lost.ext4"), state.join("cells/.notes"), state.join("layers/readme")];
        removable.iter().chain(&kept).for_each(|path| plant(path));
        std::os::unix::fs::symlink("4711", state.join("ids/lost")).expect("a link is made");

        let found =
            "1 dead cell, 1 cgroup without a cell, 1 socket without a cell, 1 half unpacked layer, 1 half made disk";
        assert_eq!(doctor(&server, "leftovers"), [format!("lacks {found}")]);
        let orphans = doctor(&server, "orphans").join("\n");
        for says in ["has no project: lost", "isn't Cloister's: cells/.notes, layers/readme", "cell isn't known: busy"]
        {
            assert!(orphans.contains(says), "{says} in {orphans}");
        }
        assert!(removable.iter().chain(&kept).all(|path| path.exists()), "who looks changes nothing");

        server.restart();
        server.logged("what was left over is swept").await;
        let log = server.log();
        let line = log.lines().find(|line| line.contains("left over")).expect("it is logged");
        for says in [found, "lost: a project's disk image", "kept=4", "busy: processes run"] {
            assert!(line.contains(says), "{says} in {line}");
        }
        for path in removable.iter().chain(&groups) {
            assert!(!path.exists(), "{} is left", path.display());
        }
        assert!(kept.iter().all(|path| path.exists()), "{kept:?}");
        assert_eq!(busy.try_wait().expect("it is our child"), None, "what runs isn't killed");
        assert_eq!(fs::read_to_string(&work).expect("the work is there"), "mine\n");
        assert_eq!(server.prompt(&project, "&session=more").await.run("cat /workspace/work").await, "mine\r\n");
        let leftovers = doctor(&server, "leftovers");
        assert!(leftovers[0].starts_with("ok none"), "{leftovers:?}");

        // What doctor says is what helps.
        for project in ["lost", "busy"] {
            succeeds(&server, &["project", "create", project]);
            succeeds(&server, &["project", "rm", project]);
        }
        busy.wait().expect("it was killed");
        for path in &kept[1..] {
            fs::remove_file(path).expect("it can be moved away");
        }
        assert_eq!(doctor(&server, "orphans"), [""; 0]);
        assert_eq!(fs::read_to_string(&work).expect("the work is there"), "mine\n");
    });
}
