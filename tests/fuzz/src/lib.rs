//! Fuzz targets for what strangers can send: clients, cells and the programs in them, images, projects, and a server in an
//! attacker's hands.
//!
//! A target is a function of bytes that panics when a promise is broken. `main` gives it to libFuzzer (`make fuzz`), and
//! `tests/replay.rs` all of its corpus (`make test`). The server is a program and no library, so what is tried is included
//! here by its path: as it is, without the server's rest, and built in seconds with everything instrumented.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the server uses more of these modules than the targets do"
)]

#[path = "../../../src/cell/mod.rs"]
mod cell;
#[path = "../../../src/config/mod.rs"]
mod config;
#[path = "../../../sandbox/src/ids.rs"]
mod ids;
#[path = "../../../src/metrics/mod.rs"]
mod metrics;
#[path = "../../../sandbox/src/mount.rs"]
mod mount;
#[path = "../../../sandbox/src/packet.rs"]
mod packet;
#[path = "../../../src/proxy/mod.rs"]
mod proxy;
#[path = "../../../src/screen/mod.rs"]
mod screen;
#[path = "../../../src/session/mod.rs"]
mod session;
#[path = "../../../sandbox/src/storage.rs"]
mod storage;
#[path = "../../../src/stream.rs"]
mod stream;
#[path = "../../../sandbox/src/sys.rs"]
mod sys;
#[path = "../../../sandbox/src/users.rs"]
mod users;
#[path = "../../../src/watch.rs"]
mod watch;
#[path = "../../../src/wire.rs"]
mod wire;
#[path = "../../../src/ws/mod.rs"]
mod ws;

mod input;
mod targets;
mod terminal;

use sandbox::spec;

/// Panics if bytes make the code under test break a promise.
pub type Target = fn(&[u8]);

/// All targets by their names, which their corpora have too.
pub const TARGETS: [(&str, Target); 12] = [
    ("cell", terminal::cell),
    ("checkpoint", targets::checkpoint),
    ("frames", terminal::frames),
    ("image", targets::image),
    ("layer", targets::layer),
    ("packets", targets::packets),
    ("proxies", targets::proxies),
    ("request", targets::request),
    ("screen", targets::screen),
    ("settings", targets::settings),
    ("socket", targets::socket),
    ("users", targets::users),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
