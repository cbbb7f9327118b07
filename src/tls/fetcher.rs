//! The process that fetches the certificate, as the server sees it: it is started before the server walls itself in, hears from it
//! when something new lies in the folder that both know, and ends with it.
//!
//! The server itself connects to nobody and looks no name up: whoever takes it over can't either.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::unix::pipe::Receiver;

use super::fetched::{self, SERVED, Task};
use super::{files, pair};

/// What an authority speaks that looks whether a name is ours (RFC 8737).
const PROTOCOL: &[u8] = b"acme-tls/1";

/// A process that fetches.
pub(super) struct Fetcher {
    names: Vec<String>,
    served: OwnedFd,
    process: Mutex<Child>,
    asks: ChildStdin,
    news: Mutex<Option<ChildStdout>>,
}

impl Fetcher {
    /// Starts it for the user that this process is; `folder` is where it works.
    pub(super) fn start(folder: BorrowedFd<'_>, task: &Task) -> anyhow::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let served = openat(folder, SERVED, flags, Mode::empty()).context("open the folder of what is served")?;
        let start = || {
            // By descriptors, since what lies above either may be closed to this user.
            let mut process = Command::new("/proc/self/exe")
                .arg("acme")
                .current_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut asks = process.stdin.take().expect("it is piped");
            let news = process.stdout.take();
            writeln!(asks, "{}", serde_json::to_string(task)?)?;
            anyhow::Ok((process, asks, news))
        };
        let (process, asks, news) = start().context("start the process that fetches certificates")?;
        Ok(Self {
            names: task.tls.acme_domains.clone(),
            served,
            process: Mutex::new(process),
            asks,
            news: Mutex::new(news),
        })
    }

    /// The folder of what it has for the server.
    pub(super) fn served(&self) -> BorrowedFd<'_> {
        self.served.as_fd()
    }

    /// Has it try at once what it failed to do.
    pub(super) fn ask(&self) {
        // That it has ended was told.
        let _unheard = (&self.asks).write_all(b"\n");
    }

    /// What it has to say: a byte for every new thing, until it ends. Call it once, where the runtime is.
    pub(super) fn news(&self) -> anyhow::Result<Receiver> {
        let news = self.news.lock().expect("no holder panics").take().context("somebody else listens")?;
        Ok(Receiver::from_owned_fd(news.into())?)
    }

    /// How it ended, once it has.
    pub(super) fn ended(&self) -> std::io::Result<ExitStatus> {
        self.process.lock().expect("no holder panics").wait()
    }

    /// The name of ours that an authority is about to look at, if that is what a client wants.
    pub(super) fn challenged(&self, hello: &ClientHello<'_>) -> Option<&str> {
        if !hello.alpn()?.eq([PROTOCOL]) {
            return None;
        }
        let asked = hello.server_name()?;
        self.names.iter().find(|name| name.eq_ignore_ascii_case(asked)).map(String::as_str)
    }

    /// How that authority is answered; `None` if it isn't waited for.
    pub(super) fn answer(&self, name: &str) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        let text = match files::read(self.served.as_fd(), OsStr::new(&fetched::challenge(name))) {
            Err(error) if error.downcast_ref() == Some(&Errno::NOENT) => return Ok(None),
            text => text?,
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        // Not compared, as others are: what it says to authorities is of a kind that the checks refuse to know.
        let key = provider.key_provider.load_private_key(pair::key(&text)?)?;
        let shown = CertifiedKey::new(pair::certificates(&text)?, key);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Some(Arc::new(config)))
    }
}
