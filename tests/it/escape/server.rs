//! What whoever takes the server over would have to work with. What its walls refuse, `sandbox::confine`'s own tests try.

use std::os::unix::fs::PermissionsExt;

use sandbox::confine::{Enforced, support};

use super::status;
use crate::harness::{Server, block_on};

#[test]
fn nobody_else_on_the_host_can_lock_what_the_launcher_or_the_server_lock() {
    let Some(server) = Server::start() else { return };
    let project = server.project();
    block_on(async { server.prompt(&project, "").await });
    let folders = ["layers", "ids", "cells", "trash"].map(|name| server.state().join(name));
    let groups = server.groups(&project).into_iter().map(|group| group.join("cgroup.freeze"));
    for place in folders.into_iter().chain(groups.filter(|file| file.exists())) {
        let mode = std::fs::metadata(&place).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o006, 0, "{}", place.display());
    }
}

#[tokio::test]
async fn every_thread_of_the_server_is_without_rights_and_behind_all_filters() {
    let Some(server) = Server::start() else { return };
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.id())).expect("the server runs");
    let threads: Vec<u32> =
        threads.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    assert!(threads.len() > 1, "the runtime has threads");
    for thread in threads {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(thread, set), "0000000000000000", "{set}");
        }
        assert_eq!(status(thread, "NoNewPrivs"), "1");
        assert_eq!(status(thread, "Seccomp"), "2");
        // The cells' default one, with rules before it that take away what only tenants need.
        assert_eq!(status(thread, "Seccomp_filters"), "1");
        assert_ne!(status(thread, "Uid").split_whitespace().next(), Some("0"));
        // Not dumpable: what lies there belongs to root.
        let memory = std::fs::metadata(format!("/proc/{thread}/mem")).expect("the thread is there");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), 0);
    }
    let expected = match support() {
        Enforced::Fully => "confined by seccomp and Landlock",
        Enforced::Partly => "and by Landlock partly",
        Enforced::Not => "not by Landlock",
    };
    server.logged(expected).await;
}
