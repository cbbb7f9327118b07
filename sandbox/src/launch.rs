//! Makes a cell: what the launcher does outside of it, from a checked spec to a running init.
//!
//! Everything that takes the host's privileges happens here, before the cell's first process runs a step: storage, id
//! range, mounts by descriptor, cgroup, socket. The rest is the plan, carried out inside.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::unistd::seteuid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat};
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::admission::{Admission, Shortage};
use crate::alarm::Alarm;
use crate::cgroup::{self, Cgroups, Changed, Leaf};
use crate::disk;
use crate::failure::{Context, Failure};
use crate::idmap::{self, Cache};
use crate::ids::{IdRange, SubordinateIds};
use crate::init::{self, Birth};
use crate::kernel_log::KernelLog;
use crate::launcher::folders::Folders;
use crate::mount;
use crate::namespaces::Namespaces;
use crate::orphans::{self, Orphans, Places, Removable};
use crate::packet;
use crate::plan::{Step, plan};
use crate::policy::{Choice, Leeway};
use crate::privilege::{conceal, regain_capabilities};
use crate::rootless::Standing;
use crate::seccomp::Filters;
use crate::spec::{CellSpec, DISK_BYTES_MAX, DISK_BYTES_MIN, IO_BYTES_PER_S_MIN, Limits, ProjectId};
use crate::step::{Materials, carry_out};
use crate::storage::{self, Storage};
use crate::sys::{self, Fork};
use crate::usage::Usage;
use crate::users;

/// Longest wait for a cell's set-up; it takes 3 ms, under the heaviest load some hundred.
const SET_UP_WAIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Longest wait for a killed cell to let go of its lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Largest report of a set-up in bytes.
const REPORT_BYTES_MAX: usize = 4096;

/// All that the launcher keeps from cell to cell.
pub(crate) struct Workshop {
    pub(crate) folders: Folders,
    pub(crate) cgroups: Cgroups,
    pub(crate) admission: Admission,
    /// What the operator lets projects choose of the policy.
    pub(crate) leeway: Leeway,
    pub(crate) filters: Filters,
    pub(crate) maps: Cache,
    pub(crate) namespaces: Namespaces,
    pub(crate) kernel_log: KernelLog,
    /// Host ids that no project may have.
    pub(crate) others: SubordinateIds,
    /// Whether something was thrown away since a sweeper last began.
    pub(crate) trashed: bool,
    /// What was left over by others and removed, until somebody asks.
    pub(crate) swept: Removable,
}

/// How a request for a cell ended.
pub(crate) enum Launched {
    Started,
    /// The project has one.
    Running,
    /// There is no room for one more.
    HostFull(Shortage),
}

/// The last word of a set-up, from the cell's first process.
#[derive(Serialize, Deserialize)]
enum Report {
    Ready,
    Failed(Failure),
}

impl Workshop {
    /// Starts a cell. If any step fails, nothing of it is left.
    pub(crate) fn launch(&mut self, spec: &CellSpec) -> Result<Launched, Failure> {
        check(spec)?;
        self.leeway
            .check(&spec.policy)
            .map_err(|reason| Failure::new("check the request", format!("policy.{reason}")))?;
        let storage = match self.claim(&spec.project) {
            Ok(Some(storage)) => storage,
            Ok(None) => return Ok(Launched::Running),
            // A full disk is better told as what it is.
            Err(failure) => {
                let shortage = self.admission.of_disks(&self.folders)?;
                return shortage.map_or(Err(failure), |shortage| Ok(Launched::HostFull(shortage)));
            }
        };
        let launched = match self.admit(spec, &storage) {
            Ok(Ok(group)) => self.launch_locked(spec, &storage, group).map(|()| Launched::Started),
            Ok(Err(shortage)) => Ok(Launched::HostFull(shortage)),
            Err(failure) => Err(failure),
        };
        if !matches!(launched, Ok(Launched::Started)) {
            // The failure that counts is the first one.
            let _ = self.clear(&spec.project, storage);
        }
        launched
    }

