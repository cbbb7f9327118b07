//! Asks the launcher. Blocking; an async caller sends a request, and waits for the descriptor before it takes the answer.

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::wire::{Answer, MESSAGE_BYTES_MAX, Progress, Request, Settings};
use crate::admission::Shortage;
use crate::freezer::Freezer;
use crate::orphans::Orphans;
use crate::packet;
use crate::spec::{LayerId, ProjectId};
use crate::usage::Usage;

/// Why the launcher didn't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cell of this project runs already, perhaps under another server: connect to it instead.
    #[error("a cell of this project is running already")]
    Running,
    /// The layer is in use.
    #[error("the layer is in use by the cell of project {0}: stop it first")]
    InUse(ProjectId),
    /// The project has no running cell.
    #[error("the project has no running cell: open a terminal of it first")]
    NoCell,
    /// The cell's memory can't be limited to so little.
    #[error("the cell uses {0} bytes of memory that can't be taken from it: end programs in it first, or stop it")]
    MemoryInUse(u64),
    /// A limit of the whole host doesn't allow it.
    #[error("{0}")]
    HostFull(Shortage),
    /// It tried and failed; nothing is left of the attempt.
    #[error("{step}: {reason}")]
    Failed {
        /// What was being done.
        step: String,
        /// Why, with a remedy where there is one.
        reason: String,
    },
    /// The launcher can't be reached, or said something that isn't in the protocol.
    #[error("the launcher is gone: {0}; restart cloister, or its service cloister-launcher if it has one")]
    Gone(#[source] io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// What came with an answer.
#[derive(Debug)]
pub enum Given {
    /// It is done, and that is all.
    Nothing,
    /// What a cell uses.
    Usage(Box<Usage>),
    /// What was left over.
    Orphans(Box<Orphans>),
    /// A cell's freezer.
    Freezer(Freezer),
}

/// A connection to the launcher.
#[derive(Debug)]
pub struct Launcher {
    socket: OwnedFd,
    /// Where the next one can be met, if this one is a service.
    service: Option<PathBuf>,
}

impl Launcher {
    /// Starts `binary` (the `cloister-launcher` program) from a sealed copy in memory, so that nothing a cell reaches can
    /// ever be the file on disk, and waits until it has prepared the folders. It ends when this connection closes.
    /// Needs root.
    pub fn spawn(binary: &Path, settings: &Settings) -> Result<Self, Error> {
        let (socket, theirs) = packet::pair()?;
        let (mut command, program) = command(binary, theirs)?;
        command.spawn().map_err(|error| not_started(error.to_string()))?;
        // It has the launcher's end of the connection too, and nobody would hear that the launcher has closed it.
        drop((command, program));
        let mut launcher = Self { socket, service: None };
        // Not on its command line: the cells' inits are forks of it, and a cell can read the command line of its pid 1.
        packet::send_json(&launcher.socket, settings, &[])?;
        launcher.answer()?;
        Ok(launcher)
    }

    /// Becomes the launcher: this process goes on as `binary` does, for the service user and root, as they connect to the
    /// `listener` (SOCK_SEQPACKET). Returns only if that doesn't work.
    pub fn become_service(binary: &Path, settings: &Settings, listener: &OwnedFd) -> Error {
        let become_it = || -> Result<Infallible, Error> {
            let (ours, theirs) = packet::pair()?;
            packet::send_json(&ours, settings, &[listener.as_fd()])?;
            let (mut command, _program) = command(binary, theirs)?;
            Err(not_started(command.exec().to_string()))
        };
        match become_it() {
            Err(error) => error,
        }
    }

    /// Connects to a launcher that runs as a service behind this socket, and waits until it is prepared.
    pub fn connect(service: &Path) -> Result<Self, Error> {
        let mut launcher = Self::knock(service.to_owned())?;
        launcher.answer()?;
        Ok(launcher)
    }

    /// Connects to the launcher that follows this one; `None` if that takes whoever started it. It is prepared when the first
    /// [`Self::answer`] comes.
    pub fn follower(&self) -> Option<io::Result<Self>> {
        self.service.clone().map(Self::knock)
    }

    fn knock(service: PathBuf) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for way in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, way, Some(SERVICE_WAIT))?;
        }
        connect(&socket, &SocketAddrUnix::new(&service)?)?;
        Ok(Self { socket, service: Some(service) })
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
        self.answer().map(drop)
    }

    /// Sends a request that carries no descriptors. Who sends it has had the answer to the last one, so there is room.
    pub fn send(&mut self, request: &Request) -> Result<(), Error> {
        Ok(packet::send_json(&self.socket, request, &[])?)
    }

    /// Waits for the answer to what was sent; the descriptor becomes readable when it is there.
    pub fn answer(&mut self) -> Result<Given, Error> {
        match packet::receive_json(&self.socket, MESSAGE_BYTES_MAX)? {
            Some((Answer::Done, _)) => Ok(Given::Nothing),
            Some((Answer::Freezer { files }, descriptors)) => {
                Ok(Freezer::new(files, descriptors).map_or(Given::Nothing, Given::Freezer))
            }
            Some((Answer::Usage(usage), _)) => Ok(Given::Usage(usage)),
            Some((Answer::Orphans(orphans), _)) => Ok(Given::Orphans(orphans)),
            Some((Answer::NoCell, _)) => Err(Error::NoCell),
            Some((Answer::MemoryInUse { bytes }, _)) => Err(Error::MemoryInUse(bytes)),
            Some((Answer::HostFull(shortage), _)) => Err(Error::HostFull(shortage)),
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

/// How long a launcher that runs as a service may take to let one in, and to answer.
const SERVICE_WAIT: Duration = Duration::from_secs(30);

/// The launcher's program as a command, with its end of a connection; and the sealed copy of it, to be kept until it is executed.
fn command(binary: &Path, connection: OwnedFd) -> Result<(Command, OwnedFd), Error> {
    let program = sealed_copy(binary).map_err(|error| not_started(format!("{}: {error}", binary.display())))?;
    // Standard input carries the socket: the one descriptor that a new program surely keeps.
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0("cloister-launcher").env_clear().current_dir("/").stdin(Stdio::from(connection)).stdout(Stdio::null());
    Ok((command, program))
}

fn not_started(reason: String) -> Error {
    Error::Failed { step: "start the launcher".to_owned(), reason }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Leeway;
    use crate::spec::HostLimits;

    #[test]
    fn a_launcher_that_ends_without_an_answer_is_not_waited_for() {
        let settings = Settings {
            state: "/nonexistent".into(),
            projects: "/nonexistent".into(),
            run_dir: "/nonexistent".into(),
            cgroup: "none".to_owned(),
            enforce_quota: false,
            uid: 0,
            gid: 0,
            host: HostLimits::default(),
            policy: Leeway::default(),
        };
        let spawned = Launcher::spawn(Path::new("/bin/false"), &settings);
        assert!(matches!(spawned, Err(Error::Gone(_))), "{spawned:?}");
    }
}
