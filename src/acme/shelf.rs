//! What is kept in the folder that this process works in, by the names of `tls::fetched`: readable for its user alone, and each file whole
//! or not there.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::tls::certificates;
use crate::tls::fetched::{ACCOUNT, CERTIFICATE, FAILURE, Failure, SERVED, challenge};

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The present folder.
pub(super) struct Shelf;

impl Shelf {
    /// The certificate that is there, if it can be read.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        let text = read(&served(CERTIFICATE)).ok().flatten()?;
        certificates(&text).ok()?.into_iter().next()
    }

    /// Keeps a certificate, as PEM with its key.
    pub(super) fn keep_certificate(&self, pair: &str) -> anyhow::Result<()> {
        write(&served(CERTIFICATE), pair.as_bytes())
    }

    /// Keeps what the server is to show to whom looks whether a name is ours.
    pub(super) fn keep_challenge(&self, name: &str, pair: &str) -> anyhow::Result<()> {
        write(&served(&challenge(name)), pair.as_bytes())
    }

    /// Removes those of an order that has ended.
    pub(super) fn forget_challenges(&self, names: &[String]) -> anyhow::Result<()> {
        names.iter().try_for_each(|name| remove(&served(&challenge(name))))
    }

    /// The account at the authority, if there is one.
    pub(super) fn account<T: DeserializeOwned>(&self) -> anyhow::Result<Option<T>> {
        let Some(text) = read(ACCOUNT.as_ref())? else { return Ok(None) };
        serde_json::from_slice(&text).with_context(|| format!("{ACCOUNT} is broken: remove it for a new account"))
    }

    /// Keeps an account.
    pub(super) fn keep_account(&self, account: &impl Serialize) -> anyhow::Result<()> {
        write(ACCOUNT.as_ref(), &serde_json::to_vec(account)?)
    }

    /// Forgets an account that the authority doesn't know.
    pub(super) fn forget_account(&self) -> anyhow::Result<()> {
        remove(ACCOUNT.as_ref())
    }

    /// What went wrong the last time.
    pub(super) fn failure(&self) -> Option<Failure> {
        serde_json::from_slice(&read(FAILURE.as_ref()).ok().flatten()?).ok()
    }

    /// Keeps what went wrong.
    pub(super) fn keep_failure(&self, failure: &Failure) -> anyhow::Result<()> {
        write(FAILURE.as_ref(), &serde_json::to_vec(failure)?)
    }

    /// Forgets it.
    pub(super) fn forget_failure(&self) -> anyhow::Result<()> {
        remove(FAILURE.as_ref())
    }
}

fn served(name: &str) -> PathBuf {
    Path::new(SERVED).join(name)
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("read {}", path.display()))?,
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).with_context(|| format!("read {}", path.display()))?;
    ensure!(text.len() as u64 <= FILE_BYTES_MAX, "{} is larger than {FILE_BYTES_MAX} bytes", path.display());
    Ok(Some(text))
}

fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        remove(&temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        anyhow::Ok(std::fs::rename(&temporary, path)?)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