    /// Has a cell count as one, with its cgroup made, if the host has room for it.
    fn admit(&mut self, spec: &CellSpec, storage: &Storage) -> Result<Result<Leaf, Shortage>, Failure> {
        let turn = Admission::turn(&self.folders)?;
        let (project, limits) = (&spec.project, &spec.limits);
        match self.admission.of_cell(&turn, &self.folders, &self.cgroups, project, limits.memory_bytes_max)? {
            Some(shortage) => Ok(Err(shortage)),
            None => {
                storage.note_layers(&spec.layers).step("note the cell's layers")?;
                self.cgroups.create(project, limits).map(Ok)
            }
        }
    }

    /// Gives a running cell other limits. More memory is given if the host has it.
    pub(crate) fn change(
        &mut self,
        project: &ProjectId,
        limits: &Limits,
    ) -> Result<Result<Changed, Shortage>, Failure> {
        let turn = Admission::turn(&self.folders)?;
        let bytes = limits.memory_bytes_max;
        if self.cgroups.memory_of(project).is_some_and(|before| bytes > before)
            && let Some(shortage) = self.admission.of_memory(&turn, &self.cgroups, project, bytes)?
        {
            return Ok(Err(shortage));
        }
        self.cgroups.change(project, limits).map(Ok)
    }

    /// What a project's running cell uses; `None` if there is none.
    pub(crate) fn usage(&mut self, project: &ProjectId) -> Result<Option<Usage>, Failure> {
        let mut usage = self.cgroups.usage(project)?;
        if let Some(usage) = &mut usage
            && usage.memory.kills > 0
        {
            usage.memory.victim = self.kernel_log.victim(project);
        }
        Ok(usage)
    }

    /// Ends what runs in a project's cell and removes what is left of it.
    pub(crate) fn remove(&mut self, project: &ProjectId) -> Result<(), Failure> {
        self.cgroups.remove(project)?;
        if self.cgroups.is_none() {
            self.kill_init(project).step("kill the cell's first process")?;
        }
        let storage = Storage::lock_within(&self.folders.cells, project, LOCK_WAIT).step("lock the cell's storage")?;
        let storage = storage.ok_or_else(|| Failure::new("end the cell", "its processes don't go away"))?;
        self.throw_away(project, storage)
    }

    /// Kills a cell's first process, and with it all others.
    fn kill_init(&self, project: &ProjectId) -> io::Result<()> {
        use rustix::process::{Signal, pidfd_send_signal};
        let Some(init) = storage::init(&self.folders.cells, project)? else { return Ok(()) };
        let kill = || match pidfd_send_signal(&init, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        };
        match self.folders.standing {
            Standing::Root => kill(),
            // Another launcher's cell is in a namespace in which we are not root; but it is the same user of the host.
            Standing::User => as_cell_root(IdRange::SHARED, kill),
        }
    }

    /// Removes what is left of cells that died while no server was there to do it, and of all else that was interrupted. Live ones
    /// hold their lock.
    pub(crate) fn sweep(&mut self) -> Result<(), Failure> {
        for project in storage::projects(&self.folders.cells).step("look for leftovers of dead cells")? {
            let storage = Storage::lock(&self.folders.cells, &project).step("lock a dead cell's storage")?;
            if let Some(storage) = storage {
                self.clear(&project, storage)?;
                self.swept.cells += 1;
            }
        }
        // What can't be removed keeps no cell from starting, and is found again.
        let _ = self.sweep_strays();
        let _ = self.sweep_layers();
        let _ = self.sweep_disks();
        Ok(())
    }

    /// Removes cgroups and sockets of cells whose storage is gone. A cgroup in which something runs, or that doesn't go, is left to
    /// a person.
    fn sweep_strays(&mut self) -> io::Result<()> {
        let places = Places::of(&self.folders, &self.cgroups)?;
        let sockets = orphans::names(&places.sockets)?;
        for project in places.strays()? {
            let Some(storage) = Storage::lock(&self.folders.cells, &project)? else { continue };
            let socket = socket_name(&project);
            let has_socket = sockets.iter().any(|(name, _)| *name == socket.as_bytes());
            let has_group = places.groups.iter().any(|group| mount::folder_beneath(group, project.as_str()).is_ok());
            if places.has_processes(&project) || self.cgroups.remove(&project).is_err() {
                // Storage that stays would be a dead cell's, whose group has to go before anything else.
                storage.discard(&self.folders.cells, &project, &self.folders.trash)?;
                continue;
            }
            if self.throw_away(&project, storage).is_ok() {
                self.swept.cgroups += usize::from(has_group);
                self.swept.sockets += usize::from(has_socket);
            }
        }
        Ok(())
    }

