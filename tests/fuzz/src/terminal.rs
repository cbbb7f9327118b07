//! The parts of a terminal's address that speak with a client, and the targets that need them.

#[path = "../../../src/api/terminal/alis.rs"]
mod alis;
#[path = "../../../src/api/terminal/dialect.rs"]
mod dialect;
#[path = "../../../src/api/terminal/hold.rs"]
mod hold;
#[path = "../../../src/api/terminal/kubernetes.rs"]
mod kubernetes;
#[path = "../../../src/api/terminal/plain.rs"]
mod plain;
#[path = "../../../src/api/terminal/ttyd.rs"]
mod ttyd;

mod frames;
mod hostile;

pub(crate) use frames::frames;
pub(crate) use hostile::cell;
