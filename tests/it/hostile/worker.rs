//! What an archive would find if it took over the worker that unpacks it.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::layout::{Layer, alone};
use crate::harness::{DEADLINE, Server};

/// The capabilities CHOWN, DAC_OVERRIDE and FOWNER.
const CAPABILITIES: &str = "000000000000000b";

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn field(status: &str, name: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

#[test]
fn the_unpack_worker_sees_the_folder_of_layers_and_nothing_else() {
    let Some(server) = Server::start() else { return };
    let name = server.project();
    // Enough to be seen at work.
    let mut layer = Layer::new().file("mark", 0o644, name.as_bytes());
    for number in 0..4_000 {
        layer = layer.file(&format!("{number}"), 0o644, b"x");
    }
    let layout = alone(layer, json!({}));
    let path = layout.path().to_str().expect("test folders are UTF-8").to_owned();
    let mut command = server.command(&["image", "import", &path, "--name", &name]);
    let mut import = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("cloister runs");
    let by = Instant::now() + DEADLINE;
    let seen = 'looking: loop {
        assert!(Instant::now() < by, "no worker was seen");
        assert!(import.try_wait().expect("it is our child").is_none(), "it was over before it was seen");
        for worker in children(import.id()).into_iter().flat_map(children) {
            let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
            // From its last step of confinement on.
            if status.contains("Seccomp:\t2") {
                break 'looking (worker, status);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let (worker, status) = seen;
    let link = |path: String| fs::read_link(path).expect("the worker is there");
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(field(&status, name), CAPABILITIES, "{name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(field(&status, name), "0000000000000000", "{name}");
    }
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "NSpid").split_whitespace().nth(1), Some("1"), "it is alone among processes");
    for namespace in ["mnt", "net", "ipc", "pid"] {
        let (its, ours) = (link(format!("/proc/{worker}/ns/{namespace}")), link(format!("/proc/self/ns/{namespace}")));
        assert_ne!(its, ours, "{namespace}");
    }
    let root: Vec<_> = fs::read_dir(format!("/proc/{worker}/root")).expect("the worker is there").collect();
    let named = |name: &str| ["etc", "proc", "usr"].contains(&name);
    assert!(!root.is_empty());
    assert!(!root.into_iter().any(|entry| named(&entry.expect("an entry").file_name().to_string_lossy())));
    let mounts = fs::read_to_string(format!("/proc/{worker}/mountinfo")).expect("the worker is there");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let output = import.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let removed = server.command(&["image", "rm", &name]).output().expect("cloister runs");
    assert!(removed.status.success(), "{removed:?}");
}