    /// Throws away layers whose unpacker was killed; a live one has its folder locked.
    fn sweep_layers(&mut self) -> io::Result<()> {
        let layers = &self.folders.layers;
        let half =
            orphans::names(layers)?.into_iter().map(|(name, _)| name).filter(|name| orphans::is_half_unpacked(name));
        for name in half.filter_map(|name| String::from_utf8(name).ok()) {
            let _turn = storage::turn(layers)?;
            self.swept.layers += usize::from(storage::throw_away_if_free(layers, &name, &self.folders.trash)?);
        }
        Ok(())
    }

    /// Removes projects' file systems whose making was interrupted.
    fn sweep_disks(&mut self) -> io::Result<()> {
        let disks = orphans::names(self.folders.images.folder())?;
        for project in disks.iter().filter_map(|(name, _)| orphans::half_made(name)) {
            let Some(storage) = Storage::lock(&self.folders.cells, &project)? else { continue };
            self.folders.images.remove_half_made(&project)?;
            self.swept.disks += 1;
            storage.discard(&self.folders.cells, &project, &self.folders.trash)?;
        }
        Ok(())
    }

    /// What was swept since this was last asked, and what is kept now.
    pub(crate) fn orphans(&mut self) -> Result<Orphans, Failure> {
        let places = Places::of(&self.folders, &self.cgroups).step("open the launcher's folders")?;
        let found = orphans::look(&places).step("look for orphans")?;
        Ok(Orphans { removable: std::mem::take(&mut self.swept), ..found })
    }

    /// Removes what is left of a dead cell whose storage is ours: nobody can start the next one meanwhile.
    fn clear(&mut self, project: &ProjectId, storage: Storage) -> Result<(), Failure> {
        self.cgroups.remove(project)?;
        self.throw_away(project, storage)
    }

    fn throw_away(&mut self, project: &ProjectId, storage: Storage) -> Result<(), Failure> {
        unlink(&self.folders.sockets, &socket_name(project)).step("remove the cell's socket")?;
        disk::close(&mut self.folders, project)?;
        storage.discard(&self.folders.cells, project, &self.folders.trash).step("throw away the cell's upper layer")?;
        self.namespaces.end(project);
        self.kernel_log.forget(project);
        self.trashed = true;
        Ok(())
    }

    /// Locks fresh storage for a project's cell; `None` if it has a running one.
    fn claim(&mut self, project: &ProjectId) -> Result<Option<Storage>, Failure> {
        let lock = |cells: &OwnedFd| Storage::lock(cells, project).step("lock the cell's storage");
        let Some(storage) = lock(&self.folders.cells)? else { return Ok(None) };
        if !storage.is_used().step("look into the cell's storage")? {
            return Ok(Some(storage));
        }
        self.clear(project, storage)?;
        lock(&self.folders.cells)
    }

    fn launch_locked(&mut self, spec: &CellSpec, storage: &Storage, mut group: Leaf) -> Result<(), Failure> {
        let filter = self.filters.get(&spec.policy).step("make the system call filter")?;
        let range = match self.folders.standing {
            Standing::Root => IdRange::of(self.folders.ids.as_fd(), &spec.project, &self.others),
            Standing::User => Ok(IdRange::SHARED),
        }
        .step("allocate host ids")?;
        let claim = disk::Claim { project: &spec.project, range, bytes_max: spec.limits.disk_bytes_max };
        // Who makes and grows file systems reads what a tenant wrote: it has no part in what the project was granted.
        let tools = self.filters.get(&Choice::default()).step("make the system call filter")?;
        let disk = disk::open(&mut self.folders, &tools, &claim, storage)?;
        let (upper, work) = Storage::layers(&disk.changes, range.base()).step("make the cell's upper layer")?;
        let (root, devices) = self.mounts(spec, range, &disk.workspace, &upper, &work)?;
        drop(disk.place);
        let listener = listen(&self.folders, &spec.project).step("open the cell's control socket")?;
        let materials = Materials { root, devices, workspace: disk.workspace, filter: &filter };
        let birth = Birth { spec: spec.clone(), listener, alarms: std::mem::take(&mut group.alarms) };
        let pid = give_birth(birth, materials, range, &group, storage)?;
        if self.cgroups.is_none() {
            storage.note_init(pid).step("note the cell's first process")?;
        }
        disk::confine(&self.folders, &claim)?;
        self.namespaces.keep(&spec.project, pid);
        Ok(())
    }

