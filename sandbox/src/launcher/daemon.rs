//! The launcher's life: prepare, then answer one request after the other until its connection closes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, wait};

use super::folders::Folders;
use super::wire::{Answer, MESSAGE_BYTES_MAX, Request, Settings};
use super::worker;
use crate::cgroup::Cgroups;
use crate::failure::{Context, Failure};
use crate::idmap::Cache;
use crate::ids;
use crate::launch::{Launched, Workshop};
use crate::namespaces::Namespaces;
use crate::packet;
use crate::privilege::conceal;
use crate::seccomp::Policy;
use crate::spec::{LayerId, ProjectId};
use crate::storage;
use crate::sys::{self, Fork};

/// Unpacks a layer: request, blob, folder of layers, and whom to tell how many bytes of the blob are read.
/// It runs in a confined worker and answers with a reason that names the entry.
pub type Unpack = fn(&str, File, OwnedFd, &mut dyn FnMut(u64)) -> Result<(), String>;

/// The launcher's `main`: standard input is the connection (see [`super::Launcher::spawn`]).
pub fn main(unpack: Unpack) -> ExitCode {
    match serve(unpack) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cloister-launcher: failed to {}: {}", failure.step, failure.reason);
            ExitCode::FAILURE
        }
    }
}

fn serve(unpack: Unpack) -> Result<(), Failure> {
    let socket = take_connection().step("take over the connection (start `cloister`, not this program)")?;
    let first = packet::receive_json::<Settings>(&socket, MESSAGE_BYTES_MAX)
        .step("read the settings (start `cloister`, not this program)")?;
    let Some((settings, _)) = first else { return Ok(()) };
    conceal().step("hide from debuggers")?;
    // Executed by descriptor, it would be called by the descriptor's number.
    rustix::thread::set_name(c"cloister-launch").step("take a name")?;
    // A hang-up or ^C at the terminal on which the command was typed is the command's to handle: it needs us to clean up.
    rustix::process::setsid().step("leave the terminal's session")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let children = block_child_signal().step("watch children")?;
    let mut workshop = match prepare(&settings) {
        Ok(workshop) => workshop,
        Err(failure) => return answer(&socket, &failed(failure)),
    };
    answer(&socket, &Answer::Done)?;
    let mut sweeper = None;
    loop {
        let mut polled =
            [PollFd::new(&socket, PollFlags::IN), PollFd::from_borrowed_fd(children.as_fd(), PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::new("wait for requests", error)),
        }
        let (asked, child) = (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
        if child {
            reap(&children, &mut sweeper);
        }
        if asked {
            let message = packet::receive_json::<Request>(&socket, MESSAGE_BYTES_MAX);
            let reply = match message {
                Ok(None) => break,
                Ok(Some((request, descriptors))) => {
                    handle(&mut workshop, unpack, request, descriptors).unwrap_or_else(failed)
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => failed(Failure::new("read a request", error)),
            };
            answer(&socket, &reply)?;
        }
        if workshop.trashed && sweeper.is_none() {
            workshop.trashed = false;
            sweeper = Some(start_sweeper(&workshop.folders)?);
            workshop.namespaces.hand_over();
        }
    }
    // What was thrown away while a sweeper was at work is the next one's, and there is no next launcher to count on.
    if workshop.trashed {
        start_sweeper(&workshop.folders)?;
    }
    Ok(())
}

/// The connection, moved away from standard input: forks keep the standard three, and shall not keep this.
fn take_connection() -> std::io::Result<OwnedFd> {
    let socket = sys::duplicate(0)?;
    let null = File::open("/dev/null")?;
    sys::replace_standard(null.as_fd(), 0)?;
    Ok(socket)
}

fn prepare(settings: &Settings) -> Result<Workshop, Failure> {
    // First, because the folders take the rest of the host, /sys/fs/cgroup included, out of sight.
    let cgroups = Cgroups::prepare(&settings.cgroup)?;
    let folders = Folders::prepare(settings)?;
    let mut workshop = Workshop {
        cgroups,
        policy: Policy::compile().step("compile the system call filters")?,
        maps: Cache::new(settings.uid, settings.gid),
        namespaces: Namespaces::default(),
        // The last launcher may not have come to the end of it.
        trashed: true,
        folders,
    };
    workshop.remove_dead()?;
    Ok(workshop)
}

fn handle(
    workshop: &mut Workshop,
    unpack: Unpack,
    request: Request,
    descriptors: Vec<OwnedFd>,
) -> Result<Answer, Failure> {
    match request {
        Request::StartCell(spec) => Ok(match workshop.launch(&spec)? {
            Launched::Started => Answer::Done,
            Launched::Running => Answer::Running,
        }),
        Request::RemoveCell { project } => workshop.remove(&project).map(|()| Answer::Done),
        Request::RemoveProject { project } => remove_project(workshop, &project),
        Request::Unpack { request } => start_worker(workshop, unpack, &request, descriptors),
        Request::RemoveLayer { layer } => remove_layer(workshop, &layer),
    }
}

/// Starts an unpack worker; it answers on the socket that came along, and the launcher forgets it.
fn start_worker(
    workshop: &Workshop,
    unpack: Unpack,
    request: &str,
    descriptors: Vec<OwnedFd>,
) -> Result<Answer, Failure> {
    let [blob, reports] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| Failure::new("start an unpack worker", "two descriptors must come with the request"))?;
    // Alone among processes too: it is the host's root without capabilities, and as such could signal root's others.
    match sys::fork(libc::CLONE_NEWPID as u64, None).step("start an unpack worker")? {
        Fork::Child => {
            let run = || worker::work(unpack, request, blob, reports, &workshop.folders.layers, &workshop.policy);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            sys::exit(0)
        }
        Fork::Parent { .. } => Ok(Answer::Done),
    }
}

/// A tenant's files may belong to any user of the cell, and only root may remove what is in a folder of another user.
fn remove_project(workshop: &mut Workshop, project: &ProjectId) -> Result<Answer, Failure> {
    workshop.remove(project)?;
    let folders = &workshop.folders;
    storage::throw_away(&folders.projects, project.as_str(), &folders.projects_trash).step("throw away the project")?;
    ids::release(folders.ids.as_fd(), project).step("give the project's host ids back")?;
    workshop.trashed = true;
    Ok(Answer::Done)
}

fn remove_layer(workshop: &mut Workshop, layer: &LayerId) -> Result<Answer, Failure> {
    let folders = &workshop.folders;
    if let Some(project) = storage::user_of_layer(&folders.cells, layer).step("look who uses the layer")? {
        return Ok(Answer::InUse { project });
    }
    storage::throw_away(&folders.layers, layer.as_str(), &folders.trash).step("throw away the layer")?;
    workshop.trashed = true;
    Ok(Answer::Done)
}

fn failed(failure: Failure) -> Answer {
    Answer::Failed { step: failure.step, reason: failure.reason }
}

fn answer(socket: &OwnedFd, answer: &Answer) -> Result<(), Failure> {
    packet::send_json(socket, answer, &[]).step("answer a request")
}

/// Turns the signal of a child's end into something that can be waited for beside the socket.
fn block_child_signal() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Lets go of every child that ended: a zombie would keep its cgroup.
fn reap(children: &SignalFd, sweeper: &mut Option<Pid>) {
    while matches!(children.read_signal(), Ok(Some(_))) {}
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        if *sweeper == Some(pid) {
            *sweeper = None;
        }
    }
}

/// Starts a process that empties the trashes, and with whose end the mounts of dead cells go; what is thrown away meanwhile
/// is the next one's.
fn start_sweeper(folders: &Folders) -> Result<Pid, Failure> {
    match sys::fork(0, None).step("start the sweeper")? {
        Fork::Child => {
            // What can't be removed stays in the trash until the next start.
            let swept = std::panic::catch_unwind(|| {
                let swept = [&folders.trash, &folders.projects_trash].map(storage::empty);
                swept.into_iter().all(|outcome| outcome.is_ok())
            });
            sys::exit(i32::from(!matches!(swept, Ok(true))))
        }
        Fork::Parent { pid, .. } => Ok(pid),
    }
}
