//! The launcher's life: prepare, then answer one request after the other until nobody is left who could ask.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use caps::Capability;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{getpid, getsid, setsid};
use rustix::process::{Pid, WaitOptions, wait};

use super::clients::{Clients, Waited};
use super::folders::Folders;
use super::wire::{Answer, MESSAGE_BYTES_MAX, Request, Settings};
use super::worker;
use crate::admission::Admission;
use crate::cgroup::{Cgroups, Changed};
use crate::disk;
use crate::failure::{Context, Failure};
use crate::idmap::Cache;
use crate::ids::{self, SubordinateIds};
use crate::kernel_log::KernelLog;
use crate::launch::{Launched, Workshop, check_limits};
use crate::namespaces::Namespaces;
use crate::orphans::Removable;
use crate::packet;
use crate::policy::Choice;
use crate::privilege::{conceal, lose_capability};
use crate::rootless::{self, Standing};
use crate::seccomp::Filters;
use crate::spec::{CellSpec, LayerId, ProjectId};
use crate::storage;
use crate::sys::{self, Fork};

/// Unpacks a layer: request, blob, folder of layers, and whom to tell how many bytes of the blob are read, who may want no more.
/// It runs in a confined worker and answers with a reason that names the entry.
pub type Unpack = fn(&str, File, OwnedFd, &mut dyn FnMut(u64) -> io::Result<()>) -> Result<(), String>;

/// The launcher's `main`: on standard input come the settings, and either the requests ([`super::Launcher::spawn`]) or the
/// listening socket of a service ([`super::Launcher::become_service`]).
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
    let standing = rootless::settle();
    let socket = take_connection().step("take over the connection (start `cloister`, not this program)")?;
    let first = packet::receive_json::<Settings>(&socket, MESSAGE_BYTES_MAX)
        .step("read the settings (start `cloister`, not this program)")?;
    let Some((settings, listener)) = first else { return Ok(()) };
    let mut clients = match listener.into_iter().next() {
        Some(listener) => Clients::of_service(listener, settings.uid),
        None => Clients::one(socket),
    };
    let workshop = standing.and_then(|standing| begin(&settings, standing));
    match (workshop, clients.starter()) {
        (Ok((workshop, children)), starter) => {
            starter.map_or(Ok(()), |starter| answer(starter, &Answer::Done))?;
            work(workshop, &children, &mut clients, unpack)
        }
        (Err(failure), Some(starter)) => answer(starter, &failed(failure)),
        (Err(failure), None) => Err(failure),
    }
}

/// Makes this process the launcher, with all it works with.
fn begin(settings: &Settings, standing: Standing) -> Result<(Workshop, SignalFd), Failure> {
    conceal().step("hide from debuggers")?;
    // It would exempt what cells write from quotas; and nothing here needs it.
    lose_capability(Capability::CAP_SYS_RESOURCE).step("give up CAP_SYS_RESOURCE")?;
    // Executed by descriptor, it would be called by the descriptor's number.
    rustix::thread::set_name(c"cloister-launch").step("take a name")?;
    // A hang-up or ^C at the terminal on which the command was typed is the command's to handle: it needs us to clean up.
    // A service leads a session already. (A leader outside of our pid namespace has the id 0, which nix allows and rustix doesn't.)
    if getsid(None).step("look at the session")? != getpid() {
        setsid().step("leave the terminal's session")?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let children = block_child_signal().step("watch children")?;
    Ok((prepare(settings, standing)?, children))
}

fn work(mut workshop: Workshop, children: &SignalFd, clients: &mut Clients, unpack: Unpack) -> Result<(), Failure> {
    let mut sweeper = None;
    while !clients.are_gone() {
        let Waited { other: child, asking } = clients.wait(children.as_fd()).step("wait for requests")?;
        if child {
            reap(children, &mut sweeper);
        }
        // From the last to the first: who leaves moves nobody who is yet to be heard.
        for client in asking.into_iter().rev() {
            if serve_one(&mut workshop, unpack, clients.get(client)).is_none() {
                clients.leave(client);
            }
        }
        if workshop.trashed && sweeper.is_none() {
            workshop.trashed = false;
            sweeper = Some(start_sweeper(&workshop.folders)?);
            workshop.namespaces.hand_over();
            workshop.folders.images.hand_over();
        }
    }
    // What was thrown away while a sweeper was at work is the next one's, and there is no next launcher to count on.
    if workshop.trashed {
        start_sweeper(&workshop.folders)?;
    }
    Ok(())
}

/// Does what a client asks; `None` if it left.
fn serve_one(workshop: &mut Workshop, unpack: Unpack, client: &OwnedFd) -> Option<()> {
    let reply = match packet::receive_json::<Request>(client, MESSAGE_BYTES_MAX) {
        Ok(None) => return None,
        Ok(Some((request, descriptors))) => {
            handle(workshop, unpack, request, descriptors).unwrap_or_else(|failure| failed(failure).into())
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
        Err(error) => failed(Failure::new("read a request", error)).into(),
    };
    let descriptors: Vec<_> = reply.descriptors.iter().map(OwnedFd::as_fd).collect();
    packet::send_json(client, &reply.answer, &descriptors).ok()
}

/// An answer with what comes along.
struct Reply {
    answer: Answer,
    descriptors: Vec<OwnedFd>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, descriptors: Vec::new() }
    }
}

/// The connection, moved away from standard input: forks keep the standard three, and shall not keep this.
fn take_connection() -> io::Result<OwnedFd> {
    let socket = sys::duplicate(0)?;
    let null = File::open("/dev/null")?;
    sys::replace_standard(null.as_fd(), 0)?;
    Ok(socket)
}

