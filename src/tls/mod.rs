//! TLS at the server's side: the handshake of each connection, with the certificate that is in force.
//!
//! [`files`] reads it, [`pair`] says whether it can be used; [`fetched`] is where one lies that is fetched, and [`fetcher`] the process that
//! does it. It doesn't know what is said behind the handshake.

pub(crate) mod fetched;
mod fetcher;
mod files;
pub(crate) mod pair;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::client::Address;
use crate::config::{Config, TlsFiles};
use crate::metrics::metrics;
use fetched::Task;
use fetcher::Fetcher;
use files::{Files, Stamps};
pub(crate) use pair::certificates;

/// Handshakes at once whose client has said hello: more take no more processors, but memory. Who stays silent before is
/// none of them.
const HANDSHAKES_MAX: usize = 1024;

/// How often the files are looked at: a renewal comes weeks before it is needed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a record of a handshake begins with (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// The server's half of TLS.
pub(crate) struct Tls {
    files: Files,
    /// What the files were when they were last read, and why they couldn't be used then.
    seen: Mutex<Seen>,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    handshakes: Semaphore,
    /// Who fetches the certificate, if it is fetched.
    fetcher: Option<Arc<Fetcher>>,
    /// Whether it was said that there is none to show.
    bare: AtomicBool,
}

#[derive(Default)]
struct Seen {
    stamps: Option<Stamps>,
    failure: Option<String>,
}

/// What a connection at a TLS port turned out to be.
pub(crate) enum Opened {
    /// What it should be.
    Tls(Box<TlsStream<TcpStream>>),
    /// HTTP in the clear: nothing of it was read yet.
    Http(TcpStream),
    /// An authority that has seen what it wanted.
    Challenged,
}