    /// The mounts that a cell can't make itself: root and devices; and the workspace's owners.
    fn mounts(
        &mut self,
        spec: &CellSpec,
        range: IdRange,
        workspace: &OwnedFd,
        upper: &OwnedFd,
        work: &OwnedFd,
    ) -> Result<(OwnedFd, OwnedFd), Failure> {
        let folders = &self.folders;
        let image_map = self.maps.get(range, (0, 0)).step("make the cell's id map")?.map(|maps| maps.image.as_fd());
        let mut layers = Vec::with_capacity(spec.layers.len());
        for layer in &spec.layers {
            let step = || format!("open the image's layer {}: import the image again", layer.as_str());
            let source = mount::folder_beneath(&folders.layers, layer.as_str()).step_with(step)?;
            let copy = mount::copy_of(source).step_with(step)?;
            mount::set(&copy, MountAttrFlags::MOUNT_ATTR_RDONLY, image_map)
                .step("map the owners of the image's files")?;
            layers.push(copy);
        }
        // Overlay writes with the rights of who mounted it: were that the host's root, a cell would have what of a full disk
        // is kept for root.
        let mounted =
            as_cell_root(range, || mount::overlay(&layers, upper.as_fd(), work.as_fd(), folders.stage.as_fd()));
        let root = mounted.step("mount the overlay")?;
        let devices = mount::tree_of(&folders.devices).step("copy the devices")?;
        // Before Linux 6.3 a tmpfs can't be mapped: the nodes then belong to nobody, and work all the same.
        let _ = mount::set(&devices, MountAttrFlags::empty(), image_map);

        let user = users::ids(&root, &spec.image.user).step("find the image's user")?;
        let maps = self.maps.get(range, user).step("make the workspace's id map")?;
        mount::set(
            workspace,
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
            maps.map(|maps| maps.workspace.as_fd()),
        )
        .step("map the owner of the workspace")?;
        if maps.is_none() {
            let owner = (range.base() + user.0, range.base() + user.1);
            storage::hand_over(workspace, owner).step("give the workspace to the cell's user")?;
        }
        Ok((root, devices))
    }
}

/// Bounds on what a request may ask for; whoever sends it may be anyone.
pub(crate) fn check(spec: &CellSpec) -> Result<(), Failure> {
    const LAYERS_MAX: usize = 128;
    const ENVIRONMENT_BYTES_MAX: usize = 64 * 1024;
    let refuse = |what: &str| Err(Failure::new("check the request", what));
    let environment = spec.env.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
        + spec.image.env.iter().map(String::len).sum::<usize>();
    let named = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if spec.layers.is_empty() || spec.layers.len() > LAYERS_MAX {
        return refuse("an image has 1 to 128 layers");
    }
    if environment > ENVIRONMENT_BYTES_MAX {
        return refuse("the environment is longer than 64 KiB");
    }
    if spec.env.iter().any(|(name, value)| !named(name) || value.contains('\0')) {
        return refuse("env: a name is empty or has '=' in it, or a value has a NUL in it");
    }
    if !crate::log::valid_ring_bytes(spec.log_bytes) {
        return refuse("log_bytes must be a power of two from 65536 to 67108864");
    }
    check_limits(&spec.limits)
}

