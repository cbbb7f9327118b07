//! Limits where the kernel has only version 2 of cgroups: each is in force, and who meets one is told.

use serde_json::json;

use super::held;
use crate::guest::Guest;
use crate::harness::{Heard, Server, Wire};

/// What the project has.
const LIMITS: &str = "[limits]\nmemory_bytes_max = 67_108_864\npids_max = 64\ncpu_millis_max = 500\ncpu_weight = 50\nio_bytes_per_s_max = 50_000_000\n";

/// Its cell's group.
const GROUP: &str = "/sys/fs/cgroup/cloister.slice/cloister-cells.service/small";

/// Meets them.
pub(crate) async fn hold(server: &Server, guest: &mut Guest) {
    guest.run("cloister project create small");
    guest.run(&format!("printf '{}' >/var/lib/cloister/projects/small/project.toml", LIMITS.replace('\n', "\\n")));
    let mut wire = server.wire("small").await;
    wire.attach(1, "main", json!({})).await;
    wire.expect(1, "$ ").await;
    let written = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "0"),
        ("pids.max", "64"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "50"),
    ];
    for (file, value) in written {
        // Not every kernel has all: a limit that could not be written would have been an error, but for swap's.
        let (status, found) = guest.try_run(&format!("cat {GROUP}/{file}"));
        assert!(found.trim() == value || (status != 0 && file == "memory.swap.max"), "{file}: {found}");
    }
    let io = guest.run(&format!("cat {GROUP}/io.max"));
    assert!(io.contains("rbps=50000000 wbps=50000000"), "{io}");

    wire.input(1, 0, b"tail /dev/zero\r").await;
    let killed = told(&mut wire, "out_of_memory").await;
    assert_eq!((&killed["limit_bytes"], &killed["victim"]), (&json!(67_108_864), &json!("tail")));
    let typed = "tail /dev/zero\r".len() as u64;
    wire.input(1, typed, b"for n in $(seq 99); do sleep 60 & done\r").await;
    assert_eq!(told(&mut wire, "out_of_pids").await["limit"], 64);
    guest.run("cloister project set small limits.pids_max=128");
    assert_eq!(guest.run(&format!("cat {GROUP}/pids.max")).trim(), "128");
    guest.run("cloister project stop small");
    assert_eq!(guest.try_run(&format!("ls {GROUP}")).0, 2, "its group goes with it");
    held(
        "limits of version 2, of disks' speed too; who runs out of memory or processes is told; they change while a cell runs",
    );
}

/// The next message of a type; what comes before it is acknowledged.
pub(crate) async fn told(wire: &mut Wire, kind: &str) -> serde_json::Value {
    loop {
        match wire.heard().await {
            Heard::Told(told) if told["type"] == kind => return told,
            Heard::Output(channel, offset, bytes) => wire.ack(channel, offset + bytes.len() as u64).await,
            Heard::Closed(code, reason) => panic!("closed with {code} {reason:?} before {kind}"),
            Heard::Gone => panic!("gone before {kind}"),
            _ => {}
        }
    }
}
