//! Asks the launcher. Blocking; an async caller sends a request, and waits for the descriptor before it takes the answer.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::wire::{Answer, MESSAGE_BYTES_MAX, Progress, Request, Settings};
use crate::packet;
use crate::spec::{LayerId, ProjectId};

/// Why the launcher didn't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cell of this project runs already, perhaps under another server: connect to it instead.
    #[error("a cell of this project is running already")]
    Running,
    /// The layer is in use.
    #[error("the layer is in use by the cell of project {0}: stop it first")]
    InUse(ProjectId),
    /// It tried and failed; nothing is left of the attempt.
    #[error("{step}: {reason}")]
    Failed {
        /// What was being done.
        step: String,
        /// Why, with a remedy where there is one.
        reason: String,
    },
    /// The launcher can't be reached, or said something that isn't in the protocol.
    #[error("the launcher is gone: {0}; restart cloister")]
    Gone(#[source] io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// A connection to the launcher.
#[derive(Debug)]
pub struct Launcher {
    socket: OwnedFd,
}

impl Launcher {
    /// Starts `binary` (the `cloister-launcher` program) from a sealed copy in memory, so that nothing a cell reaches can
    /// ever be the file on disk, and waits until it has prepared the folders. It ends when this connection closes.
    /// Needs root.
    pub fn spawn(binary: &Path, settings: &Settings) -> Result<Self, Error> {
        let failed = |reason: String| Error::Failed { step: "start the launcher".to_owned(), reason };
        let program = sealed_copy(binary).map_err(|error| failed(format!("{}: {error}", binary.display())))?;
        let (socket, theirs) = packet::pair()?;
        // Standard input carries the socket: the one descriptor that a new program surely keeps.
        Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("cloister-launcher")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut launcher = Self { socket };
        // Not on its command line: the cells' inits are forks of it, and a cell can read the command line of its pid 1.
        packet::send_json(&launcher.socket, settings, &[])?;
        launcher.answer()?;
        Ok(launcher)
    }

    /// Removes an unpacked layer. One that isn't there is removed already.
    pub fn remove_layer(&mut self, layer: &LayerId) -> Result<(), Error> {
        self.ask(&Request::RemoveLayer { layer: layer.clone() }, &[])
    }

    /// Has a confined worker unpack `blob` by `request` (for the unpacking function, opaque here), and waits for it.
    /// `progress` is told how many bytes of the blob are read so far.
    pub fn unpack(
        &mut self,
        request: String,
        blob: BorrowedFd<'_>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Error> {
        let (reports, theirs) = packet::pair()?;
        self.ask(&Request::Unpack { request }, &[blob, theirs.as_fd()])?;
        drop(theirs);
        let failed = |reason: String| Err(Error::Failed { step: "unpack a layer".to_owned(), reason });
        loop {
            match packet::receive_json(&reports, MESSAGE_BYTES_MAX)? {
                Some((Progress::Read { bytes }, _)) => progress(bytes),
                Some((Progress::Unpacked, _)) => return Ok(()),
                Some((Progress::Failed { reason }, _)) => return failed(reason),
                None => return failed("the worker was killed; is there enough memory?".to_owned()),
            }
        }
    }

    fn ask(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        packet::send_json(&self.socket, request, descriptors)?;
        self.answer()
    }

    /// Sends a request that carries no descriptors. Who sends it has had the answer to the last one, so there is room.
    pub fn send(&mut self, request: &Request) -> Result<(), Error> {
        Ok(packet::send_json(&self.socket, request, &[])?)
    }

    /// Waits for the answer to what was sent; the descriptor becomes readable when it is there.
    pub fn answer(&mut self) -> Result<(), Error> {
        match packet::receive_json(&self.socket, MESSAGE_BYTES_MAX)? {
            Some((Answer::Done, _)) => Ok(()),
            Some((Answer::Running, _)) => Err(Error::Running),
            Some((Answer::InUse { project }, _)) => Err(Error::InUse(project)),
            Some((Answer::Failed { step, reason }, _)) => Err(Error::Failed { step, reason }),
            None => Err(Error::Gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl AsFd for Launcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Launcher {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// How often sealing is tried. The kernel refuses, after having waited 150 ms itself, while it still holds a page of what was
/// just written, as it may on a loaded machine.
const SEAL_TRIES_MAX: u32 = 20;

/// A copy of a program in memory that nobody can change any more.
fn sealed_copy(binary: &Path) -> io::Result<OwnedFd> {
    let copy = memfd_create(c"cloister-launcher", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(copy);
    io::copy(&mut std::fs::File::open(binary)?, &mut file)?;
    file.flush()?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    for _ in 1..SEAL_TRIES_MAX {
        match fcntl(&file, FcntlArg::F_ADD_SEALS(seals)) {
            Err(nix::errno::Errno::EBUSY) => {}
            sealed => return Ok(sealed.map(|_| file.into())?),
        }
    }
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}
