//! What is left by crashes, power cuts and foreign hands: what goes by itself, what stays, and who is told.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::certificate::Certificate;
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
        let kept = [state.join("disks/lost.ext4"), state.join("cells/notes"), state.join("layers/readme")];
        removable.iter().chain(&kept).for_each(|path| plant(path));
        std::os::unix::fs::symlink("4711", state.join("ids/lost")).expect("a link is made");

        let found =
            "1 dead cell, 1 cgroup without a cell, 1 socket without a cell, 1 half unpacked layer, 1 half made disk";
        assert_eq!(doctor(&server, "leftovers"), [format!("lacks {found}")]);
        let orphans = doctor(&server, "orphans").join("\n");
        for says in ["has no project: lost", "isn't Cloister's: cells/notes, layers/readme", "cell isn't known: busy"] {
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

#[test]
fn groups_within_a_foreign_group_keep_nothing_from_starting_and_what_runs_there_runs_on() {
    let Some(mut server) = Server::start_apart(Settings::default()) else { return };
    block_on(async {
        let mut busy = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep runs");
        for group in server.groups("foreign") {
            fs::create_dir_all(group.join("inner")).expect("groups are made");
            fs::write(group.join("inner/cgroup.procs"), busy.id().to_string()).expect("a process enters the group");
        }
        let restarted = async |server: &mut Server| {
            server.signal(Signal::KILL);
            server.ended();
            server.restart();
            assert_eq!(server.prompt("other", "").await.run("echo there").await, "there\r\n");
        };
        restarted(&mut server).await;
        server.logged("foreign: processes run").await;
        assert_eq!(busy.try_wait().expect("it is our child"), None, "what runs isn't killed");
        busy.kill().expect("it runs");
        busy.wait().expect("it ends");
        for _ in 0..2 {
            restarted(&mut server).await;
        }
        for group in server.groups("foreign") {
            fs::remove_dir(group.join("inner")).expect("it is still there");
            fs::remove_dir(group).expect("it is empty");
        }
    });
}

#[test]
fn doctor_covers_limits_of_the_host_images_and_the_certificate() {
    let certificate = Certificate::make();
    let config = certificate.config() + "host.cells_max = 1\nhost.memory_percent_max = 1000\n";
    let Some(server) = Server::start_apart(Settings { config, ..Settings::default() }) else { return };
    assert_eq!(doctor(&server, "cells"), ["ok 0 of 1 run"]);
    let project = server.project_with("[limits]\nmemory_bytes_max = 536_870_912\n");
    let mut command = server.command(&["run", &project, "--", "sh", "-c", "echo here; cat"]);
    let mut cell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cloister runs");
    let said = BufReader::new(cell.stdout.take().expect("it is piped")).lines().next();
    assert_eq!(said.expect("it says something").expect("it can be read").trim_end(), "here");
    assert_eq!(
        doctor(&server, "cells"),
        ["lacks 1 run, and host.cells_max is 1: no other one starts"],
        "before anybody runs into it"
    );
    let promised = doctor(&server, "memory promised").concat();
    assert!(promised.starts_with("ok 512 of ") && promised.ends_with("; 1000 % may be"), "{promised}");
    drop(cell.stdin.take());
    cell.wait().expect("it ends");
    assert_eq!(doctor(&server, "disk reserve"), ["ok 256 MiB stay free"]);

    assert_eq!(doctor(&server, "image garbage"), ["ok none"]);
    let garbage = server.state().join("layers").join("0".repeat(64)).join("file");
    plant(&garbage);
    fs::write(&garbage, vec![b'x'; 3 << 20]).expect("it is written");
    assert_eq!(doctor(&server, "image garbage"), ["lacks 1 layers, 3 MiB, are needed by no image"]);
    succeeds(&server, &["image", "prune"]);
    assert_eq!(doctor(&server, "image garbage"), ["ok none"]);

    let of_certificate = || doctor(&server, "certificate").concat();
    certificate.renew_for(10);
    assert!(of_certificate().contains("expires in "), "{}", of_certificate());
    certificate.renew_for(90);
    assert!(of_certificate().starts_with("ok "), "{}", of_certificate());
    fs::set_permissions(certificate.key(), Permissions::from_mode(0o600)).expect("a mode");
    let unreadable = of_certificate();
    assert!(
        unreadable.starts_with("lacks the service user can't read ") && unreadable.contains("key.pem"),
        "{unreadable}"
    );
    certificate.expire();
    assert!(of_certificate().contains("lacks ") && of_certificate().contains("has expired "), "{}", of_certificate());
    let key = fs::read(certificate.key()).expect("the key is there");
    certificate.renew();
    fs::write(certificate.key(), key).expect("the key of another is there");
    let mismatch = of_certificate();
    assert!(
        mismatch.starts_with("fails ") && mismatch.contains("is not the key of the first certificate"),
        "{mismatch}"
    );
}