/// Bounds on limits alone, for a cell that runs as for one that is to be made.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), Failure> {
    const OPEN_FILES_MIN: u32 = 256;
    const PIDS_MIN: u32 = 8;
    const MEMORY_BYTES_MIN: u64 = 16 << 20;
    // The sessions' logs are files too, of 64 MiB at most.
    const FILE_BYTES_MIN: u64 = 128 << 20;
    let refuse = |what: &str| Err(Failure::new("check the request", what));
    if limits.open_files_max < OPEN_FILES_MIN {
        return refuse("limits.open_files_max must be at least 256");
    }
    if limits.pids_max < PIDS_MIN {
        return refuse("limits.pids_max must be at least 8");
    }
    if limits.memory_bytes_max < MEMORY_BYTES_MIN {
        return refuse("limits.memory_bytes_max must be at least 16777216");
    }
    if !(1..=10_000).contains(&limits.cpu_weight) {
        return refuse("limits.cpu_weight must be 1 to 10000");
    }
    if limits.file_bytes_max < FILE_BYTES_MIN {
        return refuse("limits.file_bytes_max must be at least 134217728");
    }
    if limits.cpu_millis_max < 10 {
        return refuse("limits.cpu_millis_max must be at least 10");
    }
    if limits.io_bytes_per_s_max != 0 && limits.io_bytes_per_s_max < IO_BYTES_PER_S_MIN {
        return refuse("limits.io_bytes_per_s_max must be 0, or at least 1048576");
    }
    if limits.disk_bytes_max != 0 && !(DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(&limits.disk_bytes_max) {
        return refuse("limits.disk_bytes_max must be 0, or 67108864 to 1125899906842624");
    }
    Ok(())
}

/// Forks the cell's first process, lets it carry out the plan, and waits for its word. Gives its pid.
fn give_birth(
    birth: Birth,
    materials: Materials<'_>,
    range: IdRange,
    group: &Leaf,
    storage: &Storage,
) -> Result<Pid, Failure> {
    const NAMESPACES: i32 = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let steps = plan(&birth.spec);
    let (ours, theirs) = packet::pair().step("make a socket pair")?;
    let doors = group.doors().step("open the cell's cgroup")?;
    match fork_as(range, NAMESPACES as u64, group.unified()).step("fork into new namespaces")? {
        Fork::Child => {
            drop(ours);
            // No panic may unwind into the launcher's loop: this is its memory, but not its process any more.
            let run =
                std::panic::AssertUnwindSafe(|| be_born(birth, &materials, &steps, &doors, &theirs, &storage.lock));
            let _ = std::panic::catch_unwind(run);
            sys::exit(1)
        }
        Fork::Parent { pid, pidfd } => {
            drop((theirs, birth, materials));
            let map = range.map();
            let prepared = idmap::write_maps(pid, &map, &map)
                .step("write the cell's id map")
                .and_then(|()| packet::send(&ours, b"go", &[]).step("start the cell's set-up"));
            let outcome = prepared.and_then(|()| await_report(&ours));
            if outcome.is_err() {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
            outcome.map(|()| pid)
        }
    }
}

/// Forks as the host user that is root of the cell. What the kernel counts for each user (inotify instances, queued
/// signals, locked memory) it counts for the maker of a user namespace too: if that were root, one cell could use up what
/// all cells and the host's own root have.
fn fork_as(range: IdRange, namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    as_cell_root(range, || sys::fork(namespaces, cgroup))
}

/// Does something as the host user that is root of the cell, with the launcher's capabilities. A fork stays that user.
fn as_cell_root<T>(range: IdRange, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let launcher = rustix::process::getpid();
    seteuid(nix::unistd::Uid::from_raw(range.base()))?;
    let outcome = regain_capabilities().and_then(|()| action());
    if rustix::process::getpid() == launcher {
        seteuid(nix::unistd::Uid::from_raw(0))?;
        // Changing ids made this process visible to debuggers again or not, depending on the host; make it sure.
        conceal()?;
    }
    outcome
}

/// The cell's first process, until it ends.
fn be_born(
    birth: Birth,
    materials: &Materials<'_>,
    steps: &[Step],
    doors: &[OwnedFd],
    parent: &OwnedFd,
    lock: &OwnedFd,
) {
    let mut word = [0; 2];
    // The maps aren't written yet: nothing may happen before the parent says so. If it died, so do we.
    if !matches!(packet::receive(parent, &mut word), Ok((2, _))) {
        return;
    }
    let limited = cgroup::enter(doors).step("enter the cell's cgroup");
    let ready = limited.and_then(|()| carry_out(steps, materials)).and_then(|()| {
        // What the launcher had open is nothing for a cell. Only the lock, the socket, the parent's ear and those for
        // limits stay.
        let mut kept = vec![birth.listener.as_raw_fd(), parent.as_raw_fd(), lock.as_raw_fd()];
        kept.extend(birth.alarms.iter().flat_map(Alarm::descriptors));
        sys::close_except(&mut kept).step("close the launcher's descriptors")?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").step("open /dev/null")?;
        (0..=2)
            .try_for_each(|standard| sys::replace_standard(null.as_fd(), standard))
            .step("replace standard input")?;
        conceal().step("hide from debuggers")
    });
    let failed = ready.is_err();
    let report = match ready {
        Ok(()) => Report::Ready,
        Err(failure) => Report::Failed(failure),
    };
    if packet::send_json(parent, &report, &[]).is_err() || failed {
        return;
    }
    // Nobody else closes it: its owner is up the stack, in a frame that never ends.
    let _ = rustix::net::shutdown(parent, rustix::net::Shutdown::Both);
    init::run(birth);
}

/// Waits for the word of the cell's first process.
fn await_report(socket: &OwnedFd) -> Result<(), Failure> {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut polled, Some(&SET_UP_WAIT)).step("wait for the cell's set-up")?;
    if ready == 0 {
        return Err(Failure::new("set up the cell", "it took longer than 10 seconds; is the disk stuck?"));
    }
    match packet::receive_json(socket, REPORT_BYTES_MAX).step("wait for the cell's set-up")? {
        Some((Report::Ready, _)) => Ok(()),
        Some((Report::Failed(failure), _)) => Err(failure),
        None => Err(Failure::new(
            "set up the cell",
            "its first process was killed; is limits.memory_bytes_max large enough?",
        )),
    }
}

