//! Cells in which nothing happens, where the kernel has only version 2 of cgroups, with all its controllers.

use std::time::{Duration, Instant};

use serde_json::json;

use super::held;
use super::limits::told;
use crate::guest::Guest;
use crate::harness::Server;

/// What the project has.
const TIMES: &str = "idle_freeze_s = 3\nidle_stop_s = 60\n";

/// Its cell's group.
const GROUP: &str = "/sys/fs/cgroup/cloister.slice/cloister-cells.service/idle";

/// What is written, so that the kernel may forget it.
const WRITE: &[u8] = b"head -c 64M /dev/zero >big; sync; cat big >/dev/null; echo wr''itten\r";

/// Leaves one alone, and types in it.
pub(crate) async fn rest(server: &Server, guest: &mut Guest) {
    guest.run("cloister doctor | grep --quiet '^ok .*idle cells .*frozen after 30 min, never stopped'");
    guest.run("cloister project create idle");
    guest.run(&format!("printf '{}' >/var/lib/cloister/projects/idle/project.toml", TIMES.replace('\n', "\\n")));
    let mut wire = server.wire("idle").await;
    wire.attach(1, "main", json!({})).await;
    wire.expect(1, "$ ").await;
    wire.input(1, 0, WRITE).await;
    wire.expect(1, "written\r\n").await;
    let before = memory(guest);
    told(&mut wire, "frozen").await;
    guest.run(&format!("grep --quiet 'frozen 1' {GROUP}/cgroup.events"));
    guest.until(&format!("[ $(cat {GROUP}/memory.current) -lt {} ]", before - (32 << 20)));
    let why = guest.run("cloister project why idle");
    assert!(why.starts_with("idle is frozen, since ") && why.contains("stopped in "), "{why}");
    let began = Instant::now();
    wire.input(1, WRITE.len() as u64, b"x").await;
    wire.expect(1, "x").await;
    let echo = began.elapsed();
    let taken = (before - memory(guest).min(before)) >> 20;
    told(&mut wire, "frozen").await;
    told(&mut wire, "idle_stop").await;
    told(&mut wire, "exited").await;
    guest.until("cloister project why idle | grep --quiet 'is stopped, since .*: nothing happened in it for 1 min'");
    held(format!(
        "a cell in which nothing happens is frozen, {taken} MiB of its cache are given back, the first key shows after {echo:?} \
         (on an emulated processor); it is stopped later, and why is said"
    ));
    assert!(echo < Duration::from_secs(5), "{echo:?}");
}

fn memory(guest: &mut Guest) -> u64 {
    guest.run(&format!("cat {GROUP}/memory.current")).trim().parse().expect("a number")
}
