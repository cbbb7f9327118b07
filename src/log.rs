//! Where this process's log goes, and as what: lines for people, JSON for collectors, or entries with fields in the journal, if
//! standard error leads there. It knows nothing of what is logged.

use std::io::{IsTerminal, stderr};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::Context;
use rustix::io::{fcntl_dupfd_cloexec, ioctl_fionbio};
use rustix::net::{SocketType, sockopt};
use tracing::Subscriber;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::LogFormat;
use crate::traces::Export;

/// What begins the names of our fields in the journal, which has others of its own.
const FIELD_PREFIX: &str = "CLOISTER";

/// Begins to log from `level` on, or as `CLOISTER_LOG` says (the syntax of tracing-subscriber's `EnvFilter`), and to trace, which
/// doesn't depend on what is logged. Call it once.
pub(crate) fn start(level: &str, format: LogFormat, traces: Option<&Export>) -> anyhow::Result<()> {
    let filter = EnvFilter::new(std::env::var("CLOISTER_LOG").unwrap_or_else(|_| level.to_owned()));
    let missing = match traces {
        None => {
            let (output, missing) = output(format)?;
            tracing_subscriber::registry().with(filter).with(output).init();
            missing
        }
        Some(traces) => {
            let (output, missing) = output(format)?;
            tracing_subscriber::registry().with(output.with_filter(filter)).with(traces.layer()).init();
            missing
        }
    };
    if let Some(error) = missing {
        tracing::warn!(%error, "the journal can't be reached but by lines on standard error");
    }
    Ok(())
}

/// Where lines or entries go; and why not to the journal, if they should.
fn output<S>(format: LogFormat) -> anyhow::Result<(Box<dyn Layer<S> + Send + Sync>, Option<std::io::Error>)>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let (journal, missing) = match format {
        LogFormat::Journal => (Some(journal().context("log to the journal: choose another log_format")?), None),
        LogFormat::Auto if leads_to_journal() => match journal() {
            Ok(journal) => (Some(journal), None),
            Err(error) => (None, Some(error)),
        },
        _ => (None, None),
    };
    let output = match journal {
        Some(journal) => journal.boxed(),
        None if format == LogFormat::Json => fmt::layer().with_writer(stderr).json().flatten_event(true).boxed(),
        None => fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).boxed(),
    };
    Ok((output, missing))
}

/// The journal's own priorities, as `journalctl -p` knows them: info is no notice.
fn journal() -> std::io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
        ..PriorityMappings::new()
    };
    let socket = next_descriptor()?;
    let layer = tracing_journald::layer()?;
    let patient = unblock(socket);
    patient.map_err(|error| std::io::Error::new(error.kind(), format!("keep from waiting for it: {error}")))?;
    Ok(layer.with_field_prefix(Some(FIELD_PREFIX.to_owned())).with_priority_mappings(priorities))
}

/// Has a socket refuse what it has no room for. The layer's own would wait, and with it the thread that logs, all of them in
/// the end, for a journal that takes nothing any more: its disk hangs, or it was stopped. Lines are what is lost then.
fn unblock(socket: RawFd) -> std::io::Result<()> {
    // Another descriptor of the same socket; the layer doesn't give its own away.
    let socket = sandbox::duplicate(socket)?;
    if sockopt::socket_type(&socket)? != SocketType::DGRAM {
        return Err(std::io::Error::other("it isn't where it was expected"));
    }
    Ok(ioctl_fionbio(&socket, true)?)
}

/// What the next descriptor will be, of a process with one thread: the lowest that is free.
fn next_descriptor() -> std::io::Result<RawFd> {
    Ok(fcntl_dupfd_cloexec(stderr(), 0)?.as_raw_fd())
}

/// Whether standard error is the stream to the journal that a service manager has opened for it (systemd.exec(5),
/// `$JOURNAL_STREAM`): a process that inherits the variable may have been given another one.
fn leads_to_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(stderr()).is_ok_and(|file| told == format!("{}:{}", file.st_dev, file.st_ino))
}
