//! `cloister acme`: the process that fetches the server's certificate and renews it (RFC 8555), in the server's place, which connects to
//! nobody. `serve` starts it, in the folder where it keeps things, and it ends with that.
//!
//! [`order`] is one certificate from the first request to the last, [`http`] how requests are sent, [`shelf`] what is kept. It listens
//! nowhere: what an authority wants to see at the server's port is a file that the server shows.

mod http;
mod order;
mod shelf;

use std::io::{BufRead, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::pki_types::CertificateDer;
use sandbox::confine::{Reach, confine};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::client::Address;
use crate::log;
use crate::tls::certificates;
use crate::tls::fetched::{Failure, Task, now_s};
use crate::tls::pair::{holds, names, span};
use http::Http;
use shelf::Shelf;

/// How long all of an order may take: authorities look at names from several places, one after the other.
const ORDER_WAIT: Duration = Duration::from_secs(5 * 60);

/// Pauses after the first failure of a row and, as each is twice as long as the one before, after the last ones: Let's Encrypt lets a name
/// fail five times an hour.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// How often the clock is looked at: it may have been set, and time doesn't pass for a machine that sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Longest reason, in letters: an authority's are a line or two for each name.
const REASON_LETTERS_MAX: usize = 1000;

/// Where names are looked up.
const DNS_PORT: u16 = 53;

/// Fetches and renews until the server goes.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let task = read_task().context("it is `cloister serve` that starts this")?;
    log::start("info", task.log_format, None)?;
    rustix::thread::set_name(c"cloister-acme").context("name this process")?;
    let directory = Address::parse(&task.tls.acme_directory, task.tls.acme_ca.as_deref()).context("tls.acme_ca")?;
    wall_in(&directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        // It goes when the server does, not before: these are for both.
        let heard = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let _unused = heard.into_iter().collect::<Result<Vec<_>, _>>().context("hear signals")?;
        let renewer = Renewer { http: Http::new(directory), task: Arc::new(task), shelf: Shelf };
        renewer.keep(asks()).await
    })
}

fn read_task() -> anyhow::Result<Task> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Leaves this process its folder, what looking names up takes, and connections to the authority's port: its answers are a stranger's.
fn wall_in(directory: &Address) -> anyhow::Result<()> {
    let open = |path: &std::path::Path| std::fs::File::open(path).ok();
    let folder = std::fs::File::open(".").context("open the folder to work in")?;
    // The list of name servers may be a link that leads elsewhere.
    let resolver = std::fs::canonicalize("/etc/resolv.conf").ok();
    let read: Vec<_> =
        open("/etc".as_ref()).into_iter().chain(resolver.as_ref().and_then(|path| open(path.parent()?))).collect();
    let read: Vec<_> = read.iter().map(AsFd::as_fd).collect();
    let connects = [directory.port, DNS_PORT];
    let reach =
        Reach { written: &[folder.as_fd()], read: &read, listens: None, connects: &connects, finds_names: true };
    confine(&reach).context("confine the process that fetches certificates")?;
    Ok(())
}

/// Counts what the server asks for; once the server is gone, so is this process.
fn asks() -> watch::Receiver<u64> {
    let (asked, asks) = watch::channel(0);
    std::thread::spawn(move || {
        for _line in stdin().lock().lines().map_while(Result::ok) {
            asked.send_modify(|count| *count += 1);
        }
        std::process::exit(0);
    });
    asks
}

/// Keeps a certificate that holds.
struct Renewer {
    http: Http,
    task: Arc<Task>,
    shelf: Shelf,
}

