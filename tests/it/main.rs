//! Everything end to end: the real binary, real cells, real sockets. Needs root and the default runner image
//! (`scripts/build-image`); without them a test says that it is skipped, in CI (`CI` set) it fails.

mod adapters;
mod attach;
mod browser;
mod command;
mod doctor;
mod escape;
mod harness;
mod hostile;
mod http;
mod images;
mod living;
mod lost;
mod multi;
mod notices;
mod pty;
mod record;
mod stock;
mod terminal;