fn prepare(settings: &Settings, standing: Standing) -> Result<Workshop, Failure> {
    // First, because the folders take the rest of the host, /sys/fs/cgroup and /dev included, out of sight.
    let mut cgroups = Cgroups::prepare(&settings.cgroup, standing)?;
    let kernel_log = KernelLog::open(&settings.cgroup);
    let others = SubordinateIds::of_others(settings.uid).step("read /etc/subuid and /etc/subgid")?;
    let folders = Folders::prepare(settings, standing)?;
    cgroups.find_disks([&folders.cells, &folders.projects]);
    let mut workshop = Workshop {
        admission: Admission::new(settings.host.clone(), &cgroups)?,
        cgroups,
        leeway: settings.policy.clone(),
        filters: Filters::default(),
        maps: Cache::new(standing, folders.service_uid, folders.service_gid),
        namespaces: Namespaces::default(),
        kernel_log,
        others,
        // The last launcher may not have come to the end of it.
        trashed: true,
        swept: Removable::default(),
        folders,
    };
    // Most cells' filter; compiled now, none of them waits for it.
    workshop.filters.get(&Choice::default()).step("make the system call filter")?;
    workshop.sweep()?;
    Ok(workshop)
}

fn handle(
    workshop: &mut Workshop,
    unpack: Unpack,
    request: Request,
    descriptors: Vec<OwnedFd>,
) -> Result<Reply, Failure> {
    let answer = match request {
        Request::StartCell(spec) => match workshop.launch(&spec)? {
            Launched::Started => Answer::Done,
            Launched::Running => Answer::Running,
            Launched::HostFull(shortage) => Answer::HostFull(shortage),
        },
        Request::RemoveCell { project } => workshop.remove(&project).map(|()| Answer::Done)?,
        Request::RemoveProject { project } => remove_project(workshop, &project)?,
        Request::SetLimits { project, limits } => {
            check_limits(&limits)?;
            match workshop.change(&project, &limits)? {
                Ok(Changed::Done) => Answer::Done,
                Ok(Changed::NoCell) => Answer::NoCell,
                Ok(Changed::MemoryInUse(bytes)) => Answer::MemoryInUse { bytes },
                Err(shortage) => Answer::HostFull(shortage),
            }
        }
        Request::Usage { project } => {
            workshop.usage(&project)?.map_or(Answer::NoCell, |usage| Answer::Usage(Box::new(usage)))
        }
        Request::Orphans => workshop.orphans().map(|orphans| Answer::Orphans(Box::new(orphans)))?,
        Request::Freezer { project } => match workshop.cgroups.freezer(&project)? {
            Some(files) => {
                let (files, descriptors) = files.into_iter().unzip();
                return Ok(Reply { answer: Answer::Freezer { files }, descriptors });
            }
            None => Answer::NoCell,
        },
        Request::Unpack { request } => start_worker(workshop, unpack, &request, descriptors)?,
        Request::RemoveLayer { layer } => remove_layer(workshop, &layer)?,
    };
    Ok(answer.into())
}

/// What is refused of a request for a cell before anything is done for it; an error names the field.
pub fn check(spec: &CellSpec) -> Result<(), String> {
    crate::launch::check(spec).map_err(|failure| failure.reason)
}

/// Starts an unpack worker; it answers on the socket that came along, and the launcher forgets it.
fn start_worker(
    workshop: &mut Workshop,
    unpack: Unpack,
    request: &str,
    descriptors: Vec<OwnedFd>,
) -> Result<Answer, Failure> {
    let [blob, reports] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| Failure::new("start an unpack worker", "two descriptors must come with the request"))?;
    if let Some(shortage) = workshop.admission.of_layer(&workshop.folders)? {
        return Ok(Answer::HostFull(shortage));
    }
    // It needs no more than a cell whose project asks for nothing.
    let filter = workshop.filters.get(&Choice::default()).step("make the system call filter")?;
    let reserve = workshop.admission.disk_reserve_bytes();
    let materials = worker::Materials { blob, reports, filter: &filter, reserve };
    worker::start(unpack, request, materials, &workshop.folders).map(|()| Answer::Done)
}

/// A tenant's files may belong to any user of the cell, and only root may remove what is in a folder of another user.
fn remove_project(workshop: &mut Workshop, project: &ProjectId) -> Result<Answer, Failure> {
    workshop.remove(project)?;
    let folders = &workshop.folders;
    storage::throw_away(&folders.projects, project.as_str(), &folders.projects_trash).step("throw away the project")?;
    disk::remove(folders, project)?;
    ids::release(folders.ids.as_fd(), project).step("give the project's host ids back")?;
    workshop.trashed = true;
    Ok(Answer::Done)
}

fn remove_layer(workshop: &mut Workshop, layer: &LayerId) -> Result<Answer, Failure> {
    let folders = &workshop.folders;
    // A cell that another launcher starts now either has noted the layer, or doesn't find it any more.
    let _turn = Admission::turn(folders)?;
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
                // First: whoever is removed meanwhile has files that the next sweeper sees to.
                let released = ids::released(folders.ids.as_fd());
                let trashes = [&folders.trash, &folders.projects_trash].into_iter().chain(folders.images.trashes());
                let empty = trashes.map(storage::empty).filter(Result::is_err).count() == 0;
                empty && released.and_then(|released| ids::forget(folders.ids.as_fd(), &released)).is_ok()
            });
            sys::exit(i32::from(!matches!(swept, Ok(true))))
        }
        Fork::Parent { pid, .. } => Ok(pid),
    }
}