impl Renewer {
    async fn keep(&self, mut asks: watch::Receiver<u64>) -> anyhow::Result<ExitCode> {
        let mut failure = self.shelf.failure();
        // A server that starts again and again doesn't ask an authority as often.
        let mut pause = PAUSE_MIN;
        loop {
            let now_s = now_s();
            // A clock that was set back would have made it longer.
            let paused_s = failure.as_ref().filter(|failure| failure.last_s <= now_s);
            let paused_s = paused_s.map_or(0, |failure| failure.last_s + pause.as_secs());
            let due_s = self.shelf.certificate().map_or(0, |certificate| self.due_s(&certificate));
            let wait = Duration::from_secs(due_s.max(paused_s).saturating_sub(now_s));
            if !wait.is_zero() {
                tokio::select! {
                    () = sleep(wait.min(LOOK_EVERY)) => {}
                    asked = asks.changed() => {
                        asked.context("the server is gone")?;
                        pause = Duration::ZERO;
                    }
                }
                continue;
            }
            match self.fetch().await {
                Ok(()) => failure = None,
                Err(error) => {
                    let (failed, next) = failed(failure.take(), &format!("{error:#}"));
                    // First, for who asks `cloister doctor` on what the log says.
                    warn(self.shelf.keep_failure(&failed));
                    self.tell(&failed, next);
                    (failure, pause) = (Some(failed), next);
                }
            }
        }
    }

    /// When a certificate is to be renewed, in seconds since 1970: at once if it isn't for these names, else when two thirds of its time
    /// are over, which leaves a month of three for what may be in the way.
    fn due_s(&self, certificate: &CertificateDer<'_>) -> u64 {
        let mut wanted = self.task.tls.acme_domains.clone();
        wanted.sort();
        let holds = holds(certificate).filter(|_| names(certificate) == wanted);
        holds.map_or(0, |holds| holds.end - (holds.end - holds.start) / 3)
    }

    /// Fetches a certificate, puts it where the server finds it, and says so.
    async fn fetch(&self) -> anyhow::Result<()> {
        let (http, task) = (self.http.clone(), self.task.clone());
        // What goes wrong in there, however it does, is a try that failed.
        let fetching = tokio::spawn(async move {
            let fetching = timeout(ORDER_WAIT, order::fetch(&http, &task.tls, &Shelf));
            fetching.await.unwrap_or_else(|_| bail!("no certificate within {} s", ORDER_WAIT.as_secs()))
        });
        let pair = fetching.await.unwrap_or_else(|error| bail!("{error}"));
        warn(self.shelf.forget_challenges(&self.task.tls.acme_domains));
        let pair = pair?;
        let chain = certificates(pair.as_bytes())?;
        ensure!(
            chain.first().is_some_and(|certificate| self.due_s(certificate) > now_s()),
            "the authority's certificate is for other names, or is to be renewed already: is this machine's clock right?"
        );
        self.shelf.keep_certificate(&pair)?;
        warn(self.shelf.forget_failure());
        tracing::info!("a certificate for {} was fetched from {}", self.names(), self.task.tls.acme_directory);
        stdout().write_all(b"\n").and_then(|()| stdout().flush()).context("tell the server")
    }

    fn tell(&self, failed: &Failure, pause: Duration) {
        tracing::error!(
            tries = failed.tries,
            "no certificate for {} could be fetched, the next try is in {} min: {}",
            self.names(),
            pause.as_secs() / 60,
            failed.reason
        );
        if let Some(end) = self.shelf.certificate().as_ref().and_then(holds).map(|holds| holds.end)
            && let left_s @ 1.. = end.saturating_sub(now_s())
        {
            tracing::warn!("the one that is there holds for {} more", span(left_s));
        }
    }

    fn names(&self) -> String {
        self.task.tls.acme_domains.join(", ")
    }
}

/// Says what went wrong beside a try, which it is no failure of.
fn warn(done: anyhow::Result<()>) {
    if let Err(error) = done {
        tracing::warn!("{error:#}");
    }
}

/// One more failure of a row, and how long to pause. Some of the reason is a stranger's words.
fn failed(before: Option<Failure>, reason: &str) -> (Failure, Duration) {
    let reason = reason.escape_debug().take(REASON_LETTERS_MAX).collect();
    let last_s = now_s();
    let (since_s, tries) = before.map_or((last_s, 0), |failure| (failure.since_s, failure.tries));
    let pause = PAUSE_MIN.saturating_mul(1 << tries.min(16)).min(PAUSE_MAX);
    (Failure { since_s, last_s, tries: tries.saturating_add(1), reason }, pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let mut failure = None;
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                let (failed, pause) = failed(failure.take(), "\u{1b}");
                failure = Some(failed);
                pause.as_secs() / 60
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let failure = failure.unwrap();
        assert_eq!((failure.tries, failure.reason.as_str()), (9, "\\u{1b}"));
    }
}
