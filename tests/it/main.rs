//! Everything end to end: the real binary, real cells, real sockets. Needs root and the default runner image
//! (`scripts/build-image`); without them a test says that it is skipped, in CI (`CI` set) it fails.

#[cfg(feature = "acme")]
mod acme;
mod adapters;
mod attach;
mod browser;
mod command;
mod disk;
mod doctor;
mod endure;
mod escape;
mod forged;
mod harness;
mod host;
mod hostile;
mod housekeeping;
mod http;
mod idle;
mod images;
mod limits;
mod living;
mod logs;
mod lost;
mod metrics;
mod multi;
mod notices;
mod policy;
mod proxies;
mod pty;
mod record;
mod rootless;
mod service;
mod stock;
mod terminal;
mod tls;
mod top;
#[cfg(feature = "otel")]
mod traces;
mod work;
