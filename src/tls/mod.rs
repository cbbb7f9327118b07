//! TLS at the server's side: the handshake of each connection, with the certificate that is in force.
//!
//! [`files`] reads it, [`pair`] says whether it can be used. It doesn't know what is said behind the handshake.

mod files;
mod pair;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::config::TlsFiles;
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
}

/// The certificate that clients are shown.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().expect("no writer panics").clone())
    }
}

impl Tls {
    /// Opens the files' folders and reads both: call it before root is given up.
    pub(crate) fn open(paths: &TlsFiles) -> anyhow::Result<Self> {
        let files = Files::open(paths)?;
        let (stamps, pair) = (files.stamps(), files.read()?);
        warn_of_dates(&pair, &paths.certificate);
        let current = Arc::new(Current(RwLock::new(Arc::new(pair))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS")?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            files,
            seen: Mutex::new(Seen { stamps: Some(stamps), failure: None }),
            current,
            config: Arc::new(config),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
        })
    }

    /// The folders that it reads from.
    pub(crate) fn folders(&self) -> [BorrowedFd<'_>; 2] {
        self.files.folders()
    }

    /// Says whether this process, as the user that it is by now, will be able to read renewed files.
    pub(crate) fn warn_if_unreadable(&self) {
        if let Err(error) = self.files.read() {
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
        let stream = hello.into_stream(self.config.clone()).await?;
        Ok(Opened::Tls(Box::new(stream.into())))
    }

    /// Reads the files again on SIGHUP and when they have changed, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, mut hangup: Signal, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                _ = looks.tick() => false,
                () = stop.cancelled() => return,
            };
            let tls = self.clone();
            // Files, and checks of keys that take a millisecond: not between keystrokes.
            if tokio::task::spawn_blocking(move || tls.look(asked)).await.is_err() {
                tracing::error!("the certificate is not followed any longer: restart the server to renew it");
                return;
            }
        }
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
            Ok(pair) => {
                warn_of_dates(&pair, self.files.certificate());
                *self.current.0.write().expect("no reader panics") = Arc::new(pair);
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
}

/// Whether the files can be used together; gives what is wrong with the certificate's dates, today or within `notice`.
pub(crate) fn inspect(paths: &TlsFiles, notice: Duration) -> anyhow::Result<Option<String>> {
    let pair = Files::open(paths)?.read()?;
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