/// The cell's control socket, which the service user alone may connect to.
fn listen(folders: &Folders, project: &ProjectId) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    /// Waiting connections: one server, and a few commands.
    const BACKLOG: i32 = 16;
    let name = socket_name(project);
    // We hold the cell's lock, so a socket that is there is a dead cell's.
    unlink(&folders.sockets, &name)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let path = format!("/proc/self/fd/{}/{name}", folders.sockets.as_raw_fd());
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let (uid, gid) = (Uid::from_raw(folders.service_uid), Gid::from_raw(folders.service_gid));
    chmodat(&folders.sockets, name.as_str(), Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    chownat(&folders.sockets, name.as_str(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket_name(project: &ProjectId) -> String {
    format!("{project}.sock")
}

fn unlink(folder: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_no_cell_can_live_in_are_refused_by_name() {
        assert!(check_limits(&Limits::default()).is_ok());
        let wrong = [
            ("memory_bytes_max", Limits { memory_bytes_max: 0, ..Limits::default() }),
            ("cpu_millis_max", Limits { cpu_millis_max: 0, ..Limits::default() }),
            ("cpu_weight", Limits { cpu_weight: 0, ..Limits::default() }),
            ("cpu_weight", Limits { cpu_weight: u32::MAX, ..Limits::default() }),
            ("file_bytes_max", Limits { file_bytes_max: 1 << 20, ..Limits::default() }),
            ("pids_max", Limits { pids_max: 1, ..Limits::default() }),
            ("open_files_max", Limits { open_files_max: 3, ..Limits::default() }),
            ("io_bytes_per_s_max", Limits { io_bytes_per_s_max: 1, ..Limits::default() }),
        ];
        for (name, limits) in wrong {
            let refused = check_limits(&limits).unwrap_err();
            assert!(refused.reason.starts_with(&format!("limits.{name} must be ")), "{}", refused.reason);
        }
    }
}
