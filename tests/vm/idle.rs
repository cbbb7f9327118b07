//! A cell in which nothing happens, where the kernel has only version 2 of cgroups: it is frozen, and goes on with the first key.

use serde_json::json;

use super::{held, limits::told};
use crate::guest::Guest;
use crate::harness::Server;

/// Its cell's group.
const GROUP: &str = "/sys/fs/cgroup/cloister.slice/cloister-cells.service/sleepy";

/// Leaves one alone, and types.
pub(crate) async fn freeze(server: &Server, guest: &mut Guest) {
    guest.run("cloister project create sleepy");
    guest.run("echo 'idle_freeze_s = 10' >/var/lib/cloister/projects/sleepy/project.toml");
    let mut wire = server.wire("sleepy").await;
    wire.attach(1, "main", json!({})).await;
    wire.expect(1, "$ ").await;
    told(&mut wire, "frozen").await;
    let work = format!("grep --quiet 'frozen 1' {GROUP}/cgroup.events && grep usage_usec {GROUP}/cpu.stat");
    let before = guest.run(&work);
    let why = guest.run("cloister project why sleepy");
    assert!(why.contains("sleepy is frozen"), "{why}");
    assert_eq!(guest.run(&format!("sleep 2; {work}")), before, "nothing of it runs");
    wire.input(1, 0, b"echo go''es on\r").await;
    wire.expect(1, "goes on\r\n").await;
    guest.run(&format!("grep --quiet 'frozen 0' {GROUP}/cgroup.events && cloister project stop sleepy"));
    held("an idle cell is frozen, project why says so, nothing of it runs, and its first key has it go on");
}
