//! The certificate's and the key's files, or the one that holds both. Their folders are opened while this process is root, and stay open: what lies
//! above them may be closed to the service user, and a file that is renewed is found by its name in its folder. It doesn't
//! know when to look.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat};
use rustls::sign::CertifiedKey;

use super::fetched::CERTIFICATE;
use super::pair;
use crate::config::TlsFiles;

/// Largest file in bytes: a chain of certificates is a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Both files.
pub(super) struct Files {
    certificate: Place,
    /// None where the certificate's file holds it.
    key: Option<Place>,
}

/// Where a file lies that may be another one tomorrow.
struct Place {
    /// The key that names it in the configuration.
    setting: &'static str,
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
}

/// What changes when a file does: device, inode, size, and when it was changed.
type Stamp = (u64, u64, i64, i64, u64);

/// Of both files; a file that isn't there has none.
pub(super) type Stamps = [Option<Stamp>; 2];

impl Files {
    /// Opens their folders.
    pub(super) fn open(paths: &TlsFiles) -> anyhow::Result<Self> {
        let certificate = Place::open("tls.certificate", &paths.certificate)?;
        Ok(Self { certificate, key: Some(Place::open("tls.key", &paths.key)?) })
    }

    /// One that holds both, in a folder that is open: what was fetched, and may not be there yet.
    pub(super) fn fetched(path: &Path, folder: OwnedFd) -> Self {
        let place =
            Place { setting: "the fetched certificate", path: path.to_owned(), folder, name: CERTIFICATE.into() };
        Self { certificate: place, key: None }
    }

    /// Where the certificate lies.
    pub(super) fn certificate(&self) -> &Path {
        &self.certificate.path
    }

    /// Their folders.
    pub(super) fn folders(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.certificate), self.key.as_ref()].into_iter().flatten().map(|place| place.folder.as_fd())
    }

    /// What they are now.
    pub(super) fn stamps(&self) -> Stamps {
        [Some(&self.certificate), self.key.as_ref()].map(|place| place.and_then(Place::stamp))
    }

    /// Reads both and puts them together; `None` if nothing was fetched yet.
    pub(super) fn read(&self) -> anyhow::Result<Option<CertifiedKey>> {
        let Some(key) = &self.key else { return self.read_fetched() };
        let certificates = self.certificate.read_with(pair::certificates)?;
        let pair = pair::together(certificates, key.read_with(pair::key)?);
        let pair = pair.with_context(|| format!("{} with {}", self.certificate.path.display(), key.path.display()));
        pair.map(Some)
    }

    fn read_fetched(&self) -> anyhow::Result<Option<CertifiedKey>> {
        if self.certificate.stamp().is_none() {
            return Ok(None);
        }
        self.certificate.read_with(|text| pair::together(pair::certificates(text)?, pair::key(text)?)).map(Some)
    }
}

impl Place {
    fn open(setting: &'static str, path: &Path) -> anyhow::Result<Self> {
        let open = || {
            let name = path.file_name().context("names no file")?.to_owned();
            let folder = path.parent().context("names no file")?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = openat(CWD, folder, flags, Mode::empty());
            let folder = opened.with_context(|| format!("open folder {}", folder.display()))?;
            anyhow::Ok(Self { setting, path: path.to_owned(), folder, name })
        };
        open().with_context(|| format!("{setting}: {}", path.display()))
    }

    fn stamp(&self) -> Option<Stamp> {
        let stat = statat(&self.folder, &self.name, AtFlags::empty()).ok()?;
        Some((stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime, stat.st_ctime_nsec))
    }

    /// Reads the file and makes something of it; an error names it.
    fn read_with<T>(&self, parse: fn(&[u8]) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let read = read(self.folder.as_fd(), &self.name).and_then(|text| parse(&text));
        read.with_context(|| format!("{}: {}", self.setting, self.path.display()))
    }
}

/// Reads a file in a folder.
pub(super) fn read(folder: BorrowedFd<'_>, name: &OsStr) -> anyhow::Result<Vec<u8>> {
    // Not to wait for who writes into a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(folder, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    ensure!(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file(), "is no file");
    let mut text = Vec::new();
    File::from(file).take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= FILE_BYTES_MAX, "is larger than {FILE_BYTES_MAX} bytes");
    Ok(text)
}