/// The certificate that clients are shown, if there is one yet.
#[derive(Debug)]
struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Current {
    fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().expect("no writer panics").clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

impl Tls {
    /// Opens the files' folders and reads both: call it before root is given up.
    pub(crate) fn open(paths: &TlsFiles) -> anyhow::Result<Self> {
        Self::of_files(Files::open(paths)?, None)
    }

    /// Starts the process that fetches a certificate into `folder`, and takes what is there: call it once root is given up.
    pub(crate) fn fetched(config: &Config, folder: BorrowedFd<'_>) -> anyhow::Result<Self> {
        // What is wrong with it is better told here than by the process, which is on its own.
        Address::parse(&config.tls.acme_directory, config.tls.acme_ca.as_deref()).context("tls.acme_ca")?;
        let fetcher = Fetcher::start(folder, &Task { tls: config.tls.clone(), log_format: config.log_format })?;
        let path = config.state.join(fetched::certificate(&config.tls));
        let files = Files::fetched(&path, fetcher.served().try_clone_to_owned()?);
        Self::of_files(files, Some(Arc::new(fetcher)))
    }

    fn of_files(files: Files, fetcher: Option<Arc<Fetcher>>) -> anyhow::Result<Self> {
        let stamps = files.stamps();
        let (pair, failure) = match files.read() {
            Ok(pair) => (pair, None),
            // What can't be used is fetched anew.
            Err(error) if fetcher.is_some() => {
                tracing::error!("{error:#}");
                (None, Some(format!("{error:#}")))
            }
            Err(error) => return Err(error),
        };
        match &pair {
            Some(pair) => warn_of_dates(pair, files.certificate()),
            None => tracing::warn!("there is no certificate yet: handshakes fail until one is fetched"),
        }
        let current = Arc::new(Current(RwLock::new(pair.map(Arc::new))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS")?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            files,
            seen: Mutex::new(Seen { stamps: Some(stamps), failure }),
            current,
            config: Arc::new(config),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            fetcher,
            bare: AtomicBool::new(false),
        })
    }

    /// The folders that it reads from.
    pub(crate) fn folders(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.folders()
    }

    /// Says whether this process, as the user that it is by now, will be able to read renewed files.
    pub(crate) fn warn_if_unreadable(&self) {
        if self.fetcher.is_none()
            && let Err(error) = self.files.read()
        {
            tracing::warn!(
                "a renewed certificate won't be seen until a restart, for the service user can't read it: {error:#}; \
                 give its group both files (chgrp, chmod 0640) and their folder (chmod 0750)"
            );
        }
    }

    /// Takes a connection through its handshake; who calls bounds the time.
    pub(crate) async fn handshake(&self, stream: TcpStream) -> io::Result<Opened> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match first {
            [HANDSHAKE_RECORD] => {}
            // A method's first letter.
            [byte] if byte.is_ascii_uppercase() => return Ok(Opened::Http(stream)),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "neither TLS nor HTTP")),
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let _counted = self.handshakes.acquire().await.expect("it is never closed");
        if let Some(answer) = self.answer_to(&hello.client_hello()).await? {
            hello.into_stream(answer).await?.shutdown().await?;
            return Ok(Opened::Challenged);
        }
        if self.current.get().is_none() && !self.bare.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a handshake failed, for there is no certificate yet: why is told where it couldn't be fetched"
            );
        }
        let stream = hello.into_stream(self.config.clone()).await?;
        Ok(Opened::Tls(Box::new(stream.into())))
    }

    /// How the authority is answered that looks whether a name is ours, if this is one and it is waited for.
    async fn answer_to(&self, hello: &ClientHello<'_>) -> io::Result<Option<Arc<ServerConfig>>> {
        let Some(fetcher) = &self.fetcher else { return Ok(None) };
        let Some(name) = fetcher.challenged(hello) else { return Ok(None) };
        let (fetcher, name) = (fetcher.clone(), name.to_owned());
        let answer = tokio::task::spawn_blocking(move || fetcher.answer(&name)).await?;
        answer.map_err(|error| {
            tracing::warn!("an authority that looks at this server can't be answered: {error:#}");
            io::Error::other("an authority that can't be answered")
        })
    }

    /// Reads the files again on SIGHUP, when they have changed, and when one was fetched, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, mut hangup: Signal, stop: CancellationToken) {
        self.tell_end();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut news = self.news();
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                _ = looks.tick() => false,
                ended = heard(&mut news) => {
                    if ended {
                        news = None;
                        self.tell_no_more_news();
                    }
                    false
                }
                () = stop.cancelled() => return,
            };
            if let Some(fetcher) = self.fetcher.as_ref().filter(|_| asked) {
                fetcher.ask();
            }
            let tls = self.clone();
            // Files, and checks of keys that take a millisecond: not between keystrokes.
            if tokio::task::spawn_blocking(move || tls.look(asked)).await.is_err() {
                tracing::error!("the certificate is not followed any longer: restart the server to renew it");
                return;
            }
        }
    }

    fn news(&self) -> Option<Receiver> {
        let news = self.fetcher.as_ref()?.news();
        news.inspect_err(|error| tracing::warn!("a fetched certificate is noticed some seconds later: {error:#}")).ok()
    }

    fn tell_no_more_news(&self) {
        let how = self.fetcher.as_ref().map(|fetcher| fetcher.ended());
        let how = match how {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => error.to_string(),
            None => "it was none".to_owned(),
        };
        tracing::error!(
            "the process that fetches certificates has ended ({how}): restart the server, or none is renewed"
        );
    }

    /// Reads the files if they have changed, couldn't be used the last time, or if it was `asked` for.
    fn look(&self, asked: bool) {
        let mut seen = self.seen.lock().expect("no look panics");
        // Before they are read: what changes meanwhile is read at the next look.
        let stamps = self.files.stamps();
        if !asked && seen.failure.is_none() && seen.stamps.as_ref() == Some(&stamps) {
            return;
        }
        seen.stamps = Some(stamps);
        match self.files.read() {
            Ok(None) => seen.failure = None,
            Ok(Some(pair)) => {
                warn_of_dates(&pair, self.files.certificate());
                *self.current.0.write().expect("no reader panics") = Some(Arc::new(pair));
                self.tell_end();
                seen.failure = None;
                tracing::info!("the certificate was read anew");
            }
            Err(error) => {
                let reason = format!("{error:#}");
                // Once for a row of the same.
                if asked || seen.failure.as_ref() != Some(&reason) {
                    tracing::error!("the new certificate can't be used, the old one stays: {reason}");
                }
                seen.failure = Some(reason);
            }
        }
    }

    /// Counts until when the certificate holds.
    fn tell_end(&self) {
        let shown = self.current.get();
        let holds = shown.and_then(|pair| pair::holds(pair.end_entity_cert().ok()?));
        metrics().certificate_end.set(holds.map_or(0, |holds| i64::try_from(holds.end).unwrap_or(i64::MAX)));
    }
}

/// Waits for something new; gives whether there will be nothing any more.
async fn heard(news: &mut Option<Receiver>) -> bool {
    let Some(news) = news else { return std::future::pending().await };
    // Several things at once are one.
    !matches!(news.read(&mut [0; 64]).await, Ok(1..))
}

/// Whether the files can be used together; gives what is wrong with the certificate's dates, today or within `notice`.
pub(crate) fn inspect(paths: &TlsFiles, notice: Duration) -> anyhow::Result<Option<String>> {
    let pair = Files::open(paths)?.read()?.context("there is none")?;
    Ok(pair::complaint(pair.end_entity_cert().expect("a pair has a certificate"), notice))
}

/// What is wrong with a certificate that is fetched: that it isn't there, or its dates, today or within `notice`.
pub(crate) fn inspect_fetched(path: &Path, notice: Duration) -> anyhow::Result<Option<String>> {
    let folder = path.parent().context("it has no folder")?;
    let pair = match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        folder => Files::fetched(path, folder.with_context(|| path.display().to_string())?.into()).read()?,
    };
    let Some(pair) = pair else { return Ok(Some("isn't there yet".to_owned())) };
    Ok(pair::complaint(pair.end_entity_cert().expect("a pair has a certificate"), notice))
}

/// Hears SIGHUP from now on, which would end the process otherwise.
pub(crate) fn hangup() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

fn warn_of_dates(pair: &CertifiedKey, path: &Path) {
    let certificate = pair.end_entity_cert().expect("a pair has a certificate");
    if let Some(complaint) = pair::complaint(certificate, pair::NOTICE) {
        tracing::warn!("the certificate in {} {complaint}: renew it", path.display());
    }
}
